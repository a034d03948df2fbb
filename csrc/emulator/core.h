// One core and what it does, and the launch that it is part of, for the emulator's own .cpp files
// only.
#ifndef MOGE_EMULATOR_CORE_H_
#define MOGE_EMULATOR_CORE_H_

#include "counts.h"
#include "state.h"
#include "trace.h"
#include "workspace.h"

namespace emulator {

class Machine;

class Core {
 public:
  // `block` and `sub` are what GetBlockIdx and GetSubBlockIdx return
  Core(Machine& machine, uint32_t index, CoreKind kind, uint32_t block, uint32_t sub);

  bool IsCube() const { return kind == CoreKind::kCube; }
  bool Has(pipe_t pipe) const;
  std::string Who() const;

  // --- events (events.cpp)
  // Each event is told here once. It reaches the clocks, which order it, the counters and the
  // trace, from which its time is modelled; nothing else writes to the three.

  // Every call of the API that a pipe executes starts here: what messages name, one step of time.
  void Begin(Op op, pipe_t pipe);
  // Then it says what it does: moves pieces between two memories of the core,
  void Move(Path path, uint64_t pieces, uint64_t piece_bytes);
  void Move(Path path, uint64_t pieces, uint64_t piece_bytes, double cycles);
  // or from or to global memory,
  void Move(Path path, const GlobalRef& ref, const Traffic& traffic);
  // or fills local memory, computes on lanes, multiplies,
  void FillBytes(uint64_t bytes);
  // `banks`: cycles that its operands' banks of UB need, if that is more
  void Compute(DType dtype, const Lanes& lanes, double banks = 0);
  void Multiply(DType dtype, const ProductCounters& work);
  // or reads or writes one element. `missed`: the data cache does not hold it.
  void AccessScalar(ScalarAccess access, bool missed = false);
  // Under a unit flag the last instruction covers a block of L0C. `follows`: one of the other pipe
  // used the block last; `gives`: one of the other pipe is to follow.
  void TakeTurn(uint32_t unit, bool follows, bool gives);
  // A pipe sets a flag, another one waits for it.
  Signal Set(pipe_t source);
  void Wait(pipe_t source, pipe_t destination, const Signal& signal);
  // PipeBarrier, of one pipe or of PIPE_ALL; PIPE_S: the barrier of the scalar unit's own accesses.
  void PassBarrier(pipe_t pipe);
  // What this core tells as it comes to a SyncAll of `cores` cores, and as it sets a flag for
  // others; what it learns when the wait is over.
  Knowledge MeetAll(uint32_t cores);
  Message SetCross(pipe_t pipe);
  // All pipes wait for each other, inside of another instruction.
  void Synchronise();
  void WaitCross(const Message& message);
  void Learn(const Knowledge& known) { clocks_.Learn(known); }
  // Bytes of a memory in use.
  void Occupy(Memory memory, uint32_t bytes);

  // --- local memory (local.cpp)
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
  // The two halves of Read, for transfers that carry undefined bytes along: only what an
  // instruction computes with must be valid.
  void CheckValid(Memory memory, uint32_t begin, uint32_t end);
  // The first byte that is not valid, or `end`; notes whether data is virtual.
  uint32_t FirstInvalid(Memory memory, uint32_t begin, uint32_t end);
  void Follow(Memory memory, uint32_t begin, uint32_t end);
  // What an instruction moves unchanged keeps its state: undefined bytes may be carried along, only
  // what is computed with must be valid. `move` is told where the memory starts, once for its bytes
  // and once for their states.
  template <typename Move>
  void Carry(Memory memory, Move move) {
    LocalMemory& local = Local(memory);
    move(local.bytes.data());
    if (!local.state.empty()) move(local.state.data());
  }
  // The same for bytes from one place to another, which are in order with the accesses before.
  void Carry(Memory from, uint32_t begin, Memory to, uint32_t at, uint32_t bytes);
  // What lies there is undefined from now on.
  void Forget(Memory memory, uint32_t begin, uint32_t end);
  // Counting mode refuses to go on with a value that was never computed.
  [[noreturn]] void FailVirtual() const;
  void CheckPosition(TPosition position) const;
  // Tensors of a memory end at `top`, at least.
  void Take(Memory memory, uint64_t top);
  // Where the part of UB ends that a kernel may use.
  uint32_t UbEnd() const { return kUbUser - reserved_; }
  // An instruction keeps the end of UB from now on.
  void ReserveUb(Op by, uint32_t bytes);
  // How much of a memory a kernel has.
  uint32_t Capacity(Memory memory) const;
  void ReleaseMemory() {
    for (auto& memory : memories_) memory.reset();
  }

