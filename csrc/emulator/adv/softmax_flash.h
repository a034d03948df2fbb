// SoftmaxFlash and SoftmaxFlashV2: the softmax of a part of each row, merged with that of the parts
// before.
#ifndef MOGE_EMULATOR_ADV_SOFTMAX_FLASH_H_
#define MOGE_EMULATOR_ADV_SOFTMAX_FLASH_H_

#include "adv/softmax_body.h"

namespace emulator {

// T: the matrices and the factors of the parts before; U: sums and maxima
template <typename T, typename U>
struct FlashOperands {
  const AscendC::LocalTensor<T>& dst;
  const AscendC::LocalTensor<U>& sum;
  const AscendC::LocalTensor<U>& max;
  const AscendC::LocalTensor<T>& src;
  const AscendC::LocalTensor<T>& factor;
  const AscendC::LocalTensor<U>& old_sum;
  const AscendC::LocalTensor<U>& old_max;
};

// `divides`: the rows, and the factors, are divided by the new sums, as the first version does.
template <typename T, typename U>
void MergeFlash(const FlashOperands<T, U>& operands, const AscendC::SoftMaxShapeInfo& shape,
                bool nz, bool divides, const LocalRef& room) {
  ForEachGroup(RowUse::kFlash, shape, nz, operands.dst, operands.src, room,
               [&](const RowGroup& group, uint32_t first, const MatrixRows<float>& in,
                   const MatrixRows<float>& out) {
                 const auto blocks = static_cast<int32_t>(group.rows * 8);
                 const auto keep = [&](const AscendC::LocalTensor<U>& to) {
                   group.Store(to, group.block, first);
                   if (sizeof(U) == 2) group.Spread();
                 };
                 group.Reduce(AscendC::ReduceType::MAX, in, shape.oriSrcK);
                 group.Spread();
                 group.Load(group.old, operands.old_max, first);
                 AscendC::Max(group.block, group.block, group.old, blocks);
                 Then();
                 AscendC::Sub(group.old, group.old, group.block, blocks);
                 Then();
                 AscendC::Exp(group.old, group.old, blocks);
                 keep(operands.max);
                 ApplyBlocks(RowOp::kSub, out, in, group.block, group.rows);
                 ExpRows(out, group.rows);
                 group.Reduce(AscendC::ReduceType::SUM, out, shape.oriSrcK);
                 group.Spread();
                 group.Load(group.other, operands.old_sum, first);
                 AscendC::Mul(group.other, group.other, group.old, blocks);
                 Then();
                 AscendC::Add(group.block, group.block, group.other, blocks);
                 Then();
                 if (divides) {
                   AscendC::Div(group.old, group.other, group.block, blocks);
                   Then();
                   ApplyBlocks(RowOp::kDiv, out, out, group.block, group.rows);
                 }
                 keep(operands.sum);
                 group.Store(operands.factor, group.old, first);
               });
}

template <typename T, typename U>
void FlashCall(const char* name, const SoftMaxKind& kind, bool update, bool divides,
               const FlashOperands<T, U>& operands, const AscendC::LocalTensor<uint8_t>* tmp,
               const SoftMaxTiling& tiling, const AscendC::SoftMaxShapeInfo& given) {
  const HighLevelCall call(name);
  const AscendC::SoftMaxShapeInfo shape = ShapeOf(kind.config, given, tiling, sizeof(T));
  const LocalRef room =
      PrepareRows<T>(RowUse::kFlash, shape, kind, tmp, {&operands.dst.Ref(), &operands.src.Ref()});
  if (update) {
    MergeFlash(operands, shape, kind.nz, divides, room);
  } else {  // the first part of each row
    SoftMaxRows<T, U>(RowUse::kFlash, kind, divides,
                      {operands.dst, operands.src, operands.sum, operands.max}, shape, room);
  }
}

}  // namespace emulator

