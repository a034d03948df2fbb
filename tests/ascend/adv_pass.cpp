// Correct kernels of the high-level calls; tests/emulator/test_adv.py compares each with NumPy.
// What a call takes beside its tensors is in z, as int32.
#include "common.h"

namespace moge_tests {

namespace {

// One buffer, given out from byte 0 up, and the tensors of a call in it.
class Memory {
 public:
  explicit Memory(uint32_t bytes = 160 * 1024) { pipe_.InitBuffer(buffer_, bytes); }

  template <typename T>
  LocalTensor<T> Take(uint32_t elements) {
    auto tensor = buffer_.Get<uint8_t>()[next_].ReinterpretCast<T>();
    tensor.SetSize(elements);
    next_ += Bytes<T>(elements);
    return tensor;
  }
  // the next elements of x
  template <typename T>
  LocalTensor<T> Load(GM_ADDR x, uint32_t elements) {
    auto tensor = Take<T>(elements);
    DataCopy(tensor, Global<T>(x + read_), Bytes<T>(elements) / sizeof(T));
    read_ += Bytes<T>(elements);
    return tensor;
  }
  // to the next bytes of y
  template <typename T>
  void Store(GM_ADDR y, const LocalTensor<T>& tensor, uint32_t elements) {
    PipeBarrier<PIPE_ALL>();
    DataCopy(Global<T>(y + written_), tensor, Bytes<T>(elements) / sizeof(T));
    written_ += Bytes<T>(elements);
  }

 private:
  template <typename T>
  static uint32_t Bytes(uint32_t elements) {
    return (elements * uint32_t{sizeof(T)} + 31) / 32 * 32;
  }

