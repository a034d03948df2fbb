// Compare, Compares, Select and the compare mask register. Bit i of the result belongs to element
// i, lowest bit first.
#ifndef MOGE_EMULATOR_COMPARE_H_
#define MOGE_EMULATOR_COMPARE_H_

#include "vector.h"

namespace AscendC {

template <typename T, typename U, bool isSetMask = true, typename Mask>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
             CMPMODE mode, const Mask& mask, emulator::U8 repeatTime,
             const BinaryRepeatParams& params) {
  MOGE_CHECK_TYPES(Compare, T);
  static_assert(emulator::kIsOneOf<U, uint8_t>, "Compare: rule dtype.table: into uint8");
  const emulator::Operand second = emulator::Source1(src1, params);
  emulator::Compare(emulator::Op::kCompare, &dst.Ref(), emulator::Source0(src0, params), &second,
                    nullptr, mode, emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
             CMPMODE mode, uint32_t count) {
  MOGE_CHECK_TYPES(Compare, T);
  static_assert(emulator::kIsOneOf<U, uint8_t>, "Compare: rule dtype.table: into uint8");
  const emulator::Operand second = emulator::Whole(src1);
  emulator::Compare(emulator::Op::kCompare, &dst.Ref(), emulator::Whole(src0), &second, nullptr,
                    mode, emulator::CountExtent(count));
}
// one repeat, into the compare mask
template <typename T, bool isSetMask = true>
void Compare(const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE mode, uint64_t mask,
             const BinaryRepeatParams& params) {
  MOGE_CHECK_TYPES(Compare, T);
  const emulator::Operand second = emulator::Source1(src1, params);
  emulator::Compare(emulator::Op::kCompare, nullptr, emulator::Source0(src0, params), &second,
                    nullptr, mode, emulator::MaskExtent(isSetMask, mask, 1));
}

template <typename T, typename U, bool isSetMask = true, typename Mask>
void Compares(const LocalTensor<U>& dst, const LocalTensor<T>& src, const T scalar, CMPMODE mode,
              const Mask& mask, emulator::U8 repeatTime, const UnaryRepeatParams& params) {
  MOGE_CHECK_TYPES(Compares, T);
  static_assert(emulator::kIsOneOf<U, uint8_t>, "Compares: rule dtype.table: into uint8");
  emulator::Compare(emulator::Op::kCompares, &dst.Ref(), emulator::Source(src, params), nullptr,
                    &scalar, mode, emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Compares(const LocalTensor<U>& dst, const LocalTensor<T>& src, const T scalar, CMPMODE mode,
              uint32_t count) {
  MOGE_CHECK_TYPES(Compares, T);
  static_assert(emulator::kIsOneOf<U, uint8_t>, "Compares: rule dtype.table: into uint8");
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
  MOGE_CHECK_TYPES(Select, T);
  static_assert(emulator::kIsOneOf<U, uint8_t, uint16_t, uint32_t, uint64_t>,
                "Select: rule dtype.table: by unsigned bits");
  const emulator::Operand second = emulator::Source1(src1, params);
  emulator::Select(emulator::Destination(dst, params), selMask.Ref(),
                   emulator::Source0(src0, params), &second, nullptr, mode,
                   emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            const LocalTensor<T>& src1, SELMODE mode, uint32_t count) {
  MOGE_CHECK_TYPES(Select, T);
  static_assert(emulator::kIsOneOf<U, uint8_t, uint16_t, uint32_t, uint64_t>,
                "Select: rule dtype.table: by unsigned bits");
  const emulator::Operand second = emulator::Whole(src1);
  emulator::Select(emulator::Whole(dst), selMask.Ref(), emulator::Whole(src0), &second, nullptr,
                   mode, emulator::CountExtent(count));
}
template <typename T, typename U, bool isSetMask = true, typename Mask>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            T src1, SELMODE mode, const Mask& mask, emulator::U8 repeatTime,
            const BinaryRepeatParams& params) {
  MOGE_CHECK_TYPES(Select, T);
  static_assert(emulator::kIsOneOf<U, uint8_t, uint16_t, uint32_t, uint64_t>,
                "Select: rule dtype.table: by unsigned bits");
  emulator::Select(emulator::Destination(dst, params), selMask.Ref(),
                   emulator::Source0(src0, params), nullptr, &src1, mode,
                   emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            T src1, SELMODE mode, uint32_t count) {
  MOGE_CHECK_TYPES(Select, T);
  static_assert(emulator::kIsOneOf<U, uint8_t, uint16_t, uint32_t, uint64_t>,
                "Select: rule dtype.table: by unsigned bits");
  emulator::Select(emulator::Whole(dst), selMask.Ref(), emulator::Whole(src0), nullptr, &src1, mode,
                   emulator::CountExtent(count));
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_COMPARE_H_
