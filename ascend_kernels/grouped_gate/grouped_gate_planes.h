// Vector work on the planes of a tile:
//
//    plane -- Best -> [G, t]      the first of the largest
//    plane <- Scatter -- [G, t]   a value in the row of an expert, 0 in the others
#ifndef MOGE_ASCEND_GROUPED_GATE_PLANES_H_
#define MOGE_ASCEND_GROUPED_GATE_PLANES_H_

#include "grouped_gate_turns.h"

namespace moge {

// Everything here is filled and read by V, in order; no flag guards it.
class GatePlaneWork : public GateTurns {
 public:
  //    buffer   bytes              holds
  //    bits     BitBytes           a bit for each element of a plane
  //    numbers  32 P               each row's first expert's number, as a block: 0, 1, ... P - 1
  //    wide_    3 x 256            [G, t], again and again for packed rows; their numbers
  static constexpr uint64_t Bytes(uint64_t E, uint64_t P, uint64_t t) {
    return BitBytes(E * t, P) + 3 * kRepeatBytes +
           (P / Packs(P, E / P * t) + kBlock) * kBlockBytes + Round64(t) * sizeof(float) +
           kBlockBytes;
  }
  __aicore__ inline explicit GatePlaneWork(const GatePlanes& sizes)
      : GateTurns(sizes), packed_(Packs(sizes.P, sizes.lanes)) {
    if (packed_ > 1) {
      columns_ = {kLanes, at.P / packed_, kLanes / kBlock};
    } else {
      columns_ = {at.lanes, at.P, static_cast<uint8_t>(at.lanes / kBlock)};
    }
  }
  __aicore__ inline void Init(TPipe* pipe) {
    pipe->InitBuffer(all_bits_, BitBytes(at.plane, at.P));
    pipe->InitBuffer(all_numbers_, RoundUp(columns_.rows, kBlock) * kBlockBytes);
    pipe->InitBuffer(all_wide_, 3 * kRepeatBytes);
    InitToken(pipe);
    bits = all_bits_.Get<uint8_t>();
    numbers = all_numbers_.Get<float>();
    offsets_ = all_wide_.Get<float>()[2 * kLanes];
    for (uint32_t i = 0; i < packed_; ++i) {
      Duplicate(offsets_[i * at.lanes], static_cast<float>(i), kLanes / packed_);
    }
    const LocalTensor<float> first = bits.ReinterpretCast<float>();
    CreateVecIndex(first, 0.0f, columns_.rows);
    Muls(first, first, static_cast<float>(packed_), columns_.rows);
    Brcb(numbers, first, CeilDiv(columns_.rows, kBlock), BrcbRepeatParams(1, kBlock));
  }

