// Global memory: bounds, initialisation, races between cores.
#include <algorithm>

#include "core.h"

namespace emulator {

void Core::FollowGlobal(const GlobalMemory& memory, uint64_t byte, bool writes,
                        const GlobalAccess& earlier, bool earlier_wrote) {
  if (clocks_.Knows(earlier, earlier_wrote, writes)) return;
  const char* const now = writes ? "writes" : "reads";
  const char* const before = earlier_wrote ? "wrote" : "read";
  if (earlier.core != index) {
    Report(Rule::kGmRace, "%s byte %llu of '%s', which %s %s by %s with no SyncAll or flag between",
           now, Number(byte), memory.name(), machine.cores[earlier.core]->Who().c_str(), before,
           Name(earlier.op));
  }
  Report(Rule::kSyncMissing, "pipe %s %s byte %llu of '%s' that %s on pipe %s %s before: add %s",
         PipeName(pipe), now, Number(byte), memory.name(), Name(earlier.op), PipeName(earlier.pipe),
         before, Remedy(earlier.pipe, pipe).c_str());
}

GlobalMemory::GlobalMemory(const Allocation& allocation, bool tracked)
    : allocation_(allocation), cells_(nullptr, &std::free) {
  if (tracked) cells_ = Make(width_);
}

void GlobalMemory::StoreStates(uint64_t begin, const uint8_t* states, uint64_t bytes) {
  constexpr auto kValid = static_cast<uint8_t>(ByteState::kValid);
  const auto invalid = [](uint8_t state) { return state != kValid; };
  if (states_.empty()) {
    if (std::none_of(states, states + bytes, invalid)) return;
    states_.assign(allocation_.bytes, kValid);
  }
  std::memcpy(states_.data() + begin, states, bytes);
}

bool Core::IsBulk(const GlobalRef& ref) const {
  return ref.allocation >= 0 && machine.globals[ref.allocation].allocation().bulk;
}

GlobalMemory::CellArray GlobalMemory::Make(uint64_t width) const {
  auto* cells =
      static_cast<GlobalCell*>(std::calloc(allocation_.bytes / width + 1, sizeof(GlobalCell)));
  if (cells == nullptr) throw std::bad_alloc();
  return CellArray(cells, &std::free);
}

GlobalCell* GlobalMemory::Cells(uint64_t begin, uint64_t end, uint64_t* count) {
  uint64_t width = width_;
  // the end of the allocation may cut its last cell, which needs no split
  while (begin % width != 0 || (end % width != 0 && end != allocation_.bytes)) width /= 2;
  if (width != width_) {
    CellArray finer = Make(width);
    for (uint64_t cell = 0; cell * width < allocation_.bytes; ++cell) {
      finer[cell] = cells_[cell * width / width_];
    }
    std::unordered_map<uint64_t, std::vector<BesideAccess>> beside;
    for (const auto& [byte, accesses] : beside_) {
      for (uint64_t part = byte; part < byte + width_; part += width) beside[part] = accesses;
    }
    beside_ = std::move(beside);
    cells_ = std::move(finer);
    width_ = width;
  }
  *count = CeilDivide(end - begin, width_);
  return cells_.get() + begin / width_;
}

uint64_t Core::CheckGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes,
                           uint32_t alignment) {
  if (ref.allocation < 0) {
    Fail(Rule::kGmUnregistered, "address %p is in no allocation of the launch",
         static_cast<void*>(ref.address));
  }
  const GlobalMemory& memory = machine.globals[ref.allocation];
  const auto start = static_cast<uint64_t>(ref.address - memory.begin());
  const uint64_t begin = start + offset;
  if (offset > ref.bytes || bytes > ref.bytes - offset) {
    Fail(Rule::kGmBounds, "bytes [%llu, %llu) of '%s', of which the tensor has [%llu, %llu)",
         Number(begin), Number(begin + bytes), memory.name(), Number(start),
         Number(start + ref.bytes));
  }
  if (reinterpret_cast<uintptr_t>(memory.begin() + begin) % alignment != 0) {
    Report(Rule::kGmAlignment, "byte %llu of '%s' is not at a multiple of %u bytes", Number(begin),
           memory.name(), alignment);
  }
  return begin;
}