  TPipe pipe_;
  TBuf<TPosition::VECCALC> buffer_;
  uint32_t next_ = 0, read_ = 0, written_ = 0;
};

uint32_t Argument(GM_ADDR z, uint32_t index) {
  return static_cast<uint32_t>(Global<int32_t>(z).GetValue(index));
}

// --- sorting ---------------------------------------------------------------------------------

// z: elements
template <typename T, bool full>
__global__ __vector__ void sort(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const uint32_t count = Argument(z, 0);
  Memory ub;
  const auto value = ub.Load<T>(x, count);
  const auto index = ub.Load<uint32_t>(x, count);
  const auto repeat = static_cast<int32_t>(count / 32);
  auto sorted = ub.Take<T>(GetSortLen<T>(count) / sizeof(T));
  auto tmp = ub.Take<T>(GetSortLen<T>(count) / sizeof(T));
  PipeBarrier<PIPE_ALL>();
  LocalTensor<T> list;
  Concat(list, value, tmp, static_cast<int32_t>(count / 16));
  Sort<T, full>(sorted, list, index, tmp, repeat);
  const auto values = ub.Take<T>(count);
  const auto indices = ub.Take<uint32_t>(count);
  PipeBarrier<PIPE_V>();
  Extract(values, indices, sorted, repeat);
  ub.Store(y, values, count);
  ub.Store(y, indices, count);
}

// z: the lengths of four sorted lists, one after the other; whether the merge stops
template <bool stops>
__global__ __vector__ void merge(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Memory ub;
  uint16_t lengths[4];
  uint32_t total = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    lengths[i] = static_cast<uint16_t>(Argument(z, i));
    total += lengths[i];
  }
  const auto lists = ub.Load<float>(x, total * 2);
  const auto merged = ub.Take<float>(total * 2);
  PipeBarrier<PIPE_ALL>();
  uint32_t offset[4] = {};
  for (uint32_t i = 1; i < 4; ++i) {
    offset[i] = offset[i - 1] + GetSortOffset<float>(lengths[i - 1]);
  }
  const MrgSortSrcList<float> sources(lists[offset[0]], lists[offset[1]], lists[offset[2]],
                                      lists[offset[3]]);
  uint32_t sorted[4] = {};
  Duplicate(merged, 0.0f, static_cast<int32_t>(total * 2));
  PipeBarrier<PIPE_V>();
  MrgSort<float, stops>(merged, sources, lengths, sorted, 15, 1);
  ub.Store(y, merged, total * 2);
  for (uint32_t i = 0; i < 4; ++i) Global<uint32_t>(z).SetValue(8 + i, sorted[i]);
  DataCacheCleanAndInvalid<uint32_t, CacheLine::ENTIRE_DATA_CACHE, DcciDst::CACHELINE_OUT>(
      Global<uint32_t>(z));
}

// z: k, rows, inner, n, the largest?, a temporary tensor given?
template <typename T, bool has_index, bool has_finished, TopKMode mode>
__global__ __vector__ void topk(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const auto k = static_cast<int32_t>(Argument(z, 0));
  const uint32_t rows = Argument(z, 1), inner = Argument(z, 2);
  const bool largest = Argument(z, 4) != 0;
  constexpr bool kSmall = mode == TopKMode::TOPK_NSMALL;
  constexpr uint32_t kInBlock = 32 / sizeof(T);
  const uint32_t value_row = kSmall ? k : (k + kInBlock - 1) / kInBlock * kInBlock;
  const uint32_t index_row = kSmall ? k : (k + 7) / 8 * 8;
  const uint32_t tmp_bytes =
      emulator::TopKTmpBytes(inner, rows, has_index, kSmall, largest, sizeof(T));
  const bool given = Argument(z, 5) != 0;
  Memory ub(given ? 160 * 1024 : 96 * 1024);
  const auto src = ub.Load<T>(x, rows * inner);
  const auto index = ub.Load<int32_t>(x, kSmall ? rows * inner : inner);
  const auto finished = ub.Load<uint8_t>(x, rows).template ReinterpretCast<bool>();
  const auto value = ub.Take<T>(rows * value_row);
  const auto indices = ub.Take<int32_t>(rows * index_row);
  // the call leaves what it does not fill as it was
  Duplicate(value, static_cast<T>(0), static_cast<int32_t>((rows * value_row + 15) / 16 * 16));
  Duplicate(indices, -1, static_cast<int32_t>((rows * index_row + 7) / 8 * 8));
  const TopKInfo info{static_cast<int32_t>(rows), static_cast<int32_t>(inner),
                      static_cast<int32_t>(Argument(z, 3))};
  PipeBarrier<PIPE_ALL>();
  if (given) {
    const auto tmp = ub.Take<uint8_t>(tmp_bytes);
    TopK<T, has_index, has_finished, false, mode>(value, indices, src, index, finished, tmp, k,
                                                  TopkTiling(), info, largest);
  } else {
    TopK<T, has_index, has_finished, false, mode>(value, indices, src, index, finished, k,
                                                  TopkTiling(), info, largest);
  }
  ub.Store(y, value, rows * value_row);
  ub.Store(y, indices, rows * index_row);
}

// --- softmax ---------------------------------------------------------------------------------

// z: srcM, srcK, oriSrcM, oriSrcK, bytes of temporary memory (0: the framework's)
SoftMaxShapeInfo Shape(GM_ADDR z) {
  return {Argument(z, 0), Argument(z, 1), Argument(z, 2), Argument(z, 3)};
}

template <typename T, typename U, bool nz>
__global__ __vector__ void softmax(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const SoftMaxShapeInfo shape = Shape(z);
  const uint32_t bytes = Argument(z, 4), blocks = shape.srcM * 32 / sizeof(U);
  Memory ub(bytes == 0 ? 96 * 1024 : 160 * 1024);
  const auto src = ub.Load<T>(x, shape.srcM * shape.srcK);
  const auto sum = ub.Take<U>(blocks), max = ub.Take<U>(blocks);
  PipeBarrier<PIPE_ALL>();
  if (bytes == 0) {
    SoftMax<T, false, false, nz>(src, sum, max, src, SoftMaxTiling(), shape);
  } else {
    SoftMax<T, false, false, nz>(src, sum, max, src, ub.Take<uint8_t>(bytes), SoftMaxTiling(),
                                 shape);
  }
  ub.Store(y, src, shape.srcM * shape.srcK);
  ub.Store(y, sum, blocks);
  ub.Store(y, max, blocks);
}

// without sums and maxima, the shape from the tiling
__global__ __vector__ void softmax_tiled(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Memory ub;
  SoftMaxTiling tiling;
  tiling.srcM = Argument(z, 0);
  tiling.srcK = Argument(z, 1);
  const uint32_t count = tiling.srcM * tiling.srcK;
  const auto src = ub.Load<float>(x, count);
  const auto dst = ub.Take<float>(count);
  PipeBarrier<PIPE_ALL>();
  SoftMax<float, false, true>(dst, src, ub.Take<uint8_t>(8192), tiling);
  ub.Store(y, dst, count);
}

// x: the matrix, sums, maxima
template <typename T, typename U>
__global__ __vector__ void simple_softmax(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const SoftMaxShapeInfo shape = Shape(z);
  const uint32_t count = shape.srcM * shape.srcK, blocks = shape.srcM * 32 / sizeof(U);
  Memory ub;
  const auto src = ub.Load<T>(x, count);
  const auto sum = ub.Load<U>(x, blocks), max = ub.Load<U>(x, blocks);
  const auto dst = ub.Take<T>(count);
  PipeBarrier<PIPE_ALL>();
  SimpleSoftMax<T>(dst, sum, max, src, ub.Take<uint8_t>(Argument(z, 4)), SoftMaxTiling(), shape);
  ub.Store(y, dst, count);
}

template <typename T, bool nz>
__global__ __vector__ void log_softmax(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const SoftMaxShapeInfo shape = Shape(z);
  const uint32_t count = shape.srcM * shape.srcK, blocks = shape.srcM * 32 / sizeof(T);
  Memory ub;
  const auto src = ub.Load<T>(x, count);
  const auto sum = ub.Take<T>(blocks), max = ub.Take<T>(blocks);
  const auto dst = ub.Take<T>(count);
  PipeBarrier<PIPE_ALL>();
  LogSoftMax<T, false, nz>(dst, sum, max, src, ub.Take<uint8_t>(Argument(z, 4)), LogSoftMaxTiling(),
                           shape);
  ub.Store(y, dst, count);
}

// rows whose block says -FLT_MAX become 7; z[8]: whether there was one
template <bool nz, uint8_t step>
__global__ __vector__ void adjust(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const SoftMaxShapeInfo shape = Shape(z);
  const uint32_t count = shape.srcM * shape.srcK;
  Memory ub;
  const auto result = ub.Load<float>(x, count);
  const auto max = ub.Load<float>(x, step == 0 ? shape.srcM * 8 : shape.srcM);
  PipeBarrier<PIPE_ALL>();
  Adds(result, result, 0.0f, static_cast<int32_t>(count));
  const bool found = AdjustSoftMaxRes<float, float, nz, step>(result, max, 0xFF7FFFFF, 7.0f, shape);
  ub.Store(y, result, count);
  Global<int32_t>(z).SetValue(8, found);
  DataCacheCleanAndInvalid<int32_t, CacheLine::ENTIRE_DATA_CACHE, DcciDst::CACHELINE_OUT>(
      Global<int32_t>(z));
}

// x: two halves of each row, one matrix after the other; V2: no division, so that it is left to the
// kernel
template <typename T, typename U, bool second>
__global__ __vector__ void flash(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const SoftMaxShapeInfo shape = Shape(z);
  const uint32_t count = shape.srcM * shape.srcK, blocks = shape.srcM * 32 / sizeof(U);
  const uint32_t factors = shape.srcM * 32 / sizeof(T);
  const uint32_t bytes = Argument(z, 4);
  Memory ub(bytes == 0 ? 96 * 1024 : 160 * 1024);
  const auto first = ub.Load<T>(x, count), rest = ub.Load<T>(x, count);
  const auto sum = ub.Take<U>(blocks), max = ub.Take<U>(blocks);
  const auto factor = ub.Take<T>(factors);
  PipeBarrier<PIPE_ALL>();
  const SoftMaxTiling tiling;
  if constexpr (second) {
    const auto tmp = bytes == 0 ? LocalTensor<uint8_t>() : ub.Take<uint8_t>(bytes);
    if (bytes == 0) {
      SoftmaxFlashV2<T, false>(first, sum, max, first, factor, sum, max, tiling, shape);
      SoftmaxFlashV2<T, true>(rest, sum, max, rest, factor, sum, max, tiling, shape);
    } else {
      SoftmaxFlashV2<T, false>(first, sum, max, first, factor, sum, max, tmp, tiling, shape);
      SoftmaxFlashV2<T, true>(rest, sum, max, rest, factor, sum, max, tmp, tiling, shape);
    }
  } else {
    const auto tmp = ub.Take<uint8_t>(bytes);
    SoftmaxFlash<T>(first, sum, max, first, factor, sum, max, tmp, tiling, false, shape);
    SoftmaxFlash<T>(rest, sum, max, rest, factor, sum, max, tmp, tiling, true, shape);
  }
  ub.Store(y, first, count);
  ub.Store(y, rest, count);
  ub.Store(y, sum, blocks);
  ub.Store(y, max, blocks);
  ub.Store(y, factor, factors);
}

// x: gradients, results; in the place of the results
template <typename T, bool front, bool nz>
__global__ __vector__ void softmax_grad(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const SoftMaxShapeInfo shape = Shape(z);
  const uint32_t count = shape.srcM * shape.srcK, blocks = shape.srcM * 32 / sizeof(T);
  Memory ub;
  const auto grad = ub.Load<T>(x, count), result = ub.Load<T>(x, count);
  PipeBarrier<PIPE_ALL>();
  const auto tmp = ub.Take<uint8_t>(Argument(z, 4));
  if constexpr (front) {
    SoftmaxGradFront<T, false, nz>(result, grad, result, tmp, SoftMaxTiling(), shape);
  } else {
    SoftmaxGrad<T, false, nz>(result, grad, result, tmp, SoftMaxTiling(), false, shape);
  }
  ub.Store(y, result, front ? blocks : count);
}

// --- element by element ----------------------------------------------------------------------

// z: elements; one result after the other
template <typename T>
__global__ __vector__ void activations(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const uint32_t count = Argument(z, 0);
  Memory ub(96 * 1024);
  const auto gate = ub.Load<T>(x, count), src = ub.Load<T>(x, count);
  auto dst = ub.Take<T>(count);
  const auto tmp = ub.Take<uint8_t>(512);
  PipeBarrier<PIPE_ALL>();
  const auto clear = [&] {
    PipeBarrier<PIPE_ALL>();
    Duplicate(dst, static_cast<T>(0), static_cast<int32_t>((count + 15) / 16 * 16));
    PipeBarrier<PIPE_V>();
  };
  const auto next = [&] {
    ub.Store(y, dst, count);
    clear();
  };
  clear();
  Sigmoid(dst, src, tmp, count);
  next();
  Sigmoid(dst, src);
  next();
  Silu(dst, src, count);
  next();
  Swish(dst, src, count, static_cast<T>(1.702f));
  next();
  SwiGLU(dst, gate, src, 1.0f, tmp, count);
  next();
  GeGLU(dst, gate, src, count);
  next();
  Gelu(dst, src, tmp, count);
  next();
  FasterGelu(dst, src, count);
  next();
  Gelu(src, src, tmp, count);  // in place
  ub.Store(y, src, count);
}

}  // namespace

