// The gate for E = 64, G = 8, k = 1, Pangu's: in float a group of 8 experts is one block of 32
// bytes and a token one repeat of 256, so every instruction works on many tokens at once, and no
// scalar is read for a token.
#ifndef MOGE_ASCEND_GROUPED_GATE_BLOCKS_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GATE_BLOCKS_KERNEL_H_

#include "grouped_gate_common.h"

namespace moge {

constexpr uint32_t kGateE = 64;
constexpr uint32_t kGateG = 8;
constexpr uint32_t kGateTokens = 64;                   // of a tile
constexpr uint32_t kGatePlane = kGateTokens * kGateE;  // one float for each expert
constexpr uint32_t kGateSlots = kGateTokens * kGateG;  // one for each group
constexpr uint32_t kGateTokenStep = 16;  // a tile is rounded up to whole repeats of [t, g] halves
// Counts are kept in float16, exact up to 2048, for each expert of a group and each 16th token.
constexpr uint32_t kGateLanes = kGateTokenStep * kGateG;
constexpr uint32_t kGateCountTiles = 2048 / (kGateTokens / kGateTokenStep);

// Scores of a tile, and lookups by expert.
template <typename T>
class GateTile {
 public:
  __aicore__ inline void Init(GM_ADDR logits, bool softmax, TPipe* pipe) {
    logits_ = Global<T>(logits);
    softmax_ = softmax;
    pipe->InitBuffer(in_, 2, kGatePlane * sizeof(T));
    pipe->InitBuffer(planes_, 2 * kGatePlane * sizeof(float));
    pipe->InitBuffer(small_, 5 * kGateSlots * sizeof(float));
    pipe->InitBuffer(bits_, kGatePlane / 8);
    pipe->InitBuffer(lanes_, 2 * kGateG * sizeof(float));
    scores = planes_.Get<float>();
    plane = scores[kGatePlane];
    slots = small_.Get<float>();
    first = slots[kGateSlots];
    offsets = first[kGateSlots];
    scratch_ = offsets[kGateSlots];
    rows_ = scratch_[kGateSlots];
    bits = bits_.Get<uint8_t>();
    lane = lanes_.Get<float>();
    group = lane[kGateG];
    CreateVecIndex(lane, 0.0f, kGateG);
    Muls(group, lane, 8.0f, kGateG);
    // the token's first score, for each of its slots
    CreateVecIndex(rows_, 0.0f, kGateTokens);
    Muls(rows_, rows_, static_cast<float>(kGateE), kGateTokens);
    Brcb(first, rows_, kGateTokens / 8, BrcbRepeatParams(1, 8));
  }
  // Scores of `count` tokens; the rest of the tile, up to whole repeats, has logits 0.
  __aicore__ inline void Score(uint64_t token, uint32_t count) {
    tokens = RoundUp(count, kGateTokenStep);
    LocalTensor<T> in = in_.template AllocTensor<T>();
    Load(in, logits_[token * kGateE], count * kGateE);
    in_.EnQue(in);
    in = in_.template DeQue<T>();
    LocalTensor<float> x;
    if constexpr (kIsFloat<T>) {
      x = in;
    } else {
      x = scores;
      Widen(x, in, count * kGateE);
    }
    if (count < tokens) Duplicate(x[count * kGateE], 0.0f, (tokens - count) * kGateE);
    if (softmax_) {
      Softmax(x);
    } else {
      Muls(scores, x, -1.0f, tokens * kGateE);
      Exp(scores, scores, tokens * kGateE);
      Adds(scores, scores, 1.0f, tokens * kGateE);
      Duplicate(plane, 1.0f, tokens * kGateE);
      Div(scores, plane, scores, tokens * kGateE);
    }
    in_.FreeTensor(in);
  }
  // [t, g, 8] -> [t, g]
  template <ReduceType type>
  __aicore__ inline void Groups(const LocalTensor<float>& dst, const LocalTensor<float>& src) {
    ReduceDataBlock<type>(dst, src, kGateE, tokens, 1, 1, 8);
  }
  // [t, g] -> [t], and each again in its row's 8 places of dst
  template <ReduceType type>
  __aicore__ inline void Rows(const LocalTensor<float>& dst, const LocalTensor<float>& src) {
    ReduceDataBlock<type>(rows_, src, kGateE, tokens / 8, 1, 1, 8);
    Brcb(dst, rows_, tokens / 8, BrcbRepeatParams(1, 8));
  }
  // [t, g] -> [t, g, 8]
  __aicore__ inline void Spread(const LocalTensor<float>& dst, const LocalTensor<float>& src) {
    Brcb(dst, src, tokens, BrcbRepeatParams(1, 8));
  }
  // a row's value, in its 8 places, for all of its 64 lanes
  static __aicore__ inline BinaryRepeatParams ByRow() { return {1, 1, 0, 8, 8, 1}; }
  // one vector of 64 for every token
  static __aicore__ inline BinaryRepeatParams ByLane() { return {1, 1, 1, 8, 8, 0}; }
  // one block of 8 for every block
  static __aicore__ inline BinaryRepeatParams ByBlock() { return {1, 1, 0, 8, 8, 0}; }

