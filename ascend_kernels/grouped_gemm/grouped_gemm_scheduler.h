// The tile scheduler of the grouped products: which tiles a core computes, and in what order. It
// reads the experts' offsets on the device, since the host does not know them.
//
// An expert's result is a grid of tiles. A core takes it strip by strip: a strip is up to 20 tiles
// side by side, whose rows of the left factor it can keep in L1. There are two orders.
//
// Swizzled, where an expert has more rows than a tile. The cube is the bound, and L2 has to feed
// it: it gives each of 24 cores about 115 bytes a cycle, three times what memory does. So tiles
// that are computed at the same time must share their factors. The strips of all experts are
// numbered in one line, and core i takes strips i, i + cores, i + 2 * cores, ...
//
//               columns of the result
//             +----------+----------+----------+--          Turns go down 8 rows of tiles, then
//    rows of  | strip  0 | strip  8 | strip 16 |            right. The first wave of 24 cores is
//    one      | strip  1 | strip  9 | strip 17 |            8 x 3 strips: it reads 8 tiles' rows
//    expert   |    :     |    :     |    :     |            of the left factor and 3 strips'
//             | strip  7 | strip 15 | strip 23 |            columns of the right one.
//             +----------+----------+----------+--
//             | strip 24 | strip 32 |   ...                 (here with 3 strips in a row)
//
// Contiguous, where every expert's rows fit into one tile. Memory is the bound: each weight is read
// once, at 1.6 TB/s or 36 bytes a cycle for each core, of which the cube could take 64 or more. The
// columns of all experts form one line, in units of 16. Each core takes an even, contiguous part of
// the line, and a strip is what lies in one expert.
//
//    columns  | expert 0          | expert 1          | expert 2          |  ...
//    cores    |   core 0    |   core 1    |   core 2    |   core 3    |
//
// Rows that no expert has come last, as the rows of one more expert whose depth is 0.
#ifndef MOGE_ASCEND_GROUPED_GEMM_SCHEDULER_H_
#define MOGE_ASCEND_GROUPED_GEMM_SCHEDULER_H_

#include "grouped_gemm_operand.h"
#include "grouped_gemm_tiling.h"

namespace moge {

// A tile is the part of the result that L0C holds in float. In 2 bytes, 64 of its depth take the
// cube 8 * 16 * 4 = 512 cycles, and MTE2, which feeds L1 with 48 KB for them, 384.
constexpr uint32_t kTileM = 128;
constexpr uint32_t kTileC = 256;
constexpr uint32_t kSwizzleRows = 8;  // turns go down this many rows of tiles
constexpr uint32_t kMaxStripTiles = 20;
// A strip is shorter where a core would otherwise get fewer strips than this. With many of them,
// all cores end at about the same time.
constexpr uint32_t kStripsPerCore = 16;

struct Tile {
  uint32_t expert;
  uint64_t row;      // the expert's first row in the ragged matrices
  uint32_t m0, m;    // rows [m0, m0 + m) of the expert's result
  uint32_t c0, c;    // columns [c0, c0 + c)
  uint32_t r;        // depth; 0: the result is zero
  bool first, last;  // of a strip
  bool backward;     // the depth is summed from its end: tiles of a strip take turns
};

struct Span {
  uint32_t begin, size;
};
// Part i of `total`, which is cut into `parts` of whole fractals, as evenly as can be.
__aicore__ inline Span CutEvenly(uint32_t total, uint32_t parts, uint32_t i) {
  const uint64_t fractals = CeilDiv(total, kFractal);
  const uint32_t begin = fractals * i / parts * kFractal;
  const uint32_t end = Min(fractals * (i + 1) / parts * kFractal, total);
  return {begin, end - begin};
}

// kRaggedDepth: the experts' rows are the depth (dW); else they are the rows of the result.
// kMaxC: the most columns that a tile may have.
template <bool kRaggedDepth, uint32_t kMaxC>
class TileScheduler {
 public:
  __aicore__ inline void Init(GM_ADDR offsets, const GroupedGemmTiling& tiling, uint64_t core) {
    offsets_ = Global<int32_t>(offsets);
    tiling_ = tiling;
    core_ = core;
    ChooseOrder();
    if (contiguous_) {
      TakeShare(0, tiling.E);
    } else {
      next_ = core;
      GoTo(0);
    }
  }
  // In the contiguous order each element of the right factor is in one tile only.
  __aicore__ inline bool Contiguous() const { return contiguous_; }
  // Rows of the expert that has most.
  __aicore__ inline uint64_t MostRows() const { return most_rows_; }

  // The core's next tile; false after its last.
  __aicore__ inline bool Next(Tile& tile) {
    tile.first = at_ == strip_end_;
    if (tile.first && !NextStrip()) return false;
    tile.expert = expert_;
    tile.row = row_;
    tile.r = r_;
    tile.m0 = strip_rows_.begin;
    tile.m = strip_rows_.size;
    if (contiguous_) {
      const uint32_t units = Min(kMaxC / kFractal, strip_end_ - at_);
      tile.c0 = at_ * kFractal;
      tile.c = Min(units * kFractal, tiling_.C - tile.c0);
      tile.backward = false;
      at_ += units;
    } else {
      const Span columns = CutEvenly(tiling_.C, TileColumns(), at_);
      tile.c0 = columns.begin;
      tile.c = columns.size;
      tile.backward = at_ % 2 != 0;
      at_ += 1;
    }
    tile.last = at_ == strip_end_;
    return true;
  }

