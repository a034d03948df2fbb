// The backward pass of the weighted activation, which lies between the expert layer's two products:
// element by element, but for one sum over each row.
#ifndef MOGE_ASCEND_GROUPED_MLP_ACT_BWD_KERNEL_H_
#define MOGE_ASCEND_GROUPED_MLP_ACT_BWD_KERNEL_H_

#include "grouped_mlp_choice_bwd.h"

namespace moge {

// Elements of one operand's tile, which is some whole rows (two of Pangu Pro MoE) or a part of one.
// UB holds two buffers for each of three inputs and three results, of 2 or 4 bytes an element, then
// the float temporaries, of which every second one lies apart from the others, and the sums of the
// rows, and a block of ones.
constexpr uint32_t kMlpActBwdTile = 2752;
static_assert(LieApart(kMlpActBwdTile * 4), "banks");
constexpr uint32_t kMlpActBwdSmall = kMlpActBwdRowsBytes + kBlockBytes;
static_assert(kMlpActBwdTile <= kMaxRepeats * kPerRepeat<float>, "repeats");
static_assert(kMlpActBwdTile * (2 * 6 * 2 + 6 * 4) + kMlpActBwdSmall <= kUbBytes, "UB, 2 bytes");
static_assert(kMlpActBwdTile * (2 * 6 * 4 + 3 * 4) + kMlpActBwdSmall <= kUbBytes, "UB, 4 bytes");

// The layer is y = w (act D'), act = SwiGLU(pre). The product before gave g = d_y D for each row:
//   d_w = sum(g act),  d_pre = SwiGLU'(pre) (w g),  and w act is what the gradient of D multiplies.
// SwiGLU has a shorter way than any other activation.
template <typename T>
class GroupedMlpSwigluBwd {
 public:
  using Tile = typename GroupedMlpActBwdRows<T>::Tile;

  __aicore__ inline void Init(const GroupedMlpActBwdTensors& gm,
                              const GroupedMlpActBwdTiling& tiling, TPipe* pipe) {
    g_ = Global<T>(gm.g);
    pre_ = Global<T>(gm.pre);
    d_pre_ = Global<T>(gm.d_pre);
    act_ = Global<T>(gm.act);
    F_ = tiling.tiles.F;
    pipe->InitBuffer(in_, 2, 3 * kTile * sizeof(T));
    pipe->InitBuffer(out_, 2, 3 * kTile * sizeof(T));
    pipe->InitBuffer(floats_, (kIsFloat<T> ? 3 : 6) * kTile * sizeof(float));
    rows_.Init(gm, pipe);
    pipe->InitBuffer(one_, kBlockBytes);
    Duplicate(one_.Get<float>(), 1.0f, kPerBlock<float>);
  }
  __aicore__ inline void Process(const GroupedMlpActBwdTiling& tiling) {
    rows_.Process(tiling.tiles, *this);
  }
  __aicore__ inline void operator()(const Tile& tile, const LocalTensor<float>& lanes) {
    CopyIn(tile);
    Compute(tile, lanes);
    CopyOut(tile);
  }

 private:
  static constexpr uint32_t kTile = kMlpActBwdTile;