  // bits of the lanes whose number in the group is `slots`
  __aicore__ inline void Mark(const LocalTensor<float>& local) {
    Spread(plane, local);
    Compare(bits, plane, lane, CMPMODE::EQ, kGateE, tokens, ByBlock());
  }
  // dst = scores of the experts in `ids`, [t, g]
  __aicore__ inline void ScoresOf(const LocalTensor<float>& dst, const LocalTensor<float>& ids) {
    Add(offsets, ids, first, tokens * kGateG);
    Lookup(dst, scores, offsets);
  }
  // dst = values[places]
  __aicore__ inline void Lookup(const LocalTensor<float>& dst, const LocalTensor<float>& values,
                                const LocalTensor<float>& places) {
    LocalTensor<int32_t> bytes = scratch_.ReinterpretCast<int32_t>();
    Muls(scratch_, places, static_cast<float>(sizeof(float)), tokens * kGateG);
    Cast(bytes, scratch_, RoundMode::CAST_RINT, tokens * kGateG);
    Gather(dst, values, bytes.ReinterpretCast<uint32_t>(), 0, tokens * kGateG);
  }

  uint32_t tokens = 0;        // of the tile, rounded up
  LocalTensor<float> scores;  // [t, E]
  LocalTensor<float> plane;   // [t, E], free
  LocalTensor<float> slots;   // [t, G], free
  LocalTensor<float> lane;    // 0 to 7
  LocalTensor<float> group;   // 0, 8, ... 56
  LocalTensor<uint8_t> bits;  // of [t, E]

 private:
  __aicore__ inline void Softmax(const LocalTensor<float>& x) {
    Groups<ReduceType::MAX>(slots, x);
    Rows<ReduceType::MAX>(offsets, slots);
    Sub(scores, x, offsets, kGateE, tokens, ByRow());
    Exp(scores, scores, tokens * kGateE);
    Groups<ReduceType::SUM>(slots, scores);
    ReduceDataBlock<ReduceType::SUM>(rows_, slots, kGateE, tokens / 8, 1, 1, 8);
    Duplicate(scratch_, 1.0f, tokens);
    Div(rows_, scratch_, rows_, tokens);
    Brcb(offsets, rows_, tokens / 8, BrcbRepeatParams(1, 8));
    Mul(scores, scores, offsets, kGateE, tokens, ByRow());
  }

  GlobalTensor<T> logits_;
  bool softmax_ = true;
  LocalTensor<float> first;     // [t, G]: 64 t
  LocalTensor<float> offsets;   // [t, G]
  LocalTensor<float> scratch_;  // [t, G]
  LocalTensor<float> rows_;     // [t]
  TQue<TPosition::VECIN, 1> in_;
  TBuf<TPosition::VECCALC> planes_, small_, bits_, lanes_;
};

template <typename T>
class GateBlocksFwd {
 public:
  __aicore__ inline void Init(GM_ADDR logits, GM_ADDR bias, GM_ADDR router_scale, GM_ADDR weights,
                              GM_ADDR experts, GM_ADDR counts, GM_ADDR workspace,
                              const GroupedGateTiling& tiling, TPipe* pipe) {
    tile_.Init(logits, tiling.softmax != 0, pipe);
    weights_ = Global<float>(weights);
    experts_ = Global<int32_t>(experts);
    if (tiling.has_bias) bias_.Init(bias, 1, kGateE, pipe);
    if (tiling.has_router_scale) router_scale_.Init(router_scale, 1, kGateE, pipe);
    sums_.Init(workspace, counts, kGateE, pipe);
    pipe->InitBuffer(keys_, kGatePlane * sizeof(float));
    pipe->InitBuffer(chosen_, 2 * kGateSlots * sizeof(float));
    pipe->InitBuffer(halves_, 2 * kGateSlots * sizeof(half));
    pipe->InitBuffer(counts_, kGateG * kGateLanes * (sizeof(half) + sizeof(float)));
    pipe->InitBuffer(out_, 2, 2 * kGateSlots * sizeof(float));
  }
  __aicore__ inline void Process(const GroupedGateTiling& tiling) {
    Duplicate(Counts(), static_cast<half>(0.0f), kGateG * kGateLanes);
    Duplicate(Totals(), 0.0f, kGateG * kGateLanes);
    const Share share = MyShare(tiling.T);
    uint32_t tiles = 0;
    for (uint64_t token = share.begin; token < share.end; token += kGateTokens) {
      const uint32_t count = Min(kGateTokens, share.end - token);
      tile_.Score(token, count);
      Choose(tiling);
      Weigh(tiling, token, count);
      Count(count);
      if (++tiles % kGateCountTiles == 0) FlushCounts();
    }
    FlushCounts();
    bias_.Release();
    router_scale_.Release();
    PublishCounts();
  }

