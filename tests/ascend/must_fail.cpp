// One kernel, at least, for each rule: it breaks that rule and no other before it. The name of a
// case is the rule, and a word where a rule has several.
#include "must_fail.h"

namespace moge_tests {

using namespace AscendC;
using emulator::Options;

namespace {

Options Single() { return {}; }
Options Strict() {
  Options options;
  options.strict = true;
  return options;
}
Options Blocks(uint32_t blocks) {
  Options options;
  options.blocks = blocks;
  return options;
}
Options Mix(uint32_t blocks, uint32_t cores = 48) {
  Options options;
  options.blocks = blocks;
  options.cores = cores;
  options.kernel = emulator::KernelType::kMixVector;
  return options;
}
Options Budget(uint64_t instructions) {
  Options options;
  options.max_instructions = instructions;
  return options;
}

// A TPipe with one buffer: 16 KiB of ones, then 16 KiB that nothing has written.
class Ones {
 public:
  Ones() {
    pipe_.InitBuffer(buffer_, 32768);
    Duplicate(At<float>(0), 1.0f, 4096);
  }
  template <typename T>
  LocalTensor<T> At(uint32_t byte) {
    return buffer_.Get<uint8_t>()[byte].ReinterpretCast<T>();
  }
  TPipe& pipe() { return pipe_; }

