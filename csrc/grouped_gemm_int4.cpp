// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/grouped_gemm/grouped_gemm_int4.cpp"

#include "grouped_gemm.h"

namespace moge {

GemmShape PlanesOf(const char* op, const GemmShape& shape) {
  CheckGemm(op, shape);
  CheckEven(op, "I", shape.I);
  return {2 * shape.N, shape.E, shape.O, shape.I / 2};
}

namespace {

int64_t PlaneBlocks(const GemmShape& planes) {
  return GemmBlocks(planes.N, planes.E, planes.O, Cores::kMix);
}

}  // namespace

int64_t GroupedGemmInt4Ring(const GemmShape& shape) {
  return PlaneBlocks(PlanesOf("grouped_gemm_int4_ring", shape)) * SumRing<true>::kElements;
}

void LaunchGroupedGemmInt4(Pointer planes, Pointer row_scale, Pointer weight, Pointer scale,
                           Pointer offsets, Pointer ring, Pointer out, const GemmShape& shape,
                           DType dtype, Pointer stream) {
  const char* op = "grouped_gemm_int4";
  const GemmShape bytes = PlanesOf(op, shape);
  if (shape.N == 0 || shape.O == 0) return;
  const GroupedGemmTiling tiling = GemmTiling(bytes, 0, bytes.O, bytes.I);
  const Launch launch{op,
                      PlaneBlocks(bytes),
                      stream,
                      {{"planes", planes, bytes.N * bytes.I, 1, Access::kIn},
                       {"row_scale", row_scale, shape.N, 4, Access::kIn},
                       {"weight", weight, bytes.E * bytes.O * bytes.I, 1, Access::kIn},
                       {"scale", scale, shape.E * shape.O, 4, Access::kIn},
                       {"offsets", offsets, shape.E + 1, 4, Access::kIn},
                       {"ring", ring, GroupedGemmInt4Ring(shape), 4, Access::kOut},
                       {"out", out, shape.N * tiling.pitch, SizeOf(dtype), Access::kOut}},
                      Cores::kMix};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_int4, Gm(planes), Gm(row_scale), Gm(weight),
                    Gm(scale), Gm(offsets), Gm(ring), Gm(out), tiling);
}

}  // namespace moge
