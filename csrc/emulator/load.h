// Into L0, and constants into L1 and L0: LoadData, LoadDataWithTranspose, Fill.
#ifndef MOGE_EMULATOR_LOAD_H_
#define MOGE_EMULATOR_LOAD_H_

#include "machine_cube.h"
#include "params.h"
#include "tensor.h"

namespace emulator {

template <typename T>
uint32_t PaddingBits(T value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return std::is_same_v<T, AscendC::int4b_t> ? (bits & 15) * 17 : bits;  // two in a byte
}

template <typename T>
constexpr void CheckWindowType() {
  static_assert(
      kIsOneOf<T, AscendC::int4b_t, int8_t, uint8_t, half, bfloat16_t, int32_t, uint32_t, float>,
      "LoadData: rule dtype.table: int4, 8-bit, half, bf16 and 32-bit types");
}

}  // namespace emulator

namespace AscendC {

template <typename T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src,
              const LoadData2DParams& params) {
  static_assert(sizeof(T) <= 4, "LoadData: rule dtype.table: 4-, 8-, 16- and 32-bit types");
  emulator::LoadFractals(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                         {params.startIndex, params.repeatTimes, params.srcStride, params.dstGap, 0,
                          params.ifTranspose, params.addrMode != 0});
}
template <typename T>
void LoadData(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
              const LoadData2DParams& params) {
  static_assert(sizeof(T) <= 4 && !std::is_same_v<T, int4b_t>,
                "LoadData: rule dtype.table: 8-, 16- and 32-bit types from global memory");
  emulator::LoadFractals(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                         {params.startIndex, params.repeatTimes, params.srcStride, params.dstGap, 0,
                          params.ifTranspose, params.addrMode != 0});
}

// windows of an image
template <typename T, const IsResetLoad3dConfig& defaultConfig = IS_RESER_LOAD3D_DEFAULT_CONFIG,
          typename U = T, std::enable_if_t<std::is_same_v<T, U>, bool> = true>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src,
              const LoadData3DParamsV2<U>& params) {
  emulator::CheckWindowType<T>();
  const emulator::Image image{params.l1H,        params.l1W,        params.padList[0],
                              params.padList[1], params.padList[2], params.padList[3]};
  const uint32_t padding = emulator::PaddingBits(params.padValue);
  emulator::LoadWindows(
      emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
      {params.channelSize, params.kExtension, params.mExtension, params.kStartPt, params.mStartPt,
       params.strideW, params.strideH, params.filterW + params.filterSizeW * 256u,
       params.filterH + params.filterSizeH * 256u, params.dilationFilterW, params.dilationFilterH,
       params.enTranspose, params.enSmallK, params.fMatrixCtrl},
      defaultConfig.isSetFMatrix ? &image : nullptr,
      defaultConfig.isSetPadding ? &padding : nullptr);
}
template <typename T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src,
              const LoadData3DParamsV2Pro& params) {
  emulator::CheckWindowType<T>();
  const auto part = [&](uint64_t word, uint32_t shift, uint32_t bits) {
    return static_cast<uint32_t>(word >> shift & ((uint64_t{1} << bits) - 1));
  };
  const uint64_t extent = params.extConfig;
  const uint64_t filter = params.filterConfig;
  emulator::LoadWindows(
      emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
      {params.channelSize, part(extent, 0, 16), part(extent, 16, 16), part(extent, 32, 16),
       part(extent, 48, 16), part(filter, 0, 8), part(filter, 8, 8),
       part(filter, 16, 8) + params.filterSizeW * 256u,
       part(filter, 24, 8) + params.filterSizeH * 256u, part(filter, 32, 8), part(filter, 40, 8),
       params.enTranspose, params.enSmallK, params.fMatrixCtrl},
      nullptr, nullptr);
}

inline void SetFmatrix(emulator::U16 l1H, emulator::U16 l1W, const uint8_t padList[4],
                       const FmatrixMode& fmatrixMode) {
  emulator::SetImage({l1H, l1W, padList[0], padList[1], padList[2], padList[3]},
                     fmatrixMode == FmatrixMode::FMATRIX_RIGHT);
}
template <typename T>
void SetLoadDataPaddingValue(const T padValue) {
  static_assert(emulator::kIsOneOf<T, int8_t, uint8_t, int16_t, uint16_t, half, bfloat16_t, int32_t,
                                   uint32_t, float>,
                "SetLoadDataPaddingValue: rule dtype.table: 8-, 16- and 32-bit types");
  emulator::SetImagePadding(emulator::PaddingBits(padValue));
}
inline void SetLoadDataRepeat(const LoadDataRepeatParam& repeatParams) {
  emulator::SetImageRepeat(repeatParams.repeatStride, repeatParams.repeatTime,
                           repeatParams.repeatMode);
}
inline void SetLoadDataBoundary(uint32_t boundaryValue) {
  emulator::SetImageBoundary(boundaryValue);
}

template <typename T>
void LoadDataWithTranspose(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                           const LoadData2dTransposeParams& params) {
  static_assert(
      emulator::kIsOneOf<T, int4b_t, uint8_t, int8_t, half, bfloat16_t, float, int32_t, uint32_t>,
      "LoadDataWithTranspose: rule dtype.table: int4, 8-bit, half, bf16, 32-bit types");
  emulator::LoadSquares(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                        {params.startIndex, params.repeatTimes, params.srcStride, params.dstGap,
                         params.dstFracGap, true, params.addrMode != 0});
}

template <typename T, typename U = T, std::enable_if_t<std::is_same_v<T, U>, bool> = true>
void Fill(const LocalTensor<T>& dst, const InitConstValueParams<U>& params) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Fill: rule dtype.table: 16- and 32-bit types");
  emulator::FillBlocks(emulator::kDTypeOf<T>, dst.Ref(), &params.initValue, params.repeatTimes,
                       params.blockNum, params.dstGap);
}
template <typename T, typename U = T, std::enable_if_t<std::is_same_v<T, U>, bool> = true>
void InitConstValue(const LocalTensor<T>& dst, const InitConstValueParams<U>& params) {
  Fill(dst, params);
}

template <typename T = int8_t, typename U = uint8_t,
          std::enable_if_t<std::is_same_v<T, int8_t>, bool> = true,
          std::enable_if_t<std::is_same_v<U, uint8_t>, bool> = true>
void LoadDataWithSparse(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                        const LocalTensor<U>& idx, const LoadData2dParams& params) {
  emulator::LoadSparse(dst.Ref(), src.Ref(), idx.Ref(), params.startIndex, params.repeatTimes);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_LOAD_H_
