// Entries of the grouped products of bytes, one for each dtype of the result.
#include "grouped_gemm_int8_kernel.h"

#define MOGE_GROUPED_GEMM_INT8_ENTRY(dtype, T)                                                     \
  extern "C" __global__ __mix__(1, 2) void grouped_gemm_int8_##dtype(                              \
      GM_ADDR rows, GM_ADDR row_scale, GM_ADDR weight, GM_ADDR scale, GM_ADDR offsets,             \
      GM_ADDR ring, GM_ADDR out, GroupedGemmTiling tiling) {                                       \
    moge::MultiplyBytes<T>(rows, weight, {row_scale, scale, offsets, ring, nullptr, out}, tiling); \
  }

MOGE_FOR_EACH_DTYPE(MOGE_GROUPED_GEMM_INT8_ENTRY)
