// The gate for any E, G and k, a token at a time. Each group of a row begins on a block in UB:
//
//    | group 0: P scores | filler | group 1: P scores | filler |  ...  |
//    |<---- a pitch, whole blocks ---->|
//
// Scores are vector work on the whole row. The k best experts of a group are found one after the
// other, and what concerns only the chosen experts is scalar work.
#ifndef MOGE_ASCEND_GROUPED_GATE_ROWS_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GATE_ROWS_KERNEL_H_

#include "grouped_gate_common.h"

namespace moge {

constexpr uint32_t kGateRepeat = kRepeatBytes / sizeof(float);  // rows are whole repeats

// Elements of a row in UB, rounded up to whole repeats of float.
constexpr uint64_t GateWidth(uint64_t E, uint64_t G, uint32_t size) {
  const uint64_t per_block = kBlockBytes / size;
  return CeilDiv(G * CeilDiv(E / G, per_block) * per_block, kGateRepeat) * kGateRepeat;
}
// Elements for a reduction of such a row: a repeat for its result, then its temporary, which takes
// two for each repeat of the row and a few more.
constexpr uint64_t GateTmp(uint64_t width) {
  const uint64_t tmp = 3 * (width / kGateRepeat), least = 3 * kGateRepeat;
  return kGateRepeat + RoundUp(tmp < least ? least : tmp, kPerBlock<float>);
}
// The most bytes of UB that either pass takes; the host refuses what has no room. Vectors of E or K
// are rounded up to whole blocks, by less than 8 elements.
constexpr uint64_t GateRowsBytes(uint64_t E, uint64_t G, uint64_t K, uint32_t size,
                                 GateScore score) {
  const uint64_t width = GateWidth(E, G, size);
  const uint64_t logits = 2 * width * size, scores = width * 4, spare = width * 4;
  const uint64_t slopes = score == GateScore::kSqrtSoftplus ? width * 4 : 0;
  const uint64_t row = logits + scores + spare + slopes + GateTmp(width) * 4;
  const uint64_t router_scale = (E + 8) * 4, core_sums = 3 * (E + 8) * 4;
  const uint64_t bias = width * 4, bias_in = width * 4, bits = width / 8 + kBlockBytes;
  const uint64_t d_scores = width * 4, d_logits = 2 * width * size;
  const uint64_t forward = bias + bias_in + bits, backward = d_scores + d_logits;
  const uint64_t slots = 6 * (K + 8) * 4;  // weights and experts twice, two more in the backward
  return row + router_scale + core_sums + slots + (forward < backward ? backward : forward);
}

//    buffer         holds                            filled by, read by, guard
//    in_            2 rows of logits [G, pitch]      MTE2, V; queue
//    scores, spare  [G, pitch] in float              V, in order; S reads and writes single ones
//    slopes         for the softmax, scores; for     V, in order; S reads single ones
//                   the sigmoid, spare
//    tmp_           a reduction and its temporary    V, then S
template <typename T>
class GateRow {
 public:
  __aicore__ inline void Init(GM_ADDR logits, uint32_t E, uint32_t G, GateScore score,
                              TPipe* pipe) {
    logits_ = Global<T>(logits);
    score_ = score;
    E_ = E;
    G_ = G;
    P = E / G;
    pitch = RoundUp(P, kPerBlock<T>);
    width = G_ * pitch;
    const uint32_t whole = GateWidth(E_, G_, sizeof(T));
    pipe->InitBuffer(in_, 2, whole * sizeof(T));
    pipe->InitBuffer(row_, 2 * whole * sizeof(float));
    pipe->InitBuffer(tmp_, GateTmp(whole) * sizeof(float));
    scores = row_.Get<float>();
    spare = scores[whole];
    slopes = score == GateScore::kSoftmax ? scores : spare;
    if (score == GateScore::kSqrtSoftplus) {
      pipe->InitBuffer(slopes_, whole * sizeof(float));
      slopes = slopes_.Get<float>();
    }
    // instructions on whole repeats also read what follows the row
    Duplicate(scores, 0.0f, 2 * whole);
  }
  // The filler after each group is -inf, whose score is 0.
  __aicore__ inline void Score(uint64_t token) {
    LocalTensor<T> in = in_.template AllocTensor<T>();
    const float minus_infinity = -1.0f / 0.0f;
    DataCopyPad(in, logits_[token * E_], DataCopyExtParams(G_, P * sizeof(T), 0, 0, 0),
                DataCopyPadExtParams<T>(true, 0, pitch - P, static_cast<T>(minus_infinity)));
    in_.EnQue(in);
    in = in_.template DeQue<T>();
    if constexpr (kIsFloat<T>) {
      Adds(scores, in, 0.0f, width);
    } else {
      Widen(scores, in, width);
    }
    in_.FreeTensor(in);
    if (score_ == GateScore::kSoftmax) {
      Adds(scores, scores, -Best(scores, width).value, width);
      Exp(scores, scores, width);
      LocalTensor<float> tmp = tmp_.Get<float>();
      ReduceSum(tmp, scores, tmp[kGateRepeat], width);
      Muls(scores, scores, 1.0f / tmp.GetValue(0), width);
    } else if (score_ == GateScore::kSqrtSoftplus) {
      SqrtSoftplus(scores, slopes, spare, width);
    } else {
      Muls(scores, scores, -1.0f, width);
      Exp(scores, scores, width);
      Adds(scores, scores, 1.0f, width);
      Duplicate(spare, 1.0f, width);
      Div(scores, spare, scores, width);
    }
  }
  // `slopes`: the scores' derivatives by their own logits, without the softmax's other term.
  __aicore__ inline void Derive() {
    if (score_ != GateScore::kSigmoid) return;  // Score has done it
    Muls(slopes, scores, -1.0f, width);
    Adds(slopes, slopes, 1.0f, width);
    Mul(slopes, slopes, scores, width);
  }
  struct Largest {
    float value;
    uint32_t index;
  };
  __aicore__ inline Largest Best(const LocalTensor<float>& values, uint32_t count) {
    LocalTensor<float> tmp = tmp_.Get<float>();
    ReduceMax(tmp, values, tmp[kGateRepeat], count, true);
    return {tmp.GetValue(0), tmp.ReinterpretCast<uint32_t>().GetValue(1)};
  }
  // Where the expert's score is in a row.
  __aicore__ inline uint32_t Place(uint32_t expert) const {
    return expert / P * pitch + expert % P;
  }

