// The one header that a kernel includes: Ascend C for Atlas A2 (dav-2201), vector and cube,
// executed on the host with its documented limits as errors. See README.md beside this file.
#ifndef MOGE_EMULATOR_KERNEL_OPERATOR_H_
#define MOGE_EMULATOR_KERNEL_OPERATOR_H_

#include "adv/activation.h"
#include "adv/softmax.h"
#include "adv/softmax_flash.h"
#include "adv/softmax_grad.h"
#include "adv/topk.h"
#include "atomic.h"
#include "builtin.h"
#include "compare.h"
#include "compound.h"
#include "cube.h"
#include "data_copy.h"
#include "dump.h"
#include "gather.h"
#include "list_tensor.h"
#include "pipe.h"
#include "reduce.h"
#include "scalar.h"
#include "sync.h"
#include "transpose.h"
#include "vector.h"

#endif  // MOGE_EMULATOR_KERNEL_OPERATOR_H_
