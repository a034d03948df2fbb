// Sizes of a grouped product's launch, shared by host and device.
#ifndef MOGE_ASCEND_GROUPED_GEMM_TILING_H_
#define MOGE_ASCEND_GROUPED_GEMM_TILING_H_

#include <cstdint>

struct GroupedGemmTiling {
  uint64_t N;        // rows, sorted by expert
  uint32_t E;        // experts
  uint32_t rows;     // of an expert's result, where its depth is ragged (dW)
  uint32_t columns;  // of the result
  uint32_t depth;    // that is summed over, where the result's rows are ragged (forward, dX)
  uint32_t pitch;    // of the result: columns rounded up to whole fractals
};

#endif  // MOGE_ASCEND_GROUPED_GEMM_TILING_H_
