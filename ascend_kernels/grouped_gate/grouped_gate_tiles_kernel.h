// The gate on tiles of tokens, without a scalar for a token.
#ifndef MOGE_ASCEND_GROUPED_GATE_TILES_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GATE_TILES_KERNEL_H_

#include "grouped_gate_tile.h"

namespace moge {

//    logits -- Score -> scores -- Choose -> local, weights -- Weigh -> weights, experts
//                                             |
//                                             +-- Count -> counts -- Sums -> CoreSums
//
//    buffer                  holds                                     filled by, read by, guard
//    local_, weights_, ids_  [k, G, t] the chosen experts' numbers in  V, in order
//                            their groups, their weights, their ids
//    places_, order_, total_ [k, G, t] bytes; order_ is constant       V, in order
//    counts_                 [P, G, t / 8]                             V, in order
//    out_                    1 or 2 x weights and experts [t, K]       V, MTE3; queue
//    bias_, router_scale_, sums_: see Constant and CoreSums
template <typename T>
class GateTilesFwd {
 public:
  __aicore__ inline explicit GateTilesFwd(const GroupedGateTiling& tiling)
      : tile_(tiling, false), at(tile_.at), choice_(at), tiling_(tiling) {}
  __aicore__ inline void Init(GM_ADDR logits, GM_ADDR bias, GM_ADDR router_scale, GM_ADDR /*given*/,
                              GM_ADDR weights, GM_ADDR experts, GM_ADDR counts, GM_ADDR workspace,
                              TPipe* pipe) {
    tile_.Init(logits, pipe);
    if (choice_.Used()) choice_.Init(tile_.spare, tile_.lane_bytes, pipe);
    weights_out_ = Global<float>(weights);
    experts_out_ = Global<int32_t>(experts);
    if (tiling_.has_bias) {
      bias_.Init(bias, 1, at.E, pipe);
      pipe->InitBuffer(all_blocks_, at.E * kBlockBytes);
      blocks_ = all_blocks_.Get<float>();
      tile_.Blocks(blocks_, bias_.Values());
    }
    if (tiling_.has_router_scale) router_scale_.Init(router_scale, 1, at.E, pipe);
    sums_.Init(workspace, counts, at.E, pipe, tile_.CoreRows());
    pipe->InitBuffer(all_counts_, at.plane / kBlock * sizeof(float));
    pipe->InitBuffer(out_, tile_.Loads(), 2 * at.slots * sizeof(float));
    counts_ = all_counts_.Get<float>();
    local_ = tile_.Slots(0);
    weights_ = tile_.Slots(1);
    ids_ = tile_.Slots(2);
    places_ = tile_.Slots(3);
    total_ = tile_.Slots(4);
    order_ = tile_.Slots(5);
    Duplicate(counts_, 0.0f, at.plane / kBlock);
    tile_.Places(order_, true);
  }
  __aicore__ inline void Process() {
    const Share share = TokenShare(tiling_);
    for (uint64_t token = share.begin; token < share.end; token += at.tokens) {
      const uint32_t count = Min(at.tokens, share.end - token);
      tile_.Score(token, count);
      Choose(count);
      Weigh(token, count);
      if (tiling_.has_counts) Count(count);
    }
    bias_.Release();
    router_scale_.Release();
    if (!tiling_.has_counts) return;
    LocalTensor<int32_t> own = sums_.Own();
    const LocalTensor<float> counts = own.ReinterpretCast<float>();
    tile_.Sums(counts, counts_);
    Cast(own, counts, RoundMode::CAST_RINT, at.E);
    sums_.Reduce(own);
  }

