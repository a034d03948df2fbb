// Entries of the gate kernels, one for each dtype of the logits; mix kernels, for SyncAll.
#include "grouped_gate_kernel.h"

#define MOGE_GATE_ENTRIES(dtype, T)                                                               \
  extern "C" __global__ __mix__(0, 1) void grouped_gate_fwd_##dtype(                              \
      GM_ADDR logits, GM_ADDR bias, GM_ADDR router_scale, GM_ADDR given, GM_ADDR weights,         \
      GM_ADDR experts, GM_ADDR counts, GM_ADDR workspace, GroupedGateTiling tiling) {             \
    moge::RunGateFwd<T>(tiling, logits, bias, router_scale, given, weights, experts, counts,      \
                        workspace);                                                               \
  }                                                                                               \
  extern "C" __global__ __mix__(0, 1) void grouped_gate_bwd_##dtype(                              \
      GM_ADDR d_weights, GM_ADDR logits, GM_ADDR experts, GM_ADDR router_scale, GM_ADDR d_logits, \
      GM_ADDR d_router_scale, GM_ADDR workspace, GroupedGateTiling tiling) {                      \
    moge::RunGateBwd<T>(tiling, d_weights, logits, experts, router_scale, d_logits,               \
                        d_router_scale, workspace);                                               \
  }

MOGE_FOR_EACH_DTYPE(MOGE_GATE_ENTRIES)
