// Traces of the cores in time: the scalar unit issues, pipes take turns at memory, cores meet.
#include <algorithm>
#include <functional>
#include <queue>
#include <stdexcept>
#include <tuple>

#include "core.h"
#include "figures.h"

namespace emulator {

void Trace::Add(StepKind kind, pipe_t pipe, Op op, uint32_t number, double cycles) {
  steps_.push_back({kind, pipe, op, PIPE_S, number, kNone, issue_, static_cast<float>(cycles)});
  issue_ = 0;
}

void Trace::Move(pipe_t pipe, Op op, double cycles, const Transfer& transfer) {
  Add(StepKind::kMove, pipe, op, static_cast<uint32_t>(transfers_.size()), cycles);
  transfers_.push_back(transfer);
}

uint32_t Trace::Set(pipe_t pipe) {
  Add(StepKind::kSet, pipe, Op::kSetFlag, flags_, 0);
  return flags_++;
}

void Trace::Finish(pipe_t of, Op op) {
  Add(StepKind::kFinish, PIPE_S, op, kNone, 0);
  steps_.back().of = of;
}

void Trace::Unit(uint32_t unit, bool follows, bool gives) {
  if (!follows && !gives) return;
  Step& step = steps_.back();
  if (step.link == kNone) {
    step.link = static_cast<uint32_t>(links_.size());
    links_.emplace_back();
  }
  Link& link = links_[step.link];
  if (follows) {
    if (link.first == kNone || units_[unit] < link.first) link.first = units_[unit];
    if (link.last == kNone || units_[unit] > link.last) link.last = units_[unit];
  }
  if (gives) units_[unit] = step.link;
}

constexpr double kUnknown = -1;

// What a link's instruction did, for those that follow it.
struct Interval {
  double start = kUnknown, end = kUnknown;
};

// A resource that serves one transfer after the other.
struct Server {
  double rate = 0;  // bytes per cycle
  double free = 0;
  double bytes = 0;  // so far
};

// What all cores share.
struct Shared {
  Server memory, l2;
  size_t vectors = 0, cubes = 0;
  CacheModel* cache;
  std::vector<double> messages;
  const std::vector<std::vector<uint32_t>>* meetings;
  uint32_t in_sync_all = 0;
  double sync_time = 0;
  std::vector<double> syncs;  // when the SyncAlls were over
  bool woken = false;         // somebody may go on
};

// One core's steps in time. The scalar unit issues them in order into the queues of the pipes; each
// pipe takes its own in order.
class CoreSchedule {
 public:
  CoreSchedule(const Core& core, Shared& shared, std::vector<Slice>* picture)
      : core_(core),
        trace_(core.trace()),
        shared_(shared),
        picture_(picture),
        flags_(trace_.flags_, kUnknown),
        links_(trace_.links_.size()) {}

  // Goes on until the shared memory or another core is needed; calls ready(start, pipe) for a
  // transfer that waits for its turn.
  template <typename Ready>
  void Advance(Ready ready) {
    for (bool moved = true; moved;) {
      moved = Issue();
      for (int pipe = PIPE_V; pipe < kPipes; ++pipe) moved |= Run(static_cast<pipe_t>(pipe), ready);
    }
  }

  // The transfer at the head of a pipe's queue, when its time has come.
  void Move(pipe_t number) {
    Pipe& pipe = pipes_[number];
    const Step& step = *pipe.ring[pipe.taken % kDepth].step;
    const Transfer& transfer = trace_.transfers_[step.number];
    const double start = pipe.next;
    const double turn = std::max(start, shared_.memory.free);
    const CacheModel::Traffic traffic = shared_.cache->Access(transfer, core_.index, turn);
    double end = start + step.cycles + traffic.port / PortRate(number, core_.IsCube());
    // `least`: cycles that the server is busy at least
    const auto serve = [&](Server& server, double bytes, double share = 1, double least = 0) {
      if (bytes == 0 && least == 0) return;
      const double cycles = std::max(bytes / (server.rate * share), least);
      server.free = std::max(server.free, start) + cycles;
      server.bytes += bytes;
      end = std::max(end, server.free);
    };
    serve(shared_.l2, traffic.l2);
    // Cores that ask for the same line are answered one by one, and later requests wait.
    const size_t cores = core_.IsCube() ? shared_.cubes : shared_.vectors;
    serve(shared_.memory, static_cast<double>(traffic.memory), MemoryShare(transfer, cores),
          traffic.same * kSameLine);
    pipe.moving = false;
    End(number, step, start, end, end + kLatency);
  }

