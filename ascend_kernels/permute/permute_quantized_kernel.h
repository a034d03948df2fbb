// Makes integers of each token's row and copies them to the rows of its experts.
#ifndef MOGE_ASCEND_PERMUTE_QUANTIZED_KERNEL_H_
#define MOGE_ASCEND_PERMUTE_QUANTIZED_KERNEL_H_

#include "../quantize/row_quantizer.h"
#include "permute_tiling.h"

namespace moge {

// x [T, H] -> rows [N, H] int8, row_scale [N]. A token is quantised once for all of its slots, or
// where there are fewer tokens than cores, by each core that has some of them. Rows that no slot
// has stay as they are: nobody reads them.
// kPlanes: a row of integers is two of four bits each, [N, 2, H / 2].
template <typename T, bool kPlanes = false>
class SpreadQuantized {
 public:
  __aicore__ inline void Init(GM_ADDR x, GM_ADDR slot_to_row, GM_ADDR rows, GM_ADDR row_scale,
                              const PermuteQuantizedTiling& tiling) {
    tiles_.Init(x, tiling.x);
    slot_to_row_ = Global<int32_t>(slot_to_row);
    rows_ = Global<int8_t>(rows);
    row_scale_ = Global<float>(row_scale);
    tiling_ = tiling;
  }
  // The share is of all parts of the tokens' slots.
  __aicore__ inline void Process(const Share& share) {
    const QuantizeTiling& x = tiling_.x;
    const uint32_t K = tiling_.K, parts = tiling_.parts;
    for (uint64_t unit = share.begin; unit < share.end; unit += x.rows) {
      const uint32_t part = unit % parts, tokens = Min(x.rows, share.end - unit);
      const uint64_t first = unit / parts;
      const uint32_t begin = K * part / parts, end = K * (part + 1) / parts;
      tiles_(first, tokens,
             [&](const LocalTensor<int8_t>& q, uint32_t column, uint32_t columns,
                 const LocalTensor<float>& scales) {
               for (uint32_t t = 0; t < tokens; ++t) {
                 for (uint32_t slot = begin; slot < end; ++slot) {
                   // the scalar unit reads this while the vector unit works
                   const int32_t row = slot_to_row_.GetValue((first + t) * K + slot);
                   if (row < 0) continue;  // the slot was dropped
                   StoreRow(row, q, t, column, columns);
                   if (column == 0) Store(row_scale_[row], scales[t * kPerBlock<float>], 1);
                 }
               }
             });
    }
    tiles_.Finish();
  }

 private:
  // The t-th row of a tile.
  __aicore__ inline void StoreRow(uint64_t row, const LocalTensor<int8_t>& q, uint32_t t,
                                  uint32_t column, uint32_t columns) {
    const uint64_t I = tiling_.x.I;
    const GlobalTensor<int8_t> to = rows_[row * I];
    if constexpr (kPlanes) {
      const LocalTensor<int8_t> low = q[kQuantizeTile<T> / 2];
      const uint32_t from = t * columns / 2;
      Store(to[column / 2], q[from], columns / 2);
      Store(to[(I + column) / 2], low[from], columns / 2);
    } else {
      Store(to[column], q[t * columns], columns);
    }
  }

  TileQuantizer<T, kPlanes> tiles_;
  GlobalTensor<int32_t> slot_to_row_;
  GlobalTensor<int8_t> rows_;
  GlobalTensor<float> row_scale_;
  PermuteQuantizedTiling tiling_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_PERMUTE_QUANTIZED_KERNEL_H_
