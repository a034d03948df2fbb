// What the host's tiling functions hand to the kernel side. Only the shapes matter here: how the
// rows are grouped follows from the temporary memory.
#ifndef MOGE_EMULATOR_ADV_TILING_DATA_H_
#define MOGE_EMULATOR_ADV_TILING_DATA_H_

#include <cstdint>

// clang-format off: lists
#define MOGE_SOFTMAX_TILING(X)                                                                \
  X(uint32_t, srcM) X(uint32_t, srcK) X(uint32_t, srcSize) X(uint32_t, outMaxM)               \
  X(uint32_t, outMaxK) X(uint32_t, outMaxSize) X(uint32_t, splitM) X(uint32_t, splitK)        \
  X(uint32_t, splitSize) X(uint32_t, reduceM) X(uint32_t, reduceK) X(uint32_t, reduceSize)    \
  X(uint32_t, rangeM) X(uint32_t, tailM) X(uint32_t, tailSplitSize) X(uint32_t, tailReduceSize)
#define MOGE_TOPK_TILING(X)                                                                   \
  X(int32_t, tmpLocalSize) X(int32_t, allDataSize) X(int32_t, innerDataSize)                  \
  X(uint32_t, sortRepeat) X(int32_t, mrgSortRepeat) X(int32_t, kAlignFourBytes)               \
  X(int32_t, kAlignTwoBytes) X(int32_t, maskOffset) X(int32_t, maskVreducev2FourBytes)        \
  X(int32_t, maskVreducev2TwoBytes) X(int32_t, mrgSortSrc1offset)                             \
  X(int32_t, mrgSortSrc2offset) X(int32_t, mrgSortSrc3offset)                                 \
  X(int32_t, mrgSortTwoQueueSrc1Offset) X(int32_t, mrgFourQueueTailPara1)                     \
  X(int32_t, mrgFourQueueTailPara2) X(int32_t, srcIndexOffset)                                \
  X(uint32_t, copyUbToUbBlockCount) X(int32_t, topkMrgSrc1MaskSizeOffset)                     \
  X(int32_t, topkNSmallSrcIndexOffset) X(uint32_t, vreduceValMask0)                           \
  X(uint32_t, vreduceValMask1) X(uint32_t, vreduceIdxMask0) X(uint32_t, vreduceIdxMask1)      \
  X(uint16_t, vreducehalfValMask0) X(uint16_t, vreducehalfValMask1)                           \
  X(uint16_t, vreducehalfValMask2) X(uint16_t, vreducehalfValMask3)                           \
  X(uint16_t, vreducehalfValMask4) X(uint16_t, vreducehalfValMask5)                           \
  X(uint16_t, vreducehalfValMask6) X(uint16_t, vreducehalfValMask7)
// clang-format on

namespace AscendC::tiling {

#define MOGE_MEMBER(type, name) type name = 0;
struct SoftMaxTiling {
  MOGE_SOFTMAX_TILING(MOGE_MEMBER)
};
struct LogSoftMaxTiling {
  MOGE_SOFTMAX_TILING(MOGE_MEMBER)
};
struct TopkTiling {
  MOGE_TOPK_TILING(MOGE_MEMBER)
};
#undef MOGE_MEMBER

}  // namespace AscendC::tiling

using AscendC::tiling::LogSoftMaxTiling;
using AscendC::tiling::SoftMaxTiling;
using AscendC::tiling::TopkTiling;

namespace AscendC {

enum class TopKMode { TOPK_NORMAL, TOPK_NSMALL };

}  // namespace AscendC

#endif  // MOGE_EMULATOR_ADV_TILING_DATA_H_
