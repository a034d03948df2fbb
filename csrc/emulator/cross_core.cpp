// Where cores wait for each other: SyncAll and cross-core flags.
#include <algorithm>
#include <utility>

#include "core.h"
#include "scheduler.h"

namespace emulator {

namespace {

std::string FlagName(uint16_t id) { return "cross-core flag " + std::to_string(id); }

// SyncAll takes these ids for itself.
constexpr uint16_t kSyncAllIds = 0xf << 11;

[[noreturn]] void FailSyncAllIds() {
  Fail(Rule::kCrossId, "flag ids 11 to 14 are SyncAll's, which the kernel calls, too");
}

void CheckCross(Core& core, uint16_t id) {
  if (id >= kCrossIds) Fail(Rule::kCrossId, "flag ids are 0 to 15, got %u", id);
  core.cross.used |= static_cast<uint16_t>(1 << id);
  if (core.machine.sync_all && (core.cross.used & kSyncAllIds) != 0) FailSyncAllIds();
}

void Meet(Core& core, bool vector_only) {
  CheckAllRun(core);
  if ((core.cross.used & kSyncAllIds) != 0) FailSyncAllIds();
  core.machine.WaitForAll(core, vector_only);
}

}  // namespace

void CheckAllRun(const Core& core) {
  const Options& options = core.machine.options;
  const uint32_t vectors = std::max(VectorsBesideCube(options.kernel), 1u);
  const uint32_t wanted = core.IsCube() ? options.blocks : options.blocks * vectors;
  const uint32_t there = core.IsCube() ? options.cube_cores : options.cores;
  if (wanted > there) {
    Report(Rule::kSyncAllBlocks, "%u blocks on %u cores: the last would never start", wanted,
           there);
  }
}

void SyncAllHard(bool vector_only) {
  Core& core = Begin(Op::kSyncAll, PIPE_S);
  const KernelType kernel = core.machine.options.kernel;
  if (kernel == KernelType::kVector || kernel == KernelType::kCube) {
    Report(Rule::kSyncAllKernel, "declare the kernel __mix__, or use the form with workspace");
  }
  if (vector_only && core.IsCube()) {
    Report(Rule::kSyncAllKernel, "a cube core takes part in SyncAll<false>() only");
    return;
  }
  if (!vector_only && kernel == KernelType::kMixVector) {
    Report(Rule::kSyncAllKernel, "SyncAll<false>() waits for cube cores, which there are none of");
  }
  Meet(core, vector_only);
}

void SetCrossCoreFlag(uint8_t mode, pipe_t pipe, uint16_t id) {
  Core& core = Enter(Op::kCrossCoreSetFlag);
  if (mode > 2 || pipe == PIPE_S || pipe == PIPE_ALL) {
    Fail(Rule::kCrossMode, "modes are 0 to 2, on any pipe but S and ALL; got mode %u on pipe %s",
         mode, PipeName(pipe));
  }
  core.Begin(Op::kCrossCoreSetFlag, pipe);
  const KernelType kernel = core.machine.options.kernel;
  const bool mix = VectorsBesideCube(kernel) != 0;
  const bool one_kind = kernel == KernelType::kMixVector || kernel == KernelType::kMixCube;
  if (!mix && !(one_kind && mode == 0)) {
    Fail(Rule::kCrossKernel, "mode %u: declare the kernel %s", mode,
         mode == 0 ? "__mix__" : "__mix__(1, 1) or __mix__(1, 2)");
  }
  if (mode == 1 && core.IsCube()) Fail(Rule::kCrossMode, "mode 1 is between vector cores");
  CheckCross(core, id);
  core.machine.CheckMode(core, mode, id);
  core.machine.SetCrossFlag(core, mode, id, core.SetCross(pipe));
}

void WaitCrossCoreFlag(uint16_t id) {
  Core& core = Begin(Op::kCrossCoreWaitFlag, PIPE_S);
  const KernelType kernel = core.machine.options.kernel;
  if (kernel == KernelType::kVector || kernel == KernelType::kCube) {
    Fail(Rule::kCrossKernel, "declare the kernel __mix__");
  }
  CheckCross(core, id);
  core.machine.WaitCrossFlag(core, id);
}

// --- messages on their way ------------------------------------------------------------------

void Machine::WaitForAll(Core& core, bool vector_only) {
  sync_all = true;
  const auto takes_part = [&](const auto& other) { return !vector_only || !other->IsCube(); };
  const auto expected = std::count_if(cores.begin(), cores.end(), takes_part);
  Merge(gathered_, core.MeetAll(static_cast<uint32_t>(expected)));
  in_sync_all_.push_back(core.index);
  if (static_cast<int64_t>(in_sync_all_.size()) != expected) {
    scheduler_->Wait(core.index, "SyncAll");
    return;
  }
  for (const uint32_t member : in_sync_all_) {
    cores[member]->Learn(gathered_);
    scheduler_->MakeReady(member);
  }
  in_sync_all_.clear();
  gathered_.clear();
}

CrossGroup& Machine::FindGroup(const Core& core, uint8_t mode, uint16_t id) {
  // one group for the whole launch in mode 0, for each block in modes 1 and 2
  const uint32_t cores_of_block = 1 + VectorsBesideCube(options.kernel);
  const uint32_t block = mode == 0 ? 0 : core.index / cores_of_block;
  const auto [entry, made] =
      groups_.try_emplace({mode, static_cast<uint32_t>(core.kind), block, id});
  CrossGroup& group = entry->second;
  if (!made) return group;
  for (const std::unique_ptr<Core>& other : cores) {
    if (mode != 0 && other->index / cores_of_block != block) continue;
    const bool same = other->kind == core.kind;
    if (same) group.sources.push_back(other->index);
    if (same == (mode != 2)) group.targets.push_back(other->index);
  }
  group.sets.resize(group.sources.size());
  return group;
}

void Machine::CheckMode(Core& core, uint8_t mode, uint16_t id) {
  const uint8_t before = std::exchange(core.cross.modes[id], mode + 1);
  if (before == 0 || before == mode + 1) return;
  const CrossGroup& group = FindGroup(core, before - 1, id);
  const auto at = std::find(group.sources.begin(), group.sources.end(), core.index);
  if (core.cross.inbox[id].empty() && group.sets[at - group.sources.begin()].empty()) return;
  emulator::Report(Rule::kCrossModeChange, "flag %u is set in mode %u, and sets of mode %u pend",
                   id, mode, before - 1);
}

void Machine::SetCrossFlag(Core& core, uint8_t mode, uint16_t id, Message message) {
  CrossGroup& group = FindGroup(core, mode, id);
  const auto at = std::find(group.sources.begin(), group.sources.end(), core.index);
  group.sets[at - group.sources.begin()].push_back(std::move(message));
  const auto empty = [](const std::deque<Message>& sets) { return sets.empty(); };
  if (std::any_of(group.sets.begin(), group.sets.end(), empty)) return;
  Message together{{}, static_cast<uint32_t>(meetings.size())};
  meetings.emplace_back();
  for (std::deque<Message>& sets : group.sets) {
    Merge(together.known, sets.front().known);
    meetings.back().push_back(sets.front().number);
    sets.pop_front();
  }
  for (const uint32_t target : group.targets) {
    std::deque<Message>& inbox = cores[target]->cross.inbox[id];
    inbox.push_back(together);
    if (inbox.size() > kCrossAhead) {
      emulator::Report(Rule::kCrossCounter, "flag %u of %s was set %zu times without a wait", id,
                       cores[target]->Who().c_str(), inbox.size());
    }
    if (target != core.index && scheduler_->WaitsFor(target, FlagName(id))) {
      scheduler_->MakeReady(target);
    }
  }
}

void Machine::WaitCrossFlag(Core& core, uint16_t id) {
  std::deque<Message>& inbox = core.cross.inbox[id];
  if (inbox.empty()) scheduler_->Wait(core.index, FlagName(id));
  core.WaitCross(inbox.front());
  inbox.pop_front();
}

void Machine::CheckPaired() {
  if (levels[static_cast<int>(Rule::kCrossUnpaired)] == Level::kOff) return;
  const auto report = [this](unsigned id, const Core& core, const char* what) {
    Report(Rule::kCrossUnpaired, Op::kCrossCoreSetFlag,
           "CrossCoreSetFlag: rule cross-core.unpaired: flag " + std::to_string(id) + " of " +
               core.Who() + " " + what + " (" + options.name + ")");
  };
  for (const std::unique_ptr<Core>& core : cores) {
    for (unsigned id = 0; id < kCrossIds; ++id) {
      if (!core->cross.inbox[id].empty()) report(id, *core, "was set and never waited for");
    }
  }
  for (const auto& [key, group] : groups_) {
    for (size_t i = 0; i < group.sets.size(); ++i) {
      if (group.sets[i].empty()) continue;
      report(key[3], *cores[group.sources[i]], "was set, but not by the cores beside it");
    }
  }
}

}  // namespace emulator
