// Transpose and TransDataTo5HD.
#ifndef MOGE_EMULATOR_TRANSPOSE_H_
#define MOGE_EMULATOR_TRANSPOSE_H_

#include "vector.h"

namespace emulator {

inline BlockSteps StepsOf(const AscendC::TransDataTo5HDParams& params) {
  return {params.dstHighHalf, params.srcHighHalf, params.repeatTimes, params.dstRepStride,
          params.srcRepStride};
}

}  // namespace emulator

namespace AscendC {

inline constexpr int32_t NCHW_CONV_ADDR_LIST_SIZE = 16;

// 16 x 16 elements of 16 bits
template <typename T>
void Transpose(const LocalTensor<T>& dst, const LocalTensor<T>& src) {
  static_assert(emulator::kIsOneOf<T, int16_t, uint16_t, half>,
                "Transpose: rule dtype.table: int16, uint16, half");
  emulator::TransposeSquare(emulator::kDTypeOf<T>, dst.Ref(), src.Ref());
}
// the same, or between [N, C, H, W] and [N, H, W, C]
template <typename T>
void Transpose(const LocalTensor<T>& dst, const LocalTensor<T>& src,
               const LocalTensor<uint8_t>& sharedTmpBuffer,
               const TransposeParamsExt& transposeParams) {
  MOGE_CHECK_TYPES(Transpose, T);
  emulator::Transpose(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(), sharedTmpBuffer.Ref(),
                      {transposeParams.transposeType, transposeParams.nSize, transposeParams.cSize,
                       transposeParams.hSize, transposeParams.wSize});
}

// The elements of 16 blocks of 32 bytes become the columns of rows of 16 elements. The blocks are
// tensors, or addresses that GetPhyAddr gave, in arrays or in tensors.
template <typename T>
void TransDataTo5HD(const LocalTensor<T> (&dstList)[NCHW_CONV_ADDR_LIST_SIZE],
                    const LocalTensor<T> (&srcList)[NCHW_CONV_ADDR_LIST_SIZE],
                    const TransDataTo5HDParams& nchwconvParams) {
  MOGE_CHECK_TYPES(TransDataTo5HD, T);
  emulator::BlockList dst;
  emulator::BlockList src;
  for (int i = 0; i < NCHW_CONV_ADDR_LIST_SIZE; ++i) {
    dst[i] = dstList[i].Ref();
    src[i] = srcList[i].Ref();
  }
  emulator::TransposeBlocks(emulator::kDTypeOf<T>, dst, src, emulator::StepsOf(nchwconvParams));
}
template <typename T>
void TransDataTo5HD(uint64_t dstList[NCHW_CONV_ADDR_LIST_SIZE],
                    uint64_t srcList[NCHW_CONV_ADDR_LIST_SIZE],
                    const TransDataTo5HDParams& nchwconvParams) {
  MOGE_CHECK_TYPES(TransDataTo5HD, T);
  emulator::TransposeBlocks(emulator::kDTypeOf<T>, emulator::BlocksAt(dstList),
                            emulator::BlocksAt(srcList), emulator::StepsOf(nchwconvParams));
}
template <typename T>
void TransDataTo5HD(const LocalTensor<uint64_t>& dst, const LocalTensor<uint64_t>& src,
                    const TransDataTo5HDParams& nchwconvParams) {
  MOGE_CHECK_TYPES(TransDataTo5HD, T);
  emulator::TransposeBlocks(emulator::kDTypeOf<T>, emulator::BlocksOf(dst.Ref()),
                            emulator::BlocksOf(src.Ref()), emulator::StepsOf(nchwconvParams));
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_TRANSPOSE_H_