  __aicore__ inline void CopyIn(const Tile& tile) {
    LocalTensor<T> in = in_.template AllocTensor<T>();
    const uint64_t at = tile.row * 2 * F_ + tile.column;
    LoadTile(in, pre_[at], tile, 2 * F_);
    LoadTile(in[kTile], pre_[at + F_], tile, 2 * F_);
    LoadTile(in[2 * kTile], g_[tile.row * F_ + tile.column], tile, F_);
    in_.EnQue(in);
  }
  __aicore__ inline void Compute(const Tile& tile, const LocalTensor<float>& lanes) {
    LocalTensor<T> in = in_.template DeQue<T>();
    LocalTensor<T> out = out_.template AllocTensor<T>();
    LocalTensor<float> silu = floats_.template Get<float>();
    LocalTensor<float> slope = silu[kTile], tmp = silu[2 * kTile];
    const uint32_t count = tile.rows * RoundUp(tile.columns, kPerBlock<T>);
    if constexpr (kIsFloat<T>) {
      const LocalTensor<float> up = in[kTile], g = in[2 * kTile], act = out[2 * kTile];
      Activate(silu, slope, in, tmp, count);
      Mul(act, silu, up, count);
      rows_.AddUp(tile, lanes, g, act, tmp);
      rows_.Weigh(tile, act, g);
      Derive(out, out[kTile], up, g, silu, slope, count);
    } else {
      LocalTensor<float> gate = silu[3 * kTile], g = silu[4 * kTile], up = silu[5 * kTile];
      Widen(gate, in, count);
      Widen(up, in[kTile], count);
      Widen(g, in[2 * kTile], count);
      Activate(silu, slope, gate, tmp, count);
      const LocalTensor<float>& act = gate;  // which is not read any more
      Mul(act, silu, up, count);
      rows_.AddUp(tile, lanes, g, act, tmp);
      rows_.Weigh(tile, act, g);
      Narrow(out[2 * kTile], act, count);
      Derive(tmp, silu, up, g, silu, slope, count);
      Narrow(out, tmp, count);
      Narrow(out[kTile], silu, count);
    }
    in_.FreeTensor(in);
    out_.EnQue(out);
  }
  __aicore__ inline void CopyOut(const Tile& tile) {
    LocalTensor<T> out = out_.template DeQue<T>();
    const uint64_t at = tile.row * 2 * F_ + tile.column;
    StoreTile(d_pre_[at], out, tile, 2 * F_);
    StoreTile(d_pre_[at + F_], out[kTile], tile, 2 * F_);
    StoreTile(act_[tile.row * F_ + tile.column], out[2 * kTile], tile, F_);
    out_.FreeTensor(out);
  }

  // s = sigmoid(gate): silu = gate s, and its slope s (1 + gate - silu)
  __aicore__ inline void Activate(const LocalTensor<float>& silu, const LocalTensor<float>& slope,
                                  const LocalTensor<float>& gate, const LocalTensor<float>& sigmoid,
                                  uint32_t count) {
    Muls(sigmoid, gate, -1.0f, count);
    Exp(sigmoid, sigmoid, count);
    Adds(sigmoid, sigmoid, 1.0f, count);
    Invert(sigmoid, count);
    Mul(silu, gate, sigmoid, count);
    Sub(slope, gate, silu, count);
    Adds(slope, slope, 1.0f, count);
    Mul(slope, slope, sigmoid, count);
  }
  __aicore__ inline void Invert(const LocalTensor<float>& x, uint32_t count) {
    const BinaryRepeatParams params(1, 0, 1, 8, 0, 8);  // the same block of ones for all
    const uint32_t whole = count / kPerRepeat<float>, rest = count % kPerRepeat<float>;
    const LocalTensor<float> one = one_.Get<float>(), last = x[whole * kPerRepeat<float>];
    if (whole != 0) Div(x, one, x, kPerRepeat<float>, whole, params);
    if (rest != 0) Div(last, one, last, rest, 1, params);
  }
  // d_gate = g up slope, d_up = g silu, with the weighted g. Of up, g and silu any two are factors,
  // so two of them lie in the same groups of banks: g and silu.
  __aicore__ inline void Derive(const LocalTensor<float>& d_gate, const LocalTensor<float>& d_up,
                                const LocalTensor<float>& up, const LocalTensor<float>& g,
                                const LocalTensor<float>& silu, const LocalTensor<float>& slope,
                                uint32_t count) {
    Mul(d_gate, g, up, count);
    Mul(d_gate, d_gate, slope, count);
    Mul(d_up, g, silu, count);
  }

  GroupedMlpActBwdRows<T> rows_;
  GlobalTensor<T> g_, pre_, d_pre_, act_;
  uint64_t F_ = 0;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> floats_, one_;
};

template <typename T>
__aicore__ inline void GroupedMlpActBwd(const GroupedMlpActBwdTensors& gm,
                                        const GroupedMlpActBwdTiling& tiling, TPipe* pipe) {
  if (IsSwiglu(tiling.activation)) {
    GroupedMlpSwigluBwd<T> kernel;
    kernel.Init(gm, tiling, pipe);
    kernel.Process(tiling);
  } else {
    GroupedMlpChoiceBwd<T> kernel;
    kernel.Init(gm, tiling, pipe);
    kernel.Process(tiling);
  }
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_ACT_BWD_KERNEL_H_
