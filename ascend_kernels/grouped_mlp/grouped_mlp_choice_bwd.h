// The backward pass of any weighted activation; SwiGLU without a series has a shorter way.
#ifndef MOGE_ASCEND_GROUPED_MLP_CHOICE_BWD_H_
#define MOGE_ASCEND_GROUPED_MLP_CHOICE_BWD_H_

#include "../swiglu/activation_kernel.h"
#include "grouped_mlp_act_bwd_rows.h"

namespace moge {

// Elements of one operand's tile. UB holds two buffers for each of three inputs and three results,
// the float temporaries, the sums of the rows, sums for the series' gradients, and where gate and
// up take turns, a list of addresses.
constexpr uint32_t kMlpChoiceBwdTile = 1536;
constexpr uint32_t kMlpChoiceBwdFloats = 14;
constexpr uint32_t kMlpSeriesSums = 2 * kMostTerms;  // of the scales, then of the offsets
constexpr uint32_t kMlpTurns = 256;                  // elements that change places at a time
constexpr uint32_t kMlpChoiceBwdSmall = kMlpActBwdRowsBytes +
                                        kMlpSeriesSums * (kPerRepeat<float> + 1) * sizeof(float) +
                                        kMlpTurns * sizeof(uint32_t);
static_assert(kMlpChoiceBwdTile % kMlpTurns == 0, "turns");
static_assert(kMlpChoiceBwdTile * (2 * 6 + kMlpChoiceBwdFloats) * 4 + kMlpChoiceBwdSmall <=
                  kUbBytes,
              "UB");

template <typename T>
class GroupedMlpChoiceBwd {
 public:
  using Tile = typename GroupedMlpActBwdRows<T>::Tile;

  __aicore__ inline void Init(const GroupedMlpActBwdTensors& gm,
                              const GroupedMlpActBwdTiling& tiling, TPipe* pipe) {
    const ActivationTiling& of = tiling.activation;
    g_ = Global<T>(gm.g);
    pre_ = Global<T>(gm.pre);
    d_pre_ = Global<T>(gm.d_pre);
    act_ = Global<T>(gm.act);
    F_ = tiling.tiles.F;
    width_ = (of.gated != 0 ? 2 : 1) * F_;
    paired_ = of.gated != 0 && of.interleaved != 0;
    series_ = gm.d_series != nullptr;
    terms_.Init(of, gm.series);
    pipe->InitBuffer(in_, 2, 3 * kTile * sizeof(T));
    pipe->InitBuffer(out_, 2, 3 * kTile * sizeof(T));
    pipe->InitBuffer(floats_, kMlpChoiceBwdFloats * kTile * sizeof(float));
    rows_.Init(gm, pipe);
    if (series_) {
      d_series_ = Global<float>(gm.d_series);
      pipe->InitBuffer(series_lanes_, kMlpSeriesSums * kPerRepeat<float> * sizeof(float));
      pipe->InitBuffer(series_sums_, 1, kMlpSeriesSums * sizeof(float));
      Duplicate(series_lanes_.Get<float>(), 0.0f, kMlpSeriesSums * kPerRepeat<float>);
    }
    if (paired_) InitTurns(pipe);
  }
  __aicore__ inline void Process(const GroupedMlpActBwdTiling& tiling) {
    rows_.Process(tiling.tiles, *this);
    if (series_) StoreSeries();
  }
  __aicore__ inline void operator()(const Tile& tile, const LocalTensor<float>& lanes) {
    LocalTensor<T> in = in_.template AllocTensor<T>();
    const uint64_t at = tile.row * width_ + tile.column;
    if (paired_) {
      PairTile<T, Tile>(tile).Load(in, pre_[tile.row * width_ + 2 * tile.column], width_);
    } else {
      LoadTile(in, pre_[at], tile, width_);
      if (width_ != F_) LoadTile(in[kTile], pre_[at + F_], tile, width_);
    }
    LoadTile(in[2 * kTile], g_[tile.row * F_ + tile.column], tile, F_);
    in_.EnQue(in);
    Compute(tile, lanes);
    LocalTensor<T> out = out_.template DeQue<T>();
    if (paired_) {
      PairTile<T, Tile>(tile).Store(d_pre_[tile.row * width_ + 2 * tile.column], out, width_);
    } else {
      StoreTile(d_pre_[at], out, tile, width_);
      if (width_ != F_) StoreTile(d_pre_[at + F_], out[kTile], tile, width_);
    }
    StoreTile(act_[tile.row * F_ + tile.column], out[2 * kTile], tile, F_);
    out_.FreeTensor(out);
  }

