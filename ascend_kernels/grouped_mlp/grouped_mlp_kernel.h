// Gate and up projections with SwiGLU as their epilogue. A cube core is the producer, its two
// vector cores are the consumers, and the [N, 2F] between them passes through a small ring in L2:
//
//   cube core     | fills slot 0 | fills slot 1 | fills slot 0 | fills slot 1 | ...
//   vector cores                 | read slot 0  | read slot 1  | read slot 0  | ...
//
// Two flags order them: kSlotFilled by the producer, kSlotFree once both consumers have read.
#ifndef MOGE_ASCEND_GROUPED_MLP_KERNEL_H_
#define MOGE_ASCEND_GROUPED_MLP_KERNEL_H_

#include "../grouped_gemm/grouped_gemm_kernel.h"
#include "../swiglu/swiglu_kernel.h"
#include "grouped_mlp_tiling.h"

namespace moge {

// A slot of the ring is one tile: its rows of gate columns, then its rows of the same columns of
// up, rounded to the result's type, as the backward pass will read them.
constexpr uint32_t kRingSlots = 2;
constexpr uint32_t kHalves = 2;  // the weight [E, 2F, H] has two: gate and up
constexpr uint32_t kHalfC = kMixPartC;
constexpr uint32_t kHalfElements = kTileM * kHalfC;
constexpr uint32_t kSlotElements = kHalves * kHalfElements;
constexpr uint16_t kSlotFilled = 0, kSlotFree = 1;  // flags between the cores

// The producer, on the cube core: each tile goes to the next slot.
template <typename T>
class StoreToRing {
 public:
  __aicore__ inline explicit StoreToRing(GM_ADDR ring)
      : ring_(Global<T>(ring)[GetBlockIdx() * kRingSlots * kSlotElements]) {}
  __aicore__ inline void operator()(const Tile& tile, uint32_t part, uint32_t c,
                                    const LocalTensor<float>& part_l0c) {
    if (part == 0 && filled_ >= kRingSlots) CrossCoreWaitFlag(kSlotFree);
    const uint64_t slot = filled_ % kRingSlots * kSlotElements;
    CopyOut(ring_[slot + part * kHalfElements], part_l0c, tile.m, c, kHalfC);
    if (part + 1 < kHalves) return;
    CrossCoreSetFlag<2, PIPE_FIX>(kSlotFilled);
    ++filled_;
  }
  // Waits for the last slots to be free, so that no flag stays set for the next launch.
  __aicore__ inline void Finish() {
    for (uint64_t i = 0; i < Min(filled_, kRingSlots); ++i) CrossCoreWaitFlag(kSlotFree);
  }

 private:
  GlobalTensor<T> ring_;
  uint64_t filled_ = 0;  // slots, one for each tile
};

// A consumer, on a vector core: it takes half of each tile's rows.
template <typename T>
class RingActivation {
 public:
  __aicore__ inline void Init(GM_ADDR offsets, GM_ADDR row_weights, GM_ADDR ring, GM_ADDR pre,
                              GM_ADDR act, const GroupedMlpTiling& tiling) {
    InitSocState();
    const uint64_t core = GetBlockIdx() / GetSubBlockNum();
    scheduler_.Init(offsets, tiling.product, core);
    ring_ = Global<T>(ring)[core * kRingSlots * kSlotElements];
    row_weights_ = Global<float>(row_weights);
    pre_ = Global<T>(pre);
    act_ = Global<T>(act);
    F_ = tiling.product.C;
    weighted_ = tiling.weighted != 0;
    save_ = tiling.save != 0;
    LocalMemAllocator<> ub;
    for (uint32_t i = 0; i < 2; ++i) {
      in_[i] = ub.Alloc<TPosition::VECIN, T>(2 * kChunk);
      out_[i] = ub.Alloc<TPosition::VECOUT, T>(kChunk);
      weight_[i] = ub.Alloc<TPosition::VECIN, float>(kChunkRows);
    }
    floats_ = ub.Alloc<TPosition::VECCALC, float>(kFloats * kChunk);
  }
  __aicore__ inline void Process() {
    for (int32_t i = 0; i < 2; ++i) SetFlag<HardEvent::MTE3_MTE2>(i);
    Tile tile;
    for (uint64_t slot = 0; scheduler_.Next(tile); slot = (slot + 1) % kRingSlots) {
      const uint32_t c16 = RoundUp(tile.c, kFractal);
      const uint32_t middle = tile.m / 2;
      const uint32_t begin = GetSubBlockIdx() == 0 ? 0 : middle;
      const uint32_t end = GetSubBlockIdx() == 0 ? middle : tile.m;
      const uint32_t most = Min(kChunk / c16, kChunkRows);
      CrossCoreWaitFlag(kSlotFilled);
      for (uint32_t m = begin; m < end; m += most) {
        const Chunk chunk{tile.row + tile.m0 + m, tile.c0,
                          static_cast<uint32_t>(Min(most, end - m)), tile.c, c16};
        CopyIn(chunk, slot * kSlotElements + m * kHalfC);
        Compute(chunk);
        CopyOut(chunk);
        buffer_ ^= 1;
      }
      CrossCoreSetFlag<2, PIPE_MTE2>(kSlotFree);
    }
    for (int32_t i = 0; i < 2; ++i) WaitFlag<HardEvent::MTE3_MTE2>(i);
  }

