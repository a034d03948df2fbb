// TopK: the k largest or smallest of each row, with their indices.
#ifndef MOGE_EMULATOR_ADV_TOPK_H_
#define MOGE_EMULATOR_ADV_TOPK_H_

#include "adv/sort.h"
#include "adv/tiling_data.h"

namespace AscendC {

struct TopKInfo {
  int32_t outter = 1;
  int32_t inner;
  int32_t n;
};

}  // namespace AscendC

namespace emulator {

void CheckTopK(const AscendC::TopKInfo& info, int32_t k, bool small, bool has_finished);
void CheckTopKTmp(const LocalRef& tmp);

// The memory of one call, as its forms leave it.
template <typename T>
struct TopKOperands {
  const AscendC::LocalTensor<T>& value;
  const AscendC::LocalTensor<int32_t>& index;
  const AscendC::LocalTensor<T>& src;
  const AscendC::LocalTensor<int32_t>& src_index;
  uint32_t k, rows, inner;
  bool largest;
};

// Scores so that the largest come first.
template <typename T>
AscendC::LocalTensor<T> Descending(const TopKOperands<T>& call, const AscendC::LocalTensor<T>& src,
                                   const LocalRef& tmp, uint32_t* byte, uint32_t count) {
  if (call.largest) return src;
  auto negated = TakePart<T>(tmp, byte, count);
  AscendC::Muls(negated, src, static_cast<T>(-1), static_cast<int32_t>(count));
  Then();
  return negated;
}

template <typename T, bool has_index>
void TopKSmall(const TopKOperands<T>& call, const LocalRef& tmp) {
  const uint32_t count = call.rows * call.inner;
  uint32_t byte = 0;
  auto sorted = TakePart<T>(tmp, &byte, count * kSortedBytes / sizeof(T));
  AscendC::LocalTensor<int32_t> index = call.src_index;
  if constexpr (!has_index) {
    index = TakePart<int32_t>(tmp, &byte, count);
    for (uint32_t row = 0; row < call.rows; ++row) {
      AscendC::CreateVecIndex(index[row * call.inner], int32_t{0}, call.inner);
    }
    Then();
  }
  const auto score = Descending(call, call.src, tmp, &byte, count);
  constexpr uint32_t kRepeats = limits::Repeats::repeatTime.most;
  for (uint32_t row = 0; row < call.rows; row += kRepeats) {
    const uint32_t at = row * call.inner;
    AscendC::Sort32(sorted[at * (kSortedBytes / uint32_t{sizeof(T)})], score[at],
                    index[at].template ReinterpretCast<uint32_t>(),
                    static_cast<int32_t>(std::min(kRepeats, call.rows - row)));
  }
  Then();
  TakeScores(call.value, sorted, call.k, call.rows, call.inner);
  TakeIndices(call.index, sorted, call.k, call.rows, call.inner);
  if (!call.largest) {
    Then();
    AscendC::Muls(call.value, call.value, static_cast<T>(-1),
                  static_cast<int32_t>(call.rows * call.k));
  }
}

template <typename T, bool has_index>
void TopKRows(const TopKOperands<T>& call, const LocalRef& tmp) {
  uint32_t byte = 0;
  const uint32_t list = call.inner * (kSortedBytes / uint32_t{sizeof(T)});
  auto sorted = TakePart<T>(tmp, &byte, list);
  auto other = TakePart<T>(tmp, &byte, list);
  AscendC::LocalTensor<int32_t> index = call.src_index;
  if constexpr (!has_index) {
    index = TakePart<int32_t>(tmp, &byte, call.inner);
    AscendC::CreateVecIndex(index, int32_t{0}, call.inner);
  }
  constexpr uint32_t kInBlock = 32 / sizeof(T);
  const uint32_t value_row = RoundUp(call.k, kInBlock);
  const uint32_t index_row = RoundUp(call.k, 8);
  for (uint32_t row = 0; row < call.rows; ++row) {
    Then();
    uint32_t rest = byte;
    const auto score = Descending(call, call.src[row * call.inner], tmp, &rest, call.inner);
    SortWhole(sorted, other, score, index.template ReinterpretCast<uint32_t>(), call.inner);
    Then();
    const auto value = call.value[row * value_row];
    TakeScores(value, sorted, call.k, 1, call.inner);
    TakeIndices(call.index[row * index_row], sorted, call.k, 1, call.inner);
    if (!call.largest) {
      Then();
      AscendC::Muls(value, value, static_cast<T>(-1), static_cast<int32_t>(call.k));
    }
  }
}

template <typename T, bool has_index, bool has_finished, bool small>
void TopKInto(const TopKOperands<T>& call, const AscendC::LocalTensor<bool>& finished, int32_t n,
              const LocalRef& tmp) {
  if constexpr (small) {
    TopKSmall<T, has_index>(call, tmp);
  } else {
    TopKRows<T, has_index>(call, tmp);
  }
  if constexpr (has_finished) {
    AwaitVector();
    const uint32_t index_row = RoundUp(call.k, 8);
    Then();
    for (uint32_t row = 0; row < call.rows; ++row) {
      if (!finished.GetValue(row)) continue;
      AscendC::Duplicate(call.index[row * index_row], n, static_cast<int32_t>(call.k));
    }
  }
}

// What both forms check, and how much temporary memory they need.
template <typename T, bool has_index, bool has_finished, bool small>
uint32_t PrepareTopK(const AscendC::TopKInfo& info, int32_t k, bool largest) {
  MOGE_CHECK_HALF_OR_FLOAT("TopK", T);
  CheckTopK(info, k, small, has_finished);
  return TopKTmpBytes(static_cast<uint32_t>(info.inner), static_cast<uint32_t>(info.outter),
                      has_index, small, largest, sizeof(T));
}

}  // namespace emulator

