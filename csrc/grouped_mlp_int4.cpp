// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/grouped_mlp/grouped_mlp_int4.cpp"

#include "grouped_gemm.h"

namespace moge {

namespace {

int64_t UpBlocks(const GemmShape& bytes) {
  return GemmBlocks(bytes.N, bytes.E, bytes.O / 2, Cores::kMix);
}

}  // namespace

int64_t GroupedMlpInt4Ring(const GemmShape& shape) {
  return UpBlocks(PlanesOf("grouped_mlp_int4_ring", shape)) * SumRing<true>::kElements;
}

void LaunchGroupedMlpUpInt4(Pointer planes, Pointer row_scale, Pointer weight, Pointer scale,
                            Pointer offsets, Pointer ring, Pointer pre, Pointer act,
                            const GemmShape& shape, DType dtype, Pointer stream) {
  const char* op = "grouped_mlp_up_int4";
  const GemmShape bytes = PlanesOf(op, shape);
  if (shape.N == 0 || shape.O == 0) return;
  const int64_t size = SizeOf(dtype), N = shape.N, F = shape.O / 2;
  const GroupedGemmTiling tiling = GemmTiling(bytes, 0, F, bytes.I);
  const Launch launch{op,
                      UpBlocks(bytes),
                      stream,
                      {{"planes", planes, bytes.N * bytes.I, 1, Access::kIn},
                       {"row_scale", row_scale, N, 4, Access::kIn},
                       {"weight", weight, bytes.E * bytes.O * bytes.I, 1, Access::kIn},
                       {"scale", scale, shape.E * shape.O, 4, Access::kIn},
                       {"offsets", offsets, shape.E + 1, 4, Access::kIn},
                       {"ring", ring, GroupedMlpInt4Ring(shape), 4, Access::kOut},
                       {"pre", pre, pre != 0 ? N * shape.O : 0, size, Access::kOut},
                       {"act", act, N * F, size, Access::kOut}},
                      Cores::kMix};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_mlp_up_int4, Gm(planes), Gm(row_scale), Gm(weight),
                    Gm(scale), Gm(offsets), Gm(ring), Gm(pre), Gm(act), tiling);
}

}  // namespace moge
