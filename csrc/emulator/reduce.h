// Reductions, under the names of CANN 9 and, below them, of CANN 8.
#ifndef MOGE_EMULATOR_REDUCE_H_
#define MOGE_EMULATOR_REDUCE_H_

#include "vector.h"

namespace AscendC {

// One result for each repeat, for each block, for each pair of neighbours. Strides of the source
// are in 32 bytes, that of the destination in results.
#define MOGE_REDUCE_MASK(MASK)                                                                  \
  template <ReduceType reduceType, typename T, typename U, bool isSetMask = true>               \
  void ReduceRepeat(const LocalTensor<T>& dst, const LocalTensor<U>& src, MASK,                 \
                    const int32_t repeatTime, const int32_t dstRepStride,                       \
                    const int32_t srcBlkStride, const int32_t srcRepStride,                     \
                    ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {                       \
    MOGE_CHECK_TYPES(ReduceRepeat, T);                                                          \
    static_assert(std::is_same_v<T, U>, "ReduceRepeat: rule dtype.table: one type");            \
    emulator::ReduceRepeats(reduceType, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),            \
                            emulator::MaskExtent(isSetMask, mask, repeatTime),                  \
                            {dstRepStride, srcBlkStride, srcRepStride}, order);                 \
  }                                                                                             \
  template <ReduceType reduceType, typename T, typename U, bool isSetMask = true>               \
  void ReduceDataBlock(const LocalTensor<T>& dst, const LocalTensor<U>& src, MASK,              \
                       const int32_t repeatTime, const int32_t dstRepStride,                    \
                       const int32_t srcBlkStride, const int32_t srcRepStride) {                \
    MOGE_CHECK_TYPES(ReduceDataBlock, T);                                                       \
    static_assert(std::is_same_v<T, U>, "ReduceDataBlock: rule dtype.table: one type");         \
    emulator::ReduceBlocks(reduceType, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),             \
                           emulator::MaskExtent(isSetMask, mask, repeatTime),                   \
                           {dstRepStride, srcBlkStride, srcRepStride});                         \
  }                                                                                             \
  template <ReduceType reduceType, typename T, typename U, bool isSetMask = true>               \
  void ReducePairElem(const LocalTensor<T>& dst, const LocalTensor<U>& src, MASK,               \
                      const int32_t repeatTime, const int32_t dstRepStride,                     \
                      const int32_t srcBlkStride, const int32_t srcRepStride) {                 \
    MOGE_CHECK_TYPES(ReducePairElem, T);                                                        \
    static_assert(std::is_same_v<T, U>, "ReducePairElem: rule dtype.table: one type");          \
    static_assert(reduceType == ReduceType::SUM, "ReducePairElem: only sums");                  \
    emulator::ReducePairs(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),                          \
                          emulator::MaskExtent(isSetMask, mask, repeatTime),                    \
                          {dstRepStride, srcBlkStride, srcRepStride});                          \
  }                                                                                             \
  template <typename T>                                                                         \
  void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src,                          \
                 const LocalTensor<T>& sharedTmpBuffer, MASK, const int32_t repeatTime,         \
                 const int32_t srcRepStride) {                                                  \
    MOGE_CHECK_TYPES(ReduceSum, T);                                                             \
    emulator::ReduceTensor(ReduceType::SUM, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),        \
                           sharedTmpBuffer.Ref(), emulator::MaskExtent(true, mask, repeatTime), \
                           srcRepStride, false);                                                \
  }                                                                                             \
  MOGE_REDUCE_EXTREME(ReduceMax, MAX, MASK)                                                     \
  MOGE_REDUCE_EXTREME(ReduceMin, MIN, MASK)                                                     \
  MOGE_WHOLE_REDUCE(MASK)                                                                       \
  MOGE_BLOCK_REDUCE(BlockReduceSum, SUM, MASK)                                                  \
  MOGE_BLOCK_REDUCE(BlockReduceMax, MAX, MASK)                                                  \
  MOGE_BLOCK_REDUCE(BlockReduceMin, MIN, MASK)

#define MOGE_REDUCE_EXTREME(NAME, TYPE, MASK)                                                   \
  template <typename T>                                                                         \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src,                               \
            const LocalTensor<T>& sharedTmpBuffer, MASK, const int32_t repeatTime,              \
            const int32_t srcRepStride, bool calIndex = false) {                                \
    MOGE_CHECK_TYPES(NAME, T);                                                                  \
    emulator::ReduceTensor(ReduceType::TYPE, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),       \
                           sharedTmpBuffer.Ref(), emulator::MaskExtent(true, mask, repeatTime), \
                           srcRepStride, calIndex);                                             \
  }

