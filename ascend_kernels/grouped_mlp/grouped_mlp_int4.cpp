// Entries of the expert layer's first product of bytes and four bits with SwiGLU, one for each
// dtype.
#include "../grouped_gemm/grouped_gemm_int8_kernel.h"

#define MOGE_GROUPED_MLP_INT4_ENTRY(dtype, T)                                            \
  extern "C" __global__ __mix__(1, 2) void grouped_mlp_up_int4_##dtype(                  \
      GM_ADDR planes, GM_ADDR row_scale, GM_ADDR weight, GM_ADDR scale, GM_ADDR offsets, \
      GM_ADDR ring, GM_ADDR pre, GM_ADDR act, GroupedGemmTiling tiling) {                \
    moge::MultiplyParts<T, 2, moge::kMixPartC, true>(                                    \
        planes, weight, {row_scale, scale, offsets, ring, pre, act}, tiling);            \
  }

MOGE_FOR_EACH_DTYPE(MOGE_GROUPED_MLP_INT4_ENTRY)