  bool Done() const { return at_ == trace_.steps_.size(); }

  CoreTimes Report() const {
    CoreTimes times;
    times.end = scalar_;
    for (int pipe = 0; pipe < kPipes; ++pipe) {
      times.end = std::max(times.end, pipes_[pipe].done);
      if (pipes_[pipe].busy != 0) times.busy[PipeName(pipe)] = pipes_[pipe].busy;
    }
    return times;
  }

 private:
  static constexpr uint32_t kDepth = static_cast<uint32_t>(kQueue);

  struct Entry {
    const Step* step;
    double issued;
  };
  struct Pipe {
    std::array<Entry, kDepth> ring;
    std::array<double, kDepth> left{};  // when the last entry of this place left the queue
    uint64_t given = 0, taken = 0;
    double free = 0;  // for the next instruction
    double done = 0;  // the last one's effects can be seen
    double busy = 0;
    double next = 0;  // start of the transfer that waits for its turn
    bool moving = false;
  };

  // Times of the instructions that a link follows; false if they are not known yet.
  bool Follows(const Step& step, double* start, double* end) const {
    if (step.link == kNone) return true;
    const Link& link = trace_.links_[step.link];
    if (link.last == kNone) return true;
    if (links_[link.last].end == kUnknown || links_[link.first].end == kUnknown) return false;
    *start = std::max(*start, links_[link.first].start);
    *end = links_[link.last].end;
    return true;
  }

  void End(pipe_t number, const Step& step, double start, double end, double done) {
    Pipe& pipe = pipes_[number];
    if (step.link != kNone) {
      const Link& link = trace_.links_[step.link];
      // it never ends before the instructions that it follows
      if (link.last != kNone) {
        done += std::max(0.0, links_[link.last].end - end);
        end = std::max(end, links_[link.last].end);
      }
      links_[step.link] = {start, end};
    }
    pipe.busy += number == PIPE_M ? step.cycles : end - start;
    if (picture_ != nullptr) {
      picture_->push_back({core_.index, PipeName(number), Name(step.op), start, end});
    }
    Leave(pipe, start);
    pipe.free = end;
    pipe.done = std::max(pipe.done, done);
  }

  static void Leave(Pipe& pipe, double time) {
    pipe.left[pipe.taken % kDepth] = time;
    ++pipe.taken;
  }

  template <typename Ready>
  bool Run(pipe_t number, Ready ready) {
    Pipe& pipe = pipes_[number];
    const uint64_t before = pipe.taken;
    while (pipe.taken != pipe.given && !pipe.moving) {
      const Entry& entry = pipe.ring[pipe.taken % kDepth];
      const Step& step = *entry.step;
      double start = std::max(pipe.free, entry.issued);
      double end = 0;
      if (!Follows(step, &start, &end)) break;
      if (step.kind == StepKind::kMove) {
        pipe.moving = true;
        pipe.next = start;
        ready(start, number);
        break;
      }
      switch (step.kind) {
        case StepKind::kWork:
          end = start + step.cycles;
          End(number, step, start, end, end);
          continue;
        case StepKind::kSet:
          flags_[step.number] = std::max(start, pipe.done);
          break;
        case StepKind::kWait:
          if (flags_[step.number] == kUnknown) return pipe.taken != before;
          start = std::max(start, flags_[step.number]);
          break;
        case StepKind::kSettle:
          start = std::max(start, pipe.done);
          break;
        default:  // kCrossSet
          shared_.messages[step.number] = std::max(start, pipe.done);
          shared_.woken = true;
      }
      Leave(pipe, start);
      pipe.free = start;
    }
    return pipe.taken != before;
  }

  // The scalar unit.
  bool Issue() {
    const size_t before = at_;
    for (; at_ != trace_.steps_.size(); ++at_) {
      const Step& step = trace_.steps_[at_];
      double time = scalar_ + step.issue;
      if (step.pipe != PIPE_S) {
        Pipe& pipe = pipes_[step.pipe];
        if (pipe.given - pipe.taken == kDepth) break;
        const uint64_t place = pipe.given % kDepth;
        time = std::max(time, pipe.left[place]);
        pipe.ring[place] = {&step, time};
        ++pipe.given;
      } else if (!Wait(step, &time)) {
        break;
      }
      pipes_[PIPE_S].busy += step.issue;
      scalar_ = time;
    }
    return at_ != before;
  }

