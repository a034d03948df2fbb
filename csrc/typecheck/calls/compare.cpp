// Compare, Select and the compare mask.
#include "kernel_operator.h"

using namespace AscendC;

void CompareCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                  LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<int8_t> b,
                  LocalTensor<uint8_t> ub, uint64_t mask[2], const uint64_t fixed[2],
                  uint8_t repeat) {
  Compare(ub, f, f, CMPMODE::LT, 64);
  Compare(ub, h, h, CMPMODE::GT, 128);
  Compare(ub, i, i, CMPMODE::EQ, 64);
  Compare(b, f, f, CMPMODE::LE, 64);
  Compare<float, uint8_t>(ub, f, f, CMPMODE::GE, 64);
  Compare(ub, f, f, CMPMODE::NE, uint64_t(64), 1, {1, 1, 1, 8, 8, 8});
  Compare(ub, f, f, CMPMODE::LT, mask, repeat, {1, 1, 1, 8, 8, 8});
  Compare(ub, f, f, CMPMODE::LT, fixed, 1, {1, 1, 1, 8, 8, 8});
  Compare<float, uint8_t, true>(ub, f, f, CMPMODE::LT, fixed, 1, BinaryRepeatParams());
  Compare<float, uint8_t, false>(ub, f, f, CMPMODE::LT, MASK_PLACEHOLDER, 1, {1, 1, 1, 8, 8, 8});
  Compare(f, f, CMPMODE::LT, uint64_t(64), {1, 1, 1, 8, 8, 8});
  Compare(f, f, CMPMODE::LT, 64, BinaryRepeatParams());
  Compare(h, h, CMPMODE::LT, mask, {1, 1, 1, 8, 8, 8});
  Compare(h, h, CMPMODE::LT, fixed, {1, 1, 1, 8, 8, 8});
  Compare<float, true>(f, f, CMPMODE::LT, fixed, {1, 1, 1, 8, 8, 8});
  Compare<float, false>(f, f, CMPMODE::LT, MASK_PLACEHOLDER, {1, 1, 1, 8, 8, 8});
  Compare(ub, f, h, CMPMODE::LT, 64);                  // wrong: sources of two dtypes
  Compare<uint8_t, float>(ub, f, f, CMPMODE::LT, 64);  // wrong: the source comes first
  Compare(ub, f, f, SELMODE::VSEL_CMPMASK_SPR, 64);    // wrong: a mode of Select
  Compare(ub, f, f, 64);                               // wrong: no mode
  Compare(ub, f, 1.0f, CMPMODE::LT, 64);               // wrong: a scalar
  Compare(ub, f, f, CMPMODE::LT, uint64_t(64), {1, 1, 1, 8, 8, 8});  // wrong: no repeat
  Compare(f, f, CMPMODE::LT, 64);       // wrong: into the register without strides
  Compare(ub, s, s, CMPMODE::EQ, 128);  // ours: dtype
  Compare(us, f, f, CMPMODE::EQ, 64);   // ours: dtype of the bits
  Compare(i, i, CMPMODE::EQ, uint64_t(64), {1, 1, 1, 8, 8, 8});  // ours: dtype into the register
}

void CompareOperatorCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<uint8_t> ub) {
  ub = f < f;
  ub = f > f;
  ub = h == h;
  ub = h <= h;
  ub = f >= f;
  ub = f != f;
  ub = f < h;     // wrong: two dtypes
  ub = f < 1.0f;  // wrong: a scalar
}

void ComparesCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                   LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<uint8_t> ub,
                   uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  Compares(ub, f, 1.0f, CMPMODE::LT, 64);
  Compares(ub, h, half(1), CMPMODE::LT, 128);
  Compares(ub, i, 1, CMPMODE::EQ, 64);
  Compares<float, uint8_t>(ub, f, 1, CMPMODE::LT, 64);
  Compares(ub, f, 1.0f, CMPMODE::LT, uint64_t(64), 1, {1, 1, 8, 8});
  Compares(ub, f, 1.0f, CMPMODE::LT, mask, repeat, {1, 1, 8, 8});
  Compares(ub, f, 1.0f, CMPMODE::LT, fixed, 1, {1, 1, 8, 8});
  Compares<float, uint8_t, true>(ub, f, 1.0f, CMPMODE::LT, mask, 1, {1, 1, 8, 8});
  Compares<float, uint8_t, false>(ub, f, 1.0f, CMPMODE::LT, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Compares(ub, f, 1, CMPMODE::LT, 64);     // wrong: a scalar of another dtype
  Compares(ub, f, f, CMPMODE::LT, 64);     // wrong: a tensor
  Compares(ub, 1.0f, f, CMPMODE::LT, 64);  // wrong: the tensor comes first
  Compares(ub, f, 1.0f, CMPMODE::LT, uint64_t(64), 1,
           {1, 1, 1, 8, 8, 8});                   // wrong: strides of two sources
  Compares(us, f, 1.0f, CMPMODE::EQ, 64);         // ours: dtype of the bits
  Compares(ub, s, int16_t(1), CMPMODE::EQ, 128);  // ours: dtype
}

void CompareScalarCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                        LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<uint8_t> ub,
                        uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  CompareScalar(ub, f, 1.0f, CMPMODE::LT, 64);
  CompareScalar(ub, h, half(1), CMPMODE::LT, 128);
  CompareScalar(ub, i, 1, CMPMODE::EQ, 64);
  CompareScalar<float, uint8_t>(ub, f, 1, CMPMODE::LT, 64);
  CompareScalar(ub, f, 1.0f, CMPMODE::LT, uint64_t(64), 1, {1, 1, 8, 8});
  CompareScalar(ub, f, 1.0f, CMPMODE::LT, mask, repeat, {1, 1, 8, 8});
  CompareScalar(ub, f, 1.0f, CMPMODE::LT, fixed, 1, {1, 1, 8, 8});
  CompareScalar<float, uint8_t, true>(ub, f, 1.0f, CMPMODE::LT, mask, 1, {1, 1, 8, 8});
  CompareScalar<float, uint8_t, false>(ub, f, 1.0f, CMPMODE::LT, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  CompareScalar(ub, f, 1, CMPMODE::LT, 64);     // wrong: a scalar of another dtype
  CompareScalar(ub, f, f, CMPMODE::LT, 64);     // wrong: a tensor
  CompareScalar(ub, 1.0f, f, CMPMODE::LT, 64);  // wrong: the tensor comes first
  CompareScalar(ub, f, 1.0f, CMPMODE::LT, uint64_t(64), 1,
                {1, 1, 1, 8, 8, 8});                   // wrong: strides of two sources
  CompareScalar(us, f, 1.0f, CMPMODE::EQ, 64);         // ours: dtype of the bits
  CompareScalar(ub, s, int16_t(1), CMPMODE::EQ, 128);  // ours: dtype
}

void CmpMaskCalls(LocalTensor<float> f, LocalTensor<uint16_t> us, LocalTensor<uint32_t> u,
                  LocalTensor<uint8_t> ub, LocalTensor<int64_t> l) {
  SetCmpMask(ub);
  SetCmpMask(f);
  SetCmpMask<int64_t>(l);
  GetCmpMask(ub);
  GetCmpMask(us);
  GetCmpMask<uint32_t>(u);
  SetCmpMask();   // wrong: no tensor
  GetCmpMask(1);  // wrong: a number
}

void SelectCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<uint16_t> us,
                 LocalTensor<int32_t> i, LocalTensor<uint32_t> u, LocalTensor<int8_t> b,
                 LocalTensor<uint8_t> ub, LocalTensor<uint64_t> ul, uint64_t mask[2],
                 const uint64_t fixed[2], uint8_t repeat) {
  Select(f, ub, f, f, SELMODE::VSEL_CMPMASK_SPR, 64);
  Select(h, us, h, h, SELMODE::VSEL_TENSOR_TENSOR_MODE, 64);
  Select(f, u, f, f, SELMODE::VSEL_TENSOR_TENSOR_MODE, 64);
  Select(f, ul, f, f, SELMODE::VSEL_TENSOR_TENSOR_MODE, 64);
  Select(f, ub, f, 1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
  Select(h, ub, h, half(1), SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
  Select<float, uint8_t>(f, ub, f, 1, SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);
  Select(f, ub, f, f, SELMODE::VSEL_CMPMASK_SPR, uint64_t(64), 1, {1, 1, 1, 8, 8, 8});
  Select(f, ub, f, f, SELMODE::VSEL_TENSOR_TENSOR_MODE, mask, repeat, {1, 1, 1, 8, 8, 8});
  Select<float, uint8_t, true>(f, ub, f, f, SELMODE::VSEL_TENSOR_TENSOR_MODE, mask, 1,
                               BinaryRepeatParams());
  Select<float, uint8_t, false>(f, ub, f, f, SELMODE::VSEL_TENSOR_TENSOR_MODE, MASK_PLACEHOLDER, 1,
                                {1, 1, 1, 8, 8, 8});
  Select(f, ub, f, 1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, uint64_t(64), 1, {1, 1, 1, 8, 8, 8});
  Select(f, ub, f, 1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, mask, repeat, {1, 1, 1, 8, 8, 8});
  Select<float, uint8_t, false>(f, ub, f, 1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, MASK_PLACEHOLDER,
                                1, {1, 1, 1, 8, 8, 8});
  Select<float, SELMODE::VSEL_CMPMASK_SPR>(f, f, f, 1, {1, 1, 1, 8, 8, 8});
  Select<half, SELMODE::VSEL_TENSOR_TENSOR_MODE>(h, h, h, repeat, BinaryRepeatParams());
  Select(f, ub, f, 1, {1, 1, 1, 8, 8, 8});
  Select<half, uint8_t>(h, ub, h, repeat, BinaryRepeatParams());
  Select(f, ub, h, h, SELMODE::VSEL_TENSOR_TENSOR_MODE, 64);     // wrong: two dtypes
  Select(f, ub, f, 1, SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);     // wrong: a scalar of another dtype
  Select(f, ub, 1.0f, f, SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);  // wrong: the tensor comes first
  Select(f, ub, f, f, CMPMODE::EQ, 64);                          // wrong: a mode of Compare
  Select(f, ub, f, f, 64);                                       // wrong: no mode
  Select(f, ub, f, f, SELMODE::VSEL_TENSOR_TENSOR_MODE, fixed, 1,
         {1, 1, 1, 8, 8, 8});              // wrong: the array is not const
  Select(f, f, f, 1, {1, 1, 1, 8, 8, 8});  // ours: bits of float
  Select<uint8_t, float>(f, ub, f, f, SELMODE::VSEL_TENSOR_TENSOR_MODE,
                         64);  // wrong: the elements come first
  Select<float, SELMODE::VSEL_TENSOR_SCALAR_MODE>(
      f, f, f, 1, {1, 1, 1, 8, 8, 8});                        // ours: mode 1 takes a scalar
  Select(i, ub, i, 0, SELMODE::VSEL_TENSOR_SCALAR_MODE, 64);  // ours: dtype
  Select(f, b, f, f, SELMODE::VSEL_TENSOR_TENSOR_MODE, 64);   // ours: dtype of the bits
}
