// Cores on threads, one at a time: each runs until it waits for others or ends.
#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <limits>
#include <mutex>
#include <random>
#include <thread>

#include "core.h"

namespace emulator {

namespace {

thread_local Core* current_core = nullptr;

// unwinds a core when another one has failed
struct Aborted {};

std::string FlagName(uint16_t id) { return "cross-core flag " + std::to_string(id); }

}  // namespace

Core& CurrentCore() {
  if (current_core == nullptr) {
    throw std::logic_error("Ascend C is called outside a kernel: use emulator::Launch");
  }
  return *current_core;
}

struct Machine::Scheduler {
  enum class State { kReady, kWaiting, kDone };

  std::mutex mutex;
  std::deque<std::condition_variable> turned;  // one a core: a turn wakes one thread
  std::vector<uint32_t> order;
  std::vector<State> states;
  std::vector<std::string> waits_for;
  std::vector<uint32_t> in_sync_all;
  int64_t turn = -1;  // core that runs; -1: none
  bool aborted = false;
  std::exception_ptr error;

  void Abort(std::exception_ptr cause) {
    if (error == nullptr) error = std::move(cause);
    aborted = true;
    for (std::condition_variable& core : turned) core.notify_all();
  }

  // The running core has stopped: the next one in order runs.
  void Pass(const Machine& machine) {
    turn = -1;
    for (const uint32_t core : order) {
      if (states[core] != State::kReady) continue;
      turn = core;
      turned[core].notify_all();
      return;
    }
    std::string waiting;
    size_t shown = 0;
    for (size_t core = 0; core < states.size(); ++core) {
      if (states[core] != State::kWaiting || ++shown > 4) continue;
      waiting +=
          (waiting.empty() ? "" : ", ") + machine.cores[core]->Who() + " for " + waits_for[core];
    }
    if (shown == 0) return;
    if (shown > 4) waiting += " and " + std::to_string(shown - 4) + " more";
    Abort(std::make_exception_ptr(
        Error(Rule::kDeadlock, "KernelEnd: rule deadlock: nobody runs and some wait: " + waiting +
                                   " (" + machine.options.name + ")")));
  }

  // Gives way until somebody has made this core ready.
  void Wait(const Machine& machine, uint32_t core, std::string what) {
    std::unique_lock<std::mutex> lock(mutex);
    states[core] = State::kWaiting;
    waits_for[core] = std::move(what);
    Pass(machine);
    turned[core].wait(lock, [&] { return aborted || turn == core; });
    if (aborted) throw Aborted();
  }
};

namespace {

Options Effective(Options options) {
  options.checks = options.checks && !options.counting;
  return options;
}

}  // namespace

Machine::Machine(const Options& given)
    : options(Effective(given)), scheduler_(std::make_shared<Scheduler>()) {
  if (options.blocks > std::numeric_limits<uint16_t>::max()) {
    throw std::invalid_argument("a launch has at most 65535 blocks, got " +
                                std::to_string(options.blocks));
  }
  std::vector<Allocation> sorted;
  for (const Allocation& allocation : options.allocations) {
    if (allocation.bulk && !options.counting) {
      throw std::invalid_argument("allocation '" + allocation.name +
                                  "' is bulk, which needs counting mode");
    }
    if (allocation.bytes != 0) sorted.push_back(allocation);
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const Allocation& a, const Allocation& b) { return a.data < b.data; });
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (static_cast<uint8_t*>(sorted[i - 1].data) + sorted[i - 1].bytes >
        static_cast<uint8_t*>(sorted[i].data)) {
      throw std::invalid_argument("allocations '" + sorted[i - 1].name + "' and '" +
                                  sorted[i].name + "' of the launch overlap");
    }
  }
  for (const Allocation& allocation : sorted) globals.emplace_back(allocation, options.checks);
  if (options.device != nullptr) {
    CacheModel fresh;
    CacheModel& cache = options.cache != nullptr ? *options.cache : fresh;
    // by name: addresses, which they are sorted by, are others in every run
    std::multimap<std::string, GlobalMemory*> named;
    for (GlobalMemory& memory : globals) named.emplace(memory.allocation().name, &memory);
    for (const auto& [name, memory] : named) memory->place = cache.Place(memory->allocation());
  }
  const auto add = [this](CoreKind kind, uint32_t block, uint32_t sub) {
    const auto index = static_cast<uint32_t>(cores.size());
    cores.push_back(std::make_unique<Core>(*this, index, kind, block, sub));
    scheduler_->order.push_back(index);
    if (this->options.device != nullptr) cores.back()->trace = std::make_unique<Trace>();
  };
  const bool vectors_only =
      options.kernel == KernelType::kVector || options.kernel == KernelType::kMixVector;
  for (uint32_t block = 0; block < options.blocks; ++block) {
    add(vectors_only ? CoreKind::kVector : CoreKind::kCube, block, 0);
    if (options.kernel != KernelType::kMix) continue;
    for (const uint32_t sub : {0u, 1u}) add(CoreKind::kVector, 2 * block + sub, sub);
  }
  if (options.seed != 0) {
    std::shuffle(scheduler_->order.begin(), scheduler_->order.end(), std::mt19937_64(options.seed));
  }
  scheduler_->states.assign(cores.size(), Scheduler::State::kReady);
  scheduler_->waits_for.resize(cores.size());
  scheduler_->turned.resize(cores.size());
}

