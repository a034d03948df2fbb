// A scalar of each row for each slot, or of each slot for each row: floats in another order.
#ifndef MOGE_ASCEND_TAKE_SCALARS_KERNEL_H_
#define MOGE_ASCEND_TAKE_SCALARS_KERNEL_H_

#include "../common.h"
#include "unpermute_tiling.h"

namespace moge {

constexpr uint32_t kTakeChunk = 16384;   // floats of the source that are in UB together, twice
constexpr uint32_t kTakeResults = 1536;  // of a pass over the source
static_assert(kTakeResults % kPerRepeat<float> == 0, "Compare takes whole repeats");
static_assert(2 * kTakeChunk * 4 + kTakeResults * (2 * 4 + 3 * 4 + 2 * 4) + kTakeResults / 8 <=
                  kUbBytes,
              "UB");

// results[i] = scalars[index[i]], and 0 where no scalar has that index. Single floats would come
// from memory in transfers of 4 bytes; so each core streams all scalars through UB, chunk by chunk,
// and takes its own there.
class TakeScalars {
 public:
  __aicore__ inline void Init(GM_ADDR scalars, GM_ADDR index, GM_ADDR results,
                              const TakeScalarsTiling& tiling, TPipe* pipe) {
    scalars_ = Global<float>(scalars);
    index_ = Global<int32_t>(index);
    results_ = Global<float>(results);
    size_ = tiling.size;
    chunks_ = CeilDiv(size_, kTakeChunk);
    pipe->InitBuffer(chunk_, 2, kTakeChunk * sizeof(float));
    pipe->InitBuffer(in_, 2, kTakeResults * sizeof(int32_t));
    pipe->InitBuffer(work_, 3 * kTakeResults * sizeof(int32_t));
    pipe->InitBuffer(bits_, kTakeResults / 8);
    pipe->InitBuffer(out_, 2, kTakeResults * sizeof(float));
  }
  __aicore__ inline void Process(const TakeScalarsTiling& tiling) {
    const Share share = MyShare(tiling.count);
    for (uint64_t first = share.begin; first < share.end; first += kTakeResults) {
      Pass(first, Min(kTakeResults, share.end - first));
    }
  }

 private:
  __aicore__ inline void Pass(uint64_t first, uint32_t count) {
    const uint32_t filled = RoundUp(count, kPerBlock<int32_t>);
    const uint32_t whole = RoundUp(count, kPerRepeat<float>);
    LocalTensor<int32_t> index = in_.AllocTensor<int32_t>();
    DataCopyPad(index, index_[first], DataCopyExtParams(1, count * sizeof(int32_t), 0, 0, 0),
                DataCopyPadExtParams<int32_t>(true, 0, filled - count, -1));
    in_.EnQue(index);
    if (chunks_ != 0) CopyIn(0);
    index = in_.DeQue<int32_t>();
    Duplicate(index[filled], -1, whole - filled);
    LocalTensor<float> results = out_.AllocTensor<float>();
    Duplicate(results, 0.0f, whole);
    for (uint64_t i = 0; i < chunks_; ++i) {
      if (i + 1 < chunks_) CopyIn(i + 1);
      LocalTensor<float> chunk = chunk_.DeQue<float>();
      Take(results, chunk, index, whole, Begin(i));
      chunk_.FreeTensor(chunk);
    }
    in_.FreeTensor(index);
    out_.EnQue(results);
    results = out_.DeQue<float>();
    Store(results_[first], results, count);
    out_.FreeTensor(results);
  }
  // Each core begins at another chunk, lest all of them read the same addresses at once.
  __aicore__ inline uint64_t Begin(uint64_t i) const {
    return (i + GetBlockIdx()) % chunks_ * kTakeChunk;
  }
  __aicore__ inline uint32_t Length(uint64_t begin) const { return Min(kTakeChunk, size_ - begin); }
  __aicore__ inline void CopyIn(uint64_t i) {
    const uint64_t begin = Begin(i);
    LocalTensor<float> chunk = chunk_.AllocTensor<float>();
    Load(chunk, scalars_[begin], Length(begin));
    chunk_.EnQue(chunk);
  }
  // Gather takes something for each index; what is kept is what an index of this chunk got.
  __aicore__ inline void Take(const LocalTensor<float>& results, const LocalTensor<float>& chunk,
                              const LocalTensor<int32_t>& index, uint32_t count, uint64_t begin) {
    LocalTensor<int32_t> wanted = work_.Get<int32_t>(), inside = wanted[kTakeResults];
    LocalTensor<float> taken = wanted[2 * kTakeResults].ReinterpretCast<float>();
    LocalTensor<uint8_t> bits = bits_.Get<uint8_t>();
    Adds(wanted, index, -static_cast<int32_t>(begin), count);
    Maxs(inside, wanted, 0, count);
    Mins(inside, inside, static_cast<int32_t>(Length(begin)) - 1, count);
    Compare(bits, inside, wanted, CMPMODE::EQ, count);
    ShiftLeft(inside, inside, 2, count);  // bytes
    Gather(taken, chunk, inside.ReinterpretCast<uint32_t>(), 0, count);
    Select(results, bits, taken, results, SELMODE::VSEL_TENSOR_TENSOR_MODE, count);
  }

  GlobalTensor<float> scalars_, results_;
  GlobalTensor<int32_t> index_;
  uint64_t size_ = 0, chunks_ = 0;
  TQue<TPosition::VECIN, 2> chunk_;
  TQue<TPosition::VECIN, 1> in_;
  TBuf<TPosition::VECCALC> work_, bits_;
  TQue<TPosition::VECOUT, 1> out_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_TAKE_SCALARS_KERNEL_H_
