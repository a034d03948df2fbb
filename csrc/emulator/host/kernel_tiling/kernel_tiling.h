// The tiling structures, as the kernel side has them.
#ifndef MOGE_EMULATOR_HOST_KERNEL_TILING_H_
#define MOGE_EMULATOR_HOST_KERNEL_TILING_H_

#include "adv/tiling_data.h"

#endif  // MOGE_EMULATOR_HOST_KERNEL_TILING_H_
