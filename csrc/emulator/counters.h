// What a launch did, by core: enough to compute documented cycles and memory traffic.
#ifndef MOGE_EMULATOR_COUNTERS_H_
#define MOGE_EMULATOR_COUNTERS_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

inline constexpr int kSizeClasses = 24;

// Transfers from one memory to another. A transfer is one instruction; a piece is one contiguous
// run of it; size class c counts pieces of [2^c, 2^(c+1)) bytes.
struct PathCounters {
  uint64_t bytes = 0;
  uint64_t transfers = 0;
  uint64_t pieces = 0;
  uint64_t smallest = 0;  // 0: none yet
  std::array<uint64_t, kSizeClasses> classes{};

  // One more transfer, of `count` pieces.
  void Add(uint64_t count, uint64_t piece_bytes);
  void Add(const PathCounters& other);
};

struct VectorCounters {
  uint64_t calls = 0;
  uint64_t repeats = 0;   // of 256 bytes; an instruction with a last part counts it as one
  uint64_t elements = 0;  // that the masks let through

  void Add(const VectorCounters& other);
};

// What the instructions of one pipe did, but for flags and barriers.
struct PipeCounters {
  uint64_t instructions = 0;
  uint64_t bytes = 0;
  double cycles = 0;  // by the documented tables; none of transfers from and to global memory

  void Add(const PipeCounters& other);
};

// Mmads of one type.
struct ProductCounters {
  uint64_t calls = 0;
  uint64_t fractals = 0;  // pairs of fractals multiplied
  uint64_t cycles = 0;    // by the documented parallelism, without the head of an instruction
  uint64_t products = 0;  // m * n * k

  void Add(const ProductCounters& other);
};

// Bytes of one allocation.
struct GlobalCounters {
  uint64_t read = 0;
  uint64_t written = 0;

  void Add(const GlobalCounters& other);
};

struct CoreCounters {
  std::string kind;                           // "AIC" or "AIV"; of a total of both ""
  std::map<std::string, PathCounters> paths;  // "gm->ub"
  std::map<std::pair<std::string, std::string>, VectorCounters> instructions;  // name, dtype
  std::map<std::string, uint64_t> scalars;  // "ub.get", "gm.set", ...
  std::map<std::string, uint64_t> waits;    // by event; a queue's DeQue and AllocTensor too
  std::map<std::string, uint64_t> barriers;
  std::map<std::string, PipeCounters> pipes;
  std::map<std::string, ProductCounters> products;  // by the type of A and B
  std::map<std::string, GlobalCounters> global;     // by the name of the allocation
  std::map<std::string, uint64_t> cross;            // cross-core flags: "set", "wait"
  std::map<std::string, uint64_t> peaks;            // bytes used of L1, L0A, ...
  uint64_t sync_all = 0;
  uint64_t peak_ub = 0;
};

// When a core was done, and how long its pipes were busy, in cycles.
struct CoreTimes {
  double end = 0;
  std::map<std::string, double> busy;
};

// One instruction on its pipe, in cycles.
struct Slice {
  uint32_t core;
  const char* pipe;
  const char* op;
  double start, end;
};

// What the model of time says of a launch; nothing was measured.
struct Times {
  std::string device;  // empty: not modelled
  double clock = 0;    // Hz
  double cycles = 0;   // until the last core is done
  double seconds = 0;  // with what a launch costs
  double memory_bytes = 0, l2_bytes = 0;
  std::vector<CoreTimes> cores;
  std::vector<Slice> picture;
};

// A rule that was broken and that is no error; the first message stands for all of an instruction.
struct Warning {
  std::string rule, op;
  std::string message;
  uint64_t count;
};

struct Counters {
  std::string name;
  std::vector<Warning> warnings;
  std::vector<CoreCounters> cores;
  Times times;

  // sums, and the largest of each peak; of one kind of core, or of all
  CoreCounters Total(const std::string& kind = "") const;
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_COUNTERS_H_
