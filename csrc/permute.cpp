// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/permute/permute.cpp"

#include <algorithm>

#include "quantize.h"

namespace moge {

void LaunchPermuteFwd(Pointer x, Pointer row_to_slot, Pointer slot_to_row, Pointer rows, int64_t T,
                      int64_t H, int64_t K, DType dtype, Pointer stream) {
  if (T == 0 || H == 0 || K == 0) return;
  CheckRows("permute_fwd", T, H, K, kSlots);
  const int64_t size = SizeOf(dtype);
  const int64_t per_block = kBlockBytes / size;
  PermuteTiling tiling{};
  tiling.T = static_cast<uint64_t>(T);
  tiling.H = static_cast<uint32_t>(H);
  tiling.K = static_cast<uint32_t>(K);
  tiling.tokens = static_cast<uint32_t>(kSlots / K);
  tiling.columns = static_cast<uint32_t>(std::min<int64_t>(H, kPermuteTileBytes / size));
  const int64_t pitch = (tiling.columns + per_block - 1) / per_block * per_block;
  // one transfer moves at most 4095 blocks
  tiling.rows = static_cast<uint32_t>(std::min<int64_t>(kPermuteTileBytes / size / pitch, 4095));
  const int64_t N = T * K;
  const Launch launch{"permute_fwd",
                      Blocks(T),
                      stream,
                      {{"x", x, T * H, size, Access::kIn},
                       {"row_to_slot", row_to_slot, N, 4, Access::kIn},
                       {"slot_to_row", slot_to_row, N, 4, Access::kIn},
                       {"rows", rows, N * H, size, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, permute_fwd, Gm(x), Gm(row_to_slot), Gm(slot_to_row), Gm(rows),
                    tiling);
}

void LaunchPermutePlanes(Pointer x, Pointer slot_to_row, Pointer planes, Pointer row_scale,
                         int64_t T, int64_t H, int64_t K, DType dtype, Pointer stream) {
  const char* op = "permute_planes";
  CheckEven(op, "H", H);
  if (T == 0 || H == 0 || K == 0) return;
  CheckRows(op, T, H, K, kSlots);
  const int64_t N = T * K, blocks = Blocks(N);
  PermuteQuantizedTiling tiling{QuantizePlanesTiling(op, T, H, dtype), static_cast<uint32_t>(K), 1};
  // with fewer tokens than cores, several of them share a token's slots
  tiling.parts = static_cast<uint32_t>(std::clamp<int64_t>(blocks / T, 1, K));
  if (tiling.parts > 1) tiling.x.rows = 1;
  const Launch launch{op,
                      blocks,
                      stream,
                      {{"x", x, T * H, SizeOf(dtype), Access::kIn},
                       {"slot_to_row", slot_to_row, N, 4, Access::kIn},
                       {"planes", planes, N * H, 1, Access::kOut},
                       {"row_scale", row_scale, N, 4, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, permute_planes, Gm(x), Gm(slot_to_row), Gm(planes),
                    Gm(row_scale), tiling);
}

}  // namespace moge
