#define MOGE_LEVEL avx512_bf16
#define MOGE_LANES 16
#define MOGE_PAIRS 1
#define MOGE_TILES 0
#include "level.h"

namespace moge_cpu {
extern constexpr Kernels kernels_avx512_bf16 = avx512_bf16::Table();
}