  // --- global memory (global.cpp)
  bool IsBulk(const GlobalRef& ref) const;
  // Byte of the allocation where an access starts, after its checks.
  uint64_t CheckGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, uint32_t alignment);
  // `carries`: what is undefined there comes along, by CarryIn, and is no error yet.
  void ReadGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, bool carries = false);
  // The states of bytes that move from or to global memory.
  void CarryIn(const GlobalRef& ref, uint64_t offset, Memory memory, uint32_t at, uint32_t bytes);
  void CarryOut(const GlobalRef& ref, uint64_t offset, const uint8_t* states, uint32_t bytes);
  void WriteGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, bool adds);
  // A write of the scalar unit, which others may wait for.
  void PublishGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, const Release& release);

  // Rules that hold when the kernel has returned.
  void Finish();
  CoreCounters Tally() const;
  uint64_t instructions() const { return instructions_; }
  const Clocks& clocks() const { return clocks_; }
  Clocks& clocks() { return clocks_; }
  bool timed() const { return trace_ != nullptr; }
  const Trace& trace() const { return *trace_; }

  Machine& machine;
  const uint32_t index;  // among all cores of the launch
  const CoreKind kind;
  const uint32_t block;
  const uint32_t sub;
  // the running instruction
  Op op = Op::kKernelEnd;
  pipe_t pipe = PIPE_S;
  const char* call = nullptr;  // the high-level call that the instruction is part of
  bool lacks_data = false;     // counting mode: an operand of it is virtual
  std::optional<Truncation> truncated;

  Registers registers;
  Style style;
  Buffers buffers;
  uint32_t ub_top = 0;  // end of what TPipe gave out, or of the static tensors
  Flags flags;
  CrossFlags cross;
  UnitFlags units{};
  std::vector<uint8_t> sparse_index;  // beside L0B: 2 bits for each byte of it; empty: none yet
  std::unordered_set<uint64_t> written_back;  // lines, since the last DataSyncBarrier
  uint32_t preloads = 0;                      // DataCachePreload, with nothing else between
  Polls polls;
  uint64_t writes = 0;                                 // to global memory
  std::unordered_map<uint64_t, CacheLineState> cache;  // the scalar unit's, by address / 64

 private:
  void Account(uint64_t bytes, double cycles, double waits = 0);
  void CheckBlock(Memory memory, uint32_t block, bool writes);
  void CheckReserved() const;
  // Refuses the running access to a byte that does not follow an earlier one.
  void FollowGlobal(const GlobalMemory& memory, uint64_t byte, bool writes,
                    const GlobalAccess& earlier, bool earlier_wrote);
  // Whether another core's read need not come before the running write: both of scalar units.
  bool MayRead(const GlobalAccess& earlier) const {
    return publishes_ != 0 && earlier.pipe == PIPE_S && earlier.core != index;
  }
  struct Touched;
  Touched Touch(const GlobalRef& ref, uint64_t offset, uint64_t bytes);

  uint64_t instructions_ = 0;
  uint32_t publishes_ = 0;  // number of what the running write tells; 0: nothing
  uint32_t reserved_ = 0;   // bytes at the end of UB
  Op reserved_by_{};
  std::array<std::unique_ptr<LocalMemory>, kMemories> memories_;
  Clocks clocks_;
  Counts counts_;
  std::unique_ptr<Trace> trace_;  // null: times are not modelled
};

// Sets of a cross-core flag that have not come together yet, in the order of the cores.
struct CrossGroup {
  std::vector<uint32_t> sources, targets;  // cores
  std::vector<std::deque<Message>> sets;
};

class Scheduler;

// A launch: the memory and the cores.
class Machine {
 public:
  explicit Machine(const Options& options);
  Counters Run(const std::function<void()>& kernel);

