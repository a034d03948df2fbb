// The weighted sum of each token's rows, taken in float32 in the order of its slots, and the
// gradients of rows and weights.
#ifndef MOGE_ASCEND_UNPERMUTE_KERNEL_H_
#define MOGE_ASCEND_UNPERMUTE_KERNEL_H_

#include "../rows.h"
#include "unpermute_tiling.h"

namespace moge {

constexpr uint32_t kUnpermuteColumns = 5120;  // a whole row of Pangu Pro MoE
constexpr uint32_t kUnpermuteRows = 4;        // that are loaded ahead of the sum
static_assert(kUnpermuteColumns * ((kUnpermuteRows + 2) * 2 + 2 * 4) + kApart <= kUbBytes,
              "UB, forward, 2 bytes");
static_assert(kUnpermuteColumns * (kUnpermuteRows + 2) * 4 <= kUbBytes, "UB, forward, 4 bytes");

// The rows and weights of slots. The scalar unit reads them from global memory, through its cache:
// to read UB it would have to wait until the vector unit is idle.
class UnpermuteSlots {
 public:
  __aicore__ inline void Init(GM_ADDR slot_to_row, GM_ADDR weights, const UnpermuteTiling& tiling) {
    slot_to_row_ = Global<int32_t>(slot_to_row);
    weighted_ = tiling.weighted != 0;
    if (weighted_) weights_ = Global<float>(weights);
  }
  __aicore__ inline int32_t Row(uint64_t slot) const { return slot_to_row_.GetValue(slot); }
  __aicore__ inline float Weight(uint64_t slot) const {
    return weighted_ ? weights_.GetValue(slot) : 1.0f;
  }

 private:
  GlobalTensor<int32_t> slot_to_row_;
  GlobalTensor<float> weights_;
  bool weighted_ = false;
};

template <typename T>
class UnpermuteFwd {
 public:
  __aicore__ inline void Init(GM_ADDR rows, GM_ADDR slot_to_row, GM_ADDR weights, GM_ADDR y,
                              const UnpermuteTiling& tiling, TPipe* pipe) {
    rows_ = Global<T>(rows);
    y_ = Global<T>(y);
    H_ = tiling.H;
    K_ = tiling.K;
    slots_.Init(slot_to_row, weights, tiling);
    pipe->InitBuffer(in_, kUnpermuteRows, kUnpermuteColumns * sizeof(T));
    pipe->InitBuffer(out_, 2, kUnpermuteColumns * sizeof(T));
    if constexpr (!kIsFloat<T>) {
      pipe->InitBuffer(acc_, kUnpermuteColumns * sizeof(float) + kApart);
      pipe->InitBuffer(wide_, kUnpermuteColumns * sizeof(float));
    }
  }
  __aicore__ inline void Process(const UnpermuteTiling& tiling) {
    const uint64_t parts = CeilDiv(H_, tiling.columns);
    const Share share = MyShare(tiling.T * parts);
    for (uint64_t part = share.begin; part < share.end; ++part) {
      const uint64_t column = part % parts * tiling.columns;
      Sum(part / parts, column, Min(tiling.columns, H_ - column));
    }
  }

 private:
  __aicore__ inline void Sum(uint64_t token, uint64_t column, uint32_t count) {
    LocalTensor<T> out = out_.template AllocTensor<T>();
    LocalTensor<float> acc, wide;
    if constexpr (kIsFloat<T>) {
      acc = out;
    } else {
      acc = acc_.template Get<float>();
      wide = wide_.template Get<float>();
    }
    bool any = false;
    for (uint64_t i = token * K_; i < (token + 1) * K_; ++i) {
      const int32_t row = slots_.Row(i);
      if (row < 0) continue;  // the slot was dropped, so its weight is not read either
      LocalTensor<T> in = in_.template AllocTensor<T>();
      Load(in, rows_[static_cast<uint64_t>(row) * H_ + column], count);
      in_.EnQue(in);
      in = in_.template DeQue<T>();
      if constexpr (kIsFloat<T>) {
        wide = in;
      } else {
        Widen(wide, in, count);
      }
      if (any) {
        Axpy(acc, wide, slots_.Weight(i), count);
      } else {
        Muls(acc, wide, slots_.Weight(i), count);
      }
      any = true;
      in_.FreeTensor(in);
    }
    if (!any) Duplicate(acc, 0.0f, count);
    if constexpr (!kIsFloat<T>) Narrow(out, acc, count);
    out_.EnQue(out);
    out = out_.template DeQue<T>();
    Store(y_[token * H_ + column], out, count);
    out_.FreeTensor(out);
  }

