// L2 in the model of time: which lines it holds, and what a transfer costs it and memory.
#include <algorithm>

#include "figures.h"
#include "timing.h"

namespace emulator {

namespace {

constexpr uint64_t kLine = static_cast<uint64_t>(kLineBytes);
constexpr uint32_t kWays = 16;
// A prime spreads neighbouring lines, and the lines of a matrix column, over all sets.
constexpr uint64_t kSets = 24571;
static_assert(kSets * kWays * kLine <= kL2Bytes);
// Only requests of one latency matter: in that time all cores together ask for fewer lines.
constexpr uint64_t kRequests = 16381;

}  // namespace

CacheModel::CacheModel() : ways_(kSets * kWays), requests_(kRequests) {}

uint64_t CacheModel::Place(const Allocation& allocation) {
  const std::pair<const void*, uint64_t> key{allocation.data, allocation.bytes};
  if (allocation.access == Access::kOut) places_.erase(key);
  const auto [entry, added] = places_.try_emplace(key, next_place_);
  // On the device an allocation starts at a line, although on the host it may not.
  if (added) next_place_ += RoundUp(allocation.bytes, kLine);
  return entry->second;
}

bool CacheModel::Touch(uint64_t line, bool writes, uint64_t* evicted) {
  Way* const set = &ways_[line % kSets * kWays];
  ++now_;
  Way* oldest = set;
  for (Way* way = set; way != set + kWays; ++way) {
    if (way->line == line) {
      way->used = now_;
      way->dirty |= writes;
      return true;
    }
    if (way->used < oldest->used) oldest = way;
  }
  if (oldest->dirty) *evicted += kLine;
  *oldest = {line, now_, writes};
  return false;
}

// Whether another core's request for the line is under way: the two are answered in turn. `asks`:
// so is this one, which goes to memory.
bool CacheModel::Meets(uint64_t line, uint32_t core, double time, bool asks) {
  Request& last = requests_[line % kRequests];
  const bool meets = last.line == line && last.core != core && time <= last.time + kLatency;
  if (asks) last = {line, core, time};
  return meets;
}

CacheModel::Traffic CacheModel::Access(const Transfer& transfer, uint32_t core, double time) {
  Traffic traffic;
  for (uint32_t row = 0; row < transfer.rows; ++row) {
    const uint64_t begin = transfer.address + row * transfer.pitch;
    const uint64_t end = begin + transfer.row_bytes;
    const uint64_t first = begin / kLine, last = (end - 1) / kLine;
    // how many lines it touches for each one that it would need if it started at a line
    const auto needed = static_cast<double>(CeilDivide(transfer.row_bytes, kLine));
    const double longer = std::min((last - first + 1) / needed, kUnaligned);
    traffic.port += transfer.row_bytes * longer;
    if (transfer.bypass) {
      traffic.memory += transfer.row_bytes;
      for (uint64_t line = first; line <= last; ++line)
        traffic.same += Meets(line, core, time, true);
      continue;
    }
    traffic.l2 += std::max<double>(transfer.row_bytes, kLine) * longer;
    // What the copies of unaligned rows show, [12288, 12287] of half: a row that crosses lines at
    // addresses that are no multiple of 32 bytes reads the lines that it cuts whole, each time.
    const bool cuts = !transfer.writes && begin % 32 != 0 && first != last;
    for (uint64_t line = first; line <= last; ++line) {
      const bool hit = Touch(line, transfer.writes, &traffic.memory);
      if (!transfer.writes) traffic.same += Meets(line, core, time, !hit);
      const bool whole = begin <= line * kLine && (line + 1) * kLine <= end;
      if (!transfer.writes && (!hit || (cuts && !whole))) traffic.memory += kLine;
    }
  }
  return traffic;
}

}  // namespace emulator
