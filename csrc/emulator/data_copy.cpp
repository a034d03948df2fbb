// Transfers between global and local memory.
#include <algorithm>

#include "core.h"
#include "params.h"

namespace emulator {

namespace {

constexpr uint32_t kMaxBlockCount = 4095;
constexpr uint32_t kMaxBlockBytes = 2097151;

uint64_t Reach(const Rows& rows, uint64_t pitch) {
  return rows.rows == 0 ? 0 : (rows.rows - 1) * pitch + rows.bytes;
}

// dst += src, as the atomic unit in front of global memory does it
template <typename T>
void AddElements(uint8_t* dst, const uint8_t* src, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; i += sizeof(T)) {
    T sum;
    T term;
    std::memcpy(&sum, dst + i, sizeof(T));
    std::memcpy(&term, src + i, sizeof(T));
    if constexpr (std::is_integral_v<T>) {
      sum = static_cast<T>(sum + term);
    } else {
      sum = T(static_cast<float>(sum) + static_cast<float>(term));
    }
    std::memcpy(dst + i, &sum, sizeof(T));
  }
}

void AddRow(DType dtype, uint8_t* dst, const uint8_t* src, uint32_t bytes) {
  if (dtype == DType::kFloat) return AddElements<float>(dst, src, bytes);
  if (dtype == DType::kHalf) return AddElements<half>(dst, src, bytes);
  if (dtype == DType::kBfloat16) return AddElements<bfloat16_t>(dst, src, bytes);
  if (dtype == DType::kInt32) return AddElements<int32_t>(dst, src, bytes);
  if (dtype == DType::kInt16) return AddElements<int16_t>(dst, src, bytes);
  AddElements<int8_t>(dst, src, bytes);
}

}  // namespace

void Deliver(const Core& core, uint8_t* dst, const uint8_t* src, uint32_t bytes) {
  if (core.registers.atomic) {
    AddRow(*core.registers.atomic, dst, src, bytes);
  } else {
    std::memcpy(dst, src, bytes);
  }
}

uint32_t CopyBytes(DType dtype, uint32_t count) {
  const uint64_t bytes = uint64_t{count} * SizeOf(dtype);
  const auto whole = static_cast<uint32_t>(bytes / kBlockBytes * kBlockBytes);
  if (bytes == whole) return whole;
  CurrentCore().op = Op::kDataCopy;
  Report(Rule::kCopyCount,
         "count*sizeof(T) must be a multiple of 32 bytes, got count=%u of %s (%llu bytes)", count,
         Name(dtype), Number(bytes));
  return whole;
}

void CheckBlockCount(Op op, uint32_t block_count) {
  CurrentCore().op = op;
  CheckFields(CurrentCore());
  CheckRange("blockCount", block_count, 0, kMaxBlockCount);
}

void CheckPad(DType dtype, uint32_t block_bytes, uint32_t left, uint32_t right, uint64_t value) {
  CurrentCore().op = Op::kDataCopyPad;
  if (block_bytes > kMaxBlockBytes || block_bytes % SizeOf(dtype) != 0) {
    Report(Rule::kCopyLength, "blockLen is 0 to %u bytes, in whole elements of %s, got %u",
           kMaxBlockBytes, Name(dtype), block_bytes);
  }
  if (left > kBlockBytes || right > kBlockBytes) {
    Report(Rule::kCopyPadding, "paddings of %u and %u bytes; 32 is the most", left, right);
  }
  if (SizeOf(dtype) == 8 && value != 0) {
    Report(Rule::kCopyPadding, "the padding value of 64-bit types is 0");
  }
}

