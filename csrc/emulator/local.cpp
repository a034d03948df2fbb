// Local memory and its shadow: bounds, what was written, which access must follow which.
#include <algorithm>

#include "core.h"

namespace emulator {

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
    if (machine.options.checks) local->blocks.resize(bytes / local->block_bytes);
  }
  return *local;
}

uint32_t Core::Check(const LocalRef& ref, uint64_t offset, uint64_t bytes, uint32_t alignment) {
  if (ref.position == TPosition::MAX) {
    Fail(Rule::kLocalNoMemory, "a LocalTensor without memory");
  }
  if (ref.buffer != 0) {
    const Buffer& buffer = buffers.all[ref.buffer];
    if (buffer.generation != ref.generation) {
      Report(Rule::kQueueUseAfterFree, "the tensor at %s %u was freed",
             Name(MemoryOf(ref.position)), ref.begin);
    }
    if (buffer.state == BufferState::kEnqueued) {
      Report(Rule::kQueueUseEnqueued, "the tensor at %s %u is in its queue",
             Name(MemoryOf(ref.position)), ref.begin);
    }
  }
  const char* const memory = Name(MemoryOf(ref.position));
  const uint32_t size = ref.end - ref.begin;
  if (offset > size || bytes > size - offset) {
    // a static tensor is an address: what it was declared to hold does not end the memory
    const uint64_t room = MemoryBytes(MemoryOf(ref.position)) - ref.begin;
    if (ref.buffer != 0 || offset > room || bytes > room - offset) {
      Fail(Rule::kLocalBounds, "bytes [%llu, %llu) of a tensor of %u bytes at %s %u",
           Number(offset), Number(offset + bytes), size, memory, ref.begin);
    }
    Report(Rule::kDeclaredSize, "bytes [%llu, %llu) of a tensor of %u bytes at %s %u",
           Number(offset), Number(offset + bytes), size, memory, ref.begin);
  }
  const auto address = static_cast<uint32_t>(ref.begin + offset);
  if (address % alignment != 0) {
    Report(Rule::kAddressAlignment, "%s address %u is not a multiple of %u", memory, address,
           alignment);
  }
  return address;
}

