// Flags and barriers between the pipes of a core.
#include "core.h"

namespace emulator {

namespace {

// What a flag holds, after the checks of its id.
std::optional<Signal>& FindFlag(Core& core, HardEvent event, int32_t id, bool chosen) {
  if (id < 0 || id >= kEventIds) Fail(Rule::kFlagIdRange, "event ids are 0 to 7, got %d", id);
  if (core.style.used_static && id >= 6) {
    Report(Rule::kFlagIdReserved, "event id %d: static style has 0 to 5, 6 and 7 are reserved", id);
  }
  const int number = static_cast<int>(event);
  if (!chosen && core.style.used_tpipe && (core.flags.known[number] >> id & 1) == 0) {
    Report(Rule::kFlagNotAllocated, "id %d of %s came from neither AllocEventID nor FetchEventID",
           id, Name(event));
  }
  return core.flags.pending[number][id];
}

int32_t FreeEvent(Flags& flags, HardEvent event) {
  if (event == HardEvent::MAX) Fail(Rule::kCorePipe, "HardEvent::MAX is between no pipes");
  const int number = static_cast<int>(event);
  for (int32_t id = 0; id < kEventIds; ++id) {
    if ((flags.taken[number] >> id & 1) != 0) continue;
    flags.known[number] |= static_cast<uint8_t>(1 << id);
    return id;
  }
  Fail(Rule::kFlagIdsExhausted, "all %d ids of %s are taken", kEventIds, Name(event));
}

}  // namespace

void SetHardFlag(HardEvent event, int32_t id, bool chosen) {
  Core& core = Begin(Op::kSetFlag, EventSource(event));
  std::optional<Signal>& flag = FindFlag(core, event, id, chosen);
  if (flag)
    Report(Rule::kFlagTwice,
           "%s %d is set and nobody has waited for it: add WaitFlag, or use another id",
           Name(event), id);
  flag = core.Set(EventSource(event));
}

void WaitHardFlag(HardEvent event, int32_t id, bool chosen) {
  Core& core = Begin(Op::kWaitFlag, EventDestination(event));
  std::optional<Signal>& flag = FindFlag(core, event, id, chosen);
  if (!flag) Fail(Rule::kFlagNeverSet, "%s %d is not set: SetFlag comes first", Name(event), id);
  core.Wait(EventSource(event), EventDestination(event), *flag);
  flag.reset();
}

int32_t AllocEvent(HardEvent event) {
  Core& core = Enter(Op::kAllocEventID);
  const int32_t id = FreeEvent(core.flags, event);
  core.flags.taken[static_cast<int>(event)] |= static_cast<uint8_t>(1 << id);
  return id;
}

void ReleaseEvent(HardEvent event, int32_t id) {
  Core& core = Enter(Op::kReleaseEventID);
  FindFlag(core, event, id, false);
  core.flags.taken[static_cast<int>(event)] &= static_cast<uint8_t>(~(1 << id));
}

int32_t FetchEvent(HardEvent event) {
  Core& core = Enter(Op::kFetchEventID);
  return FreeEvent(core.flags, event);
}

void Barrier(pipe_t pipe) {
  Core& core = Enter(Op::kPipeBarrier);
  if (pipe == PIPE_S) Report(Rule::kBarrierScalar, "PipeBarrier takes any pipe but S");
  if (pipe != PIPE_ALL && !core.Has(pipe)) {
    Fail(Rule::kCorePipe, "a barrier on pipe %s, which the core does not have", PipeName(pipe));
  }
  core.PassBarrier(pipe);
}

void ScalarBarrier(bool global) {
  Core& core = Begin(Op::kDataSyncBarrier, PIPE_S);
  core.PassBarrier(PIPE_S);
  if (global) core.written_back.clear();
}

}  // namespace emulator
