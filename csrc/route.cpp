// The entry is in this translation unit: a launch with <<<>>> needs its definition.
#include "../ascend_kernels/route/route.cpp"

#include <algorithm>

#include "ops.h"

namespace moge {

namespace {

// Tokens of a core where there are enough of them: lists then fill whole repeats, and the exchange
// of counts costs little in comparison.
constexpr int64_t kTokensOfCore = kRouteMaxTokens;

}  // namespace

int64_t RouteCores(int64_t T) {
  return std::min<int64_t>(kRouteMaxCores, Blocks((T + kTokensOfCore - 1) / kTokensOfCore));
}

void LaunchRouteFwd(Pointer experts, Pointer row_to_slot, Pointer slot_to_row, Pointer offsets,
                    Pointer workspace, int64_t T, int64_t K, int64_t E, int64_t G, Pointer stream) {
  const char* op = "route_fwd";
  CheckRows(op, T, 0, K, INT32_MAX);
  CheckSize(op, "E", E, kRouteMaxExperts);
  if (T == 0 || K == 0) return;
  const int64_t cores = RouteCores(T);
  RouteTiling tiling{};
  tiling.T = static_cast<uint64_t>(T);
  tiling.K = static_cast<uint32_t>(K);
  tiling.E = static_cast<uint32_t>(E);
  tiling.G = static_cast<uint32_t>(G);
  const int64_t tokens = (T + cores - 1) / cores;
  if (E == Pangu::kE && G == Pangu::kG && K == Pangu::kG && T <= kRouteMaxT &&
      tokens <= kRouteMaxTokens) {
    const auto stream_tokens = static_cast<uint32_t>((tokens + kStreams - 1) / kStreams);
    tiling.stream_tokens = RoundUp(stream_tokens, kStreamStep);
  }
  const int64_t N = T * K;
  const Launch launch{op,
                      cores,
                      stream,
                      {{"experts", experts, N, 4, Access::kIn},
                       {"row_to_slot", row_to_slot, N, 4, Access::kOut},
                       {"slot_to_row", slot_to_row, N, 4, Access::kOut},
                       {"offsets", offsets, E + 1, 4, Access::kOut},
                       {"workspace", workspace, cores * E, 4, Access::kOut}},
                      Cores::kMixVector};
  MOGE_LAUNCH(launch, route_fwd, Gm(experts), Gm(row_to_slot), Gm(slot_to_row), Gm(offsets),
              Gm(workspace), tiling);
}

}  // namespace moge
