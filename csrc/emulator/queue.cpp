// Queues: tensors go from the pipe that fills them to the one that empties them, and back.
#include <algorithm>

#include "core.h"

namespace emulator {

namespace {

// Where the tensors of a queue lie, and who fills and empties them.
struct Way {
  TPosition source, destination, position;
  Route route;
};
constexpr Way kQueueWays[] = {
    {TPosition::GM, TPosition::VECIN, TPosition::VECIN, {PIPE_MTE2, PIPE_V}},
    {TPosition::GM, TPosition::VECOUT, TPosition::VECOUT, {PIPE_MTE2, PIPE_V}},
    {TPosition::VECIN, TPosition::GM, TPosition::VECIN, {PIPE_V, PIPE_MTE3}},
    {TPosition::VECOUT, TPosition::GM, TPosition::VECOUT, {PIPE_V, PIPE_MTE3}},
    {TPosition::VECIN, TPosition::VECOUT, TPosition::VECIN, {PIPE_MTE2, PIPE_MTE3}},
    {TPosition::VECCALC, TPosition::VECCALC, TPosition::VECCALC, {PIPE_V, PIPE_V}},
    {TPosition::GM, TPosition::A1, TPosition::A1, {PIPE_MTE2, PIPE_MTE1}},
    {TPosition::GM, TPosition::B1, TPosition::B1, {PIPE_MTE2, PIPE_MTE1}},
    {TPosition::GM, TPosition::C1, TPosition::C1, {PIPE_MTE2, PIPE_MTE1}},
    {TPosition::A1, TPosition::A2, TPosition::A2, {PIPE_MTE1, PIPE_M}},
    {TPosition::B1, TPosition::B2, TPosition::B2, {PIPE_MTE1, PIPE_M}},
    {TPosition::C1, TPosition::C2, TPosition::C2, {PIPE_MTE1, PIPE_M}},
    {TPosition::CO1, TPosition::CO2, TPosition::CO1, {PIPE_M, PIPE_FIX}},
    {TPosition::CO1, TPosition::GM, TPosition::CO1, {PIPE_M, PIPE_FIX}},
};

const Way& FindWay(TPosition source, TPosition destination) {
  for (const Way& way : kQueueWays) {
    if (way.source == source && way.destination == destination) return way;
  }
  Fail(Rule::kQueueRoute, "no queue goes from position %d to position %d", static_cast<int>(source),
       static_cast<int>(destination));
}

Queue& FindQueue(Core& core, int32_t id) {
  const std::vector<Queue>& queues = core.buffers.queues;
  if (id < 0 || static_cast<size_t>(id) >= queues.size() || !queues[id].alive) {
    Fail(Rule::kQueueNotInitialised, "the queue has no buffers: call TPipe::InitBuffer first");
  }
  return core.buffers.queues[id];
}

Buffer& FindBuffer(Core& core, int32_t queue, const LocalRef& ref) {
  FindQueue(core, queue);
  if (ref.buffer == 0 || core.buffers.all[ref.buffer].queue != queue) {
    Fail(Rule::kQueueForeign, "the tensor at %s %u is not of this queue",
         Name(MemoryOf(ref.position)), ref.begin);
  }
  return core.buffers.all[ref.buffer];
}

const char* MemoryName(const Queue& queue) { return Name(MemoryOf(queue.position)); }

LocalRef Whole(const Buffer& buffer, uint32_t number) {
  return {buffer.position, buffer.begin, buffer.end, number, buffer.generation};
}

void Push(int32_t id, const LocalRef& ref, const Route* between) {
  Core& core = Enter(Op::kEnQue);
  Buffer& buffer = FindBuffer(core, id, ref);
  Queue& queue = core.buffers.queues[id];
  const Route& route = between != nullptr ? *between : queue.route;
  if (buffer.generation != ref.generation) {
    Report(Rule::kQueueUseAfterFree, "the tensor at %s %u was freed", MemoryName(queue), ref.begin);
  }
  if (buffer.state == BufferState::kEnqueued) {
    Report(Rule::kQueueState, "the tensor at %s %u is in the queue already", MemoryName(queue),
           ref.begin);
  }
  if (queue.depth != 0 && static_cast<int32_t>(queue.enqueued.size()) >= queue.depth) {
    Report(Rule::kQueueDepth, "%zu tensors wait in a queue of depth %d", queue.enqueued.size(),
           queue.depth);
  }
  buffer.state = BufferState::kEnqueued;
  buffer.ready = core.Set(route.producer);
  queue.enqueued.push_back(ref.buffer);
}

// `asked`: that very buffer, or 0 for the longest in the queue
LocalRef Pop(int32_t id, uint32_t asked, const Route* between) {
  Core& core = CurrentCore();
  Queue& queue = FindQueue(core, id);
  const Route& route = between != nullptr ? *between : queue.route;
  const auto found = asked == 0 ? queue.enqueued.begin()
                                : std::find(queue.enqueued.begin(), queue.enqueued.end(), asked);
  if (found == queue.enqueued.end())
    Fail(Rule::kQueueEmpty, "no tensor is in the queue: EnQue comes first");
  const uint32_t number = *found;
  queue.enqueued.erase(found);
  Buffer& buffer = core.buffers.all[number];
  buffer.state = BufferState::kDequeued;
  core.Wait(route.producer, route.consumer, buffer.ready);
  return Whole(buffer, number);
}

}  // namespace

Route RouteBetween(TPosition source, TPosition destination) {
  return FindWay(source, destination).route;
}

TPosition PositionBetween(TPosition source, TPosition destination) {
  return FindWay(source, destination).position;
}

void AddToQueue(Core& core, int32_t queue, uint32_t buffer) {
  core.buffers.all[buffer].queue = queue;
  core.buffers.queues[queue].buffers.push_back(buffer);
  core.buffers.queues[queue].idle.push_back(buffer);
}

LocalRef QueueAlloc(int32_t id) {
  Core& core = Enter(Op::kAllocTensor);
  Queue& queue = FindQueue(core, id);
  if (queue.idle.empty()) {
    Fail(Rule::kQueueNoIdleBuffer, "all of the %zu buffers of the queue are in use: add FreeTensor",
         queue.buffers.size());
  }
  int& outstanding = core.buffers.outstanding[queue.position];
  if (!limits::TQue::allocated.Allows(++outstanding)) {
    Report(Rule::kQueueOutstanding, "%d tensors are allocated at one position: add FreeTensor",
           outstanding);
  }
  const uint32_t number = queue.idle.front();
  queue.idle.pop_front();
  Buffer& buffer = core.buffers.all[number];
  UseBuffer(core, buffer);
  buffer.state = BufferState::kAllocated;
  if (buffer.free) core.Wait(queue.route.consumer, queue.route.producer, *buffer.free);
  core.Forget(MemoryOf(buffer.position), buffer.begin, buffer.end);
  return Whole(buffer, number);
}

void QueuePush(int32_t id, const LocalRef& ref) { Push(id, ref, nullptr); }

void QueuePush(int32_t id, const LocalRef& ref, TPosition source, TPosition destination) {
  Enter(Op::kEnQue);
  const Route route = RouteBetween(source, destination);
  Push(id, ref, &route);
}

LocalRef QueuePop(int32_t id) {
  Enter(Op::kDeQue);
  return Pop(id, 0, nullptr);
}

LocalRef QueuePop(int32_t id, const LocalRef& ref) {
  Enter(Op::kDeQue);
  if (ref.buffer == 0) Fail(Rule::kQueueEmpty, "the tensor was not enqueued");
  return Pop(id, ref.buffer, nullptr);
}

LocalRef QueuePop(int32_t id, TPosition source, TPosition destination) {
  Enter(Op::kDeQue);
  const Route route = RouteBetween(source, destination);
  return Pop(id, 0, &route);
}

void QueueFree(int32_t id, const LocalRef& ref) {
  Core& core = Enter(Op::kFreeTensor);
  Buffer& buffer = FindBuffer(core, id, ref);
  Queue& queue = core.buffers.queues[id];
  if (buffer.generation != ref.generation) {
    Fail(Rule::kQueueDoubleFree, "the tensor at %s %u was freed before", MemoryName(queue),
         ref.begin);
  }
  if (buffer.state == BufferState::kEnqueued) {
    Report(Rule::kQueueState, "the tensor at %s %u is still in the queue", MemoryName(queue),
           ref.begin);
  }
  buffer.state = BufferState::kIdle;
  ++buffer.generation;
  buffer.free = core.Set(queue.route.consumer);
  --core.buffers.outstanding[queue.position];
  queue.idle.push_back(ref.buffer);
}

void QueueFreeEvents(int32_t id) {
  Core& core = Enter(Op::kFreeAllEvent);
  const Queue& queue = FindQueue(core, id);
  for (const uint32_t number : queue.buffers) {
    Buffer& buffer = core.buffers.all[number];
    CheckLeak(buffer);
    if (!buffer.free) continue;
    core.Wait(queue.route.consumer, queue.route.producer, *buffer.free);
    buffer.free.reset();
  }
}

QueueCounts CountQueue(int32_t id) {
  const Queue& queue = FindQueue(CurrentCore(), id);
  return {static_cast<int32_t>(queue.idle.size()), static_cast<int32_t>(queue.enqueued.size())};
}

}  // namespace emulator
