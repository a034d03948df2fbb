// What every backward pass of a weighted activation has: the walk over rows, their weights, and the
// sums of g act that these weights' gradients are.
#ifndef MOGE_ASCEND_GROUPED_MLP_ACT_BWD_ROWS_H_
#define MOGE_ASCEND_GROUPED_MLP_ACT_BWD_ROWS_H_

#include "../common.h"
#include "grouped_mlp_tiling.h"

namespace moge {

constexpr uint32_t kMlpActBwdRows = 64;  // whose sums are stored together
// the lanes of these sums, two buffers for the sums and two for what is added to them
constexpr uint32_t kMlpActBwdRowsBytes =
    kMlpActBwdRows * (kPerRepeat<float> + 2 + 2) * sizeof(float);

struct GroupedMlpActBwdTensors {
  GM_ADDR g;
  GM_ADDR pre;
  GM_ADDR row_weights;
  GM_ADDR more;    // [N] float, what d_row_weights has besides, or none
  GM_ADDR series;  // [2, terms] float, or none
  GM_ADDR d_pre;
  GM_ADDR act;
  GM_ADDR d_row_weights;
  GM_ADDR d_series;  // [cores, kMlpSeriesSums] float, each core's part, or none
};

// Adds `columns` numbers to 64 sums.
__aicore__ inline void SumToLanes(const LocalTensor<float>& lanes, const LocalTensor<float>& row,
                                  uint32_t columns) {
  const uint32_t whole = columns / kPerRepeat<float>, rest = columns % kPerRepeat<float>;
  const BinaryRepeatParams running(1, 1, 1, 0, 8, 0);
  if (whole != 0) Add(lanes, row, lanes, kPerRepeat<float>, whole, running);
  if (rest != 0) Add(lanes, lanes, row[whole * kPerRepeat<float>], rest);
}

template <typename T>
class GroupedMlpActBwdRows {
 public:
  // Some whole rows, or a part of one.
  struct Tile {
    uint64_t row, column;
    uint32_t rows, columns;
  };

  __aicore__ inline void Init(const GroupedMlpActBwdTensors& gm, TPipe* pipe) {
    row_weights_ = Global<float>(gm.row_weights);
    d_row_weights_ = Global<float>(gm.d_row_weights);
    more_ = gm.more != nullptr;
    pipe->InitBuffer(lanes_, kMlpActBwdRows * kPerRepeat<float> * sizeof(float));
    pipe->InitBuffer(sums_, 2, kMlpActBwdRows * sizeof(float));
    if (!more_) return;
    more_of_rows_ = Global<float>(gm.more);
    pipe->InitBuffer(more_queue_, 2, kMlpActBwdRows * sizeof(float));
  }
  // differentiate(tile, lanes of its rows' sums)
  template <typename Differentiate>
  __aicore__ inline void Process(const SwigluTiling& tiling, Differentiate& differentiate) {
    const Share share = MyShare(tiling.N);
    LocalTensor<float> lanes = lanes_.Get<float>();
    for (uint64_t first = share.begin; first < share.end; first += kMlpActBwdRows) {
      const uint32_t count = Min(kMlpActBwdRows, share.end - first);
      Duplicate(lanes, 0.0f, count * kPerRepeat<float>);
      for (uint32_t row = 0; row < count; row += tiling.rows) {
        const uint32_t rows = Min(tiling.rows, count - row);
        for (uint64_t column = 0; column < tiling.F; column += tiling.columns) {
          const Tile tile{first + row, column, rows,
                          static_cast<uint32_t>(Min(tiling.columns, tiling.F - column))};
          differentiate(tile, lanes[row * kPerRepeat<float>]);
        }
      }
      StoreSums(first, count, lanes);
    }
  }
  // Adds g act to 64 sums of each row, one repeat after the other; they are added up at the end.
  __aicore__ inline void AddUp(const Tile& tile, const LocalTensor<float>& lanes,
                               const LocalTensor<float>& g, const LocalTensor<float>& act,
                               const LocalTensor<float>& products) const {
    const uint32_t pitch = RoundUp(tile.columns, kPerBlock<T>);
    Mul(products, g, act, tile.rows * pitch);
    for (uint32_t i = 0; i < tile.rows; ++i) {
      SumToLanes(lanes[i * kPerRepeat<float>], products[i * pitch], tile.columns);
    }
  }
  // Rows times their weights, which the scalar unit reads from global memory: to read UB it would
  // have to wait until the vector unit is idle.
  __aicore__ inline void Weigh(const Tile& tile, const LocalTensor<float>& x) const {
    const uint32_t pitch = RoundUp(tile.columns, kPerBlock<T>);
    for (uint32_t i = 0; i < tile.rows; ++i) {
      Muls(x[i * pitch], x[i * pitch], row_weights_.GetValue(tile.row + i), pitch);
    }
  }
  __aicore__ inline void Weigh(const Tile& tile, const LocalTensor<float>& x,
                               const LocalTensor<float>& y) const {
    const uint32_t pitch = RoundUp(tile.columns, kPerBlock<T>);
    for (uint32_t i = 0; i < tile.rows; ++i) {
      const float weight = row_weights_.GetValue(tile.row + i);
      Muls(x[i * pitch], x[i * pitch], weight, pitch);
      Muls(y[i * pitch], y[i * pitch], weight, pitch);
    }
  }

 private:
  __aicore__ inline void StoreSums(uint64_t first, uint32_t count,
                                   const LocalTensor<float>& lanes) {
    LocalTensor<float> sums = sums_.AllocTensor<float>();
    ReduceRepeat<ReduceType::SUM>(sums, lanes, kPerRepeat<float>, count, 1, 1, 8);
    if (more_) AddMore(sums, first, count);
    sums_.EnQue(sums);
    sums = sums_.DeQue<float>();
    Store(d_row_weights_[first], sums, count);
    sums_.FreeTensor(sums);
  }
  __aicore__ inline void AddMore(const LocalTensor<float>& sums, uint64_t first, uint32_t count) {
    LocalTensor<float> more = more_queue_.AllocTensor<float>();
    Load(more, more_of_rows_[first], count);
    more_queue_.EnQue(more);
    more = more_queue_.DeQue<float>();
    Add(sums, sums, more, count);
    more_queue_.FreeTensor(more);
  }

  GlobalTensor<float> row_weights_, more_of_rows_, d_row_weights_;
  bool more_ = false;
  TQue<TPosition::VECIN, 1> more_queue_;
  TQue<TPosition::VECOUT, 1> sums_;
  TBuf<TPosition::VECCALC> lanes_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_ACT_BWD_ROWS_H_
