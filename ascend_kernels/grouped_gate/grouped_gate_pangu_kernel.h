// The gate for Pangu's E = 64, G = 8 and k = 1, on tiles of up to 64 tokens.
#ifndef MOGE_ASCEND_GROUPED_GATE_PANGU_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GATE_PANGU_KERNEL_H_

#include "grouped_gate_pangu_tile.h"

namespace moge {

// Experts are counted in float16, which is exact up to 2048. A lane counts each 16th token of a
// tile, which are 4, so after 512 tiles the counts are added to totals in float:
//
//    counts [P, 16, G]    the i-th expert of a group   x   tokens t, t + 16, ...   x   groups
constexpr uint32_t kCountLanes = kTokenStep * Pangu::kG;
constexpr uint32_t kCounts = Pangu::kP * kCountLanes;
constexpr uint32_t kFlushTiles = 2048 / (kGateTokens / kTokenStep);

//    logits -- Score -> scores -- Choose -> local, ids -- Weigh -> weights, experts
//                                             |
//                                             +-- Count -> counts -- Flush -> totals -- Publish ->
//
//    buffer         bytes     holds                                     filled by, read by, guard
//    keys_          16 KB     [t, E] that Choose compares; then a       V, in order
//                             temporary of Count and Flush
//    local_, ids_   2 KB each [t, G] the chosen expert's number in its  V, in order
//                             group, and in all
//    halves_        2 KB      two [t, G] in float16, of Count           V, in order
//    counts_        2 KB      [P, 16, G] in float16                     V, in order
//    totals_        4 KB      [P, 16, G]                                V; at the end S reads it
//    out_           2 x 4 KB  weights and experts [t, G]                V, MTE3; queue
//    bias_, router_scale_, sums_: see Constant and CoreSums
template <typename T>
class PanguGateFwd : Pangu {
 public:
  __aicore__ inline void Init(GM_ADDR logits, GM_ADDR bias, GM_ADDR router_scale, GM_ADDR /*given*/,
                              GM_ADDR weights, GM_ADDR experts, GM_ADDR counts, GM_ADDR workspace,
                              const GroupedGateTiling& tiling, TPipe* pipe) {
    tile_.Init(logits, tiling.score, pipe);
    weights_ = Global<float>(weights);
    experts_ = Global<int32_t>(experts);
    if (tiling.has_bias) bias_.Init(bias, 1, kE, pipe);
    if (tiling.has_router_scale) router_scale_.Init(router_scale, 1, kE, pipe);
    sums_.Init(workspace, counts, kE, pipe);
    pipe->InitBuffer(all_keys_, kTileScores * sizeof(float));
    pipe->InitBuffer(all_chosen_, 2 * kTileSlots * sizeof(float));
    pipe->InitBuffer(all_halves_, 2 * kTileSlots * sizeof(half));
    pipe->InitBuffer(all_counts_, kCounts * (sizeof(half) + sizeof(float)));
    pipe->InitBuffer(out_, 2, 2 * kTileSlots * sizeof(float));
    keys_ = all_keys_.Get<float>();
    local_ = all_chosen_.Get<float>();
    ids_ = local_[kTileSlots];
    halves_ = all_halves_.Get<half>();
    totals_ = all_counts_.Get<float>();
    counts_ = totals_[kCounts].template ReinterpretCast<half>();
  }
  __aicore__ inline void Process(const GroupedGateTiling& tiling) {
    Duplicate(counts_, static_cast<half>(0.0f), kCounts);
    Duplicate(totals_, 0.0f, kCounts);
    const Share share = MyShare(tiling.T);
    uint32_t tiles = 0;
    for (uint64_t token = share.begin; token < share.end; token += kGateTokens) {
      const uint32_t count = Min(kGateTokens, share.end - token);
      tile_.Score(token, count);
      Choose(tiling);
      Weigh(tiling, token, count);
      Count(count);
      if (++tiles % kFlushTiles == 0) Flush();
    }
    Flush();
    bias_.Release();
    router_scale_.Release();
    Publish();
  }

 private:
  static_assert(PanguGateTile<T>::kBytes + 5 * kE * sizeof(float) + kTileScores * sizeof(float) +
                        2 * kTileSlots * (sizeof(float) + sizeof(half)) +
                        kCounts * (sizeof(half) + sizeof(float)) +
                        2 * 2 * kTileSlots * sizeof(float) <=
                    kUbBytes,
                "UB");