namespace AscendC {

template <typename T, bool isInitIndex = false, bool isHasfinish = false, bool isReuseSrc = false,
          enum TopKMode topkMode = TopKMode::TOPK_NORMAL>
void TopK(const LocalTensor<T>& dstValueLocal, const LocalTensor<int32_t>& dstIndexLocal,
          const LocalTensor<T>& srcLocal, const LocalTensor<int32_t>& srcIndexLocal,
          const LocalTensor<bool>& finishLocal, const LocalTensor<uint8_t>& tmpLocal,
          const int32_t k, const TopkTiling& /*tilling*/, const TopKInfo& topKInfo,
          const bool isLargest = true) {
  constexpr bool kSmall = topkMode == TopKMode::TOPK_NSMALL;
  const emulator::HighLevelCall call("TopK");
  const uint32_t bytes =
      emulator::PrepareTopK<T, isInitIndex, isHasfinish, kSmall>(topKInfo, k, isLargest);
  emulator::CheckTopKTmp(tmpLocal.Ref());
  emulator::TopKInto<T, isInitIndex, isHasfinish, kSmall>(
      {dstValueLocal, dstIndexLocal, srcLocal, srcIndexLocal, static_cast<uint32_t>(k),
       static_cast<uint32_t>(topKInfo.outter), static_cast<uint32_t>(topKInfo.inner), isLargest},
      finishLocal, topKInfo.n, emulator::GivenTmp(tmpLocal.Ref(), bytes));
}
template <typename T, bool isInitIndex = false, bool isHasfinish = false, bool isReuseSrc = false,
          enum TopKMode topkMode = TopKMode::TOPK_NORMAL>
void TopK(const LocalTensor<T>& dstValueLocal, const LocalTensor<int32_t>& dstIndexLocal,
          const LocalTensor<T>& srcLocal, const LocalTensor<int32_t>& srcIndexLocal,
          const LocalTensor<bool>& finishLocal, const int32_t k, const TopkTiling& tilling,
          const TopKInfo& topKInfo, const bool isLargest = true) {
  const emulator::HighLevelCall call("TopK");
  constexpr bool kSmall = topkMode == TopKMode::TOPK_NSMALL;
  const uint32_t bytes =
      emulator::PrepareTopK<T, isInitIndex, isHasfinish, kSmall>(topKInfo, k, isLargest);
  const LocalTensor<uint8_t> tmp(emulator::FrameworkTmp(bytes));
  TopK<T, isInitIndex, isHasfinish, isReuseSrc, topkMode>(dstValueLocal, dstIndexLocal, srcLocal,
                                                          srcIndexLocal, finishLocal, tmp, k,
                                                          tilling, topKInfo, isLargest);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_ADV_TOPK_H_