void Machine::WaitForAll(Core& core, bool vector_only, const Knowledge& message) {
  Scheduler& scheduler = *scheduler_;
  sync_all = true;
  Merge(gathered_, message);
  scheduler.in_sync_all.push_back(core.index);
  const auto takes_part = [&](const auto& other) { return !vector_only || !other->IsCube(); };
  const auto expected = std::count_if(cores.begin(), cores.end(), takes_part);
  if (core.trace) core.trace->SyncAll(static_cast<uint32_t>(expected));
  if (static_cast<int64_t>(scheduler.in_sync_all.size()) != expected) {
    scheduler.Wait(*this, core.index, "SyncAll");
    return;
  }
  for (const uint32_t member : scheduler.in_sync_all) {
    cores[member]->Learn(gathered_);
    scheduler.states[member] = Scheduler::State::kReady;
  }
  scheduler.in_sync_all.clear();
  gathered_.clear();
}

// --- cross-core flags
// -----------------------------------------------------------------------------

CrossGroup& Machine::FindGroup(const Core& core, uint8_t mode, uint16_t id) {
  // one group for the whole launch in mode 0, for each block in modes 1 and 2
  const uint32_t cores_of_block = 3;
  const uint32_t block = mode == 0 ? 0 : core.index / cores_of_block;
  const auto [entry, made] =
      groups_.try_emplace({mode, static_cast<uint32_t>(core.kind), block, id});
  CrossGroup& group = entry->second;
  if (!made) return group;
  for (const std::unique_ptr<Core>& other : cores) {
    if (mode != 0 && other->index / cores_of_block != block) continue;
    const bool same = other->kind == core.kind;
    if (same) group.sources.push_back(other->index);
    if (same == (mode != 2)) group.targets.push_back(other->index);
  }
  group.sets.resize(group.sources.size());
  return group;
}

void Machine::SetCrossFlag(Core& core, uint8_t mode, uint16_t id, Message message) {
  CrossGroup& group = FindGroup(core, mode, id);
  const auto at = std::find(group.sources.begin(), group.sources.end(), core.index);
  group.sets[at - group.sources.begin()].push_back(std::move(message));
  const auto empty = [](const std::deque<Message>& sets) { return sets.empty(); };
  if (std::any_of(group.sets.begin(), group.sets.end(), empty)) return;
  Message together{{}, static_cast<uint32_t>(meetings.size())};
  meetings.emplace_back();
  for (std::deque<Message>& sets : group.sets) {
    Merge(together.known, sets.front().known);
    meetings.back().push_back(sets.front().number);
    sets.pop_front();
  }
  for (const uint32_t target : group.targets) {
    std::deque<Message>& inbox = cores[target]->inbox[id];
    inbox.push_back(together);
    if (inbox.size() > kCrossAhead) {
      Fail(Rule::kCrossCounter, "flag %u of %s was set %zu times without a wait", id,
           cores[target]->Who().c_str(), inbox.size());
    }
    if (target != core.index && scheduler_->waits_for[target] == FlagName(id) &&
        scheduler_->states[target] == Scheduler::State::kWaiting) {
      scheduler_->states[target] = Scheduler::State::kReady;
    }
  }
}

void Machine::WaitCrossFlag(Core& core, uint16_t id) {
  if (core.inbox[id].empty()) scheduler_->Wait(*this, core.index, FlagName(id));
  const Message& message = core.inbox[id].front();
  core.Learn(message.known);
  if (core.trace) core.trace->CrossWait(message.number);
  core.inbox[id].pop_front();
}

