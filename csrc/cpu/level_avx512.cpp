#define MOGE_LEVEL avx512
#define MOGE_LANES 16
#define MOGE_PAIRS 0
#define MOGE_TILES 0
#include "level.h"

namespace moge_cpu {
extern constexpr Kernels kernels_avx512 = avx512::Table();
}
