// Instructions over two types: multiply-add with a wider destination, and conversions. A repeat has
// as many elements as fit of the wider type.
#ifndef MOGE_EMULATOR_COMPOUND_H_
#define MOGE_EMULATOR_COMPOUND_H_

#include "vector.h"

namespace emulator {

template <typename T, typename U>
inline constexpr uint32_t kWidest = sizeof(T) > sizeof(U) ? sizeof(T) : sizeof(U);

}  // namespace emulator

namespace AscendC {

#define MOGE_TWO_SOURCES_MASKED(NAME, FUNCTION, MASK)                                          \
  template <typename T, typename U, bool isSetMask = true>                                     \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, \
            MASK, emulator::U8 repeatTime, const BinaryRepeatParams& params) {                 \
    MOGE_CHECK_TYPES(NAME, T, U);                                                              \
    emulator::FUNCTION(emulator::Op::k##NAME, emulator::Destination(dst, params),              \
                       emulator::Source0(src0, params), emulator::Source1(src1, params),       \
                       emulator::MaskExtent(isSetMask, mask, repeatTime));                     \
  }
#define MOGE_TWO_SOURCES(NAME, FUNCTION, COUNT)                                                \
  template <typename T, typename U>                                                            \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, \
            COUNT count) {                                                                     \
    MOGE_CHECK_TYPES(NAME, T, U);                                                              \
    constexpr uint32_t kWide = emulator::kWidest<T, U>;                                        \
    emulator::FUNCTION(emulator::Op::k##NAME, emulator::Whole(dst, kWide),                     \
                       emulator::Whole(src0, kWide), emulator::Whole(src1, kWide),             \
                       emulator::CountExtent(count));                                          \
  }

// dst += src0 * src1
MOGE_TWO_SOURCES_MASKED(MulAddDst, Binary, uint64_t mask)
MOGE_TWO_SOURCES_MASKED(MulAddDst, Binary, const uint64_t mask[])
MOGE_TWO_SOURCES(MulAddDst, Binary, const int32_t&)
#define MOGE_BINARY_CAST(NAME, COUNT)                        \
  MOGE_TWO_SOURCES_MASKED(NAME, BinaryCast, uint64_t mask)   \
  MOGE_TWO_SOURCES_MASKED(NAME, BinaryCast, uint64_t mask[]) \
  MOGE_TWO_SOURCES(NAME, BinaryCast, COUNT)
MOGE_BINARY_CAST(AddReluCast, uint32_t)
MOGE_BINARY_CAST(SubReluCast, uint32_t)
MOGE_BINARY_CAST(MulCast, uint32_t)
MOGE_BINARY_CAST(AddDeqRelu, const int32_t&)
#undef MOGE_BINARY_CAST
#undef MOGE_TWO_SOURCES
#undef MOGE_TWO_SOURCES_MASKED

// AddDeqRelu has but one pair of types, and so forms that name none.
#define MOGE_ADD_DEQ_RELU(MASK)                                                      \
  template <bool isSetMask = true>                                                   \
  void AddDeqRelu(const LocalTensor<half>& dst, const LocalTensor<int32_t>& src0,    \
                  const LocalTensor<int32_t>& src1, MASK, emulator::U8 repeatTime,   \
                  const BinaryRepeatParams& params) {                                \
    AddDeqRelu<half, int32_t, isSetMask>(dst, src0, src1, mask, repeatTime, params); \
  }
MOGE_ADD_DEQ_RELU(uint64_t mask)
MOGE_ADD_DEQ_RELU(uint64_t mask[])
#undef MOGE_ADD_DEQ_RELU
inline void AddDeqRelu(const LocalTensor<half>& dst, const LocalTensor<int32_t>& src0,
                       const LocalTensor<int32_t>& src1, const int32_t& count) {
  AddDeqRelu<half, int32_t>(dst, src0, src1, count);
}

