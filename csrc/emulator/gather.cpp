// GatherMask, Gather, Gatherb.
#include "operand.h"

namespace emulator {

namespace {

bool BuiltInPattern(uint8_t pattern, uint64_t element) {
  if (pattern == 7) return true;
  return pattern < 3 ? element % 2 == pattern - 1u : element % 4 == pattern - 3u;
}

// Calls f(begin, bytes) for each run of neighbours among the chosen elements.
template <typename F>
void ForEachChosenRun(const std::vector<uint32_t>& chosen, uint32_t bytes, F f) {
  for (size_t i = 0; i < chosen.size();) {
    size_t end = i + 1;
    while (end < chosen.size() && chosen[end] == chosen[end - 1] + bytes) ++end;
    f(chosen[i], static_cast<uint32_t>(end - i) * bytes);
    i = end;
  }
}

// In place the chosen elements move down: none must have been written over before its turn.
void CheckChosen(const LocalRef& dst, const LocalRef& src, const std::vector<uint32_t>& chosen,
                 uint32_t bytes) {
  if (dst.begin != src.begin) {
    ForEachChosenRun(chosen, bytes, [&](uint32_t begin, uint32_t run) {
      CheckApart(dst, chosen.size() * bytes, Part(src, begin), run);
    });
    return;
  }
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i] >= i * bytes) continue;
    Report(Rule::kOverlap, "element %llu is read from UB byte %u, where an earlier one was put",
           Number(i), src.begin + chosen[i]);
    return;
  }
}

}  // namespace

uint64_t GatherByMask(DType dtype, const LocalRef& dst, const LocalRef& src,
                      const LocalRef* pattern, uint8_t built_in, const GatherMaskArgs& args) {
  Core& core = Begin(Op::kGatherMask, PIPE_V);
  if (pattern == nullptr && (built_in < 1 || built_in > 7)) {
    Fail(Rule::kGatherMaskPattern, "patterns are 1 to 7, got %u", built_in);
  }
  const uint32_t bytes = SizeOf(dtype);
  const uint64_t in_repeat = args.counter ? args.mask : kRepeatBytes / bytes;
  core.registers.counter_mode = false;  // the instruction leaves the mask in normal mode
  Lanes account = FullRepeats(
      static_cast<uint32_t>(CeilDivide(in_repeat * bytes, kRepeatBytes) * args.repeat), bytes);
  account.elements = in_repeat * args.repeat;
  core.Compute(dtype, account);
  const Operand source{src, dtype, args.src_block_stride, args.src_repeat_stride};
  core.Check(src, 0, 0, kBlockBytes);
  core.Check(dst, 0, 0, kBlockBytes);
  if (pattern != nullptr) core.Check(*pattern, 0, 0, kBlockBytes);
  if (in_repeat != 0 && args.repeat != 0) {
    const uint64_t per_block = kBlockBytes / bytes;
    const uint64_t last = uint64_t{args.repeat - 1} * args.src_repeat_stride * kBlockBytes +
                          (in_repeat - 1) / per_block * args.src_block_stride * kBlockBytes +
                          (in_repeat - 1) % per_block * bytes;
    if (in_repeat > kUbBytes / bytes) {
      Fail(Rule::kLocalBounds, "%llu elements in a repeat are more than UB holds",
           Number(in_repeat));
    }
    core.Check(src, last, bytes, 1);
  }
  std::vector<uint32_t> chosen;
  for (uint32_t repeat = 0; repeat < args.repeat; ++repeat) {
    const uint8_t* bits = nullptr;
    if (pattern != nullptr && in_repeat != 0) {
      bits = ReadPart(*pattern, uint64_t{repeat} * args.pattern_repeat_stride * kBlockBytes,
                      static_cast<uint32_t>(CeilDivide(in_repeat, 8)));
      if (core.lacks_data) core.FailVirtual();  // it decides how many are taken
    }
    for (uint64_t i = 0; i < in_repeat; ++i) {
      const bool taken =
          bits != nullptr ? (bits[i / 8] >> (i % 8) & 1) != 0 : BuiltInPattern(built_in, i);
      if (taken) chosen.push_back(LaneOffset(source, repeat, static_cast<uint32_t>(i)));
    }
  }
  if (chosen.empty()) return 0;
  const auto dst_bytes = static_cast<uint32_t>(chosen.size()) * bytes;
  CheckChosen(dst, src, chosen, bytes);
  ForEachChosenRun(chosen, bytes,
                   [&](uint32_t begin, uint32_t run) { FollowPart(src, begin, run); });
  const uint32_t to = core.Check(dst, 0, dst_bytes, 1);
  core.Write(MemoryOf(dst.position), to, to + dst_bytes);
  core.Carry(MemoryOf(dst.position), [&](uint8_t* memory) {
    uint8_t* at = memory + to;
    for (const uint32_t offset : chosen) {
      std::memmove(at, memory + src.begin + offset, bytes);
      at += bytes;
    }
  });
  return chosen.size();
}

