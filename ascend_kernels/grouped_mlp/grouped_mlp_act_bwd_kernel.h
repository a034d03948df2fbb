// The backward pass of the weighted activation, which lies between the expert layer's two products:
// element by element, but for one sum over each row.
#ifndef MOGE_ASCEND_GROUPED_MLP_ACT_BWD_KERNEL_H_
#define MOGE_ASCEND_GROUPED_MLP_ACT_BWD_KERNEL_H_

#include "../swiglu/swiglu_kernel.h"

namespace moge {

// Elements of one operand's tile, which is some whole rows (two of Pangu Pro MoE) or a part of one.
// UB holds two buffers for each of three inputs and three results, of 2 or 4 bytes an element, then
// the float temporaries, and the weights and sums of the rows.
constexpr uint32_t kMlpActBwdTile = 2688;
constexpr uint32_t kMlpActBwdRows = 1024;  // whose weights are loaded together
constexpr uint32_t kMlpActBwdPartials = kRepeatBytes / sizeof(float);
constexpr uint32_t kMlpActBwdSmall = (3 * kMlpActBwdRows + kMlpActBwdPartials) * sizeof(float);
static_assert(kMlpActBwdTile * (2 * 6 * 2 + 6 * 4) + kMlpActBwdSmall <= kUbBytes, "UB, 2 bytes");
static_assert(kMlpActBwdTile * (2 * 6 * 4 + 3 * 4) + kMlpActBwdSmall <= kUbBytes, "UB, 4 bytes");
static_assert(kMlpActBwdTile <= kMlpActBwdPartials * kMlpActBwdPartials,
              "two reductions end a sum");

// The layer is y = w (act D'), act = SwiGLU(pre). The product before gave g = d_y D for each row:
//   d_w = sum(g act),  d_pre = SwiGLU'(pre) (w g),  and w act is what the gradient of D multiplies.
template <typename T>
class GroupedMlpActBwd {
 public:
  __aicore__ inline void Init(GM_ADDR g, GM_ADDR pre, GM_ADDR row_weights, GM_ADDR d_pre,
                              GM_ADDR act, GM_ADDR d_row_weights, const SwigluTiling& tiling,
                              TPipe* pipe) {
    g_ = Global<T>(g);
    pre_ = Global<T>(pre);
    row_weights_ = Global<float>(row_weights);
    d_pre_ = Global<T>(d_pre);
    act_ = Global<T>(act);
    d_row_weights_ = Global<float>(d_row_weights);
    F_ = tiling.F;
    pipe->InitBuffer(in_, 2, 3 * kTile * sizeof(T));
    pipe->InitBuffer(out_, 2, 3 * kTile * sizeof(T));
    pipe->InitBuffer(floats_, (kIsFloat<T> ? 3 : 6) * kTile * sizeof(float));
    pipe->InitBuffer(weights_, 1, kMlpActBwdRows * sizeof(float));
    pipe->InitBuffer(sums_, 2, kMlpActBwdRows * sizeof(float));
    pipe->InitBuffer(partials_, kMlpActBwdPartials * sizeof(float));
  }
  __aicore__ inline void Process(const SwigluTiling& tiling) {
    const Share share = MyShare(tiling.N);
    for (uint64_t first = share.begin; first < share.end; first += kMlpActBwdRows) {
      const uint32_t count = Min(kMlpActBwdRows, share.end - first);
      LocalTensor<float> weights = weights_.AllocTensor<float>();
      Load(weights, row_weights_[first], count);
      weights_.EnQue(weights);
      weights = weights_.DeQue<float>();
      LocalTensor<float> sums = sums_.AllocTensor<float>();
      for (uint32_t row = 0; row < count; row += tiling.rows) {
        const uint32_t rows = Min(tiling.rows, count - row);
        for (uint64_t column = 0; column < F_; column += tiling.columns) {
          const Tile tile{first + row, column, rows,
                          static_cast<uint32_t>(Min(tiling.columns, F_ - column))};
          CopyIn(tile);
          Compute(tile, weights[row]);
          CopyOut(tile);
        }
        const uint32_t pitch = RoundUp(tiling.columns, kPerBlock<T>);
        for (uint32_t i = 0; i < rows; ++i) Sum(sums[row + i], Dots()[i * pitch], tiling.columns);
      }
      weights_.FreeTensor(weights);
      sums_.EnQue(sums);
      sums = sums_.DeQue<float>();
      Store(d_row_weights_[first], sums, count);
      sums_.FreeTensor(sums);
    }
  }

 private:
  static constexpr uint32_t kTile = kMlpActBwdTile;
  struct Tile {
    uint64_t row, column;
    uint32_t rows, columns;
  };

  // g act, added up over the parts of a row
  __aicore__ inline LocalTensor<float> Dots() { return floats_.template Get<float>(); }

