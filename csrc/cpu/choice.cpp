#include "choice.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <stdexcept>

namespace moge_cpu {

extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512_bf16, kernels_amx;

#ifndef MOGE_EMULATED
namespace {

// The kernel saves a thread's tiles for a process only that asked for it.
bool TilesPermitted() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace
#endif

const std::vector<Level>& Levels() {
  static const std::vector<Level> levels = [] {
#ifdef MOGE_EMULATED
    const bool avx2 = true, avx512 = true, pairs = true, tiles = true, permitted = true;
#else
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq");
    const bool pairs =
        avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
    const bool tiles = pairs && __builtin_cpu_supports("amx-tile") &&
                       __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8");
    const bool permitted = tiles && TilesPermitted();
#endif
    const char* lacks = "the processor lacks it";
    return std::vector<Level>{{"avx2", &kernels_avx2, avx2 ? "" : lacks},
                              {"avx512", &kernels_avx512, avx512 ? "" : lacks},
                              {"avx512_bf16", &kernels_avx512_bf16, pairs ? "" : lacks},
                              {"amx", &kernels_amx,
                               permitted ? ""
                               : tiles   ? "the operating system does not permit it"
                                         : lacks}};
  }();
  return levels;
}

const Level* BestLevel() {
  const Level* best = nullptr;
  for (const Level& level : Levels())
    if (level.missing.empty()) best = &level;
  return best;
}

}  // namespace moge_cpu
