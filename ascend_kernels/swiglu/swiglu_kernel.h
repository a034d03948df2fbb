// SwiGLU and its gradient, element by element. A tile is some whole rows, or a part of one row.
#ifndef MOGE_ASCEND_SWIGLU_KERNEL_H_
#define MOGE_ASCEND_SWIGLU_KERNEL_H_

#include "../common.h"
#include "swiglu_tiling.h"

namespace moge {

// Elements of one operand's tile, whose rows are rounded up to 32 bytes. UB holds two buffers for
// each operand, of 2 or 4 bytes an element, and the float temporaries. Of these, every second one
// lies apart from the others: the order is such that no instruction reads two of one kind.
constexpr uint32_t kSwigluFwdTile = 6464;
constexpr uint32_t kSwigluBwdTile = 3904;
static_assert(LieApart(kSwigluFwdTile * 4) && LieApart(kSwigluBwdTile * 4), "banks");
static_assert(kSwigluFwdTile * (2 * 3 * 2 + 3 * 4) <= kUbBytes, "UB, forward, 2 bytes");
static_assert(kSwigluFwdTile * (2 * 3 * 4 + 1 * 4) <= kUbBytes, "UB, forward, 4 bytes");
static_assert(kSwigluBwdTile * (2 * 5 * 2 + 5 * 4) <= kUbBytes, "UB, backward, 2 bytes");
static_assert(kSwigluBwdTile * (2 * 5 * 4 + 2 * 4) <= kUbBytes, "UB, backward, 4 bytes");

// Walks over this core's share of the tiles of an [N, F] matrix.
class SwigluTiles {
 public:
  __aicore__ inline explicit SwigluTiles(const SwigluTiling& tiling) : tiling_(tiling) {
    per_row_ = CeilDiv(tiling.F, tiling.columns);
    share_ = MyShare(CeilDiv(tiling.N, tiling.rows) * per_row_);
  }
  __aicore__ inline bool Next() {
    if (share_.begin == share_.end) return false;
    row = share_.begin / per_row_ * tiling_.rows;
    column = share_.begin % per_row_ * tiling_.columns;
    rows = Min(tiling_.rows, tiling_.N - row);
    columns = Min(tiling_.columns, tiling_.F - column);
    ++share_.begin;
    return true;
  }

  uint64_t row = 0, column = 0;
  uint32_t rows = 0, columns = 0;

 private:
  const SwigluTiling& tiling_;
  uint64_t per_row_;
  Share share_;
};

// Loads a tile of a matrix of `width` columns; zeros fill each row up to a multiple of 32 bytes. A
// tile of one row needs no gap, which may be too large for its field; several rows are short ones.
template <typename T, typename Tile>
__aicore__ inline void LoadTile(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                                const Tile& tile, uint64_t width) {
  const uint32_t gap = tile.rows > 1 ? (width - tile.columns) * sizeof(T) : 0;
  const uint32_t filler = RoundUp(tile.columns, kPerBlock<T>) - tile.columns;
  DataCopyPad(dst, src, DataCopyExtParams(tile.rows, tile.columns * sizeof(T), gap, 0, 0),
              DataCopyPadExtParams<T>(true, 0, filler, static_cast<T>(0)));
}
template <typename T, typename Tile>
__aicore__ inline void StoreTile(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                                 const Tile& tile, uint64_t width) {
  const uint32_t gap = tile.rows > 1 ? (width - tile.columns) * sizeof(T) : 0;
  DataCopyPad(dst, src, DataCopyExtParams(tile.rows, tile.columns * sizeof(T), 0, gap, 0));
}

// act = gate / (1 + exp(-gate)) * up; where the exponential overflows the result is 0, its limit
__aicore__ inline void Activate(const LocalTensor<float>& act, const LocalTensor<float>& gate,
                                const LocalTensor<float>& up, const LocalTensor<float>& tmp,
                                uint32_t count) {
  Muls(tmp, gate, -1.0f, count);
  Exp(tmp, tmp, count);
  Adds(tmp, tmp, 1.0f, count);
  Div(tmp, gate, tmp, count);
  Mul(act, tmp, up, count);
}

// s = sigmoid(g): d_up = d g s, d_gate = d up (s + g s (1 - s))
__aicore__ inline void Derive(const LocalTensor<float>& d_gate, const LocalTensor<float>& d_up,
                              const LocalTensor<float>& gate, const LocalTensor<float>& up,
                              const LocalTensor<float>& d, const LocalTensor<float>& sigmoid,
                              const LocalTensor<float>& silu, uint32_t count) {
  Muls(sigmoid, gate, -1.0f, count);
  Exp(sigmoid, sigmoid, count);
  Adds(sigmoid, sigmoid, 1.0f, count);
  Duplicate(silu, 1.0f, count);
  Div(sigmoid, silu, sigmoid, count);
  Mul(silu, gate, sigmoid, count);
  Mul(d_gate, d, up, count);
  Mul(d_up, d, silu, count);
  Mul(silu, silu, sigmoid, count);     // g s^2
  Sub(silu, sigmoid, silu, count);     // s - g s^2
  Mul(sigmoid, gate, sigmoid, count);  // g s
  Add(sigmoid, silu, sigmoid, count);  // s + g s (1 - s)
  Mul(d_gate, d_gate, sigmoid, count);
}

template <typename T>
class SwigluFwd {
 public:
  __aicore__ inline void Init(GM_ADDR gate_up, GM_ADDR act, const SwigluTiling& tiling,
                              TPipe* pipe) {
    gate_up_ = Global<T>(gate_up);
    act_ = Global<T>(act);
    F_ = tiling.F;
    pipe->InitBuffer(in_, 2, 2 * kSwigluFwdTile * sizeof(T));
    pipe->InitBuffer(out_, 2, kSwigluFwdTile * sizeof(T));
    pipe->InitBuffer(floats_, (kIsFloat<T> ? 1 : 3) * kSwigluFwdTile * sizeof(float));
  }
  __aicore__ inline void Process(const SwigluTiling& tiling) {
    SwigluTiles tiles(tiling);
    while (tiles.Next()) {
      CopyIn(tiles);
      Compute(tiles.rows * RoundUp(tiles.columns, kPerBlock<T>));
      CopyOut(tiles);
    }
  }

