// Sizes and options of a launch for gate and route, shared by host and device.
#ifndef MOGE_ASCEND_GATE_AND_ROUTE_TILING_H_
#define MOGE_ASCEND_GATE_AND_ROUTE_TILING_H_

#include "../grouped_gate/grouped_gate_tiling.h"
#include "../route/route_tiling.h"

struct GateAndRouteTiling {
  GroupedGateTiling gate;
  RouteTiling route;
  uint32_t meet;  // between the two, as a core routes tokens of other cores' gate
};

#endif  // MOGE_ASCEND_GATE_AND_ROUTE_TILING_H_
