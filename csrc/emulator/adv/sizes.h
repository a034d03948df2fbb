// How much temporary memory each high-level call needs, for its kernel side and its host side: the
// documents name the functions that say so and leave the numbers to the library.
#ifndef MOGE_EMULATOR_ADV_SIZES_H_
#define MOGE_EMULATOR_ADV_SIZES_H_

#include <algorithm>
#include <cstdint>

#include "../rounding.h"

namespace emulator {

// --- sorting ------------------------------------------------------------------------------------

inline constexpr uint32_t kSortedBytes = 8;  // a score with its index, for half as for float

constexpr uint32_t SortTmpBytes(uint32_t elements) { return elements * kSortedBytes; }

// One row after the other in normal mode: two lists that merges go back and forth between; with
// them the indices, if they are generated, and the negated scores, if the smallest are wanted. In
// small mode all rows, and one list.
constexpr uint32_t TopKTmpBytes(uint32_t inner, uint32_t outer, bool has_index, bool small,
                                bool largest, uint32_t value_bytes) {
  const uint32_t elements = small ? inner * outer : inner;
  return elements *
         (kSortedBytes * (small ? 1 : 2) + (has_index ? 0 : 4) + (largest ? 0 : value_bytes));
}

// --- rows ---------------------------------------------------------------------------------------

enum class RowUse : uint8_t {
  kSoftMax,
  kFlash,  // merges the result of an earlier call
  kGrad,
};

// A group of `rows` rows: the result of each, in half as well; 64 floats or, later, a block of
// the result for each row; two more blocks to merge; the rows in float that are not so already.
constexpr uint64_t RowTmpBytes(RowUse use, uint32_t rows, uint32_t columns, bool is_half) {
  const uint64_t eights = CeilDivide(rows, 8);
  const uint32_t wide = use == RowUse::kGrad ? (is_half ? 2 : 1) : (is_half ? 1 : 0);
  return eights * (is_half ? 64 : 32) +
         uint64_t{rows} * (256 + (use == RowUse::kFlash ? 64 : 0) + uint64_t{wide} * columns * 4);
}

// As many rows as the memory holds at once: whole eights, if it holds eight.
constexpr uint32_t RowsAtOnce(RowUse use, uint64_t bytes, uint32_t rows, uint32_t columns,
                              bool is_half) {
  constexpr uint32_t kMost = 248;  // an instruction has 255 repeats
  uint32_t least = 0;
  uint32_t most = rows < kMost ? rows : kMost;
  while (least < most) {
    const uint32_t middle = (least + most + 1) / 2;
    if (RowTmpBytes(use, middle, columns, is_half) <= bytes) {
      least = middle;
    } else {
      most = middle - 1;
    }
  }
  return least == rows || least < 8 ? least : least / 8 * 8;
}

// --- element by element -------------------------------------------------------------------------

inline constexpr uint32_t kOnesBytes = 32;   // Sigmoid: a block of ones to divide
inline constexpr uint32_t kGeluBytes = 256;  // Gelu: as much as is computed at once, at least

}  // namespace emulator

#endif  // MOGE_EMULATOR_ADV_SIZES_H_
