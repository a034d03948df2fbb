// Sort, Concat, Extract and MrgSort of the high-level interface: lists of pairs of 8 bytes, a score
// and its index, in descending order.
#ifndef MOGE_EMULATOR_ADV_SORT_H_
#define MOGE_EMULATOR_ADV_SORT_H_

#include "adv/call.h"
#include "adv/sizes.h"

namespace emulator {

void CheckSortRepeat(int32_t repeat);

// A merge of up to four lists, each `length` pairs but for a shorter last one: `pairs` in all.
template <typename T>
void MergeFour(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
               uint32_t length, uint32_t pairs, uint32_t repeat) {
  constexpr uint32_t kPair = kSortedBytes / sizeof(T);
  uint16_t lengths[4] = {};
  uint16_t valid = 3;  // two lists at least: one alone is merged with an empty one
  for (uint32_t i = 0; i < 4 && i * length < pairs; ++i) {
    lengths[i] = static_cast<uint16_t>(std::min(length, pairs - i * length));
    if (i >= 2) valid = static_cast<uint16_t>(valid << 1 | 1);
  }
  const auto list = [&](uint32_t i) { return lengths[i] == 0 ? src : src[i * length * kPair]; };
  AscendC::MrgSort(dst, AscendC::MrgSortSrcList<T>(list(0), list(1), list(2), list(3)),
                   AscendC::MrgSort4Info(lengths, false, valid, static_cast<uint8_t>(repeat)));
}

// Sorts `pairs`, in 32s, into `dst`: each 32, then merges by four, between `dst` and `tmp`.
template <typename T>
void SortWhole(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& tmp,
               const AscendC::LocalTensor<T>& score, const AscendC::LocalTensor<uint32_t>& index,
               uint32_t pairs) {
  constexpr uint32_t kPair = kSortedBytes / sizeof(T);
  constexpr uint32_t kRun = 32;
  constexpr uint32_t kRepeats = limits::Repeats::repeatTime.most;
  uint32_t passes = 0;
  for (uint32_t length = kRun; length < pairs; length *= 4) ++passes;
  AscendC::LocalTensor<T> from = passes % 2 == 0 ? dst : tmp;
  AscendC::LocalTensor<T> to = passes % 2 == 0 ? tmp : dst;
  AscendC::Sort32(from, score, index, static_cast<int32_t>(pairs / kRun));
  for (uint32_t length = kRun; length < pairs; length *= 4) {
    Then();
    const uint32_t whole = pairs / (4 * length);
    for (uint32_t first = 0; first < whole; first += kRepeats) {
      const uint32_t at = first * 4 * length * kPair;
      MergeFour(to[at], from[at], length, 4 * length, std::min(kRepeats, whole - first));
    }
    const uint32_t done = whole * 4 * length;
    if (done < pairs) MergeFour(to[done * kPair], from[done * kPair], length, pairs - done, 1);
    std::swap(from, to);
  }
}

// The scores, or the indices, of the first `taken` pairs of every `pairs`: one list after the
// other.
template <typename T>
void TakeScores(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& sorted,
                uint32_t taken, uint32_t lists, uint32_t pairs) {
  constexpr uint8_t kFirstOf = sizeof(T) == 4 ? 1 : 3;  // two, or four
  uint64_t count = 0;
  AscendC::GatherMask(dst, sorted, kFirstOf, true, taken * (kSortedBytes / uint32_t{sizeof(T)}),
                      {1, lists, pairs * kSortedBytes / 32, 0}, count);
}
template <typename T, typename Index>
void TakeIndices(const AscendC::LocalTensor<Index>& dst, const AscendC::LocalTensor<T>& sorted,
                 uint32_t taken, uint32_t lists, uint32_t pairs) {
  constexpr uint8_t kSecondOfTwo = 2;
  uint64_t count = 0;
  AscendC::GatherMask(dst, sorted.template ReinterpretCast<Index>(), kSecondOfTwo, true, taken * 2,
                      {1, lists, pairs * kSortedBytes / 32, 0}, count);
}

}  // namespace emulator