  // best [G, t] = the largest keys of the groups; spare [G, t] = the first expert that has it, by
  // its number in its group, or P where they are NaN. spare takes a plane.
  __aicore__ inline void Best(const LocalTensor<float>& best, const LocalTensor<float>& spare,
                              const LocalTensor<float>& keys) {
    Tournament<RowOp::kMax>(best, spare, keys, at.P, at.lanes);
    const float none = static_cast<float>(at.P);
    const uint8_t step = columns_.step;
    if (ByRow()) {
      const uint32_t whole = Round64(at.lanes);
      for (uint32_t p = 0; p < at.P; ++p) {  // what a row writes too much, the next overwrites
        Compare(bits, keys[p * at.lanes], best, CMPMODE::EQ, whole);
        Select(spare[p * at.lanes], bits, numbers[p * kBlock], none,
               SELMODE::VSEL_TENSOR_SCALAR_MODE, kLanes, whole / kLanes,
               BinaryRepeatParams(1, 0, 0, 8, 0, 0));
      }
    } else {
      const LocalTensor<float> wide = Wide(best, 0, false);
      for (uint32_t i = 0; i < Pieces(); ++i) {
        const Piece piece = PieceAt(i);
        Compare(bits, keys[piece.place], wide[piece.lane], CMPMODE::EQ, piece.lanes, piece.rows,
                BinaryRepeatParams(1, 1, 1, 8, step, 0));
        Select(spare[piece.place], bits, numbers[piece.row * kBlock], none,
               SELMODE::VSEL_TENSOR_SCALAR_MODE, piece.lanes, piece.rows,
               BinaryRepeatParams(1, 0, 0, step, 1, 0));
      }
    }
    Tournament<RowOp::kMin>(spare, spare, spare, columns_.rows, columns_.lanes);
    if (packed_ == 1) return;
    Add(spare, spare, offsets_, kLanes);
    Tournament<RowOp::kMin>(spare, spare, spare, packed_, at.lanes);
  }
  // dst [G, t] = the largest or smallest of the groups; spare takes half a plane
  template <RowOp op>
  __aicore__ inline void Reduce(const LocalTensor<float>& dst, const LocalTensor<float>& spare,
                                const LocalTensor<float>& src) {
    Tournament<op>(dst, spare, src, at.P, at.lanes);
  }
  // dst [P, G, t] = 1 for the experts that are chosen not later than `index`, the last one, with
  // the key `least`; 0 for the others. Where it is NaN, so are all, and order alone counts.
  __aicore__ inline void MarkThrough(const LocalTensor<float>& dst, const LocalTensor<float>& keys,
                                     const LocalTensor<float>& least,
                                     const LocalTensor<float>& index,
                                     const LocalTensor<float>& ones) {
    const uint8_t step = columns_.step;
    const LocalTensor<float> which = Wide(index, 0, true), wide = Wide(least, 1, false);
    const uint32_t room = RoundUp(8 * Min(columns_.rows, kMaxRepeats), kBlockBytes);
    const LocalTensor<uint8_t> before = bits[room], more = bits[2 * room];
    const LocalTensor<uint16_t> all = bits.ReinterpretCast<uint16_t>();
    const LocalTensor<uint16_t> early = before.ReinterpretCast<uint16_t>();
    for (uint32_t i = 0; i < Pieces(); ++i) {
      const Piece piece = PieceAt(i);
      const LocalTensor<float> part = keys[piece.place], bound = wide[piece.lane];
      const BinaryRepeatParams steps(1, 1, 1, 8, step, 0);
      const uint32_t words = 4 * piece.rows;
      Compare(before, part, bound, CMPMODE::LT, piece.lanes, piece.rows, steps);
      Compare(more, part, bound, CMPMODE::GT, piece.lanes, piece.rows, steps);
      Match(which, CMPMODE::GE, piece);
      Not(early, early, words);
      And(all, all, early, words);
      Or(all, all, more.ReinterpretCast<uint16_t>(), words);
      Select(dst[piece.place], bits, ones, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, piece.lanes,
             piece.rows, BinaryRepeatParams(1, 0, 0, step, 0, 0));
    }
  }
  // dst [P, G, t] = values [G, t] of the experts with these numbers, 0 for the others;
  // `more` leaves the others as they are.
  __aicore__ inline void Scatter(const LocalTensor<float>& dst, const LocalTensor<float>& index,
                                 const LocalTensor<float>& values, bool more = false) {
    if (ByRow()) {
      for (uint32_t p = 0; p < at.P; ++p) {
        const LocalTensor<float> row = dst[p * at.lanes];
        Compares(bits, index, static_cast<float>(p), CMPMODE::EQ, Round64(at.lanes));
        if (more) {
          Select(row, bits, values, row, SELMODE::VSEL_TENSOR_TENSOR_MODE, at.lanes);
        } else {
          Select(row, bits, values, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, at.lanes);
        }
      }
      return;
    }
    const uint8_t step = columns_.step;
    const LocalTensor<float> which = Wide(index, 0, true);
    const LocalTensor<float> wide = Wide(values, 1, false);
    for (uint32_t i = 0; i < Pieces(); ++i) {
      const Piece piece = PieceAt(i);
      const LocalTensor<float> to = dst[piece.place], from = wide[piece.lane];
      Match(which, CMPMODE::EQ, piece);
      if (more) {
        Select(to, bits, from, to, SELMODE::VSEL_TENSOR_TENSOR_MODE, piece.lanes, piece.rows,
               BinaryRepeatParams(1, 1, 1, step, 0, step));
      } else {
        Select(to, bits, from, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, piece.lanes, piece.rows,
               BinaryRepeatParams(1, 1, 1, step, 0, 0));
      }
    }
  }
  // keys [P, G, t] of the experts with these numbers become -inf.
  __aicore__ inline void Exclude(const LocalTensor<float>& keys, const LocalTensor<float>& index) {
    const float never = -1.0f / 0.0f;
    if (ByRow()) {
      for (uint32_t p = 0; p < at.P; ++p) {
        const LocalTensor<float> row = keys[p * at.lanes];
        Compares(bits, index, static_cast<float>(p), CMPMODE::NE, Round64(at.lanes));
        Select(row, bits, row, never, SELMODE::VSEL_TENSOR_SCALAR_MODE, at.lanes);
      }
      return;
    }
    const uint8_t step = columns_.step;
    const LocalTensor<float> which = Wide(index, 0, true);
    for (uint32_t i = 0; i < Pieces(); ++i) {
      const Piece piece = PieceAt(i);
      const LocalTensor<float> part = keys[piece.place];
      Match(which, CMPMODE::NE, piece);
      Select(part, bits, part, never, SELMODE::VSEL_TENSOR_SCALAR_MODE, piece.lanes, piece.rows,
             BinaryRepeatParams(1, 1, 1, step, step, 0));
    }
  }

