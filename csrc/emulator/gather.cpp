// GatherMask, Gather, Gatherb, Sort32, MrgSort.
#include <cmath>

#include "operand.h"

namespace emulator {

namespace {

constexpr uint32_t kPairBytes = 8;  // score and index of a sorted list

// Part of a tensor of an instruction, checked and read.
const uint8_t* ReadPart(const LocalRef& ref, uint64_t offset, uint32_t bytes) {
  Core& core = CurrentCore();
  const uint32_t begin = core.Check(ref, offset, bytes, 1);
  core.Read(MemoryOf(ref.position), begin, begin + bytes);
  return core.Bytes(ref) + offset;
}

uint8_t* WritePart(const LocalRef& ref, uint64_t offset, uint32_t bytes,
                   ByteState state = ByteState::kValid) {
  Core& core = CurrentCore();
  const uint32_t begin = core.Check(ref, offset, bytes, 1);
  core.Write(MemoryOf(ref.position), begin, begin + bytes, state);
  return core.Bytes(ref) + offset;
}

bool BuiltInPattern(uint8_t pattern, uint64_t element) {
  switch (pattern) {
    case 1:
    case 2:
      return element % 2 == pattern - 1u;
    case 7:
      return true;
    default:
      return element % 4 == pattern - 3u;
  }
}

}  // namespace

uint64_t GatherByMask(DType dtype, const LocalRef& dst, const LocalRef& src,
                      const LocalRef* pattern, uint8_t built_in, const GatherMaskArgs& args) {
  Core& core = CurrentCore();
  core.Begin(Op::kGatherMask, PIPE_V);
  if (pattern == nullptr && (built_in < 1 || built_in > 7)) {
    Fail(Rule::kGatherMaskPattern, "patterns are 1 to 7, got %u", built_in);
  }
  const uint32_t bytes = SizeOf(dtype);
  const uint64_t in_repeat = args.counter ? args.mask : kRepeatBytes / bytes;
  core.counter_mode = false;  // the instruction leaves the mask in normal mode
  Lanes account = FullRepeats(
      static_cast<uint32_t>((in_repeat * bytes + kRepeatBytes - 1) / kRepeatBytes * args.repeat),
      bytes);
  account.elements = in_repeat * args.repeat;
  core.CountVector(Op::kGatherMask, dtype, account);
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
           static_cast<unsigned long long>(in_repeat));
    }
    core.Check(src, last, bytes, 1);
  }
  std::vector<uint32_t> chosen;
  for (uint32_t repeat = 0; repeat < args.repeat; ++repeat) {
    const uint8_t* bits = nullptr;
    if (pattern != nullptr && in_repeat != 0) {
      bits = ReadPart(*pattern, uint64_t{repeat} * args.pattern_repeat_stride * kBlockBytes,
                      static_cast<uint32_t>((in_repeat + 7) / 8));
      if (core.lacks_data) core.FailVirtual();  // it decides how many are taken
    }
    for (uint64_t i = 0; i < in_repeat; ++i) {
      const bool taken =
          bits != nullptr ? (bits[i / 8] >> (i % 8) & 1) != 0 : BuiltInPattern(built_in, i);
      if (taken) chosen.push_back(LaneOffset(source, repeat, static_cast<uint32_t>(i)));
    }
  }
  if (chosen.empty()) return 0;
  // neighbours are checked together
  for (size_t i = 0; i < chosen.size();) {
    size_t end = i + 1;
    while (end < chosen.size() && chosen[end] == chosen[end - 1] + bytes) ++end;
    const auto run = static_cast<uint32_t>(end - i) * bytes;
    ReadPart(src, chosen[i], run);
    LocalRef part = src;
    part.begin += chosen[i];
    CheckApart(dst, chosen.size() * bytes, part, run);
    i = end;
  }
  uint8_t* to = WritePart(dst, 0, static_cast<uint32_t>(chosen.size()) * bytes);
  const uint8_t* from = core.Bytes(src);
  for (const uint32_t offset : chosen) {
    std::memcpy(to, from + offset, bytes);
    to += bytes;
  }
  return chosen.size();
}

