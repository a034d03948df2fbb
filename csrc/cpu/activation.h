// What stands between the two products of an expert: see moge_ops.Activation. Plain SwiGLU stays in
// the kernels' own loops; every other choice is made here, on numbers of float32, so that its code
// is there once for all dtypes of a level.
#pragma once
#include "operands.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// A function of gates and its derivative. A caller that wants one of the two pays for it alone.
template <Function kFunction>
struct Phi {
  V value, slope;
  Phi(V z, [[maybe_unused]] float alpha) {
    if constexpr (kFunction == Function::kSilu) {
      const V s = Sigmoid(z * alpha);
      value = z * s;
      slope = s + value * alpha * (1.0f - s);
    } else if constexpr (kFunction == Function::kGelu) {
      const Normal normal(z);
      value = z * normal.below;
      slope = normal.below + z * normal.density;
    } else if constexpr (kFunction == Function::kGeluTanh) {
      // (1 + tanh(v / 2)) / 2 is the sigmoid of v; the factors are sqrt(8 / pi), and 0.044715 of it
      const V square = z * z, s = Sigmoid(z * (1.59576912f + 0.0713548163f * square));
      value = z * s;
      slope = s + value * (1.0f - s) * (1.59576912f + 0.214064449f * square);
    } else if constexpr (kFunction == Function::kRelu) {
      value = Maximum(z, 0.0f);
      slope = z <= 0.0f ? V{} : Splat(1.0f);
    } else {
      const V r = Maximum(z, 0.0f);
      value = r * r;
      slope = 2.0f * r;
    }
  }
};

// Of silu alone: the others have no series.
template <Function kFunction>
inline int64_t Terms(const Activation& a) {
  return kFunction == Function::kSilu ? a.terms : 1;
}

inline V Clamped(V x, float limit) { return Maximum(Minimum(x, limit), -limit); }

// run(function) with the function as a constant of its type.
template <typename Run>
inline void WithFunction(Function function, Run run) {
  switch (function) {
    case Function::kSilu:
      return run(std::integral_constant<Function, Function::kSilu>());
    case Function::kGelu:
      return run(std::integral_constant<Function, Function::kGelu>());
    case Function::kGeluTanh:
      return run(std::integral_constant<Function, Function::kGeluTanh>());
    case Function::kRelu:
      return run(std::integral_constant<Function, Function::kRelu>());
    case Function::kRelu2:
      return run(std::integral_constant<Function, Function::kRelu2>());
  }
}

// Rows of `count` numbers, whole vectors: gate and up, which is null without a gate, `stride`
// apart; the activation may take the gate's place.
inline __attribute__((noinline)) void ActivateRows(const Activation& a, int64_t rows, int64_t count,
                                                   const float* gate, const float* up,
                                                   int64_t stride, float* act, int64_t act_stride) {
  WithFunction(a.function, [&](auto constant) {
    constexpr Function kFunction = decltype(constant)::value;
    const int64_t terms = Terms<kFunction>(a);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t i = 0; i < count; i += kLanes) {
        const V z = Minimum(Load(gate + r * stride + i), a.limit);
        V value{};
        for (int64_t t = 0; t < terms; t++) {
          const Phi<kFunction> term(z * a.series[t] + a.series[a.terms + t], a.alpha);
          value += term.value;
        }
        if (up) value *= Clamped(Load(up + r * stride + i), a.limit) + a.shift;
        Store(act + r * act_stride + i, value);
      }
  });
}

