// How a grouped product divides L1 and L0: what is there, how large it is, and for how long.
//
// L1 holds chunks of both factors, each in a stage of its own. A chunk has all rows (columns) of a
// tile or of its part, and a piece of the depth. The right factor always streams through two or
// three stages. For the left one there are two plans, of which the kernel takes the second where
// all of a tile's left factor fits.
//
// Streaming. The left factor has two stages. Tiles of a strip sum forwards and backwards
// alternately, so each finds there the two chunks that the one before used last. With a depth of
// four chunks:
//
//    tile          |  0, forwards        |  1, backwards       |  2, forwards        |
//    left chunk    |  0    1    2    3   |  3    2    1    0   |  0    1    2    3   |
//    loaded        |  *    *    *    *   |            *    *   |            *    *   |
//    left stage 0  |  0 ------- 2 -------|---------------- 0 --|----------- 2 ------ |
//    left stage 1  |       1 ------- 3 --|----------- 1 -------|---------------- 3 - |
//    right chunks  |  a b  a b  a b  a b |  c d  c d  c d  c d |  e f  e f  e f  e f |
//
// (a and b: chunks of the two halves of a tile's columns; c to f: those of the next tiles.)
//
// Resident. The left factor of a strip is loaded with its first tile and stays. The right factor's
// chunks, which are smaller here, are all that is loaded for the tiles after it:
//
//    tile          |  0, forwards        |  1, backwards       |  2, forwards        |
//    left chunk    |  0    1    2    3   |  3    2    1    0   |  0    1    2    3   |
//    loaded        |  *    *    *    *   |                     |                     |
//    left stage 0  |  0 -----------------|---------------------|-------------------- |
//    left stage 1  |       1 ------------|---------------------|-------------------- |
//    left stage 2  |            2 -------|---------------------|-------------------- |
//    left stage 3  |                 3 --|---------------------|-------------------- |
//
// L0A and L0B hold two pieces of a chunk each: the cube multiplies one while the other comes. L0C
// holds one tile. Its unit flags let Fixpipe store a fractal that is done while the cube goes on.
#ifndef MOGE_ASCEND_GROUPED_GEMM_MEMORY_H_
#define MOGE_ASCEND_GROUPED_GEMM_MEMORY_H_

#include "grouped_gemm_scheduler.h"

namespace moge {

constexpr uint32_t kL1Bytes = 512 * 1024;
constexpr uint32_t kL1MixBytes = kL1Bytes - 256;  // in a mix kernel the framework has the rest
constexpr uint32_t kL0Bytes = 64 * 1024;
constexpr uint32_t kL0cBytes = 128 * 1024;
constexpr uint32_t kEventIds = 6;     // a kernel may use the flags 0 to 5 between two pipes
constexpr uint32_t kLineBytes = 512;  // a line of L2
constexpr uint8_t kUnitFlagMore = 2;  // Mmad: more products will be added
constexpr uint8_t kUnitFlagLast = 3;  // the last Mmad, and Fixpipe
// A streaming chunk has rows of this many bytes: MTE2 moves 1 KB in 8 cycles, and needs 2.4 for
// each row. Modelled on 910B1, November 2026: with 512, MTE2 was the bound.
constexpr uint32_t kRowBytes = 1024;
// The fused kernel has this many columns in a part: its L1 has no room for 128.
constexpr uint32_t kMixPartC = 112;

// Both plans of L1: the left factor's stages, then those of the right one.
template <bool kRightDepthOuter, uint32_t kPartC>
struct StreamingLeft {
  static constexpr uint32_t kLeftStages = 2, kRightStages = 2;
  static constexpr uint32_t kLeftBytes = kTileM * kRowBytes;
  static constexpr uint32_t kRightBytes = kRightDepthOuter ? kLeftBytes : kPartC * kRowBytes;
  static constexpr uint32_t kBytes = kLeftStages * kLeftBytes + kRightStages * kRightBytes;
};
// At 2 bytes an element the left stages hold 128 rows of F = 1344, 32 rows of H = 5120, and in dW
// an expert's 1272 rows. There the right factor has three stages, so that the next small chunk
// arrives in time.
template <bool kRaggedDepth>
struct ResidentLeft {
  static constexpr uint32_t kLeftStages = kRaggedDepth ? 3 : 4;
  static constexpr uint32_t kRightStages = kRaggedDepth ? 3 : 2;
  static constexpr uint32_t kLeftBytes = (kRaggedDepth ? 106 : 84) * 1024;
  static constexpr uint32_t kRightBytes = (kRaggedDepth ? 64 : 84) * 1024;
  static constexpr uint32_t kBytes = kLeftStages * kLeftBytes + kRightStages * kRightBytes;
  // Depth of a chunk, in elements of `size` bytes: chunks are even, but no row is shorter than a
  // line.
  static __aicore__ inline uint32_t ChunkDepth(uint32_t r, uint32_t size) {
    return Max(RoundUp(CeilDiv(r, kLeftStages), kFractal), kLineBytes / size);
  }
  static __aicore__ inline bool Fits(uint64_t m, uint64_t r, uint32_t size) {
    // the first condition keeps the second one's numbers small
    return r * size <= kLeftStages * kLeftBytes && m * ChunkDepth(r, size) * size <= kLeftBytes;
  }
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_MEMORY_H_