const std::vector<Case>& AdvPass() {
  constexpr TopKMode kNormal = TopKMode::TOPK_NORMAL;
  constexpr TopKMode kSmall = TopKMode::TOPK_NSMALL;
  static const std::vector<Case> cases = {
      {"sort float full", sort<float, true>, {}},
      {"sort float runs", sort<float, false>, {}},
      {"sort half full", sort<half, true>, {}},
      {"sort half runs", sort<half, false>, {}},
      {"merge", merge<false>, {}},
      {"merge stops", merge<true>, {}},
      {"topk float normal", topk<float, false, false, kNormal>, {}},
      {"topk float normal index finished", topk<float, true, true, kNormal>, {}},
      {"topk half normal", topk<half, false, false, kNormal>, {}},
      {"topk half normal finished", topk<half, false, true, kNormal>, {}},
      {"topk float small", topk<float, false, false, kSmall>, {}},
      {"topk float small index", topk<float, true, false, kSmall>, {}},
      {"topk half small", topk<half, false, false, kSmall>, {}},
      {"softmax float", softmax<float, float, false>, {}},
      {"softmax half", softmax<half, half, false>, {}},
      {"softmax mixed", softmax<half, float, false>, {}},
      {"softmax float nz", softmax<float, float, true>, {}},
      {"softmax half nz", softmax<half, half, true>, {}},
      {"softmax tiled", softmax_tiled, {}},
      {"simple float", simple_softmax<float, float>, {}},
      {"simple half", simple_softmax<half, half>, {}},
      {"simple mixed", simple_softmax<half, float>, {}},
      {"log float", log_softmax<float, false>, {}},
      {"log half nz", log_softmax<half, true>, {}},
      {"adjust", adjust<false, 0>, {}},
      {"adjust step", adjust<false, 1>, {}},
      {"adjust nz", adjust<true, 0>, {}},
      {"flash float", flash<float, float, false>, {}},
      {"flash mixed", flash<half, float, false>, {}},
      {"flash2 float", flash<float, float, true>, {}},
      {"flash2 half", flash<half, half, true>, {}},
      {"flash2 mixed", flash<half, float, true>, {}},
      {"grad float", softmax_grad<float, false, false>, {}},
      {"grad half nz", softmax_grad<half, false, true>, {}},
      {"grad float front", softmax_grad<float, true, false>, {}},
      {"grad half front", softmax_grad<half, true, false>, {}},
      {"activations float", activations<float>, {}},
      {"activations half", activations<half>, {}},
  };
  return cases;
}

}  // namespace moge_tests
