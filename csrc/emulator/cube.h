// What a cube core does: LoadData, Fill, Mmad, Fixpipe.
#ifndef MOGE_EMULATOR_CUBE_H_
#define MOGE_EMULATOR_CUBE_H_

#include "params.h"
#include "tensor.h"

namespace emulator {

void CheckBias(const AscendC::MmadParams& params, bool has_bias);

template <typename T, typename U, typename S>
void MmadWith(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<U>& a,
              const AscendC::LocalTensor<S>& b, const LocalRef* bias,
              const AscendC::MmadParams& params) {
  constexpr bool kFloats = std::is_same_v<T, float> && kIsOneOf<U, half, bfloat16_t, float>;
  constexpr bool kIntegers = std::is_same_v<T, int32_t> && std::is_same_v<U, int8_t>;
  static_assert(std::is_same_v<U, S> && (kFloats || kIntegers),
                "Mmad: rule dtype.table: half, bf16 or float to float, int8 to int32");
  Multiply(kDTypeOf<U>, dst.Ref(), a.Ref(), b.Ref(),
           {params.m, params.n, params.k, params.unitFlag, params.kDirectionAlign,
            params.cmatrixInitVal, bias});
}

}  // namespace emulator

namespace AscendC {

// from L1 or from global memory
template <typename T, template <typename> class Tensor>
void LoadData(const LocalTensor<T>& dst, const Tensor<T>& src, const LoadData2DParams& params) {
  static_assert(sizeof(T) <= 4, "LoadData: rule dtype.table: 8-, 16- and 32-bit types");
  emulator::LoadFractals(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                         {params.startIndex, params.repeatTimes, params.srcStride, params.dstGap, 0,
                          params.ifTranspose, params.addrMode != 0});
}

template <typename T>
void LoadDataWithTranspose(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                           const LoadData2dTransposeParams& params) {
  static_assert(emulator::kIsOneOf<T, uint8_t, int8_t, half, bfloat16_t, float, int32_t, uint32_t>,
                "LoadDataWithTranspose: rule dtype.table: 8-bit, half, bf16 and 32-bit types");
  emulator::LoadSquares(emulator::kDTypeOf<T>, dst.Ref(), src.Ref(),
                        {params.startIndex, params.repeatTimes, params.srcStride, params.dstGap,
                         params.dstFracGap, true, params.addrMode != 0});
}

template <typename T, typename U = T>
void Fill(const LocalTensor<T>& dst, const InitConstValueParams<U>& params) {
  static_assert(std::is_same_v<T, U> && (sizeof(T) == 2 || sizeof(T) == 4),
                "Fill: rule dtype.table: one 16- or 32-bit type");
  emulator::FillBlocks(emulator::kDTypeOf<T>, dst.Ref(), &params.initValue, params.repeatTimes,
                       params.blockNum, params.dstGap);
}
template <typename T, typename U = T>
void InitConstValue(const LocalTensor<T>& dst, const InitConstValueParams<U>& params) {
  Fill(dst, params);
}

template <typename T, typename U, typename S>
void Mmad(const LocalTensor<T>& dst, const LocalTensor<U>& fm, const LocalTensor<S>& filter,
          const MmadParams& params) {
  emulator::CheckBias(params, false);
  emulator::MmadWith(dst, fm, filter, nullptr, params);
}
template <typename T, typename U, typename S, typename V>
void Mmad(const LocalTensor<T>& dst, const LocalTensor<U>& fm, const LocalTensor<S>& filter,
          const LocalTensor<V>& bias, const MmadParams& params) {
  static_assert(std::is_same_v<T, V>, "Mmad: rule dtype.table: a bias is of the result's type");
  emulator::CheckBias(params, true);
  emulator::MmadWith(dst, fm, filter, &bias.Ref(), params);
}
inline void SetMMRowMajor() { emulator::SetProductOrder(true); }
inline void SetMMColumnMajor() { emulator::SetProductOrder(false); }

}  // namespace AscendC

namespace emulator {

template <typename T, typename U>
void FixpipeTo(const AscendC::GlobalTensor<T>& dst, const AscendC::LocalTensor<U>& src,
               const LocalRef* scales, AscendC::CO2Layout format,
               const AscendC::FixpipeParamsV220& params) {
  constexpr bool kFromFloat =
      std::is_same_v<U, float> && kIsOneOf<T, int8_t, uint8_t, half, bfloat16_t, float>;
  constexpr bool kFromInt =
      std::is_same_v<U, int32_t> && kIsOneOf<T, int8_t, uint8_t, half, int32_t>;
  static_assert(kFromFloat || kFromInt,
                "Fixpipe: rule dtype.table: float to float, half, bf16, 8 bits; int32 to int32, "
                "half, 8 bits");
  MoveOut(kDTypeOf<U>, kDTypeOf<T>, dst.Ref(), src.Ref(), scales,
          {params.nSize, params.mSize, params.srcStride, params.dstStride, params.quantPre,
           params.deqScalar, params.ndNum, params.srcNdStride, params.dstNdStride, params.reluEn,
           params.unitFlag, params.isChannelSplit, format == AscendC::CO2Layout::ROW_MAJOR});
}

}  // namespace emulator

namespace AscendC {

template <typename T, typename U, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const GlobalTensor<T>& dst, const LocalTensor<U>& src,
             const FixpipeParamsV220& params) {
  emulator::FixpipeTo(dst, src, nullptr, config.format, params);
}
template <typename T, typename U, const FixpipeConfig& config = CFG_ROW_MAJOR,
          typename S = uint64_t>
void Fixpipe(const GlobalTensor<T>& dst, const LocalTensor<U>& src,
             const LocalTensor<S>& cbufWorkspace, const FixpipeParamsV220& params) {
  static_assert(std::is_same_v<S, uint64_t>, "Fixpipe: rule dtype.table: scales are uint64");
  emulator::FixpipeTo(dst, src, &cbufWorkspace.Ref(), config.format, params);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_CUBE_H_
