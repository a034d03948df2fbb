// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/gate_and_route/gate_and_route.cpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "ops.h"

namespace moge {

namespace {

// Both have a plan of their own. Route's tiles of tokens serve the gate, too, unless it would have
// far fewer cores than alone; else both take the more cores of the two, and meet between.
struct Plan {
  int64_t cores, workspace;
  GateAndRouteTiling tiling;
};

Plan PlanGateAndRoute(int64_t T, int64_t K, int64_t E, int64_t G) {
  const RoutePlan route = PlanRoute(T, K, E, G);
  const int64_t gate_cores = TokenCores(T);
  Plan plan{std::max(route.cores, gate_cores), route.workspace, {}};
  GateAndRouteTiling& tiling = plan.tiling;
  tiling.route = route.tiling;
  const uint32_t tile_tokens = route.tiling.stream_tokens != 0
                                   ? route.tiling.stream_tokens * kStreams
                                   : route.tiling.tile_tokens;
  if (tile_tokens != 0 && 4 * route.cores >= 3 * gate_cores) {
    plan.cores = route.cores;
    tiling.gate.tile_tokens = tile_tokens;
    return plan;
  }
  tiling.meet = 1;
  tiling.gate.tile_tokens = 1;
  if (tile_tokens == 0) plan.workspace = plan.cores * E;
  return plan;
}

}  // namespace

int64_t GateAndRouteWorkspace(int64_t T, int64_t K, int64_t E, int64_t G) {
  return RouteWorkspace(T, K, E, G) == 0 ? 0 : PlanGateAndRoute(T, K, E, G).workspace;
}

void LaunchGroupedGateAndRouteFwd(Pointer logits, Pointer bias, Pointer router_scale, Pointer given,
                                  Pointer weights, Pointer experts, Pointer counts,
                                  Pointer row_to_slot, Pointer slot_to_row, Pointer offsets,
                                  Pointer workspace, GroupedGateTiling gate, DType dtype,
                                  Pointer stream) {
  const char* op = "grouped_gate_and_route_fwd";
  CheckGate(op, gate, dtype);
  const int64_t T = gate.T, E = gate.E, K = int64_t{gate.G} * gate.k;
  if (T == 0 || K == 0) {
    throw std::invalid_argument(std::string(op) + ": T and K must be at least 1, got T = " +
                                std::to_string(T) + ", K = " + std::to_string(K));
  }
  const int64_t G = gate.given ? 1 : gate.G;  // any expert may stand in any column
  CheckRoute(op, T, K, E, G);
  Plan plan = PlanGateAndRoute(T, K, E, G);
  gate.has_bias = bias != 0 ? 1 : 0;
  gate.has_router_scale = router_scale != 0 ? 1 : 0;
  gate.tile_tokens = plan.tiling.gate.tile_tokens;
  plan.tiling.gate = gate;
  const int64_t N = T * K;
  const Launch launch{op,
                      plan.cores,
                      stream,
                      {{"logits", logits, T * E, SizeOf(dtype), Access::kIn},
                       {"bias", bias, bias != 0 ? E : 0, 4, Access::kIn},
                       {"router_scale", router_scale, router_scale != 0 ? E : 0, 4, Access::kIn},
                       {"given", given, gate.given ? N : 0, 4, Access::kIn},
                       {"weights", weights, N, 4, Access::kOut},
                       {"experts", experts, N, 4, Access::kOut},
                       {"counts", counts, E, 4, Access::kOut},
                       {"row_to_slot", row_to_slot, N, 4, Access::kOut},
                       {"slot_to_row", slot_to_row, N, 4, Access::kOut},
                       {"offsets", offsets, E + 1, 4, Access::kOut},
                       {"workspace", workspace, plan.workspace, 4, Access::kOut}},
                      Cores::kMixVector};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gate_and_route_fwd, Gm(logits), Gm(bias),
                    Gm(router_scale), Gm(given), Gm(weights), Gm(experts), Gm(counts),
                    Gm(row_to_slot), Gm(slot_to_row), Gm(offsets), Gm(workspace), plan.tiling);
}

}  // namespace moge