void Gather(const Operand& dst, const LocalRef& src, const LocalRef& offsets, uint32_t base,
            const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(Op::kGather, PIPE_V);
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = Resolve(core, extent, bytes);
  core.CountVector(Op::kGather, dst.dtype, lanes);
  CheckAlive(core, dst);
  core.Check(src, 0, 0, kBlockBytes);
  core.Check(offsets, 0, 0, kBlockBytes);
  std::vector<uint32_t> chosen;
  bool data_missing = false;  // what is gathered may be virtual, where from may not
  uint32_t reach = 0;
  ForEachRun(lanes, kBlockBytes / bytes, [&](uint32_t repeat, uint32_t lane, uint32_t count) {
    constexpr uint32_t kOffsetBytes = sizeof(uint32_t);
    const uint8_t* at = ReadPart(offsets, (uint64_t{repeat} * lanes.lanes + lane) * kOffsetBytes,
                                 count * kOffsetBytes);
    if (core.lacks_data && !data_missing) core.FailVirtual();
    for (uint32_t i = 0; i < count; ++i) {
      uint32_t offset;
      std::memcpy(&offset, at + i * kOffsetBytes, kOffsetBytes);
      const uint64_t byte = uint64_t{base} + offset;
      if (byte % bytes != 0 || byte + bytes > src.end - src.begin) {
        Fail(Rule::kGatherOffset,
             "offset %llu of element %u: a multiple of %u inside %u bytes is needed",
             static_cast<unsigned long long>(byte), repeat * lanes.lanes + lane + i, bytes,
             src.end - src.begin);
      }
      ReadPart(src, byte, bytes);
      data_missing = core.lacks_data;
      reach = std::max(reach, static_cast<uint32_t>(byte + bytes));
      chosen.push_back(static_cast<uint32_t>(byte));
    }
  });
  if (reach != 0) {
    ForEachRange(dst, lanes, [&](uint32_t begin, uint32_t end) {
      LocalRef part = dst.ref;
      part.begin += begin;
      CheckApart(part, end - begin, src, reach);
    });
  }
  WriteOperand(core, dst, lanes);
  uint8_t* to = core.Bytes(dst.ref);
  const uint8_t* from = core.Bytes(src);
  size_t next = 0;
  ForEachRun(lanes, kBlockBytes / bytes, [&](uint32_t repeat, uint32_t lane, uint32_t count) {
    for (uint32_t i = lane; i < lane + count; ++i) {
      std::memcpy(to + LaneOffset(dst, repeat, i), from + chosen[next++], bytes);
    }
  });
}

void GatherBlocks(const Operand& dst, const LocalRef& src, const LocalRef& offsets,
                  uint8_t repeat) {
  Core& core = CurrentCore();
  core.Begin(Op::kGatherb, PIPE_V);
  constexpr uint32_t kPerRepeat = kRepeatBytes / kBlockBytes;
  const Lanes lanes = FullRepeats(repeat, SizeOf(dst.dtype));
  core.CountVector(Op::kGatherb, dst.dtype, lanes);
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
    ReadPart(src, offset, kBlockBytes);
    reach = std::max(reach, offset + kBlockBytes);
  }
  ForEachRange(dst, lanes, [&](uint32_t begin, uint32_t end) {
    LocalRef part = dst.ref;
    part.begin += begin;
    CheckApart(part, end - begin, src, reach);
  });
  WriteOperand(core, dst, lanes);
  uint8_t* to = core.Bytes(dst.ref);
  const uint8_t* from = core.Bytes(src);
  for (uint32_t i = 0; i < chosen.size(); ++i) {
    const uint32_t block = i / kPerRepeat * dst.repeat_stride + i % kPerRepeat * dst.block_stride;
    std::memcpy(to + block * kBlockBytes, from + chosen[i], kBlockBytes);
  }
}

// --- sorting
// --------------------------------------------------------------------------------------

namespace {

struct Scored {
  float score;
  uint32_t index;
};

bool Precedes(const Scored& a, const Scored& b) {
  if (std::isnan(a.score) || std::isnan(b.score))
    return std::isnan(a.score) && !std::isnan(b.score);
  return a.score > b.score;
}

// The middle of a pair with a half score is reserved: nobody reads it.
Scored LoadPair(DType dtype, const LocalRef& ref, uint64_t offset) {
  Scored pair;
  if (dtype == DType::kHalf) {
    uint16_t bits;
    std::memcpy(&bits, ReadPart(ref, offset, 2), sizeof bits);
    pair.score = HalfToFloat(bits);
  } else {
    std::memcpy(&pair.score, ReadPart(ref, offset, 4), sizeof pair.score);
  }
  std::memcpy(&pair.index, ReadPart(ref, offset + 4, 4), sizeof pair.index);
  return pair;
}

void StorePair(DType dtype, const LocalRef& ref, uint64_t offset, const Scored& pair) {
  uint8_t* to = WritePart(ref, offset, kPairBytes);
  if (dtype == DType::kHalf) {
    const uint16_t bits = FloatToHalf(pair.score);
    std::memcpy(to, &bits, sizeof bits);
    std::memset(to + 2, 0xff, 2);
    WritePart(ref, offset + 2, 2, ByteState::kPoison);
  } else {
    std::memcpy(to, &pair.score, sizeof pair.score);
  }
  std::memcpy(to + 4, &pair.index, sizeof pair.index);
}

}  // namespace

