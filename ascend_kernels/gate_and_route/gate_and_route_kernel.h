// Gate and route in one launch, as a launch costs more than either of them where tokens are few:
//
//    gate    logits -> weights, experts
//    SyncAll, unless each core routes the tokens of its own gate
//    route   experts -> row_to_slot, slot_to_row, offsets, counts
//
// The gate itself does not count. Where tokens are few that takes it longer than the choice, and
// route knows the counts, as an expert's rows are the slots that have it.
#ifndef MOGE_ASCEND_GATE_AND_ROUTE_KERNEL_H_
#define MOGE_ASCEND_GATE_AND_ROUTE_KERNEL_H_

#include "../grouped_gate/grouped_gate_kernel.h"
#include "../route/route_kernel.h"
#include "gate_and_route_tiling.h"

namespace moge {

struct GateAndRouteTensors {
  GM_ADDR logits;
  GM_ADDR bias;
  GM_ADDR router_scale;
  GM_ADDR given;
  GM_ADDR weights;
  GM_ADDR experts;
  GM_ADDR counts;
  GM_ADDR row_to_slot;
  GM_ADDR slot_to_row;
  GM_ADDR offsets;
  GM_ADDR workspace;
};

// Each phase has a TPipe of its own, whose end waits for all that the core's pipes have to do.
template <typename T>
__aicore__ inline void GateAndRoute(const GateAndRouteTensors& gm,
                                    const GateAndRouteTiling& tiling) {
  RunGateFwd<T>(tiling.gate, gm.logits, gm.bias, gm.router_scale, gm.given, gm.weights, gm.experts,
                gm.counts, gm.workspace);
  if (tiling.meet) SyncAll();
  Route(gm.experts, gm.row_to_slot, gm.slot_to_row, gm.offsets, gm.counts, gm.workspace,
        tiling.route);
}

}  // namespace moge

#endif  // MOGE_ASCEND_GATE_AND_ROUTE_KERNEL_H_
