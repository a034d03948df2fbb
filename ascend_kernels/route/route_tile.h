// Sorting a tile of slots by their experts, and its rows back by their slots.
#ifndef MOGE_ASCEND_ROUTE_TILE_H_
#define MOGE_ASCEND_ROUTE_TILE_H_

#include "route_sort.h"
#include "route_tiling.h"

namespace moge {

constexpr uint32_t kRouteSorted = 2560;       // a tile's slots and markers
constexpr uint32_t kRouteTileSlots = 2048;    // and its slots, at most
constexpr uint32_t kRouteSortExperts = 1024;  // E at most

// UB, in bytes at most. All but the queues is filled and read by V in order, or by S where said.
//
//    buffer     bytes       holds
//    in_        2 x 10.5 KB ids; later slots and experts in sorted order; queue: MTE2, V
//    out_       2 x 10.5 KB slots and experts in sorted order, then slots' rows; queue: V, MTE3
//    keys_      10.8 KB     keys; the markers' stay while tiles are sorted. Later rows
//    index_     10.5 KB     0, 1, 2 ...
//    position_  8.3 KB      a slot's position in float
//    lowest_    8.3 KB      the first expert of a slot's group, in float
//    a_, b_     2 x 20.5 KB sorted pairs, one of them; the other is spare
//    words_     10.5 KB     sorted positions
//    wide_      10.8 KB     sorted keys; a scratch
//    bits_      2 x 320     what of the sorted list is a marker, and what a slot
class RouteTile {
 protected:
  static constexpr uint32_t kScale = 4096;  // more than any position
  static constexpr float kLowest = -16777216.0f;
  static constexpr uint32_t kSlack = 64;  // elements after a list that may be written with it
  static constexpr uint32_t kBitsBytes = RoundUp(RoundUp(kRouteSorted, 64) / 8, kBlockBytes);
  static_assert(uint64_t{kRouteSortExperts + 1} * kScale <= 16777216, "keys are exact");

  __aicore__ inline void Init(GM_ADDR experts, GM_ADDR slot_to_row, const RouteTiling& tiling,
                              TPipe* pipe) {
    experts_ = Global<int32_t>(experts);
    slot_to_row_ = Global<int32_t>(slot_to_row);
    K_ = tiling.K;
    E_ = tiling.E;
    G_ = tiling.G;
    D_ = RoundUp(E_, kPerBlock<float>);
    N_ = tiling.T * K_;
    tile_slots_ = tiling.tile_tokens * K_;
    tiles_ = CeilDiv(tiling.T, tiling.tile_tokens);
    most_ = tiles_ == 1 ? RoundUp(D_ + tile_slots_, 64) : kRouteSorted;
    const uint32_t slots = RoundUp(tile_slots_, 64);
    pipe->InitBuffer(in_, 2, (most_ + kSlack) * sizeof(int32_t));
    pipe->InitBuffer(out_, 2, (most_ + kSlack) * sizeof(int32_t));
    pipe->InitBuffer(keys_, (most_ + 2 * kSlack) * sizeof(float));
    pipe->InitBuffer(index_, most_ * sizeof(int32_t));
    pipe->InitBuffer(position_, slots * sizeof(float));
    pipe->InitBuffer(lowest_, slots * sizeof(float));
    pipe->InitBuffer(a_, most_ * kPairWords * sizeof(float));
    pipe->InitBuffer(b_, most_ * kPairWords * sizeof(float));
    pipe->InitBuffer(words_, most_ * sizeof(int32_t));
    pipe->InitBuffer(wide_, (most_ + 2 * kSlack) * sizeof(float));
    pipe->InitBuffer(bits_, 2 * kBitsBytes);
  }
  __aicore__ inline uint32_t Count(uint64_t tile) const {
    return Min(tile_slots_, N_ - tile * tile_slots_);
  }
  __aicore__ inline LocalTensor<uint8_t> Bits(uint32_t i) {
    return bits_.Get<uint8_t>()[i * kBitsBytes];
  }
  // elements from `begin` to `end`
  template <typename T>
  __aicore__ inline void FillFrom(const LocalTensor<T>& list, T value, uint32_t begin,
                                  uint32_t end) {
    if (begin >= end) return;
    const uint32_t block = begin / 8 * 8;
    uint64_t lanes[2] = {~uint64_t{0} << (begin - block), 0};
    if (end - block < 64) lanes[0] &= (uint64_t{1} << (end - block)) - 1;
    Duplicate(list[block], value, lanes, 1, 1, 8);
    if (block + 64 < end) Duplicate(list[block + 64], value, end - block - 64);
  }

