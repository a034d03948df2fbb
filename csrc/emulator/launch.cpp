// Blocks on threads, one at a time: each runs until it waits for the others or ends.
#include <algorithm>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <random>
#include <thread>

#include "core.h"

namespace emulator {

namespace {

thread_local Core* current_core = nullptr;

// unwinds a block when another one has failed
struct Aborted {};

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
  std::condition_variable turned;
  std::vector<uint32_t> order;
  std::vector<State> states;
  int64_t turn = -1;  // block that runs; -1: none
  bool aborted = false;
  std::exception_ptr error;

  void Abort(std::exception_ptr cause) {
    if (error == nullptr) error = std::move(cause);
    aborted = true;
    turned.notify_all();
  }

  // The running block has stopped: the next one in order runs.
  void Pass(Machine& machine) {
    turn = -1;
    const auto total = static_cast<int64_t>(states.size());
    const int64_t done = std::count(states.begin(), states.end(), State::kDone);
    const int64_t waiting = std::count(states.begin(), states.end(), State::kWaiting);
    if (waiting != 0 && waiting == total) {
      ++machine.epoch;
      std::fill(states.begin(), states.end(), State::kReady);
    } else if (waiting != 0 && waiting + done == total) {
      Abort(std::make_exception_ptr(Error(
          Rule::kDeadlock, "SyncAll: rule deadlock: " + std::to_string(waiting) +
                               " blocks wait in SyncAll, and the other " + std::to_string(done) +
                               " have ended (" + machine.options.name + ")")));
      return;
    }
    for (const uint32_t block : order) {
      if (states[block] == State::kReady) {
        turn = block;
        break;
      }
    }
    turned.notify_all();
  }
};

Machine::Machine(const Options& options)
    : options(options), scheduler_(std::make_shared<Scheduler>()) {
  if (options.blocks > std::numeric_limits<uint16_t>::max()) {
    throw std::invalid_argument("a launch has at most 65535 blocks, got " +
                                std::to_string(options.blocks));
  }
  std::vector<Allocation> sorted;
  for (const Allocation& allocation : options.allocations) {
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
  for (const Allocation& allocation : sorted) globals.emplace_back(allocation);
  for (uint32_t block = 0; block < options.blocks; ++block) {
    cores.push_back(std::make_unique<Core>(*this, block));
    scheduler_->order.push_back(block);
  }
  if (options.seed != 0) {
    std::shuffle(scheduler_->order.begin(), scheduler_->order.end(), std::mt19937_64(options.seed));
  }
  scheduler_->states.assign(options.blocks, Scheduler::State::kReady);
}

void Machine::WaitForAll(Core& core) {
  Scheduler& scheduler = *scheduler_;
  std::unique_lock<std::mutex> lock(scheduler.mutex);
  scheduler.states[core.index] = Scheduler::State::kWaiting;
  scheduler.Pass(*this);
  scheduler.turned.wait(lock, [&] { return scheduler.aborted || scheduler.turn == core.index; });
  if (scheduler.aborted) throw Aborted();
}

Counters Machine::Run(const std::function<void()>& kernel) {
  Scheduler& scheduler = *scheduler_;
  const auto run_block = [&](Core& core) {
    std::unique_lock<std::mutex> lock(scheduler.mutex);
    scheduler.turned.wait(lock, [&] { return scheduler.aborted || scheduler.turn == core.index; });
    if (scheduler.aborted) return;
    lock.unlock();
    current_core = &core;
    std::exception_ptr error;
    try {
      kernel();
      core.Finish();
      core.ReleaseMemory();  // the next block takes the same pages
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
  for (const std::unique_ptr<Core>& core : cores) threads.emplace_back(run_block, std::ref(*core));
  {
    const std::lock_guard<std::mutex> lock(scheduler.mutex);
    scheduler.Pass(*this);
  }
  for (std::thread& thread : threads) thread.join();
  if (scheduler.error != nullptr) std::rethrow_exception(scheduler.error);
  Counters counters;
  counters.name = options.name;
  for (const std::unique_ptr<Core>& core : cores) counters.cores.push_back(core->Report());
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

CoreCounters Counters::Total() const {
  CoreCounters total;
  for (const CoreCounters& core : cores) {
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
