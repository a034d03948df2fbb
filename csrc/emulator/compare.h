// Compare, Compares, Select and the compare mask register. Bit i of the result belongs to element
// i, lowest bit first.
#ifndef MOGE_EMULATOR_COMPARE_H_
#define MOGE_EMULATOR_COMPARE_H_

#include "vector.h"

namespace emulator {

template <typename T>
inline constexpr bool kIsComparable = kIsOneOf<T, half, float, int32_t>;
template <typename U>
inline constexpr bool kIsBits = kIsOneOf<U, uint8_t>;
template <typename U>
inline constexpr bool kIsSelectMask = kIsOneOf<U, uint8_t, uint16_t, uint32_t, uint64_t>;

}  // namespace emulator

#define MOGE_COMPARE_TYPES(NAME)                                    \
  static_assert(emulator::kIsComparable<T> && emulator::kIsBits<U>, \
                NAME ": rule dtype.table: half, float, int32, into uint8")

#define MOGE_SELECT_TYPES                                            \
  static_assert(emulator::kIsFloat<T> && emulator::kIsSelectMask<U>, \
                "Select: rule dtype.table: half, float, by unsigned bits")

namespace AscendC {

template <typename T, typename U, bool isSetMask = true, typename Mask>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
             CMPMODE mode, const Mask& mask, emulator::U8 repeatTime,
             const BinaryRepeatParams& params) {
  MOGE_COMPARE_TYPES("Compare");
  const emulator::Operand second = emulator::Source1(src1, params);
  emulator::Compare(emulator::Op::kCompare, &dst.Ref(), emulator::Source0(src0, params), &second,
                    nullptr, mode, emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
             CMPMODE mode, uint32_t count) {
  MOGE_COMPARE_TYPES("Compare");
  const emulator::Operand second = emulator::Whole(src1);
  emulator::Compare(emulator::Op::kCompare, &dst.Ref(), emulator::Whole(src0), &second, nullptr,
                    mode, emulator::CountExtent(count));
}
// one repeat, into the compare mask
template <typename T, bool isSetMask = true>
void Compare(const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE mode, uint64_t mask,
             const BinaryRepeatParams& params) {
  static_assert(emulator::kIsComparable<T>, "Compare: rule dtype.table: half, float, int32");
  const emulator::Operand second = emulator::Source1(src1, params);
  emulator::Compare(emulator::Op::kCompare, nullptr, emulator::Source0(src0, params), &second,
                    nullptr, mode, emulator::MaskExtent(isSetMask, mask, 1));
}

template <typename T, typename U, bool isSetMask = true, typename Mask>
void Compares(const LocalTensor<U>& dst, const LocalTensor<T>& src, const T scalar, CMPMODE mode,
              const Mask& mask, emulator::U8 repeatTime, const UnaryRepeatParams& params) {
  MOGE_COMPARE_TYPES("Compares");
  emulator::Compare(emulator::Op::kCompares, &dst.Ref(), emulator::Source(src, params), nullptr,
                    &scalar, mode, emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Compares(const LocalTensor<U>& dst, const LocalTensor<T>& src, const T scalar, CMPMODE mode,
              uint32_t count) {
  MOGE_COMPARE_TYPES("Compares");
  emulator::Compare(emulator::Op::kCompares, &dst.Ref(), emulator::Whole(src), nullptr, &scalar,
                    mode, emulator::CountExtent(count));
}
// the older name
template <typename T, typename U>
void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src, const T scalar,
                   CMPMODE mode, uint32_t count) {
  Compares(dst, src, scalar, mode, count);
}

template <typename T>
void SetCmpMask(const LocalTensor<T>& src) {
  emulator::LoadCompareMask(src.Ref());
}
template <typename T>
void GetCmpMask(const LocalTensor<T>& dst) {
  emulator::StoreCompareMask(dst.Ref());
}

// where the bit is 1 src0, else src1, a tensor or a scalar
template <typename T, typename U, bool isSetMask = true, typename Mask>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            const LocalTensor<T>& src1, SELMODE mode, const Mask& mask, emulator::U8 repeatTime,
            const BinaryRepeatParams& params) {
  MOGE_SELECT_TYPES;
  const emulator::Operand second = emulator::Source1(src1, params);
  emulator::Select(emulator::Destination(dst, params), selMask.Ref(),
                   emulator::Source0(src0, params), &second, nullptr, mode,
                   emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            const LocalTensor<T>& src1, SELMODE mode, uint32_t count) {
  MOGE_SELECT_TYPES;
  const emulator::Operand second = emulator::Whole(src1);
  emulator::Select(emulator::Whole(dst), selMask.Ref(), emulator::Whole(src0), &second, nullptr,
                   mode, emulator::CountExtent(count));
}
template <typename T, typename U, bool isSetMask = true, typename Mask>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            T src1, SELMODE mode, const Mask& mask, emulator::U8 repeatTime,
            const BinaryRepeatParams& params) {
  MOGE_SELECT_TYPES;
  emulator::Select(emulator::Destination(dst, params), selMask.Ref(),
                   emulator::Source0(src0, params), nullptr, &src1, mode,
                   emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            T src1, SELMODE mode, uint32_t count) {
  MOGE_SELECT_TYPES;
  emulator::Select(emulator::Whole(dst), selMask.Ref(), emulator::Whole(src0), nullptr, &src1, mode,
                   emulator::CountExtent(count));
}

}  // namespace AscendC

#undef MOGE_COMPARE_TYPES
#undef MOGE_SELECT_TYPES

#endif  // MOGE_EMULATOR_COMPARE_H_
