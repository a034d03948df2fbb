// State of the machine, for the emulator's own .cpp files only.
#ifndef MOGE_EMULATOR_CORE_H_
#define MOGE_EMULATOR_CORE_H_

#include <array>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "launch.h"
#include "machine.h"
#include "timing.h"

namespace emulator {

inline constexpr int kPipes = PIPE_ALL;
inline constexpr uint32_t kBlockBytes = 32;
inline constexpr uint32_t kRepeatBytes = 256;
inline constexpr uint32_t kUbBytes = 196608;
inline constexpr uint32_t kUbUser = kUbBytes - 256;
inline constexpr uint32_t kSelectBytes = 8192;
inline constexpr uint32_t kCacheLineBytes = 64;
inline constexpr uint32_t kFractalBytes = 512;   // 16 x 32 bytes; one unit flag in L0C
inline constexpr uint32_t kProductBytes = 1024;  // 16 x 16 results in L0C
inline constexpr int kEvents = static_cast<int>(HardEvent::MAX);
inline constexpr int kEventIds = 8;
inline constexpr int kCrossIds = 16;
inline constexpr size_t kCrossAhead = 15;

enum class Memory : uint8_t { kUb, kL1, kL0A, kL0B, kL0C, kBias, kFixpipe };
inline constexpr int kMemories = 7;

const char* Name(Op op);
const char* Name(DType dtype);
const char* Name(Memory memory);
const char* PipeName(int pipe);
// How two accesses are made to follow each other, for the end of a message.
std::string Remedy(int earlier, int later);
const char* EventName(HardEvent event);
pipe_t EventSource(HardEvent event);
pipe_t EventDestination(HardEvent event);
Memory MemoryOf(TPosition position);
uint32_t MemoryBytes(Memory memory);

enum class CoreKind : uint8_t { kVector, kCube };

// Everything a pipe knows to be finished: for each pipe the number of its last such instruction.
using Clock = std::array<uint32_t, kPipes>;

// What a core knows of the others: for each core the clock that it has heard of; empty: nothing
// yet.
using Knowledge = std::vector<Clock>;
void Merge(Knowledge& into, const Knowledge& from);

// What a cross-core flag tells, and its number in the traces.
struct Message {
  Knowledge known;
  uint32_t number;
};

// Who touched 32 bytes of local memory, or a fractal of L0, last: numbers of instructions on their
// pipes, 0 for none.
struct BlockRecord {
  std::array<uint32_t, kPipes> read{};
  uint32_t written = 0;
  uint8_t writer = 0;  // pipe
  Op written_by{};
  std::array<Op, kPipes> read_by{};
};

enum class ByteState : uint8_t {
  kUninitialised,
  kValid,
  kPoison,
  kVirtual,  // counting mode: its value was never computed
};

struct LocalMemory {
  uint32_t block_bytes = kBlockBytes;
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> state;  // ByteState
  std::vector<BlockRecord> blocks;
};

// What happened to one cell of an allocation; the cell is as wide as the narrowest access needs.
// All zero means untouched; a time of 0 is no access.
struct GlobalAccess {
  uint32_t time;
  uint16_t core;
  uint8_t pipe;
  Op op;
};
struct GlobalCell {
  GlobalAccess written;
  GlobalAccess read;
  uint64_t stamp;  // of the last write, in the order of the launch
  bool atomic;
  bool more;  // there are accesses beside these, which they do not follow
};
struct BesideAccess {
  GlobalAccess access;
  bool wrote;  // an atomic addition; else a read
};

class GlobalMemory {
 public:
  // `tracked`: with cells
  GlobalMemory(const Allocation& allocation, bool tracked);
  const Allocation& allocation() const { return allocation_; }
  uint8_t* begin() const { return static_cast<uint8_t*>(allocation_.data); }
  uint64_t place = 0;  // where the model of time sees it
  uint64_t width() const { return width_; }
  // Cells of [begin, end), split first where the range does not fall on their borders.
  GlobalCell* Cells(uint64_t begin, uint64_t end, uint64_t* count);
  // Accesses of the cell at `byte` that have no place in it.
  std::vector<BesideAccess>& Beside(uint64_t byte) { return beside_[byte]; }
  void Forget(uint64_t byte) { beside_.erase(byte); }

 private:
  // calloc: a large allocation costs only the pages that the kernel touches
  using CellArray = std::unique_ptr<GlobalCell[], decltype(&std::free)>;
  CellArray Make(uint64_t width) const;

