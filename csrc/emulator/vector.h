// Element-wise instructions. Each has a form with a plain count, and two with a mask, repeats and
// strides: the mask is a number, the lanes from 0 up, or two words of bits.
#ifndef MOGE_EMULATOR_VECTOR_H_
#define MOGE_EMULATOR_VECTOR_H_

#include "instructions.h"
#include "params.h"
#include "tensor.h"

namespace emulator {

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
  const uint64_t bytes = BytesOf(kDTypeOf<T>, 256 / widest);
  return {tensor.Ref(), kDTypeOf<T>, 1, static_cast<uint32_t>(bytes / 32)};
}

}  // namespace emulator

namespace AscendC {

#define MOGE_BINARY_MASKED(NAME, OP, MASK)                                                     \
  template <typename T, bool isSetMask = true>                                                 \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
            MASK, emulator::U8 repeatTime, const BinaryRepeatParams& params) {                 \
    MOGE_CHECK_TYPES(OP, T);                                                                   \
    emulator::Binary(emulator::Op::k##OP, emulator::Destination(dst, params),                  \
                     emulator::Source0(src0, params), emulator::Source1(src1, params),         \
                     emulator::MaskExtent(isSetMask, mask, repeatTime));                       \
  }
#define MOGE_BINARY_AS(NAME, OP)                                                               \
  MOGE_BINARY_MASKED(NAME, OP, uint64_t mask)                                                  \
  MOGE_BINARY_MASKED(NAME, OP, uint64_t mask[])                                                \
  template <typename T>                                                                        \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
            const int32_t& count) {                                                            \
    MOGE_CHECK_TYPES(OP, T);                                                                   \
    emulator::Binary(emulator::Op::k##OP, emulator::Whole(dst), emulator::Whole(src0),         \
                     emulator::Whole(src1), emulator::CountExtent(count));                     \
  }
#define MOGE_BINARY(NAME) MOGE_BINARY_AS(NAME, NAME)

MOGE_BINARY(Add)
MOGE_BINARY(Sub)
MOGE_BINARY(Mul)
MOGE_BINARY(Max)
MOGE_BINARY(Min)
MOGE_BINARY(Div)
MOGE_BINARY(And)
MOGE_BINARY(Or)
MOGE_BINARY(AddRelu)
MOGE_BINARY(SubRelu)
MOGE_BINARY(FusedMulAdd)
MOGE_BINARY(MulAddRelu)
MOGE_BINARY_AS(FusedMulAddRelu, MulAddRelu)  // the older name
#undef MOGE_BINARY
#undef MOGE_BINARY_AS
#undef MOGE_BINARY_MASKED

#define MOGE_UNARY_MASKED(NAME, MASK)                                                            \
  template <typename T, bool isSetMask = true>                                                   \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, MASK, emulator::U8 repeatTime, \
            const UnaryRepeatParams& params) {                                                   \
    MOGE_CHECK_TYPES(NAME, T);                                                                   \
    emulator::Unary(emulator::Op::k##NAME, emulator::Destination(dst, params),                   \
                    emulator::Source(src, params),                                               \
                    emulator::MaskExtent(isSetMask, mask, repeatTime));                          \
  }
#define MOGE_UNARY(NAME)                                                                  \
  MOGE_UNARY_MASKED(NAME, uint64_t mask)                                                  \
  MOGE_UNARY_MASKED(NAME, uint64_t mask[])                                                \
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
#undef MOGE_UNARY_MASKED

// With one scalar for all elements. A call may name its type as a second template argument, which
// is the same as the first. TYPES stand in parentheses.
#define MOGE_OPEN(...) __VA_ARGS__
#define MOGE_SCALAR_MASKED(NAME, ROUNDS, TYPES, SCALAR, MASK, ...)                            \
  template <MOGE_OPEN TYPES>                                                                  \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const SCALAR& scalar, MASK, \
            emulator::U8 repeatTime, __VA_ARGS__) {                                           \
    MOGE_CHECK_TYPES(NAME, T);                                                                \
    emulator::Scalar(emulator::Op::k##NAME, emulator::Destination(dst, params),               \
                     emulator::Source(src, params), &scalar,                                  \
                     emulator::MaskExtent(isSetMask, mask, repeatTime), ROUNDS);              \
  }
#define MOGE_SCALAR_FORMS(NAME, ROUNDS, TYPES, SCALAR, ...)                                      \
  MOGE_SCALAR_MASKED(NAME, ROUNDS, TYPES, SCALAR, uint64_t mask, __VA_ARGS__)                    \
  MOGE_SCALAR_MASKED(NAME, ROUNDS, TYPES, SCALAR, uint64_t mask[], __VA_ARGS__)                  \
  template <MOGE_OPEN TYPES>                                                                     \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const SCALAR& scalar,          \
            const int32_t& count) {                                                              \
    MOGE_CHECK_TYPES(NAME, T);                                                                   \
    emulator::Scalar(emulator::Op::k##NAME, emulator::Whole(dst), emulator::Whole(src), &scalar, \
                     emulator::CountExtent(isSetMask, count));                                   \
  }
