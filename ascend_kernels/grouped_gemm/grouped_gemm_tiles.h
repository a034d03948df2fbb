// Which tiles of a grouped product a core works on: read from the experts' offsets, on the device.
#ifndef MOGE_ASCEND_GROUPED_GEMM_TILES_H_
#define MOGE_ASCEND_GROUPED_GEMM_TILES_H_

#include "grouped_gemm_operand.h"
#include "grouped_gemm_tiling.h"

namespace moge {

// A tile is what L0C holds in float. Its 128 x 256 take 8 * 16 * 4 = 512 cycles of the cube for 64
// of depth in 2 bytes. L1 is fed 48 KB for them, 384 cycles of MTE2, which also pays for each row
// of a transfer: rows have to be long. L2 gives each of 24 cores about 115 bytes a cycle, three
// times what memory does: the tiles that are worked on together have to share their factors.
constexpr uint32_t kTileM = 128;
constexpr uint32_t kTileN = 256;
// Rows of tiles that share the columns' factor while it is in L2: 24 cores hold 8 x 3 tiles.
constexpr uint32_t kBand = 8;

// The panel: the left factor's rows of a tile stay in L1, all of their depth, in a few chunks, for
// a run of tiles beside each other. In 2 bytes, 128 rows fit of F = 1344, 32 of H = 5120, and in dW
// experts of 1272 rows: there the right factor's chunks are smaller, and there are three of them,
// that the next one arrives in time.
template <bool kRaggedDepth>
struct Panel {
  static constexpr uint32_t kChunks = kRaggedDepth ? 3 : 4;
  static constexpr uint32_t kChunkBytes = (kRaggedDepth ? 106 : 84) * 1024;
  static constexpr uint32_t kRightChunks = kRaggedDepth ? 3 : 2;
  static constexpr uint32_t kRightChunkBytes = (kRaggedDepth ? 64 : 84) * 1024;
  // of a chunk, so that they are even but no row is shorter than a line of 512 bytes
  static __aicore__ inline uint32_t Depth(uint32_t k, uint32_t size) {
    return Max(RoundUp(CeilDiv(k, kChunks), kFractal), 512 / size);
  }
};
constexpr uint32_t kRunTiles = 20;
constexpr uint32_t kRunsPerCore = 16;  // shorter runs rather than fewer: they even out the cores

// Where no expert has more rows than a tile, the weights' way from memory is the bound: at 1.6 TB/s
// a core gets 36 bytes of them a cycle, the cube could take 64 or more. Then columns are dealt out
// evenly, 16 at a time: every core reads on and on through its own part of all weights, and that is
// its run.

struct Tile {
  uint32_t expert;
  uint64_t row;  // of the ragged matrices, the expert's first
  uint32_t m0, m, n0, n;
  uint32_t k;        // 0: the result is zero
  bool first, last;  // of a run
  bool backward;     // the depth is gone through from its end
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
// kColumns: of a tile, at most.
template <typename T, bool kRaggedDepth, uint32_t kColumns>
class Tiles {
 public:
  __aicore__ inline void Init(GM_ADDR offsets, const GroupedGemmTiling& tiling, uint64_t core) {
    offsets_ = Global<int32_t>(offsets);
    tiling_ = tiling;
    core_ = core;
    experts_ = tiling.E + (kRaggedDepth ? 0 : 1);
    ChooseForm();
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
    const bool new_run = run_ == run_end_;
    if (new_run) {
      if (!Find()) return false;
      CutEvenly(m_, m_tiles_, even_ ? TakeColumns() : TakeTiles(), m0_, run_m_);
    }
    tile.expert = expert_;
    tile.row = first_;
    tile.k = k_;
    tile.m0 = m0_;
    tile.m = run_m_;
    if (even_) {
      const uint32_t count = Min(kColumns / kFractal, run_end_ - run_);
      tile.n0 = run_ * kFractal;
      tile.n = Min(count * kFractal, tiling_.columns - tile.n0);
      run_ += count;
    } else {
      tile.backward = run_ % 2 != 0;
      CutEvenly(tiling_.columns, TilesBeside(), run_++, tile.n0, tile.n);
    }
    // columns that are dealt out begin anywhere: to turn there would make sums depend on the cores
    const bool alone = even_ && !panel_;
    tile.first = new_run || alone;
    tile.last = run_ == run_end_ || alone;
    return true;
  }

