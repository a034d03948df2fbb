// Sizes of an expert layer's launches, shared by host and device.
#ifndef MOGE_ASCEND_GROUPED_MLP_TILING_H_
#define MOGE_ASCEND_GROUPED_MLP_TILING_H_

#include "../grouped_gemm/grouped_gemm_tiling.h"

struct GroupedMlpTiling {
  GroupedGemmTiling product;  // of the gate half's columns; the up half has as many
  uint32_t weighted;          // the activation is multiplied by the row's weight
  uint32_t save;              // the pre-activation is written, too
};

#endif  // MOGE_ASCEND_GROUPED_MLP_TILING_H_
