// What the files of the test module share.
#ifndef MOGE_TESTS_ASCEND_KERNELS_H_
#define MOGE_TESTS_ASCEND_KERNELS_H_

#include <string>
#include <vector>

#include "launch.h"

namespace moge_tests {

// A kernel over three arrays: x is read, y is written, z is both.
using Kernel = void (*)(uint8_t* x, uint8_t* y, uint8_t* z);

struct Case {
  std::string name;
  Kernel kernel;
  emulator::Options options;  // all but the allocations
};

// Each named after its rule; a word follows where a rule has several. The files add theirs.
inline std::vector<Case>& MustFail() {
  static std::vector<Case> cases;
  return cases;
}
// The correct ones, on vector cores alone and with cube cores. The files add theirs.
inline std::vector<Case>& MustPass() {
  static std::vector<Case> cases;
  return cases;
}
inline std::vector<Case>& MustPassCube() {
  static std::vector<Case> cases;
  return cases;
}
struct Addition {
  Addition(std::vector<Case>& all, const std::vector<Case>& some) {
    all.insert(all.end(), some.begin(), some.end());
  }
};
const std::vector<Case>& AdvPass();
const std::vector<Case>& Schedules();
const std::vector<Case>& Utilities();
const std::vector<Case>& Syncs();
const std::vector<Case>& Rearranged();
const std::vector<Case>& Matrices();
const std::vector<Case>& DataCopies();
const std::vector<Case>& Frameworks();
const std::vector<Case>& RandomCubes();
const std::vector<Case>& RandomVectors();

// One instruction on an image of UB: every field as the call in the test gives it.
struct Instruction {
  std::string op;
  std::string dtype;
  std::string src_dtype;
  std::string form;                               // "count", "mask", "bits", "register"
  uint32_t dst = 0, src0 = 0, src1 = 0, tmp = 0;  // byte offsets in the image
  uint64_t low = 0, high = 0;
  int64_t repeat = 0;
  std::vector<int> strides;
  double scalar = 0;
  int mode = 0;
  bool flag = false;
  bool counter = false;
  uint32_t out_begin = 0, out_end = 0;  // part of the image that is copied back
};

// Runs it inside the current kernel; returns what GatherMask counts, else 0.
uint64_t Execute(const Instruction& call, uint8_t* image, uint8_t* result);

}  // namespace moge_tests

#endif  // MOGE_TESTS_ASCEND_KERNELS_H_
