// The tile scheduler of the grouped products: which tiles a core computes, and in what order. It
// reads the experts' offsets on the device, since the host does not know them.
//
// An expert's result is a grid of tiles. A core takes it strip by strip: a strip is up to
// kMaxStripTiles side by side, whose rows of the left factor it can keep in L1. There are two
// orders. Rates below are those of a 910B1: 24 cube cores at 1.85 GHz; documented, not measured.
//
// Swizzled, where an expert has more rows than a tile. The cube is the bound, and L2 has to feed
// it: it gives each of 24 cores about 115 bytes a cycle, three times what memory does. So tiles
// that are computed at the same time must share their factors. The strips of all experts are
// numbered one after the other, and core i takes strips i, i + cores, i + 2 * cores, ...
//
//               columns of the result
//             +----------+----------+----------+--          Numbers go down 8 rows of tiles,
//    rows of  | strip  0 | strip  8 | strip 16 |            then right. The first wave of 24
//    one      | strip  1 | strip  9 | strip 17 |            cores is 8 x 3 strips: it reads 8
//    expert   |    :     |    :     |    :     |            tiles' rows of the left factor and 3
//             | strip  7 | strip 15 | strip 23 |            strips' columns of the right one.
//             +----------+----------+----------+--
//             | strip 24 | strip 32 |   ...                 (here with 3 strips in a row)
//
// Contiguous, where every expert's rows fit into one tile. Memory is the bound: each weight is read
// once, at 1.6 TB/s or 36 bytes a cycle for each core, of which the cube could take 64 or more. The
// columns of all experts follow each other, in units of 16. Each core takes an even, contiguous
// share of them, and a strip is what lies in one expert.
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

// A tile is what L0C holds of the result, in float. In 2 bytes, 64 of its depth take the cube
// 8 * 16 * 4 = 512 cycles, and MTE2, which feeds L1 with 48 KB for them, 384: modelled on 910B1,
// November 2026.
constexpr uint32_t kTileM = 128;
constexpr uint32_t kTileC = 256;
// Consecutive strips go down this many rows of tiles: 24 cores then have 8 x 3 strips. This
// constant and the next two are chosen, not measured.
constexpr uint32_t kSwizzleRows = 8;
constexpr uint32_t kMaxStripTiles = 20;  // as wide as Pangu's H = 5120
// A strip is shorter where a core would otherwise get fewer strips than this. With many of them,
// all cores end at about the same time.
constexpr uint32_t kStripsPerCore = 16;
// Where the right factor is packed, a wave of strips shall lie in few experts, or the slots of
// packed ones would not do.
constexpr uint32_t kPackingStripsPerCore = 48;

// The packed right factor has the depth in a field of 16 bits.
constexpr uint32_t kMostPackedRows = UINT16_MAX;

struct Tile {
  uint32_t expert;
  uint64_t row;    // the expert's first row in the ragged matrices
  uint32_t m0, m;  // rows [m0, m0 + m) of the expert's result
  uint32_t c0, c;  // columns [c0, c0 + c)
  uint32_t both;   // parts that lie side by side: the columns of both, from 2 * c0 on; else 0
  uint32_t r;      // depth; 0: the result is zero
  bool starts_strip, ends_strip;
  bool backward;  // the depth is summed from its end, by every second tile of a strip
};

// An expert's rows of the ragged matrices.
struct Rows {
  uint64_t first;
  uint32_t count;
};

struct Span {
  uint32_t begin, size;
};
// Piece i of `total`, which is cut into `pieces` of whole fractals, as evenly as can be.
__aicore__ inline Span CutEvenly(uint32_t total, uint32_t pieces, uint32_t i) {
  const uint64_t fractals = CeilDiv(total, kFractal);
  const uint32_t begin = fractals * i / pieces * kFractal;
  const uint32_t end = Min(fractals * (i + 1) / pieces * kFractal, total);
  return {begin, end - begin};
}

// kRaggedDepth: the experts' rows are the depth (dW); else they are the rows of the result.
// kMaxC: the most columns that a tile may have.
// kPlanes: how many rows the left factor has for each row that the offsets count. If that is more
// than one, the last fractal of a tile stays free.
template <bool kRaggedDepth, uint32_t kMaxC, uint32_t kPlanes = 1>
class TileScheduler {
 public:
  static constexpr uint32_t kMaxM = kTileM - (kPlanes == 1 ? 0 : kFractal);

  __aicore__ inline void Init(GM_ADDR offsets, const GroupedGemmTiling& tiling, uint64_t core) {
    offsets_ = Global<int32_t>(offsets);
    tiling_ = tiling;
    core_ = core;
    ChooseOrder();
    if (contiguous_) {
      TakeShare(0, used_experts_);
    } else {
      next_ = core;
      GoTo(0);
    }
  }
  // In the contiguous order each element of the right factor is in one tile only.
  __aicore__ inline bool Contiguous() const { return contiguous_; }
  // The most rows that any expert has.
  __aicore__ inline uint64_t MostRows() const { return most_rows_; }

