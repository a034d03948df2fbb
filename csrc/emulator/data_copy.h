// DataCopy, DataCopyPad, Copy.
#ifndef MOGE_EMULATOR_DATA_COPY_H_
#define MOGE_EMULATOR_DATA_COPY_H_

#include "instructions.h"
#include "params.h"
#include "tensor.h"

namespace emulator {

inline Rows CountRows(DType dtype, uint32_t count) { return {1, CopyBytes(dtype, count), 0, 0}; }

inline Rows BlockRows(const AscendC::DataCopyParams& params,
                      TPosition destination = TPosition::MAX) {
  CheckBlockCount(Op::kDataCopy, params.blockCount);
  const uint32_t unit = destination == TPosition::C2 ? 64 : 32;
  const uint32_t bytes = params.blockLen * unit;
  return {params.blockCount, bytes, bytes + params.srcStride * 32u,
          bytes + params.dstStride * unit};
}

void CheckNdToNz(const AscendC::Nd2NzParams& params);

}  // namespace emulator

namespace AscendC {

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t count) {
  emulator::CopyIn(emulator::Op::kDataCopy, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                   emulator::CountRows(emulator::kDTypeOf<T>, count), nullptr);
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count) {
  emulator::CopyOut(emulator::Op::kDataCopy, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                    emulator::CountRows(emulator::kDTypeOf<T>, count));
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count) {
  emulator::CopyLocal(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                      emulator::CountRows(emulator::kDTypeOf<T>, count));
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& params) {
  emulator::CopyIn(emulator::Op::kDataCopy, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                   emulator::BlockRows(params), nullptr);
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params) {
  emulator::CopyOut(emulator::Op::kDataCopy, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                    emulator::BlockRows(params));
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params) {
  emulator::CopyLocal(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                      emulator::BlockRows(params, dst.Ref().position));
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& params) {
  static_assert(sizeof(T) <= 4, "DataCopy: rule dtype.table: Nd2Nz takes 8-, 16- and 32-bit types");
  constexpr uint64_t kBytes = sizeof(T);
  emulator::CheckNdToNz(params);
  emulator::CopyNdToNz(
      emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
      {params.ndNum, params.nValue, static_cast<uint32_t>(params.dValue * kBytes),
       params.srcNdMatrixStride * kBytes, params.srcDValue * kBytes, params.dstNzC0Stride * 32u,
       params.dstNzNStride * 32u, params.dstNzMatrixStride * kBytes});
}

template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                 const DataCopyExtParams& params, const DataCopyPadExtParams<T>& pad) {
  emulator::Padding padding{pad.isPad, pad.leftPadding * static_cast<uint32_t>(sizeof(T)),
                            pad.rightPadding * static_cast<uint32_t>(sizeof(T)), 0};
  std::memcpy(&padding.value, &pad.paddingValue, sizeof(T));
  emulator::CheckBlockCount(emulator::Op::kDataCopyPad, params.blockCount);
  emulator::CheckPad(emulator::kDTypeOf<T>, params.blockLen, padding.left, padding.right,
                     padding.value);
  const uint32_t row = (padding.left + params.blockLen + padding.right + 31u) / 32u * 32u;
  emulator::CopyIn(
      emulator::Op::kDataCopyPad, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
      {params.blockCount, params.blockLen, uint64_t{params.blockLen} + params.srcStride,
       row + uint64_t{params.dstStride} * 32u},
      &padding);
}
template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                 const DataCopyExtParams& params) {
  emulator::CheckBlockCount(emulator::Op::kDataCopyPad, params.blockCount);
  emulator::CheckPad(emulator::kDTypeOf<T>, params.blockLen, 0, 0, 0);
  const uint32_t row = (params.blockLen + 31u) / 32u * 32u;
  emulator::CopyOut(emulator::Op::kDataCopyPad, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                    {params.blockCount, params.blockLen, row + uint64_t{params.srcStride} * 32u,
                     uint64_t{params.blockLen} + params.dstStride});
}

template <typename T, bool isSetMask = true, typename Mask>
void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask& mask,
          emulator::U8 repeatTime, const CopyRepeatParams& params) {
  MOGE_CHECK_TYPES(Copy, T);
  emulator::Copy({dst.Ref(), emulator::kDTypeOf<T>, params.dstStride, params.dstRepeatSize},
                 {src.Ref(), emulator::kDTypeOf<T>, params.srcStride, params.srcRepeatSize},
                 emulator::MaskExtent(isSetMask, mask, repeatTime));
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_DATA_COPY_H_
