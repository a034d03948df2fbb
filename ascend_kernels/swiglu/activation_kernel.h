// Any activation of a matrix in global memory: for layers whose products are launches of their own.
#ifndef MOGE_ASCEND_ACTIVATION_KERNEL_H_
#define MOGE_ASCEND_ACTIVATION_KERNEL_H_

#include "activation.h"
#include "swiglu_kernel.h"

namespace moge {

// A tile of gate and up that take turns: each of its rows has 2 * columns elements, and room for
// those of two rows of gate and up, rounded up to 32 bytes each.
template <typename T, typename Tile>
class PairTile {
 public:
  __aicore__ inline explicit PairTile(const Tile& tile)
      : rows_(tile.rows), columns_(2 * tile.columns) {
    pitch_ = 2 * RoundUp(tile.columns, kPerBlock<T>);
    filled_ = RoundUp(columns_, kPerBlock<T>);
  }
  __aicore__ inline void Load(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                              uint64_t width) const {
    DataCopyPad(dst, src, DataCopyExtParams(rows_, columns_ * sizeof(T), Gap(width), Rest(), 0),
                DataCopyPadExtParams<T>(true, 0, filled_ - columns_, static_cast<T>(0)));
  }
  __aicore__ inline void Store(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                               uint64_t width) const {
    DataCopyPad(dst, src, DataCopyExtParams(rows_, columns_ * sizeof(T), Rest(), Gap(width), 0));
  }
  // What Load leaves out, on the vector pipe.
  __aicore__ inline void Fill(const LocalTensor<T>& dst) const {
    if (Rest() == 0) return;
    const uint8_t row = rows_ > 1 ? pitch_ / kPerBlock<T> : kPerRepeat<T> / kPerBlock<T>;
    Duplicate(dst[filled_], static_cast<T>(0), kPerBlock<T>, rows_, 1, row);
  }

 private:
  __aicore__ inline uint32_t Gap(uint64_t width) const {
    return rows_ > 1 ? (width - columns_) * sizeof(T) : 0;
  }
  __aicore__ inline uint32_t Rest() const { return (pitch_ - filled_) / kPerBlock<T>; }

  uint32_t rows_, columns_, pitch_, filled_;
};

// Elements of one operand's tile. UB holds two buffers for the two halves of the input, of what is
// added to it and of their sum, and for the result, and the float temporaries.
constexpr uint32_t kActivationTile = 1536;
constexpr uint32_t kActivationFloats = 7 + ActivationTerms::kTemporaries;
static_assert(kActivationTile * (2 * 7 + kActivationFloats) * 4 <= kUbBytes, "UB");

// pre = pre + bias, where there is one, and act = the activation of pre
template <typename T>
class ActivationFwd {
 public:
  __aicore__ inline void Init(GM_ADDR pre, GM_ADDR bias, GM_ADDR series, GM_ADDR act,
                              const SwigluTiling& tiling, const ActivationTiling& activation,
                              TPipe* pipe) {
    pre_ = Global<T>(pre);
    biased_ = bias != nullptr;
    if (biased_) bias_ = Global<T>(bias);
    act_ = Global<T>(act);
    F_ = tiling.F;
    terms_.Init(activation, series);
    paired_ = activation.gated != 0 && activation.interleaved != 0;
    width_ = (activation.gated != 0 ? 2 : 1) * F_;
    pipe->InitBuffer(in_, 2, 4 * kTile * sizeof(T));
    pipe->InitBuffer(out_, 2, 3 * kTile * sizeof(T));
    pipe->InitBuffer(floats_, kActivationFloats * kTile * sizeof(float));
  }
  __aicore__ inline void Process(const SwigluTiling& tiling) {
    SwigluTiles tiles(tiling);
    while (tiles.Next()) {
      LocalTensor<T> in = in_.template AllocTensor<T>();
      LoadMatrix(in, pre_, tiles);
      if (biased_) LoadMatrix(in[2 * kTile], bias_, tiles);
      in_.EnQue(in);
      Compute(tiles);
      CopyOut(tiles);
    }
  }

 private:
  static constexpr uint32_t kTile = kActivationTile;

  __aicore__ inline void LoadMatrix(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                                    const SwigluTiles& tile) {
    if (paired_) {
      PairTile<T, SwigluTiles>(tile).Load(dst, src[tile.row * width_ + 2 * tile.column], width_);
      return;
    }
    const uint64_t at = tile.row * width_ + tile.column;
    LoadTile(dst, src[at], tile, width_);
    if (width_ != F_) LoadTile(dst[kTile], src[at + F_], tile, width_);
  }
  __aicore__ inline void Compute(const SwigluTiles& tile) {
    LocalTensor<T> in = in_.template DeQue<T>();
    LocalTensor<T> out = out_.template AllocTensor<T>();
    const Tensors floats{floats_.template Get<float>(), kTile};
    const Tensors tmp{floats[7], kTile};
    const uint32_t count = tile.rows * RoundUp(tile.columns, kPerBlock<T>);
    if (paired_) {
      const PairTile<T, SwigluTiles> pairs(tile);
      pairs.Fill(in);
      if (biased_) pairs.Fill(in[2 * kTile]);
    }
    // the halves, or the pairs, or all there is
    const uint32_t pieces = width_ != F_ && !paired_ ? 2 : 1, size = paired_ ? 2 * count : count;
    LocalTensor<float> raw = floats[0];
    for (uint32_t i = 0; i < pieces; ++i) {
      const LocalTensor<T> x = in[i * kTile], bias = in[(2 + i) * kTile],
                           sum = out[(1 + i) * kTile];
      if constexpr (kIsFloat<T>) {
        if (biased_) Add(sum, x, bias, size);
      } else {
        Widen(floats[i], x, size);
        if (biased_) {
          Widen(floats[4 + i], bias, size);
          Add(floats[i], floats[i], floats[4 + i], size);
          Narrow(sum, floats[i], size);
        }
      }
    }
    if constexpr (kIsFloat<T>) raw = biased_ ? out[kTile] : in;
    LocalTensor<float> gate = raw, up = raw[kTile];
    if (paired_) {
      gate = floats[4];
      up = floats[5];
      TakeTurns(gate, up, raw, count);
    }
    if constexpr (kIsFloat<T>) {
      terms_.Activate(out, gate, up, floats[2], floats[3], tmp, count);
    } else {
      terms_.Activate(floats[6], gate, up, floats[2], floats[3], tmp, count);
      Narrow(out, floats[6], count);
    }
    in_.FreeTensor(in);
    out_.EnQue(out);
  }
  __aicore__ inline void CopyOut(const SwigluTiles& tile) {
    LocalTensor<T> out = out_.template DeQue<T>();
    StoreTile(act_[tile.row * F_ + tile.column], out, tile, F_);
    if (biased_ && paired_) {
      PairTile<T, SwigluTiles>(tile).Store(pre_[tile.row * width_ + 2 * tile.column], out[kTile],
                                           width_);
    } else if (biased_) {
      const uint64_t at = tile.row * width_ + tile.column;
      StoreTile(pre_[at], out[kTile], tile, width_);
      if (width_ != F_) StoreTile(pre_[at + F_], out[2 * kTile], tile, width_);
    }
    out_.FreeTensor(out);
  }

  GlobalTensor<T> pre_, bias_, act_;
  uint64_t F_ = 0, width_ = 0;
  bool biased_ = false, paired_ = false;
  ActivationTerms terms_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> floats_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ACTIVATION_KERNEL_H_
