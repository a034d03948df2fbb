// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/grouped_gemm/grouped_gemm.cpp"

#include <algorithm>

#include "grouped_gemm.h"

namespace moge {

namespace {

constexpr int64_t kMaxPitch = UINT16_MAX;  // a copy holds a row's elements in 16 bits

int64_t PitchOf(int64_t columns) {
  return static_cast<int64_t>(RoundUp(static_cast<uint32_t>(columns), kFractal));
}

// y = x W', whichever way the weight lies: it has `weights` elements.
Launch FwdLaunch(const char* op, Pointer rows, Pointer weight, int64_t weights, Pointer offsets,
                 Pointer out, const GemmShape& shape, DType dtype, Pointer stream) {
  const int64_t size = SizeOf(dtype);
  return {op,
          GemmBlocks(shape.N, shape.E, shape.O, Cores::kCube),
          stream,
          {{"rows", rows, shape.N * shape.I, size, Access::kIn},
           {"weight", weight, weights, size, Access::kIn},
           {"offsets", offsets, shape.E + 1, 4, Access::kIn},
           {"out", out, shape.N * PitchOf(shape.O), size, Access::kOut}},
          Cores::kCube};
}

}  // namespace

void CheckGemm(const char* op, const GemmShape& shape) {
  CheckSize(op, "N", shape.N, INT32_MAX);  // offsets are int32
  CheckSize(op, "E", shape.E, INT32_MAX - 1);
  CheckSize(op, "I", shape.I, kMaxPitch);
  CheckSize(op, "O", shape.O, kMaxPitch);
  CheckSize(op, "E * O", shape.E * shape.O, kMaxElements / (shape.I + kFractal));
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

int64_t GroupedGemmPitch(int64_t columns) {
  CheckSize("grouped_gemm_pitch", "columns", columns, kMaxPitch);
  return PitchOf(columns);
}

int64_t GroupedGemmDxRoom(const GemmShape& shape, DType dtype) {
  CheckGemm("grouped_gemm_dx_room", shape);
  const bool packs = dtype != DType::kFloat32 && shape.N > kTileM;
  return packs ? std::min<int64_t>(kPackSlots, shape.E) * shape.O * PitchOf(shape.I) : 0;
}

int64_t GroupedGemmDwRoom(const GemmShape& shape, DType dtype) {
  CheckGemm("grouped_gemm_dw_room", shape);
  // boxes of rows that begin on lines are read fast enough as they are
  const bool packs = dtype != DType::kFloat32 && shape.I * SizeOf(dtype) % kLineBytes != 0;
  return packs ? shape.N * PitchOf(shape.I) : 0;
}

void LaunchGroupedGemmFwd(Pointer rows, Pointer weight, Pointer offsets, Pointer out,
                          const GemmShape& shape, DType dtype, Pointer stream) {
  const char* op = "grouped_gemm_fwd";
  CheckGemm(op, shape);
  if (shape.N == 0 || shape.O == 0) return;
  const GroupedGemmTiling tiling = GemmTiling(shape, 0, shape.O, shape.I);
  const Launch launch =
      FwdLaunch(op, rows, weight, shape.E * shape.O * shape.I, offsets, out, shape, dtype, stream);
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_fwd, Gm(rows), Gm(weight), Gm(offsets), Gm(out),
                    tiling);
}

void LaunchGroupedGemmPacked(Pointer rows, Pointer weight, Pointer offsets, Pointer out,
                             const GemmShape& shape, DType dtype, Pointer stream) {
  const char* op = "grouped_gemm_packed";
  CheckGemm(op, shape);
  if (shape.N == 0 || shape.O == 0) return;
  const GroupedGemmTiling tiling = GemmTiling(shape, 0, shape.O, shape.I);
  const int64_t c = kBlockBytes / SizeOf(dtype);
  const int64_t packed_I = CeilDiv(shape.I, c) * c;
  const Launch launch = FwdLaunch(op, rows, weight, shape.E * PitchOf(shape.O) * packed_I, offsets,
                                  out, shape, dtype, stream);
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_packed, Gm(rows), Gm(weight), Gm(offsets), Gm(out),
                    tiling);
}

void LaunchGroupedGemmDx(Pointer d_out, Pointer weight, Pointer offsets, Pointer packed,
                         Pointer d_rows, const GemmShape& shape, DType dtype, Pointer stream) {
  const char* op = "grouped_gemm_dx";
  CheckGemm(op, shape);
  if (shape.N == 0 || shape.I == 0) return;
  const int64_t size = SizeOf(dtype);
  GroupedGemmTiling tiling = GemmTiling(shape, 0, shape.I, shape.O);
  const int64_t room = packed != 0 ? GroupedGemmDxRoom(shape, dtype) : 0;
  tiling.slots = room != 0 ? kPackSlots : 0;
  const Launch launch{op,
                      GemmBlocks(shape.N, shape.E, shape.I, Cores::kMix),
                      stream,
                      {{"d_out", d_out, shape.N * shape.O, size, Access::kIn},
                       {"weight", weight, shape.E * shape.O * shape.I, size, Access::kIn},
                       {"offsets", offsets, shape.E + 1, 4, Access::kIn},
                       {"packed", packed, room, size, Access::kOut},
                       {"d_rows", d_rows, shape.N * tiling.pitch, size, Access::kOut}},
                      Cores::kMix};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_dx, Gm(d_out), Gm(weight), Gm(offsets), Gm(packed),
                    Gm(d_rows), tiling);
}

void LaunchGroupedGemmDw(Pointer d_out, Pointer rows, Pointer offsets, Pointer packed,
                         Pointer d_weight, const GemmShape& shape, DType dtype, Pointer stream) {
  const char* op = "grouped_gemm_dw";
  CheckGemm(op, shape);
  if (shape.E == 0 || shape.O == 0 || shape.I == 0) return;
  const int64_t size = SizeOf(dtype);
  GroupedGemmTiling tiling = GemmTiling(shape, shape.O, shape.I, 0);
  const int64_t room = packed != 0 ? GroupedGemmDwRoom(shape, dtype) : 0;
  tiling.slots = room != 0 ? kPackSlots : 0;
  const Launch launch{
      op,
      GemmBlocks(shape.E * shape.O, shape.E, shape.I, Cores::kMix),
      stream,
      {{"d_out", d_out, shape.N * shape.O, size, Access::kIn},
       {"rows", rows, shape.N * shape.I, size, Access::kIn},
       {"offsets", offsets, shape.E + 1, 4, Access::kIn},
       {"packed", packed, room, size, Access::kOut},
       {"d_weight", d_weight, shape.E * shape.O * tiling.pitch, size, Access::kOut}},
      Cores::kMix};
  MOGE_LAUNCH_DTYPE(launch, dtype, grouped_gemm_dw, Gm(d_out), Gm(rows), Gm(offsets), Gm(packed),
                    Gm(d_weight), tiling);
}

}  // namespace moge