void Sort32(DType dtype, const LocalRef& dst, const LocalRef& score, const LocalRef& index,
            int32_t repeat) {
  Core& core = CurrentCore();
  core.Begin(Op::kSort32, PIPE_V);
  constexpr uint32_t kSorted = 32;
  if (repeat < 0 || repeat > 255) Fail(Rule::kRepeatRange, "repeat is 0 to 255, got %d", repeat);
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t count = kSorted * static_cast<uint32_t>(repeat);
  Lanes account = FullRepeats(static_cast<uint32_t>(repeat), bytes);
  account.elements = count;
  core.CountVector(Op::kSort32, dtype, account);
  for (const LocalRef* ref : {&dst, &score, &index}) core.Check(*ref, 0, 0, kBlockBytes);
  if (repeat == 0) return;
  CheckApart(dst, uint64_t{count} * kPairBytes, score, uint64_t{count} * bytes);
  CheckApart(dst, uint64_t{count} * kPairBytes, index, uint64_t{count} * 4);
  const uint8_t* scores = ReadPart(score, 0, count * bytes);
  const uint8_t* indices = ReadPart(index, 0, count * 4);
  for (uint32_t first = 0; first < count; first += kSorted) {
    std::array<Scored, kSorted> pairs;
    for (uint32_t i = 0; i < kSorted; ++i) {
      if (dtype == DType::kHalf) {
        uint16_t bits;
        std::memcpy(&bits, scores + (first + i) * 2, sizeof bits);
        pairs[i].score = HalfToFloat(bits);
      } else {
        std::memcpy(&pairs[i].score, scores + (first + i) * 4, sizeof(float));
      }
      std::memcpy(&pairs[i].index, indices + (first + i) * 4, sizeof(uint32_t));
    }
    std::stable_sort(pairs.begin(), pairs.end(), Precedes);
    for (uint32_t i = 0; i < kSorted; ++i) {
      StorePair(dtype, dst, uint64_t{first + i} * kPairBytes, pairs[i]);
    }
  }
}

void MergeSort(DType dtype, const LocalRef& dst, const MergeLists& lists) {
  Core& core = CurrentCore();
  core.Begin(Op::kMrgSort, PIPE_V);
  if (lists.valid_bit != 3 && lists.valid_bit != 7 && lists.valid_bit != 15) {
    Fail(Rule::kMrgSortParams, "validBit is 3, 7 or 15, got %u", lists.valid_bit);
  }
  const uint32_t used = lists.valid_bit == 15 ? 4 : lists.valid_bit == 7 ? 3 : 2;
  uint32_t total = 0;
  for (uint32_t i = 0; i < used; ++i) {
    if (lists.lengths[i] > 4095) {
      Fail(Rule::kMrgSortParams, "a list has at most 4095 elements, list %u has %u", i + 1,
           lists.lengths[i]);
    }
    core.Check(lists.sources[i], 0, 0, kPairBytes);
    total += lists.lengths[i];
  }
  core.Check(dst, 0, 0, kBlockBytes);
  if (lists.repeat > 1) {
    bool regular = used == 4 && !lists.suspend;
    for (uint32_t i = 1; i < used; ++i) {
      regular =
          regular && lists.lengths[i] == lists.lengths[0] &&
          lists.sources[i].begin == lists.sources[0].begin + i * lists.lengths[0] * kPairBytes;
    }
    if (!regular) {
      Fail(Rule::kMrgSortParams,
           "repeats need four equal lists, one after the other, and no suspension");
    }
  }
  Lanes account = FullRepeats(lists.repeat, 4);
  account.elements = uint64_t{total} * lists.repeat;
  core.CountVector(Op::kMrgSort, dtype, account);
  for (uint32_t i = 0; i < used; ++i) {
    CheckApart(dst, uint64_t{total} * lists.repeat * kPairBytes, lists.sources[i],
               uint64_t{lists.lengths[i]} * kPairBytes);
  }
  for (uint32_t repeat = 0; repeat < lists.repeat; ++repeat) {
    const uint64_t start = uint64_t{repeat} * total * kPairBytes;
    std::array<std::vector<Scored>, 4> sources;
    for (uint32_t i = 0; i < used; ++i) {
      for (uint32_t j = 0; j < lists.lengths[i]; ++j) {
        sources[i].push_back(LoadPair(dtype, lists.sources[i], start + uint64_t{j} * kPairBytes));
      }
    }
    std::array<uint16_t, 4> taken{};
    for (uint32_t written = 0; written < total; ++written) {
      int best = -1;
      for (uint32_t i = 0; i < used; ++i) {
        if (taken[i] == sources[i].size()) continue;
        if (best < 0 || Precedes(sources[i][taken[i]], sources[best][taken[best]])) {
          best = static_cast<int>(i);
        }
      }
      StorePair(dtype, dst, start + uint64_t{written} * kPairBytes, sources[best][taken[best]]);
      ++taken[best];
      if (lists.suspend && taken[best] == sources[best].size()) break;
    }
    core.merge_counts = taken;
  }
  core.merge_suspended = lists.suspend && !core.lacks_data;
}

void MergeResult(uint16_t (&lengths)[4]) {
  Core& core = CurrentCore();
  core.Begin(Op::kGetMrgSortResult, PIPE_S);
  if (!core.merge_suspended) {
    Fail(Rule::kMrgSortResult, "no MrgSort with ifExhaustedSuspension came before");
  }
  std::copy(core.merge_counts.begin(), core.merge_counts.end(), lengths);
}

}  // namespace emulator
