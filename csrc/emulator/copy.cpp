// Copies inside UB and out of L1. What is undefined among the bytes is carried along: only to use
// it is an error.
#include <algorithm>

#include "operand.h"

namespace emulator {

namespace {

// The other end of a copy inside the core, and who does it.
struct LocalPath {
  Memory from, to;
  pipe_t pipe;
  Path path;
  uint32_t alignment;  // of the destination
};
constexpr LocalPath kLocalPaths[] = {
    {Memory::kUb, Memory::kUb, PIPE_V, Path::kUbToUb, kBlockBytes},
    {Memory::kL1, Memory::kBias, PIPE_MTE1, Path::kL1ToBias, 64},
    {Memory::kL1, Memory::kFixpipe, PIPE_FIX, Path::kL1ToFixpipe, 128},
};

const LocalPath& FindPath(Memory from, Memory to) {
  for (const LocalPath& path : kLocalPaths) {
    if (path.from == from && path.to == to) return path;
  }
  if (from == Memory::kUb && to == Memory::kL1) {
    Fail(Rule::kCopyPath, "from UB into L1, which goes through the workspace of a Matmul object");
  }
  Fail(Rule::kCopyPath, "from %s into %s", Name(from), Name(to));
}

// States of all bytes that a source reaches, as they are before the copy.
class States {
 public:
  States(const LocalMemory& memory, const Span& span) : begin_(span.begin) {
    if (memory.state.empty() || span.begin >= span.end) return;
    states_.assign(memory.state.begin() + span.begin, memory.state.begin() + span.end);
  }
  void Put(LocalMemory& memory, uint32_t to, uint32_t from, uint32_t bytes) const {
    if (states_.empty()) return;
    std::memcpy(memory.state.data() + to, states_.data() + (from - begin_), bytes);
  }

 private:
  uint32_t begin_;
  std::vector<uint8_t> states_;
};

// In counter mode the mask says how many elements each repeat takes.
void CopyCounted(Core& core, const Operand& dst, const Operand& src, const Extent& extent) {
  const uint64_t count = extent.form == MaskForm::kRegister ? core.registers.mask[0] : extent.low;
  const uint64_t bytes = std::min<uint64_t>(count * SizeOf(dst.dtype), 2 * uint64_t{kUbBytes});
  const auto blocks = static_cast<uint32_t>(CeilDivide(bytes, kBlockBytes));
  Lanes lanes;
  lanes.lanes = kRepeatBytes / SizeOf(dst.dtype);
  lanes.elements = count * static_cast<uint64_t>(extent.repeat);
  lanes.repeats = static_cast<uint32_t>(extent.repeat) * CeilDivide(blocks, 8);
  core.Compute(dst.dtype, lanes);
  CheckAlive(core, dst);
  CheckAlive(core, src);
  if (dst.block_stride == 0 && blocks > 1) {
    Report(Rule::kDstBlockStride, "dstStride is 0: every block would land on the first");
  }
  for (int64_t repeat = 0; repeat < extent.repeat; ++repeat) {
    for (uint32_t block = 0; block < blocks; ++block) {
      const auto size =
          static_cast<uint32_t>(std::min<uint64_t>(kBlockBytes, bytes - block * kBlockBytes));
      const auto at = [&](const Operand& operand) {
        const uint64_t offset =
            (repeat * uint64_t{operand.repeat_stride} + block * uint64_t{operand.block_stride}) *
            kBlockBytes;
        return core.Check(operand.ref, offset, size, 1);
      };
      const uint32_t from = at(src);
      core.Carry(Memory::kUb, from, Memory::kUb, at(dst), size);
    }
  }
}

}  // namespace

void Copy(const Operand& dst, const Operand& src, const Extent& extent) {
  Core& core = Begin(Op::kCopy, PIPE_V);
  CheckRange(limits::CopyRepeatParams::dstRepeatSize, dst.repeat_stride);
  CheckRange(limits::CopyRepeatParams::srcRepeatSize, src.repeat_stride);
  if (core.registers.counter_mode) return CopyCounted(core, dst, src, extent);
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = Resolve(core, extent, bytes);
  core.Compute(dst.dtype, lanes, core.timed() ? BankCycles(dst, {&src}, lanes) : 0);
  CheckAlive(core, dst);
  CheckAlive(core, src);
  ForEachRange(src, lanes, [&](uint32_t begin, uint32_t end) {
    const uint32_t address = core.Check(src.ref, begin, end - begin, 1);
    core.Follow(Memory::kUb, address, address + (end - begin));
  });
  CheckOverlap(core, dst, src, lanes);
  LocalMemory& local = core.Local(Memory::kUb);
  const States states(local, Reach(src, lanes));
  WriteOperand(core, dst, lanes);
  ForEachElementRun<2>(core, {&dst, &src}, lanes, [&](auto at, uint32_t count) {
    std::memmove(at[0], at[1], count * bytes);
    states.Put(local, static_cast<uint32_t>(at[0] - local.bytes.data()),
               static_cast<uint32_t>(at[1] - local.bytes.data()), count * bytes);
  });
}

void CopyLocal(DType dtype, const LocalRef& dst, const LocalRef& src, const Rows& rows) {
  Core& core = Enter(Op::kDataCopy);
  const Memory memory = MemoryOf(dst.position);
  const LocalPath& path = FindPath(MemoryOf(src.position), memory);
  if (path.path == Path::kL1ToFixpipe && dtype != DType::kUint64) {
    Fail(Rule::kCopyPath, "from L1 into FB go uint64, not %s", Name(dtype));
  }
  core.Begin(Op::kDataCopy, path.pipe);
  core.Move(path.path, rows.rows, rows.bytes);
  if (rows.rows == 0 || rows.bytes == 0) return;
  const uint32_t from = core.Check(src, 0, rows.Reach(rows.source_pitch), kBlockBytes);
  const uint32_t to = core.Check(dst, 0, rows.Reach(rows.destination_pitch), path.alignment);
  if (path.from == Memory::kL1 && core.machine.options.counting) return;
  const bool apart = path.from != path.to || from + rows.Reach(rows.source_pitch) <= to ||
                     to + rows.Reach(rows.destination_pitch) <= from;
  if (!apart) {
    Report(Rule::kOverlap, "source at UB %u and destination at UB %u overlap (%s)", from, to,
           Name(dtype));
  }
  for (uint32_t row = 0; row < rows.rows; ++row) {
    core.Carry(path.from, static_cast<uint32_t>(from + row * rows.source_pitch), memory,
               static_cast<uint32_t>(to + row * rows.destination_pitch), rows.bytes);
  }
}

}  // namespace emulator
