// Entries of gate and route, one for each dtype of the logits; mix kernels, for SyncAll.
#include "gate_and_route_kernel.h"

#define MOGE_GATE_AND_ROUTE_ENTRIES(dtype, T)                                                     \
  extern "C" __global__ __mix__(0, 1) void grouped_gate_and_route_fwd_##dtype(                    \
      GM_ADDR logits, GM_ADDR bias, GM_ADDR router_scale, GM_ADDR given, GM_ADDR weights,         \
      GM_ADDR experts, GM_ADDR counts, GM_ADDR row_to_slot, GM_ADDR slot_to_row, GM_ADDR offsets, \
      GM_ADDR workspace, GateAndRouteTiling tiling) {                                             \
    moge::GateAndRoute<T>({logits, bias, router_scale, given, weights, experts, counts,           \
                           row_to_slot, slot_to_row, offsets, workspace},                         \
                          tiling);                                                                \
  }

MOGE_FOR_EACH_DTYPE(MOGE_GATE_AND_ROUTE_ENTRIES)
