// The gate for any E, G and k, a token at a time: scores are vector work on the whole row. The k
// best experts of a group are found one after the other, unless the choice is given, and what
// concerns only the chosen experts is scalar work.
#ifndef MOGE_ASCEND_GROUPED_GATE_ROWS_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GATE_ROWS_KERNEL_H_

#include "grouped_gate_row.h"

namespace moge {

// A chosen score divided by the sum of the chosen; equal shares if that is 0.
__aicore__ inline float GateShare(const GroupedGateTiling& tiling, float score, float total) {
  return total == 0.0f ? 1.0f / static_cast<float>(tiling.G * tiling.k) : score / total;
}

//    buffer         holds                            filled by, read by, guard
//    bits_          a bit for each score             V, in order
//    bias_          [G, pitch]; bias_in_ as loaded   V, in order
//    given_in_      2 x [K] ids, if they are given   MTE2, S; queue
//    weights_out_   2 x [K] weights                  S, MTE3; queue
//    experts_out_   2 x [K] experts                  S, MTE3; queue
//    counts         [E] of this core (in sums_)      S; CoreSums adds up the cores'
template <typename T>
class GateRowsFwd {
 public:
  __aicore__ inline void Init(GM_ADDR logits, GM_ADDR bias, GM_ADDR router_scale, GM_ADDR given,
                              GM_ADDR weights, GM_ADDR experts, GM_ADDR counts, GM_ADDR workspace,
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
    if (tiling.given) {
      given_ = Global<int32_t>(given);
      pipe->InitBuffer(given_in_, 2, RoundUp(tiling.G * tiling.k * 4, kBlockBytes));
    }
    sums_.Init(workspace, counts, tiling.E, pipe);
    pipe->InitBuffer(weights_out_, 2, RoundUp(tiling.G * tiling.k * 4, kBlockBytes));
    pipe->InitBuffer(experts_out_, 2, RoundUp(tiling.G * tiling.k * 4, kBlockBytes));
  }
  __aicore__ inline void Process(const GroupedGateTiling& tiling) {
    LocalTensor<int32_t> counts = sums_.Own();
    Duplicate(counts, 0, tiling.E);
    const Share share = TokenShare(tiling);
    for (uint64_t token = share.begin; token < share.end; ++token) {
      row_.Score(token);
      Token(tiling, counts, token);
    }
    bias_in_.Release();
    router_scale_.Release();
    if (tiling.has_counts) {
      sums_.Reduce(counts);
    } else {
      sums_.Release(counts);
    }
  }

 private:
  __aicore__ inline void Token(const GroupedGateTiling& tiling, const LocalTensor<int32_t>& counts,
                               uint64_t token) {
    LocalTensor<int32_t> given;
    LocalTensor<float> keys;
    if (tiling.given) {
      given = CopyIn(tiling, token);
    } else {
      keys = OrderedKeys(tiling);
    }
    LocalTensor<float> weights = weights_out_.AllocTensor<float>();
    LocalTensor<int32_t> experts = experts_out_.AllocTensor<int32_t>();
    const uint32_t K = tiling.G * tiling.k;
    float total = 0.0f;
    for (uint32_t c = 0; c < K; ++c) {
      const uint32_t expert = tiling.given ? given.GetValue(c) : Choose(keys, c / tiling.k);
      const float score = row_.ScoreOf(expert);
      total += score;
      weights.SetValue(c, score);
      experts.SetValue(c, row_.Has(expert) ? static_cast<int32_t>(expert) : -1);
      if (row_.Has(expert)) counts.SetValue(expert, counts.GetValue(expert) + 1);
    }
    if (tiling.given) given_in_.FreeTensor(given);
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
  // The token's ids, for FreeTensor.
  __aicore__ inline LocalTensor<int32_t> CopyIn(const GroupedGateTiling& tiling, uint64_t token) {
    const uint32_t K = tiling.G * tiling.k;
    LocalTensor<int32_t> given = given_in_.AllocTensor<int32_t>();
    Load(given, given_[token * K], K);
    given_in_.EnQue(given);
    return given_in_.DeQue<int32_t>();
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
    // a dropped slot's share of a sum that is 0 or NaN would not be 0
    if (tiling.given && experts.GetValue(c) < 0) return 0.0f;
    float weight = tiling.renormalize ? GateShare(tiling, score, total) : score;
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
  GlobalTensor<int32_t> experts_, given_;
  Constant bias_in_, router_scale_;
  CoreSums<int32_t> sums_;
  TBuf<TPosition::VECCALC> bits_, bias_;
  TQue<TPosition::VECIN, 1> given_in_;
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
      for (uint32_t c = 0; c < K; ++c) total += row_.ScoreOf(experts.GetValue(c));
    }
    float along_base = 0.0f;
    for (uint32_t c = 0; c < K; ++c) {
      const uint32_t expert = experts.GetValue(c);
      if (!row_.Has(expert)) continue;
      const float score = row_.ScoreOf(expert);
      const float base = tiling.renormalize ? GateShare(tiling, score, total) : score;
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
      if (!row_.Has(expert)) continue;
      const uint32_t place = row_.Place(expert);
      float d = d_base.GetValue(c) - along_base;
      if (tiling.renormalize) d *= total == 0.0f ? 0.0f : row_.slopes.GetValue(place) / total;
      along += d * row_.ScoreOf(expert);
      if (tiling.given) d += d_scores.GetValue(place);  // of other slots with this expert
      d_scores.SetValue(place, d);
    }
    return along;
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