  __aicore__ inline void LoadIds(uint64_t tile) {
    LocalTensor<int32_t> ids = in_.AllocTensor<int32_t>();
    Load(ids, experts_[tile * tile_slots_], Count(tile));
    in_.EnQue(ids);
  }
  // What is the same for all tiles of the core, while the first tile's ids come.
  __aicore__ inline void Prepare(uint64_t tile) {
    LoadIds(tile);
    const uint32_t slots = RoundUp(tile_slots_, 64);
    LocalTensor<float> keys = keys_.Get<float>(), position = position_.Get<float>();
    CreateVecIndex(index_.Get<int32_t>(), 0, most_);
    CreateVecIndex(position, 0.0f, slots);
    CreateVecIndex(keys, static_cast<float>(0), D_);
    Muls(keys, keys, -static_cast<float>(kScale + 1), D_);
    Adds(keys, keys, -static_cast<float>(kScale), D_);
    FillFrom(keys, kLowest, E_, D_);
    if (G_ > 1) {
      LocalTensor<float> group = lowest_.Get<float>(), column = wide_.Get<float>();
      Remainder(column, position, K_, slots);
      FloorOfRatio(group, column, K_ / G_, slots);
      Muls(group, group, static_cast<float>(E_ / G_), slots);
    }
    Adds(position, position, static_cast<float>(D_), slots);
  }
  // keys_ of the tile's slots
  __aicore__ inline void Keys(uint32_t n) {
    const uint32_t slots = RoundUp(n, 64);
    LocalTensor<float> keys = keys_.Get<float>()[D_], rank = wide_.Get<float>();
    LocalTensor<int32_t> ids = in_.DeQue<int32_t>();
    const uint32_t block = n / 8 * 8;
    Duplicate(keys[block], kLowest, 72);
    Cast(keys, ids, RoundMode::CAST_RINT, n);
    in_.FreeTensor(ids);
    if (G_ > 1) {
      Sub(rank, keys, lowest_.Get<float>(), slots);
    } else {
      Adds(rank, keys, 0.0f, slots);
    }
    Compares(Bits(0), rank, 0.0f, CMPMODE::GE, slots);
    Compares(Bits(1), rank, static_cast<float>(E_ / G_), CMPMODE::LT, slots);
    LocalTensor<uint16_t> kept = Bits(0).ReinterpretCast<uint16_t>();
    And(kept, kept, Bits(1).ReinterpretCast<uint16_t>(), slots / 16);
    Select(keys, Bits(0), keys, static_cast<float>(E_), SELMODE::VSEL_TENSOR_SCALAR_MODE, n);
    Muls(keys, keys, -static_cast<float>(kScale), n);
    Sub(keys, keys, position_.Get<float>(), n);
  }

