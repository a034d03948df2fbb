// Where the factors of the grouped products lie in global memory, and how the columns of the right
// one are cut into parts.
#ifndef MOGE_ASCEND_GROUPED_GEMM_FACTORS_H_
#define MOGE_ASCEND_GROUPED_GEMM_FACTORS_H_

#include "grouped_gemm_memory.h"

namespace moge {

// What TileProducts (grouped_gemm_pipeline.h) multiplies: its parameters say how.
template <typename T, Layout kLeft, Layout kRight, uint32_t kHalves, uint32_t kPartC>
class ProductFactors {
 public:
  __aicore__ inline void Init(GM_ADDR left, GM_ADDR right, const GroupedGemmTiling& tiling) {
    left_ = Global<T>(left);
    right_ = Global<T>(right);
    rows_ = tiling.rows;
    R_ = tiling.R;
    C_ = tiling.C;
    beside_ = tiling.beside;
  }
  // What is read once does not drive the rest out of L2.
  __aicore__ inline void ReadRightOnce() { right_.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE); }
  static __aicore__ inline uint32_t Parts(const Tile& tile) {
    if (kHalves != 1 && tile.both != 0) return CeilDiv(tile.both, RoundUp(tile.c, kFractal));
    return kHalves == 1 ? CeilDiv(tile.c, kPartC) : kHalves;
  }
  static __aicore__ inline uint32_t Columns(const Tile& tile, uint32_t part) {
    if (kHalves != 1 && tile.both != 0) {  // the first part is whole fractals
      const uint32_t c16 = RoundUp(tile.c, kFractal);
      return Min(c16, tile.both - part * c16);
    }
    return kHalves == 1 ? Min(kPartC, tile.c - part * kPartC) : tile.c;
  }
  // The chunk of a tile that begins at the depth r0.
  __aicore__ inline GlobalTensor<T> Left(const Tile& tile, uint32_t r0) const {
    if constexpr (kRaggedDepth) return left_[(tile.row + r0) * LeftPitch() + tile.m0];
    return left_[(tile.row + tile.m0) * LeftPitch() + r0];
  }
  __aicore__ inline uint32_t LeftPitch() const { return kRaggedDepth ? rows_ : R_; }
  __aicore__ inline GlobalTensor<T> Right(const Tile& tile, uint32_t part, uint32_t r0) const {
    const uint64_t pitch = RightPitch(), expert = tile.expert;
    if constexpr (kRaggedDepth) {
      return right_[(tile.row + r0) * pitch + tile.c0];
    } else if constexpr (kRight == Layout::kDepthOuter) {
      return right_[(expert * R_ + r0) * pitch + tile.c0];
    } else if constexpr (kRight == Layout::kDepthInner) {
      if (kHalves != 1 && tile.both != 0) {
        const uint64_t c0 = 2 * tile.c0 + part * RoundUp(tile.c, kFractal);
        return right_[(expert * beside_ + c0) * pitch + r0];
      }
      const uint32_t c0 = tile.c0 + part * (kHalves == 1 ? kPartC : C_);
      return right_[(expert * kHalves * C_ + c0) * pitch + r0];
    } else {
      const uint64_t blocks = expert * CeilDiv(R_, kC0<T>) + r0 / kC0<T>;
      return right_[(blocks * pitch + tile.c0 + part * kPartC) * kC0<T>];
    }
  }
  __aicore__ inline uint32_t RightPitch() const {
    if constexpr (kRight == Layout::kDepthOuter) return C_;
    if constexpr (kRight == Layout::kDepthInner) return R_;
    return RoundUp(C_, kFractal);
  }

 private:
  static constexpr bool kRaggedDepth = kLeft == Layout::kDepthOuter;

  GlobalTensor<T> left_, right_;
  uint32_t rows_ = 0, R_ = 0, C_ = 0, beside_ = 0;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_FACTORS_H_
