// Transfers that change the layout: rows of matrices to columns of 32 bytes, and back.
#include <algorithm>

#include "core.h"
#include "params.h"

namespace emulator {

namespace {

uint64_t Last(uint64_t count, uint64_t stride) { return (count - 1) * stride; }

}  // namespace

void CheckNdToNz(const AscendC::Nd2NzParams& params, TPosition destination) {
  Core& core = Enter(Op::kDataCopy);
  CheckFields(core);
  if (params.ndNum == 0 || params.nValue == 0 || params.dValue == 0) return;
  CheckRange(limits::Nd2NzParams::ndNum, params.ndNum);
  CheckRange(limits::Nd2NzParams::nValue, params.nValue);
  CheckRange(limits::Nd2NzParams::srcDValue, params.srcDValue);
  CheckRange(limits::Nd2NzParams::dstNzC0Stride, params.dstNzC0Stride);
  CheckRange(limits::Nd2NzParams::dstNzNStride, params.dstNzNStride);
  if (MemoryOf(destination) == Memory::kL1) {
    CheckRange(limits::Nd2NzParams::dstNzMatrixStride, params.dstNzMatrixStride);
  }
}

void CopyNdToNz(const LocalRef& dst, const GlobalRef& src, const NdToNz& shape) {
  Core& core = Begin(Op::kDataCopy, PIPE_MTE2);
  const Memory memory = MemoryOf(dst.position);
  if (memory != Memory::kL1 && memory != Memory::kUb) {
    Fail(Rule::kCopyPath, "Nd2Nz from global memory into %s", Name(memory));
  }
  const uint64_t all_rows = uint64_t{shape.matrices} * shape.rows;
  core.Move(memory == Memory::kL1 ? Path::kGmToL1 : Path::kGmToUb, src,
            {all_rows, shape.row_bytes, shape.source_row, true});
  if (all_rows == 0 || shape.row_bytes == 0) return;
  const uint32_t columns = CeilDivide(shape.row_bytes, kBlockBytes);
  core.CheckGlobal(src, 0,
                   Last(shape.matrices, shape.source_matrix) + Last(shape.rows, shape.source_row) +
                       shape.row_bytes,
                   1);
  const uint64_t height = Last(shape.rows, shape.destination_row) + kBlockBytes;
  const uint64_t matrix = Last(columns, shape.destination_column) + height;
  const uint64_t reach = Last(shape.matrices, shape.destination_matrix) + matrix;
  const uint32_t begin = core.Check(dst, 0, reach, kBlockBytes);
  if (core.machine.options.counting && memory == Memory::kL1) return;
  core.lacks_data = core.IsBulk(src);
  // columns lie below each other or, where rows leave room, beside each other
  const bool rows_inside = columns == 1 || height <= shape.destination_column ||
                           columns * shape.destination_column <= shape.destination_row;
  const bool matrices_apart = shape.matrices == 1 || matrix <= shape.destination_matrix;
  std::vector<bool> taken;
  if (!rows_inside || !matrices_apart) taken.resize(reach / kBlockBytes + 1);
  uint8_t* to = core.Bytes(dst);
  for (uint32_t matrix_at = 0; matrix_at < shape.matrices; ++matrix_at) {
    for (uint32_t row = 0; row < shape.rows; ++row) {
      const uint64_t from = matrix_at * shape.source_matrix + row * shape.source_row;
      const uint64_t row_at = matrix_at * shape.destination_matrix + row * shape.destination_row;
      core.ReadGlobal(src, from, shape.row_bytes);
      for (uint32_t column = 0; column < columns; ++column) {
        const uint64_t at = row_at + column * shape.destination_column;
        if (!taken.empty()) {
          if (taken[at / kBlockBytes]) {
            Report(Rule::kNdToNzOverlap, "row %u, column block %u of matrix %u lands on another",
                   row, column, matrix_at);
          }
          taken[at / kBlockBytes] = true;
        }
        if (core.lacks_data) continue;
        const uint32_t done = column * kBlockBytes;
        const uint32_t bytes = std::min(kBlockBytes, shape.row_bytes - done);
        std::memcpy(to + at, src.address + from + done, bytes);
        std::memset(to + at + bytes, 0, kBlockBytes - bytes);
      }
    }
  }
  for (uint32_t matrix_at = 0; matrix_at < shape.matrices; ++matrix_at) {
    for (uint32_t column = 0; column < columns; ++column) {
      const auto at = static_cast<uint32_t>(begin + matrix_at * shape.destination_matrix +
                                            column * shape.destination_column);
      if (shape.destination_row == kBlockBytes) {
        core.Write(memory, at, at + shape.rows * kBlockBytes);
        continue;
      }
      for (uint32_t row = 0; row < shape.rows; ++row) {
        const auto row_at = static_cast<uint32_t>(at + row * shape.destination_row);
        core.Write(memory, row_at, row_at + kBlockBytes);
      }
    }
  }
}

void CheckNzToNd(const AscendC::Nz2NdParamsFull& params) {
  Core& core = Enter(Op::kDataCopy);
  CheckFields(core);
  CheckRange(limits::Nz2NdParamsFull::ndNum, params.ndNum);
  if (params.ndNum == 0) return;
  CheckRange(limits::Nz2NdParamsFull::nValue, params.nValue);
  CheckRange(limits::Nz2NdParamsFull::dValue, params.dValue);
  CheckRange(limits::Nz2NdParamsFull::srcNdMatrixStride, params.srcNdMatrixStride);
  CheckRange(limits::Nz2NdParamsFull::srcNStride, params.srcNStride);
  CheckRange(limits::Nz2NdParamsFull::dstDStride, params.dstDStride);
  CheckRange(limits::Nz2NdParamsFull::dstNdMatrixStride, params.dstNdMatrixStride);
  if (params.dValue % kSide != 0) {
    Report(Rule::kNzToNdColumns, "dValue is a multiple of 16, got %u", unsigned{params.dValue});
  }
}

void CopyNzToNd(DType dtype, const GlobalRef& dst, const LocalRef& src, const NzToNd& shape) {
  Core& core = Begin(Op::kDataCopy, PIPE_MTE3);
  const Memory memory = MemoryOf(src.position);
  if (memory != Memory::kUb) Fail(Rule::kCopyPath, "Nz2Nd from %s", Name(memory));
  const uint64_t all_rows = uint64_t{shape.matrices} * shape.rows;
  const uint32_t row_bytes = shape.columns * shape.column_bytes;
  core.Move(Path::kUbToGm, dst, {all_rows, row_bytes, shape.destination_row});
  if (all_rows == 0 || row_bytes == 0) return;
  const uint64_t reach = Last(shape.matrices, shape.source_matrix) +
                         Last(shape.columns, shape.source_column) +
                         uint64_t{shape.rows} * shape.column_bytes;
  const uint32_t begin = core.Check(src, 0, reach, kBlockBytes);
  core.CheckGlobal(dst, 0,
                   Last(shape.matrices, shape.destination_matrix) +
                       Last(shape.rows, shape.destination_row) + row_bytes,
                   SizeOf(dtype));
  if (core.machine.options.counting && core.IsBulk(dst)) return;
  const uint8_t* from = core.Bytes(src);
  for (uint32_t matrix = 0; matrix < shape.matrices; ++matrix) {
    for (uint32_t column = 0; column < shape.columns; ++column) {
      const auto column_at =
          static_cast<uint32_t>(matrix * shape.source_matrix + column * shape.source_column);
      core.Read(memory, begin + column_at, begin + column_at + shape.rows * shape.column_bytes);
      if (core.lacks_data) core.FailVirtual();
      for (uint32_t row = 0; row < shape.rows; ++row) {
        const uint64_t to = matrix * shape.destination_matrix + row * shape.destination_row +
                            uint64_t{column} * shape.column_bytes;
        core.WriteGlobal(dst, to, shape.column_bytes, core.registers.atomic.has_value());
        Deliver(core, dst.address + to, from + column_at + row * shape.column_bytes,
                shape.column_bytes);
      }
    }
  }
}

}  // namespace emulator
