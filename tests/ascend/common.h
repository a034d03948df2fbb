// What the kernels of this folder share.
#ifndef MOGE_TESTS_ASCEND_COMMON_H_
#define MOGE_TESTS_ASCEND_COMMON_H_

#include "kernel_operator.h"
#include "kernels.h"

namespace moge_tests {

using namespace AscendC;
using emulator::KernelType;
using emulator::Options;

// From `address` to the end of its allocation, or `elements` of it.
template <typename T>
GlobalTensor<T> Global(GM_ADDR address, uint64_t elements = 0) {
  GlobalTensor<T> tensor;
  if (elements == 0) {
    tensor.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(address));
  } else {
    tensor.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(address), elements);
  }
  return tensor;
}

// The destination pipe waits for what the source pipe has done so far.
template <HardEvent event>
__aicore__ inline void Sync() {
  SetFlag<event>(0);
  WaitFlag<event>(0);
}

// One product of these sizes; `init` false adds to what is there.
__aicore__ inline MmadParams Product(uint32_t m, uint32_t n, uint32_t k, bool init = true,
                                     uint8_t unit = 0) {
  MmadParams params;
  params.m = m;
  params.n = n;
  params.k = k;
  params.cmatrixInitVal = init;
  params.unitFlag = unit;
  return params;
}

inline Options Launch(KernelType kernel, uint32_t blocks = 1) {
  Options options;
  options.kernel = kernel;
  options.blocks = blocks;
  return options;
}

}  // namespace moge_tests

#endif  // MOGE_TESTS_ASCEND_COMMON_H_
