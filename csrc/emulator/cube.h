// What a cube core does: Mmad, Fixpipe, DataCopy out of L0C; load.h has what comes before.
#ifndef MOGE_EMULATOR_CUBE_H_
#define MOGE_EMULATOR_CUBE_H_

#include "load.h"

namespace emulator {

void CheckBias(const AscendC::MmadParams& params);
void CheckRelu(uint8_t mode);

inline Product ProductOf(const AscendC::MmadParams& params, const LocalRef* bias) {
  const bool init = params.cmatrixInitVal && !params.isBias;
  return {params.m,
          params.n,
          params.k,
          params.unitFlag,
          params.kDirectionAlign,
          init,
          bias,
          !init && params.cmatrixSource};
}

template <typename T, typename U, typename S>
void MmadWith(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<U>& a,
              const AscendC::LocalTensor<S>& b, const LocalRef* bias,
              const AscendC::MmadParams& params) {
  constexpr bool kFloats = std::is_same_v<T, float> && kIsOneOf<U, half, bfloat16_t, float>;
  constexpr bool kIntegers = std::is_same_v<T, int32_t> && kIsOneOf<U, int8_t, AscendC::int4b_t>;
  static_assert(std::is_same_v<U, S> && (kFloats || kIntegers),
                "Mmad: rule dtype.table: half, bf16 or float to float, int8 or int4 to int32");
  Multiply(kDTypeOf<U>, dst.Ref(), a.Ref(), b.Ref(), ProductOf(params, bias));
}

}  // namespace emulator

namespace AscendC {

template <typename T, typename U, typename S>
void Mmad(const LocalTensor<T>& dst, const LocalTensor<U>& fm, const LocalTensor<S>& filter,
          const MmadParams& params) {
  emulator::MmadWith(dst, fm, filter, nullptr, params);
}
template <typename T, typename U, typename S, typename V>
void Mmad(const LocalTensor<T>& dst, const LocalTensor<U>& fm, const LocalTensor<S>& filter,
          const LocalTensor<V>& bias, const MmadParams& params) {
  static_assert(std::is_same_v<T, V> && !std::is_same_v<U, int4b_t>,
                "Mmad: rule dtype.table: a bias is of the result's type; int4 has none");
  emulator::CheckBias(params);
  emulator::MmadWith(dst, fm, filter, &bias.Ref(), params);
}
template <typename T = int32_t, typename U = int8_t,
          std::enable_if_t<std::is_same_v<T, int32_t>, bool> = true,
          std::enable_if_t<std::is_same_v<U, int8_t>, bool> = true>
void MmadWithSparse(const LocalTensor<T>& dst, const LocalTensor<U>& fm,
                    const LocalTensor<U>& filter, const MmadParams& params) {
  emulator::MultiplySparse(dst.Ref(), fm.Ref(), filter.Ref(), emulator::ProductOf(params, nullptr));
}

inline void SetHF32Mode(HF32Mode mode) { emulator::SetHalfFloat(mode == HF32Mode::ENABLE); }
inline void SetHF32Mode(bool hf32Mode) { emulator::SetHalfFloat(hf32Mode); }
inline void SetHF32TransMode(HF32TransMode mode) {
  emulator::SetHalfFloatRounding(mode == HF32TransMode::NEAREST_ZERO);
}
inline void SetHF32TransMode(bool hf32TransMode) { emulator::SetHalfFloatRounding(hf32TransMode); }
inline void SetMMRowMajor() { emulator::SetProductOrder(true); }
inline void SetMMColumnMajor() { emulator::SetProductOrder(false); }
inline void SetMMLayoutTransform(bool mmLayoutMode) { emulator::SetProductOrder(mmLayoutMode); }

}  // namespace AscendC