 private:
  TPipe pipe_;
  TBuf<TPosition::VECCALC> buffer_;
};

constexpr uint32_t kFree = 16384;  // where the second half of Ones starts

// --- memory
// ---------------------------------------------------------------------------------------

MUST_FAIL(VectorAlignment, "address.alignment", Single()) {
  Ones ub;
  Exp(ub.At<float>(kFree), ub.At<float>(4), 8);
}
MUST_FAIL(ReduceAlignment, "address.alignment reduce", Single()) {
  Ones ub;
  WholeReduceMax(ub.At<float>(kFree + 4), ub.At<float>(0), 64, 1, 1, 1, 8);
}
MUST_FAIL(BlockReduceAlignment, "address.alignment block-reduce", Single()) {
  Ones ub;
  BlockReduceSum(ub.At<float>(kFree + 16), ub.At<float>(0), 1, 64, 1, 1, 8);
}
MUST_FAIL(CopyAlignment, "address.alignment copy", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(kFree + 16), Global<float>(x), 8);
}
MUST_FAIL(GlobalAlignment, "gm.alignment", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(kFree), Global<float>(x + 2), 8);
}
MUST_FAIL(PositionQueue, "position.no-memory", Single()) {
  TPipe pipe;
  TQue<TPosition::A1, 1> queue;
  pipe.InitBuffer(queue, 1, 1024);
}
MUST_FAIL(PositionStatic, "position.no-memory static", Single()) {
  InitSocState();
  LocalTensor<half> tensor(TPosition::A2, 0, 1024);
}
MUST_FAIL(Capacity, "ub.capacity", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 2, 98304);
}
MUST_FAIL(CapacityStatic, "ub.capacity static", Single()) {
  InitSocState();
  LocalMemAllocator allocator;
  allocator.Alloc<TPosition::VECCALC, float>(49152);
}
MUST_FAIL(SelectReserve, "ub.reserved", Single()) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 196608 - 256);
  auto ones = buffer.Get<float>();
  Duplicate(ones, 1.0f, 1024);
  auto mask = buffer.Get<uint8_t>();
  Select(ones[4096], mask, ones[512], 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
}
MUST_FAIL(NoMemory, "local.no-memory", Single()) {
  Ones ub;
  LocalTensor<float> nothing;
  Exp(nothing, ub.At<float>(0), 8);
}
MUST_FAIL(LocalBounds, "local.bounds", Single()) {
  Ones ub;
  Duplicate(ub.At<float>(32768 - 64), 0.0f, 17);
}
MUST_FAIL(LocalBoundsScalar, "local.bounds scalar", Single()) {
  Ones ub;
  ub.At<float>(32768 - 4).SetValue(1, 0.0f);
}
MUST_FAIL(LocalBoundsHuge, "local.bounds huge", Single()) {
  Ones ub;
  Duplicate(ub.At<float>(kFree), 0.0f, 1 << 30);
}
MUST_FAIL(LocalBoundsGatherMask, "local.bounds gather-mask", Single()) {
  Ones ub;
  uint64_t taken = 0;
  GatherMask(ub.At<float>(kFree), ub.At<float>(0), 7, true, 0xffffffff, {1, 1, 8, 0}, taken);
}
MUST_FAIL(LocalBoundsUnchosen, "local.bounds unchosen", Single()) {
  Ones ub;
  auto none = ub.At<int32_t>(kFree);
  Duplicate(none, 0, 8);
  uint64_t taken = 0;
  GatherMask(ub.At<float>(kFree + 1024), ub.At<float>(0), none.ReinterpretCast<uint32_t>(), false,
             0, {1, 2, 1020, 0}, taken);
}
MUST_FAIL(LocalBoundsStride, "local.bounds stride", Single()) {
  Ones ub;
  Exp(ub.At<float>(kFree), ub.At<float>(0), 64, 3, {1, 1, 255, 8});
}
MUST_FAIL(LocalUninitialised, "local.uninitialised", Single()) {
  Ones ub;
  Exp(ub.At<float>(kFree), ub.At<float>(kFree - 32), 9);
}
MUST_FAIL(ReusedBuffer, "local.uninitialised reused", Single()) {
  TPipe pipe;
  TQue<TPosition::VECOUT, 1> queue;
  pipe.InitBuffer(queue, 1, 256);
  for (int i = 0; i < 2; ++i) {
    auto tensor = queue.AllocTensor<float>();
    if (i == 0) Duplicate(tensor, 1.0f, 64);
    queue.EnQue(tensor);
    tensor = queue.DeQue<float>();
    DataCopy(Global<float>(y), tensor, 64);
    queue.FreeTensor(tensor);
  }
}
MUST_FAIL(Poison, "local.poison", Single()) {
  Ones ub;
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), {1, 20, 0, 0, 0}, {false, 0, 0, 0.0f});
  PipeBarrier<PIPE_ALL>();
  Adds(ub.At<float>(kFree), ub.At<float>(kFree), 1.0f, 8);
}
MUST_FAIL(PoisonSort, "local.poison sort", Single()) {
  Ones ub;
  auto index = ub.At<int32_t>(1024);
  CreateVecIndex(index, 0, 32);
  Sort32(ub.At<half>(kFree), ub.At<half>(0), index.ReinterpretCast<uint32_t>(), 1);
  Adds(ub.At<half>(kFree + 1024), ub.At<half>(kFree), half(0.0f), 128);
}
MUST_FAIL(Unregistered, "gm.unregistered", Single()) {
  Ones ub;
  float elsewhere[8] = {};
  DataCopy(ub.At<float>(kFree), Global<float>(reinterpret_cast<GM_ADDR>(elsewhere)), 8);
}
MUST_FAIL(GlobalBounds, "gm.bounds", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(kFree), Global<float>(x)[16384 - 4], 8);
}
MUST_FAIL(GlobalBoundsGiven, "gm.bounds given", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(kFree), Global<float>(x, 12), 16);
}
MUST_FAIL(GlobalBoundsScalar, "gm.bounds scalar", Single()) { Global<int32_t>(x).GetValue(16384); }
MUST_FAIL(GlobalUninitialised, "gm.uninitialised", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(kFree), Global<float>(y), 8);
}
MUST_FAIL(AtomicUninitialised, "gm.uninitialised atomic", Single()) {
  Ones ub;
  PipeBarrier<PIPE_ALL>();
  SetAtomicAdd<float>();
  DataCopy(Global<float>(y), ub.At<float>(0), 8);
  SetAtomicNone();
}
MUST_FAIL(ReadOnly, "gm.read-only", Single()) {
  Ones ub;
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(x), ub.At<float>(0), 8);
}
MUST_FAIL(RaceWrite, "gm.race", Blocks(2)) {
  Ones ub;
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y)[4 * GetBlockIdx()], ub.At<float>(0), 8);
}
MUST_FAIL(RaceRead, "gm.race read", Blocks(2)) {
  Ones ub;
  PipeBarrier<PIPE_ALL>();
  if (GetBlockIdx() == 0) {
    DataCopy(ub.At<float>(kFree), Global<float>(z), 8);
  } else {
    DataCopy(Global<float>(z), ub.At<float>(0), 8);
  }
}
MUST_FAIL(RaceReadBoth, "gm.race read-both", Blocks(2)) {
  Ones ub;
  PipeBarrier<PIPE_ALL>();
  DataCopy(ub.At<float>(kFree), Global<float>(z), 8);
  PipeBarrier<PIPE_ALL>();
  if (GetBlockIdx() == 1) DataCopy(Global<float>(z), ub.At<float>(0), 8);
}
MUST_FAIL(CacheDirty, "dcache.dirty", Single()) {
  Ones ub;
  Global<float>(z).SetValue(1, 2.0f);
  DataCopy(ub.At<float>(kFree), Global<float>(z), 8);
}
MUST_FAIL(CacheStale, "dcache.stale", Single()) {
  Ones ub;
  auto global = Global<float>(z);
  global.GetValue(0);
  PipeBarrier<PIPE_ALL>();
  DataCopy(global, ub.At<float>(0), 8);
  PipeBarrier<PIPE_ALL>();
  global.GetValue(1);
}
MUST_FAIL(CacheSharing, "dcache.false-sharing", Blocks(2)) {
  auto global = Global<int32_t>(z);
  global.SetValue(GetBlockIdx(), 1);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(global);
}
MUST_FAIL(CacheNotCleaned, "dcache.not-cleaned", Single()) { Global<int32_t>(z).SetValue(0, 1); }

