// A tile of slots as 16 streams, and how many slots of each expert come before a slot.
//
// A tile is 16 streams of r tokens that follow each other, so M = r K slots each. Turned by 16 x 16
// elements, a block of float16 holds one slot of every stream; groups and, where they are fewer
// than 8, segments of the streams are the columns of a repeat:
//
//              | column 0                  | column 1 | ... | column 7 |
//              | stream 0, 1, ... 15       |                           |   a repeat of 16 bits
//    row 0     | segment 0, group 0        | segment 0, group 1 ...    |
//    row 1     |  the next slot of each                                |
//     :
//
// With more than 8 groups there are two planes of such rows. An element is the slot's expert in its
// group, i < P; any other value is of no expert. A running count down the rows is one addition for
// all columns and streams.
#ifndef MOGE_ASCEND_ROUTE_STREAM_TILE_H_
#define MOGE_ASCEND_ROUTE_STREAM_TILE_H_

#include "route_sort.h"
#include "route_tiling.h"

namespace moge {

constexpr uint32_t kStreams = 16;
constexpr uint32_t kStreamColumns = 8;  // of a plane
constexpr uint32_t kStreamExperts = 8;  // of a group, at most
constexpr uint32_t kStreamGroups = 16;
constexpr uint32_t kStreamRows = 32;  // of all planes
constexpr uint32_t kStreamTiles = 3;  // of a core
constexpr uint32_t kStreamSlots = kStreamRows * kStreamColumns * kStreams;
// A row is (high + 1) * kRowHigh + low, both float16. low has the counts of a tile as well; they
// begin with kCountBase, so that it stays between -2048 and 2048, where float16 is exact.
constexpr uint32_t kRowHigh = 1024;
constexpr float kCountBase = -1.0f - kRowHigh;
constexpr uint32_t kStreamGroupSlots = 2048;

// How a tile's slots lie, by the tokens of a stream; the host asks whether they fit.
struct StreamLayout {
  uint32_t slots;     // M, of a stream
  uint32_t group;     // of a stream and a group
  uint32_t pitch;     // the same in whole blocks
  uint32_t segments;  // of a stream
  uint32_t planes;
  uint32_t rows;  // of a plane

  constexpr StreamLayout(uint32_t tokens, uint32_t K, uint32_t G)
      : slots(tokens * K),
        group(tokens * (K / G)),
        pitch(RoundUp(group, 16)),
        segments(G < kStreamColumns ? kStreamColumns / G : 1),
        planes(CeilDiv(G * segments, kStreamColumns)),
        rows(CeilDiv(group, segments)) {}
  constexpr bool Fits() const {
    return slots % 16 == 0 && rows * segments == group && planes * rows <= kStreamRows &&
           kStreams * group <= kStreamGroupSlots;
  }
};

class RouteStreamTile {
 protected:
  static constexpr uint32_t kLanes = kStreamColumns * kStreams;  // a repeat of 16 bits
  static constexpr uint32_t kMaxCounts = 2 * kStreamExperts * kStreamColumns;

