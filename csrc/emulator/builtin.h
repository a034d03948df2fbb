// What the compiler of the NPU knows by itself: variables, sizes, kinds of cores and of kernels.
#ifndef MOGE_EMULATOR_BUILTIN_H_
#define MOGE_EMULATOR_BUILTIN_H_

#include "machine.h"

// The launch says which cores run a kernel; see launch.h.
#define KERNEL_TASK_TYPE_DEFAULT(kernel_type)
#define KERNEL_TASK_TYPE(tiling_key, kernel_type)

namespace AscendC {

inline constexpr int32_t AIC = 1;
inline constexpr int32_t AIV = 2;
enum class EngineType : int32_t { AIC = AscendC::AIC, AIV = AscendC::AIV };

}  // namespace AscendC

namespace emulator {

// read on the core that runs
struct CoreTypeVariable {
  operator int32_t() const { return IsCubeCore() ? AscendC::AIC : AscendC::AIV; }
};
struct BlockIndexVariable {
  operator int64_t() const { return GroupIndex(); }
};
struct BlockNumberVariable {
  operator int64_t() const { return BlockNumber(); }
};

}  // namespace emulator

inline constexpr emulator::CoreTypeVariable g_coreType;
// of the block that the core belongs to: GetBlockIdx counts vector cores
inline constexpr emulator::BlockIndexVariable block_idx;
inline constexpr emulator::BlockNumberVariable block_num;

inline void pipe_barrier(pipe_t pipe) { emulator::Barrier(pipe); }
inline void set_flag(pipe_t source, pipe_t destination, event_t id) {
  emulator::SetHardFlag(emulator::FindEvent(source, destination), id);
}
inline void wait_flag(pipe_t source, pipe_t destination, event_t id) {
  emulator::WaitHardFlag(emulator::FindEvent(source, destination), id);
}

namespace AscendC {

// the part of a kernel that a profiler of the NPU looks at
inline void MetricsProfStart() {}
inline void MetricsProfStop() {}

// Runs a function on the cores of a kind.
template <EngineType engine, auto funPtr, class... Args>
void Async(Args... args) {
  if (g_coreType == static_cast<int32_t>(engine)) funPtr(args...);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_BUILTIN_H_
