// TPipe and TBufPool: the buffers that they hand out, and when these go back.
#include <algorithm>

#include "core.h"

namespace emulator {

namespace {

// Everything goes back to the memory that it came from.
void ClearPipe(Core& core) {
  CheckLeaks(core);
  Buffers& buffers = core.buffers;
  for (Buffer& buffer : buffers.all) {
    ++buffer.generation;
    buffer.alive = false;
    buffer.state = BufferState::kIdle;
  }
  for (Queue& queue : buffers.queues) queue.alive = false;
  buffers.pools.resize(1);
  buffers.initialised = 0;
  buffers.next.fill(0);
  buffers.outstanding.clear();
  core.flags.taken.fill(0);
  core.ub_top = 0;
}

Pool& FindPool(Core& core, uint32_t pool) {
  if (pool == 0 || pool >= core.buffers.pools.size()) {
    Fail(Rule::kPoolNotInitialised, "the pool has no memory: call InitBufPool first");
  }
  return core.buffers.pools[pool];
}

void CheckPipe(const Core& core) {
  if (core.style.tpipe == nullptr) Fail(Rule::kPipeNone, "no TPipe is alive: declare one first");
}

// The memory of a new buffer, or of a new pool: behind what the pool or the TPipe gave out last. A
// core can lack the memory, as long as it does not use the buffer: kernels of a cube core and its
// vector cores share their code.
uint32_t Reserve(Core& core, uint32_t pool, Memory memory, uint64_t bytes) {
  const uint64_t room = RoundUp(bytes, kBlockBytes);
  if (pool == 0) {
    uint32_t& next = core.buffers.next[static_cast<int>(memory)];
    const uint32_t begin = next;
    if ((memory == Memory::kUb) != core.IsCube()) core.Take(memory, begin + room);
    next = static_cast<uint32_t>(std::min<uint64_t>(begin + room, core.Capacity(memory)));
    return begin;
  }
  Pool& parent = FindPool(core, pool);
  if (parent.memory != memory) {
    Fail(Rule::kPoolMemory, "%s from a pool of %s", Name(memory), Name(parent.memory));
  }
  if (room > parent.end - parent.next) {
    Fail(Rule::kPoolCapacity, "%llu bytes from a pool that has %u left", Number(room),
         parent.end - parent.next);
  }
  const uint32_t begin = parent.next;
  parent.next += static_cast<uint32_t>(room);
  return begin;
}

uint32_t AddBuffer(Core& core, uint32_t pool, TPosition position, uint32_t begin, uint64_t bytes) {
  Buffers& buffers = core.buffers;
  if (!limits::TPipe::buffers.Allows(++buffers.initialised)) {
    Report(Rule::kPipeBuffers, "a TPipe has at most %lld buffers, got %u",
           static_cast<long long>(limits::TPipe::buffers.most), buffers.initialised);
  }
  if (pool != 0 && ++FindPool(core, pool).buffers > buffers.pools[pool].limit) {
    Report(Rule::kPoolBuffers, "the pool has at most %u buffers, got %u", buffers.pools[pool].limit,
           buffers.pools[pool].buffers);
  }
  Buffer buffer;
  buffer.position = position;
  buffer.begin = begin;
  buffer.end = static_cast<uint32_t>(begin + RoundUp(bytes, kBlockBytes));
  buffer.pool = pool;
  buffers.all.push_back(buffer);
  return static_cast<uint32_t>(buffers.all.size() - 1);
}

// At an address that the kernel has chosen.
void CheckPlace(Core& core, uint32_t pool, Memory memory, uint64_t begin, uint64_t bytes) {
  const uint64_t end = begin + RoundUp(bytes, kBlockBytes);
  if (pool == 0) return core.Take(memory, end);
  const Pool& parent = FindPool(core, pool);
  if (begin < parent.begin || end > parent.end) {
    Fail(Rule::kPoolCapacity, "[%llu, %llu) of a pool at [%u, %u)", Number(begin), Number(end),
         parent.begin, parent.end);
  }
}

bool IsInside(const Buffers& buffers, uint32_t pool, uint32_t outer) {
  for (; pool != 0; pool = buffers.pools[pool].parent) {
    if (pool == outer) return true;
  }
  return false;
}

void CheckPosition(TPosition position) {
  if (!IsLocal(position)) Fail(Rule::kPositionMemory, "a buffer outside of local memory");
}

uint32_t AddPool(Core& core, uint32_t parent, uint32_t begin, uint64_t bytes, Memory memory,
                 uint32_t buffers) {
  const auto end = static_cast<uint32_t>(begin + RoundUp(bytes, kBlockBytes));
  core.buffers.pools.push_back({memory, begin, end, begin, buffers, 0, parent, false});
  return static_cast<uint32_t>(core.buffers.pools.size() - 1);
}

}  // namespace

void CheckLeaks(const Core& core) {
  for (const Buffer& buffer : core.buffers.all) CheckLeak(buffer);
}

void CheckLeak(const Buffer& buffer) {
  if (buffer.state == BufferState::kAllocated || buffer.state == BufferState::kDequeued) {
    Report(Rule::kQueueLeak, "the tensor at %s %u was allocated and never freed: add FreeTensor",
           Name(MemoryOf(buffer.position)), buffer.begin);
  }
  if (buffer.state == BufferState::kEnqueued) {
    Report(Rule::kQueueLeak, "the tensor at %s %u was enqueued and never dequeued: add DeQue",
           Name(MemoryOf(buffer.position)), buffer.begin);
  }
}

void UseBuffer(Core& core, const Buffer& buffer) {
  core.CheckPosition(buffer.position);
  Buffers& buffers = core.buffers;
  if (buffer.pool == 0 || buffers.pools[buffer.pool].in_use) return;
  const Pool& pool = buffers.pools[buffer.pool];
  for (uint32_t number = 1; number < buffers.pools.size(); ++number) {
    const Pool& other = buffers.pools[number];
    const bool apart =
        other.memory != pool.memory || other.end <= pool.begin || pool.end <= other.begin;
    if (!other.in_use || apart || IsInside(buffers, number, buffer.pool) ||
        IsInside(buffers, buffer.pool, number)) {
      continue;
    }
    Report(Rule::kPoolReset, "the pool at %s [%u, %u) is in use and was not reset",
           Name(other.memory), other.begin, other.end);
  }
  buffers.pools[buffer.pool].in_use = true;
}

// --- TPipe ----------------------------------------------------------------------------------

void PipeConstruct(void* pipe) {
  Core& core = Enter(Op::kTPipe);
  Style& style = core.style;
  if (style.tpipe != nullptr)
    Fail(Rule::kPipeSingle, "another TPipe is alive: call its Destroy first");
  if (style.used_static) Report(Rule::kStyleMixed, "a TPipe in a kernel with tensors by address");
  ClearPipe(core);
  // its buffers lie where those of the one before lay
  if (style.used_tpipe) core.PassBarrier(PIPE_ALL);
  style.tpipe = pipe;
  style.used_tpipe = true;
}

void PipeDestruct(void* pipe) {
  Style& style = CurrentCore().style;
  if (style.tpipe == pipe) style.tpipe = nullptr;
}

void PipeInit(void* pipe) {
  Core& core = Enter(Op::kTPipe);
  if (core.style.tpipe != nullptr && core.style.tpipe != pipe) {
    Fail(Rule::kPipeSingle, "another TPipe is alive: call its Destroy first");
  }
  ClearPipe(core);
  core.style.tpipe = pipe;
}

void PipeDestroy(void* pipe, bool barrier) {
  Core& core = Enter(Op::kTPipe);
  if (core.style.tpipe != pipe) Fail(Rule::kPipeNone, "this TPipe is not alive");
  ClearPipe(core);
  if (barrier) core.PassBarrier(PIPE_ALL);
  core.style.tpipe = nullptr;
}

void* CurrentPipe() { return CurrentCore().style.tpipe; }

void PipeReset() {
  Core& core = Enter(Op::kTPipe);
  CheckPipe(core);
  ClearPipe(core);
  core.PassBarrier(PIPE_ALL);
}

LocalRef PipeRest(TPosition position) {
  Core& core = Enter(Op::kPopStackBuffer);
  CheckPipe(core);
  core.CheckPosition(position);
  const Memory memory = MemoryOf(position);
  return {position, core.buffers.next[static_cast<int>(memory)], core.Capacity(memory), 0, 0};
}

// --- buffers --------------------------------------------------------------------------------

int32_t InitQueue(uint32_t pool, const QueueShape& shape, uint8_t number, uint32_t bytes) {
  Core& core = Enter(Op::kInitBuffer);
  CheckFields(core);
  CheckPipe(core);
  Queue queue;
  queue.position = PositionBetween(shape.source, shape.destination);
  queue.route = RouteBetween(shape.source, shape.destination);
  queue.depth = shape.depth;
  if ((shape.fixed_number != 0 && shape.fixed_number != number && number != 0) ||
      (shape.fixed_bytes != 0 && shape.fixed_bytes != bytes && number != 0)) {
    Report(Rule::kQueueConfig, "the TQueConfig has %u buffers of %u bytes, got %u of %u",
           shape.fixed_number, shape.fixed_bytes, number, bytes);
  }
  core.buffers.queues.push_back(std::move(queue));
  const auto id = static_cast<int32_t>(core.buffers.queues.size() - 1);
  const TPosition position = core.buffers.queues[id].position;
  for (int i = 0; i < number; ++i) {
    const uint32_t begin = Reserve(core, pool, MemoryOf(position), bytes);
    AddToQueue(core, id, AddBuffer(core, pool, position, begin, bytes));
  }
  return id;
}

void AddQueueBuffer(int32_t queue, uint32_t pool, uint32_t address, uint32_t bytes) {
  Core& core = Enter(Op::kInitBuffer);
  if (queue < 0) Fail(Rule::kQueueNotInitialised, "call InitStartBufHandle first");
  const TPosition position = core.buffers.queues[queue].position;
  CheckPlace(core, pool, MemoryOf(position), address, bytes);
  AddToQueue(core, queue, AddBuffer(core, pool, position, address, bytes));
}

uint32_t InitBuf(uint32_t pool, TPosition position, uint32_t bytes) {
  Core& core = Enter(Op::kInitBuffer);
  CheckPipe(core);
  CheckPosition(position);
  const uint32_t begin = Reserve(core, pool, MemoryOf(position), bytes);
  const uint32_t buffer = AddBuffer(core, pool, position, begin, bytes);
  core.buffers.all[buffer].state = BufferState::kPermanent;
  return buffer;
}

uint32_t InitBufAt(uint32_t pool, TPosition position, uint32_t address, uint32_t bytes) {
  Core& core = Enter(Op::kInitBuffer);
  CheckPipe(core);
  CheckPosition(position);
  CheckPlace(core, pool, MemoryOf(position), address, bytes);
  const uint32_t buffer = AddBuffer(core, pool, position, address, bytes);
  core.buffers.all[buffer].state = BufferState::kPermanent;
  return buffer;
}

LocalRef BufGet(uint32_t id, uint64_t offset, uint64_t bytes) {
  Core& core = Enter(Op::kGet);
  if (id == 0 || id >= core.buffers.all.size() || !core.buffers.all[id].alive) {
    Fail(Rule::kQueueNotInitialised, "the buffer is empty: call TPipe::InitBuffer first");
  }
  const Buffer& buffer = core.buffers.all[id];
  UseBuffer(core, buffer);
  if (offset % kBlockBytes != 0) {
    Report(Rule::kBufOffset, "an offset is a multiple of 32 bytes, got %llu", Number(offset));
  }
  if (offset + bytes > buffer.end - buffer.begin) {
    Fail(Rule::kBufLength, "bytes [%llu, %llu) of a buffer of %u", Number(offset),
         Number(offset + bytes), buffer.end - buffer.begin);
  }
  const auto begin = static_cast<uint32_t>(buffer.begin + offset);
  return {buffer.position, begin, static_cast<uint32_t>(begin + bytes), id, buffer.generation};
}

LocalRef BufGet(uint32_t id) {
  const std::vector<Buffer>& all = CurrentCore().buffers.all;
  return BufGet(id, 0, id < all.size() ? all[id].end - all[id].begin : 0);
}

// --- pools ----------------------------------------------------------------------------------

uint32_t InitPool(uint32_t parent, TPosition position, uint32_t bytes, uint32_t buffers) {
  Core& core = Enter(Op::kInitBufPool);
  CheckPipe(core);
  const Memory memory = MemoryOf(position);
  if (parent != 0) {
    const Pool& outer = FindPool(core, parent);
    if (buffers > outer.limit - std::min(outer.buffers, outer.limit)) {
      Report(Rule::kPoolBuffers, "the outer pool has %u of its %u buffers left, got %u",
             outer.limit - std::min(outer.buffers, outer.limit), outer.limit, buffers);
    }
  }
  const uint32_t begin = Reserve(core, parent, memory, bytes);
  return AddPool(core, parent, begin, bytes, memory, buffers);
}

uint32_t SharePool(uint32_t parent, uint32_t other, TPosition position, uint32_t bytes,
                   uint32_t buffers) {
  Core& core = Enter(Op::kInitBufPool);
  CheckPipe(core);
  const Pool& shared = FindPool(core, other);
  const Memory memory = MemoryOf(position);
  if (memory != shared.memory) {
    Fail(Rule::kPoolMemory, "%s shared with a pool of %s", Name(memory), Name(shared.memory));
  }
  if (RoundUp(uint64_t{bytes}, kBlockBytes) > shared.end - shared.begin) {
    Fail(Rule::kPoolCapacity, "%u bytes shared with a pool of %u", bytes,
         shared.end - shared.begin);
  }
  if (parent != 0 && buffers > FindPool(core, parent).limit) {
    Report(Rule::kPoolBuffers, "the outer pool has at most %u buffers, got %u",
           core.buffers.pools[parent].limit, buffers);
  }
  return AddPool(core, parent, shared.begin, bytes, memory, buffers);
}

uint32_t PoolAddress(uint32_t pool) { return FindPool(CurrentCore(), pool).begin; }

void ResetPool(uint32_t number, bool empty) {
  Core& core = Enter(Op::kResetBufPool);
  Pool& pool = FindPool(core, number);
  for (Buffer& buffer : core.buffers.all) {
    if (buffer.pool != number || !buffer.alive) continue;
    CheckLeak(buffer);
    if (!empty) continue;
    buffer.alive = false;
    ++buffer.generation;
    buffer.state = BufferState::kIdle;
    if (buffer.queue >= 0) core.buffers.queues[buffer.queue].alive = false;
  }
  pool.in_use = false;
  if (empty) {
    pool.buffers = 0;
    pool.next = pool.begin;
  }
  // what it was used for is over
  core.PassBarrier(PIPE_ALL);
  core.Forget(pool.memory, pool.begin, pool.end);
}

}  // namespace emulator
