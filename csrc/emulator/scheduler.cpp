#include "scheduler.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <thread>

#include "core.h"

namespace emulator {

namespace {

// unwinds a core when another one has failed
struct Aborted {};

}  // namespace

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

void Scheduler::Pass() {
  turn_ = -1;
  for (const uint32_t core : order_) {
    if (states_[core] != State::kReady) continue;
    turn_ = core;
    turned_[core].notify_all();
    return;
  }
  std::string waiting;
  size_t shown = 0;
  for (size_t core = 0; core < states_.size(); ++core) {
    if (states_[core] != State::kWaiting || ++shown > 4) continue;
    waiting +=
        (waiting.empty() ? "" : ", ") + machine_.cores[core]->Who() + " for " + waits_for_[core];
  }
  if (shown == 0) return;
  if (shown > 4) waiting += " and " + std::to_string(shown - 4) + " more";
  Abort(std::make_exception_ptr(
      Error(Rule::kDeadlock, "KernelEnd: rule deadlock: nobody runs and some wait: " + waiting +
                                 " (" + machine_.options.name + ")")));
}

void Scheduler::Wait(uint32_t core, std::string what) {
  std::unique_lock<std::mutex> lock(mutex_);
  states_[core] = State::kWaiting;
  waits_for_[core] = std::move(what);
  Pass();
  turned_[core].wait(lock, [&] { return aborted_ || turn_ == core; });
  if (aborted_) throw Aborted();
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
