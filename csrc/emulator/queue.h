// TQueBind, TQue, TSCM and TBuf.
#ifndef MOGE_EMULATOR_QUEUE_H_
#define MOGE_EMULATOR_QUEUE_H_

#include "tensor.h"

namespace AscendC {

using TBufHandle = uint8_t*;

// What a queue is built with, beside its positions and its depth.
struct TQueConfig {
  bool nd2nz = false, nz2nd = false;
  bool scmBlockGroup = false;
  uint32_t bufferLen = 0, bufferNumber = 0;
  uint32_t consumerSize = 0;
  TPosition consumer[8] = {};
  bool enableStaticEvtId = false, enableLoopQueue = false;
};

}  // namespace AscendC

namespace emulator {

constexpr AscendC::TQueConfig ConfigOf(const AscendC::TQueConfig* config) { return *config; }
constexpr AscendC::TQueConfig ConfigOf(int) { return {}; }

// A TQue is named after one of the two positions that it binds.
constexpr TPosition SourceOf(TPosition position) {
  switch (position) {
    case TPosition::VECIN:
    case TPosition::A1:
    case TPosition::B1:
    case TPosition::C1:
      return TPosition::GM;
    case TPosition::A2:
      return TPosition::A1;
    case TPosition::B2:
      return TPosition::B1;
    case TPosition::C2:
      return TPosition::C1;
    default:
      return position;
  }
}
constexpr TPosition DestinationOf(TPosition position) {
  switch (position) {
    case TPosition::VECOUT:
    case TPosition::CO2:
      return TPosition::GM;
    case TPosition::CO1:
      return TPosition::CO2;
    default:
      return position;
  }
}

// What TPipe and the pools do with a queue or a buffer.
struct BufferAccess {
  template <typename Queue>
  static void Init(Queue& queue, uint32_t pool, uint8_t number, uint32_t bytes) {
    queue.id_ = InitQueue(pool, Queue::kShape, number, bytes);
  }
  template <typename Queue>
  static void Add(Queue& queue, uint32_t address, uint32_t bytes) {
    AddQueueBuffer(queue.id_, 0, address, bytes);
  }
  template <typename Buffer>
  static void Init(Buffer& buffer, uint32_t pool, uint32_t bytes) {
    buffer.id_ = InitBuf(pool, Buffer::kPosition, bytes);
  }
};

// A pool by its number: what a TBufPool, or a pool of the kernel's own making, is made of.
struct PoolState {
  uint32_t number = 0;
  uint32_t address = 0;  // behind what it gave out
  uint8_t buffers = 0;
};
struct PoolAccess {
  template <typename Pool>
  static PoolState& Of(Pool& pool) {
    return pool.pool_state_;
  }
  template <typename Pool>
  static constexpr uint32_t Limit() {
    return Pool::kBuffers;
  }
};

// Makes `pool` a part of its parent.
template <typename Pool>
void StartPool(Pool& pool, uint32_t parent, uint32_t bytes) {
  const uint32_t number = InitPool(parent, Pool::poolPos, bytes, PoolAccess::Limit<Pool>());
  PoolAccess::Of(pool) = {number, PoolAddress(number), 0};
}
// Gives it the memory of another pool.
template <typename Pool, typename Other>
void StartPool(Pool& pool, uint32_t parent, uint32_t bytes, Other& shared) {
  const uint32_t number = SharePool(parent, PoolAccess::Of(shared).number, Pool::poolPos, bytes,
                                    PoolAccess::Limit<Pool>());
  PoolAccess::Of(pool) = {number, PoolAddress(number), 0};
}

}  // namespace emulator

