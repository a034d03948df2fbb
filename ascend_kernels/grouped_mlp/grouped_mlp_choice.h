// Any activation between the products of the expert layer, and the bias of the first one. SwiGLU
// without a bias has a shorter way, RingActivation.
#ifndef MOGE_ASCEND_GROUPED_MLP_CHOICE_H_
#define MOGE_ASCEND_GROUPED_MLP_CHOICE_H_

#include "../swiglu/activation.h"
#include "grouped_mlp_phases.h"

namespace moge {

// The ring has the gate columns of a tile's rows, then the same columns of up: rounded to the
// result's type, as the backward pass will read them, or in float, if there may be a bias to add
// before. Parts that lie side by side in the weight follow each other in the ring.
constexpr uint32_t kHalfC = kMixPartC;
template <typename T>
using UpRing = Ring<T, kHalfC>;

// Adds a row of `pitch` numbers to each of `rows`.
__aicore__ inline void AddToRows(const LocalTensor<float>& x, const LocalTensor<float>& row,
                                 uint32_t rows, uint32_t pitch) {
  const uint8_t blocks = pitch / kPerBlock<float>;
  for (uint32_t c = 0; c < pitch; c += kPerRepeat<float>) {
    Add(x[c], x[c], row[c], Min(kPerRepeat<float>, pitch - c), rows,
        BinaryRepeatParams(1, 1, 1, blocks, blocks, 0));
  }
}

// A consumer, on a vector core: it takes half of each tile's rows.
template <typename T>
class RingChoice {
 public:
  __aicore__ inline void Init(const GroupedMlpTensors& gm, const GroupedMlpTiling& tiling) {
    const uint64_t core = GetBlockIdx() / GetSubBlockNum();
    scheduler_.Init(gm.offsets, tiling.up, core);
    ring_ = UpRing<float>::Of(gm.ring, core);
    terms_.Init(tiling.activation, gm.series);
    gated_ = tiling.activation.gated != 0;
    weighted_ = tiling.early != 0;
    if (weighted_) row_weights_ = Global<float>(gm.row_weights);
    biased_ = gm.b_gate_up != nullptr;
    if (biased_) bias_ = Global<T>(gm.b_gate_up);
    pre_ = Global<T>(gm.pre);
    act_ = Global<T>(gm.act);
    F_ = tiling.down.R;
    width_ = (gated_ ? 2 : 1) * F_;
    save_ = tiling.save != 0;
    LocalMemAllocator<> ub;
    for (uint32_t i = 0; i < 2; ++i) {
      in_[i] = ub.Alloc<TPosition::VECIN, float>(2 * kChunk);
      if constexpr (!kIsFloat<T>) rounded_[i] = ub.Alloc<TPosition::VECOUT, T>(2 * kChunk);
      out_[i] = ub.Alloc<TPosition::VECOUT, T>(kChunk);
      weight_[i] = ub.Alloc<TPosition::VECIN, float>(kChunkRows);
      bias_row_[i] = ub.Alloc<TPosition::VECIN, T>(2 * kHalfC);
      // columns that fill a fractal have no bias, but it is added to them as to the others
      Duplicate(bias_row_[i], static_cast<T>(0), 2 * kHalfC);
    }
    wide_bias_ = ub.Alloc<TPosition::VECCALC, float>(2 * kHalfC);
    floats_ = {ub.Alloc<TPosition::VECCALC, float>(kFloats * kChunk), kChunk};
    PipeBarrier<PIPE_ALL>();
  }
  __aicore__ inline void Process() {
    for (int32_t i = 0; i < 2; ++i) SetFlag<HardEvent::MTE3_MTE2>(i);
    ReadRing(scheduler_, *this);
    for (int32_t i = 0; i < 2; ++i) WaitFlag<HardEvent::MTE3_MTE2>(i);
  }
  // Rows [begin, end) of the tile in a slot.
  __aicore__ inline void operator()(const Tile& tile, uint32_t slot, uint32_t begin, uint32_t end) {
    const uint32_t c16 = RoundUp(tile.c, kFractal);
    const uint32_t pitch = gated_ ? c16 : 2 * c16;  // of the activation
    const uint32_t most = Min(kChunk / pitch, kChunkRows);
    for (uint32_t m = begin; m < end; m += most) {
      const RingChunk chunk{tile.row + tile.m0 + m, gated_ ? tile.c0 : 2 * tile.c0,
                            static_cast<uint32_t>(Min(most, end - m)), gated_ ? tile.c : tile.both,
                            pitch};
      CopyIn(tile, chunk, slot * UpRing<float>::kSlotElements + m * kHalfC);
      Compute(tile, chunk);
      CopyOut(tile, chunk);
      buffer_ ^= 1;
    }
  }