namespace emulator {

// T: outside, U: in L0C
template <typename T, typename U>
constexpr void CheckResultTypes() {
  constexpr bool kFromFloat =
      std::is_same_v<U, float> && kIsOneOf<T, int8_t, uint8_t, half, bfloat16_t, float>;
  constexpr bool kFromInt =
      std::is_same_v<U, int32_t> && kIsOneOf<T, int8_t, uint8_t, half, int32_t>;
  static_assert(kFromFloat || kFromInt,
                "Fixpipe: rule dtype.table: float to float, half, bf16, 8 bits; int32 to int32, "
                "half, 8 bits");
}

// `dst` in global memory or in L1
template <template <typename> class Tensor, typename T, typename U>
void FixpipeTo(const Tensor<T>& dst, const AscendC::LocalTensor<U>& src, const LocalRef* scales,
               AscendC::CO2Layout format, const AscendC::FixpipeParamsV220& params) {
  CheckResultTypes<T, U>();
  static_assert(std::is_same_v<Tensor<T>, AscendC::GlobalTensor<T>> || sizeof(T) <= 2,
                "Fixpipe: rule dtype.table: half, bf16 and 8 bits to L1");
  MoveOut(kDTypeOf<U>, kDTypeOf<T>, dst.Ref(), src.Ref(), scales,
          {params.nSize, params.mSize, params.srcStride, params.dstStride, params.quantPre,
           params.deqScalar, params.ndNum, params.srcNdStride, params.dstNdStride, params.reluEn,
           params.unitFlag, params.isChannelSplit, format == AscendC::CO2Layout::ROW_MAJOR});
}

template <template <typename> class Tensor, typename T, typename U>
void DataCopyTo(const Tensor<T>& dst, const AscendC::LocalTensor<U>& src,
                const AscendC::DataCopyCO12DstParams& params) {
  CheckResultTypes<T, U>();
  static_assert(std::is_same_v<Tensor<T>, AscendC::GlobalTensor<T>> || sizeof(T) <= 2,
                "DataCopy: rule dtype.table: half, bf16 and 8 bits from L0C to L1");
  CheckRelu(params.reluPre);
  MoveOutAsSet(
      kDTypeOf<U>, kDTypeOf<T>, dst.Ref(), src.Ref(),
      {params.nSize, params.mSize, params.srcStride, params.dstStride, params.quantPre, 0, 1, 0, 0,
       params.reluPre == 1, params.unitFlag, params.channelSplit, params.nz2ndEn});
}

}  // namespace emulator

namespace AscendC {

template <typename T, typename U, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const GlobalTensor<T>& dst, const LocalTensor<U>& src,
             const FixpipeParamsV220& params) {
  emulator::FixpipeTo(dst, src, nullptr, config.format, params);
}
template <typename T, typename U, const FixpipeConfig& config = CFG_ROW_MAJOR,
          typename S = uint64_t, std::enable_if_t<std::is_same_v<S, uint64_t>, bool> = true>
void Fixpipe(const GlobalTensor<T>& dst, const LocalTensor<U>& src,
             const LocalTensor<S>& cbufWorkspace, const FixpipeParamsV220& params) {
  emulator::FixpipeTo(dst, src, &cbufWorkspace.Ref(), config.format, params);
}
template <typename T, typename U, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const LocalTensor<T>& dst, const LocalTensor<U>& src,
             const FixpipeParamsV220& params) {
  emulator::FixpipeTo(dst, src, nullptr, config.format, params);
}
template <typename T, typename U, const FixpipeConfig& config = CFG_ROW_MAJOR,
          typename S = uint64_t, std::enable_if_t<std::is_same_v<S, uint64_t>, bool> = true>
void Fixpipe(const LocalTensor<T>& dst, const LocalTensor<U>& src,
             const LocalTensor<S>& cbufWorkspace, const FixpipeParamsV220& params) {
  emulator::FixpipeTo(dst, src, &cbufWorkspace.Ref(), config.format, params);
}

template <typename T, typename U>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<U>& src,
              const DataCopyCO12DstParams& params) {
  emulator::DataCopyTo(dst, src, params);
}
template <typename T, typename U>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<U>& src,
              const DataCopyCO12DstParams& params) {
  emulator::DataCopyTo(dst, src, params);
}

template <typename T>
void SetFixPipeConfig(const LocalTensor<T>&, const LocalTensor<T>& quantPre,
                      bool isUnitFlag = false) {
  emulator::SetScales(quantPre.Ref(), emulator::kDTypeOf<T>, isUnitFlag);
}
template <typename T, bool setRelu = false>
void SetFixPipeConfig(const LocalTensor<T>& preData, bool isUnitFlag = false) {
  static_assert(!setRelu, "SetFixPipeConfig: rule fixpipe.config: setRelu is false");
  emulator::SetScales(preData.Ref(), emulator::kDTypeOf<T>, isUnitFlag);
}
inline void SetFixpipePreQuantFlag(uint64_t config) { emulator::SetScale(config); }
inline void SetFixpipeNz2ndFlag(emulator::U16 ndNum, emulator::U16 srcNdStride,
                                emulator::U16 dstNdStride) {
  emulator::SetMatrices(ndNum, srcNdStride, dstNdStride);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_CUBE_H_
