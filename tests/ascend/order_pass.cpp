// Correct kernels with flags, or of several cores; tests/emulator/test_kernels.py compares each
// with NumPy.
#include "common.h"

namespace moge_tests {

namespace {

// --- static tensors and flags ----------------------------------------------------------------

// y = 3x over 8 tiles of 512 floats, two halves of UB taking turns; complete in strict mode
__global__ __vector__ void static_ping_pong(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kTile = 512;
  InitSocState();
  LocalMemAllocator<Hardware::UB> memory;
  LocalTensor<float> in[2] = {memory.Alloc<TPosition::VECIN, float, kTile>(),
                              memory.Alloc<TPosition::VECIN, float, kTile>()};
  LocalTensor<float> out[2] = {memory.Alloc<TPosition::VECOUT, float>(kTile),
                               memory.Alloc<TPosition::VECOUT, float>(kTile)};
  for (int turn = 0; turn < 2; ++turn) {
    SetFlag<HardEvent::V_MTE2>(turn);
    SetFlag<HardEvent::MTE3_V>(turn);
  }
  for (int tile = 0; tile < 8; ++tile) {
    const int turn = tile % 2;
    WaitFlag<HardEvent::V_MTE2>(turn);
    DataCopy(in[turn], Global<float>(x)[tile * kTile], kTile);
    SetFlag<HardEvent::MTE2_V>(turn);
    WaitFlag<HardEvent::MTE2_V>(turn);
    WaitFlag<HardEvent::MTE3_V>(turn);
    Muls(out[turn], in[turn], 2.0f, kTile);
    PipeBarrier<PIPE_V>();
    Add(out[turn], out[turn], in[turn], kTile);
    SetFlag<HardEvent::V_MTE2>(turn);
    SetFlag<HardEvent::V_MTE3>(turn);
    WaitFlag<HardEvent::V_MTE3>(turn);
    DataCopy(Global<float>(y)[tile * kTile], out[turn], kTile);
    SetFlag<HardEvent::MTE3_V>(turn);
  }
  for (int turn = 0; turn < 2; ++turn) {
    WaitFlag<HardEvent::V_MTE2>(turn);
    WaitFlag<HardEvent::MTE3_V>(turn);
  }
  PipeBarrier<PIPE_ALL>();
}

// beside queues: a buffer without a queue, its flags from the TPipe; y = x + x[0]
__global__ __vector__ void manual_flags(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kCount = 64;
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, kCount * sizeof(float));
  auto values = buffer.Get<float>();
  DataCopy(values, Global<float>(x), kCount);
  const auto loaded = pipe.AllocEventID<HardEvent::MTE2_V>();
  SetFlag<HardEvent::MTE2_V>(loaded);
  WaitFlag<HardEvent::MTE2_V>(loaded);
  pipe.ReleaseEventID<HardEvent::MTE2_V>(loaded);
  const auto to_scalar = static_cast<event_t>(GetTPipePtr()->FetchEventID(HardEvent::MTE2_S));
  SetFlag<HardEvent::MTE2_S>(to_scalar);
  WaitFlag<HardEvent::MTE2_S>(to_scalar);
  const float first = values.GetValue(0);
  Adds(values, values, first, kCount);
  const auto done = static_cast<event_t>(pipe.FetchEventID(HardEvent::V_MTE3));
  SetFlag<HardEvent::V_MTE3>(done);
  WaitFlag<HardEvent::V_MTE3>(done);
  DataCopy(Global<float>(y), values, kCount);
}

// the scalar unit waits for the load, and issues the vector instruction only then: y = x + 1
__global__ __vector__ void scalar_orders(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kCount = 64;
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, kCount * sizeof(float));
  auto values = buffer.Get<float>();
  DataCopy(values, Global<float>(x), kCount);
  const auto loaded = static_cast<event_t>(pipe.FetchEventID(HardEvent::MTE2_S));
  SetFlag<HardEvent::MTE2_S>(loaded);
  WaitFlag<HardEvent::MTE2_S>(loaded);
  Adds(values, values, 1.0f, kCount);
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y), values, kCount);
}

// y = 2x over 100 floats with the mask register counting
__global__ __vector__ void counter_mode(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kCount = 100;
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  pipe.InitBuffer(in, 1, 416);
  pipe.InitBuffer(out, 1, 416);
  auto source = in.AllocTensor<float>();
  DataCopy(source, Global<float>(x), 104);
  in.EnQue(source);
  source = in.DeQue<float>();
  auto result = out.AllocTensor<float>();
  SetMaskCount();
  SetVectorMask<float, MaskMode::COUNTER>(0, kCount);
  Muls<float, false>(result, source, 2.0f, MASK_PLACEHOLDER, 1, UnaryRepeatParams());
  SetMaskNorm();
  ResetMask();
  in.FreeTensor(source);
  out.EnQue(result);
  result = out.DeQue<float>();
  DataCopyPad(Global<float>(y), result, DataCopyExtParams(1, kCount * sizeof(float), 0, 0, 0));
  out.FreeTensor(result);
}

