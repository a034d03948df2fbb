// The gate: scores, the k best experts of every group, their weights and counts, in one launch.
#ifndef MOGE_ASCEND_GROUPED_GATE_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GATE_KERNEL_H_

#include "grouped_gate_pangu_kernel.h"
#include "grouped_gate_rows_kernel.h"
#include "grouped_gate_tiles_kernel.h"

namespace moge {

template <template <typename> class GateTiles, template <typename> class GateRows, bool backward,
          typename T, typename... Addresses>
__aicore__ inline void RunGate(const GroupedGateTiling& tiling, Addresses... addresses) {
  TPipe pipe;
  if (TileTokens(tiling, sizeof(T), backward) != 0) {
    GateTiles<T> kernel(tiling);
    kernel.Init(addresses..., &pipe);
    kernel.Process();
  } else {
    GateRows<T> kernel;
    kernel.Init(addresses..., tiling, &pipe);
    kernel.Process(tiling);
  }
}

template <typename T, typename... Addresses>
__aicore__ inline void RunGateFwd(const GroupedGateTiling& tiling, Addresses... addresses) {
  RunGate<GateTilesFwd, GateRowsFwd, false, T>(tiling, addresses...);
}

template <typename T, typename... Addresses>
__aicore__ inline void RunGateBwd(const GroupedGateTiling& tiling, Addresses... addresses) {
  // that needs one expert of each group, in order; given ones may be any
  if (tiling.E == Pangu::kE && tiling.G == Pangu::kG && tiling.k == 1 && !tiling.given) {
    TPipe pipe;
    PanguGateBwd<T> kernel;
    kernel.Init(addresses..., tiling, &pipe);
    kernel.Process(tiling);
  } else {
    RunGate<GateTilesBwd, GateRowsBwd, true, T>(tiling, addresses...);
  }
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_KERNEL_H_
