// Copies each token's row to the rows of its experts: it is read once and written K times.
#ifndef MOGE_ASCEND_PERMUTE_KERNEL_H_
#define MOGE_ASCEND_PERMUTE_KERNEL_H_

#include "../rows.h"
#include "permute_tiling.h"

namespace moge {

// A tile has room for four rows of H = 5120 in 16 bits. With three of them one can be read while
// another is written.
constexpr uint32_t kPermuteTileBytes = 40 * 1024;
constexpr uint32_t kPermuteTiles = 3;
static_assert(kPermuteTiles * kPermuteTileBytes + 2 * kSlots * sizeof(int32_t) + kZeroBytes <=
                  kUbBytes,
              "UB");

template <typename T>
class PermuteFwd {
 public:
  __aicore__ inline void Init(GM_ADDR x, GM_ADDR row_to_slot, GM_ADDR slot_to_row, GM_ADDR rows,
                              const PermuteTiling& tiling, TPipe* pipe) {
    x_ = Global<T>(x);
    row_to_slot_ = Global<int32_t>(row_to_slot);
    slot_to_row_ = Global<int32_t>(slot_to_row);
    rows_ = Global<T>(rows);
    H_ = tiling.H;
    K_ = tiling.K;
    pipe->InitBuffer(tile_, kPermuteTiles, kPermuteTileBytes);
    pipe->InitBuffer(slots_, 2, kSlots * sizeof(int32_t));
    pipe->InitBuffer(zeros_, 1, kZeroBytes);
  }
  __aicore__ inline void Process(const PermuteTiling& tiling) {
    const Share share = MyShare(tiling.T);
    for (uint64_t first = share.begin; first < share.end; first += tiling.tokens) {
      const uint32_t tokens = Min(tiling.tokens, share.end - first);
      LocalTensor<int32_t> slots = slots_.AllocTensor<int32_t>();
      Load(slots, slot_to_row_[first * K_], tokens * K_);
      slots_.EnQue(slots);
      slots = slots_.DeQue<int32_t>();
      for (uint32_t t = 0; t < tokens; t += tiling.rows) {
        for (uint64_t column = 0; column < H_; column += tiling.columns) {
          Move(slots[t * K_], first + t, Min(tiling.rows, tokens - t), column,
               Min(tiling.columns, H_ - column));
        }
      }
      slots_.FreeTensor(slots);
    }
    const uint64_t N = tiling.T * K_;
    ZeroRows(rows_, RowsInUse(row_to_slot_, N), N, H_, zeros_);
  }

 private:
  __aicore__ inline void Move(const LocalTensor<int32_t>& slots, uint64_t token, uint32_t tokens,
                              uint64_t column, uint32_t columns) {
    LocalTensor<T> tile = tile_.template AllocTensor<T>();
    DataCopyPad(tile, x_[token * H_ + column],
                DataCopyExtParams(tokens, columns * sizeof(T), 0, 0, 0),
                DataCopyPadExtParams<T>(false, 0, 0, static_cast<T>(0)));
    tile_.EnQue(tile);
    tile = tile_.template DeQue<T>();
    const uint32_t pitch = RoundUp(columns, kPerBlock<T>);
    for (uint32_t i = 0; i < tokens * K_; ++i) {
      const int32_t row = slots.GetValue(i);
      if (row < 0) continue;  // the slot was dropped
      Store(rows_[static_cast<uint64_t>(row) * H_ + column], tile[i / K_ * pitch], columns);
    }
    tile_.FreeTensor(tile);
  }

  GlobalTensor<T> x_, rows_;
  GlobalTensor<int32_t> row_to_slot_, slot_to_row_;
  uint64_t H_ = 0;
  uint32_t K_ = 0;
  TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> tile_;
  TQue<TPosition::VECIN, 1> slots_;
  TQue<TPosition::VECOUT, 1> zeros_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_PERMUTE_KERNEL_H_
