#include "stream.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

namespace npu_host {

namespace {

constexpr auto kLongestRest = std::chrono::microseconds(3000);

unsigned Seed() {
  const char* text = std::getenv("MOGE_NPU_HOST_SEED");
  return text == nullptr ? 0 : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

struct Streams {
  std::mutex mutex;
  std::set<Stream*> all;
  std::map<int, Stream*> of_cards;
  int created = 0;
};

Streams& TheStreams() {
  static Streams& streams = *new Streams;  // its threads may outlive static objects
  return streams;
}

void Reach(Mark& mark) {
  const std::lock_guard<std::mutex> lock(mark.mutex);
  mark.reached = true;
  mark.time = std::chrono::steady_clock::now();
  mark.changed.notify_all();
}

void Await(Mark& mark) {
  std::unique_lock<std::mutex> lock(mark.mutex);
  mark.changed.wait(lock, [&] { return mark.reached; });
}

}  // namespace

Stream* Stream::Create(int card) {
  Streams& streams = TheStreams();
  const std::lock_guard<std::mutex> lock(streams.mutex);
  auto* stream = new Stream(card, streams.created++);
  streams.all.insert(stream);
  return stream;
}

Stream* Stream::Default(int card) {
  Streams& streams = TheStreams();
  {
    const std::lock_guard<std::mutex> lock(streams.mutex);
    const auto own = streams.of_cards.find(card);
    if (own != streams.of_cards.end()) return own->second;
  }
  Stream* stream = Create(card);
  const std::lock_guard<std::mutex> lock(streams.mutex);
  return streams.of_cards.emplace(card, stream).first->second;
}

std::vector<Stream*> Stream::On(int card) {
  Streams& streams = TheStreams();
  const std::lock_guard<std::mutex> lock(streams.mutex);
  std::vector<Stream*> found;
  for (Stream* stream : streams.all) {
    if (stream->card_ == card) found.push_back(stream);
  }
  return found;
}

void Stream::Destroy(Stream* stream, bool force) {
  {
    Streams& streams = TheStreams();
    const std::lock_guard<std::mutex> lock(streams.mutex);
    if (streams.all.erase(stream) == 0) return;
  }
  {
    const std::lock_guard<std::mutex> lock(stream->mutex_);
    if (force && stream->error_.empty()) stream->error_ = "the stream was destroyed";
    stream->ends_ = true;
    stream->changed_.notify_all();
  }
  stream->thread_.join();
  delete stream;
}

Stream::Stream(int card, int id)
    : card_(card), id_(id), random_(Seed() * 1009 + id), thread_([this] { Run(); }) {}

void Stream::Push(Task task) {
  const std::lock_guard<std::mutex> lock(mutex_);
  tasks_.push_back(std::move(task));
  ++pushed_;
  changed_.notify_all();
}

void Stream::Run() {
  const bool rests = Seed() != 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ends_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const Task task = std::move(tasks_.front());
    tasks_.pop_front();
    if (error_.empty() || task.always) {
      lock.unlock();
      if (rests && random_() % 2 == 0) {
        std::this_thread::sleep_for(kLongestRest * (random_() % 100) / 100);
      }
      std::string error = task.run();
      lock.lock();
      if (error_.empty()) error_ = std::move(error);
    }
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

std::shared_ptr<Mark> Event::Last() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_;
}

void Event::Record(Stream* stream) {
  auto mark = std::make_shared<Mark>();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    last_ = mark;
  }
  // always: whoever waits for a stream that has failed shall not wait forever
  stream->Push({[mark] {
                  Reach(*mark);
                  return std::string();
                },
                true});
}

void Event::Block(Stream* stream) {
  const std::shared_ptr<Mark> mark = Last();
  if (mark == nullptr) return;
  stream->Push({[mark] {
    Await(*mark);
    return std::string();
  }});
}

void Event::Wait() {
  if (const std::shared_ptr<Mark> mark = Last()) Await(*mark);
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
