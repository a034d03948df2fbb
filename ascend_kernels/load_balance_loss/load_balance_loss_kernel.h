// The load-balance loss for any E. Scores are computed a token at a time, as in the gate's kernel
// of rows; ids are counted a tile at a time, with one comparison of the tile for each expert.
#ifndef MOGE_ASCEND_LOAD_BALANCE_LOSS_KERNEL_H_
#define MOGE_ASCEND_LOAD_BALANCE_LOSS_KERNEL_H_

#include "../grouped_gate/grouped_gate_row.h"
#include "load_balance_loss_tiling.h"

namespace moge {

constexpr uint32_t kLossIds = 4096;  // ids of a tile

// An upper bound of what the buffers of either pass take of UB.
constexpr uint64_t LossBytes(uint64_t E, uint32_t size, GateScore score) {
  const uint64_t width = GateWidth(E, 1, size);
  return GateRowsBytes(E, 1, 1, size, score) + 8 * (E + 8) * 4 + width * 4  // sums over cores; f
         + kLossIds * (2 * 4 + 4) + kLossIds / 8;  // ids twice, chosen, bits
}

// Computes a token's scores q, which add up to 1.
template <typename T>
class LossRow {
 public:
  __aicore__ inline void Init(GM_ADDR logits, const LoadBalanceLossTiling& tiling, TPipe* pipe) {
    softmax_ = tiling.score == GateScore::kSoftmax;
    row_.Init(logits, tiling.E, 1, tiling.score, pipe);
    E = tiling.E;
    width = row_.width;
    q = softmax_ ? row_.scores : row_.spare;
    pipe->InitBuffer(tmp_, kGateRepeat * 2 * sizeof(float));
  }
  __aicore__ inline void Score(uint64_t token) {
    row_.Score(token);
    if (softmax_) return;
    total_ = Sum(row_.scores);
    if (total_ == 0.0f) {  // equal shares, whose gradient is 0 like the slopes
      Duplicate(q, 1.0f / static_cast<float>(E), width);
      total_ = 1.0f;
    } else {
      Duplicate(q, total_, width);
      Div(q, row_.scores, q, width);
    }
  }
  // The sum of a row's E values.
  __aicore__ inline float Sum(const LocalTensor<float>& values) {
    LocalTensor<float> tmp = tmp_.Get<float>();
    ReduceSum(tmp, values, tmp[kGateRepeat], E);
    return tmp.GetValue(0);
  }
  // The scores' derivatives, divided by the scores' sum. They take the place of q.
  __aicore__ inline const LocalTensor<float>& Slopes() {
    if (softmax_) return q;
    row_.Derive();
    Duplicate(row_.scores, total_, width);
    Div(row_.slopes, row_.slopes, row_.scores, width);
    return row_.slopes;
  }

  uint32_t E = 0;
  uint32_t width = 0;  // a row's in UB
  LocalTensor<float> q;

 private:
  GateRow<T> row_;
  bool softmax_ = true;
  float total_ = 1.0f;
  TBuf<TPosition::VECCALC> tmp_;
};

template <typename T>
class LoadBalanceLossFwd {
 public:
  __aicore__ inline void Init(GM_ADDR logits, GM_ADDR experts, GM_ADDR loss, GM_ADDR f,
                              GM_ADDR scores, GM_ADDR counts, const LoadBalanceLossTiling& tiling,
                              TPipe* pipe) {
    row_.Init(logits, tiling, pipe);
    experts_ = Global<int32_t>(experts);
    loss_ = Global<float>(loss);
    f_ = Global<float>(f);
    scores_.Init(scores, nullptr, tiling.E, pipe);
    counts_.Init(counts, nullptr, tiling.E, pipe);
    pipe->InitBuffer(ids_in_, 2, kLossIds * sizeof(int32_t));
    pipe->InitBuffer(taken_, kLossIds * sizeof(int32_t));
    pipe->InitBuffer(bits_, kLossIds / 8);
    pipe->InitBuffer(out_, 2, RoundUp(tiling.E, kPerBlock<float>) * sizeof(float));
  }
  __aicore__ inline void Process(const LoadBalanceLossTiling& tiling) {
    const Share share = MyShare(tiling.T);
    LocalTensor<float> scores = scores_.Own();
    Duplicate(scores, 0.0f, tiling.E);
    for (uint64_t token = share.begin; token < share.end; ++token) {
      row_.Score(token);
      Add(scores, scores, row_.q, tiling.E);
    }
    LocalTensor<int32_t> counts = counts_.Own();
    Duplicate(counts, 0, tiling.E);
    const uint64_t end = share.end * tiling.K;
    for (uint64_t slot = share.begin * tiling.K; slot < end; slot += kLossIds) {
      Count(counts, slot, static_cast<uint32_t>(Min(kLossIds, end - slot)));
    }
    scores_.Publish(scores);
    counts_.Publish(counts);
    SyncAll();
    if (GetBlockIdx() == 0) Finish(tiling);
  }

