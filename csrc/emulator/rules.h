// Every limit that the emulator enforces: its id, its level unless a launch sets another one, its
// sentence, and in tests/ascend one kernel that must fail with it.
#ifndef MOGE_EMULATOR_RULES_H_
#define MOGE_EMULATOR_RULES_H_

#include <array>

// clang-format off: a table
#define MOGE_EMULATOR_RULES(X) \
  /* memory */ \
  X(kAddressAlignment, "address.alignment", kError, \
    "local operands start on their documented alignment") \
  X(kGmAlignment, "gm.alignment", kError, "a global address is a multiple of the element size") \
  X(kPositionMemory, "position.no-memory", kFixed, \
    "a local tensor is in a memory that its core has") \
  X(kLocalCapacity, "local.capacity", kFixed, \
    "local tensors end inside L1, L0A, L0B, L0C, BT, FB") \
  X(kCorePipe, "core.pipe", kFixed, \
    "instructions, flags and barriers are of pipes that the core has") \
  X(kUbCapacity, "ub.capacity", kFixed, "UB has 192 KiB") \
  X(kUbReserved, "ub.reserved", kError, \
    "Select modes 1 and 2 need the last 8 KiB of UB free, GroupBarrier 1600 bytes") \
  X(kLocalNoMemory, "local.no-memory", kFixed, "memory was given to a local tensor before its use") \
  X(kLocalBounds, "local.bounds", kFixed, "an access stays inside its local tensor") \
  X(kDeclaredSize, "local.declared-size", kWarning, \
    "an access stays inside what a static tensor was declared to hold") \
  X(kLocalUninitialised, "local.uninitialised", kError, \
    "local memory is written before it is read") \
  X(kLocalPoison, "local.poison", kError, "what the hardware leaves undefined is not read") \
  X(kGmUnregistered, "gm.unregistered", kFixed, \
    "a global pointer belongs to an allocation of the launch") \
  X(kGmBounds, "gm.bounds", kFixed, "an access stays inside its global buffer") \
  X(kGmUninitialised, "gm.uninitialised", kError, "global memory is written before it is read") \
  X(kGmUndefined, "gm.undefined", kWarning, \
    "what is stored to global memory was written and is defined") \
  X(kGmReadOnly, "gm.read-only", kError, "an input of the launch is not written") \
  X(kGmRace, "gm.race", kError, \
    "cores share global memory only across SyncAll, flags or by atomics") \
  X(kDcacheDirty, "dcache.dirty", kError, \
    "a SetValue is cleaned out of the cache before a DMA reads it") \
  X(kDcacheStale, "dcache.stale", kError, \
    "a GetValue does not read a line cached before it was changed") \
  X(kDcacheSharing, "dcache.false-sharing", kError, \
    "a line written back was not changed by others") \
  X(kDcacheNotCleaned, "dcache.not-cleaned", kWarning, \
    "no line is left dirty when the kernel ends") \
  X(kDcacheBypass, "dcache.bypass", kError, \
    "no dirty line at an uncached write; DataSyncBarrier after its cleaning") \
  X(kDcachePreload, "dcache.preload", kWarning, "at most 4 DataCachePreload one after the other") \
  X(kIcachePreload, "icache.preload", kError, \
    "ICachePreLoad takes less than 16 units on a cube core, 8 on a vector core") \
  /* parameters */ \
  X(kParamRange, "params.range", kError, "a parameter fits its field") \
  X(kCountNegative, "count.negative", kFixed, "a count is not negative") \
  X(kRepeatRange, "repeat.range", kFixed, "a repeat is 0 to 255") \
  X(kMaskRange, "mask.range", kWarning, \
    "a contiguous mask is at most the lanes of one repeat") \
  X(kMaskHighBits, "mask.high-bits", kError, \
    "mask[1] is 0 for 32-bit types, the upper half for 64-bit") \
  X(kMaskLeftSet, "mask.left-set", kWarning, \
    "SetMaskNorm follows SetMaskCount, ResetMask SetVectorMask") \
  X(kDstBlockStride, "stride.dst-block-0", kError, "the block stride of a destination is not 0") \
  X(kOverlap, "overlap.operands", kError, "source and destination are the same or apart") \
  X(kDtype, "dtype.table", kFixed, \
    "the element types are in the instruction's table (static_assert)") \
  X(kIntOverflow, "value.int-overflow", kWarning, "integer arithmetic stays in range") \
  /* data movement */ \
  X(kCopyCount, "copy.count-32B", kError, "count * sizeof(T) is a multiple of 32 bytes") \
  X(kCopyLength, "copy.block-length", kError, \
    "blockLen is a multiple of sizeof(T), at most 2097151") \
  X(kCopyPadding, "copy.padding", kError, \
    "a padding is at most 32 bytes; its value is 0 for 64 bits") \
  X(kListTensor, "list-tensor.layout", kFixed, \
    "a ListTensorDesc has the documented layout, and the tensor that is asked for") \
  X(kCopySlice, "copy.slice", kFixed, \
    "slices have whole pieces, as many on both sides, inside their dimensions") \
  X(kCopyPath, "copy.path", kFixed, "a transfer takes a documented path between two memories") \
  X(kNzToNdColumns, "nz2nd.d-value-16", kError, "dValue is a multiple of 16") \
  X(kAdviceTransfer, "advice.transfer-16KB", kOff, \
    "a transfer from or to global memory has 16 KB or more") \
  X(kAdviceGmAlignment, "advice.gm-512B", kOff, \
    "transfers start at global addresses that 512 divides") \
  X(kNdToNzOverlap, "nd2nz.overlap", kError, "rows and columns of one transfer land apart") \
  /* cube */ \
  X(kLoadTranspose, "load.transpose", kFixed, "ifTranspose is for 16-bit types, from L1") \
  X(kLoadOverlap, "load.overlap", kError, "the fractals that one load writes do not overlap") \
  X(kLoadType, "load.type", kFixed, "a load takes the element types of its way into L0") \
  X(kLoadNotSet, "load.not-set", kFixed, \
    "SetFmatrix and SetLoadDataPaddingValue precede a load that takes what they set") \
  X(kLoadChannels, "load.channels", kError, \
    "channelSize is whole C0 and the documented parts of one") \
  X(kLoadPart, "load.part", kError, \
    "kStartPt, kExtension and mExtension are whole fractals, up to the last one") \
  X(kLoadBoundary, "load.boundary", kError, \
    "a boundary of L1 is at least 1024 bytes, and the source starts inside of it") \
  X(kMmadPosition, "mmad.position", kFixed, "Mmad multiplies L0A by L0B into L0C") \
  X(kMmadBias, "mmad.bias", kFixed, "a product with a bias does not start from 0") \
  X(kMmadIndex, "mmad.index", kFixed, "LoadDataWithSparse precedes MmadWithSparse") \
  X(kMmadBarrier, "mmad.barrier", kError, \
    "PipeBarrier<PIPE_M> between small Mmads that accumulate") \
  X(kUnitFlagValue, "unit-flag.value", kFixed, "unitFlag is 0, 2 or 3") \
  X(kUnitFlagOrder, "unit-flag.order", kFixed, \
    "with unit flags Mmad and Fixpipe take turns at a block") \
  X(kUnitFlagSides, "unit-flag.both-sides", kError, \
    "Mmad and Fixpipe of a block both use unit flags") \
  X(kUnitFlagOrientation, "unit-flag.orientation", kWarning, \
    "SetMMRowMajor for ND, SetMMColumnMajor for NZ") \
  X(kUnitFlagLeft, "unit-flag.left-set", kError, "Fixpipe moves out all that Mmad gave free") \
  X(kFixpipeSize, "fixpipe.n-size", kWarning, \
    "nSize is a multiple of 16, of 8 with isChannelSplit") \
  X(kFixpipeStride, "fixpipe.dst-stride", kError, "dstStride is not 0") \
  X(kFixpipeQuant, "fixpipe.quant", kFixed, \
    "quantPre goes with the types of source and destination") \
  X(kFixpipeScale, "fixpipe.scale", kError, \
    "a scale is neither infinite nor NaN nor subnormal") \
  X(kFixpipeNotSet, "fixpipe.not-set", kFixed, \
    "DataCopy out of L0C follows the calls that set its scales and matrices") \
  X(kFixpipeConfig, "fixpipe.config", kFixed, \
    "SetFixPipeConfig takes scales in FB, or a tensor in L0C to clear unit flags") \
  X(kFixpipeSplit, "fixpipe.channel-split", kError, \
    "isChannelSplit: float to NZ without unit flags") \
  X(kFixpipeOverlap, "fixpipe.overlap", kError, "rows and matrices of one Fixpipe land apart") \
  /* vector */ \
  X(kCompareCount, "compare.count-256B", kError, "count * sizeof(T) is a multiple of 256 bytes") \
  X(kCompareInt32, "compare.int32-eq", kError, "int32 compares for EQ only") \
  X(kSelectMode, "select.mode", kFixed, "the form of Select goes with its mode") \
  X(kSelectCmpMask, "select.no-cmpmask", kFixed, "the compare mask is set before it is used") \
  X(kCastMode, "cast.mode", kError, "the rounding mode is in the table of the pair of types") \
  X(kCastDeqScale, "cast.deq-scale", kFixed, "SetDeqScale precedes a Cast from int32 to half") \
  X(kCastPairs, "cast.int4-pairs", kError, \
    "the two int4b_t of a byte are converted together") \
  X(kCmpMaskSpace, "cmp-mask.space", kWarning, \
    "the destination of GetCmpMask has at least 128 bytes") \
  X(kShiftRange, "shift.range", kFixed, "a shift is 0 to the width of the type") \
  X(kReduceTmp, "reduce.tmp-size", kError, "the temporary tensor holds the documented size") \
  X(kReduceResult, "reduce.result", kFixed, \
    "the result of a reduction is asked for after one of its type") \
  X(kGatherOffset, "gather.offset", kFixed, "an offset is aligned and inside the source") \
  X(kGatherMaskPattern, "gather-mask.pattern", kFixed, "a built-in pattern is 1 to 7") \
  X(kMrgSortParams, "mrg-sort.params", kFixed, "validBit is 3, 7 or 15, lengths are at most 4095") \
  X(kMrgSortRepeat, "mrg-sort.repeat", kWarning, \
    "repeats take effect for four equal lists, one after the other, without suspension") \
  X(kMrgSortResult, "mrg-sort.result", kFixed, \
    "GetMrgSortResult follows a MrgSort with suspension") \
  X(kTransposeParams, "transpose.params", kError, \
    "the sizes and the element type go with the kind of Transpose") \
  X(kTransposeTmp, "transpose.tmp-size", kError, \
    "the temporary tensor of a Transpose holds the documented size") \
  X(kTransposeAddress, "transpose.address", kFixed, "TransDataTo5HD is given addresses in UB") \
  X(kAdvTmpSize, "adv.tmp-size", kFixed, \
    "temporary memory is what the call's Get...TmpSize says, or more") \
  X(kAdvOverlap, "adv.overlap", kError, "operands are apart where the page of the call says so") \
  X(kTopKParams, "topk.params", kFixed, \
    "1 <= k <= n <= inner, inner in 32s to 4096; small mode: inner 32, no finished rows") \
  X(kTopKTmp, "topk.tmp-position", kError, "the temporary tensor of TopK is in VECCALC") \
  X(kSoftmaxShape, "softmax.shape", kFixed, \
    "rows of whole 32 bytes, no shorter than the original ones") \
  X(kSoftmaxBasic, "softmax.basic-block", kError, \
    "basic blocks: rows in 8s; columns in 64s, 256 bytes or more, below 2048") \
  /* pipes and queues */ \
  X(kPipeBuffers, "pipe.buffers-64", kError, "at most 64 buffers in one TPipe") \
  X(kPipeSingle, "pipe.one-at-a-time", kFixed, "one TPipe is alive at a time") \
  X(kPipeNone, "pipe.none-alive", kFixed, "buffers come from a TPipe that is alive") \
  X(kStyleMixed, "style.mixed", kError, "static tensors and TPipe are not mixed") \
  X(kBufLength, "buf.length", kFixed, "TBuf::Get stays inside the buffer") \
  X(kBufOffset, "buf.offset-32B", kError, "TBuf::GetWithOffset starts at a multiple of 32 bytes") \
  X(kPoolNotInitialised, "pool.not-initialised", kFixed, \
    "InitBufPool precedes the use of a TBufPool") \
  X(kPoolMemory, "pool.memory", kFixed, "what a TBufPool hands out is of its memory, UB or L1") \
  X(kPoolCapacity, "pool.capacity", kFixed, \
    "buffers and pools end inside the pool that they come from or share") \
  X(kPoolBuffers, "pool.buffers", kError, "a TBufPool has no more buffers than its bufIDSize") \
  X(kPoolReset, "pool.not-reset", kError, \
    "a TBufPool is reset before another one uses the memory that they share") \
  X(kQueueRoute, "queue.route", kFixed, "a queue binds positions that a documented way connects") \
  X(kQueueConfig, "queue.config", kError, \
    "bufferNumber and bufferLen of a TQueConfig are those of InitBuffer, or 0") \
  X(kQueueNotInitialised, "queue.not-initialised", kFixed, \
    "InitBuffer precedes the use of a queue") \
  X(kQueueNoIdleBuffer, "queue.no-idle-buffer", kFixed, "AllocTensor finds an idle buffer") \
  X(kQueueOutstanding, "queue.outstanding-8", kError, \
    "at most 8 tensors allocated at one position") \
  X(kQueueDepth, "queue.depth", kError, "at most `depth` tensors are in the queue") \
  X(kQueueEmpty, "queue.empty", kFixed, "DeQue finds a tensor") \
  X(kQueueForeign, "queue.foreign-tensor", kFixed, \
    "a tensor goes back to the queue that it came from") \
  X(kQueueState, "queue.state", kError, \
    "a tensor goes through AllocTensor, EnQue, DeQue, FreeTensor") \
  X(kQueueDoubleFree, "queue.double-free", kFixed, "a tensor is freed once") \
  X(kQueueUseAfterFree, "queue.use-after-free", kError, "a freed tensor is not used") \
  X(kQueueUseEnqueued, "queue.use-while-enqueued", kError, "a tensor in a queue is not used") \
  X(kQueueLeak, "queue.leak", kError, "every tensor is dequeued and freed when the kernel ends") \
  /* synchronisation */ \
  X(kSyncMissing, "sync.missing", kError, "accesses by two pipes are ordered") \
  X(kFlagTwice, "flag.twice", kError, "a pending flag is not set again") \
  X(kFlagNeverSet, "flag.never-set", kFixed, "a flag is set before it is waited for") \
  X(kFlagUnconsumed, "flag.unconsumed", kError, "every flag is waited for when the kernel ends") \
  X(kFlagIdRange, "flag.id-range", kFixed, "event ids are 0 to 7") \
  X(kFlagIdReserved, "flag.id-reserved", kWarning, "static style keeps event ids 6 and 7 free") \
  X(kFlagNotAllocated, "flag.not-allocated", kWarning, "beside a TPipe an event id comes from it") \
  X(kFlagIdsExhausted, "flag.ids-exhausted", kFixed, "8 event ids for each event") \
  X(kBarrierScalar, "barrier.scalar", kError, "PipeBarrier takes any pipe but S") \
  X(kAtomicLeftSet, "atomic.left-set", kWarning, "DisableDmaAtomic follows SetAtomicAdd") \
  X(kDeadlock, "deadlock", kFixed, "no block waits for one that never comes") \
  X(kSyncAllBlocks, "sync-all.blocks", kError, \
    "blocks that wait for each other are no more than the cores") \
  X(kSyncAllKernel, "sync-all.kernel-type", kError, \
    "SyncAll without workspace needs a __mix__ kernel") \
  X(kSyncAllWorkspace, "sync-all.workspace", kError, \
    "a soft SyncAll has 32 zeroed bytes for each block") \
  X(kCrossKernel, "cross-core.kernel-type", kFixed, \
    "cross-core flags need a __mix__ kernel of their mode") \
  X(kCrossMode, "cross-core.mode", kFixed, "modes 0, 1, 2, on a pipe other than S and ALL") \
  X(kCrossModeChange, "cross-core.mode-change", kError, \
    "a core uses an id in another mode once all sets of it were waited for") \
  X(kIbWorkspace, "ib.workspace", kError, \
    "IBSet and IBWait have zeroed memory in GM and 32 bytes in UB") \
  X(kIbBlock, "ib.block", kFixed, "IBSet and IBWait name a block of the launch") \
  X(kIbPaired, "ib.paired", kError, \
    "an IBSet has its IBWait before the next one of its block and event") \
  X(kTurnsWorkspace, "determine.workspace", kFixed, \
    "NotifyNextBlock has 32 bytes for each block in GM, 32 more in UB") \
  X(kTurnsInit, "determine.init", kFixed, \
    "InitDetermineComputeWorkspace precedes WaitPreBlock") \
  X(kTurnsPaired, "determine.paired", kError, "NotifyNextBlock follows WaitPreBlock") \
  X(kGroupWorkspace, "group.workspace", kError, \
    "a GroupBarrier has 512 zeroed bytes, aligned to 512, for each core that waits") \
  X(kGroupIndex, "group.index", kFixed, "an index is less than the size of its group") \
  X(kCrossId, "cross-core.flag-id", kFixed, \
    "flag ids are 0 to 15, without 11 to 14 beside SyncAll") \
  X(kCrossCounter, "cross-core.counter-15", kError, \
    "a flag is at most 15 sets ahead of its waits") \
  X(kCrossUnpaired, "cross-core.unpaired", kError, "every cross-core set has its wait") \
  X(kStaticApi, "static.api-list", kError, \
    "a static kernel calls what the list of its style has") \
  X(kStaticInit, "static.init-soc-state", kError, "a static kernel starts with InitSocState") \
  X(kStaticBarrier, "static.final-barrier", kError, \
    "a static kernel ends with PipeBarrier<PIPE_ALL>") \
  X(kVirtualData, "counting.virtual-data", kFixed, \
    "counting mode: nothing depends on data it lacks") \
  X(kAssert, "kernel.assert", kFixed, "what the kernel asserts is true") \
  X(kTrap, "kernel.trap", kFixed, "a kernel does not call Trap") \
  X(kEndless, "kernel.endless", kFixed, \
    "a kernel issues no more instructions than the launch allows")
// clang-format on

namespace emulator {

// What a broken rule does. The documents forbid what is an error and advise against what is a
// warning or off. kFixed is an error that no launch can lower, as nothing could follow it.
enum class Level { kOff, kWarning, kError, kFixed };

enum class Rule {
#define MOGE_RULE(name, id, level, text) name,
  MOGE_EMULATOR_RULES(MOGE_RULE)
#undef MOGE_RULE
};
inline constexpr int kRuleCount = static_cast<int>(Rule::kEndless) + 1;

using Levels = std::array<Level, kRuleCount>;

}  // namespace emulator

#endif  // MOGE_EMULATOR_RULES_H_
