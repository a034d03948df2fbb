#include "timing.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <stdexcept>
#include <tuple>

#include "core.h"

namespace emulator {

// --- figures
// --------------------------------------------------------------------------------------

namespace {

// Of Atlas A2. Published copies are those of the data_copy, add and matmul examples of the Ascend C
// best practices; "mte2 time" is the busy time of the unit that they list beside the task's.
// clang-format off: a table
#define MOGE_TIME_PARAMETERS(X)                                                                    \
  X(kL2Rate, 5.2e12, "B/s", "documented: peak of pure reads from L2")                              \
  X(kL2Bytes, 192.0 * 1048576, "B", "documented")                                                  \
  X(kLineBytes, 512, "B", "documented: the alignment that transfers want")                         \
  X(kLaunch, 13e-6, "s", "calibrated: task less mte2 time of the copies, 12.8 to 13.2 us")         \
  X(kIssue, 4, "cycles", "calibrated: scalar time of matmul, 337 us, 14 calls a step") \
  X(kScalarUb, 34.0 / 3, "cycles", "documented: 18.4 ns for two reads and a write of a scalar Add") \
  X(kLatency, 445, "cycles", "calibrated: Add on one core, two copies of 8 KB in 379 ns")          \
  X(kQueue, 32, "instructions", "documented: depth of MTE1's queue; taken for all")                \
  X(kVectorPort, 64, "B/cycle", "calibrated: L2 read by 48 vector cores, 365.7 us") \
  X(kCubePort, 128, "B/cycle", "assumed: twice a vector core's, as there are half as many") \
  X(kFixpipePort, 64, "B/cycle", "calibrated: fixpipe time of matmul, 0.54 us a tile")             \
  X(kCopyHead, 16, "cycles", "calibrated: copies of 128 bytes, 564.8 us")                          \
  X(kNdToNzHead, 120, "cycles", "calibrated with the next: Nd2Nz of 64 x 64, 300.7 us") \
  X(kPiece, 2.4, "cycles", "calibrated: Nd2Nz of 64 x 1024 out of L2, 415.0 us; of each row") \
  X(kUnaligned, 1 / 0.7, "", "documented: 32-byte alignment has 70 % of the rate of 512, at worst") \
  X(kVectorHead, 22, "cycles", "calibrated: vec time of Add, 150 cycles for 127 repeats")          \
  X(kLoadHead, 14, "cycles", "calibrated: mte1 time of matmul, 2538 us, in eight LoadData a step") \
  X(kMmadHead, 10, "cycles", "calibrated: mac time of matmul, 2 % above theory")                   \
  X(kSyncAllCycles, 890, "cycles", "assumed: a latency to tell and one to hear")                   \
  X(kCrossCycles, 445, "cycles", "assumed: a latency")
// clang-format on

#define MOGE_PARAMETER(name, value, unit, origin) constexpr double name = value;
MOGE_TIME_PARAMETERS(MOGE_PARAMETER)
#undef MOGE_PARAMETER

// Elements per cycle of types of 16 and 32 bits, where it is not a whole repeat of 256 bytes;
// documented: theoretical performance of the vector instructions.
double ElementsPerCycle(Op op, bool wide) {
  switch (op) {
    case Op::kExp:
    case Op::kLn:
    case Op::kSqrt:
    case Op::kDiv:
      return 32;
    case Op::kMulAddDst:
    case Op::kGatherMask:
      return wide ? 32 : 64;
    case Op::kReduceDataBlock:
      return wide ? 64 : 128.0 / 7;
    case Op::kReduceRepeat:
      return wide ? 64.0 / 7 : 128.0 / 7;
    default:
      return wide ? 64 : 128;
  }
}

double VectorCycles(Op op, const Work& work) {
  const auto elements = static_cast<double>(work.elements);
  const auto repeats = static_cast<double>(work.repeats);
  const bool wide = SizeOf(work.dtype) >= 4;
  switch (op) {
    case Op::kGather:
      return elements / 5;
    case Op::kGatherb:
      return elements / (wide ? 21 : 42);
    case Op::kSort32:
    case Op::kMrgSort:
      return elements / 2;
    case Op::kCast:  // 64 of any type, and a repeat has no more of the wider one
      return std::max(repeats, elements / 64);
    case Op::kBrcb:
      return repeats;
    default:
      // a masked or partial repeat costs a whole one
      return repeats * (wide ? 64 : 128) / ElementsPerCycle(op, wide);
  }
}

}  // namespace

double DocumentedCycles(Op op, pipe_t pipe, const Work& work) {
  const auto bytes = static_cast<double>(work.bytes);
  switch (work.path == -1 ? Path::kUbToGm : static_cast<Path>(work.path)) {
    case Path::kL1ToL0A:
      return bytes / 256;
    case Path::kL1ToL0B:
      return bytes / 128;
    case Path::kUbToUb:
      return bytes / 256;
    default:
      break;
  }
  if (pipe == PIPE_V) return VectorCycles(op, work);
  return static_cast<double>(work.cycles);  // of a Mmad
}

std::vector<TimeParameter> TimeParameters() {
#define MOGE_PARAMETER(name, value, unit, origin) {&#name[1], value, unit, origin},
  return {MOGE_TIME_PARAMETERS(MOGE_PARAMETER)};
#undef MOGE_PARAMETER
}

const std::vector<Device>& Devices() {
  // 910B4: neither is documented in what was at hand; the clock follows from 246 TFLOP/s of fp16
  // in the platform files, the rate is taken as half of the 64 GB chips', as its 32 GB are
  static const std::vector<Device> devices = {
      {"910B1", 24, 48, 1.85e9, 1.6e12},
      {"910B4", 20, 40, 1.5e9, 0.8e12},
  };
  return devices;
}

// --- what a core does
// -----------------------------------------------------------------------------

double HeadCycles(Op op, pipe_t pipe) {
  switch (pipe) {
    case PIPE_V:
      return kVectorHead;
    case PIPE_M:
      return kMmadHead;
    case PIPE_MTE1:
      return kLoadHead;
    default:
      return op == Op::kFill ? kCopyHead : 0;
  }
}

double MoveCycles(bool nd_to_nz, pipe_t pipe, uint32_t rows) {
  if (pipe == PIPE_FIX) return 0;
  return (nd_to_nz ? kNdToNzHead : kCopyHead) + rows * kPiece;
}

double PortRate(pipe_t pipe, bool cube) {
  return pipe == PIPE_FIX ? kFixpipePort : cube ? kCubePort : kVectorPort;
}

double IssueCycles() { return kIssue; }
double ScalarCycles(bool missed) { return missed ? kLatency : kScalarUb - kIssue; }

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

// --- L2
// -------------------------------------------------------------------------------------------

namespace {

constexpr uint64_t kLine = static_cast<uint64_t>(kLineBytes);
constexpr uint32_t kWays = 16;
// a prime: neither neighbouring lines nor those of a column of a matrix crowd into few sets
constexpr uint64_t kSets = 24571;
static_assert(kSets * kWays * kLine <= kL2Bytes);

}  // namespace

CacheModel::CacheModel() : ways_(kSets * kWays) {}

uint64_t CacheModel::Place(const Allocation& allocation) {
  const std::pair<const void*, uint64_t> key{allocation.data, allocation.bytes};
  if (allocation.access == Access::kOut) places_.erase(key);
  const auto [entry, added] = places_.try_emplace(key, next_place_);
  // on the device memory begins with a line, wherever the host has it
  if (added) next_place_ += (allocation.bytes + kLine - 1) / kLine * kLine;
  return entry->second;
}

bool CacheModel::Touch(uint64_t line, bool writes, uint64_t* evicted) {
  Way* const set = &ways_[line % kSets * kWays];
  ++now_;
  Way* oldest = set;
  for (Way* way = set; way != set + kWays; ++way) {
    if (way->line == line) {
      way->used = now_;
      way->dirty |= writes;
      return true;
    }
    if (way->used < oldest->used) oldest = way;
  }
  if (oldest->dirty) *evicted += kLine;
  *oldest = {line, now_, writes};
  return false;
}

CacheModel::Traffic CacheModel::Access(const Transfer& transfer) {
  Traffic traffic;
  for (uint32_t row = 0; row < transfer.rows; ++row) {
    const uint64_t begin = transfer.address + row * transfer.pitch;
    const uint64_t end = begin + transfer.row_bytes;
    const uint64_t first = begin / kLine, last = (end - 1) / kLine;
    // lines more than the row would need if it began with one
    const auto needed = static_cast<double>((transfer.row_bytes + kLine - 1) / kLine);
    const double longer = std::min((last - first + 1) / needed, kUnaligned);
    traffic.port += transfer.row_bytes * longer;
    if (transfer.bypass) {
      traffic.memory += transfer.row_bytes;
      continue;
    }
    traffic.l2 += std::max<double>(transfer.row_bytes, kLine) * longer;
    // What the copies of unaligned rows show, [12288, 12287] of half: a row that crosses lines at
    // addresses that are no multiple of 32 bytes reads the lines that it cuts whole, each time.
    const bool cuts = !transfer.writes && begin % 32 != 0 && first != last;
    for (uint64_t line = first; line <= last; ++line) {
      const bool hit = Touch(line, transfer.writes, &traffic.memory);
      const bool whole = begin <= line * kLine && (line + 1) * kLine <= end;
      if (!transfer.writes && (!hit || (cuts && !whole))) traffic.memory += kLine;
    }
  }
  return traffic;
}

// --- the schedule
// ---------------------------------------------------------------------------------

namespace {

constexpr double kUnknown = -1;

// What a link's instruction did, for those that follow it.
struct Interval {
  double start = kUnknown, end = kUnknown;
};

// Takes what comes one after the other.
struct Server {
  double rate = 0;  // bytes per cycle
  double free = 0;
  double bytes = 0;  // so far
};

// What all cores share.
struct Shared {
  Server memory, l2;
  CacheModel* cache;
  std::vector<double> messages;
  const std::vector<std::vector<uint32_t>>* meetings;
  uint32_t in_sync_all = 0;
  double sync_time = 0;
  std::vector<double> syncs;  // when the SyncAlls were over
  bool woken = false;         // somebody may go on
};

}  // namespace

// One core's steps in time. The scalar unit issues them in order into the queues of the pipes; each
// pipe takes its own in order.
class CoreSchedule {
 public:
  CoreSchedule(const Core& core, Shared& shared, std::vector<Slice>* picture)
      : core_(core),
        trace_(*core.trace),
        shared_(shared),
        picture_(picture),
        flags_(trace_.flags_, kUnknown),
        links_(trace_.links_.size()) {}

  // As far as it goes without the shared memory or another core. `ready(start, pipe)`: a transfer.
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
    const CacheModel::Traffic traffic = shared_.cache->Access(transfer);
    double end = start + step.cycles + traffic.port / PortRate(number, core_.IsCube());
    const auto serve = [&](Server& server, double bytes) {
      if (bytes == 0) return;
      server.free = std::max(server.free, start) + bytes / server.rate;
      server.bytes += bytes;
      end = std::max(end, server.free);
    };
    serve(shared_.l2, traffic.l2);
    serve(shared_.memory, static_cast<double>(traffic.memory));
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
    std::array<double, kDepth> left{};  // when the entry before in this place left the queue
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
      // never before what it follows
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
  shared.cache = options.cache != nullptr ? options.cache : &fresh;
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
