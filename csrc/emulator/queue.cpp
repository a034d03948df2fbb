// TPipe: its buffers and queues.
#include <algorithm>

#include "core.h"

namespace emulator {

namespace {

void ClearPipe(Core& core) {
  CheckLeaks(core);
  for (Buffer& buffer : core.buffers.all) {
    ++buffer.generation;
    buffer.queue = -1;
  }
  core.buffers.queues.clear();
  core.buffers.initialised = 0;
  core.ub_top = 0;
}

// Adds a buffer after the last one and returns its number.
uint32_t AddBuffer(Core& core, TPosition position, uint32_t bytes) {
  if (core.IsCube()) Fail(Rule::kStyleCube, "TPipe on a cube core: use LocalTensor by address");
  core.CheckPosition(position);
  Buffers& buffers = core.buffers;
  if (++buffers.initialised > 64) Report(Rule::kPipeBuffers, "%u buffers", buffers.initialised);
  Buffer buffer;
  buffer.position = position;
  buffer.begin = core.ub_top;
  const uint64_t end =
      buffer.begin + (uint64_t{bytes} + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  core.Take(Memory::kUb, end);
  buffer.end = static_cast<uint32_t>(end);
  buffers.all.push_back(buffer);
  return static_cast<uint32_t>(buffers.all.size() - 1);
}

Queue& FindQueue(Core& core, int32_t id) {
  if (id < 0 || static_cast<size_t>(id) >= core.buffers.queues.size()) {
    Fail(Rule::kQueueNotInitialised, "the queue has no buffers: call TPipe::InitBuffer first");
  }
  return core.buffers.queues[id];
}

Buffer& FindBuffer(Core& core, int32_t queue, const LocalRef& ref) {
  FindQueue(core, queue);
  if (ref.buffer == 0 || core.buffers.all[ref.buffer].queue != queue) {
    Fail(Rule::kQueueForeign, "the tensor at UB %u is not of this queue", ref.begin);
  }
  return core.buffers.all[ref.buffer];
}

LocalRef Whole(const Buffer& buffer, uint32_t number) {
  return {buffer.position, buffer.begin, buffer.end, number, buffer.generation};
}

}  // namespace

void CheckLeaks(const Core& core) {
  for (const Buffer& buffer : core.buffers.all) {
    if (buffer.state == BufferState::kAllocated || buffer.state == BufferState::kDequeued) {
      Report(Rule::kQueueLeak, "the tensor at UB %u was allocated and never freed", buffer.begin);
    }
    if (buffer.state == BufferState::kEnqueued) {
      Report(Rule::kQueueLeak, "the tensor at UB %u was enqueued and never dequeued", buffer.begin);
    }
  }
}

void PipeConstruct(void* pipe) {
  Core& core = CurrentCore();
  core.op = Op::kTPipe;
  Style& style = core.style;
  if (style.tpipe != nullptr) Fail(Rule::kPipeSingle, "another TPipe is alive");
  if (style.used_static) Report(Rule::kStyleMixed, "a TPipe in a kernel with tensors by address");
  ClearPipe(core);
  style.tpipe = pipe;
  style.used_tpipe = true;
}

void PipeDestruct(void* pipe) {
  Style& style = CurrentCore().style;
  if (style.tpipe == pipe) style.tpipe = nullptr;
}

void* CurrentPipe() { return CurrentCore().style.tpipe; }

void PipeReset() {
  Core& core = CurrentCore();
  core.op = Op::kTPipe;
  ClearPipe(core);
}

int32_t InitQueue(TPosition source, TPosition destination, int32_t depth, uint8_t number,
                  uint32_t bytes) {
  Core& core = CurrentCore();
  core.op = Op::kInitBuffer;
  CheckFields(core);
  Queue queue;
  queue.source = source;
  queue.destination = destination;
  queue.depth = std::max(depth, 1);
  const auto id = static_cast<int32_t>(core.buffers.queues.size());
  for (int i = 0; i < number; ++i) {
    const uint32_t buffer = AddBuffer(core, source, bytes);
    core.buffers.all[buffer].queue = id;
    queue.idle.push_back(buffer);
  }
  core.buffers.queues.push_back(std::move(queue));
  return id;
}

uint32_t InitBuf(TPosition position, uint32_t bytes) {
  Core& core = CurrentCore();
  core.op = Op::kInitBuffer;
  const uint32_t buffer = AddBuffer(core, position, bytes);
  core.buffers.all[buffer].state = BufferState::kPermanent;
  return buffer;
}

LocalRef BufGet(uint32_t id, uint64_t bytes, bool whole) {
  Core& core = CurrentCore();
  core.op = Op::kGet;
  if (id == 0)
    Fail(Rule::kQueueNotInitialised, "the buffer is empty: call TPipe::InitBuffer first");
  const Buffer& buffer = core.buffers.all[id];
  if (whole) bytes = buffer.end - buffer.begin;
  if (bytes > buffer.end - buffer.begin) {
    Fail(Rule::kBufLength, "%llu bytes of a buffer of %u", Number(bytes),
         buffer.end - buffer.begin);
  }
  return {buffer.position, buffer.begin, buffer.begin + static_cast<uint32_t>(bytes), id,
          buffer.generation};
}

// --- queues ---------------------------------------------------------------------------------
LocalRef QueueAlloc(int32_t id) {
  Core& core = CurrentCore();
  core.op = Op::kAllocTensor;
  Queue& queue = FindQueue(core, id);
  if (queue.idle.empty()) Fail(Rule::kQueueNoIdleBuffer, "every buffer of the queue is in use");
  int& outstanding = core.buffers.outstanding[queue.source];
  if (++outstanding > 8) {
    Report(Rule::kQueueOutstanding, "%d tensors are allocated at one position", outstanding);
  }
  const uint32_t number = queue.idle.front();
  queue.idle.pop_front();
  Buffer& buffer = core.buffers.all[number];
  buffer.state = BufferState::kAllocated;
  if (buffer.free) core.Wait(Consumer(queue.destination), Producer(queue.source), *buffer.free);
  if (core.machine.options.checks) {
    LocalMemory& local = core.Local(MemoryOf(buffer.position));
    std::memset(local.state.data() + buffer.begin, static_cast<int>(ByteState::kUninitialised),
                buffer.end - buffer.begin);
  }
  return Whole(buffer, number);
}

void QueuePush(int32_t id, const LocalRef& ref) {
  Core& core = CurrentCore();
  core.op = Op::kEnQue;
  Buffer& buffer = FindBuffer(core, id, ref);
  Queue& queue = core.buffers.queues[id];
  if (buffer.generation != ref.generation) {
    Report(Rule::kQueueUseAfterFree, "the tensor at UB %u was freed", ref.begin);
  }
  if (buffer.state == BufferState::kEnqueued) {
    Report(Rule::kQueueState, "the tensor at UB %u is in the queue already", ref.begin);
  }
  if (static_cast<int32_t>(queue.enqueued.size()) >= queue.depth) {
    Report(Rule::kQueueDepth, "%zu tensors wait in a queue of depth %d", queue.enqueued.size(),
           queue.depth);
  }
  buffer.state = BufferState::kEnqueued;
  buffer.ready = core.Set(Producer(queue.source));
  queue.enqueued.push_back(ref.buffer);
}

LocalRef QueuePop(int32_t id) {
  Core& core = CurrentCore();
  core.op = Op::kDeQue;
  Queue& queue = FindQueue(core, id);
  if (queue.enqueued.empty()) Fail(Rule::kQueueEmpty, "no tensor was enqueued");
  const uint32_t number = queue.enqueued.front();
  queue.enqueued.pop_front();
  Buffer& buffer = core.buffers.all[number];
  buffer.state = BufferState::kDequeued;
  core.Wait(Producer(queue.source), Consumer(queue.destination), buffer.ready);
  return Whole(buffer, number);
}

void QueueFree(int32_t id, const LocalRef& ref) {
  Core& core = CurrentCore();
  core.op = Op::kFreeTensor;
  Buffer& buffer = FindBuffer(core, id, ref);
  Queue& queue = core.buffers.queues[id];
  if (buffer.generation != ref.generation) {
    Fail(Rule::kQueueDoubleFree, "the tensor at UB %u was freed before", ref.begin);
  }
  if (buffer.state == BufferState::kEnqueued) {
    Report(Rule::kQueueState, "the tensor at UB %u is still in the queue", ref.begin);
  }
  buffer.state = BufferState::kIdle;
  ++buffer.generation;
  buffer.free = core.Set(Consumer(queue.destination));
  --core.buffers.outstanding[queue.source];
  queue.idle.push_back(ref.buffer);
}

QueueCounts CountQueue(int32_t id) {
  const Queue& queue = FindQueue(CurrentCore(), id);
  return {static_cast<int32_t>(queue.idle.size()), static_cast<int32_t>(queue.enqueued.size()),
          queue.depth};
}

}  // namespace emulator
