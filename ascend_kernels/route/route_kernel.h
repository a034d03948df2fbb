// Routing: a stable counting partition on several cores. Each core counts its own slots, all cores
// exchange their counts, and then each knows the rows of its slots.
#ifndef MOGE_ASCEND_ROUTE_KERNEL_H_
#define MOGE_ASCEND_ROUTE_KERNEL_H_

#include <type_traits>

#include "route_slots_kernel.h"
#include "route_sorted_kernel.h"
#include "route_streams_kernel.h"

namespace moge {

constexpr uint32_t kCountedExperts = 2048;  // counted at a time

// counts[e] = offsets[e + 1] - offsets[e], on the core that has written the offsets.
__aicore__ inline void CountRows(GM_ADDR offsets, GM_ADDR counts, uint32_t E) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  pipe.InitBuffer(in, 1, 2 * kCountedExperts * sizeof(int32_t));
  pipe.InitBuffer(out, 1, kCountedExperts * sizeof(int32_t));
  for (uint32_t first = 0; first < E; first += kCountedExperts) {
    const uint32_t count = Min(kCountedExperts, E - first);
    LocalTensor<int32_t> begin = in.AllocTensor<int32_t>();
    Load(begin, Global<int32_t>(offsets)[first], count);
    Load(begin[kCountedExperts], Global<int32_t>(offsets)[first + 1], count);
    in.EnQue(begin);
    begin = in.DeQue<int32_t>();
    LocalTensor<int32_t> rows = out.AllocTensor<int32_t>();
    Sub(rows, begin[kCountedExperts], begin, count);
    in.FreeTensor(begin);
    out.EnQue(rows);
    rows = out.DeQue<int32_t>();
    Store(Global<int32_t>(counts)[first], rows, count);
    out.FreeTensor(rows);
  }
}

// counts [E]: the rows of each expert; or none. RouteSorted has them in UB and stores them itself.
template <typename Kernel>
__aicore__ inline void RunRoute(GM_ADDR experts, GM_ADDR row_to_slot, GM_ADDR slot_to_row,
                                GM_ADDR offsets, GM_ADDR counts, GM_ADDR workspace,
                                const RouteTiling& tiling) {
  constexpr bool sorted = std::is_same_v<Kernel, RouteSorted>;
  {
    TPipe pipe;
    Kernel kernel;
    kernel.Init(experts, row_to_slot, slot_to_row, offsets, workspace, tiling, &pipe);
    if constexpr (sorted) {
      if (counts != nullptr) kernel.CountTo(counts);
    }
    kernel.Process();
  }
  if constexpr (!sorted) {
    if (counts != nullptr && GetBlockIdx() == Kernel::OffsetsCore()) {
      CountRows(offsets, counts, tiling.E);
    }
  }
}
__aicore__ inline void Route(GM_ADDR experts, GM_ADDR row_to_slot, GM_ADDR slot_to_row,
                             GM_ADDR offsets, GM_ADDR counts, GM_ADDR workspace,
                             const RouteTiling& tiling) {
  if (tiling.stream_tokens != 0) {
    RunRoute<RouteStreams>(experts, row_to_slot, slot_to_row, offsets, counts, workspace, tiling);
  } else if (tiling.tile_tokens != 0) {
    RunRoute<RouteSorted>(experts, row_to_slot, slot_to_row, offsets, counts, workspace, tiling);
  } else {
    RunRoute<RouteSlots>(experts, row_to_slot, slot_to_row, offsets, counts, workspace, tiling);
  }
}

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_KERNEL_H_
