// Routing for few experts in a group, P <= 8, by counting: cheapest for the vector unit where there
// are many slots.
//
//    row of a slot = starts_[x]     rows of the groups and experts before; x is its expert
//                  + earlier_[x]    its expert's slots in the tiles before
//                  + before_[x, s]  in the streams, and segments, before
//                  + ranks_         in its segment, up to this one                       - 1
//
// The other direction, row_to_slot, consists of lists: for each expert GatherMask cuts its slots
// out of the numbers of its group's. The list goes to the rows from starts_ + earlier_ on.
//
//    tiles: CountTile -> workspace [tiles, counts]      SyncAll
//    sums:  starts_, earlier_; core 0: offsets
//    tiles: SlotRows -> slot_to_row, RowSlots -> row_to_slot
#ifndef MOGE_ASCEND_ROUTE_STREAMS_KERNEL_H_
#define MOGE_ASCEND_ROUTE_STREAMS_KERNEL_H_

#include "../rows.h"
#include "route_stream_tile.h"

namespace moge {

// floats of a tile in the workspace
constexpr uint32_t RouteStreamWords(uint32_t E, uint32_t G) {
  return CeilDiv(G, kStreamColumns) * (E / G) * kStreamColumns;
}

//    buffer    bytes       holds
//    in_       16 KB       ids, then counts of tiles; queue: MTE2 fills it, V reads it
//    out_      16.5 KB     1 to 4 buffers of counts, rows, slots, offsets; queue: V fills it,
//                          MTE3 reads it
//    sums_     2.5 KB      starts_, earlier_, first_, columns_, group_; V, and S where said
class RouteStreams : RouteStreamTile {
 public:
  __aicore__ inline void Init(GM_ADDR experts, GM_ADDR row_to_slot, GM_ADDR slot_to_row,
                              GM_ADDR offsets, GM_ADDR workspace, const RouteTiling& tiling,
                              TPipe* pipe) {
    RouteStreamTile::Init(tiling, pipe);
    experts_ = Global<int32_t>(experts);
    row_to_slot_ = Global<int32_t>(row_to_slot);
    slot_to_row_ = Global<int32_t>(slot_to_row);
    offsets_ = Global<int32_t>(offsets);
    workspace_ = Global<float>(workspace);
    N_ = tiling.T * K_;
    tile_slots_ = kStreams * at_.slots;
    tiles_ = CeilDiv(N_, tile_slots_);
    share_ = MyShare(tiles_);
    pipe->InitBuffer(in_, 1, kStreamSlots * sizeof(int32_t));
    out_words_ = kStreams * at_.pitch + P_ * kPerBlock<half>;
    pipe->InitBuffer(out_, Min(4, kListSlots / out_words_), out_words_ * sizeof(int32_t));
    pipe->InitBuffer(sums_, kSums * kMaxCounts * sizeof(float));
    index_ = by_row_.Get<half>();
    starts_ = sums_.Get<float>();
    earlier_ = starts_[kMaxCounts];
    first_ = earlier_[kMaxCounts];
    columns_ = first_[kMaxCounts];
    group_ = columns_[kMaxCounts];
  }
  // The core that writes the offsets.
  __aicore__ inline static int64_t OffsetsCore() { return GetBlockNum() - 1; }
  // Every core of the launch takes part in SyncAll, and in marking rows that no slot has.
  __aicore__ inline void Process() {
    const bool idle = share_.begin == share_.end;
    if (!idle) {
      LoadIds(share_.begin);
      Prepare();
    }
    for (uint64_t tile = share_.begin; tile < share_.end; ++tile) Count(tile);
    SyncAll();
    Starts();
    if (!idle) {
      SlotNumbers();
      FirstRows();
    }
    for (uint64_t tile = share_.begin; tile < share_.end; ++tile) {
      SlotRows(tile);
      RowSlots(tile);
      Add(earlier_, earlier_, Own(tile - share_.begin), counted_);
    }
    MarkUnusedRows(row_to_slot_, used_, N_, out_, out_words_);
    if (GetBlockIdx() == OffsetsCore()) StoreOffsets();
  }

 private:
  static constexpr uint32_t kSums = 5;
  static constexpr float kSlotBase = 2048.0f;  // less it, numbers of slots are exact in float16
  static_assert(kTileBytes + kStreamSlots * 4 + kListSlots * 4 + kSums * kMaxCounts * 4 <= kUbBytes,
                "UB");