// Checks each access to a block by itself, where the horizon does not clear them all.
void Core::CheckBlock(Memory memory, uint32_t number, bool writes) {
  const LocalMemory& local = Local(memory);
  const BlockRecord& record = local.blocks[number];
  const auto check = [&](int earlier, uint32_t time, Op by, bool wrote) {
    if (time == 0 || clocks_.Ordered(earlier, time, wrote, writes)) return;
    Report(Rule::kSyncMissing, "pipe %s %s %s [%u, %u) that %s on pipe %s %s before: add %s",
           PipeName(pipe), writes ? "writes" : "reads", Name(memory), number * local.block_bytes,
           (number + 1) * local.block_bytes, Name(by), PipeName(earlier), wrote ? "wrote" : "read",
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

uint32_t Core::FirstInvalid(Memory memory, uint32_t begin, uint32_t end) {
  if (machine.options.counting && !lacks_data) {
    const uint8_t* state = Local(memory).state.data() + begin;
    constexpr int kVirtual = static_cast<int>(ByteState::kVirtual);
    lacks_data = std::memchr(state, kVirtual, end - begin) != nullptr;
  }
  if (!machine.options.checks || begin == end) return end;
  const uint8_t* state = Local(memory).state.data();
  constexpr auto kValid = static_cast<uint8_t>(ByteState::kValid);
  uint8_t other_bits = 0;  // no early exit: the loop is vectorised
  for (uint32_t i = begin; i < end; ++i) other_bits |= state[i] ^ kValid;
  if (other_bits == 0) return end;
  uint32_t byte = begin;
  while (state[byte] == kValid) ++byte;
  return byte;
}

void Core::CheckValid(Memory memory, uint32_t begin, uint32_t end) {
  const uint32_t byte = FirstInvalid(memory, begin, end);
  if (byte == end) return;
  if (Local(memory).state[byte] == static_cast<uint8_t>(ByteState::kPoison)) {
    Report(Rule::kLocalPoison, "reads %s byte %u, which the hardware leaves undefined",
           Name(memory), byte);
    return;
  }
  Report(Rule::kLocalUninitialised, "reads %s byte %u, which nothing has written", Name(memory),
         byte);
}

void Core::Follow(Memory memory, uint32_t begin, uint32_t end) {
  if (!machine.options.checks || begin == end) return;
  LocalMemory& local = Local(memory);
  const Clock horizon = clocks_.Horizon(true, false);
  const uint32_t last = (end - 1) / local.block_bytes;
  for (uint32_t number = begin / local.block_bytes; number <= last; ++number) {
    BlockRecord& record = local.blocks[number];
    if (record.written > horizon[record.writer]) CheckBlock(memory, number, false);
    record.read[pipe] = clocks_.Now();
    record.read_by[pipe] = op;
  }
}

void Core::Carry(Memory from, uint32_t begin, Memory to, uint32_t at, uint32_t bytes) {
  Follow(from, begin, begin + bytes);
  Write(to, at, at + bytes);
  LocalMemory& target = Local(to);
  const LocalMemory& source = Local(from);
  std::memmove(target.bytes.data() + at, source.bytes.data() + begin, bytes);
  if (target.state.empty()) return;
  std::memmove(target.state.data() + at, source.state.data() + begin, bytes);
}

void Core::Forget(Memory memory, uint32_t begin, uint32_t end) {
  if (!machine.options.checks) return;
  std::memset(Local(memory).state.data() + begin, static_cast<int>(ByteState::kUninitialised),
              end - begin);
}

void Core::Write(Memory memory, uint32_t begin, uint32_t end, ByteState state) {
  if (begin == end) return;
  if (machine.options.counting) {
    std::memset(Local(memory).state.data() + begin,
                static_cast<int>(lacks_data ? ByteState::kVirtual : state), end - begin);
  }
  if (!machine.options.checks) return;
  LocalMemory& local = Local(memory);
  const Clock after_writes = clocks_.Horizon(true, true);
  const Clock after_reads = clocks_.Horizon(false, true);
  const uint32_t last = (end - 1) / local.block_bytes;
  for (uint32_t number = begin / local.block_bytes; number <= last; ++number) {
    BlockRecord& record = local.blocks[number];
    bool cleared = record.written <= after_writes[record.writer];
    for (int other = 0; other < kPipes; ++other) {
      cleared &= record.read[other] <= after_reads[other];
    }
    if (!cleared) CheckBlock(memory, number, true);
    record.written = clocks_.Now();
    record.writer = pipe;
    record.written_by = op;
  }
  std::memset(local.state.data() + begin, static_cast<int>(state), end - begin);
}

void Core::FailVirtual() const {
  Fail(Rule::kVirtualData,
       "needs a value that counting mode has not computed: give the allocations that it comes from "
       "real memory");
}

// --- tensors and their room -----------------------------------------------------------------

void Core::CheckPosition(TPosition position) const {
  if (!IsLocal(position)) Fail(Rule::kPositionMemory, "a position that is not in local memory");
  if ((MemoryOf(position) == Memory::kUb) != IsCube()) return;
  Fail(Rule::kPositionMemory, "a tensor in %s, which a %s core does not have",
       Name(MemoryOf(position)), IsCube() ? "cube" : "vector");
}

uint32_t Core::Capacity(Memory memory) const {
  // beside vector cores the framework keeps the end of L1
  const bool keeps = memory == Memory::kL1 && VectorsBesideCube(machine.options.kernel) != 0;
  return MemoryBytes(memory) - (keeps ? kReservedBytes : 0);
}

void Core::Take(Memory memory, uint64_t top) {
  const bool in_ub = memory == Memory::kUb;
  const uint32_t bytes = Capacity(memory);
  if (top > bytes) {
    Fail(in_ub ? Rule::kUbCapacity : Rule::kLocalCapacity,
         "%llu bytes of %s, of which a kernel has %u", Number(top), Name(memory), bytes);
  }
  Occupy(memory, static_cast<uint32_t>(top));
  if (!in_ub) return;
  ub_top = std::max(ub_top, static_cast<uint32_t>(top));
  CheckReserved();
}

void Core::ReserveUb(Op by, uint32_t bytes) {
  if (bytes > reserved_) {
    reserved_ = bytes;
    reserved_by_ = by;
  }
  CheckReserved();
}

void Core::CheckReserved() const {
  if (reserved_ == 0 || ub_top <= kUbUser - reserved_) return;
  Report(Rule::kUbReserved, "%u bytes of UB are used; %s keeps %u and leaves %u", ub_top,
         reserved_by_ == Op::kSelect ? "Select in mode 1 or 2" : Name(reserved_by_), reserved_,
         kUbUser - reserved_);
}

LocalRef PlaceLocal(TPosition position, uint32_t address, uint64_t bytes) {
  Core& core = Enter(Op::kLocalTensor);
  core.CheckPosition(position);
  if (core.style.used_tpipe) {
    Report(Rule::kStyleMixed, "a tensor by address in a kernel that uses TPipe");
  }
  if (!core.style.init_soc) Report(Rule::kStaticInit, "call InitSocState() first");
  core.style.used_static = true;
  core.Take(MemoryOf(position), address + bytes);
  const LocalRef ref{position, address, static_cast<uint32_t>(address + bytes), 0, 0};
  core.Check(ref, 0, 0, kBlockBytes);
  return ref;
}

LocalRef Offset(const LocalRef& ref, uint64_t bytes) {
  LocalRef view = ref;
  // past the end nothing is left: the first access says so
  const uint32_t last = ref.buffer != 0 ? ref.end : MemoryBytes(MemoryOf(ref.position));
  view.begin = static_cast<uint32_t>(std::min<uint64_t>(ref.begin + bytes, last));
  view.end = std::max(view.begin, ref.end);
  return view;
}

LocalRef UbAt(uint64_t address) {
  if (address >= kUbBytes) {
    Fail(Rule::kTransposeAddress, "%#llx is no address in UB", Number(address));
  }
  return {TPosition::VECCALC, static_cast<uint32_t>(address), kUbBytes, 0, 0};
}

// --- one element ----------------------------------------------------------------------------

void LoadScalar(const LocalRef& ref, uint64_t offset, DType dtype, void* value) {
  Core& core = Begin(Op::kGetValue, PIPE_S);
  core.AccessScalar(ScalarAccess::kUbGet);
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t begin = core.Check(ref, offset, bytes, bytes);
  core.Read(MemoryOf(ref.position), begin, begin + bytes);
  if (core.lacks_data) core.FailVirtual();
  std::memcpy(value, core.Bytes(ref) + offset, bytes);
}

void StoreScalar(const LocalRef& ref, uint64_t offset, DType dtype, const void* value) {
  Core& core = Begin(Op::kSetValue, PIPE_S);
  core.AccessScalar(ScalarAccess::kUbSet);
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t begin = core.Check(ref, offset, bytes, bytes);
  core.Write(MemoryOf(ref.position), begin, begin + bytes);
  std::memcpy(core.Bytes(ref) + offset, value, bytes);
}

}  // namespace emulator
