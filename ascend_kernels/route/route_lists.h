// row_to_slot of several tiles: each expert's slots go from the tiles' sorted lists to its rows.
#ifndef MOGE_ASCEND_ROUTE_LISTS_H_
#define MOGE_ASCEND_ROUTE_LISTS_H_

#include "route_tile.h"

namespace moge {

// A tile's words of the workspace: starts from word 7 on, so that those of the experts from 1 on
// begin a block; then the slots in sorted order; then their experts, as offsets in bytes.
constexpr uint32_t RouteStartWords(uint32_t E) { return RoundUp(E + 9, 8); }
constexpr uint32_t RouteTileWords(uint32_t E, uint32_t slots) {
  return RouteStartWords(E) + 2 * RoundUp(slots, 8);
}

//    buffer     bytes       holds
//    counts_    2 x 10 KB   starts of many tiles; queue: MTE2, V and S
//    runs_      2 x 4 KB    slots of experts, each from a block on; queue: MTE2, MTE3
class RouteLists : protected RouteTile {
 protected:
  static constexpr uint32_t kCountWords = 2560;
  static constexpr uint32_t kRunWords = 1024, kRuns = 32;
  static constexpr int32_t kNoExpert = 4 * 4095;  // sorts behind all
  struct Runs {                                   // of one buffer
    uint32_t count = 0, lengths[kRuns];
    int32_t rows[kRuns];
  };

  __aicore__ inline void Init(GM_ADDR row_to_slot, GM_ADDR workspace, TPipe* pipe) {
    row_to_slot_ = Global<int32_t>(row_to_slot);
    workspace_ = Global<int32_t>(workspace);
    if (tiles_ == 1) return;
    // A core copies a list for each expert, or takes one from each tile: what takes less time.
    by_expert_ = E_ > 56 + 3 * tiles_ / 2 && 2 * tiles_ * kPerBlock<int32_t> <= kCountWords;
    pipe->InitBuffer(counts_, 2, kCountWords * sizeof(int32_t));
    pipe->InitBuffer(runs_, 2, kRunWords * sizeof(int32_t));
  }
  __aicore__ inline uint64_t Words(uint64_t tile) const {
    return tile * RouteTileWords(E_, tile_slots_);
  }
  __aicore__ inline GlobalTensor<int32_t> SavedSlots(uint64_t tile) {
    return workspace_[Words(tile) + RouteStartWords(E_)];
  }
  __aicore__ inline GlobalTensor<int32_t> SavedExperts(uint64_t tile) {
    return SavedSlots(tile)[RoundUp(tile_slots_, 8)];
  }

  // row_to_slot: each expert's slots go from the sorted list to its rows
  __aicore__ inline void CopyRuns(const GlobalTensor<int32_t>& slots,
                                  const LocalTensor<int32_t>& own,
                                  const LocalTensor<int32_t>& first) {
    Runs runs;
    uint32_t at = 0;
    LocalTensor<int32_t> list;
    int32_t from = 0;
    for (uint32_t e = 0; e < E_; ++e) {
      const int32_t end = own.GetValue(e + 1);
      if (from == end) continue;
      int32_t row = first.GetValue(e);
      while (from < end) {
        if (runs.count == 0) list = runs_.AllocTensor<int32_t>();
        const uint32_t length = Min(end - from, kRunWords - at);
        Load(list[at], slots[from], length);
        runs.rows[runs.count] = row;
        runs.lengths[runs.count++] = length;
        at += RoundUp(length, kPerBlock<int32_t>);
        from += length;
        row += length;
        if (runs.count == kRuns || at == kRunWords) {
          StoreRuns(list, runs);
          at = 0;
        }
      }
    }
    if (runs.count != 0) StoreRuns(list, runs);
  }
  __aicore__ inline void StoreRuns(LocalTensor<int32_t>& list, Runs& runs) {
    runs_.EnQue(list);
    list = runs_.DeQue<int32_t>();
    uint32_t at = 0;
    for (uint32_t i = 0; i < runs.count; ++i) {
      Store(row_to_slot_[runs.rows[i]], list[at], runs.lengths[i]);
      at += RoundUp(runs.lengths[i], kPerBlock<int32_t>);
    }
    runs.count = 0;
    runs_.FreeTensor(list);
  }

