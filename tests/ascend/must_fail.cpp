// For each rule of memory, parameters and vector instructions a kernel, at least: it breaks that
// rule and no other before it. The name of a case is the rule, and a word where a rule has several.
#include "must_fail.h"

namespace moge_tests {

namespace {

constexpr uint16_t kFour[] = {4, 4, 4, 4};
constexpr uint16_t kLong[] = {4096, 4, 0, 0};

// --- memory ----------------------------------------------------------------------------------

UB_FAILS("address.alignment") { Exp(ub.At<float>(kFree), ub.At<float>(4), 8); }
UB_FAILS("address.alignment reduce") {
  WholeReduceMax(ub.At<float>(kFree + 4), ub.At<float>(0), 64, 1, 1, 1, 8);
}
UB_FAILS("address.alignment block-reduce") {
  BlockReduceSum(ub.At<float>(kFree + 16), ub.At<float>(0), 1, 64, 1, 1, 8);
}
UB_FAILS("address.alignment copy") { DataCopy(ub.At<float>(kFree + 16), Global<float>(x), 8); }
UB_FAILS("gm.alignment") { DataCopy(ub.At<float>(kFree), Global<float>(x + 2), 8); }
MUST_FAIL("position.no-memory") {
  Queue<TPosition::A1> queue(1, 1024);
  queue.AllocTensor<half>();
}
MUST_FAIL("position.no-memory static") {
  InitSocState();
  LocalTensor<half> tensor(TPosition::A2, 0, 1024);
}
MUST_FAIL("ub.capacity") { Queue<> queue(2, 98336); }
MUST_FAIL("ub.capacity static") {
  InitSocState();
  LocalMemAllocator allocator;
  allocator.Alloc<TPosition::VECCALC, float>(49153);
}
MUST_FAIL("ub.reserved") {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 196608 - 256);
  auto ones = buffer.Get<float>();
  Duplicate(ones, 1.0f, 1024);
  auto mask = buffer.Get<uint8_t>();
  Select(ones[4096], mask, ones[512], 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
}
UB_FAILS("local.no-memory") {
  LocalTensor<float> nothing;
  Exp(nothing, ub.At<float>(0), 8);
}
UB_FAILS("local.bounds") { Duplicate(ub.At<float>(32768 - 64), 0.0f, 17); }
UB_FAILS("local.bounds scalar") { ub.At<float>(32768 - 4).SetValue(1, 0.0f); }
UB_FAILS("local.bounds huge") { Duplicate(ub.At<float>(kFree), 0.0f, 1 << 30); }
UB_FAILS("local.bounds gather-mask") {
  uint64_t taken = 0;
  GatherMask(ub.At<float>(kFree), ub.At<float>(0), 7, true, 0xffffffff, {1, 1, 8, 0}, taken);
}
UB_FAILS("local.bounds unchosen") {
  auto none = ub.At<int32_t>(kFree);
  Duplicate(none, 0, 8);
  uint64_t taken = 0;
  GatherMask(ub.At<float>(kFree + 1024), ub.At<float>(0), none.ReinterpretCast<uint32_t>(), false,
             0, {1, 2, 1020, 0}, taken);
}
UB_FAILS("local.bounds stride") {
  Exp(ub.At<float>(kFree), ub.At<float>(0), 64, 3, {1, 1, 255, 8});
}
UB_FAILS("local.uninitialised") { Exp(ub.At<float>(kFree), ub.At<float>(kFree - 32), 9); }
MUST_FAIL("gm.undefined reused") {
  Queue<TPosition::VECOUT> queue(1, 256);
  for (int i = 0; i < 2; ++i) {
    auto tensor = queue.AllocTensor<float>();
    if (i == 0) Duplicate(tensor, 1.0f, 64);
    queue.EnQue(tensor);
    tensor = queue.DeQue<float>();
    DataCopy(Global<float>(y), tensor, 64);
    queue.FreeTensor(tensor);
  }
}
UB_FAILS("local.poison") {
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), {1, 20, 0, 0, 0}, {false, 1, 0, 0.0f});
  PipeBarrier<PIPE_ALL>();
  Adds(ub.At<float>(kFree), ub.At<float>(kFree), 1.0f, 8);
}
UB_FAILS("local.poison sort") {
  auto index = ub.At<int32_t>(1024);
  CreateVecIndex(index, 0, 32);
  Sort32(ub.At<half>(kFree), ub.At<half>(0), index.ReinterpretCast<uint32_t>(), 1);
  Adds(ub.At<half>(kFree + 1024), ub.At<half>(kFree), half(0.0f), 128);
}
UB_FAILS("gm.unregistered") {
  float elsewhere[8] = {};
  DataCopy(ub.At<float>(kFree), Global<float>(reinterpret_cast<GM_ADDR>(elsewhere)), 8);
}
UB_FAILS("gm.bounds") { DataCopy(ub.At<float>(kFree), Global<float>(x)[16384 - 4], 8); }
UB_FAILS("gm.bounds given") { DataCopy(ub.At<float>(kFree), Global<float>(x, 12), 16); }
MUST_FAIL("gm.bounds scalar") { Global<int32_t>(x).GetValue(16384); }
UB_FAILS("gm.uninitialised") { DataCopy(ub.At<float>(kFree), Global<float>(y), 8); }
UB_FAILS("gm.uninitialised atomic") {
  PipeBarrier<PIPE_ALL>();
  SetAtomicAdd<float>();
  DataCopy(Global<float>(y), ub.At<float>(0), 8);
  SetAtomicNone();
}
UB_FAILS("gm.read-only") {
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(x), ub.At<float>(0), 8);
}
UB_FAILS("gm.race", Blocks(2)) {
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y)[4 * GetBlockIdx()], ub.At<float>(0), 8);
}
UB_FAILS("gm.race read", Blocks(2)) {
  PipeBarrier<PIPE_ALL>();
  if (GetBlockIdx() == 0) {
    DataCopy(ub.At<float>(kFree), Global<float>(z), 8);
  } else {
    DataCopy(Global<float>(z), ub.At<float>(0), 8);
  }
}
UB_FAILS("gm.race read-both", Blocks(2)) {
  PipeBarrier<PIPE_ALL>();
  DataCopy(ub.At<float>(kFree), Global<float>(z), 8);
  PipeBarrier<PIPE_ALL>();
  if (GetBlockIdx() == 1) DataCopy(Global<float>(z), ub.At<float>(0), 8);
}
UB_FAILS("dcache.dirty") {
  Global<float>(z).SetValue(1, 2.0f);
  DataCopy(ub.At<float>(kFree), Global<float>(z), 8);
}
UB_FAILS("dcache.stale") {
  auto global = Global<float>(z);
  global.GetValue(0);
  PipeBarrier<PIPE_ALL>();
  DataCopy(global, ub.At<float>(0), 8);
  PipeBarrier<PIPE_ALL>();
  global.GetValue(1);
}
MUST_FAIL("dcache.false-sharing", Blocks(2)) {
  auto global = Global<int32_t>(z);
  global.SetValue(GetBlockIdx(), 1);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(global);
}
MUST_FAIL("dcache.not-cleaned") { Global<int32_t>(z).SetValue(0, 1); }