// The cells of one access to global memory, and the access as they record it.
struct Core::Touched {
  GlobalMemory& memory;
  uint64_t begin;  // byte of the allocation
  uint64_t count = 0;
  GlobalCell* cells = nullptr;
  GlobalAccess own;
  bool initialised;
};

Core::Touched Core::Touch(const GlobalRef& ref, uint64_t offset, uint64_t bytes) {
  GlobalMemory& memory = machine.globals[ref.allocation];
  const auto begin = static_cast<uint64_t>(ref.address - memory.begin()) + offset;
  if (pipe != PIPE_S) CheckDirty(*this, ref, offset, bytes);
  Touched touched{memory,
                  begin,
                  0,
                  nullptr,
                  {clocks_.Now(), static_cast<uint16_t>(index), static_cast<uint8_t>(pipe), op},
                  memory.allocation().access != Access::kOut};
  touched.cells = memory.Cells(begin, begin + bytes, &touched.count);
  return touched;
}

void Core::ReadGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, bool carries) {
  if (!machine.options.checks || bytes == 0) return;
  if (machine.globals[ref.allocation].allocation().access == Access::kIn) return;  // nobody writes
  const Touched touched = Touch(ref, offset, bytes);
  GlobalMemory& memory = touched.memory;
  for (uint64_t i = 0; i < touched.count; ++i) {
    GlobalCell& cell = touched.cells[i];
    const uint64_t byte = touched.begin + i * memory.width();
    if (pipe == PIPE_S && cell.release != 0 && cell.written.core != index) {
      clocks_.Hear(machine.releases[cell.release], machine.cores.size());
    }
    if (cell.written.time == 0) {
      if (!touched.initialised) {
        Report(Rule::kGmUninitialised, "reads byte %llu of '%s', which nothing has written",
               Number(byte), memory.name());
      }
    } else {
      FollowGlobal(memory, byte, false, cell.written, true);
    }
    if (cell.more) {
      for (const BesideAccess& beside : memory.Beside(byte)) {
        if (beside.wrote) FollowGlobal(memory, byte, false, beside.access, true);
      }
    }
    if (cell.read.time != 0 && !clocks_.Covers(cell.read)) {
      // readers need not follow each other, but who writes next must follow them all
      std::vector<BesideAccess>& others = memory.Beside(byte);
      others.erase(std::remove_if(others.begin(), others.end(),
                                  [&](const BesideAccess& beside) {
                                    return !beside.wrote && clocks_.Covers(beside.access);
                                  }),
                   others.end());
      others.push_back({cell.read, false});
      cell.more = true;
    }
    cell.read = touched.own;
  }
  const uint8_t* states = carries ? nullptr : memory.States(touched.begin);
  for (uint64_t i = 0; states != nullptr && i < bytes; ++i) {
    if (states[i] == static_cast<uint8_t>(ByteState::kValid)) continue;
    Report(Rule::kGmUninitialised, "reads byte %llu of '%s', where something undefined was stored",
           Number(touched.begin + i), memory.name());
    return;
  }
}

