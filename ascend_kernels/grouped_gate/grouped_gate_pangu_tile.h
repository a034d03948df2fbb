// Scores of up to 64 tokens in UB, for the gate's backward pass at Pangu's E, G and k = 1.
//
// In float, a token is one repeat and a group one block, so one instruction works on all tokens of
// the tile, and no scalar is read for a token:
//
//    token t   | group 0        | group 1        |  ...  | group 7         |   a repeat: 256 bytes
//              | s0  s1  ..  s7 | s8  s9  .. s15 |       | s56 s57  .. s63 |   a block: 32 bytes
//
//    [t, E]  -- ReduceGroups ->  [t, G]  -- ReduceTokens ->  [t], repeated as [t, G]
//    [t, E]  <- Broadcast -----  [t, G]
//    [t, E]  -- GatherExperts -> [t, G]   the values of the experts whose ids are given
#ifndef MOGE_ASCEND_GROUPED_GATE_PANGU_TILE_H_
#define MOGE_ASCEND_GROUPED_GATE_PANGU_TILE_H_

#include "grouped_gate_common.h"

namespace moge {

constexpr uint32_t kGateTokens = 64;  // a tile has at most this many
constexpr uint32_t kTileScores = kGateTokens * Pangu::kE;
constexpr uint32_t kTileSlots = kGateTokens * Pangu::kG;
constexpr uint32_t kTokenStep = 16;  // a tile is rounded up to whole repeats of float16 [t, G]

// Everything in UB that is not a queue is filled and read by V, in order; no flag guards it.
//
//    buffer        bytes (T of 4)   holds
//    in_           2 x 16 KB        logits [t, E]; queue: MTE2 fills it, V reads it
//    scores        16 KB            scores [t, E]
//    spare         16 KB            [t, E], free for the caller
//    slopes        16 KB            [t, E], the scores' derivatives; for the softmax, the scores
//    spare_slots   2 KB             [t, G], free for the caller
//    token_start_  2 KB             64 t for each slot: where a token's scores begin
//    places_       2 KB             [t, G], places that a gather reads
//    addresses_    2 KB             [t, G], the same in bytes
//    tokens_       2 KB             [t]
//    bits          512              a bit for each score
//    in_group      32               0 to 7: an expert's number in its group
//    group         32               0, 8, ... 56: each group's first expert
template <typename T>
class PanguGateTile : Pangu {
 public:
  static constexpr uint32_t kBytes = 2 * kTileScores * sizeof(T) + 3 * kTileScores * sizeof(float) +
                                     5 * kTileSlots * sizeof(float) + kTileScores / 8 +
                                     (kP + kG) * sizeof(float);

  __aicore__ inline void Init(GM_ADDR logits, GateScore score, TPipe* pipe) {
    logits_ = Global<T>(logits);
    score_ = score;
    pipe->InitBuffer(in_, 2, kTileScores * sizeof(T));
    pipe->InitBuffer(all_experts_, 3 * kTileScores * sizeof(float));
    pipe->InitBuffer(all_slots_, 5 * kTileSlots * sizeof(float));
    pipe->InitBuffer(all_bits_, kTileScores / 8);
    pipe->InitBuffer(constants_, (kP + kG) * sizeof(float));
    scores = all_experts_.Get<float>();
    spare = scores[kTileScores];
    slopes = score == GateScore::kSoftmax ? scores : spare[kTileScores];
    spare_slots = all_slots_.Get<float>();
    token_start_ = spare_slots[kTileSlots];
    places_ = token_start_[kTileSlots];
    addresses_ = places_[kTileSlots];
    tokens_ = addresses_[kTileSlots];
    bits = all_bits_.Get<uint8_t>();
    in_group = constants_.Get<float>();
    group = in_group[kP];
    CreateVecIndex(in_group, 0.0f, kP);
    Muls(group, in_group, static_cast<float>(kP), kG);
    CreateVecIndex(tokens_, 0.0f, kGateTokens);
    Muls(tokens_, tokens_, static_cast<float>(kE), kGateTokens);
    Brcb(token_start_, tokens_, kGateTokens / 8, BrcbRepeatParams(1, 8));
  }
  // Scores of `count` tokens. The rest of the tile, up to whole repeats, has the logits 0.
  __aicore__ inline void Score(uint64_t token, uint32_t count) {
    tokens = RoundUp(count, kTokenStep);
    LocalTensor<T> in = in_.template AllocTensor<T>();
    Load(in, logits_[token * kE], count * kE);
    in_.EnQue(in);
    in = in_.template DeQue<T>();
    LocalTensor<float> x;
    if constexpr (kIsFloat<T>) {
      x = in;
    } else {
      x = scores;
      Widen(x, in, count * kE);
    }
    if (count < tokens) Duplicate(x[count * kE], 0.0f, (tokens - count) * kE);
    if (score_ == GateScore::kSoftmax) {
      Softmax(x);
    } else if (score_ == GateScore::kSigmoid) {
      Sigmoid(x);
    } else {
      if constexpr (kIsFloat<T>) Adds(scores, x, 0.0f, tokens * kE);
      SqrtSoftplus(scores, slopes, spare, tokens * kE);
    }
    in_.FreeTensor(in);
  }
  // `slopes`: the scores' derivatives by their own logits, without the softmax's other term.
  __aicore__ inline void Derive() {
    if (score_ != GateScore::kSigmoid) return;  // Score has done it
    Muls(slopes, scores, -1.0f, tokens * kE);
    Adds(slopes, slopes, 1.0f, tokens * kE);
    Mul(slopes, slopes, scores, tokens * kE);
  }

