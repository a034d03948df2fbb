// What one core did, for the model of time: its instructions in program order, with their cycles
// and with what its pipes wait for.
#ifndef MOGE_EMULATOR_TRACE_H_
#define MOGE_EMULATOR_TRACE_H_

#include <array>
#include <vector>

#include "timing.h"

namespace emulator {

class Machine;

inline constexpr uint32_t kNone = ~uint32_t{0};

enum class StepKind : uint8_t {
  kWork,       // a pipe is busy for its cycles
  kMove,       // a transfer: those cycles, or what the memory takes
  kSet,        // sets a flag when what the pipe has begun is done
  kWait,       // for a flag
  kSettle,     // PipeBarrier of one pipe: until what it has begun is done
  kFinish,     // the scalar unit waits for a pipe to finish all it was given, or for all pipes
  kSyncAll,    // the scalar unit waits for all cores
  kCrossSet,   // sends a message when what the pipe has begun is done
  kCrossWait,  // the scalar unit waits for messages
};

struct Step {
  StepKind kind;
  pipe_t pipe;  // PIPE_S: the scalar unit itself
  Op op;
  pipe_t of;        // kFinish: the pipe
  uint32_t number;  // of the flag, transfer, message or meeting; kSyncAll: cores
  uint32_t link;    // kNone: without a unit flag
  float issue;      // cycles of the scalar unit before it
  float cycles;
};

// Unit flags: an instruction of M or FIX follows others block by block.
struct Link {
  uint32_t first = kNone, last = kNone;  // links of those that it follows
};

class Trace {
 public:
  Trace() { units_.fill(kNone); }

  // cycles of the scalar unit before the next step
  void Issue(double cycles) { issue_ += static_cast<float>(cycles); }
  void Work(pipe_t pipe, Op op, double cycles) { Add(StepKind::kWork, pipe, op, kNone, cycles); }
  void Move(pipe_t pipe, Op op, double cycles, const Transfer& transfer);
  // The last step covers a block of L0C under a unit flag. `follows`: an instruction of the other
  // pipe used the block last; `gives`: one of the other pipe is to follow.
  void Unit(uint32_t unit, bool follows, bool gives);
  uint32_t Set(pipe_t pipe);
  void Wait(pipe_t pipe, uint32_t flag) { Add(StepKind::kWait, pipe, Op::kWaitFlag, flag, 0); }
  void Settle(pipe_t pipe) { Add(StepKind::kSettle, pipe, Op::kPipeBarrier, kNone, 0); }
  void Finish(pipe_t of, Op op);
  void SyncAll(uint32_t cores) { Add(StepKind::kSyncAll, PIPE_S, Op::kSyncAll, cores, 0); }
  void CrossSet(pipe_t pipe, uint32_t message) {
    Add(StepKind::kCrossSet, pipe, Op::kCrossCoreSetFlag, message, 0);
  }
  void CrossWait(uint32_t meeting) {
    Add(StepKind::kCrossWait, PIPE_S, Op::kCrossCoreWaitFlag, meeting, 0);
  }

 private:
  friend class CoreSchedule;

  void Add(StepKind kind, pipe_t pipe, Op op, uint32_t number, double cycles);

  std::vector<Step> steps_;
  std::vector<Transfer> transfers_;
  std::vector<Link> links_;
  std::array<uint32_t, 256> units_;  // of L0C: the link of the last one that another may follow
  uint32_t flags_ = 0;
  float issue_ = 0;
};

// Gives every instruction of every core a start and an end.
Times MakeSchedule(const Machine& machine);

}  // namespace emulator

#endif  // MOGE_EMULATOR_TRACE_H_