 private:
  // --- experts ---

  // Offsets are kept inside [0, N]: wrong ones must not lead outside the matrices.
  __aicore__ inline uint64_t Offset(uint32_t e) const {
    const int32_t offset = offsets_.GetValue(e);
    return offset < 0 ? 0 : Min(static_cast<uint64_t>(offset), tiling_.N);
  }
  // Experts, and where rows are the result's, one more for the rows that no expert has.
  __aicore__ inline uint32_t Experts() const { return tiling_.E + (kRaggedDepth ? 0 : 1); }
  __aicore__ inline uint32_t TileColumns() const { return CeilDiv(tiling_.C, kMaxC); }
  // Units of the line that lie in the expert: strips, or 16 columns of one row of tiles.
  __aicore__ inline uint64_t Units() const { return uint64_t{tile_rows_} * row_units_; }

  __aicore__ inline void GoTo(uint32_t e) {
    expert_ = e;
    const bool no_expert = e == tiling_.E;
    row_ = Offset(e);
    const uint64_t end = no_expert ? tiling_.N : Offset(e + 1);
    const uint32_t rows = end > row_ ? end - row_ : 0;
    m_ = kRaggedDepth ? tiling_.rows : rows;
    r_ = kRaggedDepth ? rows : no_expert ? 0 : tiling_.R;
    tile_rows_ = CeilDiv(m_, kTileM);
    row_units_ = contiguous_ ? CeilDiv(tiling_.C, kFractal) : CeilDiv(TileColumns(), strip_tiles_);
  }
  __aicore__ inline void ChooseOrder() {
    uint64_t tiles = 0;  // strips are of one tile here
    for (uint32_t e = 0; e < tiling_.E; ++e) {
      GoTo(e);
      tiles += Units();
      most_rows_ = Max(most_rows_, kRaggedDepth ? r_ : m_);
    }
    contiguous_ = !kRaggedDepth && most_rows_ <= kTileM;
    strip_tiles_ = Max(1, Min(kMaxStripTiles, tiles / (GetBlockNum() * kStripsPerCore)));
  }
  // Contiguous: the line is now that of the experts [first, last), and this core has its part of
  // it.
  __aicore__ inline void TakeShare(uint32_t first, uint32_t last) {
    uint64_t units = 0;
    for (uint32_t e = first; e < last; ++e) {
      GoTo(e);
      units += Units();
    }
    const Share share = ShareOf(units, core_);
    next_ = share.begin;
    share_end_ = share.end;
    before_ = 0;
    GoTo(first);
  }

  // --- strips ---

  __aicore__ inline bool NextStrip() {
    if (!FindExpert()) return false;
    const uint32_t tile_row = contiguous_ ? TakeColumns() : TakeTurn();
    strip_rows_ = CutEvenly(m_, tile_rows_, tile_row);
    return true;
  }
  // Goes on to the expert in which the next unit lies.
  __aicore__ inline bool FindExpert() {
    if (contiguous_ && next_ == share_end_) {
      if (no_experts_) return false;
      no_experts_ = true;
      TakeShare(tiling_.E, Experts());
      if (next_ == share_end_) return false;
    }
    while (next_ >= before_ + Units()) {
      if (expert_ + 1 == Experts()) return false;
      before_ += Units();
      GoTo(expert_ + 1);
    }
    return true;
  }
  // Both set the strip's columns and return its row of tiles.
  __aicore__ inline uint32_t TakeColumns() {
    const uint64_t unit = next_ - before_;
    at_ = unit % row_units_;
    const uint64_t units = Min(row_units_ - at_, share_end_ - next_);
    strip_end_ = at_ + units;
    next_ += units;
    return unit / row_units_;
  }
  __aicore__ inline uint32_t TakeTurn() {
    const uint64_t unit = next_ - before_;
    const uint64_t per_swizzle = uint64_t{kSwizzleRows} * row_units_;
    const uint32_t top = unit / per_swizzle * kSwizzleRows;
    const uint32_t rows = Min(kSwizzleRows, tile_rows_ - top);
    const uint64_t strip = unit % per_swizzle / rows;
    at_ = TileColumns() * strip / row_units_;
    strip_end_ = TileColumns() * (strip + 1) / row_units_;
    next_ += GetBlockNum();
    return top + unit % per_swizzle % rows;
  }

  GlobalTensor<int32_t> offsets_;
  GroupedGemmTiling tiling_;
  uint64_t core_ = 0;
  // the order
  bool contiguous_ = false;
  uint64_t most_rows_ = 0;
  uint32_t strip_tiles_ = 1;
  // the core's place in the line
  uint64_t next_ = 0, share_end_ = 0;  // its next unit; contiguous: the end of its part
  uint64_t before_ = 0;                // units of the experts before this one
  bool no_experts_ = false;            // contiguous: the line is that of the rows without an expert
  // the expert
  uint32_t expert_ = 0;
  uint64_t row_ = 0;        // its first row
  uint32_t m_ = 0, r_ = 0;  // rows and depth of its result
  uint32_t tile_rows_ = 0;  // rows of tiles,
  uint32_t row_units_ = 0;  // and units in each
  // the strip
  Span strip_rows_{};
  uint32_t at_ = 0, strip_end_ = 0;  // what is left of it: tiles, or units of 16 columns
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_SCHEDULER_H_
