// How a grouped product divides L1 and L0: what is there, how large it is, and for how long.
//
// L1 holds chunks of both factors, each in a stage of its own. A chunk has all rows (columns) of a
// tile or of its part, and a piece of the depth. The right factor always streams through two or
// three stages, from where it lies or, if the vector cores pack it, from what they wrote. For the
// left one there are two plans; the kernel takes the second where all of a tile's left factor fits.
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
constexpr uint32_t kMaxStages = 4;    // of a factor in L1
constexpr uint32_t kEventIds = 6;     // a kernel may use the flags 0 to 5 between two pipes
constexpr uint32_t kLineBytes = 512;  // a line of L2
// Products that add up need a barrier between them where they have fewer fractals than this:
// documented for Mmad, not tuned.
constexpr uint32_t kFewFractals = 10;
constexpr uint8_t kUnitFlagMore = 2;  // Mmad: more products will be added
constexpr uint8_t kUnitFlagLast = 3;  // the last Mmad, and Fixpipe
// A streaming chunk has rows of this many bytes: MTE2 moves 1 KB in 8 cycles, and needs 2.4 for
// each row. Modelled on 910B1, November 2026: with 512, MTE2 was the bound.
constexpr uint32_t kRowBytes = 1024;
// A product beside vector cores has this many columns in a part, where it has no room for 128.
constexpr uint32_t kMixPartC = 112;
template <Layout kRight, uint32_t kHalves>
constexpr uint32_t kMostColumns = kHalves != 1                    ? kMixPartC
                                  : kRight == Layout::kDepthOuter ? kTileC
                                                                  : kTileC / 2;

// The plans of L1: the left factor's stages, then those of the right one.
template <uint32_t kLeftKb, uint32_t kLefts, uint32_t kRightKb, uint32_t kRights>
struct L1Plan {
  static_assert(kLefts + kRights <= kEventIds, "flags");
  static constexpr uint32_t kLeftStages = kLefts, kRightStages = kRights;
  static constexpr uint32_t kLeftBytes = kLeftKb * 1024, kRightBytes = kRightKb * 1024;
  static constexpr uint32_t kBytes = kLeftStages * kLeftBytes + kRightStages * kRightBytes;
};
// Boxes of a right factor whose rows run along the columns are as wide as a tile. They may be
// small, as packed ones cost nothing for a row, and with a third stage MTE2 is ahead of the cube.
// Modelled on 910B1, November 2026: at 8192 tokens dX of down has 94 % of the cube's time, and had
// 84 % with two stages of 96 KB.
template <bool kRightDepthOuter, uint32_t kPartC>
using StreamingLeft =
    L1Plan<kTileM * kRowBytes / 1024, 2, kRightDepthOuter ? 64 : kPartC * kRowBytes / 1024,
           kRightDepthOuter ? 3 : 2>;
// At 2 bytes an element the left stages hold 128 rows of F = 1344, 32 rows of H = 5120, and in dW
// an expert's 1272 rows. There the right factor has three stages, so that the next small chunk
// arrives in time.
//
// Of bytes, 128 rows of F = 1344 are two chunks. So a third stage of the left factor is enough for
// the next strip to begin in time, and there is room for a third one of the right factor, too.
template <bool kRaggedDepth, bool kShort>
using ResidentPlan =
    L1Plan<kRaggedDepth ? 106 : 84, kShort ? 3 : 4, kRaggedDepth ? 64 : 84, kShort ? 3 : 2>;
template <bool kRaggedDepth, bool kOfBytes>
struct ResidentLeft : ResidentPlan<kRaggedDepth, kRaggedDepth || kOfBytes> {
  using Plan = ResidentPlan<kRaggedDepth, kRaggedDepth || kOfBytes>;
  // Depth of a chunk, in elements of `size` bytes: chunks are even, but where rows begin on lines,
  // none cuts one. No row is shorter than a line, and of bytes none is shorter than those of 128
  // that a stage holds.
  static __aicore__ inline uint32_t ChunkDepth(uint32_t r, uint32_t size) {
    const uint32_t line = kLineBytes / size, least = kOfBytes ? Plan::kLeftBytes / kTileM : line;
    const uint32_t unit = r % line == 0 ? line : kFractal;
    return Max(RoundUp(CeilDiv(r, Plan::kLeftStages), unit), least);
  }
  static __aicore__ inline bool Fits(uint64_t m, uint64_t r, uint32_t size) {
    // the first condition keeps the second one's numbers small
    return r * size <= Plan::kLeftStages * Plan::kLeftBytes &&
           m * ChunkDepth(r, size) * size <= Plan::kLeftBytes;
  }
};

// Whether a tile's rows stay in L1 whatever their number. Only then has a mix kernel room for parts
// of 128 columns, which need fewer loads of the rows to L0.
template <typename T>
__aicore__ inline bool StaysInL1(uint64_t r) {
  return ResidentLeft<false, sizeof(T) == 1>::Fits(kTileM, r, sizeof(T));
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_MEMORY_H_
