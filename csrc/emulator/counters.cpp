// Counters: sums of them, and the names for what a core counted by number.
#include "counters.h"

#include <algorithm>

#include "counts.h"

namespace emulator {

void PathCounters::Add(uint64_t count, uint64_t piece_bytes) {
  ++transfers;
  if (count == 0 || piece_bytes == 0) return;
  bytes += count * piece_bytes;
  pieces += count;
  if (smallest == 0 || piece_bytes < smallest) smallest = piece_bytes;
  int size_class = 0;
  while (size_class + 1 < kSizeClasses && piece_bytes >> (size_class + 1) != 0) ++size_class;
  classes[size_class] += count;
}

void PathCounters::Add(const PathCounters& other) {
  bytes += other.bytes;
  transfers += other.transfers;
  pieces += other.pieces;
  if (smallest == 0 || (other.smallest != 0 && other.smallest < smallest)) {
    smallest = other.smallest;
  }
  for (int i = 0; i < kSizeClasses; ++i) classes[i] += other.classes[i];
}

void VectorCounters::Add(const VectorCounters& other) {
  calls += other.calls;
  repeats += other.repeats;
  elements += other.elements;
}

void PipeCounters::Add(const PipeCounters& other) {
  instructions += other.instructions;
  bytes += other.bytes;
  cycles += other.cycles;
}

void ProductCounters::Add(const ProductCounters& other) {
  calls += other.calls;
  fractals += other.fractals;
  cycles += other.cycles;
  products += other.products;
}

void GlobalCounters::Add(const GlobalCounters& other) {
  read += other.read;
  written += other.written;
}

CoreCounters Counts::Report(const char* kind, const std::vector<std::string>& names) const {
  CoreCounters report;
  report.kind = kind;
  for (int i = 0; i < kPaths; ++i) {
    if (paths[i].transfers != 0) report.paths[Name(static_cast<Path>(i))] = paths[i];
  }
  for (int i = 0; i < kOps; ++i) {
    for (int j = 0; j < kDTypes; ++j) {
      if (vectors[i][j].calls == 0) continue;
      report.instructions[{Name(static_cast<Op>(i)), Name(static_cast<DType>(j))}] = vectors[i][j];
    }
  }
  for (int i = 0; i < kScalarAccesses; ++i) {
    report.scalars[Name(static_cast<ScalarAccess>(i))] = scalars[i];
  }
  for (int i = 0; i < kEvents; ++i) {
    const auto event = static_cast<HardEvent>(i);
    const uint64_t count = waits[EventSource(event)][EventDestination(event)];
    if (count != 0) report.waits[Name(event)] = count;
  }
  for (int i = 0; i <= kPipes; ++i) {
    if (barriers[i] != 0) report.barriers[PipeName(i)] = barriers[i];
  }
  for (int i = 0; i < kPipes; ++i) {
    if (pipes[i].instructions != 0) report.pipes[PipeName(i)] = pipes[i];
  }
  for (int i = 0; i < kDTypes; ++i) {
    if (products[i].calls != 0) report.products[Name(static_cast<DType>(i))] = products[i];
  }
  for (size_t i = 0; i < global.size(); ++i) {
    if (global[i].read + global[i].written != 0) report.global[names[i]].Add(global[i]);
  }
  report.cross = {{"set", cross_sets}, {"wait", cross_waits}};
  for (int i = 0; i < kMemories; ++i) {
    const auto memory = static_cast<Memory>(i);
    if (memory != Memory::kUb && peaks[i] != 0) report.peaks[Name(memory)] = peaks[i];
  }
  report.peak_ub = peaks[static_cast<int>(Memory::kUb)];
  report.sync_all = sync_alls;
  return report;
}

namespace {

// Adds the counters of each name to those of the same name.
template <typename Key, typename Value>
void AddAll(std::map<Key, Value>& into, const std::map<Key, Value>& from) {
  for (const auto& [key, value] : from) {
    if constexpr (std::is_integral_v<Value>) {
      into[key] += value;
    } else {
      into[key].Add(value);
    }
  }
}

}  // namespace

CoreCounters Counters::Total(const std::string& kind) const {
  CoreCounters total;
  const auto is_first = [this](const CoreCounters& core) { return core.kind == cores[0].kind; };
  total.kind = !kind.empty() || cores.empty()                      ? kind
               : std::all_of(cores.begin(), cores.end(), is_first) ? cores[0].kind
                                                                   : "";
  for (const CoreCounters& core : cores) {
    if (!kind.empty() && core.kind != kind) continue;
    AddAll(total.paths, core.paths);
    AddAll(total.instructions, core.instructions);
    AddAll(total.scalars, core.scalars);
    AddAll(total.waits, core.waits);
    AddAll(total.barriers, core.barriers);
    AddAll(total.pipes, core.pipes);
    AddAll(total.products, core.products);
    AddAll(total.global, core.global);
    AddAll(total.cross, core.cross);
    for (const auto& [name, peak] : core.peaks) {
      total.peaks[name] = std::max(total.peaks[name], peak);
    }
    total.sync_all += core.sync_all;
    total.peak_ub = std::max(total.peak_ub, core.peak_ub);
  }
  return total;
}

}  // namespace emulator
