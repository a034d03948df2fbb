// What one core did, in arrays by number; the report puts the names to it.
#ifndef MOGE_EMULATOR_COUNTS_H_
#define MOGE_EMULATOR_COUNTS_H_

#include "counters.h"
#include "names.h"

namespace emulator {

struct Counts {
  std::array<PathCounters, kPaths> paths;
  std::array<PipeCounters, kPipes> pipes;
  std::array<ProductCounters, kDTypes> products;
  std::vector<GlobalCounters> global;  // by allocation
  std::array<std::array<VectorCounters, kDTypes>, kOps> vectors;
  std::array<uint64_t, kScalarAccesses> scalars{};
  std::array<std::array<uint64_t, kPipes>, kPipes> waits{};  // by source and destination
  std::array<uint64_t, kPipes + 1> barriers{};
  std::array<uint32_t, kMemories> peaks{};
  uint64_t cross_sets = 0, cross_waits = 0;
  uint64_t sync_alls = 0;

  // `names` are those of the allocations.
  CoreCounters Report(const char* kind, const std::vector<std::string>& names) const;
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_COUNTS_H_
