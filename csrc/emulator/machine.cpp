// Names, errors, local memory with its shadow, the order of the pipes, and what ends a kernel.
#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "core.h"

namespace emulator {

namespace {

constexpr const char* kRuleIds[] = {
#define MOGE_RULE(name, id, text) id,
    MOGE_EMULATOR_RULES(MOGE_RULE)
#undef MOGE_RULE
};

constexpr const char* kRuleTexts[] = {
#define MOGE_RULE(name, id, text) text,
    MOGE_EMULATOR_RULES(MOGE_RULE)
#undef MOGE_RULE
};

struct Event {
  const char* name;
  pipe_t source;
  pipe_t destination;
};
constexpr Event kEventTable[] = {
#define MOGE_EVENT(source, destination) \
  {#source "_" #destination, PIPE_##source, PIPE_##destination},
    MOGE_EMULATOR_EVENTS(MOGE_EVENT)
#undef MOGE_EVENT
};

}  // namespace

const char* Error::rule_id() const { return kRuleIds[static_cast<int>(rule_)]; }

std::vector<std::pair<std::string, std::string>> Rules() {
  std::vector<std::pair<std::string, std::string>> rules;
  for (size_t i = 0; i < std::size(kRuleIds); ++i) rules.emplace_back(kRuleIds[i], kRuleTexts[i]);
  return rules;
}

const char* Name(Op op) {
  static constexpr const char* kNames[] = {
#define MOGE_OP(name) #name,
      MOGE_EMULATOR_OPS(MOGE_OP)
#undef MOGE_OP
  };
  return kNames[static_cast<int>(op)];
}

const char* Name(DType dtype) {
  static constexpr const char* kNames[] = {
#define MOGE_DTYPE(name, type, text) text,
      MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
  };
  return kNames[static_cast<int>(dtype)];
}

const char* Name(Memory memory) {
  static constexpr const char* kNames[] = {"UB", "L1", "L0A", "L0B", "L0C", "BT", "FB"};
  return kNames[static_cast<int>(memory)];
}

const char* PipeName(int pipe) {
  static constexpr const char* kNames[] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX", "ALL"};
  return kNames[pipe];
}

const char* EventName(HardEvent event) { return kEventTable[static_cast<int>(event)].name; }
pipe_t EventSource(HardEvent event) { return kEventTable[static_cast<int>(event)].source; }
pipe_t EventDestination(HardEvent event) {
  return kEventTable[static_cast<int>(event)].destination;
}

Memory MemoryOf(TPosition position) {
  switch (position) {
    case TPosition::A1:
    case TPosition::B1:
    case TPosition::C1:
      return Memory::kL1;
    case TPosition::A2:
      return Memory::kL0A;
    case TPosition::B2:
      return Memory::kL0B;
    case TPosition::CO1:
      return Memory::kL0C;
    case TPosition::C2:
      return Memory::kBias;
    case TPosition::C2PIPE2GM:
      return Memory::kFixpipe;
    default:
      return Memory::kUb;
  }
}

uint32_t MemoryBytes(Memory memory) {
  static constexpr uint32_t kBytes[] = {kUbBytes, 524288, 65536, 65536, 131072, 1024, 2048};
  return kBytes[static_cast<int>(memory)];
}

std::string Remedy(int earlier, int later) {
  const std::string from = PipeName(earlier);
  const std::string to = PipeName(later);
  if (earlier == later) return "PipeBarrier<PIPE_" + from + ">";
  std::string remedy = "SetFlag/WaitFlag<HardEvent::" + from + "_" + to + ">";
  if ((earlier == PIPE_MTE2 && later == PIPE_V) || (earlier == PIPE_V && later == PIPE_MTE3)) {
    remedy += " or EnQue/DeQue";
  }
  return remedy;
}

void Fail(Rule rule, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const Core& core = CurrentCore();
  throw Error(rule, std::string(Name(core.op)) + ": rule " + kRuleIds[static_cast<int>(rule)] +
                        ": " + text + " (" + core.Who() + " of " + core.machine.options.name + ")");
}

void NoteTruncation(long long value, unsigned bits) {
  Core& core = CurrentCore();
  if (core.truncated_bits == 0) {
    core.truncated_bits = bits;
    core.truncated = value;
  }
}

void Core::CheckFields() {
  if (truncated_bits == 0) return;
  Fail(Rule::kParamRange, "%lld does not fit the %u bits of a parameter", truncated,
       truncated_bits);
}

// --- local memory
// ---------------------------------------------------------------------------------

Core::Core(Machine& machine, uint32_t index, CoreKind kind, uint32_t block, uint32_t sub)
    : machine(machine),
      index(index),
      kind(kind),
      block(block),
      sub(sub),
      global(machine.globals.size()) {}

bool Core::Has(pipe_t of) const {
  switch (of) {
    case PIPE_V:
      return !IsCube();
    case PIPE_M:
    case PIPE_MTE1:
    case PIPE_FIX:
      return IsCube();
    default:
      return true;
  }
}

std::string Core::Who() const {
  const bool mix = machine.options.kernel == KernelType::kMix;
  return (mix ? IsCube() ? "AIC " : "AIV " : "block ") + std::to_string(block);
}

LocalMemory& Core::Local(Memory memory) {
  std::unique_ptr<LocalMemory>& local = memories_[static_cast<int>(memory)];
  if (local == nullptr) {
    const uint32_t bytes = MemoryBytes(memory);
    local = std::make_unique<LocalMemory>();
    // what lands in L0 are whole fractals
    const bool fractals =
        memory == Memory::kL0A || memory == Memory::kL0B || memory == Memory::kL0C;
    local->block_bytes = fractals ? kFractalBytes : kBlockBytes;
    local->bytes.assign(bytes, 0xff);  // NaN in every float type, should it ever be used
    if (machine.options.checks || machine.options.counting) {
      local->state.assign(bytes, static_cast<uint8_t>(ByteState::kUninitialised));
    }
    if (machine.options.checks) {
      local->blocks.resize(bytes / local->block_bytes);
    }
  }
  return *local;
}

void Core::Begin(Op next, pipe_t on) {
  op = next;
  pipe = on;
  final_barrier = false;
  lacks_data = false;
  CheckFields();
  if (!Has(on))
    Fail(Rule::kCorePipe, "%s core has no pipe %s", IsCube() ? "a cube" : "a vector", PipeName(on));
  if (++instructions > machine.options.max_instructions) {
    Fail(Rule::kEndless, "%llu instructions were not enough",
         static_cast<unsigned long long>(machine.options.max_instructions));
  }
  ++time_[pipe];
  if (trace) trace->Issue(IssueCycles());
  // the scalar unit issues every instruction: what it has waited for is over
  fence_[pipe] = std::max(fence_[pipe], seen_[PIPE_S][pipe]);
  for (int other = PIPE_V; other < kPipes; ++other) {
    seen_[pipe][other] = std::max(seen_[pipe][other], seen_[PIPE_S][other]);
  }
  seen_[pipe][pipe] = time_[pipe];
}

uint32_t Core::Check(const LocalRef& ref, uint64_t offset, uint64_t bytes, uint32_t alignment) {
  if (ref.position == TPosition::MAX) {
    Fail(Rule::kLocalNoMemory, "a LocalTensor without memory");
  }
  if (ref.buffer != 0) {
    const Buffer& buffer = buffers[ref.buffer];
    if (buffer.generation != ref.generation) {
      Fail(Rule::kQueueUseAfterFree, "the tensor at UB %u was freed", ref.begin);
    }
    if (buffer.state == BufferState::kEnqueued) {
      Fail(Rule::kQueueUseEnqueued, "the tensor at UB %u is in its queue", ref.begin);
    }
  }
  if (offset > ref.end - ref.begin || bytes > ref.end - ref.begin - offset) {
    Fail(Rule::kLocalBounds, "bytes [%llu, %llu) of a tensor of %u bytes at %s %u",
         static_cast<unsigned long long>(offset), static_cast<unsigned long long>(offset + bytes),
         ref.end - ref.begin, Name(MemoryOf(ref.position)), ref.begin);
  }
  const auto address = static_cast<uint32_t>(ref.begin + offset);
  if (address % alignment != 0) {
    Fail(Rule::kAddressAlignment, "%s address %u is not a multiple of %u",
         Name(MemoryOf(ref.position)), address, alignment);
  }
  return address;
}

bool Core::Ordered(int earlier, uint32_t time, bool earlier_wrote, bool writes) {
  const bool automatic = !machine.options.strict && !IsCube();
  if (earlier == pipe) {
    // what small Mmads need between them, Multiply checks
    if (pipe == PIPE_S || pipe == PIPE_M || time <= fence_[pipe] || time == time_[pipe])
      return true;
    // the vector pipe overlaps instructions that depend on each other; transfers of one pipe
    // finish in any order, which matters where both write
    if (pipe == PIPE_V) return automatic || !earlier_wrote;
    return !(earlier_wrote && writes);
  }
  if (seen_[pipe][earlier] >= time) return true;
  const auto beside_scalar = [](int other) {
    return other == PIPE_V || other == PIPE_MTE2 || other == PIPE_MTE3;
  };
  if (automatic &&
      ((pipe == PIPE_S && beside_scalar(earlier)) || (earlier == PIPE_S && beside_scalar(pipe)))) {
    seen_[pipe][earlier] = time;
    return true;
  }
  return false;
}

Clock Core::Horizon(bool earlier_wrote, bool writes) const {
  Clock horizon = seen_[pipe];
  const bool overlaps = pipe == PIPE_V
                            ? machine.options.strict && earlier_wrote
                            : pipe != PIPE_S && pipe != PIPE_M && earlier_wrote && writes;
  if (overlaps) horizon[pipe] = fence_[pipe];
  return horizon;
}

// The slow way, for what the horizons have not cleared.
void Core::CheckBlock(Memory memory, uint32_t block, bool writes) {
  const LocalMemory& local = Local(memory);
  const BlockRecord& record = local.blocks[block];
  const auto check = [&](int earlier, uint32_t time, Op by, bool wrote) {
    if (time == 0 || Ordered(earlier, time, wrote, writes)) return;
    Fail(Rule::kSyncMissing, "pipe %s %s %s [%u, %u) that %s on pipe %s %s before: add %s",
         PipeName(pipe), writes ? "writes" : "reads", Name(memory), block * local.block_bytes,
         (block + 1) * local.block_bytes, Name(by), PipeName(earlier), wrote ? "wrote" : "read",
         Remedy(earlier, pipe).c_str());
  };
  check(record.writer, record.written, record.written_by, true);
  for (int other = 0; writes && other < kPipes; ++other) {
    check(other, record.read[other], record.read_by[other], false);
  }
}

void Core::Read(Memory memory, uint32_t begin, uint32_t end) {
  CheckValid(memory, begin, end);
  Follow(memory, begin, end);
}

bool Core::IsVirtual(Memory memory, uint32_t begin, uint32_t end) {
  const uint8_t* state = Local(memory).state.data();
  return std::memchr(state + begin, static_cast<int>(ByteState::kVirtual), end - begin) != nullptr;
}

void Core::CheckValid(Memory memory, uint32_t begin, uint32_t end) {
  if (machine.options.counting) lacks_data = lacks_data || IsVirtual(memory, begin, end);
  if (!machine.options.checks || begin == end) return;
  const LocalMemory& local = Local(memory);
  const uint8_t* state = local.state.data();
  constexpr auto kValid = static_cast<uint8_t>(ByteState::kValid);
  uint8_t other_bits = 0;  // no early exit: the loop is vectorised
  for (uint32_t i = begin; i < end; ++i) other_bits |= state[i] ^ kValid;
  if (other_bits != 0) {
    uint32_t byte = begin;
    while (state[byte] == kValid) ++byte;
    if (state[byte] == static_cast<uint8_t>(ByteState::kPoison)) {
      Fail(Rule::kLocalPoison, "reads %s byte %u, which the hardware leaves undefined",
           Name(memory), byte);
    }
    Fail(Rule::kLocalUninitialised, "reads %s byte %u, which nothing has written", Name(memory),
         byte);
  }
}

void Core::Follow(Memory memory, uint32_t begin, uint32_t end) {
  if (!machine.options.checks || begin == end) return;
  LocalMemory& local = Local(memory);
  const Clock horizon = Horizon(true, false);
  const uint32_t last = (end - 1) / local.block_bytes;
  for (uint32_t block = begin / local.block_bytes; block <= last; ++block) {
    BlockRecord& record = local.blocks[block];
    if (record.written > horizon[record.writer]) CheckBlock(memory, block, false);
    record.read[pipe] = time_[pipe];
    record.read_by[pipe] = op;
  }
}

void Core::Write(Memory memory, uint32_t begin, uint32_t end, ByteState state) {
  if (begin == end) return;
  if (machine.options.counting) {
    std::memset(Local(memory).state.data() + begin,
                static_cast<int>(lacks_data ? ByteState::kVirtual : state), end - begin);
  }
  if (!machine.options.checks) return;
  LocalMemory& local = Local(memory);
  const Clock after_writes = Horizon(true, true);
  const Clock after_reads = Horizon(false, true);
  const uint32_t last = (end - 1) / local.block_bytes;
  for (uint32_t block = begin / local.block_bytes; block <= last; ++block) {
    BlockRecord& record = local.blocks[block];
    bool cleared = record.written <= after_writes[record.writer];
    for (int other = 0; other < kPipes; ++other) {
      cleared &= record.read[other] <= after_reads[other];
    }
    if (!cleared) CheckBlock(memory, block, true);
    record.written = time_[pipe];
    record.writer = pipe;
    record.written_by = op;
  }
  std::memset(local.state.data() + begin, static_cast<int>(state), end - begin);
}

void Core::CheckPosition(TPosition position) const {
  if ((MemoryOf(position) == Memory::kUb) != IsCube()) return;
  Fail(Rule::kPositionMemory, "a tensor in %s, which a %s core does not have",
       Name(MemoryOf(position)), IsCube() ? "cube" : "vector");
}

LocalRef PlaceLocal(TPosition position, uint32_t address, uint64_t bytes) {
  Core& core = CurrentCore();
  core.op = Op::kLocalTensor;
  if (core.used_tpipe) {
    Fail(Rule::kStyleMixed, "a tensor by address in a kernel that uses TPipe");
  }
  if (!core.init_soc) Fail(Rule::kStaticInit, "call InitSocState() first");
  core.used_static = true;
  core.CheckPosition(position);
  core.TakeLocal(MemoryOf(position), address + bytes);
  const LocalRef ref{position, address, static_cast<uint32_t>(address + bytes), 0, 0};
  core.Check(ref, 0, 0, kBlockBytes);
  return ref;
}

void Core::TakeLocal(Memory memory, uint64_t top) {
  if (memory == Memory::kUb) return TakeUb(top);
  // beside vector cores the framework keeps the end of L1, as it does that of UB
  const bool keeps = memory == Memory::kL1 && machine.options.kernel == KernelType::kMix;
  const uint32_t bytes = MemoryBytes(memory) - (keeps ? kUbBytes - kUbUser : 0);
  if (top > bytes) {
    Fail(Rule::kLocalCapacity, "%llu bytes of %s, of which a kernel has %u",
         static_cast<unsigned long long>(top), Name(memory), bytes);
  }
  uint32_t& peak = peaks[static_cast<int>(memory)];
  peak = std::max(peak, static_cast<uint32_t>(top));
}

void Core::TakeUb(uint64_t top) {
  if (top > kUbUser) {
    Fail(Rule::kUbCapacity, "%llu bytes of UB, of which a kernel has %u",
         static_cast<unsigned long long>(top), kUbUser);
  }
  ub_top = std::max(ub_top, static_cast<uint32_t>(top));
  peak_ub = std::max(peak_ub, ub_top);
  CheckReserved();
}

void Core::CheckReserved() const {
  if (select_reserved && ub_top > kUbUser - kSelectBytes) {
    Fail(Rule::kUbReserved, "%u bytes of UB are used; Select in mode 1 or 2 keeps %u and leaves %u",
         ub_top, kSelectBytes, kUbUser - kSelectBytes);
  }
}

LocalRef Offset(const LocalRef& ref, uint64_t bytes) {
  LocalRef view = ref;
  // past the end nothing is left: the first access says so
  view.begin = static_cast<uint32_t>(std::min<uint64_t>(ref.begin + bytes, ref.end));
  return view;
}

void LoadScalar(const LocalRef& ref, uint64_t offset, DType dtype, void* value) {
  Core& core = CurrentCore();
  core.Begin(Op::kGetValue, PIPE_S);
  ++core.scalars[0];
  core.TimeScalar(Op::kGetValue);
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t begin = core.Check(ref, offset, bytes, bytes);
  core.Read(MemoryOf(ref.position), begin, begin + bytes);
  if (core.lacks_data) core.FailVirtual();
  std::memcpy(value, core.Bytes(ref) + offset, bytes);
}

void StoreScalar(const LocalRef& ref, uint64_t offset, DType dtype, const void* value) {
  Core& core = CurrentCore();
  core.Begin(Op::kSetValue, PIPE_S);
  ++core.scalars[1];
  core.TimeScalar(Op::kSetValue);
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t begin = core.Check(ref, offset, bytes, bytes);
  core.Write(MemoryOf(ref.position), begin, begin + bytes);
  std::memcpy(core.Bytes(ref) + offset, value, bytes);
}

// --- order of the pipes
// ---------------------------------------------------------------------------

void Core::Join(pipe_t into, const Clock& clock) {
  // what another pipe has waited for on this one is finished
  fence_[into] = std::max(fence_[into], clock[into]);
  for (int other = 0; other < kPipes; ++other) {
    seen_[into][other] = std::max(seen_[into][other], clock[other]);
  }
}

void Core::JoinAll() {
  for (Clock& clock : seen_) clock = time_;
  fence_ = time_;
}

void Merge(Knowledge& into, const Knowledge& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t core = 0; core < from.size(); ++core) {
    for (int pipe = 0; pipe < kPipes; ++pipe) {
      into[core][pipe] = std::max(into[core][pipe], from[core][pipe]);
    }
  }
}

Knowledge Core::Tell(pipe_t of) const {
  Knowledge message = others_;
  message.resize(machine.cores.size());
  message[index] = seen_[of];
  message[index][PIPE_S] = time_[PIPE_S];  // the scalar unit, which issued this, is never behind
  return message;
}

void Core::Learn(const Knowledge& message) {
  Merge(others_, message);
  // every pipe waits, for what this core told itself as well; scalar accesses keep their own order
  Clock own = message[index];
  own[PIPE_S] = 0;
  for (int other = 0; other < kPipes; ++other) Join(static_cast<pipe_t>(other), own);
}

bool Core::Knows(const GlobalAccess& access, bool wrote, bool writes) {
  if (access.core == index) return Ordered(access.pipe, access.time, wrote, writes);
  return !others_.empty() && others_[access.core][access.pipe] >= access.time;
}

bool Core::Covers(const GlobalAccess& access) const {
  if (access.core == index) return access.pipe == pipe || seen_[pipe][access.pipe] >= access.time;
  return !others_.empty() && others_[access.core][access.pipe] >= access.time;
}

void Core::CountWait(pipe_t source, pipe_t destination) {
  for (int event = 0; event < kEvents; ++event) {
    if (kEventTable[event].source == source && kEventTable[event].destination == destination) {
      ++waits[event];
    }
  }
}

// --- registers
// ------------------------------------------------------------------------------------

void SetMaskMode(bool counter) {
  Core& core = CurrentCore();
  core.Begin(Op::kSetMask, PIPE_S);
  core.counter_mode = counter;
  core.mask_touched = true;
}

void SetMask(uint64_t high, uint64_t low) {
  Core& core = CurrentCore();
  core.Begin(Op::kSetMask, PIPE_S);
  core.mask = {low, high};
  core.mask_touched = true;
}

void SetMaskLength(int64_t length, DType dtype, bool counter) {
  if (counter) {
    SetMask(0, static_cast<uint64_t>(length));
    return;
  }
  CurrentCore().op = Op::kSetMask;
  const uint32_t lanes = kRepeatBytes / std::max(SizeOf(dtype), 2u);
  if (length < 0 || length > lanes) {
    Fail(Rule::kMaskRange, "a length of %lld, of %u lanes of %s", static_cast<long long>(length),
         lanes, Name(dtype));
  }
  const auto mask = PrefixMask(static_cast<uint32_t>(length));
  SetMask(mask[1], mask[0]);
}

void ResetVectorMask() {
  Core& core = CurrentCore();
  core.Begin(Op::kSetMask, PIPE_S);
  core.counter_mode = false;
  core.mask = {~uint64_t{0}, ~uint64_t{0}};
  core.mask_touched = false;
}

void SetAtomic(DType dtype) {
  Core& core = CurrentCore();
  core.Begin(Op::kSetAtomicAdd, PIPE_S);
  core.atomic = true;
  core.atomic_dtype = dtype;
}

void ClearAtomic() {
  Core& core = CurrentCore();
  core.Begin(Op::kSetAtomicNone, PIPE_S);
  core.atomic = false;
}

void SetDequantScale(half scale) {
  Core& core = CurrentCore();
  core.Begin(Op::kSetDeqScale, PIPE_S);
  core.deq_scale = static_cast<float>(scale);
  core.deq_scale_set = true;
}

void InitSoc() {
  Core& core = CurrentCore();
  core.Begin(Op::kInitSocState, PIPE_S);
  core.init_soc = true;
}

bool IsCubeCore() { return CurrentCore().IsCube(); }
int64_t BlockIndex() { return CurrentCore().block; }
int64_t BlockNumber() { return CurrentCore().machine.options.blocks; }
int64_t SubBlockIndex() { return CurrentCore().sub; }
int64_t SubBlockNumber() {
  const Core& core = CurrentCore();
  return core.machine.options.kernel == KernelType::kMix && !core.IsCube() ? 2 : 1;
}

// --- the end
// --------------------------------------------------------------------------------------

void Core::Finish() {
  op = Op::kKernelEnd;
  CheckLeaks();
  for (int event = 0; event < kEvents; ++event) {
    for (int id = 0; id < kEventIds; ++id) {
      if (flags[event][id].pending) {
        Fail(Rule::kFlagUnconsumed, "%s %d was set and never waited for", kEventTable[event].name,
             id);
      }
    }
  }
  if (atomic) Fail(Rule::kAtomicLeftSet, "SetAtomicAdd is still on");
  if (mask_touched) Fail(Rule::kMaskLeftSet, "call ResetMask()");
  for (const auto& [key, line] : cache) {
    if (line.dirty != 0) {
      Fail(Rule::kDcacheNotCleaned,
           "a SetValue to '%s' is still in the cache: add DataCacheCleanAndInvalid",
           machine.globals[line.allocation].allocation().name.c_str());
    }
  }
  for (size_t unit = 0; unit < units.size(); ++unit) {
    if ((units[unit] & kUnitFull) != 0) {
      Fail(Rule::kUnitFlagLeft, "L0C [%zu, %zu) was given free by Mmad and not moved out",
           unit * kFractalBytes, (unit + 1) * kFractalBytes);
    }
  }
  if (used_static && !final_barrier) Fail(Rule::kStaticBarrier, "end with PipeBarrier<PIPE_ALL>");
}

void Core::CountPath(Path path, uint64_t rows, uint64_t row_bytes) {
  PathCounters& counters = paths[static_cast<int>(path)];
  ++counters.transfers;
  if (rows == 0 || row_bytes == 0) return Account({});
  counters.bytes += rows * row_bytes;
  counters.pieces += rows;
  if (counters.smallest == 0 || row_bytes < counters.smallest) counters.smallest = row_bytes;
  int size_class = 0;
  while (size_class + 1 < kSizeClasses && row_bytes >> (size_class + 1) != 0) ++size_class;
  counters.classes[size_class] += rows;
  Work work;
  work.path = static_cast<int>(path);
  work.bytes = rows * row_bytes;
  work.pieces = rows;
  Account(work);
}

void Core::CountGlobal(const GlobalRef& ref, uint64_t bytes, bool writes) {
  if (ref.allocation < 0) return;
  GlobalCounters& counters = global[ref.allocation];
  (writes ? counters.written : counters.read) += bytes;
}

void Core::CountVector(Op of, DType dtype, const Lanes& lanes) {
  VectorCounters& counters = vectors[static_cast<int>(of)][static_cast<int>(dtype)];
  ++counters.calls;
  counters.repeats += lanes.repeats;
  counters.elements += lanes.elements;
  Work work;
  work.elements = lanes.elements;
  work.repeats = lanes.repeats;
  work.dtype = dtype;
  Account(work);
}

void Core::CountProduct(DType dtype, const ProductCounters& work) {
  products[static_cast<int>(dtype)].Add(work);
  Work account;
  account.cycles = work.cycles;
  account.dtype = dtype;
  Account(account);
}

void Core::Account(const Work& work) {
  PipeCounters& counters = pipes[pipe];
  ++counters.instructions;
  counters.bytes += work.bytes;
  const double cycles = DocumentedCycles(op, pipe, work);
  counters.cycles += cycles;
  // a transfer's time is TimeMove's matter
  if (trace && !IsGlobal(work.path)) trace->Work(pipe, op, HeadCycles(op, pipe) + cycles);
}

void Core::TimeMove(const GlobalRef& ref, uint64_t rows, uint64_t row_bytes, uint64_t pitch,
                    bool nd_to_nz) {
  if (!trace || rows == 0 || row_bytes == 0 || ref.allocation < 0) return;
  const GlobalMemory& memory = machine.globals[ref.allocation];
  const bool writes = pipe != PIPE_MTE2;
  if (pitch == row_bytes) {  // rows that touch are one
    row_bytes *= rows;
    rows = 1;
  }
  const Transfer transfer{memory.place + static_cast<uint64_t>(ref.address - memory.begin()),
                          pitch,
                          static_cast<uint32_t>(rows),
                          static_cast<uint32_t>(row_bytes),
                          writes,
                          ref.bypass};
  trace->Move(pipe, op, MoveCycles(nd_to_nz, pipe, transfer.rows), transfer);
}

void Core::TimeScalar(Op of) {
  if (!trace) return;
  if (!machine.options.strict && !IsCube()) trace->Finish(PIPE_V, of);
  trace->Work(PIPE_S, of, ScalarCycles(false));
}

CoreCounters Core::Report() const {
  CoreCounters report;
  static constexpr const char* kPathNames[] = {
#define MOGE_PATH(name, text) text,
      MOGE_EMULATOR_PATHS(MOGE_PATH)
#undef MOGE_PATH
  };
  static constexpr const char* kScalarNames[] = {"ub.get", "ub.set", "gm.get", "gm.set"};
  for (int i = 0; i < kPaths; ++i) {
    if (paths[i].transfers != 0) report.paths[kPathNames[i]] = paths[i];
  }
  for (int i = 0; i < kOps; ++i) {
    for (int j = 0; j < kDTypes; ++j) {
      if (vectors[i][j].calls == 0) continue;
      report.instructions[{Name(static_cast<Op>(i)), Name(static_cast<DType>(j))}] = vectors[i][j];
    }
  }
  for (int i = 0; i < 4; ++i) report.scalars[kScalarNames[i]] = scalars[i];
  for (int i = 0; i < kEvents; ++i) {
    if (waits[i] != 0) report.waits[kEventTable[i].name] = waits[i];
  }
  for (int i = 0; i <= kPipes; ++i) {
    if (barriers[i] != 0) report.barriers[PipeName(i)] = barriers[i];
  }
  report.kind = IsCube() ? "AIC" : "AIV";
  for (int i = 0; i < kPipes; ++i) {
    if (pipes[i].instructions != 0) report.pipes[PipeName(i)] = pipes[i];
  }
  report.cross = {{"set", cross[0]}, {"wait", cross[1]}};
  for (int i = 0; i < kDTypes; ++i) {
    if (products[i].calls != 0) report.products[Name(static_cast<DType>(i))] = products[i];
  }
  for (size_t i = 0; i < global.size(); ++i) {
    if (global[i].read + global[i].written == 0) continue;
    report.global[machine.globals[i].allocation().name].Add(global[i]);
  }
  for (int i = 0; i < kMemories; ++i) {
    if (peaks[i] != 0) report.peaks[Name(static_cast<Memory>(i))] = peaks[i];
  }
  report.sync_all = sync_alls;
  report.peak_ub = peak_ub;
  return report;
}

}  // namespace emulator