// --- parameters
// -----------------------------------------------------------------------------------

MUST_FAIL(NarrowRepeat, "params.range", Single()) {
  Ones ub;
  const int repeat = 257;
  Exp(ub.At<float>(kFree), ub.At<float>(0), 64, repeat, {1, 1, 0, 0});
}
MUST_FAIL(NarrowStride, "params.range stride", Single()) {
  Ones ub;
  const uint32_t row = 70000;
  DataCopyParams params;
  params.srcStride = row;
  DataCopy(ub.At<float>(kFree), Global<float>(x), params);
}
MUST_FAIL(NarrowNegative, "params.range negative", Single()) {
  Ones ub;
  const int gap = -1;
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), DataCopyExtParams(1, 32, gap, 0, 0),
              {true, 0, 0, 0.0f});
}
MUST_FAIL(BlockCount, "params.range block-count", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(kFree), Global<float>(x), DataCopyParams(4096, 1, 0, 0));
}
MUST_FAIL(ReduceStride, "params.range reduce", Single()) {
  Ones ub;
  WholeReduceSum(ub.At<float>(kFree), ub.At<float>(0), 64, 1, 1, 1, 65536);
}
MUST_FAIL(CopyStride, "params.range copy", Single()) {
  Ones ub;
  Copy(ub.At<float>(kFree), ub.At<float>(0), uint64_t{64}, 1, {1, 1, 4096, 8});
}
MUST_FAIL(NegativeCount, "count.negative", Single()) {
  Ones ub;
  Exp(ub.At<float>(kFree), ub.At<float>(0), -1);
}
MUST_FAIL(ReduceRepeatRange, "repeat.range", Single()) {
  Ones ub;
  WholeReduceSum(ub.At<float>(kFree), ub.At<float>(0), 64, 256, 1, 0, 0);
}
MUST_FAIL(SortRepeatRange, "repeat.range sort", Single()) {
  Ones ub;
  Sort32(ub.At<float>(kFree), ub.At<float>(0), ub.At<uint32_t>(4096), 256);
}
MUST_FAIL(MaskTooLong, "mask.range", Single()) {
  Ones ub;
  Exp(ub.At<float>(kFree), ub.At<float>(0), 65, 1, UnaryRepeatParams());
}
MUST_FAIL(MaskEmpty, "mask.range empty", Single()) {
  Ones ub;
  const uint64_t mask[2] = {0, 0};
  Exp(ub.At<float>(kFree), ub.At<float>(0), mask, 1, UnaryRepeatParams());
}
MUST_FAIL(MaskRegisterTooLong, "mask.range register", Single()) { SetVectorMask<float>(65); }
MUST_FAIL(MaskHigh, "mask.high-bits", Single()) {
  Ones ub;
  const uint64_t mask[2] = {~uint64_t{0}, 1};
  Exp(ub.At<float>(kFree), ub.At<float>(0), mask, 1, UnaryRepeatParams());
}
MUST_FAIL(MaskHighCast, "mask.high-bits wide", Single()) {
  Ones ub;
  const uint64_t mask[2] = {uint64_t{1} << 32, 0};
  Cast(ub.At<int64_t>(kFree), ub.At<float>(0), RoundMode::CAST_RINT, mask, 1, {1, 1, 8, 4});
}
MUST_FAIL(MaskLeft, "mask.left-set", Single()) { SetVectorMask<half>(0, 1); }
MUST_FAIL(CounterLeft, "mask.left-set counter", Single()) { SetMaskCount(); }
MUST_FAIL(BlockStride, "stride.dst-block-0", Single()) {
  Ones ub;
  Exp(ub.At<float>(kFree), ub.At<float>(0), 64, 1, {0, 1, 8, 8});
}
MUST_FAIL(BrcbStride, "stride.dst-block-0 brcb", Single()) {
  Ones ub;
  Brcb(ub.At<float>(kFree), ub.At<float>(0), 1, {0, 8});
}
MUST_FAIL(OverlapShifted, "overlap.operands", Single()) {
  Ones ub;
  Exp(ub.At<float>(32), ub.At<float>(0), 64);
}
MUST_FAIL(OverlapRepeats, "overlap.operands repeats", Single()) {
  Ones ub;
  Exp(ub.At<float>(256), ub.At<float>(0), 64, 2, UnaryRepeatParams());
}
MUST_FAIL(OverlapWidening, "overlap.operands widening", Single()) {
  Ones ub;
  Cast(ub.At<float>(0), ub.At<half>(0), RoundMode::CAST_NONE, 64);
}
MUST_FAIL(OverlapRunning, "overlap.operands running", Single()) {
  Ones ub;
  Div(ub.At<float>(0), ub.At<float>(1024), ub.At<float>(0), uint64_t{64}, 2, {1, 1, 1, 0, 8, 0});
}
MUST_FAIL(OverlapRunningStride, "overlap.operands running-stride", Single()) {
  Ones ub;
  Add(ub.At<float>(0), ub.At<float>(1024), ub.At<float>(0), uint64_t{64}, 2, {1, 1, 1, 8, 8, 4});
}
MUST_FAIL(OverlapReduce, "overlap.operands reduce", Single()) {
  Ones ub;
  WholeReduceSum(ub.At<float>(0), ub.At<float>(0), 64, 2, 1, 1, 8);
}
MUST_FAIL(OverlapGather, "overlap.operands gather", Single()) {
  Ones ub;
  auto offset = ub.At<int32_t>(4096);
  Duplicate(offset, 0, 8);
  Gather(ub.At<float>(0), ub.At<float>(0), offset.ReinterpretCast<uint32_t>(), 0, 8);
}
MUST_FAIL(OverlapGatherMask, "overlap.operands gather-mask", Single()) {
  Ones ub;
  uint64_t taken = 0;
  GatherMask(ub.At<float>(0), ub.At<float>(0), 2, false, 0, {1, 1, 8, 0}, taken);
}
MUST_FAIL(OverlapBrcb, "overlap.operands brcb", Single()) {
  Ones ub;
  Brcb(ub.At<float>(0), ub.At<float>(0), 1, {1, 8});
}
MUST_FAIL(OverlapCompare, "overlap.operands compare", Single()) {
  Ones ub;
  Compares(ub.At<uint8_t>(0), ub.At<float>(0), 1.0f, CMPMODE::EQ, 64);
}
MUST_FAIL(OverlapSelect, "overlap.operands select", Single()) {
  Ones ub;
  Select(ub.At<float>(0), ub.At<uint8_t>(0), ub.At<float>(1024), 0.0f,
         SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
}
MUST_FAIL(OverlapLocalCopy, "overlap.operands copy", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(32), ub.At<float>(0), 16);
}
MUST_FAIL(OverlapSort, "overlap.operands sort", Single()) {
  Ones ub;
  Sort32(ub.At<float>(0), ub.At<float>(0), ub.At<uint32_t>(4096), 1);
}
MUST_FAIL(OverlapMerge, "overlap.operands merge", Single()) {
  Ones ub;
  auto list = ub.At<float>(0);
  MrgSort(list, {list, list, list, list}, {{4, 4, 4, 4}, false, 15, 1});
}
MUST_FAIL(Overflow, "value.int-overflow", Single()) {
  Ones ub;
  auto ints = ub.At<int32_t>(kFree);
  Duplicate(ints, 1 << 30, 8);
  Add(ints, ints, ints, 8);
}
MUST_FAIL(OverflowIndex, "value.int-overflow index", Single()) {
  Ones ub;
  CreateVecIndex(ub.At<int16_t>(kFree), int16_t{32767}, 2);
}