 private:
  static constexpr uint32_t kTile = kMlpChoiceBwdTile;

  // Element i of two halves that take turns comes from place i / 2 of the half i % 2.
  __aicore__ inline void InitTurns(TPipe* pipe) {
    pipe->InitBuffer(turns_, kMlpTurns * sizeof(uint32_t));
    const LocalTensor<int32_t> turns = turns_.Get<int32_t>();
    const LocalTensor<int32_t> place = floats_.Get<int32_t>(), half = place[kTile];
    CreateVecIndex(place, 0, kMlpTurns);
    ShiftRight(half, place, 1, kMlpTurns);
    Muls(turns, half, 2, kMlpTurns);
    Sub(place, place, turns, kMlpTurns);
    Muls(place, place, static_cast<int32_t>(kTile * sizeof(float)), kMlpTurns);
    Muls(half, half, static_cast<int32_t>(sizeof(float)), kMlpTurns);
    Add(turns, place, half, kMlpTurns);
  }
  // With z and u the limited gate and the moved up:
  //   d_gate = w g u phi'(z), d_up = w g phi(z), and 0 beyond the limit
  __aicore__ inline void Compute(const Tile& tile, const LocalTensor<float>& lanes) {
    LocalTensor<T> in = in_.template DeQue<T>();
    LocalTensor<T> out = out_.template AllocTensor<T>();
    const Tensors floats{floats_.template Get<float>(), kTile};
    const Tensors tmp{floats[8], kTile};  // the first five, and one more
    const uint32_t count = tile.rows * RoundUp(tile.columns, kPerBlock<T>);
    const bool gated = width_ != F_, limited = terms_.Of().limited != 0;
    if (paired_) PairTile<T, Tile>(tile).Fill(in);
    LocalTensor<float> raw, g, act;
    if constexpr (kIsFloat<T>) {
      raw = in;
      g = in[2 * kTile];
      act = out[2 * kTile];
    } else {
      raw = floats[0];
      g = floats[4];
      act = tmp[0];
      Widen(raw, in, paired_ ? 2 * count : count);
      if (gated && !paired_) Widen(floats[1], in[kTile], count);
      Widen(g, in[2 * kTile], count);
    }
    LocalTensor<float> gate = raw, up = raw[kTile], z = floats[2], u = floats[3];
    if (paired_) {
      gate = floats[2];
      up = floats[3];
      TakeTurns(gate, up, raw, count);
      z = floats[0];
      u = floats[1];
    }
    z = terms_.LimitGate(gate, z, count);
    if (gated) u = terms_.MoveUp(up, u, count);
    const LocalTensor<float> d_phi = floats[5], phi = floats[6], slope = floats[7];
    if (gated) {
      Mul(d_phi, g, u, count);
    } else {
      Muls(d_phi, g, 1.0f, count);
    }
    rows_.Weigh(tile, d_phi);
    SumTerms(phi, slope, z, d_phi, tmp, count);
    if (gated) {
      Mul(act, phi, u, count);
    } else {
      Muls(act, phi, 1.0f, count);
    }
    rows_.AddUp(tile, lanes, g, act, tmp[1]);
    rows_.Weigh(tile, act, g);
    LocalTensor<float> d_gate = tmp[3], d_up = tmp[4];
    if constexpr (kIsFloat<T>) {
      if (!paired_) {
        d_gate = out;
        d_up = out[kTile];
      }
    } else {
      Narrow(out[2 * kTile], act, count);
    }
    Mul(d_gate, d_phi, slope, count);
    if (gated) Mul(d_up, g, phi, count);
    if (limited) {
      terms_.WithinLimit(tmp[1], gate, count);
      Mul(d_gate, d_gate, tmp[1], count);
    }
    if (limited && gated) {
      Abs(tmp[2], up, count);
      terms_.WithinLimit(tmp[1], tmp[2], count);
      Mul(d_up, d_up, tmp[1], count);
    }
    if constexpr (kIsFloat<T>) {
      if (paired_) Alternate(out, d_gate, count);
    } else if (paired_) {
      Alternate(floats[0], d_gate, count);
      Narrow(out, floats[0], 2 * count);
    } else {
      Narrow(out, d_gate, count);
      if (gated) Narrow(out[kTile], d_up, count);
    }
    in_.FreeTensor(in);
    out_.EnQue(out);
  }
  // phi(z) and its derivative, and what the series' gradients have of this tile
  __aicore__ inline void SumTerms(const LocalTensor<float>& phi, const LocalTensor<float>& slope,
                                  const LocalTensor<float>& z, const LocalTensor<float>& d_phi,
                                  const Tensors& tmp, uint32_t count) {
    const uint32_t terms = terms_.Of().terms;
    if (terms == 0) {
      terms_.ValueAndSlope(phi, slope, z, tmp, count);
      return;
    }
    const LocalTensor<float> t = tmp[3], value = tmp[4], part = tmp[5], product = tmp[0];
    for (uint32_t i = 0; i < terms; ++i) {
      terms_.Argument(t, z, i, count);
      terms_.ValueAndSlope(value, part, t, tmp, count);
      if (series_) {
        const LocalTensor<float> sums = series_lanes_.template Get<float>();
        Mul(product, d_phi, part, count);
        SumToLanes(sums[(kMostTerms + i) * kPerRepeat<float>], product, count);
        Mul(product, product, z, count);
        SumToLanes(sums[i * kPerRepeat<float>], product, count);
      }
      Muls(part, part, terms_.Scale(i), count);
      if (i == 0) {
        Muls(phi, value, 1.0f, count);
        Muls(slope, part, 1.0f, count);
      } else {
        Add(phi, phi, value, count);
        Add(slope, slope, part, count);
      }
    }
  }
  // Two halves, kTile elements apart, take turns.
  __aicore__ inline void Alternate(const LocalTensor<float>& dst, const LocalTensor<float>& halves,
                                   uint32_t count) {
    const LocalTensor<uint32_t> turns = turns_.Get<uint32_t>();
    for (uint32_t i = 0; i < 2 * count; i += kMlpTurns) {
      Gather(dst[i], halves, turns, static_cast<uint32_t>(i / 2 * sizeof(float)),
             static_cast<uint32_t>(Min(kMlpTurns, 2 * count - i)));
    }
  }
  __aicore__ inline void StoreSeries() {
    LocalTensor<float> sums = series_sums_.AllocTensor<float>();
    ReduceRepeat<ReduceType::SUM>(sums, series_lanes_.Get<float>(), kPerRepeat<float>,
                                  kMlpSeriesSums, 1, 1, 8);
    series_sums_.EnQue(sums);
    sums = series_sums_.DeQue<float>();
    Store(d_series_[GetBlockIdx() * kMlpSeriesSums], sums, kMlpSeriesSums);
    series_sums_.FreeTensor(sums);
  }

  GroupedMlpActBwdRows<T> rows_;
  GlobalTensor<T> g_, pre_, d_pre_, act_;
  GlobalTensor<float> d_series_;
  uint64_t F_ = 0, width_ = 0;
  bool paired_ = false, series_ = false;
  ActivationTerms terms_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_, series_sums_;
  TBuf<TPosition::VECCALC> floats_, series_lanes_, turns_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_MLP_CHOICE_BWD_H_
