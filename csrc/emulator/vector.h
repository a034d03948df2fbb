// Element-wise instructions. Each has two forms: a mask with repeats and strides, and a plain
// count. A mask is a number, the lanes from 0 up, or two words of bits.
#ifndef MOGE_EMULATOR_VECTOR_H_
#define MOGE_EMULATOR_VECTOR_H_

#include "params.h"
#include "tensor.h"

namespace emulator {

template <typename T>
inline constexpr bool kIsFloat = kIsOneOf<T, half, float>;
template <typename T>
inline constexpr bool kIsArithmetic = kIsOneOf<T, int16_t, half, int32_t, float>;
template <typename T>
inline constexpr bool kIsBitwise = kIsOneOf<T, int16_t, uint16_t>;
template <typename T>
inline constexpr bool kIsShift = kIsOneOf<T, int16_t, uint16_t, int32_t, uint32_t>;
// (destination, source): same type, or float from half
template <typename T, typename U>
inline constexpr bool kIsAccumulate =
    kIsFloat<U> && (std::is_same_v<T, U> || (std::is_same_v<T, float> && std::is_same_v<U, half>));

template <typename T, typename U>
inline constexpr bool kCanCast =
    (kIsOneOf<U, half> && kIsOneOf<T, float, int32_t, int16_t, int8_t, uint8_t>) ||
    (kIsOneOf<U, float> && kIsOneOf<T, half, bfloat16_t, int32_t, int16_t, int64_t, float>) ||
    (kIsOneOf<U, bfloat16_t> && kIsOneOf<T, float, int32_t>) ||
    (kIsOneOf<U, int8_t, uint8_t> && kIsOneOf<T, half>) ||
    (kIsOneOf<U, int16_t> && kIsOneOf<T, half, float>) ||
    (kIsOneOf<U, int32_t> && kIsOneOf<T, float, int16_t, int64_t, half>) ||
    (kIsOneOf<U, int64_t> && kIsOneOf<T, int32_t, float>);

template <typename T>
Operand Strided(const AscendC::LocalTensor<T>& tensor, uint32_t block_stride,
                uint32_t repeat_stride) {
  return {tensor.Ref(), kDTypeOf<T>, block_stride, repeat_stride};
}
template <typename T, typename Params>
Operand Destination(const AscendC::LocalTensor<T>& tensor, const Params& params) {
  return Strided(tensor, params.dstBlkStride, params.dstRepStride);
}
template <typename T>
Operand Source(const AscendC::LocalTensor<T>& tensor, const AscendC::UnaryRepeatParams& params) {
  return Strided(tensor, params.srcBlkStride, params.srcRepStride);
}
template <typename T>
Operand Source0(const AscendC::LocalTensor<T>& tensor, const AscendC::BinaryRepeatParams& params) {
  return Strided(tensor, params.src0BlkStride, params.src0RepStride);
}
template <typename T>
Operand Source1(const AscendC::LocalTensor<T>& tensor, const AscendC::BinaryRepeatParams& params) {
  return Strided(tensor, params.src1BlkStride, params.src1RepStride);
}
// Of the count forms: contiguous. A repeat has as many elements as fit of the wider type.
template <typename T>
Operand Whole(const AscendC::LocalTensor<T>& tensor, uint32_t widest = sizeof(T)) {
  return {tensor.Ref(), kDTypeOf<T>, 1, static_cast<uint32_t>(8 * sizeof(T) / widest)};
}

}  // namespace emulator

