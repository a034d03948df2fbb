// Threads and memory of a call: torch's OpenMP threads, a barrier, and memory that is kept.
#pragma once
#include <cstdint>

namespace moge_cpu {

// The threads that work on one call, as each of them sees it.
struct Team {
  int id, size;
  struct Shared* shared;

  void Wait();     // for all others; the counter then begins anew
  int64_t Next();  // the next number of a counter that all share, from 0
};

// Runs body(argument, team) on `worth` of the `threads` threads of torch's OpenMP pool. It wakes
// all of them: a smaller region would end the others, and torch's next operator begin them anew. On
// the calling thread alone within another parallel region, in a forked child, whose pool did not
// come along, and where torch was built without OpenMP.
void Parallel(int threads, int worth, void (*body)(void*, Team&), void* argument);
bool HasThreads();

// At least `bytes` of memory, aligned to a cache line, for this thread until its next call.
char* Memory(int64_t bytes);
// Gives it back to the system if it is more than is worth keeping.
void Release();
// Asks for pages of 2 MiB, of which the system clears and enters one at the first touch and not
// 512: to write 200 MB of new memory takes 20 and not 90 ms (two Zen 3 cores, November 2026). For
// results that are written whole.
void LargePages(void* data, int64_t bytes);

}  // namespace moge_cpu
