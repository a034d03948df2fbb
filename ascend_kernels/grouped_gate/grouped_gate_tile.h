// A tile of tokens: its scores as a plane, and its slots, the chosen experts.
#ifndef MOGE_ASCEND_GROUPED_GATE_TILE_H_
#define MOGE_ASCEND_GROUPED_GATE_TILE_H_

#include "grouped_gate_choice.h"

namespace moge {

// Whether scores alone, which are all NaN or none, are the keys of the choice.
constexpr bool KeysAreScores(const GroupedGateTiling& tiling) {
  return tiling.score == GateScore::kSoftmax && !tiling.has_bias;
}
// What a plane in UB takes, in elements: instructions on whole repeats read a little further.
constexpr uint64_t PlaneRoom(uint64_t E, uint64_t t) { return E * t + kLanes; }
// Keys that are not the scores; slopes.
constexpr bool HasThird(const GroupedGateTiling& tiling, bool backward) {
  return backward ? tiling.score == GateScore::kSqrtSoftplus : !KeysAreScores(tiling);
}
constexpr uint32_t kSlotPlanes = 9;  // [k, G, t] of the backward pass; the forward has 6
constexpr uint32_t SlotPlanes(bool backward) { return backward ? kSlotPlanes : 6; }
// Bytes of UB of a tile with t tokens and room for `loads` of logits.
constexpr uint64_t TileBytes(const GroupedGateTiling& tiling, uint32_t size, bool backward,
                             uint64_t t, uint64_t loads) {
  const uint64_t E = tiling.E, G = tiling.G, K = G * tiling.k;
  const uint64_t planes = (HasThird(tiling, backward) ? 3 : 2) * PlaneRoom(E, t);
  const uint64_t slots =
      SlotPlanes(backward) * (K * t + kLanes) + 4 * (G * t + kLanes) + loads * 2 * K * t;
  const uint64_t bias = tiling.has_bias ? (E + kBlock) + E * kBlock : 0;
  const uint64_t scale = tiling.has_router_scale ? E + kBlock : 0;
  const uint64_t sums =
      backward ? (tiling.has_router_scale ? 2 * E * t / kBlock : 0) : E * t / kBlock;
  const uint64_t core_sums = !backward || tiling.has_router_scale ? 3 * (E + kBlock) : 0;
  return (backward ? 2 : 1) * loads * E * t * size +
         (planes + slots + bias + scale + sums + core_sums) * sizeof(float) +
         GatePlaneWork::Bytes(E, E / G, t) +
         (backward ? 0 : GateChoice::Bytes(G, E / G, tiling.k, t));
}
// Tokens of a tile; 0 if it has no room, or needs what only rows can do: experts that are given
// and may be any, or rows that are no whole blocks.
constexpr uint32_t TileTokens(const GroupedGateTiling& tiling, uint32_t size, bool backward) {
  if (tiling.given || tiling.E % kBlock != 0) return 0;
  uint32_t t = kMostTile;
  while (t >= kLeastTile && TileBytes(tiling, size, backward, t, 1) > kUbBytes) t /= 2;
  return t >= kLeastTile ? t : 0;
}

template <typename T>
class GateTile {
 public:
  __aicore__ inline GateTile(const GroupedGateTiling& tiling, bool backward)
      : at(tiling, TileTokens(tiling, sizeof(T), backward)),
        work(at),
        tiling_(tiling),
        backward_(backward) {}
  // How many loads of logits, and stores of their gradients, there is room for.
  __aicore__ inline uint32_t Loads() const {
    return TileBytes(tiling_, sizeof(T), backward_, at.tokens, 2) <= kUbBytes ? 2 : 1;
  }
  // The same for CoreSums: how many cores' rows it may load at once.
  __aicore__ inline uint32_t CoreRows() const {
    const uint64_t free = kUbBytes - TileBytes(tiling_, sizeof(T), backward_, at.tokens, Loads());
    return Min(CoresAtOnce(at.E), 1 + free / (2 * (at.E + kBlock) * sizeof(float)));
  }
  //    buffer     elements      holds
  //    in_        E t of T      logits [t, E]; queue: MTE2 fills it, V reads it
  //    scores     E t           [P, G, t]
  //    spare      E t           [P, G, t], free for the caller
  //    third      E t           [P, G, t]: the forward's keys, the slopes of sqrtsoftplus
  //    slots_     6 or 9 K t    [k, G, t] each, given out by Slots
  //    lanes      4 G t         [G, t]: each group's first expert; a lane's byte; ones; best keys
  __aicore__ inline void Init(GM_ADDR logits, TPipe* pipe) {
    logits_ = Global<T>(logits);
    work.Init(pipe);
    pipe->InitBuffer(in_, Loads(), at.plane * sizeof(T));
    const uint32_t room = PlaneRoom(at.E, at.tokens);
    const bool has_third = HasThird(tiling_, backward_);
    pipe->InitBuffer(all_planes_, (has_third ? 3 : 2) * room * sizeof(float));
    scores = all_planes_.Get<float>();
    spare = scores[room];
    third = has_third ? spare[room] : scores;
    const uint32_t slots = at.slots + kLanes, lanes = at.lanes + kLanes;
    const uint32_t planes = SlotPlanes(backward_);
    pipe->InitBuffer(all_slots_, (planes * slots + 4 * lanes) * sizeof(float));
    const LocalTensor<float> all = all_slots_.Get<float>();
    // rows that are no whole repeats are read a little further
    if (at.lanes % kLanes != 0) Duplicate(all, 0.0f, planes * slots + 4 * lanes);
    for (uint32_t i = 0; i < planes; ++i) slots_[i] = all[i * slots];
    first = all[planes * slots];
    lane_bytes = first[lanes];
    ones = lane_bytes[lanes];
    best = ones[lanes];
    // an instruction on whole repeats reads behind a plane
    Duplicate(scores[at.plane], 0.0f, kLanes);
    Duplicate(spare[at.plane], 0.0f, kLanes);
    if (has_third) Duplicate(third[at.plane], 0.0f, kLanes);
    for (uint32_t g = 0; g < at.G; ++g) {
      Duplicate(first[g * at.tokens], static_cast<float>(g * at.P), at.tokens);
    }
    CreateVecIndex(lane_bytes, 0.0f, at.lanes);
    Muls(lane_bytes, lane_bytes, static_cast<float>(sizeof(float)), at.lanes);
    Duplicate(ones, 1.0f, at.lanes);
  }
  __aicore__ inline const LocalTensor<float>& Slots(uint32_t i) const { return slots_[i]; }