 private:
  __aicore__ inline void Count(const LocalTensor<int32_t>& counts, uint64_t slot, uint32_t count) {
    constexpr uint32_t kRepeat = kRepeatBytes / sizeof(int32_t);
    LocalTensor<int32_t> ids = ids_in_.AllocTensor<int32_t>();
    const uint32_t filled = RoundUp(count, kPerBlock<int32_t>);
    DataCopyPad(ids, experts_[slot], DataCopyExtParams(1, count * sizeof(int32_t), 0, 0, 0),
                DataCopyPadExtParams<int32_t>(true, 0, filled - count, -1));
    ids_in_.EnQue(ids);
    ids = ids_in_.DeQue<int32_t>();
    const uint32_t whole = RoundUp(count, kRepeat);  // a comparison reads whole repeats
    Duplicate(ids[filled], -1, whole - filled);
    LocalTensor<uint8_t> bits = bits_.Get<uint8_t>();
    for (uint32_t e = 0; e < row_.E; ++e) {
      uint64_t taken = 0;
      Compares(bits, ids, static_cast<int32_t>(e), CMPMODE::EQ, whole);
      GatherMask(taken_.Get<int32_t>(), ids, bits.ReinterpretCast<uint32_t>(), true, count,
                 GatherMaskParams(1, 1, 8, 8), taken);
      counts.SetValue(e, counts.GetValue(e) + static_cast<int32_t>(taken));
    }
    ids_in_.FreeTensor(ids);
  }
  // f_i = E / (K T) counts_i; loss = sum_i f_i / T scores_i
  __aicore__ inline void Finish(const LoadBalanceLossTiling& tiling) {
    const uint32_t E = tiling.E;
    const float rows = tiling.T == 0 ? 1.0f : static_cast<float>(tiling.T);
    const float slots = tiling.K == 0 ? rows : rows * static_cast<float>(tiling.K);
    LocalTensor<float> f = out_.AllocTensor<float>();
    LocalTensor<int32_t> counts = counts_.Sum();
    Cast(f, counts, RoundMode::CAST_NONE, E);
    Muls(f, f, static_cast<float>(E) / slots, E);
    counts_.Release(counts);
    LocalTensor<float> scores = scores_.Sum();
    Muls(scores, scores, 1.0f / rows, E);
    Mul(scores, scores, f, E);
    out_.EnQue(f);
    f = out_.DeQue<float>();
    Store(f_, f, E);
    out_.FreeTensor(f);
    LocalTensor<float> loss = out_.AllocTensor<float>();
    Duplicate(loss, row_.Sum(scores), 1);
    scores_.Release(scores);
    out_.EnQue(loss);
    loss = out_.DeQue<float>();
    Store(loss_, loss, 1);
    out_.FreeTensor(loss);
  }

  LossRow<T> row_;
  GlobalTensor<int32_t> experts_;
  GlobalTensor<float> loss_, f_;
  CoreSums<float> scores_;
  CoreSums<int32_t> counts_;
  TQue<TPosition::VECIN, 1> ids_in_;
  TBuf<TPosition::VECCALC> taken_, bits_;
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
    row_.Init(logits, tiling, pipe);
    d_logits_ = Global<T>(d_logits);
    d_loss_.Init(d_loss, 1, 1, pipe);
    f_.Init(f, 1, tiling.E, pipe);
    pipe->InitBuffer(d_scores_, row_.width * sizeof(float));
    pipe->InitBuffer(out_, 2, row_.width * sizeof(T));
  }
  __aicore__ inline void Process(const LoadBalanceLossTiling& tiling) {
    const LocalTensor<float>& d_q = f_.Values();
    Muls(d_q, d_q, d_loss_.Values().GetValue(0) / static_cast<float>(tiling.T), tiling.E);
    const Share share = MyShare(tiling.T);
    for (uint64_t token = share.begin; token < share.end; ++token) {
      row_.Score(token);
      Derive(d_q);
      Narrowed(token * tiling.E);
    }
    d_loss_.Release();
    f_.Release();
  }

 private:
  __aicore__ inline void Derive(const LocalTensor<float>& d_q) {
    const uint32_t E = row_.E;
    LocalTensor<float> d_scores = d_scores_.Get<float>();
    Mul(d_scores, row_.q, d_q, E);
    const float along = row_.Sum(d_scores);
    Adds(d_scores, d_q, -along, E);
    Mul(d_scores, d_scores, row_.Slopes(), E);
  }
  __aicore__ inline void Narrowed(uint64_t first) {
    LocalTensor<T> out = out_.template AllocTensor<T>();
    if constexpr (kIsFloat<T>) {
      Adds(out, d_scores_.Get<float>(), 0.0f, row_.E);
    } else {
      Narrow(out, d_scores_.Get<float>(), row_.E);
    }
    out_.EnQue(out);
    out = out_.template DeQue<T>();
    Store(d_logits_[first], out, row_.E);
    out_.FreeTensor(out);
  }

  LossRow<T> row_;
  GlobalTensor<T> d_logits_;
  Constant d_loss_, f_;
  TBuf<TPosition::VECCALC> d_scores_;
  TQue<TPosition::VECOUT, 1> out_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_LOAD_BALANCE_LOSS_KERNEL_H_
