// What a launch `kernel<<<blocks, nullptr, stream>>>(arguments)` becomes in the translated source
// (run.py beside this folder):
//
//   On(kind, "kernel", "names of the arguments", blocks, nullptr, stream)(
//       [&](auto&... a) { kernel(a...); })(arguments)
//
// The arguments are evaluated once; the kernel runs at once, on every core, with copies of them.
#ifndef MOGE_EMULATOR_HOST_HOST_H_
#define MOGE_EMULATOR_HOST_HOST_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "../launch.h"
#include "../types.h"  // __global__ and its like, which the compiler of the NPU knows by itself

namespace emulator::host {

struct LaunchCall {
  KernelType kernel;
  const char* name;
  const char* arguments;  // as they are written, one a line
  uint32_t blocks;
  const void* stream;
  const char* header;  // where the program found this one
};

// Runs the kernel on the emulator with every live device allocation; the ones that `pointers` point
// into, one for each argument or null, go by the argument's name. A broken rule ends the process:
// it is told on stderr with the lines of the source, and the status is 1.
void Run(const LaunchCall& call, const std::vector<const void*>& pointers,
         const std::function<void()>& kernel);

template <typename T>
const void* PointerOf(const T& argument) {
  if constexpr (std::is_pointer_v<std::decay_t<T>>) {
    return reinterpret_cast<const void*>(argument);
  } else {
    return nullptr;
  }
}

template <typename Kernel>
struct Ready {
  LaunchCall call;
  Kernel kernel;

  template <typename... Arguments>
  void operator()(Arguments&&... arguments) const {
    Run(call, {PointerOf(arguments)...}, [&] { kernel(arguments...); });
  }
};

struct Configured {
  LaunchCall call;

  template <typename Kernel>
  Ready<Kernel> operator()(Kernel kernel) const {
    return {call, std::move(kernel)};
  }
};

// `memory` is dynamic UB or an L2 setting and has no meaning here.
template <typename Memory = std::nullptr_t>
Configured On(KernelType kernel, const char* name, const char* arguments, uint32_t blocks,
              const Memory& = nullptr, const void* stream = nullptr) {
  return {{kernel, name, arguments, blocks, stream, __FILE__}};
}

}  // namespace emulator::host

#endif  // MOGE_EMULATOR_HOST_HOST_H_
