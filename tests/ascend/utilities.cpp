// Scalars, prints, dumps, shapes, assertions: kernels of tests/emulator/test_utilities.py, and
// those that must fail.
#include "must_fail.h"

namespace moge_tests {

namespace {

// Values of half and of bfloat16_t at every step of an expression.
template <typename T>
void Arithmetic(GM_ADDR x, GM_ADDR y) {
  const GlobalTensor<T> in = Global<T>(x);
  const GlobalTensor<T> out = Global<T>(y);
  const T a = in(0), b = in(1);
  T sum = a;
  sum += b;
  sum *= 3;
  out(0) = a * b;
  out(1) = a / b;
  out(2) = a - b * 2;
  out(3) = sum;
  out(4) = out(3);
  out(5) = -a;
  out(6) = 7;
  out(6) += b;
}

template <typename T>
void ArithmeticKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Arithmetic<T>(x, y);
  DataCacheCleanAndInvalid<T, CacheLine::ENTIRE_DATA_CACHE>(Global<T>(y));
}

void ScalarsKernel(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const float value = Global<float>(x)(0);
  const GlobalTensor<int64_t> out = Global<int64_t>(y);
  out(0) = Cast<float, int32_t, RoundMode::CAST_ROUND>(value);
  out(1) = Cast<float, int32_t, RoundMode::CAST_CEIL>(value);
  out(2) = Cast<float, int32_t, RoundMode::CAST_FLOOR>(value);
  out(3) = Cast<float, int32_t, RoundMode::CAST_RINT>(value);
  const uint64_t bits = 0x00f0000000000100;
  out(4) = GetBitCount<1>(bits);
  out(5) = GetBitCount<0>(bits);
  out(6) = GetSFFValue<1>(bits);
  out(7) = GetSFFValue<0>(~uint64_t{0});
  out(8) = CountLeadingZero(bits);
  out(9) = CountBitsCntSameAsSignBit(-1);
  out(10) = CountBitsCntSameAsSignBit(-2);
  out(11) = CountBitsCntSameAsSignBit(0x00f0000000000000);
  out(12) = DivCeil(33, 32);
  out(13) = AlignUp(33, 32);
  out(14) = g_coreType == AIV;
  out(15) = block_num;
  DataCacheCleanAndInvalid<int64_t, CacheLine::ENTIRE_DATA_CACHE>(out);
}

void RecordAic(GM_ADDR) {}
void RecordAiv(GM_ADDR z) {
  const GlobalTensor<int64_t> out = Global<int64_t>(z);
  const int64_t at = GetBlockIdx() * 8;  // a cache line for each core
  out(at) = 10 * block_idx + GetSubBlockIdx();
  DataCacheCleanAndInvalid<int64_t, CacheLine::SINGLE_CACHE_LINE>(out[at]);
}
void CoresKernel(GM_ADDR, GM_ADDR, GM_ADDR z) {
  Async<EngineType::AIC, RecordAic>(z);
  Async<EngineType::AIV, RecordAiv>(z);
}

void PrintsKernel(GM_ADDR x, GM_ADDR, GM_ADDR) {
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffer;
  pipe.InitBuffer(buffer, 256);
  LocalTensor<half> tensor = buffer.Get<half>();
  for (int i = 0; i < 20; ++i) tensor.SetValue(i, half(i) / 4);
  DataCopyParams params;
  params.blockLen = 7;
  AscendC::printf("%d %ld %.2f %.1f %s %u\n", -1, int64_t{1} << 40, half(1.5f), bfloat16_t(2),
                  "text", params.blockLen);
  PRINTF("no arguments, 100%%\n");
  const uint32_t shape[] = {2, 3};
  tensor.SetShapeInfo(ShapeInfo(2, shape, DataFormat::ND));
  tensor.SetUserTag(5);
  AscendC::printf("tag %d, size %d\n", tensor.GetUserTag(), GetShapeSize(tensor.GetShapeInfo()));
  DumpTensor(tensor, 3, 4, tensor.GetShapeInfo());
  DumpTensor(Global<float>(x), 4, 2);
  DumpAccChkPoint(tensor, 5, 16, 8);
  tensor.Print(20);
  LocalTensor<int16_t> other;
  other.SetAddrWithOffset(tensor, 4);
  AscendC::printf("%d at %lu\n", other(0), other.GetPhyAddr(1) - tensor.GetPhyAddr());
}

// the same flags in their global forms
void FlagsKernel(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  InitSocState();
  const LocalTensor<float> tensor(TPosition::VECCALC, 0, 8);
  DataCopy(tensor, Global<float>(x), 8);
  set_flag(PIPE_MTE2, PIPE_V, EVENT_ID0);
  wait_flag(PIPE_MTE2, PIPE_V, EVENT_ID0);
  Adds(tensor, tensor, 1.0f, 8);
  set_flag(PIPE_V, PIPE_MTE3, EVENT_ID1);
  wait_flag(PIPE_V, PIPE_MTE3, EVENT_ID1);
  DataCopy(Global<float>(y), tensor, 8);
  pipe_barrier(PIPE_ALL);
}

MUST_FAIL("kernel.assert") {
  const int64_t blocks = GetBlockNum();
  assert(blocks == 1);
  ascendc_assert(blocks == 2, "blocks: %ld", blocks);
}
MUST_FAIL("kernel.assert bare") { ascendc_assert(GetBlockNum() == 2); }
MUST_FAIL("kernel.trap") { Trap(); }
MUST_FAIL("core.pipe set_flag") { set_flag(PIPE_MTE2, PIPE_MTE2, EVENT_ID0); }
MUST_FAIL("position.no-memory global") {
  InitSocState();
  const LocalTensor<float> tensor(TPosition::SPM, 0, 8);
}

}  // namespace

const std::vector<Case>& Utilities() {
  static const std::vector<Case> cases = {
      {"half", ArithmeticKernel<half>, {}}, {"bf16", ArithmeticKernel<bfloat16_t>, {}},
      {"scalars", ScalarsKernel, {}},       {"cores", CoresKernel, Launch(KernelType::kMix, 2)},
      {"prints", PrintsKernel, {}},         {"flags", FlagsKernel, {}},
  };
  return cases;
}

}  // namespace moge_tests
