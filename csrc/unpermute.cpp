// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/unpermute/unpermute.cpp"

#include <algorithm>

#include "ops.h"

namespace moge {

namespace {

constexpr int64_t kLineBytes = 512;  // of a transfer at its best

// `columns`: of a row, at most; `parts`: of a row, at least.
UnpermuteTiling Tiling(int64_t T, int64_t H, int64_t K, bool weighted, int64_t columns,
                       int64_t parts) {
  UnpermuteTiling tiling{};
  tiling.T = static_cast<uint64_t>(T);
  tiling.H = static_cast<uint32_t>(H);
  tiling.K = static_cast<uint32_t>(K);
  tiling.tokens = static_cast<uint32_t>(kSlots / K);
  // the parts of a row are as equal as whole repeats allow, so that none is short
  const auto unit = static_cast<int64_t>(kPartials);
  const int64_t part = CeilDiv(H, std::max<int64_t>(parts, CeilDiv(H, columns)));
  tiling.columns = static_cast<uint32_t>(CeilDiv(part, unit) * unit);
  tiling.weighted = weighted ? 1 : 0;
  return tiling;
}

}  // namespace

void LaunchUnpermuteFwd(Pointer rows, Pointer slot_to_row, Pointer weights, Pointer y, int64_t T,
                        int64_t H, int64_t K, DType dtype, Pointer stream) {
  if (T == 0 || H == 0 || K == 0) return;
  const char* op = "unpermute_fwd";
  CheckRows(op, T, H, K, kSlots);
  // few tokens are shared out by parts of their rows; parts shorter than a line would be no faster
  const int64_t size = SizeOf(dtype);
  const int64_t most = CeilDiv(H, kLineBytes / size);
  const int64_t parts = std::min<int64_t>(most, Blocks(T * most) / T);
  const UnpermuteTiling tiling = Tiling(T, H, K, weights != 0, kUnpermuteColumns, parts);
  const Launch launch{op,
                      Blocks(T * CeilDiv(H, tiling.columns)),
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
  const char* op = "unpermute_bwd";
  CheckRows(op, T, H, K, kSlots);
  const UnpermuteTiling tiling = Tiling(T, H, K, true, kUnpermuteBwdColumns, 1);
  const int64_t size = SizeOf(dtype);
  const int64_t N = T * K;
  const Launch launch{op,
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

void LaunchTakeScalars(Pointer scalars, Pointer index, Pointer results, int64_t size, int64_t count,
                       Pointer stream) {
  const char* op = "take_scalars";
  CheckSize(op, "size", size, INT32_MAX);
  CheckSize(op, "count", count, INT32_MAX);
  if (count == 0) return;
  const TakeScalarsTiling tiling{static_cast<uint64_t>(size), static_cast<uint64_t>(count)};
  const Launch launch{op,
                      Blocks(CeilDiv(count, kPerRepeat<float>)),
                      stream,
                      {{"scalars", scalars, size, 4, Access::kIn},
                       {"index", index, count, 4, Access::kIn},
                       {"results", results, count, 4, Access::kOut}}};
  MOGE_LAUNCH(launch, take_scalars, Gm(scalars), Gm(index), Gm(results), tiling);
}

}  // namespace moge
