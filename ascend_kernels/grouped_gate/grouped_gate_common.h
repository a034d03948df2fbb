// What the kernels of the gate share: those on tiles of tokens, on rows, and for Pangu's sizes.
#ifndef MOGE_ASCEND_GROUPED_GATE_COMMON_H_
#define MOGE_ASCEND_GROUPED_GATE_COMMON_H_

#include "../common.h"
#include "grouped_gate_tiling.h"

namespace moge {

// The choice prefers numbers to -inf, and -inf to NaN. Comparing floats must give this order, so
// the last two become the numbers below; a bias below the first of them counts as -inf.
constexpr float kMinusInfinity = -3.0e38f;
constexpr float kNotANumber = -3.2e38f;

// A core's tokens, which are whole tiles.
__aicore__ inline Share TokenShare(const GroupedGateTiling& tiling) {
  const Share tiles = MyShare(CeilDiv(tiling.T, tiling.tile_tokens));
  return {Min(tiles.begin * tiling.tile_tokens, tiling.T),
          Min(tiles.end * tiling.tile_tokens, tiling.T)};
}

// dst = 1 + e^-|x|
__aicore__ inline void OnePlusExp(const LocalTensor<float>& dst, const LocalTensor<float>& x,
                                  uint32_t count) {
  Abs(dst, x, count);
  Muls(dst, dst, -1.0f, count);
  Exp(dst, dst, count);
  Adds(dst, dst, 1.0f, count);
}

// scores: from logits l to s = sqrt(log(1 + e^l)); slopes: ds/dl; spare: overwritten.
//
// s = f sqrt(q) with f = e^(min(l, 0) / 2) and q = max(l, 0) + e^-max(l, 0) r, where r is
// log(1 + u) / u at u = e^-|l|. It is log(w) / (w - 1) at w = 1 + u, which changes so slowly that a
// rounded w does no harm, and 1 where w is 1. Then ds/dl = f / (2 w sqrt(q)).
__aicore__ inline void SqrtSoftplus(const LocalTensor<float>& scores,
                                    const LocalTensor<float>& slopes,
                                    const LocalTensor<float>& spare, uint32_t count) {
  constexpr float kTiny = 1e-30f;  // makes a quotient of two zeros 1
  const LocalTensor<float>& logits = scores;
  OnePlusExp(spare, logits, count);
  Ln(slopes, spare, count);
  Adds(slopes, slopes, kTiny, count);
  Adds(spare, spare, -1.0f, count);
  Adds(spare, spare, kTiny, count);
  Div(slopes, slopes, spare, count);  // r
  Maxs(spare, logits, 0.0f, count);
  Muls(spare, spare, -1.0f, count);
  Exp(spare, spare, count);
  Mul(slopes, slopes, spare, count);
  Maxs(spare, logits, 0.0f, count);
  Add(slopes, slopes, spare, count);
  Sqrt(slopes, slopes, count);  // sqrt(q)
  OnePlusExp(spare, logits, count);
  Mul(spare, spare, slopes, count);  // w sqrt(q)
  Mins(scores, logits, 0.0f, count);
  Muls(scores, scores, 0.5f, count);
  Exp(scores, scores, count);  // f
  Div(spare, scores, spare, count);
  Mul(scores, scores, slopes, count);
  Muls(slopes, spare, 0.5f, count);
}

// A vector [rows, columns] that is loaded once and stays in UB until Release: MTE2 fills it, V
// reads it, a queue guards it.
class Constant {
 public:
  __aicore__ inline void Init(GM_ADDR address, uint32_t rows, uint32_t columns, TPipe* pipe) {
    const uint32_t pitch = RoundUp(columns, kPerBlock<float>);
    pipe->InitBuffer(queue_, 1, rows * pitch * sizeof(float));
    LocalTensor<float> in = queue_.AllocTensor<float>();
    DataCopyPad(in, Global<float>(address),
                DataCopyExtParams(rows, columns * sizeof(float), 0, 0, 0),
                DataCopyPadExtParams<float>(true, 0, pitch - columns, 0.0f));
    queue_.EnQue(in);
    values_ = queue_.DeQue<float>();
    used_ = true;
  }
  __aicore__ inline const LocalTensor<float>& Values() const { return values_; }
  __aicore__ inline void Release() {
    if (used_) queue_.FreeTensor(values_);
  }

