// What cores tell each other by a workspace in global memory, for the emulator's own .cpp files
// only: SyncAll with a workspace, IBSet and IBWait, NotifyNextBlock, GroupBarrier.
#ifndef MOGE_EMULATOR_WORKSPACE_H_
#define MOGE_EMULATOR_WORKSPACE_H_

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "clock.h"

namespace emulator {

// Blocks in their order, again and again: who may go on, and what those before it know.
struct Turns {
  std::set<uint32_t> initialised;  // cores
  uint64_t turn = 0;
  bool taken = false;  // by the one whose turn it is
  std::optional<Message> last;
};

// Rounds of a GroupBarrier, from the first that somebody still has to wait for.
struct GroupRounds {
  uint64_t first = 0;
  std::deque<std::vector<std::optional<Message>>> arrived;  // by round, index
  std::deque<uint32_t> done;                                // by round: who has waited
  std::vector<uint64_t> arrivals, waits;                    // of each index
};

// Some of the cores, in a SyncAll.
struct SoftMeeting {
  std::vector<std::pair<uint32_t, uint32_t>> members;  // core, number of its message
  Knowledge known;
};

// All by the address in global memory.
struct Workspaces {
  std::map<const uint8_t*, std::optional<Message>> flags;  // of IBSet, without a wait yet
  std::map<const uint8_t*, Turns> turns;
  std::map<const uint8_t*, GroupRounds> groups;
  std::map<const uint8_t*, SoftMeeting> meetings;
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_WORKSPACE_H_