namespace AscendC {

template <typename T, bool isReuseSource = false, bool isBasicBlock = false>
void SoftmaxFlash(const LocalTensor<T>& dstTensor, const LocalTensor<T>& sumTensor,
                  const LocalTensor<T>& maxTensor, const LocalTensor<T>& srcTensor,
                  const LocalTensor<T>& expMaxTensor, const LocalTensor<T>& inSumTensor,
                  const LocalTensor<T>& inMaxTensor, const LocalTensor<uint8_t>& sharedTmpBuffer,
                  const SoftMaxTiling& tiling, bool isUpdate = false,
                  const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftmaxFlash", T);
  emulator::FlashCall<T, T>(
      "SoftmaxFlash", {isBasicBlock, false, false, SOFTMAX_DEFAULT_CFG}, isUpdate, true,
      {dstTensor, sumTensor, maxTensor, srcTensor, expMaxTensor, inSumTensor, inMaxTensor},
      &sharedTmpBuffer, tiling, softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false>
void SoftmaxFlash(const LocalTensor<T>& dstTensor, const LocalTensor<T>& sumTensor,
                  const LocalTensor<T>& maxTensor, const LocalTensor<T>& srcTensor,
                  const LocalTensor<T>& expMaxTensor, const LocalTensor<T>& inSumTensor,
                  const LocalTensor<T>& inMaxTensor, const SoftMaxTiling& tiling,
                  bool isUpdate = false, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftmaxFlash", T);
  emulator::FlashCall<T, T>(
      "SoftmaxFlash", {isBasicBlock, false, false, SOFTMAX_DEFAULT_CFG}, isUpdate, true,
      {dstTensor, sumTensor, maxTensor, srcTensor, expMaxTensor, inSumTensor, inMaxTensor}, nullptr,
      tiling, softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false>
void SoftmaxFlash(const LocalTensor<half>& dstTensor, const LocalTensor<float>& sumTensor,
                  const LocalTensor<float>& maxTensor, const LocalTensor<half>& srcTensor,
                  const LocalTensor<half>& expMaxTensor, const LocalTensor<float>& inSumTensor,
                  const LocalTensor<float>& inMaxTensor,
                  const LocalTensor<uint8_t>& sharedTmpBuffer, const SoftMaxTiling& tiling,
                  bool isUpdate = false, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  emulator::FlashCall<half, float>(
      "SoftmaxFlash", {isBasicBlock, false, false, SOFTMAX_DEFAULT_CFG}, isUpdate, true,
      {dstTensor, sumTensor, maxTensor, srcTensor, expMaxTensor, inSumTensor, inMaxTensor},
      &sharedTmpBuffer, tiling, softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isBasicBlock = false>
void SoftmaxFlash(const LocalTensor<half>& dstTensor, const LocalTensor<float>& sumTensor,
                  const LocalTensor<float>& maxTensor, const LocalTensor<half>& srcTensor,
                  const LocalTensor<half>& expMaxTensor, const LocalTensor<float>& inSumTensor,
                  const LocalTensor<float>& inMaxTensor, const SoftMaxTiling& tiling,
                  bool isUpdate = false, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  emulator::FlashCall<half, float>(
      "SoftmaxFlash", {isBasicBlock, false, false, SOFTMAX_DEFAULT_CFG}, isUpdate, true,
      {dstTensor, sumTensor, maxTensor, srcTensor, expMaxTensor, inSumTensor, inMaxTensor}, nullptr,
      tiling, softmaxShapeInfo);
}

#define MOGE_FLASH_NORMAL                                   \
  static_assert(config.mode == SoftmaxMode::SOFTMAX_NORMAL, \
                "SoftmaxFlashV2: the emulator has sums and maxima of a block only")

template <typename T, bool isUpdate = false, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftmaxFlashV2(const LocalTensor<T>& dstTensor, const LocalTensor<T>& expSumTensor,
                    const LocalTensor<T>& maxTensor, const LocalTensor<T>& srcTensor,
                    const LocalTensor<T>& expMaxTensor, const LocalTensor<T>& inExpSumTensor,
                    const LocalTensor<T>& inMaxTensor, const LocalTensor<uint8_t>& sharedTmpBuffer,
                    const SoftMaxTiling& tiling, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftmaxFlashV2", T);
  MOGE_FLASH_NORMAL;
  emulator::FlashCall<T, T>(
      "SoftmaxFlashV2", {isBasicBlock, isDataFormatNZ, false, config}, isUpdate, false,
      {dstTensor, expSumTensor, maxTensor, srcTensor, expMaxTensor, inExpSumTensor, inMaxTensor},
      &sharedTmpBuffer, tiling, softmaxShapeInfo);
}
template <typename T, bool isUpdate = false, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftmaxFlashV2(const LocalTensor<T>& dstTensor, const LocalTensor<T>& expSumTensor,
                    const LocalTensor<T>& maxTensor, const LocalTensor<T>& srcTensor,
                    const LocalTensor<T>& expMaxTensor, const LocalTensor<T>& inExpSumTensor,
                    const LocalTensor<T>& inMaxTensor, const SoftMaxTiling& tiling,
                    const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftmaxFlashV2", T);
  MOGE_FLASH_NORMAL;
  emulator::FlashCall<T, T>(
      "SoftmaxFlashV2", {isBasicBlock, isDataFormatNZ, false, config}, isUpdate, false,
      {dstTensor, expSumTensor, maxTensor, srcTensor, expMaxTensor, inExpSumTensor, inMaxTensor},
      nullptr, tiling, softmaxShapeInfo);
}
template <typename T, bool isUpdate = false, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftmaxFlashV2(const LocalTensor<half>& dstTensor, const LocalTensor<float>& expSumTensor,
                    const LocalTensor<float>& maxTensor, const LocalTensor<half>& srcTensor,
                    const LocalTensor<half>& expMaxTensor, const LocalTensor<float>& inExpSumTensor,
                    const LocalTensor<float>& inMaxTensor,
                    const LocalTensor<uint8_t>& sharedTmpBuffer, const SoftMaxTiling& tiling,
                    const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_FLASH_NORMAL;
  emulator::FlashCall<half, float>(
      "SoftmaxFlashV2", {isBasicBlock, isDataFormatNZ, false, config}, isUpdate, false,
      {dstTensor, expSumTensor, maxTensor, srcTensor, expMaxTensor, inExpSumTensor, inMaxTensor},
      &sharedTmpBuffer, tiling, softmaxShapeInfo);
}
template <typename T, bool isUpdate = false, bool isReuseSource = false, bool isBasicBlock = false,
          bool isDataFormatNZ = false, const SoftmaxConfig& config = SOFTMAX_DEFAULT_CFG>
void SoftmaxFlashV2(const LocalTensor<half>& dstTensor, const LocalTensor<float>& expSumTensor,
                    const LocalTensor<float>& maxTensor, const LocalTensor<half>& srcTensor,
                    const LocalTensor<half>& expMaxTensor, const LocalTensor<float>& inExpSumTensor,
                    const LocalTensor<float>& inMaxTensor, const SoftMaxTiling& tiling,
                    const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_FLASH_NORMAL;
  emulator::FlashCall<half, float>(
      "SoftmaxFlashV2", {isBasicBlock, isDataFormatNZ, false, config}, isUpdate, false,
      {dstTensor, expSumTensor, maxTensor, srcTensor, expMaxTensor, inExpSumTensor, inMaxTensor},
      nullptr, tiling, softmaxShapeInfo);
}

// the tiling of another shape than the host's, on the kernel's side
constexpr SoftMaxTiling SoftMaxFlashV2TilingFunc(
    const SoftMaxShapeInfo& shapeInfo, const uint32_t dataTypeSize1, const uint32_t dataTypeSize2,
    const uint32_t localWorkSpaceSize, const bool /*isUpdate*/ = false,
    const bool /*isBasicBlock*/ = false, const bool /*isDataFormatNZ*/ = false,
    const bool /*isFlashOutputBrc*/ = false) {
  return emulator::TileRows(emulator::RowUse::kFlash, shapeInfo.srcM, shapeInfo.srcK, dataTypeSize1,
                            dataTypeSize2, localWorkSpaceSize);
}

#undef MOGE_FLASH_NORMAL

}  // namespace AscendC

#endif  // MOGE_EMULATOR_ADV_SOFTMAX_FLASH_H_
