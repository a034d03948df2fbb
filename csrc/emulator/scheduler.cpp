// Turns of the cores: who runs next, who waits for what, and when nobody can go on.
#include "scheduler.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <thread>

#include "core.h"

namespace emulator {

namespace {

// A core that has read the same memory so often, and done nothing else, waits for its change. Loops
// over a table in global memory read it again, too, but end.
constexpr uint32_t kMostPolls = 1 << 20;
// So many reads at a time, if all that can run poll: to change threads takes long.
constexpr uint32_t kPollsInARow = 1 << 10;

// unwinds a core when another one has failed
struct Aborted {};

}  // namespace

void Machine::Poll(Core& core, const GlobalRef& ref, uint64_t offset) {
  Polls& polls = core.polls;
  const auto renew = [&] {
    const uint64_t changes = stamp - core.writes;
    if (polls.changes == changes) return;
    polls = {changes, {}, 0};
  };
  if (ref.allocation < 0 || globals[ref.allocation].allocation().access == Access::kIn) return;
  renew();
  if (polls.seen.insert(ref.address + offset).second) return;
  if (++polls.fruitless % kPollsInARow == 0 || scheduler_->OthersCanRun(core.index)) {
    const GlobalMemory& memory = globals[ref.allocation];
    scheduler_->GiveWay(core.index, "byte " +
                                        std::to_string(ref.address + offset - memory.begin()) +
                                        " of '" + memory.name() + "'");
    renew();
  }
}

Scheduler::Scheduler(const Machine& machine, size_t cores, uint64_t seed)
    : machine_(machine), turned_(cores), order_(cores), states_(cores), waits_for_(cores) {
  std::iota(order_.begin(), order_.end(), 0);
  if (seed != 0) std::shuffle(order_.begin(), order_.end(), std::mt19937_64(seed));
}

void Scheduler::Abort(std::exception_ptr cause) {
  if (error_ == nullptr) error_ = std::move(cause);
  aborted_ = true;
  for (std::condition_variable& core : turned_) core.notify_all();
}

bool Scheduler::CanRun(uint32_t core) const {
  if (states_[core] != State::kPolling) return states_[core] == State::kReady;
  const Core& polling = *machine_.cores[core];
  return polling.polls.changes != machine_.stamp - polling.writes;
}

bool Scheduler::OthersCanRun(uint32_t core) const {
  return std::any_of(order_.begin(), order_.end(),
                     [&](uint32_t other) { return other != core && CanRun(other); });
}

int64_t Scheduler::Next(size_t from) const {
  int64_t polling = -1;
  for (size_t i = 0; i < order_.size(); ++i) {
    const uint32_t core = order_[(from + i) % order_.size()];
    if (CanRun(core)) return core;
    if (states_[core] != State::kPolling || polling >= 0) continue;
    if (machine_.cores[core]->polls.fruitless < kMostPolls) polling = core;
  }
  return polling;
}

void Scheduler::Turn(uint32_t core) {
  turn_ = core;
  turned_[core].notify_all();
}

void Scheduler::Sleep(uint32_t core, std::unique_lock<std::mutex>& lock) {
  turned_[core].wait(lock, [&] { return aborted_ || turn_ == core; });
  if (aborted_) throw Aborted();
  states_[core] = State::kReady;
}

void Scheduler::AbortDeadlocked() {
  std::string waiting;
  size_t shown = 0;
  for (size_t core = 0; core < states_.size(); ++core) {
    if (states_[core] == State::kReady || states_[core] == State::kDone || ++shown > 4) continue;
    waiting +=
        (waiting.empty() ? "" : ", ") + machine_.cores[core]->Who() + " for " + waits_for_[core];
  }
  if (shown == 0) return;
  if (shown > 4) waiting += " and " + std::to_string(shown - 4) + " more";
  Abort(std::make_exception_ptr(
      Error(Rule::kDeadlock, "KernelEnd: rule deadlock: nobody runs and some wait: " + waiting +
                                 " (" + machine_.options.name + ")")));
}

void Scheduler::Pass() {
  turn_ = -1;
  const int64_t next = Next(0);
  if (next >= 0) {
    Turn(static_cast<uint32_t>(next));
  } else {
    AbortDeadlocked();
  }
}

void Scheduler::Wait(uint32_t core, std::string what) {
  std::unique_lock<std::mutex> lock(mutex_);
  states_[core] = State::kWaiting;
  waits_for_[core] = std::move(what);
  Pass();
  Sleep(core, lock);
}

void Scheduler::GiveWay(uint32_t core, std::string what) {
  std::unique_lock<std::mutex> lock(mutex_);
  states_[core] = State::kPolling;
  waits_for_[core] = std::move(what);
  const auto at = std::find(order_.begin(), order_.end(), core) - order_.begin();
  const int64_t next = Next(static_cast<size_t>(at) + 1);
  if (next == core) {
    states_[core] = State::kReady;
    return;
  }
  if (next >= 0) {
    Turn(static_cast<uint32_t>(next));
  } else {
    AbortDeadlocked();
  }
  Sleep(core, lock);
}

bool Scheduler::WaitsFor(uint32_t core, const std::string& what) const {
  return states_[core] == State::kWaiting && waits_for_[core] == what;
}

void Scheduler::RunCore(uint32_t core, const std::function<void(uint32_t core)>& body) {
  std::unique_lock<std::mutex> lock(mutex_);
  turned_[core].wait(lock, [&] { return aborted_ || turn_ == core; });
  if (aborted_) return;
  lock.unlock();
  std::exception_ptr error;
  try {
    body(core);
  } catch (const Aborted&) {
    return;
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  states_[core] = State::kDone;
  if (error != nullptr) {
    Abort(error);
  } else {
    Pass();
  }
}

void Scheduler::Run(const std::function<void(uint32_t core)>& body) {
  std::vector<std::thread> threads;
  for (uint32_t core = 0; core < states_.size(); ++core) {
    threads.emplace_back([this, core, &body] { RunCore(core, body); });
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    Pass();
  }
  for (std::thread& thread : threads) thread.join();
  if (error_ != nullptr) std::rethrow_exception(error_);
}

}  // namespace emulator