  bool Finished(int pipe, double* time) const {
    *time = std::max(*time, pipes_[pipe].done);
    *time = std::max(*time, pipes_[pipe].free);
    return pipes_[pipe].given == pipes_[pipe].taken;
  }

  // Steps of the scalar unit itself: false if it has to wait for what is not known yet.
  bool Wait(const Step& step, double* time) {
    switch (step.kind) {
      case StepKind::kWork:
        *time += step.cycles;
        pipes_[PIPE_S].busy += step.cycles;
        return true;
      case StepKind::kSet:
        flags_[step.number] = *time;
        return true;
      case StepKind::kWait:
        if (flags_[step.number] == kUnknown) return false;
        *time = std::max(*time, flags_[step.number]);
        return true;
      case StepKind::kFinish:
        for (int pipe = PIPE_V; pipe < kPipes; ++pipe) {
          if ((step.of == PIPE_ALL || step.of == pipe) && !Finished(pipe, time)) return false;
        }
        return true;
      case StepKind::kSyncAll:
        if (!waiting_) {
          if (!Finished(core_.IsCube() ? PIPE_FIX : PIPE_MTE3, time)) return false;
          waiting_ = true;
          shared_.sync_time = std::max(shared_.sync_time, *time);
          if (++shared_.in_sync_all == step.number) {
            shared_.in_sync_all = 0;
            shared_.syncs.push_back(shared_.sync_time + kSyncAllCycles);
            shared_.woken = true;
          }
        }
        if (passed_ == shared_.syncs.size()) return false;
        waiting_ = false;
        *time = shared_.syncs[passed_++];
        return true;
      default: {  // kCrossWait
        for (const uint32_t message : (*shared_.meetings)[step.number]) {
          if (shared_.messages[message] == kUnknown) return false;
          *time = std::max(*time, shared_.messages[message] + kCrossCycles);
        }
        return true;
      }
    }
  }

  const Core& core_;
  const Trace& trace_;
  Shared& shared_;
  std::vector<Slice>* picture_;
  std::vector<double> flags_;
  std::vector<Interval> links_;
  std::array<Pipe, kPipes> pipes_;
  size_t at_ = 0;
  double scalar_ = 0;
  size_t passed_ = 0;  // SyncAlls
  bool waiting_ = false;
};

Times MakeSchedule(const Machine& machine) {
  const Options& options = machine.options;
  const Device& device = *options.device;
  CacheModel fresh;
  Shared shared;
  shared.memory.rate = device.memory_rate / device.clock;
  shared.l2.rate = kL2Rate / device.clock;
  for (const auto& core : machine.cores) ++(core->IsCube() ? shared.cubes : shared.vectors);
  shared.cache = options.cache != nullptr ? options.cache : &fresh;
  shared.cache->Begin();
  shared.messages.assign(machine.messages, kUnknown);
  shared.meetings = &machine.meetings;

  Times times;
  std::vector<CoreSchedule> cores;
  for (const auto& core : machine.cores) {
    const auto& shown = options.pictured;
    const bool pictured = std::find(shown.begin(), shown.end(), core->index) != shown.end();
    cores.emplace_back(*core, shared, pictured ? &times.picture : nullptr);
  }
  using Turn = std::tuple<double, size_t, pipe_t>;  // the order of equal times is fixed, too
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> turns;
  const auto advance = [&](size_t core) {
    cores[core].Advance([&](double start, pipe_t pipe) { turns.emplace(start, core, pipe); });
  };
  const auto advance_all = [&] {
    do {
      shared.woken = false;
      for (size_t core = 0; core < cores.size(); ++core) advance(core);
    } while (shared.woken);
  };
  advance_all();
  while (!turns.empty()) {
    const auto [start, core, pipe] = turns.top();
    turns.pop();
    cores[core].Move(pipe);
    advance(core);
    if (shared.woken) advance_all();
  }

  double end = 0;
  for (const CoreSchedule& core : cores) {
    if (!core.Done()) throw std::logic_error("the schedule of " + options.name + " is stuck");
    times.cores.push_back(core.Report());
    end = std::max(end, times.cores.back().end);
  }
  times.device = device.name;
  times.clock = device.clock;
  times.cycles = end;
  times.seconds = end / device.clock + kLaunch;
  times.memory_bytes = shared.memory.bytes;
  times.l2_bytes = shared.l2.bytes;
  return times;
}

}  // namespace emulator
