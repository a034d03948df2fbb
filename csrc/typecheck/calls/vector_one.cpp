// Element-wise instructions of one tensor; with a scalar; what fills a tensor; operators.
#include "kernel_operator.h"

using namespace AscendC;

void ExpCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
              LocalTensor<bfloat16_t> bf, uint64_t mask[2], const uint64_t fixed[2],
              uint8_t repeat) {
  Exp(h, h, 8);
  Exp(f, f, 8);
  Exp<half>(h, h, 8);
  Exp(h, h, uint64_t(8), 1, {1, 1, 8, 8});
  Exp(h, h, mask, repeat, UnaryRepeatParams());
  Exp<half, true>(h, h, mask, 1, {1, 1, 8, 8});
  Exp<half, false>(h, h, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Exp(h, f, 8);                         // wrong: two dtypes
  Exp(i, i, 8);                         // ours: dtype
  Exp(bf, bf, 8);                       // ours: dtype
  Exp(h, h, fixed, 1, {1, 1, 8, 8});    // wrong: the array is not const
  Exp(h, h, 8, {1, 1, 8, 8});           // wrong: no repeat
  Exp(h, h, 8, 1, {1, 1, 1, 8, 8, 8});  // wrong: strides of two sources
  Exp(h, 8);                            // wrong: no source
}

void LnCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
             LocalTensor<bfloat16_t> bf, uint64_t mask[2], uint8_t repeat) {
  Ln(h, h, 8);
  Ln(f, f, 8);
  Ln<half>(h, h, 8);
  Ln(h, h, uint64_t(8), 1, {1, 1, 8, 8});
  Ln(h, h, mask, repeat, UnaryRepeatParams());
  Ln<half, true>(h, h, mask, 1, {1, 1, 8, 8});
  Ln<half, false>(h, h, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Ln(h, f, 8);    // wrong: two dtypes
  Ln(i, i, 8);    // ours: dtype
  Ln(bf, bf, 8);  // ours: dtype
}

void SqrtCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
               LocalTensor<bfloat16_t> bf, uint64_t mask[2], uint8_t repeat) {
  Sqrt(h, h, 8);
  Sqrt(f, f, 8);
  Sqrt<half>(h, h, 8);
  Sqrt(h, h, uint64_t(8), 1, {1, 1, 8, 8});
  Sqrt(h, h, mask, repeat, UnaryRepeatParams());
  Sqrt<half, true>(h, h, mask, 1, {1, 1, 8, 8});
  Sqrt<half, false>(h, h, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Sqrt(h, f, 8);    // wrong: two dtypes
  Sqrt(i, i, 8);    // ours: dtype
  Sqrt(bf, bf, 8);  // ours: dtype
}

void RsqrtCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
                LocalTensor<bfloat16_t> bf, uint64_t mask[2], uint8_t repeat) {
  Rsqrt(h, h, 8);
  Rsqrt(f, f, 8);
  Rsqrt<half>(h, h, 8);
  Rsqrt(h, h, uint64_t(8), 1, {1, 1, 8, 8});
  Rsqrt(h, h, mask, repeat, UnaryRepeatParams());
  Rsqrt<half, true>(h, h, mask, 1, {1, 1, 8, 8});
  Rsqrt<half, false>(h, h, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Rsqrt(h, f, 8);    // wrong: two dtypes
  Rsqrt(i, i, 8);    // ours: dtype
  Rsqrt(bf, bf, 8);  // ours: dtype
}

void ReciprocalCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
                     LocalTensor<bfloat16_t> bf, uint64_t mask[2], uint8_t repeat) {
  Reciprocal(h, h, 8);
  Reciprocal(f, f, 8);
  Reciprocal<half>(h, h, 8);
  Reciprocal(h, h, uint64_t(8), 1, {1, 1, 8, 8});
  Reciprocal(h, h, mask, repeat, UnaryRepeatParams());
  Reciprocal<half, true>(h, h, mask, 1, {1, 1, 8, 8});
  Reciprocal<half, false>(h, h, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Reciprocal(h, f, 8);    // wrong: two dtypes
  Reciprocal(i, i, 8);    // ours: dtype
  Reciprocal(bf, bf, 8);  // ours: dtype
}

void AbsCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
              LocalTensor<bfloat16_t> bf, uint64_t mask[2], uint8_t repeat) {
  Abs(h, h, 8);
  Abs(f, f, 8);
  Abs<half>(h, h, 8);
  Abs(h, h, uint64_t(8), 1, {1, 1, 8, 8});
  Abs(h, h, mask, repeat, UnaryRepeatParams());
  Abs<half, true>(h, h, mask, 1, {1, 1, 8, 8});
  Abs<half, false>(h, h, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Abs(h, f, 8);    // wrong: two dtypes
  Abs(i, i, 8);    // ours: dtype
  Abs(bf, bf, 8);  // ours: dtype
}

void ReluCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
               LocalTensor<int32_t> i, uint64_t mask[2], uint8_t repeat) {
  Relu(h, h, 8);
  Relu(f, f, 8);
  Relu(i, i, 8);
  Relu<half>(h, h, 8);
  Relu(h, h, uint64_t(8), 1, {1, 1, 8, 8});
  Relu(h, h, mask, repeat, UnaryRepeatParams());
  Relu<half, true>(h, h, mask, 1, {1, 1, 8, 8});
  Relu<half, false>(h, h, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Relu(h, f, 8);  // wrong: two dtypes
  Relu(s, s, 8);  // ours: dtype
}

void NotCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
              LocalTensor<uint16_t> us, LocalTensor<int32_t> i, uint64_t mask[2],
              const uint64_t fixed[2], uint8_t repeat) {
  Not(s, s, 8);
  Not(us, us, 8);
  Not<int16_t>(s, s, 8);
  Not(s, s, uint64_t(8), 1, {1, 1, 8, 8});
  Not(s, s, mask, repeat, UnaryRepeatParams());
  Not<int16_t, true>(s, s, mask, 1, {1, 1, 8, 8});
  Not<int16_t, false>(s, s, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Not(s, f, 8);                         // wrong: two dtypes
  Not(i, i, 8);                         // ours: dtype
  Not(h, h, 8);                         // ours: dtype
  Not(s, s, fixed, 1, {1, 1, 8, 8});    // wrong: the array is not const
  Not(s, s, 8, {1, 1, 8, 8});           // wrong: no repeat
  Not(s, s, 8, 1, {1, 1, 1, 8, 8, 8});  // wrong: strides of two sources
  Not(s, 8);                            // wrong: no source
}

void AddsCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
               LocalTensor<int32_t> i, LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf,
               uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  Adds(h, h, half(1), 8);
  Adds(f, f, float(1), 8);
  Adds(s, s, int16_t(1), 8);
  Adds(i, i, int32_t(1), 8);
  Adds<half>(h, h, 1, 8);
  Adds<half, true>(h, h, 1, 8);
  Adds<half, false>(h, h, 1, 1);
  Adds<half, half, true>(h, h, half(1), 8);
  Adds(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  Adds(h, h, half(1), mask, repeat, {1, 1, 8, 8});
  Adds<half, false>(h, h, 1, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Adds<half, half>(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  Adds<half, half, false>(h, h, half(1), mask, 1, {1, 1, 8, 8});
  Adds(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8}, true);  // wrong: rounds nothing
  Adds(h, h, 2.0, 8);                                       // wrong: a scalar of another dtype
  Adds<half, float>(h, h, 1.0f, 8);                         // wrong: a scalar of another dtype
  Adds(h, h, 8);                                            // wrong: no scalar
  Adds(h, h, half(1), fixed, 1, {1, 1, 8, 8});              // wrong: the array is not const
  Adds(bf, bf, bfloat16_t(1), 8);                           // wrong: dtype
  Adds(l, l, int64_t(1), 8);                                // wrong: dtype
}

void MulsCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
               LocalTensor<int32_t> i, LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf,
               uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  Muls(h, h, half(1), 8);
  Muls(f, f, float(1), 8);
  Muls(s, s, int16_t(1), 8);
  Muls(i, i, int32_t(1), 8);
  Muls<half>(h, h, 1, 8);
  Muls<half, true>(h, h, 1, 8);
  Muls<half, false>(h, h, 1, 1);
  Muls<half, half, true>(h, h, half(1), 8);
  Muls(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  Muls(h, h, half(1), mask, repeat, {1, 1, 8, 8});
  Muls<half, false>(h, h, 1, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Muls<half, half>(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  Muls<half, half, false>(h, h, half(1), mask, 1, {1, 1, 8, 8});
  Muls(h, h, 2.0, 8);                           // wrong: a scalar of another dtype
  Muls<half, float>(h, h, 1.0f, 8);             // wrong: a scalar of another dtype
  Muls(h, h, 8);                                // wrong: no scalar
  Muls(h, h, half(1), fixed, 1, {1, 1, 8, 8});  // wrong: the array is not const
  Muls(bf, bf, bfloat16_t(1), 8);               // wrong: dtype
  Muls(l, l, int64_t(1), 8);                    // wrong: dtype
}

void MaxsCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
               LocalTensor<int32_t> i, LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf,
               uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  Maxs(h, h, half(1), 8);
  Maxs(f, f, float(1), 8);
  Maxs(s, s, int16_t(1), 8);
  Maxs(i, i, int32_t(1), 8);
  Maxs<half>(h, h, 1, 8);
  Maxs<half, true>(h, h, 1, 8);
  Maxs<half, false>(h, h, 1, 1);
  Maxs<half, half, true>(h, h, half(1), 8);
  Maxs(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  Maxs(h, h, half(1), mask, repeat, {1, 1, 8, 8});
  Maxs<half, false>(h, h, 1, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Maxs<half, half>(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  Maxs<half, half, false>(h, h, half(1), mask, 1, {1, 1, 8, 8});
  Maxs(h, h, 2.0, 8);                           // wrong: a scalar of another dtype
  Maxs<half, float>(h, h, 1.0f, 8);             // wrong: a scalar of another dtype
  Maxs(h, h, 8);                                // wrong: no scalar
  Maxs(h, h, half(1), fixed, 1, {1, 1, 8, 8});  // wrong: the array is not const
  Maxs(bf, bf, bfloat16_t(1), 8);               // wrong: dtype
  Maxs(l, l, int64_t(1), 8);                    // wrong: dtype
}

void MinsCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
               LocalTensor<int32_t> i, LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf,
               uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  Mins(h, h, half(1), 8);
  Mins(f, f, float(1), 8);
  Mins(s, s, int16_t(1), 8);
  Mins(i, i, int32_t(1), 8);
  Mins<half>(h, h, 1, 8);
  Mins<half, true>(h, h, 1, 8);
  Mins<half, false>(h, h, 1, 1);
  Mins<half, half, true>(h, h, half(1), 8);
  Mins(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  Mins(h, h, half(1), mask, repeat, {1, 1, 8, 8});
  Mins<half, false>(h, h, 1, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  Mins<half, half>(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  Mins<half, half, false>(h, h, half(1), mask, 1, {1, 1, 8, 8});
  Mins(h, h, 2.0, 8);                           // wrong: a scalar of another dtype
  Mins<half, float>(h, h, 1.0f, 8);             // wrong: a scalar of another dtype
  Mins(h, h, 8);                                // wrong: no scalar
  Mins(h, h, half(1), fixed, 1, {1, 1, 8, 8});  // wrong: the array is not const
  Mins(bf, bf, bfloat16_t(1), 8);               // wrong: dtype
  Mins(l, l, int64_t(1), 8);                    // wrong: dtype
}

void LeakyReluCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
                    uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  LeakyRelu(h, h, half(1), 8);
  LeakyRelu(f, f, float(1), 8);
  LeakyRelu<half>(h, h, 1, 8);
  LeakyRelu<half, true>(h, h, 1, 8);
  LeakyRelu<half, false>(h, h, 1, 1);
  LeakyRelu<half, half, true>(h, h, half(1), 8);
  LeakyRelu(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  LeakyRelu(h, h, half(1), mask, repeat, {1, 1, 8, 8});
  LeakyRelu<half, false>(h, h, 1, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  LeakyRelu<half, half>(h, h, half(1), uint64_t(8), 1, {1, 1, 8, 8});
  LeakyRelu<half, half, false>(h, h, half(1), mask, 1, {1, 1, 8, 8});
  LeakyRelu(h, h, 2.0, 8);                           // wrong: a scalar of another dtype
  LeakyRelu<half, float>(h, h, 1.0f, 8);             // wrong: a scalar of another dtype
  LeakyRelu(h, h, 8);                                // wrong: no scalar
  LeakyRelu(h, h, half(1), fixed, 1, {1, 1, 8, 8});  // wrong: the array is not const
  LeakyRelu(i, i, int32_t(1), 8);                    // wrong: dtype
}

void ShiftLeftCalls(LocalTensor<float> f, LocalTensor<int16_t> s, LocalTensor<uint16_t> us,
                    LocalTensor<int32_t> i, LocalTensor<uint32_t> u, uint64_t mask[2],
                    const uint64_t fixed[2], uint8_t repeat) {
  ShiftLeft(s, s, int16_t(1), 8);
  ShiftLeft(us, us, uint16_t(1), 8);
  ShiftLeft(i, i, int32_t(1), 8);
  ShiftLeft(u, u, uint32_t(1), 8);
  ShiftLeft<int16_t>(s, s, 1, 8);
  ShiftLeft<int16_t, true>(s, s, 1, 8);
  ShiftLeft<int16_t, false>(s, s, 1, 1);
  ShiftLeft<int16_t, int16_t, true>(s, s, int16_t(1), 8);
  ShiftLeft(s, s, int16_t(1), uint64_t(8), 1, {1, 1, 8, 8});
  ShiftLeft(s, s, int16_t(1), mask, repeat, {1, 1, 8, 8});
  ShiftLeft<int16_t, false>(s, s, 1, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  ShiftLeft<int16_t, int16_t>(s, s, int16_t(1), uint64_t(8), 1, {1, 1, 8, 8});
  ShiftLeft<int16_t, int16_t, false>(s, s, int16_t(1), mask, 1, {1, 1, 8, 8});
  ShiftLeft(s, s, int16_t(1), uint64_t(8), 1, {1, 1, 8, 8}, true);  // wrong: rounds nothing
  ShiftLeft(s, s, 2.0, 8);                              // wrong: a scalar of another dtype
  ShiftLeft<int16_t, float>(s, s, 1.0f, 8);             // wrong: a scalar of another dtype
  ShiftLeft(s, s, 8);                                   // wrong: no scalar
  ShiftLeft(s, s, int16_t(1), fixed, 1, {1, 1, 8, 8});  // wrong: the array is not const
  ShiftLeft(f, f, float(1), 8);                         // wrong: dtype
}

void ShiftRightCalls(LocalTensor<float> f, LocalTensor<int16_t> s, LocalTensor<uint16_t> us,
                     LocalTensor<int32_t> i, LocalTensor<uint32_t> u, uint64_t mask[2],
                     const uint64_t fixed[2], uint8_t repeat) {
  ShiftRight(s, s, int16_t(1), 8);
  ShiftRight(us, us, uint16_t(1), 8);
  ShiftRight(i, i, int32_t(1), 8);
  ShiftRight(u, u, uint32_t(1), 8);
  ShiftRight<int16_t>(s, s, 1, 8);
  ShiftRight<int16_t, true>(s, s, 1, 8);
  ShiftRight<int16_t, false>(s, s, 1, 1);
  ShiftRight<int16_t, int16_t, true>(s, s, int16_t(1), 8);
  ShiftRight(s, s, int16_t(1), uint64_t(8), 1, {1, 1, 8, 8});
  ShiftRight(s, s, int16_t(1), mask, repeat, {1, 1, 8, 8});
  ShiftRight<int16_t, false>(s, s, 1, MASK_PLACEHOLDER, 1, {1, 1, 8, 8});
  ShiftRight(s, s, int16_t(1), uint64_t(8), 1, {1, 1, 8, 8}, true);
  ShiftRight(s, s, int16_t(1), mask, 1, {1, 1, 8, 8}, false);
  ShiftRight<int16_t, int16_t>(s, s, int16_t(1), uint64_t(8), 1, {1, 1, 8, 8}, true);
  ShiftRight<int16_t, int16_t>(s, s, int16_t(1), mask, 1, {1, 1, 8, 8}, true);
  ShiftRight(s, s, int16_t(1), 8, true);                 // wrong: a count does not round
  ShiftRight(s, s, 2.0, 8);                              // wrong: a scalar of another dtype
  ShiftRight<int16_t, float>(s, s, 1.0f, 8);             // wrong: a scalar of another dtype
  ShiftRight(s, s, 8);                                   // wrong: no scalar
  ShiftRight(s, s, int16_t(1), fixed, 1, {1, 1, 8, 8});  // wrong: the array is not const
  ShiftRight(f, f, float(1), 8);                         // ours: dtype
}

void DuplicateCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                    LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<uint32_t> u,
                    LocalTensor<int8_t> b, LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf,
                    uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  Duplicate(h, half(1), 8);
  Duplicate(bf, bfloat16_t(1), 8);
  Duplicate(s, int16_t(1), 8);
  Duplicate(us, uint16_t(1), 8);
  Duplicate(i, int32_t(1), 8);
  Duplicate(u, uint32_t(1), 8);
  Duplicate(f, float(1), 8);
  Duplicate<half>(h, 1, 8);
  Duplicate(f, 1.0f, uint64_t(8), 1, 1, 8);
  Duplicate(f, 1.0f, mask, repeat, 1, 8);
  Duplicate<float, false>(f, 1, MASK_PLACEHOLDER, 1, 1, 8);
  Duplicate<float, true>(f, 1.0f, mask, 1, 1, 8);
  Duplicate(f, 1, 8);                          // wrong: a scalar of another dtype
  Duplicate(f, f, 8);                          // wrong: a tensor
  Duplicate(f, 1.0f, fixed, 1, 1, 8);          // wrong: the array is not const
  Duplicate(f, 1.0f, uint64_t(8), 1, 1);       // wrong: a stride is missing
  Duplicate(f, 1.0f, uint64_t(8), 1, {1, 8});  // wrong: strides are two numbers
  Duplicate(b, int8_t(0), 8);                  // wrong: dtype
  Duplicate(l, int64_t(0), 8);                 // wrong: dtype
}

void CreateVecIndexCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                         LocalTensor<int32_t> i, LocalTensor<uint32_t> u,
                         LocalTensor<bfloat16_t> bf, uint64_t mask[2], const uint64_t fixed[2],
                         uint8_t repeat) {
  CreateVecIndex(h, half(0), 8);
  CreateVecIndex(f, float(0), 8);
  CreateVecIndex(s, int16_t(0), 8);
  CreateVecIndex(i, int32_t(0), 8);
  CreateVecIndex<float>(f, 0, 8);
  CreateVecIndex(f[8], 0.0f, 8);
  CreateVecIndex(f, 0.0f, uint64_t(8), 1, 1, 8);
  CreateVecIndex(f, 0.0f, mask, repeat, 1, 8);
  CreateVecIndex<int32_t>(i, 0, mask, 1, 1, 8);
  CreateVecIndex(f[8], 0.0f, uint64_t(8), 1, 1, 8);  // wrong: a tensor that has no name
  CreateVecIndex(f, 0, 8);                           // wrong: a scalar of another dtype
  CreateVecIndex<float, false>(f, 0.0f, MASK_PLACEHOLDER, 1, 1, 8);  // wrong: no isSetMask
  CreateVecIndex(f, 0.0f, fixed, 1, 1, 8);  // wrong: the array is not const
  CreateVecIndex(u, 0u, 8);                 // wrong: dtype
  CreateVecIndex(bf, bfloat16_t(0), 8);     // wrong: dtype
}

void BrcbCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
               LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<uint32_t> u,
               LocalTensor<int8_t> b, LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf,
               uint8_t repeat) {
  Brcb(h, h, 1, {1, 8});
  Brcb(bf, bf, 1, {1, 8});
  Brcb(s, s, 1, {1, 8});
  Brcb(us, us, 1, {1, 8});
  Brcb(i, i, 1, {1, 8});
  Brcb(u, u, 1, {1, 8});
  Brcb(f, f, 1, {1, 8});
  Brcb<float>(f, f[8], repeat, BrcbRepeatParams());
  Brcb(f, f, 1, BrcbRepeatParams(1, 8));
  Brcb(f, i, 1, {1, 8});     // wrong: two dtypes
  Brcb(f, f, 1, 1, 8);       // wrong: strides are one struct
  Brcb(f, f, 1);             // wrong: no strides
  Brcb(f, f, 8, 1, {1, 8});  // wrong: no mask
  Brcb(l, l, 1, {1, 8});     // ours: dtype
  Brcb(b, b, 1, {1, 8});     // ours: dtype
}

void OperatorCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                   LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<bfloat16_t> bf) {
  f = f + f;
  h = h + h;
  i = i - i;
  s = s * s;
  h = h / h;
  us = us & us;
  s = s | s;
  f[8] = f + f[16];
  f = f + h;     // wrong: two dtypes
  h = f + f;     // wrong: another dtype
  f = f + 1.0f;  // wrong: a scalar
  f = f % f;     // wrong: no such operator
  f += f;        // wrong: no such operator
  i = i / i;     // ours: dtype
  f = f & f;     // ours: dtype
  bf = bf + bf;  // ours: dtype
}
