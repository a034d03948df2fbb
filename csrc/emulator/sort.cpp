// Sort32 and MrgSort: lists of (score, index) pairs in descending order.
#include <cmath>

#include "operand.h"

namespace emulator {

namespace {

constexpr uint32_t kPairBytes = 8;  // score and index of a sorted list

struct Scored {
  float score;
  uint32_t index_at;  // where its index lies in UB; its bytes are copied and not read
};

bool Precedes(const Scored& a, const Scored& b) {
  if (std::isnan(a.score) || std::isnan(b.score))
    return std::isnan(a.score) && !std::isnan(b.score);
  return a.score > b.score;
}

// The middle of a pair with a half score is reserved: nobody reads it.
Scored LoadPair(DType dtype, const LocalRef& ref, uint64_t offset) {
  Scored pair;
  pair.score = LoadFloat(dtype, ReadPart(ref, offset, SizeOf(dtype)));
  pair.index_at = FollowPart(ref, offset + 4, 4);
  return pair;
}

void StorePair(DType dtype, const LocalRef& ref, uint64_t offset, const Scored& pair) {
  Core& core = CurrentCore();
  uint8_t* to = WritePart(ref, offset, kPairBytes);
  StoreFloat(dtype, to, pair.score);
  if (dtype == DType::kHalf) {
    std::memset(to + 2, 0xff, 2);
    WritePart(ref, offset + 2, 2, ByteState::kPoison);
  }
  if (core.lacks_data) return;
  core.Carry(MemoryOf(ref.position), [&](uint8_t* memory) {
    std::memmove(memory + ref.begin + offset + 4, memory + pair.index_at, 4);
  });
}

// More than one repeat takes effect for four equal lists only, one after the other, merged to their
// ends.
uint32_t Repeats(const MergeLists& lists, uint32_t used) {
  if (lists.repeat <= 1) return lists.repeat;
  bool regular = used == 4 && !lists.suspend;
  for (uint32_t i = 1; i < used; ++i) {
    regular = regular && lists.lengths[i] == lists.lengths[0] &&
              lists.sources[i].begin == lists.sources[0].begin + i * lists.lengths[0] * kPairBytes;
  }
  if (regular) return lists.repeat;
  Report(Rule::kMrgSortRepeat,
         "%u repeats need four equal lists, one after the other, and no suspension", lists.repeat);
  return 1;
}

}  // namespace

void Sort32(DType dtype, const LocalRef& dst, const LocalRef& score, const LocalRef& index,
            int32_t repeat) {
  Core& core = Begin(Op::kSort32, PIPE_V);
  constexpr uint32_t kSorted = 32;
  CheckRepeat(limits::Repeats::repeatTime, repeat);
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t count = kSorted * static_cast<uint32_t>(repeat);
  Lanes account = FullRepeats(static_cast<uint32_t>(repeat), bytes);
  account.elements = count;
  core.Compute(dtype, account);
  for (const LocalRef* ref : {&dst, &score, &index}) core.Check(*ref, 0, 0, kBlockBytes);
  if (repeat == 0) return;
  CheckApart(dst, uint64_t{count} * kPairBytes, score, uint64_t{count} * bytes);
  CheckApart(dst, uint64_t{count} * kPairBytes, index, uint64_t{count} * 4);
  const uint8_t* scores = ReadPart(score, 0, count * bytes);
  const uint32_t indices = FollowPart(index, 0, count * 4);
  for (uint32_t first = 0; first < count; first += kSorted) {
    std::array<Scored, kSorted> pairs;
    for (uint32_t i = 0; i < kSorted; ++i) {
      pairs[i].score = LoadFloat(dtype, scores + (first + i) * bytes);
      pairs[i].index_at = indices + (first + i) * 4;
    }
    std::stable_sort(pairs.begin(), pairs.end(), Precedes);
    for (uint32_t i = 0; i < kSorted; ++i) {
      StorePair(dtype, dst, uint64_t{first + i} * kPairBytes, pairs[i]);
    }
  }
}

void MergeSort(DType dtype, const LocalRef& dst, const MergeLists& lists) {
  Core& core = Begin(Op::kMrgSort, PIPE_V);
  if (lists.valid_bit != 3 && lists.valid_bit != 7 && lists.valid_bit != 15) {
    Fail(Rule::kMrgSortParams, "validBit is 3, 7 or 15, got %u", lists.valid_bit);
  }
  const uint32_t used = lists.valid_bit == 15 ? 4 : lists.valid_bit == 7 ? 3 : 2;
  uint32_t total = 0;
  for (uint32_t i = 0; i < used; ++i) {
    if (!limits::MrgSort4Info::elementLengths.Allows(lists.lengths[i])) {
      Fail(Rule::kMrgSortParams, "a list has at most 4095 elements, list %u has %u", i + 1,
           lists.lengths[i]);
    }
    core.Check(lists.sources[i], 0, 0, kPairBytes);
    total += lists.lengths[i];
  }
  core.Check(dst, 0, 0, kBlockBytes);
  const uint32_t repeats = Repeats(lists, used);
  Lanes account = FullRepeats(repeats, 4);
  account.elements = uint64_t{total} * repeats;
  core.Compute(dtype, account);
  for (uint32_t i = 0; i < used; ++i) {
    const uint64_t skipped = (std::max(repeats, 1u) - 1) * uint64_t{total};
    CheckApart(dst, uint64_t{total} * repeats * kPairBytes, lists.sources[i],
               (skipped + lists.lengths[i]) * kPairBytes);
  }
  std::array<uint16_t, 4> taken{};  // of each list
  for (uint32_t repeat = 0; repeat < repeats; ++repeat) {
    const uint64_t start = uint64_t{repeat} * total * kPairBytes;
    std::array<std::vector<Scored>, 4> sources;
    for (uint32_t i = 0; i < used; ++i) {
      for (uint32_t j = 0; j < lists.lengths[i]; ++j) {
        sources[i].push_back(LoadPair(dtype, lists.sources[i], start + uint64_t{j} * kPairBytes));
      }
    }
    taken.fill(0);
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
  }
  core.registers.merge_counts.reset();
  if (lists.suspend && !core.lacks_data) core.registers.merge_counts = taken;
}

void MergeResult(uint16_t (&lengths)[4]) {
  Core& core = Begin(Op::kGetMrgSortResult, PIPE_S);
  const auto& counts = core.registers.merge_counts;
  if (!counts) Fail(Rule::kMrgSortResult, "no MrgSort with ifExhaustedSuspension came before");
  std::copy(counts->begin(), counts->end(), lengths);
}

}  // namespace emulator
