// The parameter structs. Members and arguments are as wide as the hardware's registers.
#ifndef MOGE_EMULATOR_PARAMS_H_
#define MOGE_EMULATOR_PARAMS_H_

#include "params_copy.h"
#include "params_cube.h"
#include "params_vector.h"

#endif  // MOGE_EMULATOR_PARAMS_H_
