// The entry is in this translation unit: a launch with <<<>>> needs its definition.
#include "../ascend_kernels/route/route.cpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "ops.h"

namespace moge {

namespace {

// Slots that a core sorts alone, and asks nobody; markers are sorted along in any case.
int64_t SlotsAlone(int64_t E) { return 768 + E; }
// Cores that share the sorting: each has its slots to sort, and the starts of all of them to read.
int64_t CoresToSort(int64_t N, int64_t E) {
  const double best = 4.0 * std::sqrt(static_cast<double>(N) / static_cast<double>(E));
  return std::max<int64_t>(1, std::min<int64_t>(N / 96, static_cast<int64_t>(best)));
}
// Fewer slots than this are sorted sooner than streams count them.
constexpr int64_t kStreamsFrom = 24576;
// and more than this have rows that two float16 do not hold
constexpr int64_t kStreamsTo = int64_t{2048} * kRowHigh;

int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

// By streams where a group has few experts, and a core need not hold more tiles than it can.
bool PlanStreams(int64_t T, RoutePlan& plan) {
  RouteTiling& tiling = plan.tiling;
  const int64_t N = T * tiling.K;
  if (tiling.E == 0 || tiling.G > kStreamGroups || tiling.E / tiling.G > kStreamExperts ||
      tiling.K > kStreamSlots / kStreams || N < kStreamsFrom || N > kStreamsTo) {
    return false;
  }
  uint32_t tokens = 0;  // of a stream: the fewest that let the cores hold all
  for (uint32_t some = 1; some * tiling.K * kStreams <= kStreamSlots; ++some) {
    if (!StreamLayout(some, tiling.K, tiling.G).Fits()) continue;
    tokens = some;
    if (Ceil(T, some * kStreams) <= Blocks(T)) break;
  }
  if (tokens == 0) return false;
  const int64_t tiles = Ceil(T, tokens * kStreams);
  plan.cores = Blocks(tiles);
  if (Ceil(tiles, plan.cores) > kStreamTiles) return false;
  tiling.stream_tokens = tokens;
  plan.workspace = tiles * RouteStreamWords(tiling.E, tiling.G);
  return true;
}

}  // namespace

void CheckRoute(const char* op, int64_t T, int64_t K, int64_t E, int64_t G) {
  CheckRows(op, T, 0, K, INT32_MAX);
  CheckSize(op, "E", E, kRouteMaxExperts);
  if (G < 1 || E % G != 0 || K % G != 0) {
    throw std::invalid_argument(std::string(op) +
                                ": G must divide E and K, got G = " + std::to_string(G) +
                                ", E = " + std::to_string(E) + ", K = " + std::to_string(K));
  }
}

RoutePlan PlanRoute(int64_t T, int64_t K, int64_t E, int64_t G) {
  RoutePlan plan{};
  RouteTiling& tiling = plan.tiling;
  tiling.T = static_cast<uint64_t>(T);
  tiling.K = static_cast<uint32_t>(K);
  tiling.E = static_cast<uint32_t>(E);
  tiling.G = static_cast<uint32_t>(G);
  const int64_t N = T * K;
  if (PlanStreams(T, plan)) return plan;
  plan.cores = Blocks(T);
  plan.workspace = plan.cores * E;
  const int64_t most = std::min<int64_t>(kRouteTileSlots, kRouteSorted - RoundUp(E, 8));
  if (E == 0 || E > kRouteSortExperts || K > most) return plan;
  plan.cores = N <= std::min(most, SlotsAlone(E)) ? 1 : Blocks(std::min(T, CoresToSort(N, E)));
  const int64_t tiles = plan.cores * Ceil(Ceil(T, plan.cores), most / K);
  tiling.tile_tokens = static_cast<uint32_t>(Ceil(T, tiles));
  const int64_t used = Ceil(T, tiling.tile_tokens);
  plan.cores = std::min(plan.cores, used);
  plan.workspace = used * RouteTileWords(E, static_cast<uint32_t>(tiling.tile_tokens * K));
  return plan;
}

int64_t RouteWorkspace(int64_t T, int64_t K, int64_t E, int64_t G) {
  CheckRoute("route_workspace", T, K, E, G);
  return T == 0 || K == 0 ? 0 : PlanRoute(T, K, E, G).workspace;
}

void LaunchRouteFwd(Pointer experts, Pointer row_to_slot, Pointer slot_to_row, Pointer offsets,
                    Pointer workspace, int64_t T, int64_t K, int64_t E, int64_t G, Pointer stream) {
  const char* op = "route_fwd";
  CheckRoute(op, T, K, E, G);
  if (T == 0 || K == 0) return;
  const RoutePlan plan = PlanRoute(T, K, E, G);
  const int64_t N = T * K;
  const Launch launch{op,
                      plan.cores,
                      stream,
                      {{"experts", experts, N, 4, Access::kIn},
                       {"row_to_slot", row_to_slot, N, 4, Access::kOut},
                       {"slot_to_row", slot_to_row, N, 4, Access::kOut},
                       {"offsets", offsets, E + 1, 4, Access::kOut},
                       {"workspace", workspace, plan.workspace, 4, Access::kOut}},
                      Cores::kMixVector};
  MOGE_LAUNCH(launch, route_fwd, Gm(experts), Gm(row_to_slot), Gm(slot_to_row), Gm(offsets),
              Gm(workspace), plan.tiling);
}

}  // namespace moge
