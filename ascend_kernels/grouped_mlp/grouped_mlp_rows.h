// The first and the last phase of the expert layer, on the vector cores: each token's row goes to
// its experts' rows, and the rows that they return are added up.
#ifndef MOGE_ASCEND_GROUPED_MLP_ROWS_H_
#define MOGE_ASCEND_GROUPED_MLP_ROWS_H_

#include "../rows.h"
#include "grouped_mlp_tiling.h"

namespace moge {

constexpr uint32_t kMlpColumns = 5120;   // the most of a part: a whole row of Pangu Pro MoE
constexpr uint32_t kMlpMinColumns = 64;  // the least: a repeat of float
constexpr uint32_t kMlpRows = 4;         // parts of rows that are in UB at a time
constexpr uint32_t kMlpSlots = 16;       // of a token that are known at a time

// A vector core's share: in a mix kernel, GetBlockNum counts the cube cores.
__aicore__ inline Share VectorShare(uint64_t total) {
  return ShareOf(total, GetBlockIdx(), static_cast<uint64_t>(GetBlockNum()) * GetSubBlockNum());
}

// This core's share of all tokens' parts, and slots of the token at hand. The scalar unit reads
// them from global memory: reading UB, it would wait for the vector pipe.
class TokenParts {
 public:
  __aicore__ inline void Init(GM_ADDR slot_to_row, GM_ADDR weights, const RowsTiling& tiling) {
    slot_to_row_ = Global<int32_t>(slot_to_row);
    weighted_ = weights != nullptr;
    if (weighted_) weights_ = Global<float>(weights);
    tiling_ = tiling;
    const Share share = VectorShare(tiling.T * tiling.parts);
    next_ = share.begin;
    end_ = share.end;
  }
  // Goes on to the next part and its token's first slots; false after the last one.
  __aicore__ inline bool Next() {
    if (next_ == end_) return false;
    token_ = next_ / tiling_.parts;
    part_ = next_ % tiling_.parts;
    ++next_;
    slot_ = 0;
    ReadSlots();
    return true;
  }
  // Goes on to the token's next slots; false after the last ones.
  __aicore__ inline bool NextSlots() {
    slot_ += kMlpSlots;
    if (slot_ >= tiling_.K) return false;
    ReadSlots();
    return true;
  }
  __aicore__ inline uint32_t Slots() const { return Min(kMlpSlots, tiling_.K - slot_); }
  __aicore__ inline uint64_t Slot() const { return token_ * tiling_.K + slot_; }  // of [T * K]
  __aicore__ inline uint64_t Token() const { return token_; }
  __aicore__ inline bool FirstPart() const { return part_ == 0; }
  __aicore__ inline uint32_t Column() const { return part_ * tiling_.columns; }
  __aicore__ inline uint32_t Columns() const { return Min(tiling_.columns, tiling_.H - Column()); }
  // Of the i-th of these slots: its row, or -1 if it was dropped, and its weight.
  __aicore__ inline int32_t Row(uint32_t i) const { return row_[i]; }
  __aicore__ inline float Weight(uint32_t i) const { return weight_[i]; }

 private:
  __aicore__ inline void ReadSlots() {
    for (uint32_t i = 0; i < Slots(); ++i) {
      row_[i] = slot_to_row_.GetValue(Slot() + i);
      weight_[i] = weighted_ && row_[i] >= 0 ? weights_.GetValue(Slot() + i) : 1.0f;
    }
  }

