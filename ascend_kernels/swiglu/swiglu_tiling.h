// Sizes of a SwiGLU launch, shared by host and device.
#ifndef MOGE_ASCEND_SWIGLU_TILING_H_
#define MOGE_ASCEND_SWIGLU_TILING_H_

#include <cstdint>

struct SwigluTiling {
  uint64_t N;
  uint32_t F;
  uint32_t rows;     // a tile's
  uint32_t columns;  // a tile's
};

#endif  // MOGE_ASCEND_SWIGLU_TILING_H_
