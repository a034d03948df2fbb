// Global memory: bounds, initialisation, races between cores, and the scalar unit's data cache.
#include <algorithm>

#include "core.h"

namespace emulator {

namespace {

using Number = unsigned long long;

}  // namespace

void Core::FailGlobal(const GlobalMemory& memory, uint64_t byte, bool writes,
                      const GlobalAccess& earlier, bool earlier_wrote) const {
  const char* name = memory.allocation().name.c_str();
  if (earlier.core != index) {
    Fail(Rule::kGmRace, "%s byte %llu of '%s', which %s %s by %s with no SyncAll or flag between",
         writes ? "writes" : "reads", static_cast<Number>(byte), name,
         machine.cores[earlier.core]->Who().c_str(), earlier_wrote ? "wrote" : "read",
         Name(earlier.op));
  }
  Fail(Rule::kSyncMissing, "pipe %s %s byte %llu of '%s' that %s on pipe %s %s before: add %s",
       PipeName(pipe), writes ? "writes" : "reads", static_cast<Number>(byte), name,
       Name(earlier.op), PipeName(earlier.pipe), earlier_wrote ? "wrote" : "read",
       Remedy(earlier.pipe, pipe).c_str());
}

GlobalMemory::GlobalMemory(const Allocation& allocation, bool tracked)
    : allocation_(allocation), cells_(nullptr, &std::free) {
  if (tracked) cells_ = Make(width_);
}

bool Core::IsBulk(const GlobalRef& ref) const {
  return ref.allocation >= 0 && machine.globals[ref.allocation].allocation().bulk;
}

void Core::FailVirtual() const {
  Fail(Rule::kVirtualData,
       "needs a value that counting mode has not computed: give the allocations that it comes from "
       "real memory");
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
  *count = (end - begin + width_ - 1) / width_;
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
         static_cast<Number>(begin), static_cast<Number>(begin + bytes),
         memory.allocation().name.c_str(), static_cast<Number>(start),
         static_cast<Number>(start + ref.bytes));
  }
  if (reinterpret_cast<uintptr_t>(memory.begin() + begin) % alignment != 0) {
    Fail(Rule::kGmAlignment, "byte %llu of '%s' is not at a multiple of %u bytes",
         static_cast<Number>(begin), memory.allocation().name.c_str(), alignment);
  }
  return begin;
}

void Core::CheckDirty(const GlobalRef& ref, uint64_t offset, uint64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(ref.address) + offset;
  for (const auto& [line, state] : cache) {
    for (uint32_t i = 0; state.dirty != 0 && i < kCacheLineBytes; ++i) {
      const uintptr_t address = line * kCacheLineBytes + i;
      if ((state.dirty >> i & 1) != 0 && address >= begin && address < begin + bytes) {
        Fail(Rule::kDcacheDirty,
             "touches global memory that SetValue has changed in the cache only: add "
             "DataCacheCleanAndInvalid");
      }
    }
  }
}

void Core::ReadGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes) {
  if (!machine.options.checks || bytes == 0) return;
  GlobalMemory& memory = machine.globals[ref.allocation];
  if (memory.allocation().access == Access::kIn) return;  // nobody writes it
  if (pipe != PIPE_S && !cache.empty()) CheckDirty(ref, offset, bytes);
  const uint64_t begin = static_cast<uint64_t>(ref.address - memory.begin()) + offset;
  uint64_t count = 0;
  GlobalCell* cells = memory.Cells(begin, begin + bytes, &count);
  const bool initialised = memory.allocation().access != Access::kOut;
  const GlobalAccess own{time_[pipe], static_cast<uint16_t>(index), static_cast<uint8_t>(pipe), op};
  for (uint64_t i = 0; i < count; ++i) {
    GlobalCell& cell = cells[i];
    const uint64_t byte = begin + i * memory.width();
    if (cell.written.time == 0) {
      if (!initialised) {
        Fail(Rule::kGmUninitialised, "reads byte %llu of '%s', which nothing has written",
             static_cast<Number>(byte), memory.allocation().name.c_str());
      }
    } else if (!Knows(cell.written, true, false)) {
      FailGlobal(memory, byte, false, cell.written, true);
    }
    if (cell.more) {
      for (const BesideAccess& beside : memory.Beside(byte)) {
        if (beside.wrote && !Knows(beside.access, true, false)) {
          FailGlobal(memory, byte, false, beside.access, true);
        }
      }
    }
    if (cell.read.time != 0 && !Covers(cell.read)) {
      // readers need not follow each other, but who writes next must follow them all
      std::vector<BesideAccess>& others = memory.Beside(byte);
      others.erase(std::remove_if(others.begin(), others.end(),
                                  [&](const BesideAccess& beside) {
                                    return !beside.wrote && Covers(beside.access);
                                  }),
                   others.end());
      others.push_back({cell.read, false});
      cell.more = true;
    }
    cell.read = own;
  }
}

