// Cores that wait for each other by a workspace in global memory. The instructions of the API that
// do so are told as a whole: what they keep in the workspace is theirs.
#include "workspace.h"

#include <algorithm>

#include "core.h"
#include "scheduler.h"

namespace emulator {

namespace {

constexpr uint32_t kGroupBytes = 512;
constexpr uint32_t kGroupReserved = 1600;  // of UB

// The workspace holds zeros, from the host or from the kernel.
bool IsZeroed(const Core& core, const GlobalRef& ref, uint64_t bytes) {
  if (core.IsBulk(ref)) return true;
  const auto zero = [](uint8_t byte) { return byte == 0; };
  if (!std::all_of(ref.address, ref.address + bytes, zero)) return false;
  GlobalMemory& memory = core.machine.globals[ref.allocation];
  if (memory.allocation().access != Access::kOut || !core.machine.options.checks) return true;
  const auto begin = static_cast<uint64_t>(ref.address - memory.begin());
  uint64_t count = 0;
  const GlobalCell* const cells = memory.Cells(begin, begin + bytes, &count);
  return std::all_of(cells, cells + count,
                     [](const GlobalCell& cell) { return cell.written.time != 0; });
}

// Whether a workspace has the bytes that it needs in both memories.
bool HasRoom(const GlobalRef& workspace, uint64_t bytes, const LocalRef& local,
             uint64_t local_bytes) {
  return workspace.allocation >= 0 && workspace.bytes >= bytes &&
         local.end - local.begin >= local_bytes;
}

// What the core has done so far is over before others learn of it.
Message Tell(Core& core) {
  core.Synchronise();
  return core.SetCross(PIPE_MTE3);
}

void LearnFrom(Core& core, const Knowledge& known, std::vector<uint32_t> messages) {
  core.Synchronise();
  const auto meeting = static_cast<uint32_t>(core.machine.meetings.size());
  core.machine.meetings.push_back(std::move(messages));
  core.WaitCross({known, meeting});
}

}  // namespace

void Machine::Block(const Core& core, const std::string& what) {
  scheduler_->Wait(core.index, what);
}

void Machine::Rouse(uint32_t core) { scheduler_->MakeReady(core); }

void Machine::Wake(const std::string& what) {
  for (const std::unique_ptr<Core>& core : cores) {
    if (scheduler_->WaitsFor(core->index, what)) scheduler_->MakeReady(core->index);
  }
}

// --- SyncAll ------------------------------------------------------------------------------------

void SyncAllSoft(const GlobalRef& workspace, const LocalRef& local, int32_t used_cores) {
  Core& core = Begin(Op::kSyncAll, PIPE_S);
  Machine& machine = core.machine;
  if (core.IsCube()) {
    Report(Rule::kSyncAllKernel, "SyncAll with a workspace is for vector cores");
    return;
  }
  const uint32_t vectors = std::max(VectorsBesideCube(machine.options.kernel), 1u);
  const uint32_t blocks = machine.options.blocks * vectors;
  if (used_cores < 0 || static_cast<uint32_t>(used_cores) > blocks) {
    Report(Rule::kSyncAllBlocks, "usedCores is 0 to the %u vector cores of the launch, got %d",
           blocks, used_cores);
  }
  const uint64_t bytes = uint64_t{machine.options.blocks} * kBlockBytes;
  if (!HasRoom(workspace, bytes, local, bytes)) {
    Report(Rule::kSyncAllWorkspace, "%u blocks need %llu bytes in GM and in UB, got %llu and %u",
           machine.options.blocks, Number(bytes), Number(workspace.bytes), local.end - local.begin);
  } else if (!IsZeroed(core, workspace, bytes)) {
    Report(Rule::kSyncAllWorkspace, "the workspace '%s' is not zeroed: write 0 to it before",
           machine.globals[workspace.allocation].name());
  }
  core.Check(local, 0, bytes, kBlockBytes);
  CheckAllRun(core);
  if (used_cores == 0 || static_cast<uint32_t>(used_cores) == blocks) {
    machine.WaitForAll(core, true);
    return;
  }
  SoftMeeting& meeting = machine.workspaces.meetings[workspace.address];
  const Message message = Tell(core);
  Merge(meeting.known, message.known);
  meeting.members.emplace_back(core.index, message.number);
  if (static_cast<int64_t>(meeting.members.size()) != used_cores) {
    machine.Block(core, "SyncAll of " + std::to_string(used_cores) + " cores");
    return;
  }
  std::vector<uint32_t> messages;
  for (const auto& [member, number] : meeting.members) messages.push_back(number);
  for (const auto& [member, number] : meeting.members) {
    LearnFrom(*machine.cores[member], meeting.known, messages);
    machine.Rouse(member);
  }
  meeting = {};
}

// --- IBSet and IBWait ---------------------------------------------------------------------------

namespace {

// Where the flag is, after the checks of both calls; null on a cube core, where they do nothing.
uint8_t* FindBlockFlag(Core& core, const GlobalRef& workspace, const LocalRef& local,
                       const BlockFlag& flag) {
  if (core.IsCube()) return nullptr;
  const uint32_t cores = core.machine.options.blocks * (flag.vector_only ? 1 : 2);
  if (flag.block < 0 || static_cast<uint32_t>(flag.block) >= cores || flag.event < 0) {
    Fail(Rule::kIbBlock, "a block is 0 to %u and an event is not negative, got block %d, event %d",
         cores - 1, flag.block, flag.event);
  }
  const uint64_t offset =
      (uint64_t{cores} * static_cast<uint32_t>(flag.event) + static_cast<uint32_t>(flag.block)) *
      kBlockBytes;
  const bool has_room = HasRoom(workspace, offset + kBlockBytes, local, kBlockBytes);
  if (!has_room) {
    Report(Rule::kIbWorkspace,
           "block %d and event %d need %llu bytes in GM and 32 in UB, got %llu "
           "and %u",
           flag.block, flag.event, Number(offset + kBlockBytes), Number(workspace.bytes),
           local.end - local.begin);
  }
  core.Check(local, 0, kBlockBytes, kBlockBytes);
  CheckAllRun(core);
  const GlobalRef slot = Offset(workspace, offset);
  if (core.machine.workspaces.flags.try_emplace(slot.address).second && has_room &&
      !IsZeroed(core, slot, kBlockBytes)) {
    Report(Rule::kIbWorkspace, "the workspace '%s' is not zeroed: write 0 to it before",
           core.machine.globals[workspace.allocation].name());
  }
  return slot.address;
}

std::string Name(const BlockFlag& flag) {
  return "IBSet of block " + std::to_string(flag.block) + ", event " + std::to_string(flag.event);
}

}  // namespace

void SetBlockFlag(const GlobalRef& workspace, const LocalRef& local, const BlockFlag& flag) {
  Core& core = Begin(Op::kIBSet, PIPE_S);
  const uint8_t* const slot = FindBlockFlag(core, workspace, local, flag);
  if (slot == nullptr) return;
  std::optional<Message>& set = core.machine.workspaces.flags[slot];
  if (set) Report(Rule::kIbPaired, "nobody has waited for the last %s", Name(flag).c_str());
  set = Tell(core);
  core.machine.Wake(Name(flag));
}

void WaitBlockFlag(const GlobalRef& workspace, const LocalRef& local, const BlockFlag& flag) {
  Core& core = Begin(Op::kIBWait, PIPE_S);
  const uint8_t* const slot = FindBlockFlag(core, workspace, local, flag);
  if (slot == nullptr) return;
  std::optional<Message>& set = core.machine.workspaces.flags[slot];
  while (!set) core.machine.Block(core, Name(flag));
  LearnFrom(core, set->known, {set->number});
  set.reset();
}

// --- NotifyNextBlock ----------------------------------------------------------------------------

namespace {

Turns& FindTurns(Core& core, const GlobalRef& workspace, const LocalRef& local) {
  const uint64_t bytes = uint64_t{core.machine.options.blocks} * kBlockBytes;
  if (!HasRoom(workspace, bytes, local, bytes + kBlockBytes)) {
    Fail(Rule::kTurnsWorkspace, "%u blocks need %llu bytes in GM and %llu in UB, got %llu and %u",
         core.machine.options.blocks, Number(bytes), Number(bytes + kBlockBytes),
         Number(workspace.bytes), local.end - local.begin);
  }
  core.Check(local, 0, bytes + kBlockBytes, kBlockBytes);
  return core.machine.workspaces.turns[workspace.address];
}

bool HasTurn(const Core& core, const Turns& turns) {
  const uint32_t vectors = std::max(VectorsBesideCube(core.machine.options.kernel), 1u);
  return turns.turn % (core.machine.options.blocks * vectors) == core.block;
}

}  // namespace

void InitTurns(const GlobalRef& workspace, const LocalRef& local) {
  Core& core = Begin(Op::kInitDetermineComputeWorkspace, PIPE_S);
  if (core.IsCube()) return;
  Turns& turns = FindTurns(core, workspace, local);
  CheckAllRun(core);
  turns.initialised.insert(core.index);
}

void WaitTurn(const GlobalRef& workspace, const LocalRef& local) {
  Core& core = Begin(Op::kWaitPreBlock, PIPE_S);
  if (core.IsCube()) return;
  Turns& turns = FindTurns(core, workspace, local);
  if (turns.initialised.count(core.index) == 0) {
    Fail(Rule::kTurnsInit, "call InitDetermineComputeWorkspace first");
  }
  while (!HasTurn(core, turns)) core.machine.Block(core, "NotifyNextBlock");
  turns.taken = true;
  if (turns.last) {
    LearnFrom(core, turns.last->known, {turns.last->number});
  } else {
    core.Synchronise();
  }
}

void PassTurn(const GlobalRef& workspace, const LocalRef& local) {
  Core& core = Begin(Op::kNotifyNextBlock, PIPE_S);
  if (core.IsCube()) return;
  Turns& turns = FindTurns(core, workspace, local);
  if (!turns.taken || !HasTurn(core, turns)) {
    Report(Rule::kTurnsPaired, "call WaitPreBlock first");
    return;
  }
  turns.last = Tell(core);
  turns.taken = false;
  ++turns.turn;
  core.machine.Wake("NotifyNextBlock");
}

// --- GroupBarrier -------------------------------------------------------------------------------

namespace {

// `counts`: one for each core of the kind that calls. The group's sizes are those that it was made
// with first.
GroupRounds& FindGroup(Core& core, const Group& group, uint32_t index,
                       std::vector<uint64_t> GroupRounds::* counts) {
  core.Begin(Op::kGroupBarrier, PIPE_S);
  if (core.IsCube()) Fail(Rule::kCorePipe, "a GroupBarrier is for vector cores");
  GroupRounds& rounds = core.machine.workspaces.groups[group.workspace];
  const size_t size = (rounds.*counts).size();
  if (index >= size) Fail(Rule::kGroupIndex, "the group has %zu cores, got index %u", size, index);
  return rounds;
}

}  // namespace

void MakeGroup(const Group& group) {
  const GlobalRef ref = PlaceGlobal(group.workspace, 0);
  Core& core = Begin(Op::kGroupBarrier, PIPE_S);
  core.ReserveUb(Op::kGroupBarrier, kGroupReserved);
  const uint64_t bytes = uint64_t{group.waiting} * kGroupBytes;
  core.CheckGlobal(ref, 0, bytes, 1);
  const auto [entry, made] = core.machine.workspaces.groups.try_emplace(group.workspace);
  if (!made) return;
  entry->second.arrivals.resize(group.arriving);
  entry->second.waits.resize(group.waiting);
  const GlobalMemory& memory = core.machine.globals[ref.allocation];
  if ((ref.address - memory.begin()) % kGroupBytes != 0) {
    Report(Rule::kGroupWorkspace, "the workspace is not aligned to 512 bytes");
  }
  if (!IsZeroed(core, ref, bytes)) {
    Report(Rule::kGroupWorkspace, "the workspace '%s' is not zeroed: write 0 to it before",
           memory.name());
  }
}

void ArriveInGroup(const Group& group, uint32_t index) {
  Core& core = CurrentCore();
  GroupRounds& rounds = FindGroup(core, group, index, &GroupRounds::arrivals);
  const uint64_t round = rounds.arrivals[index]++ - rounds.first;
  while (rounds.arrived.size() <= round) {
    rounds.arrived.emplace_back(rounds.arrivals.size());
    rounds.done.push_back(0);
  }
  rounds.arrived[round][index] = Tell(core);
  core.machine.Wake("Arrive");
}

void WaitForGroup(const Group& group, uint32_t index) {
  Core& core = CurrentCore();
  GroupRounds& rounds = FindGroup(core, group, index, &GroupRounds::waits);
  const uint64_t number = rounds.waits[index]++;
  const auto complete = [&] {
    const uint64_t round = number - rounds.first;
    if (rounds.arrived.size() <= round) return false;
    const auto& arrived = rounds.arrived[round];
    return std::all_of(arrived.begin(), arrived.end(), [](const auto& one) { return one; });
  };
  while (!complete()) core.machine.Block(core, "Arrive");
  Knowledge known;
  std::vector<uint32_t> messages;
  for (const std::optional<Message>& one : rounds.arrived[number - rounds.first]) {
    Merge(known, one->known);
    messages.push_back(one->number);
  }
  LearnFrom(core, known, std::move(messages));
  // a round that all have waited for is not needed any more
  if (++rounds.done[number - rounds.first] < rounds.waits.size()) return;
  rounds.arrived.pop_front();
  rounds.done.pop_front();
  ++rounds.first;
}

}  // namespace emulator
