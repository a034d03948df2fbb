// Lanes of a vector instruction, and its accesses to the blocks of its operands.
#include "operand.h"

namespace emulator {

Lanes Resolve(Core& core, const Extent& extent, uint32_t element_bytes, const Limit& repeats) {
  Lanes lanes;
  lanes.lanes = kRepeatBytes / element_bytes;
  const auto set_count = [&](uint64_t count) {
    if (count > kUbBytes / element_bytes) {
      Fail(Rule::kLocalBounds, "%llu elements of %u bytes are more than UB holds", Number(count),
           element_bytes);
    }
    lanes.elements = count;
    lanes.repeats = static_cast<uint32_t>(CeilDivide(count, lanes.lanes));
    lanes.mask = PrefixMask(lanes.lanes);
    lanes.last =
        count == 0
            ? lanes.mask
            : PrefixMask(static_cast<uint32_t>(count - uint64_t{lanes.repeats - 1} * lanes.lanes));
    lanes.prefix = true;
  };
  if (extent.form == MaskForm::kCount) {
    const auto count = static_cast<int64_t>(extent.low);
    if (count < 0)
      Fail(Rule::kCountNegative, "count is 0 or more, got %lld", static_cast<long long>(count));
    set_count(extent.low);
    return lanes;
  }
  if (core.registers.counter_mode) {
    set_count(extent.form == MaskForm::kRegister ? core.registers.mask[0] : extent.low);
    return lanes;
  }
  CheckRepeat(repeats, extent.repeat);
  lanes.repeats = static_cast<uint32_t>(extent.repeat);
  if (extent.form == MaskForm::kContiguous) {
    if (extent.low > lanes.lanes) {
      Report(Rule::kMaskRange, "mask is at most %u for elements of %u bytes, got %lld", lanes.lanes,
             element_bytes, static_cast<long long>(extent.low));
    }
    lanes.mask = PrefixMask(static_cast<uint32_t>(std::min<uint64_t>(extent.low, lanes.lanes)));
  } else {
    const bool from_register = extent.form == MaskForm::kRegister;
    lanes.mask = from_register ? core.registers.mask : LaneMask{extent.low, extent.high};
    const LaneMask possible = PrefixMask(lanes.lanes);
    const bool default_register = from_register && !core.registers.mask_touched;
    if (!default_register &&
        ((lanes.mask[0] & ~possible[0]) != 0 || (lanes.mask[1] & ~possible[1]) != 0)) {
      Report(Rule::kMaskHighBits, "%u lanes of %u bytes, got mask[1]=%#llx, mask[0]=%#llx",
             lanes.lanes, element_bytes, Number(lanes.mask[1]), Number(lanes.mask[0]));
    }
    lanes.mask[0] &= possible[0];
    lanes.mask[1] &= possible[1];
  }
  lanes.last = lanes.mask;
  uint32_t active = 0;
  for (uint32_t lane = 0; lane < lanes.lanes; ++lane) active += HasLane(lanes.mask, lane);
  lanes.elements = uint64_t{active} * lanes.repeats;
  lanes.prefix = active == lanes.lanes || (lanes.repeats == 1 && lanes.mask == PrefixMask(active));
  if (active == 0) lanes.repeats = 0;
  return lanes;
}

void CheckAlive(Core& core, const Operand& operand, uint32_t alignment) {
  core.Check(operand.ref, 0, 0, alignment);
}

void ReadOperand(Core& core, const Operand& operand, const Lanes& lanes) {
  const Memory memory = MemoryOf(operand.ref.position);
  ForEachRange(operand, lanes, [&](uint32_t begin, uint32_t end) {
    const uint32_t address = core.Check(operand.ref, begin, end - begin, 1);
    core.Read(memory, address, address + (end - begin));
  });
}

void WriteOperand(Core& core, const Operand& operand, const Lanes& lanes) {
  if (operand.block_stride == 0) {
    Report(Rule::kDstBlockStride, "dstBlkStride is 0: every block would land on the first");
  }
  const Memory memory = MemoryOf(operand.ref.position);
  ForEachRange(operand, lanes, [&](uint32_t begin, uint32_t end) {
    const uint32_t address = core.Check(operand.ref, begin, end - begin, 1);
    core.Write(memory, address, address + (end - begin));
  });
}

Span Reach(const Operand& operand, const Lanes& lanes) {
  Span span;
  ForEachRange(operand, lanes, [&](uint32_t begin, uint32_t end) {
    span.begin = std::min(span.begin, operand.ref.begin + begin);
    span.end = std::max(span.end, operand.ref.begin + end);
  });
  return span;
}

void WriteLog::Write(uint32_t repeat, uint32_t begin, uint32_t end) {
  const auto last = begin_ + static_cast<uint32_t>(written_.size());
  for (uint32_t i = std::max(begin, begin_); i < std::min(end, last); ++i) {
    if (written_[i - begin_] == 0) written_[i - begin_] = repeat + 1;
  }
}

void WriteLog::Read(uint32_t repeat, uint32_t begin, uint32_t end) const {
  const auto last = begin_ + static_cast<uint32_t>(written_.size());
  for (uint32_t i = std::max(begin, begin_); i < std::min(end, last); ++i) {
    if (written_[i - begin_] == 0) continue;
    Report(Rule::kOverlap, "repeat %u reads UB byte %u, which repeat %u writes", repeat, i,
           written_[i - begin_] - 1);
    return;
  }
}

void CheckOverlap(Core& core, const Operand& dst, const Operand& src, const Lanes& lanes) {
  if (!core.machine.options.checks || lanes.elements == 0) return;
  const bool same_strides = SizeOf(dst.dtype) == SizeOf(src.dtype) &&
                            dst.block_stride == src.block_stride &&
                            (dst.repeat_stride == src.repeat_stride || lanes.repeats == 1);
  // in place; but where a repeat does not move on, the next one would read what this one wrote
  if (dst.ref.begin == src.ref.begin && same_strides &&
      (lanes.repeats == 1 || dst.repeat_stride != 0)) {
    return;
  }
  const Span to = Reach(dst, lanes);
  const Span from = Reach(src, lanes);
  if (to.end <= from.begin || from.end <= to.begin) return;
  WriteLog log(to);
  Lanes one = lanes;
  one.repeats = 1;
  one.prefix = false;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    one.mask = one.last = lanes.Mask(repeat);
    const uint32_t dst_at = dst.ref.begin + repeat * dst.repeat_stride * kBlockBytes;
    const uint32_t src_at = src.ref.begin + repeat * src.repeat_stride * kBlockBytes;
    const auto write = [&] {
      ForEachRange(dst, one, [&](uint32_t begin, uint32_t end) {
        log.Write(repeat, dst_at + begin, dst_at + end);
      });
    };
    // a repeat in place reads all before it writes
    const bool identical = dst_at == src_at && same_strides;
    if (!identical) write();
    ForEachRange(src, one, [&](uint32_t begin, uint32_t end) {
      log.Read(repeat, src_at + begin, src_at + end);
    });
    if (identical) write();
  }
}