  uint32_t P = 0;             // experts of a group
  uint32_t pitch = 0;         // elements from group to group,
  uint32_t width = 0;         // and of a row
  LocalTensor<float> scores;  // [G, pitch]
  LocalTensor<float> spare;   // [G, pitch], free for the caller
  LocalTensor<float> slopes;  // [G, pitch]

 private:
  GlobalTensor<T> logits_;
  GateScore score_ = GateScore::kSoftmax;
  uint32_t E_ = 0, G_ = 0;
  TQue<TPosition::VECIN, 1> in_;
  TBuf<TPosition::VECCALC> row_, slopes_, tmp_;
};

// A chosen score divided by the sum of the chosen; equal shares if that is 0.
__aicore__ inline float ShareOf(const GroupedGateTiling& tiling, float score, float total) {
  return total == 0.0f ? 1.0f / static_cast<float>(tiling.G * tiling.k) : score / total;
}

//    buffer         holds                            filled by, read by, guard
//    bits_          a bit for each score             V, in order
//    bias_          [G, pitch]; bias_in_ as loaded   V, in order
//    weights_out_   2 x [K] weights                  S, MTE3; queue
//    experts_out_   2 x [K] experts                  S, MTE3; queue
//    counts         [E] of this core (in sums_)      S; CoreSums adds up the cores'
template <typename T>
class GateRowsFwd {
 public:
  __aicore__ inline void Init(GM_ADDR logits, GM_ADDR bias, GM_ADDR router_scale, GM_ADDR weights,
                              GM_ADDR experts, GM_ADDR counts, GM_ADDR workspace,
                              const GroupedGateTiling& tiling, TPipe* pipe) {
    row_.Init(logits, tiling.E, tiling.G, tiling.score, pipe);
    weights_ = Global<float>(weights);
    experts_ = Global<int32_t>(experts);
    pipe->InitBuffer(bits_, RoundUp(row_.width, kRepeatBytes) / 8);
    if (tiling.has_bias) {
      bias_in_.Init(bias, tiling.G, row_.P, pipe);
      pipe->InitBuffer(bias_, row_.width * sizeof(float));
      // from the pitch of float to that of the logits
      const uint32_t pitch = RoundUp(row_.P, kPerBlock<float>);
      Duplicate(bias_.Get<float>(), 0.0f, row_.width);
      for (uint32_t g = 0; g < tiling.G; ++g) {
        Adds(bias_.Get<float>()[g * row_.pitch], bias_in_.Values()[g * pitch], 0.0f, row_.P);
      }
    }
    if (tiling.has_router_scale) router_scale_.Init(router_scale, 1, tiling.E, pipe);
    sums_.Init(workspace, counts, tiling.E, pipe);
    pipe->InitBuffer(weights_out_, 2, RoundUp(tiling.G * tiling.k * 4, kBlockBytes));
    pipe->InitBuffer(experts_out_, 2, RoundUp(tiling.G * tiling.k * 4, kBlockBytes));
  }
  __aicore__ inline void Process(const GroupedGateTiling& tiling) {
    LocalTensor<int32_t> counts = sums_.Own();
    Duplicate(counts, 0, tiling.E);
    const Share share = MyShare(tiling.T);
    for (uint64_t token = share.begin; token < share.end; ++token) {
      row_.Score(token);
      Token(tiling, counts, token);
    }
    bias_in_.Release();
    router_scale_.Release();
    sums_.Reduce(counts);
  }

