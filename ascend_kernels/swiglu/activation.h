// The activations and their derivatives, on tensors of float in UB. The switches stand outside of
// the vector instructions: each makes a list of them.
#ifndef MOGE_ASCEND_ACTIVATION_H_
#define MOGE_ASCEND_ACTIVATION_H_

#include "../common.h"
#include "activation_tiling.h"

namespace moge {

constexpr uint32_t kMostTerms = 8;  // of a series
constexpr float kSteep = 3.0e38f;   // times any difference of two floats: clamped, it is a step

// Several tensors of one size, one after the other.
struct Tensors {
  LocalTensor<float> first;
  uint32_t step;
  __aicore__ inline LocalTensor<float> operator[](uint32_t i) const { return first[i * step]; }
};

// The even and the odd elements of 2 * count.
__aicore__ inline void TakeTurns(const LocalTensor<float>& even, const LocalTensor<float>& odd,
                                 const LocalTensor<float>& both, uint32_t count) {
  uint64_t taken = 0;
  const GatherMaskParams params(1, 1, 8, 8);
  GatherMask(even, both, static_cast<uint8_t>(1), true, 2 * count, params, taken);
  GatherMask(odd, both, static_cast<uint8_t>(2), true, 2 * count, params, taken);
}

// A term is phi(t); a series sums phi(scale_i z + offset_i). The functions take kTemporaries
// tensors from `tmp` on, and none of their operands may be among these.
class ActivationTerms {
 public:
  static constexpr uint32_t kTemporaries = 5;

  __aicore__ inline void Init(const ActivationTiling& tiling, GM_ADDR series) {
    of_ = tiling;
    if (tiling.terms == 0) return;
    const GlobalTensor<float> numbers = Global<float>(series);
    for (uint32_t i = 0; i < tiling.terms; ++i) {
      scale_[i] = numbers.GetValue(i);
      offset_[i] = numbers.GetValue(tiling.terms + i);
    }
  }
  __aicore__ inline const ActivationTiling& Of() const { return of_; }
  __aicore__ inline float Scale(uint32_t i) const { return scale_[i]; }
  // t of a term of the series
  __aicore__ inline void Argument(const LocalTensor<float>& t, const LocalTensor<float>& z,
                                  uint32_t i, uint32_t count) const {
    Muls(t, z, scale_[i], count);
    Adds(t, t, offset_[i], count);
  }

  // act of gate and up. `z` and `u` are room for what limit and shift make of them.
  __aicore__ inline void Activate(const LocalTensor<float>& act, const LocalTensor<float>& gate,
                                  const LocalTensor<float>& up, const LocalTensor<float>& z,
                                  const LocalTensor<float>& u, const Tensors& tmp,
                                  uint32_t count) const {
    const LocalTensor<float> limited = LimitGate(gate, z, count);
    if (of_.terms == 0) {
      Value(act, limited, tmp, count);
    } else {
      const LocalTensor<float> t = tmp[3], value = tmp[4];
      for (uint32_t i = 0; i < of_.terms; ++i) {
        Argument(t, limited, i, count);
        Value(value, t, tmp, count);
        if (i == 0) {
          Muls(act, value, 1.0f, count);
        } else {
          Add(act, act, value, count);
        }
      }
    }
    if (of_.gated != 0) Mul(act, act, MoveUp(up, u, count), count);
  }
  // min(gate, limit), which may be `gate` itself
  __aicore__ inline LocalTensor<float> LimitGate(const LocalTensor<float>& gate,
                                                 const LocalTensor<float>& z,
                                                 uint32_t count) const {
    if (of_.limited == 0) return gate;
    Mins(z, gate, of_.limit, count);
    return z;
  }
  // clamp(up) + shift, which may be `up` itself
  __aicore__ inline LocalTensor<float> MoveUp(const LocalTensor<float>& up,
                                              const LocalTensor<float>& u, uint32_t count) const {
    LocalTensor<float> moved = up;
    if (of_.limited != 0) {
      Mins(u, up, of_.limit, count);
      Maxs(u, u, -of_.limit, count);
      moved = u;
    }
    if (of_.shift != 0.0f) {
      Adds(u, moved, of_.shift, count);
      moved = u;
    }
    return moved;
  }

  // phi(t)
  __aicore__ inline void Value(const LocalTensor<float>& value, const LocalTensor<float>& t,
                               const Tensors& tmp, uint32_t count) const {
    switch (of_.phi) {
      case Phi::kSilu:
      case Phi::kGeluTanh:
        Powers(tmp[0], t, count);
        Div(value, t, tmp[0], count);
        break;
      case Phi::kGelu:
        Tail(tmp, t, count);
        FromTail(value, t, tmp, count);
        break;
      case Phi::kRelu:
        Maxs(value, t, 0.0f, count);
        break;
      case Phi::kRelu2:
        Maxs(tmp[0], t, 0.0f, count);
        Mul(value, tmp[0], tmp[0], count);
        break;
    }
  }
  // phi(t) and its derivative
  __aicore__ inline void ValueAndSlope(const LocalTensor<float>& value,
                                       const LocalTensor<float>& slope, const LocalTensor<float>& t,
                                       const Tensors& tmp, uint32_t count) const {
    switch (of_.phi) {
      case Phi::kSilu:
      case Phi::kGeluTanh:
        SigmoidSlope(value, slope, t, tmp, count);
        break;
      case Phi::kGelu:
        GeluSlope(value, slope, t, tmp, count);
        break;
      case Phi::kRelu:
        Maxs(value, t, 0.0f, count);
        Step(slope, t, 0.0f, count);
        break;
      case Phi::kRelu2:
        Maxs(tmp[0], t, 0.0f, count);
        Mul(value, tmp[0], tmp[0], count);
        Muls(slope, tmp[0], 2.0f, count);
        break;
    }
  }
  // 0 where x > limit, 1 elsewhere
  __aicore__ inline void WithinLimit(const LocalTensor<float>& mask, const LocalTensor<float>& x,
                                     uint32_t count) const {
    Adds(mask, x, -of_.limit, count);
    Step(mask, mask, 0.0f, count);
    Muls(mask, mask, -1.0f, count);
    Adds(mask, mask, 1.0f, count);
  }