void CopyIn(Op op, DType dtype, const LocalRef& dst, const GlobalRef& src, const Rows& rows,
            const Padding* padding) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_MTE2);
  const Memory memory = MemoryOf(dst.position);
  if (memory != Memory::kUb && (memory != Memory::kL1 || padding != nullptr)) {
    Fail(Rule::kCopyPath, "from global memory into %s", Name(memory));
  }
  core.Move(memory == Memory::kL1 ? Path::kGmToL1 : Path::kGmToUb, src,
            {rows.rows, rows.bytes, rows.source_pitch});
  if (rows.rows == 0 || rows.bytes == 0) return;
  const uint32_t left = padding != nullptr ? padding->left : 0;
  const uint32_t right = padding != nullptr ? padding->right : 0;
  const uint32_t width = (left + rows.bytes + right + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  core.CheckGlobal(src, 0, Reach(rows, rows.source_pitch), SizeOf(dtype));
  const uint64_t reach = (rows.rows - 1) * rows.destination_pitch + width;
  const uint32_t begin = core.Check(dst, 0, reach, kBlockBytes);
  if (core.machine.options.counting && memory == Memory::kL1) return;
  core.lacks_data = core.IsBulk(src);
  const bool defined = padding == nullptr || padding->is_pad;
  uint8_t* to = core.Bytes(dst);
  for (uint32_t row = 0; row < rows.rows; ++row) {
    const uint64_t from = row * rows.source_pitch;
    const auto at = static_cast<uint32_t>(row * rows.destination_pitch);
    core.ReadGlobal(src, from, rows.bytes);
    const uint32_t filled = begin + at + left + rows.bytes + right;
    core.Write(memory, begin + at, filled);
    core.Write(memory, filled, begin + at + width, ByteState::kPoison);
    if (!defined) {
      core.Write(memory, begin + at, begin + at + left, ByteState::kPoison);
      core.Write(memory, filled - right, filled, ByteState::kPoison);
    }
    if (core.lacks_data) continue;
    uint8_t* out = to + at;
    std::memset(out, 0xff, width);
    std::memcpy(out + left, src.address + from, rows.bytes);
    for (uint32_t i = 0; defined && i < left + right; i += SizeOf(dtype)) {
      std::memcpy(out + (i < left ? i : rows.bytes + i), &padding->value, SizeOf(dtype));
    }
  }
}

void CopyOut(Op op, DType dtype, const GlobalRef& dst, const LocalRef& src, const Rows& rows) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_MTE3);
  const Memory memory = MemoryOf(src.position);
  if (memory != Memory::kUb && (memory != Memory::kL1 || op == Op::kDataCopyPad)) {
    Fail(Rule::kCopyPath, "from %s into global memory", Name(memory));
  }
  core.Move(memory == Memory::kL1 ? Path::kL1ToGm : Path::kUbToGm, dst,
            {rows.rows, rows.bytes, rows.destination_pitch});
  if (rows.rows == 0 || rows.bytes == 0) return;
  const uint32_t begin = core.Check(src, 0, Reach(rows, rows.source_pitch), kBlockBytes);
  core.CheckGlobal(dst, 0, Reach(rows, rows.destination_pitch), SizeOf(dtype));
  const bool counting = core.machine.options.counting;
  if (counting && core.IsBulk(dst)) return;
  if (counting && memory == Memory::kL1) core.FailVirtual();
  const uint8_t* from = core.Bytes(src);
  for (uint32_t row = 0; row < rows.rows; ++row) {
    const auto at = static_cast<uint32_t>(row * rows.source_pitch);
    const uint64_t to = row * rows.destination_pitch;
    core.Read(memory, begin + at, begin + at + rows.bytes);
    if (core.lacks_data) core.FailVirtual();
    core.WriteGlobal(dst, to, rows.bytes, core.registers.atomic.has_value());
    Deliver(core, dst.address + to, from + at, rows.bytes);
  }
}

