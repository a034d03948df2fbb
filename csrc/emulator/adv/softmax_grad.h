// SoftmaxGrad and SoftmaxGradFront: the gradient of a softmax by its result.
#ifndef MOGE_EMULATOR_ADV_SOFTMAX_GRAD_H_
#define MOGE_EMULATOR_ADV_SOFTMAX_GRAD_H_

#include "adv/softmax_body.h"

namespace emulator {

// (grad - sum(grad * src)) * src of each row; `front`: only the sums, one block for each row
template <typename T>
void GradCall(const char* name, bool front, const SoftMaxKind& kind,
              const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& grad,
              const AscendC::LocalTensor<T>& src, const AscendC::LocalTensor<uint8_t>* tmp,
              const SoftMaxTiling& tiling, const AscendC::SoftMaxShapeInfo& given) {
  const HighLevelCall call(name);
  const AscendC::SoftMaxShapeInfo shape = ShapeOf(kind.config, given, tiling, sizeof(T));
  const LocalRef room = PrepareRows<T>(RowUse::kGrad, shape, kind, tmp, {&grad.Ref(), &src.Ref()});
  constexpr bool kHalf = sizeof(T) == 2;
  const MatrixRows<T> grads{grad, shape.srcM, shape.srcK, kind.nz};
  const MatrixRows<T> results{src, shape.srcM, shape.srcK, kind.nz};
  const MatrixRows<T> outs{dst, shape.srcM, shape.srcK, kind.nz};
  const uint32_t most = RowsOfGroup(RowUse::kGrad, shape, kind.nz, kHalf, room);
  for (uint32_t first = 0; first < shape.srcM; first += most) {
    const RowGroup group(room, RowUse::kGrad, std::min(most, shape.srcM - first), kHalf);
    uint32_t byte = group.rest;
    const uint32_t elements = group.rows * shape.srcK;
    const auto copy = TakePart<float>(room, &byte, elements);
    const auto other = kHalf ? TakePart<float>(room, &byte, elements) : copy;
    const MatrixRows<float> product{copy, group.rows, shape.srcK, kind.nz};
    const MatrixRows<float> result = Widen(results.From(first), other, group.rows);
    MulRows(product, Widen(grads.From(first), copy, group.rows), result, group.rows);
    group.Reduce(AscendC::ReduceType::SUM, product, shape.oriSrcK);
    group.Spread();
    if (front) {
      group.Store(dst, group.block, first);
      continue;
    }
    ApplyBlocks(RowOp::kSub, product, Widen(grads.From(first), copy, group.rows), group.block,
                group.rows);
    if constexpr (kHalf) {
      MulRows(product, product, result, group.rows);
      Narrow(outs.From(first), product, group.rows);
    } else {
      MulRows(outs.From(first), product, result, group.rows);
    }
  }
}

}  // namespace emulator

namespace AscendC {

template <typename T, bool isReuseSource = false, bool isDataFormatNZ = false>
void SoftmaxGrad(const LocalTensor<T>& dstTensor, const LocalTensor<T>& gradTensor,
                 const LocalTensor<T>& srcTensor, const LocalTensor<uint8_t>& sharedTmpBuffer,
                 const SoftMaxTiling& tiling, bool isFront = false,
                 const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftmaxGrad", T);
  emulator::GradCall("SoftmaxGrad", isFront, {false, isDataFormatNZ, false, SOFTMAX_DEFAULT_CFG},
                     dstTensor, gradTensor, srcTensor, &sharedTmpBuffer, tiling, softmaxShapeInfo);
}
template <typename T, bool isReuseSource = false, bool isDataFormatNZ = false>
void SoftmaxGrad(const LocalTensor<T>& dstTensor, const LocalTensor<T>& gradTensor,
                 const LocalTensor<T>& srcTensor, const SoftMaxTiling& tiling, bool isFront = false,
                 const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftmaxGrad", T);
  emulator::GradCall("SoftmaxGrad", isFront, {false, isDataFormatNZ, false, SOFTMAX_DEFAULT_CFG},
                     dstTensor, gradTensor, srcTensor, nullptr, tiling, softmaxShapeInfo);
}
template <typename T, bool isBasicBlock = false, bool isDataFormatNZ = false>
void SoftmaxGradFront(const LocalTensor<T>& dstTensor, const LocalTensor<T>& gradTensor,
                      const LocalTensor<T>& srcTensor, const LocalTensor<uint8_t>& sharedTmpBuffer,
                      const SoftMaxTiling& tiling, const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftmaxGradFront", T);
  emulator::GradCall("SoftmaxGradFront", true,
                     {isBasicBlock, isDataFormatNZ, false, SOFTMAX_DEFAULT_CFG}, dstTensor,
                     gradTensor, srcTensor, &sharedTmpBuffer, tiling, softmaxShapeInfo);
}
template <typename T, bool isBasicBlock = false, bool isDataFormatNZ = false>
void SoftmaxGradFront(const LocalTensor<T>& dstTensor, const LocalTensor<T>& gradTensor,
                      const LocalTensor<T>& srcTensor, const SoftMaxTiling& tiling,
                      const SoftMaxShapeInfo& softmaxShapeInfo = {}) {
  MOGE_CHECK_HALF_OR_FLOAT("SoftmaxGradFront", T);
  emulator::GradCall("SoftmaxGradFront", true,
                     {isBasicBlock, isDataFormatNZ, false, SOFTMAX_DEFAULT_CFG}, dstTensor,
                     gradTensor, srcTensor, nullptr, tiling, softmaxShapeInfo);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_ADV_SOFTMAX_GRAD_H_
