// The scalar unit's data cache, 64 bytes a line: GetValue, SetValue and what is written back.
#include <algorithm>

#include "core.h"

namespace emulator {

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

void Put(Core& core, CacheLineState& line, uint32_t at, const uint8_t* value, uint32_t bytes) {
  std::memcpy(line.bytes.data() + at, value, bytes);
  line.dirty |= ByteMask(at, bytes);
  line.release = core.clocks().Publish();
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
                            !core.clocks().Knows(cell.written, true, true);
    if (cell.stamp > line.stamp || by_another) {
      Report(Rule::kDcacheSharing,
             "the line written back also holds byte %llu of '%s', which %s changed",
             Number(begin + i), memory.name(),
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
  for (uint32_t end, i = 0; i < ref.bytes; i = end + 1) {
    for (end = i; end < ref.bytes && (dirty >> end & 1) != 0;) ++end;
    if (end == i) continue;
    core.PublishGlobal(ref, i, end - i, *line.release);
    if (!core.IsBulk(ref)) std::memcpy(ref.address + i, line.bytes.data() + skipped + i, end - i);
  }
  core.written_back.insert(key);
}

GlobalRef Uncached(Op op, void* address, uint32_t bytes) {
  const GlobalRef ref = PlaceGlobal(address, bytes);
  CurrentCore().Begin(op, PIPE_S);
  CurrentCore().CheckGlobal(ref, 0, bytes, bytes);
  return ref;
}

}  // namespace

void CheckDirty(const Core& core, const GlobalRef& ref, uint64_t offset, uint64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(ref.address) + offset;
  for (const auto& [line, state] : core.cache) {
    for (uint32_t i = 0; state.dirty != 0 && i < kCacheLineBytes; ++i) {
      const uintptr_t address = line * kCacheLineBytes + i;
      if ((state.dirty >> i & 1) == 0 || address < begin || address >= begin + bytes) continue;
      Report(Rule::kDcacheDirty,
             "touches global memory that SetValue has changed in the cache only: add "
             "DataCacheCleanAndInvalid");
    }
  }
}

void LoadScalar(const GlobalRef& ref, uint64_t offset, DType dtype, void* value) {
  Core& core = Begin(Op::kGetValue, PIPE_S);
  const uint32_t bytes = SizeOf(dtype);
  const uint64_t begin = core.CheckGlobal(ref, offset, bytes, bytes);
  core.machine.Poll(core, ref, offset);
  const auto address = reinterpret_cast<uintptr_t>(ref.address) + offset;
  core.AccessScalar(ScalarAccess::kGmGet, core.cache.count(address / kCacheLineBytes) == 0);
  const CacheLineState& line = Fetch(core, ref, address);
  const uint32_t at = address % kCacheLineBytes;
  const uint64_t wanted = ByteMask(at, bytes);
  // an address that is not aligned may reach into the next line
  if (at + bytes <= kCacheLineBytes && (line.dirty & wanted) == wanted) {
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
        Report(Rule::kDcacheStale,
               "byte %llu of '%s' is in a cache line fetched before %s of %s changed it: add "
               "DataCacheCleanAndInvalid",
               Number(begin), memory.name(), Name(cells[i].written.op),
               core.machine.cores[cells[i].written.core]->Who().c_str());
      }
    }
  }
  std::memcpy(value, ref.address + offset, bytes);
}

void StoreScalar(const GlobalRef& ref, uint64_t offset, DType dtype, const void* value) {
  Core& core = Begin(Op::kSetValue, PIPE_S);
  const uint32_t bytes = SizeOf(dtype);
  core.AccessScalar(ScalarAccess::kGmSet);
  core.CheckGlobal(ref, offset, bytes, bytes);
  core.WriteGlobal(ref, offset, 0, false);  // refuses an input at once
  const auto address = reinterpret_cast<uintptr_t>(ref.address) + offset;
  // one line, or two where the address is not aligned
  for (uint32_t done = 0, piece; done < bytes; done += piece) {
    CacheLineState& line = Fetch(core, ref, address + done);
    const uint32_t at = (address + done) % kCacheLineBytes;
    piece = std::min(bytes - done, kCacheLineBytes - at);
    Put(core, line, at, static_cast<const uint8_t*>(value) + done, piece);
  }
}

void LoadUncached(void* address, DType dtype, void* value) {
  const uint32_t bytes = SizeOf(dtype);
  const GlobalRef ref = Uncached(Op::kReadGmByPassDCache, address, bytes);
  Core& core = CurrentCore();
  core.machine.Poll(core, ref, 0);
  core.AccessScalar(ScalarAccess::kGmGet, true);
  if (core.IsBulk(ref)) core.FailVirtual();
  CheckDirty(core, ref, 0, bytes);
  core.ReadGlobal(ref, 0, bytes);
  std::memcpy(value, ref.address, bytes);
}

void StoreUncached(void* address, DType dtype, const void* value) {
  const uint32_t bytes = SizeOf(dtype);
  const GlobalRef ref = Uncached(Op::kWriteGmByPassDCache, address, bytes);
  Core& core = CurrentCore();
  core.AccessScalar(ScalarAccess::kGmSet);
  const uint64_t key = reinterpret_cast<uintptr_t>(address) / kCacheLineBytes;
  const auto line = core.cache.find(key);
  if (line != core.cache.end() && line->second.dirty != 0) {
    Report(Rule::kDcacheBypass,
           "the cache line is dirty, and will be written over it: DataCacheCleanAndInvalid first");
  }
  if (core.written_back.count(key) != 0) {
    Report(Rule::kDcacheBypass,
           "the cache line was cleaned, and may be written later: "
           "DataSyncBarrier<MemDsbT::DDR> first");
  }
  core.PublishGlobal(ref, 0, bytes, core.clocks().Publish());
  if (!core.IsBulk(ref)) std::memcpy(ref.address, value, bytes);
}

void PreloadCache(const GlobalRef& ref, int64_t offset) {
  Core& core = Begin(Op::kDataCachePreload, PIPE_S);
  if (offset < 0)
    Fail(Rule::kGmBounds, "an offset is 0 or more, got %lld", static_cast<long long>(offset));
  core.CheckGlobal(ref, static_cast<uint64_t>(offset), 1, 1);
  if (!limits::DataCachePreload::calls.Allows(++core.preloads)) {
    Report(Rule::kDcachePreload, "at most %lld calls one after the other, got %u",
           static_cast<long long>(limits::DataCachePreload::calls.most), core.preloads);
  }
  Fetch(core, ref, reinterpret_cast<uintptr_t>(ref.address) + static_cast<uint64_t>(offset));
}

void CleanCache(const GlobalRef& ref, bool entire) {
  Core& core = Begin(Op::kDataCacheCleanAndInvalid, PIPE_S);
  if (!entire) core.CheckGlobal(ref, 0, 1, 1);
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

void WriteBackAll(Core& core) {
  for (const auto& [key, line] : core.cache) {
    if (line.dirty == 0) continue;
    core.pipe = PIPE_S;
    core.clocks().Step(PIPE_S);
    WriteBack(core, key, line);
  }
  core.cache.clear();
}

}  // namespace emulator