void Core::WriteGlobal(const GlobalRef& ref, uint64_t offset, uint64_t bytes, bool adds) {
  GlobalMemory& memory = machine.globals[ref.allocation];
  if (memory.allocation().access == Access::kIn) {
    Fail(Rule::kGmReadOnly, "writes '%s', an input of the launch",
         memory.allocation().name.c_str());
  }
  if (!machine.options.checks || bytes == 0) return;
  if (pipe != PIPE_S && !cache.empty()) CheckDirty(ref, offset, bytes);
  const uint64_t begin = static_cast<uint64_t>(ref.address - memory.begin()) + offset;
  uint64_t count = 0;
  GlobalCell* cells = memory.Cells(begin, begin + bytes, &count);
  const bool initialised = memory.allocation().access != Access::kOut;
  const GlobalAccess own{time_[pipe], static_cast<uint16_t>(index), static_cast<uint8_t>(pipe), op};
  ++machine.stamp;
  for (uint64_t i = 0; i < count; ++i) {
    GlobalCell& cell = cells[i];
    const uint64_t byte = begin + i * memory.width();
    const bool added = adds && cell.atomic;  // two atomic additions need no order
    if (cell.written.time == 0) {
      if (adds && !initialised) {
        Fail(Rule::kGmUninitialised, "adds to byte %llu of '%s', which nothing has written",
             static_cast<Number>(byte), memory.allocation().name.c_str());
      }
    } else if (!added && !Knows(cell.written, true, true)) {
      FailGlobal(memory, byte, true, cell.written, true);
    }
    if (cell.read.time != 0 && !Knows(cell.read, false, true)) {
      FailGlobal(memory, byte, true, cell.read, false);
    }
    if (cell.more) {
      for (const BesideAccess& beside : memory.Beside(byte)) {
        if (!(adds && beside.wrote) && !Knows(beside.access, beside.wrote, true)) {
          FailGlobal(memory, byte, true, beside.access, beside.wrote);
        }
      }
    }
    if (!adds) {  // whoever knows of this write knows of what it follows
      if (cell.more) memory.Forget(byte);
      cell.more = false;
      cell.read = {};
    } else if (added && !Covers(cell.written)) {
      memory.Beside(byte).push_back({cell.written, true});
      cell.more = true;
    }
    cell.written = own;
    cell.atomic = adds;
    cell.stamp = machine.stamp;
  }
}

