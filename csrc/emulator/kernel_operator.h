// The one header that a kernel includes: Ascend C for Atlas A2 (dav-2201), vector and cube,
// executed on the host with its documented limits as errors. See README.md beside this file.
#ifndef MOGE_EMULATOR_KERNEL_OPERATOR_H_
#define MOGE_EMULATOR_KERNEL_OPERATOR_H_

#include "compare.h"
#include "cube.h"
#include "data_copy.h"
#include "gather.h"
#include "pipe.h"
#include "reduce.h"
#include "sync.h"
#include "vector.h"

#endif  // MOGE_EMULATOR_KERNEL_OPERATOR_H_
