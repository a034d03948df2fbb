// The cores of a launch on threads, one at a time: each runs until it waits for others or ends.
#ifndef MOGE_EMULATOR_SCHEDULER_H_
#define MOGE_EMULATOR_SCHEDULER_H_

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace emulator {

class Machine;

class Scheduler {
 public:
  // `seed` other than 0: cores take turns in a shuffled order
  Scheduler(const Machine& machine, size_t cores, uint64_t seed);

  // Runs `body` for each core on a thread of its own; throws the first error.
  void Run(const std::function<void(uint32_t core)>& body);

  // Called by the running core. It gives way until somebody has made it ready; `what` is what the
  // message says if nobody ever does.
  void Wait(uint32_t core, std::string what);
  // Called by a running core that reads memory again which nobody has changed: others run first, if
  // any can. It returns once another core has changed memory, or when all the others wait, too:
  // then the core may do something else. If none ever does, that is a deadlock.
  void GiveWay(uint32_t core, std::string what);
  // Whether another core than this one is ready, or polls memory that has changed.
  bool OthersCanRun(uint32_t core) const;
  bool WaitsFor(uint32_t core, const std::string& what) const;
  void MakeReady(uint32_t core) { states_[core] = State::kReady; }

 private:
  enum class State { kReady, kPolling, kWaiting, kDone };

  void RunCore(uint32_t core, const std::function<void(uint32_t core)>& body);
  // The running core has stopped: the next one in order runs.
  void Pass();
  bool CanRun(uint32_t core) const;
  // The core that runs next, from a place in the order on; -1: none can.
  int64_t Next(size_t from) const;
  void Turn(uint32_t core);
  void Sleep(uint32_t core, std::unique_lock<std::mutex>& lock);
  void AbortDeadlocked();
  void Abort(std::exception_ptr cause);

  const Machine& machine_;
  std::mutex mutex_;
  std::deque<std::condition_variable> turned_;  // one a core: a turn wakes one thread
  std::vector<uint32_t> order_;
  std::vector<State> states_;
  std::vector<std::string> waits_for_;
  int64_t turn_ = -1;  // core that runs; -1: none
  bool aborted_ = false;
  std::exception_ptr error_;
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_SCHEDULER_H_
