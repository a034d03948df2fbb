// How the emulated build runs its launches: what tests and the counters' table set.
#ifndef MOGE_CSRC_EMULATION_H_
#define MOGE_CSRC_EMULATION_H_

#include <cstdint>
#include <vector>

#include "emulator/launch.h"

namespace moge {

struct Emulation {
  uint32_t cores = 48;
  bool strict = false;
  bool checks = true;
  uint64_t seed = 0;
  bool counting = false;  // nothing is moved or multiplied, large tensors need no memory
  bool record = false;    // whether `launches` grows
  std::vector<emulator::Counters> launches;
};

Emulation& TheEmulation();

}  // namespace moge

#endif  // MOGE_CSRC_EMULATION_H_
