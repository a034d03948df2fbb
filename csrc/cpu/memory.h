// The parts of a call's memory. A kernel lays them out twice: without an address, to learn how much
// it needs, and then in earnest.
#pragma once
#include "operands.h"

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

  // For products with what `coding` says, or with numbers of T.
  template <typename T>
  PackedB<T> TakeB(int64_t K, int64_t columns, const Coding* coding = nullptr) {
    const int64_t all = RoundUp(columns, kPanel);
    Packed<T>* data = Take<Packed<T>>(Depth(K) * all);
    const bool roomy = std::is_same<T, Half>::value || (coding && coding->data);
    Packed<T>* room = Take<Packed<T>>(roomy ? Depth(K) * kGroup * (kTiles<T> ? 2 : 1) : 0);
    float* scales = Take<float>(kIntegers<T> ? all : 0);
    int32_t* excess = Take<int32_t>(kIntegers<T> ? all : 0);
    return {data, room, scales, excess, K, columns, columns <= kMostLines<T>};
  }
};

// Rows of the largest block, in whole panels.
inline int64_t MostRows(const Plan& plan) {
  return plan.count ? RoundUp(plan.blocks[0].count, kPanel) : 0;
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

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
