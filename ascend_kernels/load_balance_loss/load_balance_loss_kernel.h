// The load-balance loss for any E, on tiles of tokens.
#ifndef MOGE_ASCEND_LOAD_BALANCE_LOSS_KERNEL_H_
#define MOGE_ASCEND_LOAD_BALANCE_LOSS_KERNEL_H_

#include "load_balance_loss_count.h"
#include "load_balance_loss_tile.h"

namespace moge {

template <typename T>
constexpr bool kLossFits =
    kLossTileBytes<T> + kLossCountBytes + 2 * kLossMaxE * 4 <= kUbBytes &&
    kLossTileBytes<T> + 2 * kLossTile<T> * sizeof(T) + 2 * kLossMaxE * 4 <= kUbBytes;
static_assert(kLossFits<half> && kLossFits<float>, "UB: forward, with two rows; backward as well");

template <typename T>
class LoadBalanceLossFwd {
 public:
  __aicore__ inline void Init(GM_ADDR logits, GM_ADDR experts, GM_ADDR loss, GM_ADDR f,
                              GM_ADDR scores, GM_ADDR counts, const LoadBalanceLossTiling& tiling,
                              TPipe* pipe) {
    tile_.Init(logits, tiling, pipe);
    counts_.Init(experts, pipe);
    loss_ = Global<float>(loss);
    f_ = Global<float>(f);
    all_scores_ = Global<float>(scores);
    all_counts_ = Global<int32_t>(counts);
    pipe->InitBuffer(out_, 2, tile_.width * sizeof(float));
  }
  __aicore__ inline void Process(const LoadBalanceLossTiling& tiling) {
    const Share share = MyShare(tiling.T);
    counts_.Begin({share.begin * tiling.K, share.end * tiling.K});
    tile_.Begin(share);
    LocalTensor<int32_t> counts = out_.AllocTensor<int32_t>();
    Duplicate(counts, 0, tile_.width);
    counts_.Count(counts, tiling.E);
    Write(all_counts_[GetBlockIdx() * tiling.E], counts, tiling.E);
    LocalTensor<float> scores = out_.AllocTensor<float>();
    Duplicate(scores, 0.0f, tile_.width);
    while (tile_.Next()) {
      const BinaryRepeatParams running(1, 1, 1, 0, tile_.stride, 0);  // one row after the other
      for (uint32_t column = 0; column < tile_.width; column += kLossLanes) {
        Add(scores[column], tile_.q[column], scores[column], kLossLanes, tile_.rows, running);
      }
    }
    Write(all_scores_[GetBlockIdx() * tiling.E], scores, tiling.E);
    SyncAll();
    if (GetBlockIdx() == 0) Finish(tiling);
  }

 private:
  // f_i = E / (K T) counts_i; loss = sum_i f_i / T scores_i
  __aicore__ inline void Finish(const LoadBalanceLossTiling& tiling) {
    const uint32_t width = tile_.width;
    const float rows = tiling.T == 0 ? 1.0f : static_cast<float>(tiling.T);
    const float slots = tiling.K == 0 ? rows : rows * static_cast<float>(tiling.K);
    LocalTensor<int32_t> counts = tile_.template Scratch<int32_t>(0);
    LocalTensor<float> scores = tile_.template Scratch<float>(1);
    tile_.SumCores(counts, all_counts_);
    tile_.SumCores(scores, all_scores_);
    LocalTensor<float> f = out_.AllocTensor<float>(), loss = out_.AllocTensor<float>();
    Cast(f, counts, RoundMode::CAST_NONE, width);
    Muls(f, f, static_cast<float>(tiling.E) / slots, width);
    Muls(scores, scores, 1.0f / rows, width);
    Mul(scores, scores, f, width);
    ReduceSum(loss, scores, counts.ReinterpretCast<float>(), width);
    Write(f_, f, tiling.E);
    Write(loss_, loss, 1);
  }
  template <typename U>
  __aicore__ inline void Write(const GlobalTensor<U>& to, LocalTensor<U>& values, uint32_t count) {
    out_.EnQue(values);
    values = out_.template DeQue<U>();
    Store(to, values, count);
    out_.FreeTensor(values);
  }

  LossTile<T> tile_;
  LossCounts counts_;
  GlobalTensor<float> loss_, f_, all_scores_;
  GlobalTensor<int32_t> all_counts_;
  TQue<TPosition::VECOUT, 1> out_;
};

// With q_i = s_i / sum_j s_j and d_q = d_loss f / T:
//   d_logits_i = s'_i / (sum_j s_j) (d_q_i - sum_j q_j d_q_j)
// where the softmax's s is exp, and s' is s.
template <typename T>
class LoadBalanceLossBwd {
 public:
  __aicore__ inline void Init(GM_ADDR d_loss, GM_ADDR logits, GM_ADDR f, GM_ADDR d_logits,
                              const LoadBalanceLossTiling& tiling, TPipe* pipe) {
    tile_.Init(logits, tiling, pipe);
    d_logits_ = Global<T>(d_logits);
    d_loss_ = Global<float>(d_loss);
    f_ = Global<float>(f);
    pipe->InitBuffer(f_in_, 1, tile_.width * sizeof(float));
    pipe->InitBuffer(d_q_, tile_.width * sizeof(float));
    pipe->InitBuffer(out_, 2, kLossTile<T> * sizeof(T));
  }
  __aicore__ inline void Process(const LoadBalanceLossTiling& tiling) {
    tile_.Begin(MyShare(tiling.T));
    LocalTensor<float> f = f_in_.AllocTensor<float>(), d_q = d_q_.Get<float>();
    Load(f, f_, tiling.E);
    f_in_.EnQue(f);
    f = f_in_.DeQue<float>();
    Duplicate(d_q, 0.0f, tile_.width);
    Muls(d_q, f, d_loss_.GetValue(0) / static_cast<float>(tiling.T), tiling.E);
    f_in_.FreeTensor(f);
    while (tile_.Next()) {
      LocalTensor<T> out = out_.template AllocTensor<T>();
      tile_.Narrowed(out, Derive(d_q));
      out_.EnQue(out);
      out = out_.template DeQue<T>();
      tile_.StoreTo(d_logits_, out);
      out_.FreeTensor(out);
    }
  }

 private:
  __aicore__ inline LocalTensor<float> Derive(const LocalTensor<float>& d_q) {
    const uint32_t rows = tile_.rows, stride = tile_.stride, width = tile_.width;
    const LocalTensor<float> slopes = tile_.Slopes(), d_scores = tile_.Free();
    for (uint32_t column = 0; column < width; column += kLossLanes) {
      Mul(d_scores[column], tile_.q[column], d_q[column], kLossLanes, rows,
          BinaryRepeatParams(1, 1, 1, stride, stride, 0));
    }
    const LocalTensor<float> along = tile_.RowSums(d_scores);
    for (uint32_t column = 0; column < width; column += kLossLanes) {
      Sub(d_scores[column], d_q[column], along, kLossLanes, rows,
          BinaryRepeatParams(1, 1, 0, stride, 0, 1));
    }
    Mul(d_scores, d_scores, slopes, rows * width);
    return d_scores;
  }

  LossTile<T> tile_;
  GlobalTensor<T> d_logits_;
  GlobalTensor<float> d_loss_, f_;
  TQue<TPosition::VECIN, 1> f_in_;
  TBuf<TPosition::VECCALC> d_q_;
  TQue<TPosition::VECOUT, 1> out_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_LOAD_BALANCE_LOSS_KERNEL_H_