 private:
  __aicore__ inline LocalTensor<float> Local() { return chosen_.Get<float>(); }
  __aicore__ inline LocalTensor<float> Ids() { return chosen_.Get<float>()[kGateSlots]; }
  __aicore__ inline LocalTensor<float> Totals() { return counts_.Get<float>(); }
  __aicore__ inline LocalTensor<half> Counts() {
    return counts_.Get<float>()[kGateG * kGateLanes].template ReinterpretCast<half>();
  }

  // Local and Ids: the first of the largest keys of each group
  __aicore__ inline void Choose(const GroupedGateTiling& tiling) {
    const uint32_t count = tile_.tokens * kGateE, slots = tile_.tokens * kGateG;
    LocalTensor<float> keys = tile_.scores;
    const bool any_nan = !tiling.softmax || tiling.has_bias;
    if (any_nan) {  // some scores of a row, or some biases, may be NaN, and others not
      keys = keys_.Get<float>();
      if (tiling.has_bias) {
        Add(keys, tile_.scores, bias_.Values(), kGateE, tile_.tokens, tile_.ByLane());
      } else {
        Adds(keys, tile_.scores, 0.0f, count);
      }
      Compare(tile_.bits, keys, keys, CMPMODE::EQ, count);
      Maxs(keys, keys, kMinusInfinity, count);
      Select(keys, tile_.bits, keys, kNotANumber, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    }
    tile_.template Groups<ReduceType::MAX>(tile_.slots, keys);
    tile_.Spread(tile_.plane, tile_.slots);
    Compare(tile_.bits, keys, tile_.plane, CMPMODE::EQ, count);
    Select(tile_.plane, tile_.bits, tile_.lane, 8.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, kGateE,
           tile_.tokens, BinaryRepeatParams(1, 0, 0, 8, 0, 0));
    tile_.template Groups<ReduceType::MIN>(Local(), tile_.plane);
    if (!any_nan) {  // the softmax of a row with a NaN is all NaN and equals nothing: the first
      Compares(tile_.bits, Local(), 8.0f, CMPMODE::LT, slots);
      Select(Local(), tile_.bits, Local(), 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, slots);
    }
    Add(Ids(), Local(), tile_.group, kGateE, slots / kGateE, tile_.ByBlock());
  }

  __aicore__ inline void Weigh(const GroupedGateTiling& tiling, uint64_t token, uint32_t count) {
    const uint32_t slots = tile_.tokens * kGateG;
    LocalTensor<float> weights = out_.AllocTensor<float>();
    LocalTensor<int32_t> experts = weights[kGateSlots].template ReinterpretCast<int32_t>();
    tile_.ScoresOf(weights, Ids());
    if (tiling.renormalize) {
      tile_.template Rows<ReduceType::SUM>(tile_.slots, weights);
      Div(weights, weights, tile_.slots, slots);
    }
    if (tiling.scaling != 1.0f) Muls(weights, weights, tiling.scaling, slots);
    if (tiling.has_router_scale) {
      tile_.Lookup(tile_.slots, router_scale_.Values(), Ids());
      Mul(weights, weights, tile_.slots, slots);
    }
    Cast(experts, Ids(), RoundMode::CAST_RINT, slots);
    out_.EnQue(weights);
    weights = out_.DeQue<float>();
    Store(weights_[token * kGateG], weights, count * kGateG);
    Store(experts_[token * kGateG], weights[kGateSlots].template ReinterpretCast<int32_t>(),
          count * kGateG);
    out_.FreeTensor(weights);
  }

  __aicore__ inline void Count(uint32_t count) {
    const uint32_t slots = tile_.tokens * kGateG;
    LocalTensor<half> local = halves_.Get<half>(), hit = local[kGateSlots];
    if (count < tile_.tokens) {  // what only fills the tile is no expert's
      Duplicate(Local()[count * kGateG], -1.0f, (tile_.tokens - count) * kGateG);
    }
    Narrow(local, Local(), slots);
    LocalTensor<half> ones = keys_.Get<half>();
    Duplicate(ones, static_cast<half>(1.0f), slots);
    for (uint32_t i = 0; i < kGateE / kGateG; ++i) {
      LocalTensor<half> sum = Counts()[i * kGateLanes];
      Compares(tile_.bits, local, static_cast<half>(static_cast<float>(i)), CMPMODE::EQ, slots);
      Select(hit, tile_.bits, ones, static_cast<half>(0.0f), SELMODE::VSEL_TENSOR_SCALAR_MODE,
             slots);
      Add(sum, hit, sum, kGateLanes, slots / kGateLanes, BinaryRepeatParams(1, 1, 1, 0, 8, 0));
    }
  }
  __aicore__ inline void FlushCounts() {
    LocalTensor<float> wide = keys_.Get<float>();
    Widen(wide, Counts(), kGateG * kGateLanes);
    Add(Totals(), Totals(), wide, kGateG * kGateLanes);
    Duplicate(Counts(), static_cast<half>(0.0f), kGateG * kGateLanes);
  }
  // [8, 16, G] -> [G, 8], once for a core
  __aicore__ inline void PublishCounts() {
    LocalTensor<int32_t> own = sums_.Own();
    for (uint32_t i = 0; i < kGateE / kGateG; ++i) {
      LocalTensor<float> sum = Totals()[i * kGateLanes];
      for (uint32_t lanes = kGateLanes / 2; lanes >= kGateG; lanes /= 2) {
        Add(sum, sum, sum[lanes], lanes);
      }
      for (uint32_t g = 0; g < kGateG; ++g) {
        own.SetValue(g * kGateG + i, static_cast<int32_t>(sum.GetValue(g)));
      }
    }
    sums_.Reduce(own);
  }

  GateTile<T> tile_;
  GlobalTensor<float> weights_;
  GlobalTensor<int32_t> experts_;
  Constant bias_, router_scale_;
  CoreSums<int32_t> sums_;
  TBuf<TPosition::VECCALC> keys_, chosen_, halves_, counts_;
  TQue<TPosition::VECOUT, 1> out_;
};

template <typename T>
class GateBlocksBwd {
 public:
  __aicore__ inline void Init(GM_ADDR d_weights, GM_ADDR logits, GM_ADDR experts,
                              GM_ADDR router_scale, GM_ADDR d_logits, GM_ADDR d_router_scale,
                              GM_ADDR workspace, const GroupedGateTiling& tiling, TPipe* pipe) {
    tile_.Init(logits, tiling.softmax != 0, pipe);
    d_weights_ = Global<float>(d_weights);
    experts_ = Global<int32_t>(experts);
    d_logits_ = Global<T>(d_logits);
    if (tiling.has_router_scale) {
      router_scale_.Init(router_scale, 1, kGateE, pipe);
      sums_.Init(workspace, d_router_scale, kGateE, pipe);
      pipe->InitBuffer(acc_, kGateE * sizeof(float));
    }
    pipe->InitBuffer(in_, 2, 2 * kGateSlots * sizeof(float));
    pipe->InitBuffer(d_scores_, kGatePlane * sizeof(float));
    pipe->InitBuffer(small_, 5 * kGateSlots * sizeof(float));
    pipe->InitBuffer(out_, 2, kGatePlane * sizeof(T));
  }
  __aicore__ inline void Process(const GroupedGateTiling& tiling) {
    if (tiling.has_router_scale) Duplicate(acc_.Get<float>(), 0.0f, kGateE);
    const Share share = MyShare(tiling.T);
    for (uint64_t token = share.begin; token < share.end; token += kGateTokens) {
      const uint32_t count = Min(kGateTokens, share.end - token);
      tile_.Score(token, count);
      CopyIn(token, count);
      Derive(tiling);
      CopyOut(token, count);
    }
    if (tiling.has_router_scale) {
      router_scale_.Release();
      LocalTensor<float> own = sums_.Own();
      Adds(own, acc_.Get<float>(), 0.0f, kGateE);
      sums_.Reduce(own);
    }
  }

