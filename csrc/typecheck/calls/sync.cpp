// Flags, barriers, cores that wait for each other, numbers of cores.
#include "kernel_operator.h"

using namespace AscendC;

// --- inside a core ------------------------------------------------------------------------------

void Flags(int32_t id, uint8_t narrow, TEventID event) {
  SetFlag<HardEvent::MTE2_V>(id);
  WaitFlag<HardEvent::MTE2_V>(id);
  SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
  WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
  SetFlag<HardEvent::MTE2_MTE3>(0);
  WaitFlag<HardEvent::MTE3_S>(narrow);
  SetFlag<HardEvent::S_MTE2>(event);
  SetFlag<HardEvent::M_FIX>(id);
  SetFlag<HardEvent::FIX_M>(id);
  SetFlag<HardEvent::MTE1_M>(id);
  SetFlag<HardEvent::M_MTE1>(id);
  SetFlag<HardEvent::V_S>(id);
  SetFlag<HardEvent::S_MTE3>(id);
  SetFlag(id);                         // wrong
  SetFlag<HardEvent::MTE2_V>();        // wrong
  SetFlag<HardEvent::MTE2_MTE2>(id);   // wrong
  SetFlag<PIPE_MTE2, PIPE_V>(id);      // wrong
  WaitFlag<HardEvent::MTE2_V>(id, 0);  // wrong
  WaitFlag(HardEvent::MTE2_V, id);     // wrong
}

void FlagsOfTwoPipes(TQueSync<PIPE_S, PIPE_MTE3>& sync, TEventID id) {
  sync.SetFlag(id);
  sync.WaitFlag(id);
  sync.SetFlag(0);
  sync.WaitFlag(EVENT_ID0);
  TQueSync<PIPE_MTE2, PIPE_V> loads;
  loads.SetFlag(3);
  TQueSync<PIPE_M, PIPE_FIX> products;
  products.WaitFlag(1);
  sync.SetFlag();                          // wrong
  sync.SetFlag<HardEvent::S_MTE3>(id);     // wrong
  TQueSync<PIPE_S> half;                   // wrong
  TQueSync<HardEvent::S_MTE3> event;       // wrong
  TQueSync<PIPE_S, PIPE_MTE3, 0> counted;  // wrong
  sync.Wait(id);                           // wrong
}

void Barriers() {
  PipeBarrier<PIPE_V>();
  PipeBarrier<PIPE_M>();
  PipeBarrier<PIPE_MTE1>();
  PipeBarrier<PIPE_MTE2>();
  PipeBarrier<PIPE_MTE3>();
  PipeBarrier<PIPE_FIX>();
  PipeBarrier<PIPE_ALL>();
  DataSyncBarrier<MemDsbT::ALL>();
  DataSyncBarrier<MemDsbT::DDR>();
  DataSyncBarrier<MemDsbT::UB>();
  DataSyncBarrier<MemDsbT::SEQ>();
  PipeBarrier();                     // wrong
  PipeBarrier(PIPE_V);               // wrong
  PipeBarrier<HardEvent::V_MTE2>();  // wrong
  DataSyncBarrier();                 // wrong
  DataSyncBarrier<PIPE_ALL>();       // wrong
  DataSyncBarrier<MemDsbT::L1>();    // wrong
  DataSyncBarrier(MemDsbT::ALL);     // wrong
}

// --- between cores ------------------------------------------------------------------------------

void AllCores(GlobalTensor<int32_t> gm, LocalTensor<int32_t> ub, GlobalTensor<float> reals,
              LocalTensor<float> real) {
  SyncAll();
  SyncAll<true>();
  SyncAll<false>();
  SyncAll(gm, ub);
  SyncAll(gm, ub, 4);
  SyncAll<true>(gm, ub, 4);
  SyncAll<true>(gm[8], ub[8]);
  SyncAll(gm);                               // wrong
  SyncAll(ub, gm);                           // wrong
  SyncAll(reals, ub);                        // wrong
  SyncAll(gm, real);                         // wrong
  SyncAll(gm, ub, 4, 0);                     // wrong
  SyncAll(4);                                // wrong
  SyncAll<true, DEFAULT_SYNC_ALL_CONFIG>();  // wrong
}

