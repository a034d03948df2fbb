// The operands of the one product of all kernels, c[r][j] = sum over k of a[r][k] b[k][j], and its
// result.
//
// a is a matrix as it lies in memory, whose rows are adjacent in k: weights in the forward pass,
// rows of tokens in the backward one. b is copied once into one of two forms and then serves
// every row of a:
//
//   panels, c[r][j]:  one element of a meets 16 columns   lines, c[j][r]:  a vector of a meets
//                                                         one of each column
//          j  0 .. 15   16 .. 31                                 k  0  1  2  3  ...
//     k = 0  [ , .., ] [ , .., ]                             j = 0  [  ,  ,  ,  , ..]
//     k = 1  [ , .., ] [ , .., ]                             j = 1  [  ,  ,  ,  , ..]
//     ...    each panel adjacent                             each line adjacent
//
// Where the processor adds pairs of bfloat16, a panel has k and k + 1 in each lane: its matrix
// tiles want that too. Lines are for few columns, where panels would be mostly empty; a vector's
// lanes are added up at the end.
#pragma once
#include "kernels.h"
#include "step.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

constexpr int kPanel = 16;
constexpr int kVectors = kPanel / kLanes;
constexpr int kGroup = 16;  // rows of a that are multiplied at once
// Rows of a block of tokens: with H of about 1024 they stay in a core's second cache, as b and as
// activations; with more, a panel of them does.
constexpr int kBlockRows = kLanes == 16 ? (MOGE_TILES ? 128 : 96) : 64;

template <typename T>
constexpr bool kTiles = MOGE_TILES && (std::is_same<T, Bfloat16>::value || kIntegers<T>);
// Columns up to which lines are as quick as panels or quicker. At [16384, 1024] x [1024, n], one
// Zen 3 core, GB/s of weights were with lines and with panels (the best of 12, partly from the
// third cache; November 2026):
//   n              1           4           8          16          32          48
//   bfloat16  16.7   4.4  10.9   4.5   7.3   4.5   3.8   3.6   2.0   2.1   1.4   1.5
//   float32   15.6   4.3  12.9   4.1  10.3   4.3   6.4   5.4   4.0   3.8   2.9   2.8
//   float16   16.5   2.5  11.9   2.6   7.8   2.4   4.5   2.9   2.3   1.9   1.5   1.3
// With 16 lanes and with tiles an estimate: a row of few columns comes from memory more slowly than
// either form multiplies it, and lines read it in order.
template <typename T>
constexpr int kMostLines = kTiles<T> ? 8 : 32;
constexpr int kStreams = 4;  // with lines, groups of rows that are read at once
// The buffer for c is sized for two groups of rows times a block's columns. Four groups of 32
// columns, the most that lines make, must not need more.
static_assert(kStreams * 32 <= 2 * kBlockRows, "the room of c");

constexpr int64_t kColumns = 64;  // of b at once, where b is a weight or a part of the rows

constexpr int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Length of k in b: whole words, vectors and tiles, the rest zeros.
inline int64_t Depth(int64_t K) { return RoundUp(K, 64); }

// b in one of its forms.
template <typename T>
struct PackedB {
  Packed<T>* data;
  // Of those rows of a that are not multiplied as they lie, float16 and quantised ones: as many as
  // are multiplied at once.
  Packed<T>* room;
  float* scales;    // [columns] of integers
  int32_t* excess;  // [columns], of lines of integers: to be subtracted from their products
  int64_t K, columns;
  bool lines;

  // The same room for fewer columns.
  PackedB WithColumns(int64_t n) const {
    return {data, room, scales, excess, K, n, n <= kMostLines<T>};
  }
  // The same room for another K, at most that of TakeB, and other columns, always as panels: in the
  // backward pass lines are not worth their own code.
  PackedB AsPanels(int64_t k, int64_t n) const { return {data, room, scales, excess, k, n, false}; }

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
  const Coding* coding = nullptr;  // or, if data is of another type, rows of a quantised weight
  int64_t row = 0;                 // the first of them, of all experts'

  bool Coded() const { return !(kIntegers<T> && kQuads) && coding; }
  Rows From(int r) const { return {data + r * stride, stride, count - r, coding, row + r}; }
};

// The rows of one expert's weight, as Rows has them.
template <typename T>
struct Weight {
  const T* data;
  int64_t stride;
  const Coding* coding;
  int64_t row;

