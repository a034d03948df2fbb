#define MOGE_LEVEL amx
#define MOGE_LANES 16
#define MOGE_PAIRS 1
#define MOGE_TILES 1
#include "level.h"

namespace moge_cpu {
extern constexpr Kernels kernels_amx = amx::Table();
}
