// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/grouped_mlp/grouped_mlp.cpp"

#include <algorithm>

#include "grouped_gemm.h"

namespace moge {

namespace {

int64_t UpBlocks(const GemmShape& shape) {
  return GemmBlocks(shape.N, shape.E, shape.O / kHalves, Cores::kMix);
}

}  // namespace

int64_t GroupedMlpRing(const GemmShape& shape) {
  CheckGemm("grouped_mlp_ring", shape);
  return UpBlocks(shape) * kRingSlots * kSlotElements;
}

void LaunchGroupedMlpUp(Pointer rows, Pointer weight, Pointer offsets, Pointer row_weights,
                        Pointer ring, Pointer pre, Pointer act, const GemmShape& shape, DType dtype,
                        Pointer stream) {
  const char* op = "grouped_mlp_up";
  CheckGemm(op, shape);
  if (shape.N == 0 || shape.O == 0) return;
  const int64_t size = SizeOf(dtype), N = shape.N, F = shape.O / kHalves;
  GroupedMlpTiling tiling{};
  tiling.product = GemmTiling(shape, 0, F, shape.I);
  tiling.weighted = row_weights != 0 ? 1 : 0;
  tiling.save = pre != 0 ? 1 : 0;
  const Launch launch{op,
                      UpBlocks(shape),
                      stream,
                      {{"rows", rows, N * shape.I, size, Access::kIn},
                       {"weight", weight, shape.E * shape.O * shape.I, size, Access::kIn},
                       {"offsets", offsets, shape.E + 1, 4, Access::kIn},
                       {"row_weights", row_weights, row_weights != 0 ? N : 0, 4, Access::kIn},
                       {"ring", ring, GroupedMlpRing(shape), size, Access::kOut},
                       {"pre", pre, pre != 0 ? N * shape.O : 0, size, Access::kOut},
                       {"act", act, N * F, size, Access::kOut}},
                      Cores::kMix};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_mlp_up, Gm(rows), Gm(weight), Gm(offsets),
                    Gm(row_weights), Gm(ring), Gm(pre), Gm(act), tiling);
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