  // Sorts the tile: starts[7 + e] for e = 0 .. E, and once more for E; and its slots, whose numbers
  // begin with `first`.
  __aicore__ inline void Sort(uint32_t n, int32_t first, const LocalTensor<int32_t>& starts,
                              const LocalTensor<int32_t>& slots) {
    Keys(n);
    const uint32_t count = RoundUp(D_ + n, 64);
    LocalTensor<float> a = a_.Get<float>(), b = b_.Get<float>();
    LocalTensor<int32_t> index = index_.Get<int32_t>(), words = words_.Get<int32_t>();
    const LocalTensor<float> sorted =
        SortPairs(a, b, keys_.Get<float>(), index.ReinterpretCast<uint32_t>(), count);
    spare_ = sorted.GetPhyAddr() == a.GetPhyAddr() ? b : a;
    TakeKeys(wide_.Get<float>(), sorted, count);
    TakeWords(words, sorted, count);
    Cast(spare_, words, RoundMode::CAST_RINT, count);
    Compares(Bits(0), spare_, static_cast<float>(D_), CMPMODE::LT, count);
    Not(Bits(1).ReinterpretCast<uint16_t>(), Bits(0).ReinterpretCast<uint16_t>(), count / 16);

    LocalTensor<int32_t> list = spare_[count].ReinterpretCast<int32_t>();
    Choose(list, words, 1, count);
    Adds(slots, list, first - static_cast<int32_t>(D_), n);
    Choose(list, index, 0, count);
    Duplicate(starts, 0, kPerBlock<int32_t>);
    Sub(starts[kPerBlock<int32_t>], list, index, E_);
    starts.SetValue(8 + E_, starts.GetValue(7 + E_));
  }
  // where the sorted list has markers (0), or slots (1)
  template <typename T>
  __aicore__ inline void Choose(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint32_t what,
                                uint32_t count) {
    uint64_t taken = 0;
    GatherMask(dst, src, Bits(what).ReinterpretCast<uint32_t>(), true, count,
               GatherMaskParams(1, 1, 8, 8), taken);
  }
  // after Sort: four times the experts of the sorted slots
  __aicore__ inline void Experts(uint32_t n, const LocalTensor<int32_t>& experts) {
    const uint32_t count = RoundUp(D_ + n, 64);
    LocalTensor<float> wide = wide_.Get<float>(), list = spare_[count];
    Add(wide, wide, spare_, count);  // the key and its position: -kScale times the expert
    Choose(list, wide, 1, count);
    Muls(list, list, -4.0f / static_cast<float>(kScale), n);
    Cast(experts, list, RoundMode::CAST_RINT, n);
  }

  // slot_to_row: the rows of sorted slots are sorted back by words_, the slots' positions
  __aicore__ inline void StoreRows(const LocalTensor<int32_t>& rows, uint64_t first, uint32_t n) {
    LocalTensor<float> keys = wide_.Get<float>();
    Duplicate(keys[n / 8 * 8], kLowest, 40);
    Cast(keys, words_.Get<int32_t>(), RoundMode::CAST_RINT, n);
    Muls(keys, keys, -1.0f, n);
    const uint32_t count = RoundUp(n, kSortRun);
    const LocalTensor<float> sorted =
        SortPairs(a_.Get<float>(), b_.Get<float>(), keys, rows.ReinterpretCast<uint32_t>(), count);
    LocalTensor<int32_t> out = out_.AllocTensor<int32_t>();
    TakeWords(out, sorted, count);
    out_.EnQue(out);
    out = out_.DeQue<int32_t>();
    Store(slot_to_row_[first], out, n);
    out_.FreeTensor(out);
  }

  __aicore__ inline void StoreList(const GlobalTensor<int32_t>& dst, LocalTensor<int32_t>& list,
                                   uint32_t n) {
    out_.EnQue(list);
    list = out_.DeQue<int32_t>();
    Store(dst, list, n);
    out_.FreeTensor(list);
  }

  GlobalTensor<int32_t> experts_, slot_to_row_;
  uint32_t K_ = 0, E_ = 0, G_ = 0;
  uint32_t D_ = 0;           // place of the first slot among the keys
  uint32_t tile_slots_ = 0;  // slots of all tiles but the last
  uint32_t most_ = 0;        // elements that can be sorted at once
  uint64_t N_ = 0, tiles_ = 0;
  LocalTensor<float> spare_;
  TQue<TPosition::VECIN, 2> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> keys_, index_, position_, lowest_, a_, b_, words_, wide_, bits_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_TILE_H_
