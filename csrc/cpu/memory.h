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
  Right<T> TakeRight(int64_t K, int64_t columns) {
    Packed<T>* data = Take<Packed<T>>(Depth(K) * RoundUp(columns, kPanel));
    float* a_wide = std::is_same<T, Half>::value ? Take<float>(Depth(K) * kGroup) : nullptr;
    return {data, a_wide, K, columns, columns <= kMostLines<T>};
  }
};

// The same room for fewer columns.
template <typename T>
inline Right<T> WithColumns(Right<T> b, int64_t columns) {
  b.columns = columns;
  b.lines = columns <= kMostLines<T>;
  return b;
}

// The same room for another K and few columns, as panels even so: backward, where b has a part of
// the columns each time, lines are not worth their own code.
template <typename T>
inline Right<T> AsPanels(Right<T> b, int64_t K, int64_t columns) {
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

// Where a thread's own memory begins.
template <typename Args>
inline char* OwnBase(const Args& s, const Team& team) {
  return s.scratch.own + team.id * s.scratch.own_bytes;
}

// Two groups of rows of a matrix from `row` on.
template <typename T>
struct TwoGroups {
  Rows<T> rows[2];
  int count;
  TwoGroups(const T* matrix, int64_t stride, int64_t row, int64_t last) {
    count = 0;
    for (; count < 2 && row < last; row += kGroup)
      rows[count++] = {matrix + row * stride, stride, int(Least(kGroup, last - row))};
  }
};

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