  // What is as wide as a column's row: 64 lanes, or all of them.
  __aicore__ inline uint32_t Width() const { return columns_.lanes; }
  // dst = values [G, t], that wide; in the i-th of the packed rows, i `less`
  __aicore__ inline LocalTensor<float> Spread(const LocalTensor<float>& dst,
                                              const LocalTensor<float>& values, bool less) {
    const uint8_t step = at.lanes / kBlock;
    if (packed_ == 1) {
      Adds(dst, values, 0.0f, at.lanes);
    } else if (less) {
      Sub(dst, values, offsets_, at.lanes, packed_, BinaryRepeatParams(1, 1, 1, step, 0, step));
    } else {
      Adds(dst, values, 0.0f, at.lanes, packed_, UnaryRepeatParams(1, 1, step, 0));
    }
    return dst;
  }
  // dst [P, G, t] = src op wide, which Spread has made
  template <RowOp op>
  __aicore__ inline void ByLane(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                                const LocalTensor<float>& wide) {
    const uint8_t step = columns_.step;
    for (uint32_t i = 0; i < Pieces(); ++i) {
      const Piece piece = PieceAt(i);
      Apply<op>(dst[piece.place], src[piece.place], wide[piece.lane], piece.lanes, piece.rows,
                BinaryRepeatParams(1, 1, 1, step, step, 0));
    }
  }
  // dst [P, G, t] = first [G, t] + 0, 1, ... P - 1
  __aicore__ inline void CountFrom(const LocalTensor<float>& dst, const LocalTensor<float>& first) {
    LocalTensor<float> wide = first;
    if (packed_ > 1) {
      wide = Wide(first, 0, false);
      Add(wide, wide, offsets_, kLanes);
    }
    for (uint32_t i = 0; i < Pieces(); ++i) {
      const Piece piece = PieceAt(i);
      Add(dst[piece.place], wide[piece.lane], numbers[piece.row * kBlock], piece.lanes, piece.rows,
          BinaryRepeatParams(1, 1, 0, columns_.step, 0, 1));
    }
  }
  // dst = values where keys are `mode` wide, `other` elsewhere; all of them [P, G, t], but wide
  __aicore__ inline void SelectWhere(const LocalTensor<float>& dst, const LocalTensor<float>& keys,
                                     CMPMODE mode, const LocalTensor<float>& wide,
                                     const LocalTensor<float>& values, float other) {
    const uint8_t step = columns_.step;
    for (uint32_t i = 0; i < Pieces(); ++i) {
      const Piece piece = PieceAt(i);
      Compare(bits, keys[piece.place], wide[piece.lane], mode, piece.lanes, piece.rows,
              BinaryRepeatParams(1, 1, 1, 8, step, 0));
      Select(dst[piece.place], bits, values[piece.place], other, SELMODE::VSEL_TENSOR_SCALAR_MODE,
             piece.lanes, piece.rows, BinaryRepeatParams(1, 1, 1, step, step, 0));
    }
  }
  // MarkThrough, for a choice by blocks, takes three times a piece's bits.
  static constexpr uint64_t BitBytes(uint64_t plane, uint64_t P) {
    const uint64_t all = plane / 8 + 8 * P;
    const uint64_t three = 3 * (8 * (P < kMaxRepeats ? P : kMaxRepeats) + kBlockBytes);
    return (P < kFromBlocks || three < all ? all : three) + kRepeatBytes;
  }
  // The rows of how many experts fill the 64 lanes of a repeat.
  static constexpr uint32_t Packs(uint32_t P, uint32_t lanes) {
    return lanes < kLanes && kLanes % lanes == 0 && P % (kLanes / lanes) == 0 ? kLanes / lanes : 1;
  }

