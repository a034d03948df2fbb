// Entries of the kernels that only the expert layer has, one for each dtype.
#include "grouped_mlp_act_bwd_kernel.h"
#include "grouped_mlp_kernel.h"

#define MOGE_GROUPED_MLP_ENTRIES(dtype, T)                                                        \
  extern "C" __global__ __mix__(1, 2) void grouped_mlp_fwd_##dtype(                               \
      GM_ADDR x, GM_ADDR gate_up, GM_ADDR down, GM_ADDR weights, GM_ADDR slot_to_row,             \
      GM_ADDR offsets, GM_ADDR b_gate_up, GM_ADDR b_down, GM_ADDR series, GM_ADDR rows,           \
      GM_ADDR row_weights, GM_ADDR ring, GM_ADDR pre, GM_ADDR act, GM_ADDR y,                     \
      GroupedMlpTiling tiling) {                                                                  \
    const moge::GroupedMlpTensors gm{x,       gate_up, down,        weights, slot_to_row,         \
                                     offsets, rows,    row_weights, ring,    pre,                 \
                                     act,     y,       b_gate_up,   b_down,  series};             \
    moge::GroupedMlpFwd<T>(gm, tiling);                                                           \
  }                                                                                               \
  extern "C" __global__ __vector__ void grouped_mlp_act_bwd_##dtype(                              \
      GM_ADDR g, GM_ADDR pre, GM_ADDR row_weights, GM_ADDR more, GM_ADDR series, GM_ADDR d_pre,   \
      GM_ADDR act, GM_ADDR d_row_weights, GM_ADDR d_series, GroupedMlpActBwdTiling tiling) {      \
    AscendC::TPipe pipe;                                                                          \
    moge::GroupedMlpActBwd<T>(                                                                    \
        {g, pre, row_weights, more, series, d_pre, act, d_row_weights, d_series}, tiling, &pipe); \
  }

MOGE_FOR_EACH_DTYPE(MOGE_GROUPED_MLP_ENTRIES)