 private:
  // Elements of gate, of up and of the result that are in UB at a time; without a gate, of all.
  static constexpr uint32_t kChunk = 2880;
  static constexpr uint32_t kChunkRows = 128;
  static constexpr uint32_t kFloats = 3 + ActivationTerms::kTemporaries;
  // of the input, and of what is saved and the result
  static constexpr uint32_t kBytes = 2 * sizeof(float) + (kIsFloat<T> ? 1 : 3) * sizeof(T);
  static_assert(LieApart(kChunk * sizeof(float)), "banks");
  static_assert(kChunk >= 2 * kHalfC, "a row");
  static_assert(2 * (kBytes * kChunk + kChunkRows * sizeof(float) + 2 * kHalfC * 4) +
                        2 * kHalfC * sizeof(float) + kFloats * kChunk * sizeof(float) <=
                    kUbBytes,
                "UB");

  // Rows that no expert has come last; they have no weight and no bias.
  static __aicore__ inline bool OfExpert(const Tile& tile) { return tile.r != 0; }

  // Each of the two buffers goes round in three stages; a flag guards each step to the next:
  //
  //   MTE2 CopyIn --MTE2_V--> V Compute --V_MTE3--> MTE3 CopyOut --MTE3_MTE2--> CopyIn
  __aicore__ inline void CopyIn(const Tile& tile, const RingChunk& chunk, uint64_t at) {
    const LocalTensor<float>& in = in_[buffer_];
    const uint32_t c16 = RoundUp(tile.c, kFractal);
    const uint64_t second = at + UpRing<float>::kPartElements;
    WaitFlag<HardEvent::MTE3_MTE2>(buffer_);
    if (tile.both == 0) {
      CopyPart(in, ring_[at], chunk.rows, c16, c16);
      CopyPart(in[kChunk], ring_[second], chunk.rows, c16, c16);
    } else {
      const uint32_t rest = RoundUp(tile.both - Min(c16, tile.both), kFractal);
      CopyPart(in, ring_[at], chunk.rows, c16, 2 * c16);
      if (rest != 0) CopyPart(in[c16], ring_[second], chunk.rows, rest, 2 * c16);
      // where there is nothing, numbers that nobody needs
      if (rest < c16) CopyPart(in[c16 + rest], ring_[at], chunk.rows, c16 - rest, 2 * c16);
    }
    if (OfExpert(tile) && weighted_) Load(weight_[buffer_], row_weights_[chunk.row], chunk.rows);
    if (OfExpert(tile) && biased_) CopyBias(tile);
    SetFlag<HardEvent::MTE2_V>(buffer_);
  }
  // Columns of the ring to rows of `pitch` elements.
  __aicore__ inline void CopyPart(const LocalTensor<float>& dst, const GlobalTensor<float>& src,
                                  uint32_t rows, uint32_t columns, uint32_t pitch) {
    constexpr uint32_t kBlock = kPerBlock<float>;
    DataCopy(dst, src,
             DataCopyParams(rows, columns / kBlock, (kHalfC - columns) / kBlock,
                            (pitch - columns) / kBlock));
  }
  __aicore__ inline void CopyBias(const Tile& tile) {
    const LocalTensor<T>& row = bias_row_[buffer_];
    const uint64_t first = tile.expert * width_;
    if (tile.both != 0) {
      LoadFilled(row, bias_[first + 2 * tile.c0], tile.both);
    } else {
      LoadFilled(row, bias_[first + tile.c0], tile.c);
      LoadFilled(row[kHalfC], bias_[first + F_ + tile.c0], tile.c);
    }
  }
  // The last block is filled with zeros.
  __aicore__ inline void LoadFilled(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                                    uint32_t count) const {
    const uint32_t filler = RoundUp(count, kPerBlock<T>) - count;
    DataCopyPad(dst, src, DataCopyExtParams(1, count * sizeof(T), 0, 0, 0),
                DataCopyPadExtParams<T>(true, 0, filler, static_cast<T>(0)));
  }