  // row_to_slot where a tile has few slots of each expert: of the experts [begin, end), whose slots
  // in all tiles are sorted once more. An expert that has too many is one list for each tile.
  __aicore__ inline void PlaceExperts(uint32_t begin, uint32_t end) {
    while (begin < end) {
      uint32_t stop = end;
      while (!MergeExperts(begin, stop) && stop - begin > 1) stop = begin + (stop - begin) / 2;
      begin = stop;
    }
  }
  // starts of `expert`, a block for each tile
  __aicore__ inline void LoadStarts(const LocalTensor<int32_t>& dst, uint32_t expert) {
    const uint32_t gap = (RouteTileWords(E_, tile_slots_) - 1) * sizeof(int32_t);
    DataCopyPad(dst, workspace_[7 + expert], DataCopyExtParams(tiles_, sizeof(int32_t), gap, 0, 0),
                DataCopyPadExtParams<int32_t>(false, 0, 0, 0));
  }
  // false: too many; but a single expert is placed in any case
  __aicore__ inline bool MergeExperts(uint32_t begin, uint32_t end) {
    constexpr uint32_t kBlock = kPerBlock<int32_t>;
    LocalTensor<int32_t> low = counts_.AllocTensor<int32_t>();
    LoadStarts(low, begin);
    LoadStarts(low[tiles_ * kBlock], end);
    counts_.EnQue(low);
    low = counts_.DeQue<int32_t>();
    const LocalTensor<int32_t> high = low[tiles_ * kBlock];
    LocalTensor<int32_t> slots = in_.AllocTensor<int32_t>();
    LocalTensor<int32_t> experts = in_.AllocTensor<int32_t>();
    int64_t row = 0;
    uint32_t at = 0, placed = 0;
    bool fits = true;
    for (uint32_t tile = 0; tile < tiles_; ++tile) {
      const int32_t from = low.GetValue(tile * kBlock);
      const uint32_t count = high.GetValue(tile * kBlock) - from;
      row += from;
      fits = fits && at + RoundUp(count, kBlock) <= most_;
      if (!fits || count == 0) continue;
      const DataCopyExtParams copy(1, count * sizeof(int32_t), 0, 0, 0);
      const auto rest = static_cast<uint8_t>(RoundUp(count, kBlock) - count);
      DataCopyPad(slots[at], SavedSlots(tile)[from], copy,
                  DataCopyPadExtParams<int32_t>(rest != 0, 0, rest, -1));
      DataCopyPad(experts[at], SavedExperts(tile)[from], copy,
                  DataCopyPadExtParams<int32_t>(rest != 0, 0, rest, kNoExpert));
      at += RoundUp(count, kBlock);
      placed += count;
    }
    in_.EnQue(slots);
    in_.EnQue(experts);
    slots = in_.DeQue<int32_t>();
    experts = in_.DeQue<int32_t>();
    if (fits && placed != 0) StoreMerged(slots, experts, begin, at, row, placed);
    in_.FreeTensor(slots);
    in_.FreeTensor(experts);
    if (!fits && end - begin == 1) CopyExpert(low, row);
    counts_.FreeTensor(low);
    return fits;
  }
  __aicore__ inline void StoreMerged(const LocalTensor<int32_t>& slots,
                                     const LocalTensor<int32_t>& experts, uint32_t begin,
                                     uint32_t loaded, int64_t row, uint32_t placed) {
    const uint32_t count = RoundUp(loaded, kSortRun);
    LocalTensor<float> keys = keys_.Get<float>(), position = wide_.Get<float>();
    Cast(keys, experts, RoundMode::CAST_RINT, loaded);
    Cast(position, index_.Get<int32_t>(), RoundMode::CAST_RINT, loaded);
    Adds(keys, keys, -4.0f * static_cast<float>(begin), loaded);
    Muls(keys, keys, -static_cast<float>(kScale / 4), loaded);
    Sub(keys, keys, position, loaded);
    FillFrom(keys, kLowest, loaded, count);
    const LocalTensor<float> sorted =
        SortPairs(a_.Get<float>(), b_.Get<float>(), keys, slots.ReinterpretCast<uint32_t>(), count);
    LocalTensor<int32_t> out = out_.AllocTensor<int32_t>();
    TakeWords(out, sorted, placed);
    StoreList(row_to_slot_[row], out, placed);
  }
  // One expert's slots are in order from tile to tile.
  __aicore__ inline void CopyExpert(const LocalTensor<int32_t>& low, int64_t row) {
    constexpr uint32_t kBlock = kPerBlock<int32_t>;
    for (uint32_t tile = 0; tile < tiles_; ++tile) {
      int32_t from = low.GetValue(tile * kBlock);
      const int32_t end = low.GetValue((tiles_ + tile) * kBlock);
      while (from < end) {
        const uint32_t count = Min(end - from, kRunWords);
        LocalTensor<int32_t> list = runs_.AllocTensor<int32_t>();
        Load(list, SavedSlots(tile)[from], count);
        runs_.EnQue(list);
        list = runs_.DeQue<int32_t>();
        Store(row_to_slot_[row], list, count);
        runs_.FreeTensor(list);
        from += count;
        row += count;
      }
    }
  }

  __aicore__ inline void MarkUnused(uint64_t begin, uint64_t end) {
    if (begin == end) return;
    LocalTensor<int32_t> none = out_.AllocTensor<int32_t>();
    Duplicate(none, -1, Min(tile_slots_, end - begin));
    out_.EnQue(none);
    none = out_.DeQue<int32_t>();
    for (uint64_t i = begin; i < end; i += tile_slots_) {
      Store(row_to_slot_[i], none, Min(tile_slots_, end - i));
    }
    out_.FreeTensor(none);
  }

  GlobalTensor<int32_t> row_to_slot_, workspace_;
  bool by_expert_ = false;
  TQue<TPosition::VECIN, 2> counts_;
  TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> runs_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_LISTS_H_
