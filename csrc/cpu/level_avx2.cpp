#define MOGE_LEVEL avx2
#define MOGE_LANES 8
#define MOGE_PAIRS 0
#define MOGE_TILES 0
#include "level.h"

namespace moge_cpu {
extern constexpr Kernels kernels_avx2 = avx2::Table();
}
