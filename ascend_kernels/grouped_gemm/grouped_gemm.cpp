// Entries of the grouped products, one for each dtype.
#include "grouped_gemm_kernel.h"

#define MOGE_GROUPED_GEMM_ENTRY(name, dtype, T, left, right)                                    \
  extern "C" __global__ __cube__ void name##_##dtype(GM_ADDR left_factor, GM_ADDR right_factor, \
                                                     GM_ADDR offsets, GM_ADDR result,           \
                                                     GroupedGemmTiling tiling) {                \
    moge::GroupedGemm<T, moge::Layout::left, moge::Layout::right>(left_factor, right_factor,    \
                                                                  offsets, result, tiling);     \
  }
#define MOGE_GROUPED_GEMM_PACKING_ENTRY(name, dtype, T, left)                                     \
  extern "C" __global__ __mix__(1, 2) void name##_##dtype(                                        \
      GM_ADDR left_factor, GM_ADDR right_factor, GM_ADDR offsets, GM_ADDR packed, GM_ADDR result, \
      GroupedGemmTiling tiling) {                                                                 \
    moge::GroupedGemmPacking<T, moge::Layout::left>(left_factor, right_factor, offsets, packed,   \
                                                    result, tiling);                              \
  }
#define MOGE_GROUPED_GEMM_ENTRIES(dtype, T)                                     \
  MOGE_GROUPED_GEMM_ENTRY(grouped_gemm_fwd, dtype, T, kDepthInner, kDepthInner) \
  MOGE_GROUPED_GEMM_ENTRY(grouped_gemm_packed, dtype, T, kDepthInner, kPacked)  \
  MOGE_GROUPED_GEMM_PACKING_ENTRY(grouped_gemm_dx, dtype, T, kDepthInner)       \
  MOGE_GROUPED_GEMM_PACKING_ENTRY(grouped_gemm_dw, dtype, T, kDepthOuter)

MOGE_FOR_EACH_DTYPE(MOGE_GROUPED_GEMM_ENTRIES)