  Weight(const Matrix& m, const Coding& coding, int64_t expert, int64_t rows)
      : Weight(static_cast<const T*>(m.data) + expert * m.expert, m.row) {
    if (!coding.data) return;
    stride = coding.row_bytes;
    row = expert * rows;
    if constexpr (kIntegers<T>) data = static_cast<const T*>(coding.data) + row * stride;
    this->coding = &coding;
  }
  Weight(const T* data, int64_t stride) : data(data), stride(stride), coding(nullptr), row(0) {}
  const T* Row(int64_t r) const { return data + r * stride; }
};

// ---- b in its forms

// The next numbers of a row as b has them: a vector of words, of which n numbers are there.
inline void StoreWords(float* p, V words) { Store(p, words); }
template <typename T>
inline void StoreWords(T* p, V words) {
  StoreBits(p, Bits(words));
}
template <typename T>
inline V LoadWords(const T* p, int64_t n) {
  if constexpr (kPairs<T> || kIntegers<T>)
    return Bits(Step<T, T>::Along(p, Most(0, Least(n, kWord<T> * kLanes))));
  else
    return Load(p, n);
}

// Columns of b are rows of memory: column j is row(j), asked for once, which has K numbers.
template <typename T, typename Row>
inline void PackColumns(const PackedB<T>& b, Row row) {
  const int64_t depth = Depth(b.K);
  if (b.lines) {
    for (int64_t j = 0; j < b.columns; j++) {
      const auto* source = row(j);
      for (int64_t k = 0; k < depth; k += kLanes * kWord<T>)
        StoreWords(b.Line(j) + k, LoadWords(source + k, b.K - k));
    }
    return;
  }
  for (int64_t p = 0; p < b.Panels(); p++)
    for (int v = 0; v < kVectors; v++) {
      decltype(row(0)) source[kLanes];
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

// Rows of b are rows of memory: row(k) has the columns' numbers, and is read before row(k + 2) is
// asked for. They are far apart, so that a processor's own prefetch does not follow: ahead(k) does.
template <typename T, typename Row, typename Ahead>
inline void PackRows(const PackedB<T>& b, Row row, Ahead ahead) {
  const int64_t depth = RoundUp(b.K, kTiles<T> ? 32 : 2);
  for (int64_t k = 0; k < depth; k += kWord<T>) {
    const auto* source = k < b.K ? row(k) : nullptr;
    if (k + 16 < b.K)
      for (int i = 0; i < kWord<T>; i++) ahead(Least(k + 16 + i, b.K - 1));
    const auto* next = kPairs<T> && k + 1 < b.K ? row(k + 1) : nullptr;
    for (int64_t j = 0; j < b.Panels() * kPanel; j += kLanes) {
      const int64_t n = b.columns - j;
      V words = source ? Load(source + j, n) : V{};
      if constexpr (kPairs<T>) words = Pair(words, next ? Load(next + j, n) : V{});
      StoreWords(b.Panel(j / kPanel) + k * kPanel + j % kPanel * kWord<T>, words);
    }
  }
}

template <typename T, typename Row>
inline void PackRows(const PackedB<T>& b, Row row) {
  PackRows(b, row, [&](int64_t k) {
    for (int64_t j = 0; j < b.columns; j += 64 / sizeof(T)) __builtin_prefetch(row(k) + j);
  });
}

// ---- c, from its transposed form to rows in memory

// Row j of the result begins at to(j): column j of c, of `count` rows.
template <typename T, typename To>
inline void Unpack(const float* c, const PackedB<T>& b, int count, To to) {
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

// Past the caches where whole lines are written, which then need not be read first.
inline void Stream(void* to, const void* from, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % 64 || bytes % 64) {
    memcpy(to, from, bytes);
    return;
  }
  for (int64_t i = 0; i < bytes / int64_t(sizeof(__m128i)); i++)
    _mm_stream_si128(static_cast<__m128i*>(to) + i,
                     _mm_loadu_si128(static_cast<const __m128i*>(from) + i));
}

// Rows of c, of which `columns` are wanted, at most kColumns, to rows in memory.
template <typename T>
inline void StoreRows(const float* c, int64_t width, int64_t rows, int64_t columns, T* to,
                      int64_t stride, bool streamed) {
  for (int64_t i = 0; i < rows; i++, c += width, to += stride) {
    T row[kColumns];
    T* place = streamed ? row : to;
    for (int64_t j = 0; j < columns; j += kLanes) Store(place + j, Load(c + j), columns - j);
    if (streamed) Stream(to, row, columns * sizeof(T));
  }
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
