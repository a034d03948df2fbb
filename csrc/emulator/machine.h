// What the API's headers ask of the machine: operands as plain values, one function for each kind
// of instruction. Nothing here is a template, so kernels compile quickly; the work is in the .cpp
// files.
#ifndef MOGE_EMULATOR_MACHINE_H_
#define MOGE_EMULATOR_MACHINE_H_

#include "constants.h"
#include "rules.h"
#include "types.h"

namespace emulator {

using AscendC::CMPMODE;
using AscendC::HardEvent;
using AscendC::ReduceOrder;
using AscendC::ReduceType;
using AscendC::RoundMode;
using AscendC::SELMODE;
using AscendC::TPosition;

// Calls that the machine records, by the pipe that executes them.
// clang-format off: lists, which it lays out anew every time
#define MOGE_EMULATOR_OPS(X)                                                                \
  X(DataCopy) X(DataCopyPad) X(Copy) X(Add) X(Sub) X(Mul) X(Div) X(Max) X(Min) X(MulAddDst) \
  X(And) X(Or) X(Not) X(Adds) X(Muls) X(Maxs) X(Mins) X(Axpy) X(ShiftLeft) X(ShiftRight)    \
  X(Exp) X(Ln) X(Sqrt) X(Rsqrt) X(Reciprocal) X(Abs) X(Relu) X(Cast) X(Duplicate)           \
  X(CreateVecIndex) X(Brcb) X(Compare) X(Compares) X(SetCmpMask) X(GetCmpMask) X(Select)    \
  X(ReduceRepeat) X(ReduceDataBlock) X(ReducePairElem) X(ReduceMax) X(ReduceMin)            \
  X(ReduceSum) X(Sort32) X(MrgSort) X(GatherMask) X(Gather) X(Gatherb) X(GetValue)          \
  X(SetValue) X(SetFlag) X(WaitFlag) X(PipeBarrier) X(DataSyncBarrier) X(SyncAll)           \
  X(DataCacheCleanAndInvalid) X(AllocTensor) X(FreeTensor) X(EnQue) X(DeQue) X(InitBuffer)  \
  X(AllocEventID) X(ReleaseEventID) X(FetchEventID) X(SetMask) X(GetMrgSortResult)          \
  X(LocalTensor) X(GlobalTensor) X(TPipe) X(Get) X(SetAtomicAdd) X(SetAtomicNone)           \
  X(SetDeqScale) X(InitSocState) X(LoadData) X(LoadDataWithTranspose) X(Fill) X(Mmad)      \
  X(Fixpipe) X(SetMMRowMajor) X(SetMMColumnMajor) X(CrossCoreSetFlag) X(CrossCoreWaitFlag)  \
  X(KernelEnd)
// clang-format on

enum class Op : uint8_t {
#define MOGE_OP(name) k##name,
  MOGE_EMULATOR_OPS(MOGE_OP)
#undef MOGE_OP
};
inline constexpr int kOps = static_cast<int>(Op::kKernelEnd) + 1;

using Number = unsigned long long;  // what %llu prints
// A broken rule ends the launch: there is nothing to go on with.
[[noreturn]] void Fail(Rule rule, const char* format, ...) __attribute__((format(printf, 2, 3)));
// A broken rule does what its level says: it ends the launch, is noted as a warning, or is ignored.
void Report(Rule rule, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Refuses a parameter outside its documented range.
void CheckRange(const char* name, int64_t value, int64_t least, int64_t most);

// A field of a parameter struct or an argument: the narrow type of the hardware's register, filled
// from any integer. What a plain narrow integer would silently truncate is an error of the call
// that the field goes to.
void NoteTruncation(long long value, unsigned bits);

template <typename Narrow>
class Field {
 public:
  constexpr Field() = default;
  template <typename N, typename = std::enable_if_t<std::is_integral_v<N>>>
  constexpr Field(N value) : value_(static_cast<Narrow>(value)) {
    if (static_cast<N>(value_) != value || (value_ < Narrow{}) != (value < N{})) {
      NoteTruncation(static_cast<long long>(value), sizeof(Narrow) * 8);
    }
  }
  constexpr operator Narrow() const { return value_; }

 private:
  Narrow value_{};
};

using U8 = Field<uint8_t>;
using U16 = Field<uint16_t>;
using U32 = Field<uint32_t>;

// --- operands -----------------------------------------------------------------------------------

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
  return {is_set ? MaskForm::kBits : MaskForm::kRegister, mask[0], mask[1], repeat};
}

// --- tensors and scalars ------------------------------------------------------------------------

LocalRef PlaceLocal(TPosition position, uint32_t address, uint64_t bytes);
LocalRef Offset(const LocalRef& ref, uint64_t bytes);
void LoadScalar(const LocalRef& ref, uint64_t offset, DType dtype, void* value);
void StoreScalar(const LocalRef& ref, uint64_t offset, DType dtype, const void* value);

// `bytes` 0: up to the end of the allocation
GlobalRef PlaceGlobal(void* address, uint64_t bytes);
GlobalRef Offset(const GlobalRef& ref, uint64_t bytes);
void LoadScalar(const GlobalRef& ref, uint64_t offset, DType dtype, void* value);
void StoreScalar(const GlobalRef& ref, uint64_t offset, DType dtype, const void* value);
void CleanCache(const GlobalRef& ref, bool entire);

// --- pipes and queues ---------------------------------------------------------------------------

void PipeConstruct(void* pipe);
void PipeDestruct(void* pipe);
void PipeReset();
void* CurrentPipe();
// returns the id of the queue, or of the buffer
int32_t InitQueue(TPosition source, TPosition destination, int32_t depth, uint8_t number,
                  uint32_t bytes);
uint32_t InitBuf(TPosition position, uint32_t bytes);
LocalRef BufGet(uint32_t buffer, uint64_t bytes, bool whole);
LocalRef QueueAlloc(int32_t queue);
void QueueFree(int32_t queue, const LocalRef& ref);
void QueuePush(int32_t queue, const LocalRef& ref);
LocalRef QueuePop(int32_t queue);
struct QueueCounts {
  int32_t idle, enqueued, depth;
};
QueueCounts CountQueue(int32_t queue);

// --- synchronisation ----------------------------------------------------------------------------

void SetHardFlag(HardEvent event, int32_t id);
void WaitHardFlag(HardEvent event, int32_t id);
int32_t AllocEvent(HardEvent event);
void ReleaseEvent(HardEvent event, int32_t id);
int32_t FetchEvent(HardEvent event);
void Barrier(pipe_t pipe);
void ScalarBarrier();
void SyncAllHard(bool vector_only);
void SyncAllSoft(const GlobalRef& workspace, const LocalRef& local, int32_t used_cores);
void InitSoc();
bool IsCubeCore();
int64_t BlockIndex();
int64_t BlockNumber();
int64_t SubBlockIndex();
int64_t SubBlockNumber();
void SetCrossCoreFlag(uint8_t mode, pipe_t pipe, uint16_t id);
void WaitCrossCoreFlag(uint16_t id);

// --- registers ----------------------------------------------------------------------------------

void SetMaskMode(bool counter);
void SetMask(uint64_t high, uint64_t low);
void SetMaskLength(int64_t length, DType dtype, bool counter);
void ResetVectorMask();
void SetAtomic(DType dtype);
void ClearAtomic();
void SetDequantScale(half scale);

// --- data movement ------------------------------------------------------------------------------

// Rows of `bytes`; pitches are from the start of one row to the start of the next.
struct Rows {
  uint32_t rows = 1;
  uint32_t bytes = 0;
  uint64_t source_pitch = 0;
  uint64_t destination_pitch = 0;
};

// Bytes before and after a row in local memory; up to the next 32 bytes they are undefined.
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
void CopyOut(Op op, DType dtype, const GlobalRef& dst, const LocalRef& src, const Rows& rows);
void CopyLocal(DType dtype, const LocalRef& dst, const LocalRef& src, const Rows& rows);

// Row-major matrices to columns of 32 bytes: everything in bytes.
struct NdToNz {
  uint32_t matrices, rows, row_bytes;
  uint64_t source_matrix, source_row;
  uint64_t destination_column, destination_row, destination_matrix;
};
void CopyNdToNz(DType dtype, const LocalRef& dst, const GlobalRef& src, const NdToNz& shape);
void CheckPad(DType dtype, uint32_t block_bytes, uint32_t left, uint32_t right, uint64_t value);

// --- cube ---------------------------------------------------------------------------------------

// Fractals of 512 bytes, or squares of them: the units of each field are the instruction's.
struct FractalRun {
  uint32_t start, repeat, source_stride;
  uint32_t destination_gap;
  uint32_t fraction_gap;  // between the fractals of one square
  bool transpose;
  bool backwards;  // the source goes down from `start`
};
void LoadFractals(DType dtype, const LocalRef& dst, const LocalRef& src, const FractalRun& run);
void LoadFractals(DType dtype, const LocalRef& dst, const GlobalRef& src, const FractalRun& run);
void LoadSquares(DType dtype, const LocalRef& dst, const LocalRef& src, const FractalRun& run);
// `value` points to one element
void FillBlocks(DType dtype, const LocalRef& dst, const void* value, uint32_t repeat,
                uint32_t blocks, uint32_t gap);

struct Product {
  uint32_t m, n, k;
  uint8_t unit_flag;
  bool align_k;
  bool init;
  const LocalRef* bias;  // null: none
};
void Multiply(DType dtype, const LocalRef& dst, const LocalRef& a, const LocalRef& b,
              const Product& product);

struct Export {
  uint32_t n, m;
  uint32_t source_stride;  // in 16 elements
  uint64_t destination_stride;
  QuantMode_t quant;
  uint64_t scale;
  uint32_t matrices, source_matrix, destination_matrix;
  bool relu;
  uint8_t unit_flag;
  bool split;
  bool row_major;
};
// `scales` null: one scale for all
void MoveOut(DType from, DType to, const GlobalRef& dst, const LocalRef& src,
             const LocalRef* scales, const Export& shape);
void SetProductOrder(bool row_major);

// --- vector -------------------------------------------------------------------------------------

void Binary(Op op, const Operand& dst, const Operand& src0, const Operand& src1,
            const Extent& extent);
void Unary(Op op, const Operand& dst, const Operand& src, const Extent& extent);
// `scalar` points to one element of the source's type
void Scalar(Op op, const Operand& dst, const Operand& src, const void* scalar,
            const Extent& extent);
void Cast(const Operand& dst, const Operand& src, RoundMode mode, const Extent& extent);
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
void ReduceTensor(ReduceType type, DType dtype, const LocalRef& dst, const LocalRef& src,
                  const LocalRef& tmp, const Extent& extent, int32_t src_rep_stride,
                  bool with_index);

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

}  // namespace emulator

#endif  // MOGE_EMULATOR_MACHINE_H_
