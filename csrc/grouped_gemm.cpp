// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/grouped_gemm/grouped_gemm.cpp"

#include "grouped_gemm.h"

namespace moge {

namespace {

constexpr int64_t kMaxPitch = UINT16_MAX;  // of a copy's field, in elements

int64_t PitchOf(int64_t columns) {
  return static_cast<int64_t>(RoundUp(static_cast<uint32_t>(columns), kFractal));
}

// the last dimension of a weight as it is read: its own, or packed in whole fractals
int64_t WeightCount(const GemmShape& shape, bool packed, int64_t size) {
  if (!packed) return shape.E * shape.out * shape.in;
  const int64_t block = kBlockBytes / size;
  return shape.E * PitchOf(shape.out) * ((shape.in + block - 1) / block * block);
}

}  // namespace

void CheckGemm(const char* op, const GemmShape& shape) {
  CheckSize(op, "N", shape.N, INT32_MAX);  // offsets are int32
  CheckSize(op, "E", shape.E, INT32_MAX - 1);
  CheckSize(op, "in", shape.in, kMaxPitch);
  CheckSize(op, "out", shape.out, kMaxPitch);
  CheckSize(op, "E * out", shape.E * shape.out, kMaxElements / (shape.in + kFractal));
}

GroupedGemmTiling GemmTiling(const GemmShape& shape, int64_t rows, int64_t columns, int64_t depth) {
  GroupedGemmTiling tiling{};
  tiling.N = static_cast<uint64_t>(shape.N);
  tiling.E = static_cast<uint32_t>(shape.E);
  tiling.rows = static_cast<uint32_t>(rows);
  tiling.C = static_cast<uint32_t>(columns);
  tiling.R = static_cast<uint32_t>(depth);
  tiling.pitch = static_cast<uint32_t>(PitchOf(columns));
  return tiling;
}

int64_t GemmBlocks(int64_t rows, int64_t experts, int64_t columns, Cores cores) {
  return Blocks((rows / kTileM + experts + 1) * (PitchOf(columns) / kFractal), cores);
}

int64_t GemmPitch(int64_t columns) {
  CheckSize("grouped_gemm_pitch", "columns", columns, kMaxPitch);
  return PitchOf(columns);
}

void GroupedGemmForward(Pointer rows, Pointer weight, Pointer offsets, Pointer out,
                        const GemmShape& shape, bool packed, DType dtype, Pointer stream) {
  const char* op = packed ? "grouped_gemm_fwd_packed" : "grouped_gemm_fwd";
  CheckGemm(op, shape);
  if (shape.N == 0 || shape.out == 0) return;
  const int64_t size = SizeOf(dtype);
  const GroupedGemmTiling tiling = GemmTiling(shape, 0, shape.out, shape.in);
  const Launch launch{op,
                      GemmBlocks(shape.N, shape.E, shape.out, Cores::kCube),
                      stream,
                      {{"rows", rows, shape.N * shape.in, size, Access::kIn},
                       {"weight", weight, WeightCount(shape, packed, size), size, Access::kIn},
                       {"offsets", offsets, shape.E + 1, 4, Access::kIn},
                       {"out", out, shape.N * tiling.pitch, size, Access::kOut}},
                      Cores::kCube};
  if (packed) {
    MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_fwd_packed, Gm(rows), Gm(weight), Gm(offsets),
                      Gm(out), tiling);
  } else {
    MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_fwd, Gm(rows), Gm(weight), Gm(offsets), Gm(out),
                      tiling);
  }
}

void GroupedGemmDx(Pointer d_out, Pointer weight, Pointer offsets, Pointer d_rows,
                   const GemmShape& shape, DType dtype, Pointer stream) {
  const char* op = "grouped_gemm_dx";
  CheckGemm(op, shape);
  if (shape.N == 0 || shape.in == 0) return;
  const int64_t size = SizeOf(dtype);
  const GroupedGemmTiling tiling = GemmTiling(shape, 0, shape.in, shape.out);
  const Launch launch{op,
                      GemmBlocks(shape.N, shape.E, shape.in, Cores::kCube),
                      stream,
                      {{"d_out", d_out, shape.N * shape.out, size, Access::kIn},
                       {"weight", weight, WeightCount(shape, false, size), size, Access::kIn},
                       {"offsets", offsets, shape.E + 1, 4, Access::kIn},
                       {"d_rows", d_rows, shape.N * tiling.pitch, size, Access::kOut}},
                      Cores::kCube};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_dx, Gm(d_out), Gm(weight), Gm(offsets), Gm(d_rows),
                    tiling);
}

void GroupedGemmDw(Pointer d_out, Pointer rows, Pointer offsets, Pointer d_weight,
                   const GemmShape& shape, DType dtype, Pointer stream) {
  const char* op = "grouped_gemm_dw";
  CheckGemm(op, shape);
  if (shape.E == 0 || shape.out == 0 || shape.in == 0) return;
  const int64_t size = SizeOf(dtype);
  const GroupedGemmTiling tiling = GemmTiling(shape, shape.out, shape.in, 0);
  const Launch launch{
      op,
      GemmBlocks(shape.E * shape.out, shape.E, shape.in, Cores::kCube),
      stream,
      {{"d_out", d_out, shape.N * shape.out, size, Access::kIn},
       {"rows", rows, shape.N * shape.in, size, Access::kIn},
       {"offsets", offsets, shape.E + 1, 4, Access::kIn},
       {"d_weight", d_weight, shape.E * shape.out * tiling.pitch, size, Access::kOut}},
      Cores::kCube};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_dw, Gm(d_out), Gm(rows), Gm(offsets), Gm(d_weight),
                    tiling);
}

}  // namespace moge
