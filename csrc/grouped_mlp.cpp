// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/grouped_mlp/grouped_mlp.cpp"

#include <algorithm>

#include "grouped_gemm.h"
#include "grouped_mlp.h"

namespace moge {

namespace {

GemmShape UpShape(const MlpShape& shape) {
  return {shape.T * shape.K, shape.E, kHalves * shape.F, shape.H};
}
GemmShape DownShape(const MlpShape& shape) {
  return {shape.T * shape.K, shape.E, shape.H, shape.F};
}

// With fewer tokens than vector cores, several of them share a token's row.
RowsTiling TileRows(const MlpShape& shape) {
  const int64_t T = shape.T, H = shape.H, cores = 2 * MlpBlocks(shape);
  const int64_t least = CeilDiv(H, kMlpColumns);
  const int64_t parts = std::max<int64_t>(least, cores / T);
  RowsTiling tiling{};
  tiling.T = static_cast<uint64_t>(T);
  tiling.H = static_cast<uint32_t>(H);
  tiling.K = static_cast<uint32_t>(shape.K);
  tiling.pitch = static_cast<uint32_t>(GroupedGemmPitch(H));
  tiling.columns = RoundUp(static_cast<uint32_t>(CeilDiv(H, parts)), kMlpMinColumns);
  tiling.parts = static_cast<uint32_t>(CeilDiv(H, tiling.columns));
  return tiling;
}

}  // namespace

void CheckMlp(const char* op, const MlpShape& shape) {
  CheckRows(op, shape.T, shape.H, shape.K, kSlots);
  CheckSize(op, "F", shape.F, UINT16_MAX / kHalves);
  CheckGemm(op, UpShape(shape));
  CheckGemm(op, DownShape(shape));
}

int64_t MlpBlocks(const MlpShape& shape) {
  const int64_t N = shape.T * shape.K;
  const int64_t products = GemmBlocks(N, shape.E, std::max(shape.F, shape.H), Cores::kMix);
  return std::max(products, Blocks(CeilDiv(shape.T, 2), Cores::kMix));
}

GroupedMlpTiling MlpTiling(const MlpShape& shape) {
  GroupedMlpTiling tiling{};
  tiling.up = GemmTiling(UpShape(shape), 0, shape.F, shape.H);
  tiling.down = GemmTiling(DownShape(shape), 0, shape.H, shape.F);
  tiling.rows = TileRows(shape);
  return tiling;
}

int64_t GroupedMlpRing(const MlpShape& shape) {
  CheckMlp("grouped_mlp_ring", shape);
  return MlpBlocks(shape) * UpRing<float>::kElements;
}

void LaunchGroupedMlpFwd(Pointer x, Pointer gate_up, Pointer down, Pointer weights,
                         Pointer slot_to_row, Pointer offsets, Pointer rows, Pointer row_weights,
                         Pointer ring, Pointer pre, Pointer act, Pointer y, const MlpShape& shape,
                         DType dtype, Pointer stream) {
  const char* op = "grouped_mlp_fwd";
  CheckMlp(op, shape);
  const auto [T, K, E, H, F] = shape;
  const int64_t N = T * K, size = SizeOf(dtype);
  if (N == 0 || H == 0 || F == 0) return;
  GroupedMlpTiling tiling = MlpTiling(shape);
  tiling.early = row_weights != 0 ? 1 : 0;
  tiling.save = pre != 0 ? 1 : 0;
  const Launch launch{op,
                      MlpBlocks(shape),
                      stream,
                      {{"x", x, T * H, size, Access::kIn},
                       {"gate_up", gate_up, E * kHalves * F * H, size, Access::kIn},
                       {"down", down, E * H * F, size, Access::kIn},
                       {"weights", weights, N, 4, Access::kIn},
                       {"slot_to_row", slot_to_row, N, 4, Access::kIn},
                       {"offsets", offsets, E + 1, 4, Access::kIn},
                       {"rows", rows, N * tiling.rows.pitch, size, Access::kOut},
                       {"row_weights", row_weights, row_weights != 0 ? N : 0, 4, Access::kOut},
                       {"ring", ring, GroupedMlpRing(shape), size, Access::kOut},
                       {"pre", pre, pre != 0 ? kHalves * N * F : 0, size, Access::kOut},
                       {"act", act, N * F, size, Access::kOut},
                       {"y", y, T * H, size, Access::kOut}},
                      Cores::kMix};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_mlp_fwd, Gm(x), Gm(gate_up), Gm(down), Gm(weights),
                    Gm(slot_to_row), Gm(offsets), Gm(rows), Gm(row_weights), Gm(ring), Gm(pre),
                    Gm(act), Gm(y), tiling);
}

void LaunchGroupedMlpActBwd(Pointer g, Pointer pre, Pointer row_weights, Pointer d_pre, Pointer act,
                            Pointer d_row_weights, int64_t N, int64_t F, DType dtype,
                            Pointer stream) {
  const char* op = "grouped_mlp_act_bwd";
  CheckSize(op, "N", N, INT32_MAX);
  CheckSize(op, "F", F, UINT16_MAX);
  if (N == 0 || F == 0) return;
  const int64_t size = SizeOf(dtype), per_block = kBlockBytes / size;
  SwigluTiling tiling{};
  tiling.N = static_cast<uint64_t>(N);
  tiling.F = static_cast<uint32_t>(F);
  tiling.columns = static_cast<uint32_t>(std::min<int64_t>(F, kMlpActBwdTile));
  tiling.rows = kMlpActBwdTile / RoundUp(tiling.columns, static_cast<uint32_t>(per_block));
  const Launch launch{op,
                      Blocks(N),
                      stream,
                      {{"g", g, N * F, size, Access::kIn},
                       {"pre", pre, 2 * N * F, size, Access::kIn},
                       {"row_weights", row_weights, N, 4, Access::kIn},
                       {"d_pre", d_pre, 2 * N * F, size, Access::kOut},
                       {"act", act, N * F, size, Access::kOut},
                       {"d_row_weights", d_row_weights, N, 4, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_mlp_act_bwd, Gm(g), Gm(pre), Gm(row_weights), Gm(d_pre),
                    Gm(act), Gm(d_row_weights), tiling);
}

}  // namespace moge