 private:
  __aicore__ inline void Token(const GroupedGateTiling& tiling, const LocalTensor<int32_t>& counts,
                               uint64_t token) {
    const LocalTensor<float>& keys = OrderedKeys(tiling);
    LocalTensor<float> weights = weights_out_.AllocTensor<float>();
    LocalTensor<int32_t> experts = experts_out_.AllocTensor<int32_t>();
    const uint32_t K = tiling.G * tiling.k;
    float total = 0.0f;
    for (uint32_t c = 0; c < K; ++c) {
      const uint32_t expert = Choose(keys, c / tiling.k);
      const float score = row_.scores.GetValue(row_.Place(expert));
      total += score;
      weights.SetValue(c, score);
      experts.SetValue(c, static_cast<int32_t>(expert));
      counts.SetValue(expert, counts.GetValue(expert) + 1);
    }
    for (uint32_t c = 0; c < K; ++c) {
      weights.SetValue(c, Weigh(tiling, total, weights.GetValue(c), experts, c));
    }
    weights_out_.EnQue(weights);
    experts_out_.EnQue(experts);
    weights = weights_out_.DeQue<float>();
    experts = experts_out_.DeQue<int32_t>();
    Store(weights_[token * K], weights, K);
    Store(experts_[token * K], experts, K);
    weights_out_.FreeTensor(weights);
    experts_out_.FreeTensor(experts);
  }
  // The group's best expert, which is then not chosen again: -inf is below a NaN's key, too.
  __aicore__ inline uint32_t Choose(const LocalTensor<float>& keys, uint32_t group) {
    const uint32_t first = group * row_.pitch;
    const uint32_t best = row_.Best(keys[first], row_.P).index;
    keys.SetValue(first + best, -1.0f / 0.0f);
    return group * row_.P + best;
  }
  __aicore__ inline float Weigh(const GroupedGateTiling& tiling, float total, float score,
                                const LocalTensor<int32_t>& experts, uint32_t c) const {
    float weight = tiling.renormalize ? ShareOf(tiling, score, total) : score;
    weight *= tiling.scaling;
    if (!tiling.has_router_scale) return weight;
    return weight * router_scale_.Values().GetValue(experts.GetValue(c));
  }
  // The biased scores in the order of the choice: see kMinusInfinity.
  __aicore__ inline const LocalTensor<float>& OrderedKeys(const GroupedGateTiling& tiling) {
    const LocalTensor<float>& keys = row_.spare;
    if (tiling.has_bias) {
      Add(keys, row_.scores, bias_.Get<float>(), row_.width);
    } else {
      Adds(keys, row_.scores, 0.0f, row_.width);
    }
    const uint32_t whole = RoundUp(row_.width, kGateRepeat);
    LocalTensor<uint8_t> bits = bits_.Get<uint8_t>();
    Compare(bits, keys, keys, CMPMODE::EQ, whole);
    Maxs(keys, keys, kMinusInfinity, row_.width);
    Select(keys, bits, keys, kNotANumber, SELMODE::VSEL_TENSOR_SCALAR_MODE, row_.width);
    return keys;
  }