namespace AscendC {

// Where element number elemOffset of a sorted list is: the index of a LocalTensor.
template <typename T>
uint32_t GetSortOffset(const uint32_t elemOffset) {
  MOGE_CHECK_HALF_OR_FLOAT("GetSortOffset", T);
  return elemOffset * (emulator::kSortedBytes / sizeof(T));
}
// the bytes of a sorted list
template <typename T>
uint32_t GetSortLen(const uint32_t elemCount) {
  MOGE_CHECK_HALF_OR_FLOAT("GetSortLen", T);
  return elemCount * emulator::kSortedBytes;
}

// On A2 a list to sort is the scores themselves: a `concat` without memory becomes `src`.
template <typename T>
void Concat(LocalTensor<T>& concat, const LocalTensor<T>& src, const LocalTensor<T>& /*tmp*/,
            const int32_t repeatTime) {
  MOGE_CHECK_HALF_OR_FLOAT("Concat", T);
  const emulator::HighLevelCall call("Concat");
  emulator::CheckSortRepeat(repeatTime);
  if (concat.Ref().position == TPosition::MAX) {
    concat = src;
  } else if (repeatTime != 0) {
    DataCopy(concat, src, static_cast<uint32_t>(repeatTime) * 16);
  }
}

// 32 elements a repeat, each by itself or, in a full sort, all together
template <typename T, bool isFullSort>
void Sort(const LocalTensor<T>& dst, const LocalTensor<T>& concat,
          const LocalTensor<uint32_t>& index, LocalTensor<T>& tmp, const int32_t repeatTime) {
  MOGE_CHECK_HALF_OR_FLOAT("Sort", T);
  const emulator::HighLevelCall call("Sort");
  emulator::CheckSortRepeat(repeatTime);
  const uint32_t pairs = static_cast<uint32_t>(repeatTime) * 32;
  if constexpr (isFullSort) {
    const emulator::LocalRef room = emulator::GivenTmp(tmp.Ref(), emulator::SortTmpBytes(pairs));
    emulator::SortWhole(dst, LocalTensor<T>(room), concat, index, pairs);
  } else {
    Sort32(dst, concat, index, repeatTime);
  }
}

// 32 pairs a repeat
template <typename T>
void Extract(const LocalTensor<T>& dstValue, const LocalTensor<uint32_t>& dstIndex,
             const LocalTensor<T>& sorted, const int32_t repeatTime) {
  MOGE_CHECK_HALF_OR_FLOAT("Extract", T);
  const emulator::HighLevelCall call("Extract");
  emulator::CheckSortRepeat(repeatTime);
  if (repeatTime == 0) return;
  constexpr uint32_t kPairs = 32;
  emulator::TakeScores(dstValue, sorted, kPairs, static_cast<uint32_t>(repeatTime), kPairs);
  emulator::TakeIndices(dstIndex, sorted, kPairs, static_cast<uint32_t>(repeatTime), kPairs);
}

// sortedNum: how much of each list is sorted when one of them ends, if that ends the merge
template <typename T, bool isExhaustedSuspension = false>
void MrgSort(const LocalTensor<T>& dst, const MrgSortSrcList<T>& sortList,
             const uint16_t elementCountList[4], uint32_t sortedNum[4], uint16_t validBit,
             const int32_t repeatTime) {
  const emulator::HighLevelCall call("MrgSort");
  emulator::CheckRange(emulator::limits::MrgSort::repeatTime, repeatTime);
  const uint16_t lengths[4] = {elementCountList[0], elementCountList[1], elementCountList[2],
                               elementCountList[3]};
  MrgSort(dst, sortList,
          MrgSort4Info(lengths, isExhaustedSuspension, validBit, static_cast<uint8_t>(repeatTime)));
  if constexpr (isExhaustedSuspension) {
    uint16_t taken[4];
    GetMrgSortResult(taken[0], taken[1], taken[2], taken[3]);
    std::copy(taken, taken + 4, sortedNum);
  }
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_ADV_SORT_H_
