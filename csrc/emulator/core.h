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

namespace emulator {

inline constexpr int kPipes = PIPE_ALL;
inline constexpr uint32_t kBlockBytes = 32;
inline constexpr uint32_t kRepeatBytes = 256;
inline constexpr uint32_t kUbBytes = 196608;
inline constexpr uint32_t kUbUser = kUbBytes - 256;
inline constexpr uint32_t kSelectBytes = 8192;
inline constexpr uint32_t kCacheLineBytes = 64;
inline constexpr int kEvents = static_cast<int>(HardEvent::MAX);
inline constexpr int kEventIds = 8;

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
void CheckPosition(TPosition position);

// Everything a pipe knows to be finished: for each pipe the number of its last such instruction.
using Clock = std::array<uint32_t, kPipes>;

// Who touched 32 bytes of local memory last: numbers of instructions on their pipes, 0 for none.
struct BlockRecord {
  std::array<uint32_t, kPipes> read{};
  uint32_t written = 0;
  uint8_t writer = 0;  // pipe
  Op written_by{};
  std::array<Op, kPipes> read_by{};
};

enum class ByteState : uint8_t { kUninitialised, kValid, kPoison };

struct LocalMemory {
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> state;  // ByteState
  std::vector<BlockRecord> blocks;
};

// What happened to one cell of an allocation; the cell is as wide as the narrowest access needs.
// All zero means untouched; an epoch of 0 is no access.
struct GlobalAccess {
  uint32_t epoch;
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
};

class GlobalMemory {
 public:
  explicit GlobalMemory(const Allocation& allocation);
  const Allocation& allocation() const { return allocation_; }
  uint8_t* begin() const { return static_cast<uint8_t*>(allocation_.data); }
  uint64_t width() const { return width_; }
  // Cells of [begin, end), split first where the range does not fall on their borders.
  GlobalCell* Cells(uint64_t begin, uint64_t end, uint64_t* count);

 private:
  // calloc: a large allocation costs only the pages that the kernel touches
  using CellArray = std::unique_ptr<GlobalCell[], decltype(&std::free)>;
  CellArray Make(uint64_t width) const;

  Allocation allocation_;
  uint64_t width_ = 32;
  CellArray cells_;
};

struct CacheLineState {
  std::array<uint8_t, kCacheLineBytes> bytes{};
  uint64_t dirty = 0;  // a bit for each byte
  uint64_t stamp = 0;  // when the line was fetched
  int32_t allocation = -1;
};

enum class Path : uint8_t { kGmToUb, kUbToGm, kUbToUb };
inline constexpr int kPaths = 3;

enum class BufferState : uint8_t { kIdle, kAllocated, kEnqueued, kDequeued, kPermanent };

struct Buffer {
  TPosition position;
  uint32_t begin = 0;
  uint32_t end = 0;
  uint32_t generation = 0;
  int32_t queue = -1;
  BufferState state = BufferState::kIdle;
  bool used = false;
  Clock ready{};  // of the filling pipe at EnQue
  Clock free{};   // of the using pipe at FreeTensor
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
  Core(Machine& machine, uint32_t index);

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

  void ReadGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes);
  void WriteGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, bool atomic);
  uint64_t CheckGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, uint32_t alignment);

  void Join(pipe_t pipe, const Clock& clock);
  Clock Snapshot(pipe_t pipe) const { return seen_[pipe]; }
  void JoinAll();

  void CountPath(Path path, uint64_t rows, uint64_t row_bytes);
  void CountVector(Op op, DType dtype, const Lanes& lanes);

  void CheckDirty(const GlobalRef& ref, uint64_t offset, uint64_t bytes);
  void CheckLeaks() const;
  void CheckReserved() const;
  void TakeUb(uint64_t top);
  void ClearPipe();
  uint32_t AddBuffer(TPosition position, uint32_t bytes);
  Queue& FindQueue(int32_t id);
  Buffer& FindBuffer(int32_t queue, const LocalRef& ref);
  Flag& FindFlag(HardEvent event, int32_t id);
  int32_t FreeEvent(HardEvent event);
  void CountWait(pipe_t source, pipe_t destination);
  void SyncAll();

  // Refuses a parameter that was cut to its field.
  void CheckFields();
  // Rules that hold when the kernel has returned.
  void Finish();
  CoreCounters Report() const;
  void ReleaseMemory() {
    for (auto& memory : memories_) memory.reset();
  }

  Machine& machine;
  const uint32_t index;
  Op op = Op::kKernelEnd;
  pipe_t pipe = PIPE_S;
  uint64_t instructions = 0;

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

  // counters
  std::array<PathCounters, kPaths> paths;
  std::array<std::array<VectorCounters, kDTypes>, kOps> vectors{};
  std::array<uint64_t, 4> scalars{};  // ub get, ub set, gm get, gm set
  std::array<uint64_t, kEvents> waits{};
  std::array<uint64_t, kPipes + 1> barriers{};
  uint64_t sync_alls = 0;
  uint32_t peak_ub = 0;

  void PassBarrier(pipe_t of) { fence_[of] = time_[of]; }
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
};

class Machine {
 public:
  explicit Machine(const Options& options);
  Counters Run(const std::function<void()>& kernel);

  const Options& options;
  std::vector<GlobalMemory> globals;
  std::vector<std::unique_ptr<Core>> cores;
  uint32_t epoch = 1;  // SyncAlls passed, plus one
  uint64_t stamp = 0;  // writes to global memory so far

  // Called by a block: gives way until every block has come here.
  void WaitForAll(Core& core);

 private:
  struct Scheduler;
  std::shared_ptr<Scheduler> scheduler_;
};

Core& CurrentCore();

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
