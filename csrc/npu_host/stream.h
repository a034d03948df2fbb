// Streams, each with a thread of its own that runs its tasks in order, and events.
//
// Only what the program asks for orders two streams: a missing wait lets one read what another has
// not yet written. MOGE_NPU_HOST_SEED=n, n > 0, makes such a fault likely: before a task, a stream
// may rest for a time that n decides.
#ifndef MOGE_NPU_HOST_STREAM_H_
#define MOGE_NPU_HOST_STREAM_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace npu_host {

struct Task {
  std::function<std::string()> run;  // returns why it failed; empty: it did not
  bool always = false;               // also in a stream that has failed
};

class Stream {
 public:
  // A new one, or the card's own.
  static Stream* Create(int card);
  static Stream* Default(int card);
  // Those of a card that exist.
  static std::vector<Stream*> On(int card);
  // Waits for its tasks, unless `force`, which drops those that have not begun.
  static void Destroy(Stream* stream, bool force);

  int card() const { return card_; }
  int id() const { return id_; }

  void Push(Task task);
  bool Idle();
  // The error of a task that failed, which stays: the later ones are not run. Empty: none.
  std::string Error();
  // False if the tasks so far did not end within the time; no limit where that is negative.
  bool Wait(int milliseconds);

 private:
  Stream(int card, int id);
  void Run();

  const int card_, id_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  uint64_t pushed_ = 0, done_ = 0;
  bool ends_ = false;
  std::string error_;
  std::minstd_rand random_;
  std::thread thread_;
};

// A place in a stream; a new one for each recording, so that a wait is for the recording it saw.
struct Mark {
  std::mutex mutex;
  std::condition_variable changed;
  bool reached = false;
  std::chrono::steady_clock::time_point time;
};

class Event {
 public:
  void Record(Stream* stream);
  // Tasks that come into `stream` later wait for the last recording.
  void Block(Stream* stream);
  void Wait();
  bool Reached();
  // Milliseconds from this event to a later one; negative if either was not reached.
  double Until(Event& later);

 private:
  std::shared_ptr<Mark> Last();
  std::mutex mutex_;
  std::shared_ptr<Mark> last_;  // null: never recorded
};

}  // namespace npu_host

#endif  // MOGE_NPU_HOST_STREAM_H_
