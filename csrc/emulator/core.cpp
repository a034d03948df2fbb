// A core: what it is, what a kernel can ask of it, and the rules that hold when the kernel ends.
#include "core.h"

namespace emulator {

Core::Core(Machine& machine, uint32_t index, CoreKind kind, uint32_t block, uint32_t sub)
    : machine(machine),
      index(index),
      kind(kind),
      block(block),
      sub(sub),
      clocks_(index, !machine.options.strict && kind == CoreKind::kVector) {
  counts_.global.resize(machine.globals.size());
  if (machine.options.device != nullptr) trace_ = std::make_unique<Trace>();
}

bool Core::Has(pipe_t of) const {
  if (of == PIPE_V) return !IsCube();
  return (of != PIPE_M && of != PIPE_MTE1 && of != PIPE_FIX) || IsCube();
}

std::string Core::Who() const {
  const bool mix = machine.options.kernel == KernelType::kMix;
  return (mix ? IsCube() ? "AIC " : "AIV " : "block ") + std::to_string(block);
}

void Core::Finish() {
  op = Op::kKernelEnd;
  CheckLeaks(*this);
  for (int event = 0; event < kEvents; ++event) {
    for (int id = 0; id < kEventIds; ++id) {
      if (!flags.pending[event][id]) continue;
      Report(Rule::kFlagUnconsumed, "%s %d was set and never waited for",
             Name(static_cast<HardEvent>(event)), id);
    }
  }
  if (registers.atomic) Report(Rule::kAtomicLeftSet, "SetAtomicAdd is still on");
  if (registers.mask_touched) Report(Rule::kMaskLeftSet, "call ResetMask()");
  for (const auto& [key, line] : cache) {
    if (line.dirty == 0) continue;
    Report(Rule::kDcacheNotCleaned,
           "a SetValue to '%s' is still in the cache: add DataCacheCleanAndInvalid",
           machine.globals[line.allocation].name());
  }
  for (size_t unit = 0; unit < units.size(); ++unit) {
    if ((units[unit] & kUnitFull) == 0) continue;
    Report(Rule::kUnitFlagLeft, "L0C [%zu, %zu) was given free by Mmad and not moved out",
           unit * kFractalBytes, (unit + 1) * kFractalBytes);
  }
  if (style.used_static && !style.final_barrier) {
    Report(Rule::kStaticBarrier, "end with PipeBarrier<PIPE_ALL>");
  }
}

CoreCounters Core::Tally() const {
  std::vector<std::string> names;
  for (const GlobalMemory& memory : machine.globals) names.push_back(memory.name());
  return counts_.Report(IsCube() ? "AIC" : "AIV", names);
}

bool IsCubeCore() { return CurrentCore().IsCube(); }
int64_t BlockIndex() { return CurrentCore().block; }
int64_t BlockNumber() { return CurrentCore().machine.options.blocks; }
int64_t SubBlockIndex() { return CurrentCore().sub; }
int64_t SubBlockNumber() {
  const Core& core = CurrentCore();
  return core.machine.options.kernel == KernelType::kMix && !core.IsCube() ? 2 : 1;
}

}  // namespace emulator