// --- data movement
// --------------------------------------------------------------------------------

MUST_FAIL(CopyCount, "copy.count-32B", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(kFree), Global<float>(x), 5);
}
MUST_FAIL(PadLength, "copy.block-length", Single()) {
  Ones ub;
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), {1, 18, 0, 0, 0}, {true, 0, 0, 0.0f});
}
MUST_FAIL(PadLengthLong, "copy.block-length long", Single()) {
  Ones ub;
  DataCopyPad(Global<float>(y), ub.At<float>(0), {1, 2097152, 0, 0, 0});
}
MUST_FAIL(PadWide, "copy.padding", Single()) {
  Ones ub;
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), {1, 4, 0, 0, 0}, {true, 0, 9, 0.0f});
}
MUST_FAIL(PadValue64, "copy.padding value", Single()) {
  Ones ub;
  DataCopyPad(ub.At<int64_t>(kFree), Global<int64_t>(x), {1, 8, 0, 0, 0}, {true, 0, 1, 7});
}

// --- vector
// ---------------------------------------------------------------------------------------

MUST_FAIL(CompareCount, "compare.count-256B", Single()) {
  Ones ub;
  Compares(ub.At<uint8_t>(kFree), ub.At<float>(0), 1.0f, CMPMODE::EQ, 63);
}
MUST_FAIL(CompareInt, "compare.int32-eq", Single()) {
  Ones ub;
  Compares(ub.At<uint8_t>(kFree), ub.At<int32_t>(0), 1, CMPMODE::LT, 64);
}
MUST_FAIL(SelectForm, "select.mode", Single()) {
  Ones ub;
  Select(ub.At<float>(kFree), ub.At<uint8_t>(0), ub.At<float>(0), 0.0f,
         SELMODE::VSEL_TENSOR_TENSOR_MODE, 64);
}
MUST_FAIL(SelectCount, "select.mode count", Single()) {
  Ones ub;
  Select(ub.At<float>(kFree), ub.At<uint8_t>(0), ub.At<float>(0), ub.At<float>(0),
         SELMODE::VSEL_CMPMASK_SPR, 64);
}
MUST_FAIL(SelectNoMask, "select.no-cmpmask", Single()) {
  Ones ub;
  Select(ub.At<float>(kFree), ub.At<uint8_t>(0), ub.At<float>(0), ub.At<float>(0),
         SELMODE::VSEL_CMPMASK_SPR, uint64_t{64}, 1, BinaryRepeatParams());
}
MUST_FAIL(CastMode, "cast.mode", Single()) {
  Ones ub;
  Cast(ub.At<bfloat16_t>(kFree), ub.At<float>(0), RoundMode::CAST_NONE, 64);
}
MUST_FAIL(CastScale, "cast.deq-scale", Single()) {
  Ones ub;
  Cast(ub.At<half>(kFree), ub.At<int32_t>(0), RoundMode::CAST_NONE, 64);
}
MUST_FAIL(Shift, "shift.range", Single()) {
  Ones ub;
  ShiftRight(ub.At<int32_t>(kFree), ub.At<int32_t>(0), 33, 8);
}
MUST_FAIL(ReduceTmp, "reduce.tmp-size", Single()) {
  Ones ub;
  ReduceMax(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(32768 - 32), 4096);
}
MUST_FAIL(GatherFar, "gather.offset", Single()) {
  Ones ub;
  auto offset = ub.At<int32_t>(kFree);
  Duplicate(offset, 64, 8);
  Gather(ub.At<float>(kFree + 1024), ub.At<float>(32768 - 64), offset.ReinterpretCast<uint32_t>(),
         0, 8);
}
MUST_FAIL(GatherUnaligned, "gather.offset unaligned", Single()) {
  Ones ub;
  auto offset = ub.At<int32_t>(kFree);
  Duplicate(offset, 2, 8);
  Gather(ub.At<float>(kFree + 1024), ub.At<float>(0), offset.ReinterpretCast<uint32_t>(), 0, 8);
}
MUST_FAIL(GatherbUnaligned, "gather.offset block", Single()) {
  Ones ub;
  auto offset = ub.At<int32_t>(kFree);
  Duplicate(offset, 16, 8);
  Gatherb(ub.At<float>(kFree + 1024), ub.At<float>(0), offset.ReinterpretCast<uint32_t>(), 1,
          {1, 8});
}
MUST_FAIL(Pattern, "gather-mask.pattern", Single()) {
  Ones ub;
  uint64_t taken = 0;
  GatherMask(ub.At<float>(kFree), ub.At<float>(0), 8, false, 0, {1, 1, 8, 0}, taken);
}
MUST_FAIL(MergeBit, "mrg-sort.params", Single()) {
  Ones ub;
  auto list = ub.At<float>(0);
  MrgSort(ub.At<float>(kFree), {list, list, list, list}, {{4, 4, 4, 4}, false, 5, 1});
}
MUST_FAIL(MergeRepeat, "mrg-sort.params repeat", Single()) {
  Ones ub;
  auto list = ub.At<float>(0);
  MrgSort(ub.At<float>(kFree), {list, list, list, list}, {{4, 4, 4, 4}, false, 15, 2});
}
MUST_FAIL(MergeLength, "mrg-sort.params length", Single()) {
  Ones ub;
  auto list = ub.At<float>(0);
  MrgSort(ub.At<float>(kFree), {list, list, list, list}, {{4096, 4, 0, 0}, false, 3, 1});
}
MUST_FAIL(MergeResult, "mrg-sort.result", Single()) {
  uint16_t a, b, c, d;
  GetMrgSortResult(a, b, c, d);
}

