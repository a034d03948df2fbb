// Routing for any K, E and G: counts and rows are scalar work, a slot at a time.
//
//    Count: each core its slots by expert -> workspace [cores, E]      SyncAll
//    Scan:  first row of an expert + its slots on the cores before -> next [E]; core 0: offsets
//    Place: for each slot of the core, row = next[expert]++ -> slot_to_row, row_to_slot
#ifndef MOGE_ASCEND_ROUTE_SLOTS_KERNEL_H_
#define MOGE_ASCEND_ROUTE_SLOTS_KERNEL_H_

#include "../rows.h"
#include "route_tiling.h"

namespace moge {

constexpr uint32_t kRouteSlots = 1024;    // a core has this many in UB at a time
constexpr uint32_t kRouteExperts = 2048;  // Scan adds up this many counts at a time
constexpr uint32_t kRouteMaxExperts = 16384;
static_assert(kRouteMaxExperts * 4 + kRouteSlots * (2 + 1 + 8) * 4 + kRouteExperts * 5 * 4 <=
                  kUbBytes,
              "UB");

//    buffer    bytes      holds                                      filled by, read by, guard
//    ids_      2 x 4 KB   experts of slots                           MTE2, S; queue
//    next_     4 E        counts [E], then next rows [E]             S, MTE3; queue
//    sums_     16 KB      counts of the cores before, and of all     V, S in order
//    counts_   2 x 8 KB   counts of one core                         MTE2, V; queue
//    starts_   8 KB       offsets                                    S, MTE3; queue
//    rows_     4 KB       rows of slots; at the end -1               S or V, MTE3; queue
//    slots_    32 KB      slots, each on a block of its own          S, MTE3; queue
class RouteSlots {
 public:
  __aicore__ inline void Init(GM_ADDR experts, GM_ADDR row_to_slot, GM_ADDR slot_to_row,
                              GM_ADDR offsets, GM_ADDR workspace, const RouteTiling& tiling,
                              TPipe* pipe) {
    experts_ = Global<int32_t>(experts);
    row_to_slot_ = Global<int32_t>(row_to_slot);
    slot_to_row_ = Global<int32_t>(slot_to_row);
    offsets_ = Global<int32_t>(offsets);
    workspace_ = Global<int32_t>(workspace);
    K_ = tiling.K;
    E_ = tiling.E;
    P_ = tiling.E / tiling.G;
    k_ = tiling.K / tiling.G;
    N_ = tiling.T * K_;
    share_ = MyShare(N_);
    pipe->InitBuffer(ids_, 2, kRouteSlots * sizeof(int32_t));
    pipe->InitBuffer(rows_, 1, kRouteSlots * sizeof(int32_t));
    pipe->InitBuffer(slots_, 1, kRouteSlots * kBlockBytes);
    pipe->InitBuffer(next_, 1, RoundUp(E_, kPerBlock<int32_t>) * sizeof(int32_t));
    pipe->InitBuffer(sums_, 2 * kRouteExperts * sizeof(int32_t));
    pipe->InitBuffer(counts_, 2, kRouteExperts * sizeof(int32_t));
    pipe->InitBuffer(starts_, 1, kRouteExperts * sizeof(int32_t));
  }
  // The core that writes the offsets.
  __aicore__ inline static int64_t OffsetsCore() { return 0; }
  __aicore__ inline void Process() {
    Count();
    SyncAll();
    LocalTensor<int32_t> next = next_.AllocTensor<int32_t>();
    const uint64_t used = Scan(next);
    for (uint64_t slot = share_.begin; slot < share_.end; slot += kRouteSlots) {
      Place(next, slot, Min(kRouteSlots, share_.end - slot));
    }
    next_.FreeTensor(next);
    MarkUnusedRows(row_to_slot_, used, N_, rows_, kRouteSlots);
  }

 private:
  // -1 for a dropped slot: its id is none of its group's
  __aicore__ inline int32_t Expert(const LocalTensor<int32_t>& ids, uint64_t slot, uint32_t i) {
    const int32_t id = ids.GetValue(i);
    const auto first = static_cast<int32_t>((slot + i) % K_ / k_ * P_);
    return id >= first && id < first + static_cast<int32_t>(P_) ? id : -1;
  }
  __aicore__ inline LocalTensor<int32_t> TakeIds(uint64_t slot, uint32_t count) {
    LocalTensor<int32_t> ids = ids_.AllocTensor<int32_t>();
    Load(ids, experts_[slot], count);
    ids_.EnQue(ids);
    return ids_.DeQue<int32_t>();
  }

