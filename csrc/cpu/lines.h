// The product with b as lines.
#pragma once
#include "operands.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// One row of each of S groups and J columns: c[s * rows + j * kGroup]. Not inline: GCC would keep
// the sums in memory, which takes twice as long.
template <int S, int J, typename T, typename B>
__attribute__((noinline)) void Lines(const T* const (&a)[S], const B* b, int64_t K, float* c,
                                     int64_t rows) {
  using M = Step<T, B>;
  constexpr int kVector = kLanes * M::kDepth;
  const int64_t depth = Depth(K);
  V sum[J * S] = {};
  auto add = [&](int64_t k, int64_t n) __attribute__((always_inline)) {
    typename M::Vector right[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; j++) right[j] = M::Right(b + j * depth + k);
#pragma GCC unroll 8
    for (int s = 0; s < S; s++) {
      const auto left = M::Along(a[s] + k, n);
#pragma GCC unroll 8
      for (int j = 0; j < J; j++) sum[j * S + s] = M::Add(sum[j * S + s], left, right[j]);
    }
  };
  const int64_t whole = K / kVector * kVector;
  for (int64_t k = 0; k < whole; k += kVector) add(k, kVector);
  if (whole < K) add(whole, K - whole);
  float found[RoundUp(J * S, kLanes)];
#pragma GCC unroll 4
  for (int first = 0; first < J * S; first += kLanes) {
    V m[kLanes] = {};
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++)
      if (first + i < J * S) m[i] = sum[first + i];
    Store(found + first, AddLanes(m));
  }
  for (int j = 0; j < J; j++)
    for (int s = 0; s < S; s++) c[s * rows + j * kGroup] = found[j * S + s];
}

// S groups of as many rows. Each is read row after row as it lies in memory, which the processor's
// own prefetch follows, and a core reads several such streams faster than one: from memory, pages
// of 4 KiB, 17 and not 12 GB/s for two Zen 3 cores together (November 2026).
template <int S, typename T>
inline void Streams(const Rows<T>* a, const PackedB<T>& b, float* c) {
  for (int r = 0; r < a[0].count; r++) {
    const T* row[S];
    for (int s = 0; s < S; s++) row[s] = a[s].data + r * a[s].stride;
    int64_t j = 0;
    auto step = [&](auto columns) {
      constexpr int J = decltype(columns)::value;
      for (; b.columns - j >= J; j += J)
        Lines<S, J>(row, b.Line(j), b.K, c + j * kGroup + r, b.GroupSize());
    };
    if constexpr (kLanes == 16) step(std::integral_constant<int, 6>());
    step(std::integral_constant<int, 3>());
    step(std::integral_constant<int, 2>());
    step(std::integral_constant<int, 1>());
  }
}

// c of `groups` groups, [groups][columns][kGroup].
template <typename T>
inline void LinesProduct(const Rows<T>* a, int groups, const PackedB<T>& b, float* c) {
  bool alike = groups == kStreams;
  for (int g = 1; g < groups; g++) alike &= a[g].count == a[0].count;
  if (alike) return Streams<kStreams>(a, b, c);
  for (int g = 0; g < groups; g++) Streams<1>(a + g, b, c + g * b.GroupSize());
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
