// Rows in the order of experts: what route, permute and unpermute share.
#ifndef MOGE_ASCEND_ROWS_H_
#define MOGE_ASCEND_ROWS_H_

#include "common.h"

namespace moge {

constexpr uint32_t kSlots = 2048;  // a core loads the rows of at most this many slots at once
constexpr uint32_t kZeroBytes = 8 * 1024;  // one transfer of zeros

// Rows in use come first; after them row_to_slot is -1. A binary search reads a few scalars instead
// of the whole tensor, and only one where nothing was dropped.
__aicore__ inline uint64_t RowsInUse(const GlobalTensor<int32_t>& row_to_slot, uint64_t N) {
  if (row_to_slot.GetValue(N - 1) >= 0) return N;
  uint64_t low = 0, high = N - 1;  // the first row that is not in use is in [low, high]
  while (low < high) {
    const uint64_t middle = (low + high) / 2;
    if (row_to_slot.GetValue(middle) < 0) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// Writes -1 to this core's share of the rows [used, N), which no slot has.
__aicore__ inline void MarkUnusedRows(const GlobalTensor<int32_t>& row_to_slot, uint64_t used,
                                      uint64_t N, TQue<TPosition::VECOUT, 1>& queue,
                                      uint32_t count) {
  const Share share = MyShare(N - used);
  if (share.begin == share.end) return;
  LocalTensor<int32_t> none = queue.AllocTensor<int32_t>();
  Duplicate(none, -1, count);
  queue.EnQue(none);
  none = queue.DeQue<int32_t>();
  for (uint64_t i = share.begin; i < share.end; i += count) {
    Store(row_to_slot[used + i], none, Min(count, share.end - i));
  }
  queue.FreeTensor(none);
}

// Sets this core's share of the rows [first, N) to zero.
template <typename T>
__aicore__ inline void ZeroRows(const GlobalTensor<T>& rows, uint64_t first, uint64_t N, uint64_t H,
                                TQue<TPosition::VECOUT, 1>& zeros) {
  constexpr uint32_t kCount = kZeroBytes / sizeof(T);
  const Share share = MyShare((N - first) * H);
  if (share.begin == share.end) return;
  LocalTensor<T> zero = zeros.AllocTensor<T>();
  Duplicate(zero, static_cast<T>(0), kCount);
  zeros.EnQue(zero);
  zero = zeros.DeQue<T>();
  for (uint64_t i = share.begin; i < share.end; i += kCount) {
    Store(rows[first * H + i], zero, Min(kCount, share.end - i));
  }
  zeros.FreeTensor(zero);
}

}  // namespace moge

#endif  // MOGE_ASCEND_ROWS_H_
