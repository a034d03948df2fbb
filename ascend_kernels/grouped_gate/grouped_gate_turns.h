// Planes of a tile of tokens in UB, for any E that is a multiple of 8, any G and any k: tokens lie
// along the lanes, so that one instruction compares the experts of all of them.
//
//    plane [P, G, t]          | group 0, t tokens | group 1, t tokens | ...        p = 0
//    p: number in the group   | group 0, t tokens | group 1, t tokens | ...        p = 1
//                             |<------------ lanes = G t ------------>|  ...
//
//    logits [t, E] -- FromTokens -> plane -- ToTokens -> d_logits [t, E]
//    plane -- ReduceRows -> [t],  [t] -- ByToken -> plane       the softmax's sums
#ifndef MOGE_ASCEND_GROUPED_GATE_TURNS_H_
#define MOGE_ASCEND_GROUPED_GATE_TURNS_H_

#include "grouped_gate_common.h"

namespace moge {

constexpr uint32_t kLanes = kPerRepeat<float>;  // of a repeat
constexpr uint32_t kBlock = kPerBlock<float>;
// Tokens of a tile, a power of two. With 48 cores, a core has 171 of 8192: larger tiles are not
// full, and instructions are long enough as they are.
constexpr uint32_t kLeastTile = 16, kMostTile = 64;
// The choice goes by blocks in groups of at least this many experts. In smaller ones that saves
// cycles too, but the time for more instructions is longer than what it saves.
constexpr uint32_t kFromBlocks = 128;
constexpr uint32_t kSide = 16;  // a transposition turns 16 x 8 elements

// Sizes of a tile, in elements.
struct GatePlanes {
  uint32_t E, G, k, P, K;
  uint32_t tokens;  // t
  uint32_t lanes;   // G t
  uint32_t plane;   // E t
  uint32_t slots;   // K t

  __aicore__ inline GatePlanes(const GroupedGateTiling& tiling, uint32_t t)
      : E(tiling.E),
        G(tiling.G),
        k(tiling.k),
        P(tiling.E / tiling.G),
        K(tiling.G * tiling.k),
        tokens(t),
        lanes(tiling.G * t),
        plane(tiling.E * t),
        slots(tiling.G * tiling.k * t) {}
  // The same for planes with `rows` rows for each group.
  __aicore__ inline GatePlanes(const GatePlanes& all, uint32_t rows) : GatePlanes(all) {
    E = all.G * rows;
    P = rows;
    plane = E * tokens;
  }
};

enum class RowOp { kAdd, kSub, kMul, kMax, kMin };

// Between rows of tokens, planes, and what each token has one of.
class GateTurns {
 public:
  __aicore__ inline explicit GateTurns(const GatePlanes& sizes) : at(sizes) {}
  // [t, columns] -> [parts, G, t], where column g parts + i comes to row i G + g: logits to a plane
  // (E and P), or slots (K and k). Repeats go along the columns of a group, the groups or the
  // tokens.
  __aicore__ inline void FromTokens(const LocalTensor<float>& plane, const LocalTensor<float>& rows,
                                    uint32_t columns, uint32_t parts) {
    const uint32_t blocks = parts / kBlock, sides = at.tokens / kSide;
    const bool less = parts % kBlock == 0 && Min(at.G, blocks) * sides < columns / kBlock;
    const bool group = less && at.G <= blocks, groups = less && !group;
    const TransDataTo5HDParams steps = group    ? Steps(blocks, at.lanes, 1)
                                       : groups ? Steps(at.G, at.tokens / kBlock, blocks)
                                                : Steps(sides, 2, kSide * columns / kBlock);
    for (uint32_t c = 0; c < (groups ? parts : columns); c += group ? parts : kBlock) {
      for (uint32_t t = 0; t < (less ? at.tokens : 1); t += kSide) {
        LocalTensor<float> to[kSide], from[kSide];
        for (uint32_t i = 0; i < kSide; ++i) {
          from[i] = rows[(t + i) * columns + c];
          to[i] = plane[Row(c + i / 2, parts) + t + i % 2 * kBlock];
        }
        TransDataTo5HD<float>(to, from, steps);
      }
    }
  }
  // The other way.
  __aicore__ inline void ToTokens(const LocalTensor<float>& rows, const LocalTensor<float>& plane,
                                  uint32_t columns, uint32_t parts) {
    const uint32_t sides = parts / kSide, blocks = at.tokens / kBlock;
    const bool along = parts % kSide == 0 && at.G * blocks < columns / kSide;
    const TransDataTo5HDParams steps =
        along ? Steps(sides, 2, kSide * at.lanes / kBlock) : Steps(blocks, columns, 1);
    for (uint32_t c = 0; c < columns; c += along ? parts : kSide) {
      // the last 8 columns of an odd number of blocks are turned twice, to the same place
      const bool whole = c + kSide <= columns;
      for (uint32_t t = 0; t < (along ? at.tokens : 1); t += kBlock) {
        LocalTensor<float> to[kSide], from[kSide];
        for (uint32_t i = 0; i < kSide; ++i) {
          from[i] = plane[Row(c + (whole ? i : i % kBlock), parts) + t];
          to[i] = rows[(t + i / 2) * columns + c + (whole ? i % 2 * kBlock : 0)];
        }
        TransDataTo5HD<float>(to, from, steps);
      }
    }
  }

