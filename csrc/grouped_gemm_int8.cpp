// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/grouped_gemm/grouped_gemm_int8.cpp"

#include "grouped_gemm.h"

namespace moge {

int64_t GroupedGemmInt8Ring(const GemmShape& shape) {
  CheckGemm("grouped_gemm_int8_ring", shape);
  return GemmBlocks(shape.N, shape.E, shape.O, Cores::kMix) * SumRing<>::kElements;
}

void LaunchGroupedGemmInt8(Pointer rows, Pointer row_scale, Pointer weight, Pointer scale,
                           Pointer offsets, Pointer ring, Pointer out, const GemmShape& shape,
                           DType dtype, Pointer stream) {
  const char* op = "grouped_gemm_int8";
  CheckGemm(op, shape);
  if (shape.N == 0 || shape.O == 0) return;
  const GroupedGemmTiling tiling = GemmTiling(shape, 0, shape.O, shape.I);
  const Launch launch{op,
                      GemmBlocks(shape.N, shape.E, shape.O, Cores::kMix),
                      stream,
                      {{"rows", rows, shape.N * shape.I, 1, Access::kIn},
                       {"row_scale", row_scale, shape.N, 4, Access::kIn},
                       {"weight", weight, shape.E * shape.O * shape.I, 1, Access::kIn},
                       {"scale", scale, shape.E * shape.O, 4, Access::kIn},
                       {"offsets", offsets, shape.E + 1, 4, Access::kIn},
                       {"ring", ring, GroupedGemmInt8Ring(shape), 4, Access::kOut},
                       {"out", out, shape.N * tiling.pitch, SizeOf(dtype), Access::kOut}},
                      Cores::kMix};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_int8, Gm(rows), Gm(row_scale), Gm(weight),
                    Gm(scale), Gm(offsets), Gm(ring), Gm(out), tiling);
}

}  // namespace moge