void CopyLocal(DType dtype, const LocalRef& dst, const LocalRef& src, const Rows& rows) {
  Core& core = CurrentCore();
  const Memory memory = MemoryOf(dst.position);
  const bool to_bias = MemoryOf(src.position) == Memory::kL1 && memory == Memory::kBias;
  core.op = Op::kDataCopy;
  if (!to_bias && (memory != Memory::kUb || MemoryOf(src.position) != Memory::kUb)) {
    Fail(Rule::kCopyPath, "from %s into %s", Name(MemoryOf(src.position)), Name(memory));
  }
  core.Begin(Op::kDataCopy, to_bias ? PIPE_MTE1 : PIPE_V);
  core.Move(to_bias ? Path::kL1ToBias : Path::kUbToUb, rows.rows, rows.bytes);
  if (rows.rows == 0 || rows.bytes == 0) return;
  const uint32_t from = core.Check(src, 0, Reach(rows, rows.source_pitch), kBlockBytes);
  const uint32_t to =
      core.Check(dst, 0, Reach(rows, rows.destination_pitch), to_bias ? 64 : kBlockBytes);
  if (to_bias && core.machine.options.counting) return;
  const bool apart = to_bias || from + Reach(rows, rows.source_pitch) <= to ||
                     to + Reach(rows, rows.destination_pitch) <= from;
  if (!apart) {
    Report(Rule::kOverlap, "source at UB %u and destination at UB %u overlap (%s)", from, to,
           Name(dtype));
  }
  for (uint32_t row = 0; row < rows.rows; ++row) {
    const auto source = static_cast<uint32_t>(row * rows.source_pitch);
    const auto destination = static_cast<uint32_t>(row * rows.destination_pitch);
    core.Read(MemoryOf(src.position), from + source, from + source + rows.bytes);
    core.Write(memory, to + destination, to + destination + rows.bytes);
    if (core.lacks_data) continue;
    std::memcpy(core.Bytes(dst) + destination, core.Bytes(src) + source, rows.bytes);
  }
}

void CheckNdToNz(const AscendC::Nd2NzParams& params) {
  Core& core = CurrentCore();
  core.op = Op::kDataCopy;
  CheckFields(core);
  if (params.ndNum == 0 || params.nValue == 0 || params.dValue == 0) return;
  CheckRange("ndNum", params.ndNum, 0, kMaxBlockCount);
  CheckRange("nValue", params.nValue, 0, 16384);
  CheckRange("srcDValue", params.srcDValue, 1, 65535);
  CheckRange("dstNzC0Stride", params.dstNzC0Stride, 1, 16384);
  CheckRange("dstNzNStride", params.dstNzNStride, 1, 16384);
}

void CopyNdToNz(DType dtype, const LocalRef& dst, const GlobalRef& src, const NdToNz& shape) {
  Core& core = CurrentCore();
  core.Begin(Op::kDataCopy, PIPE_MTE2);
  const Memory memory = MemoryOf(dst.position);
  if (memory != Memory::kL1) {
    Fail(Rule::kCopyPath, "Nd2Nz from global memory into %s", Name(memory));
  }
  const uint64_t all_rows = uint64_t{shape.matrices} * shape.rows;
  core.Move(Path::kGmToL1, src, {all_rows, shape.row_bytes, shape.source_row, true});
  if (all_rows == 0 || shape.row_bytes == 0) return;
  const uint32_t columns = (shape.row_bytes + kBlockBytes - 1) / kBlockBytes;
  const auto last = [](uint64_t count, uint64_t stride) { return (count - 1) * stride; };
  core.CheckGlobal(src, 0,
                   last(shape.matrices, shape.source_matrix) + last(shape.rows, shape.source_row) +
                       shape.row_bytes,
                   SizeOf(dtype));
  const uint64_t height = last(shape.rows, shape.destination_row) + kBlockBytes;
  const uint64_t matrix = last(columns, shape.destination_column) + height;
  const uint64_t reach = last(shape.matrices, shape.destination_matrix) + matrix;
  const uint32_t begin = core.Check(dst, 0, reach, kBlockBytes);
  if (core.machine.options.counting) return;
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

}  // namespace emulator
