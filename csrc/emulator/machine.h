// What the API's headers ask of the machine: one function for each kind of instruction. Nothing
// here is a template, so kernels compile quickly; the work is in the .cpp files.
#ifndef MOGE_EMULATOR_MACHINE_H_
#define MOGE_EMULATOR_MACHINE_H_

#include "operation.h"

namespace emulator {

// --- tensors and scalars ------------------------------------------------------------------------

LocalRef PlaceLocal(TPosition position, uint32_t address, uint64_t bytes);
LocalRef Offset(const LocalRef& ref, uint64_t bytes);
// UB from an address on.
LocalRef UbAt(uint64_t address);
void LoadScalar(const LocalRef& ref, uint64_t offset, DType dtype, void* value);
void StoreScalar(const LocalRef& ref, uint64_t offset, DType dtype, const void* value);

// `bytes` 0: up to the end of the allocation
GlobalRef PlaceGlobal(void* address, uint64_t bytes);
GlobalRef Offset(const GlobalRef& ref, uint64_t bytes);
void LoadScalar(const GlobalRef& ref, uint64_t offset, DType dtype, void* value);
void StoreScalar(const GlobalRef& ref, uint64_t offset, DType dtype, const void* value);
void CleanCache(const GlobalRef& ref, bool entire);
void PreloadCache(const GlobalRef& ref, int64_t offset);
// past the cache of the scalar unit
void LoadUncached(void* address, DType dtype, void* value);
void StoreUncached(void* address, DType dtype, const void* value);

// --- pipes and queues ---------------------------------------------------------------------------

void PipeConstruct(void* pipe);
void PipeDestruct(void* pipe);
void PipeInit(void* pipe);
// `barrier`: every pipe of the core waits for all others
void PipeDestroy(void* pipe, bool barrier);
void PipeReset();
void* CurrentPipe();
// the rest of a position's memory
LocalRef PipeRest(TPosition position);

// A pool is a part of the TPipe, or of another pool: 0 stands for the TPipe.
uint32_t InitPool(uint32_t parent, TPosition position, uint32_t bytes, uint32_t buffers);
uint32_t SharePool(uint32_t parent, uint32_t other, TPosition position, uint32_t bytes,
                   uint32_t buffers);
uint32_t PoolAddress(uint32_t pool);
// `empty`: it has no buffers any more
void ResetPool(uint32_t pool, bool empty);

// Buffers for what goes from one position to another; `bytes` of each.
struct QueueShape {
  TPosition source, destination;
  int32_t depth;                       // 0: the tensors themselves are passed on
  uint32_t fixed_number, fixed_bytes;  // by its TQueConfig, or 0
};
// returns the id of the queue, or of the buffer
int32_t InitQueue(uint32_t pool, const QueueShape& shape, uint8_t number, uint32_t bytes);
void AddQueueBuffer(int32_t queue, uint32_t pool, uint32_t address, uint32_t bytes);
uint32_t InitBuf(uint32_t pool, TPosition position, uint32_t bytes);
uint32_t InitBufAt(uint32_t pool, TPosition position, uint32_t address, uint32_t bytes);
LocalRef BufGet(uint32_t buffer);
LocalRef BufGet(uint32_t buffer, uint64_t offset, uint64_t bytes);
LocalRef QueueAlloc(int32_t queue);
void QueueFree(int32_t queue, const LocalRef& ref);
void QueuePush(int32_t queue, const LocalRef& ref);
LocalRef QueuePop(int32_t queue);
// that very tensor, of a queue of depth 0
LocalRef QueuePop(int32_t queue, const LocalRef& ref);
// between two of the positions of a queue that is bound to more than one way
void QueuePush(int32_t queue, const LocalRef& ref, TPosition source, TPosition destination);
LocalRef QueuePop(int32_t queue, TPosition source, TPosition destination);
void QueueFreeEvents(int32_t queue);
struct QueueCounts {
  int32_t idle, enqueued;
};
QueueCounts CountQueue(int32_t queue);

// --- synchronisation ----------------------------------------------------------------------------

// MAX: no flag goes from this pipe to that one
constexpr HardEvent EventOf(pipe_t source, pipe_t destination) {
#define MOGE_EVENT(from, to) \
  if (source == PIPE_##from && destination == PIPE_##to) return HardEvent::from##_##to;
  MOGE_EMULATOR_EVENTS(MOGE_EVENT)
#undef MOGE_EVENT
  return HardEvent::MAX;
}

// `chosen`: the caller may choose the id, also beside a TPipe
void SetHardFlag(HardEvent event, int32_t id, bool chosen = false);
void WaitHardFlag(HardEvent event, int32_t id, bool chosen = false);
int32_t AllocEvent(HardEvent event);
void ReleaseEvent(HardEvent event, int32_t id);
int32_t FetchEvent(HardEvent event);
HardEvent FindEvent(pipe_t source, pipe_t destination);
void Barrier(pipe_t pipe);
// `global`: it waits for accesses to global memory, too
void ScalarBarrier(bool global);
void SyncAllHard(bool vector_only);
void SyncAllSoft(const GlobalRef& workspace, const LocalRef& local, int32_t used_cores);
void InitSoc();
bool InKernel();  // or in code of the host
bool IsCubeCore();
int64_t BlockIndex();
int64_t BlockNumber();
int64_t SubBlockIndex();
int64_t SubBlockNumber();
int64_t GroupIndex();  // of the cores that share a block
void SetCrossCoreFlag(uint8_t mode, pipe_t pipe, uint16_t id);
void WaitCrossCoreFlag(uint16_t id);
void PreloadInstructions(int64_t length);
int64_t CountCycles();
[[noreturn]] void StopCore();

// --- cores that wait for each other by a workspace in global memory -----------------------------

// What a pair of IBSet and IBWait names.
struct BlockFlag {
  int32_t block, event;
  bool vector_only;
};
void SetBlockFlag(const GlobalRef& workspace, const LocalRef& local, const BlockFlag& flag);
void WaitBlockFlag(const GlobalRef& workspace, const LocalRef& local, const BlockFlag& flag);
void InitTurns(const GlobalRef& workspace, const LocalRef& local);
void WaitTurn(const GlobalRef& workspace, const LocalRef& local);
void PassTurn(const GlobalRef& workspace, const LocalRef& local);
// Those who arrive, and those who wait for all of them.
struct Group {
  uint8_t* workspace;
  uint32_t arriving, waiting;
};
void MakeGroup(const Group& group);
void ArriveInGroup(const Group& group, uint32_t index);
void WaitForGroup(const Group& group, uint32_t index);

// --- registers ----------------------------------------------------------------------------------

void SetMaskMode(bool counter);
void SetMask(uint64_t high, uint64_t low);
void SetMaskLength(int64_t length, DType dtype, bool counter);
void ResetVectorMask();
enum class AtomicKind : uint8_t { kAdd, kMax, kMin };
void SetAtomic(AtomicKind kind, DType dtype);
void SetAtomicDType(DType dtype);
void ClearAtomic();
// The register itself: of the type, 0 for none, and of the kind.
struct AtomicCodes {
  uint16_t type, kind;
};
void SetAtomicCode(uint16_t code);
AtomicCodes GetAtomicCodes();
void SetDequantScale(half scale);

// --- data movement ------------------------------------------------------------------------------

// Rows of `bytes`; pitches are from the start of one row to the start of the next.
struct Rows {
  uint32_t rows = 1;
  uint32_t bytes = 0;
  uint64_t source_pitch = 0;
  uint64_t destination_pitch = 0;
  uint32_t alignment = 1;  // of the address in global memory

  // Bytes from the start of the first row to the end of the last, `pitch` apart.
  uint64_t Reach(uint64_t pitch) const { return rows == 0 ? 0 : (rows - 1) * pitch + bytes; }
};

// Bytes before and after each row in local memory. If there are any, they and what fills up the
// last 32 bytes hold the value, or are undefined; if not, what fills up repeats the row's first
// element.
struct Padding {
  bool is_pad = false;
  uint32_t left = 0;
  uint32_t right = 0;
  uint64_t value = 0;  // in the width of the element
};

// The bytes of a count, in whole blocks of 32, as the hardware cuts them.
uint32_t CopyBytes(DType dtype, uint32_t count);
void CheckBlockCount(Op op, uint32_t block_count);
void CopyIn(Op op, DType dtype, const LocalRef& dst, const GlobalRef& src, const Rows& rows,
            const Padding* padding);
void CopyOut(Op op, const GlobalRef& dst, const LocalRef& src, const Rows& rows);
void CopyLocal(DType dtype, const LocalRef& dst, const LocalRef& src, const Rows& rows);

// Row-major matrices to columns of 32 bytes: everything in bytes.
struct NdToNz {
  uint32_t matrices, rows, row_bytes;
  uint64_t source_matrix, source_row;
  uint64_t destination_column, destination_row, destination_matrix;
};
void CopyNdToNz(const LocalRef& dst, const GlobalRef& src, const NdToNz& shape);
// Back, out of UB: strides in bytes, columns of `column_bytes` and 16 elements.
struct NzToNd {
  uint32_t matrices, rows, columns, column_bytes;
  uint64_t source_matrix, source_column;
  uint64_t destination_row, destination_matrix;
};
void CopyNzToNd(DType dtype, const GlobalRef& dst, const LocalRef& src, const NzToNd& shape);
void SetPad(DType dtype, uint64_t value);
void CheckPad(DType dtype, uint32_t block_bytes, const Padding& padding);

// --- vector -------------------------------------------------------------------------------------

void Binary(Op op, const Operand& dst, const Operand& src0, const Operand& src1,
            const Extent& extent);
void Unary(Op op, const Operand& dst, const Operand& src, const Extent& extent);
// `scalar` points to one element of the source's type; `rounds`: the last bit shifted out is added
void Scalar(Op op, const Operand& dst, const Operand& src, const void* scalar, const Extent& extent,
            bool rounds = false);
// dst is what `op` makes of src0 and src1, converted to another type
void BinaryCast(Op op, const Operand& dst, const Operand& src0, const Operand& src1,
                const Extent& extent);
void Cast(const Operand& dst, const Operand& src, RoundMode mode, const Extent& extent);
void Dequantise(const Operand& dst, const Operand& src, const Extent& extent);
void Fill(const Operand& dst, const void* value, const Extent& extent);
void Copy(const Operand& dst, const Operand& src, const Extent& extent);
void CreateIndex(const Operand& dst, const void* first, const Extent& extent);
void BroadcastBlocks(const Operand& dst, const Operand& src, uint8_t repeat);

// `dst` null: into the compare mask; `scalar` null: against src1
void Compare(Op op, const LocalRef* dst, const Operand& src0, const Operand* src1,
             const void* scalar, CMPMODE mode, const Extent& extent);
void LoadCompareMask(const LocalRef& src);
void StoreCompareMask(const LocalRef& dst);
void Select(const Operand& dst, const LocalRef& mask, const Operand& src0, const Operand* src1,
            const void* scalar, SELMODE mode, const Extent& extent);
// With what SetCmpMask has set: the bits or their address; or, with src1 null, the scalar.
void SelectByRegister(const Operand& dst, const LocalRef* mask, const Operand& src0,
                      const Operand* src1, SELMODE mode, const Extent& extent);

// --- reductions, sorting, gathering -------------------------------------------------------------

// As the call gives them: of the destination in results of a repeat, of the source in 32 bytes.
struct ReduceStrides {
  int32_t dst_repeat, src_block, src_repeat;
};
void ReduceRepeats(ReduceType type, DType dtype, const LocalRef& dst, const LocalRef& src,
                   const Extent& extent, const ReduceStrides& strides, ReduceOrder order);
void ReduceBlocks(ReduceType type, DType dtype, const LocalRef& dst, const LocalRef& src,
                  const Extent& extent, const ReduceStrides& strides);
void ReducePairs(DType dtype, const LocalRef& dst, const LocalRef& src, const Extent& extent,
                 const ReduceStrides& strides);
// the sums of the repeats one after the other, without a temporary tensor
void SumInOrder(DType dtype, const LocalRef& dst, const LocalRef& src, const Extent& extent);
void ReduceTensor(ReduceType type, DType dtype, const LocalRef& dst, const LocalRef& src,
                  const LocalRef& tmp, const Extent& extent, int32_t src_rep_stride,
                  bool with_index);
// what the scalar unit sees of the last reduction; `value` and `index` point to one element
void LastSum(DType dtype, void* value);
void LastExtreme(DType dtype, void* value, void* index);

void Sort32(DType dtype, const LocalRef& dst, const LocalRef& score, const LocalRef& index,
            int32_t repeat);
struct MergeLists {
  LocalRef sources[4];
  uint16_t lengths[4];
  bool suspend;
  uint16_t valid_bit;
  uint16_t repeat;
};
void MergeSort(DType dtype, const LocalRef& dst, const MergeLists& lists);
void MergeResult(uint16_t (&lengths)[4]);

struct GatherMaskArgs {
  bool counter;
  uint32_t mask;
  uint32_t repeat;
  uint32_t src_block_stride;
  uint32_t src_repeat_stride;
  uint32_t pattern_repeat_stride;
};
// `pattern` null: the built-in one
uint64_t GatherByMask(DType dtype, const LocalRef& dst, const LocalRef& src,
                      const LocalRef* pattern, uint8_t built_in, const GatherMaskArgs& args);
void Gather(const Operand& dst, const LocalRef& src, const LocalRef& offsets, uint32_t base,
            const Extent& extent);
void GatherBlocks(const Operand& dst, const LocalRef& src, const LocalRef& offsets, uint8_t repeat);

// --- transposing --------------------------------------------------------------------------------

void TransposeSquare(DType dtype, const LocalRef& dst, const LocalRef& src);
struct TransposeShape {
  TransposeType type;
  uint32_t n, c, h, w;
};
void Transpose(DType dtype, const LocalRef& dst, const LocalRef& src, const LocalRef& tmp,
               const TransposeShape& shape);

// The blocks of one repeat, and how the next repeats follow, in blocks.
using BlockList = std::array<LocalRef, 16>;
struct BlockSteps {
  bool dst_high, src_high;  // of elements of 8 bits: the second half of a block
  uint32_t repeat, dst_step, src_step;
};
BlockList BlocksAt(const uint64_t* addresses);
BlockList BlocksOf(const LocalRef& addresses);
void TransposeBlocks(DType dtype, const BlockList& dst, const BlockList& src,
                     const BlockSteps& steps);

}  // namespace emulator

#endif  // MOGE_EMULATOR_MACHINE_H_
