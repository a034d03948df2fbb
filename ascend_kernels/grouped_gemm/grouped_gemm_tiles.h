// Which tiles of a grouped product a core works on: read from the experts' offsets, on the device.
#ifndef MOGE_ASCEND_GROUPED_GEMM_TILES_H_
#define MOGE_ASCEND_GROUPED_GEMM_TILES_H_

#include "grouped_gemm_operand.h"
#include "grouped_gemm_tiling.h"

namespace moge {

// A tile is what L0C holds in float. Its 128 x 256 take 8 * 16 * 4 = 512 cycles of the cube for 64
// of depth in 2 bytes; meanwhile L0A gets 16 KB in 64 cycles, L0B 32 KB in 256: the cube is the
// bound. L1 is fed 48 KB, 96 bytes a cycle: what L2 gives each of 24 cores, about 115, but three
// times what memory does, so the tiles that are worked on together have to share their factors.
constexpr uint32_t kTileM = 128;
constexpr uint32_t kTileN = 256;
// Rows of tiles that share the columns' factor while it is in L2: 24 cores hold 8 x 3 tiles.
constexpr uint32_t kBand = 8;
// 512 bytes of a row for L1, which is what a read of global memory wants; a quarter for L0.
template <typename T>
constexpr uint32_t kDepthL1 = 512 / sizeof(T);
template <typename T>
constexpr uint32_t kDepthL0 = 128 / sizeof(T);

// Few rows for each expert: the weights' way from memory is the bound. The expert's rows then stay
// in L1, whole (the panel), and 16 columns are what is dealt out, as evenly as can be: every core
// reads on and on through its part of all weights, 64 KB at a time.
constexpr uint32_t kPanelN = 128;
constexpr uint32_t kPanelBytes = 384 * 1024;

struct Tile {
  uint32_t expert;
  uint64_t row;  // of the ragged matrices, the expert's first
  uint32_t m0, m, n0, n;
  uint32_t k;      // 0: the result is zero
  bool new_panel;  // the left factor is another than the previous tile's, and the form is the panel
};

// The part i of `total`, cut into `parts` of whole fractals, as even as can be.
__aicore__ inline void CutEvenly(uint32_t total, uint32_t parts, uint32_t i, uint32_t& begin,
                                 uint32_t& size) {
  const uint64_t fractals = CeilDiv(total, kFractal);
  begin = fractals * i / parts * kFractal;
  size = Min(fractals * (i + 1) / parts * kFractal, total) - begin;
}

// kRaggedDepth: the experts' rows are the depth (dW); else they are the result's rows, and those of
// no expert follow as the rows of one more, without a depth.
// kParts: how many tiles of `columns` share one in L0C (gate and up).
template <typename T, bool kRaggedDepth, uint32_t kParts>
class Tiles {
 public:
  __aicore__ inline void Init(GM_ADDR offsets, const GroupedGemmTiling& tiling, uint64_t core) {
    offsets_ = Global<int32_t>(offsets);
    tiling_ = tiling;
    experts_ = tiling.E + (kRaggedDepth ? 0 : 1);
    if constexpr (!kRaggedDepth) panel_ = FitsPanel();
    if (panel_) {
      uint64_t total = 0;
      for (uint32_t e = 0; e < experts_; ++e) {
        Enter(e);
        total += Count();
      }
      const Share share = ShareOf(total, core);
      next_ = share.begin;
      end_ = share.end;
    } else {
      next_ = core;
    }
    if (experts_ != 0) Enter(0);
  }
  __aicore__ inline bool Panel() const { return panel_; }

  __aicore__ inline bool Next(Tile& tile) {
    if (panel_ && next_ == end_) return false;
    while (expert_ < experts_ && next_ >= before_ + Count()) {
      before_ += Count();
      if (expert_ + 1 == experts_) return false;
      Enter(expert_ + 1);
    }
    if (experts_ == 0) return false;
    tile.expert = expert_;
    tile.row = first_;
    tile.k = k_;
    uint32_t m_tile;
    if (panel_) {
      const uint64_t unit = next_ - before_;
      m_tile = unit / n_tiles_;
      tile.n0 = unit % n_tiles_ * kFractal;
      const uint32_t width =
          Min(kPanelN / kParts, Min(n_tiles_ * kFractal - tile.n0, (end_ - next_) * kFractal));
      tile.n = Min(width, tiling_.columns - tile.n0);
      next_ += width / kFractal;
    } else {
      const uint64_t at = next_ - before_;
      const uint32_t band = at / (uint64_t{kBand} * n_tiles_) * kBand;
      const uint32_t in_band = at % (uint64_t{kBand} * n_tiles_);
      const uint32_t rows = Min(kBand, m_tiles_ - band);
      m_tile = band + in_band % rows;
      CutEvenly(tiling_.columns, n_tiles_, in_band / rows, tile.n0, tile.n);
      next_ += GetBlockNum();
    }
    CutEvenly(m_, m_tiles_, m_tile, tile.m0, tile.m);
    const uint64_t left = first_ + tile.m0;
    tile.new_panel = panel_ && k_ != 0 && left != panel_row_;
    if (tile.new_panel) panel_row_ = left;
    return true;
  }

 private:
  // GetValue, kept inside [0, N]: whatever the offsets are, no row beyond is touched
  __aicore__ inline uint64_t Offset(uint32_t e) const {
    const int32_t offset = offsets_.GetValue(e);
    return offset < 0 ? 0 : Min(static_cast<uint64_t>(offset), tiling_.N);
  }
  __aicore__ inline bool FitsPanel() const {
    uint64_t most = 0;
    for (uint32_t e = 0; e < tiling_.E; ++e) {
      const uint64_t begin = Offset(e), end = Offset(e + 1);
      if (end > begin && end - begin > most) most = end - begin;
    }
    return most <= kTileM &&
           CeilDiv(most, kFractal) * kFractal * RoundUp(tiling_.depth, kC0<T>) * sizeof(T) <=
               kPanelBytes;
  }
  __aicore__ inline void Enter(uint32_t e) {
    expert_ = e;
    const bool rest = e == tiling_.E;
    first_ = Offset(e);
    const uint64_t end = rest ? tiling_.N : Offset(e + 1);
    const uint32_t rows = end > first_ ? end - first_ : 0;
    m_ = kRaggedDepth ? tiling_.rows : rows;
    k_ = kRaggedDepth ? rows : rest ? 0 : tiling_.depth;
    m_tiles_ = CeilDiv(m_, kTileM);
    n_tiles_ = CeilDiv(tiling_.columns, panel_ ? kFractal : kTileN / kParts);
  }
  __aicore__ inline uint64_t Count() const { return uint64_t{m_tiles_} * n_tiles_; }

  GlobalTensor<int32_t> offsets_;
  GroupedGemmTiling tiling_;
  uint32_t experts_ = 0;
  bool panel_ = false;
  uint64_t next_ = 0, end_ = 0;  // tiles, or units of 16 columns, of all experts in a row
  // the expert that `next_` falls into
  uint32_t expert_ = 0, m_ = 0, k_ = 0, m_tiles_ = 0, n_tiles_ = 0;
  uint64_t first_ = 0, before_ = 0;  // its first row; tiles or units of those before it
  uint64_t panel_row_ = ~uint64_t{0};
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_TILES_H_
