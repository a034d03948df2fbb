// Grouped products on the cube cores: every expert's rows with its weight, and their gradients.
#ifndef MOGE_ASCEND_GROUPED_GEMM_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GEMM_KERNEL_H_

#include "grouped_gemm_tiles.h"

namespace moge {

// Memories, in bytes. L1 holds two steps of depth of both factors, or the panel and two steps of
// the right factor; L0A and L0B two quarters of a step each; L0C one tile. A cube core synchronises
// nothing by itself: each half of a memory has a flag for "filled" and one for "free", and L0C has
// the unit flag, by which a tile leaves while the next one already comes in behind it.
constexpr uint32_t kL1Bytes = 512 * 1024 - 256;
constexpr uint32_t kL0Bytes = 64 * 1024;
constexpr uint32_t kL0cBytes = 128 * 1024;
template <typename T>
constexpr uint32_t kL1Row = kDepthL1<T> * sizeof(T);
template <typename T>
constexpr uint32_t kL0Row = kDepthL0<T> * sizeof(T);
static_assert(2 * (kTileM + kTileN) * kL1Row<half> <= kL1Bytes, "L1");
static_assert(kPanelBytes + 2 * kPanelN * kL1Row<half> <= kL1Bytes, "L1 with a panel");
static_assert(2 * kTileM * kL0Row<half> <= kL0Bytes && 2 * kTileN * kL0Row<half> <= kL0Bytes, "L0");
static_assert(kTileM * kTileN * sizeof(float) <= kL0cBytes, "L0C");

constexpr uint8_t kUnitFlagMore = 2, kUnitFlagLast = 3;
constexpr int32_t kPanelFlag = 2;  // 0 and 1 are those of the halves
// Accumulating products of fewer fractals than this need a barrier between them.
constexpr uint32_t kFewFractals = 10;

// L0C's float becomes the result's type on the way out.
template <typename T>
constexpr QuantMode_t kNarrow = QuantMode_t::NoQuant;
template <>
constexpr QuantMode_t kNarrow<half> = QuantMode_t::F322F16;
template <>
constexpr QuantMode_t kNarrow<bfloat16_t> = QuantMode_t::F322BF16;

// m rows from L0C to global memory, and whole fractals of columns: `pitch` has room for them.
template <typename T>
__aicore__ inline void CopyOut(const GlobalTensor<T>& dst, const LocalTensor<float>& src,
                               uint32_t m, uint32_t n, uint32_t pitch) {
  FixpipeParamsV220 params(RoundUp(n, kFractal), m, RoundUp(m, kFractal), pitch, false);
  params.quantPre = kNarrow<T>;
  params.unitFlag = kUnitFlagLast;
  Fixpipe<T, float, CFG_ROW_MAJOR>(dst, src, params);
}

// Tile after tile, result[m, n] = left[m, k] right[k, n]:
//   forward  rows [N, in]     and weight [E, out, in]: kDepthInner, kDepthInner or kPacked
//   dX       d_out [N, out]   and weight [E, out, in]: kDepthInner, kDepthOuter
//   dW       d_out [N, out]   and rows [N, in]: both kDepthOuter, the depth is ragged
// With kParts, the right factor is [E, kParts * columns, depth], and the parts' tiles of the same
// columns are side by side in L0C.
template <typename T, Layout kLeft, Layout kRight, uint32_t kParts = 1>
class TileProducts {
 public:
  static constexpr bool kRaggedDepth = kLeft == Layout::kDepthOuter;
  static constexpr uint32_t kPartN = kTileN / kParts;
  static_assert(kParts == 1 || kRight == Layout::kDepthInner, "parts are rows of the weight");

  __aicore__ inline void Init(GM_ADDR left, GM_ADDR right, GM_ADDR offsets,
                              const GroupedGemmTiling& tiling) {
    InitSocState();
    SetMMRowMajor();  // the order in which CopyOut takes the fractals
    left_ = Global<T>(left);
    right_ = Global<T>(right);
    tiling_ = tiling;
    tiles_.Init(offsets, tiling, GetBlockIdx());
    // what is read once must not drive the rest out of L2
    if (tiles_.Even()) right_.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE);
    const uint32_t left_at = tiles_.Panel() ? kPanelBytes : kTileM * kL1Row<T>;
    const uint32_t right_n = tiles_.Panel() ? kPanelN : kTileN;
    const uint32_t rights = tiles_.Panel() ? kPanelBytes : 2 * left_at;
    part_l1_ = right_n / kParts * kDepthL1<T>;
    for (uint32_t i = 0; i < 2; ++i) {
      left_l1_[i] =
          LocalTensor<T>(TPosition::A1, tiles_.Panel() ? 0 : i * left_at, left_at / sizeof(T));
      right_l1_[i] =
          LocalTensor<T>(TPosition::B1, rights + i * right_n * kL1Row<T>, right_n * kDepthL1<T>);
      left_l0_[i] = LocalTensor<T>(TPosition::A2, i * kTileM * kL0Row<T>, kTileM * kDepthL0<T>);
      right_l0_[i] = LocalTensor<T>(TPosition::B2, i * kTileN * kL0Row<T>, kTileN * kDepthL0<T>);
    }
    tile_l0_ = LocalTensor<float>(TPosition::CO1, 0, kTileM * kTileN);
  }

