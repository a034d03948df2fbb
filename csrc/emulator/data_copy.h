// DataCopy, DataCopyPad, Copy.
#ifndef MOGE_EMULATOR_DATA_COPY_H_
#define MOGE_EMULATOR_DATA_COPY_H_

#include "instructions.h"
#include "params.h"
#include "tensor.h"

namespace emulator {

// Of a global address: copies from and to UB need that of an element, those from and to L1 none.
inline uint32_t GlobalAlignment(DType dtype, TPosition local) {
  return local == TPosition::A1 || local == TPosition::B1 || local == TPosition::C1 ||
                 local == TPosition::TSCM
             ? 1
             : SizeOf(dtype);
}

inline Rows CountRows(DType dtype, TPosition local, uint32_t count) {
  return {1, CopyBytes(dtype, count), 0, 0, GlobalAlignment(dtype, local)};
}

inline Rows BlockRows(DType dtype, TPosition local, const AscendC::DataCopyParams& params) {
  CheckBlockCount(Op::kDataCopy, params.blockCount);
  const uint32_t bytes = params.blockLen * 32u;
  return {params.blockCount, bytes, bytes + params.srcGap * 32u, bytes + params.dstGap * 32u,
          GlobalAlignment(dtype, local)};
}

// Inside a core; the units of the destination are those of its memory.
inline Rows LocalRows(TPosition destination, const AscendC::DataCopyParams& params) {
  CheckBlockCount(Op::kDataCopy, params.blockCount);
  // of the fixpipe buffer the gaps are from start to start
  const bool fixpipe = destination == TPosition::C2PIPE2GM;
  const uint32_t unit = fixpipe ? 128 : destination == TPosition::C2 ? 64 : 32;
  const uint32_t bytes = params.blockLen * unit;
  const uint32_t before = fixpipe ? 0 : bytes;
  return {params.blockCount, bytes, before + params.srcGap * 32u, before + params.dstGap * unit};
}

// Rows in global memory as they are, in UB in whole blocks of 32 bytes.
template <typename Params>
Rows PadInRows(const Params& params, const Padding& padding) {
  const uint32_t bytes = params.blockLen;
  return {params.blockCount, bytes, uint64_t{bytes} + params.srcStride,
          RoundUp(uint64_t{padding.left} + bytes + padding.right, 32u) +
              uint64_t{params.dstStride} * 32u};
}
template <typename Params>
Rows PadOutRows(const Params& params) {
  const uint32_t bytes = params.blockLen;
  return {params.blockCount, bytes,
          RoundUp(uint64_t{bytes}, 32u) + uint64_t{params.srcStride} * 32u,
          uint64_t{bytes} + params.dstStride};
}

template <typename T, typename Params>
void PadIn(const AscendC::LocalTensor<T>& dst, const AscendC::GlobalTensor<T>& src,
           const Params& params, const Padding& padding) {
  CheckBlockCount(Op::kDataCopyPad, params.blockCount);
  CheckPad(kDTypeOf<T>, params.blockLen, padding);
  CopyIn(Op::kDataCopyPad, kDTypeOf<T>, dst.Ref(), src.Ref(), PadInRows(params, padding), &padding);
}
template <typename T, typename Params>
void PadOut(const AscendC::GlobalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
            const Params& params) {
  CheckBlockCount(Op::kDataCopyPad, params.blockCount);
  CheckPad(kDTypeOf<T>, params.blockLen, {});
  CopyOut(Op::kDataCopyPad, dst.Ref(), src.Ref(), PadOutRows(params));
}

void CheckNdToNz(const AscendC::Nd2NzParams& params, TPosition destination);
void CheckNzToNd(const AscendC::Nz2NdParamsFull& params);
void CopySlice(DType dtype, const LocalRef& dst, const GlobalRef& src,
               const AscendC::SliceInfo* dst_slices, const AscendC::SliceInfo* src_slices,
               uint32_t dimensions);
void CopySlice(DType dtype, const GlobalRef& dst, const LocalRef& src,
               const AscendC::SliceInfo* dst_slices, const AscendC::SliceInfo* src_slices,
               uint32_t dimensions);

// All but the types of 64 bits.
template <typename T>
inline constexpr bool kIsSliced = sizeof(T) <= 4;

}  // namespace emulator

