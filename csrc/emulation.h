// How the emulated build runs its launches. Tests and benchmarks set it through the bindings.
#ifndef MOGE_CSRC_EMULATION_H_
#define MOGE_CSRC_EMULATION_H_

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "emulator/launch.h"
#include "emulator/timing.h"

namespace moge {

struct Emulation {
  std::mutex turn;  // one launch at a time, of whatever thread, and none while settings change
  uint32_t cores = 48;
  bool strict = false;
  bool checks = true;
  uint64_t seed = 0;
  std::string rules;                         // their levels, where they differ from the default
  bool counting = false;                     // large tensors have no data, and none is computed
  const emulator::Device* device = nullptr;  // whose times are modelled; null: none
  std::vector<uint32_t> pictured;            // cores whose instructions are listed
  emulator::CacheModel cache;                // L2, which the launches of a recording share
  bool record = false;                       // whether `launches` grows
  std::vector<emulator::Counters> launches;
};

Emulation& TheEmulation();

}  // namespace moge

#endif  // MOGE_CSRC_EMULATION_H_