  __aicore__ inline void CopyIn(const Tile& tile) {
    LocalTensor<T> in = in_.template AllocTensor<T>();
    const uint64_t at = tile.row * 2 * F_ + tile.column;
    LoadTile(in, pre_[at], tile, 2 * F_);
    LoadTile(in[kTile], pre_[at + F_], tile, 2 * F_);
    LoadTile(in[2 * kTile], g_[tile.row * F_ + tile.column], tile, F_);
    in_.EnQue(in);
  }
  __aicore__ inline void Compute(const Tile& tile, const LocalTensor<float>& weights) {
    LocalTensor<T> in = in_.template DeQue<T>();
    LocalTensor<T> out = out_.template AllocTensor<T>();
    LocalTensor<float> tmp = Dots()[kTile], act = Dots()[2 * kTile];
    const uint32_t pitch = RoundUp(tile.columns, kPerBlock<T>);
    if constexpr (kIsFloat<T>) {
      const LocalTensor<float> g = in[2 * kTile];
      Weigh(tile, pitch, weights, out[2 * kTile], in, in[kTile], g, tmp);
      Derive(out, out[kTile], in, in[kTile], g, tmp, act, tile.rows * pitch);
    } else {
      const uint32_t count = tile.rows * pitch;
      LocalTensor<float> gate = Dots()[3 * kTile], up = Dots()[4 * kTile], g = Dots()[5 * kTile];
      Widen(gate, in, count);
      Widen(up, in[kTile], count);
      Widen(g, in[2 * kTile], count);
      Weigh(tile, pitch, weights, act, gate, up, g, tmp);
      Narrow(out[2 * kTile], act, count);
      // `up` is read before d_gate takes its place, `g` before d_up does
      Derive(up, g, gate, up, g, tmp, act, count);
      Narrow(out, up, count);
      Narrow(out[kTile], g, count);
    }
    in_.FreeTensor(in);
    out_.EnQue(out);
  }
  // The activation, its products with g, and then both factors times the row's weight.
  __aicore__ inline void Weigh(const Tile& tile, uint32_t pitch, const LocalTensor<float>& weights,
                               const LocalTensor<float>& act, const LocalTensor<float>& gate,
                               const LocalTensor<float>& up, const LocalTensor<float>& g,
                               const LocalTensor<float>& tmp) {
    const uint32_t count = tile.rows * pitch;
    Activate(act, gate, up, tmp, count);
    if (tile.column == 0) {
      Mul(Dots(), g, act, count);
    } else {
      Mul(tmp, g, act, count);
      Add(Dots(), Dots(), tmp, count);
    }
    for (uint32_t i = 0; i < tile.rows; ++i) {
      const float weight = weights.GetValue(i);
      Muls(act[i * pitch], act[i * pitch], weight, pitch);
      Muls(g[i * pitch], g[i * pitch], weight, pitch);
    }
  }
  // Writes one float; `dst` may be any multiple of 4 bytes. The values past the last whole repeat
  // are summed under a mask of their own.
  __aicore__ inline void Sum(const LocalTensor<float>& dst, const LocalTensor<float>& values,
                             uint32_t count) {
    LocalTensor<float> partials = partials_.Get<float>();
    const uint32_t whole = count / kMlpActBwdPartials, rest = count % kMlpActBwdPartials;
    if (whole != 0) {
      ReduceRepeat<ReduceType::SUM>(partials, values, kMlpActBwdPartials, whole, 1, 1, 8);
    }
    if (rest != 0) {
      ReduceRepeat<ReduceType::SUM>(partials[whole], values[whole * kMlpActBwdPartials], rest, 1, 1,
                                    1, 8);
    }
    ReduceRepeat<ReduceType::SUM>(dst, partials, whole + (rest != 0 ? 1 : 0), 1, 1, 1, 8);
  }
  __aicore__ inline void CopyOut(const Tile& tile) {
    LocalTensor<T> out = out_.template DeQue<T>();
    const uint64_t at = tile.row * 2 * F_ + tile.column;
    StoreTile(d_pre_[at], out, tile, 2 * F_);
    StoreTile(d_pre_[at + F_], out[kTile], tile, 2 * F_);
    StoreTile(act_[tile.row * F_ + tile.column], out[2 * kTile], tile, F_);
    out_.FreeTensor(out);
  }

  GlobalTensor<T> g_, pre_, d_pre_, act_;
  GlobalTensor<float> row_weights_, d_row_weights_;
  uint64_t F_ = 0;
  TQue<TPosition::VECIN, 1> in_, weights_;
  TQue<TPosition::VECOUT, 1> out_, sums_;
  TBuf<TPosition::VECCALC> floats_, partials_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_ACT_BWD_KERNEL_H_
