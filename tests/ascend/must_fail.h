// How a kernel that must fail is written: one macro, which puts it on the list.
#ifndef MOGE_TESTS_ASCEND_MUST_FAIL_H_
#define MOGE_TESTS_ASCEND_MUST_FAIL_H_

#include "common.h"

namespace moge_tests {

struct Registration {
  Registration(Kernel kernel, const char* name, const Options& options = {}) {
    MustFail().push_back({name, kernel, options});
  }
};

// MUST_FAIL(name, options if any) { body over x, y, z }
// The name is the rule, and a word where a rule has several kernels.
#define MUST_FAIL(...) KERNEL(__COUNTER__, __VA_ARGS__)
#define KERNEL(NUMBER, ...) NUMBERED_KERNEL(NUMBER, __VA_ARGS__)
#define KERNEL_ARGUMENTS \
  [[maybe_unused]] GM_ADDR x, [[maybe_unused]] GM_ADDR y, [[maybe_unused]] GM_ADDR z
#define NUMBERED_KERNEL(NUMBER, ...)                                     \
  void Kernel##NUMBER(GM_ADDR x, GM_ADDR y, GM_ADDR z);                  \
  const Registration kRegistration##NUMBER(Kernel##NUMBER, __VA_ARGS__); \
  __global__ __vector__ void Kernel##NUMBER(KERNEL_ARGUMENTS)

// The same for a body that starts with a variable OWN of its class: what it needs is there.
#define MUST_FAIL_WITH(CLASS, OWN, ...) KERNEL_WITH(__COUNTER__, CLASS, OWN, __VA_ARGS__)
#define KERNEL_WITH(NUMBER, CLASS, OWN, ...) NUMBERED_KERNEL_WITH(NUMBER, CLASS, OWN, __VA_ARGS__)
#define NUMBERED_KERNEL_WITH(NUMBER, CLASS, OWN, ...)             \
  void Body##NUMBER(CLASS& OWN, GM_ADDR x, GM_ADDR y, GM_ADDR z); \
  NUMBERED_KERNEL(NUMBER, __VA_ARGS__) {                          \
    CLASS own;                                                    \
    Body##NUMBER(own, x, y, z);                                   \
  }                                                               \
  void Body##NUMBER([[maybe_unused]] CLASS& OWN, KERNEL_ARGUMENTS)

// A TPipe with one buffer: 16 KiB of ones, then 16 KiB that nothing has written.
class Ones {
 public:
  Ones() {
    pipe_.InitBuffer(buffer_, 32768);
    Duplicate(At<float>(0), 1.0f, 4096);
  }
  template <typename T>
  LocalTensor<T> At(uint32_t byte) {
    return buffer_.Get<uint8_t>()[byte].ReinterpretCast<T>();
  }
  TPipe& pipe() { return pipe_; }

 private:
  TPipe pipe_;
  TBuf<TPosition::VECCALC> buffer_;
};

constexpr uint32_t kFree = 16384;  // where the second half of Ones starts

#define UB_FAILS(...) MUST_FAIL_WITH(Ones, ub, __VA_ARGS__)

// A queue with its buffers.
template <TPosition position = TPosition::VECIN, int32_t depth = 1>
class Queue : public TQue<position, depth> {
 public:
  Queue(uint8_t number, uint32_t bytes) { pipe_.InitBuffer(*this, number, bytes); }

 private:
  TPipe pipe_;
};

inline Options Blocks(uint32_t blocks) { return Launch(KernelType::kVector, blocks); }

}  // namespace moge_tests

#endif  // MOGE_TESTS_ASCEND_MUST_FAIL_H_
