// Makes integers of rows: q = rint(x * (127 / m)) with m the row's largest magnitude, whose scale
// is m / 127. quantize_rows in moge_ops/_quantized.py has the definition, and these are its bits.
//
// m is found among the bits of |x|: of numbers without a sign they are in order as integers, NaN
// after infinity. So the maximum of integers, which the chip has in 16 and in 32 bits, loses no
// NaN, and takes bf16 as it is.
#ifndef MOGE_ASCEND_ROW_QUANTIZER_H_
#define MOGE_ASCEND_ROW_QUANTIZER_H_

#include <type_traits>

#include "../common.h"
#include "quantize_tiling.h"

namespace moge {

// Elements of a tile: three rows of H = 5120 in 16 bits. An instruction of float has no more than
// 255 * 64. UB holds two tiles of the input, two of the integers, and one of floats.
template <typename T>
constexpr uint32_t kQuantizeTile = kIsFloat<T> ? 10240 : 15360;
constexpr uint32_t kQuantizeRows = 32;  // of a tile, at most
constexpr float kFull = 127.0f;
constexpr float kLeast = 0x1p-100f;  // a row whose numbers are all below is zero
constexpr uint32_t kQuantizerBytes =
    kQuantizeRows * (kRepeatBytes + 3 * kBlockBytes) + 6 * kRepeatBytes;
static_assert(kQuantizeTile<half> * (2 * 2 + 2 + 4) + kQuantizerBytes <= kUbBytes, "UB, 2 bytes");
static_assert(kQuantizeTile<float> * (2 * 4 + 2 + 4) + kQuantizerBytes <= kUbBytes, "UB, 4 bytes");
static_assert(kQuantizeTile<half> <= kMaxRepeats * kPerRepeat<float>, "repeats");

// What an instruction does to `count` elements, `lanes` in each repeat: all whole repeats, then the
// rest. call(offset, mask, repeats)
template <typename Call>
__aicore__ inline void ForRepeats(uint32_t count, uint32_t lanes, const Call& call) {
  const uint32_t whole = count / lanes;
  if (whole != 0) call(0, lanes, whole);
  if (count % lanes != 0) call(whole * lanes, count % lanes, 1);
}

// dst[i] = src[i] * factor for the elements of one row; a block of 32 bytes holds the factor
__aicore__ inline void MulByBlock(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                                  const LocalTensor<float>& factor, uint32_t count) {
  ForRepeats(count, kPerRepeat<float>, [&](uint32_t at, uint64_t mask, uint8_t repeats) {
    Mul(dst[at], src[at], factor, mask, repeats, BinaryRepeatParams(1, 1, 0, 8, 8, 0));
  });
}

template <typename T>
class RowQuantizer {
  using Bits = std::conditional_t<kIsFloat<T>, int32_t, int16_t>;  // of a number
  static constexpr uint32_t kLanes = kPerRepeat<T>;
  static constexpr Bits kInfinity = kIsFloat<T>                     ? static_cast<Bits>(0x7f800000)
                                    : std::is_same_v<T, bfloat16_t> ? static_cast<Bits>(0x7f80)
                                                                    : static_cast<Bits>(0x7c00);

 public:
  __aicore__ inline void Init(LocalMemAllocator<>& ub) {
    floats_ = ub.Alloc<TPosition::VECCALC, float>(kQuantizeTile<T>);
    lanes_ = ub.Alloc<TPosition::VECCALC, Bits>(kQuantizeRows * kLanes);
    factors_ = ub.Alloc<TPosition::VECCALC, float>(kQuantizeRows * kPerBlock<float>);
    full_ = ub.Alloc<TPosition::VECCALC, float>(kPerRepeat<float>);
    most_ = ub.Alloc<TPosition::VECCALC, float>(kPerRepeat<float>);
    factor_ = ub.Alloc<TPosition::VECCALC, float>(kPerRepeat<float>);
    scale_ = ub.Alloc<TPosition::VECCALC, float>(kPerRepeat<float>);
    sign_ = ub.Alloc<TPosition::VECCALC, Bits>(kLanes);
    chosen_ = ub.Alloc<TPosition::VECCALC, uint8_t>(kRepeatBytes);
    Duplicate(full_, kFull, kPerRepeat<float>);
    Duplicate(most_, kFull, kPerRepeat<float>);
    Duplicate(sign_, static_cast<Bits>(kIsFloat<T> ? 0x7fffffff : 0x7fff), kLanes);
  }