#define MOGE_ONE_TYPE (typename T, bool isSetMask = true)
#define MOGE_TWO_TYPES                            \
  (typename T, typename U, bool isSetMask = true, \
   std::enable_if_t<std::is_same_v<T, U>, bool> = true)
#define MOGE_SCALAR(NAME)                                                           \
  MOGE_SCALAR_FORMS(NAME, false, MOGE_ONE_TYPE, T, const UnaryRepeatParams& params) \
  MOGE_SCALAR_FORMS(NAME, false, MOGE_TWO_TYPES, U, const UnaryRepeatParams& params)

MOGE_SCALAR(Adds)
MOGE_SCALAR(Muls)
MOGE_SCALAR(Maxs)
MOGE_SCALAR(Mins)
MOGE_SCALAR(LeakyRelu)
MOGE_SCALAR(ShiftLeft)
// `roundEn`: adds the last bit shifted out, of types with a sign
MOGE_SCALAR_FORMS(ShiftRight, roundEn, MOGE_ONE_TYPE, T, const UnaryRepeatParams& params,
                  bool roundEn = false)
MOGE_SCALAR_FORMS(ShiftRight, roundEn, MOGE_TWO_TYPES, U, const UnaryRepeatParams& params,
                  bool roundEn)
#undef MOGE_SCALAR
#undef MOGE_TWO_TYPES
#undef MOGE_ONE_TYPE
#undef MOGE_SCALAR_FORMS
#undef MOGE_SCALAR_MASKED
#undef MOGE_OPEN

#define MOGE_DUPLICATE(MASK)                                                               \
  template <typename T, bool isSetMask = true>                                             \
  void Duplicate(const LocalTensor<T>& dst, const T& value, MASK, emulator::U8 repeatTime, \
                 emulator::U16 dstBlkStride, emulator::U8 dstRepStride) {                  \
    MOGE_CHECK_TYPES(Duplicate, T);                                                        \
    emulator::Fill(emulator::Strided(dst, dstBlkStride, dstRepStride), &value,             \
                   emulator::MaskExtent(isSetMask, mask, repeatTime));                     \
  }
MOGE_DUPLICATE(uint64_t mask)
MOGE_DUPLICATE(uint64_t mask[])
#undef MOGE_DUPLICATE
template <typename T>
void Duplicate(const LocalTensor<T>& dst, const T& value, const int32_t& count) {
  MOGE_CHECK_TYPES(Duplicate, T);
  emulator::Fill(emulator::Whole(dst), &value, emulator::CountExtent(count));
}

// first, first + 1, ...
#define MOGE_CREATE_INDEX(MASK)                                                           \
  template <typename T>                                                                   \
  void CreateVecIndex(LocalTensor<T>& dst, const T& first, MASK, emulator::U8 repeatTime, \
                      emulator::U16 dstBlkStride, emulator::U8 dstRepStride) {            \
    MOGE_CHECK_TYPES(CreateVecIndex, T);                                                  \
    emulator::CreateIndex(emulator::Strided(dst, dstBlkStride, dstRepStride), &first,     \
                          emulator::MaskExtent(true, mask, repeatTime));                  \
  }
MOGE_CREATE_INDEX(uint64_t mask)
MOGE_CREATE_INDEX(uint64_t mask[])
#undef MOGE_CREATE_INDEX
template <typename T>
void CreateVecIndex(LocalTensor<T> dst, const T& first, uint32_t count) {
  MOGE_CHECK_TYPES(CreateVecIndex, T);
  emulator::CreateIndex(emulator::Whole(dst), &first, emulator::CountExtent(count));
}

// each of 8 elements fills one block
template <typename T>
void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, emulator::U8 repeatTime,
          const BrcbRepeatParams& params) {
  MOGE_CHECK_TYPES(Brcb, T);
  emulator::BroadcastBlocks(emulator::Destination(dst, params), emulator::Strided(src, 1, 1),
                            repeatTime);
}

// dst = src0 + src1: as many elements as the destination has
#define MOGE_OPERATOR(SIGN, NAME)                                                              \
  template <typename T>                                                                        \
  emulator::WholeTensors<T, emulator::Op::k##NAME> operator SIGN(const LocalTensor<T>& src0,   \
                                                                 const LocalTensor<T>& src1) { \
    MOGE_CHECK_TYPES(NAME, T);                                                                 \
    return {src0, src1};                                                                       \
  }
MOGE_OPERATOR(+, Add)
MOGE_OPERATOR(-, Sub)
MOGE_OPERATOR(*, Mul)
MOGE_OPERATOR(/, Div)
MOGE_OPERATOR(&, And)
MOGE_OPERATOR(|, Or)
#undef MOGE_OPERATOR

template <typename T>
template <emulator::Op op>
void LocalTensor<T>::operator=(const emulator::WholeTensors<T, op>& sources) {
  emulator::Binary(op, emulator::Whole(*this), emulator::Whole(sources.src0),
                   emulator::Whole(sources.src1), emulator::CountExtent(size_));
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_VECTOR_H_