  const Options options;
  const Levels levels;
  std::vector<Warning> warnings;
  std::vector<GlobalMemory> globals;
  std::vector<std::unique_ptr<Core>> cores;
  uint64_t stamp = 0;                           // writes to global memory so far
  std::vector<Release> releases{1};             // what those of scalar units tell, from 1 up
  bool sync_all = false;                        // whether one was called
  uint32_t messages = 0;                        // sets of cross-core flags so far
  std::vector<std::vector<uint32_t>> meetings;  // those that came together, for a wait
  Workspaces workspaces;

  // Does what the level of a broken rule says, unless that is off.
  void Report(Rule rule, Op op, const std::string& message);
  // Counts one more warning of a rule and an instruction; false if this is the first.
  bool CountAgain(Rule rule, Op op);
  // Called by a core: gives way until every core, or every vector core, has come here, and tells it
  // what the others know.
  void WaitForAll(Core& core, bool vector_only);
  void CheckMode(Core& core, uint8_t mode, uint16_t id);
  void SetCrossFlag(Core& core, uint8_t mode, uint16_t id, Message message);
  void WaitCrossFlag(Core& core, uint16_t id);
  // Called by a core before its scalar unit reads global memory: gives way if it polls.
  void Poll(Core& core, const GlobalRef& ref, uint64_t offset);
  // Called by a core: gives way until it is woken by this name, or roused.
  void Block(const Core& core, const std::string& what);
  void Wake(const std::string& what);
  void Rouse(uint32_t core);

 private:
  CrossGroup& FindGroup(const Core& core, uint8_t mode, uint16_t id);
  void CheckPaired();

  std::map<std::array<uint32_t, 4>, CrossGroup> groups_;
  std::vector<uint32_t> in_sync_all_;  // cores
  Knowledge gathered_;                 // what they have told
  std::shared_ptr<Scheduler> scheduler_;
};

Core& CurrentCore();
// A call of the API starts with one of these two: Begin, where a pipe executes it; Enter, where
// messages name it, and no pipe does anything.
inline Core& Begin(Op op, pipe_t pipe) {
  Core& core = CurrentCore();
  core.Begin(op, pipe);
  return core;
}
inline Core& Enter(Op op) {
  Core& core = CurrentCore();
  core.op = op;
  return core;
}
// The rules' own levels, then those of the variable MOGE_EMULATOR_RULES, then the launch's.
Levels LevelsFor(const Options& options);
// No more blocks than cores, where they wait for each other.
void CheckAllRun(const Core& core);
// Refuses a parameter that was cut to its field.
void CheckFields(Core& core);
// Every tensor that a queue gave out has come back to it.
void CheckLeaks(const Core& core);
void CheckLeak(const Buffer& buffer);
// What buffers.cpp and queue.cpp share: a tensor of the buffer is about to be used; a buffer for a
// queue; the way between two positions.
void UseBuffer(Core& core, const Buffer& buffer);
void AddToQueue(Core& core, int32_t queue, uint32_t buffer);
Route RouteBetween(TPosition source, TPosition destination);
TPosition PositionBetween(TPosition source, TPosition destination);

// What Mmad and Fixpipe share (unit_flags.cpp).
void CheckUnitFlag(uint8_t flag);
void TakeUnits(Core& core, uint32_t begin, uint32_t end, uint8_t flag);

// How many vector cores a block has beside its cube core; 0: it has not both.
inline uint32_t VectorsBesideCube(KernelType kernel) {
  return kernel == KernelType::kMix ? 2 : kernel == KernelType::kMixPair ? 1 : 0;
}

// What the kernel has left in the scalar unit's cache reaches global memory some time.
void WriteBackAll(Core& core);
// Refuses an access to what SetValue has changed in the scalar unit's cache only.
void CheckDirty(const Core& core, const GlobalRef& ref, uint64_t offset, uint64_t bytes);
// Warns of transfers that the documents call slow, where a launch asks for it.
void Advise(const GlobalRef& ref, const Traffic& traffic);
// Bytes into global memory, or into what is there while SetAtomicAdd or its like is on.
void Deliver(const Core& core, uint8_t* dst, const uint8_t* src, uint32_t bytes);

}  // namespace emulator

#endif  // MOGE_EMULATOR_CORE_H_
