// SoftMax and its relatives, over rows in UB.
#ifndef MOGE_EMULATOR_ADV_SOFTMAX_H_
#define MOGE_EMULATOR_ADV_SOFTMAX_H_

#include "adv/softmax_body.h"

namespace AscendC {

template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftMax(const LocalTensor<T>& dstTensor, const LocalTensor<T>& sumTensor,
             const LocalTensor<T>& maxTensor, const LocalTensor<T>& srcTensor,
             const LocalTensor<uint8_t>& sharedTmpBuffer, const SoftMaxTiling& tiling,
             const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftMax", T);
  emulator::SoftMaxCall<T, T>("SoftMax", {isBasicBlock, isDataFormatNZ, false, config},
                              {dstTensor, srcTensor, sumTensor, maxTensor}, &sharedTmpBuffer,
                              tiling, softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftMax(const LocalTensor<T>& dstTensor, const LocalTensor<T>& sumTensor,
             const LocalTensor<T>& maxTensor, const LocalTensor<T>& srcTensor,
             const SoftMaxTiling& tiling, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftMax", T);
  emulator::SoftMaxCall<T, T>("SoftMax", {isBasicBlock, isDataFormatNZ, false, config},
                              {dstTensor, srcTensor, sumTensor, maxTensor}, nullptr, tiling,
                              softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftMax(const LocalTensor<half>& dstTensor, const LocalTensor<float>& sumTensor,
             const LocalTensor<float>& maxTensor, const LocalTensor<half>& srcTensor,
             const LocalTensor<uint8_t>& sharedTmpBuffer, const SoftMaxTiling& tiling,
             const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  emulator::SoftMaxCall<half, float>("SoftMax", {isBasicBlock, isDataFormatNZ, false, config},
                                     {dstTensor, srcTensor, sumTensor, maxTensor}, &sharedTmpBuffer,
                                     tiling, softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftMax(const LocalTensor<half>& dstTensor, const LocalTensor<float>& sumTensor,
             const LocalTensor<float>& maxTensor, const LocalTensor<half>& srcTensor,
             const SoftMaxTiling& tiling, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  emulator::SoftMaxCall<half, float>("SoftMax", {isBasicBlock, isDataFormatNZ, false, config},
                                     {dstTensor, srcTensor, sumTensor, maxTensor}, nullptr, tiling,
                                     softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftMax(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor,
             const LocalTensor<uint8_t>& sharedTmpBuffer, const SoftMaxTiling& tiling,
             const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftMax", T);
  emulator::SoftMaxCall<T, T>("SoftMax", {isBasicBlock, false, false, config},
                              {dstTensor, srcTensor, {}, {}}, &sharedTmpBuffer, tiling,
                              softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftMax(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor,
             const SoftMaxTiling& tiling, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftMax", T);
  emulator::SoftMaxCall<T, T>("SoftMax", {isBasicBlock, false, false, config},
                              {dstTensor, srcTensor, {}, {}}, nullptr, tiling, softmaxShapeInfo);
}

// with the sums and maxima of an earlier call
template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SimpleSoftMax(const LocalTensor<T>& dstTensor, const LocalTensor<T>& inSumTensor,
                   const LocalTensor<T>& inMaxTensor, const LocalTensor<T>& srcTensor,
                   const LocalTensor<uint8_t>& sharedTmpBuffer, const SoftMaxTiling& tiling,
                   const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SimpleSoftMax", T);
  emulator::SimpleCall<T, T>({isBasicBlock, isDataFormatNZ, false, config},
                             {dstTensor, srcTensor, inSumTensor, inMaxTensor}, &sharedTmpBuffer,
                             tiling, softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SimpleSoftMax(const LocalTensor<T>& dstTensor, const LocalTensor<T>& inSumTensor,
                   const LocalTensor<T>& inMaxTensor, const LocalTensor<T>& srcTensor,
                   const SoftMaxTiling& tiling, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SimpleSoftMax", T);
  emulator::SimpleCall<T, T>({isBasicBlock, isDataFormatNZ, false, config},
                             {dstTensor, srcTensor, inSumTensor, inMaxTensor}, nullptr, tiling,
                             softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SimpleSoftMax(const LocalTensor<half>& dstTensor, const LocalTensor<float>& inSumTensor,
                   const LocalTensor<float>& inMaxTensor, const LocalTensor<half>& srcTensor,
                   const LocalTensor<uint8_t>& sharedTmpBuffer, const SoftMaxTiling& tiling,
                   const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  emulator::SimpleCall<half, float>({isBasicBlock, isDataFormatNZ, false, config},
                                    {dstTensor, srcTensor, inSumTensor, inMaxTensor},
                                    &sharedTmpBuffer, tiling, softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SimpleSoftMax(const LocalTensor<half>& dstTensor, const LocalTensor<float>& inSumTensor,
                   const LocalTensor<float>& inMaxTensor, const LocalTensor<half>& srcTensor,
                   const SoftMaxTiling& tiling, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  emulator::SimpleCall<half, float>({isBasicBlock, isDataFormatNZ, false, config},
                                    {dstTensor, srcTensor, inSumTensor, inMaxTensor}, nullptr,
                                    tiling, softmaxShapeInfo);
}

// the logarithm to the base 10, as the documents say
template <typename T, bool isReuseSource = false, bool isDataFormatNZ = false>
void LogSoftMax(const LocalTensor<T>& dst, const LocalTensor<T>& sum, const LocalTensor<T>& max,
                const LocalTensor<T>& src, const LocalTensor<uint8_t>& sharedTmpBuffer,
                const LogSoftMaxTiling& tiling, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("LogSoftMax", T);
  emulator::SoftMaxCall<T, T>("LogSoftMax", {false, isDataFormatNZ, true, SOFTMAX_DEFAULT_CFG},
                              {dst, src, sum, max}, &sharedTmpBuffer, {tiling.srcM, tiling.srcK},
                              softmaxShapeInfo);
}

// Where the largest of a row is `from`, by its bits, the whole row becomes `to`; whether there was
// one. The largest are one in each 32 bytes or, with stepSizeMode, one after the other.
template <typename T1, typename T2, bool isDataFormatNZ = false, uint8_t stepSizeMode = 0>
bool AdjustSoftMaxRes(const LocalTensor<T1>& softMaxRes, const LocalTensor<T2>& maxTensor,
                      const uint32_t from, const T1 to, const SoftMaxShapeInfo& softmaxShapeInfo) {
  MOGE_CHECK_HALF_OR_FLOAT("AdjustSoftMaxRes", T1);
  MOGE_CHECK_HALF_OR_FLOAT("AdjustSoftMaxRes", T2);
  static_assert(stepSizeMode == 0 || !isDataFormatNZ, "AdjustSoftMaxRes: stepSizeMode is for ND");
  using Bits = std::conditional_t<sizeof(T2) == 2, uint16_t, uint32_t>;
  const emulator::HighLevelCall call("AdjustSoftMaxRes");
  const SoftMaxShapeInfo& shape = softmaxShapeInfo;
  emulator::CheckRows(shape, sizeof(T1), isDataFormatNZ);
  const emulator::MatrixRows<T1> rows{softMaxRes, shape.srcM, shape.srcK, isDataFormatNZ};
  const auto largest = maxTensor.template ReinterpretCast<Bits>();
  emulator::AwaitVector();
  bool found = false;
  for (uint32_t row = 0; row < shape.srcM; ++row) {
    if (largest.GetValue(row * (stepSizeMode == 0 ? 32 / sizeof(T2) : 1)) !=
        static_cast<Bits>(from))
      continue;
    found = true;
    const emulator::MatrixRows<T1> one = rows.From(row);
    one.ForEachRun(1, [&](uint32_t first, uint32_t elements) {
      Duplicate(one.data[first], to, static_cast<int32_t>(elements));
    });
  }
  return found;
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_ADV_SOFTMAX_H_