// --- parameters ------------------------------------------------------------------------------

UB_FAILS("params.range") {
  const int repeat = 257;
  Exp(ub.At<float>(kFree), ub.At<float>(0), 64, repeat, {1, 1, 0, 0});
}
UB_FAILS("params.range stride") {
  const uint32_t row = 70000;
  DataCopyParams params;
  params.srcStride = row;
  DataCopy(ub.At<float>(kFree), Global<float>(x), params);
}
UB_FAILS("params.range negative") {
  const int gap = -1;
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), DataCopyExtParams(1, 32, gap, 0, 0),
              {true, 0, 0, 0.0f});
}
UB_FAILS("params.range block-count") {
  DataCopy(ub.At<float>(kFree), Global<float>(x), DataCopyParams(4096, 1, 0, 0));
}
UB_FAILS("params.range reduce") {
  WholeReduceSum(ub.At<float>(kFree), ub.At<float>(0), 64, 1, 1, 1, 65536);
}
UB_FAILS("params.range copy") {
  Copy(ub.At<float>(kFree), ub.At<float>(0), uint64_t{64}, 1, {1, 1, 4096, 8});
}
UB_FAILS("count.negative") { Exp(ub.At<float>(kFree), ub.At<float>(0), -1); }
UB_FAILS("repeat.range") { WholeReduceSum(ub.At<float>(kFree), ub.At<float>(0), 64, 256, 1, 0, 0); }
UB_FAILS("repeat.range sort") {
  Sort32(ub.At<float>(kFree), ub.At<float>(0), ub.At<uint32_t>(4096), 256);
}
UB_FAILS("mask.range") { Exp(ub.At<float>(kFree), ub.At<float>(0), 65, 1, UnaryRepeatParams()); }
MUST_FAIL("mask.range register") { SetVectorMask<float>(65); }
UB_FAILS("mask.high-bits") {
  uint64_t mask[2] = {~uint64_t{0}, 1};
  Exp(ub.At<float>(kFree), ub.At<float>(0), mask, 1, UnaryRepeatParams());
}
UB_FAILS("mask.high-bits wide") {
  uint64_t mask[2] = {uint64_t{1} << 32, 0};
  Cast(ub.At<int64_t>(kFree), ub.At<float>(0), RoundMode::CAST_RINT, mask, 1, {1, 1, 8, 4});
}
MUST_FAIL("mask.left-set") { SetVectorMask<half>(0, 1); }
MUST_FAIL("mask.left-set counter") { SetMaskCount(); }
UB_FAILS("stride.dst-block-0") { Exp(ub.At<float>(kFree), ub.At<float>(0), 64, 1, {0, 1, 8, 8}); }
UB_FAILS("stride.dst-block-0 brcb") { Brcb(ub.At<float>(kFree), ub.At<float>(0), 1, {0, 8}); }
UB_FAILS("overlap.operands") { Exp(ub.At<float>(32), ub.At<float>(0), 64); }
UB_FAILS("overlap.operands repeats") {
  Exp(ub.At<float>(256), ub.At<float>(0), 64, 2, UnaryRepeatParams());
}
UB_FAILS("overlap.operands widening") {
  Cast(ub.At<float>(0), ub.At<half>(0), RoundMode::CAST_NONE, 64);
}
UB_FAILS("overlap.operands running") {
  Div(ub.At<float>(0), ub.At<float>(1024), ub.At<float>(0), uint64_t{64}, 2, {1, 1, 1, 0, 8, 0});
}
UB_FAILS("overlap.operands running-stride") {
  Add(ub.At<float>(0), ub.At<float>(1024), ub.At<float>(0), uint64_t{64}, 2, {1, 1, 1, 8, 8, 4});
}
UB_FAILS("overlap.operands reduce") {
  WholeReduceSum(ub.At<float>(256), ub.At<float>(0), 64, 2, 1, 1, 8);
}
UB_FAILS("overlap.operands gather") {
  auto offset = ub.At<int32_t>(4096);
  Duplicate(offset, 0, 8);
  Gather(ub.At<float>(0), ub.At<float>(0), offset.ReinterpretCast<uint32_t>(), 0, 8);
}
UB_FAILS("overlap.operands gather-mask") {
  uint64_t taken = 0;
  GatherMask(ub.At<float>(32), ub.At<float>(0), 2, false, 0, {1, 1, 8, 0}, taken);
}
UB_FAILS("overlap.operands brcb") { Brcb(ub.At<float>(0), ub.At<float>(0), 1, {1, 8}); }
UB_FAILS("overlap.operands compare") {
  Compares(ub.At<uint8_t>(0), ub.At<float>(0), 1.0f, CMPMODE::EQ, 64);
}
UB_FAILS("overlap.operands select") {
  Select(ub.At<float>(0), ub.At<uint8_t>(0), ub.At<float>(1024), 0.0f,
         SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
}
UB_FAILS("overlap.operands copy") { DataCopy(ub.At<float>(32), ub.At<float>(0), 16); }
UB_FAILS("overlap.operands sort") {
  Sort32(ub.At<float>(0), ub.At<float>(0), ub.At<uint32_t>(4096), 1);
}
UB_FAILS("overlap.operands merge") {
  auto list = ub.At<float>(0);
  MrgSort(list, {list, list, list, list}, {kFour, false, 15, 1});
}
UB_FAILS("value.int-overflow") {
  auto ints = ub.At<int32_t>(kFree);
  Duplicate(ints, 1 << 30, 8);
  Add(ints, ints, ints, 8);
}
UB_FAILS("value.int-overflow index") { CreateVecIndex(ub.At<int16_t>(kFree), int16_t{32767}, 2); }

// --- data movement ---------------------------------------------------------------------------

UB_FAILS("copy.count-32B") { DataCopy(ub.At<float>(kFree), Global<float>(x), 5); }
UB_FAILS("copy.block-length") {
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), {1, 18, 0, 0, 0}, {true, 0, 0, 0.0f});
}
UB_FAILS("copy.block-length long") {
  DataCopyPad(Global<float>(y), ub.At<float>(0), {1, 2097152, 0, 0, 0});
}
UB_FAILS("copy.padding") {
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), {1, 4, 0, 0, 0}, {true, 0, 9, 0.0f});
}
UB_FAILS("copy.padding value") {
  DataCopyPad(ub.At<int64_t>(kFree), Global<int64_t>(x), {1, 8, 0, 0, 0}, {true, 0, 1, 7});
}