  // Scores of `count` tokens; the rest of the tile has the logits 0.
  __aicore__ inline void Score(uint64_t token, uint32_t count) {
    LocalTensor<T> in = in_.template AllocTensor<T>();
    Load(in, logits_[token * at.E], count * at.E);
    in_.EnQue(in);
    in = in_.template DeQue<T>();
    LocalTensor<float> x;
    if constexpr (kIsFloat<T>) {
      x = in;
    } else {
      x = spare;
      Widen(x, in, count * at.E);
    }
    if (count < at.tokens) Duplicate(x[count * at.E], 0.0f, (at.tokens - count) * at.E);
    work.FromTokens(scores, x, at.E, at.P);
    in_.FreeTensor(in);
    if (tiling_.score == GateScore::kSoftmax) {
      Softmax();
    } else if (tiling_.score == GateScore::kSigmoid) {
      Sigmoid();
    } else {
      SqrtSoftplus(scores, third, spare, at.plane);
    }
  }
  // dst [G, t] = values [P, G, t] of the experts with these numbers in their groups
  __aicore__ inline void GatherExperts(const LocalTensor<float>& dst,
                                       const LocalTensor<float>& values,
                                       const LocalTensor<float>& index,
                                       const LocalTensor<float>& places) {
    Muls(places, index, static_cast<float>(at.lanes * sizeof(float)), at.lanes);
    Add(places, places, lane_bytes, at.lanes);
    GatherAt(dst, values, places, at.lanes);
  }
  // dst = values at these bytes, which are overwritten
  __aicore__ inline void GatherAt(const LocalTensor<float>& dst, const LocalTensor<float>& values,
                                  const LocalTensor<float>& bytes, uint32_t count) {
    Cast(bytes.ReinterpretCast<int32_t>(), bytes, RoundMode::CAST_RINT, count);
    Gather(dst, values, bytes.ReinterpretCast<uint32_t>(), 0, count);
  }
  // shares = values [K, t] divided by their token's sum, total; for a sum of 0, 1 / K and 1.
  __aicore__ inline void Share(const LocalTensor<float>& shares, const LocalTensor<float>& total,
                               const LocalTensor<float>& values) {
    work.template ReduceRows<RowOp::kAdd>(values, at.K);
    Duplicate(total, 0.0f, at.slots);
    work.template ByToken<RowOp::kAdd>(total, total, at.K);
    Div(shares, values, total, at.slots);
    // NE would not hold for a NaN, which has to stay
    const uint32_t whole = RoundUp(at.slots, kLanes);
    Compares(work.bits, total, 0.0f, CMPMODE::EQ, whole);
    const LocalTensor<uint16_t> words = work.bits.template ReinterpretCast<uint16_t>();
    Not(words, words, whole / 16);
    Select(shares, work.bits, shares, 1.0f / at.K, SELMODE::VSEL_TENSOR_SCALAR_MODE, at.slots);
    Select(total, work.bits, total, 1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, at.slots);
  }
  // index [G, t]: -1, which is no expert's, for tokens from `count` on
  __aicore__ inline void DropTail(const LocalTensor<float>& index, uint32_t count) {
    if (count == at.tokens) return;
    Adds(index, index, 1.0f, at.lanes);
    work.MarkTokens(count);
    work.template ByToken<RowOp::kMul>(index, index, at.G);
    Adds(index, index, -1.0f, at.lanes);
  }
  // plane = 1 where bits are set, 0 elsewhere
  __aicore__ inline void SelectOnes(const LocalTensor<float>& plane) {
    const uint32_t repeats = at.plane / kLanes;
    constexpr uint32_t kStep = kMaxRepeats / 4 * 4;  // bits begin on whole blocks
    for (uint32_t r = 0; r < repeats; r += kStep) {
      Select(plane[r * kLanes], work.bits[r * kLanes / 8], ones, 0.0f,
             SELMODE::VSEL_TENSOR_SCALAR_MODE, kLanes, Min(kStep, repeats - r),
             BinaryRepeatParams(1, 0, 0, 8, 0, 0));
    }
  }
  // sums [P, G, t / 8] += plane; parts, as large as sums, is overwritten
  __aicore__ inline void AddUp(const LocalTensor<float>& sums, const LocalTensor<float>& parts,
                               const LocalTensor<float>& plane) {
    const uint32_t repeats = at.plane / kLanes;
    for (uint32_t r = 0; r < repeats; r += kMaxRepeats) {
      ReduceDataBlock<ReduceType::SUM>(parts[r * kBlock], plane[r * kLanes], kLanes,
                                       Min(kMaxRepeats, repeats - r), 1, 1, 8);
    }
    Add(sums, sums, parts, at.plane / kBlock);
  }
  // Once for a core: dst [E] = sums [P, G, t / 8] of all tokens. Overwrites scores and spare.
  __aicore__ inline void Sums(const LocalTensor<float>& dst, const LocalTensor<float>& sums) {
    LocalTensor<float> from = sums, to = scores;
    for (uint32_t n = at.plane / kBlock; n > at.E; n /= 2) {
      const uint32_t repeats = n / kLanes, rest = n % kLanes;
      for (uint32_t r = 0; r < repeats; r += kMaxRepeats) {
        ReducePairElem<ReduceType::SUM>(to[r * kLanes / 2], from[r * kLanes],
                                        static_cast<int32_t>(kLanes), Min(kMaxRepeats, repeats - r),
                                        1, 1, 8);
      }
      if (rest != 0) {
        ReducePairElem<ReduceType::SUM>(to[repeats * kLanes / 2], from[repeats * kLanes],
                                        static_cast<int32_t>(rest), 1, 1, 1, 8);
      }
      const LocalTensor<float> next = from;
      from = to;
      to = next;
    }
    const LocalTensor<float> e = spare, g = to;  // expert e is in row e % P * G + e / P
    CreateVecIndex(e, 0.0f, at.E);
    Quotient(g, e, at.P, at.E);
    Axpy(e, g, -static_cast<float>(at.P), at.E);
    Muls(e, e, static_cast<float>(at.G), at.E);
    Add(e, e, g, at.E);
    Muls(e, e, static_cast<float>(sizeof(float)), at.E);
    GatherAt(dst, from, e, at.E);
  }
  // blocks [P, G, 8] = values [E], each a block
  __aicore__ inline void Blocks(const LocalTensor<float>& blocks,
                                const LocalTensor<float>& values) {
    const LocalTensor<float> row = spare, p = scores;  // row p G + g has expert g P + p
    CreateVecIndex(row, 0.0f, at.E);
    Quotient(p, row, at.G, at.E);
    Axpy(row, p, -static_cast<float>(at.G), at.E);
    Axpy(p, row, static_cast<float>(at.P), at.E);
    Muls(p, p, static_cast<float>(sizeof(float)), at.E);
    GatherAt(row, values, p, at.E);
    Brcb(blocks, row, at.E / kBlock, BrcbRepeatParams(1, 8));
  }
  // [k, G, t] -> [t, K], for `count` values; order: see Places
  __aicore__ inline void SlotsToTokens(const LocalTensor<float>& rows,
                                       const LocalTensor<float>& slots,
                                       const LocalTensor<float>& order, uint32_t count) {
    if (at.K % kBlock == 0) return work.ToTokens(rows, slots, at.K, at.k);
    Gather(rows, slots, order.ReinterpretCast<uint32_t>(), 0, count);
  }
  // The other way, for all of the tile.
  __aicore__ inline void SlotsFromTokens(const LocalTensor<float>& slots,
                                         const LocalTensor<float>& rows,
                                         const LocalTensor<float>& order) {
    if (at.K % kBlock == 0) return work.FromTokens(slots, rows, at.K, at.k);
    Gather(slots, rows, order.ReinterpretCast<uint32_t>(), 0, at.slots);
  }
  // Where in bytes a slot's value is: in [k, G, t], for the i-th of [t, K]; or the other way.
  __aicore__ inline void Places(const LocalTensor<float>& places, bool to_tokens) {
    if (at.K % kBlock == 0) return;  // nothing is gathered
    const LocalTensor<float> q = scores, r = spare;
    const uint32_t rows = to_tokens ? at.K : at.tokens;  // i = q rows + r
    CreateVecIndex(r, 0.0f, at.slots);
    Quotient(q, r, rows, at.slots);
    Axpy(r, q, -static_cast<float>(rows), at.slots);
    if (to_tokens) {  // token q, column r = g k + j: row j G + g
      Quotient(places, r, at.k, at.slots);
      Axpy(r, places, -static_cast<float>(at.k), at.slots);
      Muls(r, r, static_cast<float>(at.G), at.slots);
      Add(places, places, r, at.slots);
      Muls(places, places, static_cast<float>(at.tokens), at.slots);
      Add(places, places, q, at.slots);
    } else {  // row q = j G + g, token r: column g k + j
      Quotient(places, q, at.G, at.slots);
      Axpy(q, places, -static_cast<float>(at.G), at.slots);
      Axpy(places, q, static_cast<float>(at.k), at.slots);
      Axpy(places, r, static_cast<float>(at.K), at.slots);
    }
    Muls(places, places, static_cast<float>(sizeof(float)), at.slots);
    Cast(places.ReinterpretCast<int32_t>(), places, RoundMode::CAST_RINT, at.slots);
  }

