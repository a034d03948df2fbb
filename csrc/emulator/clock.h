// The order of what pipes and cores do, for the emulator's own .cpp files only.
//
// Each instruction is a step of its pipe's time. A pipe's clock says, for every pipe of the core,
// the last step that it knows to be finished; a flag carries the clock of the pipe that sets it to
// the one that waits:
//
//            MTE2   1 load   2 load   SetFlag
//                                        \  the clock {MTE2: 3}
//            V                          WaitFlag   1 add: follows both loads
//
// What the scalar unit reads from global memory may tell it of other cores. Each time it learns
// something new, that has a number, and the clocks carry the last number that a pipe knows.
#ifndef MOGE_EMULATOR_CLOCK_H_
#define MOGE_EMULATOR_CLOCK_H_

#include <array>
#include <deque>
#include <memory>
#include <vector>

#include "names.h"

namespace emulator {

// For each pipe the number of its last instruction that is known to be finished; last, of what the
// scalar unit has heard of other cores, how much is known.
inline constexpr int kHeard = kPipes;
using Clock = std::array<uint32_t, kPipes + 1>;

// For each core the clock that was heard of it; empty: nothing was heard yet.
using Knowledge = std::vector<Clock>;
void Merge(Knowledge& into, const Knowledge& from);

// What a flag inside a core tells, and its number in the trace.
struct Signal {
  Clock clock;
  uint32_t number;
};

// What a flag between cores tells, and its number in the traces.
struct Message {
  Knowledge known;
  uint32_t number;
};

// What a value in global memory tells whoever reads it: what its writer knew.
struct Release {
  uint32_t core;
  Clock clock;
  std::shared_ptr<const Knowledge> heard;
};

// One access to a cell of global memory; a time of 0 is no access.
struct GlobalAccess {
  uint32_t time;
  uint16_t core;
  uint8_t pipe;
  Op op;
};

class Clocks {
 public:
  // `automatic`: the compiler's barriers hold, V after V and S beside V, MTE2, MTE3
  Clocks(uint32_t core, bool automatic) : core_(core), automatic_(automatic) {}

  // The scalar unit issues an instruction to a pipe, which runs from now on.
  void Step(pipe_t pipe);
  uint32_t Now() const { return time_[running_]; }
  // What a flag of this pipe tells.
  const Clock& Seen(pipe_t pipe) {
    told_ = told_ || pipe == PIPE_S;
    return seen_[pipe];
  }

  // A pipe has waited for what the clock tells.
  void Join(pipe_t into, const Clock& clock);
  void JoinAll();
  // Whether the scalar unit has not waited for what some pipe was given.
  bool InFlight() const;
  void PassBarrier(pipe_t of) { fence_[of] = time_[of]; }
  bool PassedBarrier(pipe_t of, uint32_t time) const { return time <= fence_[of]; }

  // What a message of this pipe tells another core, and what this core learns from one, with all
  // of its pipes.
  Knowledge Tell(pipe_t of, size_t cores) const;
  void Learn(const Knowledge& message);
  // The same for what the scalar unit writes to global memory, and what it alone learns there.
  Release Publish() const { return {core_, seen_[PIPE_S], heard_.back()}; }
  void Hear(const Release& release, size_t cores);

  // Whether the running instruction comes after that one; joins the compiler's automatic order.
  bool Ordered(int earlier, uint32_t time, bool earlier_wrote, bool writes);
  // The last instruction of each pipe that the running one surely follows.
  Clock Horizon(bool earlier_wrote, bool writes) const;
  // Whether an access by any core is over for the running instruction.
  bool Knows(const GlobalAccess& access, bool wrote, bool writes);
  // Whether whoever knows of the running instruction also knows of that access.
  bool Covers(const GlobalAccess& access) const;

 private:
  // Whether the first `number` things that were heard tell of an access by another core.
  bool Heard(const GlobalAccess& access, uint32_t number) const {
    const Knowledge& known = *heard_[number - first_heard_];
    return !known.empty() && known[access.core][access.pipe] >= access.time;
  }
  // What the scalar unit has heard, to add to; under a new number if somebody knows the last one.
  Knowledge& Extend();

  const uint32_t core_;
  const bool automatic_;
  pipe_t running_ = PIPE_S;
  Clock time_{};
  Clock fence_{};  // the last instruction of each pipe that this pipe itself knows to be finished
  std::array<Clock, kPipes> seen_{};
  // what the scalar unit has heard, by number from the first that some pipe is still at; each holds
  // those before it
  std::deque<std::shared_ptr<Knowledge>> heard_{std::make_shared<Knowledge>()};
  uint32_t first_heard_ = 0;
  bool told_ = true;  // somebody else may know the last number
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_CLOCK_H_
