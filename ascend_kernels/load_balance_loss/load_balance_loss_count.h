// How often each expert was chosen. Ids are compared with 64 experts, 128 at a time, and the bits
// that come out are added up 16 in a lane:
//
//    bits [chunk of 128 ids, expert, 8 words of 16 bits] -> nibbles -> bytes -> [expert, 8] ->
//    [expert]
#ifndef MOGE_ASCEND_LOAD_BALANCE_LOSS_COUNT_H_
#define MOGE_ASCEND_LOAD_BALANCE_LOSS_COUNT_H_

#include "../common.h"

namespace moge {

constexpr uint32_t kLossChunk = kPerRepeat<half>;  // ids of a comparison
constexpr uint32_t kLossExperts = 64;              // of a comparison
constexpr uint32_t kLossChunks = 11;               // of a tile of ids
constexpr uint32_t kLossIds = kLossChunks * kLossChunk;
constexpr uint32_t kLossWords = kLossExperts * kLossChunk / 16;        // bits of a chunk, in words
constexpr uint32_t kLossBits = kLossChunks * kLossWords + kApart / 2;  // words: a tile's, and a gap
static_assert(LieApart(kLossBits * 2), "banks");
static_assert(8 * kLossChunks < 128, "bytes add up without reaching the sign of a word");
// UB: ids twice, their distances to an expert in 4 and in 2 bytes; the experts; bits and two more
// tensors like them; three masks
constexpr uint32_t kLossCountBytes =
    kLossIds * (2 * 4 + 4 + 2) + kLossExperts * kBlockBytes + 3 * kLossBits * 2 + 3 * kBlockBytes;

class LossCounts {
 public:
  __aicore__ inline void Init(GM_ADDR experts, TPipe* pipe) {
    experts_ = Global<int32_t>(experts);
    pipe->InitBuffer(in_, 2, kLossIds * sizeof(int32_t));
    pipe->InitBuffer(distance_, kLossIds * sizeof(float));
    pipe->InitBuffer(ids_, kLossIds * sizeof(half));
    pipe->InitBuffer(each_, kLossExperts * kBlockBytes);
    pipe->InitBuffer(bits_, 3 * kLossBits * sizeof(uint16_t));
    pipe->InitBuffer(masks_, 3 * kBlockBytes);
    LocalTensor<half> numbers = ids_.Get<half>();
    CreateVecIndex(numbers, static_cast<half>(0.0f), kLossExperts);
    Brcb(each_.Get<half>(), numbers, kLossExperts / 8, BrcbRepeatParams(1, 8));
    LocalTensor<uint16_t> masks = masks_.Get<uint16_t>();
    constexpr uint32_t kWords = kPerBlock<uint16_t>;
    Duplicate(masks, static_cast<uint16_t>(0x1111), kWords);
    Duplicate(masks[kWords], static_cast<uint16_t>(0x0f0f), kWords);
    Duplicate(masks[2 * kWords], static_cast<uint16_t>(0x00ff), kWords);
  }
  // Loads the first of these slots' ids.
  __aicore__ inline void Begin(const Share& slots) {
    slots_ = slots;
    if (slots_.begin < slots_.end) CopyIn();
  }
  // Adds how often each of E experts was chosen; other ids count for none.
  __aicore__ inline void Count(const LocalTensor<int32_t>& counts, uint32_t E) {
    while (slots_.begin < slots_.end) {
      const uint32_t count = Min(kLossIds, slots_.end - slots_.begin);
      slots_.begin += count;
      if (slots_.begin < slots_.end) CopyIn();
      LocalTensor<int32_t> ids = in_.DeQue<int32_t>();
      const uint32_t filled = RoundUp(count, kPerBlock<int32_t>);
      const uint32_t whole = RoundUp(count, kLossChunk);
      Duplicate(ids[filled], -1, whole - filled);
      for (uint32_t first = 0; first < E; first += kLossExperts) {
        CountOf64(counts[first], ids, whole, static_cast<int32_t>(first));
      }
      in_.FreeTensor(ids);
    }
  }