  __aicore__ inline void Count() {
    LocalTensor<int32_t> counts = next_.AllocTensor<int32_t>();
    Duplicate(counts, 0, E_);
    for (uint64_t slot = share_.begin; slot < share_.end; slot += kRouteSlots) {
      const uint32_t count = Min(kRouteSlots, share_.end - slot);
      LocalTensor<int32_t> ids = TakeIds(slot, count);
      for (uint32_t i = 0; i < count; ++i) {
        const int32_t expert = Expert(ids, slot, i);
        if (expert >= 0) counts.SetValue(expert, counts.GetValue(expert) + 1);
      }
      ids_.FreeTensor(ids);
    }
    next_.EnQue(counts);
    counts = next_.DeQue<int32_t>();
    Store(workspace_[GetBlockIdx() * E_], counts, E_);
    next_.FreeTensor(counts);
  }

  // next: row of this core's first slot of each expert. Returns the number of rows in use.
  __aicore__ inline uint64_t Scan(const LocalTensor<int32_t>& next) {
    LocalTensor<int32_t> before = sums_.Get<int32_t>(), total = before[kRouteExperts];
    int32_t row = 0;
    for (uint32_t first = 0; first < E_; first += kRouteExperts) {
      const uint32_t count = Min(kRouteExperts, E_ - first);
      Duplicate(total, 0, count);
      for (int64_t core = 0; core < GetBlockNum(); ++core) {
        if (core == GetBlockIdx()) Adds(before, total, 0, count);
        LocalTensor<int32_t> counts = counts_.AllocTensor<int32_t>();
        Load(counts, workspace_[core * E_ + first], count);
        counts_.EnQue(counts);
        counts = counts_.DeQue<int32_t>();
        Add(total, total, counts, count);
        counts_.FreeTensor(counts);
      }
      LocalTensor<int32_t> starts = starts_.AllocTensor<int32_t>();
      for (uint32_t e = 0; e < count; ++e) {
        starts.SetValue(e, row);
        next.SetValue(first + e, row + before.GetValue(e));
        row += total.GetValue(e);
      }
      StoreOffsets(starts, first, count);
    }
    LocalTensor<int32_t> end = starts_.AllocTensor<int32_t>();
    end.SetValue(0, row);
    StoreOffsets(end, E_, 1);
    return row;
  }
  __aicore__ inline void StoreOffsets(LocalTensor<int32_t>& starts, uint32_t first,
                                      uint32_t count) {
    starts_.EnQue(starts);
    starts = starts_.DeQue<int32_t>();
    if (GetBlockIdx() == 0) Store(offsets_[first], starts, count);
    starts_.FreeTensor(starts);
  }

  __aicore__ inline void Place(const LocalTensor<int32_t>& next, uint64_t slot, uint32_t count) {
    LocalTensor<int32_t> ids = TakeIds(slot, count);
    LocalTensor<int32_t> rows = rows_.AllocTensor<int32_t>();
    LocalTensor<int32_t> slots = slots_.AllocTensor<int32_t>();  // each on a block of its own
    for (uint32_t i = 0; i < count; ++i) {
      const int32_t expert = Expert(ids, slot, i);
      const int32_t row = expert < 0 ? -1 : next.GetValue(expert);
      rows.SetValue(i, row);
      if (expert < 0) continue;
      slots.SetValue(i * kPerBlock<int32_t>, static_cast<int32_t>(slot + i));
      next.SetValue(expert, row + 1);
    }
    ids_.FreeTensor(ids);
    rows_.EnQue(rows);
    slots_.EnQue(slots);
    rows = rows_.DeQue<int32_t>();
    slots = slots_.DeQue<int32_t>();
    Store(slot_to_row_[slot], rows, count);
    for (uint32_t i = 0; i < count; ++i) {
      const int32_t row = rows.GetValue(i);
      if (row >= 0) Store(row_to_slot_[row], slots[i * kPerBlock<int32_t>], 1);
    }
    rows_.FreeTensor(rows);
    slots_.FreeTensor(slots);
  }

  GlobalTensor<int32_t> experts_, row_to_slot_, slot_to_row_, offsets_, workspace_;
  uint32_t K_ = 0, E_ = 0, P_ = 0, k_ = 0;
  uint64_t N_ = 0;
  Share share_{};
  TQue<TPosition::VECIN, 1> ids_, counts_;
  TQue<TPosition::VECOUT, 1> rows_, slots_, next_, starts_;
  TBuf<TPosition::VECCALC> sums_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_SLOTS_KERNEL_H_