  GateRow<T> row_;
  GlobalTensor<float> weights_;
  GlobalTensor<int32_t> experts_;
  Constant bias_in_, router_scale_;
  CoreSums<int32_t> sums_;
  TBuf<TPosition::VECCALC> bits_, bias_;
  TQue<TPosition::VECOUT, 1> weights_out_, experts_out_;
};

//    buffer         holds                            filled by, read by, guard
//    weights_in_    2 x [K] d_weights                MTE2, S; queue
//    experts_in_    2 x [K] experts                  MTE2, S; queue
//    chosen_        [K] gradients, not yet complete  S
//    d_scores_      [G, pitch]                       V and S, in order
//    out_           2 rows of d_logits [G, pitch]    V, MTE3; queue
template <typename T>
class GateRowsBwd {
 public:
  __aicore__ inline void Init(GM_ADDR d_weights, GM_ADDR logits, GM_ADDR experts,
                              GM_ADDR router_scale, GM_ADDR d_logits, GM_ADDR d_router_scale,
                              GM_ADDR workspace, const GroupedGateTiling& tiling, TPipe* pipe) {
    row_.Init(logits, tiling.E, tiling.G, tiling.score, pipe);
    d_weights_ = Global<float>(d_weights);
    experts_ = Global<int32_t>(experts);
    d_logits_ = Global<T>(d_logits);
    if (tiling.has_router_scale) {
      router_scale_.Init(router_scale, 1, tiling.E, pipe);
      sums_.Init(workspace, d_router_scale, tiling.E, pipe);
    }
    const uint32_t K = tiling.G * tiling.k;
    pipe->InitBuffer(weights_in_, 2, RoundUp(K * sizeof(float), kBlockBytes));
    pipe->InitBuffer(experts_in_, 2, RoundUp(K * sizeof(float), kBlockBytes));
    pipe->InitBuffer(chosen_, RoundUp(K, kPerBlock<float>) * 2 * sizeof(float));
    pipe->InitBuffer(d_scores_, row_.width * sizeof(float));
    pipe->InitBuffer(out_, 2, row_.width * sizeof(T));
  }
  __aicore__ inline void Process(const GroupedGateTiling& tiling) {
    LocalTensor<float> sums;
    if (tiling.has_router_scale) {
      sums = sums_.Own();
      Duplicate(sums, 0.0f, tiling.E);
    }
    const Share share = MyShare(tiling.T);
    for (uint64_t token = share.begin; token < share.end; ++token) {
      row_.Score(token);
      row_.Derive();
      Derive(tiling, sums, token);
      CopyOut(tiling, token);
    }
    if (tiling.has_router_scale) {
      router_scale_.Release();
      sums_.Reduce(sums);
    }
  }