 private:
  __aicore__ inline void CopyIn() {
    const uint32_t count = Min(kLossIds, slots_.end - slots_.begin);
    const uint32_t filler = RoundUp(count, kPerBlock<int32_t>) - count;
    LocalTensor<int32_t> ids = in_.AllocTensor<int32_t>();
    DataCopyPad(ids, experts_[slots_.begin], DataCopyExtParams(1, count * sizeof(int32_t), 0, 0, 0),
                DataCopyPadExtParams<int32_t>(true, 0, filler, -1));
    in_.EnQue(ids);
  }
  __aicore__ inline void CountOf64(const LocalTensor<int32_t>& counts,
                                   const LocalTensor<int32_t>& ids, uint32_t count, int32_t first) {
    // distances to the first expert; those of all others become -1 or 64, which half can hold
    LocalTensor<int32_t> distance = distance_.Get<int32_t>();
    Maxs(distance, ids, first - 1, count);
    Mins(distance, distance, first + static_cast<int32_t>(kLossExperts), count);
    Adds(distance, distance, -first, count);
    LocalTensor<float> wide = distance.ReinterpretCast<float>();
    Cast(wide, distance, RoundMode::CAST_NONE, count);
    LocalTensor<half> narrow = ids_.Get<half>();
    Cast(narrow, wide, RoundMode::CAST_NONE, count);

    uint32_t chunks = count / kLossChunk;
    LocalTensor<uint16_t> bits = bits_.Get<uint16_t>();
    for (uint32_t i = 0; i < chunks; ++i) {
      // the same ids for each expert, which is one block for all of them
      Compare(bits[i * kLossWords].ReinterpretCast<uint8_t>(), narrow[i * kLossChunk],
              each_.Get<half>(), CMPMODE::EQ, kLossChunk, kLossExperts,
              BinaryRepeatParams(1, 1, 0, 8, 0, 1));
    }
    LocalTensor<int16_t> sums = Bytes(bits, chunks * kLossWords).ReinterpretCast<int16_t>();
    while (chunks > 1) {  // the upper half onto the lower one
      const uint32_t upper = chunks / 2;
      Add(sums, sums, sums[(chunks - upper) * kLossWords], upper * kLossWords);
      chunks -= upper;
    }
    // both bytes of a word, then the words of an expert
    LocalTensor<uint16_t> low = sums.ReinterpretCast<uint16_t>(), high = bits;
    ShiftRight(high, low, static_cast<uint16_t>(8), kLossWords);
    Keep(low, low, 2, kLossWords);
    AddWords(low, low, high, kLossWords);
    Cast(wide, sums, RoundMode::CAST_NONE, kLossWords);
    LocalTensor<float> totals = wide[kLossWords];
    ReduceDataBlock<ReduceType::SUM>(totals, wide, kPerRepeat<float>,
                                     kLossWords * sizeof(float) / kRepeatBytes, 1, 1, 8);
    Cast(distance, totals, RoundMode::CAST_RINT, kLossExperts);
    Add(counts, counts, distance, kLossExperts);
  }
  // How many bits of each byte are set. They are added up four by four first: two by two, a sum
  // would reach the sign of a word. `bits` is overwritten.
  __aicore__ inline LocalTensor<uint16_t> Bytes(const LocalTensor<uint16_t>& bits, uint32_t count) {
    LocalTensor<uint16_t> sums = bits[kLossBits];
    LocalTensor<uint16_t> next = sums[kLossBits];
    Keep(sums, bits, 0, count);
    for (uint16_t shift = 1; shift < 4; ++shift) {
      ShiftRight(next, bits, shift, count);
      Keep(next, next, 0, count);
      AddWords(sums, sums, next, count);
    }
    ShiftRight(next, sums, static_cast<uint16_t>(4), count);
    AddWords(sums, sums, next, count);
    Keep(sums, sums, 1, count);
    return sums;
  }
  // The bits that the mask has; it is one block for all of them.
  __aicore__ inline void Keep(const LocalTensor<uint16_t>& dst, const LocalTensor<uint16_t>& src,
                              uint32_t mask, uint32_t count) {
    And(dst, src, masks_.Get<uint16_t>()[mask * kPerBlock<uint16_t>], kLossChunk,
        count / kLossChunk, BinaryRepeatParams(1, 1, 0, 8, 8, 0));
  }
  __aicore__ inline void AddWords(const LocalTensor<uint16_t>& dst,
                                  const LocalTensor<uint16_t>& src0,
                                  const LocalTensor<uint16_t>& src1, uint32_t count) {
    Add(dst.ReinterpretCast<int16_t>(), src0.ReinterpretCast<int16_t>(),
        src1.ReinterpretCast<int16_t>(), count);
  }

  GlobalTensor<int32_t> experts_;
  Share slots_{0, 0};
  TQue<TPosition::VECIN, 2> in_;
  TBuf<TPosition::VECCALC> distance_, ids_, each_, bits_, masks_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_LOAD_BALANCE_LOSS_COUNT_H_
