// How the launches of a program run: MOGE_EMULATOR_* in its environment, which run.py sets.
#ifndef MOGE_EMULATOR_HOST_SETTINGS_H_
#define MOGE_EMULATOR_HOST_SETTINGS_H_

#include <string>

#include "../launch.h"

namespace emulator::host {

struct Settings {
  const Device* device;  // MOGE_EMULATOR_DEVICE, "910B1" if it is not set
  bool strict;           // MOGE_EMULATOR_STRICT=1
  uint64_t seed;         // MOGE_EMULATOR_SEED
  std::string trace;     // MOGE_EMULATOR_TRACE: file for the times of the instructions
};

// Ends the process if a variable has no meaning.
const Settings& TheSettings();
inline const Device& TheDevice() { return *TheSettings().device; }

}  // namespace emulator::host

#endif  // MOGE_EMULATOR_HOST_SETTINGS_H_
