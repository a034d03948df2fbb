// The one product of all kernels: see operands.h.
#pragma once
#include "integers.h"
#include "lines.h"

#if MOGE_TILES
#include "tiles.h"
#else
namespace moge_cpu {
namespace MOGE_LEVEL {
struct TileScope {
  TileScope() {}  // not trivial: an unused one is no mistake
};
}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
#endif

namespace moge_cpu {
namespace MOGE_LEVEL {

// R rows and N vectors of b's columns: the sums stay in registers.
template <int R, int N, typename T, typename B>
inline void Panels(const T* a, int64_t stride, const B* b, int64_t panel, int64_t K, float* c,
                   int64_t width) {
  using S = Step<T, B>;
  typename S::Sum sum[R][N] = {};
  auto add = [&](int64_t k, int64_t n) __attribute__((always_inline)) {
    typename S::Vector right[N];
#pragma GCC unroll 8
    for (int v = 0; v < N; v++)
      right[v] =
          S::Right(b + (v / kVectors) * panel + k * kPanel + (v % kVectors) * kLanes * S::kDepth);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const auto left = S::Left(a + r * stride + k, n);
#pragma GCC unroll 8
      for (int v = 0; v < N; v++) sum[r][v] = S::Add(sum[r][v], left, right[v]);
    }
  };
  int64_t k = 0;
  for (; k + S::kRead <= K; k += S::kDepth) add(k, S::kRead);
  if (k < K) add(k, K - k);
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < N; v++) StoreSum(c + r * width + v * kLanes, sum[r][v]);
}

// N vectors of columns, and as many rows at once as there are registers for their sums.
template <int N, typename T, typename B>
inline void ManyRows(Rows<T> a, const B* b, int64_t panel, int64_t K, float* c, int64_t width) {
  constexpr int kMost = kLanes == 16 ? (N == 1 ? 16 : 8) : 12 / N;
  auto step = [&](auto rows) {
    constexpr int R = decltype(rows)::value;
    for (; a.count >= R; a.count -= R, a.data += R * a.stride, c += R * width)
      Panels<R, N>(a.data, a.stride, b, panel, K, c, width);
  };
  step(std::integral_constant<int, kMost>());
  step(std::integral_constant<int, 4>());
  step(std::integral_constant<int, 2>());
  step(std::integral_constant<int, 1>());
}

// c of `groups` groups of rows, which can be multiplied where they lie.
template <typename A, typename T>
inline void PanelsProduct(const Rows<A>* a, int groups, const PackedB<T>& b, float* c) {
  const int64_t width = b.Width(), panel = Depth(b.K) * kPanel;
  for (int g = 0; g < groups; g++, c += kGroup * width) {
#if MOGE_TILES
    if constexpr (kTiles<A>)
      if (a[g].count == kGroup) {  // fewer rows go through vectors, below
        const bool two = g + 1 < groups && a[g + 1].count == kGroup;
        two ? TileProduct<2>(a + g, b, c) : TileProduct<1>(a + g, b, c);
        c += two * kGroup * width;
        g += two;
        continue;
      }
#endif
    int64_t v = 0;
    auto step = [&](auto vectors) {
      constexpr int N = decltype(vectors)::value;
      float* part = c + v * kLanes;
      Packed<T>* right = b.Panel(v / kVectors) + v % kVectors * kLanes * kWord<T>;
      ManyRows<N>(a[g], right, panel, b.K, part, width);
      v += N;
    };
    // threes and twos: a single vector uses each number of a once. A step begins with a panel.
    while (const int64_t left = b.Vectors() - v)
      if (left == 1)
        step(std::integral_constant<int, 1>());
      else if (left == 2 || left == 4 || (left > 3 && kVectors == 2))
        step(std::integral_constant<int, 2>());
      else
        step(std::integral_constant<int, 3>());
  }
}

// c of `groups` groups of rows, [groups][kGroup][b.Width()], or with lines
// [groups][columns][kGroup].
template <typename T>
inline void Product(const Rows<T>* a, int groups, const PackedB<T>& b, float* c) {
  constexpr bool kLies = !std::is_same<T, Half>::value && (!kIntegers<T> || kQuads);
  if (b.lines) {
    LinesProduct(a, groups, b, c);
  } else if (!kLies || a[0].Coded()) {  // decoded, or widened, once for all panels
    constexpr int kOnce = kTiles<T> ? 2 : 1;
    for (int g = 0; g < groups; g += kOnce) {
      Rows<Packed<T>> ready[kOnce];
      const int count = Least(kOnce, groups - g);
      for (int i = 0; i < count; i++) ready[i] = Ready(a[g + i], b, i);
      PanelsProduct(ready, count, b, c + g * b.GroupSize());
    }
  } else if constexpr (kLies) {
    PanelsProduct(a, groups, b, c);
  }
  if constexpr (kIntegers<T>)
    for (int g = 0; g < groups; g++) Finish(a[g], b, c + g * b.GroupSize());
}

// Part i of n of [0, size), of whole pairs of groups but for the last.
struct Span {
  int64_t first, last;
  Span(int64_t size, int64_t i, int64_t n) {
    const int64_t step = RoundUp((size + n - 1) / n, 2 * kGroup);
    first = Least(step * i, size);
    last = Least(first + step, size);
  }
};

// Groups of rows that are multiplied at once.
template <typename T>
struct Groups {
  Rows<T> rows[kStreams];
  int count = 0;

