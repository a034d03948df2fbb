// What the environment says of the machine that the runtime plays.
#ifndef MOGE_NPU_HOST_SETTINGS_H_
#define MOGE_NPU_HOST_SETTINGS_H_

#include <cstdint>
#include <string>

namespace npu_host {

constexpr int kMaxCards = 8;

struct Settings {
  int cards;            // MOGE_NPU_HOST_CARDS: 1 to 8
  uint64_t memory;      // MOGE_NPU_HOST_MEMORY, given in MiB: bytes of each card
  uint32_t seed;        // MOGE_NPU_HOST_SEED, other than 0: streams rest before their tasks
  std::string refusal;  // why the runtime must not run at all; empty: it may
};

// Read once, at the first call.
const Settings& TheSettings();

}  // namespace npu_host

#endif  // MOGE_NPU_HOST_SETTINGS_H_
