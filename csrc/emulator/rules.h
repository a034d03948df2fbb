// Every limit that the emulator enforces: one id, one sentence, and in tests/ascend one kernel that
// must fail with it. The numbers in brackets are the sections of the API description.
#ifndef MOGE_EMULATOR_RULES_H_
#define MOGE_EMULATOR_RULES_H_

#define MOGE_EMULATOR_RULES(X)                                                                     \
  /* memory */                                                                                     \
  X(kAddressAlignment, "address.alignment", "local operands start on their documented alignment")  \
  X(kGmAlignment, "gm.alignment", "a global address is a multiple of the element size")            \
  X(kPositionMemory, "position.no-memory", "a local tensor is in a memory that its core has")      \
  X(kLocalCapacity, "local.capacity", "local tensors end inside L1, L0A, L0B, L0C, BT, FB")        \
  X(kCorePipe, "core.pipe", "instructions, flags and barriers are of pipes that the core has")     \
  X(kUbCapacity, "ub.capacity", "192 KiB of UB less 256 bytes")                                    \
  X(kUbReserved, "ub.reserved", "Select modes 1 and 2 need the last 8 KiB of UB free")             \
  X(kLocalNoMemory, "local.no-memory", "a local tensor has memory behind it")                      \
  X(kLocalBounds, "local.bounds", "an access stays inside its local tensor")                       \
  X(kLocalUninitialised, "local.uninitialised", "local memory is written before it is read")       \
  X(kLocalPoison, "local.poison", "what the hardware leaves undefined is not read")                \
  X(kGmUnregistered, "gm.unregistered", "a global pointer belongs to an allocation of the launch") \
  X(kGmBounds, "gm.bounds", "an access stays inside its global buffer")                            \
  X(kGmUninitialised, "gm.uninitialised", "global memory is written before it is read")            \
  X(kGmReadOnly, "gm.read-only", "an input of the launch is not written")                          \
  X(kGmRace, "gm.race", "cores share global memory only across SyncAll, flags or by atomics")      \
  X(kDcacheDirty, "dcache.dirty", "a SetValue is cleaned out of the cache before a DMA reads it")  \
  X(kDcacheStale, "dcache.stale", "a GetValue does not read a line cached before it was changed")  \
  X(kDcacheSharing, "dcache.false-sharing", "a line written back was not changed by others")       \
  X(kDcacheNotCleaned, "dcache.not-cleaned", "no line is left dirty when the kernel ends")         \
  /* parameters */                                                                                 \
  X(kParamRange, "params.range", "a parameter fits its field")                                     \
  X(kCountNegative, "count.negative", "a count is not negative")                                   \
  X(kRepeatRange, "repeat.range", "a repeat is 0 to 255")                                          \
  X(kMaskRange, "mask.range", "a contiguous mask is at most the lanes of one repeat")              \
  X(kMaskHighBits, "mask.high-bits", "mask[1] is 0 for 32-bit types, the upper half for 64-bit")   \
  X(kMaskLeftSet, "mask.left-set", "ResetMask follows SetMaskCount and SetVectorMask")             \
  X(kDstBlockStride, "stride.dst-block-0", "the block stride of a destination is not 0")           \
  X(kOverlap, "overlap.operands", "source and destination are the same or apart")                  \
  X(kDtype, "dtype.table", "the element types are in the instruction's table (static_assert)")     \
  X(kIntOverflow, "value.int-overflow", "integer arithmetic stays in range")                       \
  /* data movement */                                                                              \
  X(kCopyCount, "copy.count-32B", "count * sizeof(T) is a multiple of 32 bytes")                   \
  X(kCopyLength, "copy.block-length", "blockLen is a multiple of sizeof(T), at most 2097151")      \
  X(kCopyPadding, "copy.padding", "a padding is at most 32 bytes; its value is 0 for 64 bits")     \
  X(kCopyPath, "copy.path", "a transfer takes a documented path between two memories")             \
  X(kNdToNzOverlap, "nd2nz.overlap", "rows and columns of one transfer land apart")                \
  /* cube */                                                                                       \
  X(kLoadTranspose, "load.transpose", "ifTranspose is for 16-bit types, from L1")                  \
  X(kLoadOverlap, "load.overlap", "the fractals that one load writes do not overlap")              \
  X(kMmadPosition, "mmad.position", "Mmad multiplies L0A by L0B into L0C")                         \
  X(kMmadBias, "mmad.bias", "a bias is a tensor, and the product does not start from 0")           \
  X(kMmadBarrier, "mmad.barrier", "PipeBarrier<PIPE_M> between small Mmads that accumulate")       \
  X(kUnitFlagValue, "unit-flag.value", "unitFlag is 0, 2 or 3")                                    \
  X(kUnitFlagOrder, "unit-flag.order", "with unit flags Mmad and Fixpipe take turns at a block")   \
  X(kUnitFlagSides, "unit-flag.both-sides", "Mmad and Fixpipe of a block both use unit flags")     \
  X(kUnitFlagOrientation, "unit-flag.orientation",                                                 \
    "SetMMRowMajor for ND, SetMMColumnMajor for NZ")                                               \
  X(kUnitFlagLeft, "unit-flag.left-set", "Fixpipe moves out all that Mmad gave free")              \
  X(kFixpipeSize, "fixpipe.n-size", "nSize is a multiple of 16, of 8 with isChannelSplit")         \
  X(kFixpipeStride, "fixpipe.dst-stride", "dstStride is not 0")                                    \
  X(kFixpipeQuant, "fixpipe.quant", "quantPre goes with the types of source and destination")      \
  X(kFixpipeSplit, "fixpipe.channel-split", "isChannelSplit: float to NZ without unit flags")      \
  X(kFixpipeOverlap, "fixpipe.overlap", "rows and matrices of one Fixpipe land apart")             \
  /* vector */                                                                                     \
  X(kCompareCount, "compare.count-256B", "count * sizeof(T) is a multiple of 256 bytes")           \
  X(kCompareInt32, "compare.int32-eq", "int32 compares for EQ only")                               \
  X(kSelectMode, "select.mode", "the form of Select goes with its mode")                           \
  X(kSelectCmpMask, "select.no-cmpmask", "the compare mask was set before Select mode 0")          \
  X(kCastMode, "cast.mode", "the rounding mode is in the table of the pair of types")              \
  X(kCastDeqScale, "cast.deq-scale", "SetDeqScale precedes a Cast from int32 to half")             \
  X(kShiftRange, "shift.range", "a shift is 0 to the width of the type")                           \
  X(kReduceTmp, "reduce.tmp-size", "the temporary tensor holds the documented size")               \
  X(kGatherOffset, "gather.offset", "an offset is aligned and inside the source")                  \
  X(kGatherMaskPattern, "gather-mask.pattern", "a built-in pattern is 1 to 7")                     \
  X(kMrgSortParams, "mrg-sort.params", "lists, validBit, lengths and repeats go together")         \
  X(kMrgSortResult, "mrg-sort.result", "GetMrgSortResult follows a MrgSort with suspension")       \
  /* pipes and queues */                                                                           \
  X(kPipeBuffers, "pipe.buffers-64", "at most 64 buffers in one TPipe")                            \
  X(kPipeSingle, "pipe.one-at-a-time", "one TPipe is alive at a time")                             \
  X(kStyleCube, "style.cube-static", "a kernel on a cube core uses static tensors (emulated so)")  \
  X(kStyleMixed, "style.mixed", "static tensors and TPipe are not mixed")                          \
  X(kBufLength, "buf.length", "TBuf::Get stays inside the buffer")                                 \
  X(kQueueNotInitialised, "queue.not-initialised", "InitBuffer precedes the use of a queue")       \
  X(kQueueNoIdleBuffer, "queue.no-idle-buffer", "AllocTensor finds an idle buffer")                \
  X(kQueueOutstanding, "queue.outstanding-8", "at most 8 tensors allocated at one position")       \
  X(kQueueDepth, "queue.depth", "at most `depth` tensors are in the queue")                        \
  X(kQueueEmpty, "queue.empty", "DeQue finds a tensor")                                            \
  X(kQueueForeign, "queue.foreign-tensor", "a tensor goes back to the queue that it came from")    \
  X(kQueueState, "queue.state", "a tensor goes through AllocTensor, EnQue, DeQue, FreeTensor")     \
  X(kQueueDoubleFree, "queue.double-free", "a tensor is freed once")                               \
  X(kQueueUseAfterFree, "queue.use-after-free", "a freed tensor is not used")                      \
  X(kQueueUseEnqueued, "queue.use-while-enqueued", "a tensor in a queue is not used")              \
  X(kQueueLeak, "queue.leak", "every tensor is dequeued and freed when the kernel ends")           \
  /* synchronisation */                                                                            \
  X(kSyncMissing, "sync.missing", "accesses by two pipes are ordered")                             \
  X(kFlagTwice, "flag.twice", "a pending flag is not set again")                                   \
  X(kFlagNeverSet, "flag.never-set", "a flag is set before it is waited for")                      \
  X(kFlagUnconsumed, "flag.unconsumed", "every flag is waited for when the kernel ends")           \
  X(kFlagIdRange, "flag.id-range", "event ids are 0 to 7; static style keeps 6 and 7 free")        \
  X(kFlagNotAllocated, "flag.not-allocated", "beside a TPipe an event id comes from it")           \
  X(kFlagIdsExhausted, "flag.ids-exhausted", "8 event ids for each event")                         \
  X(kBarrierScalar, "barrier.scalar", "PipeBarrier takes any pipe but S")                          \
  X(kAtomicLeftSet, "atomic.left-set", "SetAtomicNone follows SetAtomicAdd")                       \
  X(kDeadlock, "deadlock", "no block waits for one that never comes")                              \
  X(kSyncAllBlocks, "sync-all.blocks", "SyncAll needs no more blocks than cores")                  \
  X(kSyncAllKernel, "sync-all.kernel-type", "SyncAll without workspace needs a __mix__ kernel")    \
  X(kSyncAllWorkspace, "sync-all.workspace", "a soft SyncAll has 32 zeroed bytes for each block")  \
  X(kCrossKernel, "cross-core.kernel-type",                                                        \
    "cross-core flags need a __mix__ kernel of their mode")                                        \
  X(kCrossMode, "cross-core.mode", "modes 0, 1, 2, on a pipe other than S and ALL")                \
  X(kCrossId, "cross-core.flag-id", "flag ids are 0 to 15, without 11 to 14 beside SyncAll")       \
  X(kCrossCounter, "cross-core.counter-15", "a flag is at most 15 sets ahead of its waits")        \
  X(kCrossUnpaired, "cross-core.unpaired", "every cross-core set has its wait")                    \
  X(kStaticApi, "static.api-list", "a static kernel calls what the list of its style has")         \
  X(kStaticInit, "static.init-soc-state", "a static kernel starts with InitSocState")              \
  X(kStaticBarrier, "static.final-barrier", "a static kernel ends with PipeBarrier<PIPE_ALL>")     \
  X(kVirtualData, "counting.virtual-data", "counting mode: nothing depends on data it lacks")      \
  X(kEndless, "kernel.endless", "a kernel issues no more instructions than the launch allows")

namespace emulator {

enum class Rule {
#define MOGE_RULE(name, id, text) name,
  MOGE_EMULATOR_RULES(MOGE_RULE)
#undef MOGE_RULE
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_RULES_H_