void Machine::CheckPaired() const {
  const auto fail = [this](unsigned id, const Core& core, const char* what) {
    throw Error(Rule::kCrossUnpaired, "CrossCoreSetFlag: rule cross-core.unpaired: flag " +
                                          std::to_string(id) + " of " + core.Who() + " " + what +
                                          " (" + options.name + ")");
  };
  for (const std::unique_ptr<Core>& core : cores) {
    for (unsigned id = 0; id < kCrossIds; ++id) {
      if (!core->inbox[id].empty()) fail(id, *core, "was set and never waited for");
    }
  }
  for (const auto& [key, group] : groups_) {
    for (size_t i = 0; i < group.sets.size(); ++i) {
      if (group.sets[i].empty()) continue;
      fail(key[3], *cores[group.sources[i]], "was set, but not by the cores beside it");
    }
  }
}

Counters Machine::Run(const std::function<void()>& kernel) {
  Scheduler& scheduler = *scheduler_;
  const auto run_core = [&](Core& core) {
    std::unique_lock<std::mutex> lock(scheduler.mutex);
    scheduler.turned[core.index].wait(
        lock, [&] { return scheduler.aborted || scheduler.turn == core.index; });
    if (scheduler.aborted) return;
    lock.unlock();
    current_core = &core;
    std::exception_ptr error;
    try {
      kernel();
      core.Finish();
      core.ReleaseMemory();  // the next core takes the same pages
    } catch (const Aborted&) {
      return;
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    scheduler.states[core.index] = Scheduler::State::kDone;
    if (error != nullptr) {
      scheduler.Abort(error);
    } else {
      scheduler.Pass(*this);
    }
  };
  std::vector<std::thread> threads;
  for (const std::unique_ptr<Core>& core : cores) threads.emplace_back(run_core, std::ref(*core));
  {
    const std::lock_guard<std::mutex> lock(scheduler.mutex);
    scheduler.Pass(*this);
  }
  for (std::thread& thread : threads) thread.join();
  if (scheduler.error != nullptr) std::rethrow_exception(scheduler.error);
  CheckPaired();
  Counters counters;
  counters.name = options.name;
  for (const std::unique_ptr<Core>& core : cores) counters.cores.push_back(core->Report());
  if (options.device != nullptr) counters.times = MakeSchedule(*this);
  return counters;
}

Counters Launch(const Options& options, const std::function<void()>& kernel) {
  return Machine(options).Run(kernel);
}

void PathCounters::Add(const PathCounters& other) {
  bytes += other.bytes;
  transfers += other.transfers;
  pieces += other.pieces;
  if (smallest == 0 || (other.smallest != 0 && other.smallest < smallest)) {
    smallest = other.smallest;
  }
  for (int i = 0; i < kSizeClasses; ++i) classes[i] += other.classes[i];
}

void VectorCounters::Add(const VectorCounters& other) {
  calls += other.calls;
  repeats += other.repeats;
  elements += other.elements;
}

void PipeCounters::Add(const PipeCounters& other) {
  instructions += other.instructions;
  bytes += other.bytes;
  cycles += other.cycles;
}

void ProductCounters::Add(const ProductCounters& other) {
  calls += other.calls;
  fractals += other.fractals;
  cycles += other.cycles;
  products += other.products;
}

void GlobalCounters::Add(const GlobalCounters& other) {
  read += other.read;
  written += other.written;
}

CoreCounters Counters::Total(const std::string& kind) const {
  CoreCounters total;
  const auto is_first = [this](const CoreCounters& core) { return core.kind == cores[0].kind; };
  total.kind = !kind.empty() || cores.empty()                      ? kind
               : std::all_of(cores.begin(), cores.end(), is_first) ? cores[0].kind
                                                                   : "";
  for (const CoreCounters& core : cores) {
    if (!kind.empty() && core.kind != kind) continue;
    for (const auto& [pipe, counters] : core.pipes) total.pipes[pipe].Add(counters);
    for (const auto& [dtype, counters] : core.products) total.products[dtype].Add(counters);
    for (const auto& [name, counters] : core.global) total.global[name].Add(counters);
    for (const auto& [name, count] : core.cross) total.cross[name] += count;
    for (const auto& [name, peak] : core.peaks) {
      total.peaks[name] = std::max(total.peaks[name], peak);
    }
    for (const auto& [path, counters] : core.paths) total.paths[path].Add(counters);
    for (const auto& [key, counters] : core.instructions) total.instructions[key].Add(counters);
    for (const auto& [name, count] : core.scalars) total.scalars[name] += count;
    for (const auto& [name, count] : core.waits) total.waits[name] += count;
    for (const auto& [name, count] : core.barriers) total.barriers[name] += count;
    total.sync_all += core.sync_all;
    total.peak_ub = std::max(total.peak_ub, core.peak_ub);
  }
  return total;
}

}  // namespace emulator
