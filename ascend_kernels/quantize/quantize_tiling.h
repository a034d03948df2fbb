// Sizes of the launches that make integers of rows, or rows of integers; shared by host and device.
#ifndef MOGE_ASCEND_QUANTIZE_TILING_H_
#define MOGE_ASCEND_QUANTIZE_TILING_H_

#include <cstdint>

struct QuantizeTiling {
  uint64_t N;        // rows
  uint32_t I;        // their columns
  uint32_t rows;     // a tile's; 1 where it is only part of a row
  uint32_t columns;  // a tile's
};

#endif  // MOGE_ASCEND_QUANTIZE_TILING_H_
