// Grouped products on the cube cores: every expert's rows with its weight, and their gradients.
#ifndef MOGE_ASCEND_GROUPED_GEMM_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GEMM_KERNEL_H_

#include "grouped_gemm_pipeline.h"

namespace moge {

// L0C's float becomes the result's type on the way out; int32 stays what it is.
template <typename T>
constexpr QuantMode_t kNarrow = QuantMode_t::NoQuant;
template <>
constexpr QuantMode_t kNarrow<half> = QuantMode_t::F322F16;
template <>
constexpr QuantMode_t kNarrow<bfloat16_t> = QuantMode_t::F322BF16;

// L0C to global memory: m rows of whole fractals of columns, for which `pitch` has room.
template <typename T, typename Sum>
__aicore__ inline void CopyOut(const GlobalTensor<T>& dst, const LocalTensor<Sum>& src, uint32_t m,
                               uint32_t c, uint32_t pitch) {
  FixpipeParamsV220 params(RoundUp(c, kFractal), m, RoundUp(m, kFractal), pitch, false);
  params.quantPre = kNarrow<T>;
  params.unitFlag = kUnitFlagLast;
  Fixpipe<T, Sum, CFG_ROW_MAJOR>(dst, src, params);
}

// Each tile to its place in the result: [N, C], or [E, rows, C] where the depth is ragged.
template <typename T, typename Products>
class StoreToMemory {
 public:
  __aicore__ inline StoreToMemory(GM_ADDR result, const GroupedGemmTiling& tiling)
      : result_(Global<T>(result)), tiling_(tiling) {}
  __aicore__ inline void operator()(const Tile& tile, uint32_t part, uint32_t c,
                                    const LocalTensor<float>& part_l0c) const {
    const uint64_t first = Products::kRaggedDepth ? uint64_t{tile.expert} * tiling_.rows : tile.row;
    const uint32_t c0 = tile.c0 + part * Products::kPartC;
    CopyOut(result_[(first + tile.m0) * tiling_.pitch + c0], part_l0c, tile.m, c, tiling_.pitch);
  }

 private:
  GlobalTensor<T> result_;
  GroupedGemmTiling tiling_;
};

template <typename T, Layout kLeft, Layout kRight>
__aicore__ inline void GroupedGemm(GM_ADDR left, GM_ADDR right, GM_ADDR offsets, GM_ADDR result,
                                   const GroupedGemmTiling& tiling) {
  using Products = TileProducts<T, kLeft, kRight>;
  Products products;
  products.Init(left, right, offsets, tiling);
  StoreToMemory<T, Products> epilogue(result, tiling);
  products.Process(epilogue);
  PipeBarrier<PIPE_ALL>();
}

// The same with the right factor [r, c], which the vector cores pack.
template <typename T, Layout kLeft>
__aicore__ inline void GroupedGemmPacking(GM_ADDR left, GM_ADDR right, GM_ADDR offsets,
                                          GM_ADDR packed, GM_ADDR result,
                                          const GroupedGemmTiling& tiling) {
  using Products = TileProducts<T, kLeft, Layout::kDepthOuter>;
  if ASCEND_IS_AIC {
    Products products;
    products.Init(left, right, offsets, tiling);
    products.TakePacked(packed);
    StoreToMemory<T, Products> epilogue(result, tiling);
    products.Process(epilogue);
  }
  if ASCEND_IS_AIV {
    if constexpr (!kIsFloat<T>) {
      RightPacker<T, Products::kRaggedDepth> packer;
      packer.Init(right, offsets, packed, tiling);
      packer.Process();
    }
  }
  PipeBarrier<PIPE_ALL>();
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_KERNEL_H_