void Core::WriteGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, bool adds) {
  if (machine.globals[ref.allocation].allocation().access == Access::kIn) {
    Report(Rule::kGmReadOnly, "writes '%s', an input of the launch",
           machine.globals[ref.allocation].name());
  }
  if (bytes == 0) return;
  ++machine.stamp;
  ++writes;
  if (!machine.options.checks) return;
  const Touched touched = Touch(ref, offset, bytes);
  GlobalMemory& memory = touched.memory;
  const auto kind = static_cast<uint8_t>(adds ? static_cast<int>(registers.atomic->kind) + 1 : 0);
  for (uint64_t i = 0; i < touched.count; ++i) {
    GlobalCell& cell = touched.cells[i];
    const uint64_t byte = touched.begin + i * memory.width();
    const bool added = adds && cell.atomic == kind;  // two of one kind need no order
    if (cell.written.time == 0) {
      if (adds && !touched.initialised) {
        Report(Rule::kGmUninitialised,
               "atomically changes byte %llu of '%s', which nothing has written", Number(byte),
               memory.name());
      }
    } else if (!added) {
      FollowGlobal(memory, byte, true, cell.written, true);
    }
    if (cell.read.time != 0 && !MayRead(cell.read)) {
      FollowGlobal(memory, byte, true, cell.read, false);
    }
    if (cell.more) {
      for (const BesideAccess& beside : memory.Beside(byte)) {
        if (beside.wrote ? adds && beside.atomic == kind : MayRead(beside.access)) continue;
        FollowGlobal(memory, byte, true, beside.access, beside.wrote);
      }
    }
    if (!adds) {  // it follows the accesses before it, so nobody needs them any more
      if (cell.more) memory.Forget(byte);
      cell.more = false;
      cell.read = {};
    } else if (added && !clocks_.Covers(cell.written)) {
      memory.Beside(byte).push_back({cell.written, true, cell.atomic});
      cell.more = true;
    }
    cell.written = touched.own;
    cell.atomic = kind;
    cell.release = publishes_;
    cell.stamp = machine.stamp;
  }
  memory.Validate(touched.begin, bytes);
}

void Core::CarryIn(const GlobalRef& ref, uint64_t offset, Memory memory, uint32_t at,
                   uint32_t bytes) {
  if (!machine.options.checks) return;
  const GlobalMemory& global = machine.globals[ref.allocation];
  const auto begin = static_cast<uint64_t>(ref.address - global.begin()) + offset;
  const uint8_t* states = global.States(begin);
  if (states != nullptr) std::memcpy(Local(memory).state.data() + at, states, bytes);
}

void Core::CarryOut(const GlobalRef& ref, uint64_t offset, const uint8_t* states, uint32_t bytes) {
  GlobalMemory& global = machine.globals[ref.allocation];
  const auto to = static_cast<uint64_t>(ref.address - global.begin()) + offset;
  global.StoreStates(to, states, bytes);
}

void Core::PublishGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes,
                         const Release& release) {
  if (machine.options.checks && machine.cores.size() > 1) {
    publishes_ = static_cast<uint32_t>(machine.releases.size());
    machine.releases.push_back(release);
    machine.releases.back().clock[PIPE_S] = clocks_.Now();
  }
  WriteGlobal(ref, offset, bytes, false);
  publishes_ = 0;
}

GlobalRef PlaceGlobal(void* address, uint64_t bytes) {
  Core& core = Enter(Op::kGlobalTensor);
  GlobalRef ref{static_cast<uint8_t*>(address), bytes, -1};
  for (size_t i = 0; i < core.machine.globals.size(); ++i) {
    const GlobalMemory& memory = core.machine.globals[i];
    if (ref.address < memory.begin()) continue;
    const auto offset = static_cast<uint64_t>(ref.address - memory.begin());
    if (offset >= memory.allocation().bytes) continue;
    const uint64_t left = memory.allocation().bytes - offset;
    ref.allocation = static_cast<int32_t>(i);
    ref.bytes = bytes == 0 ? left : std::min(bytes, left);
  }
  return ref;
}

GlobalRef Offset(const GlobalRef& ref, uint64_t bytes) {
  // past the end nothing is left: the first access says so
  const uint64_t inside = std::min(bytes, ref.bytes);
  return {ref.address + inside, ref.bytes - inside, ref.allocation, ref.bypass};
}

}  // namespace emulator
