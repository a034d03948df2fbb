// Vector clocks: which pipe knows what to be finished, in its core and in others.
#include "clock.h"

#include <algorithm>

namespace emulator {

namespace {

void Merge(Clock& into, const Clock& from) {
  for (int pipe = 0; pipe < kPipes; ++pipe) into[pipe] = std::max(into[pipe], from[pipe]);
}

}  // namespace

void Merge(Knowledge& into, const Knowledge& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t core = 0; core < from.size(); ++core) Merge(into[core], from[core]);
}

void Clocks::Step(pipe_t pipe) {
  running_ = pipe;
  ++time_[pipe];
  // the scalar unit issues every instruction: what it has waited for is over
  fence_[pipe] = std::max(fence_[pipe], seen_[PIPE_S][pipe]);
  for (int other = PIPE_V; other < kPipes; ++other) {
    seen_[pipe][other] = std::max(seen_[pipe][other], seen_[PIPE_S][other]);
  }
  seen_[pipe][pipe] = time_[pipe];
}

void Clocks::Join(pipe_t into, const Clock& clock) {
  // what another pipe has waited for on this one is finished
  fence_[into] = std::max(fence_[into], clock[into]);
  Merge(seen_[into], clock);
}

void Clocks::JoinAll() {
  for (Clock& clock : seen_) clock = time_;
  fence_ = time_;
}

Knowledge Clocks::Tell(pipe_t of, size_t cores) const {
  Knowledge message = others_;
  message.resize(cores);
  message[core_] = seen_[of];
  message[core_][PIPE_S] = time_[PIPE_S];  // the scalar unit issued this, so its own steps are over
  return message;
}

void Clocks::Learn(const Knowledge& message) {
  Merge(others_, message);
  // every pipe waits, for what this core told itself as well; scalar accesses keep their own order
  Clock own = message[core_];
  own[PIPE_S] = 0;
  for (int pipe = 0; pipe < kPipes; ++pipe) Join(static_cast<pipe_t>(pipe), own);
}

bool Clocks::Ordered(int earlier, uint32_t time, bool earlier_wrote, bool writes) {
  if (earlier == running_) {
    // Multiply itself checks the barriers that small Mmads need between them
    if (running_ == PIPE_S || running_ == PIPE_M || PassedBarrier(running_, time) || time == Now())
      return true;
    // the vector pipe overlaps instructions that depend on each other; transfers of one pipe
    // finish in any order, which matters where both write
    if (running_ == PIPE_V) return automatic_ || !earlier_wrote;
    return !(earlier_wrote && writes);
  }
  if (seen_[running_][earlier] >= time) return true;
  const auto beside_scalar = [](int other) {
    return other == PIPE_V || other == PIPE_MTE2 || other == PIPE_MTE3;
  };
  if (automatic_ && ((running_ == PIPE_S && beside_scalar(earlier)) ||
                     (earlier == PIPE_S && beside_scalar(running_)))) {
    seen_[running_][earlier] = time;
    return true;
  }
  return false;
}

Clock Clocks::Horizon(bool earlier_wrote, bool writes) const {
  Clock horizon = seen_[running_];
  const bool overlaps = running_ == PIPE_V
                            ? !automatic_ && earlier_wrote
                            : running_ != PIPE_S && running_ != PIPE_M && earlier_wrote && writes;
  if (overlaps) horizon[running_] = fence_[running_];
  return horizon;
}

bool Clocks::Knows(const GlobalAccess& access, bool wrote, bool writes) {
  if (access.core != core_) return Heard(access);
  return Ordered(access.pipe, access.time, wrote, writes);
}

bool Clocks::Covers(const GlobalAccess& access) const {
  if (access.core != core_) return Heard(access);
  return access.pipe == running_ || seen_[running_][access.pipe] >= access.time;
}

}  // namespace emulator