  __aicore__ inline void Compute(const Tile& tile, const RingChunk& chunk) {
    const LocalTensor<float>& raw = in_[buffer_];
    const uint32_t count = chunk.rows * chunk.pitch;
    // the halves, or what lies side by side
    const uint32_t parts = tile.both == 0 ? 2 : 1;
    const bool turns = tile.both != 0 && gated_;
    WaitFlag<HardEvent::MTE2_V>(buffer_);
    if (OfExpert(tile) && biased_) AddBias(raw, tile, chunk.rows, parts);
    // what is saved is what the activation is taken of
    if constexpr (!kIsFloat<T>) {
      for (uint32_t i = 0; i < parts; ++i) {
        Narrow(rounded_[buffer_][i * kChunk], raw[i * kChunk], turns ? 2 * count : count);
        Widen(raw[i * kChunk], rounded_[buffer_][i * kChunk], turns ? 2 * count : count);
      }
    }
    const LocalTensor<float> z = floats_[0], u = floats_[1];
    const Tensors tmp{floats_[3], kChunk};
    LocalTensor<float> gate = raw, up = raw[kChunk], act = floats_[2];
    if (turns) {
      gate = z;
      up = u;
      TakeTurns(gate, up, raw, count);
    }
    if constexpr (kIsFloat<T>) act = out_[buffer_];
    terms_.Activate(act, gate, up, z, u, tmp, count);
    if (OfExpert(tile) && weighted_) Weigh(act, chunk);
    if constexpr (!kIsFloat<T>) Narrow(out_[buffer_], act, count);
    SetFlag<HardEvent::V_MTE3>(buffer_);
  }
  __aicore__ inline void AddBias(const LocalTensor<float>& raw, const Tile& tile, uint32_t rows,
                                 uint32_t parts) {
    const uint32_t c16 = RoundUp(tile.c, kFractal), pitch = tile.both == 0 ? c16 : 2 * c16;
    LocalTensor<float> bias = wide_bias_;
    if constexpr (kIsFloat<T>) {
      bias = bias_row_[buffer_];
    } else {
      Widen(bias, bias_row_[buffer_], 2 * kHalfC);
    }
    PipeBarrier<PIPE_V>();
    for (uint32_t i = 0; i < parts; ++i) {
      AddToRows(raw[i * kChunk], bias[i * kHalfC], rows, pitch);
    }
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void Weigh(const LocalTensor<float>& act, const RingChunk& chunk) {
    for (uint32_t i = 0; i < chunk.rows; ++i) {
      const LocalTensor<float> row = act[i * chunk.pitch];
      Muls(row, row, weight_[buffer_].GetValue(i), chunk.pitch);
    }
  }
  __aicore__ inline void CopyOut(const Tile& tile, const RingChunk& chunk) {
    WaitFlag<HardEvent::V_MTE3>(buffer_);
    StoreChunk(act_[chunk.row * F_ + chunk.column], out_[buffer_], chunk, F_);
    if (save_) {
      const GlobalTensor<T> pre = pre_[chunk.row * width_];
      LocalTensor<T> saved;
      if constexpr (kIsFloat<T>) {
        saved = in_[buffer_];
      } else {
        saved = rounded_[buffer_];
      }
      if (tile.both != 0) {
        const RingChunk both{chunk.row, 2 * tile.c0, chunk.rows, tile.both,
                             2 * RoundUp(tile.c, kFractal)};
        StoreChunk(pre[both.column], saved, both, width_);
      } else {
        StoreChunk(pre[chunk.column], saved, chunk, width_);
        StoreChunk(pre[F_ + chunk.column], saved[kChunk], chunk, width_);
      }
    }
    SetFlag<HardEvent::MTE3_MTE2>(buffer_);
  }

  TileScheduler<false, kHalfC> scheduler_;
  ActivationTerms terms_;
  GlobalTensor<T> bias_, pre_, act_;
  GlobalTensor<float> ring_, row_weights_;
  uint64_t F_ = 0, width_ = 0;
  bool gated_ = true, weighted_ = false, biased_ = false, save_ = false;
  LocalTensor<T> rounded_[2], out_[2], bias_row_[2];
  LocalTensor<float> in_[2], weight_[2], wide_bias_;
  Tensors floats_;
  int32_t buffer_ = 0;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_CHOICE_H_