 private:
  __aicore__ inline LocalTensor<float> Small(uint32_t i) {
    return small_.Get<float>()[i * kGateSlots];
  }

  // d and ids of the slots; what only fills the tile has no gradient
  __aicore__ inline void CopyIn(uint64_t token, uint32_t count) {
    LocalTensor<float> in = in_.AllocTensor<float>();
    Load(in, d_weights_[token * kGateG], count * kGateG);
    Load(in[kGateSlots].template ReinterpretCast<int32_t>(), experts_[token * kGateG],
         count * kGateG);
    in_.EnQue(in);
    in = in_.DeQue<float>();
    LocalTensor<float> d = Small(0), ids = Small(1);
    Adds(d, in, 0.0f, count * kGateG);
    Cast(ids, in[kGateSlots].template ReinterpretCast<int32_t>(), RoundMode::CAST_NONE,
         count * kGateG);
    in_.FreeTensor(in);
    if (count < tile_.tokens) {
      Duplicate(d[count * kGateG], 0.0f, (tile_.tokens - count) * kGateG);
      Duplicate(ids[count * kGateG], 0.0f, (tile_.tokens - count) * kGateG);
    }
  }

  // d_scores of the chosen, spread over the row in d_scores_; scores stay
  __aicore__ inline void Derive(const GroupedGateTiling& tiling) {
    const uint32_t slots = tile_.tokens * kGateG;
    LocalTensor<float> d = Small(0), ids = Small(1), chosen = Small(2), base = Small(3),
                       total = Small(4);
    tile_.ScoresOf(chosen, ids);
    Sub(tile_.slots, ids, tile_.group, kGateE, slots / kGateE, tile_.ByBlock());
    tile_.Mark(tile_.slots);
    if (tiling.renormalize) {
      tile_.template Rows<ReduceType::SUM>(total, chosen);
      Div(base, chosen, total, slots);
    } else {
      Adds(base, chosen, 0.0f, slots);
    }
    if (tiling.scaling != 1.0f) Muls(d, d, tiling.scaling, slots);
    if (tiling.has_router_scale) {
      LocalTensor<float> acc = acc_.Get<float>();
      Mul(tile_.slots, d, base, slots);
      Scatter(tile_.plane, tile_.slots);
      Add(acc, tile_.plane, acc, kGateE, tile_.tokens, BinaryRepeatParams(1, 1, 1, 0, 8, 0));
      tile_.Lookup(tile_.slots, router_scale_.Values(), ids);
      Mul(d, d, tile_.slots, slots);
    }
    if (tiling.renormalize) {  // base_c = s_c / S: d_s_c = (d_base_c - sum_j d_base_j base_j) / S
      Mul(base, d, base, slots);
      tile_.template Rows<ReduceType::SUM>(tile_.slots, base);
      Sub(d, d, tile_.slots, slots);
      Div(d, d, total, slots);
    }
    Scatter(d_scores_.Get<float>(), d);
    if (tiling.softmax) {
      Mul(base, d, chosen, slots);
      tile_.template Rows<ReduceType::SUM>(total, base);
      Sub(d_scores_.Get<float>(), d_scores_.Get<float>(), total, kGateE, tile_.tokens,
          tile_.ByRow());
    } else {
      Muls(tile_.plane, tile_.scores, -1.0f, tile_.tokens * kGateE);
      Adds(tile_.plane, tile_.plane, 1.0f, tile_.tokens * kGateE);
      Mul(d_scores_.Get<float>(), d_scores_.Get<float>(), tile_.plane, tile_.tokens * kGateE);
    }
  }
  // values of the slots at their experts, zero elsewhere
  __aicore__ inline void Scatter(const LocalTensor<float>& dst, const LocalTensor<float>& values) {
    tile_.Spread(dst, values);
    Select(dst, tile_.bits, dst, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, tile_.tokens * kGateE);
  }

  __aicore__ inline void CopyOut(uint64_t token, uint32_t count) {
    LocalTensor<T> out = out_.template AllocTensor<T>();
    LocalTensor<float> d_scores = d_scores_.Get<float>();
    if constexpr (kIsFloat<T>) {
      Mul(out, d_scores, tile_.scores, count * kGateE);
    } else {
      Mul(d_scores, d_scores, tile_.scores, count * kGateE);
      Narrow(out, d_scores, count * kGateE);
    }
    out_.EnQue(out);
    out = out_.template DeQue<T>();
    Store(d_logits_[token * kGateE], out, count * kGateE);
    out_.FreeTensor(out);
  }

  GateTile<T> tile_;
  GlobalTensor<float> d_weights_;
  GlobalTensor<int32_t> experts_;
  GlobalTensor<T> d_logits_;
  Constant router_scale_;
  CoreSums<float> sums_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> d_scores_, small_, acc_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_BLOCKS_KERNEL_H_