// --- pipes and queues
// -----------------------------------------------------------------------------

MUST_FAIL(TooManyBuffers, "pipe.buffers-64", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 65, 32);
}
MUST_FAIL(TwoPipes, "pipe.one-at-a-time", Single()) {
  TPipe first;
  TPipe second;
}
MUST_FAIL(Mixed, "style.mixed", Single()) {
  TPipe pipe;
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
}
MUST_FAIL(MixedLater, "style.mixed later", Single()) {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
  TPipe pipe;
}
MUST_FAIL(BufTooLong, "buf.length", Single()) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 64);
  buffer.Get<float>(17);
}
MUST_FAIL(QueueWithoutBuffers, "queue.not-initialised", Single()) {
  TQue<TPosition::VECIN, 1> queue;
  queue.AllocTensor<float>();
}
MUST_FAIL(BufWithoutMemory, "queue.not-initialised buf", Single()) {
  TBuf<> buffer;
  buffer.Get<float>();
}
MUST_FAIL(NoIdleBuffer, "queue.no-idle-buffer", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 32);
  queue.AllocTensor<float>();
  queue.AllocTensor<float>();
}
MUST_FAIL(Outstanding, "queue.outstanding-8", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 9, 32);
  for (int i = 0; i < 9; ++i) queue.AllocTensor<float>();
}
MUST_FAIL(Depth, "queue.depth", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 2, 32);
  for (int i = 0; i < 2; ++i) queue.EnQue(queue.AllocTensor<float>());
}
MUST_FAIL(EmptyQueue, "queue.empty", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 32);
  queue.DeQue<float>();
}
MUST_FAIL(Foreign, "queue.foreign-tensor", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  pipe.InitBuffer(in, 1, 32);
  pipe.InitBuffer(out, 1, 32);
  auto tensor = in.AllocTensor<float>();
  out.EnQue(tensor);
}
MUST_FAIL(EnqueuedTwice, "queue.state", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 2> queue;
  pipe.InitBuffer(queue, 1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.EnQue(tensor);
  queue.EnQue(tensor);
}
MUST_FAIL(FreedInQueue, "queue.state free", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.EnQue(tensor);
  queue.FreeTensor(tensor);
}
MUST_FAIL(DoubleFree, "queue.double-free", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.FreeTensor(tensor);
  queue.FreeTensor(tensor);
}
MUST_FAIL(UseAfterFree, "queue.use-after-free", Single()) {
  TPipe pipe;
  TQue<TPosition::VECOUT, 1> queue;
  pipe.InitBuffer(queue, 1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.FreeTensor(tensor);
  Duplicate(tensor, 1.0f, 8);
}
MUST_FAIL(UseAfterReset, "queue.use-after-free reset", Single()) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 32);
  auto tensor = buffer.Get<float>();
  pipe.Reset();
  Duplicate(tensor, 1.0f, 8);
}
MUST_FAIL(UseEnqueued, "queue.use-while-enqueued", Single()) {
  TPipe pipe;
  TQue<TPosition::VECOUT, 1> queue;
  pipe.InitBuffer(queue, 1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.EnQue(tensor);
  Duplicate(tensor, 1.0f, 8);
}
MUST_FAIL(LeakAllocated, "queue.leak", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 32);
  queue.AllocTensor<float>();
}
MUST_FAIL(LeakEnqueued, "queue.leak enqueued", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 32);
  queue.EnQue(queue.AllocTensor<float>());
}

