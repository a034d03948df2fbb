// Vector clocks: which pipe knows what to be finished, in its core and in others.
#include "clock.h"

#include <algorithm>

namespace emulator {

namespace {

void Merge(Clock& into, const Clock& from) {
  for (size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], from[i]);
}

bool BesideScalar(int pipe) { return pipe == PIPE_V || pipe == PIPE_MTE2 || pipe == PIPE_MTE3; }

// What this core is told of itself: scalar accesses keep their own order, and numbers of what it
// has heard are no news.
Clock OfItself(const Clock& told) {
  Clock own = told;
  own[PIPE_S] = 0;
  own[kHeard] = 0;
  return own;
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

bool Clocks::InFlight() const {
  for (int pipe = PIPE_V; pipe < kPipes; ++pipe) {
    if (seen_[PIPE_S][pipe] < time_[pipe]) return true;
  }
  return false;
}

void Clocks::JoinAll() {
  for (Clock& clock : seen_) clock = time_;
  fence_ = time_;
  told_ = true;
}

Knowledge& Clocks::Extend() {
  // a release holds what it tells, too
  if (told_ || heard_.back().use_count() > 1) {
    heard_.push_back(std::make_shared<Knowledge>(*heard_.back()));
    told_ = false;
  }
  time_[kHeard] = first_heard_ + static_cast<uint32_t>(heard_.size()) - 1;
  seen_[PIPE_S][kHeard] = time_[kHeard];
  return *heard_.back();
}

Knowledge Clocks::Tell(pipe_t of, size_t cores) const {
  // the scalar unit issued this, so its own steps are over, and what it has heard is true
  Knowledge message = *heard_.back();
  message.resize(cores);
  message[core_] = seen_[of];
  message[core_][PIPE_S] = time_[PIPE_S];
  message[core_][kHeard] = 0;
  return message;
}

void Clocks::Learn(const Knowledge& message) {
  Merge(Extend(), message);
  // every pipe waits, for what this core told itself as well
  const Clock own = OfItself(message[core_]);
  for (int pipe = 0; pipe < kPipes; ++pipe) {
    Join(static_cast<pipe_t>(pipe), own);
    seen_[pipe][kHeard] = time_[kHeard];
  }
  heard_.erase(heard_.begin(), heard_.end() - 1);
  first_heard_ = time_[kHeard];
  told_ = true;
}

void Clocks::Hear(const Release& release, size_t cores) {
  Knowledge message = *release.heard;
  message.resize(cores);
  message[release.core] = release.clock;
  message[release.core][kHeard] = 0;
  Join(PIPE_S, OfItself(message[core_]));
  Knowledge known = *heard_.back();
  Merge(known, message);
  if (known == *heard_.back()) return;
  Extend() = std::move(known);
  uint32_t least = time_[kHeard];
  for (const Clock& clock : seen_) least = std::min(least, clock[kHeard]);
  heard_.erase(heard_.begin(), heard_.begin() + (least - first_heard_));
  first_heard_ = least;
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
  if (automatic_ && ((running_ == PIPE_S && BesideScalar(earlier)) ||
                     (earlier == PIPE_S && BesideScalar(running_)))) {
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
  if (access.core == core_) return Ordered(access.pipe, access.time, wrote, writes);
  if (Heard(access, seen_[running_][kHeard])) return true;
  if (!automatic_ || !BesideScalar(running_) || !Heard(access, time_[kHeard])) return false;
  seen_[running_][kHeard] = time_[kHeard];
  told_ = true;
  return true;
}

bool Clocks::Covers(const GlobalAccess& access) const {
  if (access.core != core_) return Heard(access, seen_[running_][kHeard]);
  return access.pipe == running_ || seen_[running_][access.pipe] >= access.time;
}

}  // namespace emulator