  GlobalTensor<int32_t> slot_to_row_;
  GlobalTensor<float> weights_;
  RowsTiling tiling_;
  bool weighted_ = false;
  uint64_t next_ = 0, end_ = 0;  // parts of this core's share that are left
  uint64_t token_ = 0;
  uint32_t part_ = 0, slot_ = 0;
  int32_t row_[kMlpSlots];
  float weight_[kMlpSlots];
};

// x [T, H] -> rows [N, H] and, if there is room for them, weights [T, K] -> row_weights [N]. Rows
// that no slot has stay as they are: nobody reads them.
template <typename T>
class SpreadRows {
 public:
  __aicore__ inline void Init(GM_ADDR x, GM_ADDR slot_to_row, GM_ADDR weights, GM_ADDR rows,
                              GM_ADDR row_weights, const RowsTiling& tiling) {
    parts_.Init(slot_to_row, nullptr, tiling);
    x_ = Global<T>(x);
    rows_ = Global<T>(rows);
    weighted_ = row_weights != nullptr;
    if (weighted_) {
      weights_ = Global<float>(weights);
      row_weights_ = Global<float>(row_weights);
    }
    H_ = tiling.H;
    LocalMemAllocator<> ub;
    for (uint32_t i = 0; i < kMlpRows; ++i) {
      part_[i] = ub.Alloc<TPosition::VECIN, T>(kMlpColumns);
      weight_[i] = ub.Alloc<TPosition::VECIN, float>(kMlpSlots * kPerBlock<float>);
    }
  }
  __aicore__ inline void Process() {
    for (uint32_t i = 0; i < kMlpRows; ++i) SetFlag<HardEvent::MTE3_MTE2>(i);
    while (parts_.Next()) {
      do {
        Spread();
      } while (parts_.NextSlots());
    }
    for (uint32_t i = 0; i < kMlpRows; ++i) WaitFlag<HardEvent::MTE3_MTE2>(i);
  }

 private:
  static_assert(kMlpRows * (kMlpColumns * sizeof(T) + kMlpSlots * kBlockBytes) <= kUbBytes, "UB");

  __aicore__ inline void Spread() {
    const uint32_t column = parts_.Column(), columns = parts_.Columns();
    const bool weighted = weighted_ && parts_.FirstPart();
    WaitFlag<HardEvent::MTE3_MTE2>(next_);
    Load(part_[next_], x_[parts_.Token() * H_ + column], columns);
    if (weighted) {  // each begins a block, since each is stored by itself
      DataCopyPad(weight_[next_], weights_[parts_.Slot()],
                  DataCopyExtParams(parts_.Slots(), sizeof(float), 0, 0, 0),
                  DataCopyPadExtParams<float>(false, 0, 0, 0.0f));
    }
    SetFlag<HardEvent::MTE2_MTE3>(next_);
    WaitFlag<HardEvent::MTE2_MTE3>(next_);
    for (uint32_t i = 0; i < parts_.Slots(); ++i) {
      const int32_t row = parts_.Row(i);
      if (row < 0) continue;  // the slot was dropped
      Store(rows_[static_cast<uint64_t>(row) * H_ + column], part_[next_], columns);
      if (weighted) Store(row_weights_[row], weight_[next_][i * kPerBlock<float>], 1);
    }
    SetFlag<HardEvent::MTE3_MTE2>(next_);
    next_ = (next_ + 1) % kMlpRows;
  }

  TokenParts parts_;
  GlobalTensor<T> x_, rows_;
  GlobalTensor<float> weights_, row_weights_;
  bool weighted_ = false;
  uint64_t H_ = 0;
  LocalTensor<T> part_[kMlpRows];
  LocalTensor<float> weight_[kMlpRows];
  int32_t next_ = 0;  // the buffer that is filled next
};

// rows [N, H] -> y [T, H]: in float32 and in the order of the token's slots. A bias is a row more
// for each slot, with the same weight: it is read from L2, and nothing is written for it.
template <typename T>
class SumRows {
 public:
  __aicore__ inline void Init(GM_ADDR rows, GM_ADDR slot_to_row, GM_ADDR weights, GM_ADDR y,
                              const RowsTiling& tiling) {
    parts_.Init(slot_to_row, weights, tiling);
    rows_ = Global<T>(rows);
    y_ = Global<T>(y);
    H_ = tiling.H;
    pitch_ = tiling.pitch;
    LocalMemAllocator<> ub;
    for (uint32_t i = 0; i < kMlpRows; ++i) {
      in_[i] = ub.Alloc<TPosition::VECIN, T>(kMlpColumns);
    }
    for (uint32_t i = 0; i < 2; ++i) out_[i] = ub.Alloc<TPosition::VECOUT, T>(kMlpColumns);
    if constexpr (!kIsFloat<T>) {
      floats_ = ub.Alloc<TPosition::VECCALC, float>(2 * kMlpColumns);
    }
  }
  // Each row has its expert's bias [E, H] added, if there is one: after Init.
  __aicore__ inline void TakeBias(GM_ADDR bias, GM_ADDR offsets, uint32_t E) {
    biased_ = bias != nullptr;
    if (!biased_) return;
    bias_ = Global<T>(bias);
    offsets_ = Global<int32_t>(offsets);
    E_ = E;
  }
  // ready() waits for the rows; the first slots are read before.
  template <typename Ready>
  __aicore__ inline void Process(Ready& ready) {
    for (uint32_t i = 0; i < kMlpRows; ++i) SetFlag<HardEvent::V_MTE2>(i);
    for (uint32_t i = 0; i < 2; ++i) SetFlag<HardEvent::MTE3_V>(i);
    bool any = parts_.Next();
    ready();
    for (; any; any = parts_.Next()) Sum();
    for (uint32_t i = 0; i < kMlpRows; ++i) WaitFlag<HardEvent::V_MTE2>(i);
    for (uint32_t i = 0; i < 2; ++i) WaitFlag<HardEvent::MTE3_V>(i);
  }