// --- synchronisation
// ------------------------------------------------------------------------------

MUST_FAIL(VectorBeforeLoad, "sync.missing", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(kFree), Global<float>(x), 64);
  Exp(ub.At<float>(kFree), ub.At<float>(kFree), 64);
}
MUST_FAIL(NoDeQue, "sync.missing queue", Single()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 256);
  auto tensor = queue.AllocTensor<float>();
  DataCopy(tensor, Global<float>(x), 64);
  Exp(tensor, tensor, 64);
}
MUST_FAIL(StoreBeforeVector, "sync.missing store", Single()) {
  Ones ub;
  DataCopy(Global<float>(y), ub.At<float>(0), 64);
}
MUST_FAIL(LoadOverUsed, "sync.missing overwrite", Single()) {
  Ones ub;
  Exp(ub.At<float>(kFree), ub.At<float>(0), 64);
  DataCopy(ub.At<float>(0), Global<float>(x), 64);
}
MUST_FAIL(LoadOverStored, "sync.missing reload", Single()) {
  Ones ub;
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y), ub.At<float>(0), 64);
  DataCopy(ub.At<float>(0), Global<float>(x), 64);
}
MUST_FAIL(WrongFlag, "sync.missing wrong-flag", Single()) {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  DataCopy(tensor, Global<float>(x), 64);
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
  Exp(tensor, tensor, 64);
}
MUST_FAIL(TwoLoads, "sync.missing two-loads", Single()) {
  Ones ub;
  DataCopy(ub.At<float>(kFree), Global<float>(x), 64);
  DataCopy(ub.At<float>(kFree), Global<float>(x), 64);
}
MUST_FAIL(TwoStores, "sync.missing two-stores", Single()) {
  Ones ub;
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y), ub.At<float>(0), 64);
  DataCopy(Global<float>(y), ub.At<float>(256), 64);
}
MUST_FAIL(LoadAfterStore, "sync.missing global", Single()) {
  Ones ub;
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(z), ub.At<float>(0), 64);
  DataCopy(ub.At<float>(kFree), Global<float>(z), 64);
}
MUST_FAIL(StoreAfterLoad, "sync.missing global-reverse", Single()) {
  Ones ub;
  PipeBarrier<PIPE_ALL>();
  DataCopy(ub.At<float>(kFree), Global<float>(z), 64);
  DataCopy(Global<float>(z), ub.At<float>(0), 64);
}
MUST_FAIL(StrictVector, "sync.missing strict", Strict()) {
  Ones ub;
  Exp(ub.At<float>(kFree), ub.At<float>(0), 64);
}
MUST_FAIL(StrictScalar, "sync.missing strict-scalar", Strict()) {
  Ones ub;
  ub.At<float>(0).GetValue(0);
}
MUST_FAIL(FlagTwice, "flag.twice", Single()) {
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
}
MUST_FAIL(FlagNeverSet, "flag.never-set", Single()) {
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID1);
}
MUST_FAIL(FlagUnconsumed, "flag.unconsumed", Single()) { SetFlag<HardEvent::V_MTE3>(EVENT_ID0); }
MUST_FAIL(FlagId, "flag.id-range", Single()) { SetFlag<HardEvent::V_MTE3>(8); }
MUST_FAIL(FlagReserved, "flag.id-range static", Single()) {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
  SetFlag<HardEvent::V_MTE3>(EVENT_ID6);
}
MUST_FAIL(FlagNotAllocated, "flag.not-allocated", Single()) {
  TPipe pipe;
  SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
}
MUST_FAIL(FlagsExhausted, "flag.ids-exhausted", Single()) {
  TPipe pipe;
  for (int i = 0; i < 9; ++i) pipe.AllocEventID<HardEvent::V_MTE3>();
}
MUST_FAIL(ScalarBarrier, "barrier.scalar", Single()) { PipeBarrier<PIPE_S>(); }
MUST_FAIL(AtomicLeft, "atomic.left-set", Single()) { SetAtomicAdd<float>(); }
MUST_FAIL(Deadlock, "deadlock", Mix(3)) {
  if (GetBlockIdx() != 1) SyncAll();
}
MUST_FAIL(DeadlockTwice, "deadlock twice", Mix(2)) {
  SyncAll();
  if (GetBlockIdx() == 0) SyncAll();
}
MUST_FAIL(SyncAllBlocks, "sync-all.blocks", Mix(3, 2)) { SyncAll(); }
MUST_FAIL(SyncAllKernel, "sync-all.kernel-type", Blocks(2)) { SyncAll(); }
MUST_FAIL(SyncAllSmall, "sync-all.workspace", Blocks(2)) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 32);
  SyncAll(Global<int32_t>(z), buffer.Get<int32_t>());
}
MUST_FAIL(SyncAllDirty, "sync-all.workspace dirty", Blocks(2)) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 64);
  SyncAll(Global<int32_t>(y), buffer.Get<int32_t>());
}
MUST_FAIL(NoInitSoc, "static.init-soc-state", Single()) {
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
}
MUST_FAIL(StaticList, "static.api-list", Single()) {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 256);
  Duplicate(tensor, 1.0f, 64);
  ReduceSum(tensor[64], tensor, tensor[128], 64);
}
MUST_FAIL(NoFinalBarrier, "static.final-barrier", Single()) {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
  PipeBarrier<PIPE_ALL>();
  Duplicate(tensor, 1.0f, 64);
}
MUST_FAIL(Endless, "kernel.endless", Budget(1000)) {
  Ones ub;
  while (ub.At<float>(0).GetValue(0) == 1.0f) {
  }
}

}  // namespace

const std::vector<Case>& MustFail() { return Cases(); }

}  // namespace moge_tests
