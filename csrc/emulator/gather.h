// GatherMask, Gather, Gatherb, Sort32, MrgSort.
#ifndef MOGE_EMULATOR_GATHER_H_
#define MOGE_EMULATOR_GATHER_H_

#include "vector.h"

namespace emulator {

inline GatherMaskArgs ToArgs(bool counter, uint32_t mask, const AscendC::GatherMaskParams& params) {
  return {counter,
          mask,
          params.repeatTimes,
          params.src0BlockStride,
          params.src0RepeatStride,
          params.src1RepeatStride};
}

}  // namespace emulator

namespace AscendC {

// the elements whose bit is 1, close together; rsvdCnt is their number
template <typename T, typename U, GatherMaskMode mode = GatherMaskMode::VERSION_V2>
void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src0,
                const LocalTensor<U>& src1Pattern, const bool reduceMode, const uint32_t mask,
                const GatherMaskParams& gatherMaskParams, uint64_t& rsvdCnt) {
  MOGE_CHECK_TYPES(GatherMask, T);
  static_assert(std::is_same_v<U, std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>>,
                "GatherMask: rule dtype.table: 16 bits by uint16, 32 bits by uint32");
  rsvdCnt = emulator::GatherByMask(emulator::kDTypeOf<T>, dst.Ref(), src0.Ref(), &src1Pattern.Ref(),
                                   0, emulator::ToArgs(reduceMode, mask, gatherMaskParams));
}
template <typename T, GatherMaskMode mode = GatherMaskMode::VERSION_V2>
void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const uint8_t src1Pattern,
                const bool reduceMode, const uint32_t mask,
                const GatherMaskParams& gatherMaskParams, uint64_t& rsvdCnt) {
  MOGE_CHECK_TYPES(GatherMask, T);
  rsvdCnt =
      emulator::GatherByMask(emulator::kDTypeOf<T>, dst.Ref(), src0.Ref(), nullptr, src1Pattern,
                             emulator::ToArgs(reduceMode, mask, gatherMaskParams));
}

// dst[i] = the element of src at srcBaseOffset + srcOffset[i], in bytes
template <typename T>
void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src,
            const LocalTensor<uint32_t>& srcOffset, const uint32_t srcBaseOffset,
            const uint32_t count) {
  MOGE_CHECK_TYPES(Gather, T);
  emulator::Gather(emulator::Whole(dst), src.Ref(), srcOffset.Ref(), srcBaseOffset,
                   emulator::CountExtent(count));
}
#define MOGE_GATHER_MASK(MASK)                                                            \
  template <typename T>                                                                   \
  void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src,                       \
              const LocalTensor<uint32_t>& srcOffset, const uint32_t srcBaseOffset, MASK, \
              const emulator::U8 repeatTime, const emulator::U16 dstRepStride) {          \
    MOGE_CHECK_TYPES(Gather, T);                                                          \
    emulator::Gather(emulator::Strided(dst, 1, dstRepStride), src.Ref(), srcOffset.Ref(), \
                     srcBaseOffset, emulator::MaskExtent(true, mask, repeatTime));        \
  }
MOGE_GATHER_MASK(const uint64_t mask)
MOGE_GATHER_MASK(const uint64_t mask[])
#undef MOGE_GATHER_MASK

// 8 blocks for each repeat, by the byte offset of each
template <typename T>
void Gatherb(const LocalTensor<T>& dst, const LocalTensor<T>& src,
             const LocalTensor<uint32_t>& offset, const emulator::U8 repeatTime,
             const GatherRepeatParams& repeatParams) {
  MOGE_CHECK_TYPES(Gatherb, T);
  // a block stride of 0 means 1
  const uint32_t block_stride = repeatParams.dstBlkStride == 0 ? 1 : +repeatParams.dstBlkStride;
  emulator::GatherBlocks(emulator::Strided(dst, block_stride, repeatParams.dstRepStride), src.Ref(),
                         offset.Ref(), repeatTime);
}

// (score, index) pairs of 8 bytes, each 32 in descending order
template <typename T>
void Sort32(const LocalTensor<T>& dst, const LocalTensor<T>& src0,
            const LocalTensor<uint32_t>& src1, const int32_t repeatTime) {
  MOGE_CHECK_TYPES(Sort32, T);
  emulator::Sort32(emulator::kDTypeOf<T>, dst.Ref(), src0.Ref(), src1.Ref(), repeatTime);
}

template <typename T>
struct MrgSortSrcList {
  MrgSortSrcList() = default;
  MrgSortSrcList(const LocalTensor<T>& list1, const LocalTensor<T>& list2,
                 const LocalTensor<T>& list3, const LocalTensor<T>& list4)
      : src1(list1), src2(list2), src3(list3), src4(list4) {}

  LocalTensor<T> src1;
  LocalTensor<T> src2;
  LocalTensor<T> src3;
  LocalTensor<T> src4;
};

template <typename T>
void MrgSort(const LocalTensor<T>& dst, const MrgSortSrcList<T>& src, const MrgSort4Info& params) {
  MOGE_CHECK_TYPES(MrgSort, T);
  emulator::MergeLists lists{{src.src1.Ref(), src.src2.Ref(), src.src3.Ref(), src.src4.Ref()},
                             {params.elementLengths[0], params.elementLengths[1],
                              params.elementLengths[2], params.elementLengths[3]},
                             params.ifExhaustedSuspension,
                             params.validBit,
                             params.repeatTimes};
  emulator::MergeSort(emulator::kDTypeOf<T>, dst.Ref(), lists);
}

// how much of each list a suspended MrgSort has taken
inline void GetMrgSortResult(uint16_t& list1, uint16_t& list2, uint16_t& list3, uint16_t& list4) {
  uint16_t lengths[4];
  emulator::MergeResult(lengths);
  list1 = lengths[0];
  list2 = lengths[1];
  list3 = lengths[2];
  list4 = lengths[3];
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_GATHER_H_
