// The weighted sum of each token's rows, taken in float32 in the order of its slots, and the
// gradients of rows and weights.
#ifndef MOGE_ASCEND_UNPERMUTE_KERNEL_H_
#define MOGE_ASCEND_UNPERMUTE_KERNEL_H_

#include "../rows.h"
#include "unpermute_tiling.h"

namespace moge {

constexpr uint32_t kUnpermuteColumns = 5120;         // a whole row of Pangu Pro MoE
constexpr uint32_t kUnpermuteRows = 4;               // that are loaded ahead of the sum
constexpr uint32_t kUnpermuteLoad = 2 * kSlots * 4;  // bytes: a row number and a weight per slot
static_assert(kUnpermuteColumns * ((kUnpermuteRows + 2) * 2 + 2 * 4) + 2 * kUnpermuteLoad <=
                  kUbBytes,
              "UB, forward, 2 bytes");
static_assert(kUnpermuteColumns * (kUnpermuteRows + 2) * 4 + 2 * kUnpermuteLoad <= kUbBytes,
              "UB, forward, 4 bytes");

// The slots of some tokens in UB: first their row numbers, then their weights.
class UnpermuteSlots {
 public:
  __aicore__ inline void Init(GM_ADDR slot_to_row, GM_ADDR weights, const UnpermuteTiling& tiling,
                              uint8_t buffers, TPipe* pipe) {
    slot_to_row_ = Global<int32_t>(slot_to_row);
    weighted_ = tiling.weighted != 0;
    if (weighted_) weights_ = Global<float>(weights);
    pipe->InitBuffer(queue_, buffers, kUnpermuteLoad);
  }
  __aicore__ inline void Take(uint64_t slot, uint32_t count) {
    local_ = queue_.AllocTensor<int32_t>();
    Load(local_, slot_to_row_[slot], count);
    if (weighted_) Load(local_[kSlots].ReinterpretCast<float>(), weights_[slot], count);
    queue_.EnQue(local_);
    local_ = queue_.DeQue<int32_t>();
  }
  __aicore__ inline int32_t Row(uint32_t i) const { return local_.GetValue(i); }
  __aicore__ inline float Weight(uint32_t i) const {
    return weighted_ ? local_[kSlots].ReinterpretCast<float>().GetValue(i) : 1.0f;
  }
  __aicore__ inline void Release() { queue_.FreeTensor(local_); }

 private:
  GlobalTensor<int32_t> slot_to_row_;
  GlobalTensor<float> weights_;
  bool weighted_ = false;
  TQue<TPosition::VECIN, 1> queue_;
  LocalTensor<int32_t> local_;
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
    slots_.Init(slot_to_row, weights, tiling, 2, pipe);
    pipe->InitBuffer(in_, kUnpermuteRows, kUnpermuteColumns * sizeof(T));
    pipe->InitBuffer(out_, 2, kUnpermuteColumns * sizeof(T));
    if constexpr (!kIsFloat<T>) pipe->InitBuffer(floats_, 2 * kUnpermuteColumns * sizeof(float));
  }
  __aicore__ inline void Process(const UnpermuteTiling& tiling) {
    const Share share = MyShare(tiling.T);
    for (uint64_t first = share.begin; first < share.end; first += tiling.tokens) {
      const uint32_t tokens = Min(tiling.tokens, share.end - first);
      slots_.Take(first * K_, tokens * K_);
      for (uint32_t t = 0; t < tokens; ++t) {
        for (uint64_t column = 0; column < H_; column += tiling.columns) {
          Sum(t * K_, (first + t) * H_, column, Min(tiling.columns, H_ - column));
        }
      }
      slots_.Release();
    }
  }

