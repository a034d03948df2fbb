#include "pool.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <xmmintrin.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace moge_cpu {

struct Shared {
  // each on a cache line of its own: those who wait look at the last while others count
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> passed{0};
};

namespace {

// torch has loaded its OpenMP library for all to see (libtorch_global_deps, with RTLD_GLOBAL),
// before this module. Linked here, another one could come in, with threads of its own that fight
// for the same cores.
struct OpenMP {
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  Parallel parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  int (*thread)() = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
  int (*threads)() = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
  int (*inside)() = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_in_parallel"));
  bool forked = false;
};

OpenMP openmp;
const int registered = pthread_atfork(nullptr, nullptr, [] { openmp.forked = true; });

struct Call {
  int worth;
  void (*body)(void*, Team&);
  void* argument;
  unsigned
      mode;  // of floating-point numbers, the caller's: torch.set_flush_denormal sets one thread's
  Shared shared;
};

constexpr int64_t kKept = 64 << 20;
constexpr int64_t kLargePage = 2 << 20;

struct Arena {
  char* data = nullptr;
  int64_t size = 0;

  void Free() {
    if (data) munmap(data, size);
    data = nullptr;
    size = 0;
  }
  ~Arena() { Free(); }
};

thread_local Arena arena;

}  // namespace

void Team::Wait() {
  if (size == 1) {
    shared->next.store(0, std::memory_order_relaxed);
    return;
  }
  const int round = shared->passed.load(std::memory_order_relaxed);
  if (shared->arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
    shared->arrived.store(0, std::memory_order_relaxed);
    shared->next.store(0, std::memory_order_relaxed);
    shared->passed.store(round + 1, std::memory_order_release);
    return;
  }
  // the others are about to come, unless the system has taken their core away
  for (int spins = 0; shared->passed.load(std::memory_order_acquire) == round; spins++)
    if (spins < 4096)
      __builtin_ia32_pause();
    else
      sched_yield();
}

int64_t Team::Next() { return shared->next.fetch_add(1, std::memory_order_relaxed); }

bool HasThreads() { return openmp.parallel && openmp.thread && openmp.threads && openmp.inside; }

void Parallel(int threads, int worth, void (*body)(void*, Team&), void* argument) {
  Call call{worth, body, argument, _mm_getcsr(), {}};
  if (worth > 1 && HasThreads() && !openmp.forked && !openmp.inside()) {
    auto run = [](void* data) {
      auto* call = static_cast<Call*>(data);
      const int size = openmp.threads();
      Team team{openmp.thread(), size < call->worth ? size : call->worth, &call->shared};
      if (team.id >= team.size) return;
      const unsigned own = _mm_getcsr();
      _mm_setcsr(call->mode);
      call->body(call->argument, team);
      _mm_setcsr(own);
    };
    openmp.parallel(run, &call, threads, 0);
  } else {
    Team team{0, 1, &call.shared};
    body(argument, team);
  }
}

char* Memory(int64_t bytes) {
  if (bytes > arena.size) {
    arena.Free();
    // a page more, so that there are whole large ones wherever it begins
    const int64_t size = (bytes + kLargePage - 1) / kLargePage * kLargePage + kLargePage;
    void* found = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    LargePages(found, size);
    arena.data = static_cast<char*>(found);
    arena.size = size;
  }
  return arena.data;
}

void LargePages(void* data, int64_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (address + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = (address + bytes) / kLargePage * kLargePage;
  if (data && first < last)
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // no more than a wish
}

void Release() {
  if (arena.size > kKept) arena.Free();
}

}  // namespace moge_cpu