 private:
  using Form = moge::Panel<kRaggedDepth>;

  // GetValue, kept inside [0, N]: whatever the offsets are, no row beyond is touched
  __aicore__ inline uint64_t Offset(uint32_t e) const {
    const int32_t offset = offsets_.GetValue(e);
    return offset < 0 ? 0 : Min(static_cast<uint64_t>(offset), tiling_.N);
  }
  __aicore__ inline void ChooseForm() {
    uint64_t most = 0, tiles = 0;
    for (uint32_t e = 0; e < tiling_.E; ++e) {
      Enter(e);
      tiles += Count();
      most = Max(most, kRaggedDepth ? k_ : m_);
    }
    even_ = !kRaggedDepth && most <= kTileM;
    const uint32_t m = RoundUp(Min(kTileM, kRaggedDepth ? tiling_.rows : most), kFractal);
    const uint64_t depth = kRaggedDepth ? most : tiling_.depth;
    panel_ = depth * sizeof(T) <= Form::kChunks * Form::kChunkBytes &&
             m * Form::Depth(depth, sizeof(T)) * sizeof(T) <= Form::kChunkBytes;
    run_tiles_ = Max(1, Min(kRunTiles, tiles / (GetBlockNum() * kRunsPerCore)));
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
    n_runs_ = even_ ? CeilDiv(tiling_.columns, kFractal) : CeilDiv(TilesBeside(), run_tiles_);
  }
  __aicore__ inline uint64_t Count() const { return uint64_t{m_tiles_} * n_runs_; }

  __aicore__ inline uint32_t TilesBeside() const { return CeilDiv(tiling_.columns, kColumns); }
  // Both set the run and return which of the expert's tiles of rows it is.
  __aicore__ inline uint32_t TakeColumns() {
    const uint64_t at = next_ - before_;
    const uint64_t count = Min(n_runs_ - at % n_runs_, end_ - next_);
    run_ = at % n_runs_;
    run_end_ = run_ + count;
    next_ += count;
    return at / n_runs_;
  }
  __aicore__ inline uint32_t TakeTiles() {
    const uint64_t at = next_ - before_;
    const uint64_t per_band = uint64_t{kBand} * n_runs_;
    const uint32_t first = at / per_band * kBand;
    const uint32_t rows = Min(kBand, m_tiles_ - first);
    const uint64_t run = at % per_band / rows;
    run_ = TilesBeside() * run / n_runs_;
    run_end_ = TilesBeside() * (run + 1) / n_runs_;
    next_ += GetBlockNum();
    return first + at % per_band % rows;
  }

  GlobalTensor<int32_t> offsets_;
  GroupedGemmTiling tiling_;
  uint64_t core_ = 0;
  uint32_t experts_ = 0;
  bool even_ = false, panel_ = false;
  bool rest_ = false;            // the experts' columns are done, those of no expert are dealt out
  uint64_t next_ = 0, end_ = 0;  // runs, or units of 16 columns, of all experts in a row
  // the expert that `next_` falls into
  uint32_t expert_ = 0, m_ = 0, k_ = 0, m_tiles_ = 0, n_runs_ = 0;
  uint64_t first_ = 0, before_ = 0;  // its first row; runs or units of those before it
  uint32_t run_tiles_ = 1;
  uint32_t m0_ = 0, run_m_ = 0;     // the run's rows
  uint32_t run_ = 0, run_end_ = 0;  // and what is left of it: tiles, or units of 16 columns
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_TILES_H_
