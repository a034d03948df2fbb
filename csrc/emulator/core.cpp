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
  return (VectorsBesideCube(machine.options.kernel) != 0 ? IsCube() ? "AIC " : "AIV " : "block ") +
         std::to_string(block);
}

void Core::Finish() {
  op = Op::kKernelEnd;
  CheckLeaks(*this);
  for (int event = 0; event < kEvents; ++event) {
    for (int id = 0; id < kEventIds; ++id) {
      if (!flags.pending[event][id]) continue;
      const char* const name = Name(static_cast<HardEvent>(event));
      Report(Rule::kFlagUnconsumed,
             "%s %d was set and never waited for: add WaitFlag<HardEvent::%s>(%d)", name, id, name,
             id);
    }
  }
  if (registers.atomic) Report(Rule::kAtomicLeftSet, "call DisableDmaAtomic()");
  if (registers.counter_mode) Report(Rule::kMaskLeftSet, "call SetMaskNorm()");
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
  if (style.used_static && !style.final_barrier && clocks_.InFlight()) {
    Report(Rule::kStaticBarrier, "end with PipeBarrier<PIPE_ALL>");
  }
  WriteBackAll(*this);
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
  const uint32_t vectors = VectorsBesideCube(core.machine.options.kernel);
  return vectors == 2 && !core.IsCube() ? 2 : 1;
}

int64_t GroupIndex() { return CurrentCore().block / SubBlockNumber(); }

void PreloadInstructions(int64_t length) {
  Core& core = Begin(Op::kICachePreLoad, PIPE_S);
  const int64_t end = core.IsCube() ? 16 : 8;  // the cache in units of 2 KiB
  if (length < 0 || length >= end) {
    Report(Rule::kIcachePreload, "a length is 0 to %lld, got %lld", static_cast<long long>(end - 1),
           static_cast<long long>(length));
  }
}

int64_t CountCycles() {
  Core& core = Begin(Op::kGetSystemCycle, PIPE_S);
  return static_cast<int64_t>(core.instructions());
}

void StopCore() {
  Enter(Op::kTrap);
  Fail(Rule::kTrap, "the kernel has called it");
}

}  // namespace emulator
