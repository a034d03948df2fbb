// Device memory of the host runtime: what aclrtMalloc gave out.
#ifndef MOGE_EMULATOR_HOST_DEVICE_MEMORY_H_
#define MOGE_EMULATOR_HOST_DEVICE_MEMORY_H_

#include <cstdint>
#include <map>
#include <string>

namespace emulator::host {

struct Block {
  uint64_t bytes;
  uint32_t number;   // in the order of the allocations
  bool initialised;  // by a copy, a memset, or a launch
  // the last launch that wrote it, until the host has waited for its stream
  std::string writer = {};
  const void* stream = nullptr;
};

// Live allocations by their address. Nothing here locks: the host calls from one thread at a time.
std::map<uint8_t*, Block>& Blocks();
// The one that [data, data + bytes) lies in, or null.
Block* FindBlock(const void* data, uint64_t bytes);

}  // namespace emulator::host

#endif  // MOGE_EMULATOR_HOST_DEVICE_MEMORY_H_
