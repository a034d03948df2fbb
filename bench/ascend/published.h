// What the kernels of published times share.
#ifndef MOGE_PUBLISHED_H_
#define MOGE_PUBLISHED_H_

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <vector>

#include "kernel_operator.h"
#include "launch.h"

namespace published {

using namespace AscendC;

template <typename T>
GlobalTensor<T> Global(void* pointer) {
  GlobalTensor<T> tensor;
  tensor.SetGlobalBuffer(static_cast<T*>(pointer));
  return tensor;
}

inline MmadParams Product(uint32_t m, uint32_t n, uint32_t k, uint8_t unit_flag, bool first) {
  MmadParams params;
  params.m = m;
  params.n = n;
  params.k = k;
  params.unitFlag = unit_flag;
  params.cmatrixInitVal = first;
  return params;
}

// Launches twice and returns the second, as benchmarks do: L2 holds what the first left there; or
// once, `cold`. The kernel gets the addresses of as many allocations as `bytes` has; all but two
// are written, too.
pybind11::dict Run(const char* name, emulator::KernelType type, uint32_t blocks,
                   const std::vector<uint64_t>& bytes,
                   const std::function<void(uint8_t** memory)>& kernel, bool cold = false);

// The kernels of published_int8.cpp.
void DefineInt8(pybind11::module_& m);

}  // namespace published

#endif  // MOGE_PUBLISHED_H_
