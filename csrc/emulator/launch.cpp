// A launch: its allocations, its cores, one run of the kernel on each.
#include <algorithm>
#include <limits>

#include "core.h"
#include "scheduler.h"

namespace emulator {

namespace {

thread_local Core* current_core = nullptr;

Options Effective(Options options) {
  options.checks = options.checks && !options.counting;
  return options;
}

// The allocations by address: none is bulk without counting mode, none overlaps another one.
std::vector<Allocation> Sorted(const Options& options) {
  std::vector<Allocation> sorted;
  for (const Allocation& allocation : options.allocations) {
    if (allocation.bulk && !options.counting) {
      throw std::invalid_argument("allocation '" + allocation.name +
                                  "' is bulk, which needs counting mode");
    }
    if (allocation.bytes != 0) sorted.push_back(allocation);
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const Allocation& a, const Allocation& b) { return a.data < b.data; });
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (static_cast<uint8_t*>(sorted[i - 1].data) + sorted[i - 1].bytes >
        static_cast<uint8_t*>(sorted[i].data)) {
      throw std::invalid_argument("allocations '" + sorted[i - 1].name + "' and '" +
                                  sorted[i].name + "' of the launch overlap");
    }
  }
  return sorted;
}

}  // namespace

bool InKernel() { return current_core != nullptr; }

Core& CurrentCore() {
  if (current_core == nullptr) {
    throw std::logic_error("Ascend C is called outside a kernel: use emulator::Launch");
  }
  return *current_core;
}

Machine::Machine(const Options& given) : options(Effective(given)), levels(LevelsFor(given)) {
  if (options.blocks > std::numeric_limits<uint16_t>::max()) {
    throw std::invalid_argument("a launch has at most 65535 blocks, got " +
                                std::to_string(options.blocks));
  }
  for (const Allocation& allocation : Sorted(options)) {
    globals.emplace_back(allocation, options.checks);
  }
  if (options.device != nullptr) {
    CacheModel fresh;
    CacheModel& cache = options.cache != nullptr ? *options.cache : fresh;
    // Places go by name, since addresses differ from run to run.
    std::multimap<std::string, GlobalMemory*> named;
    for (GlobalMemory& memory : globals) named.emplace(memory.allocation().name, &memory);
    for (const auto& [name, memory] : named) memory->place = cache.Place(memory->allocation());
  }
  const auto add = [this](CoreKind kind, uint32_t block, uint32_t sub) {
    const auto index = static_cast<uint32_t>(cores.size());
    cores.push_back(std::make_unique<Core>(*this, index, kind, block, sub));
  };
  const bool vectors_only =
      options.kernel == KernelType::kVector || options.kernel == KernelType::kMixVector;
  for (uint32_t block = 0; block < options.blocks; ++block) {
    add(vectors_only ? CoreKind::kVector : CoreKind::kCube, block, 0);
    const uint32_t vectors = VectorsBesideCube(options.kernel);
    for (uint32_t sub = 0; sub < vectors; ++sub) {
      add(CoreKind::kVector, vectors * block + sub, sub);
    }
  }
  scheduler_ = std::make_shared<Scheduler>(*this, cores.size(), options.seed);
}

Counters Machine::Run(const std::function<void()>& kernel) {
  scheduler_->Run([&](uint32_t index) {
    Core& core = *cores[index];
    current_core = &core;
    kernel();
    core.Finish();
    core.ReleaseMemory();  // the next core takes the same pages
  });
  CheckPaired();
  Counters counters;
  counters.name = options.name;
  counters.warnings = warnings;
  for (const std::unique_ptr<Core>& core : cores) counters.cores.push_back(core->Tally());
  if (options.device != nullptr) counters.times = MakeSchedule(*this);
  return counters;
}

Counters Launch(const Options& options, const std::function<void()>& kernel) {
  return Machine(options).Run(kernel);
}

}  // namespace emulator