 private:
  // gelu's approximation by tanh is z sigmoid(q), q = z (kA + kB z^2)
  static constexpr float kA = 1.5957691216057308f, kB = kA * 0.044715f;
  // The tail of the normal distribution: Abramowitz and Stegun 1964, 7.1.26, whose error of erf is
  // below 1.5e-7, so that of the tail is below 7.5e-8. In float, gelu(z) is within 2e-7 |z| besides
  // its own rounding (tests/test_ascend_activations.py).
  static constexpr float kTail[5] = {0.254829592f, -0.284496736f, 1.421413741f, -1.453152027f,
                                     1.061405429f};
  static constexpr float kTailPole = 0.3275911f * 0.70710678f;
  static constexpr float kTailEnd = 20.0f;  // where the tail is 0 in float
  static constexpr float kDensity = 0.39894228f;

  // step: 1 where x > 0, low where x < 0, and `low` is 0 or -1
  __aicore__ inline void Step(const LocalTensor<float>& step, const LocalTensor<float>& x,
                              float low, uint32_t count) const {
    Muls(step, x, kSteep, count);
    Mins(step, step, 1.0f, count);
    Maxs(step, step, low, count);
  }
  // 1 + exp(-q): t by it is phi(t)
  __aicore__ inline void Powers(const LocalTensor<float>& e, const LocalTensor<float>& t,
                                uint32_t count) const {
    if (of_.phi == Phi::kSilu) {
      Muls(e, t, -of_.alpha, count);
    } else {
      Mul(e, t, t, count);
      Muls(e, e, -kB, count);
      Adds(e, e, -kA, count);
      Mul(e, e, t, count);
    }
    Exp(e, e, count);
    Adds(e, e, 1.0f, count);
  }
  // s = sigmoid(q): value = t s, slope = s (1 + q' (t - value))
  __aicore__ inline void SigmoidSlope(const LocalTensor<float>& value,
                                      const LocalTensor<float>& slope, const LocalTensor<float>& t,
                                      const Tensors& tmp, uint32_t count) const {
    const LocalTensor<float> s = tmp[0], rest = tmp[1];
    Powers(s, t, count);
    Duplicate(rest, 1.0f, count);
    Div(s, rest, s, count);
    Mul(value, t, s, count);
    Sub(rest, t, value, count);
    if (of_.phi == Phi::kSilu) {
      Muls(rest, rest, of_.alpha, count);
    } else {
      Mul(slope, t, t, count);
      Muls(slope, slope, 3.0f * kB, count);
      Adds(slope, slope, kA, count);
      Mul(rest, rest, slope, count);
    }
    Adds(rest, rest, 1.0f, count);
    Mul(slope, rest, s, count);
  }
  // tmp[0] = |t|, tmp[1] = exp(-t^2 / 2), tmp[2] = the share of the normal distribution beyond |t|
  __aicore__ inline void Tail(const Tensors& tmp, const LocalTensor<float>& t,
                              uint32_t count) const {
    const LocalTensor<float> a = tmp[0], r = tmp[1], q = tmp[2];
    Abs(a, t, count);
    Mins(a, a, kTailEnd, count);
    Muls(r, a, kTailPole, count);
    Adds(r, r, 1.0f, count);
    Duplicate(q, 1.0f, count);
    Div(r, q, r, count);
    Muls(q, r, kTail[4], count);
    for (uint32_t i = 4; i-- > 0;) {
      Adds(q, q, kTail[i], count);
      Mul(q, q, r, count);
    }
    Mul(r, a, a, count);
    Muls(r, r, -0.5f, count);
    Exp(r, r, count);
    Mul(q, q, r, count);
    Muls(q, q, 0.5f, count);
  }
  // gelu(t) = max(t, 0) - |t| tail
  __aicore__ inline void FromTail(const LocalTensor<float>& value, const LocalTensor<float>& t,
                                  const Tensors& tmp, uint32_t count) const {
    Mul(tmp[0], tmp[0], tmp[2], count);
    Maxs(value, t, 0.0f, count);
    Sub(value, value, tmp[0], count);
  }
  // slope = the normal distribution at t, and t times its density
  __aicore__ inline void GeluSlope(const LocalTensor<float>& value, const LocalTensor<float>& slope,
                                   const LocalTensor<float>& t, const Tensors& tmp,
                                   uint32_t count) const {
    const LocalTensor<float> sign = tmp[0], density = tmp[1], tail = tmp[2];
    Tail(tmp, t, count);
    FromTail(value, t, tmp, count);
    Muls(density, density, kDensity, count);
    Mul(density, density, t, count);
    Step(sign, t, -1.0f, count);
    Muls(tail, tail, -1.0f, count);
    Adds(tail, tail, 0.5f, count);
    Mul(tail, tail, sign, count);
    Adds(tail, tail, 0.5f, count);
    Add(slope, tail, density, count);
  }

  ActivationTiling of_{};
  float scale_[kMostTerms], offset_[kMostTerms];
};

}  // namespace moge

#endif  // MOGE_ASCEND_ACTIVATION_H_
