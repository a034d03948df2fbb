// Entry of the routing kernel; a mix kernel, for SyncAll.
#include "route_kernel.h"

extern "C" __global__ __mix__(0, 1) void route_fwd(GM_ADDR experts, GM_ADDR row_to_slot,
                                                   GM_ADDR slot_to_row, GM_ADDR offsets,
                                                   GM_ADDR workspace, RouteTiling tiling) {
  if (tiling.stream_tokens != 0) {
    moge::RunRoute<moge::RouteStreams>(experts, row_to_slot, slot_to_row, offsets, workspace,
                                       tiling);
  } else {
    moge::RunRoute<moge::RouteSlots>(experts, row_to_slot, slot_to_row, offsets, workspace, tiling);
  }
}
