// The gate's backward pass for Pangu's E = 64, G = 8 and k = 1, on tiles of up to 64 tokens: a
// group is a block here, so that one instruction marks the chosen experts of all groups. The tiles
// of any size would take up to 7 % longer, by the model of time.
#ifndef MOGE_ASCEND_GROUPED_GATE_PANGU_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GATE_PANGU_KERNEL_H_

#include "grouped_gate_pangu_tile.h"

namespace moge {

constexpr uint32_t kCoresAtOnce = CoresAtOnce(Pangu::kE);

//    logits -- Score -> scores --------------------------+
//    d_weights, experts -- CopyIn -> d, ids -- Derive -> d_scores -- CopyOut -> d_logits
//                                                 |
//                                                 +-> d_router_scale
//
//    buffer         bytes     holds                                     filled by, read by, guard
//    in_            2 x 4 KB  d_weights and experts [t, G]              MTE2, V; queue
//    d_, ids_       2 KB each [t, G] gradients; experts                 V, in order
//    chosen_        2 KB      [t, G] scores of the experts              V, in order
//    base_          2 KB      [t, G] chosen_, renormalized if asked     V, in order
//    total_         2 KB      [t, G] a token's sum, for each slot       V, in order
//    d_scores_      16 KB     [t, E]                                    V, in order
//    acc_           256       [E] d_router_scale of this core           V, in order
//    out_           2 x 16 KB d_logits [t, E]                           V, MTE3; queue
template <typename T>
class PanguGateBwd : Pangu {
 public:
  __aicore__ inline void Init(GM_ADDR d_weights, GM_ADDR logits, GM_ADDR experts,
                              GM_ADDR router_scale, GM_ADDR d_logits, GM_ADDR d_router_scale,
                              GM_ADDR workspace, const GroupedGateTiling& tiling, TPipe* pipe) {
    tile_.Init(logits, tiling.score, pipe);
    d_weights_ = Global<float>(d_weights);
    experts_ = Global<int32_t>(experts);
    d_logits_ = Global<T>(d_logits);
    if (tiling.has_router_scale) {
      router_scale_.Init(router_scale, 1, kE, pipe);
      sums_.Init(workspace, d_router_scale, kE, pipe, kCoresAtOnce);
      pipe->InitBuffer(all_acc_, kE * sizeof(float));
      acc_ = all_acc_.Get<float>();
    }
    pipe->InitBuffer(in_, 2, 2 * kTileSlots * sizeof(float));
    pipe->InitBuffer(all_d_scores_, kTileScores * sizeof(float));
    pipe->InitBuffer(all_slots_, 5 * kTileSlots * sizeof(float));
    pipe->InitBuffer(out_, 2, kTileScores * sizeof(T));
    d_scores_ = all_d_scores_.Get<float>();
    d_ = all_slots_.Get<float>();
    ids_ = d_[kTileSlots];
    chosen_ = ids_[kTileSlots];
    base_ = chosen_[kTileSlots];
    total_ = base_[kTileSlots];
  }
  __aicore__ inline void Process(const GroupedGateTiling& tiling) {
    if (tiling.has_router_scale) Duplicate(acc_, 0.0f, kE);
    const Share share = MyShare(tiling.T);
    for (uint64_t token = share.begin; token < share.end; token += kGateTokens) {
      const uint32_t count = Min(kGateTokens, share.end - token);
      tile_.Score(token, count);
      tile_.Derive();
      CopyIn(token, count);
      DeriveChosen(tiling);
      DeriveScores(tiling);
      CopyOut(tiling, token, count);
    }
    if (tiling.has_router_scale) {
      router_scale_.Release();
      LocalTensor<float> own = sums_.Own();
      Adds(own, acc_, 0.0f, kE);
      sums_.Reduce(own);
    }
  }

 private:
  static_assert(PanguGateTile<T>::kBytes + (3 + 2 * kCoresAtOnce) * kE * sizeof(float) +
                        2 * 2 * kTileSlots * sizeof(float) + kTileScores * sizeof(float) +
                        5 * kTileSlots * sizeof(float) + 2 * kTileScores * sizeof(T) <=
                    kUbBytes,
                "UB");

  __aicore__ inline void CopyIn(uint64_t token, uint32_t count) {
    LocalTensor<float> in = in_.AllocTensor<float>();
    LocalTensor<int32_t> experts = in[kTileSlots].template ReinterpretCast<int32_t>();
    Load(in, d_weights_[token * kG], count * kG);
    Load(experts, experts_[token * kG], count * kG);
    in_.EnQue(in);
    in = in_.DeQue<float>();
    Adds(d_, in, 0.0f, count * kG);
    Cast(ids_, in[kTileSlots].template ReinterpretCast<int32_t>(), RoundMode::CAST_NONE,
         count * kG);
    in_.FreeTensor(in);
    if (count < tile_.tokens) {  // the rest of the tile has no gradient
      Duplicate(d_[count * kG], 0.0f, (tile_.tokens - count) * kG);
      Duplicate(ids_[count * kG], 0.0f, (tile_.tokens - count) * kG);
    }
  }

