// The header that the documents name for ListTensorDesc; kernel_operator.h has it, too.
#ifndef MOGE_EMULATOR_KERNEL_OPERATOR_LIST_TENSOR_INTF_H_
#define MOGE_EMULATOR_KERNEL_OPERATOR_LIST_TENSOR_INTF_H_

#include "list_tensor.h"

#endif  // MOGE_EMULATOR_KERNEL_OPERATOR_LIST_TENSOR_INTF_H_
