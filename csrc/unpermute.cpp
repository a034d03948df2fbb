// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/unpermute/unpermute.cpp"

#include <algorithm>

#include "ops.h"

namespace moge {

namespace {

UnpermuteTiling Tiling(const char* op, int64_t T, int64_t H, int64_t K, bool weighted,
                       int64_t columns) {
  CheckRows(op, T, H, K, kSlots);
  UnpermuteTiling tiling{};
  tiling.T = static_cast<uint64_t>(T);
  tiling.H = static_cast<uint32_t>(H);
  tiling.K = static_cast<uint32_t>(K);
  tiling.tokens = static_cast<uint32_t>(kSlots / K);
  // the parts of a row are as equal as whole repeats allow, so that none is short
  const int64_t parts = (H + columns - 1) / columns;
  const int64_t part = (H + parts - 1) / parts;
  tiling.columns = static_cast<uint32_t>((part + kPartials - 1) / kPartials * kPartials);
  tiling.weighted = weighted ? 1 : 0;
  return tiling;
}

}  // namespace

void LaunchUnpermuteFwd(Pointer rows, Pointer slot_to_row, Pointer weights, Pointer y, int64_t T,
                        int64_t H, int64_t K, DType dtype, Pointer stream) {
  if (T == 0 || H == 0 || K == 0) return;
  const UnpermuteTiling tiling = Tiling("unpermute_fwd", T, H, K, weights != 0, kUnpermuteColumns);
  const int64_t size = SizeOf(dtype);
  const Launch launch{"unpermute_fwd",
                      Blocks(T),
                      stream,
                      {{"rows", rows, T * K * H, size, Access::kIn},
                       {"slot_to_row", slot_to_row, T * K, 4, Access::kIn},
                       {"weights", weights, weights != 0 ? T * K : 0, 4, Access::kIn},
                       {"y", y, T * H, size, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, unpermute_fwd, Gm(rows), Gm(slot_to_row), Gm(weights), Gm(y),
                    tiling);
}

void LaunchUnpermuteBwd(Pointer d_y, Pointer rows, Pointer row_to_slot, Pointer slot_to_row,
                        Pointer weights, Pointer d_rows, Pointer d_weights, int64_t T, int64_t H,
                        int64_t K, DType dtype, Pointer stream) {
  if (T == 0 || H == 0 || K == 0) return;
  const UnpermuteTiling tiling = Tiling("unpermute_bwd", T, H, K, true, kUnpermuteBwdColumns);
  const int64_t size = SizeOf(dtype);
  const int64_t N = T * K;
  const Launch launch{"unpermute_bwd",
                      Blocks(T),
                      stream,
                      {{"d_y", d_y, T * H, size, Access::kIn},
                       {"rows", rows, N * H, size, Access::kIn},
                       {"row_to_slot", row_to_slot, N, 4, Access::kIn},
                       {"slot_to_row", slot_to_row, N, 4, Access::kIn},
                       {"weights", weights, N, 4, Access::kIn},
                       {"d_rows", d_rows, N * H, size, Access::kOut},
                       {"d_weights", d_weights, N, 4, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, unpermute_bwd, Gm(d_y), Gm(rows), Gm(row_to_slot),
                    Gm(slot_to_row), Gm(weights), Gm(d_rows), Gm(d_weights), tiling);
}

}  // namespace moge
