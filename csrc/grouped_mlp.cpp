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

// Of the first product.
int64_t Columns(const ActivationTiling& activation, int64_t F) {
  return activation.gated != 0 ? kHalves * F : F;
}

}  // namespace

void Choose(GroupedMlpTiling& tiling, const ActivationTiling& activation, bool biased) {
  tiling.activation = activation;
  tiling.chosen = biased || !IsSwiglu(activation) ? 1 : 0;
  if (activation.gated == 0 || activation.interleaved != 0) {
    tiling.up.beside = static_cast<uint32_t>(Columns(activation, tiling.down.R));
    tiling.up.C = static_cast<uint32_t>(CeilDiv(tiling.up.beside, kHalves));
  }
}

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
                         Pointer slot_to_row, Pointer offsets, Pointer b_gate_up, Pointer b_down,
                         Pointer series, Pointer rows, Pointer row_weights, Pointer ring,
                         Pointer pre, Pointer act, Pointer y, const MlpShape& shape,
                         const ActivationTiling& activation, DType dtype, Pointer stream) {
  const char* op = "grouped_mlp_fwd";
  CheckMlp(op, shape);
  CheckActivation(op, activation);
  const auto [T, K, E, H, F] = shape;
  const int64_t N = T * K, size = SizeOf(dtype);
  if (N == 0 || H == 0 || F == 0) return;
  GroupedMlpTiling tiling = MlpTiling(shape);
  tiling.early = row_weights != 0 ? 1 : 0;
  tiling.save = pre != 0 ? 1 : 0;
  Choose(tiling, activation, b_gate_up != 0);
  const int64_t O = Columns(activation, F);
  const Launch launch{
      op,
      MlpBlocks(shape),
      stream,
      {{"x", x, T * H, size, Access::kIn},
       {"gate_up", gate_up, E * O * H, size, Access::kIn},
       {"down", down, E * H * F, size, Access::kIn},
       {"weights", weights, N, 4, Access::kIn},
       {"slot_to_row", slot_to_row, N, 4, Access::kIn},
       {"offsets", offsets, E + 1, 4, Access::kIn},
       {"b_gate_up", b_gate_up, b_gate_up != 0 ? E * O : 0, size, Access::kIn},
       {"b_down", b_down, b_down != 0 ? E * H : 0, size, Access::kIn},
       {"series", series, 2 * int64_t{activation.terms}, 4, Access::kIn},
       {"rows", rows, N * tiling.rows.pitch, size, Access::kOut},
       {"row_weights", row_weights, row_weights != 0 ? N : 0, 4, Access::kOut},
       {"ring", ring, GroupedMlpRing(shape), tiling.chosen != 0 ? 4 : size, Access::kOut},
       {"pre", pre, pre != 0 ? N * O : 0, size, Access::kOut},
       {"act", act, N * F, size, Access::kOut},
       {"y", y, T * H, size, Access::kOut}},
      Cores::kMix};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_mlp_fwd, Gm(x), Gm(gate_up), Gm(down), Gm(weights),
                    Gm(slot_to_row), Gm(offsets), Gm(b_gate_up), Gm(b_down), Gm(series), Gm(rows),
                    Gm(row_weights), Gm(ring), Gm(pre), Gm(act), Gm(y), tiling);
}

int64_t GroupedMlpActBwdCores(int64_t N) {
  CheckSize("grouped_mlp_act_bwd_cores", "N", N, INT32_MAX);
  return Blocks(N);
}

void LaunchGroupedMlpActBwd(Pointer g, Pointer pre, Pointer row_weights, Pointer more,
                            Pointer series, Pointer d_pre, Pointer act, Pointer d_row_weights,
                            Pointer d_series, int64_t N, int64_t F,
                            const ActivationTiling& activation, DType dtype, Pointer stream) {
  const char* op = "grouped_mlp_act_bwd";
  CheckSize(op, "N", N, INT32_MAX);
  CheckSize(op, "F", F, UINT16_MAX);
  CheckActivation(op, activation);
  if (N == 0 || F == 0) return;
  const int64_t size = SizeOf(dtype), O = Columns(activation, F);
  const auto per_block = static_cast<uint32_t>(kBlockBytes / size);
  const uint32_t tile = IsSwiglu(activation) ? kMlpActBwdTile : kMlpChoiceBwdTile;
  GroupedMlpActBwdTiling tiling{};
  tiling.activation = activation;
  tiling.tiles.N = static_cast<uint64_t>(N);
  tiling.tiles.F = static_cast<uint32_t>(F);
  tiling.tiles.columns = static_cast<uint32_t>(std::min<int64_t>(F, tile));
  tiling.tiles.rows = tile / RoundUp(tiling.tiles.columns, per_block);
  const Launch launch{
      op,
      Blocks(N),
      stream,
      {{"g", g, N * F, size, Access::kIn},
       {"pre", pre, N * O, size, Access::kIn},
       {"row_weights", row_weights, N, 4, Access::kIn},
       {"more", more, more != 0 ? N : 0, 4, Access::kIn},
       {"series", series, 2 * int64_t{activation.terms}, 4, Access::kIn},
       {"d_pre", d_pre, N * O, size, Access::kOut},
       {"act", act, N * F, size, Access::kOut},
       {"d_row_weights", d_row_weights, N, 4, Access::kOut},
       {"d_series", d_series, d_series != 0 ? Blocks(N) * kMlpSeriesSums : 0, 4, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_mlp_act_bwd, Gm(g), Gm(pre), Gm(row_weights), Gm(more),
                    Gm(series), Gm(d_pre), Gm(act), Gm(d_row_weights), Gm(d_series), tiling);
}

}  // namespace moge
