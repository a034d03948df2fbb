// Rows of floats as int8 with a scale each, and weights of int8 or of four bits as floats again.
#ifndef MOGE_ASCEND_QUANTIZE_KERNEL_H_
#define MOGE_ASCEND_QUANTIZE_KERNEL_H_

#include "row_quantizer.h"

namespace moge {

// kPlanes: a row of integers is two of four bits each, [N, 2, I / 2].
template <typename T, bool kPlanes = false>
class QuantizeRows {
 public:
  __aicore__ inline void Init(GM_ADDR rows, GM_ADDR q, GM_ADDR scale,
                              const QuantizeTiling& tiling) {
    tiles_.Init(rows, tiling);
    q_ = Global<int8_t>(q);
    scale_ = Global<float>(scale);
    I_ = tiling.I;
    rows_ = tiling.rows;
  }
  __aicore__ inline void Process(const Share& share) {
    for (uint64_t row = share.begin; row < share.end; row += rows_) {
      const uint32_t rows = Min(rows_, share.end - row);
      tiles_(row, rows,
             [&](const LocalTensor<int8_t>& q, uint32_t column, uint32_t columns,
                 const LocalTensor<float>& scales) {
               if constexpr (kPlanes) {
                 const uint32_t plane = I_ / 2;
                 const DataCopyExtParams params(rows, columns / 2, 0, plane, 0);
                 DataCopyPad(q_[row * I_ + column / 2], q, params);
                 DataCopyPad(q_[row * I_ + plane + column / 2], q[kQuantizeTile<T> / 2], params);
               } else {
                 Store(q_[row * I_ + column], q, rows * columns);
               }
               if (column != 0) return;
               DataCopyPad(scale_[row], scales, DataCopyExtParams(rows, sizeof(float), 0, 0, 0));
             });
    }
    tiles_.Finish();
  }

 private:
  TileQuantizer<T, kPlanes> tiles_;
  GlobalTensor<int8_t> q_;
  GlobalTensor<float> scale_;
  uint32_t I_ = 0, rows_ = 0;
};

constexpr uint32_t kDecodeTile = 12288;
constexpr uint32_t kDecodeRows = 128;
static_assert(kDecodeTile * (2 * 1 + 2 + 4 + 2 * 2) + kDecodeRows * (2 * 4 + kBlockBytes) <=
                  kUbBytes,
              "UB, 2 bytes");
static_assert(kDecodeTile * (2 * 1 + 2 + 2 * 4) + kDecodeRows * (2 * 4 + kBlockBytes) <= kUbBytes,
              "UB, 4 bytes");
static_assert(kDecodeTile <= kMaxRepeats * kPerRepeat<float>, "repeats");

// [N, I] int8 times the row's scale, in float, rounded to T.
template <typename T>
class DecodeWeight {
 public:
  __aicore__ inline void Init(GM_ADDR data, GM_ADDR scale, GM_ADDR weight, TPipe* pipe) {
    data_ = Global<int8_t>(data);
    scale_ = Global<float>(scale);
    weight_ = Global<T>(weight);
    pipe->InitBuffer(in_, 2, kDecodeTile);
    pipe->InitBuffer(scales_, 2, kDecodeRows * sizeof(float));
    pipe->InitBuffer(out_, 2, kDecodeTile * sizeof(T));
    pipe->InitBuffer(integers_, kDecodeTile * sizeof(half));
    pipe->InitBuffer(factors_, kDecodeRows * kBlockBytes);
    if constexpr (!kIsFloat<T>) pipe->InitBuffer(floats_, kDecodeTile * sizeof(float));
  }
  __aicore__ inline void Process(const QuantizeTiling& tiling) {
    const Share share = MyShare(tiling.N);
    for (uint64_t row = share.begin; row < share.end; row += tiling.rows) {
      const uint32_t rows = Min(tiling.rows, share.end - row);
      LocalTensor<float> scales = scales_.AllocTensor<float>();
      Load(scales, scale_[row], rows);
      scales_.EnQue(scales);
      scales = scales_.DeQue<float>();
      Brcb(factors_.Get<float>(), scales, CeilDiv(rows, 8), BrcbRepeatParams(1, 8));
      scales_.FreeTensor(scales);
      for (uint32_t c = 0; c < tiling.I; c += tiling.columns) {
        Decode(row * tiling.I + c, rows, Min(tiling.columns, tiling.I - c));
      }
    }
  }