  // Several rows have a multiple of 32 columns, which follow each other without a gap.
  __aicore__ inline void BeginRows(uint32_t rows) {
    rows_ = rows;
    Duplicate(lanes_, static_cast<Bits>(0), rows * kLanes);
  }
  // Takes `columns` more of each row into its maximum.
  __aicore__ inline void Look(const LocalTensor<T>& in, uint32_t columns) {
    const LocalTensor<Bits> sizes = floats_.template ReinterpretCast<Bits>();
    // And knows 16 bits only
    const LocalTensor<uint16_t> to = floats_.template ReinterpretCast<uint16_t>();
    const LocalTensor<uint16_t> from = in.template ReinterpretCast<uint16_t>();
    const LocalTensor<uint16_t> sign = sign_.template ReinterpretCast<uint16_t>();
    ForRepeats(rows_ * columns * (sizeof(T) / 2), kRepeatBytes / 2,
               [&](uint32_t at, uint64_t mask, uint8_t repeats) {
                 And(to[at], from[at], sign, mask, repeats, BinaryRepeatParams(1, 1, 0, 8, 8, 0));
               });
    const uint32_t blocks = columns * sizeof(T) / kBlockBytes;
    if (rows_ > 1 && blocks <= kMaxRepeats) {
      // Folds columns onto those an odd number of repeats before them, which lie apart.
      const BinaryRepeatParams params(1, 1, 1, blocks, blocks, blocks);
      for (uint32_t c = 2 * kLanes; c < columns; c += kLanes) {
        const LocalTensor<Bits> first = sizes[c / kLanes % 2 == 0 ? kLanes : 0];
        Max(first, first, sizes[c], Min(kLanes, columns - c), rows_, params);
      }
      if (columns > kLanes) {
        Max(sizes, sizes, sizes[kLanes], Min(kLanes, columns - kLanes), rows_, params);
      }
      Max(lanes_, lanes_, sizes, Min(kLanes, columns), rows_,
          BinaryRepeatParams(1, 1, 1, 8, 8, blocks));
      return;
    }
    for (uint32_t r = 0; r < rows_; ++r) {
      const LocalTensor<Bits> row = sizes[r * columns];
      uint32_t n = columns;
      while (n > kLanes) {
        uint32_t half = RoundUp(CeilDiv(n, 2), kLanes);
        if (half > 8 * kLanes) half |= kLanes;  // an odd number of repeats, which lie apart
        Max(row, row, row[half], n - half);
        n = half;
      }
      Max(lanes_[r * kLanes], lanes_[r * kLanes], row, n);
    }
  }
  // Makes the factors of the rows, and their scales, each in a block: NaN for a row with a number
  // that is not finite, 0 for one of none but small ones.
  __aicore__ inline void EndLook(const LocalTensor<float>& scales) {
    Mins(lanes_, lanes_, kInfinity, rows_ * kLanes);  // of NaN, too
    LocalTensor<float> wide;
    if constexpr (kIsFloat<T>) {
      wide = lanes_.template ReinterpretCast<float>();
    } else {
      wide = floats_;
      Max(lanes_, lanes_, lanes_[kPerRepeat<float>], kPerRepeat<float>, rows_,
          BinaryRepeatParams(1, 1, 1, 8, 8, 8));
      Cast(wide, lanes_.template ReinterpretCast<T>(), RoundMode::CAST_NONE, kPerRepeat<float>,
           rows_, UnaryRepeatParams(1, 1, 8, 8));
    }
    ReduceRepeat<ReduceType::MAX>(most_, wide, kPerRepeat<float>, rows_, 1, 1, 8,
                                  ReduceOrder::ORDER_ONLY_VALUE);
    Compares(chosen_, most_, kLeast, CMPMODE::GE, kPerRepeat<float>);
    Maxs(factor_, most_, kLeast, kPerRepeat<float>);
    Div(factor_, full_, factor_, kPerRepeat<float>);  // 0 of infinity
    Spread(factors_, factor_);
    Div(scale_, most_, full_, kPerRepeat<float>);
    Muls(factor_, most_, 0.0f, kPerRepeat<float>);  // NaN of infinity
    Add(scale_, scale_, factor_, kPerRepeat<float>);
    Spread(scales, scale_);
  }
  // The integers of `columns` of each row; spoils `in`.
  __aicore__ inline void Round(const LocalTensor<int8_t>& out, const LocalTensor<T>& in,
                               uint32_t columns) {
    const uint32_t count = rows_ * columns;
    const LocalTensor<half> halves = RoundToHalf(in, columns);
    Cast(out, halves, RoundMode::CAST_NONE, count);
  }
  // The same as two integers of four bits each, q = 16 high + low + 8, in [-8, 7] both.
  __aicore__ inline void RoundToPlanes(const LocalTensor<int4b_t>& high,
                                       const LocalTensor<int4b_t>& low, const LocalTensor<T>& in,
                                       uint32_t columns) {
    const uint32_t count = rows_ * columns;
    const LocalTensor<half> q = RoundToHalf(in, columns),
                            sixteenths = in.template ReinterpretCast<half>();
    Muls(sixteenths, q, static_cast<half>(0.0625f), count);
    Cast(high, sixteenths, RoundMode::CAST_FLOOR, count);
    Cast(sixteenths, high, RoundMode::CAST_NONE, count);
    Muls(sixteenths, sixteenths, static_cast<half>(16.0f), count);
    Sub(q, q, sixteenths, count);
    Adds(q, q, static_cast<half>(-8.0f), count);
    Cast(low, q, RoundMode::CAST_NONE, count);
  }

