// The documented limits of high-level calls.
#include "adv/softmax.h"
#include "adv/topk.h"
#include "core.h"

namespace emulator {

void CheckSortRepeat(int32_t repeat) { CheckRepeat(limits::Sort::repeatTime, repeat); }

void CheckTopK(const AscendC::TopKInfo& info, int32_t k, bool small, bool has_finished) {
  if (small && has_finished) Fail(Rule::kTopKParams, "isHasfinish is for normal mode");
  CheckRange(limits::TopKInfo::outter, info.outter);
  if (info.inner <= 0 || info.inner % 32 != 0 ||
      (small ? info.inner != 32 : !limits::TopKInfo::inner.Allows(info.inner))) {
    Fail(Rule::kTopKParams, "inner is %s, got %d",
         small ? "32 in small mode" : "a multiple of 32 up to 4096", info.inner);
  }
  if (info.n < 1 || info.n > info.inner || k < 1 || k > info.n) {
    Fail(Rule::kTopKParams, "1 <= k <= n <= inner, got k=%d, n=%d, inner=%d", k, info.n,
         info.inner);
  }
}

void CheckTopKTmp(const LocalRef& tmp) {
  if (tmp.position == TPosition::VECCALC) return;
  Report(Rule::kTopKTmp, "the temporary tensor is not in VECCALC");
}

void CheckRows(const AscendC::SoftMaxShapeInfo& shape, uint32_t element_bytes, bool nz) {
  if (shape.srcM == 0 || shape.srcK == 0 || shape.srcK * element_bytes % kBlockBytes != 0 ||
      (nz && shape.srcK % 16 != 0)) {
    Fail(Rule::kSoftmaxShape, "%u rows of %u elements: a row is of whole %s", shape.srcM,
         shape.srcK, nz ? "fractals" : "32 bytes");
  }
  if (shape.oriSrcM > shape.srcM || shape.oriSrcK > shape.srcK || shape.oriSrcK == 0) {
    Fail(Rule::kSoftmaxShape,
         "oriSrcM is up to srcM and oriSrcK 1 to srcK, got %u of %u and %u of %u", shape.oriSrcM,
         shape.srcM, shape.oriSrcK, shape.srcK);
  }
}

AscendC::SoftMaxShapeInfo ShapeOf(const AscendC::SoftmaxConfig& config,
                                  const AscendC::SoftMaxShapeInfo& given,
                                  const SoftMaxTiling& tiling, uint32_t element_bytes) {
  if (config.oriSrcM != 0 && config.oriSrcK != 0) {
    const uint32_t in_block = kBlockBytes / element_bytes;
    const uint32_t columns = RoundUp(config.oriSrcK, in_block);
    return {config.oriSrcM, columns, config.oriSrcM, config.oriSrcK};
  }
  if (given.srcM != 0 || given.srcK != 0) return given;
  return {tiling.srcM, tiling.srcK, tiling.srcM, tiling.srcK};
}

void CheckBasicBlock(const AscendC::SoftMaxShapeInfo& shape, uint32_t element_bytes) {
  if (IsBasicBlock(shape.srcM, shape.srcK, element_bytes)) return;
  Report(
      Rule::kSoftmaxBasic,
      "isBasicBlock with %u rows of %u elements: rows in 8s, and columns in 64s, from %u to less "
      "than 2048",
      shape.srcM, shape.srcK, kRepeatBytes / element_bytes);
}

}  // namespace emulator