// --- several cores ---------------------------------------------------------------------------

constexpr uint32_t kPart = 512;  // floats of one block

// sum of this block's part into z[8 * block]
__aicore__ void WritePartSum(GM_ADDR x, GM_ADDR z, TQue<TPosition::VECIN, 1>& in,
                             TQue<TPosition::VECOUT, 1>& out, TBuf<>& scratch) {
  auto part = in.AllocTensor<float>();
  DataCopy(part, Global<float>(x)[GetBlockIdx() * kPart], kPart);
  in.EnQue(part);
  part = in.DeQue<float>();
  auto sum = out.AllocTensor<float>();
  Duplicate(sum, 0.0f, 8);
  ReduceSum(sum, part, scratch.Get<float>(), kPart);
  in.FreeTensor(part);
  out.EnQue(sum);
  sum = out.DeQue<float>();
  DataCopy(Global<float>(z)[GetBlockIdx() * 8], sum, 8);
  out.FreeTensor(sum);
}

// y[block] = sum of the sums of all blocks, in order, plus the block
__aicore__ void ReadPartSums(GM_ADDR y, GM_ADDR z, TQue<TPosition::VECIN, 1>& in,
                             TQue<TPosition::VECOUT, 1>& out) {
  const auto blocks = static_cast<uint32_t>(GetBlockNum());
  auto sums = in.AllocTensor<float>();
  DataCopy(sums, Global<float>(z), blocks * 8);
  in.EnQue(sums);
  sums = in.DeQue<float>();
  auto total = out.AllocTensor<float>();
  Duplicate(total, static_cast<float>(GetBlockIdx()), 8);
  Add(total, sums, total, uint64_t{8}, blocks, BinaryRepeatParams(1, 1, 1, 0, 1, 0));
  in.FreeTensor(sums);
  out.EnQue(total);
  total = out.DeQue<float>();
  DataCopy(Global<float>(y)[GetBlockIdx() * 8], total, 8);
  out.FreeTensor(total);
}

__global__ __mix__(0, 1) void sync_all(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  TBuf<> scratch;
  pipe.InitBuffer(in, 1, kPart * sizeof(float));
  pipe.InitBuffer(out, 1, 32);
  pipe.InitBuffer(scratch, 256);
  WritePartSum(x, z, in, out, scratch);
  SyncAll();
  ReadPartSums(y, z, in, out);
}

__global__ __vector__ void sync_all_soft(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  TBuf<> scratch, local;
  pipe.InitBuffer(in, 1, kPart * sizeof(float));
  pipe.InitBuffer(out, 1, 32);
  pipe.InitBuffer(scratch, 256);
  pipe.InitBuffer(local, 32 * GetBlockNum());
  WritePartSum(x, z, in, out, scratch);
  SyncAll(Global<int32_t>(z)[4096], local.Get<int32_t>());
  ReadPartSums(y, z, in, out);
}

// every block adds its part of x to the first 512 floats of z
__global__ __vector__ void atomic_add(GM_ADDR x, GM_ADDR, GM_ADDR z) {
  TPipe pipe;
  TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> queue;
  pipe.InitBuffer(queue, 1, kPart * sizeof(float));
  auto part = queue.AllocTensor<float>();
  DataCopy(part, Global<float>(x)[GetBlockIdx() * kPart], kPart);
  queue.EnQue(part);
  part = queue.DeQue<float>();
  SetAtomicAdd<float>();
  DataCopy(Global<float>(z), part, kPart);
  SetAtomicNone();
  queue.FreeTensor(part);
}

// a number from each block to all, through the scalar unit's cache
__global__ __mix__(0, 1) void scalar_exchange(GM_ADDR, GM_ADDR y, GM_ADDR z) {
  auto numbers = Global<int32_t>(z);
  auto own = numbers[GetBlockIdx() * 16];
  own.SetValue(0, static_cast<int32_t>(GetBlockIdx()) + 1);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(own);
  SyncAll();
  int32_t sum = 0;
  for (int64_t block = 0; block < GetBlockNum(); ++block) sum += numbers.GetValue(block * 16);
  auto result = Global<int32_t>(y)[GetBlockIdx() * 16];
  result.SetValue(0, sum);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(result);
}

const std::vector<Case> kCases = {
    {"static_ping_pong", static_ping_pong, {}},
    {"manual_flags", manual_flags, {}},
    {"scalar_orders", scalar_orders, {}},
    {"counter_mode", counter_mode, {}},
    {"sync_all", sync_all, Launch(KernelType::kMixVector, 6)},
    {"sync_all_soft", sync_all_soft, Launch(KernelType::kVector, 6)},
    {"atomic_add", atomic_add, Launch(KernelType::kVector, 6)},
    {"scalar_exchange", scalar_exchange, Launch(KernelType::kMixVector, 6)},
};
const Addition kAdded(MustPass(), kCases);

}  // namespace

}  // namespace moge_tests