  LocalTensor<uint8_t> bits;
  LocalTensor<float> numbers;

 private:
  // Whether an instruction for each row is less than one for each 64 lanes.
  __aicore__ inline bool ByRow() const { return at.P * kLanes < at.lanes; }
  // A plane as the columns of 64 lanes see it: `rows` rows of `lanes`, `step` blocks apart. The
  // rows of less than 64 lanes are packed, if they can be.
  struct Columns {
    uint32_t lanes, rows;
    uint8_t step;
  };
  // [G, t] as wide as a column's row. In it, the i-th of the packed rows has i `less`.
  __aicore__ inline LocalTensor<float> Wide(const LocalTensor<float>& values, uint32_t which,
                                            bool less) {
    return packed_ == 1 ? values : Spread(all_wide_.Get<float>()[which * kLanes], values, less);
  }
  // 64 lanes of up to 255 rows, which one instruction reaches.
  struct Piece {
    uint32_t lane, row, place, lanes;
    uint8_t rows;
  };
  __aicore__ inline uint32_t Pieces() const {
    return CeilDiv(columns_.lanes, kLanes) * CeilDiv(columns_.rows, kMaxRepeats);
  }
  __aicore__ inline Piece PieceAt(uint32_t i) const {
    const uint32_t parts = CeilDiv(columns_.rows, kMaxRepeats);
    const uint32_t lane = i / parts * kLanes, row = i % parts * kMaxRepeats;
    return {lane, row, row * columns_.lanes + lane,
            static_cast<uint32_t>(Min(kLanes, columns_.lanes - lane)),
            static_cast<uint8_t>(Min(kMaxRepeats, columns_.rows - row))};
  }
  // bits = index against the numbers of the piece's experts
  __aicore__ inline void Match(const LocalTensor<float>& index, CMPMODE mode, const Piece& piece) {
    Compare(bits, index[piece.lane], numbers[piece.row * kBlock], mode, piece.lanes, piece.rows,
            BinaryRepeatParams(1, 1, 0, 8, 0, 1));
  }
  // dst [lanes] = the largest or smallest of the rows; spare takes half of them, and may be src
  template <RowOp op>
  __aicore__ inline void Tournament(const LocalTensor<float>& dst, const LocalTensor<float>& spare,
                                    const LocalTensor<float>& src, uint32_t all, uint32_t lanes) {
    LocalTensor<float> from = src;
    for (uint32_t rows = all; rows > 1; rows = (rows + 1) / 2) {
      const uint32_t middle = (rows + 1) / 2 * lanes, count = rows * lanes - middle;
      const LocalTensor<float> to = middle == lanes ? dst : spare;
      Apply<op>(to, from, from[middle], count);
      // the row in the middle of an odd number has no other
      if (rows == all && count < middle) Adds(to[count], from[count], 0.0f, lanes);
      from = to;
    }
    if (all == 1) Adds(dst, src, 0.0f, lanes);
  }
  uint32_t packed_;
  Columns columns_{};
  LocalTensor<float> offsets_;
  TBuf<TPosition::VECCALC> all_bits_, all_numbers_, all_wide_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_PLANES_H_