 private:
  // The rows' values, each to a block; of rows of small numbers, 0.
  __aicore__ inline void Spread(const LocalTensor<float>& blocks,
                                const LocalTensor<float>& values) {
    Select(values, chosen_, values, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, kPerRepeat<float>);
    Brcb(blocks, values, CeilDiv(rows_, 8), BrcbRepeatParams(1, 8));
  }
  // Integers as half, which lie where the floats were.
  __aicore__ inline LocalTensor<half> RoundToHalf(const LocalTensor<T>& in, uint32_t columns) {
    const uint32_t count = rows_ * columns;
    LocalTensor<float> wide;
    if constexpr (kIsFloat<T>) {
      wide = in;
    } else {
      wide = floats_;
      Widen(wide, in, count);
    }
    for (uint32_t r = 0; r < rows_; ++r) {
      MulByBlock(floats_[r * columns], wide[r * columns], factors_[r * kPerBlock<float>], columns);
    }
    // Only half goes to int8, and float to half would round another time: integers of 16 bits come
    // between. NaN, which is 0 times what is not finite, becomes 0.
    const LocalTensor<int16_t> integers = in.template ReinterpretCast<int16_t>();
    const LocalTensor<half> halves = floats_.template ReinterpretCast<half>();
    Cast(integers, floats_, RoundMode::CAST_RINT, count);
    Cast(halves, integers, RoundMode::CAST_NONE, count);
    return halves;
  }