  Allocation allocation_;
  uint64_t width_ = 32;
  CellArray cells_;
  std::unordered_map<uint64_t, std::vector<BesideAccess>> beside_;
};

struct CacheLineState {
  std::array<uint8_t, kCacheLineBytes> bytes{};
  uint64_t dirty = 0;  // a bit for each byte
  uint64_t stamp = 0;  // when the line was fetched
  int32_t allocation = -1;
};

// clang-format off: a list, which it lays out anew every time
#define MOGE_EMULATOR_PATHS(X)                                                        \
  X(kGmToUb, "gm->ub") X(kUbToGm, "ub->gm") X(kUbToUb, "ub->ub") X(kGmToL1, "gm->l1") \
  X(kL1ToGm, "l1->gm") X(kGmToL0A, "gm->l0a") X(kGmToL0B, "gm->l0b")                  \
  X(kL1ToL0A, "l1->l0a") X(kL1ToL0B, "l1->l0b") X(kL1ToBias, "l1->bt") X(kL0CToGm, "l0c->gm")
// clang-format on
enum class Path : uint8_t {
#define MOGE_PATH(name, text) name,
  MOGE_EMULATOR_PATHS(MOGE_PATH)
#undef MOGE_PATH
};
inline constexpr int kPaths = static_cast<int>(Path::kL0CToGm) + 1;
inline bool IsGlobal(int path) {
  return path != -1 && path != static_cast<int>(Path::kUbToUb) &&
         path != static_cast<int>(Path::kL1ToL0A) && path != static_cast<int>(Path::kL1ToL0B);
}

// What an instruction does, for whoever gives it a time; what does not apply is 0.
struct Work {
  int path = -1;  // a Path; -1: not a transfer
  uint64_t bytes = 0;
  uint64_t pieces = 0;  // contiguous runs in global memory, or fractals
  uint64_t elements = 0;
  uint64_t repeats = 0;  // of a vector instruction
  uint64_t cycles = 0;   // of a Mmad
  DType dtype = DType::kUint8;
};

// What an instruction takes by the documented tables, without its head; of a transfer to or from
// global memory, nothing.
double DocumentedCycles(Op op, pipe_t pipe, const Work& work);
// Before an instruction gets going.
double HeadCycles(Op op, pipe_t pipe);
// What a transfer costs beside its bytes.
double MoveCycles(bool nd_to_nz, pipe_t pipe, uint32_t rows);
// The scalar unit's: for each call, and for an access to local memory or to global memory.
double IssueCycles();
double ScalarCycles(bool missed);

enum class BufferState : uint8_t { kIdle, kAllocated, kEnqueued, kDequeued, kPermanent };

struct Buffer {
  TPosition position;
  uint32_t begin = 0;
  uint32_t end = 0;
  uint32_t generation = 0;
  int32_t queue = -1;
  BufferState state = BufferState::kIdle;
  bool used = false;
  Clock ready{};                                   // of the filling pipe at EnQue
  Clock free{};                                    // of the using pipe at FreeTensor
  uint32_t ready_flag = kNone, free_flag = kNone;  // of the trace
};

struct Queue {
  TPosition source, destination;
  int32_t depth = 0;
  std::deque<uint32_t> idle;  // the longest idle first: two buffers take turns
  std::deque<uint32_t> enqueued;
};

struct Flag {
  bool pending = false;
  Clock clock{};
  uint32_t traced = kNone;
};

// Elements of an instruction, resolved: `repeats` times `lanes`, the last repeat with its own mask.
struct Lanes {
  uint32_t lanes = 0;
  uint32_t repeats = 0;
  std::array<uint64_t, 2> mask{};
  std::array<uint64_t, 2> last{};
  uint64_t elements = 0;
  bool prefix = false;  // full masks, and the last one a run from lane 0: a plain count

  const std::array<uint64_t, 2>& Mask(uint32_t repeat) const {
    return repeat + 1 == repeats ? last : mask;
  }
};

class Machine;

class Core {
 public:
  // `block` and `sub` are what GetBlockIdx and GetSubBlockIdx return
  Core(Machine& machine, uint32_t index, CoreKind kind, uint32_t block, uint32_t sub);

  bool IsCube() const { return kind == CoreKind::kCube; }
  bool Has(pipe_t pipe) const;
  std::string Who() const;

  // Every call of the API starts here: what messages name, and one step of the pipe's clock.
  void Begin(Op op, pipe_t pipe);

