// The product on matrix tiles (AMX). A tile of a is 16 rows of 64 bytes, as they lie; a tile of b
// is as many rows of a panel; a tile of c is 16 by 16.
#pragma once
#include "operands.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

template <typename T>
constexpr int kTileDepth = 64 / sizeof(T);

#ifdef __AMX_BF16__
// A thread's tiles have their shape from here to the end of the scope.
struct TileScope {
  TileScope() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    // GCC's intrinsics do not say what they read
    asm volatile("" ::"m"(config) : "memory");
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
};
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, p, bytes) _tile_loadd(t, p, bytes)
#define TILE_STORE(t, p, bytes) _tile_stored(t, p, bytes)
#define TILE_ADD(T, c, a, b)    \
  do {                          \
    if constexpr (kIntegers<T>) \
      _tile_dpbsud(c, a, b);    \
    else                        \
      _tile_dpbf16ps(c, a, b);  \
  } while (0)
#else  // a build that tests this level on any processor
struct TileScope {
  TileScope() {}  // not trivial: an unused one is no mistake
};
inline thread_local char tile_memory[8][16][64];
inline float TileNumber(int t, int row, int i) {
  uint16_t bits;
  memcpy(&bits, &tile_memory[t][row][2 * i], 2);
  const uint32_t wide = uint32_t(bits) << 16;
  float number;
  memcpy(&number, &wide, 4);
  return number;
}
inline void TileAdd(Bfloat16, int c, int a, int b) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) {
      float sum;
      memcpy(&sum, &tile_memory[c][i][4 * j], 4);
      for (int k = 0; k < kTileDepth<Bfloat16>; k++)
        sum += TileNumber(a, i, k) * TileNumber(b, k / 2, 2 * j + k % 2);
      memcpy(&tile_memory[c][i][4 * j], &sum, 4);
    }
}
inline void TileAdd(Int8, int c, int a, int b) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) {
      int32_t sum;
      memcpy(&sum, &tile_memory[c][i][4 * j], 4);
      for (int k = 0; k < kTileDepth<Int8>; k++)
        sum += int8_t(tile_memory[a][i][k]) * uint8_t(tile_memory[b][k / 4][4 * j + k % 4]);
      memcpy(&tile_memory[c][i][4 * j], &sum, 4);
    }
}
inline void TileCopy(char* to, int64_t to_bytes, const char* from, int64_t from_bytes) {
  for (int i = 0; i < 16; i++) memcpy(to + i * to_bytes, from + i * from_bytes, 64);
}
#define TILE_ZERO(t) memset(tile_memory[t], 0, sizeof(tile_memory[t]))
#define TILE_LOAD(t, p, bytes) TileCopy(tile_memory[t][0], 64, (const char*)(p), bytes)
#define TILE_STORE(t, p, bytes) TileCopy((char*)(p), bytes, tile_memory[t][0], 64)
#define TILE_ADD(T, c, a, b) TileAdd(T(), c, a, b)
#endif

// G groups of 16 rows by P panels, at most 2 by 2: four tiles of sums, two of a, two of b.
// Where K is no multiple of a tile's depth, `tail` holds the last numbers of each row of a, then
// zeros.
template <int G, int P, typename T>
inline void Tiles(const Rows<T>* a, const T (*tail)[kGroup][kTileDepth<T>], const T* b,
                  int64_t panel, int64_t K, float* c, int64_t width) {
  TILE_ZERO(0);
  if (P > 1) TILE_ZERO(1);
  if (G > 1) TILE_ZERO(2);
  if (G > 1 && P > 1) TILE_ZERO(3);
  auto add = [&](int64_t k, const T* first, int64_t first_bytes, const T* second,
                 int64_t second_bytes) __attribute__((always_inline)) {
    TILE_LOAD(4, first, first_bytes);
    TILE_LOAD(6, b + k * kPanel, 64);
    TILE_ADD(T, 0, 4, 6);
    if (P > 1) {
      TILE_LOAD(7, b + panel + k * kPanel, 64);
      TILE_ADD(T, 1, 4, 7);
    }
    if (G > 1) {
      TILE_LOAD(5, second, second_bytes);
      TILE_ADD(T, 2, 5, 6);
      if (P > 1) TILE_ADD(T, 3, 5, 7);
    }
  };
  constexpr int kDepth = kTileDepth<T>, kSize = sizeof(T);
  const int64_t whole = K / kDepth * kDepth;
  for (int64_t k = 0; k < whole; k += kDepth)
    add(k, a[0].data + k, kSize * a[0].stride, a[G - 1].data + k, kSize * a[G - 1].stride);
  if (whole < K) add(whole, tail[0][0], 64, tail[G - 1][0], 64);
  TILE_STORE(0, c, 4 * width);
  if (P > 1) TILE_STORE(1, c + kPanel, 4 * width);
  c += kGroup * width;
  if (G > 1) TILE_STORE(2, c, 4 * width);
  if (G > 1 && P > 1) TILE_STORE(3, c + kPanel, 4 * width);
}

// G groups of exactly 16 rows and every panel of b.
template <int G, typename T>
inline void TileProduct(const Rows<T>* a, const PackedB<T>& b, float* c) {
  const int64_t width = b.Width(), panel = Depth(b.K) * kPanel, rest = b.K % kTileDepth<T>;
  T tail[G][kGroup][kTileDepth<T>] = {};
  if (rest)
    for (int g = 0; g < G; g++)
      for (int r = 0; r < kGroup; r++)
        memcpy(tail[g][r], a[g].data + r * a[g].stride + b.K - rest, rest * sizeof(T));
  asm volatile("" ::: "memory");  // a, tail and b are written before the intrinsics read them
  int64_t p = 0;
  for (; p + 2 <= b.Panels(); p += 2)
    Tiles<G, 2>(a, tail, b.Panel(p), panel, b.K, c + p * kPanel, width);
  if (p < b.Panels()) Tiles<G, 1>(a, tail, b.Panel(p), panel, b.K, c + p * kPanel, width);
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