 private:
  // Elements of gate, of up and of the result that are in UB at a time. Each of the three has two
  // buffers, and there are the float temporaries.
  static constexpr uint32_t kChunk = 4096;
  static constexpr uint32_t kChunkRows = 128;
  static constexpr uint32_t kFloats = kIsFloat<T> ? 1 : 3;
  static_assert(2 * (3 * kChunk * sizeof(T) + kChunkRows * sizeof(float)) +
                        kFloats * kChunk * sizeof(float) <=
                    kUbBytes,
                "UB");

  struct Chunk {
    uint64_t row;
    uint32_t column, rows, columns, pitch;  // the pitch is that of a row in UB
  };

  // Each of the two buffers goes round in three stages; a flag guards each step to the next:
  //
  //   MTE2 CopyIn --MTE2_V--> V Compute --V_MTE3--> MTE3 CopyOut --MTE3_MTE2--> CopyIn
  __aicore__ inline void CopyIn(const Chunk& chunk, uint64_t at) {
    const LocalTensor<T>& in = in_[buffer_];
    const DataCopyParams rows(chunk.rows, chunk.pitch / kPerBlock<T>,
                              (kHalfC - chunk.pitch) / kPerBlock<T>, 0);
    WaitFlag<HardEvent::MTE3_MTE2>(buffer_);
    DataCopy(in, ring_[at], rows);
    DataCopy(in[kChunk], ring_[at + kHalfElements], rows);
    if (weighted_) Load(weight_[buffer_], row_weights_[chunk.row], chunk.rows);
    SetFlag<HardEvent::MTE2_V>(buffer_);
  }
  __aicore__ inline void Compute(const Chunk& chunk) {
    const LocalTensor<T>& in = in_[buffer_];
    const uint32_t count = chunk.rows * chunk.pitch;
    WaitFlag<HardEvent::MTE2_V>(buffer_);
    if constexpr (kIsFloat<T>) {
      Activate(out_[buffer_], in, in[kChunk], floats_, count);
      Weigh(out_[buffer_], chunk);
    } else {
      LocalTensor<float> gate = floats_[kChunk], up = floats_[2 * kChunk];
      Widen(gate, in, count);
      Widen(up, in[kChunk], count);
      Activate(gate, gate, up, floats_, count);
      Weigh(gate, chunk);
      Narrow(out_[buffer_], gate, count);
    }
    SetFlag<HardEvent::V_MTE3>(buffer_);
  }
  __aicore__ inline void Weigh(const LocalTensor<float>& act, const Chunk& chunk) {
    if (!weighted_) return;
    for (uint32_t i = 0; i < chunk.rows; ++i) {
      const LocalTensor<float> row = act[i * chunk.pitch];
      Muls(row, row, weight_[buffer_].GetValue(i), chunk.pitch);
    }
  }
  __aicore__ inline void CopyOut(const Chunk& chunk) {
    WaitFlag<HardEvent::V_MTE3>(buffer_);
    StoreChunk(act_[chunk.row * F_ + chunk.column], out_[buffer_], chunk, F_);
    if (save_) {
      const GlobalTensor<T> pre = pre_[chunk.row * kHalves * F_ + chunk.column];
      StoreChunk(pre, in_[buffer_], chunk, kHalves * F_);
      StoreChunk(pre[F_], in_[buffer_][kChunk], chunk, kHalves * F_);
    }
    SetFlag<HardEvent::MTE3_MTE2>(buffer_);
  }
  __aicore__ inline void StoreChunk(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                                    const Chunk& chunk, uint64_t width) const {
    const uint32_t filler = chunk.pitch / kPerBlock<T> - CeilDiv(chunk.columns, kPerBlock<T>);
    DataCopyPad(dst, src,
                DataCopyExtParams(chunk.rows, chunk.columns * sizeof(T), filler,
                                  (width - chunk.columns) * sizeof(T), 0));
  }

  TileScheduler<false, kHalfC> scheduler_;
  GlobalTensor<T> ring_, pre_, act_;
  GlobalTensor<float> row_weights_;
  uint64_t F_ = 0;
  bool weighted_ = false, save_ = false;
  LocalTensor<T> in_[2], out_[2];
  LocalTensor<float> weight_[2], floats_;
  int32_t buffer_ = 0;
};

template <typename T>
__aicore__ inline void GroupedMlpUp(GM_ADDR rows, GM_ADDR weight, GM_ADDR offsets,
                                    GM_ADDR row_weights, GM_ADDR ring, GM_ADDR pre, GM_ADDR act,
                                    const GroupedMlpTiling& tiling) {
  if ASCEND_IS_AIC {
    TileProducts<T, Layout::kDepthInner, Layout::kDepthInner, kHalves> products;
    products.Init(rows, weight, offsets, tiling.product);
    StoreToRing<T> epilogue(ring);
    products.Process(epilogue);
    epilogue.Finish();
  }
  if ASCEND_IS_AIV {
    RingActivation<T> activation;
    activation.Init(offsets, row_weights, ring, pre, act, tiling);
    activation.Process();
  }
  PipeBarrier<PIPE_ALL>();
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_KERNEL_H_