  // local_ and ids_: in each group the first of the experts with the largest key
  __aicore__ inline void Choose(const GroupedGateTiling& tiling) {
    const uint32_t count = tile_.tokens * kE, slots = tile_.tokens * kG;
    // A row may hold NaN beside numbers, unless it is the plain softmax's, where all are NaN then.
    const bool ordered = tiling.score != GateScore::kSoftmax || tiling.has_bias;
    const LocalTensor<float> keys = ordered ? OrderedKeys(tiling) : tile_.scores;
    tile_.template ReduceGroups<ReduceType::MAX>(tile_.spare_slots, keys);
    tile_.Broadcast(tile_.spare, tile_.spare_slots);
    Compare(tile_.bits, keys, tile_.spare, CMPMODE::EQ, count);
    Select(tile_.spare, tile_.bits, tile_.in_group, static_cast<float>(kP),
           SELMODE::VSEL_TENSOR_SCALAR_MODE, kE, tile_.tokens,
           BinaryRepeatParams(1, 0, 0, 8, 0, 0));
    tile_.template ReduceGroups<ReduceType::MIN>(local_, tile_.spare);
    if (!ordered) {  // NaN equals nothing: such a row gets the first experts
      Compares(tile_.bits, local_, static_cast<float>(kP), CMPMODE::LT, slots);
      Select(local_, tile_.bits, local_, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, slots);
    }
    Add(ids_, local_, tile_.group, kE, slots / kE, tile_.ByBlock());
  }
  // The biased scores in the order of the choice: see kMinusInfinity.
  __aicore__ inline LocalTensor<float> OrderedKeys(const GroupedGateTiling& tiling) {
    const uint32_t count = tile_.tokens * kE;
    if (tiling.has_bias) {
      Add(keys_, tile_.scores, bias_.Values(), kE, tile_.tokens, tile_.ByExpert());
    } else {
      Adds(keys_, tile_.scores, 0.0f, count);
    }
    Compare(tile_.bits, keys_, keys_, CMPMODE::EQ, count);
    Maxs(keys_, keys_, kMinusInfinity, count);
    Select(keys_, tile_.bits, keys_, kNotANumber, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    return keys_;
  }

  __aicore__ inline void Weigh(const GroupedGateTiling& tiling, uint64_t token, uint32_t count) {
    const uint32_t slots = tile_.tokens * kG;
    LocalTensor<float> weights = out_.AllocTensor<float>();
    tile_.GatherExperts(weights, tile_.scores, ids_);
    if (tiling.renormalize) tile_.Share(weights, tile_.spare_slots, weights);
    if (tiling.scaling != 1.0f) Muls(weights, weights, tiling.scaling, slots);
    if (tiling.has_router_scale) {
      tile_.GatherAt(tile_.spare_slots, router_scale_.Values(), ids_);
      Mul(weights, weights, tile_.spare_slots, slots);
    }
    Cast(weights[kTileSlots].template ReinterpretCast<int32_t>(), ids_, RoundMode::CAST_RINT,
         slots);
    out_.EnQue(weights);
    weights = out_.DeQue<float>();
    Store(weights_[token * kG], weights, count * kG);
    Store(experts_[token * kG], weights[kTileSlots].template ReinterpretCast<int32_t>(),
          count * kG);
    out_.FreeTensor(weights);
  }

  __aicore__ inline void Count(uint32_t count) {
    const uint32_t slots = tile_.tokens * kG;
    const LocalTensor<half> local = halves_, hit = halves_[kTileSlots];
    if (count < tile_.tokens) {  // the rest of the tile counts for no expert
      Duplicate(local_[count * kG], -1.0f, (tile_.tokens - count) * kG);
    }
    Narrow(local, local_, slots);
    LocalTensor<half> ones = keys_.template ReinterpretCast<half>();
    Duplicate(ones, static_cast<half>(1.0f), slots);
    for (uint32_t i = 0; i < kP; ++i) {
      LocalTensor<half> sum = counts_[i * kCountLanes];
      Compares(tile_.bits, local, static_cast<half>(static_cast<float>(i)), CMPMODE::EQ, slots);
      Select(hit, tile_.bits, ones, static_cast<half>(0.0f), SELMODE::VSEL_TENSOR_SCALAR_MODE,
             slots);
      Add(sum, hit, sum, kCountLanes, slots / kCountLanes, BinaryRepeatParams(1, 1, 1, 0, 8, 0));
    }
  }
  __aicore__ inline void Flush() {
    Widen(keys_, counts_, kCounts);
    Add(totals_, totals_, keys_, kCounts);
    Duplicate(counts_, static_cast<half>(0.0f), kCounts);
  }
  // Once for a core: [P, 16, G] becomes [G, P], and the cores' are added up.
  __aicore__ inline void Publish() {
    LocalTensor<int32_t> own = sums_.Own();
    for (uint32_t i = 0; i < kP; ++i) {
      LocalTensor<float> sum = totals_[i * kCountLanes];
      for (uint32_t lanes = kCountLanes / 2; lanes >= kG; lanes /= 2) {
        Add(sum, sum, sum[lanes], lanes);
      }
      for (uint32_t g = 0; g < kG; ++g) {
        own.SetValue(g * kP + i, static_cast<int32_t>(sum.GetValue(g)));
      }
    }
    sums_.Reduce(own);
  }

  PanguGateTile<T> tile_;
  GlobalTensor<float> weights_;
  GlobalTensor<int32_t> experts_;
  Constant bias_, router_scale_;
  CoreSums<int32_t> sums_;
  LocalTensor<float> keys_, local_, ids_, totals_;
  LocalTensor<half> halves_, counts_;
  TBuf<TPosition::VECCALC> all_keys_, all_chosen_, all_halves_, all_counts_;
  TQue<TPosition::VECOUT, 1> out_;
};

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
      sums_.Init(workspace, d_router_scale, kE, pipe);
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
  static_assert(PanguGateTile<T>::kBytes + 5 * kE * sizeof(float) +
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