  __aicore__ inline uint32_t SlotsOf(uint64_t tile) const {
    return Min(tile_slots_, N_ - tile * tile_slots_);
  }
  __aicore__ inline void LoadIds(uint64_t tile) {
    const uint32_t n = SlotsOf(tile), filler = RoundUp(n, kPerBlock<int32_t>) - n;
    LocalTensor<int32_t> ids = in_.AllocTensor<int32_t>();
    DataCopyPad(ids, experts_[tile * tile_slots_],
                DataCopyExtParams(1, n * sizeof(int32_t), 0, 0, 0),
                DataCopyPadExtParams<int32_t>(filler != 0, 0, static_cast<uint8_t>(filler), -1));
    in_.EnQue(ids);
  }
  __aicore__ inline void Count(uint64_t tile) {
    const uint32_t mine = tile - share_.begin, n = RoundUp(SlotsOf(tile), kPerBlock<int32_t>);
    LocalTensor<int32_t> ids = in_.DeQue<int32_t>();
    if (n < tile_slots_) Duplicate(ids[n], -1, tile_slots_ - n);
    TakeIds(ids);
    in_.FreeTensor(ids);
    if (tile + 1 < share_.end) LoadIds(tile + 1);
    CountTile(mine);
    LocalTensor<float> counts = out_.AllocTensor<float>();
    Adds(counts, Own(mine), 0.0f, counted_);
    out_.EnQue(counts);
    counts = out_.DeQue<float>();
    Store(workspace_[tile * counted_], counts, counted_);
    out_.FreeTensor(counts);
  }

  // earlier_: of the tiles before the core's; starts_: rows of the experts before
  __aicore__ inline void Starts() {
    LocalTensor<float> total = first_;
    Duplicate(total, 0.0f, counted_);
    Duplicate(earlier_, 0.0f, counted_);
    const uint32_t most = Min(kMaxRepeats, kStreamSlots / counted_);
    for (uint64_t tile = 0; tile < tiles_; tile += most) {
      const uint32_t some = Min(most, tiles_ - tile);
      LocalTensor<float> counts = in_.AllocTensor<float>();
      Load(counts, workspace_[tile * counted_], some * counted_);
      in_.EnQue(counts);
      counts = in_.DeQue<float>();
      AddTiles(total, counts, some);
      if (tile < share_.begin) AddTiles(earlier_, counts, Min(some, share_.begin - tile));
      in_.FreeTensor(counts);
    }
    const uint32_t plane = P_ * kStreamColumns;
    float row = 0.0f;
    Duplicate(starts_, 0.0f, counted_);
    for (uint32_t h = 0; h < at_.planes; ++h) {
      for (uint32_t x = h * plane + kStreamColumns; x < (h + 1) * plane; x += kStreamColumns) {
        const uint32_t before = x - kStreamColumns;
        Add(starts_[x], starts_[before], total[before], kStreamColumns);
      }
      const uint32_t last = (h + 1) * plane - kStreamColumns;
      Add(group_, starts_[last], total[last], kStreamColumns);  // rows of the groups
      for (uint32_t g = 0; g < kStreamColumns; ++g) {
        const float rows = group_.GetValue(g);
        group_.SetValue(g, row);
        row += rows;  // 0 for columns that are no groups
      }
      Add(starts_[h * plane], starts_[h * plane], group_, kStreamColumns, P_,
          BinaryRepeatParams(1, 1, 1, 1, 1, 0));
    }
    used_ = static_cast<uint64_t>(row);
  }
  __aicore__ inline void AddTiles(const LocalTensor<float>& sum, const LocalTensor<float>& counts,
                                  uint32_t tiles) {
    for (uint32_t x = 0; x < counted_; x += 64) {
      Add(sum[x], counts[x], sum[x], Min(64, counted_ - x), tiles,
          BinaryRepeatParams(1, 1, 1, 0, counted_ / kPerBlock<float>, 0));
    }
  }
  // of the core's first tile; the scalar unit counts on by itself
  __aicore__ inline void FirstRows() {
    Add(first_, starts_, earlier_, counted_);
    for (uint32_t x = 0; x < counted_; ++x) {
      if (GroupOf(x) < G_) rows_[x] = static_cast<uint32_t>(first_.GetValue(x));
    }
  }
  __aicore__ inline uint32_t GroupOf(uint32_t x) const {
    return x / (P_ * kStreamColumns) * kStreamColumns + x % kStreamColumns;
  }
  // [planes, P, 8] to [E]
  __aicore__ inline void StoreOffsets() {
    const uint32_t count = RoundUp(E_, kPerBlock<float>);
    LocalTensor<float> place = scratch_.Get<float>(), group = place[count], plane = group[count];
    CreateVecIndex(place, 0.0f, count);
    FloorOfRatio(group, place, P_, count);
    FloorOfRatio(plane, group, kStreamColumns, count);
    // e = g P + i comes from (h P + i) 8 + g - 8 h = 8 e + g - 8 P (g - h) - 8 h
    Muls(place, place, static_cast<float>(kStreamColumns), count);
    Axpy(place, group, 1.0f - static_cast<float>(kStreamColumns * P_), count);
    Axpy(place, plane, static_cast<float>(kStreamColumns * P_) - kStreamColumns, count);
    LocalTensor<int32_t> offsets = out_.AllocTensor<int32_t>();
    Take(group, starts_, place, E_);
    Cast(offsets, group, RoundMode::CAST_RINT, E_);
    offsets.SetValue(E_, static_cast<int32_t>(used_));
    out_.EnQue(offsets);
    offsets = out_.DeQue<int32_t>();
    Store(offsets_, offsets, E_ + 1);
    out_.FreeTensor(offsets);
  }
  // dst[i] = src[place[i]]; spoils place
  __aicore__ inline void Take(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                              const LocalTensor<float>& place, uint32_t count) {
    LocalTensor<int32_t> bytes = place.ReinterpretCast<int32_t>();
    Muls(place, place, static_cast<float>(sizeof(float)), count);
    Cast(bytes, place, RoundMode::CAST_RINT, count);
    Gather(dst, src, bytes.ReinterpretCast<uint32_t>(), 0, count);
  }