  // output(tile, L0C) takes each tile away; part p starts at p * kTileM * kPartN.
  template <typename Output>
  __aicore__ inline void Process(Output& output) {
    for (int32_t i = 0; i < 2; ++i) {
      SetFlag<HardEvent::MTE1_MTE2>(i);
      SetFlag<HardEvent::M_MTE1>(i);
    }
    Step step{}, next{};
    bool more = Advance(next);
    if (more) CopyIn(next);
    while (more) {
      step = next;
      more = Advance(next);
      // one step ahead, but for a new panel: the last one has its place until `step` is computed
      const bool early = more && !next.tile.new_panel;
      if (early) CopyIn(next);
      Compute(step);
      if (step.k0 + step.k == step.tile.k) output(step.tile, tile_l0_);
      if (more && !early) CopyIn(next);
    }
    for (int32_t i = 0; i < 2; ++i) {
      WaitFlag<HardEvent::MTE1_MTE2>(i);
      WaitFlag<HardEvent::M_MTE1>(i);
    }
  }

 private:
  // A part of a tile's depth: k from k0 on, in one half of L1.
  struct Step {
    Tile tile;
    uint32_t k0, k;
    int32_t half;
  };
  __aicore__ inline bool Advance(Step& step) {
    step.k0 += step.k;
    if (step.k0 < step.tile.k) {
      step.tile.new_panel = false;
    } else {
      if (!tiles_.Next(step.tile)) return false;
      step.k0 = 0;
    }
    step.k = Min(kDepthL1<T>, step.tile.k - step.k0);
    step.half ^= 1;
    return true;
  }

  __aicore__ inline void CopyIn(const Step& step) {
    const Tile& tile = step.tile;
    if (tile.k == 0) return;
    WaitFlag<HardEvent::MTE1_MTE2>(step.half);
    for (uint32_t part = 0; part < kParts; ++part) {
      CopyInFactor<T, kRight>(right_l1_[step.half][part * part_l1_], Right(tile, part, step.k0),
                              RightPitch(), tile.n, step.k);
    }
    if (!tiles_.Panel()) CopyInLeft(left_l1_[step.half], tile, step.k0, step.k);
    SetFlag<HardEvent::MTE2_MTE1>(step.half);
    if (tile.new_panel) {  // when all of the last one has been loaded to L0
      SetFlag<HardEvent::MTE1_MTE2>(kPanelFlag);
      WaitFlag<HardEvent::MTE1_MTE2>(kPanelFlag);
      CopyInLeft(left_l1_[0], tile, 0, tile.k);
      SetFlag<HardEvent::MTE2_MTE1>(kPanelFlag);
    }
  }
  __aicore__ inline void CopyInLeft(const LocalTensor<T>& dst, const Tile& tile, uint32_t k0,
                                    uint32_t k) {
    if constexpr (kRaggedDepth) {
      CopyInFactor<T, kLeft>(dst, left_[(tile.row + k0) * tiling_.rows + tile.m0], tiling_.rows,
                             tile.m, k);
    } else {
      CopyInFactor<T, kLeft>(dst, left_[(tile.row + tile.m0) * tiling_.depth + k0], tiling_.depth,
                             tile.m, k);
    }
  }
  __aicore__ inline GlobalTensor<T> Right(const Tile& tile, uint32_t part, uint32_t k0) const {
    const uint64_t pitch = RightPitch();
    if constexpr (kRaggedDepth) {
      return right_[(tile.row + k0) * pitch + tile.n0];
    } else if constexpr (kRight == Layout::kDepthOuter) {
      return right_[(uint64_t{tile.expert} * tiling_.depth + k0) * pitch + tile.n0];
    } else if constexpr (kRight == Layout::kDepthInner) {
      return right_[(uint64_t{tile.expert * kParts + part} * tiling_.columns + tile.n0) * pitch +
                    k0];
    } else {
      const uint64_t blocks = tile.expert * CeilDiv(tiling_.depth, kC0<T>) + k0 / kC0<T>;
      return right_[(blocks * pitch + tile.n0) * kC0<T>];
    }
  }
  __aicore__ inline uint32_t RightPitch() const {
    if constexpr (kRight == Layout::kDepthOuter) return tiling_.columns;
    if constexpr (kRight == Layout::kDepthInner) return tiling_.depth;
    return RoundUp(tiling_.columns, kFractal);
  }