 private:
  static_assert((kMlpRows + 2) * kMlpColumns * sizeof(T) +
                        (kIsFloat<T> ? 0 : 2) * kMlpColumns * sizeof(float) <=
                    kUbBytes,
                "UB");

  __aicore__ inline void Sum() {
    const uint32_t column = parts_.Column(), columns = parts_.Columns();
    const LocalTensor<T>& out = out_[next_out_];
    LocalTensor<float> sum;
    if constexpr (kIsFloat<T>) {
      sum = out;
    } else {
      sum = floats_;
    }
    WaitFlag<HardEvent::MTE3_V>(next_out_);
    bool any = false;
    do {
      for (uint32_t i = 0; i < parts_.Slots(); ++i) {
        const int32_t row = parts_.Row(i);
        if (row < 0) continue;  // the slot was dropped
        Accumulate(sum, rows_[static_cast<uint64_t>(row) * pitch_ + column], parts_.Weight(i),
                   columns, !any);
        any = true;
        if (!biased_) continue;
        Accumulate(sum, bias_[ExpertOf(row) * H_ + column], parts_.Weight(i), columns, false);
      }
    } while (parts_.NextSlots());
    if (!any) Duplicate(sum, 0.0f, columns);
    if constexpr (!kIsFloat<T>) Narrow(out, sum, columns);
    SetFlag<HardEvent::V_MTE3>(next_out_);
    WaitFlag<HardEvent::V_MTE3>(next_out_);
    Store(y_[parts_.Token() * H_ + column], out, columns);
    SetFlag<HardEvent::MTE3_V>(next_out_);
    next_out_ ^= 1;
  }
  // The expert whose rows [offsets[e], offsets[e + 1]) have this one.
  __aicore__ inline uint64_t ExpertOf(int32_t row) const {
    uint32_t low = 0, high = E_ - 1;
    while (low < high) {
      const uint32_t middle = (low + high) / 2;
      if (offsets_.GetValue(middle + 1) > row) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
  __aicore__ inline void Accumulate(const LocalTensor<float>& sum, const GlobalTensor<T>& row,
                                    float weight, uint32_t columns, bool first) {
    const LocalTensor<T>& in = in_[next_in_];
    WaitFlag<HardEvent::V_MTE2>(next_in_);
    Load(in, row, columns);
    SetFlag<HardEvent::MTE2_V>(next_in_);
    WaitFlag<HardEvent::MTE2_V>(next_in_);
    LocalTensor<float> wide;
    if constexpr (kIsFloat<T>) {
      wide = in;
    } else {
      wide = floats_[kMlpColumns];
      Widen(wide, in, columns);
    }
    if (first) {
      Muls(sum, wide, weight, columns);
    } else {
      Axpy(sum, wide, weight, columns);
    }
    SetFlag<HardEvent::V_MTE2>(next_in_);
    next_in_ = (next_in_ + 1) % kMlpRows;
  }

  TokenParts parts_;
  GlobalTensor<T> rows_, y_, bias_;
  GlobalTensor<int32_t> offsets_;
  bool biased_ = false;
  uint32_t E_ = 0;
  uint64_t H_ = 0, pitch_ = 0;
  LocalTensor<T> in_[kMlpRows], out_[2];
  LocalTensor<float> floats_;
  int32_t next_in_ = 0, next_out_ = 0;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_ROWS_H_