  __aicore__ inline void SlotNumbers() {
    const uint32_t count = RoundUp(at_.group, 64);
    LocalTensor<float> slot = scratch_.Get<float>(), token = slot[count];
    CreateVecIndex(slot, 0.0f, count);
    FloorOfRatio(token, slot, k_, count);
    Axpy(slot, token, static_cast<float>(K_ - k_), count);
    Adds(slot, slot, -kSlotBase, count);
    LocalTensor<half> base = token[count].ReinterpretCast<half>();
    Cast(base, slot, RoundMode::CAST_RINT, at_.pitch);
    for (uint32_t s = 0; s < kStreams; ++s) {
      Adds(index_[s * at_.pitch], base, static_cast<half>(static_cast<float>(s * at_.slots)),
           at_.pitch);
    }
  }

  // slot_to_row
  __aicore__ inline void SlotRows(uint64_t tile) {
    const uint32_t mine = tile - share_.begin, firsts = counted_ * kStreams;
    Add(first_, starts_, earlier_, counted_);
    LocalTensor<float> first = scratch_.Get<float>()[kStreamSlots], high = first[kMaxCounts];
    LocalTensor<half> narrow = high[kMaxCounts].ReinterpretCast<half>();
    LocalTensor<half> highs = narrow[kMaxCounts], lows = highs[firsts];
    if (at_.segments == 1) {
      Adds(first, first_, 0.0f, counted_);
    } else {  // an expert's column for each segment
      LocalTensor<float> place = columns_;
      CreateVecIndex(place, 0.0f, counted_);
      Remainder(high, place, kStreamColumns, counted_);
      Sub(place, place, high, counted_);
      Remainder(first, high, G_, counted_);
      Add(place, place, first, counted_);
      Take(first, first_, place, counted_);
    }
    // for each stream: high, and low with the streams before
    const auto blocks = static_cast<uint8_t>(counted_ / 8);
    FloorOfRatio(high, first, kRowHigh, counted_);
    Axpy(first, high, -static_cast<float>(kRowHigh), counted_);
    Adds(high, high, 1.0f, counted_);
    Cast(narrow, high, RoundMode::CAST_RINT, counted_);
    Brcb(highs, narrow, blocks, BrcbRepeatParams(1, 8));
    Cast(narrow, first, RoundMode::CAST_RINT, counted_);
    Brcb(lows, narrow, blocks, BrcbRepeatParams(1, 8));
    Add(lows, lows, Before(mine), firsts);

    LocalTensor<half> low_rows = lows[firsts], high_rows = low_rows[kStreamSlots];
    for (uint32_t h = 0; h < at_.planes; ++h) {
      const uint32_t from = h * at_.rows * kLanes;
      SelectOwn(low_rows[from], mine, h, lows[h * P_ * kLanes], 0, -1.0f);
      SelectOwn(high_rows[from], mine, h, highs[h * P_ * kLanes], 0, 0.0f);
    }
    Add(low_rows, low_rows, Ranks(mine), lanes_);
    // where a slot has no expert, high and rank are 0, low is -1, and so is the row
    LocalTensor<half> low_slots = high_rows[kStreamSlots], high_slots = low_slots[kStreamSlots];
    Turn(high_slots, high_rows, false);
    Turn(low_slots, low_rows, false);
    LocalTensor<float> wide = scratch_.Get<float>();  // ends before low_slots
    Cast(wide, low_slots, RoundMode::CAST_NONE, tile_slots_);
    Axpy(wide, high_slots, static_cast<half>(static_cast<float>(kRowHigh)), tile_slots_);
    for (uint32_t from = 0, n = SlotsOf(tile); from < n; from += out_words_) {
      const uint32_t count = Min(out_words_, n - from);
      LocalTensor<int32_t> out = out_.AllocTensor<int32_t>();
      Cast(out, wide[from], RoundMode::CAST_RINT, count);
      out_.EnQue(out);
      out = out_.DeQue<int32_t>();
      Store(slot_to_row_[tile * tile_slots_ + from], out, count);
      out_.FreeTensor(out);
    }
  }

