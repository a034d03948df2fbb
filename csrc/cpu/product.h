// The one product of all kernels: c[r][j] = sum over k of a[r][k] b[k][j].
//
// a is a matrix as it lies in memory, whose rows are adjacent in k: weights in the forward pass,
// rows of tokens in the backward one. b is copied once into one of two forms and then serves
// every row of a:
//
//   panels  [j / 16][k][16]: one element of a meets 16 columns, a number in a register each. With
//           two bfloat16 in each lane, k and k + 1, where the processor adds such pairs, and that
//           is what it wants for its matrix tiles too.
//   lines   [j][k]: for few columns, where panels would be mostly empty. Both operands are read
//           along k, and a vector's lanes are added up at the end.
#pragma once
#include "kernels.h"
#include "pairs.h"
#include "vector.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

constexpr int kPanel = 16;
constexpr int kVectors = kPanel / kLanes;
constexpr int kGroup = 16;  // rows of a that are multiplied at once
// Rows of a block of tokens: as b and as activations they stay in a core's second cache.
constexpr int kBlockRows = kLanes == 16 ? (MOGE_TILES ? 128 : 96) : 64;

template <typename T>
constexpr bool kPairs = MOGE_PAIRS && std::is_same<T, Bfloat16>::value;
template <typename T>
constexpr bool kTiles = MOGE_TILES && std::is_same<T, Bfloat16>::value;
// Columns up to which lines are quicker than panels. Widening is dearer for panels: at [n, 1024] x
// [1024, 16] GB/s of weights were, n = 4 / 8 / 16 / 32, in bfloat16 8.9 / 5.5 / 3.5 / 1.9 with
// lines and 4.3 / 4.4 / 3.2 / 1.7 with panels; in float32 10.1 / 7.8 / 5.5 / 3.3 and 5.8 / 5.9
// / 6.9 / 4.3 (one Zen 3 core, November 2026). Pairs: an estimate. Tiles have no such limit: a row
// of weights comes from memory more slowly than it is multiplied.
template <typename T>
constexpr int kMostLines = kTiles<T>                                       ? 0
                           : kPairs<T>                                     ? 8
                           : kLanes == 8 && !std::is_same<T, float>::value ? 32
                                                                           : 12;
template <typename T>
using Packed = std::conditional_t<kPairs<T>, Bfloat16, float>;

constexpr int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <typename T>
constexpr int kWord = kPairs<T> ? 2 : 1;  // numbers in one lane of b

// Length of k in b: whole pairs, vectors and tiles, the rest zeros.
inline int64_t Depth(int64_t K) { return RoundUp(K, 32); }

// b in one of its forms.
template <typename T>
struct Right {
  Packed<T>* data;
  float* a_wide;  // room for one group of a's rows in float32, where a is float16
  int64_t K, columns;
  bool lines;

  int64_t Panels() const { return (columns + kPanel - 1) / kPanel; }
  int64_t Vectors() const { return (columns + kLanes - 1) / kLanes; }
  Packed<T>* Panel(int64_t p) const { return data + p * Depth(K) * kPanel; }
  Packed<T>* Line(int64_t j) const { return data + j * Depth(K); }
  // Of one of c's rows; with lines c is transposed, [columns][kGroup].
  int64_t Width() const { return lines ? kGroup : Panels() * kPanel; }
  // Of what a group of a's rows makes of c.
  int64_t GroupSize() const { return (lines ? columns : kGroup) * Width(); }
};

// Rows of a that follow each other, at most kGroup.
template <typename T>
struct Rows {
  const T* data;
  int64_t stride;
  int count;
};

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu

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

// Two numbers that follow each other, of which n are there, in every lane.
inline I SplatPair(const Bfloat16* p, int64_t n) {
  if (n == 1) return Splat(int32_t(p->bits));
#if defined(__AVX512F__) || MOGE_LANES == 8
  I lanes;
  // by hand: a compiler would shift the scalar first and fill the lanes from its register, which
  // takes twice as long as from memory
  typedef int32_t Word __attribute__((may_alias, aligned(2)));
  asm("vpbroadcastd %1, %0" : "=v"(lanes) : "m"(*reinterpret_cast<const Word*>(p)));
  return lanes;
#else
  int32_t pair;
  memcpy(&pair, p, sizeof(pair));
  return Splat(pair);
#endif
}

// What multiplies and adds, by the types of a and b: kDepth numbers of k at once. A number of a, or
// a pair, fills all lanes; to read it quickly kRead numbers must be there.
template <typename T, typename B>
struct Step {
  using Vector = V;
  static constexpr int kDepth = 1, kRead = std::is_same<T, Bfloat16>::value ? 2 : 1;

  static V Left(const float* p, int64_t) { return Splat(*p); }
  static V Left(const Bfloat16* p, int64_t n) { return Bits(SplatPair(p, n) << 16); }
  static V Right(const float* p) { return Load(p); }
  static V Along(const T* p, int64_t n) { return Load(p, n); }
  static V Add(V sum, V left, V right) { return sum + left * right; }
};

