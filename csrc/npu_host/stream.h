// Streams, each with a thread of its own that runs its tasks in order, and events.
//
// Only what the program asks for orders two streams: a missing wait lets one read what another has
// not yet written. With a seed such a fault is likely to show, as streams rest before their tasks.
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
  // A new one, until `Destroy`.
  static std::shared_ptr<Stream> Create(int card);
  // That of a handle, which is its address; null: the one that every card has. Null if there is
  // none.
  static std::shared_ptr<Stream> Find(void* handle);
  static std::vector<std::shared_ptr<Stream>> On(int card);
  // Waits until its tasks are done; with `drops`, tasks that have not begun are skipped. False
  // where there is no such stream.
  static bool Destroy(void* handle, bool drops);

  Stream(int card, int id);
  int card() const { return card_; }
  int id() const { return id_; }

  void Push(Task task);
  bool Idle();
  // The error of a task that failed, which stays: the later ones are not run. Empty: none.
  std::string Error();
  // False if the tasks so far did not end within the time; no limit where that is negative.
  bool Wait(int milliseconds);

 private:
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

// Memory that a task uses.
struct Piece {
  std::string name;
  const void* data;
  uint64_t bytes;
  int card;
};

// Puts a task into a stream whose pieces of memory each lie in one live allocation, now and when
// the task runs. Returns a code; the message is `task: name` and what is wrong.
int Put(Stream& stream, const std::string& task, const std::vector<Piece>& pieces,
        const std::function<std::string()>& act);

// A place in a stream; a new one for each recording, so that a wait is for the recording it saw.
struct Mark {
  std::mutex mutex;
  std::condition_variable changed;
  bool reached = false;
  std::string error;  // of the stream, when it came here
  std::chrono::steady_clock::time_point time;
};

class Event {
 public:
  void Record(Stream& stream);
  // Tasks that come into `stream` later wait for the last recording.
  void HoldUp(Stream& stream);
  // Waits for the last recording, and returns the error of its stream.
  std::string Wait();
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
