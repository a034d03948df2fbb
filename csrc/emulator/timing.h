// A model of time on top of what a launch did: modelled, not measured.
//
// While the cores execute, each writes down a Trace: its instructions in program order, with their
// cycles and with what its pipes wait for. After the launch MakeSchedule gives every one of them a
// start and an end. Cores meet in the memory that they share, in SyncAll and in cross-core flags;
// transfers are taken in the order of time, not in the order that the cores ran in. This header has
// what outlives a launch, the contents of L2; trace.h has the rest.
#ifndef MOGE_EMULATOR_TIMING_H_
#define MOGE_EMULATOR_TIMING_H_

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "launch.h"
#include "machine.h"

namespace emulator {

// Rows in global memory that one instruction reads or writes.
struct Transfer {
  uint64_t address;  // as CacheModel places it
  uint64_t pitch;    // from row to row
  uint32_t rows;
  uint32_t row_bytes;
  bool writes;
  bool bypass;  // of the L2 cache
};

// What L2 holds, in lines, and which of them memory does not have yet. It outlives a launch.
class CacheModel {
 public:
  CacheModel();
  // Where the model sees an allocation. What a launch only writes is new memory, whether or not the
  // host's allocator gave it an old address: so times are the same from run to run.
  uint64_t Place(const Allocation& allocation);
  struct Traffic {
    uint64_t memory = 0;      // bytes that come from memory or go there
    double l2 = 0, port = 0;  // that L2 and the core are busy with
    uint32_t same = 0;        // requests for lines that other cores are reading past L2
  };
  // A transfer of this core, whose requests past L2 are answered from `time` on.
  Traffic Access(const Transfer& transfer, uint32_t core, double time);
  // A launch begins: its time starts at 0, and no request is under way.
  void Begin() { requests_.assign(requests_.size(), Request()); }

 private:
  struct Way {
    uint64_t line = ~uint64_t{0};
    uint64_t used = 0;
    bool dirty = false;
  };
  // whether the line was there; adds to `evicted` if a dirty one had to go
  bool Touch(uint64_t line, bool writes, uint64_t* evicted);

  // Who asked for a line past L2 last, and when it was answered.
  struct Request {
    uint64_t line = ~uint64_t{0};
    uint32_t core = 0;
    double time = 0;
  };
  bool Meets(uint64_t line, uint32_t core, double time, bool asks);

  std::vector<Way> ways_;
  std::vector<Request> requests_;
  std::map<std::pair<const void*, uint64_t>, uint64_t> places_;
  uint64_t next_place_ = 0;
  uint64_t now_ = 0;
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_TIMING_H_
