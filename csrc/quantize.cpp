// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/quantize/quantize.cpp"

#include <algorithm>

#include "quantize.h"

namespace moge {

namespace {

// Several rows are in a tile where they are whole and their integers fill whole blocks of UB, which
// are `block` of them.
QuantizeTiling Tiling(const char* op, int64_t N, int64_t I, uint32_t tile, uint32_t rows,
                      uint32_t block = kBlockBytes) {
  CheckSize(op, "N", N, INT32_MAX);
  CheckSize(op, "I", I, INT32_MAX);
  QuantizeTiling tiling{};
  tiling.N = static_cast<uint64_t>(N);
  tiling.I = static_cast<uint32_t>(I);
  tiling.columns = std::min(tiling.I, tile);
  tiling.rows = 1;
  if (I != 0 && tiling.I % block == 0) {
    tiling.rows = std::clamp(tile / tiling.columns, uint32_t{1}, rows);
  }
  return tiling;
}
uint32_t QuantizeTile(DType dtype) {
  return dtype == DType::kFloat32 ? kQuantizeTile<float> : kQuantizeTile<half>;
}

}  // namespace

QuantizeTiling QuantizeRowsTiling(const char* op, int64_t N, int64_t I, DType dtype) {
  return Tiling(op, N, I, QuantizeTile(dtype), kQuantizeRows);
}

QuantizeTiling QuantizePlanesTiling(const char* op, int64_t N, int64_t I, DType dtype) {
  CheckEven(op, "I", I);
  return Tiling(op, N, I, QuantizeTile(dtype), kQuantizeRows, 2 * kBlockBytes);
}

void LaunchQuantizeRows(Pointer rows, Pointer q, Pointer scale, int64_t N, int64_t I, DType dtype,
                        Pointer stream) {
  const QuantizeTiling tiling = QuantizeRowsTiling("quantize_rows", N, I, dtype);
  if (N == 0 || I == 0) return;
  const Launch launch{"quantize_rows",
                      Blocks(N),
                      stream,
                      {{"rows", rows, N * I, SizeOf(dtype), Access::kIn},
                       {"q", q, N * I, 1, Access::kOut},
                       {"scale", scale, N, 4, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, quantize_rows, Gm(rows), Gm(q), Gm(scale), tiling);
}

void LaunchQuantizePlanes(Pointer rows, Pointer planes, Pointer scale, int64_t N, int64_t I,
                          DType dtype, Pointer stream) {
  const char* op = "quantize_planes";
  const QuantizeTiling tiling = QuantizePlanesTiling(op, N, I, dtype);
  if (N == 0 || I == 0) return;
  const Launch launch{op,
                      Blocks(N),
                      stream,
                      {{"rows", rows, N * I, SizeOf(dtype), Access::kIn},
                       {"planes", planes, N * I, 1, Access::kOut},
                       {"scale", scale, N, 4, Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, quantize_planes, Gm(rows), Gm(planes), Gm(scale), tiling);
}

void LaunchDecodeWeight(Pointer data, Pointer scale, Pointer weight, int64_t N, int64_t I,
                        DType dtype, Pointer stream) {
  const QuantizeTiling tiling = Tiling("decode_weight", N, I, kDecodeTile, kDecodeRows);
  if (N == 0 || I == 0) return;
  const Launch launch{"decode_weight",
                      Blocks(N),
                      stream,
                      {{"data", data, N * I, 1, Access::kIn},
                       {"scale", scale, N, 4, Access::kIn},
                       {"weight", weight, N * I, SizeOf(dtype), Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, decode_weight, Gm(data), Gm(scale), Gm(weight), tiling);
}

void LaunchUnpackInt4(Pointer packed, Pointer data, int64_t bytes, Pointer stream) {
  CheckSize("unpack_int4", "bytes", bytes, kMaxElements);
  if (bytes == 0) return;
  const Launch launch{
      "unpack_int4",
      Blocks(CeilDiv(bytes, kUnpackLine)),
      stream,
      {{"packed", packed, bytes, 1, Access::kIn}, {"data", data, 2 * bytes, 1, Access::kOut}}};
  MOGE_LAUNCH(launch, unpack_int4, Gm(packed), Gm(data), static_cast<uint64_t>(bytes));
}

}  // namespace moge