 private:
  __aicore__ inline void Choose(uint32_t count) {
    const bool plain = KeysAreScores(tiling_);
    const LocalTensor<float> keys = plain ? tile_.scores : OrderedKeys();
    if (choice_.Used()) choice_.Begin(keys);
    for (uint32_t j = 0; j < at.k; ++j) {
      const uint32_t row = j * at.lanes;
      LocalTensor<float> index = tile_.spare;
      if (choice_.Used()) {
        index = local_[row];
        choice_.Next(tile_.best, index, keys, j);
      } else {
        tile_.work.Best(tile_.best, index, keys);
      }
      if (plain) {
        Adds(weights_[row], tile_.best, 0.0f, at.lanes);
        // NaN equals nothing: such a row gets the first experts
        const uint32_t whole = RoundUp(at.lanes, kLanes);
        Compare(tile_.work.bits, tile_.best, tile_.best, CMPMODE::EQ, whole);
        Select(index, tile_.work.bits, index, static_cast<float>(j),
               SELMODE::VSEL_TENSOR_SCALAR_MODE, at.lanes);
      } else {
        tile_.GatherExperts(weights_[row], tile_.scores, index, places_);
      }
      Add(ids_[row], index, tile_.first, at.lanes);
      if (choice_.Used()) continue;
      if (at.k > 1) tile_.DropTail(index, count);
      Adds(local_[row], index, 0.0f, at.lanes);
      if (at.k > 1) tile_.work.Exclude(keys, local_[row]);
    }
  }
  // The biased scores in the order of the choice: see kMinusInfinity.
  __aicore__ inline LocalTensor<float> OrderedKeys() {
    const LocalTensor<float>& keys = tile_.third;
    LocalTensor<float> from = tile_.scores;
    if (tiling_.has_bias) {
      tile_.work.AddBlocks(keys, tile_.scores, blocks_, at.E);
      from = keys;
    }
    Compare(tile_.work.bits, from, from, CMPMODE::EQ, at.plane);
    if (tiling_.has_bias) Maxs(keys, keys, kMinusInfinity, at.plane);
    Select(keys, tile_.work.bits, from, kNotANumber, SELMODE::VSEL_TENSOR_SCALAR_MODE, at.plane);
    return keys;
  }
  __aicore__ inline void Weigh(uint64_t token, uint32_t count) {
    if (tiling_.renormalize) tile_.Share(weights_, total_, weights_);
    if (tiling_.scaling != 1.0f) Muls(weights_, weights_, tiling_.scaling, at.slots);
    if (tiling_.has_router_scale) {
      Muls(places_, ids_, static_cast<float>(sizeof(float)), at.slots);
      tile_.GatherAt(total_, router_scale_.Values(), places_, at.slots);
      Mul(weights_, weights_, total_, at.slots);
    }
    const uint32_t slots = count * at.K;
    Cast(places_.ReinterpretCast<int32_t>(), ids_, RoundMode::CAST_RINT, at.slots);
    LocalTensor<float> out = out_.AllocTensor<float>();
    tile_.SlotsToTokens(out, weights_, order_, slots);
    tile_.SlotsToTokens(out[at.slots], places_, order_, slots);
    out_.EnQue(out);
    out = out_.DeQue<float>();
    Store(weights_out_[token * at.K], out, slots);
    Store(experts_out_[token * at.K], out[at.slots].template ReinterpretCast<int32_t>(), slots);
    out_.FreeTensor(out);
  }
  // One for each expert that was chosen; it takes the place of the scores.
  __aicore__ inline void Count(uint32_t count) {
    const LocalTensor<float>& keys = KeysAreScores(tiling_) ? tile_.scores : tile_.third;
    const LocalTensor<float> last = local_[(at.k - 1) * at.lanes];
    if (at.k == 1) {
      tile_.DropTail(last, count);
      tile_.work.Scatter(tile_.scores, last, tile_.ones);
    } else if (choice_.Used()) {
      tile_.work.MarkThrough(tile_.scores, keys, tile_.best, last, tile_.ones);
      if (count < at.tokens) {
        tile_.work.MarkTokens(count);
        tile_.work.template ByToken<RowOp::kMul>(tile_.scores, tile_.scores, at.E);
      }
    } else {  // those that were excluded
      Compares(tile_.work.bits, keys, -1.0f / 0.0f, CMPMODE::EQ, at.plane);
      tile_.SelectOnes(tile_.scores);
    }
    tile_.AddUp(counts_, tile_.spare, tile_.scores);
  }

