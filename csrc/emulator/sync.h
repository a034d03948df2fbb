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
  emulator::ScalarBarrier();
}

template <bool isAIVOnly = true>
void SyncAll() {
  emulator::SyncAllHard(isAIVOnly);
}
template <bool isAIVOnly = true>
void SyncAll(const GlobalTensor<int32_t>& gmWorkspace, const LocalTensor<int32_t>& ubWorkspace,
             const int32_t usedCores = 0) {
  emulator::SyncAllSoft(gmWorkspace.Ref(), ubWorkspace.Ref(), usedCores);
}

inline void InitSocState() { emulator::InitSoc(); }
inline int64_t GetBlockIdx() { return emulator::BlockIndex(); }
inline int64_t GetBlockNum() { return emulator::BlockNumber(); }
inline int64_t GetSubBlockIdx() { return emulator::SubBlockIndex(); }
inline int64_t GetSubBlockNum() { return emulator::SubBlockNumber(); }
inline int64_t GetTaskRatio() { return emulator::SubBlockNumber(); }
inline int64_t GetTaskRation() { return GetTaskRatio(); }

template <uint8_t modeId, pipe_t pipe>
void CrossCoreSetFlag(uint16_t flagId) {
  emulator::SetCrossCoreFlag(modeId, pipe, flagId);
}
// on Atlas A2 neither the mode nor the pipe matters: the wait holds every pipe
template <uint8_t modeId = 0, pipe_t pipe = PIPE_S>
void CrossCoreWaitFlag(uint16_t flagId) {
  emulator::WaitCrossCoreFlag(flagId);
}

template <typename T, CacheLine entire, DcciDst destination = DcciDst::CACHELINE_OUT>
void DataCacheCleanAndInvalid(const GlobalTensor<T>& dst) {
  emulator::CleanCache(dst.Ref(), entire == CacheLine::ENTIRE_DATA_CACHE);
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

template <typename T>
void SetAtomicAdd() {
  static_assert(emulator::kIsOneOf<T, float, half, bfloat16_t, int16_t, int32_t, int8_t>,
                "SetAtomicAdd: rule dtype.table: float, half, bf16, int16, int32, int8");
  emulator::SetAtomic(emulator::kDTypeOf<T>);
}
inline void SetAtomicNone() { emulator::ClearAtomic(); }
inline void DisableDmaAtomic() { emulator::ClearAtomic(); }

inline void SetDeqScale(half scale) { emulator::SetDequantScale(scale); }

}  // namespace AscendC

#endif  // MOGE_EMULATOR_SYNC_H_
