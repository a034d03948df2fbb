// The product with b as lines.
#pragma once
#include "operands.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// c[j][r] is the sum of the lanes of sum[j * R + r].
template <int R, int J>
inline void AddLanes(const V (&sum)[J * R], float* c) {
  float found[RoundUp(J * R, kLanes)];
#pragma GCC unroll 4
  for (int first = 0; first < J * R; first += kLanes) {
    V m[kLanes] = {};
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++)
      if (first + i < J * R) m[i] = sum[first + i];
    Transpose(m);
#pragma GCC unroll 16
    for (int half = kLanes / 2; half; half /= 2)
#pragma GCC unroll 16
      for (int i = 0; i < half; i++) m[i] += m[i + half];
    Store(found + first, m[0]);
  }
  for (int j = 0; j < J; j++) memcpy(c + j * kGroup, found + j * R, R * sizeof(float));
}

template <int R, int J, typename T, typename B>
inline void Lines(const T* a, int64_t stride, const B* b, int64_t depth, int64_t K, float* c,
                  bool first) {
  using S = Step<T, B>;
  constexpr int kVector = kLanes * S::kDepth;
  V sum[J * R] = {};
  auto add = [&](int64_t k, int64_t n) __attribute__((always_inline)) {
    typename S::Vector right[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; j++) right[j] = S::Right(b + j * depth + k);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      // The next rows: a processor's own prefetch begins anew with each. From memory it is
      // worth 1.2 to 1.5 times the rate with rows of 512 and 2048 bytes (Zen 3).
      if (first && k % (64 / sizeof(T)) == 0)
        __builtin_prefetch(a + (r + R) * stride + k + 512 / sizeof(T));
      const auto left = S::Along(a + r * stride + k, n);
#pragma GCC unroll 8
      for (int j = 0; j < J; j++) sum[j * R + r] = S::Add(sum[j * R + r], left, right[j]);
    }
  };
  const int64_t whole = K / kVector * kVector;
  for (int64_t k = 0; k < whole; k += kVector) add(k, kVector);
  if (whole < K) add(whole, K - whole);
  AddLanes<R, J>(sum, c);
}

// A group of rows and every column: c[j][r].
template <typename T>
inline void ManyLines(Rows<T> a, const PackedB<T>& b, float* c) {
  auto step = [&](auto rows) {
    constexpr int R = decltype(rows)::value;
    for (; a.count >= R; a.count -= R, a.data += R * a.stride, c += R) {
      int64_t j = 0;
      auto columns = [&](auto n) {
        constexpr int J = decltype(n)::value;
        for (; b.columns - j >= J; j += J)
          Lines<R, J>(a.data, a.stride, b.Line(j), Depth(b.K), b.K, c + j * kGroup, j == 0);
      };
      columns(std::integral_constant<int, kFew>());
      columns(std::integral_constant<int, 2>());
      columns(std::integral_constant<int, 1>());
    }
  };
  step(std::integral_constant<int, 4>());
  step(std::integral_constant<int, 1>());
}

// The same for columns so few that rows come from memory more slowly than they are multiplied: each
// of S groups of rows is read row after row, as it lies there, which the processor's own prefetch
// follows; S of those streams at once are quicker than one.
template <int S, int J, typename T>
inline void Streams(const Rows<T>* a, const PackedB<T>& b, float* c) {
  using M = Step<T, Packed<T>>;
  constexpr int kVector = kLanes * M::kDepth;
  // Sums of one row and column: the same for every S, so that the bits are.
  constexpr int kSums = J == 1 ? 2 : 1;
  for (int first = 0; first < a[0].count; first += kLanes) {
    V sum[S][J * kLanes] = {};
    for (int r = first; r < a[0].count && r < first + kLanes; r++) {
      V part[S][kSums][J] = {};
      auto add = [&](int u, int64_t k, int64_t n) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) {
          const auto left = M::Along(a[s].data + r * a[s].stride + k, n);
#pragma GCC unroll 4
          for (int j = 0; j < J; j++)
            part[s][u][j] = M::Add(part[s][u][j], left, M::Right(b.Line(j) + k));
        }
      };
      int64_t k = 0;
      for (; k + kSums * kVector <= b.K; k += kSums * kVector)
#pragma GCC unroll 4
        for (int u = 0; u < kSums; u++) add(u, k + u * kVector, kVector);
      for (; k < b.K; k += kVector) add(0, k, Least(kVector, b.K - k));
#pragma GCC unroll 4
      for (int s = 0; s < S; s++)
#pragma GCC unroll 4
        for (int j = 0; j < J; j++)
          sum[s][j * kLanes + r - first] =
              kSums == 2 ? part[s][0][j] + part[s][kSums - 1][j] : part[s][0][j];
    }
#pragma GCC unroll 4
    for (int s = 0; s < S; s++) AddLanes<kLanes, J>(sum[s], c + s * b.GroupSize() + first);
  }
}

template <int J, typename T>
inline void ManyStreams(const Rows<T>* a, int groups, const PackedB<T>& b, float* c) {
  bool alike = groups == kStreams;
  for (int g = 1; g < groups; g++) alike &= a[g].count == a[0].count;
  if (alike) return Streams<kStreams, J>(a, b, c);
  for (int g = 0; g < groups; g++) Streams<1, J>(a + g, b, c + g * b.GroupSize());
}

template <typename T>
inline void LinesProduct(const Rows<T>* a, int groups, const PackedB<T>& b, float* c) {
  static_assert(kFew <= 4, "a case for each");
  if (!b.Few())
    for (int g = 0; g < groups; g++) ManyLines(a[g], b, c + g * b.GroupSize());
  else if (b.columns == 1)
    ManyStreams<1>(a, groups, b, c);
  else if (b.columns == 2)
    ManyStreams<2>(a, groups, b, c);
  else if (b.columns == 3)
    ManyStreams<3>(a, groups, b, c);
  else
    ManyStreams<kFew>(a, groups, b, c);
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
