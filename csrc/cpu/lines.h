// The product with b as lines.
#pragma once
#include "decode.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// Asks for what a stream has next, most often the row below. Without, integers for 64 tokens of 64
// experts, [512, 1024] and [1024, 256], take 3.8 and not 2.6 ms of one Zen 5 core (November 2026).
inline void Ahead(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + 3072); }

// Rows of a as they can be multiplied: At(k, n, table) is a vector of the numbers from k on, of
// which n are there. Of(group) is what that needs to know of a group of columns.
template <typename T>
struct Stored {
  using Number = T;
  const T* row;

  int64_t Group(int64_t K) const { return K; }
  int Of(int64_t) const { return 0; }
  auto At(int64_t k, int64_t n, int) const {
    Ahead(row + k);
    return Step<T, Packed<T>>::Along(row + k, n);
  }
};
// With 128 added to each byte: they are to be unsigned, and those of lines are not. What that adds
// to a sum depends on the column alone.
template <>
struct Stored<Int8> {
  using Number = Int8;
  const Int8* row;

  int64_t Group(int64_t K) const { return K; }
  int Of(int64_t) const { return 0; }
  I At(int64_t k, int64_t n, int) const {
    Ahead(row + k);
    return Step<Int8, Int8>::Along(row + k, n) ^ int32_t(0x80808080);
  }
};

#ifdef __AVX512BF16__
// Decoded in registers, just before the product. With few columns this is quicker than to store the
// decoded row and read it again.
struct Nibbles {
  using Number = Bfloat16;
  NibbleRow row;

  int64_t Group(int64_t) const { return row.coding->group_size; }
  auto Of(int64_t group) const { return row.Of(group); }
  I At(int64_t k, int64_t n, NibbleRow::Table table) const {
    Ahead(row.data + k / 2);
    if (n >= 32) return (I)NibbleRow::Find(table, row.data + k / 2);
    uint8_t part[16] = {};
    memcpy(part, row.data + k / 2, n / 2);
    return (I)NibbleRow::Find(table, part);
  }
};
#endif

// R rows of each of S streams, a[r * S + s], and J columns: c[s][j * kGroup + r]. Not inline: GCC
// would keep the sums in memory, which takes twice as long.
template <int S, int J, int R, typename Source, typename B>
__attribute__((noinline)) void Lines(const Source (&a)[S * R], const B* b, int64_t K,
                                     float* const (&c)[S]) {
  using M = Step<typename Source::Number, B>;
  using Sum = typename M::Sum;
  constexpr int kVector = kLanes * M::kDepth, kSums = R * J * S;
  const int64_t depth = Depth(K), group = a[0].Group(K);
  Sum sum[kSums];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
    Sum part[J * S] = {};
    int64_t number = 0;
    for (int64_t first = 0; first < K; first += group, number++) {
      const int64_t last = Least(K, first + group);
      decltype(a[0].Of(0)) table[S];
#pragma GCC unroll 8
      for (int s = 0; s < S; s++) table[s] = a[r * S + s].Of(number);
      auto add = [&](int64_t k, int64_t n) __attribute__((always_inline)) {
        typename M::Vector right[J];
#pragma GCC unroll 8
        for (int j = 0; j < J; j++) right[j] = M::Right(b + j * depth + k);
#pragma GCC unroll 8
        for (int s = 0; s < S; s++) {
          const auto left = a[r * S + s].At(k, n, table[s]);
#pragma GCC unroll 8
          for (int j = 0; j < J; j++) part[j * S + s] = M::AddLine(part[j * S + s], left, right[j]);
        }
      };
      int64_t k = first;
      for (; k + kVector <= last; k += kVector) add(k, kVector);
      if (k < last) add(k, last - k);
    }
#pragma GCC unroll 32
    for (int i = 0; i < J * S; i++) sum[r * J * S + i] = part[i];
  }
  float found[RoundUp(kSums, kLanes)];