  // [t, E] -> [t, G]
  template <ReduceType type>
  __aicore__ inline void ReduceGroups(const LocalTensor<float>& dst,
                                      const LocalTensor<float>& src) {
    ReduceDataBlock<type>(dst, src, kE, tokens, 1, 1, 8);
  }
  // [t, G] -> [t], which dst [t, G] repeats for every slot of a token
  template <ReduceType type>
  __aicore__ inline void ReduceTokens(const LocalTensor<float>& dst,
                                      const LocalTensor<float>& src) {
    ReduceDataBlock<type>(tokens_, src, kE, tokens / 8, 1, 1, 8);
    Brcb(dst, tokens_, tokens / 8, BrcbRepeatParams(1, 8));
  }
  // [t, G] -> [t, E]
  __aicore__ inline void Broadcast(const LocalTensor<float>& dst, const LocalTensor<float>& src) {
    Brcb(dst, src, tokens, BrcbRepeatParams(1, 8));
  }
  // The second operand of an instruction on [t, E] is
  // a block [t, G] that holds the token's value G times,
  static __aicore__ inline BinaryRepeatParams ByToken() { return {1, 1, 0, 8, 8, 1}; }
  // or one block for every block.
  static __aicore__ inline BinaryRepeatParams ByBlock() { return {1, 1, 0, 8, 8, 0}; }

  // Sets `bits` of the experts with these numbers in their groups, [t, G].
  __aicore__ inline void Mark(const LocalTensor<float>& local) {
    Broadcast(spare, local);
    Compare(bits, spare, in_group, CMPMODE::EQ, kE, tokens, ByBlock());
  }
  // dst = values [t, E] of the experts in `ids`, [t, G]
  __aicore__ inline void GatherExperts(const LocalTensor<float>& dst,
                                       const LocalTensor<float>& values,
                                       const LocalTensor<float>& ids) {
    Add(places_, ids, token_start_, tokens * kG);
    GatherAt(dst, values, places_);
  }
  // shares = values [t, G] divided by their token's sum, total; for a sum of 0, 1 / G and 1.
  __aicore__ inline void Share(const LocalTensor<float>& shares, const LocalTensor<float>& total,
                               const LocalTensor<float>& values) {
    const uint32_t slots = tokens * kG;
    ReduceTokens<ReduceType::SUM>(total, values);
    Div(shares, values, total, slots);
    // NE would not hold for a NaN, which has to stay
    Compares(bits, total, 0.0f, CMPMODE::EQ, slots);
    const LocalTensor<uint16_t> words = bits.ReinterpretCast<uint16_t>();
    Not(words, words, slots / 16);
    Select(shares, bits, shares, 1.0f / kG, SELMODE::VSEL_TENSOR_SCALAR_MODE, slots);
    Select(total, bits, total, 1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, slots);
  }
  // dst = values[places], [t, G]
  __aicore__ inline void GatherAt(const LocalTensor<float>& dst, const LocalTensor<float>& values,
                                  const LocalTensor<float>& places) {
    LocalTensor<int32_t> bytes = addresses_.ReinterpretCast<int32_t>();
    Muls(addresses_, places, static_cast<float>(sizeof(float)), tokens * kG);
    Cast(bytes, addresses_, RoundMode::CAST_RINT, tokens * kG);
    Gather(dst, values, bytes.ReinterpretCast<uint32_t>(), 0, tokens * kG);
  }

  uint32_t tokens = 0;  // the tile's, rounded up
  LocalTensor<float> scores, spare, slopes, spare_slots, in_group, group;
  LocalTensor<uint8_t> bits;

 private:
  __aicore__ inline void Softmax(const LocalTensor<float>& x) {
    ReduceGroups<ReduceType::MAX>(spare_slots, x);
    ReduceTokens<ReduceType::MAX>(places_, spare_slots);
    Sub(scores, x, places_, kE, tokens, ByToken());
    Exp(scores, scores, tokens * kE);
    ReduceGroups<ReduceType::SUM>(spare_slots, scores);
    ReduceDataBlock<ReduceType::SUM>(tokens_, spare_slots, kE, tokens / 8, 1, 1, 8);
    Duplicate(addresses_, 1.0f, tokens);
    Div(tokens_, addresses_, tokens_, tokens);
    Brcb(places_, tokens_, tokens / 8, BrcbRepeatParams(1, 8));
    Mul(scores, scores, places_, kE, tokens, ByToken());
  }
  __aicore__ inline void Sigmoid(const LocalTensor<float>& x) {
    Muls(scores, x, -1.0f, tokens * kE);
    Exp(scores, scores, tokens * kE);
    Adds(scores, scores, 1.0f, tokens * kE);
    Duplicate(spare, 1.0f, tokens * kE);
    Div(scores, spare, scores, tokens * kE);
  }

  GlobalTensor<T> logits_;
  GateScore score_ = GateScore::kSoftmax;
  LocalTensor<float> token_start_, places_, addresses_, tokens_;
  TQue<TPosition::VECIN, 1> in_;
  TBuf<TPosition::VECCALC> all_experts_, all_slots_, all_bits_, constants_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_PANGU_TILE_H_