  GlobalTensor<T> rows_, y_;
  uint64_t H_ = 0;
  uint32_t K_ = 0;
  UnpermuteSlots slots_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> acc_, wide_;
};

// UB of the backward pass holds two buffers each of row, d_y and d_row, three of the rows' where
// they have 2 bytes; then the float temporaries, the dot products of all slots, twice, and of one
// part of the columns, the partial sums of one, and zeros.
constexpr uint32_t kPartials = kPerRepeat<float>;
constexpr uint32_t kDotStep = kPartials * kPartials / 8;  // columns of whole reductions by blocks
constexpr uint32_t kUnpermuteBwdColumns = 5120;
constexpr uint32_t kDotBytes = (kUnpermuteBwdColumns / 8 + kUnpermuteBwdColumns / kPartials) * 4;
constexpr uint32_t kUnpermuteBwdSmall = 3 * kSlots * 4 + kDotBytes + kZeroBytes;
static_assert(kUnpermuteBwdColumns % kDotStep == 0, "zeros fill the last reduction");
static_assert(kUnpermuteBwdColumns <= 2 * kPartials * kPartials, "two partial sums in a lane");
static_assert(kUnpermuteBwdColumns * (3 * 2 * 4 + 4) + kUnpermuteBwdSmall <= kUbBytes,
              "UB, backward, 4 bytes");
static_assert(kUnpermuteBwdColumns * ((2 * 3 + 2) * 2 + 2 * 4) + kApart + kUnpermuteBwdSmall <=
                  kUbBytes,
              "UB, backward, 2 bytes");

template <typename T>
class UnpermuteBwd {
 public:
  __aicore__ inline void Init(GM_ADDR d_y, GM_ADDR rows, GM_ADDR row_to_slot, GM_ADDR slot_to_row,
                              GM_ADDR weights, GM_ADDR d_rows, GM_ADDR d_weights,
                              const UnpermuteTiling& tiling, TPipe* pipe) {
    d_y_ = Global<T>(d_y);
    rows_ = Global<T>(rows);
    row_to_slot_ = Global<int32_t>(row_to_slot);
    d_rows_ = Global<T>(d_rows);
    d_weights_ = Global<float>(d_weights);
    H_ = tiling.H;
    K_ = tiling.K;
    slots_.Init(slot_to_row, weights, tiling);
    constexpr uint8_t kBuffers = kIsFloat<T> ? 2 : 3;
    pipe->InitBuffer(row_, kBuffers, kUnpermuteBwdColumns * sizeof(T));
    pipe->InitBuffer(d_, 2, kUnpermuteBwdColumns * sizeof(T));
    pipe->InitBuffer(out_, kBuffers, kUnpermuteBwdColumns * sizeof(T));
    pipe->InitBuffer(product_, kUnpermuteBwdColumns * sizeof(float) + (kIsFloat<T> ? 0 : kApart));
    if constexpr (!kIsFloat<T>) pipe->InitBuffer(wide_, kUnpermuteBwdColumns * sizeof(float));
    pipe->InitBuffer(partials_, kDotBytes);
    pipe->InitBuffer(dots_, 2, kSlots * sizeof(float));
    pipe->InitBuffer(part_dots_, kSlots * sizeof(float));
    pipe->InitBuffer(zeros_, 1, kZeroBytes);
  }
  __aicore__ inline void Process(const UnpermuteTiling& tiling) {
    const Share share = MyShare(tiling.T);
    for (uint64_t first = share.begin; first < share.end; first += tiling.tokens) {
      const uint32_t tokens = Min(tiling.tokens, share.end - first);
      LocalTensor<float> dots = dots_.AllocTensor<float>();
      LocalTensor<float> part_dots = part_dots_.Get<float>();
      for (uint64_t column = 0; column < H_; column += tiling.columns) {
        const uint32_t count = Min(tiling.columns, H_ - column);
        Duplicate(product_.template Get<float>(), 0.0f, RoundUp(count, kDotStep));
        // the dot products over this part of the columns; those of dropped slots stay 0
        const LocalTensor<float>& sums = column == 0 ? dots : part_dots;
        Duplicate(sums, 0.0f, tokens * K_);
        for (uint32_t t = 0; t < tokens; ++t) Token(sums[t * K_], first + t, column, count);
        if (column != 0) Add(dots, dots, part_dots, tokens * K_);
      }
      dots_.EnQue(dots);
      dots = dots_.DeQue<float>();
      Store(d_weights_[first * K_], dots, tokens * K_);
      dots_.FreeTensor(dots);
    }
    const uint64_t N = tiling.T * K_;
    ZeroRows(d_rows_, RowsInUse(row_to_slot_, N), N, H_, zeros_);
  }

