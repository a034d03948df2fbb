#include "stream.h"

#include <map>
#include <utility>

#include "memory.h"
#include "settings.h"
#include "status.h"

namespace npu_host {

namespace {

constexpr auto kLongestRest = std::chrono::microseconds(3000);

struct Streams {
  std::mutex mutex;
  std::map<void*, std::shared_ptr<Stream>> all;  // by handle
  std::map<int, std::shared_ptr<Stream>> of_cards;
  int created = 0;
};

Streams& TheStreams() {
  static Streams& streams = *new Streams;  // its threads may outlive static objects
  return streams;
}

void Await(Mark& mark) {
  std::unique_lock<std::mutex> lock(mark.mutex);
  mark.changed.wait(lock, [&] { return mark.reached; });
}

}  // namespace

std::shared_ptr<Stream> Stream::Create(int card) {
  Streams& streams = TheStreams();
  const std::lock_guard<std::mutex> lock(streams.mutex);
  const auto stream = std::make_shared<Stream>(card, streams.created++);
  streams.all[stream.get()] = stream;
  return stream;
}

std::shared_ptr<Stream> Stream::Find(void* handle) {
  Streams& streams = TheStreams();
  const int card = CurrentCard();
  if (handle == nullptr && card < 0) return nullptr;
  {
    const std::lock_guard<std::mutex> lock(streams.mutex);
    if (handle != nullptr) {
      const auto found = streams.all.find(handle);
      return found == streams.all.end() ? nullptr : found->second;
    }
    const auto own = streams.of_cards.find(card);
    if (own != streams.of_cards.end()) return own->second;
  }
  const std::shared_ptr<Stream> stream = Create(card);
  const std::lock_guard<std::mutex> lock(streams.mutex);
  return streams.of_cards.emplace(card, stream).first->second;
}

std::vector<std::shared_ptr<Stream>> Stream::On(int card) {
  Streams& streams = TheStreams();
  const std::lock_guard<std::mutex> lock(streams.mutex);
  std::vector<std::shared_ptr<Stream>> found;
  for (const auto& [handle, stream] : streams.all) {
    if (stream->card_ == card) found.push_back(stream);
  }
  return found;
}

bool Stream::Destroy(void* handle, bool drops) {
  std::shared_ptr<Stream> stream;
  {
    Streams& streams = TheStreams();
    const std::lock_guard<std::mutex> lock(streams.mutex);
    const auto found = streams.all.find(handle);
    if (found == streams.all.end()) return false;
    stream = std::move(found->second);
    streams.all.erase(found);
  }
  {
    const std::lock_guard<std::mutex> lock(stream->mutex_);
    if (drops && stream->error_.empty()) stream->error_ = "the stream was destroyed";
    stream->ends_ = true;
    stream->changed_.notify_all();
  }
  stream->thread_.join();
  return true;
}

Stream::Stream(int card, int id)
    : card_(card), id_(id), random_(TheSettings().seed * 1009 + id), thread_([this] { Run(); }) {}

void Stream::Push(Task task) {
  const std::lock_guard<std::mutex> lock(mutex_);
  tasks_.push_back(std::move(task));
  ++pushed_;
  changed_.notify_all();
}

void Stream::Run() {
  const bool rests = TheSettings().seed != 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ends_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    const bool runs = error_.empty() || task.always;
    lock.unlock();
    std::string error;
    if (runs) {
      if (rests && random_() % 2 == 0) {
        std::this_thread::sleep_for(kLongestRest * (random_() % 100) / 100);
      }
      error = task.run();
    }
    // What it holds is released before it counts as done; and without the lock, because whoever
    // releases it may use this stream.
    task = {};
    lock.lock();
    if (error_.empty()) error_ = std::move(error);
    ++done_;
    changed_.notify_all();
  }
}

bool Stream::Idle() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return done_ == pushed_;
}

std::string Stream::Error() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return error_;
}

bool Stream::Wait(int milliseconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto passed = [this, until = pushed_] { return done_ >= until; };
  if (milliseconds >= 0) {
    return changed_.wait_for(lock, std::chrono::milliseconds(milliseconds), passed);
  }
  changed_.wait(lock, passed);
  return true;
}

int Put(Stream& stream, const std::string& task, const std::vector<Piece>& pieces,
        const std::function<std::string()>& act) {
  const auto check = [task, pieces] {
    for (const Piece& piece : pieces) {
      const std::string error = Memory::Get().Check(piece.data, piece.bytes, piece.card);
      if (!error.empty()) return task + ": " + piece.name + " " + error;
    }
    return std::string();
  };
  const std::string error = check();
  if (!error.empty()) return Fail(kInvalidParameter, error);
  stream.Push({[check, act] {
    std::string late = check();  // freed in the meantime
    return late.empty() ? act() : late;
  }});
  return kSuccess;
}

std::shared_ptr<Mark> Event::Last() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_;
}

void Event::Record(Stream& stream) {
  auto mark = std::make_shared<Mark>();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    last_ = mark;
  }
  // always: whoever waits for a stream that has failed shall not wait forever
  stream.Push({[mark, &stream] {
                 std::string error = stream.Error();
                 const std::lock_guard<std::mutex> lock(mark->mutex);
                 mark->reached = true;
                 mark->error = std::move(error);
                 mark->time = std::chrono::steady_clock::now();
                 mark->changed.notify_all();
                 return std::string();
               },
               true});
}

void Event::HoldUp(Stream& stream) {
  const std::shared_ptr<Mark> mark = Last();
  if (mark == nullptr) return;
  stream.Push({[mark] {
    Await(*mark);
    return std::string();
  }});
}

std::string Event::Wait() {
  const std::shared_ptr<Mark> mark = Last();
  if (mark == nullptr) return "";
  Await(*mark);
  return mark->error;
}

bool Event::Reached() {
  const std::shared_ptr<Mark> mark = Last();
  if (mark == nullptr) return true;
  const std::lock_guard<std::mutex> lock(mark->mutex);
  return mark->reached;
}

double Event::Until(Event& later) {
  if (Last() == nullptr || later.Last() == nullptr || !Reached() || !later.Reached()) return -1.0;
  return std::chrono::duration<double, std::milli>(later.Last()->time - Last()->time).count();
}

}  // namespace npu_host
