// Routing for any E, G and K by sorting: no work of the scalar unit for a slot.
//
// A tile's slots are sorted by the float32 key -(expert * 4096 + position), which is exact. A
// dropped slot's expert is E. Among them are E markers, one in front of the slots of each expert
// but the first, and where they come to lie says where an expert's slots start:
//
//    positions   0 .. E - 1   markers of the experts 1 .. E; E is that of the dropped slots
//                D .. D + n   the slots, from a whole block on
//
//    sorted      slots of 0 | marker 1 | slots of 1 | marker 2 | ... | marker E | dropped
//    starts[e] = the place of e's marker, less the e - 1 markers before it
//
// Starts are sums already, over the experts before. So over all tiles their sum is the offsets:
//
//    offsets[e]   = sum of starts_u[e] over all tiles u
//    first_t[e]   = offsets[e] + the slots of e in the tiles u < t
//                 = sum of starts_u[e] over u >= t  +  sum of starts_u[e + 1] over u < t
//    row of the j-th slot of the sorted tile t = j + first_t[e] - starts_t[e], where e is its
//    expert
//
// Sorted back by position, the rows are slot_to_row. A single tile is row_to_slot as it is sorted;
// of several, each copies the slots of an expert to its rows.
#ifndef MOGE_ASCEND_ROUTE_SORTED_KERNEL_H_
#define MOGE_ASCEND_ROUTE_SORTED_KERNEL_H_

#include "route_lists.h"

namespace moge {

//    buffer     bytes       holds
//    starts_    4.4 KB      starts of the tile; queue: V and S, MTE3
//    own_       4.2 KB      the same; queue: MTE2, V and S
//    first_     4.2 KB      first rows; V fills it, V and S read it
class RouteSorted : RouteLists {
 public:
  __aicore__ inline void Init(GM_ADDR experts, GM_ADDR row_to_slot, GM_ADDR slot_to_row,
                              GM_ADDR offsets, GM_ADDR workspace, const RouteTiling& tiling,
                              TPipe* pipe) {
    RouteTile::Init(experts, slot_to_row, tiling, pipe);
    RouteLists::Init(row_to_slot, workspace, pipe);
    offsets_ = Global<int32_t>(offsets);
    const uint32_t starts = RouteStartWords(E_);
    pipe->InitBuffer(starts_, 1, (starts + kSlack) * sizeof(int32_t));
    if (tiles_ == 1) return;
    pipe->InitBuffer(own_, 1, starts * sizeof(int32_t));
    pipe->InitBuffer(first_, starts * sizeof(int32_t));
  }
  // Before Process: also counts [E], rows of each expert.
  __aicore__ inline void CountTo(GM_ADDR counts) {
    totals_ = Global<int32_t>(counts);
    counting_ = true;
  }
  __aicore__ inline void Process() {
    const Share share = MyShare(tiles_);
    if (share.begin < share.end) Prepare(share.begin);
    if (tiles_ == 1) {
      if (share.begin < share.end) RouteAlone();
      return;
    }
    for (uint64_t tile = share.begin; tile < share.end; ++tile) {
      if (tile != share.begin) LoadIds(tile);
      Save(tile);
    }
    SyncAll();
    if (share.begin == share.end) return;
    FirstRows(share.begin);
    for (uint64_t tile = share.begin; tile < share.end; ++tile) {
      if (tile != share.begin) AddStarts(first_.Get<int32_t>(), tile - 1, tile, 8);
      if (by_expert_) PlaceExperts(E_ * tile / tiles_, E_ * (tile + 1) / tiles_);
      Place(tile);
    }
  }

 private:
  static_assert((4 * (kRouteSorted + kSlack) + 2 * kRouteTileSlots + 8 * kRouteSorted + 4 * kSlack +
                 2 * (kCountWords + kRunWords) + 3 * RouteStartWords(kRouteSortExperts) + kSlack) *
                            4 +
                        2 * kBitsBytes <=
                    kUbBytes,
                "UB");

