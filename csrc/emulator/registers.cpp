// Registers of the vector unit: masks, the scale of a Cast.
#include <algorithm>

#include "operand.h"

namespace emulator {

namespace {

Registers& SetVector(Op op) {
  Core& core = Begin(op, PIPE_S);
  return core.registers;
}

}  // namespace

void SetMaskMode(bool counter) {
  Registers& registers = SetVector(Op::kSetMask);
  registers.counter_mode = counter;
}

void SetMask(uint64_t high, uint64_t low) {
  Registers& registers = SetVector(Op::kSetMask);
  registers.mask = {low, high};
  registers.mask_touched = true;
}

void SetMaskLength(int64_t length, DType dtype, bool counter) {
  if (counter) return SetMask(0, static_cast<uint64_t>(length));
  Enter(Op::kSetMask);
  const uint32_t lanes = kRepeatBytes / std::max(SizeOf(dtype), 2u);
  if (length < 0 || length > lanes) {
    Report(Rule::kMaskRange, "a length is 0 to %u for %s, got %lld", lanes, Name(dtype),
           static_cast<long long>(length));
  }
  const LaneMask mask = PrefixMask(std::clamp<int64_t>(length, 0, lanes));
  SetMask(mask[1], mask[0]);
}

void ResetVectorMask() {
  Registers& registers = SetVector(Op::kSetMask);
  registers.mask = Registers().mask;
  registers.mask_touched = false;
}

void SetDequantScale(half scale) {
  SetVector(Op::kSetDeqScale).dequant_scale = static_cast<float>(scale);
}

void InitSoc() {
  Core& core = Begin(Op::kInitSocState, PIPE_S);
  core.style.init_soc = true;
  core.registers.atomic.reset();
  core.registers.counter_mode = false;
  core.registers.mask = Registers().mask;
}

}  // namespace emulator
