// Temporary memory of high-level calls.
#include "adv/call.h"

#include "core.h"

namespace emulator {

HighLevelCall::HighLevelCall(const char* name) : outer_(CurrentCore().call) {
  CurrentCore().call = name;
  Enter(Op::kHighLevelCall);
}
HighLevelCall::~HighLevelCall() { CurrentCore().call = outer_; }

LocalRef GivenTmp(const LocalRef& tmp, uint64_t bytes) {
  const Core& core = CurrentCore();
  if (bytes == 0) return tmp;
  if (tmp.position == TPosition::MAX || tmp.end - tmp.begin < bytes) {
    Fail(Rule::kAdvTmpSize, "%s needs a temporary tensor of %llu bytes, got %u", core.call,
         Number(bytes), tmp.position == TPosition::MAX ? 0 : tmp.end - tmp.begin);
  }
  return tmp;
}

LocalRef FrameworkTmp(uint64_t bytes) {
  Core& core = CurrentCore();
  const uint32_t begin = RoundUp(core.ub_top, kBlockBytes);
  const uint32_t end = core.UbEnd();
  if (begin + bytes > end) {
    Fail(Rule::kAdvTmpSize, "%s needs %llu bytes of UB that no buffer has taken, there are %u",
         core.call, Number(bytes), begin < end ? end - begin : 0);
  }
  core.Occupy(Memory::kUb, static_cast<uint32_t>(begin + bytes));
  return {TPosition::VECCALC, begin, end, 0, 0};
}

void RefuseOverlap(const char* what, const LocalRef& one, uint64_t one_bytes, const LocalRef& other,
                   uint64_t other_bytes) {
  if (one.position == TPosition::MAX || other.position == TPosition::MAX) return;
  if (one.begin + one_bytes <= other.begin || other.begin + other_bytes <= one.begin) return;
  Report(Rule::kAdvOverlap, "%s of %s share memory from UB %u on", what, CurrentCore().call,
         std::max(one.begin, other.begin));
}

void CheckTmpApart(const LocalRef& tmp, uint64_t tmp_bytes, uint64_t bytes,
                   std::initializer_list<const LocalRef*> operands) {
  for (const LocalRef* operand : operands) {
    RefuseOverlap("the temporary buffer and an operand", tmp, tmp_bytes, *operand, bytes);
  }
}

void AwaitVector() {
  Core& core = CurrentCore();
  core.Wait(PIPE_V, PIPE_S, core.Set(PIPE_V));
}

}  // namespace emulator
