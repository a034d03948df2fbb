// Entry of the routing kernel; a mix kernel, for SyncAll.
#include "route_kernel.h"

extern "C" __global__ __mix__(0, 1) void route_fwd(GM_ADDR experts, GM_ADDR row_to_slot,
                                                   GM_ADDR slot_to_row, GM_ADDR offsets,
                                                   GM_ADDR workspace, RouteTiling tiling) {
  moge::Route(experts, row_to_slot, slot_to_row, offsets, nullptr, workspace, tiling);
}
