// DumpTensor is part of kernel_operator.h here.
#ifndef MOGE_EMULATOR_HOST_ASC_DUMP_H_
#define MOGE_EMULATOR_HOST_ASC_DUMP_H_

#include "kernel_operator.h"

#endif  // MOGE_EMULATOR_HOST_ASC_DUMP_H_