  GateTile<T> tile_;
  const GatePlanes& at;
  GateChoice choice_;
  const GroupedGateTiling& tiling_;
  GlobalTensor<float> weights_out_;
  GlobalTensor<int32_t> experts_out_;
  Constant bias_, router_scale_;
  CoreSums<int32_t> sums_;
  LocalTensor<float> local_, weights_, ids_, places_, total_, order_, counts_, blocks_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> all_counts_, all_blocks_;
};

//    buffer                  holds                                        filled by, read by, guard
//    in_                     1 or 2 x d_weights and experts [t, K]        MTE2, V; queue
//    d_, ids_, local_        [k, G, t] gradients, experts, in their group V, in order
//    chosen_, base_, total_  [k, G, t] scores, shares, their sums         V, in order
//    places_, order_         [k, G, t] bytes; order_ is constant          V, in order
//    staged_                 [t, K]                                       V, in order
//    acc_                    [P, G, t / 8] of d_router_scale              V, in order
//    out_                    1 or 2 x d_logits [t, E]                     V, MTE3; queue
template <typename T>
class GateTilesBwd {
 public:
  __aicore__ inline explicit GateTilesBwd(const GroupedGateTiling& tiling)
      : tile_(tiling, true), at(tile_.at), tiling_(tiling) {}
  __aicore__ inline void Init(GM_ADDR d_weights, GM_ADDR logits, GM_ADDR experts,
                              GM_ADDR router_scale, GM_ADDR d_logits, GM_ADDR d_router_scale,
                              GM_ADDR workspace, TPipe* pipe) {
    tile_.Init(logits, pipe);
    d_weights_ = Global<float>(d_weights);
    experts_ = Global<int32_t>(experts);
    d_logits_ = Global<T>(d_logits);
    if (tiling_.has_router_scale) {
      router_scale_.Init(router_scale, 1, at.E, pipe);
      sums_.Init(workspace, d_router_scale, at.E, pipe, tile_.CoreRows());
      pipe->InitBuffer(all_acc_, 2 * at.plane / kBlock * sizeof(float));
      acc_ = all_acc_.Get<float>();
      parts_ = acc_[at.plane / kBlock];
      Duplicate(acc_, 0.0f, at.plane / kBlock);
    }
    pipe->InitBuffer(in_, tile_.Loads(), 2 * at.slots * sizeof(float));
    pipe->InitBuffer(out_, tile_.Loads(), at.plane * sizeof(T));
    d_ = tile_.Slots(0);
    ids_ = tile_.Slots(1);
    local_ = tile_.Slots(2);
    chosen_ = tile_.Slots(3);
    base_ = tile_.Slots(4);
    total_ = tile_.Slots(5);
    places_ = tile_.Slots(6);
    order_ = tile_.Slots(7);
    staged_ = tile_.Slots(8);
    tile_.Places(order_, false);
  }
  __aicore__ inline void Process() {
    const Share share = MyShare(tiling_.T);
    for (uint64_t token = share.begin; token < share.end; token += at.tokens) {
      const uint32_t count = Min(at.tokens, share.end - token);
      tile_.Score(token, count);
      CopyIn(token, count);
      DeriveChosen();
      DeriveLogits();
      CopyOut(token, count);
    }
    if (tiling_.has_router_scale) {
      router_scale_.Release();
      LocalTensor<float> own = sums_.Own();
      tile_.Sums(own, acc_);
      sums_.Reduce(own);
    }
  }