 private:
  TQue<TPosition::VECIN, 1> queue_;
  LocalTensor<float> values_;
  bool used_ = false;
};

// Rows of [cores, E] that CoreSums loads at once where there is room: 8 KB.
constexpr uint32_t CoresAtOnce(uint32_t E) { return E < 2048 ? 2048 / (E < 43 ? 43 : E) : 1; }

// Adds up E values of all cores, in the order of the cores, so that the result is always the same:
//
//    each core: Own -> filled by the caller -> Publish -> workspace [cores, E]
//    SyncAll, then core 0: Sum of the workspace -> sums [E]
template <typename T>
class CoreSums {
 public:
  // Reduce writes to `sums`. Rows of `cores` cores are loaded at once: each load waits for global
  // memory, one after the other.
  __aicore__ inline void Init(GM_ADDR workspace, GM_ADDR sums, uint32_t E, TPipe* pipe,
                              uint32_t cores = 1) {
    workspace_ = Global<T>(workspace);
    sums_ = Global<T>(sums);
    E_ = E;
    cores_ = cores;
    pitch_ = RoundUp(E, kPerBlock<T>);
    pipe->InitBuffer(in_, 2, cores * pitch_ * sizeof(T));
    pipe->InitBuffer(out_, 1, pitch_ * sizeof(T));
  }
  // The caller fills it, then gives it to Publish or Reduce.
  __aicore__ inline LocalTensor<T> Own() { return out_.template AllocTensor<T>(); }
  __aicore__ inline void Publish(LocalTensor<T>& own) {
    Write(workspace_[GetBlockIdx() * E_], own);
  }
  // After SyncAll: the sums. The caller gives them to Release.
  __aicore__ inline LocalTensor<T> Sum() {
    LocalTensor<T> sum = out_.template AllocTensor<T>();
    Duplicate(sum, static_cast<T>(0), E_);
    const uint64_t all = GetBlockNum();
    for (uint64_t core = 0; core < all; core += cores_) {
      const uint32_t rows = Min(cores_, all - core);
      LocalTensor<T> in = in_.template AllocTensor<T>();
      DataCopyPad(in, workspace_[core * E_], DataCopyExtParams(rows, E_ * sizeof(T), 0, 0, 0),
                  DataCopyPadExtParams<T>(false, 0, 0, static_cast<T>(0)));
      in_.EnQue(in);
      in = in_.template DeQue<T>();
      for (uint32_t r = 0; r < rows; ++r) Add(sum, sum, in[r * pitch_], E_);
      in_.FreeTensor(in);
    }
    return sum;
  }
  __aicore__ inline void Release(LocalTensor<T>& sum) { out_.FreeTensor(sum); }
  __aicore__ inline void Reduce(LocalTensor<T>& own) {
    if (GetBlockNum() == 1) return Write(sums_, own);
    Publish(own);
    SyncAll();
    if (GetBlockIdx() != 0) return;
    LocalTensor<T> sum = Sum();
    Write(sums_, sum);
  }

 private:
  __aicore__ inline void Write(const GlobalTensor<T>& to, LocalTensor<T>& values) {
    out_.EnQue(values);
    values = out_.template DeQue<T>();
    Store(to, values, E_);
    out_.FreeTensor(values);
  }

  GlobalTensor<T> workspace_, sums_;
  uint32_t E_ = 0, cores_ = 1, pitch_ = 0;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_COMMON_H_