  __aicore__ inline void Compute(const Step& step) {
    const Tile& tile = step.tile;
    if (tile.k == 0) {
      Zero(tile);
      return;
    }
    WaitFlag<HardEvent::MTE2_MTE1>(step.half);
    if (tile.new_panel) WaitFlag<HardEvent::MTE2_MTE1>(kPanelFlag);
    for (uint32_t k0 = 0; k0 < step.k; k0 += kDepthL0<T>) {
      const uint32_t k = Min(kDepthL0<T>, step.k - k0);
      WaitFlag<HardEvent::M_MTE1>(half_l0_);
      Load(step, k0, k);
      Multiply(tile, step.k0 + k0, k);
    }
    SetFlag<HardEvent::MTE1_MTE2>(step.half);
  }
  __aicore__ inline void Load(const Step& step, uint32_t k0, uint32_t k) {
    const Tile& tile = step.tile;
    if (tiles_.Panel()) {
      LoadFractals<T, kLeft, true>(left_l0_[half_l0_], left_l1_[0], tile.m, tile.k, step.k0 + k0,
                                   k);
    } else {
      LoadFractals<T, kLeft, true>(left_l0_[half_l0_], left_l1_[step.half], tile.m, step.k, k0, k);
    }
    for (uint32_t part = 0; part < kParts; ++part) {
      LoadFractals<T, kRight, false>(right_l0_[half_l0_][part * kPartN * kDepthL0<T>],
                                     right_l1_[step.half][part * part_l1_], tile.n, step.k, k0, k);
    }
  }
  __aicore__ inline void Multiply(const Tile& tile, uint32_t k0, uint32_t k) {
    SetFlag<HardEvent::MTE1_M>(half_l0_);
    WaitFlag<HardEvent::MTE1_M>(half_l0_);
    MmadParams params;
    params.m = tile.m == 1 ? 2 : tile.m;  // of one row it would make a product of another layout
    params.n = RoundUp(tile.n, kFractal);
    params.k = k;
    params.unitFlag = k0 + k >= tile.k ? kUnitFlagLast : kUnitFlagMore;
    params.kDirectionAlign = kIsFloat<T> && kLeft == Layout::kDepthOuter && tile.k != 0;
    params.cmatrixInitVal = k0 == 0;
    for (uint32_t part = 0; part < kParts; ++part) {
      Mmad(tile_l0_[part * kTileM * kPartN], left_l0_[half_l0_],
           right_l0_[half_l0_][part * kPartN * kDepthL0<T>], params);
      if (tile.m / kFractal * (tile.n / kFractal) < kFewFractals) PipeBarrier<PIPE_M>();
    }
    SetFlag<HardEvent::M_MTE1>(half_l0_);
    half_l0_ ^= 1;
  }
  // A tile without a depth: the product of zeros.
  __aicore__ inline void Zero(const Tile& tile) {
    WaitFlag<HardEvent::M_MTE1>(half_l0_);
    LoadZeros(left_l0_[half_l0_], tile.m);
    for (uint32_t part = 0; part < kParts; ++part) {
      LoadZeros(right_l0_[half_l0_][part * kPartN * kDepthL0<T>], tile.n);
    }
    Multiply(tile, 0, kC0<T>);
  }

  GlobalTensor<T> left_, right_;
  GroupedGemmTiling tiling_;
  Tiles<T, kRaggedDepth, kParts> tiles_;
  LocalTensor<T> left_l1_[2], right_l1_[2], left_l0_[2], right_l0_[2];
  LocalTensor<float> tile_l0_;
  uint32_t part_l1_ = 0;  // elements of a part of the right factor in L1
  int32_t half_l0_ = 0;
};

// Each tile to its place in the result: [N, columns], or [E, rows, columns] if the depth is ragged.
template <typename T, bool kRaggedDepth>
class ResultInMemory {
 public:
  __aicore__ inline ResultInMemory(GM_ADDR result, const GroupedGemmTiling& tiling)
      : result_(Global<T>(result)), tiling_(tiling) {}
  __aicore__ inline void operator()(const Tile& tile, const LocalTensor<float>& tile_l0) const {
    const uint64_t first = kRaggedDepth ? uint64_t{tile.expert} * tiling_.rows : tile.row;
    CopyOut(result_[(first + tile.m0) * tiling_.pitch + tile.n0], tile_l0, tile.m, tile.n,
            tiling_.pitch);
  }

 private:
  GlobalTensor<T> result_;
  GroupedGemmTiling tiling_;
};

template <typename T, Layout kLeft, Layout kRight>
__aicore__ inline void GroupedGemm(GM_ADDR left, GM_ADDR right, GM_ADDR offsets, GM_ADDR result,
                                   const GroupedGemmTiling& tiling) {
  TileProducts<T, kLeft, kRight> products;
  products.Init(left, right, offsets, tiling);
  ResultInMemory<T, kLeft == Layout::kDepthOuter> output(result, tiling);
  products.Process(output);
  PipeBarrier<PIPE_ALL>();
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_KERNEL_H_