  // The only tile asks no other.
  __aicore__ inline void RouteAlone() {
    const uint32_t n = N_;
    LocalTensor<int32_t> starts = starts_.AllocTensor<int32_t>();
    LocalTensor<int32_t> slots = out_.AllocTensor<int32_t>();
    Sort(n, 0, starts, slots);
    const auto used = static_cast<uint32_t>(starts.GetValue(7 + E_));
    starts_.EnQue(starts);
    starts = starts_.DeQue<int32_t>();
    Store(offsets_, starts, 1);
    Store(offsets_[1], starts[kPerBlock<int32_t>], E_);
    if (counting_) StoreCounts(starts, 7);
    starts_.FreeTensor(starts);

    Adds(words_.Get<int32_t>(), slots, 0, n);
    FillFrom(slots, -1, used, n);
    out_.EnQue(slots);
    slots = out_.DeQue<int32_t>();
    Store(row_to_slot_, slots, n);
    out_.FreeTensor(slots);
    LocalTensor<int32_t> rows = index_.Get<int32_t>();  // not needed any more
    FillFrom(rows, -1, used, n);
    StoreRows(rows, 0, n);
  }

  // One of several tiles leaves in the workspace what it and the others need.
  __aicore__ inline void Save(uint64_t tile) {
    const uint32_t n = Count(tile);
    LocalTensor<int32_t> starts = starts_.AllocTensor<int32_t>();
    LocalTensor<int32_t> slots = out_.AllocTensor<int32_t>();
    Sort(n, static_cast<int32_t>(tile * tile_slots_), starts, slots);
    LocalTensor<int32_t> experts = out_.AllocTensor<int32_t>();
    Experts(n, experts);
    const GlobalTensor<int32_t> words = workspace_[Words(tile)];
    starts_.EnQue(starts);
    starts = starts_.DeQue<int32_t>();
    Store(words, starts, E_ + 9);
    starts_.FreeTensor(starts);
    StoreList(SavedSlots(tile), slots, n);
    StoreList(SavedExperts(tile), experts, n);
  }
  // of the core's first tile
  __aicore__ inline void FirstRows(uint64_t tile) {
    const LocalTensor<int32_t> first = first_.Get<int32_t>();
    Duplicate(first, 0, E_ + 1);
    AddStarts(first, tile, tiles_, 7);
    AddStarts(first, 0, tile, 8);
    if (tile != 0) return;
    LocalTensor<int32_t> offsets = starts_.AllocTensor<int32_t>();
    Adds(offsets, first, 0, E_ + 1);
    starts_.EnQue(offsets);
    offsets = starts_.DeQue<int32_t>();
    Store(offsets_, offsets, E_ + 1);
    starts_.FreeTensor(offsets);
    if (counting_) StoreCounts(first, 0);
  }
  // counts[e] = offsets[e + 1] - offsets[e], which begin with the element `at`
  __aicore__ inline void StoreCounts(const LocalTensor<int32_t>& offsets, uint32_t at) {
    constexpr uint32_t kBytes = sizeof(int32_t);
    const LocalTensor<int32_t> places = wide_.Get<int32_t>(), begin = a_.Get<int32_t>();
    Muls(places, index_.Get<int32_t>(), static_cast<int32_t>(kBytes), E_);
    LocalTensor<int32_t> counts = out_.AllocTensor<int32_t>();
    Gather(begin, offsets, places.ReinterpretCast<uint32_t>(), at * kBytes, E_);
    Gather(counts, offsets, places.ReinterpretCast<uint32_t>(), (at + 1) * kBytes, E_);
    Sub(counts, counts, begin, E_);
    StoreList(totals_, counts, E_);
  }
  __aicore__ inline void Place(uint64_t tile) {
    const uint32_t n = Count(tile);
    const uint64_t first_slot = tile * tile_slots_;
    LocalTensor<int32_t> slots = LoadList(SavedSlots(tile), n);
    LocalTensor<int32_t> experts = LoadList(SavedExperts(tile), n);
    LocalTensor<int32_t> own = own_.AllocTensor<int32_t>();
    Load(own, workspace_[Words(tile) + 7], E_ + 1);
    own_.EnQue(own);
    const LocalTensor<int32_t> first = first_.Get<int32_t>();

    own = own_.DeQue<int32_t>();
    slots = in_.DeQue<int32_t>();
    experts = in_.DeQue<int32_t>();
    LocalTensor<int32_t> ahead = a_.Get<int32_t>(), rows = keys_.Get<int32_t>();
    Sub(ahead, first, own, E_ + 1);
    Gather(rows, ahead, experts.ReinterpretCast<uint32_t>(), 0, n);
    Add(rows, rows, index_.Get<int32_t>(), n);
    const auto kept = static_cast<uint32_t>(own.GetValue(E_));
    FillFrom(rows, -1, kept, n);
    Adds(words_.Get<int32_t>(), slots, -static_cast<int32_t>(first_slot), n);
    in_.FreeTensor(slots);
    in_.FreeTensor(experts);
    StoreRows(rows, first_slot, n);

    if (!by_expert_) CopyRuns(SavedSlots(tile), own, first);
    const auto used = static_cast<uint64_t>(first.GetValue(E_));
    MarkUnused(used + (N_ - used) * tile / tiles_, used + (N_ - used) * (tile + 1) / tiles_);
    Sub(first, first, own, E_ + 1);  // half way to those of the next tile
    own_.FreeTensor(own);
  }
  __aicore__ inline LocalTensor<int32_t> LoadList(const GlobalTensor<int32_t>& src, uint32_t n) {
    LocalTensor<int32_t> list = in_.AllocTensor<int32_t>();
    Load(list, src, n);
    in_.EnQue(list);
    return list;
  }
  // Adds up, over tiles, the E + 1 words of their starts from `word` on.
  __aicore__ inline void AddStarts(const LocalTensor<int32_t>& sum, uint64_t begin, uint64_t end,
                                   uint32_t word) {
    const uint32_t count = E_ + 1, pitch = RoundUp(count, kPerBlock<int32_t>);
    const uint32_t rows = Min(kMaxRepeats, kCountWords / pitch);
    const uint32_t gap = (RouteTileWords(E_, tile_slots_) - count) * sizeof(int32_t);
    uint64_t loaded = begin;
    for (uint64_t tile = begin; tile < end; tile += rows) {
      for (; loaded < Min(end, tile + 2 * rows); loaded += rows) {
        LocalTensor<int32_t> next = counts_.AllocTensor<int32_t>();
        DataCopyPad(next, workspace_[Words(loaded) + word],
                    DataCopyExtParams(Min(rows, end - loaded), count * sizeof(int32_t), gap, 0, 0),
                    DataCopyPadExtParams<int32_t>(false, 0, 0, 0));
        counts_.EnQue(next);
      }
      LocalTensor<int32_t> counts = counts_.DeQue<int32_t>();
      const uint32_t some = Min(rows, end - tile);
      if (some * 64 < count) {  // an instruction for each row, or for each 64 columns
        for (uint32_t i = 0; i < some; ++i) Add(sum, counts[i * pitch], sum, count);
      } else {
        for (uint32_t e = 0; e < count; e += 64) {
          Add(sum[e], counts[e], sum[e], Min(64, count - e), some,
              BinaryRepeatParams(1, 1, 1, 0, pitch / kPerBlock<int32_t>, 0));
        }
      }
      counts_.FreeTensor(counts);
    }
  }

  GlobalTensor<int32_t> offsets_, totals_;
  bool counting_ = false;
  TQue<TPosition::VECOUT, 1> starts_;
  TQue<TPosition::VECIN, 1> own_;
  TBuf<TPosition::VECCALC> first_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_SORTED_KERNEL_H_