void Crossing(uint16_t id) {
  CrossCoreSetFlag<0, PIPE_MTE3>(id);
  CrossCoreSetFlag<1, PIPE_MTE3>(id);
  CrossCoreSetFlag<2, PIPE_FIX>(0);
  CrossCoreSetFlag<0x2, PIPE_V>(0x8);
  CrossCoreWaitFlag(id);
  CrossCoreWaitFlag(3);
  CrossCoreWaitFlag<0>(id);
  CrossCoreWaitFlag<2, PIPE_MTE2>(id);
  CrossCoreSetFlag<0, PIPE_MTE3>();       // wrong
  CrossCoreSetFlag<PIPE_MTE3>(id);        // wrong
  CrossCoreSetFlag<PIPE_MTE3, 0>(id);     // wrong
  CrossCoreSetFlag(id);                   // wrong
  CrossCoreSetFlag<0, PIPE_MTE3>(id, 0);  // wrong
  CrossCoreWaitFlag();                    // wrong
}

void PairsOfBlocks(GlobalTensor<int32_t> gm, LocalTensor<int32_t> ub, GlobalTensor<float> reals,
                   LocalTensor<uint32_t> other) {
  IBSet(gm, ub, 0, 0);
  IBSet<true>(gm, ub, 1, 0);
  IBSet<false>(gm[8], ub[8], 1, 2);
  IBWait(gm, ub, 0, 0);
  IBWait<true>(gm, ub, 1, 0);
  IBWait<false>(gm, ub, 1, 2);
  IBSet(gm, ub, 0);         // wrong
  IBSet(ub, gm, 0, 0);      // wrong
  IBSet(reals, ub, 0, 0);   // wrong
  IBWait(gm, other, 0, 0);  // wrong
  IBWait(gm, ub);           // wrong
  IBWait(gm, 0, 0);         // wrong
}

void BlocksInTurn(GlobalTensor<int32_t>& gm, LocalTensor<int32_t>& ub, GlobalTensor<float>& reals) {
  InitDetermineComputeWorkspace(gm, ub);
  WaitPreBlock(gm, ub);
  NotifyNextBlock(gm, ub);
  InitDetermineComputeWorkspace(gm);         // wrong
  InitDetermineComputeWorkspace(reals, ub);  // wrong
  WaitPreBlock(ub, gm);                      // wrong
  WaitPreBlock(gm, ub, 0);                   // wrong
  WaitPreBlock(gm[8], ub);                   // wrong
  NotifyNextBlock();                         // wrong
  NotifyNextBlock(gm, ub[8]);                // wrong
}

void Groups(GM_ADDR workspace, uint32_t index) {
  GroupBarrier<PipeMode::MTE3_MODE> group(workspace, 2, 6);
  group.Arrive(index);
  group.Wait(index);
  const uint64_t bytes = group.GetWorkspaceLen();
  GroupBarrier<PipeMode::MTE3_MODE> one(workspace, 2);          // wrong
  GroupBarrier<PipeMode::MTE3_MODE> none;                       // wrong
  GroupBarrier<> unnamed(workspace, 2, 6);                      // wrong
  GroupBarrier<PIPE_MTE3> pipe(workspace, 2, 6);                // wrong
  GroupBarrier<PipeMode::SCALAR_MODE> scalar(workspace, 2, 6);  // ours: MTE3_MODE only
  group.Arrive();                                               // wrong
  group.Wait(index, 0);                                         // wrong
}

void Tasks() {
  SetNextTaskStart();
  SetNextTaskStart<PIPE_V>();
  SetNextTaskStart<PIPE_MTE3, PIPE_FIX>();
  SetNextTaskStart<PIPE_MTE2, PIPE_M, true>();
  WaitPreTaskEnd();
  WaitPreTaskEnd<true>();
  SetNextTaskStart(PIPE_V);          // wrong
  SetNextTaskStart<true>();          // wrong
  WaitPreTaskEnd<PIPE_V, PIPE_M>();  // wrong
  WaitPreTaskEnd(true);              // wrong
}

// --- what a core knows of itself ----------------------------------------------------------------

void Numbers() {
  InitSocState();
  const int64_t block = GetBlockIdx();
  const int64_t blocks = GetBlockNum();
  const int64_t sub = GetSubBlockIdx();
  const int64_t subs = GetSubBlockNum();
  const int64_t ratio = GetTaskRatio();
  const int64_t old_ratio = GetTaskRation();
  const int64_t cycle = GetSystemCycle();
  const int32_t narrow = GetBlockIdx();
  const bool vector = ASCEND_IS_AIV;
  const bool cube = ASCEND_IS_AIC;
  const int64_t wrong_block = GetBlockIdx(0);     // wrong
  const int64_t wrong_cycle = GetSystemCycle(0);  // wrong
  InitSocState(0);                                // wrong
}