  // row_to_slot: for each group and expert, the list of its slots
  __aicore__ inline void RowSlots(uint64_t tile) {
    const uint32_t mine = tile - share_.begin, count = kStreams * at_.pitch;
    LocalTensor<half> lists = scratch_.Get<half>();
    LocalTensor<uint8_t> bits = lists[kListSlots].ReinterpretCast<uint8_t>();
    Duplicate(lists, static_cast<half>(0.0f), count + P_ * kPerBlock<half>);
    for (uint32_t i = 0; i < P_; ++i) {
      Compares(bits[i * grouped_ / 8], ByGroup(mine), static_cast<half>(static_cast<float>(i)),
               CMPMODE::EQ, grouped_);
    }
    for (uint32_t g = 0; g < G_; ++g) {
      uint32_t counts[kStreamExperts], at[kStreamExperts], end = 0;
      for (uint32_t i = 0; i < P_; ++i) {
        const LocalTensor<uint8_t> mask = bits[(i * G_ + g) * count / 8];
        uint64_t taken = 0;
        GatherMask(lists[end], index_, mask.ReinterpretCast<uint16_t>(), true, count,
                   GatherMaskParams(1, 1, 8, 8), taken);
        counts[i] = taken;
        at[i] = end;
        end += RoundUp(counts[i], kPerBlock<half>);
      }
      if (end == 0) continue;
      LocalTensor<int32_t> slots = out_.AllocTensor<int32_t>();
      Cast(slots, lists, RoundMode::CAST_RINT, end);
      Adds(slots, slots,
           static_cast<int32_t>(tile * tile_slots_ + g * k_) + static_cast<int32_t>(kSlotBase),
           end);
      out_.EnQue(slots);
      slots = out_.DeQue<int32_t>();
      const uint32_t x = g / kStreamColumns * P_ * kStreamColumns + g % kStreamColumns;
      for (uint32_t i = 0; i < P_; ++i) {
        if (counts[i] == 0) continue;
        uint32_t& row = rows_[x + i * kStreamColumns];
        Store(row_to_slot_[row], slots[at[i]], counts[i]);
        row += counts[i];
      }
      out_.FreeTensor(slots);
    }
  }

  GlobalTensor<int32_t> experts_, row_to_slot_, slot_to_row_, offsets_;
  GlobalTensor<float> workspace_;
  uint64_t N_ = 0, used_ = 0, tiles_ = 0;
  uint32_t tile_slots_ = 0, out_words_ = 0;
  uint32_t rows_[kMaxCounts];  // where the next list of each expert goes
  Share share_{};
  LocalTensor<float> starts_, earlier_, first_, columns_, group_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  LocalTensor<half> index_;  // slots of a group [16, pitch], - kSlotBase
  TBuf<TPosition::VECCALC> sums_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_STREAMS_KERNEL_H_
