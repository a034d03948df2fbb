// Sizes of a permute launch, shared by host and device.
#ifndef MOGE_ASCEND_PERMUTE_TILING_H_
#define MOGE_ASCEND_PERMUTE_TILING_H_

#include <cstdint>

#include "../quantize/quantize_tiling.h"

struct PermuteTiling {
  uint64_t T;
  uint32_t H;
  uint32_t K;
  uint32_t tokens;   // whose slots are loaded together
  uint32_t rows;     // a tile's; 1 where it is only part of a row
  uint32_t columns;  // a tile's
};

struct PermuteQuantizedTiling {
  QuantizeTiling x;  // [T, H]
  uint32_t K;
  uint32_t parts;  // in which a token's slots are cut; with more than one, x.rows is 1
};

#endif  // MOGE_ASCEND_PERMUTE_TILING_H_
