// The expert layer of plain weights.
#ifndef MOGE_ASCEND_GROUPED_MLP_KERNEL_H_
#define MOGE_ASCEND_GROUPED_MLP_KERNEL_H_

#include "../swiglu/swiglu_kernel.h"
#include "grouped_mlp_choice.h"

namespace moge {

// A consumer, on a vector core: it takes half of each tile's rows.
template <typename T>
class RingActivation {
 public:
  __aicore__ inline void Init(GM_ADDR offsets, GM_ADDR row_weights, GM_ADDR ring, GM_ADDR pre,
                              GM_ADDR act, const GroupedMlpTiling& tiling) {
    const uint64_t core = GetBlockIdx() / GetSubBlockNum();
    scheduler_.Init(offsets, tiling.up, core);
    ring_ = UpRing<T>::Of(ring, core);
    weighted_ = tiling.early != 0;
    if (weighted_) row_weights_ = Global<float>(row_weights);
    pre_ = Global<T>(pre);
    act_ = Global<T>(act);
    F_ = tiling.up.C;
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
    ReadRing(scheduler_, *this);
    for (int32_t i = 0; i < 2; ++i) WaitFlag<HardEvent::MTE3_MTE2>(i);
  }
  // Rows [begin, end) of the tile in a slot.
  __aicore__ inline void operator()(const Tile& tile, uint32_t slot, uint32_t begin, uint32_t end) {
    const uint32_t c16 = RoundUp(tile.c, kFractal);
    const uint32_t most = Min(kChunk / c16, kChunkRows);
    for (uint32_t m = begin; m < end; m += most) {
      const RingChunk chunk{tile.row + tile.m0 + m, tile.c0,
                            static_cast<uint32_t>(Min(most, end - m)), tile.c, c16};
      // rows that no expert has come last; they have no weight
      const bool weighted = weighted_ && tile.r != 0;
      CopyIn(chunk, slot * UpRing<T>::kSlotElements + m * kHalfC, weighted);
      Compute(chunk, weighted);
      CopyOut(chunk);
      buffer_ ^= 1;
    }
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

  // Each of the two buffers goes round in three stages; a flag guards each step to the next:
  //
  //   MTE2 CopyIn --MTE2_V--> V Compute --V_MTE3--> MTE3 CopyOut --MTE3_MTE2--> CopyIn
  __aicore__ inline void CopyIn(const RingChunk& chunk, uint64_t at, bool weighted) {
    const LocalTensor<T>& in = in_[buffer_];
    const DataCopyParams rows(chunk.rows, chunk.pitch / kPerBlock<T>,
                              (kHalfC - chunk.pitch) / kPerBlock<T>, 0);
    WaitFlag<HardEvent::MTE3_MTE2>(buffer_);
    DataCopy(in, ring_[at], rows);
    DataCopy(in[kChunk], ring_[at + UpRing<T>::kPartElements], rows);
    if (weighted) Load(weight_[buffer_], row_weights_[chunk.row], chunk.rows);
    SetFlag<HardEvent::MTE2_V>(buffer_);
  }
  __aicore__ inline void Compute(const RingChunk& chunk, bool weighted) {
    const LocalTensor<T>& in = in_[buffer_];
    const uint32_t count = chunk.rows * chunk.pitch;
    WaitFlag<HardEvent::MTE2_V>(buffer_);
    if constexpr (kIsFloat<T>) {
      Activate(out_[buffer_], in, in[kChunk], floats_, count);
      if (weighted) Weigh(out_[buffer_], chunk);
    } else {
      LocalTensor<float> gate = floats_[kChunk], up = floats_[2 * kChunk];
      Widen(gate, in, count);
      Widen(up, in[kChunk], count);
      Activate(gate, gate, up, floats_, count);
      if (weighted) Weigh(gate, chunk);
      Narrow(out_[buffer_], gate, count);
    }
    SetFlag<HardEvent::V_MTE3>(buffer_);
  }
  __aicore__ inline void Weigh(const LocalTensor<float>& act, const RingChunk& chunk) {
    for (uint32_t i = 0; i < chunk.rows; ++i) {
      const LocalTensor<float> row = act[i * chunk.pitch];
      Muls(row, row, weight_[buffer_].GetValue(i), chunk.pitch);
    }
  }
  __aicore__ inline void CopyOut(const RingChunk& chunk) {
    WaitFlag<HardEvent::V_MTE3>(buffer_);
    StoreChunk(act_[chunk.row * F_ + chunk.column], out_[buffer_], chunk, F_);
    if (save_) {
      const GlobalTensor<T> pre = pre_[chunk.row * kHalves * F_ + chunk.column];
      StoreChunk(pre, in_[buffer_], chunk, kHalves * F_);
      StoreChunk(pre[F_], in_[buffer_][kChunk], chunk, kHalves * F_);
    }
    SetFlag<HardEvent::MTE3_MTE2>(buffer_);
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

// kColumns: the most columns of a part of the second product.
// kChosen: the activation is not SwiGLU, or the first product has a bias.
template <typename T, uint32_t kColumns, bool kChosen>
struct PlainLayer {
  using Up = TileProducts<T, Layout::kDepthInner, Layout::kDepthInner, kHalves>;
  using UpToRing = StoreToRing<std::conditional_t<kChosen, float, T>, kHalfC, Up>;
  using Down = TileProducts<T, Layout::kDepthInner, Layout::kDepthInner, 1, kColumns>;
  struct ReturnRows : StoreToMemory<T, Down> {
    __aicore__ inline explicit ReturnRows(const PlainLayer& layer)
        : StoreToMemory<T, Down>(layer.gm.rows, layer.tiling.down) {}
  };
  using Returned = WhenTold;

  const GroupedMlpTensors& gm;
  const GroupedMlpTiling& tiling;

  __aicore__ inline GM_ADDR LeftOfDown() const { return gm.act; }
  __aicore__ inline void DownEnded(const ReturnRows&) const { MeetAndTellOther<PIPE_FIX>(); }

  __aicore__ inline void Spread() const {
    SpreadRows<T> spread;
    spread.Init(gm.x, gm.slot_to_row, gm.weights, gm.rows, gm.row_weights, tiling.rows);
    spread.Process();
  }
  __aicore__ inline void Activate() const {
    if constexpr (kChosen) {
      RingChoice<T> activation;
      activation.Init(gm, tiling);
      activation.Process();
    } else {
      RingActivation<T> activation;
      activation.Init(gm.offsets, gm.row_weights, gm.ring, gm.pre, gm.act, tiling);
      activation.Process();
    }
  }
  __aicore__ inline void Return() const {}
};

template <typename T, bool kChosen>
__aicore__ inline void PlainMlpFwd(const GroupedMlpTensors& gm, const GroupedMlpTiling& tiling) {
  if (StaysInL1<T>(tiling.down.R)) {
    GroupedMlp<T>(PlainLayer<T, kTileC / 2, kChosen>{gm, tiling});
  } else {
    GroupedMlp<T>(PlainLayer<T, kMixPartC, kChosen>{gm, tiling});
  }
}
template <typename T>
__aicore__ inline void GroupedMlpFwd(const GroupedMlpTensors& gm, const GroupedMlpTiling& tiling) {
  if (tiling.chosen != 0) {
    PlainMlpFwd<T, true>(gm, tiling);
  } else {
    PlainMlpFwd<T, false>(gm, tiling);
  }
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_KERNEL_H_
