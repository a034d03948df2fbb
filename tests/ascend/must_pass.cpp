// Correct kernels with queues; tests/emulator/test_kernels.py compares each with NumPy.
#include "common.h"

namespace moge_tests {

namespace {

// --- element-wise, double-buffered queues, a tail --------------------------------------------

// y = exp(x) + x over 1000 floats, in tiles of 256
class ElementWise {
 public:
  __aicore__ void Init(GM_ADDR x, GM_ADDR y) {
    x_ = Global<float>(x);
    y_ = Global<float>(y);
    pipe_.InitBuffer(in_, 2, kTile * sizeof(float));
    pipe_.InitBuffer(out_, 2, kTile * sizeof(float));
  }
  __aicore__ void Process() {
    for (uint32_t first = 0; first < kSize; first += kTile) {
      const uint32_t count = kSize - first < kTile ? kSize - first : kTile;
      CopyIn(first, count);
      Compute(count);
      CopyOut(first, count);
    }
  }

 private:
  static constexpr uint32_t kSize = 1000;
  static constexpr uint32_t kTile = 256;

  __aicore__ void CopyIn(uint32_t first, uint32_t count) {
    LocalTensor<float> x = in_.AllocTensor<float>();
    const auto bytes = static_cast<uint32_t>(count * sizeof(float));
    DataCopyPad(x, x_[first], DataCopyExtParams(1, bytes, 0, 0, 0), {true, 0, 0, 0.0f});
    in_.EnQue(x);
  }
  __aicore__ void Compute(uint32_t count) {
    LocalTensor<float> x = in_.DeQue<float>();
    LocalTensor<float> y = out_.AllocTensor<float>();
    Exp(y, x, count);
    Add(y, y, x, count);
    out_.EnQue(y);
    in_.FreeTensor(x);
  }
  __aicore__ void CopyOut(uint32_t first, uint32_t count) {
    LocalTensor<float> y = out_.DeQue<float>();
    const auto bytes = static_cast<uint32_t>(count * sizeof(float));
    DataCopyPad(y_[first], y, DataCopyExtParams(1, bytes, 0, 0, 0));
    out_.FreeTensor(y);
  }