#pragma GCC unroll 4
  for (int first = 0; first < kSums; first += kLanes) {
    Sum m[kLanes] = {};
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++)
      if (first + i < kSums) m[i] = sum[first + i];
    StoreSum(found + first, AddLanes(m));
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int j = 0; j < J; j++)
#pragma GCC unroll 8
      for (int s = 0; s < S; s++) c[s][j * kGroup + r] = found[(r * J + j) * S + s];
}

// R rows of each stream and every column; source(s, r) is a row.
template <int R, typename T, typename At>
inline void LinesOfRows(const PackedB<T>& b, float* const (&c)[kStreams], At source) {
  using Source = decltype(source(0, 0));
  int64_t j = 0;
  auto step = [&](auto columns, auto rows) {
    constexpr int J = decltype(columns)::value, kRows = decltype(rows)::value;
    for (; b.columns - j >= J; j += J)
      for (int r = 0; r < R; r += kRows) {
        Source a[kStreams * kRows];
        float* to[kStreams];
        for (int s = 0; s < kStreams; s++) {
          to[s] = c[s] + j * kGroup + r;
          for (int i = 0; i < kRows; i++) a[i * kStreams + s] = source(s, r + i);
        }
        Lines<kStreams, J, kRows>(a, b.Line(j), b.K, to);
      }
  };
  using One = std::integral_constant<int, 1>;
  if constexpr (kLanes == 16) step(std::integral_constant<int, 4>(), One());
  step(std::integral_constant<int, 3>(), One());
  step(std::integral_constant<int, 2>(), std::integral_constant<int, (R > 1 ? 2 : 1)>());
  step(One(), std::integral_constant<int, R>());
}

// The streams are groups of as many rows, or rows of one group that follow each other. Each is read
// row after row as it lies in memory, which the processor's own prefetch follows, and a core reads
// several such streams faster than one: from memory, pages of 4 KiB, 17 and not 12 GB/s for two
// Zen 3 cores together (November 2026).
template <int R, typename T>
inline void Streams(const Rows<T> (&a)[kStreams], const PackedB<T>& b,
                    float* const (&c)[kStreams]) {
  if (a[0].Coded()) {
#ifdef __AVX512BF16__
    if constexpr (std::is_same<T, Bfloat16>::value)
      if (b.columns <= 4 && NibbleRow::Serves(*a[0].coding))
        return LinesOfRows<R>(
            b, c, [&](int s, int r) { return Nibbles{NibbleRow(*a[s].coding, a[s].row + r)}; });
#endif
    for (int s = 0; s < kStreams; s++)
      for (int r = 0; r < R; r++)
        DecodeRow<T>(*a[s].coding, a[s].row + r, b.K, R, b.room + (s * R + r) * Depth(b.K));
    return LinesOfRows<R>(
        b, c, [&](int s, int r) { return Stored<Packed<T>>{b.room + (s * R + r) * Depth(b.K)}; });
  }
  if constexpr (!kIntegers<T> || kQuads)
    LinesOfRows<R>(b, c, [&](int s, int r) { return Stored<T>{a[s].data + r * a[s].stride}; });
}

// c of `groups` groups, [groups][columns][kGroup].
template <typename T>
inline void LinesProduct(const Rows<T>* a, int groups, const PackedB<T>& b, float* c) {
  bool alike = groups == kStreams && a[0].count == kGroup;
  for (int g = 1; g < groups; g++) alike &= a[g].count == a[0].count;
  Rows<T> rows[kStreams];
  float* to[kStreams];
  if (alike) {
    for (int r = 0; r < kGroup; r += 4) {
      for (int g = 0; g < kStreams; g++) {
        rows[g] = a[g].From(r);
        to[g] = c + g * b.GroupSize() + r;
      }
      Streams<4>(rows, b, to);
    }
    return;
  }
  for (int g = 0; g < groups; g++, c += b.GroupSize())
    for (int r = 0; r < a[g].count; r += kStreams) {
      for (int s = 0; s < kStreams; s++) {
        const int row = Least(r + s, a[g].count - 1);  // the last one several times
        rows[s] = a[g].From(row);
        to[s] = c + row;
      }
      Streams<1>(rows, b, to);
    }
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
