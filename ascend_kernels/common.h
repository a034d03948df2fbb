// What the kernels of several operators share.
#ifndef MOGE_ASCEND_COMMON_H_
#define MOGE_ASCEND_COMMON_H_

#include "kernel_operator.h"

namespace moge {

using namespace AscendC;

constexpr uint32_t kBlockBytes = 32;    // local addresses and rows in UB begin on a block
constexpr uint32_t kRepeatBytes = 256;  // one repeat of a vector instruction covers 8 blocks
constexpr uint32_t kMaxRepeats = 255;   // an instruction has no more
// 192 KiB, less the 256 bytes that no kernel may use, less 8 KiB for Select's tensor modes
constexpr uint32_t kUbBytes = 196608 - 256 - 8192;

// Blocks that follow each other lie in 16 groups of banks in turn, and a group gives one block a
// cycle. So two sources of an instruction take twice as long, unless the 8 blocks of one lie in the
// other half of the groups: kApart, and any number of rounds, away.
constexpr uint32_t kGroupsRound = 512;  // bytes: a block of each group
constexpr uint32_t kApart = kGroupsRound / 2;
constexpr bool LieApart(uint32_t bytes) { return bytes % kGroupsRound == kApart; }

template <typename T>
constexpr bool kIsFloat = sizeof(T) == sizeof(float);
template <typename T>
constexpr uint32_t kPerBlock = kBlockBytes / sizeof(T);
template <typename T>
constexpr uint32_t kPerRepeat = kRepeatBytes / sizeof(T);

constexpr uint64_t CeilDiv(uint64_t a, uint64_t b) { return (a + b - 1) / b; }
constexpr uint32_t RoundUp(uint32_t a, uint32_t b) { return (a + b - 1) / b * b; }

__aicore__ inline uint64_t Min(uint64_t a, uint64_t b) { return a < b ? a : b; }
__aicore__ inline uint64_t Max(uint64_t a, uint64_t b) { return a < b ? b : a; }

// Pangu's numbers, for which gate and route have kernels of their own: in float, the P experts of a
// group are a block of 32 bytes, and the E scores of a token a repeat of 256.
struct Pangu {
  static constexpr uint32_t kE = 64, kG = 8, kP = kE / kG;
};

// The share of `total` units that falls to a core: shares differ by one unit at most.
struct Share {
  uint64_t begin;
  uint64_t end;
};
__aicore__ inline Share ShareOf(uint64_t total, uint64_t core, uint64_t cores) {
  const uint64_t each = total / cores;
  const uint64_t more = total % cores;
  const uint64_t begin = core * each + Min(core, more);
  return {begin, begin + each + (core < more ? 1 : 0)};
}
__aicore__ inline Share ShareOf(uint64_t total, uint64_t core) {
  return ShareOf(total, core, GetBlockNum());
}
__aicore__ inline Share MyShare(uint64_t total) { return ShareOf(total, GetBlockIdx()); }

template <typename T>
__aicore__ inline GlobalTensor<T> Global(GM_ADDR address) {
  GlobalTensor<T> tensor;
  tensor.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(address));
  return tensor;
}

// One contiguous piece of any length. In UB, what follows it in its last block is undefined.
template <typename T>
__aicore__ inline void Load(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t count) {
  DataCopyPad(dst, src, DataCopyExtParams(1, count * sizeof(T), 0, 0, 0),
              DataCopyPadExtParams<T>(false, 0, 0, static_cast<T>(0)));
}
template <typename T>
__aicore__ inline void Store(const GlobalTensor<T>& dst, const LocalTensor<T>& src,
                             uint32_t count) {
  DataCopyPad(dst, src, DataCopyExtParams(1, count * sizeof(T), 0, 0, 0));
}

// All arithmetic is in float: the chip has none in bfloat16, and float16 would lose digits.
template <typename T>
__aicore__ inline void Widen(const LocalTensor<float>& dst, const LocalTensor<T>& src,
                             uint32_t count) {
  Cast(dst, src, RoundMode::CAST_NONE, count);
}
template <typename T>
__aicore__ inline void Narrow(const LocalTensor<T>& dst, const LocalTensor<float>& src,
                              uint32_t count) {
  Cast(dst, src, RoundMode::CAST_RINT, count);
}

}  // namespace moge

// One entry for each dtype; `entries(suffix, type)` is the operator's macro.
#define MOGE_FOR_EACH_DTYPE(entries) \
  entries(float16, half) entries(bfloat16, bfloat16_t) entries(float32, float)

#endif  // MOGE_ASCEND_COMMON_H_