 private:
  __aicore__ inline void Derive(const GroupedGateTiling& tiling, const LocalTensor<float>& sums,
                                uint64_t token) {
    const uint32_t K = tiling.G * tiling.k;
    LocalTensor<float> d_weights = weights_in_.AllocTensor<float>();
    LocalTensor<int32_t> experts = experts_in_.AllocTensor<int32_t>();
    Load(d_weights, d_weights_[token * K], K);
    Load(experts, experts_[token * K], K);
    weights_in_.EnQue(d_weights);
    experts_in_.EnQue(experts);
    d_weights = weights_in_.DeQue<float>();
    experts = experts_in_.DeQue<int32_t>();
    const float along = DeriveChosen(tiling, sums, d_weights, experts);
    weights_in_.FreeTensor(d_weights);
    experts_in_.FreeTensor(experts);
    LocalTensor<float> d_scores = d_scores_.Get<float>();
    if (tiling.score == GateScore::kSoftmax && !tiling.renormalize) {
      Adds(d_scores, d_scores, -along, row_.width);  // d_x = s (d_s - sum_j d_s_j s_j)
    }
  }
  // Fills d_scores_, which is zero but for the chosen experts, with the gradients of the scores, or
  // renormalized, of the logits. Returns sum_j d_s_j s_j.
  __aicore__ inline float DeriveChosen(const GroupedGateTiling& tiling,
                                       const LocalTensor<float>& sums,
                                       const LocalTensor<float>& d_weights,
                                       const LocalTensor<int32_t>& experts) {
    const uint32_t K = tiling.G * tiling.k;
    LocalTensor<float> d_base = chosen_.Get<float>();
    float total = 1.0f;
    if (tiling.renormalize) {
      total = 0.0f;
      for (uint32_t c = 0; c < K; ++c) total += Score(experts.GetValue(c));
    }
    float along_base = 0.0f;
    for (uint32_t c = 0; c < K; ++c) {
      const uint32_t expert = experts.GetValue(c);
      const float base = tiling.renormalize ? ShareOf(tiling, Score(expert), total) : Score(expert);
      float d = d_weights.GetValue(c) * tiling.scaling;
      if (tiling.has_router_scale) {
        sums.SetValue(expert, sums.GetValue(expert) + d * base);
        d *= router_scale_.Values().GetValue(expert);
      }
      if (tiling.renormalize) along_base += d * base;
      d_base.SetValue(c, d);
    }
    // base_c = s_c / S: d_s_c = (d_base_c - sum_j d_base_j base_j) / S, which may overflow, but not
    // times the slope, since that is at most s_c. The softmax's other term is 0
    LocalTensor<float> d_scores = d_scores_.Get<float>();
    Duplicate(d_scores, 0.0f, row_.width);
    float along = 0.0f;
    for (uint32_t c = 0; c < K; ++c) {
      const uint32_t expert = experts.GetValue(c);
      float d = d_base.GetValue(c) - along_base;
      if (tiling.renormalize) {
        d *= total == 0.0f ? 0.0f : row_.slopes.GetValue(row_.Place(expert)) / total;
      }
      d_scores.SetValue(row_.Place(expert), d);
      along += d * Score(expert);
    }
    return along;
  }
  __aicore__ inline float Score(uint32_t expert) const {
    return row_.scores.GetValue(row_.Place(expert));
  }

  __aicore__ inline void Complete(const GroupedGateTiling& tiling, const LocalTensor<float>& dst) {
    LocalTensor<float> d_scores = d_scores_.Get<float>();
    if (tiling.renormalize) {  // a NaN stays
      Muls(row_.slopes, row_.slopes, 0.0f, row_.width);
      Add(dst, d_scores, row_.slopes, row_.width);
    } else {
      Mul(dst, d_scores, row_.slopes, row_.width);
    }
  }
  __aicore__ inline void CopyOut(const GroupedGateTiling& tiling, uint64_t token) {
    LocalTensor<T> out = out_.template AllocTensor<T>();
    LocalTensor<float> d_scores = d_scores_.Get<float>();
    if constexpr (kIsFloat<T>) {
      Complete(tiling, out);
    } else {
      Complete(tiling, d_scores);
      Narrow(out, d_scores, row_.width);
    }
    out_.EnQue(out);
    out = out_.template DeQue<T>();
    DataCopyPad(d_logits_[token * tiling.E], out,
                DataCopyExtParams(tiling.G, row_.P * sizeof(T), 0, 0, 0));
    out_.FreeTensor(out);
  }

  GateRow<T> row_;
  GlobalTensor<float> d_weights_;
  GlobalTensor<int32_t> experts_;
  GlobalTensor<T> d_logits_;
  Constant router_scale_;
  CoreSums<float> sums_;
  TQue<TPosition::VECIN, 1> weights_in_, experts_in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> chosen_, d_scores_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_ROWS_KERNEL_H_
