// TBufPool, and what a pool of the kernel's own making is made of.
#ifndef MOGE_EMULATOR_POOL_H_
#define MOGE_EMULATOR_POOL_H_

#include "queue.h"

namespace emulator {

constexpr bool IsPoolPosition(TPosition position) {
  return position == TPosition::VECIN || position == TPosition::VECOUT ||
         position == TPosition::VECCALC || position == TPosition::A1 || position == TPosition::B1 ||
         position == TPosition::C1;
}

}  // namespace emulator

namespace AscendC {

inline constexpr uint32_t defaultBufIDSize = 4;

// A part of UB or L1, from which queues, buffers and smaller pools are made; two pools can share
// one part and take turns.
template <TPosition position, uint32_t bufIDSize = defaultBufIDSize>
class TBufPool {
  static_assert(emulator::IsPoolPosition(position), "TBufPool: rule pool.memory: UB or L1");
  static_assert(emulator::limits::TBufPool::bufIDSize.Allows(bufIDSize),
                "TBufPool: rule pool.buffers: at most 16");

 public:
  static constexpr TPosition poolPos = position;

  template <TPosition source, TPosition destination, int32_t depth, auto mask>
  bool InitBuffer(TQueBind<source, destination, depth, mask>& queue, emulator::U8 number,
                  uint32_t bytes) {
    emulator::BufferAccess::Init(queue, pool_state_.number, number, bytes);
    return true;
  }
  template <TPosition where>
  bool InitBuffer(TBuf<where>& buffer, uint32_t bytes) {
    emulator::BufferAccess::Init(buffer, pool_state_.number, bytes);
    return true;
  }
  template <typename Pool>
  bool InitBufPool(Pool& pool, uint32_t bytes) {
    emulator::StartPool(pool, pool_state_.number, bytes);
    return true;
  }
  template <typename Pool, typename Other>
  bool InitBufPool(Pool& pool, uint32_t bytes, Other& shared) {
    emulator::StartPool(pool, pool_state_.number, bytes, shared);
    return true;
  }
  void Reset() { emulator::ResetPool(pool_state_.number, false); }

 private:
  friend struct emulator::PoolAccess;

  static constexpr uint32_t kBuffers = bufIDSize;

  emulator::PoolState pool_state_;
};

}  // namespace AscendC

// Inside a class: makes it a pool. Its InitBuffer is the kernel's.
#define EXTERN_IMPL_BUFPOOL(NAME, POSITION, BUFFERS)                                         \
 public:                                                                                     \
  static constexpr AscendC::TPosition poolPos = POSITION;                                    \
  void Init() {                                                                              \
    static_assert(emulator::IsPoolPosition(POSITION), #NAME ": rule pool.memory: UB or L1"); \
    pool_state_ = {};                                                                        \
  }                                                                                          \
  void Reset() {                                                                             \
    emulator::ResetPool(pool_state_.number, true);                                           \
    pool_state_.address = emulator::PoolAddress(pool_state_.number);                         \
    pool_state_.buffers = 0;                                                                 \
  }                                                                                          \
  AscendC::TBufHandle GetBufHandle(uint8_t offset) {                                         \
    emulator::CheckRange({"offset", 0, (BUFFERS) - 1}, offset);                              \
    return handles_ + offset;                                                                \
  }                                                                                          \
  void SetCurAddr(uint32_t address) { pool_state_.address = address; }                       \
  uint32_t GetCurAddr() { return pool_state_.address; }                                      \
  void SetCurBufSize(uint8_t number) { pool_state_.buffers = number; }                       \
  uint8_t GetCurBufSize() { return pool_state_.buffers; }                                    \
                                                                                             \
 private:                                                                                    \
  static constexpr uint32_t kBuffers = BUFFERS;                                              \
  uint8_t handles_[BUFFERS] = {}; /* one address for each buffer; nothing lies there */      \
  emulator::PoolState pool_state_;                                                           \
  friend struct emulator::PoolAccess

#endif  // MOGE_EMULATOR_POOL_H_
