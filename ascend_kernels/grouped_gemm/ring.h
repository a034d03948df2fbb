// A ring in L2, through which the tiles of a product pass from a cube core, the producer, to its
// two vector cores, the consumers:
//
//   cube core     | fills slot 0 | fills slot 1 | fills slot 0 | fills slot 1 | ...
//   vector cores                 | read slot 0  | read slot 1  | read slot 0  | ...
//
// Two flags order them: kSlotFilled by the producer, kSlotFree once both consumers have read.
#ifndef MOGE_ASCEND_GROUPED_GEMM_RING_H_
#define MOGE_ASCEND_GROUPED_GEMM_RING_H_

#include "grouped_gemm_kernel.h"

namespace moge {

// More slots are no faster, as the vector cores are: modelled on 910B1 with 2, 3 and 4, November
// 2026.
constexpr uint32_t kRingSlots = 2;
constexpr uint16_t kSlotFilled = 0, kSlotFree = 1;  // flags between the cores

// A slot is one tile: the rows of its first part, then those of its second one, if it has two.
// kPitch: elements from row to row.
template <typename T, uint32_t kPitch, uint32_t kSlots = kRingSlots>
struct Ring {
  static constexpr uint32_t kPartElements = kTileM * kPitch;
  static constexpr uint32_t kSlotElements = 2 * kPartElements;
  static constexpr uint32_t kElements = kSlots * kSlotElements;  // each cube core's

  static __aicore__ inline GlobalTensor<T> Of(GM_ADDR rings, uint64_t cube_core) {
    return Global<T>(rings)[cube_core * kElements];
  }
};

// The producer: each tile goes to the next slot.
template <typename T, uint32_t kPitch, typename Products, uint32_t kSlots = kRingSlots>
class StoreToRing {
  using Slots = Ring<T, kPitch, kSlots>;

 public:
  __aicore__ inline explicit StoreToRing(GM_ADDR rings) : ring_(Slots::Of(rings, GetBlockIdx())) {}
  __aicore__ inline void operator()(const Tile& tile, uint32_t part, uint32_t c,
                                    const LocalTensor<typename Products::Sum>& part_l0c) {
    if (part == 0 && filled_ >= kSlots) CrossCoreWaitFlag(kSlotFree);
    const uint64_t slot = filled_ % kSlots * Slots::kSlotElements;
    CopyOut(ring_[slot + part * Slots::kPartElements], part_l0c, Products::Rows(tile), c, kPitch);
    if (part + 1 < Products::Parts(tile)) return;
    CrossCoreSetFlag<2, PIPE_FIX>(kSlotFilled);
    ++filled_;
  }
  // Waits for the last slots to be free, so that no flag stays set for the next launch.
  __aicore__ inline void Finish() {
    for (uint64_t i = 0; i < Min(filled_, kSlots); ++i) CrossCoreWaitFlag(kSlotFree);
  }

 private:
  GlobalTensor<T> ring_;
  uint64_t filled_ = 0;  // slots, one for each tile
};

// A consumer: reader(tile, slot, begin, end) loads its half of each tile's rows.
template <uint32_t kSlots = kRingSlots, typename Scheduler, typename Reader>
__aicore__ inline void ReadRing(Scheduler& scheduler, Reader& reader) {
  Tile tile;
  for (uint32_t slot = 0; scheduler.Next(tile); slot = (slot + 1) % kSlots) {
    const uint32_t middle = tile.m / 2;
    CrossCoreWaitFlag(kSlotFilled);
    if (GetSubBlockIdx() == 0) {
      reader(tile, slot, 0, middle);
    } else {
      reader(tile, slot, middle, tile.m);
    }
    CrossCoreSetFlag<2, PIPE_MTE2>(kSlotFree);
  }
}

// What a consumer has in UB at a time: some rows of a tile, `pitch` elements from row to row.
struct RingChunk {
  uint64_t row;
  uint32_t column, rows, columns, pitch;
};
// UB to the same place of a matrix of `width` columns.
template <typename T>
__aicore__ inline void StoreChunk(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                                  const RingChunk& chunk, uint64_t width) {
  const uint32_t filler = chunk.pitch / kPerBlock<T> - CeilDiv(chunk.columns, kPerBlock<T>);
  DataCopyPad(dst, src,
              DataCopyExtParams(chunk.rows, chunk.columns * sizeof(T), filler,
                                (width - chunk.columns) * sizeof(T), 0));
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_RING_H_