 private:
  __aicore__ inline void CopyIn(const SwigluTiles& tile) {
    LocalTensor<T> in = in_.template AllocTensor<T>();
    const uint64_t at = tile.row * 2 * F_ + tile.column;
    LoadTile(in, gate_up_[at], tile, 2 * F_);
    LoadTile(in[kSwigluFwdTile], gate_up_[at + F_], tile, 2 * F_);
    in_.EnQue(in);
  }
  __aicore__ inline void Compute(uint32_t count) {
    LocalTensor<T> in = in_.template DeQue<T>();
    LocalTensor<T> out = out_.template AllocTensor<T>();
    LocalTensor<float> floats = floats_.template Get<float>();
    if constexpr (kIsFloat<T>) {
      Activate(out, in, in[kSwigluFwdTile], floats, count);
    } else {
      const LocalTensor<float>& gate = floats;
      LocalTensor<float> tmp = floats[kSwigluFwdTile], up = floats[2 * kSwigluFwdTile];
      Widen(gate, in, count);
      Widen(up, in[kSwigluFwdTile], count);
      Activate(gate, gate, up, tmp, count);
      Narrow(out, gate, count);
    }
    in_.FreeTensor(in);
    out_.EnQue(out);
  }
  __aicore__ inline void CopyOut(const SwigluTiles& tile) {
    LocalTensor<T> out = out_.template DeQue<T>();
    StoreTile(act_[tile.row * F_ + tile.column], out, tile, F_);
    out_.FreeTensor(out);
  }

  GlobalTensor<T> gate_up_, act_;
  uint64_t F_ = 0;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> floats_;
};

template <typename T>
class SwigluBwd {
 public:
  __aicore__ inline void Init(GM_ADDR d_act, GM_ADDR gate_up, GM_ADDR d_gate_up,
                              const SwigluTiling& tiling, TPipe* pipe) {
    d_act_ = Global<T>(d_act);
    gate_up_ = Global<T>(gate_up);
    d_gate_up_ = Global<T>(d_gate_up);
    F_ = tiling.F;
    pipe->InitBuffer(in_, 2, 3 * kTile * sizeof(T));
    pipe->InitBuffer(out_, 2, 2 * kTile * sizeof(T));
    pipe->InitBuffer(floats_, (kIsFloat<T> ? 2 : 5) * kTile * sizeof(float));
  }
  __aicore__ inline void Process(const SwigluTiling& tiling) {
    SwigluTiles tiles(tiling);
    while (tiles.Next()) {
      CopyIn(tiles);
      Compute(tiles.rows * RoundUp(tiles.columns, kPerBlock<T>));
      CopyOut(tiles);
    }
  }

 private:
  static constexpr uint32_t kTile = kSwigluBwdTile;

  __aicore__ inline void CopyIn(const SwigluTiles& tile) {
    LocalTensor<T> in = in_.template AllocTensor<T>();
    const uint64_t at = tile.row * 2 * F_ + tile.column;
    LoadTile(in, gate_up_[at], tile, 2 * F_);
    LoadTile(in[kTile], gate_up_[at + F_], tile, 2 * F_);
    LoadTile(in[2 * kTile], d_act_[tile.row * F_ + tile.column], tile, F_);
    in_.EnQue(in);
  }
  __aicore__ inline void Compute(uint32_t count) {
    LocalTensor<T> in = in_.template DeQue<T>();
    LocalTensor<T> out = out_.template AllocTensor<T>();
    LocalTensor<float> silu = floats_.template Get<float>(), sigmoid = silu[kTile];
    if constexpr (kIsFloat<T>) {
      Derive(out, out[kTile], in, in[kTile], in[2 * kTile], sigmoid, silu, count);
    } else {
      LocalTensor<float> gate = silu[2 * kTile], d = silu[3 * kTile], up = silu[4 * kTile];
      Widen(gate, in, count);
      Widen(up, in[kTile], count);
      Widen(d, in[2 * kTile], count);
      // `up` is read before d_gate takes its place, `d` before d_up does
      Derive(up, d, gate, up, d, sigmoid, silu, count);
      Narrow(out, up, count);
      Narrow(out[kTile], d, count);
    }
    in_.FreeTensor(in);
    out_.EnQue(out);
  }
  __aicore__ inline void CopyOut(const SwigluTiles& tile) {
    LocalTensor<T> out = out_.template DeQue<T>();
    const uint64_t at = tile.row * 2 * F_ + tile.column;
    StoreTile(d_gate_up_[at], out, tile, 2 * F_);
    StoreTile(d_gate_up_[at + F_], out[kTile], tile, 2 * F_);
    out_.FreeTensor(out);
  }

  GlobalTensor<T> d_act_, gate_up_, d_gate_up_;
  uint64_t F_ = 0;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> floats_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_SWIGLU_KERNEL_H_
