// How the emulated build runs its launches: what tests and the counters' table set.
#ifndef MOGE_CSRC_EMULATION_H_
#define MOGE_CSRC_EMULATION_H_

#include <cstdint>
#include <vector>

#include "emulator/launch.h"
#include "emulator/timing.h"

namespace moge {

struct Emulation {
  uint32_t cores = 48;
  bool strict = false;
  bool checks = true;
  uint64_t seed = 0;
  bool counting = false;  // nothing is moved or multiplied, large tensors need no memory
  const emulator::Device* device = nullptr;  // whose times are modelled, null: none
  std::vector<uint32_t> pictured;            // cores whose instructions are listed
  emulator::CacheModel cache;                // L2, as the launches of a recording leave it
  bool record = false;                       // whether `launches` grows
  std::vector<emulator::Counters> launches;
};

Emulation& TheEmulation();

}  // namespace moge

#endif  // MOGE_CSRC_EMULATION_H_