  Groups() {}
  // Two that follow each other, from `row` on.
  Groups(const Weight<T>& matrix, int64_t row, int64_t last) {
    Add(matrix, row, last);
    Add(matrix, row + kGroup, last);
  }
  // From `row` on, at most to `last`, of those rows that begin at `base`.
  void Add(const Weight<T>& matrix, int64_t row, int64_t last, int64_t base = 0) {
    if (row < last)
      rows[count++] = {matrix.Row(base + row), matrix.stride, int(Least(kGroup, last - row)),
                       matrix.coding, matrix.row + base + row};
  }
};

// Where the rows of a span are read, several at once: `count` places, `step` rows apart.
struct Places {
  int count;
  int64_t step;
  Places(Span span, int count)
      : count(count), step(RoundUp((span.last - span.first + count - 1) / count, kGroup)) {}
};

// c plus the numbers `bias` of its rows.
template <typename T, typename Bias>
inline void AddBias(float* c, const PackedB<T>& b, const Bias* bias, int count) {
  if (b.lines) {
    for (int r = 0; r < count; r += kLanes) {
      const V more = Load(bias + r, count - r);
      for (int64_t j = 0; j < b.columns; j++) {
        float* to = c + j * kGroup + r;
        Store(to, Load(to) + more);
      }
    }
    return;
  }
  for (int r = 0; r < count; r++, c += b.Width()) {
    const V more = Splat(Load(bias + r, 1)[0]);
    for (int64_t j = 0; j < b.Width(); j += kLanes) Store(c + j, Load(c + j) + more);
  }
}

// Rows `span` of a weight times b: result(j)[r] is c[r][j], plus bias[r] if there is one.
template <typename T, typename Result, typename Bias = float>
inline void MultiplyWeight(const Weight<T>& weight, Span span, const PackedB<T>& b, float* c,
                           Result result, const Bias* bias = nullptr) {
  const Places places(span, b.lines ? kStreams : 2);
  for (int64_t r = span.first; r < span.first + places.step; r += kGroup) {
    Groups<T> groups;
    for (int i = 0; i < places.count; i++) groups.Add(weight, r + i * places.step, span.last);
    Product(groups.rows, groups.count, b, c);
    for (int i = 0; i < groups.count; i++) {
      const int64_t row = r + i * places.step;
      float* part = c + i * b.GroupSize();
      if (bias) AddBias(part, b, bias + row, groups.rows[i].count);
      Unpack(part, b, groups.rows[i].count, [&](int64_t j) { return result(j) + row; });
    }
  }
}

// `rows` rows of a times b: the first `wanted` rows of c. A gradient of weights is streamed: it is
// so large that it would only drive other things out of the caches, and the backward pass in
// float32 with 128 tokens takes 12 % less time (two Zen 3 cores, November 2026).
template <typename T>
inline void MultiplyRows(const T* a, int64_t stride, int64_t rows, const PackedB<T>& b, float* c,
                         int64_t wanted, T* to, int64_t to_stride, bool streamed = false) {
  for (int64_t r = 0; r < rows; r += 2 * kGroup) {
    const Groups<T> groups(Weight<T>(a, stride), r, rows);
    Product(groups.rows, groups.count, b, c);
    StoreRows(c, b.Width(), Least(2 * kGroup, wanted - r), b.columns, to + r * to_stride, to_stride,
              streamed);
  }
  if (streamed) _mm_sfence();  // before whoever waits for these rows goes on
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
