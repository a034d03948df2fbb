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

// Where no expert has more rows than a tile, the weights' way from memory is the bound: at 1.6 TB/s
// a core gets 36 bytes of them a cycle, the cube could take 64 or more. Then columns are dealt out
// evenly, 16 at a time: every core reads on and on through its own part of all weights. Rows that
// are few enough stay in L1 (the panel), of tiles half as wide: nothing but weights is read, 64 KB
// at a time.
constexpr uint32_t kPanelN = 128;
// 32 rows of H = 5120 in 2 bytes, or 128 of F = 1344
constexpr uint32_t kPanelBytes = 352 * 1024;

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
    core_ = core;
    experts_ = tiling.E + (kRaggedDepth ? 0 : 1);
    if constexpr (!kRaggedDepth) ChooseForm();
    if (even_) {
      Deal(0, tiling.E);
    } else {
      next_ = core;
      Enter(0);
    }
  }
  // Each element of the right factor is in one tile only.
  __aicore__ inline bool Even() const { return even_; }
  __aicore__ inline bool Panel() const { return panel_; }

  __aicore__ inline bool Next(Tile& tile) {
    if (!Find()) return false;
    tile.expert = expert_;
    tile.row = first_;
    tile.k = k_;
    const uint32_t m_tile = even_ ? TakeColumns(tile) : TakeTile(tile);
    CutEvenly(m_, m_tiles_, m_tile, tile.m0, tile.m);
    const uint64_t panel = first_ + tile.m0;
    tile.new_panel = panel_ && k_ != 0 && panel != panel_row_;
    if (tile.new_panel) panel_row_ = panel;
    return true;
  }

 private:
  // GetValue, kept inside [0, N]: whatever the offsets are, no row beyond is touched
  __aicore__ inline uint64_t Offset(uint32_t e) const {
    const int32_t offset = offsets_.GetValue(e);
    return offset < 0 ? 0 : Min(static_cast<uint64_t>(offset), tiling_.N);
  }
  __aicore__ inline void ChooseForm() {
    uint64_t most = 0;
    for (uint32_t e = 0; e < tiling_.E; ++e) {
      const uint64_t begin = Offset(e), end = Offset(e + 1);
      if (end > begin && end - begin > most) most = end - begin;
    }
    even_ = most <= kTileM;
    panel_ =
        even_ && CeilDiv(most, kFractal) * kFractal * RoundUp(tiling_.depth, kC0<T>) * sizeof(T) <=
                     kPanelBytes;
  }
  // This core's part of some experts' columns; `next_` and `before_` count from the first of them.
  __aicore__ inline void Deal(uint32_t first, uint32_t last) {
    uint64_t total = 0;
    for (uint32_t e = first; e < last; ++e) {
      Enter(e);
      total += Count();
    }
    const Share share = ShareOf(total, core_);
    next_ = share.begin;
    end_ = share.end;
    before_ = 0;
    Enter(first);
  }
  // Goes to the expert of the next tile, if there is one.
  __aicore__ inline bool Find() {
    if (even_ && next_ == end_) {
      if (rest_) return false;
      rest_ = true;
      Deal(tiling_.E, experts_);
      if (next_ == end_) return false;
    }
    while (next_ >= before_ + Count()) {
      if (expert_ + 1 == experts_) return false;
      before_ += Count();
      Enter(expert_ + 1);
    }
    return true;
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
    n_tiles_ = CeilDiv(tiling_.columns, even_ ? kFractal : kTileN / kParts);
  }
  __aicore__ inline uint64_t Count() const { return uint64_t{m_tiles_} * n_tiles_; }

  // Both set the tile's columns and return which of the expert's tiles of rows it is.
  __aicore__ inline uint32_t TakeColumns(Tile& tile) {
    const uint64_t at = next_ - before_;
    const uint32_t first = at % n_tiles_;
    const uint32_t most = (panel_ ? kPanelN : kTileN) / kParts / kFractal;
    const uint32_t count = Min(most, Min(n_tiles_ - first, end_ - next_));
    tile.n0 = first * kFractal;
    tile.n = Min(count * kFractal, tiling_.columns - tile.n0);
    next_ += count;
    return at / n_tiles_;
  }
  __aicore__ inline uint32_t TakeTile(Tile& tile) {
    const uint64_t at = next_ - before_;
    const uint64_t per_band = uint64_t{kBand} * n_tiles_;
    const uint32_t first = at / per_band * kBand;
    const uint32_t rows = Min(kBand, m_tiles_ - first);
    CutEvenly(tiling_.columns, n_tiles_, at % per_band / rows, tile.n0, tile.n);
    next_ += GetBlockNum();
    return first + at % per_band % rows;
  }

  GlobalTensor<int32_t> offsets_;
  GroupedGemmTiling tiling_;
  uint64_t core_ = 0;
  uint32_t experts_ = 0;
  bool even_ = false, panel_ = false;
  bool rest_ = false;            // the experts' columns are done, those of no expert are dealt out
  uint64_t next_ = 0, end_ = 0;  // tiles, or units of 16 columns, of all experts in a row
  // the expert that `next_` falls into
  uint32_t expert_ = 0, m_ = 0, k_ = 0, m_tiles_ = 0, n_tiles_ = 0;
  uint64_t first_ = 0, before_ = 0;  // its first row; tiles or units of those before it
  uint64_t panel_row_ = ~uint64_t{0};
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_TILES_H_