  __aicore__ inline Rows RowsOf(uint32_t e) const {
    const uint64_t first = Offset(e), end = e == tiling_.E ? tiling_.N : Offset(e + 1);
    return {first, static_cast<uint32_t>(end > first ? end - first : 0)};
  }

  // The core's next tile; false after its last.
  __aicore__ inline bool Next(Tile& tile) {
    tile.starts_strip = at_ == strip_end_;
    if (tile.starts_strip && !NextStrip()) return false;
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
    tile.both = tiling_.beside != 0 ? Min(2 * tile.c, tiling_.beside - 2 * tile.c0) : 0;
    tile.ends_strip = at_ == strip_end_;
    return true;
  }

 private:
  // --- experts ---

  // Offsets are kept inside [0, N]: wrong ones must not lead outside the matrices.
  __aicore__ inline uint64_t Offset(uint32_t e) const {
    const int32_t offset = offsets_.GetValue(e);
    return offset < 0 ? 0 : Min(static_cast<uint64_t>(offset) * kPlanes, tiling_.N);
  }
  // Experts, and where rows are the result's, one more for the rows that no expert has.
  __aicore__ inline uint32_t Experts() const { return tiling_.E + (kRaggedDepth ? 0 : 1); }
  __aicore__ inline uint32_t TileColumns() const { return CeilDiv(tiling_.C, kMaxC); }
  // The expert's units in the order: strips, or 16 columns of one row of tiles.
  __aicore__ inline uint64_t Units() const { return uint64_t{tile_rows_} * row_units_; }

  __aicore__ inline void GoTo(uint32_t e) {
    expert_ = e;
    const bool no_expert = e == tiling_.E;
    const Rows rows = RowsOf(e);
    row_ = rows.first;
    m_ = kRaggedDepth ? tiling_.rows : rows.count;
    r_ = kRaggedDepth ? rows.count : no_expert ? 0 : tiling_.R;
    tile_rows_ = CeilDiv(m_, kMaxM);
    row_units_ = contiguous_ ? CeilDiv(tiling_.C, kFractal) : CeilDiv(TileColumns(), strip_tiles_);
  }
  // Each offset is read once: decoding waits for this loop.
  __aicore__ inline void ChooseOrder() {
    uint64_t tile_rows = 0;
    uint64_t begin = Offset(0);
    for (uint32_t e = 0; e < tiling_.E; ++e) {
      const uint64_t end = Offset(e + 1);
      const uint64_t rows = end > begin ? end - begin : 0;
      begin = end;
      tile_rows += CeilDiv(kRaggedDepth ? tiling_.rows : rows, kMaxM);
      used_experts_ += rows != 0 ? 1 : 0;
      most_rows_ = Max(most_rows_, rows);
    }
    const uint64_t tiles = tile_rows * TileColumns();
    contiguous_ = !kRaggedDepth && most_rows_ <= kMaxM;
    const uint32_t strips = tiling_.slots != 0 ? kPackingStripsPerCore : kStripsPerCore;
    strip_tiles_ = Max(1, Min(kMaxStripTiles, tiles / (GetBlockNum() * strips)));
  }
  // Contiguous: this core gets its share of the experts from the first one on, of which `used` have
  // rows, which are one row of tiles.
  __aicore__ inline void TakeShare(uint32_t first, uint64_t used) {
    const Share share = ShareOf(used * CeilDiv(tiling_.C, kFractal), core_);
    next_ = share.begin;
    share_end_ = share.end;
    before_ = 0;
    GoTo(first);
  }

  // --- strips ---

  __aicore__ inline bool NextStrip() {
    if (!FindExpert()) return false;
    const uint32_t tile_row = contiguous_ ? NextContiguous() : NextSwizzled();
    strip_rows_ = CutEvenly(m_, tile_rows_, tile_row);
    return true;
  }
  // Goes on to the expert in which the next unit lies.
  __aicore__ inline bool FindExpert() {
    if (contiguous_ && next_ == share_end_) {
      if (no_experts_) return false;
      no_experts_ = true;
      GoTo(tiling_.E);
      TakeShare(tiling_.E, tile_rows_);
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
  __aicore__ inline uint32_t NextContiguous() {
    const uint64_t unit = next_ - before_;
    at_ = unit % row_units_;
    const uint64_t units = Min(row_units_ - at_, share_end_ - next_);
    strip_end_ = at_ + units;
    next_ += units;
    return unit / row_units_;
  }
  __aicore__ inline uint32_t NextSwizzled() {
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
  uint64_t most_rows_ = 0, used_experts_ = 0;
  uint32_t strip_tiles_ = 1;
  // the core's place in the order
  uint64_t next_ = 0, share_end_ = 0;  // its next unit; contiguous: the end of its share
  uint64_t before_ = 0;                // units of the experts before this one
  bool no_experts_ = false;  // contiguous: the units are those of the rows without an expert
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
