// The scores of many tokens at a time, for any E: a row is E logits in whole repeats.
//
//    | token 0: E scores | filler |  token 1: E scores | filler |  ...  |
//    |<------- width ------------>|
#ifndef MOGE_ASCEND_LOAD_BALANCE_LOSS_TILE_H_
#define MOGE_ASCEND_LOAD_BALANCE_LOSS_TILE_H_

#include "../grouped_gate/grouped_gate_common.h"
#include "load_balance_loss_tiling.h"

namespace moge {

constexpr uint32_t kLossLanes = kPerRepeat<float>;
constexpr uint32_t kLossMaxE = 2048;  // a row fits into a tile
template <typename T>
constexpr uint32_t kLossTile = kIsFloat<T> ? 4032 : 5568;  // elements, filler among them
template <typename T>
constexpr uint32_t kLossRows = kLossTile<T> / kLossLanes;  // tokens of a tile, at most
template <typename T>
constexpr uint32_t kLossSums = RoundUp(kLossRows<T>, kLossLanes);  // one of each row
// UB: the logits twice; three tiles of floats, and half of one, onto which reductions fold; sums by
// blocks, sums of rows, and two of them spread over blocks.
template <typename T>
constexpr uint32_t kLossTileBytes =
    kLossTile<T> * (2 * sizeof(T) + 3 * 4 + 4 / 2) + kLossSums<T> * (3 * 8 + 2) * 4;
static_assert(kLossMaxE <= kLossTile<float>, "a row is in one tile");
static_assert(LieApart(kLossTile<half> * 4) && LieApart(kLossTile<float> * 4), "banks");

//    buffer                holds                        filled by, read by, guard
//    in_                   2 tiles of logits            MTE2, V; queue
//    scores, spare_, ...   [rows, width] in float       V, in order
template <typename T>
class LossTile {
 public:
  __aicore__ inline void Init(GM_ADDR logits, const LoadBalanceLossTiling& tiling, TPipe* pipe) {
    logits_ = Global<T>(logits);
    score_ = tiling.score;
    E_ = tiling.E;
    pitch_ = RoundUp(E_, kPerBlock<T>);
    width = RoundUp(E_, kLossLanes);
    constexpr uint32_t kTile = kLossTile<T>;
    pipe->InitBuffer(in_, 2, kTile * sizeof(T));
    pipe->InitBuffer(floats_, (3 * kTile + kTile / 2) * sizeof(float));
    pipe->InitBuffer(small_, kLossSums<T> * (3 * 8 + 2) * sizeof(float));
    scores_ = floats_.template Get<float>();
    spare_ = scores_[kTile];
    slopes_ = spare_[kTile];
    fold_ = slopes_[kTile];
    eighths_ = small_.template Get<float>();
    totals_ = eighths_[8 * kLossSums<T>];
    blocks_ = totals_[8 * kLossSums<T>];
    sums_ = blocks_[8 * kLossSums<T>];
    even_ = sums_[kLossSums<T>];
    // reductions of whole repeats also read what follows the last row
    Duplicate(eighths_, 0.0f, kLossSums<T> * (3 * 8 + 2));
  }
  // Loads the first of the tiles, which are about equal.
  __aicore__ inline void Begin(const Share& share) {
    at_ = share.begin;
    end_ = share.end;
    if (at_ == end_) return;
    const uint32_t most = width > kWidest ? 1 : kLossTile<T> / width;
    rows_ = CeilDiv(end_ - at_, CeilDiv(end_ - at_, most));
    CopyIn();
  }
  // Loads the tile after the next, and computes scores q of the next, which add up to 1.
  __aicore__ inline bool Next() {
    if (at_ == end_) return false;
    token = at_;
    rows = Min(rows_, end_ - at_);
    at_ += rows;
    if (at_ < end_) CopyIn();
    // between rows, in blocks; with one row there is no next one
    stride = rows == 1 ? 8 : width / kPerBlock<float>;
    in_stride_ = rows == 1 ? 8 : pitch_ / kPerBlock<T>;
    Widened();
    Score();
    return true;
  }
  // The scores' derivatives, divided by the scores' sum.
  __aicore__ inline LocalTensor<float> Slopes() {
    const uint32_t count = rows * width;
    if (score_ == GateScore::kSoftmax) return q;
    if (score_ == GateScore::kSigmoid) {
      Muls(slopes_, scores_, -1.0f, count);
      Adds(slopes_, slopes_, 1.0f, count);
      Mul(slopes_, slopes_, scores_, count);
    }
    DivideRows(slopes_, slopes_);
    return slopes_;
  }
  // What is free once Slopes was called.
  __aicore__ inline LocalTensor<float> Free() const {
    return score_ == GateScore::kSoftmax ? spare_ : scores_;
  }
  // Each row's sum, a block for each row.
  __aicore__ inline LocalTensor<float> RowSums(const LocalTensor<float>& values) {
    Reduce<ReduceType::SUM>(values);
    Spread(blocks_, sums_);
    return blocks_;
  }
  // Adds up E values of all cores, in the order of the cores, so that the result is always the
  // same. There are zeros in the filler.
  template <typename U>
  __aicore__ inline void SumCores(const LocalTensor<U>& sums, const GlobalTensor<U>& workspace) {
    const uint32_t pitch = RoundUp(E_, kPerBlock<U>), cores = GetBlockNum();
    const uint32_t most = pitch > kWidest ? 1 : kLossTile<T> * sizeof(T) / sizeof(U) / pitch;
    Duplicate(sums, static_cast<U>(0), width);
    for (uint32_t core = 0; core < cores; core += most) {
      const uint32_t rows = Min(most, cores - core);
      LocalTensor<U> in = in_.template AllocTensor<U>();
      DataCopyPad(in, workspace[static_cast<uint64_t>(core) * E_],
                  DataCopyExtParams(rows, E_ * sizeof(U), 0, 0, 0),
                  DataCopyPadExtParams<U>(true, 0, pitch - E_, static_cast<U>(0)));
      in_.EnQue(in);
      in = in_.template DeQue<U>();
      for (uint32_t column = 0; column < pitch; column += kLossLanes) {
        const uint32_t lanes = Min(kLossLanes, pitch - column);
        Add(sums[column], in[column], sums[column], lanes, rows,
            BinaryRepeatParams(1, 1, 1, 0, rows == 1 ? 8 : pitch / kPerBlock<U>, 0));
      }
      in_.FreeTensor(in);
    }
  }
  // Space for a row of 4-byte elements, 0 or 1, which the next tile overwrites.
  template <typename U>
  __aicore__ inline LocalTensor<U> Scratch(uint32_t i) const {
    return (i == 0 ? spare_ : slopes_).template ReinterpretCast<U>();
  }
  // Rows in UB, whose blocks are not filled up, to rows in global memory.
  __aicore__ inline void Narrowed(const LocalTensor<T>& out, const LocalTensor<float>& values) {
    const UnaryRepeatParams params(1, 1, in_stride_, stride);
    for (uint32_t column = 0; column < E_; column += kLossLanes) {
      const uint64_t lanes = Min(kLossLanes, E_ - column);
      if constexpr (kIsFloat<T>) {
        Adds(out[column], values[column], 0.0f, lanes, rows, params);
      } else {
        Cast(out[column], values[column], RoundMode::CAST_RINT, lanes, rows, params);
      }
    }
  }
  __aicore__ inline void StoreTo(const GlobalTensor<T>& to, const LocalTensor<T>& out) {
    const bool dense = pitch_ == E_;
    DataCopyPad(to[token * E_], out,
                DataCopyExtParams(dense ? 1 : rows, (dense ? rows * E_ : E_) * sizeof(T), 0, 0, 0));
  }