namespace AscendC {

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t count) {
  emulator::CopyIn(emulator::Op::kDataCopy, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                   emulator::CountRows(emulator::kDTypeOf<T>, dst.Ref().position, count), nullptr);
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count) {
  emulator::CopyOut(emulator::Op::kDataCopy, dst.Ref(), src.Ref(),
                    emulator::CountRows(emulator::kDTypeOf<T>, src.Ref().position, count));
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count) {
  emulator::CopyLocal(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                      emulator::CountRows(emulator::kDTypeOf<T>, dst.Ref().position, count));
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& params) {
  emulator::CopyIn(emulator::Op::kDataCopy, emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                   emulator::BlockRows(emulator::kDTypeOf<T>, dst.Ref().position, params), nullptr);
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params) {
  emulator::CopyOut(emulator::Op::kDataCopy, dst.Ref(), src.Ref(),
                    emulator::BlockRows(emulator::kDTypeOf<T>, src.Ref().position, params));
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params) {
  emulator::CopyLocal(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                      emulator::LocalRows(dst.Ref().position, params));
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& params) {
  static_assert(sizeof(T) <= 4, "DataCopy: rule dtype.table: Nd2Nz takes 8-, 16- and 32-bit types");
  constexpr uint64_t kBytes = sizeof(T);
  emulator::CheckNdToNz(params, dst.Ref().position);
  emulator::CopyNdToNz(
      dst.Ref(), src.Ref(),
      {params.ndNum, params.nValue, static_cast<uint32_t>(params.dValue * kBytes),
       params.srcNdMatrixStride * kBytes, params.srcDValue * kBytes, params.dstNzC0Stride * 32u,
       params.dstNzNStride * 32u, params.dstNzMatrixStride * kBytes});
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
              const Nz2NdParamsFull& params) {
  static_assert(emulator::kIs16Or32Bit<T>,
                "DataCopy: rule dtype.table: Nz2Nd takes 16- and 32-bit types");
  constexpr uint64_t kBytes = sizeof(T);
  emulator::CheckNzToNd(params);
  emulator::CopyNzToNd(
      emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
      {params.ndNum, params.nValue, params.dValue / 16u, static_cast<uint32_t>(16 * kBytes),
       params.srcNdMatrixStride * 256 * kBytes, params.srcNStride * 16 * kBytes,
       params.dstDStride * kBytes, params.dstNdMatrixStride * kBytes});
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const SliceInfo dst_slices[],
              const SliceInfo src_slices[], uint32_t dimensions = 1) {
  static_assert(emulator::kIsSliced<T>, "DataCopy: rule dtype.table: no slices of 64-bit types");
  emulator::CopySlice(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(), dst_slices, src_slices,
                      dimensions);
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const SliceInfo dst_slices[],
              const SliceInfo src_slices[], uint32_t dimensions = 1) {
  static_assert(emulator::kIsSliced<T>, "DataCopy: rule dtype.table: no slices of 64-bit types");
  emulator::CopySlice(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(), dst_slices, src_slices,
                      dimensions);
}

template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                 const DataCopyExtParams& params, const DataCopyPadExtParams<T>& pad) {
  emulator::Padding padding{pad.isPad, pad.leftPadding * static_cast<uint32_t>(sizeof(T)),
                            pad.rightPadding * static_cast<uint32_t>(sizeof(T)), 0};
  std::memcpy(&padding.value, &pad.paddingValue, sizeof(T));
  emulator::PadIn(dst, src, params, padding);
}
template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                 const DataCopyParams& params, const DataCopyPadParams& pad) {
  emulator::PadIn(dst, src, params,
                  {pad.isPad, pad.leftPadding * static_cast<uint32_t>(sizeof(T)),
                   pad.rightPadding * static_cast<uint32_t>(sizeof(T)), pad.paddingValue});
}
template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                 const DataCopyExtParams& params) {
  emulator::PadOut(dst, src, params);
}
template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                 const DataCopyParams& params) {
  emulator::PadOut(dst, src, params);
}

template <typename T, TPosition position = TPosition::MAX>
void SetPadValue(T value) {
  static_assert(
      position == TPosition::MAX || position == TPosition::VECIN || position == TPosition::VECOUT,
      "SetPadValue: rule dtype.table: VECIN, VECOUT or MAX");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  emulator::SetPad(emulator::kDTypeOf<T>, bits);
}

template <typename T, bool isSetMask = true>
void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask[],
          emulator::U8 repeatTime, const CopyRepeatParams& params) {
  MOGE_CHECK_TYPES(Copy, T);
  emulator::Copy({dst.Ref(), emulator::kDTypeOf<T>, params.dstStride, params.dstRepeatSize},
                 {src.Ref(), emulator::kDTypeOf<T>, params.srcStride, params.srcRepeatSize},
                 emulator::MaskExtent(isSetMask, mask, repeatTime));
}
template <typename T, bool isSetMask = true>
void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask,
          emulator::U8 repeatTime, const CopyRepeatParams& params) {
  MOGE_CHECK_TYPES(Copy, T);
  emulator::Copy({dst.Ref(), emulator::kDTypeOf<T>, params.dstStride, params.dstRepeatSize},
                 {src.Ref(), emulator::kDTypeOf<T>, params.srcStride, params.srcRepeatSize},
                 emulator::MaskExtent(isSetMask, mask, repeatTime));
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_DATA_COPY_H_