void CheckApart(const LocalRef& dst, uint64_t dst_bytes, const LocalRef& src, uint64_t src_bytes) {
  if (dst.begin + dst_bytes <= src.begin || src.begin + src_bytes <= dst.begin) return;
  Report(Rule::kOverlap, "the destination, UB [%u, %llu), overlaps a source, UB [%u, %llu)",
         dst.begin, Number(dst.begin + dst_bytes), src.begin, Number(src.begin + src_bytes));
}

void CheckApart(const Operand& dst, const Lanes& lanes, const LocalRef& src, uint64_t src_bytes) {
  ForEachRange(dst, lanes, [&](uint32_t begin, uint32_t end) {
    CheckApart(Part(dst.ref, begin), end - begin, src, src_bytes);
  });
}

void CheckApart(const LocalRef& dst, uint64_t dst_bytes, const Operand& src, const Lanes& lanes) {
  ForEachRange(src, lanes, [&](uint32_t begin, uint32_t end) {
    CheckApart(dst, dst_bytes, Part(src.ref, begin), end - begin);
  });
}

uint32_t FollowPart(const LocalRef& ref, uint64_t offset, uint32_t bytes) {
  Core& core = CurrentCore();
  const uint32_t begin = core.Check(ref, offset, bytes, 1);
  core.Follow(MemoryOf(ref.position), begin, begin + bytes);
  return begin;
}

const uint8_t* ReadPart(const LocalRef& ref, uint64_t offset, uint32_t bytes) {
  Core& core = CurrentCore();
  const uint32_t begin = core.Check(ref, offset, bytes, 1);
  core.Read(MemoryOf(ref.position), begin, begin + bytes);
  return core.Bytes(ref) + offset;
}

uint8_t* WritePart(const LocalRef& ref, uint64_t offset, uint32_t bytes, ByteState state) {
  Core& core = CurrentCore();
  const uint32_t begin = core.Check(ref, offset, bytes, 1);
  core.Write(MemoryOf(ref.position), begin, begin + bytes, state);
  return core.Bytes(ref) + offset;
}

void ReadSources(Core& core, std::initializer_list<const Operand*> sources, const Lanes& lanes) {
  for (const Operand* source : sources) {
    if (source == nullptr) continue;
    CheckAlive(core, *source);
    ReadOperand(core, *source, lanes);
  }
}

bool PrepareElements(Core& core, DType counted, const Operand& dst,
                     std::initializer_list<const Operand*> sources, const Lanes& lanes,
                     const Operand* running) {
  core.Compute(counted, lanes, core.timed() ? BankCycles(dst, sources, lanes) : 0);
  CheckAlive(core, dst);
  ReadSources(core, sources, lanes);
  for (const Operand* source : sources) {
    if (source != nullptr && source != running) CheckOverlap(core, dst, *source, lanes);
  }
  WriteOperand(core, dst, lanes);
  return !core.lacks_data;
}

}  // namespace emulator