// dst += src * scalar
#define MOGE_AXPY(MASK)                                                                  \
  template <typename T, typename U, bool isSetMask = true>                               \
  void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar, MASK, \
            emulator::U8 repeatTime, const UnaryRepeatParams& params) {                  \
    MOGE_CHECK_TYPES(Axpy, T, U);                                                        \
    emulator::Scalar(emulator::Op::kAxpy, emulator::Destination(dst, params),            \
                     emulator::Source(src, params), &scalar,                             \
                     emulator::MaskExtent(isSetMask, mask, repeatTime));                 \
  }
MOGE_AXPY(uint64_t mask)
MOGE_AXPY(uint64_t mask[])
#undef MOGE_AXPY
template <typename T, typename U>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar,
          const int32_t& count) {
  MOGE_CHECK_TYPES(Axpy, T, U);
  constexpr uint32_t kWide = emulator::kWidest<T, U>;
  emulator::Scalar(emulator::Op::kAxpy, emulator::Whole(dst, kWide), emulator::Whole(src, kWide),
                   &scalar, emulator::CountExtent(count));
}

#define MOGE_CHECK_CAST(T, U)                                                             \
  static_assert(emulator::casts::Find(emulator::kDTypeOf<T>, emulator::kDTypeOf<U>) >= 0, \
                "Cast: rule dtype.table: no such pair of types")
#define MOGE_CAST_MASKED(MASK)                                                                 \
  template <typename T, typename U, bool isSetMask = true>                                     \
  void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& mode, MASK, \
            emulator::U8 repeatTime, const UnaryRepeatParams& params) {                        \
    MOGE_CHECK_CAST(T, U);                                                                     \
    emulator::Cast(emulator::Destination(dst, params), emulator::Source(src, params), mode,    \
                   emulator::MaskExtent(isSetMask, mask, repeatTime));                         \
  }
MOGE_CAST_MASKED(uint64_t mask)
MOGE_CAST_MASKED(const uint64_t mask[])
#undef MOGE_CAST_MASKED
template <typename T, typename U>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& mode,
          uint32_t count) {
  MOGE_CHECK_CAST(T, U);
  constexpr uint32_t kWide = emulator::kWidest<T, U>;
  emulator::Cast(emulator::Whole(dst, kWide), emulator::Whole(src, kWide), mode,
                 emulator::CountExtent(count));
}
#undef MOGE_CHECK_CAST

// The scale of SetDeqScale. The last two flags are for pairs of types with a result of 8 bits.
#define MOGE_DEQUANTISE_MASKED(NAME, MASK)                                                       \
  template <typename T, typename U, bool isSetMask = true, bool isVecDeq = true,                 \
            bool halfBlock = true>                                                               \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<U>& src, MASK, emulator::U8 repeatTime, \
            const UnaryRepeatParams& params) {                                                   \
    MOGE_CHECK_TYPES(CastDequant, T, U);                                                         \
    emulator::Dequantise(emulator::Destination(dst, params), emulator::Source(src, params),      \
                         emulator::MaskExtent(isSetMask, mask, repeatTime));                     \
  }
// the second name is the older one
#define MOGE_DEQUANTISE(NAME)                                                       \
  MOGE_DEQUANTISE_MASKED(NAME, int32_t mask)                                        \
  MOGE_DEQUANTISE_MASKED(NAME, const uint64_t mask[])                               \
  template <typename T, typename U, bool isVecDeq = true, bool halfBlock = true>    \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<U>& src, uint32_t count) { \
    MOGE_CHECK_TYPES(CastDequant, T, U);                                            \
    constexpr uint32_t kWide = emulator::kWidest<T, U>;                             \
    emulator::Dequantise(emulator::Whole(dst, kWide), emulator::Whole(src, kWide),  \
                         emulator::CountExtent(count));                             \
  }
MOGE_DEQUANTISE(CastDequant)
MOGE_DEQUANTISE(CastDeq)
#undef MOGE_DEQUANTISE
#undef MOGE_DEQUANTISE_MASKED

}  // namespace AscendC

#endif  // MOGE_EMULATOR_COMPOUND_H_