 private:
  __aicore__ inline void Decode(uint64_t at, uint32_t rows, uint32_t columns) {
    const uint32_t count = rows * columns;
    LocalTensor<int8_t> in = in_.AllocTensor<int8_t>();
    Load(in, data_[at], count);
    in_.EnQue(in);
    in = in_.DeQue<int8_t>();
    LocalTensor<half> integers = integers_.Get<half>();
    Cast(integers, in, RoundMode::CAST_NONE, count);
    in_.FreeTensor(in);
    LocalTensor<T> out = out_.template AllocTensor<T>();
    LocalTensor<float> floats, factors = factors_.Get<float>();
    if constexpr (kIsFloat<T>) {
      floats = out;
    } else {
      floats = floats_.template Get<float>();
    }
    Widen(floats, integers, count);
    for (uint32_t r = 0; r < rows; ++r) {
      MulByBlock(floats[r * columns], floats[r * columns], factors[r * kPerBlock<float>], columns);
    }
    if constexpr (!kIsFloat<T>) Narrow(out, floats, count);
    out_.EnQue(out);
    out = out_.template DeQue<T>();
    Store(weight_[at], out, count);
    out_.FreeTensor(out);
  }

  GlobalTensor<int8_t> data_;
  GlobalTensor<float> scale_;
  GlobalTensor<T> weight_;
  TQue<TPosition::VECIN, 1> in_, scales_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> integers_, factors_, floats_;
};

constexpr uint32_t kUnpackTile = 16384;  // bytes, of two numbers each
constexpr uint64_t kUnpackLine = 512;    // bytes: cores share whole lines
static_assert(kUnpackTile * (2 + 2 * 2 + 2 * 2) <= kUbBytes, "UB");

// Bytes of two numbers of four bits, the first in the lower half -> int8.
class UnpackInt4 {
 public:
  __aicore__ inline void Init(GM_ADDR packed, GM_ADDR data, TPipe* pipe) {
    packed_ = Global<int8_t>(packed);
    data_ = Global<int8_t>(data);
    pipe->InitBuffer(in_, 2, kUnpackTile);
    pipe->InitBuffer(out_, 2, 2 * kUnpackTile);
    pipe->InitBuffer(integers_, 2 * kUnpackTile * sizeof(half));
  }
  __aicore__ inline void Process(uint64_t bytes) {
    const Share share = MyShare(CeilDiv(bytes, kUnpackLine));
    const uint64_t end = Min(share.end * kUnpackLine, bytes);
    for (uint64_t at = share.begin * kUnpackLine; at < end; at += kUnpackTile) {
      const uint32_t count = Min(kUnpackTile, end - at);
      LocalTensor<int8_t> in = in_.AllocTensor<int8_t>();
      Load(in, packed_[at], count);
      in_.EnQue(in);
      in = in_.DeQue<int8_t>();
      LocalTensor<half> integers = integers_.Get<half>();
      Cast(integers, in.ReinterpretCast<int4b_t>(), RoundMode::CAST_NONE, 2 * count);
      in_.FreeTensor(in);
      LocalTensor<int8_t> out = out_.AllocTensor<int8_t>();
      Cast(out, integers, RoundMode::CAST_RINT, 2 * count);
      out_.EnQue(out);
      out = out_.DeQue<int8_t>();
      Store(data_[2 * at], out, 2 * count);
      out_.FreeTensor(out);
    }
  }

 private:
  GlobalTensor<int8_t> packed_, data_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> integers_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_QUANTIZE_KERNEL_H_
