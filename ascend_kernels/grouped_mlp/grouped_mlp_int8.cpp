// Entries of the expert layer of weights of bytes, one for each dtype.
#include "grouped_mlp_int8_kernel.h"

#define MOGE_GROUPED_MLP_INT8_ENTRY(dtype, T)                                                      \
  extern "C" __global__ __mix__(1, 2) void grouped_mlp_int8_fwd_##dtype(                           \
      GM_ADDR x, GM_ADDR gate_up, GM_ADDR gate_up_scale, GM_ADDR down, GM_ADDR down_scale,         \
      GM_ADDR weights, GM_ADDR slot_to_row, GM_ADDR offsets, GM_ADDR rows, GM_ADDR row_scale,      \
      GM_ADDR ring, GM_ADDR pre, GM_ADDR act, GM_ADDR q, GM_ADDR y, GroupedMlpInt8Tiling tiling) { \
    const moge::ByteMlpTensors gm{{x, gate_up, down, weights, slot_to_row, offsets, rows, nullptr, \
                                   ring, pre, act, y, nullptr, nullptr, nullptr},                  \
                                  gate_up_scale,                                                   \
                                  down_scale,                                                      \
                                  q,                                                               \
                                  row_scale};                                                      \
    moge::GroupedMlpInt8Fwd<T>(gm, tiling);                                                        \
  }

MOGE_FOR_EACH_DTYPE(MOGE_GROUPED_MLP_INT8_ENTRY)