namespace AscendC {

// Buffers between the pipe that fills position `source` and the one that empties `destination`.
template <TPosition source, TPosition destination, int32_t depth, auto mask = 0>
class TQueBind {
 public:
  template <typename T>
  LocalTensor<T> AllocTensor() {
    static_assert(depth != 0, "AllocTensor: a queue of depth 0 takes a tensor of the caller");
    return LocalTensor<T>(emulator::QueueAlloc(id_));
  }
  template <typename T>
  void AllocTensor(LocalTensor<T>& tensor) {
    static_assert(depth == 0, "AllocTensor: into a tensor of the caller at depth 0 only");
    tensor = LocalTensor<T>(emulator::QueueAlloc(id_));
  }
  template <typename T>
  void FreeTensor(LocalTensor<T>& tensor) {
    emulator::QueueFree(id_, tensor.Ref());
  }
  template <typename T>
  bool EnQue(const LocalTensor<T>& tensor) {
    emulator::QueuePush(id_, tensor.Ref());
    return true;
  }
  template <TPosition from, TPosition to, typename T>
  bool EnQue(const LocalTensor<T>& tensor) {
    emulator::QueuePush(id_, tensor.Ref(), from, to);
    return true;
  }
  template <typename T>
  LocalTensor<T> DeQue() {
    static_assert(depth != 0, "DeQue: a queue of depth 0 takes a tensor of the caller");
    return LocalTensor<T>(emulator::QueuePop(id_));
  }
  template <typename T>
  void DeQue(LocalTensor<T>& tensor) {
    static_assert(depth == 0, "DeQue: into a tensor of the caller at depth 0 only");
    tensor = LocalTensor<T>(emulator::QueuePop(id_, tensor.Ref()));
  }
  template <TPosition from, TPosition to, typename T>
  LocalTensor<T> DeQue() {
    return LocalTensor<T>(emulator::QueuePop(id_, from, to));
  }
  bool VacantInQue() { return Counts().enqueued < depth; }
  bool HasTensorInQue() { return Counts().enqueued > 0; }
  int32_t GetTensorCountInQue() { return Counts().enqueued; }
  bool HasIdleBuffer() { return Counts().idle > 0; }
  void FreeAllEvent() {
    static_assert(depth != 0, "FreeAllEvent: not of a queue of depth 0");
    emulator::QueueFreeEvents(id_);
  }

  // for pools of the kernel's own making: then each buffer is placed by itself
  void InitStartBufHandle(TBufHandle, uint8_t, uint32_t bytes) {
    id_ = emulator::InitQueue(0, kShape, 0, bytes);
  }
  template <typename Pool>
  void InitBufHandle(Pool* pool, uint32_t, TBufHandle, uint32_t address, uint32_t bytes) {
    emulator::AddQueueBuffer(id_, emulator::PoolAccess::Of(*pool).number, address, bytes);
  }

 private:
  friend struct emulator::BufferAccess;

  emulator::QueueCounts Counts() {
    static_assert(depth != 0, "a queue of depth 0 does not tell its state");
    return emulator::CountQueue(id_);
  }

  static constexpr TQueConfig kConfig = emulator::ConfigOf(mask);
  static constexpr emulator::QueueShape kShape = {source, destination, depth, kConfig.bufferNumber,
                                                  kConfig.bufferLen};

  int32_t id_ = -1;
};

template <TPosition position, int32_t depth, auto mask = 0>
class TQue : public TQueBind<emulator::SourceOf(position), emulator::DestinationOf(position), depth,
                             mask> {};

// One buffer without a queue.
template <TPosition position = TPosition::LCM>
class TBuf {
 public:
  template <typename T>
  LocalTensor<T> Get() {
    return LocalTensor<T>(emulator::BufGet(id_));
  }
  template <typename T>
  LocalTensor<T> Get(uint32_t size) {
    return GetWithOffset<T>(size, 0);
  }
  template <typename T>
  LocalTensor<T> GetWithOffset(uint32_t size, uint32_t offset) {
    return LocalTensor<T>(
        emulator::BufGet(id_, offset, emulator::BytesOf(emulator::kDTypeOf<T>, size)));
  }

  void InitStartBufHandle(TBufHandle, uint8_t number, uint32_t) {
    emulator::CheckRange(emulator::limits::InitStartBufHandle::num, number);
  }
  template <typename Pool>
  void InitBufHandle(Pool* pool, uint32_t, TBufHandle, uint32_t address, uint32_t bytes) {
    id_ = emulator::InitBufAt(emulator::PoolAccess::Of(*pool).number, position, address, bytes);
  }

 private:
  friend struct emulator::BufferAccess;

  static constexpr TPosition kPosition = position;

  uint32_t id_ = 0;
};

}  // namespace AscendC

#endif  // MOGE_EMULATOR_QUEUE_H_