  TPipe pipe_;
  TQue<TPosition::VECIN, 1> in_;
  TQue<TPosition::VECOUT, 1> out_;
  GlobalTensor<float> x_;
  GlobalTensor<float> y_;
};

__global__ __vector__ void elementwise(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  ElementWise op;
  op.Init(x, y);
  op.Process();
}

// y = 2x in bf16: 512 elements through float
__global__ __vector__ void bf16_double(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr int32_t kCount = 512;
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  TBuf<TPosition::VECCALC> wide;
  pipe.InitBuffer(in, 1, kCount * sizeof(bfloat16_t));
  pipe.InitBuffer(out, 1, kCount * sizeof(bfloat16_t));
  pipe.InitBuffer(wide, kCount * sizeof(float));
  auto source = in.AllocTensor<bfloat16_t>();
  DataCopy(source, Global<bfloat16_t>(x), kCount);
  in.EnQue(source);
  source = in.DeQue<bfloat16_t>();
  auto values = wide.Get<float>();
  Cast(values, source, RoundMode::CAST_NONE, kCount);
  in.FreeTensor(source);
  Muls(values, values, 2.0f, kCount);
  auto result = out.AllocTensor<bfloat16_t>();
  Cast(result, values, RoundMode::CAST_RINT, kCount);
  out.EnQue(result);
  result = out.DeQue<bfloat16_t>();
  DataCopy(Global<bfloat16_t>(y), result, kCount);
  out.FreeTensor(result);
}

// --- reductions ------------------------------------------------------------------------------

// softmax over rows of 64 floats, 40 rows at once
__global__ __vector__ void softmax_rows(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kRows = 40;
  constexpr uint32_t kWidth = 64;
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  TBuf<TPosition::VECCALC> results;
  TBuf<TPosition::VECCALC> spread;
  pipe.InitBuffer(in, 1, kRows * kWidth * sizeof(float));
  pipe.InitBuffer(out, 1, kRows * kWidth * sizeof(float));
  pipe.InitBuffer(results, kRows * sizeof(float));
  pipe.InitBuffer(spread, kRows * 32);
  auto rows = in.AllocTensor<float>();
  DataCopy(rows, Global<float>(x), kRows * kWidth);
  in.EnQue(rows);
  rows = in.DeQue<float>();
  auto probabilities = out.AllocTensor<float>();
  auto reduced = results.Get<float>();
  auto blocks = spread.Get<float>();  // the result of a row, in all 8 places of a block
  const BinaryRepeatParams by_row(1, 1, 0, 8, 8, 1);
  WholeReduceMax(reduced, rows, kWidth, kRows, 1, 1, 8, ReduceOrder::ORDER_ONLY_VALUE);
  Brcb(blocks, reduced, kRows / 8, {1, 8});
  Sub(probabilities, rows, blocks, uint64_t{kWidth}, kRows, by_row);
  Exp(probabilities, probabilities, kRows * kWidth);
  WholeReduceSum(reduced, probabilities, kWidth, kRows, 1, 1, 8);
  Brcb(blocks, reduced, kRows / 8, {1, 8});
  Div(probabilities, probabilities, blocks, uint64_t{kWidth}, kRows, by_row);
  in.FreeTensor(rows);
  out.EnQue(probabilities);
  probabilities = out.DeQue<float>();
  DataCopy(Global<float>(y), probabilities, kRows * kWidth);
  out.FreeTensor(probabilities);
}

// index of the largest of every 8 floats, lowest first; 32 rows of 64
__global__ __vector__ void group_argmax(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kRows = 32;
  constexpr uint32_t kCount = kRows * 64;
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  TBuf<> best, spread, bits, index;
  pipe.InitBuffer(in, 1, kCount * sizeof(float));
  pipe.InitBuffer(out, 1, kRows * 8 * sizeof(float));
  pipe.InitBuffer(best, kRows * 8 * sizeof(float));
  pipe.InitBuffer(spread, kCount * sizeof(float));
  pipe.InitBuffer(bits, kCount / 8);
  pipe.InitBuffer(index, 64 * sizeof(float));
  auto lane = index.Get<float>();  // 0 to 7, in each block
  for (uint32_t block = 0; block < 8; ++block) CreateVecIndex(lane[block * 8], 0.0f, 8);
  auto rows = in.AllocTensor<float>();
  DataCopy(rows, Global<float>(x), kCount);
  in.EnQue(rows);
  rows = in.DeQue<float>();
  auto maxima = best.Get<float>();
  BlockReduceMax(maxima, rows, kRows, 64, 1, 1, 8);
  auto wide = spread.Get<float>();
  Brcb(wide, maxima, kRows, {1, 8});
  auto equal = bits.Get<uint8_t>();
  Compare(equal, rows, wide, CMPMODE::EQ, kCount);
  in.FreeTensor(rows);
  Duplicate(wide, 8.0f, kCount);
  Select(wide, equal, lane, wide, SELMODE::VSEL_TENSOR_TENSOR_MODE, uint64_t{64}, kRows,
         {1, 1, 1, 8, 0, 8});
  auto result = out.AllocTensor<float>();
  BlockReduceMin(result, wide, kRows, 64, 1, 1, 8);
  out.EnQue(result);
  result = out.DeQue<float>();
  DataCopy(Global<float>(y), result, kRows * 8);
  out.FreeTensor(result);
}

// --- gathering -------------------------------------------------------------------------------

// rows of 20 floats by index: y[i] = x[z[i]]; a queue that goes in and out
__global__ __vector__ void gather_rows(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  constexpr uint32_t kRows = 33;
  constexpr uint32_t kWidth = 20;
  TPipe pipe;
  TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> rows;
  pipe.InitBuffer(rows, 2, 96);
  auto index = Global<int32_t>(z);
  const DataCopyExtParams row(1, kWidth * sizeof(float), 0, 0, 0);
  for (uint32_t i = 0; i < kRows; ++i) {
    auto buffer = rows.AllocTensor<float>();
    DataCopyPad(buffer, Global<float>(x)[index.GetValue(i) * kWidth], row, {false, 0, 0, 0.0f});
    rows.EnQue(buffer);
    buffer = rows.DeQue<float>();
    DataCopyPad(Global<float>(y)[i * kWidth], buffer, row);
    rows.FreeTensor(buffer);
  }
}

// rows of 5 floats out of rows of 8, with 1 and 2 floats of padding, to every second block, and
// back
__global__ __vector__ void padded_rows(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kRows = 6;
  constexpr uint32_t kBytes = 5 * sizeof(float);
  TPipe pipe;
  TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> queue;
  pipe.InitBuffer(queue, 1, kRows * 64);
  auto rows = queue.AllocTensor<float>();
  const DataCopyExtParams in(kRows, kBytes, 3 * sizeof(float), 1, 0);
  DataCopyPad(rows, Global<float>(x), in, {true, 1, 2, 7.0f});
  queue.EnQue(rows);
  rows = queue.DeQue<float>();
  // whole blocks, the unwritten ones left out; then the rows with their left padding, 3 bytes apart
  DataCopy(Global<float>(y), rows, DataCopyParams(kRows, 1, 1, 0));
  DataCopyPad(Global<int8_t>(y)[1024], rows.ReinterpretCast<int8_t>(),
              DataCopyExtParams(kRows, kBytes + 4, 1, 3, 0));
  queue.FreeTensor(rows);
}

// stable partition of 512 keys 0 to 7: the indices of each key, one after the other
__global__ __vector__ void partition(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kCount = 512;
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  TBuf<> index, bits;
  pipe.InitBuffer(in, 1, kCount * sizeof(float));
  pipe.InitBuffer(out, 2, kCount * sizeof(int32_t));
  pipe.InitBuffer(index, kCount * sizeof(int32_t));
  pipe.InitBuffer(bits, kCount / 8);
  auto tokens = index.Get<int32_t>();
  CreateVecIndex(tokens, 0, kCount);
  auto keys = in.AllocTensor<float>();
  DataCopy(keys, Global<float>(x), kCount);
  in.EnQue(keys);
  keys = in.DeQue<float>();
  auto equal = bits.Get<uint8_t>();
  auto written = Global<int32_t>(y);
  uint64_t first = 0;
  for (int key = 0; key < 8; ++key) {
    Compares(equal, keys, static_cast<float>(key), CMPMODE::EQ, kCount);
    auto chosen = out.AllocTensor<int32_t>();
    uint64_t count = 0;
    GatherMask(chosen, tokens, bits.Get<uint32_t>(), true, kCount, {1, 1, 8, 8}, count);
    out.EnQue(chosen);
    chosen = out.DeQue<int32_t>();
    const auto bytes = static_cast<uint32_t>(count * sizeof(int32_t));
    DataCopyPad(written[first], chosen, DataCopyExtParams(1, bytes, 0, 0, 0));
    out.FreeTensor(chosen);
    first += count;
  }
  in.FreeTensor(keys);
}

// the 128 scores of x in descending order: (score, index) pairs
__global__ __vector__ void sort_scores(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kCount = 128;
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  TBuf<> index, lists;
  pipe.InitBuffer(in, 1, kCount * sizeof(float));
  pipe.InitBuffer(out, 1, kCount * 8);
  pipe.InitBuffer(index, kCount * sizeof(int32_t));
  pipe.InitBuffer(lists, kCount * 8);
  CreateVecIndex(index.Get<int32_t>(), 0, kCount);
  auto scores = in.AllocTensor<float>();
  DataCopy(scores, Global<float>(x), kCount);
  in.EnQue(scores);
  scores = in.DeQue<float>();
  auto sorted = lists.Get<float>();
  Sort32(sorted, scores, index.Get<uint32_t>(), kCount / 32);
  in.FreeTensor(scores);
  auto merged = out.AllocTensor<float>();
  const uint16_t lengths[4] = {32, 32, 32, 32};
  MrgSort(merged, {sorted, sorted[64], sorted[128], sorted[192]}, {lengths, false, 15, 1});
  out.EnQue(merged);
  merged = out.DeQue<float>();
  DataCopy(Global<float>(y), merged, kCount * 2);
  out.FreeTensor(merged);
}

const std::vector<Case> kCases = {
    {"elementwise", elementwise, {}},   {"bf16_double", bf16_double, {}},
    {"softmax_rows", softmax_rows, {}}, {"group_argmax", group_argmax, {}},
    {"gather_rows", gather_rows, {}},   {"padded_rows", padded_rows, {}},
    {"partition", partition, {}},       {"sort_scores", sort_scores, {}},
};
const Addition kAdded(MustPass(), kCases);

}  // namespace

}  // namespace moge_tests