// The activation of `count` columns f. c holds two groups of sums: the gates and then up, or, with
// interleaved halves, gate and up in turns in both. The result takes the place of the first group.
template <typename T>
inline void ActivateGroup(const Activation& a, const PackedB<T>& b, int count, float* c) {
  const int64_t width = b.Width(), size = b.GroupSize();
  if (a.interleaved && !b.lines)
    return ActivateRows(a, count, width, c, c + width, 2 * width, c, width);
  if (a.interleaved)
    for (int64_t j = 0; j < size; j += kGroup) {
      constexpr int kHalf = kGroup / kLanes;
      V m[2 * kHalf];
      for (int v = 0; v < kHalf; v++) {
        m[v] = Load(c + j + v * kLanes);
        m[kHalf + v] = Load(c + size + j + v * kLanes);
      }
      for (int v = 0; v < kHalf; v++) {
        Unzip(m[2 * v], m[2 * v + 1]);
        Store(c + j + v * kLanes, m[2 * v]);
        Store(c + size + j + v * kLanes, m[2 * v + 1]);
      }
    }
  ActivateRows(a, 1, b.lines ? size : count * width, c, a.gated ? c + size : nullptr, 0, c, 0);
}

// Columns [f, f + count) of one row, at most kColumns: gate and up and the derivative d of act, 0
// behind the last; then act, and the derivatives of gate and up in their places.
struct ActivationRow {
  float gate[kColumns], up[kColumns], d[kColumns], act[kColumns];

  // pre [2F], or [F] without a gate.
  template <typename T>
  void LoadPre(const Activation& a, const T* pre, int64_t F, int64_t f, int64_t count) {
    for (int64_t j = 0; j < count; j += kLanes) {
      const int64_t left = count - j, at = f + j;
      V g, u{};
      if (a.interleaved) {
        g = Load(pre + 2 * at, 2 * left), u = Load(pre + 2 * at + kLanes, 2 * left - kLanes);
        Unzip(g, u);
      } else {
        g = Load(pre + at, left);
        if (a.gated) u = Load(pre + F + at, left);
      }
      Store(gate + j, g);
      Store(up + j, u);
    }
  }
  template <typename T>
  void StorePre(const Activation& a, T* d_pre, int64_t F, int64_t f, int64_t count) const {
    for (int64_t j = 0; j < count; j += kLanes) {
      const int64_t left = count - j, at = f + j;
      V g = Load(gate + j), u = Load(up + j);
      if (a.interleaved) {
        Zip(g, u);
        Store(d_pre + 2 * at, g, 2 * left);
        Store(d_pre + 2 * at + kLanes, u, 2 * left - kLanes);
      } else {
        Store(d_pre + at, g, left);
        if (a.gated) Store(d_pre + F + at, u, left);
      }
    }
  }
};

// The derivatives of a row whose d is that of act but for its weight. Added to sums, unless it is
// null: those of the series, scales and then shifts.
inline __attribute__((noinline)) void Differentiate(const Activation& a, int64_t count,
                                                    float weight, ActivationRow& row, V* sums) {
  WithFunction(a.function, [&](auto constant) {
    constexpr Function kFunction = decltype(constant)::value;
    const int64_t terms = Terms<kFunction>(a);
    const bool limited = a.limit < __builtin_inff();
    for (int64_t i = 0; i < count; i += kLanes) {
      const V gate = Load(row.gate + i), up = Load(row.up + i), d = Load(row.d + i) * weight;
      const V z = Minimum(gate, a.limit);
      const V factor = a.gated ? Clamped(up, a.limit) + a.shift : Splat(1.0f);
      const V d_phi = d * factor;
      V phi{}, slope{};
      for (int64_t t = 0; t < terms; t++) {
        const Phi<kFunction> term(z * a.series[t] + a.series[a.terms + t], a.alpha);
        phi += term.value;
        slope = MultiplyAdd(slope, term.slope, Splat(a.series[t]));
        if (!sums) continue;
        const V inner = d_phi * term.slope;
        sums[t] = MultiplyAdd(sums[t], inner, z);
        sums[a.terms + t] += inner;
      }
      V d_gate = d_phi * slope, d_up = d * phi;
      if (limited) {  // at the limit itself the derivative is that of below
        d_gate = gate <= a.limit ? d_gate : V{};
        d_up = up <= a.limit ? d_up : V{};
        d_up = up >= -a.limit ? d_up : V{};
      }
      Store(row.act + i, phi * factor);
      Store(row.gate + i, d_gate);
      Store(row.up + i, d_up);
    }
  });
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
