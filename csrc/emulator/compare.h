// Compare, Compares, Select and the compare mask register. Bit i of the result belongs to element
// i, lowest bit first.
#ifndef MOGE_EMULATOR_COMPARE_H_
#define MOGE_EMULATOR_COMPARE_H_

#include "vector.h"

namespace AscendC {

#define MOGE_CHECK_COMPARE(NAME, ...)                     \
  MOGE_CHECK_TYPES(NAME, T);                              \
  static_assert(emulator::kIsOneOf<U, __VA_ARGS__>, #NAME \
                ": rule dtype.table: "                    \
                "into " #__VA_ARGS__)

#define MOGE_COMPARE_MASKED(MASK)                                                                 \
  template <typename T, typename U, bool isSetMask = true>                                        \
  void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, \
               CMPMODE mode, MASK, emulator::U8 repeatTime, const BinaryRepeatParams& params) {   \
    MOGE_CHECK_COMPARE(Compare, uint8_t, int8_t);                                                 \
    const emulator::Operand second = emulator::Source1(src1, params);                             \
    emulator::Compare(emulator::Op::kCompare, &dst.Ref(), emulator::Source0(src0, params),        \
                      &second, nullptr, mode, emulator::MaskExtent(isSetMask, mask, repeatTime)); \
  }                                                                                               \
  /* one repeat, into the compare mask */                                                         \
  template <typename T, bool isSetMask = true>                                                    \
  void Compare(const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE mode, MASK,        \
               const BinaryRepeatParams& params) {                                                \
    static_assert(emulator::kIsOneOf<T, half, float>,                                             \
                  "Compare: rule dtype.table: into the register half, float");                    \
    const emulator::Operand second = emulator::Source1(src1, params);                             \
    emulator::Compare(emulator::Op::kCompare, nullptr, emulator::Source0(src0, params), &second,  \
                      nullptr, mode, emulator::MaskExtent(isSetMask, mask, 1));                   \
  }
MOGE_COMPARE_MASKED(uint64_t mask)
MOGE_COMPARE_MASKED(const uint64_t mask[])
#undef MOGE_COMPARE_MASKED
template <typename T, typename U>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
             CMPMODE mode, uint32_t count) {
  MOGE_CHECK_COMPARE(Compare, uint8_t, int8_t);
  const emulator::Operand second = emulator::Whole(src1);
  emulator::Compare(emulator::Op::kCompare, &dst.Ref(), emulator::Whole(src0), &second, nullptr,
                    mode, emulator::CountExtent(count));
}

// dst = src0 < src1: as many elements as the sources have
#define MOGE_OPERATOR(SIGN, MODE)                                          \
  template <typename T>                                                    \
  emulator::ComparedTensors<T> operator SIGN(const LocalTensor<T>& src0,   \
                                             const LocalTensor<T>& src1) { \
    return {src0, src1, CMPMODE::MODE};                                    \
  }
MOGE_OPERATOR(<, LT)
MOGE_OPERATOR(>, GT)
MOGE_OPERATOR(==, EQ)
MOGE_OPERATOR(<=, LE)
MOGE_OPERATOR(>=, GE)
MOGE_OPERATOR(!=, NE)
#undef MOGE_OPERATOR

template <typename T>
template <typename U>
void LocalTensor<T>::operator=(const emulator::ComparedTensors<U>& sources) {
  Compare(*this, sources.src0, sources.src1, sources.mode, sources.src0.GetSize());
}

#define MOGE_COMPARES_MASKED(NAME, MASK)                                                           \
  template <typename T, typename U, bool isSetMask = true>                                         \
  void NAME(const LocalTensor<U>& dst, const LocalTensor<T>& src, const T scalar, CMPMODE mode,    \
            MASK, emulator::U8 repeatTime, const UnaryRepeatParams& params) {                      \
    MOGE_CHECK_COMPARE(Compares, uint8_t);                                                         \
    emulator::Compare(emulator::Op::kCompares, &dst.Ref(), emulator::Source(src, params), nullptr, \
                      &scalar, mode, emulator::MaskExtent(isSetMask, mask, repeatTime));           \
  }
#define MOGE_COMPARES(NAME)                                                                        \
  MOGE_COMPARES_MASKED(NAME, uint64_t mask)                                                        \
  MOGE_COMPARES_MASKED(NAME, const uint64_t mask[])                                                \
  template <typename T, typename U>                                                                \
  void NAME(const LocalTensor<U>& dst, const LocalTensor<T>& src, const T scalar, CMPMODE mode,    \
            uint32_t count) {                                                                      \
    MOGE_CHECK_COMPARE(Compares, uint8_t);                                                         \
    emulator::Compare(emulator::Op::kCompares, &dst.Ref(), emulator::Whole(src), nullptr, &scalar, \
                      mode, emulator::CountExtent(count));                                         \
  }
