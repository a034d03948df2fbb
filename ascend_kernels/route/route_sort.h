// A whole list of keys in descending order, by Sort32 and MrgSort; and whole numbers in float.
#ifndef MOGE_ASCEND_ROUTE_SORT_H_
#define MOGE_ASCEND_ROUTE_SORT_H_

#include "../common.h"

namespace moge {

constexpr uint32_t kSortRun = 32;   // what Sort32 sorts at once
constexpr uint32_t kPairWords = 2;  // a sorted list has pairs: the key, and a word that goes along

// Merges each four lists of `length` pairs; the last list may be shorter.
__aicore__ inline void MergeLists(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                                  uint32_t length, uint32_t pairs) {
  const uint32_t whole = pairs / (4 * length);  // at most 2624 / 128, so one instruction has them
  if (whole != 0) {
    const auto each = static_cast<uint16_t>(length);
    const uint16_t lengths[4] = {each, each, each, each};
    const uint32_t words = length * kPairWords;
    MrgSort(dst, MrgSortSrcList<float>(src, src[words], src[2 * words], src[3 * words]),
            MrgSort4Info(lengths, false, 15, whole));
  }
  const uint32_t done = whole * 4 * length;
  if (done == pairs) return;
  uint16_t lengths[4] = {0, 0, 0, 0};
  uint32_t at[4] = {done, done, done, done};
  uint32_t lists = 0;
  for (uint32_t from = done; from < pairs; from += length, ++lists) {
    at[lists] = from;
    lengths[lists] = static_cast<uint16_t>(Min(length, pairs - from));
  }
  // one list alone is merged with an empty one
  const uint16_t valid = lists == 3 ? 7 : lists == 4 ? 15 : 3;
  MrgSort(dst[done * kPairWords],
          MrgSortSrcList<float>(src[at[0] * kPairWords], src[at[1] * kPairWords],
                                src[at[2] * kPairWords], src[at[3] * kPairWords]),
          MrgSort4Info(lengths, false, valid, 1));
}

// `count` is a multiple of 32. Returns a or b, the one that has the sorted pairs.
__aicore__ inline LocalTensor<float> SortPairs(const LocalTensor<float>& a,
                                               const LocalTensor<float>& b,
                                               const LocalTensor<float>& keys,
                                               const LocalTensor<uint32_t>& words, uint32_t count) {
  LocalTensor<float> from = a, to = b;
  Sort32(from, keys, words, static_cast<int32_t>(count / kSortRun));
  for (uint32_t length = kSortRun; length < count; length *= 4) {
    MergeLists(to, from, length, count);
    const LocalTensor<float> merged = to;
    to = from;
    from = merged;
  }
  return from;
}

// the keys of a sorted list, or the words that go along
__aicore__ inline void TakeKeys(const LocalTensor<float>& dst, const LocalTensor<float>& pairs,
                                uint32_t count) {
  uint64_t taken = 0;
  GatherMask(dst, pairs, static_cast<uint8_t>(1), true, count * kPairWords,
             GatherMaskParams(1, 1, 8, 8), taken);
}
__aicore__ inline void TakeWords(const LocalTensor<int32_t>& dst, const LocalTensor<float>& pairs,
                                 uint32_t count) {
  uint64_t taken = 0;
  GatherMask(dst, pairs.ReinterpretCast<int32_t>(), static_cast<uint8_t>(2), true,
             count * kPairWords, GatherMaskParams(1, 1, 8, 8), taken);
}

// floor(src / divisor), and what is left of it, of integers far below 2^22 / divisor
__aicore__ inline void FloorOfRatio(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                                    uint32_t divisor, uint32_t count) {
  Adds(dst, src, 0.5f, count);
  Muls(dst, dst, 1.0f / static_cast<float>(divisor), count);
  Cast(dst, dst, RoundMode::CAST_FLOOR, count);
}
__aicore__ inline void Remainder(const LocalTensor<float>& dst, const LocalTensor<float>& src,
                                 uint32_t divisor, uint32_t count) {
  FloorOfRatio(dst, src, divisor, count);
  Muls(dst, dst, -static_cast<float>(divisor), count);
  Add(dst, dst, src, count);
}

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_SORT_H_