  // UB, in bytes at most. All is filled and read by V, in order.
  //
  //    buffer      bytes     holds
  //    scratch_    64 KB     ids [16, M], running counts [rows, P, 8, 16] of a plane, ...
  //    by_row_     8 KB      experts in their groups [planes, rows, 8, 16]; then counts; then
  //                          index_ of the kernel
  //    lowest_     512       the first expert of a slot's group [M]
  //    constants_  64        a block of ones, and a block of no experts
  //
  // and for each tile of the core:
  //
  //    ranks_      8 KB      a slot's running count [planes, rows, 8, 16]; 0: of no expert
  //    bits_       4.3 KB    P times [planes, rows, 8, 16]: whose expert is i
  //    before_     4.3 KB    first the streams' counts, then the slots in the streams before
  //                          [planes, P, 8, 16], + kCountBase
  //    by_group_   8 KB      experts in their groups [G, 16, pitch]
  //    own_        512       counts [planes, P, 8] in float
  __aicore__ inline void Init(const RouteTiling& tiling, TPipe* pipe) {
    K_ = tiling.K;
    E_ = tiling.E;
    G_ = tiling.G;
    P_ = E_ / G_;
    k_ = K_ / G_;
    at_ = StreamLayout(tiling.stream_tokens, K_, G_);
    lanes_ = at_.planes * at_.rows * kLanes;
    counted_ = at_.planes * P_ * kStreamColumns;
    grouped_ = G_ * kStreams * at_.pitch;
    bits_pitch_ = RoundUp(at_.rows * kLanes / 8, kBlockBytes);
    pipe->InitBuffer(scratch_, kStreamSlots * kStreamExperts * sizeof(half));
    pipe->InitBuffer(by_row_, kStreamSlots * sizeof(half));
    pipe->InitBuffer(lowest_, RoundUp(at_.slots, 64) * sizeof(half));
    pipe->InitBuffer(constants_, 2 * kBlockBytes);
    pipe->InitBuffer(ranks_, kStreamTiles * kStreamSlots * sizeof(half));
    pipe->InitBuffer(bits_, kStreamTiles * kTileBits);
    pipe->InitBuffer(before_, kStreamTiles * kTurned * sizeof(half));
    pipe->InitBuffer(by_group_, kStreamTiles * kStreamSlots * sizeof(half));
    pipe->InitBuffer(own_, kStreamTiles * kMaxCounts * sizeof(float));
  }
  // the lists of a group, each of which begins on a block
  static constexpr uint32_t kListSlots = kStreamSlots + kStreamExperts * kPerBlock<half>;
  static_assert(2 * kStreams * kMaxCounts <= kStreamSlots, "counts by streams");
  static constexpr uint32_t kTurned = kStreams * (kMaxCounts + 8);
  static constexpr uint32_t kTileBits = kStreamSlots * kStreamExperts / 8 + 256;
  static constexpr uint32_t kTileBytes =
      kStreamSlots * 2 * (kStreamExperts + 1) + 512 + 64 +
      kStreamTiles * (2 * kStreamSlots * 2 + kTileBits + kTurned * 2 + kMaxCounts * 4);

  __aicore__ inline LocalTensor<half> Ranks(uint32_t tile) {
    return ranks_.Get<half>()[tile * kStreamSlots];
  }
  __aicore__ inline LocalTensor<half> Before(uint32_t tile) {
    return before_.Get<half>()[tile * kTurned];
  }
  __aicore__ inline LocalTensor<half> ByGroup(uint32_t tile) {
    return by_group_.Get<half>()[tile * kStreamSlots];
  }
  __aicore__ inline LocalTensor<float> Own(uint32_t tile) {
    return own_.Get<float>()[tile * kMaxCounts];
  }
  __aicore__ inline LocalTensor<uint8_t> Bits(uint32_t tile, uint32_t plane, uint32_t i) {
    return bits_.Get<uint8_t>()[tile * kTileBits + (plane * P_ + i) * bits_pitch_];
  }

  __aicore__ inline void Prepare() {
    LocalTensor<half> constants = constants_.Get<half>();
    Duplicate(constants, static_cast<half>(1.0f), 16);
    Duplicate(constants[16], static_cast<half>(-1.0f), 16);
    const uint32_t count = RoundUp(at_.slots, 64);
    LocalTensor<float> slot = scratch_.Get<float>(), part = slot[count], group = part[count];
    CreateVecIndex(slot, 0.0f, count);
    Remainder(part, slot, K_, count);
    FloorOfRatio(group, part, k_, count);
    Muls(group, group, static_cast<float>(P_), count);
    Cast(lowest_.Get<half>(), group, RoundMode::CAST_RINT, count);
    SetDeqScale(static_cast<half>(1.0f));  // a cast from int32 to float16 multiplies by it
  }
  // An id that is no expert's may be rounded, but not to an expert's.
  __aicore__ inline void TakeIds(const LocalTensor<int32_t>& ids) {
    Cast(scratch_.Get<half>(), ids, RoundMode::CAST_NONE, kStreams * at_.slots);
  }
  __aicore__ inline void CountTile(uint32_t tile) {
    LocalTensor<half> by_slot = scratch_.Get<half>(), by_row = by_row_.Get<half>();
    const uint8_t pitch = at_.slots / 16;
    for (uint32_t m = 0; m < at_.slots; m += kLanes) {
      Sub(by_slot[m], by_slot[m], lowest_.Get<half>()[m], Min(kLanes, at_.slots - m), kStreams,
          BinaryRepeatParams(1, 1, 1, pitch, pitch, 0));
    }
    if (G_ * at_.segments % kStreamColumns != 0) {
      Duplicate(by_row, static_cast<half>(-1.0f), lanes_);
    }
    Turn(by_row, by_slot, true);
    TurnGroups(ByGroup(tile), by_row);
    for (uint32_t h = 0; h < at_.planes; ++h) CountPlane(tile, h);
    CountStreams(tile);
  }

