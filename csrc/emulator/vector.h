// Element-wise instructions. Each has two forms: a mask with repeats and strides, and a plain
// count. A mask is a number, the lanes from 0 up, or two words of bits.
#ifndef MOGE_EMULATOR_VECTOR_H_
#define MOGE_EMULATOR_VECTOR_H_

#include "instructions.h"
#include "params.h"
#include "tensor.h"

namespace emulator {

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

#define MOGE_BINARY(NAME)                                                                      \
  template <typename T, bool isSetMask = true, typename Mask>                                  \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
            const Mask& mask, emulator::U8 repeatTime, const BinaryRepeatParams& params) {     \
    MOGE_CHECK_TYPES(NAME, T);                                                                 \
    emulator::Binary(emulator::Op::k##NAME, emulator::Destination(dst, params),                \
                     emulator::Source0(src0, params), emulator::Source1(src1, params),         \
                     emulator::MaskExtent(isSetMask, mask, repeatTime));                       \
  }                                                                                            \
  template <typename T>                                                                        \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
            const int32_t& count) {                                                            \
    MOGE_CHECK_TYPES(NAME, T);                                                                 \
    emulator::Binary(emulator::Op::k##NAME, emulator::Whole(dst), emulator::Whole(src0),       \
                     emulator::Whole(src1), emulator::CountExtent(count));                     \
  }

MOGE_BINARY(Add)
MOGE_BINARY(Sub)
MOGE_BINARY(Mul)
MOGE_BINARY(Max)
MOGE_BINARY(Min)
MOGE_BINARY(Div)
MOGE_BINARY(And)
MOGE_BINARY(Or)
#undef MOGE_BINARY

// dst += src0 * src1
template <typename T, typename U, bool isSetMask = true, typename Mask>
void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1,
               const Mask& mask, emulator::U8 repeatTime, const BinaryRepeatParams& params) {
  MOGE_CHECK_TYPES(MulAddDst, T, U);
  emulator::Binary(emulator::Op::kMulAddDst, emulator::Destination(dst, params),
                   emulator::Source0(src0, params), emulator::Source1(src1, params),
                   emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1,
               const int32_t& count) {
  MOGE_CHECK_TYPES(MulAddDst, T, U);
  emulator::Binary(emulator::Op::kMulAddDst, emulator::Whole(dst), emulator::Whole(src0, sizeof(T)),
                   emulator::Whole(src1, sizeof(T)), emulator::CountExtent(count));
}

#define MOGE_UNARY(NAME)                                                                  \
  template <typename T, bool isSetMask = true, typename Mask>                             \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask& mask,       \
            emulator::U8 repeatTime, const UnaryRepeatParams& params) {                   \
    MOGE_CHECK_TYPES(NAME, T);                                                            \
    emulator::Unary(emulator::Op::k##NAME, emulator::Destination(dst, params),            \
                    emulator::Source(src, params),                                        \
                    emulator::MaskExtent(isSetMask, mask, repeatTime));                   \
  }                                                                                       \
  template <typename T>                                                                   \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& count) { \
    MOGE_CHECK_TYPES(NAME, T);                                                            \
    emulator::Unary(emulator::Op::k##NAME, emulator::Whole(dst), emulator::Whole(src),    \
                    emulator::CountExtent(count));                                        \
  }

MOGE_UNARY(Exp)
MOGE_UNARY(Ln)
MOGE_UNARY(Sqrt)
MOGE_UNARY(Rsqrt)
MOGE_UNARY(Reciprocal)
MOGE_UNARY(Abs)
MOGE_UNARY(Relu)
MOGE_UNARY(Not)
#undef MOGE_UNARY

#define MOGE_SCALAR(NAME)                                                                        \
  template <typename T, bool isSetMask = true, typename Mask>                                    \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar,               \
            const Mask& mask, emulator::U8 repeatTime, const UnaryRepeatParams& params) {        \
    MOGE_CHECK_TYPES(NAME, T);                                                                   \
    emulator::Scalar(emulator::Op::k##NAME, emulator::Destination(dst, params),                  \
                     emulator::Source(src, params), &scalar,                                     \
                     emulator::MaskExtent(isSetMask, mask, repeatTime));                         \
  }                                                                                              \
  template <typename T>                                                                          \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar,               \
            const int32_t& count) {                                                              \
    MOGE_CHECK_TYPES(NAME, T);                                                                   \
    emulator::Scalar(emulator::Op::k##NAME, emulator::Whole(dst), emulator::Whole(src), &scalar, \
                     emulator::CountExtent(count));                                              \
  }

MOGE_SCALAR(Adds)
MOGE_SCALAR(Muls)
MOGE_SCALAR(Maxs)
MOGE_SCALAR(Mins)
MOGE_SCALAR(ShiftLeft)
MOGE_SCALAR(ShiftRight)
#undef MOGE_SCALAR

// dst += src * scalar
template <typename T, typename U, bool isSetMask = true, typename Mask>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar, const Mask& mask,
          emulator::U8 repeatTime, const UnaryRepeatParams& params) {
  MOGE_CHECK_TYPES(Axpy, T, U);
  emulator::Scalar(emulator::Op::kAxpy, emulator::Destination(dst, params),
                   emulator::Source(src, params), &scalar,
                   emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar,
          const int32_t& count) {
  MOGE_CHECK_TYPES(Axpy, T, U);
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
  MOGE_CHECK_TYPES(Duplicate, T);
  emulator::Fill(emulator::Strided(dst, dstBlkStride, dstRepStride), &value,
                 emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T>
void Duplicate(const LocalTensor<T>& dst, const T& value, const int32_t& count) {
  MOGE_CHECK_TYPES(Duplicate, T);
  emulator::Fill(emulator::Whole(dst), &value, emulator::CountExtent(count));
}

// first, first + 1, ...
template <typename T>
void CreateVecIndex(const LocalTensor<T>& dst, const T& first, uint32_t count) {
  MOGE_CHECK_TYPES(CreateVecIndex, T);
  emulator::CreateIndex(emulator::Whole(dst), &first, emulator::CountExtent(count));
}
template <typename T>
void CreateVecIndex(LocalTensor<T>& dst, const T& first, uint64_t mask, emulator::U8 repeatTime,
                    emulator::U16 dstBlkStride, emulator::U8 dstRepStride) {
  MOGE_CHECK_TYPES(CreateVecIndex, T);
  emulator::CreateIndex(emulator::Strided(dst, dstBlkStride, dstRepStride), &first,
                        emulator::MaskExtent(true, mask, repeatTime));
}

// each of 8 elements fills one block
template <typename T>
void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, emulator::U8 repeatTime,
          const BrcbRepeatParams& params) {
  MOGE_CHECK_TYPES(Brcb, T);
  emulator::BroadcastBlocks(emulator::Destination(dst, params), emulator::Strided(src, 1, 1),
                            repeatTime);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_VECTOR_H_