  const GatePlanes at;
  GatePlaneWork work;
  LocalTensor<float> scores, spare, third, first, lane_bytes, ones, best;

 private:
  // dst = floor(src / divisor), for whole numbers
  static __aicore__ inline void Quotient(const LocalTensor<float>& dst,
                                         const LocalTensor<float>& src, uint32_t divisor,
                                         uint32_t count) {
    Adds(dst, src, 0.5f, count);
    Muls(dst, dst, 1.0f / divisor, count);
    Cast(dst, dst, RoundMode::CAST_FLOOR, count);
  }
  __aicore__ inline void Softmax() {
    work.template ReduceRows<RowOp::kMax>(scores, at.E);
    work.template ByToken<RowOp::kSub>(scores, scores, at.E);
    Exp(scores, scores, at.plane);
    work.template ReduceRows<RowOp::kAdd>(scores, at.E);
    work.InvertToken(ones);
    work.template ByToken<RowOp::kMul>(scores, scores, at.E);
  }
  __aicore__ inline void Sigmoid() {
    Muls(scores, scores, -1.0f, at.plane);
    Exp(scores, scores, at.plane);
    Adds(scores, scores, 1.0f, at.plane);
    const uint32_t repeats = at.plane / kLanes;
    for (uint32_t r = 0; r < repeats; r += kMaxRepeats) {
      const LocalTensor<float> part = scores[r * kLanes];
      Div(part, ones, part, kLanes, Min(kMaxRepeats, repeats - r),
          BinaryRepeatParams(1, 0, 1, 8, 0, 8));
    }
  }

  const GroupedGateTiling& tiling_;
  const bool backward_;
  GlobalTensor<T> logits_;
  LocalTensor<float> slots_[kSlotPlanes];
  TQue<TPosition::VECIN, 1> in_;
  TBuf<TPosition::VECCALC> all_planes_, all_slots_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_TILE_H_