#if MOGE_PAIRS
template <>
struct Step<Bfloat16, Bfloat16> {
  using Vector = I;
  static constexpr int kDepth = 2, kRead = 2;

  static I Left(const Bfloat16* p, int64_t n) { return SplatPair(p, n); }
  static I Right(const Bfloat16* p) { return LoadBits(p); }
  static I Along(const Bfloat16* p, int64_t n) {
    if (n >= 2 * kLanes) return LoadBits(p);
    Bfloat16 part[2 * kLanes] = {};
    memcpy(part, p, n * sizeof(Bfloat16));
    return LoadBits(part);
  }
  static V Add(V sum, I left, I right) { return AddPairs(sum, left, right); }
};
#endif

// R rows and N vectors of b's columns: the sums stay in registers.
template <int R, int N, typename T, typename B>
inline void Panels(const T* a, int64_t stride, const B* b, int64_t panel, int64_t K, float* c,
                   int64_t width) {
  using S = Step<T, B>;
  V sum[R][N] = {};
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
    for (int v = 0; v < N; v++) Store(c + r * width + v * kLanes, sum[r][v]);
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
inline void Lines(const T* a, int64_t stride, const B* b, int64_t depth, int64_t K, float* c) {
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
      if (k % (64 / sizeof(T)) == 0) __builtin_prefetch(a + (r + R) * stride + k + 512 / sizeof(T));
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

// The same for columns so few that the rows of a come from memory more slowly than they are
// multiplied: one row after the other, as they lie there, which the processor's own prefetch
// follows. A layer of 4 tokens, H 1024, took 2.6 and not 3.3 ms (two Zen 3 cores, November 2026).
template <int R, int J, typename T, typename B>
inline void RowByRow(const T* a, int64_t stride, const B* b, int64_t depth, int64_t K, float* c) {
  using S = Step<T, B>;
  constexpr int kVector = kLanes * S::kDepth;
  constexpr int U = J == 1 ? 4 : 2;  // sums of a column, enough to hide the latency of an addition
  V sum[J * R];
#pragma GCC unroll 1
  for (int r = 0; r < R; r++, a += stride) {
    V part[U][J] = {};
    auto add = [&](int u, int64_t k, int64_t n) __attribute__((always_inline)) {
      const auto left = S::Along(a + k, n);
#pragma GCC unroll 4
      for (int j = 0; j < J; j++)
        part[u][j] = S::Add(part[u][j], left, S::Right(b + j * depth + k));
    };
    int64_t k = 0;
    for (; k + U * kVector <= K; k += U * kVector) {
      __builtin_prefetch(a + k + 1024 / sizeof(T));
#pragma GCC unroll 4
      for (int u = 0; u < U; u++) add(u, k + u * kVector, kVector);
    }
    for (; k < K; k += kVector) add(0, k, Least(kVector, K - k));
#pragma GCC unroll 4
    for (int j = 0; j < J; j++) {
#pragma GCC unroll 4
      for (int u = 1; u < U; u++) part[0][j] += part[u][j];
      sum[j * R + r] = part[0][j];
    }
  }
  AddLanes<R, J>(sum, c);
}

template <int J, typename T, typename B>
inline void ManyLines(Rows<T> a, const B* b, int64_t depth, int64_t K, float* c, bool few) {
  auto step = [&](auto rows) {
    constexpr int R = decltype(rows)::value;
    for (; a.count >= R; a.count -= R, a.data += R * a.stride, c += R)
      few ? RowByRow<R, J>(a.data, a.stride, b, depth, K, c)
          : Lines<R, J>(a.data, a.stride, b, depth, K, c);
  };
  if constexpr (J == 1) step(std::integral_constant<int, 8>());  // sums enough to hide the latency
  step(std::integral_constant<int, 4>());
  step(std::integral_constant<int, 1>());
}

// c of `groups` groups of rows, [groups][kGroup][b.Width()], or with lines
// [groups][columns][kGroup].
template <typename T>
inline void Product(const Rows<T>* a, int groups, const Right<T>& b, float* c) {
  const int64_t depth = Depth(b.K);
  if (b.lines) {
    constexpr int kMost = kLanes == 16 ? 4 : 3;  // columns whose sums fit in the registers
    for (int g = 0; g < groups; g++, c += b.columns * kGroup) {
      int64_t j = 0;
      auto step = [&](auto columns) {
        constexpr int J = decltype(columns)::value;
        for (; b.columns - j >= J; j += J)
          ManyLines<J>(a[g], b.Line(j), depth, b.K, c + j * kGroup, b.columns <= kMost);
      };
      step(std::integral_constant<int, kMost>());
      step(std::integral_constant<int, 2>());
      step(std::integral_constant<int, 1>());
    }
    return;
  }
  const int64_t width = b.Width(), panel = depth * kPanel;
  for (int g = 0; g < groups; g++, c += kGroup * width) {
#if MOGE_TILES
    if constexpr (kTiles<T>)
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
      for (; b.Vectors() - v >= N; v += N) {
        float* part = c + v * kLanes;
        Packed<T>* right = b.Panel(v / kVectors) + v % kVectors * kLanes * kWord<T>;
        if constexpr (std::is_same<T, Half>::value)  // widened once for all panels
          ManyRows<N>(Rows<float>{b.a_wide, depth, a[g].count}, right, panel, b.K, part, width);
        else
          ManyRows<N>(a[g], right, panel, b.K, part, width);
      }
    };
    if constexpr (std::is_same<T, Half>::value)
      for (int r = 0; r < a[g].count; r++)
        for (int64_t k = 0; k < b.K; k += kLanes)
          Store(b.a_wide + r * depth + k, Load(a[g].data + r * a[g].stride + k, b.K - k));
    if constexpr (kLanes == 16) step(std::integral_constant<int, 3>());
    step(std::integral_constant<int, 2>());
    step(std::integral_constant<int, 1>());
  }
}

// ---- b in its forms

// The next numbers of a row as b has them: a vector of words, of which n numbers are there.
inline void StoreWords(float* p, V words) { Store(p, words); }
inline void StoreWords(Bfloat16* p, V words) { StoreBits(p, Bits(words)); }
template <typename T>
inline V LoadWords(const T* p, int64_t n) {
  if constexpr (kPairs<T>)
    return Bits(Step<T, T>::Along(p, Most(0, Least(n, 2 * kLanes))));
  else
    return Load(p, n);
}

// Columns of b are rows of memory: column j is row(j), which has K numbers; null is zeros.
template <typename T, typename Row>
inline void PackColumns(const Right<T>& b, Row row) {
  const int64_t depth = Depth(b.K);
  if (b.lines) {
    for (int64_t j = 0; j < b.columns; j++) {
      const T* source = row(j);
      for (int64_t k = 0; k < depth; k += kLanes * kWord<T>)
        StoreWords(b.Line(j) + k, LoadWords(source + k, b.K - k));
    }
    return;
  }
  for (int64_t p = 0; p < b.Panels(); p++)
    for (int v = 0; v < kVectors; v++) {
      const T* source[kLanes];
      for (int i = 0; i < kLanes; i++) {
        const int64_t j = p * kPanel + v * kLanes + i;
        source[i] = j < b.columns ? row(j) : nullptr;
      }
      Packed<T>* panel = b.Panel(p) + v * kLanes * kWord<T>;
      for (int64_t k = 0; k < depth; k += kLanes * kWord<T>) {
        V m[kLanes];
        for (int i = 0; i < kLanes; i++)
          m[i] = source[i] && k < b.K ? LoadWords(source[i] + k, b.K - k) : V{};
        Transpose(m);
        for (int i = 0; i < kLanes; i++) StoreWords(panel + (k + i * kWord<T>)*kPanel, m[i]);
      }
    }
}

// Rows of b are rows of memory: row(k) has the columns' numbers.
template <typename T, typename Row>
inline void PackRows(const Right<T>& b, Row row) {
  const int64_t depth = RoundUp(b.K, kTiles<T> ? 32 : 2);
  for (int64_t k = 0; k < depth; k += kWord<T>) {
    const T* source = k < b.K ? row(k) : nullptr;
    // rows far apart in memory: a processor's own prefetch does not follow
    if (const int64_t ahead = k + 16; ahead < b.K)
      for (int64_t j = 0; j < b.columns; j += 64 / sizeof(T))
        for (int i = 0; i < kWord<T>; i++) __builtin_prefetch(row(Least(ahead + i, b.K - 1)) + j);
    const T* next = kPairs<T> && k + 1 < b.K ? row(k + 1) : nullptr;
    for (int64_t j = 0; j < b.Panels() * kPanel; j += kLanes) {
      const int64_t n = b.columns - j;
      V words = source ? Load(source + j, n) : V{};
      if constexpr (kPairs<T>) words = Pair(words, next ? Load(next + j, n) : V{});
      StoreWords(b.Panel(j / kPanel) + k * kPanel + j % kPanel * kWord<T>, words);
    }
  }
}

// ---- c, from its transposed form to rows in memory

// Row j of the result begins at to(j): column j of c, of `count` rows.
template <typename T, typename To>
inline void Unpack(const float* c, const Right<T>& b, int count, To to) {
  if (b.lines) {
    for (int64_t j = 0; j < b.columns; j++)
      for (int r = 0; r < count; r += kLanes) Store(to(j) + r, Load(c + j * kGroup + r), count - r);
    return;
  }
  const int64_t width = b.Width();
  for (int64_t j = 0; j < b.columns; j += kLanes)
    for (int r = 0; r < count; r += kLanes) {
      V m[kLanes];
      for (int i = 0; i < kLanes; i++) m[i] = Load(c + (r + i) * width + j);
      Transpose(m);
      for (int i = 0; i < kLanes && j + i < b.columns; i++) Store(to(j + i) + r, m[i], count - r);
    }
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
