// Transfers between global and local memory.
#include <algorithm>

#include "core.h"

namespace emulator {

void Advise(const GlobalRef& ref, const Traffic& traffic) {
  const Core& core = CurrentCore();
  if (ref.allocation < 0) return;
  constexpr uint32_t kLarge = 16384;
  constexpr uint32_t kWanted = 512;
  if (traffic.bytes < kLarge) {
    Report(Rule::kAdviceTransfer, "%llu bytes at a time: %u and more use the bandwidth",
           Number(traffic.bytes), kLarge);
  }
  const auto offset =
      static_cast<uint64_t>(ref.address - core.machine.globals[ref.allocation].begin());
  if (offset % kWanted != 0) {
    Report(Rule::kAdviceGmAlignment, "byte %llu of '%s', which %u does not divide", Number(offset),
           core.machine.globals[ref.allocation].name(), kWanted);
  }
}

void SetPad(DType dtype, uint64_t value) {
  Core& core = Begin(Op::kSetPadValue, PIPE_S);
  core.registers.pad_value = value;
  core.registers.pad_bytes = SizeOf(dtype);
}

uint32_t CopyBytes(DType dtype, uint32_t count) {
  const uint64_t bytes = BytesOf(dtype, count);
  const auto whole = static_cast<uint32_t>(bytes / kBlockBytes * kBlockBytes);
  if (bytes == whole) return whole;
  Enter(Op::kDataCopy);
  Report(Rule::kCopyCount,
         "count*sizeof(T) must be a multiple of 32 bytes, got count=%u of %s (%llu bytes)", count,
         Name(dtype), Number(bytes));
  return whole;
}

void CheckBlockCount(Op op, uint32_t block_count) {
  CheckFields(Enter(op));
  CheckRange(limits::DataCopyParams::blockCount, block_count);
}

void CheckPad(DType dtype, uint32_t block_bytes, const Padding& padding) {
  const auto& [is_pad, left, right, value] = padding;
  Enter(Op::kDataCopyPad);
  constexpr Limit kLength = limits::DataCopyExtParams::blockLen;
  if (!kLength.Allows(block_bytes) || block_bytes % SizeOf(dtype) != 0) {
    Report(Rule::kCopyLength, "blockLen is 0 to %lld bytes, in whole elements of %s, got %u",
           static_cast<long long>(kLength.most), Name(dtype), block_bytes);
  }
  if (left > kBlockBytes || right > kBlockBytes) {
    Report(Rule::kCopyPadding, "paddings of %u and %u bytes; 32 is the most", left, right);
  }
  const Registers& registers = CurrentCore().registers;
  if (left + right != 0 && !is_pad && registers.pad_value && registers.pad_bytes != SizeOf(dtype)) {
    Report(Rule::kCopyPadding, "SetPadValue was given %u bytes, an element has %u",
           registers.pad_bytes, SizeOf(dtype));
  }
  if (SizeOf(dtype) == 8 && value != 0) {
    Report(Rule::kCopyPadding, "the padding value of 64-bit types is 0");
  }
}

namespace {

// The bytes around a row in local memory: what they hold, or null where that is undefined.
const void* Filling(const Core& core, const Padding& padding, const uint8_t* row) {
  if (padding.left + padding.right == 0) return row;  // its first element again
  if (padding.is_pad) return &padding.value;
  if (core.registers.pad_value) return &*core.registers.pad_value;
  return nullptr;
}

}  // namespace

void CopyIn(Op op, DType dtype, const LocalRef& dst, const GlobalRef& src, const Rows& rows,
            const Padding* padding) {
  Core& core = Begin(op, PIPE_MTE2);
  const Memory memory = MemoryOf(dst.position);
  if (memory != Memory::kUb && (memory != Memory::kL1 || padding != nullptr)) {
    Fail(Rule::kCopyPath, "from global memory into %s", Name(memory));
  }
  core.Move(memory == Memory::kL1 ? Path::kGmToL1 : Path::kGmToUb, src,
            {rows.rows, rows.bytes, rows.source_pitch});
  if (rows.rows == 0 || rows.bytes == 0) return;
  const uint32_t left = padding != nullptr ? padding->left : 0;
  const uint32_t right = padding != nullptr ? padding->right : 0;
  const uint64_t padded = RoundUp(uint64_t{left} + rows.bytes + right, kBlockBytes);
  core.CheckGlobal(src, 0, rows.Reach(rows.source_pitch), rows.alignment);
  const uint64_t reach = (rows.rows - 1) * rows.destination_pitch + padded;
  const uint32_t begin = core.Check(dst, 0, reach, kBlockBytes);
  const auto width = static_cast<uint32_t>(padded);
  if (core.machine.options.counting && memory == Memory::kL1) return;
  core.lacks_data = core.IsBulk(src);
  uint8_t* to = core.Bytes(dst);
  for (uint32_t row = 0; row < rows.rows; ++row) {
    const uint64_t from = row * rows.source_pitch;
    const auto at = static_cast<uint32_t>(row * rows.destination_pitch);
    core.ReadGlobal(src, from, rows.bytes, true);
    const uint32_t first = begin + at + left;
    const uint32_t filled = first + rows.bytes;
    const void* filling =
        padding == nullptr ? nullptr : Filling(core, *padding, src.address + from);
    const ByteState around = filling != nullptr ? ByteState::kValid : ByteState::kPoison;
    core.Write(memory, begin + at, first, around);
    core.Write(memory, first, filled);
    core.CarryIn(src, from, memory, first, rows.bytes);
    core.Write(memory, filled, begin + at + width, around);
    if (core.lacks_data) continue;
    uint8_t* out = to + at;
    std::memcpy(out + left, src.address + from, rows.bytes);
    for (uint32_t i = 0; i < width; i += SizeOf(dtype)) {
      if (i == left) i += rows.bytes;
      if (i >= width) break;
      const uint32_t bytes = std::min(SizeOf(dtype), width - i);
      if (filling != nullptr) {
        std::memcpy(out + i, filling, bytes);
      } else {
        std::memset(out + i, 0xff, bytes);
      }
    }
  }
}

void CopyOut(Op op, const GlobalRef& dst, const LocalRef& src, const Rows& rows) {
  Core& core = Begin(op, PIPE_MTE3);
  const Memory memory = MemoryOf(src.position);
  if (memory != Memory::kUb && (memory != Memory::kL1 || op == Op::kDataCopyPad)) {
    Fail(Rule::kCopyPath, "from %s into global memory", Name(memory));
  }
  core.Move(memory == Memory::kL1 ? Path::kL1ToGm : Path::kUbToGm, dst,
            {rows.rows, rows.bytes, rows.destination_pitch});
  if (rows.rows == 0 || rows.bytes == 0) return;
  const uint32_t begin = core.Check(src, 0, rows.Reach(rows.source_pitch), kBlockBytes);
  core.CheckGlobal(dst, 0, rows.Reach(rows.destination_pitch), rows.alignment);
  const bool counting = core.machine.options.counting;
  if (counting && core.IsBulk(dst)) return;
  if (counting && memory == Memory::kL1) core.FailVirtual();
  const uint8_t* from = core.Bytes(src);
  for (uint32_t row = 0; row < rows.rows; ++row) {
    const auto at = static_cast<uint32_t>(row * rows.source_pitch);
    const uint64_t to = row * rows.destination_pitch;
    const uint32_t last = begin + at + rows.bytes;
    const uint32_t invalid = core.FirstInvalid(memory, begin + at, last);
    if (core.lacks_data) core.FailVirtual();
    core.Follow(memory, begin + at, last);
    const bool adds = core.registers.atomic.has_value();
    if (adds) core.CheckValid(memory, begin + at, last);  // the value is computed with
    core.WriteGlobal(dst, to, rows.bytes, adds);
    Deliver(core, dst.address + to, from + at, rows.bytes);
    if (adds || invalid == last) continue;
    Report(Rule::kGmUndefined, "stores %s byte %u, which nothing defined has been written to",
           Name(memory), invalid);
    core.CarryOut(dst, to, core.Local(memory).state.data() + begin + at, rows.bytes);
  }
}

}  // namespace emulator