// --- vector ----------------------------------------------------------------------------------

UB_FAILS("compare.count-256B") {
  Compares(ub.At<uint8_t>(kFree), ub.At<float>(0), 1.0f, CMPMODE::EQ, 63);
}
UB_FAILS("compare.int32-eq") {
  Compares(ub.At<uint8_t>(kFree), ub.At<int32_t>(0), 1, CMPMODE::LT, 64);
}
UB_FAILS("select.mode") {
  Select(ub.At<float>(kFree), ub.At<uint8_t>(0), ub.At<float>(0), 0.0f,
         SELMODE::VSEL_TENSOR_TENSOR_MODE, 64);
}
UB_FAILS("cast.mode") { Cast(ub.At<bfloat16_t>(kFree), ub.At<float>(0), RoundMode::CAST_NONE, 64); }
UB_FAILS("cast.deq-scale") {
  Cast(ub.At<half>(kFree), ub.At<int32_t>(0), RoundMode::CAST_NONE, 64);
}
UB_FAILS("shift.range") { ShiftRight(ub.At<int32_t>(kFree), ub.At<int32_t>(0), 33, 8); }
UB_FAILS("reduce.tmp-size") {
  ReduceMax(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(32768 - 32), 4096);
}
UB_FAILS("gather.offset") {
  auto offset = ub.At<int32_t>(kFree);
  Duplicate(offset, 64, 8);
  Gather(ub.At<float>(kFree + 1024), ub.At<float>(32768 - 64), offset.ReinterpretCast<uint32_t>(),
         0, 8);
}
UB_FAILS("gather.offset unaligned") {
  auto offset = ub.At<int32_t>(kFree);
  Duplicate(offset, 2, 8);
  Gather(ub.At<float>(kFree + 1024), ub.At<float>(0), offset.ReinterpretCast<uint32_t>(), 0, 8);
}
UB_FAILS("gather.offset block") {
  auto offset = ub.At<int32_t>(kFree);
  Duplicate(offset, 16, 8);
  Gatherb(ub.At<uint32_t>(kFree + 1024), ub.At<uint32_t>(0), offset.ReinterpretCast<uint32_t>(), 1,
          {1, 8});
}
UB_FAILS("gather-mask.pattern") {
  uint64_t taken = 0;
  GatherMask(ub.At<float>(kFree), ub.At<float>(0), 8, false, 0, {1, 1, 8, 0}, taken);
}
UB_FAILS("mrg-sort.params") {
  auto list = ub.At<float>(0);
  MrgSort(ub.At<float>(kFree), {list, list, list, list}, {kFour, false, 5, 1});
}
UB_FAILS("mrg-sort.repeat") {
  auto list = ub.At<float>(0);
  MrgSort(ub.At<float>(kFree), {list, list, list, list}, {kFour, false, 15, 2});
}
UB_FAILS("mrg-sort.params length") {
  auto list = ub.At<float>(0);
  MrgSort(ub.At<float>(kFree), {list, list, list, list}, {kLong, false, 3, 1});
}
MUST_FAIL("mrg-sort.result") {
  uint16_t a, b, c, d;
  GetMrgSortResult(a, b, c, d);
}

}  // namespace

}  // namespace moge_tests