void Gather(const Operand& dst, const LocalRef& src, const LocalRef& offsets, uint32_t base,
            const Extent& extent) {
  Core& core = Begin(Op::kGather, PIPE_V);
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = Resolve(core, extent, bytes);
  core.Compute(dst.dtype, lanes);
  CheckAlive(core, dst);
  core.Check(src, 0, 0, kBlockBytes);
  core.Check(offsets, 0, 0, kBlockBytes);
  std::vector<uint32_t> chosen;
  uint32_t reach = 0;
  ForEachRun(lanes, kBlockBytes / bytes, [&](uint32_t repeat, uint32_t lane, uint32_t count) {
    constexpr uint32_t kOffsetBytes = sizeof(uint32_t);
    const uint8_t* at = ReadPart(offsets, (uint64_t{repeat} * lanes.lanes + lane) * kOffsetBytes,
                                 count * kOffsetBytes);
    if (core.lacks_data) core.FailVirtual();  // the values may be virtual, their offsets may not
    for (uint32_t i = 0; i < count; ++i) {
      uint32_t offset;
      std::memcpy(&offset, at + i * kOffsetBytes, kOffsetBytes);
      const uint64_t byte = uint64_t{base} + offset;
      if (byte % bytes != 0 || byte + bytes > src.end - src.begin) {
        Fail(Rule::kGatherOffset,
             "offset %llu of element %u: a multiple of %u inside %u bytes is needed", Number(byte),
             repeat * lanes.lanes + lane + i, bytes, src.end - src.begin);
      }
      FollowPart(src, byte, bytes);
      reach = std::max(reach, static_cast<uint32_t>(byte + bytes));
      chosen.push_back(static_cast<uint32_t>(byte));
    }
  });
  CheckApart(dst, lanes, src, reach);
  WriteOperand(core, dst, lanes);
  core.Carry(MemoryOf(src.position), [&](uint8_t* memory) {
    size_t next = 0;
    ForEachRun(lanes, kBlockBytes / bytes, [&](uint32_t repeat, uint32_t lane, uint32_t count) {
      for (uint32_t i = lane; i < lane + count; ++i) {
        std::memmove(memory + dst.ref.begin + LaneOffset(dst, repeat, i),
                     memory + src.begin + chosen[next++], bytes);
      }
    });
  });
}

void GatherBlocks(const Operand& dst, const LocalRef& src, const LocalRef& offsets,
                  uint8_t repeat) {
  Core& core = Begin(Op::kGatherb, PIPE_V);
  constexpr uint32_t kPerRepeat = kRepeatBytes / kBlockBytes;
  const Lanes lanes = FullRepeats(repeat, SizeOf(dst.dtype));
  core.Compute(dst.dtype, lanes);
  CheckAlive(core, dst);
  core.Check(src, 0, 0, kBlockBytes);
  core.Check(offsets, 0, 0, kBlockBytes);
  if (repeat == 0) return;
  const uint8_t* at = ReadPart(offsets, 0, repeat * kPerRepeat * 4);
  if (core.lacks_data) core.FailVirtual();
  std::vector<uint32_t> chosen(repeat * kPerRepeat);
  std::memcpy(chosen.data(), at, chosen.size() * 4);
  uint32_t reach = 0;
  for (const uint32_t offset : chosen) {
    if (offset % kBlockBytes != 0 || uint64_t{offset} + kBlockBytes > src.end - src.begin) {
      Fail(Rule::kGatherOffset, "offset %u: a multiple of 32 inside %u bytes is needed", offset,
           src.end - src.begin);
    }
    FollowPart(src, offset, kBlockBytes);
    reach = std::max(reach, offset + kBlockBytes);
  }
  CheckApart(dst, lanes, src, reach);
  WriteOperand(core, dst, lanes);
  core.Carry(MemoryOf(src.position), [&](uint8_t* memory) {
    for (uint32_t i = 0; i < chosen.size(); ++i) {
      const uint32_t block = i / kPerRepeat * dst.repeat_stride + i % kPerRepeat * dst.block_stride;
      std::memmove(memory + dst.ref.begin + block * kBlockBytes, memory + src.begin + chosen[i],
                   kBlockBytes);
    }
  });
}

}  // namespace emulator