  LocalMemory& Local(Memory memory);
  // Address of an access inside a view, after its checks: alive, in bounds, aligned.
  uint32_t Check(const LocalRef& ref, uint64_t offset, uint64_t bytes, uint32_t alignment);
  uint8_t* Bytes(const LocalRef& ref) {
    return Local(MemoryOf(ref.position)).bytes.data() + ref.begin;
  }
  // Accesses of the running instruction to [begin, end) of a memory. All reads come before all
  // writes, and both before the data changes.
  void Read(Memory memory, uint32_t begin, uint32_t end);
  void Write(Memory memory, uint32_t begin, uint32_t end, ByteState state = ByteState::kValid);
  // Counting mode: whether a part of it is virtual.
  bool IsVirtual(Memory memory, uint32_t begin, uint32_t end);
  bool IsBulk(const GlobalRef& ref) const;
  // Counting mode: refuses to go on with a value that was never computed.
  [[noreturn]] void FailVirtual() const;
  // The two halves of Read, for transfers that carry undefined bytes along: only what an
  // instruction computes with must be valid.
  void CheckValid(Memory memory, uint32_t begin, uint32_t end);
  void Follow(Memory memory, uint32_t begin, uint32_t end);

  [[noreturn]] void FailGlobal(const GlobalMemory& memory, uint64_t byte, bool writes,
                               const GlobalAccess& earlier, bool earlier_wrote) const;
  void ReadGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes);
  void WriteGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, bool atomic);
  uint64_t CheckGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, uint32_t alignment);

  void Join(pipe_t pipe, const Clock& clock);
  Clock Snapshot(pipe_t pipe) const { return seen_[pipe]; }
  void JoinAll();
  // What a message of this pipe tells another core, and what this core learns from one.
  Knowledge Tell(pipe_t pipe) const;
  void Learn(const Knowledge& message);
  // Whether an access by any core is over, for the running instruction.
  bool Knows(const GlobalAccess& access, bool wrote, bool writes);
  // Whether whoever knows of the running instruction also knows of that one.
  bool Covers(const GlobalAccess& access) const;

  // Counters. Every instruction that takes time calls one of these once, after Begin; each calls
  // Account, the one place to hang a model of time on. Pipes wait for each other in Join.
  void CountPath(Path path, uint64_t rows, uint64_t row_bytes);
  void CountGlobal(const GlobalRef& ref, uint64_t bytes, bool writes);
  // What the model of time adds: rows of global memory, from the start of one to that of the next.
  void TimeMove(const GlobalRef& ref, uint64_t rows, uint64_t row_bytes, uint64_t pitch,
                bool nd_to_nz = false);
  // The scalar unit's access to UB, which the compiler lets wait for the vector pipe.
  void TimeScalar(Op op);
  void CountVector(Op op, DType dtype, const Lanes& lanes);
  void CountProduct(DType dtype, const ProductCounters& work);
  void Account(const Work& work);

  void CheckDirty(const GlobalRef& ref, uint64_t offset, uint64_t bytes);
  void CheckLeaks() const;
  void CheckReserved() const;
  void CheckPosition(TPosition position) const;
  void TakeUb(uint64_t top);
  void TakeLocal(Memory memory, uint64_t top);
  void ClearPipe();
  uint32_t AddBuffer(TPosition position, uint32_t bytes);
  Queue& FindQueue(int32_t id);
  Buffer& FindBuffer(int32_t queue, const LocalRef& ref);
  Flag& FindFlag(HardEvent event, int32_t id);
  int32_t FreeEvent(HardEvent event);
  void CountWait(pipe_t source, pipe_t destination);
  void SyncAll(bool vector_only);

  // Refuses a parameter that was cut to its field.
  void CheckFields();
  // Rules that hold when the kernel has returned.
  void Finish();
  CoreCounters Report() const;
  void ReleaseMemory() {
    for (auto& memory : memories_) memory.reset();
  }

  Machine& machine;
  const uint32_t index;  // among all cores of the launch
  const CoreKind kind;
  const uint32_t block;
  const uint32_t sub;
  Op op = Op::kKernelEnd;
  pipe_t pipe = PIPE_S;
  uint64_t instructions = 0;
  bool lacks_data = false;  // counting mode: an operand of the running instruction is virtual

  long long truncated = 0;  // the value of the first such parameter
  unsigned truncated_bits = 0;

  // mask register
  bool counter_mode = false;
  bool mask_touched = false;
  std::array<uint64_t, 2> mask{~uint64_t{0}, ~uint64_t{0}};
  std::array<uint64_t, 2> cmp_mask{};
  bool cmp_mask_set = false;
  bool deq_scale_set = false;
  float deq_scale = 0;
  bool atomic = false;
  DType atomic_dtype = DType::kFloat;
  bool merge_suspended = false;
  std::array<uint16_t, 4> merge_counts{};

  // style
  void* tpipe = nullptr;
  bool used_tpipe = false;
  bool used_static = false;
  bool init_soc = false;
  bool final_barrier = false;
  bool select_reserved = false;
  uint32_t ub_top = 0;  // end of what TPipe gave out, or of the static tensors

  std::vector<Buffer> buffers{1};
  std::vector<Queue> queues;
  uint32_t pipe_buffers = 0;
  std::map<TPosition, int> outstanding;
  std::array<std::array<Flag, kEventIds>, kEvents> flags;
  std::array<uint8_t, kEvents> event_ids{};  // bits of the ids given out
  std::array<uint8_t, kEvents> event_known{};
  std::unordered_map<uint64_t, CacheLineState> cache;

  // unit flags of L0C, for each 512 bytes
  enum UnitBits : uint8_t { kUnitFull = 1, kUnitByMmad = 2, kUnitByFixpipe = 4 };
  std::array<uint8_t, 131072 / kFractalBytes> units{};
  enum class ProductOrder : uint8_t { kUnset, kRowMajor, kColumnMajor };
  ProductOrder product_order = ProductOrder::kUnset;

  // cross-core flags that have come and were not waited for; each with what it tells
  std::array<std::deque<Message>, kCrossIds> inbox;
  uint16_t cross_used = 0;  // bits of the ids set or waited for

  // counters
  std::array<PathCounters, kPaths> paths;
  std::array<PipeCounters, kPipes> pipes{};
  std::array<ProductCounters, kDTypes> products{};
  std::vector<GlobalCounters> global;  // by allocation
  std::array<uint32_t, kMemories> peaks{};
  std::array<std::array<VectorCounters, kDTypes>, kOps> vectors{};
  std::array<uint64_t, 4> scalars{};  // ub get, ub set, gm get, gm set
  std::array<uint64_t, kEvents> waits{};
  std::array<uint64_t, kPipes + 1> barriers{};
  std::array<uint64_t, 2> cross{};  // sets, waits
  uint64_t sync_alls = 0;
  uint32_t peak_ub = 0;

  std::unique_ptr<Trace> trace;  // null: times are not modelled

  void PassBarrier(pipe_t of) { fence_[of] = time_[of]; }
  bool PassedBarrier(pipe_t of, uint32_t time) const { return time <= fence_[of]; }
  // Whether the running instruction comes after that one; joins the compiler's automatic order.
  bool Ordered(int earlier_pipe, uint32_t time, bool earlier_wrote, bool writes);

 private:
  // The last instruction of each pipe that the running one surely follows.
  Clock Horizon(bool earlier_wrote, bool writes) const;
  void CheckBlock(Memory memory, uint32_t block, bool writes);

  std::array<std::unique_ptr<LocalMemory>, kMemories> memories_;
  Clock time_{};
  Clock
      fence_{};  // the last instruction of each pipe that is known to be finished, in its own eyes
  std::array<Clock, kPipes> seen_{};
  Knowledge others_;
};

