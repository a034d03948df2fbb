// Cores that wait for each other by global memory, and do it wrong.
#include "must_fail.h"

namespace moge_tests {

namespace {

Options Vector(uint32_t blocks) { return Launch(KernelType::kVector, blocks); }
Options Cube(uint32_t blocks) { return Launch(KernelType::kCube, blocks); }
Options Strict(uint32_t blocks) {
  Options options = Vector(blocks);
  options.strict = true;
  return options;
}

__gm__ int32_t* Flag(GM_ADDR z) { return reinterpret_cast<__gm__ int32_t*>(z + 16384); }

__aicore__ void Publish(GM_ADDR z) {
  const GlobalTensor<int32_t> flag = Global<int32_t>(z + 16384);
  flag.SetValue(0, 1);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE>(flag);
}

__aicore__ void WaitPublished(GM_ADDR z) {
  while (ReadGmByPassDCache(Flag(z)) != 1) {
  }
}

// A tile in UB, or in L1 of a cube core, that x is in.
__aicore__ LocalTensor<float> Loaded(GM_ADDR x) {
  InitSocState();
  const LocalTensor<float> tile(ASCEND_IS_AIC ? TPosition::A1 : TPosition::VECCALC, 0, 64);
  DataCopy(tile, Global<float>(x), 64);
  Sync<HardEvent::MTE2_MTE3>();
  return tile;
}

// The transfer may not be over when the flag is set.
MUST_FAIL("gm.race poll flag-too-early", Vector(2)) {
  const LocalTensor<float> tile = Loaded(x);
  if (GetBlockIdx() == 1) {
    DataCopy(Global<float>(z), tile, 64);
    Publish(z);
  } else {
    WaitPublished(z);
    Sync<HardEvent::S_MTE2>();
    DataCopy(tile, Global<float>(z), 64);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL("gm.race poll uncached-too-early", Vector(2)) {
  const LocalTensor<float> tile = Loaded(x);
  if (GetBlockIdx() == 1) {
    DataCopy(Global<float>(z), tile, 64);
    WriteGmByPassDCache(Flag(z), 1);
  } else {
    WaitPublished(z);
    Sync<HardEvent::S_MTE2>();
    DataCopy(tile, Global<float>(z), 64);
  }
  PipeBarrier<PIPE_ALL>();
}
// The transfer pipe does not wait for the scalar unit.
__aicore__ void ReadWithoutWaiting(GM_ADDR x, GM_ADDR z) {
  const LocalTensor<float> tile = Loaded(x);
  if (GetBlockIdx() == 1) {
    DataCopy(Global<float>(z), tile, 64);
    Sync<HardEvent::MTE3_S>();
    Publish(z);
  } else {
    WaitPublished(z);
    DataCopy(tile, Global<float>(z), 64);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL("gm.race poll go-too-early", Cube(2)) { ReadWithoutWaiting(x, z); }
MUST_FAIL("gm.race poll go-too-early strict", Strict(2)) { ReadWithoutWaiting(x, z); }
// Nobody waits.
MUST_FAIL("gm.race no-poll", Vector(2)) {
  const LocalTensor<float> tile = Loaded(x);
  if (GetBlockIdx() == 0) {
    DataCopy(Global<float>(z), tile, 64);
    Sync<HardEvent::MTE3_S>();
    Publish(z);
  } else {
    DataCopy(tile, Global<float>(z), 64);
  }
  PipeBarrier<PIPE_ALL>();
}
// The flag tells of what was done before it only.
MUST_FAIL("gm.race poll after-the-flag", Vector(2)) {
  const LocalTensor<float> tile = Loaded(x);
  if (GetBlockIdx() == 1) {
    WriteGmByPassDCache(Flag(z), 1);
    DataCopy(Global<float>(z), tile, 64);
  } else {
    WaitPublished(z);
    PipeBarrier<PIPE_ALL>();
    DataCopy(Global<float>(z), tile, 64);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL("gm.race two-flags", Vector(2)) { WriteGmByPassDCache(Flag(z), 1); }
MUST_FAIL("gm.race flag-by-dma", Vector(2)) {
  const LocalTensor<float> tile = Loaded(x);
  if (GetBlockIdx() == 1) {
    DataCopy(Global<float>(z + 16384), tile, 8);
  } else {
    while (ReadGmByPassDCache(Flag(z)) == 0) {
    }
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL("gm.race max-and-add", Vector(2)) {
  const LocalTensor<float> tile = Loaded(x);
  if (GetBlockIdx() == 0) {
    SetAtomicAdd<float>();
  } else {
    SetAtomicMax<float>();
  }
  DataCopy(Global<float>(z), tile, 64);
  DisableDmaAtomic();
  PipeBarrier<PIPE_ALL>();
}
// The line that the first read fetched stays as it is.
MUST_FAIL("dcache.stale poll", Vector(2)) {
  if (GetBlockIdx() == 1) {
    Publish(z);
  } else {
    while (Global<int32_t>(z + 16384).GetValue(0) != 1) {
    }
  }
}

MUST_FAIL("deadlock poll", Vector(3)) { WaitPublished(z); }
MUST_FAIL("deadlock poll-cached", Vector(1)) {
  const GlobalTensor<int32_t> flag = Global<int32_t>(z);
  while (flag.GetValue(0) != 1) {
    DataCacheCleanAndInvalid<int32_t, CacheLine::ENTIRE_DATA_CACHE>(flag);
    DataSyncBarrier<MemDsbT::ALL>();
  }
}
MUST_FAIL("deadlock poll-and-meet", Launch(KernelType::kMixVector, 3)) {
  if (GetBlockIdx() == 0) WaitPublished(z);
  SyncAll();
}

MUST_FAIL("dcache.bypass dirty") {
  Global<int32_t>(z + 16384).SetValue(1, 1);
  WriteGmByPassDCache(Flag(z), 1);
}
MUST_FAIL("dcache.bypass order") {
  Publish(z);
  DataSyncBarrier<MemDsbT::UB>();
  WriteGmByPassDCache(Flag(z), 2);
}
MUST_FAIL("dcache.dirty uncached") {
  Global<int32_t>(z + 16384).SetValue(0, 1);
  ReadGmByPassDCache(Flag(z));
}
MUST_FAIL("dcache.stale uncached") {
  const GlobalTensor<int32_t> flag = Global<int32_t>(z + 16384);
  flag.GetValue(1);
  WriteGmByPassDCache(Flag(z), 1);
  flag.GetValue(0);
}
MUST_FAIL("dcache.stale preload") {
  DataCachePreload(Global<uint64_t>(z), int64_t{16384});
  WriteGmByPassDCache(Flag(z), 1);
  Global<int32_t>(z).GetValue(4096);
}
MUST_FAIL("dcache.preload") {
  const GlobalTensor<uint64_t> table = Global<uint64_t>(x);
  for (int64_t i = 0; i < 5; ++i) DataCachePreload(table, i * 64);
}
MUST_FAIL("icache.preload") { ICachePreLoad(8); }
MUST_FAIL("icache.preload cube", Cube(1)) { ICachePreLoad(16); }
MUST_FAIL("gm.bounds preload") { DataCachePreload(Global<uint64_t>(x), int64_t{65536}); }
MUST_FAIL("gm.unregistered uncached") { ReadGmByPassDCache(Flag(z) + 12288); }
MUST_FAIL("gm.alignment uncached") { WriteGmByPassDCache(Flag(z + 2), 1); }

MUST_FAIL("cross-core.mode-change", Launch(KernelType::kMix, 1)) {
  if ASCEND_IS_AIV {
    CrossCoreSetFlag<1, PIPE_MTE3>(0);
    CrossCoreSetFlag<0, PIPE_MTE3>(0);
  }
}
MUST_FAIL("sync-all.kernel-type both", Launch(KernelType::kMixVector, 2)) { SyncAll<false>(); }

// --- workspaces ---------------------------------------------------------------------------------

// A TPipe with a workspace in UB of 64 or 96 bytes.
class Work {
 public:
  Work() {
    pipe_.InitBuffer(buffer_, 96);
    pipe_.InitBuffer(small_, 32);
  }
  LocalTensor<int32_t> Get() { return buffer_.Get<int32_t>(); }
  LocalTensor<int32_t> Small() { return small_.Get<int32_t>(); }
  TPipe& pipe() { return pipe_; }

 private:
  TPipe pipe_;
  TBuf<TPosition::VECCALC> buffer_, small_;
};

#define WORK_FAILS(...) MUST_FAIL_WITH(Work, work, __VA_ARGS__)

WORK_FAILS("sync-all.blocks used", Vector(2)) { SyncAll(Global<int32_t>(z), work.Get(), 3); }
WORK_FAILS("ib.workspace", Vector(2)) { IBSet(Global<int32_t>(z, 24), work.Get(), 1, 1); }
WORK_FAILS("ib.workspace written", Vector(2)) { IBSet(Global<int32_t>(y), work.Get(), 0, 0); }
WORK_FAILS("ib.workspace ones", Vector(2)) { IBSet(Global<int32_t>(x), work.Get(), 0, 0); }
WORK_FAILS("ib.block", Vector(2)) { IBSet(Global<int32_t>(z), work.Get(), 2, 0); }
// The second set comes before the first wait, and is lost.
WORK_FAILS("ib.paired", Vector(2)) {
  for (int i = 0; i < 2; ++i) {
    if (GetBlockIdx() == 0) {
      IBSet(Global<int32_t>(z), work.Get(), 0, 0);
    } else {
      IBWait(Global<int32_t>(z), work.Get(), 0, 0);
    }
  }
}
WORK_FAILS("deadlock ib", Vector(2)) {
  if (GetBlockIdx() == 0) {
    IBSet(Global<int32_t>(z), work.Get(), 0, 0);
  } else {
    IBWait(Global<int32_t>(z), work.Get(), 1, 0);
  }
}
WORK_FAILS("sync-all.blocks ib", Vector(49)) { IBSet(Global<int32_t>(z), work.Get(), 0, 0); }
WORK_FAILS("determine.workspace", Vector(2)) {
  LocalTensor<int32_t> local = work.Small();
  GlobalTensor<int32_t> turns = Global<int32_t>(z);
  InitDetermineComputeWorkspace(turns, local);
}
WORK_FAILS("determine.init", Vector(2)) {
  LocalTensor<int32_t> local = work.Get();
  GlobalTensor<int32_t> turns = Global<int32_t>(z);
  WaitPreBlock(turns, local);
}
WORK_FAILS("determine.paired", Vector(2)) {
  LocalTensor<int32_t> local = work.Get();
  GlobalTensor<int32_t> turns = Global<int32_t>(z);
  InitDetermineComputeWorkspace(turns, local);
  NotifyNextBlock(turns, local);
}
WORK_FAILS("deadlock determine", Vector(2)) {
  LocalTensor<int32_t> local = work.Get();
  GlobalTensor<int32_t> turns = Global<int32_t>(z);
  InitDetermineComputeWorkspace(turns, local);
  WaitPreBlock(turns, local);
}
WORK_FAILS("group.workspace") { GroupBarrier<PipeMode::MTE3_MODE>(z + 64, 1, 1); }
WORK_FAILS("group.workspace ones") { GroupBarrier<PipeMode::MTE3_MODE>(x, 1, 1); }
WORK_FAILS("group.index", Vector(2)) { GroupBarrier<PipeMode::MTE3_MODE>(z, 1, 1).Arrive(1); }
WORK_FAILS("deadlock group", Vector(3)) {
  GroupBarrier<PipeMode::MTE3_MODE> group(z, 2, 1);
  if (GetBlockIdx() == 0) {
    group.Wait(0);
  } else {
    group.Arrive(0);
  }
}
WORK_FAILS("ub.reserved group") {
  GroupBarrier<PipeMode::MTE3_MODE> group(z, 1, 1);
  TBuf<TPosition::VECCALC> rest;
  work.pipe().InitBuffer(rest, 196608 - 256 - 128);
}

}  // namespace

}  // namespace moge_tests