  LocalTensor<float> floats_, factors_, full_, most_, factor_, scale_;
  LocalTensor<Bits> lanes_, sign_;
  LocalTensor<uint8_t> chosen_;
  uint32_t rows_ = 0;
};

// Makes integers of the rows of a matrix, tile after tile, on their way through UB. Both of its
// buffers go round:
//
//   MTE2 Take --MTE2_V--> V Look, Round --V_MTE3--> MTE3 put
//        Take <--V_MTE2--   Look, Round <--MTE3_V-- put
//
// kPlanes: the integers are two of four bits each. The high ones come first, the low ones half a
// tile after them, and several rows have a multiple of 64 columns.
template <typename T, bool kPlanes = false>
class TileQuantizer {
 public:
  __aicore__ inline void Init(GM_ADDR x, const QuantizeTiling& tiling) {
    x_ = Global<T>(x);
    I_ = tiling.I;
    most_columns_ = tiling.columns;
    LocalMemAllocator<> ub;
    for (uint32_t i = 0; i < 2; ++i) {
      in_[i] = ub.Alloc<TPosition::VECIN, T>(kQuantizeTile<T>);
      out_[i] = ub.Alloc<TPosition::VECOUT, int8_t>(kQuantizeTile<T>);
      scales_[i] = ub.Alloc<TPosition::VECOUT, float>(kQuantizeRows * kPerBlock<float>);
    }
    quantizer_.Init(ub);
    for (int32_t i = 0; i < 2; ++i) {
      SetFlag<HardEvent::V_MTE2>(i);
      SetFlag<HardEvent::MTE3_V>(i);
    }
  }
  __aicore__ inline void Finish() {
    for (int32_t i = 0; i < 2; ++i) {
      WaitFlag<HardEvent::V_MTE2>(i);
      WaitFlag<HardEvent::MTE3_V>(i);
    }
  }
  // put(integers, column, columns, scales) stores some columns of the rows, and with the first ones
  // (column 0) the scales, each of which begins a block.
  template <typename Put>
  __aicore__ inline void operator()(uint64_t row, uint32_t rows, const Put& put) {
    quantizer_.BeginRows(rows);
    if (most_columns_ == I_) {
      const LocalTensor<T> in = Take(row * I_, rows * I_);
      quantizer_.Look(in, I_);
      WaitFlag<HardEvent::MTE3_V>(next_out_);
      quantizer_.EndLook(scales_[next_out_]);
      Give(in, 0, I_, put);
      return;
    }
    // a row that is longer than a tile is read twice
    for (uint32_t c = 0; c < I_; c += most_columns_) {
      quantizer_.Look(Take(row * I_ + c, Columns(c)), Columns(c));
      Free();
    }
    WaitFlag<HardEvent::MTE3_V>(next_out_);
    quantizer_.EndLook(scales_[next_out_]);
    for (uint32_t c = 0; c < I_; c += most_columns_) {
      const LocalTensor<T> in = Take(row * I_ + c, Columns(c));
      if (c != 0) WaitFlag<HardEvent::MTE3_V>(next_out_);
      Give(in, c, Columns(c), put);
    }
  }

 private:
  __aicore__ inline uint32_t Columns(uint32_t c) const { return Min(most_columns_, I_ - c); }
  __aicore__ inline LocalTensor<T> Take(uint64_t at, uint32_t count) {
    WaitFlag<HardEvent::V_MTE2>(next_in_);
    Load(in_[next_in_], x_[at], count);
    SetFlag<HardEvent::MTE2_V>(next_in_);
    WaitFlag<HardEvent::MTE2_V>(next_in_);
    return in_[next_in_];
  }
  __aicore__ inline void Free() {
    SetFlag<HardEvent::V_MTE2>(next_in_);
    next_in_ ^= 1;
  }
  template <typename Put>
  __aicore__ inline void Give(const LocalTensor<T>& in, uint32_t column, uint32_t columns,
                              const Put& put) {
    const LocalTensor<int8_t>& out = out_[next_out_];
    if constexpr (kPlanes) {
      const LocalTensor<int8_t> low = out[kQuantizeTile<T> / 2];
      quantizer_.RoundToPlanes(out.template ReinterpretCast<int4b_t>(),
                               low.template ReinterpretCast<int4b_t>(), in, columns);
    } else {
      quantizer_.Round(out, in, columns);
    }
    Free();
    SetFlag<HardEvent::V_MTE3>(next_out_);
    WaitFlag<HardEvent::V_MTE3>(next_out_);
    put(out, column, columns, scales_[next_out_]);
    SetFlag<HardEvent::MTE3_V>(next_out_);
    next_out_ ^= 1;
  }

  GlobalTensor<T> x_;
  uint32_t I_ = 0, most_columns_ = 0;
  RowQuantizer<T> quantizer_;
  LocalTensor<T> in_[2];
  LocalTensor<int8_t> out_[2];
  LocalTensor<float> scales_[2];
  int32_t next_in_ = 0, next_out_ = 0;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ROW_QUANTIZER_H_