 private:
  __aicore__ inline void Sum(uint32_t slot, uint64_t y, uint64_t column, uint32_t count) {
    LocalTensor<T> out = out_.template AllocTensor<T>();
    LocalTensor<float> acc, wide;
    if constexpr (kIsFloat<T>) {
      acc = out;
    } else {
      acc = floats_.template Get<float>();
      wide = acc[kUnpermuteColumns];
    }
    bool any = false;
    for (uint32_t i = slot; i < slot + K_; ++i) {
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
    Store(y_[y + column], out, count);
    out_.FreeTensor(out);
  }

  GlobalTensor<T> rows_, y_;
  uint64_t H_ = 0;
  uint32_t K_ = 0;
  UnpermuteSlots slots_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  TBuf<TPosition::VECCALC> floats_;
};

// UB of the backward pass holds two buffers each of row, d_y and d_row, the float temporaries, one
// load of slots, the partial sums of a dot product, the dot products of all slots and of one part
// of the columns, and a buffer of zeros.
constexpr uint32_t kUnpermuteBwdColumns = 4096;
constexpr uint32_t kPartials = kRepeatBytes / sizeof(float);
static_assert(kUnpermuteBwdColumns * (3 * 2 * 4 + 4) + 2 * kUnpermuteLoad + kPartials * 4 +
                      kZeroBytes <=
                  kUbBytes,
              "UB, backward, 4 bytes");
static_assert(kUnpermuteBwdColumns * (3 * 2 * 2 + 2 * 4) + 2 * kUnpermuteLoad + kPartials * 4 +
                      kZeroBytes <=
                  kUbBytes,
              "UB, backward, 2 bytes");
static_assert(kUnpermuteBwdColumns <= kPartials * kPartials, "two reductions end a dot product");

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
    slots_.Init(slot_to_row, weights, tiling, 1, pipe);
    pipe->InitBuffer(row_, 2, kUnpermuteBwdColumns * sizeof(T));
    pipe->InitBuffer(d_, 2, kUnpermuteBwdColumns * sizeof(T));
    pipe->InitBuffer(out_, 2, kUnpermuteBwdColumns * sizeof(T));
    pipe->InitBuffer(floats_, (kIsFloat<T> ? 1 : 2) * kUnpermuteBwdColumns * sizeof(float));
    pipe->InitBuffer(partials_, kPartials * sizeof(float));
    pipe->InitBuffer(dots_, 1, kSlots * sizeof(float));
    pipe->InitBuffer(block_dots_, kSlots * sizeof(float));
    pipe->InitBuffer(zeros_, 1, kZeroBytes);
  }
  __aicore__ inline void Process(const UnpermuteTiling& tiling) {
    const Share share = MyShare(tiling.T);
    for (uint64_t first = share.begin; first < share.end; first += tiling.tokens) {
      const uint32_t tokens = Min(tiling.tokens, share.end - first);
      slots_.Take(first * K_, tokens * K_);
      LocalTensor<float> dots = dots_.AllocTensor<float>();
      LocalTensor<float> block_dots = block_dots_.Get<float>();
      for (uint64_t column = 0; column < H_; column += tiling.columns) {
        // the dot products over this part of the columns; those of dropped slots stay 0
        const LocalTensor<float>& sums = column == 0 ? dots : block_dots;
        Duplicate(sums, 0.0f, tokens * K_);
        for (uint32_t t = 0; t < tokens; ++t) {
          Token(sums, t * K_, (first + t) * H_, column, Min(tiling.columns, H_ - column));
        }
        if (column != 0) Add(dots, dots, block_dots, tokens * K_);
      }
      slots_.Release();
      dots_.EnQue(dots);
      dots = dots_.DeQue<float>();
      Store(d_weights_[first * K_], dots, tokens * K_);
      dots_.FreeTensor(dots);
    }
    const uint64_t N = tiling.T * K_;
    ZeroRows(d_rows_, RowsInUse(row_to_slot_, N), N, H_, zeros_);
  }

 private:
  __aicore__ inline void Token(const LocalTensor<float>& sums, uint32_t slot, uint64_t y,
                               uint64_t column, uint32_t count) {
    LocalTensor<T> d_y = d_.template AllocTensor<T>();
    Load(d_y, d_y_[y + column], count);
    d_.EnQue(d_y);
    d_y = d_.template DeQue<T>();
    LocalTensor<float> product = floats_.template Get<float>(), d;
    if constexpr (kIsFloat<T>) {
      d = d_y;
    } else {
      d = product[kUnpermuteBwdColumns];
      Widen(d, d_y, count);
    }
    for (uint32_t i = slot; i < slot + K_; ++i) {
      const int32_t row = slots_.Row(i);
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
      Reduce(sums[i], product, count);

      LocalTensor<T> out = out_.template AllocTensor<T>();
      if constexpr (kIsFloat<T>) {
        Muls(out, d, slots_.Weight(i), count);
      } else {
        Muls(product, d, slots_.Weight(i), count);
        Narrow(out, product, count);
      }
      out_.EnQue(out);
      out = out_.template DeQue<T>();
      Store(d_rows_[at], out, count);
      out_.FreeTensor(out);
    }
    d_.FreeTensor(d_y);
  }
  // Writes one float; `dst` may be any multiple of 4 bytes.
  __aicore__ inline void Reduce(const LocalTensor<float>& dst, const LocalTensor<float>& values,
                                uint32_t count) {
    const uint32_t repeats = CeilDiv(count, kPartials);
    if (count % kPartials != 0) {  // zeros fill the last repeat
      uint64_t mask[2] = {~uint64_t{0} << (count % kPartials), 0};
      Duplicate(values[(repeats - 1) * kPartials], 0.0f, mask, 1, 1, 8);
    }
    LocalTensor<float> partials = partials_.Get<float>();
    ReduceRepeat<ReduceType::SUM>(partials, values, kPartials, repeats, 1, 1, 8);
    ReduceRepeat<ReduceType::SUM>(dst, partials, repeats, 1, 1, 1, 8);
  }

  GlobalTensor<T> d_y_, rows_, d_rows_;
  GlobalTensor<int32_t> row_to_slot_;
  GlobalTensor<float> d_weights_;
  uint64_t H_ = 0;
  uint32_t K_ = 0;
  UnpermuteSlots slots_;
  TQue<TPosition::VECIN, 1> row_, d_;
  TQue<TPosition::VECOUT, 1> out_, dots_, zeros_;
  TBuf<TPosition::VECCALC> floats_, partials_, block_dots_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_UNPERMUTE_KERNEL_H_
