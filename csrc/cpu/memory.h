// The parts of a call's memory. A kernel lays them out twice: without an address, to learn how much
// it needs, and then in earnest.
#pragma once
#include "product.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

struct Carver {
  char* base = nullptr;
  int64_t used = 0;

  template <typename T>
  T* Take(int64_t count) {
    T* found = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += RoundUp(count * int64_t(sizeof(T)), 64);
    return found;
  }

  template <typename T>
  PackedB<T> TakeB(int64_t K, int64_t columns) {
    Packed<T>* data = Take<Packed<T>>(Depth(K) * RoundUp(columns, kPanel));
    float* a_wide = std::is_same<T, Half>::value ? Take<float>(Depth(K) * kGroup) : nullptr;
    return {data, a_wide, K, columns, columns <= kMostLines<T>};
  }
};

// The same room for fewer columns.
template <typename T>
inline PackedB<T> WithColumns(PackedB<T> b, int64_t columns) {
  b.columns = columns;
  b.lines = columns <= kMostLines<T>;
  return b;
}

// The same room for another K and few columns, as panels even so: backward, where b has a part of
// the columns each time, lines are not worth their own code.
template <typename T>
inline PackedB<T> AsPanels(PackedB<T> b, int64_t K, int64_t columns) {
  b.K = K;
  b.columns = columns;
  b.lines = false;
  return b;
}

// to[j][i] = from[i][j], both with adjacent columns.
template <typename T>
inline void TransposeRows(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                          int64_t to_stride) {
  for (int64_t i = 0; i < rows; i += kLanes)
    for (int64_t j = 0; j < columns; j += kLanes) {
      V m[kLanes];
      for (int l = 0; l < kLanes; l++)
        m[l] = i + l < rows ? Load(from + (i + l) * from_stride + j, columns - j) : V{};
      Transpose(m);
      for (int l = 0; l < kLanes && j + l < columns; l++)
        Store(to + (j + l) * to_stride + i, m[l], rows - i);
    }
}

// Part i of n of [0, size), of whole groups.
struct Span {
  int64_t first, last;
  Span(int64_t size, int64_t i, int64_t n) {
    const int64_t step = RoundUp((size + n - 1) / n, 2 * kGroup);
    first = Least(step * i, size);
    last = Least(first + step, size);
  }
};

// Zeros in part i of n.
template <typename T>
inline void Zero(T* data, int64_t size, int64_t i, int64_t n) {
  memset(data + size * i / n, 0, (size * (i + 1) / n - size * i / n) * sizeof(T));
}

// Where a thread's own memory begins.
template <typename Args>
inline char* OwnBase(const Args& s, const Team& team) {
  return s.scratch.own + team.id * s.scratch.own_bytes;
}

// Groups of rows that are multiplied at once.
template <typename T>
struct Groups {
  Rows<T> rows[kStreams];
  int count = 0;

  Groups() {}
  // Two that follow each other, from `row` on.
  Groups(const T* matrix, int64_t stride, int64_t row, int64_t last) {
    Add(matrix, stride, row, last);
    Add(matrix, stride, row + kGroup, last);
  }
  void Add(const T* matrix, int64_t stride, int64_t row, int64_t last) {
    if (row < last) rows[count++] = {matrix + row * stride, stride, int(Least(kGroup, last - row))};
  }
};

// Where the rows of a span are read, several at once: `count` places, `step` rows apart.
struct Places {
  int count;
  int64_t step;
  Places(Span span, int count)
      : count(count), step(RoundUp((span.last - span.first + count - 1) / count, kGroup)) {}
};

// Rows `span` of a weight times b: result(j)[r] is c[r][j].
template <typename T, typename Result>
inline void MultiplyWeight(const T* weight, int64_t stride, Span span, const PackedB<T>& b,
                           float* c, Result result) {
  static_assert(kStreams * kMostLines<T> <= 2 * kBlockRows, "the room of c");
  const Places places(span, b.lines ? kStreams : 2);
  for (int64_t r = span.first; r < span.first + places.step; r += kGroup) {
    Groups<T> groups;
    for (int i = 0; i < places.count; i++)
      groups.Add(weight, stride, r + i * places.step, span.last);
    Product(groups.rows, groups.count, b, c);
    for (int i = 0; i < groups.count; i++)
      Unpack(c + i * b.GroupSize(), b, groups.rows[i].count,
             [&](int64_t j) { return result(j) + r + i * places.step; });
  }
}

// rows of a, in memory adjacent to each other, times b: the first `wanted` rows of c.
template <typename T>
inline void MultiplyRows(const T* a, int64_t stride, int64_t rows, const PackedB<T>& b, float* c,
                         int64_t wanted, T* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += 2 * kGroup) {
    const Groups<T> groups(a, stride, r, rows);
    Product(groups.rows, groups.count, b, c);
    StoreRows(c, b.Width(), Least(2 * kGroup, wanted - r), b.columns, to + r * to_stride,
              to_stride);
  }
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
