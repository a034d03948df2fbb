// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/grouped_gate/grouped_gate.cpp"

#include "ops.h"

namespace moge {

namespace {

constexpr int64_t kTokensOfCore = kGateTokens;  // fewer are not worth a core

}  // namespace

void CheckGate(const char* op, const GroupedGateTiling& tiling, DType dtype) {
  if (tiling.G == 0 || tiling.E == 0 || tiling.E % tiling.G != 0) {
    throw std::invalid_argument(std::string(op) + ": G must divide E, both at least 1, got G=" +
                                std::to_string(tiling.G) + ", E=" + std::to_string(tiling.E));
  }
  CheckSize(op, "T", static_cast<int64_t>(tiling.T), kMaxElements / tiling.E);
  const uint64_t bytes = GateRowsBytes(tiling.E, tiling.G, uint64_t{tiling.G} * tiling.k,
                                       static_cast<uint32_t>(SizeOf(dtype)), tiling.score);
  if (tiling.E > INT16_MAX || bytes > kUbBytes) {
    throw std::invalid_argument(
        std::string(op) + ": E must be so small that a row of logits fits into " +
        std::to_string(kUbBytes) + " bytes of UB, got E=" + std::to_string(tiling.E) + " in " +
        std::to_string(tiling.G) + " groups, which take " + std::to_string(bytes));
  }
}

int64_t TokenCores(int64_t T) { return Blocks((T + kTokensOfCore - 1) / kTokensOfCore); }

void LaunchGroupedGateFwd(Pointer logits, Pointer bias, Pointer router_scale, Pointer given,
                          Pointer weights, Pointer experts, Pointer counts, Pointer workspace,
                          GroupedGateTiling tiling, DType dtype, Pointer stream) {
  const char* op = "grouped_gate_fwd";
  CheckGate(op, tiling, dtype);
  tiling.has_bias = bias != 0 ? 1 : 0;
  tiling.has_router_scale = router_scale != 0 ? 1 : 0;
  tiling.has_counts = 1;
  tiling.tile_tokens = 1;
  const int64_t T = tiling.T, E = tiling.E, K = int64_t{tiling.G} * tiling.k;
  const int64_t cores = TokenCores(T);
  const Launch launch{op,
                      cores,
                      stream,
                      {{"logits", logits, T * E, SizeOf(dtype), Access::kIn},
                       {"bias", bias, bias != 0 ? E : 0, 4, Access::kIn},
                       {"router_scale", router_scale, router_scale != 0 ? E : 0, 4, Access::kIn},
                       {"given", given, tiling.given ? T * K : 0, 4, Access::kIn},
                       {"weights", weights, T * K, 4, Access::kOut},
                       {"experts", experts, T * K, 4, Access::kOut},
                       {"counts", counts, E, 4, Access::kOut},
                       {"workspace", workspace, cores * E, 4, Access::kOut}},
                      Cores::kMixVector};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gate_fwd, Gm(logits), Gm(bias), Gm(router_scale),
                    Gm(given), Gm(weights), Gm(experts), Gm(counts), Gm(workspace), tiling);
}

void LaunchGroupedGateBwd(Pointer d_weights, Pointer logits, Pointer experts, Pointer router_scale,
                          Pointer d_logits, Pointer d_router_scale, Pointer workspace,
                          GroupedGateTiling tiling, DType dtype, Pointer stream) {
  const char* op = "grouped_gate_bwd";
  CheckGate(op, tiling, dtype);
  tiling.has_router_scale = router_scale != 0 ? 1 : 0;
  const int64_t T = tiling.T, E = tiling.E, K = int64_t{tiling.G} * tiling.k;
  const int64_t cores = TokenCores(T);
  const int64_t scales = router_scale != 0 ? E : 0;
  const Launch launch{op,
                      cores,
                      stream,
                      {{"d_weights", d_weights, T * K, 4, Access::kIn},
                       {"logits", logits, T * E, SizeOf(dtype), Access::kIn},
                       {"experts", experts, T * K, 4, Access::kIn},
                       {"router_scale", router_scale, scales, 4, Access::kIn},
                       {"d_logits", d_logits, T * E, SizeOf(dtype), Access::kOut},
                       {"d_router_scale", d_router_scale, scales, 4, Access::kOut},
                       {"workspace", workspace, cores * scales, 4, Access::kOut}},
                      Cores::kMixVector};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gate_bwd, Gm(d_weights), Gm(logits), Gm(experts),
                    Gm(router_scale), Gm(d_logits), Gm(d_router_scale), Gm(workspace), tiling);
}

}  // namespace moge
