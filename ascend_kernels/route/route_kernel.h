// Routing: a stable counting partition on several cores. Each core counts its own slots, all cores
// exchange their counts, and then each knows the rows of its slots.
#ifndef MOGE_ASCEND_ROUTE_KERNEL_H_
#define MOGE_ASCEND_ROUTE_KERNEL_H_

#include "route_slots_kernel.h"
#include "route_streams_kernel.h"

namespace moge {

template <typename Kernel>
__aicore__ inline void RunRoute(GM_ADDR experts, GM_ADDR row_to_slot, GM_ADDR slot_to_row,
                                GM_ADDR offsets, GM_ADDR workspace, const RouteTiling& tiling) {
  TPipe pipe;
  Kernel kernel;
  kernel.Init(experts, row_to_slot, slot_to_row, offsets, workspace, tiling, &pipe);
  kernel.Process();
}

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_KERNEL_H_
