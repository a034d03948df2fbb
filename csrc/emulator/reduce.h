// Reductions, under the names of CANN 9 and, below them, of CANN 8.
#ifndef MOGE_EMULATOR_REDUCE_H_
#define MOGE_EMULATOR_REDUCE_H_

#include "vector.h"

namespace AscendC {

// one result for each repeat; strides of the source in 32 bytes, of the destination in results
template <ReduceType type, typename T, bool isSetMask = true, typename Mask>
void ReduceRepeat(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask& mask,
                  int32_t repeatTime, int32_t dstRepStride, int32_t srcBlkStride,
                  int32_t srcRepStride, ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {
  MOGE_CHECK_TYPES(ReduceRepeat, T);
  emulator::ReduceRepeats(type, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                          emulator::MaskExtent(isSetMask, mask, repeatTime),
                          {dstRepStride, srcBlkStride, srcRepStride}, order);
}

// one result for each block
template <ReduceType type, typename T, bool isSetMask = true, typename Mask>
void ReduceDataBlock(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask& mask,
                     int32_t repeatTime, int32_t dstRepStride, int32_t srcBlkStride,
                     int32_t srcRepStride) {
  MOGE_CHECK_TYPES(ReduceDataBlock, T);
  emulator::ReduceBlocks(type, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                         emulator::MaskExtent(isSetMask, mask, repeatTime),
                         {dstRepStride, srcBlkStride, srcRepStride});
}

// one result for each pair of neighbours
template <ReduceType type, typename T, bool isSetMask = true, typename Mask>
void ReducePairElem(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask& mask,
                    int32_t repeatTime, int32_t dstRepStride, int32_t srcBlkStride,
                    int32_t srcRepStride) {
  MOGE_CHECK_TYPES(ReducePairElem, T);
  static_assert(type == ReduceType::SUM, "ReducePairElem: only sums");
  emulator::ReducePairs(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                        emulator::MaskExtent(isSetMask, mask, repeatTime),
                        {dstRepStride, srcBlkStride, srcRepStride});
}

template <typename T, bool isSetMask = true, typename Mask>
void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask& mask,
                    int32_t repeatTime, int32_t dstRepStride, int32_t srcBlkStride,
                    int32_t srcRepStride) {
  ReduceRepeat<ReduceType::SUM, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,
                                              srcBlkStride, srcRepStride);
}
template <typename T, bool isSetMask = true, typename Mask>
void WholeReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask& mask,
                    int32_t repeatTime, int32_t dstRepStride, int32_t srcBlkStride,
                    int32_t srcRepStride, ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {
  ReduceRepeat<ReduceType::MAX, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,
                                              srcBlkStride, srcRepStride, order);
}
template <typename T, bool isSetMask = true, typename Mask>
void WholeReduceMin(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask& mask,
                    int32_t repeatTime, int32_t dstRepStride, int32_t srcBlkStride,
                    int32_t srcRepStride, ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX) {
  ReduceRepeat<ReduceType::MIN, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,
                                              srcBlkStride, srcRepStride, order);
}

// the older names take the repeats before the mask
#define MOGE_BLOCK_REDUCE(NAME, TYPE)                                                             \
  template <typename T, bool isSetMask = true, typename Mask>                                     \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeatTime,             \
            const Mask& mask, int32_t dstRepStride, int32_t srcBlkStride, int32_t srcRepStride) { \
    ReduceDataBlock<ReduceType::TYPE, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,     \
                                                    srcBlkStride, srcRepStride);                  \
  }
MOGE_BLOCK_REDUCE(BlockReduceSum, SUM)
MOGE_BLOCK_REDUCE(BlockReduceMax, MAX)
MOGE_BLOCK_REDUCE(BlockReduceMin, MIN)
#undef MOGE_BLOCK_REDUCE

template <typename T, bool isSetMask = true, typename Mask>
void PairReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeatTime,
                   const Mask& mask, int32_t dstRepStride, int32_t srcBlkStride,
                   int32_t srcRepStride) {
  ReducePairElem<ReduceType::SUM, T, isSetMask>(dst, src, mask, repeatTime, dstRepStride,
                                                srcBlkStride, srcRepStride);
}

// one result for the whole tensor; dst[0] the value, dst[1] the index if asked for
template <typename T>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src,
               const LocalTensor<T>& sharedTmpBuffer, const int32_t count) {
  MOGE_CHECK_TYPES(ReduceSum, T);
  emulator::ReduceTensor(ReduceType::SUM, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                         sharedTmpBuffer.Ref(), emulator::CountExtent(count), 8, false);
}
template <typename T, typename Mask>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src,
               const LocalTensor<T>& sharedTmpBuffer, const Mask& mask, int32_t repeatTime,
               int32_t srcRepStride) {
  MOGE_CHECK_TYPES(ReduceSum, T);
  emulator::ReduceTensor(ReduceType::SUM, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                         sharedTmpBuffer.Ref(), emulator::MaskExtent(true, mask, repeatTime),
                         srcRepStride, false);
}

#define MOGE_REDUCE_TENSOR(NAME, TYPE)                                                           \
  template <typename T>                                                                          \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src,                                \
            const LocalTensor<T>& sharedTmpBuffer, const int32_t count, bool calIndex = false) { \
    MOGE_CHECK_TYPES(NAME, T);                                                                   \
    emulator::ReduceTensor(ReduceType::TYPE, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),        \
                           sharedTmpBuffer.Ref(), emulator::CountExtent(count), 8, calIndex);    \
  }                                                                                              \
  template <typename T, typename Mask>                                                           \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src,                                \
            const LocalTensor<T>& sharedTmpBuffer, const Mask& mask, int32_t repeatTime,         \
            int32_t srcRepStride, bool calIndex = false) {                                       \
    MOGE_CHECK_TYPES(NAME, T);                                                                   \
    emulator::ReduceTensor(ReduceType::TYPE, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),        \
                           sharedTmpBuffer.Ref(), emulator::MaskExtent(true, mask, repeatTime),  \
                           srcRepStride, calIndex);                                              \
  }
MOGE_REDUCE_TENSOR(ReduceMax, MAX)
MOGE_REDUCE_TENSOR(ReduceMin, MIN)
#undef MOGE_REDUCE_TENSOR

}  // namespace AscendC

#endif  // MOGE_EMULATOR_REDUCE_H_