 private:
  __aicore__ inline void Token(const LocalTensor<float>& sums, uint64_t token, uint64_t column,
                               uint32_t count) {
    LocalTensor<T> d_y = d_.template AllocTensor<T>();
    Load(d_y, d_y_[token * H_ + column], count);
    d_.EnQue(d_y);
    d_y = d_.template DeQue<T>();
    LocalTensor<float> product = product_.template Get<float>(), d;
    if constexpr (kIsFloat<T>) {
      d = d_y;
    } else {
      d = wide_.template Get<float>();
      Widen(d, d_y, count);
    }
    for (uint32_t i = 0; i < K_; ++i) {
      const uint64_t slot = token * K_ + i;
      const int32_t row = slots_.Row(slot);
      if (row < 0) continue;
      const uint64_t at = static_cast<uint64_t>(row) * H_ + column;
      LocalTensor<T> in = row_.template AllocTensor<T>();
      Load(in, rows_[at], count);
      row_.EnQue(in);
      in = row_.template DeQue<T>();
      if constexpr (kIsFloat<T>) {
        Mul(product, in, d, count);
      } else {
        Widen(product, in, count);
        Mul(product, product, d, count);
      }
      row_.FreeTensor(in);
      Reduce(sums[i], product, RoundUp(count, kDotStep));

      LocalTensor<T> out = out_.template AllocTensor<T>();
      if constexpr (kIsFloat<T>) {
        Muls(out, d, slots_.Weight(slot), count);
      } else {
        Muls(product, d, slots_.Weight(slot), count);
        Narrow(out, product, count);
      }
      out_.EnQue(out);
      out = out_.template DeQue<T>();
      Store(d_rows_[at], out, count);
      out_.FreeTensor(out);
    }
    d_.FreeTensor(d_y);
  }
  // Writes one float; `dst` may be any multiple of 4 bytes. Past the products there are zeros, so
  // that all reductions are whole: by blocks, which is much faster than by repeats.
  __aicore__ inline void Reduce(const LocalTensor<float>& dst, const LocalTensor<float>& products,
                                uint32_t count) {
    LocalTensor<float> eighths = partials_.Get<float>();
    LocalTensor<float> partials = eighths[kUnpermuteBwdColumns / 8];
    ReduceDataBlock<ReduceType::SUM>(eighths, products, kPartials, count / kPartials, 1, 1, 8);
    ReduceDataBlock<ReduceType::SUM>(partials, eighths, kPartials, count / kDotStep, 1, 1, 8);
    uint32_t rest = count / kPartials;
    if (rest > kPartials) {
      Add(partials, partials, partials[kPartials], rest - kPartials);
      rest = kPartials;
    }
    ReduceRepeat<ReduceType::SUM>(dst, partials, rest, 1, 1, 1, 8);
  }

  GlobalTensor<T> d_y_, rows_, d_rows_;
  GlobalTensor<int32_t> row_to_slot_;
  GlobalTensor<float> d_weights_;
  uint64_t H_ = 0;
  uint32_t K_ = 0;
  UnpermuteSlots slots_;
  TQue<TPosition::VECIN, 1> row_, d_;
  TQue<TPosition::VECOUT, 1> out_, dots_, zeros_;
  TBuf<TPosition::VECCALC> product_, wide_, partials_, part_dots_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_UNPERMUTE_KERNEL_H_
