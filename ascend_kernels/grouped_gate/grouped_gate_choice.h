// The choice in large groups: each choice looks at the maxima of blocks of experts, and at one
// block for each lane, not at all of the plane.
//
//    keys [P, G, t] -- Begin -> maxima [P / size, G, t]
//    maxima -- Best -> a lane's block -- Gather -> held [size, G, t] -- Best -> expert
//                                                   |
//    maxima <- Scatter -- the block's next ---------+
#ifndef MOGE_ASCEND_GROUPED_GATE_CHOICE_H_
#define MOGE_ASCEND_GROUPED_GATE_CHOICE_H_

#include "grouped_gate_planes.h"

namespace moge {

// Experts of a block; 0 where looking at the plane takes less time.
constexpr uint32_t ChoiceBlock(uint32_t P, uint32_t k) {
  constexpr uint32_t kSize = 8;
  return k > 1 && P >= kFromBlocks && P % kSize == 0 ? kSize : 0;
}

class GateChoice {
 public:
  static constexpr uint64_t Bytes(uint64_t G, uint64_t P, uint64_t k, uint64_t t) {
    const uint64_t size = ChoiceBlock(P, k);
    if (size == 0) return 0;
    return GatePlaneWork::Bytes(G * P / size, P / size, t) +
           GatePlaneWork::Bytes(G * size, size, t) + (k + 2) * (G * t + kLanes) * sizeof(float);
  }
  __aicore__ inline explicit GateChoice(const GatePlanes& sizes)
      : at(sizes),
        size_(ChoiceBlock(sizes.P, sizes.k)),
        blocks_(size_ == 0 ? 1 : sizes.P / size_),
        outer_(GatePlanes(sizes, blocks_)),
        inner_(GatePlanes(sizes, size_ == 0 ? 1 : size_)) {}
  __aicore__ inline bool Used() const { return size_ != 0; }
  // In `spare`, a plane: the maxima, their Best; a block's keys and numbers, and what it gathers
  // by. In a buffer of its own: the earlier choices, and a lane's place in a row.
  __aicore__ inline void Init(const LocalTensor<float>& spare, const LocalTensor<float>& lane_bytes,
                              TPipe* pipe) {
    outer_.Init(pipe);
    inner_.Init(pipe);
    pipe->InitBuffer(all_wide_, (at.k + 2) * inner_.Width() * sizeof(float));
    wide_ = all_wide_.Get<float>();
    lane_bytes_ = wide_[at.k * inner_.Width()];
    best_ = lane_bytes_[inner_.Width()];
    inner_.Spread(lane_bytes_, lane_bytes, false);
    // rows that are no whole repeats are read a little further
    if (at.lanes % kLanes != 0) Duplicate(spare, 0.0f, at.plane);
    half_ = spare[at.plane / 2];
    maxima_ = spare;
    block_ = maxima_[blocks_ * at.lanes + kLanes];
    held_ = block_[blocks_ * at.lanes + kLanes];
    numbers_ = held_[size_ * at.lanes];
    places_ = numbers_[size_ * at.lanes];
  }
  __aicore__ inline void Begin(const LocalTensor<float>& keys) {
    LocalTensor<float> from = keys;
    uint32_t pitch = size_;
    for (uint32_t rows = size_ / 2; rows >= 1; rows /= 2) {
      Halve(rows == 1 ? maxima_ : half_, rows == 1 ? 1 : size_ / 2, from, pitch, rows);
      from = half_;
      pitch = size_ / 2;
    }
  }
  // The j-th choice: its key and its number in its group.
  __aicore__ inline void Next(const LocalTensor<float>& best, const LocalTensor<float>& index,
                              const LocalTensor<float>& keys, uint32_t j) {
    const uint32_t lanes = at.lanes, all = size_ * lanes, width = inner_.Width();
    const auto size = static_cast<float>(size_);
    outer_.Best(best, block_, maxima_);
    Mins(block_, block_, static_cast<float>(blocks_ - 1), lanes);  // there is none for a NaN
    Muls(index, block_, size, lanes);
    inner_.CountFrom(numbers_, index);
    Muls(places_, numbers_, static_cast<float>(lanes * sizeof(float)), all);
    inner_.template ByLane<RowOp::kAdd>(places_, places_, lane_bytes_);
    Cast(places_.ReinterpretCast<int32_t>(), places_, RoundMode::CAST_RINT, all);
    Gather(held_, keys, places_.ReinterpretCast<uint32_t>(), 0, all);
    for (uint32_t i = 0; i < j; ++i) Exclude(wide_[i * width]);
    inner_.Spread(best_, best, false);
    inner_.SelectWhere(places_, held_, CMPMODE::EQ, best_, numbers_, static_cast<float>(at.P));
    inner_.template Reduce<RowOp::kMin>(index, places_, places_);
    if (j + 1 == at.k) return;
    Exclude(inner_.Spread(wide_[j * width], index, false));
    const LocalTensor<float> next = places_[all - lanes];
    inner_.template Reduce<RowOp::kMax>(next, places_, held_);
    outer_.Scatter(maxima_, block_, next, true);
  }

 private:
  __aicore__ inline void Exclude(const LocalTensor<float>& chosen) {
    inner_.SelectWhere(held_, numbers_, CMPMODE::NE, chosen, held_, -1.0f / 0.0f);
  }
  // dst = the larger of the first and the next `rows` rows of each block
  __aicore__ inline void Halve(const LocalTensor<float>& dst, uint32_t dst_rows,
                               const LocalTensor<float>& src, uint32_t src_rows, uint32_t rows) {
    const uint32_t to = dst_rows * at.lanes, from = src_rows * at.lanes, count = rows * at.lanes;
    if (from / kBlock > UINT8_MAX) {
      for (uint32_t b = 0; b < blocks_; ++b) {
        Max(dst[b * to], src[b * from], src[b * from + count], count);
      }
      return;
    }
    const uint8_t to_step = to / kBlock, from_step = from / kBlock;
    for (uint32_t c = 0; c < count; c += kLanes) {
      for (uint32_t b = 0; b < blocks_; b += kMaxRepeats) {
        const LocalTensor<float> first = src[b * from + c];
        Max(dst[b * to + c], first, first[count], Min(kLanes, count - c),
            Min(kMaxRepeats, blocks_ - b),
            BinaryRepeatParams(1, 1, 1, to_step, from_step, from_step));
      }
    }
  }

  const GatePlanes at;
  const uint32_t size_, blocks_;
  GatePlaneWork outer_, inner_;
  LocalTensor<float> half_, maxima_, block_, held_, numbers_, places_, wide_, lane_bytes_, best_;
  TBuf<TPosition::VECCALC> all_wide_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_CHOICE_H_
