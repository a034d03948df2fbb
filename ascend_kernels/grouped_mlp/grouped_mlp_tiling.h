// Sizes and options of a launch of the expert layer, shared by host and device.
#ifndef MOGE_ASCEND_GROUPED_MLP_TILING_H_
#define MOGE_ASCEND_GROUPED_MLP_TILING_H_

#include "../grouped_gemm/grouped_gemm_tiling.h"
#include "../quantize/quantize_tiling.h"
#include "../swiglu/activation_tiling.h"
#include "../swiglu/swiglu_tiling.h"

// The vector cores take rows [N, H] in parts of their columns: a part of a token's rows is a unit
// of their work.
struct RowsTiling {
  uint64_t T;
  uint32_t H;
  uint32_t K;
  uint32_t pitch;    // elements from row to row of the second product
  uint32_t columns;  // of a part
  uint32_t parts;    // of a row
};

struct GroupedMlpTiling {
  // Its columns are F: the gate half's, and as many of the up half. Where gate and up take turns,
  // or where there is no up, they are pairs of the weight's columns.
  GroupedGemmTiling up;
  GroupedGemmTiling down;  // [N, F] by [E, H, F]
  RowsTiling rows;
  uint32_t early;   // 1: the activation is multiplied by the row's weight; 0: the output is
  uint32_t save;    // 1: the pre-activation is written, too
  uint32_t chosen;  // 1: the activation is not SwiGLU, or the first product has a bias
  ActivationTiling activation;
};

struct GroupedMlpActBwdTiling {
  SwigluTiling tiles;
  ActivationTiling activation;
};

struct GroupedMlpInt8Tiling {
  GroupedMlpTiling layer;
  QuantizeTiling x;    // [T, H]
  QuantizeTiling act;  // [N, F]
  uint32_t parts;      // in which a token's slots are cut; with more than one, x.rows is 1
};

#endif  // MOGE_ASCEND_GROUPED_MLP_TILING_H_