  // d_: from the gradients of the weights to those of the chosen scores; renormalized, of logits
  __aicore__ inline void DeriveChosen(const GroupedGateTiling& tiling) {
    const uint32_t slots = tile_.tokens * kG;
    tile_.GatherExperts(chosen_, tile_.scores, ids_);
    if (tiling.renormalize) {
      tile_.Share(base_, total_, chosen_);
    } else {
      Adds(base_, chosen_, 0.0f, slots);
    }
    Sub(tile_.spare_slots, ids_, tile_.group, kE, slots / kE, tile_.ByBlock());
    tile_.Mark(tile_.spare_slots);
    if (tiling.scaling != 1.0f) Muls(d_, d_, tiling.scaling, slots);
    if (tiling.has_router_scale) {
      Mul(tile_.spare_slots, d_, base_, slots);
      Scatter(tile_.spare, tile_.spare_slots);
      Add(acc_, tile_.spare, acc_, kE, tile_.tokens, BinaryRepeatParams(1, 1, 1, 0, 8, 0));
      tile_.GatherAt(tile_.spare_slots, router_scale_.Values(), ids_);
      Mul(d_, d_, tile_.spare_slots, slots);
    }
    if (tiling.renormalize) {
      // base_c = s_c / S: d_s_c = (d_base_c - sum_j d_base_j base_j) / S, which may overflow, but
      // not times the slope, since that is at most s_c. The softmax's other term is 0
      Mul(base_, d_, base_, slots);
      tile_.template ReduceTokens<ReduceType::SUM>(tile_.spare_slots, base_);
      Sub(d_, d_, tile_.spare_slots, slots);
      tile_.GatherExperts(base_, tile_.slopes, ids_);
      Div(base_, base_, total_, slots);
      Mul(d_, d_, base_, slots);
    }
  }
  // d_scores_: the gradients of the logits, but for what Complete does
  __aicore__ inline void DeriveScores(const GroupedGateTiling& tiling) {
    const uint32_t slots = tile_.tokens * kG;
    Scatter(d_scores_, d_);
    if (tiling.score == GateScore::kSoftmax && !tiling.renormalize) {
      Mul(base_, d_, chosen_, slots);  // d_x = s (d_s - sum_j d_s_j s_j)
      tile_.template ReduceTokens<ReduceType::SUM>(total_, base_);
      Sub(d_scores_, d_scores_, total_, kE, tile_.tokens, tile_.ByToken());
    }
  }
  __aicore__ inline void Complete(const GroupedGateTiling& tiling, const LocalTensor<float>& dst,
                                  uint32_t count) {
    if (tiling.renormalize) {  // a NaN stays
      Muls(tile_.slopes, tile_.slopes, 0.0f, count);
      Add(dst, d_scores_, tile_.slopes, count);
    } else {
      Mul(dst, d_scores_, tile_.slopes, count);
    }
  }
  // The slots' values at the experts that `bits` marks, zero elsewhere.
  __aicore__ inline void Scatter(const LocalTensor<float>& dst, const LocalTensor<float>& values) {
    tile_.Broadcast(dst, values);
    Select(dst, tile_.bits, dst, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, tile_.tokens * kE);
  }

  __aicore__ inline void CopyOut(const GroupedGateTiling& tiling, uint64_t token, uint32_t count) {
    LocalTensor<T> out = out_.template AllocTensor<T>();
    if constexpr (kIsFloat<T>) {
      Complete(tiling, out, count * kE);
    } else {
      Complete(tiling, d_scores_, count * kE);
      Narrow(out, d_scores_, count * kE);
    }
    out_.EnQue(out);
    out = out_.template DeQue<T>();
    Store(d_logits_[token * kE], out, count * kE);
    out_.FreeTensor(out);
  }

  PanguGateTile<T> tile_;
  GlobalTensor<float> d_weights_;
  GlobalTensor<int32_t> experts_;
  GlobalTensor<T> d_logits_;
  Constant router_scale_;
  CoreSums<float> sums_;
  LocalTensor<float> d_, ids_, chosen_, base_, total_, d_scores_, acc_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> all_d_scores_, all_slots_, all_acc_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_PANGU_KERNEL_H_
