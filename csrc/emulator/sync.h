// Flags, barriers, SyncAll, registers, block numbers.
#ifndef MOGE_EMULATOR_SYNC_H_
#define MOGE_EMULATOR_SYNC_H_

#include "tensor.h"

// in parentheses, as kernels write `if ASCEND_IS_AIV {`
#define ASCEND_IS_AIV (!emulator::IsCubeCore())
#define ASCEND_IS_AIC (emulator::IsCubeCore())

namespace AscendC {

template <HardEvent event>
void SetFlag(int32_t eventID) {
  emulator::SetHardFlag(event, eventID);
}
template <HardEvent event>
void WaitFlag(int32_t eventID) {
  emulator::WaitHardFlag(event, eventID);
}

template <pipe_t pipe>
void PipeBarrier() {
  emulator::Barrier(pipe);
}
template <MemDsbT kind>
void DataSyncBarrier() {
  emulator::ScalarBarrier(kind == MemDsbT::ALL || kind == MemDsbT::DDR);
}

// Flags between two pipes, whose ids the kernel chooses.
using TEventID = int8_t;
template <pipe_t source, pipe_t destination>
class TQueSync {
 public:
  void SetFlag(TEventID id) { emulator::SetHardFlag(kEvent, id, true); }
  void WaitFlag(TEventID id) { emulator::WaitHardFlag(kEvent, id, true); }

 private:
  static constexpr HardEvent kEvent = emulator::EventOf(source, destination);
  static_assert(kEvent != HardEvent::MAX, "TQueSync: no flag goes from this pipe to that one");
};

template <bool isAIVOnly = true>
void SyncAll() {
  emulator::SyncAllHard(isAIVOnly);
}
template <bool isAIVOnly = true>
void SyncAll(const GlobalTensor<int32_t>& gmWorkspace, const LocalTensor<int32_t>& ubWorkspace,
             const int32_t usedCores = 0) {
  emulator::SyncAllSoft(gmWorkspace.Ref(), ubWorkspace.Ref(), usedCores);
}

// On Atlas A2 these two have no effect; they are there so that kernels compile.
template <pipe_t vectorPipe = PIPE_MTE3, pipe_t cubePipe = PIPE_FIX, bool force = false>
void SetNextTaskStart() {}
template <bool force = false>
void WaitPreTaskEnd() {}

template <bool isAIVOnly = true>
void IBSet(const GlobalTensor<int32_t>& gmWorkspace, const LocalTensor<int32_t>& ubWorkspace,
           int32_t blockIdx, int32_t eventID) {
  emulator::SetBlockFlag(gmWorkspace.Ref(), ubWorkspace.Ref(), {blockIdx, eventID, isAIVOnly});
}
template <bool isAIVOnly = true>
void IBWait(const GlobalTensor<int32_t>& gmWorkspace, const LocalTensor<int32_t>& ubWorkspace,
            int32_t blockIdx, int32_t eventID) {
  emulator::WaitBlockFlag(gmWorkspace.Ref(), ubWorkspace.Ref(), {blockIdx, eventID, isAIVOnly});
}

inline void InitDetermineComputeWorkspace(GlobalTensor<int32_t>& gmWorkspace,
                                          LocalTensor<int32_t>& ubWorkspace) {
  emulator::InitTurns(gmWorkspace.Ref(), ubWorkspace.Ref());
}
inline void WaitPreBlock(GlobalTensor<int32_t>& gmWorkspace, LocalTensor<int32_t>& ubWorkspace) {
  emulator::WaitTurn(gmWorkspace.Ref(), ubWorkspace.Ref());
}
inline void NotifyNextBlock(GlobalTensor<int32_t>& gmWorkspace, LocalTensor<int32_t>& ubWorkspace) {
  emulator::PassTurn(gmWorkspace.Ref(), ubWorkspace.Ref());
}

// Vector cores that wait for a group of others.
template <PipeMode pipeMode>
class GroupBarrier {
  static_assert(pipeMode == PipeMode::MTE3_MODE, "GroupBarrier: MTE3_MODE only");

 public:
  GroupBarrier(GM_ADDR groupWorkspace, uint32_t arriveSizeIn, uint32_t waitSizeIn)
      : group_{groupWorkspace, arriveSizeIn, waitSizeIn} {
    emulator::MakeGroup(group_);
  }
  void Arrive(uint32_t arriveIndex) { emulator::ArriveInGroup(group_, arriveIndex); }
  void Wait(uint32_t waitIndex) { emulator::WaitForGroup(group_, waitIndex); }
  uint64_t GetWorkspaceLen() { return uint64_t{group_.waiting} * 512; }

 private:
  emulator::Group group_;
};

inline void InitSocState() { emulator::InitSoc(); }
inline int64_t GetBlockIdx() { return emulator::BlockIndex(); }
inline int64_t GetBlockNum() { return emulator::BlockNumber(); }
inline int64_t GetSubBlockIdx() { return emulator::SubBlockIndex(); }
inline int64_t GetSubBlockNum() { return emulator::SubBlockNumber(); }
inline int64_t GetTaskRatio() { return emulator::SubBlockNumber(); }
inline int64_t GetTaskRation() { return GetTaskRatio(); }
inline constexpr int16_t GetDataBlockSizeInBytes() { return 32; }
// Here a cycle is an instruction that the scalar unit has issued.
inline int64_t GetSystemCycle() { return emulator::CountCycles(); }
__attribute__((noinline)) inline int64_t GetProgramCounter() {
  return reinterpret_cast<int64_t>(__builtin_return_address(0));
}
[[noreturn]] inline void Trap() { emulator::StopCore(); }

template <uint8_t modeId, pipe_t pipe>
void CrossCoreSetFlag(uint16_t flagId) {
  emulator::SetCrossCoreFlag(modeId, pipe, flagId);
}
// on Atlas A2 neither the mode nor the pipe matters: the wait holds every pipe
template <uint8_t modeId = 0, pipe_t pipe = PIPE_S>
void CrossCoreWaitFlag(uint16_t flagId) {
  emulator::WaitCrossCoreFlag(flagId);
}

inline void SetMaskCount() { emulator::SetMaskMode(true); }
inline void SetMaskNorm() { emulator::SetMaskMode(false); }
template <typename T, MaskMode mode = MaskMode::NORMAL>
void SetVectorMask(const uint64_t maskHigh, const uint64_t maskLow) {
  emulator::SetMask(maskHigh, maskLow);
}
template <typename T, MaskMode mode = MaskMode::NORMAL>
void SetVectorMask(int32_t len) {
  emulator::SetMaskLength(len, emulator::kDTypeOf<T>, mode == MaskMode::COUNTER);
}
inline void ResetMask() { emulator::ResetVectorMask(); }

inline void SetDeqScale(half scale) { emulator::SetDequantScale(scale); }

}  // namespace AscendC

#endif  // MOGE_EMULATOR_SYNC_H_
