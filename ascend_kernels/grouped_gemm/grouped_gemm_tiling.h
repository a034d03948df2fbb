// Sizes of a grouped product's launch, shared by host and device.
#ifndef MOGE_ASCEND_GROUPED_GEMM_TILING_H_
#define MOGE_ASCEND_GROUPED_GEMM_TILING_H_

#include <cstdint>

struct GroupedGemmTiling {
  uint64_t N;      // routed rows, sorted by expert
  uint32_t E;      // experts
  uint32_t rows;   // rows of an expert's result in dW; 0 in forward and dX, where they are ragged
  uint32_t C;      // columns of the result
  uint32_t R;      // depth, which is summed over; 0 in dW, where it is ragged
  uint32_t slots;  // experts whose packed right factor there is room for; 0: none is packed
  // With two halves of the right factor: 0, or its columns if the two parts of a tile are not the
  // same columns of both halves, but lie side by side. C is then the number of pairs.
  uint32_t beside;
  uint32_t pitch;  // elements from row to row of the result: C rounded up to whole fractals
};

#endif  // MOGE_ASCEND_GROUPED_GEMM_TILING_H_
