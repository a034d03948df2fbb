// The three products of expert-sorted rows with their experts' weights.
#pragma once
#include "memory.h"
#include "product.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// Zeros in the rows that no expert has.
template <typename T>
inline void ZeroRest(const Gemm& s, void* rows, int64_t width, const Team& team) {
  const int64_t used = s.offsets[s.E];
  if (team.id == 0 && used < s.N)
    memset(static_cast<T*>(rows) + used * width, 0, (s.N - used) * width * sizeof(T));
}

// b of rows of T in memory, as numbers of T or integers.
template <typename T, typename Row>
inline void PackTokens(const PackedB<T>& b, Packed<T>*, Row row) {
  PackColumns(b, row);
}
template <typename Row>
inline void PackTokens(const PackedB<Int8>& b, Packed<Int8>* room, Row row) {
  PackIntegers(b, room, row);
}

// out = rows W': b is the rows of a block, a the weight. Multiplied are numbers of N, T itself or
// integers.
template <typename T, typename N = T>
struct GemmMemory {
  Carver own, shared;
  PackedB<N> rows;
  Packed<N>* room;  // for integers of one panel
  float* c;

  GemmMemory(const Gemm& s, char* own_base, char*) {
    own.base = own_base;
    rows = own.TakeB<N>(s.I, MostRows(s.plan), &s.coding);
    room = own.Take<Packed<N>>(kIntegers<N> ? kPanel * Depth(s.I) : 0);
    c = own.Take<float>(2 * kGroup * kBlockRows);
  }
};

template <typename T, typename N = T>
void RunGemm(const Gemm& s, Team& team) {
  const TileScope tiles;
  const GemmMemory<T, N> memory(s, OwnBase(s, team), nullptr);
  ZeroRest<T>(s, s.out.data, s.O, team);
  const int64_t parts = s.plan.parts;
  for (int64_t i; (i = team.Next()) < s.plan.count * parts;) {
    const Block& block = s.plan.blocks[i / parts];
    const Span span(s.O, i % parts, parts);
    if (span.first == span.last) continue;
    const PackedB<N> rows = memory.rows.WithColumns(block.count);
    PackTokens(rows, memory.room, [&](int64_t j) {
      return static_cast<const T*>(s.rows.data) + (block.first + j) * s.rows.row;
    });
    const Weight<N> weight(s.weight, s.coding, block.expert, s.O);
    T* out = static_cast<T*>(s.out.data) + block.first * s.O;
    MultiplyWeight(weight, span, rows, memory.c, [&](int64_t j) { return out + j * s.O; });
  }
}

// d_rows = d_out W, in `rows`: b is a part of the weight, a the rows of d_out.
template <typename T>
struct GemmDxMemory {
  Carver own, shared;
  PackedB<T> weight;
  float* c;

  GemmDxMemory(const Gemm& s, char* own_base, char*) {
    own.base = own_base;
    weight = own.TakeB<T>(s.O, kColumns);
    c = own.Take<float>(2 * kGroup * kColumns);
  }
};

template <typename T>
void RunGemmDx(const Gemm& s, Team& team) {
  const TileScope tiles;
  const GemmDxMemory<T> memory(s, OwnBase(s, team), nullptr);
  ZeroRest<T>(s, s.rows.data, s.I, team);
  const int64_t parts = s.plan.parts;
  for (int64_t i; (i = team.Next()) < s.plan.count * parts;) {
    const Block& block = s.plan.blocks[i / parts];
    const Weight<T> weight(s.weight, s.coding, block.expert, s.O);
    const T* d_out = static_cast<const T*>(s.out.data) + block.first * s.out.row;
    T* d_rows = static_cast<T*>(s.rows.data) + block.first * s.I;
    const Span span(s.I, i % parts, parts);
    for (int64_t j = span.first; j < span.last; j += kColumns) {
      const PackedB<T> b = memory.weight.AsPanels(s.O, Least(kColumns, span.last - j));
      PackWeight(b, weight, j);
      MultiplyRows(d_out, s.out.row, block.count, b, memory.c, block.count, d_rows + j, s.I);
    }
  }
}

// d_W = d_out' rows, in `weight`: b is a part of the rows, a is d_out, transposed first.
template <typename T>
struct GemmDwMemory {
  Carver own, shared;
  T* d_out_t;  // [O, n] for each expert of n rows
  PackedB<T> rows;
  float* c;

  GemmDwMemory(const Gemm& s, char* own_base, char* shared_base) {
    own.base = own_base;
    shared.base = shared_base;
    rows = own.TakeB<T>(s.plan.longest, kColumns);
    c = own.Take<float>(2 * kGroup * kColumns);
    d_out_t = shared.Take<T>(s.N * s.O);
  }
};

template <typename T>
void RunGemmDw(const Gemm& s, Team& team) {
  const TileScope tiles;
  const GemmDwMemory<T> memory(s, OwnBase(s, team), s.scratch.shared);
  for (int64_t i; (i = team.Next()) < s.plan.count;) {
    const Block& block = s.plan.blocks[i];
    const int64_t start = s.offsets[block.expert], n = s.offsets[block.expert + 1] - start;
    TransposeRows(static_cast<const T*>(s.out.data) + block.first * s.out.row, s.out.row,
                  block.count, s.O, memory.d_out_t + start * s.O + block.first - start, n);
  }
  team.Wait();
  const int64_t slices = (s.I + kColumns - 1) / kColumns;
  for (int64_t i; (i = team.Next()) < s.E * slices;) {
    const int64_t expert = i / slices, j = i % slices * kColumns;
    const int64_t start = s.offsets[expert], n = s.offsets[expert + 1] - start;
    T* d_weight = static_cast<T*>(s.weight.data) + expert * s.O * s.I;
    if (!n) {
      Zero(d_weight, s.O * s.I, i % slices, slices);
      continue;
    }
    const PackedB<T> b = memory.rows.AsPanels(n, Least(kColumns, s.I - j));
    PackRows(b, [&](int64_t t) {
      return static_cast<const T*>(s.rows.data) + (start + t) * s.rows.row + j;
    });
    MultiplyRows(memory.d_out_t + start * s.O, n, s.O, b, memory.c, s.O, d_weight + j, s.I, true);
  }
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
