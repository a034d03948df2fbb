// How kernels of published times are launched.
#include <algorithm>
#include <string>

#include "published.h"
#include "python.h"
#include "timing.h"

namespace published {

pybind11::dict Run(const char* name, emulator::KernelType type, uint32_t blocks,
                   const std::vector<uint64_t>& bytes,
                   const std::function<void(uint8_t** memory)>& kernel, bool cold) {
  emulator::CacheModel cache;
  emulator::Options options;
  options.name = name;
  options.kernel = type;
  options.blocks = blocks;
  options.device = &emulator::Devices()[0];
  options.cache = &cache;
  options.counting = true;
  std::vector<uint8_t*> memory(std::max<size_t>(bytes.size(), 3));
  uintptr_t next = uintptr_t{1} << 44;
  for (size_t i = 0; i < bytes.size(); ++i) {
    memory[i] = reinterpret_cast<uint8_t*>(next);
    options.allocations.push_back({memory[i], bytes[i], "memory " + std::to_string(i),
                                   i >= 2 ? emulator::Access::kInOut : emulator::Access::kIn,
                                   true});
    next += (bytes[i] + 4095) / 4096 * 4096;
  }
  const auto launch = [&] { return emulator::Launch(options, [&] { kernel(memory.data()); }); };
  if (!cold) launch();
  return emulator::ToDict(launch());
}

}  // namespace published
