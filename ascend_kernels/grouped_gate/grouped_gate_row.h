// A row of the gate's scores, for any E and G. Each group begins on a block in UB:
//
//    | group 0: P scores | filler | group 1: P scores | filler |  ...  |
//    |<---- a pitch, whole blocks ---->|
#ifndef MOGE_ASCEND_GROUPED_GATE_ROW_H_
#define MOGE_ASCEND_GROUPED_GATE_ROW_H_

#include "grouped_gate_common.h"

namespace moge {

constexpr uint32_t kGateRepeat = kPerRepeat<float>;  // rows are whole repeats

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
  // weights and experts twice; then, in the forward, given ids twice, and in the backward chosen_
  const uint64_t slots = 6 * (K + 8) * 4;
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
  // Whether an id is an expert's, not a dropped slot's; one below 0 comes as a large number.
  __aicore__ inline bool Has(uint32_t expert) const { return expert < E_; }
  // The score of a slot's expert; 0 for a dropped slot, which has no place in the row.
  __aicore__ inline float ScoreOf(uint32_t expert) const {
    return Has(expert) ? scores.GetValue(Place(expert)) : 0.0f;
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

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_ROW_H_