  // token_ = the sum or the maximum of the rows [t]
  template <RowOp op>
  __aicore__ inline const LocalTensor<float>& ReduceRows(const LocalTensor<float>& src,
                                                         uint32_t rows) {
    const uint32_t t = at.tokens, count = rows * t;
    Duplicate(token_, op == RowOp::kAdd ? 0.0f : -1.0f / 0.0f, Round64(t));
    if (t < kLanes && count % kLanes == 0) {
      Accumulate<op>(token_, src, kLanes, count / kLanes, kLanes);
      for (uint32_t lanes = kLanes / 2; lanes >= t; lanes /= 2) {
        Apply<op>(token_, token_, token_[lanes], lanes);
      }
    } else {
      for (uint32_t c = 0; c < t; c += kLanes) {
        Accumulate<op>(token_[c], src[c], Min(kLanes, t - c), rows, t);
      }
    }
    return token_;
  }
  // token_ = 1 / token_
  __aicore__ inline void InvertToken(const LocalTensor<float>& ones) {
    Div(token_, ones, token_, at.tokens);
  }
  // token_ = 1 for the first tokens, 0 for the others
  __aicore__ inline void MarkTokens(uint32_t count) {
    CreateVecIndex(token_, 0.0f, at.tokens);
    Muls(token_, token_, -1.0f, at.tokens);
    Adds(token_, token_, static_cast<float>(count), at.tokens);
    Maxs(token_, token_, 0.0f, at.tokens);
    Mins(token_, token_, 1.0f, at.tokens);
  }
  // dst = src + blocks, where a row [t] has a block of its own
  __aicore__ inline void AddBlocks(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                                   const LocalTensor<float>& blocks, uint32_t rows) {
    const uint8_t step = at.tokens / kBlock;
    for (uint32_t c = 0; c < at.tokens; c += kLanes) {
      const uint32_t lanes = Min(kLanes, at.tokens - c);
      for (uint32_t r = 0; r < rows; r += kMaxRepeats) {
        const uint32_t place = r * at.tokens + c;
        Add(dst[place], src[place], blocks[r * kBlock], lanes, Min(kMaxRepeats, rows - r),
            BinaryRepeatParams(1, 1, 0, step, step, 1));
      }
    }
  }
  // dst = src op token_, for rows [t]
  template <RowOp op>
  __aicore__ inline void ByToken(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                                 uint32_t rows) {
    const uint32_t t = at.tokens;
    for (uint32_t lanes = t; lanes < kLanes; lanes *= 2) Adds(token_[lanes], token_, 0.0f, lanes);
    const uint32_t pitch = t < kLanes ? kLanes : t;
    const uint32_t repeats = CeilDiv(rows * t, pitch);
    const uint8_t step = pitch / kBlock;
    for (uint32_t c = 0; c < pitch; c += kLanes) {
      for (uint32_t r = 0; r < repeats; r += kMaxRepeats) {
        const uint32_t place = c + r * pitch;
        Apply<op>(dst[place], src[place], token_[c], kLanes, Min(kMaxRepeats, repeats - r),
                  BinaryRepeatParams(1, 1, 1, step, step, 0));
      }
    }
  }

  static constexpr uint32_t Round64(uint32_t count) { return RoundUp(count, kLanes); }

  const GatePlanes at;

 protected:
  LocalTensor<float> token_;

  //    token_   4 max(t, 64) bytes   the last sum of ReduceRows, again and again
  __aicore__ inline void InitToken(TPipe* pipe) {
    pipe->InitBuffer(all_token_, Round64(at.tokens) * sizeof(float));
    token_ = all_token_.Get<float>();
  }
  template <RowOp op, typename... Extent>
  static __aicore__ inline void Apply(const LocalTensor<float>& dst, const LocalTensor<float>& a,
                                      const LocalTensor<float>& b, Extent... extent) {
    if constexpr (op == RowOp::kAdd) Add(dst, a, b, extent...);
    if constexpr (op == RowOp::kSub) Sub(dst, a, b, extent...);
    if constexpr (op == RowOp::kMul) Mul(dst, a, b, extent...);
    if constexpr (op == RowOp::kMax) Max(dst, a, b, extent...);
    if constexpr (op == RowOp::kMin) Min(dst, a, b, extent...);
  }

 private:
  TBuf<TPosition::VECCALC> all_token_;

  // sum [lanes] op= rows, which are `pitch` apart
  template <RowOp op>
  __aicore__ inline void Accumulate(const LocalTensor<float>& sum, const LocalTensor<float>& src,
                                    uint32_t lanes, uint32_t rows, uint32_t pitch) {
    for (uint32_t r = 0; r < rows; r += kMaxRepeats) {
      Apply<op>(sum, src[r * pitch], sum, lanes, Min(kMaxRepeats, rows - r),
                BinaryRepeatParams(1, 1, 1, 0, pitch / kBlock, 0));
    }
  }
  __aicore__ inline uint32_t Row(uint32_t column, uint32_t parts) const {
    return column % parts * at.lanes + column / parts * at.tokens;
  }
  // Steps are in blocks; a single repeat would begin a step further.
  static __aicore__ inline TransDataTo5HDParams Steps(uint32_t repeats, uint32_t dst,
                                                      uint32_t src) {
    const bool one = repeats == 1;
    return TransDataTo5HDParams(false, false, repeats, one ? 0 : dst, one ? 0 : src);
  }
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_TURNS_H_
