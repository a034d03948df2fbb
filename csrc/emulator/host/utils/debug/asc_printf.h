// printf of device code is part of kernel_operator.h here.
#ifndef MOGE_EMULATOR_HOST_ASC_PRINTF_H_
#define MOGE_EMULATOR_HOST_ASC_PRINTF_H_

#include "kernel_operator.h"

#endif  // MOGE_EMULATOR_HOST_ASC_PRINTF_H_