namespace AscendC {

#define MOGE_BINARY(NAME, ALLOWED, TYPES)                                                      \
  template <typename T, bool isSetMask = true, typename Mask>                                  \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
            const Mask& mask, emulator::U8 repeatTime, const BinaryRepeatParams& params) {     \
    static_assert(emulator::ALLOWED<T>, #NAME ": rule dtype.table: " TYPES);                   \
    emulator::Binary(emulator::Op::k##NAME, emulator::Destination(dst, params),                \
                     emulator::Source0(src0, params), emulator::Source1(src1, params),         \
                     emulator::MaskExtent(isSetMask, mask, repeatTime));                       \
  }                                                                                            \
  template <typename T>                                                                        \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
            const int32_t& count) {                                                            \
    static_assert(emulator::ALLOWED<T>, #NAME ": rule dtype.table: " TYPES);                   \
    emulator::Binary(emulator::Op::k##NAME, emulator::Whole(dst), emulator::Whole(src0),       \
                     emulator::Whole(src1), emulator::CountExtent(count));                     \
  }

MOGE_BINARY(Add, kIsArithmetic, "int16, half, int32, float")
MOGE_BINARY(Sub, kIsArithmetic, "int16, half, int32, float")
MOGE_BINARY(Mul, kIsArithmetic, "int16, half, int32, float")
MOGE_BINARY(Max, kIsArithmetic, "int16, half, int32, float")
MOGE_BINARY(Min, kIsArithmetic, "int16, half, int32, float")
MOGE_BINARY(Div, kIsFloat, "half, float")
MOGE_BINARY(And, kIsBitwise, "int16, uint16")
MOGE_BINARY(Or, kIsBitwise, "int16, uint16")
#undef MOGE_BINARY

// dst += src0 * src1
template <typename T, typename U, bool isSetMask = true, typename Mask>
void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1,
               const Mask& mask, emulator::U8 repeatTime, const BinaryRepeatParams& params) {
  static_assert(emulator::kIsAccumulate<T, U>,
                "MulAddDst: rule dtype.table: (half, half), (float, float), (float, half)");
  emulator::Binary(emulator::Op::kMulAddDst, emulator::Destination(dst, params),
                   emulator::Source0(src0, params), emulator::Source1(src1, params),
                   emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1,
               const int32_t& count) {
  static_assert(emulator::kIsAccumulate<T, U>,
                "MulAddDst: rule dtype.table: (half, half), (float, float), (float, half)");
  emulator::Binary(emulator::Op::kMulAddDst, emulator::Whole(dst), emulator::Whole(src0, sizeof(T)),
                   emulator::Whole(src1, sizeof(T)), emulator::CountExtent(count));
}

#define MOGE_UNARY(NAME, ALLOWED, TYPES)                                                  \
  template <typename T, bool isSetMask = true, typename Mask>                             \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask& mask,       \
            emulator::U8 repeatTime, const UnaryRepeatParams& params) {                   \
    static_assert(ALLOWED, #NAME ": rule dtype.table: " TYPES);                           \
    emulator::Unary(emulator::Op::k##NAME, emulator::Destination(dst, params),            \
                    emulator::Source(src, params),                                        \
                    emulator::MaskExtent(isSetMask, mask, repeatTime));                   \
  }                                                                                       \
  template <typename T>                                                                   \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& count) { \
    static_assert(ALLOWED, #NAME ": rule dtype.table: " TYPES);                           \
    emulator::Unary(emulator::Op::k##NAME, emulator::Whole(dst), emulator::Whole(src),    \
                    emulator::CountExtent(count));                                        \
  }

MOGE_UNARY(Exp, emulator::kIsFloat<T>, "half, float")
MOGE_UNARY(Ln, emulator::kIsFloat<T>, "half, float")
MOGE_UNARY(Sqrt, emulator::kIsFloat<T>, "half, float")
MOGE_UNARY(Rsqrt, emulator::kIsFloat<T>, "half, float")
MOGE_UNARY(Reciprocal, emulator::kIsFloat<T>, "half, float")
MOGE_UNARY(Abs, emulator::kIsFloat<T>, "half, float")
MOGE_UNARY(Relu, (emulator::kIsOneOf<T, half, float, int32_t>), "half, float, int32")
MOGE_UNARY(Not, emulator::kIsBitwise<T>, "int16, uint16")
#undef MOGE_UNARY

#define MOGE_SCALAR(NAME, ALLOWED, TYPES)                                                        \
  template <typename T, bool isSetMask = true, typename Mask>                                    \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar,               \
            const Mask& mask, emulator::U8 repeatTime, const UnaryRepeatParams& params) {        \
    static_assert(emulator::ALLOWED<T>, #NAME ": rule dtype.table: " TYPES);                     \
    emulator::Scalar(emulator::Op::k##NAME, emulator::Destination(dst, params),                  \
                     emulator::Source(src, params), &scalar,                                     \
                     emulator::MaskExtent(isSetMask, mask, repeatTime));                         \
  }                                                                                              \
  template <typename T>                                                                          \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar,               \
            const int32_t& count) {                                                              \
    static_assert(emulator::ALLOWED<T>, #NAME ": rule dtype.table: " TYPES);                     \
    emulator::Scalar(emulator::Op::k##NAME, emulator::Whole(dst), emulator::Whole(src), &scalar, \
                     emulator::CountExtent(count));                                              \
  }

MOGE_SCALAR(Adds, kIsArithmetic, "int16, half, int32, float")
MOGE_SCALAR(Muls, kIsArithmetic, "int16, half, int32, float")
MOGE_SCALAR(Maxs, kIsArithmetic, "int16, half, int32, float")
MOGE_SCALAR(Mins, kIsArithmetic, "int16, half, int32, float")
MOGE_SCALAR(ShiftLeft, kIsShift, "int16, uint16, int32, uint32")
MOGE_SCALAR(ShiftRight, kIsShift, "int16, uint16, int32, uint32")
#undef MOGE_SCALAR

// dst += src * scalar
template <typename T, typename U, bool isSetMask = true, typename Mask>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar, const Mask& mask,
          emulator::U8 repeatTime, const UnaryRepeatParams& params) {
  static_assert(emulator::kIsAccumulate<T, U>,
                "Axpy: rule dtype.table: (half, half), (float, float), (float, half)");
  emulator::Scalar(emulator::Op::kAxpy, emulator::Destination(dst, params),
                   emulator::Source(src, params), &scalar,
                   emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar,
          const int32_t& count) {
  static_assert(emulator::kIsAccumulate<T, U>,
                "Axpy: rule dtype.table: (half, half), (float, float), (float, half)");
  emulator::Scalar(emulator::Op::kAxpy, emulator::Whole(dst), emulator::Whole(src, sizeof(T)),
                   &scalar, emulator::CountExtent(count));
}

// a repeat is 64 elements of the wider type
template <typename T, typename U, bool isSetMask = true, typename Mask>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& mode,
          const Mask& mask, emulator::U8 repeatTime, const UnaryRepeatParams& params) {
  static_assert(emulator::kCanCast<T, U>, "Cast: rule dtype.table: no such pair of types");
  emulator::Cast(emulator::Destination(dst, params), emulator::Source(src, params), mode,
                 emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& mode,
          const uint32_t& count) {
  static_assert(emulator::kCanCast<T, U>, "Cast: rule dtype.table: no such pair of types");
  constexpr uint32_t kWidest = sizeof(T) > sizeof(U) ? sizeof(T) : sizeof(U);
  emulator::Cast(emulator::Whole(dst, kWidest), emulator::Whole(src, kWidest), mode,
                 emulator::CountExtent(count));
}

template <typename T, bool isSetMask = true, typename Mask>
void Duplicate(const LocalTensor<T>& dst, const T& value, const Mask& mask, emulator::U8 repeatTime,
               emulator::U16 dstBlkStride, emulator::U8 dstRepStride) {
  static_assert(emulator::kIs16Or32Bit<T>, "Duplicate: rule dtype.table: 16- and 32-bit types");
  emulator::Fill(emulator::Strided(dst, dstBlkStride, dstRepStride), &value,
                 emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T>
void Duplicate(const LocalTensor<T>& dst, const T& value, const int32_t& count) {
  static_assert(emulator::kIs16Or32Bit<T>, "Duplicate: rule dtype.table: 16- and 32-bit types");
  emulator::Fill(emulator::Whole(dst), &value, emulator::CountExtent(count));
}

// first, first + 1, ...
template <typename T>
void CreateVecIndex(const LocalTensor<T>& dst, const T& first, uint32_t count) {
  static_assert(emulator::kIsArithmetic<T>,
                "CreateVecIndex: rule dtype.table: int16, half, int32, float");
  emulator::CreateIndex(emulator::Whole(dst), &first, emulator::CountExtent(count));
}
template <typename T>
void CreateVecIndex(LocalTensor<T>& dst, const T& first, uint64_t mask, emulator::U8 repeatTime,
                    emulator::U16 dstBlkStride, emulator::U8 dstRepStride) {
  static_assert(emulator::kIsArithmetic<T>,
                "CreateVecIndex: rule dtype.table: int16, half, int32, float");
  emulator::CreateIndex(emulator::Strided(dst, dstBlkStride, dstRepStride), &first,
                        emulator::MaskExtent(true, mask, repeatTime));
}

// each of 8 elements fills one block
template <typename T>
void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, emulator::U8 repeatTime,
          const BrcbRepeatParams& params) {
  static_assert(emulator::kIs16Or32Bit<T>, "Brcb: rule dtype.table: 16- and 32-bit types");
  emulator::BroadcastBlocks(emulator::Destination(dst, params), emulator::Strided(src, 1, 1),
                            repeatTime);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_VECTOR_H_
