// Numbers that a kernel is given in global memory.
#ifndef MOGE_TESTS_ASCEND_NUMBERS_H_
#define MOGE_TESTS_ASCEND_NUMBERS_H_

#include "common.h"

namespace moge_tests {

// One after the other.
class Numbers {
 public:
  explicit Numbers(GM_ADDR z) : numbers_(Global<int32_t>(z)) {}
  uint32_t Next() { return static_cast<uint32_t>(numbers_.GetValue(at_++)); }
  uint64_t NextPair() {
    const uint64_t low = Next();
    return low | uint64_t{Next()} << 32;
  }

 private:
  GlobalTensor<int32_t> numbers_;
  uint32_t at_ = 0;
};

}  // namespace moge_tests

#endif  // MOGE_TESTS_ASCEND_NUMBERS_H_