GlobalRef PlaceGlobal(void* address, uint64_t bytes) {
  Core& core = CurrentCore();
  core.op = Op::kGlobalTensor;
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

// --- the scalar unit's cache
// ----------------------------------------------------------------------

namespace {

uint64_t ByteMask(uint32_t at, uint32_t bytes) { return ((uint64_t{1} << bytes) - 1) << at; }

CacheLineState& Fetch(Core& core, const GlobalRef& ref, uintptr_t address) {
  const auto [entry, fetched] = core.cache.try_emplace(address / kCacheLineBytes);
  if (fetched) {
    entry->second.allocation = ref.allocation;
    entry->second.stamp = core.machine.stamp;
  }
  return entry->second;
}

// What a core writes back is the whole line: bytes that others have changed since are lost.
void CheckSharing(Core& core, const CacheLineState& line, uint64_t begin, uint64_t bytes,
                  uint64_t dirty) {
  GlobalMemory& memory = core.machine.globals[line.allocation];
  for (uint64_t i = 0; i < bytes; ++i) {
    if ((dirty >> i & 1) != 0) continue;
    uint64_t count = 0;
    const GlobalCell& cell = *memory.Cells(begin + i, begin + i + 1, &count);
    const bool by_another = cell.written.time != 0 && cell.written.core != core.index &&
                            !core.Knows(cell.written, true, true);
    if (cell.stamp > line.stamp || by_another) {
      Fail(Rule::kDcacheSharing,
           "the line written back also holds byte %llu of '%s', which %s changed",
           static_cast<Number>(begin + i), memory.allocation().name.c_str(),
           core.machine.cores[cell.written.core]->Who().c_str());
    }
  }
}

void WriteBack(Core& core, uintptr_t key, const CacheLineState& line) {
  const GlobalMemory& memory = core.machine.globals[line.allocation];
  const auto base = reinterpret_cast<uintptr_t>(memory.begin());
  const uintptr_t first = std::max(key * kCacheLineBytes, base);
  const uintptr_t last = std::min((key + 1) * kCacheLineBytes, base + memory.allocation().bytes);
  const uint32_t skipped = static_cast<uint32_t>(first - key * kCacheLineBytes);
  const uint64_t dirty = line.dirty >> skipped;
  const GlobalRef ref{memory.begin() + (first - base), last - first, line.allocation};
  if (core.machine.options.checks) CheckSharing(core, line, first - base, ref.bytes, dirty);
  for (uint32_t i = 0; i < ref.bytes; ++i) {
    if ((dirty >> i & 1) == 0) continue;
    core.WriteGlobal(ref, i, 1, false);
    if (core.IsBulk(ref)) continue;
    ref.address[i] = line.bytes[skipped + i];
  }
}

}  // namespace

void LoadScalar(const GlobalRef& ref, uint64_t offset, DType dtype, void* value) {
  Core& core = CurrentCore();
  core.Begin(Op::kGetValue, PIPE_S);
  ++core.scalars[2];
  const uint32_t bytes = SizeOf(dtype);
  const uint64_t begin = core.CheckGlobal(ref, offset, bytes, bytes);
  const auto address = reinterpret_cast<uintptr_t>(ref.address) + offset;
  if (core.trace) {
    const bool missed = core.cache.count(address / kCacheLineBytes) == 0;
    core.trace->Work(PIPE_S, Op::kGetValue, ScalarCycles(missed));
  }
  const CacheLineState& line = Fetch(core, ref, address);
  const uint32_t at = address % kCacheLineBytes;
  const uint64_t wanted = ByteMask(at, bytes);
  if ((line.dirty & wanted) == wanted) {
    std::memcpy(value, line.bytes.data() + at, bytes);
    return;
  }
  if (core.IsBulk(ref)) core.FailVirtual();
  core.ReadGlobal(ref, offset, bytes);
  GlobalMemory& memory = core.machine.globals[ref.allocation];
  if (core.machine.options.checks && memory.allocation().access != Access::kIn) {
    uint64_t count = 0;
    const GlobalCell* cells = memory.Cells(begin, begin + bytes, &count);
    for (uint64_t i = 0; i < count; ++i) {
      if (cells[i].stamp > line.stamp) {
        Fail(Rule::kDcacheStale,
             "byte %llu of '%s' is in a cache line fetched before %s of %s changed it: add "
             "DataCacheCleanAndInvalid",
             static_cast<Number>(begin), memory.allocation().name.c_str(),
             Name(cells[i].written.op), core.machine.cores[cells[i].written.core]->Who().c_str());
      }
    }
  }
  std::memcpy(value, ref.address + offset, bytes);
}

void StoreScalar(const GlobalRef& ref, uint64_t offset, DType dtype, const void* value) {
  Core& core = CurrentCore();
  core.Begin(Op::kSetValue, PIPE_S);
  ++core.scalars[3];
  const uint32_t bytes = SizeOf(dtype);
  core.CheckGlobal(ref, offset, bytes, bytes);
  core.WriteGlobal(ref, offset, 0, false);  // refuses an input at once
  const auto address = reinterpret_cast<uintptr_t>(ref.address) + offset;
  CacheLineState& line = Fetch(core, ref, address);
  const uint32_t at = address % kCacheLineBytes;
  std::memcpy(line.bytes.data() + at, value, bytes);
  line.dirty |= ByteMask(at, bytes);
}

void CleanCache(const GlobalRef& ref, bool entire) {
  Core& core = CurrentCore();
  core.Begin(Op::kDataCacheCleanAndInvalid, PIPE_S);
  core.CheckGlobal(ref, 0, 1, 1);
  const uintptr_t own = reinterpret_cast<uintptr_t>(ref.address) / kCacheLineBytes;
  for (auto entry = core.cache.begin(); entry != core.cache.end();) {
    if (!entire && entry->first != own) {
      ++entry;
      continue;
    }
    if (entry->second.dirty != 0) WriteBack(core, entry->first, entry->second);
    entry = core.cache.erase(entry);
  }
}

}  // namespace emulator
