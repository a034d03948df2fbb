// How a kernel that must fail is written: one macro, which puts it on the list of its file.
#ifndef MOGE_TESTS_ASCEND_MUST_FAIL_H_
#define MOGE_TESTS_ASCEND_MUST_FAIL_H_

#include "kernel_operator.h"
#include "kernels.h"

namespace moge_tests {

namespace {

std::vector<Case>& Cases() {
  static std::vector<Case> cases;
  return cases;
}

struct Registration {
  Registration(const char* name, Kernel kernel, const emulator::Options& options) {
    Cases().push_back({name, kernel, options});
  }
};

template <typename T>
AscendC::GlobalTensor<T> Global(GM_ADDR address, uint64_t size = 0) {
  AscendC::GlobalTensor<T> tensor;
  if (size == 0) {
    tensor.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(address));
  } else {
    tensor.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(address), size);
  }
  return tensor;
}

}  // namespace

// The name is the rule, and a word where a rule has several kernels.
#define MUST_FAIL(SYMBOL, NAME, OPTIONS)                                                    \
  void SYMBOL(GM_ADDR x, GM_ADDR y, GM_ADDR z);                                             \
  const Registration SYMBOL##_registration(NAME, SYMBOL, OPTIONS);                          \
  __global__ __vector__ void SYMBOL([[maybe_unused]] GM_ADDR x, [[maybe_unused]] GM_ADDR y, \
                                    [[maybe_unused]] GM_ADDR z)

}  // namespace moge_tests

#endif  // MOGE_TESTS_ASCEND_MUST_FAIL_H_
