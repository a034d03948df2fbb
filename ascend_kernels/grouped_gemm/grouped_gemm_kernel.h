// Grouped products on the cube cores: every expert's rows with its weight, and their gradients.
#ifndef MOGE_ASCEND_GROUPED_GEMM_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GEMM_KERNEL_H_

#include "grouped_gemm_tiles.h"

namespace moge {

// Memories, in bytes. L1 holds two chunks of the left factor, or the panel's four, and two of the
// right one; L0A and L0B two steps, L0C one tile. A cube core synchronises nothing by itself: each
// chunk and each half of L0 has a flag for "filled" and one for "free", and L0C has the unit flag,
// by which a tile leaves while the next one already comes in behind it.
constexpr uint32_t kL1Bytes = 512 * 1024;
constexpr uint32_t kL1MixBytes = kL1Bytes - 256;  // the rest is the framework's
constexpr uint32_t kL0Bytes = 64 * 1024;
constexpr uint32_t kL0cBytes = 128 * 1024;
// Of a row, in a chunk of the left factor: MTE2 takes 1 KB in 8 cycles, and 2.4 for any row.
constexpr uint32_t kChunkRow = 1024;
constexpr uint32_t kChunkBytes = kTileM * kChunkRow;
constexpr uint32_t kMixPartN = 112;  // columns of a part, where L1 has no room for 128

constexpr uint8_t kUnitFlagMore = 2, kUnitFlagLast = 3;
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
// A chunk of the left factor meets the right one's chunks one after the other. Where that lies with
// its depth inside, they are halves of the tile's columns (the parts), as deep as the left one:
// rows are long. Else a row has all of the tile's columns, and the chunks are parts of the depth.
// With kWeights = 2, the right factor is [E, 2 * columns, depth], and the parts are the same
// columns of its halves.
template <typename T, Layout kLeft, Layout kRight, uint32_t kWeights = 1>
class TileProducts {
 public:
  static constexpr bool kRaggedDepth = kLeft == Layout::kDepthOuter;
  using Form = Panel<kRaggedDepth>;
  static constexpr bool kOuter = kRight == Layout::kDepthOuter;
  static constexpr uint32_t kParts = kOuter ? 1 : 2;
  static constexpr uint32_t kPartN = kWeights == 1 ? kTileN / kParts : kMixPartN;
  static constexpr uint32_t kColumns = kWeights == 1 ? kTileN : kPartN;  // of the result
  static constexpr uint32_t kDepthL0 = kL0Bytes / 2 / (kTileN / kParts) / sizeof(T);
  static_assert(kWeights == 1 || !kOuter, "parts are rows of the weight");
  static constexpr uint32_t kRightChunkBytes = kOuter ? kChunkBytes : kPartN * kChunkRow;
  static_assert(2 * (kChunkBytes + kRightChunkBytes) <= (kWeights == 1 ? kL1Bytes : kL1MixBytes),
                "L1");
  static_assert(Form::kChunks * Form::kChunkBytes + Form::kRightChunks * Form::kRightChunkBytes <=
                    (kRaggedDepth ? kL1Bytes : kL1MixBytes),
                "L1 with a panel");
  static_assert(2 * kTileM * kDepthL0 * sizeof(T) <= kL0Bytes, "L0A");
  static_assert(kParts * kTileM * kPartN * sizeof(float) <= kL0cBytes, "L0C");

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
    const bool panel = tiles_.Panel();
    lefts_ = panel ? Form::kChunks : 2;
    rights_ = panel ? Form::kRightChunks : 2;
    const uint32_t left_bytes = panel ? Form::kChunkBytes : kChunkBytes;
    const uint32_t right_bytes = panel ? Form::kRightChunkBytes : kRightChunkBytes;
    for (uint32_t i = 0; i < lefts_; ++i) {
      left_l1_[i] = LocalTensor<T>(TPosition::A1, i * left_bytes, left_bytes / sizeof(T));
    }
    for (uint32_t i = 0; i < rights_; ++i) {
      right_l1_[i] = LocalTensor<T>(TPosition::B1, lefts_ * left_bytes + i * right_bytes,
                                    right_bytes / sizeof(T));
    }
    for (uint32_t i = 0; i < 2; ++i) {
      left_l0_[i] = LocalTensor<T>(TPosition::A2, i * kL0Bytes / 2, kTileM * kDepthL0);
      right_l0_[i] = LocalTensor<T>(TPosition::B2, i * kL0Bytes / 2, kPartN * kDepthL0);
    }
    right_depth_ = RightRow(panel) / sizeof(T);
    tile_l0_ = LocalTensor<float>(TPosition::CO1, 0, kTileM * kTileN);
  }

