// What every instruction of the machine has: its name, its operands as plain values, the elements
// that it takes, and the ways in which it refuses them.
#ifndef MOGE_EMULATOR_OPERATION_H_
#define MOGE_EMULATOR_OPERATION_H_

#include <array>

#include "field.h"
#include "instructions.h"
#include "parameter_limits.h"
#include "rounding.h"
#include "rules.h"

namespace emulator {

using AscendC::CMPMODE;
using AscendC::HardEvent;
using AscendC::ReduceOrder;
using AscendC::ReduceType;
using AscendC::RoundMode;
using AscendC::SELMODE;
using AscendC::TPosition;
using AscendC::TransposeType;

// Calls that the machine records beside the vector instructions, which instructions.h lists.
// clang-format off: a list, which it lays out anew every time
#define MOGE_OTHER_OPS(X) \
  X(DataCopy) X(DataCopyPad) X(SetCmpMask) X(GetCmpMask) X(GetValue) X(SetValue) \
  X(SetFlag) X(WaitFlag) X(PipeBarrier) X(DataSyncBarrier) X(SyncAll) \
  X(DataCacheCleanAndInvalid) X(AllocTensor) X(FreeTensor) X(EnQue) X(DeQue) X(InitBuffer) \
  X(AllocEventID) X(ReleaseEventID) X(FetchEventID) X(SetMask) X(GetMrgSortResult) \
  X(LocalTensor) X(GlobalTensor) X(TPipe) X(Get) X(SetAtomicAdd) X(SetAtomicMax) \
  X(SetAtomicMin) X(SetAtomicType) X(DisableDmaAtomic) X(SetStoreAtomicConfig) \
  X(GetStoreAtomicConfig) X(ReadGmByPassDCache) X(WriteGmByPassDCache) X(DataCachePreload) \
  X(ICachePreLoad) X(GetSystemCycle) X(Trap) X(IBSet) X(IBWait) X(WaitPreBlock) \
  X(NotifyNextBlock) X(InitDetermineComputeWorkspace) X(GroupBarrier) \
  X(GetReduceRepeatSumSpr) X(GetReduceRepeatMaxMinSpr) X(SetDeqScale) X(InitSocState) \
  X(LoadData) X(LoadDataWithTranspose) X(Fill) X(Mmad) X(Fixpipe) X(SetMMRowMajor) \
  X(SetMMColumnMajor) X(CrossCoreSetFlag) X(CrossCoreWaitFlag) X(Assert) X(Dump) \
  X(HighLevelCall) X(SetFmatrix) X(SetLoadDataPaddingValue) X(SetLoadDataRepeat) \
  X(SetLoadDataBoundary) X(SetFixPipeConfig) X(SetFixpipePreQuantFlag) \
  X(SetFixpipeNz2ndFlag) X(SetHF32Mode) X(SetHF32TransMode) X(LoadDataWithSparse) \
  X(MmadWithSparse) X(InitBufPool) X(ResetBufPool) X(PopStackBuffer) X(FreeAllEvent) \
  X(SetPadValue) X(ListTensorDesc) X(KernelEnd)
// clang-format on

enum class Op : uint8_t {
#define MOGE_OP(name, ...) k##name,
  MOGE_VECTOR_INSTRUCTIONS(MOGE_OP) MOGE_OTHER_OPS(MOGE_OP)
#undef MOGE_OP
};
inline constexpr int kOps = static_cast<int>(Op::kKernelEnd) + 1;

using Number = unsigned long long;  // what %llu prints
// A broken rule ends the launch: there is nothing to go on with.
[[noreturn]] void Fail(Rule rule, const char* format, ...) __attribute__((format(printf, 2, 3)));
// A broken rule does what its level says: it ends the launch, is noted as a warning, or is ignored.
void Report(Rule rule, const char* format, ...) __attribute__((format(printf, 2, 3)));

// A view of local memory: where it starts, where it must end, and the buffer that it belongs to.
struct LocalRef {
  TPosition position = TPosition::MAX;
  uint32_t begin = 0;
  uint32_t end = 0;
  uint32_t buffer = 0;      // 0: none, memory placed by address
  uint32_t generation = 0;  // of the buffer, when the view was made
};

struct GlobalRef {
  uint8_t* address = nullptr;
  uint64_t bytes = 0;  // from `address` to the end of the buffer
  int32_t allocation = -1;
  bool bypass = false;  // of L2
};

// One operand of a vector instruction; strides in blocks of 32 bytes.
struct Operand {
  const LocalRef& ref;
  DType dtype;
  uint32_t block_stride = 1;
  uint32_t repeat_stride = 8;
};

enum class MaskForm : uint8_t { kCount, kContiguous, kBits, kRegister };

// How an instruction chooses its elements: count, mask and repeat as the call gave them.
struct Extent {
  MaskForm form;
  uint64_t low = 0;   // count, contiguous mask, or the lower bits
  uint64_t high = 0;  // the upper bits
  int64_t repeat = 0;
};

inline Extent CountExtent(int64_t count) {
  return {MaskForm::kCount, static_cast<uint64_t>(count), 0, 0};
}
inline Extent MaskExtent(bool is_set, uint64_t mask, int64_t repeat) {
  return {is_set ? MaskForm::kContiguous : MaskForm::kRegister, mask, 0, repeat};
}
inline Extent MaskExtent(bool is_set, const uint64_t* mask, int64_t repeat) {
  if (!is_set) return {MaskForm::kRegister, 0, 0, repeat};
  return {MaskForm::kBits, mask[0], mask[1], repeat};
}
// Of the count forms with `isSetMask` false: the mask register counts, `count` does not.
inline Extent CountExtent(bool is_set, int64_t count) {
  return is_set ? CountExtent(count) : Extent{MaskForm::kRegister, 0, 0, 1};
}

}  // namespace emulator

#endif  // MOGE_EMULATOR_OPERATION_H_
