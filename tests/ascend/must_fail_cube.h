// What the kernels of a cube core that must fail start from.
#ifndef MOGE_TESTS_ASCEND_MUST_FAIL_CUBE_H_
#define MOGE_TESTS_ASCEND_MUST_FAIL_CUBE_H_

#include "must_fail.h"

namespace moge_tests {

inline Options Cube(uint32_t blocks = 1, KernelType kernel = KernelType::kCube) {
  return Launch(kernel, blocks);
}
inline Options Mix(uint32_t blocks = 1) { return Launch(KernelType::kMix, blocks); }

struct Started {
  Started() { InitSocState(); }
};
// Both operands of a product of up to 64 x 64 x 64 halves in L1 and L0, ones from x.
class Ready : Started {
 public:
  void Copy(GM_ADDR x) {
    DataCopy(a1, Global<half>(x), 4096);
    DataCopy(b1, Global<half>(x), 4096);
  }
  void Load() {
    LoadData(a2, a1, LoadData2DParams(0, 16, 1, 0, 0, false, 0));
    LoadData(b2, b1, LoadData2DParams(0, 16, 1, 0, 0, false, 0));
  }
  void Operands(GM_ADDR x) {
    Copy(x);
    Sync<HardEvent::MTE2_MTE1>();
    Load();
    Sync<HardEvent::MTE1_M>();
  }
  void Multiply(GM_ADDR x, uint8_t unit = 0) {
    Operands(x);
    Mmad(c, a2, b2, Product(64, 64, 64, true, unit));
  }

  LocalTensor<half> a1{TPosition::A1, 0, 4096};
  LocalTensor<half> b1{TPosition::B1, 8192, 4096};
  LocalTensor<half> a2{TPosition::A2, 0, 4096};
  LocalTensor<half> b2{TPosition::B2, 0, 4096};
  LocalTensor<float> c{TPosition::CO1, 0, 4096};
};

#define STATIC_FAILS(...) MUST_FAIL_WITH(Started, started, __VA_ARGS__)
#define CUBE_FAILS(NAME) MUST_FAIL_WITH(Ready, cube, NAME, Cube())

// 64 x 64 floats, row by row
inline FixpipeParamsV220 Out(uint8_t unit = 0) {
  FixpipeParamsV220 params(64, 64, 64, 64, false);
  params.unitFlag = unit;
  return params;
}

}  // namespace moge_tests

#endif  // MOGE_TESTS_ASCEND_MUST_FAIL_CUBE_H_