 private:
  __aicore__ inline void CopyIn(uint64_t token, uint32_t count) {
    const uint32_t slots = count * at.K;
    LocalTensor<float> in = in_.AllocTensor<float>();
    LocalTensor<int32_t> experts = in[at.slots].template ReinterpretCast<int32_t>();
    Load(in, d_weights_[token * at.K], slots);
    Load(experts, experts_[token * at.K], slots);
    in_.EnQue(in);
    in = in_.DeQue<float>();
    // the rest of the tile has no gradient
    if (count < at.tokens) Duplicate(staged_, 0.0f, at.slots);
    Adds(staged_, in, 0.0f, slots);
    tile_.SlotsFromTokens(d_, staged_, order_);
    Cast(staged_, in[at.slots].template ReinterpretCast<int32_t>(), RoundMode::CAST_NONE, slots);
    tile_.SlotsFromTokens(ids_, staged_, order_);
    in_.FreeTensor(in);
    for (uint32_t j = 0; j < at.k; ++j) {
      const uint32_t row = j * at.lanes;
      Sub(local_[row], ids_[row], tile_.first, at.lanes);
    }
    if (count < at.tokens) Maxs(local_, local_, 0.0f, at.slots);
  }
  __aicore__ inline void GatherExperts(const LocalTensor<float>& dst,
                                       const LocalTensor<float>& values) {
    for (uint32_t j = 0; j < at.k; ++j) {
      const uint32_t row = j * at.lanes;
      tile_.GatherExperts(dst[row], values, local_[row], places_);
    }
  }
  __aicore__ inline void Scatter(const LocalTensor<float>& values) {
    for (uint32_t j = 0; j < at.k; ++j) {
      const uint32_t row = j * at.lanes;
      tile_.work.Scatter(tile_.spare, local_[row], values[row], j > 0);
    }
  }
  // d_: from the gradients of the weights to those of the chosen scores; renormalized, of logits
  __aicore__ inline void DeriveChosen() {
    GatherExperts(chosen_, tile_.scores);
    const LocalTensor<float>& base = tiling_.renormalize ? base_ : chosen_;
    if (tiling_.renormalize) tile_.Share(base_, total_, chosen_);
    if (tiling_.scaling != 1.0f) Muls(d_, d_, tiling_.scaling, at.slots);
    if (tiling_.has_router_scale) {
      Mul(staged_, d_, base, at.slots);
      Scatter(staged_);
      tile_.AddUp(acc_, parts_, tile_.spare);
      Muls(places_, ids_, static_cast<float>(sizeof(float)), at.slots);
      tile_.GatherAt(staged_, router_scale_.Values(), places_, at.slots);
      Mul(d_, d_, staged_, at.slots);
    }
    if (tiling_.renormalize) {
      // base_c = s_c / S: d_s_c = (d_base_c - sum_j d_base_j base_j) / S, which may overflow, but
      // not times the slope, since that is at most s_c. The softmax's other term is 0
      Mul(base_, d_, base_, at.slots);
      tile_.work.template ReduceRows<RowOp::kAdd>(base_, at.K);
      tile_.work.template ByToken<RowOp::kSub>(d_, d_, at.K);
      GatherSlopes();
      Div(base_, base_, total_, at.slots);
      Mul(d_, d_, base_, at.slots);
    }
  }
  // base_: the derivatives of the chosen scores by their own logits, without the softmax's other
  // term
  __aicore__ inline void GatherSlopes() {
    if (tiling_.score == GateScore::kSqrtSoftplus) {
      GatherExperts(base_, tile_.third);
    } else if (tiling_.score == GateScore::kSigmoid) {
      Muls(base_, chosen_, -1.0f, at.slots);
      Adds(base_, base_, 1.0f, at.slots);
      Mul(base_, base_, chosen_, at.slots);
    } else {
      Adds(base_, chosen_, 0.0f, at.slots);
    }
  }
  // scores: become the gradients of the logits
  __aicore__ inline void DeriveLogits() {
    const LocalTensor<float>&scores = tile_.scores, &d_scores = tile_.spare;
    Scatter(d_);
    if (tiling_.renormalize) {  // a NaN stays
      Muls(scores, tile_.third, 0.0f, at.plane);
      Add(scores, d_scores, scores, at.plane);
      return;
    }
    if (tiling_.score == GateScore::kSoftmax) {
      Mul(base_, d_, chosen_, at.slots);  // d_x = s (d_s - sum_j d_s_j s_j)
      tile_.work.template ReduceRows<RowOp::kAdd>(base_, at.K);
      tile_.work.template ByToken<RowOp::kSub>(d_scores, d_scores, at.E);
    } else if (tiling_.score == GateScore::kSigmoid) {  // d_x = s (1 - s) d_s
      Mul(d_scores, d_scores, scores, at.plane);
      Muls(scores, scores, -1.0f, at.plane);
      Adds(scores, scores, 1.0f, at.plane);
    }
    Mul(scores, d_scores, tile_.third, at.plane);
  }
  __aicore__ inline void CopyOut(uint64_t token, uint32_t count) {
    LocalTensor<T> out = out_.template AllocTensor<T>();
    if constexpr (kIsFloat<T>) {
      tile_.work.ToTokens(out, tile_.scores, at.E, at.P);
    } else {
      tile_.work.ToTokens(tile_.spare, tile_.scores, at.E, at.P);
      Narrow(out, tile_.spare, count * at.E);
    }
    out_.EnQue(out);
    out = out_.template DeQue<T>();
    Store(d_logits_[token * at.E], out, count * at.E);
    out_.FreeTensor(out);
  }

  GateTile<T> tile_;
  const GatePlanes& at;
  const GroupedGateTiling& tiling_;
  GlobalTensor<float> d_weights_;
  GlobalTensor<int32_t> experts_;
  GlobalTensor<T> d_logits_;
  Constant router_scale_;
  CoreSums<float> sums_;
  LocalTensor<float> d_, ids_, local_, chosen_, base_, total_, places_, order_, staged_, acc_,
      parts_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> all_acc_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_TILES_KERNEL_H_