#define MOGE_WHOLE_REDUCE(MASK)                                                                \
  template <typename T, bool isSetMask = true>                                                 \
  void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, MASK,              \
                      const int32_t repeatTime, const int32_t dstRepStride,                    \
                      const int32_t srcBlkStride, const int32_t srcRepStride) {                \
    ReduceRepeat<ReduceType::SUM, T, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,   \
                                                   srcBlkStride, srcRepStride);                \
  }                                                                                            \
  template <typename T, bool isSetMask = true>                                                 \
  void WholeReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, MASK,              \
                      const int32_t repeatTime, const int32_t dstRepStride,                    \
                      const int32_t srcBlkStride, const int32_t srcRepStride,                  \
                      ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {                    \
    ReduceRepeat<ReduceType::MAX, T, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,   \
                                                   srcBlkStride, srcRepStride, order);         \
  }                                                                                            \
  template <typename T, bool isSetMask = true>                                                 \
  void WholeReduceMin(const LocalTensor<T>& dst, const LocalTensor<T>& src, MASK,              \
                      const int32_t repeatTime, const int32_t dstRepStride,                    \
                      const int32_t srcBlkStride, const int32_t srcRepStride,                  \
                      ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {                    \
    ReduceRepeat<ReduceType::MIN, T, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,   \
                                                   srcBlkStride, srcRepStride, order);         \
  }                                                                                            \
  template <typename T, bool isSetMask = true>                                                 \
  void PairReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src,                     \
                     const int32_t repeatTime, MASK, const int32_t dstRepStride,               \
                     const int32_t srcBlkStride, const int32_t srcRepStride) {                 \
    ReducePairElem<ReduceType::SUM, T, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride, \
                                                     srcBlkStride, srcRepStride);              \
  }

// the older names take the repeats before the mask
#define MOGE_BLOCK_REDUCE(NAME, TYPE, MASK)                                                       \
  template <typename T, bool isSetMask = true>                                                    \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeatTime, MASK, \
            const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride) { \
    ReduceDataBlock<ReduceType::TYPE, T, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,  \
                                                       srcBlkStride, srcRepStride);               \
  }

MOGE_REDUCE_MASK(const int32_t mask)
MOGE_REDUCE_MASK(const uint64_t mask[])
#undef MOGE_REDUCE_MASK
#undef MOGE_REDUCE_EXTREME
#undef MOGE_WHOLE_REDUCE
#undef MOGE_BLOCK_REDUCE

// the block stride of the destination has no effect
template <typename T, bool isSetMask = true>
void RepeatReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeatTime,
                     const int32_t mask, const int32_t /*dstBlkStride*/, const int32_t srcBlkStride,
                     const int32_t dstRepStride, const int32_t srcRepStride) {
  ReduceRepeat<ReduceType::SUM, T, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,
                                                 srcBlkStride, srcRepStride);
}

// One result for the whole tensor; dst[0] the value, dst[1] the index if asked for. The sum of a
// count needs no temporary tensor.
template <typename T, bool isSetMask = true>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src,
               const LocalTensor<T>& /*sharedTmpBuffer*/, const int32_t count) {
  MOGE_CHECK_TYPES(ReduceSum, T);
  emulator::SumInOrder(
      emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
      isSetMask ? emulator::CountExtent(count) : emulator::MaskExtent(false, uint64_t{0}, 1));
}
#define MOGE_REDUCE_COUNT(NAME, TYPE)                                                            \
  template <typename T>                                                                          \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src,                                \
            const LocalTensor<T>& sharedTmpBuffer, const int32_t count, bool calIndex = false) { \
    MOGE_CHECK_TYPES(NAME, T);                                                                   \
    emulator::ReduceTensor(ReduceType::TYPE, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),        \
                           sharedTmpBuffer.Ref(), emulator::CountExtent(count), 8, calIndex);    \
  }
MOGE_REDUCE_COUNT(ReduceMax, MAX)
MOGE_REDUCE_COUNT(ReduceMin, MIN)
#undef MOGE_REDUCE_COUNT

// What the last reduction has left in its registers: the sum of a ReduceSum by count; the extreme
// of all repeats and its index.
template <typename T>
T GetReduceRepeatSumSpr() {
  MOGE_CHECK_TYPES(ReduceSum, T);
  T value;
  emulator::LastSum(emulator::kDTypeOf<T>, &value);
  return value;
}
template <typename T>
void GetReduceRepeatMaxMinSpr(T& maxMinValue, T& maxMinIndex) {
  MOGE_CHECK_TYPES(ReduceMax, T);
  emulator::LastExtreme(emulator::kDTypeOf<T>, &maxMinValue, &maxMinIndex);
}
template <typename T>
T GetAccVal() {
  return GetReduceRepeatSumSpr<T>();
}
template <typename T>
void GetReduceMaxMinCount(T& maxMinValue, T& maxMinIndex) {
  GetReduceRepeatMaxMinSpr<T>(maxMinValue, maxMinIndex);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_REDUCE_H_
