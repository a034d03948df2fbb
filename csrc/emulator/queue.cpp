// TPipe, queues, buffers, flags, barriers.
#include <algorithm>

#include "core.h"

namespace emulator {

namespace {

uint64_t RoundUp(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// the pipe that writes a position, and the one that reads it
pipe_t Producer(TPosition position) {
  switch (position) {
    case TPosition::VECOUT:
    case TPosition::VECCALC:
      return PIPE_V;
    case TPosition::A2:
    case TPosition::B2:
    case TPosition::C2:
      return PIPE_MTE1;
    case TPosition::CO1:
      return PIPE_M;
    case TPosition::CO2:
      return PIPE_FIX;
    default:
      return PIPE_MTE2;
  }
}

pipe_t Consumer(TPosition position) {
  switch (position) {
    case TPosition::VECOUT:
    case TPosition::CO2:
      return PIPE_MTE3;
    case TPosition::A1:
    case TPosition::B1:
    case TPosition::C1:
      return PIPE_MTE1;
    case TPosition::A2:
    case TPosition::B2:
    case TPosition::C2:
      return PIPE_M;
    case TPosition::CO1:
      return PIPE_FIX;
    default:
      return PIPE_V;
  }
}

}  // namespace

// --- TPipe
// ----------------------------------------------------------------------------------------

void PipeConstruct(void* pipe) {
  Core& core = CurrentCore();
  core.op = Op::kTPipe;
  if (core.tpipe != nullptr) Fail(Rule::kPipeSingle, "another TPipe is alive");
  if (core.used_static) Fail(Rule::kStyleMixed, "a TPipe in a kernel with tensors by address");
  core.ClearPipe();
  core.tpipe = pipe;
  core.used_tpipe = true;
}

void PipeDestruct(void* pipe) {
  Core& core = CurrentCore();
  if (core.tpipe == pipe) core.tpipe = nullptr;
}

void* CurrentPipe() { return CurrentCore().tpipe; }

void PipeReset() {
  Core& core = CurrentCore();
  core.op = Op::kTPipe;
  core.ClearPipe();
}

void Core::CheckLeaks() const {
  for (const Buffer& buffer : buffers) {
    if (buffer.state == BufferState::kAllocated || buffer.state == BufferState::kDequeued) {
      Fail(Rule::kQueueLeak, "the tensor at UB %u was allocated and never freed", buffer.begin);
    }
    if (buffer.state == BufferState::kEnqueued) {
      Fail(Rule::kQueueLeak, "the tensor at UB %u was enqueued and never dequeued", buffer.begin);
    }
  }
}

void Core::ClearPipe() {
  CheckLeaks();
  for (Buffer& buffer : buffers) {
    ++buffer.generation;
    buffer.queue = -1;
  }
  queues.clear();
  pipe_buffers = 0;
  ub_top = 0;
}

uint32_t Core::AddBuffer(TPosition position, uint32_t bytes) {
  if (IsCube()) Fail(Rule::kStyleCube, "TPipe on a cube core: use LocalTensor by address");
  CheckPosition(position);
  if (++pipe_buffers > 64) Fail(Rule::kPipeBuffers, "%u buffers", pipe_buffers);
  Buffer buffer;
  buffer.position = position;
  buffer.begin = ub_top;
  const uint64_t end = buffer.begin + RoundUp(bytes, kBlockBytes);
  TakeUb(end);
  buffer.end = static_cast<uint32_t>(end);
  buffers.push_back(buffer);
  return static_cast<uint32_t>(buffers.size() - 1);
}

int32_t InitQueue(TPosition source, TPosition destination, int32_t depth, uint8_t number,
                  uint32_t bytes) {
  Core& core = CurrentCore();
  core.op = Op::kInitBuffer;
  core.CheckFields();
  Queue queue;
  queue.source = source;
  queue.destination = destination;
  queue.depth = std::max(depth, 1);
  const auto id = static_cast<int32_t>(core.queues.size());
  for (int i = 0; i < number; ++i) {
    const uint32_t buffer = core.AddBuffer(source, bytes);
    core.buffers[buffer].queue = id;
    queue.idle.push_back(buffer);
  }
  core.queues.push_back(std::move(queue));
  return id;
}

uint32_t InitBuf(TPosition position, uint32_t bytes) {
  Core& core = CurrentCore();
  core.op = Op::kInitBuffer;
  const uint32_t buffer = core.AddBuffer(position, bytes);
  core.buffers[buffer].state = BufferState::kPermanent;
  return buffer;
}

LocalRef BufGet(uint32_t id, uint64_t bytes, bool whole) {
  Core& core = CurrentCore();
  core.op = Op::kGet;
  if (id == 0)
    Fail(Rule::kQueueNotInitialised, "the buffer is empty: call TPipe::InitBuffer first");
  const Buffer& buffer = core.buffers[id];
  if (whole) bytes = buffer.end - buffer.begin;
  if (bytes > buffer.end - buffer.begin) {
    Fail(Rule::kBufLength, "%llu bytes of a buffer of %u", static_cast<unsigned long long>(bytes),
         buffer.end - buffer.begin);
  }
  return {buffer.position, buffer.begin, buffer.begin + static_cast<uint32_t>(bytes), id,
          buffer.generation};
}

// --- queues
// ---------------------------------------------------------------------------------------

Queue& Core::FindQueue(int32_t id) {
  if (id < 0 || static_cast<size_t>(id) >= queues.size()) {
    Fail(Rule::kQueueNotInitialised, "the queue has no buffers: call TPipe::InitBuffer first");
  }
  return queues[id];
}

Buffer& Core::FindBuffer(int32_t queue, const LocalRef& ref) {
  FindQueue(queue);
  if (ref.buffer == 0 || buffers[ref.buffer].queue != queue) {
    Fail(Rule::kQueueForeign, "the tensor at UB %u is not of this queue", ref.begin);
  }
  return buffers[ref.buffer];
}

LocalRef QueueAlloc(int32_t id) {
  Core& core = CurrentCore();
  core.op = Op::kAllocTensor;
  Queue& queue = core.FindQueue(id);
  if (queue.idle.empty()) Fail(Rule::kQueueNoIdleBuffer, "every buffer of the queue is in use");
  int& outstanding = core.outstanding[queue.source];
  if (++outstanding > 8) {
    Fail(Rule::kQueueOutstanding, "%d tensors are allocated at one position", outstanding);
  }
  const uint32_t number = queue.idle.front();
  queue.idle.pop_front();
  Buffer& buffer = core.buffers[number];
  buffer.state = BufferState::kAllocated;
  if (buffer.used) {
    core.Join(Producer(queue.source), buffer.free);
    if (core.trace) core.trace->Wait(Producer(queue.source), buffer.free_flag);
    core.CountWait(Consumer(queue.destination), Producer(queue.source));
  }
  buffer.used = true;
  if (core.machine.options.checks) {
    LocalMemory& local = core.Local(MemoryOf(buffer.position));
    std::memset(local.state.data() + buffer.begin, static_cast<int>(ByteState::kUninitialised),
                buffer.end - buffer.begin);
  }
  return {buffer.position, buffer.begin, buffer.end, number, buffer.generation};
}

void QueuePush(int32_t id, const LocalRef& ref) {
  Core& core = CurrentCore();
  core.op = Op::kEnQue;
  Buffer& buffer = core.FindBuffer(id, ref);
  Queue& queue = core.queues[id];
  if (buffer.generation != ref.generation) {
    Fail(Rule::kQueueUseAfterFree, "the tensor at UB %u was freed", ref.begin);
  }
  if (buffer.state == BufferState::kEnqueued) {
    Fail(Rule::kQueueState, "the tensor at UB %u is in the queue already", ref.begin);
  }
  if (static_cast<int32_t>(queue.enqueued.size()) >= queue.depth) {
    Fail(Rule::kQueueDepth, "%zu tensors wait in a queue of depth %d", queue.enqueued.size(),
         queue.depth);
  }
  buffer.state = BufferState::kEnqueued;
  buffer.ready = core.Snapshot(Producer(queue.source));
  if (core.trace) buffer.ready_flag = core.trace->Set(Producer(queue.source));
  queue.enqueued.push_back(ref.buffer);
}

LocalRef QueuePop(int32_t id) {
  Core& core = CurrentCore();
  core.op = Op::kDeQue;
  Queue& queue = core.FindQueue(id);
  if (queue.enqueued.empty()) Fail(Rule::kQueueEmpty, "no tensor was enqueued");
  const uint32_t number = queue.enqueued.front();
  queue.enqueued.pop_front();
  Buffer& buffer = core.buffers[number];
  buffer.state = BufferState::kDequeued;
  core.Join(Consumer(queue.destination), buffer.ready);
  if (core.trace) core.trace->Wait(Consumer(queue.destination), buffer.ready_flag);
  core.CountWait(Producer(queue.source), Consumer(queue.destination));
  return {buffer.position, buffer.begin, buffer.end, number, buffer.generation};
}

void QueueFree(int32_t id, const LocalRef& ref) {
  Core& core = CurrentCore();
  core.op = Op::kFreeTensor;
  Buffer& buffer = core.FindBuffer(id, ref);
  Queue& queue = core.queues[id];
  if (buffer.generation != ref.generation) {
    Fail(Rule::kQueueDoubleFree, "the tensor at UB %u was freed before", ref.begin);
  }
  if (buffer.state == BufferState::kEnqueued) {
    Fail(Rule::kQueueState, "the tensor at UB %u is still in the queue", ref.begin);
  }
  buffer.state = BufferState::kIdle;
  ++buffer.generation;
  buffer.free = core.Snapshot(Consumer(queue.destination));
  if (core.trace) buffer.free_flag = core.trace->Set(Consumer(queue.destination));
  --core.outstanding[queue.source];
  queue.idle.push_back(ref.buffer);
}

QueueCounts CountQueue(int32_t id) {
  const Queue& queue = CurrentCore().FindQueue(id);
  return {static_cast<int32_t>(queue.idle.size()), static_cast<int32_t>(queue.enqueued.size()),
          queue.depth};
}

// --- flags
// ----------------------------------------------------------------------------------------

Flag& Core::FindFlag(HardEvent event, int32_t id) {
  if (id < 0 || id >= kEventIds) Fail(Rule::kFlagIdRange, "event id %d, of 0 to 7", id);
  if (used_static && id >= 6) {
    Fail(Rule::kFlagIdRange, "event id %d: static style has 0 to 5, 6 and 7 are reserved", id);
  }
  const int number = static_cast<int>(event);
  if (used_tpipe && (event_known[number] >> id & 1) == 0) {
    Fail(Rule::kFlagNotAllocated, "id %d of %s came from neither AllocEventID nor FetchEventID", id,
         EventName(event));
  }
  return flags[number][id];
}

void SetHardFlag(HardEvent event, int32_t id) {
  Core& core = CurrentCore();
  core.Begin(Op::kSetFlag, EventSource(event));
  Flag& flag = core.FindFlag(event, id);
  if (flag.pending) {
    Fail(Rule::kFlagTwice, "%s %d is set and nobody has waited for it", EventName(event), id);
  }
  flag.pending = true;
  flag.clock = core.Snapshot(EventSource(event));
  if (core.trace) flag.traced = core.trace->Set(EventSource(event));
}

void WaitHardFlag(HardEvent event, int32_t id) {
  Core& core = CurrentCore();
  core.Begin(Op::kWaitFlag, EventDestination(event));
  Flag& flag = core.FindFlag(event, id);
  if (!flag.pending) Fail(Rule::kFlagNeverSet, "%s %d is not set", EventName(event), id);
  flag.pending = false;
  core.Join(EventDestination(event), flag.clock);
  if (core.trace) core.trace->Wait(EventDestination(event), flag.traced);
  ++core.waits[static_cast<int>(event)];
}

int32_t Core::FreeEvent(HardEvent event) {
  const uint8_t taken = event_ids[static_cast<int>(event)];
  for (int32_t id = 0; id < kEventIds; ++id) {
    if ((taken >> id & 1) == 0) {
      event_known[static_cast<int>(event)] |= static_cast<uint8_t>(1 << id);
      return id;
    }
  }
  Fail(Rule::kFlagIdsExhausted, "all %d ids of %s are taken", kEventIds, EventName(event));
}

int32_t AllocEvent(HardEvent event) {
  Core& core = CurrentCore();
  core.op = Op::kAllocEventID;
  const int32_t id = core.FreeEvent(event);
  core.event_ids[static_cast<int>(event)] |= static_cast<uint8_t>(1 << id);
  return id;
}

void ReleaseEvent(HardEvent event, int32_t id) {
  Core& core = CurrentCore();
  core.op = Op::kReleaseEventID;
  core.FindFlag(event, id);
  core.event_ids[static_cast<int>(event)] &= static_cast<uint8_t>(~(1 << id));
}

int32_t FetchEvent(HardEvent event) {
  Core& core = CurrentCore();
  core.op = Op::kFetchEventID;
  return core.FreeEvent(event);
}

// --- barriers
// -------------------------------------------------------------------------------------

void Barrier(pipe_t pipe) {
  Core& core = CurrentCore();
  core.op = Op::kPipeBarrier;
  if (pipe == PIPE_S) Fail(Rule::kBarrierScalar, "PipeBarrier<PIPE_S>");
  if (pipe != PIPE_ALL && !core.Has(pipe)) {
    Fail(Rule::kCorePipe, "a barrier on pipe %s, which the core does not have", PipeName(pipe));
  }
  ++core.barriers[pipe];
  if (pipe == PIPE_ALL) {
    core.JoinAll();
    core.final_barrier = true;
    if (core.trace) core.trace->Finish(PIPE_ALL, Op::kPipeBarrier);
  } else {
    core.PassBarrier(pipe);
    if (core.trace) core.trace->Settle(pipe);
  }
}

void ScalarBarrier() {
  Core& core = CurrentCore();
  core.Begin(Op::kDataSyncBarrier, PIPE_S);
  ++core.barriers[PIPE_S];
}

void SyncAllHard(bool vector_only) {
  Core& core = CurrentCore();
  core.Begin(Op::kSyncAll, PIPE_S);
  const KernelType kernel = core.machine.options.kernel;
  if (kernel == KernelType::kVector || kernel == KernelType::kCube) {
    Fail(Rule::kSyncAllKernel, "declare the kernel __mix__, or use the form with workspace");
  }
  if (vector_only && core.IsCube()) {
    Fail(Rule::kSyncAllKernel, "a cube core takes part in SyncAll<false>() only");
  }
  core.SyncAll(vector_only);
}

void SyncAllSoft(const GlobalRef& workspace, const LocalRef& local, int32_t used_cores) {
  Core& core = CurrentCore();
  core.Begin(Op::kSyncAll, PIPE_S);
  const uint32_t blocks = core.machine.options.blocks;
  if (used_cores != 0 && static_cast<uint32_t>(used_cores) != blocks) {
    Fail(Rule::kSyncAllBlocks, "usedCores=%d of %u blocks: the emulator waits for all", used_cores,
         blocks);
  }
  const uint64_t bytes = uint64_t{blocks} * kBlockBytes;
  if (workspace.allocation < 0 || workspace.bytes < bytes || local.end - local.begin < bytes) {
    Fail(Rule::kSyncAllWorkspace, "%u blocks need %llu bytes in GM and in UB, got %llu and %u",
         blocks, static_cast<unsigned long long>(bytes),
         static_cast<unsigned long long>(workspace.bytes), local.end - local.begin);
  }
  const GlobalMemory& memory = core.machine.globals[workspace.allocation];
  const bool zeroed =
      core.IsBulk(workspace) || std::all_of(workspace.address, workspace.address + bytes,
                                            [](uint8_t byte) { return byte == 0; });
  if (memory.allocation().access == Access::kOut || !zeroed) {
    Fail(Rule::kSyncAllWorkspace, "the workspace '%s' is not zeroed",
         memory.allocation().name.c_str());
  }
  core.Check(local, 0, bytes, kBlockBytes);
  core.SyncAll(true);
}

// --- flags between cores
// --------------------------------------------------------------------------

namespace {

// ids that SyncAll takes for itself
constexpr uint16_t kSyncAllIds = 0xf << 11;

[[noreturn]] void FailSyncAllIds() {
  Fail(Rule::kCrossId, "flag ids 11 to 14 are SyncAll's, which the kernel calls, too");
}

void CheckCross(Core& core, uint16_t id) {
  if (id >= kCrossIds) Fail(Rule::kCrossId, "flag id %u, of 0 to 15", id);
  core.cross_used |= static_cast<uint16_t>(1 << id);
  if (core.machine.sync_all && (core.cross_used & kSyncAllIds) != 0) FailSyncAllIds();
}

}  // namespace

void Core::SyncAll(bool vector_only) {
  const Options& options = machine.options;
  const uint32_t vector_cores = options.blocks * (options.kernel == KernelType::kMix ? 2 : 1);
  if (!IsCube() && vector_cores > options.cores) {
    Fail(Rule::kSyncAllBlocks, "%u blocks on %u cores: the last would never start", vector_cores,
         options.cores);
  }
  if (IsCube() && options.blocks > options.cube_cores) {
    Fail(Rule::kSyncAllBlocks, "%u blocks on %u cores: the last would never start", options.blocks,
         options.cube_cores);
  }
  if ((cross_used & kSyncAllIds) != 0) FailSyncAllIds();
  ++sync_alls;
  // every core sets its flag when what it writes with is done, and every pipe waits
  machine.WaitForAll(*this, vector_only, Tell(IsCube() ? PIPE_FIX : PIPE_MTE3));
}

void SetCrossCoreFlag(uint8_t mode, pipe_t pipe, uint16_t id) {
  Core& core = CurrentCore();
  core.op = Op::kCrossCoreSetFlag;
  if (mode > 2 || pipe == PIPE_S || pipe == PIPE_ALL) {
    Fail(Rule::kCrossMode, "mode %u on pipe %s", mode, PipeName(pipe));
  }
  core.Begin(Op::kCrossCoreSetFlag, pipe);
  const KernelType kernel = core.machine.options.kernel;
  const bool mix = kernel == KernelType::kMix;
  const bool one_kind = kernel == KernelType::kMixVector || kernel == KernelType::kMixCube;
  if (!mix && !(one_kind && mode == 0)) {
    Fail(Rule::kCrossKernel, "mode %u: declare the kernel %s", mode,
         mode == 0 ? "__mix__" : "__mix__(1, 2)");
  }
  if (mode == 1 && core.IsCube()) Fail(Rule::kCrossMode, "mode 1 is between vector cores");
  CheckCross(core, id);
  ++core.cross[0];
  const uint32_t number = core.machine.messages++;
  if (core.trace) core.trace->CrossSet(pipe, number);
  core.machine.SetCrossFlag(core, mode, id, {core.Tell(pipe), number});
}

void WaitCrossCoreFlag(uint16_t id) {
  Core& core = CurrentCore();
  core.Begin(Op::kCrossCoreWaitFlag, PIPE_S);
  const KernelType kernel = core.machine.options.kernel;
  if (kernel == KernelType::kVector || kernel == KernelType::kCube) {
    Fail(Rule::kCrossKernel, "declare the kernel __mix__");
  }
  CheckCross(core, id);
  ++core.cross[1];
  core.machine.WaitCrossFlag(core, id);
}

}  // namespace emulator
