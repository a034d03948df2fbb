// For each rule of the high-level calls a kernel, at least, that breaks it and no other before it.
#include "must_fail.h"

namespace moge_tests {

namespace {

// 16 KiB of ones, then 16 KiB that nothing has written.
class Ones {
 public:
  Ones() {
    pipe_.InitBuffer(buffer_, 32768);
    Duplicate(At<float>(0), 1.0f, 4096);
  }
  template <typename T>
  LocalTensor<T> At(uint32_t byte, uint32_t bytes = 16384) {
    emulator::LocalRef ref = buffer_.Get<uint8_t>()[byte].Ref();
    ref.end = ref.begin + bytes;
    return LocalTensor<T>(ref);
  }
  TPipe& pipe() { return pipe_; }

 private:
  TPipe pipe_;
  TBuf<TPosition::VECCALC> buffer_;
};

constexpr uint32_t kFree = 16384;  // where the second half of Ones starts

#define ADV_FAILS(...) MUST_FAIL_WITH(Ones, ub, __VA_ARGS__)

// Nearly all of UB taken: what the framework could give is 256 bytes.
void TakeNearlyAll(Ones& ub, TBuf<TPosition::VECCALC>& more) {
  ub.pipe().InitBuffer(more, 196608 - 256 - 32768 - 256);
}

// --- sorting ---------------------------------------------------------------------------------

ADV_FAILS("repeat.range sort") {
  auto tmp = ub.At<float>(kFree);
  Sort<float, false>(ub.At<float>(kFree), ub.At<float>(0), ub.At<uint32_t>(0), tmp, 256);
}
ADV_FAILS("repeat.range concat") {
  LocalTensor<float> list;
  Concat(list, ub.At<float>(0), ub.At<float>(kFree), -1);
}
ADV_FAILS("repeat.range extract") {
  Extract(ub.At<float>(kFree), ub.At<uint32_t>(kFree), ub.At<float>(0), 256);
}
ADV_FAILS("params.range merge") {
  const auto list = ub.At<float>(0);
  const uint16_t lengths[4] = {32, 32, 32, 32};
  uint32_t sorted[4];
  MrgSort<float>(ub.At<float>(kFree), {list, list, list, list}, lengths, sorted, 15, 0);
}
ADV_FAILS("adv.tmp-size sort") {
  auto tmp = ub.At<float>(kFree + 8192, 64 * 8 - 32);
  Sort<float, true>(ub.At<float>(kFree), ub.At<float>(0), ub.At<uint32_t>(0), tmp, 2);
}
ADV_FAILS("local.uninitialised sort") {
  auto tmp = ub.At<float>(kFree + 8192, 8192);
  Sort<float, true>(ub.At<float>(kFree, 8192), ub.At<float>(kFree - 64), ub.At<uint32_t>(0), tmp,
                    2);
}

// --- TopK ------------------------------------------------------------------------------------

template <TopKMode mode = TopKMode::TOPK_NORMAL, bool has_finished = false>
void RunTopK(Ones& ub, const LocalTensor<uint8_t>& tmp, int32_t k, const TopKInfo& info) {
  TopK<float, true, has_finished, false, mode>(
      ub.At<float>(kFree, 1024), ub.At<int32_t>(kFree + 1024, 1024), ub.At<float>(0),
      ub.At<int32_t>(0), ub.At<bool>(0), tmp, k, TopkTiling(), info);
}
ADV_FAILS("topk.params inner") { RunTopK(ub, ub.At<uint8_t>(kFree + 2048, 4096), 1, {1, 48, 40}); }
ADV_FAILS("topk.params n") { RunTopK(ub, ub.At<uint8_t>(kFree + 2048, 4096), 1, {1, 32, 33}); }
ADV_FAILS("topk.params k") { RunTopK(ub, ub.At<uint8_t>(kFree + 2048, 4096), 18, {1, 32, 17}); }
ADV_FAILS("topk.params large") {
  RunTopK(ub, ub.At<uint8_t>(kFree + 2048, 4096), 1, {1, 4128, 4128});
}
ADV_FAILS("topk.params small") {
  RunTopK<TopKMode::TOPK_NSMALL>(ub, ub.At<uint8_t>(kFree + 2048, 4096), 1, {1, 64, 64});
}
ADV_FAILS("topk.params finished") {
  RunTopK<TopKMode::TOPK_NSMALL, true>(ub, ub.At<uint8_t>(kFree + 2048, 4096), 1, {1, 32, 32});
}
ADV_FAILS("adv.tmp-size topk") { RunTopK(ub, ub.At<uint8_t>(kFree + 2048, 480), 1, {1, 32, 32}); }
ADV_FAILS("topk.tmp-position") {
  TQue<TPosition::VECIN, 1> queue;
  ub.pipe().InitBuffer(queue, 1, 4096);
  RunTopK(ub, queue.AllocTensor<uint8_t>(), 1, {1, 32, 32});
}
ADV_FAILS("adv.tmp-size framework") {
  TBuf<TPosition::VECCALC> more;
  TakeNearlyAll(ub, more);
  TopK<float>(ub.At<float>(kFree), ub.At<int32_t>(kFree + 1024), ub.At<float>(0), ub.At<int32_t>(0),
              ub.At<bool>(0), 1, TopkTiling(), {1, 32, 32});
}

// --- softmax ---------------------------------------------------------------------------------

template <bool basic = false>
void RunSoftMax(Ones& ub, const SoftMaxShapeInfo& shape, uint32_t tmp_bytes = 8192) {
  SoftMax<float, false, basic>(ub.At<float>(kFree, 8192), ub.At<float>(0),
                               ub.At<uint8_t>(kFree + 8192, tmp_bytes), SoftMaxTiling(), shape);
}
ADV_FAILS("softmax.shape row") { RunSoftMax(ub, {8, 63, 8, 63}); }
ADV_FAILS("softmax.shape original") { RunSoftMax(ub, {8, 64, 8, 65}); }
ADV_FAILS("softmax.shape none") { RunSoftMax(ub, {}); }
ADV_FAILS("softmax.shape fractal") {
  SoftmaxGrad<float, false, true>(ub.At<float>(kFree, 8192), ub.At<float>(0), ub.At<float>(0),
                                  ub.At<uint8_t>(kFree + 8192, 8192), SoftMaxTiling(), false,
                                  {16, 24, 16, 24});
}
ADV_FAILS("softmax.basic-block rows") { RunSoftMax<true>(ub, {4, 64, 4, 64}); }
ADV_FAILS("softmax.basic-block columns") { RunSoftMax<true>(ub, {8, 72, 8, 72}); }
ADV_FAILS("adv.tmp-size softmax") { RunSoftMax(ub, {8, 64, 8, 64}, 256); }
ADV_FAILS("adv.tmp-size softmax framework") {
  TBuf<TPosition::VECCALC> more;
  TakeNearlyAll(ub, more);
  SoftMax<float>(ub.At<float>(kFree), ub.At<float>(0), SoftMaxTiling(), {8, 64, 8, 64});
}
ADV_FAILS("adv.tmp-size flash") {
  const auto block = ub.At<float>(0);
  SoftmaxFlashV2<float>(ub.At<float>(kFree), block, block, block, block, block, block,
                        ub.At<uint8_t>(kFree + 8192, 320), SoftMaxTiling(), {8, 64, 8, 64});
}
ADV_FAILS("adv.tmp-size grad") {
  SoftmaxGrad<float>(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(0),
                     ub.At<uint8_t>(kFree + 8192, 512), SoftMaxTiling(), false, {8, 64, 8, 64});
}
ADV_FAILS("adv.overlap softmax") {
  SoftMax<float>(ub.At<float>(kFree), ub.At<float>(0), ub.At<uint8_t>(kFree + 1024, 8192),
                 SoftMaxTiling(), {8, 64, 8, 64});
}
ADV_FAILS("local.bounds softmax") {
  SoftMax<float>(ub.At<float>(kFree, 1024), ub.At<float>(0), ub.At<uint8_t>(kFree + 8192, 8192),
                 SoftMaxTiling(), {8, 64, 8, 64});
}
ADV_FAILS("local.uninitialised softmax") {
  SoftMax<float>(ub.At<float>(kFree, 8192), ub.At<float>(kFree - 1024),
                 ub.At<uint8_t>(kFree + 8192, 8192), SoftMaxTiling(), {8, 64, 8, 64});
}
ADV_FAILS("sync.missing softmax") {
  DataCopy(ub.At<float>(0), Global<float>(x), 512);
  SoftMax<float>(ub.At<float>(kFree, 8192), ub.At<float>(0), ub.At<uint8_t>(kFree + 8192, 8192),
                 SoftMaxTiling(), {8, 64, 8, 64});
}

// --- element by element ----------------------------------------------------------------------

ADV_FAILS("adv.overlap sigmoid") { Sigmoid(ub.At<float>(0), ub.At<float>(0), 64); }
ADV_FAILS("adv.overlap sigmoid-tmp") {
  Sigmoid(ub.At<float>(kFree), ub.At<float>(0), ub.At<uint8_t>(kFree + 128, 64), 64);
}
ADV_FAILS("adv.overlap gated") {
  auto gate = ub.At<float>(0);
  SwiGLU(gate, gate, ub.At<float>(8192, 1024), 1.0f, 64);
}
ADV_FAILS("adv.tmp-size sigmoid") {
  Sigmoid(ub.At<float>(kFree), ub.At<float>(0), LocalTensor<uint8_t>(), 64);
}
ADV_FAILS("adv.tmp-size gelu") {
  Gelu(ub.At<float>(kFree), ub.At<float>(0), ub.At<uint8_t>(kFree + 8192, 224), 64);
}

}  // namespace

}  // namespace moge_tests
