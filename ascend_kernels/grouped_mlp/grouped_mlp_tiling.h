// Sizes and options of a launch of grouped_mlp_up, shared by host and device.
#ifndef MOGE_ASCEND_GROUPED_MLP_TILING_H_
#define MOGE_ASCEND_GROUPED_MLP_TILING_H_

#include "../grouped_gemm/grouped_gemm_tiling.h"

struct GroupedMlpTiling {
  GroupedGemmTiling product;  // its columns are F: the gate half's, and as many of the up half
  uint32_t weighted;          // 1: the activation is multiplied by the row's weight
  uint32_t save;              // 1: the pre-activation is written, too
};

#endif  // MOGE_ASCEND_GROUPED_MLP_TILING_H_