// Sets of a cross-core flag that have not come together yet, in the order of the cores.
struct CrossGroup {
  std::vector<uint32_t> sources, targets;  // cores
  std::vector<std::deque<Message>> sets;
};

class Machine {
 public:
  explicit Machine(const Options& options);
  Counters Run(const std::function<void()>& kernel);

  const Options options;
  std::vector<GlobalMemory> globals;
  std::vector<std::unique_ptr<Core>> cores;
  uint64_t stamp = 0;                           // writes to global memory so far
  bool sync_all = false;                        // whether one was called
  uint32_t messages = 0;                        // sets of cross-core flags so far
  std::vector<std::vector<uint32_t>> meetings;  // those that came together, for a wait

  // Called by a core: gives way until every core, or every vector core, has come here, and tells it
  // what the others know.
  void WaitForAll(Core& core, bool vector_only, const Knowledge& message);
  void SetCrossFlag(Core& core, uint8_t mode, uint16_t id, Message message);
  void WaitCrossFlag(Core& core, uint16_t id);

 private:
  struct Scheduler;
  CrossGroup& FindGroup(const Core& core, uint8_t mode, uint16_t id);
  void CheckPaired() const;

  std::map<std::array<uint32_t, 4>, CrossGroup> groups_;
  Knowledge gathered_;  // what the cores in SyncAll have told
  std::shared_ptr<Scheduler> scheduler_;
};

Core& CurrentCore();

// Bytes into global memory, added to what is there while SetAtomicAdd is on.
void Deliver(const Core& core, uint8_t* dst, const uint8_t* src, uint32_t bytes);

// the lowest `lanes` bits
inline std::array<uint64_t, 2> PrefixMask(uint32_t lanes) {
  const auto word = [](uint32_t bits) {
    return bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  };
  return {word(lanes), lanes > 64 ? word(lanes - 64) : 0};
}

Lanes Resolve(Core& core, const Extent& extent, uint32_t element_bytes);

}  // namespace emulator

#endif  // MOGE_EMULATOR_CORE_H_