  // where the m-th slot of all streams lies
  __aicore__ inline uint32_t Place(uint32_t m) const {
    const uint32_t column = m % K_;
    return PlaceInGroup(column / k_, m / K_ * k_ + column % k_);
  }
  __aicore__ inline uint32_t PlaceInGroup(uint32_t g, uint32_t slot) const {
    const uint32_t column = slot / at_.rows * G_ + g, row = slot % at_.rows;
    return ((column / kStreamColumns * at_.rows + row) * kStreamColumns + column % kStreamColumns) *
           kStreams;
  }
  // [16, M] to rows, or back
  __aicore__ inline void Turn(const LocalTensor<half>& dst, const LocalTensor<half>& src,
                              bool to_rows) {
    for (uint32_t m = 0; m < at_.slots; m += 16) {
      LocalTensor<half> to[16], from[16];
      for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t slot = i * at_.slots + m, place = Place(m + i);
        to[i] = dst[to_rows ? place : slot];
        from[i] = src[to_rows ? slot : place];
      }
      TransDataTo5HD<half>(to, from, TransDataTo5HDParams(false, false, 1, 0, 0));
    }
  }
  // [G, 16, pitch]
  __aicore__ inline void TurnGroups(const LocalTensor<half>& dst, const LocalTensor<half>& src) {
    for (uint32_t g = 0; g < G_; ++g) {
      for (uint32_t m = 0; m < at_.group; m += 16) {
        LocalTensor<half> to[16], from[16];
        for (uint32_t i = 0; i < 16; ++i) {
          to[i] = dst[(g * kStreams + i) * at_.pitch + m];
          from[i] = m + i < at_.group ? src[PlaceInGroup(g, m + i)] : constants_.Get<half>()[16];
        }
        TransDataTo5HD<half>(to, from, TransDataTo5HDParams(false, false, 1, 0, 0));
      }
    }
  }
  // [n, 16] to [16, pitch of n], or back
  __aicore__ inline void TurnCounts(const LocalTensor<half>& dst, const LocalTensor<half>& src,
                                    bool to_streams) {
    const uint32_t pitch = RoundUp(counted_, 16);
    for (uint32_t x = 0; x < counted_; x += 16) {
      LocalTensor<half> to[16], from[16];
      for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t stream = i * pitch + x, count = (x + i) * kStreams;
        to[i] = dst[to_streams ? stream : count];
        from[i] = src[to_streams ? count : stream];
      }
      TransDataTo5HD<half>(to, from, TransDataTo5HDParams(false, false, 1, 0, 0));
    }
  }

  __aicore__ inline void CountPlane(uint32_t tile, uint32_t h) {
    LocalTensor<half> mine = by_row_.Get<half>()[h * at_.rows * kLanes];
    LocalTensor<half> running = scratch_.Get<half>(), rank = Ranks(tile)[h * at_.rows * kLanes];
    const uint8_t rows = at_.rows, pitch = 8 * P_;
    for (uint32_t i = 0; i < P_; ++i) {
      Compares(Bits(tile, h, i), mine, static_cast<half>(static_cast<float>(i)), CMPMODE::EQ,
               at_.rows * kLanes);
      Select(running[i * kLanes], Bits(tile, h, i), constants_.Get<half>(), static_cast<half>(0.0f),
             SELMODE::VSEL_TENSOR_SCALAR_MODE, kLanes, rows,
             BinaryRepeatParams(1, 0, 0, pitch, 0, 0));
    }
    for (uint32_t r = 1; r < at_.rows; ++r) {
      LocalTensor<half> row = running[r * P_ * kLanes];
      Add(row, running[(r - 1) * P_ * kLanes], row, P_ * kLanes);
    }
    SelectOwn(rank, tile, h, running, pitch, 0.0f);
    // the streams' counts, of all segments together
    LocalTensor<half> sum = Before(tile)[h * P_ * kLanes], last = Last();
    if (at_.segments == 1) {
      Adds(sum, last, static_cast<half>(0.0f), P_ * kLanes);
      return;
    }
    Duplicate(sum, static_cast<half>(0.0f), P_ * kLanes);
    for (uint32_t s = 0; s < at_.segments; ++s) {
      Add(sum, sum, last[s * G_ * kStreams], G_ * kStreams, P_,
          BinaryRepeatParams(1, 1, 1, 8, 8, 8));
    }
  }
  __aicore__ inline LocalTensor<half> Last() {
    return scratch_.Get<half>()[(at_.rows - 1) * P_ * kLanes];
  }
  // of the P values of each element the one of the slot's expert, or `none`
  __aicore__ inline void SelectOwn(const LocalTensor<half>& dst, uint32_t tile, uint32_t h,
                                   const LocalTensor<half>& values, uint8_t pitch, float none) {
    const uint8_t rows = at_.rows;
    Select(dst, Bits(tile, h, 0), values, static_cast<half>(none), SELMODE::VSEL_TENSOR_SCALAR_MODE,
           kLanes, rows, BinaryRepeatParams(1, 1, 0, 8, pitch, 0));
    for (uint32_t i = 1; i < P_; ++i) {
      Select(dst, Bits(tile, h, i), values[i * kLanes], dst, SELMODE::VSEL_TENSOR_TENSOR_MODE,
             kLanes, rows, BinaryRepeatParams(1, 1, 1, 8, pitch, 8));
    }
  }

  // before: slots of the streams, and of the stream's segments, before; own: of the tile
  __aicore__ inline void CountStreams(uint32_t tile) {
    // as [16, counts]: of each stream, then of the streams before each
    LocalTensor<half> before = Before(tile), mine = by_row_.Get<half>();
    LocalTensor<half> turned = mine[kStreams * kMaxCounts];
    const uint32_t pitch = RoundUp(counted_, 16);
    if (pitch != counted_) Duplicate(before[counted_ * kStreams], static_cast<half>(0.0f), kLanes);
    TurnCounts(mine, before, true);
    Duplicate(turned, static_cast<half>(kCountBase), pitch);
    for (uint32_t s = 1; s < kStreams; ++s) {
      Add(turned[s * pitch], turned[(s - 1) * pitch], mine[(s - 1) * pitch], pitch);
    }
    Add(mine, turned[(kStreams - 1) * pitch], mine[(kStreams - 1) * pitch], pitch);
    Cast(Own(tile), mine, RoundMode::CAST_NONE, counted_);
    Adds(Own(tile), Own(tile), -kCountBase, counted_);
    TurnCounts(before, turned, false);
    for (uint32_t s = 1; s < at_.segments; ++s) {
      const uint32_t segment = G_ * kStreams;
      Add(before[s * segment], before[(s - 1) * segment], Last()[(s - 1) * segment], segment, P_,
          BinaryRepeatParams(1, 1, 1, 8, 8, 8));
    }
  }

  uint32_t K_ = 0, E_ = 0, G_ = 0, P_ = 0, k_ = 0;
  StreamLayout at_{16, 1, 1};
  uint32_t lanes_ = 0;       // elements of a tile's planes
  uint32_t counted_ = 0;     // elements of [planes, P, 8]
  uint32_t grouped_ = 0;     // elements of [G, 16, pitch]
  uint32_t bits_pitch_ = 0;  // bytes
  TBuf<TPosition::VECCALC> scratch_, by_row_, lowest_, constants_, ranks_, bits_, before_,
      by_group_, own_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_STREAM_TILE_H_
