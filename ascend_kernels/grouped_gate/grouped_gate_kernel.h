// The gate: scores, the k best experts of every group, their weights and counts, in one launch.
#ifndef MOGE_ASCEND_GROUPED_GATE_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GATE_KERNEL_H_

#include "grouped_gate_pangu_kernel.h"
#include "grouped_gate_rows_kernel.h"

namespace moge {

// The tiles need one expert of each group, in order; given ones may be any.
__aicore__ inline bool IsPanguGate(const GroupedGateTiling& tiling) {
  return tiling.E == Pangu::kE && tiling.G == Pangu::kG && tiling.k == 1 && !tiling.given;
}

template <template <typename> class PanguGate, template <typename> class GateRows, typename T,
          typename... Addresses>
__aicore__ inline void RunGate(const GroupedGateTiling& tiling, Addresses... addresses) {
  TPipe pipe;
  if (IsPanguGate(tiling)) {
    PanguGate<T> kernel;
    kernel.Init(addresses..., tiling, &pipe);
    kernel.Process(tiling);
  } else {
    GateRows<T> kernel;
    kernel.Init(addresses..., tiling, &pipe);
    kernel.Process(tiling);
  }
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GATE_KERNEL_H_