  uint64_t token = 0;    // the tile's first
  uint32_t rows = 0;     // tokens of the tile
  uint32_t width = 0;    // elements of a row
  uint32_t stride = 0;   // blocks of a row
  LocalTensor<float> q;  // [rows, width], 0 in the filler

 private:
  static constexpr uint32_t kWidest = 255 * kPerBlock<float>;  // the field of a stride

  __aicore__ inline void CopyIn() {
    const uint32_t rows = Min(rows_, end_ - at_);
    const bool dense = pitch_ == E_;  // one long piece, not a short one for each row
    LocalTensor<T> in = in_.template AllocTensor<T>();
    DataCopyPad(in, logits_[at_ * E_],
                DataCopyExtParams(dense ? 1 : rows, (dense ? rows * E_ : E_) * sizeof(T), 0, 0, 0),
                DataCopyPadExtParams<T>(false, 0, 0, static_cast<T>(0)));
    in_.EnQue(in);
  }
  // The filler is -inf, whose score is 0.
  __aicore__ inline void Widened() {
    LocalTensor<T> in = in_.template DeQue<T>();
    if (E_ != width) Duplicate(scores_, -1.0f / 0.0f, rows * width);
    const UnaryRepeatParams params(1, 1, stride, in_stride_);
    for (uint32_t column = 0; column < E_; column += kLossLanes) {
      const uint64_t lanes = Min(kLossLanes, E_ - column);
      if constexpr (kIsFloat<T>) {
        Adds(scores_[column], in[column], 0.0f, lanes, rows, params);
      } else {
        Cast(scores_[column], in[column], RoundMode::CAST_NONE, lanes, rows, params);
      }
    }
    in_.FreeTensor(in);
  }
  __aicore__ inline void Score() {
    const uint32_t count = rows * width;
    q = score_ == GateScore::kSoftmax ? scores_ : spare_;
    if (score_ == GateScore::kSoftmax) {
      Reduce<ReduceType::MAX>(scores_);
      Spread(blocks_, sums_);
      for (uint32_t column = 0; column < width; column += kLossLanes) {
        Sub(scores_[column], scores_[column], blocks_, kLossLanes, rows, ByRow());
      }
      Exp(scores_, scores_, count);
    } else if (score_ == GateScore::kSqrtSoftplus) {
      SqrtSoftplus(scores_, slopes_, spare_, count);
    } else {
      Muls(scores_, scores_, -1.0f, count);
      Exp(scores_, scores_, count);
      Adds(scores_, scores_, 1.0f, count);
      Duplicate(spare_, 1.0f, count);
      Div(scores_, spare_, scores_, count);
    }
    Reduce<ReduceType::SUM>(scores_);
    if (score_ != GateScore::kSoftmax) ShareEvenly();
    Spread(totals_, sums_);
    DivideRows(q, scores_);
    if (score_ == GateScore::kSoftmax) return;
    Spread(blocks_, even_);
    for (uint32_t column = 0; column < width; column += kLossLanes) {
      Add(q[column], q[column], blocks_, kLossLanes, rows, ByRow());
    }
  }
  // Where all scores of a row vanish, q is 1/E, and its gradient is 0 like the slopes.
  __aicore__ inline void ShareEvenly() {
    LocalTensor<uint8_t> bits = eighths_.ReinterpretCast<uint8_t>();
    const uint32_t whole = RoundUp(rows, kLossLanes);
    Compares(bits, sums_, 0.0f, CMPMODE::EQ, whole);
    Duplicate(even_, 1.0f, whole);
    Select(sums_, bits, even_, sums_, SELMODE::VSEL_TENSOR_TENSOR_MODE, whole);
    Duplicate(even_, 1.0f / static_cast<float>(E_), whole);
    Select(even_, bits, even_, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, whole);
  }
  // Parameters of an instruction on 64 columns of all rows with a block for each row.
  __aicore__ inline BinaryRepeatParams ByRow() const {
    return BinaryRepeatParams(1, 1, 0, stride, stride, 1);
  }
  __aicore__ inline void DivideRows(const LocalTensor<float>& dst, const LocalTensor<float>& src) {
    for (uint32_t column = 0; column < width; column += kLossLanes) {
      Div(dst[column], src[column], totals_, kLossLanes, rows, ByRow());
    }
  }
  // One value of each row, to sums_: all columns onto 64, then by blocks, which is much faster than
  // by repeats.
  template <ReduceType kType>
  __aicore__ inline void Reduce(const LocalTensor<float>& values) {
    LocalTensor<float> folded = values;
    for (uint32_t column = kLossLanes; column < width; column += kLossLanes) {
      const uint32_t before = column == kLossLanes ? stride : 8;
      const BinaryRepeatParams params(1, 1, 1, 8, before, stride);
      if constexpr (kType == ReduceType::MAX) {
        Max(fold_, folded, values[column], kLossLanes, rows, params);
      } else {
        Add(fold_, folded, values[column], kLossLanes, rows, params);
      }
      folded = fold_;
    }
    ReduceDataBlock<kType>(eighths_, folded, kLossLanes, rows, 1, 1, 8);
    ReduceDataBlock<kType>(sums_, eighths_, kLossLanes, CeilDiv(rows, 8), 1, 1, 8);
  }
  __aicore__ inline void Spread(const LocalTensor<float>& blocks, const LocalTensor<float>& sums) {
    Brcb(blocks, sums, CeilDiv(rows, 8), BrcbRepeatParams(1, 8));
  }

  GlobalTensor<T> logits_;
  GateScore score_ = GateScore::kSoftmax;
  uint64_t at_ = 0, end_ = 0;
  uint32_t E_ = 0, rows_ = 0;
  uint32_t pitch_ = 0, in_stride_ = 0;                 // of a row of logits
  LocalTensor<float> scores_, spare_, slopes_, fold_;  // [rows, width]
  LocalTensor<float> eighths_, totals_, blocks_;       // [rows, 8]
  LocalTensor<float> sums_, even_;                     // [rows]
  TQue<TPosition::VECIN, 2> in_;
  TBuf<TPosition::VECCALC> floats_, small_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_LOAD_BALANCE_LOSS_TILE_H_
