// The rules of pipes, queues, flags and styles, as must_fail.cpp has those of instructions.
#include "must_fail.h"

namespace moge_tests {

namespace {

Options Strict() {
  Options options;
  options.strict = true;
  return options;
}
Options Mix(uint32_t blocks, uint32_t cores = 48) {
  Options options = Launch(KernelType::kMixVector, blocks);
  options.cores = cores;
  return options;
}
Options Budget(uint64_t instructions) {
  Options options;
  options.max_instructions = instructions;
  return options;
}

// --- pipes and queues ------------------------------------------------------------------------

MUST_FAIL("pipe.buffers-64") { Queue<> queue(65, 32); }
MUST_FAIL("pipe.one-at-a-time") {
  TPipe first;
  TPipe second;
}
MUST_FAIL("style.mixed") {
  TPipe pipe;
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
}
MUST_FAIL("style.mixed later") {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
  TPipe pipe;
}
MUST_FAIL("buf.length") {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 64);
  buffer.Get<float>(17);
}
MUST_FAIL("queue.not-initialised") {
  TQue<TPosition::VECIN, 1> queue;
  queue.AllocTensor<float>();
}
MUST_FAIL("queue.not-initialised buf") {
  TBuf<> buffer;
  buffer.Get<float>();
}
MUST_FAIL("queue.no-idle-buffer") {
  Queue<> queue(1, 32);
  queue.AllocTensor<float>();
  queue.AllocTensor<float>();
}
MUST_FAIL("queue.outstanding-8") {
  Queue<> queue(9, 32);
  for (int i = 0; i < 9; ++i) queue.AllocTensor<float>();
}
MUST_FAIL("queue.depth") {
  Queue<> queue(2, 32);
  for (int i = 0; i < 2; ++i) queue.EnQue(queue.AllocTensor<float>());
}
MUST_FAIL("queue.empty") {
  Queue<> queue(1, 32);
  queue.DeQue<float>();
}
MUST_FAIL("queue.foreign-tensor") {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  pipe.InitBuffer(in, 1, 32);
  pipe.InitBuffer(out, 1, 32);
  auto tensor = in.AllocTensor<float>();
  out.EnQue(tensor);
}
MUST_FAIL("queue.state") {
  Queue<TPosition::VECIN, 2> queue(1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.EnQue(tensor);
  queue.EnQue(tensor);
}
MUST_FAIL("queue.state free") {
  Queue<> queue(1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.EnQue(tensor);
  queue.FreeTensor(tensor);
}
MUST_FAIL("queue.double-free") {
  Queue<> queue(1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.FreeTensor(tensor);
  queue.FreeTensor(tensor);
}
MUST_FAIL("queue.use-after-free") {
  Queue<TPosition::VECOUT> queue(1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.FreeTensor(tensor);
  Duplicate(tensor, 1.0f, 8);
}
MUST_FAIL("queue.use-after-free reset") {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 32);
  auto tensor = buffer.Get<float>();
  pipe.Reset();
  Duplicate(tensor, 1.0f, 8);
}
MUST_FAIL("queue.use-while-enqueued") {
  Queue<TPosition::VECOUT> queue(1, 32);
  auto tensor = queue.AllocTensor<float>();
  queue.EnQue(tensor);
  Duplicate(tensor, 1.0f, 8);
}
MUST_FAIL("queue.leak") {
  Queue<> queue(1, 32);
  queue.AllocTensor<float>();
}
MUST_FAIL("queue.leak enqueued") {
  Queue<> queue(1, 32);
  queue.EnQue(queue.AllocTensor<float>());
}

// --- synchronisation -------------------------------------------------------------------------

UB_FAILS("sync.missing") {
  DataCopy(ub.At<float>(kFree), Global<float>(x), 64);
  Exp(ub.At<float>(kFree), ub.At<float>(kFree), 64);
}
MUST_FAIL("sync.missing queue") {
  Queue<> queue(1, 256);
  auto tensor = queue.AllocTensor<float>();
  DataCopy(tensor, Global<float>(x), 64);
  Exp(tensor, tensor, 64);
}
UB_FAILS("sync.missing store") { DataCopy(Global<float>(y), ub.At<float>(0), 64); }
UB_FAILS("sync.missing overwrite") {
  Exp(ub.At<float>(kFree), ub.At<float>(0), 64);
  DataCopy(ub.At<float>(0), Global<float>(x), 64);
}
UB_FAILS("sync.missing reload") {
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y), ub.At<float>(0), 64);
  DataCopy(ub.At<float>(0), Global<float>(x), 64);
}
MUST_FAIL("sync.missing wrong-flag") {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  DataCopy(tensor, Global<float>(x), 64);
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
  Exp(tensor, tensor, 64);
}
UB_FAILS("sync.missing two-loads") {
  DataCopy(ub.At<float>(kFree), Global<float>(x), 64);
  DataCopy(ub.At<float>(kFree), Global<float>(x), 64);
}
UB_FAILS("sync.missing two-stores") {
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y), ub.At<float>(0), 64);
  DataCopy(Global<float>(y), ub.At<float>(256), 64);
}
UB_FAILS("sync.missing global") {
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(z), ub.At<float>(0), 64);
  DataCopy(ub.At<float>(kFree), Global<float>(z), 64);
}
UB_FAILS("sync.missing global-reverse") {
  PipeBarrier<PIPE_ALL>();
  DataCopy(ub.At<float>(kFree), Global<float>(z), 64);
  DataCopy(Global<float>(z), ub.At<float>(0), 64);
}
UB_FAILS("sync.missing strict", Strict()) { Exp(ub.At<float>(kFree), ub.At<float>(0), 64); }
UB_FAILS("sync.missing strict-scalar", Strict()) { ub.At<float>(0).GetValue(0); }
MUST_FAIL("flag.twice") {
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
}
MUST_FAIL("flag.never-set") {
  SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
  WaitFlag<HardEvent::MTE2_V>(EVENT_ID1);
}
MUST_FAIL("flag.unconsumed") { SetFlag<HardEvent::V_MTE3>(EVENT_ID0); }
MUST_FAIL("flag.id-range") { SetFlag<HardEvent::V_MTE3>(8); }
MUST_FAIL("flag.id-reserved") {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
  SetFlag<HardEvent::V_MTE3>(EVENT_ID6);
}
MUST_FAIL("flag.not-allocated") {
  TPipe pipe;
  SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
}
MUST_FAIL("flag.ids-exhausted") {
  TPipe pipe;
  for (int i = 0; i < 9; ++i) pipe.AllocEventID<HardEvent::V_MTE3>();
}
MUST_FAIL("barrier.scalar") { PipeBarrier<PIPE_S>(); }
MUST_FAIL("atomic.left-set") { SetAtomicAdd<float>(); }
MUST_FAIL("deadlock", Mix(3)) {
  if (GetBlockIdx() != 1) SyncAll();
}
MUST_FAIL("deadlock twice", Mix(2)) {
  SyncAll();
  if (GetBlockIdx() == 0) SyncAll();
}
MUST_FAIL("sync-all.blocks", Mix(3, 2)) { SyncAll(); }
MUST_FAIL("sync-all.kernel-type", Blocks(2)) { SyncAll(); }
MUST_FAIL("sync-all.workspace", Blocks(2)) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 32);
  SyncAll(Global<int32_t>(z), buffer.Get<int32_t>());
}
MUST_FAIL("sync-all.workspace dirty", Blocks(2)) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 64);
  SyncAll(Global<int32_t>(y), buffer.Get<int32_t>());
}
MUST_FAIL("static.init-soc-state") { LocalTensor<float> tensor(TPosition::VECCALC, 0, 64); }
MUST_FAIL("static.api-list") {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 256);
  Duplicate(tensor, 1.0f, 64);
  ReduceSum(tensor[64], tensor, tensor[128], 64);
}
MUST_FAIL("static.final-barrier") {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 64);
  PipeBarrier<PIPE_ALL>();
  Duplicate(tensor, 1.0f, 64);
}
UB_FAILS("kernel.endless", Budget(1000)) {
  while (ub.At<float>(0).GetValue(0) == 1.0f) {
  }
}

}  // namespace

}  // namespace moge_tests