MOGE_COMPARES(Compares)
MOGE_COMPARES(CompareScalar)  // the older name
#undef MOGE_COMPARES
#undef MOGE_COMPARES_MASKED
#undef MOGE_CHECK_COMPARE

template <typename T>
void SetCmpMask(const LocalTensor<T>& src) {
  emulator::LoadCompareMask(src.Ref());
}
template <typename T>
void GetCmpMask(const LocalTensor<T>& dst) {
  emulator::StoreCompareMask(dst.Ref());
}

// where the bit is 1 src0, else src1, a tensor or a scalar
#define MOGE_CHECK_SELECT                                                     \
  MOGE_CHECK_TYPES(Select, T);                                                \
  static_assert(emulator::kIsOneOf<U, uint8_t, uint16_t, uint32_t, uint64_t>, \
                "Select: rule dtype.table: by unsigned bits")
#define MOGE_SELECT_MASKED(MASK)                                                               \
  template <typename T, typename U, bool isSetMask = true>                                     \
  void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask,                        \
              const LocalTensor<T>& src0, const LocalTensor<T>& src1, SELMODE mode, MASK,      \
              emulator::U8 repeatTime, const BinaryRepeatParams& params) {                     \
    MOGE_CHECK_SELECT;                                                                         \
    const emulator::Operand second = emulator::Source1(src1, params);                          \
    emulator::Select(emulator::Destination(dst, params), selMask.Ref(),                        \
                     emulator::Source0(src0, params), &second, nullptr, mode,                  \
                     emulator::MaskExtent(isSetMask, mask, repeatTime));                       \
  }                                                                                            \
  template <typename T, typename U, bool isSetMask = true>                                     \
  void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask,                        \
              const LocalTensor<T>& src0, T src1, SELMODE mode, MASK, emulator::U8 repeatTime, \
              const BinaryRepeatParams& params) {                                              \
    MOGE_CHECK_SELECT;                                                                         \
    emulator::Select(emulator::Destination(dst, params), selMask.Ref(),                        \
                     emulator::Source0(src0, params), nullptr, &src1, mode,                    \
                     emulator::MaskExtent(isSetMask, mask, repeatTime));                       \
  }
MOGE_SELECT_MASKED(uint64_t mask)
MOGE_SELECT_MASKED(uint64_t mask[])
#undef MOGE_SELECT_MASKED
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            const LocalTensor<T>& src1, SELMODE mode, uint32_t count) {
  MOGE_CHECK_SELECT;
  const emulator::Operand second = emulator::Whole(src1);
  emulator::Select(emulator::Whole(dst), selMask.Ref(), emulator::Whole(src0), &second, nullptr,
                   mode, emulator::CountExtent(count));
}
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            T src1, SELMODE mode, uint32_t count) {
  MOGE_CHECK_SELECT;
  emulator::Select(emulator::Whole(dst), selMask.Ref(), emulator::Whole(src0), nullptr, &src1, mode,
                   emulator::CountExtent(count));
}
// The mask register chooses the elements. In mode 0 the compare mask holds the bits, in mode 2
// the address of the tensor that holds them.
template <typename T, SELMODE selMode>
void Select(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
            emulator::U8 repeatTime, const BinaryRepeatParams& params) {
  MOGE_CHECK_TYPES(Select, T);
  static_assert(selMode != SELMODE::VSEL_TENSOR_SCALAR_MODE,
                "Select: rule select.mode: mode 1 takes no src1 here");
  const emulator::Operand second = emulator::Source1(src1, params);
  emulator::SelectByRegister(emulator::Destination(dst, params), nullptr,
                             emulator::Source0(src0, params), &second, selMode,
                             emulator::MaskExtent(false, uint64_t{0}, repeatTime));
}
// In mode 1 the compare mask holds the scalar.
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            emulator::U8 repeatTime, const BinaryRepeatParams& params) {
  MOGE_CHECK_SELECT;
  emulator::SelectByRegister(
      emulator::Destination(dst, params), &selMask.Ref(), emulator::Source0(src0, params), nullptr,
      SELMODE::VSEL_TENSOR_SCALAR_MODE, emulator::MaskExtent(false, uint64_t{0}, repeatTime));
}
#undef MOGE_CHECK_SELECT

}  // namespace AscendC

#endif  // MOGE_EMULATOR_COMPARE_H_