  // output(tile, part, columns of the part, L0C) takes each part of a tile away.
  template <typename Output>
  __aicore__ inline void Process(Output& output) {
    for (uint32_t i = 0; i < lefts_ + rights_; ++i) SetFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < 2; ++i) SetFlag<HardEvent::M_MTE1>(i);
    Step step{}, next{};
    next.part = kParts;  // after the last one of a tile
    bool more = Advance(next);
    if (more) CopyIn(next);
    while (more) {
      step = next;
      more = Advance(next);
      if (more) CopyIn(next);  // one step ahead
      Compute(step);
      if (step.ends_part) {
        output(step.tile, step.part, Columns(step), tile_l0_[step.part * kTileM * kPartN]);
      }
    }
    for (uint32_t i = 0; i < lefts_ + rights_; ++i) WaitFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < 2; ++i) WaitFlag<HardEvent::M_MTE1>(i);
  }

 private:
  // A chunk of the right factor, of one part and k deep from k0 on, and the left one that it meets.
  struct Step {
    Tile tile;
    uint32_t chunk, left_k0, left_k;  // chunk: in the order of the steps
    uint32_t part, k0, k;
    uint32_t left, right;           // where they are in L1
    uint32_t first_left;            // where the chunk at depth 0 is, or would be
    bool fills_left, empties_left;  // the first, the last step with what is there
    bool begins_part, ends_part;    // the first, the last step of a part's sum
  };
  // Bytes of depth in a chunk of the right factor; a panel leaves less room. Where rows begin
  // anywhere, more than a line of 512 bytes costs less than a line that is cut.
  __aicore__ inline uint32_t RightRow(bool panel) const {
    if (kOuter) return panel ? 256 : 512;
    if (!panel) return kChunkRow;
    return tiling_.depth * sizeof(T) % 512 == 0 ? 512 : Form::kRightChunkBytes / kPartN / 32 * 32;
  }
  __aicore__ inline uint32_t Parts(const Tile& tile) const {
    return kWeights == 1 ? CeilDiv(tile.n, kPartN) : kWeights;
  }
  __aicore__ inline uint32_t Columns(const Step& step) const {
    return kWeights == 1 ? Min(kPartN, step.tile.n - step.part * kPartN) : step.tile.n;
  }
  // Tile by tile of a run, the left factor's chunks come forwards and backwards: as many of them as
  // L1 has room for are still there.
  __aicore__ inline bool Advance(Step& step) {
    const Tile& tile = step.tile;
    step.k0 += step.k;
    if (step.k0 == step.left_k0 + step.left_k) {
      if (++step.part >= Parts(tile)) {
        step.part = 0;
        if (++step.chunk >= Chunks(tile) && !NextTile(step)) return false;
        const uint32_t at = tile.backward ? Chunks(tile) - 1 - step.chunk : step.chunk;
        const uint32_t depth = LeftDepth(tile);
        step.left = (step.first_left + at) % lefts_;
        step.left_k0 = at * depth;
        step.left_k = Min(depth, tile.k - step.left_k0);
      }
      step.k0 = step.left_k0;
    }
    step.k = Min(right_depth_, step.left_k0 + step.left_k - step.k0);
    step.right = (step.right + 1) % rights_;
    const bool begins = step.k0 == step.left_k0;
    const bool ends = step.k0 + step.k == step.left_k0 + step.left_k;
    step.fills_left = begins && step.part == 0 && (tile.first || step.chunk >= lefts_);
    step.empties_left =
        ends && step.part + 1 == Parts(tile) && (tile.last || step.chunk + lefts_ < Chunks(tile));
    step.begins_part = begins && step.chunk == 0;
    step.ends_part = ends && step.chunk + 1 >= Chunks(tile);
    return true;
  }
  __aicore__ inline bool NextTile(Step& step) {
    if (!tiles_.Next(step.tile)) return false;
    step.chunk = 0;
    if (step.tile.first) {  // its first chunk goes behind the last one
      const uint32_t at = step.tile.backward ? Chunks(step.tile) - 1 : 0;
      step.first_left = (step.left + 1 + at * (lefts_ - 1)) % lefts_;
    }
    return true;
  }
  __aicore__ inline uint32_t LeftDepth(const Tile& tile) const {
    return tiles_.Panel() ? Form::Depth(tile.k, sizeof(T)) : kChunkRow / sizeof(T);
  }
  __aicore__ inline uint32_t Chunks(const Tile& tile) const {
    return tile.k == 0 ? 1 : CeilDiv(tile.k, LeftDepth(tile));
  }

  __aicore__ inline void CopyIn(const Step& step) {
    if (step.k == 0) return;
    if (step.fills_left) {
      const int32_t flag = rights_ + step.left;
      WaitFlag<HardEvent::MTE1_MTE2>(flag);
      CopyInLeft(left_l1_[step.left], step.tile, step.left_k0, step.left_k);
      SetFlag<HardEvent::MTE2_MTE1>(flag);
    }
    WaitFlag<HardEvent::MTE1_MTE2>(step.right);
    CopyInFactor<T, kRight>(right_l1_[step.right], Right(step), RightPitch(), Columns(step),
                            step.k);
    SetFlag<HardEvent::MTE2_MTE1>(step.right);
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
  __aicore__ inline GlobalTensor<T> Right(const Step& step) const {
    const Tile& tile = step.tile;
    const uint64_t pitch = RightPitch();
    if constexpr (kRaggedDepth) {
      return right_[(tile.row + step.k0) * pitch + tile.n0];
    } else if constexpr (kOuter) {
      return right_[(uint64_t{tile.expert} * tiling_.depth + step.k0) * pitch + tile.n0];
    } else if constexpr (kRight == Layout::kDepthInner) {
      const uint64_t first = uint64_t{tile.expert} * kWeights * tiling_.columns + tile.n0;
      const uint32_t part = step.part * (kWeights == 1 ? kPartN : tiling_.columns);
      return right_[(first + part) * pitch + step.k0];
    } else {
      const uint64_t blocks = tile.expert * CeilDiv(tiling_.depth, kC0<T>) + step.k0 / kC0<T>;
      return right_[(blocks * pitch + tile.n0 + step.part * kPartN) * kC0<T>];
    }
  }
  __aicore__ inline uint32_t RightPitch() const {
    if constexpr (kRight == Layout::kDepthOuter) return tiling_.columns;
    if constexpr (kRight == Layout::kDepthInner) return tiling_.depth;
    return RoundUp(tiling_.columns, kFractal);
  }

  __aicore__ inline void Compute(const Step& step) {
    if (step.k == 0) {
      Zero(step);
      return;
    }
    const uint32_t columns = Columns(step);
    if (step.fills_left) WaitFlag<HardEvent::MTE2_MTE1>(rights_ + step.left);
    WaitFlag<HardEvent::MTE2_MTE1>(step.right);
    for (uint32_t k0 = 0; k0 < step.k; k0 += kDepthL0) {
      const uint32_t k = Min(kDepthL0, step.k - k0);
      WaitFlag<HardEvent::M_MTE1>(half_l0_);
      LoadFractals<T, kLeft, true>(left_l0_[half_l0_], left_l1_[step.left], step.tile.m,
                                   step.left_k, step.k0 + k0 - step.left_k0, k);
      LoadFractals<T, kRight, false>(right_l0_[half_l0_], right_l1_[step.right], columns, step.k,
                                     k0, k);
      Multiply(step, k, step.begins_part && k0 == 0, step.ends_part && k0 + k == step.k);
    }
    SetFlag<HardEvent::MTE1_MTE2>(step.right);
    if (step.empties_left) SetFlag<HardEvent::MTE1_MTE2>(rights_ + step.left);
  }
  __aicore__ inline void Multiply(const Step& step, uint32_t k, bool first, bool last) {
    SetFlag<HardEvent::MTE1_M>(half_l0_);
    WaitFlag<HardEvent::MTE1_M>(half_l0_);
    const Tile& tile = step.tile;
    MmadParams params;
    params.m = tile.m == 1 ? 2 : tile.m;  // of one row it would make a product of another layout
    params.n = RoundUp(Columns(step), kFractal);
    params.k = k;
    params.unitFlag = last ? kUnitFlagLast : kUnitFlagMore;
    params.kDirectionAlign = kIsFloat<T> && kLeft == Layout::kDepthOuter && tile.k != 0;
    params.cmatrixInitVal = first;
    Mmad(tile_l0_[step.part * kTileM * kPartN], left_l0_[half_l0_], right_l0_[half_l0_], params);
    if (params.m / kFractal * (params.n / kFractal) < kFewFractals) PipeBarrier<PIPE_M>();
    SetFlag<HardEvent::M_MTE1>(half_l0_);
    half_l0_ ^= 1;
  }
  // A tile without a depth: the product of zeros.
  __aicore__ inline void Zero(const Step& step) {
    WaitFlag<HardEvent::M_MTE1>(half_l0_);
    LoadZeros(left_l0_[half_l0_], step.tile.m);
    LoadZeros(right_l0_[half_l0_], Columns(step));
    Multiply(step, kC0<T>, true, true);
  }

  GlobalTensor<T> left_, right_;
  GroupedGemmTiling tiling_;
  Tiles<T, kRaggedDepth, kColumns> tiles_;
  LocalTensor<T> left_l1_[Form::kChunks], right_l1_[Form::kRightChunks], left_l0_[2], right_l0_[2];
  LocalTensor<float> tile_l0_;
  uint32_t lefts_ = 0, rights_ = 0;  // chunks of the factors in L1
  uint32_t right_depth_ = 0;         // of a chunk of the right one
  int32_t half_l0_ = 0;
};

// Each tile to its place in the result: [N, columns], or [E, rows, columns] if the depth is ragged.
template <typename T, bool kRaggedDepth>
class ResultInMemory {
 public:
  __aicore__ inline ResultInMemory(GM_ADDR result, const GroupedGemmTiling& tiling)
      : result_(Global<T>(result)), tiling_(tiling) {}
  __aicore__ inline void operator()(const Tile& tile, uint32_t part, uint32_t n,
                                    const LocalTensor<float>& part_l0) const {
    const uint64_t first = kRaggedDepth ? uint64_t{tile.expert} * tiling_.rows : tile.row;
    const uint32_t n0 = tile.n0 + part * (kTileN / 2);
    CopyOut(result_[(first + tile.m0) * tiling_.pitch + n0], part_l0, tile.m, n, tiling_.pitch);
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
