// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/swiglu/swiglu.cpp"

#include <algorithm>

#include "ops.h"

namespace moge {

namespace {

constexpr int64_t kMaxColumns = int64_t{1} << 31;  // a field has 32 bits, and 2F must fit, too

SwigluTiling Tiling(const char* op, int64_t N, int64_t F, DType dtype, uint32_t tile) {
  CheckSize(op, "F", F, kMaxColumns - 1);
  CheckSize(op, "N", N, kMaxElements / (2 * F));
  const auto per_block = static_cast<int64_t>(kBlockBytes / SizeOf(dtype));
  SwigluTiling tiling{};
  tiling.N = static_cast<uint64_t>(N);
  tiling.F = static_cast<uint32_t>(F);
  tiling.columns = static_cast<uint32_t>(std::min<int64_t>(F, tile));
  const int64_t pitch = (tiling.columns + per_block - 1) / per_block * per_block;
  // one transfer moves at most 4095 blocks
  tiling.rows = static_cast<uint32_t>(std::min<int64_t>({tile / pitch, N, 4095}));
  return tiling;
}

int64_t Tiles(const SwigluTiling& tiling) {
  return static_cast<int64_t>(CeilDiv(tiling.N, tiling.rows) * CeilDiv(tiling.F, tiling.columns));
}

}  // namespace

void CheckActivation(const char* op, const ActivationTiling& activation) {
  CheckSize(op, "terms", activation.terms, kMostTerms);
}

void LaunchSwigluFwd(Pointer gate_up, Pointer act, int64_t N, int64_t F, DType dtype,
                     Pointer stream) {
  if (N == 0 || F == 0) return;
  const SwigluTiling tiling = Tiling("swiglu_fwd", N, F, dtype, kSwigluFwdTile);
  const int64_t size = SizeOf(dtype);
  const Launch launch{"swiglu_fwd",
                      Blocks(Tiles(tiling)),
                      stream,
                      {{"gate_up", gate_up, 2 * N * F, size, Access::kIn},
                       {"act", act, N * F, size, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, swiglu_fwd, Gm(gate_up), Gm(act), tiling);
}

void LaunchSwigluBwd(Pointer d_act, Pointer gate_up, Pointer d_gate_up, int64_t N, int64_t F,
                     DType dtype, Pointer stream) {
  if (N == 0 || F == 0) return;
  const SwigluTiling tiling = Tiling("swiglu_bwd", N, F, dtype, kSwigluBwdTile);
  const int64_t size = SizeOf(dtype);
  const Launch launch{"swiglu_bwd",
                      Blocks(Tiles(tiling)),
                      stream,
                      {{"d_act", d_act, N * F, size, Access::kIn},
                       {"gate_up", gate_up, 2 * N * F, size, Access::kIn},
                       {"d_gate_up", d_gate_up, 2 * N * F, size, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, swiglu_bwd, Gm(d_act), Gm(gate_up), Gm(d_gate_up), tiling);
}

void LaunchActivationFwd(Pointer pre, Pointer bias, Pointer series, Pointer act, int64_t N,
                         int64_t F, const ActivationTiling& activation, DType dtype,
                         Pointer stream) {
  const char* op = "activation_fwd";
  CheckActivation(op, activation);
  if (N == 0 || F == 0) return;
  const SwigluTiling tiling = Tiling(op, N, F, dtype, kActivationTile);
  const int64_t size = SizeOf(dtype), O = (activation.gated != 0 ? 2 : 1) * F;
  const Launch launch{op,
                      Blocks(Tiles(tiling)),
                      stream,
                      {{"pre", pre, N * O, size, bias != 0 ? Access::kInOut : Access::kIn},
                       {"bias", bias, bias != 0 ? N * O : 0, size, Access::kIn},
                       {"series", series, 2 * int64_t{activation.terms}, 4, Access::kIn},
                       {"act", act, N * F, size, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, activation_fwd, Gm(pre), Gm(bias), Gm(series), Gm(act), tiling,
                    activation);
}

}  // namespace moge
