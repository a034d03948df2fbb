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

// One way between two memories. A transfer is one instruction; a piece is one contiguous run of
// it; size class c counts pieces of [2^c, 2^(c+1)) bytes.
struct PathCounters {
  uint64_t bytes = 0;
  uint64_t transfers = 0;
  uint64_t pieces = 0;
  uint64_t smallest = 0;  // 0: none yet
  std::array<uint64_t, kSizeClasses> classes{};

  void Add(const PathCounters& other);
};

struct VectorCounters {
  uint64_t calls = 0;
  uint64_t repeats = 0;   // of 256 bytes; an instruction with a last part counts it as one
  uint64_t elements = 0;  // that the masks let through

  void Add(const VectorCounters& other);
};

struct CoreCounters {
  std::map<std::string, PathCounters> paths;                                   // "gm->ub"
  std::map<std::pair<std::string, std::string>, VectorCounters> instructions;  // name, dtype
  std::map<std::string, uint64_t> scalars;  // "ub.get", "gm.set", ...
  std::map<std::string, uint64_t> waits;    // by event; a queue's DeQue and AllocTensor too
  std::map<std::string, uint64_t> barriers;
  uint64_t sync_all = 0;
  uint64_t peak_ub = 0;
};

struct Counters {
  std::string name;
  std::vector<CoreCounters> cores;

  CoreCounters Total() const;  // sums; peak_ub is the largest
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_COUNTERS_H_
