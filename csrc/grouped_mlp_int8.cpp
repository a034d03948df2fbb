// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/grouped_mlp/grouped_mlp_int8.cpp"

#include <algorithm>

#include "grouped_mlp.h"
#include "quantize.h"

namespace moge {

int64_t GroupedMlpInt8Ring(const MlpShape& shape) {
  CheckMlp("grouped_mlp_int8_ring", shape);
  return MlpBlocks(shape) * SumRing<>::kElements;
}

void LaunchGroupedMlpInt8Fwd(Pointer x, Pointer gate_up, Pointer gate_up_scale, Pointer down,
                             Pointer down_scale, Pointer weights, Pointer slot_to_row,
                             Pointer offsets, Pointer rows, Pointer row_scale, Pointer ring,
                             Pointer pre, Pointer act, Pointer q, Pointer y, const MlpShape& shape,
                             DType dtype, Pointer stream) {
  const char* op = "grouped_mlp_int8_fwd";
  CheckMlp(op, shape);
  const auto [T, K, E, H, F] = shape;
  const int64_t N = T * K, size = SizeOf(dtype);
  if (N == 0 || H == 0 || F == 0) return;
  GroupedMlpInt8Tiling tiling{};
  tiling.layer = MlpTiling(shape);
  tiling.layer.save = pre != 0 ? 1 : 0;
  tiling.x = QuantizeRowsTiling(op, T, H, dtype);
  tiling.act = QuantizeRowsTiling(op, N, F, dtype);
  // with fewer tokens than vector cores, several of them share a token's slots
  const int64_t cores = 2 * MlpBlocks(shape);
  tiling.parts = static_cast<uint32_t>(std::clamp<int64_t>(cores / T, 1, K));
  if (tiling.parts > 1) tiling.x.rows = 1;
  const Launch launch{op,
                      MlpBlocks(shape),
                      stream,
                      {{"x", x, T * H, size, Access::kIn},
                       {"gate_up", gate_up, E * kHalves * F * H, 1, Access::kIn},
                       {"gate_up_scale", gate_up_scale, E * kHalves * F, 4, Access::kIn},
                       {"down", down, E * H * F, 1, Access::kIn},
                       {"down_scale", down_scale, E * H, 4, Access::kIn},
                       {"weights", weights, N, 4, Access::kIn},
                       {"slot_to_row", slot_to_row, N, 4, Access::kIn},
                       {"offsets", offsets, E + 1, 4, Access::kIn},
                       {"rows", rows, N * tiling.layer.rows.pitch, size, Access::kOut},
                       {"row_scale", row_scale, N, 4, Access::kOut},
                       {"ring", ring, GroupedMlpInt8Ring(shape), 4, Access::kOut},
                       {"pre", pre, pre != 0 ? kHalves * N * F : 0, size, Access::kOut},
                       {"act", act, N * F, size, Access::kOut},
                       {"q", q, N * F, 1, Access::kOut},
                       {"y", y, T * H, size, Access::kOut}},
                      Cores::kMix};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_mlp_int8_fwd, Gm(x), Gm(gate_up), Gm(gate_up_scale),
                    Gm(down), Gm(down_scale), Gm(weights), Gm(slot_to_row), Gm(offsets), Gm(rows),
                    Gm(row_scale), Gm(ring), Gm(pre), Gm(act), Gm(q), Gm(y), tiling);
}

}  // namespace moge
