// Instructions over two types: conversions, and sums and products that end in one.
#include "kernel_operator.h"

using namespace AscendC;

void MulAddDstCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
                    uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  MulAddDst(f, h, h, 8);
  MulAddDst(h, h, h, 8);
  MulAddDst(f, f, f, 8);
  MulAddDst<float, half>(f, h, h, 8);
  MulAddDst(f, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  MulAddDst(f, h, h, mask, repeat, {1, 1, 1, 8, 8, 8});
  MulAddDst<float, half, true>(f, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  MulAddDst<float, half, false>(f, h, h, MASK_PLACEHOLDER, 1, {1, 1, 1, 8, 8, 8});
  MulAddDst(f, h, h, fixed, 1, {1, 1, 1, 8, 8, 8});
  MulAddDst(f, h, h, 8, 1);                          // wrong: no strides
  MulAddDst(f, h, 8);                                // wrong: one source
  MulAddDst(f, h, h, uint64_t(8), 1, {1, 1, 8, 8});  // wrong: strides of one source
  MulAddDst(f, h, f, 8);                             // wrong: sources of two dtypes
  MulAddDst(h, f, f, 8);                             // ours: dtypes
  MulAddDst(i, i, i, 8);                             // ours: dtypes
}

void AddReluCastCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                      LocalTensor<int8_t> b, LocalTensor<uint8_t> ub, uint64_t mask[2],
                      const uint64_t fixed[2], uint8_t repeat) {
  AddReluCast(b, h, h, 8);
  AddReluCast(b, s, s, 8);
  AddReluCast(h, f, f, 8);
  AddReluCast<int8_t, half>(b, h, h, 8);
  AddReluCast(b, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  AddReluCast(b, h, h, mask, repeat, {1, 1, 1, 8, 8, 8});
  AddReluCast<int8_t, half, true>(b, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  AddReluCast<int8_t, half, false>(b, h, h, MASK_PLACEHOLDER, 1, {1, 1, 1, 8, 8, 8});
  AddReluCast(b, h, h, fixed, 1, {1, 1, 1, 8, 8, 8});  // wrong: the array is not const
  AddReluCast(b, h, h, 8, 1);                          // wrong: no strides
  AddReluCast(b, h, 8);                                // wrong: one source
  AddReluCast(b, h, h, uint64_t(8), 1, {1, 1, 8, 8});  // wrong: strides of one source
  AddReluCast(b, h, s, 8);                             // wrong: sources of two dtypes
  AddReluCast(ub, h, h, 8);                            // wrong: dtypes
  AddReluCast(f, f, f, 8);                             // wrong: dtypes
  AddReluCast(b, f, f, 8);                             // wrong: dtypes
}

void SubReluCastCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                      LocalTensor<int8_t> b, LocalTensor<uint8_t> ub, uint64_t mask[2],
                      const uint64_t fixed[2], uint8_t repeat) {
  SubReluCast(b, h, h, 8);
  SubReluCast(b, s, s, 8);
  SubReluCast(h, f, f, 8);
  SubReluCast<int8_t, half>(b, h, h, 8);
  SubReluCast(b, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  SubReluCast(b, h, h, mask, repeat, {1, 1, 1, 8, 8, 8});
  SubReluCast<int8_t, half, true>(b, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  SubReluCast<int8_t, half, false>(b, h, h, MASK_PLACEHOLDER, 1, {1, 1, 1, 8, 8, 8});
  SubReluCast(b, h, h, fixed, 1, {1, 1, 1, 8, 8, 8});  // wrong: the array is not const
  SubReluCast(b, h, h, 8, 1);                          // wrong: no strides
  SubReluCast(b, h, 8);                                // wrong: one source
  SubReluCast(b, h, h, uint64_t(8), 1, {1, 1, 8, 8});  // wrong: strides of one source
  SubReluCast(b, h, s, 8);                             // wrong: sources of two dtypes
  SubReluCast(ub, h, h, 8);                            // wrong: dtypes
  SubReluCast(f, f, f, 8);                             // wrong: dtypes
  SubReluCast(b, f, f, 8);                             // wrong: dtypes
}

void MulCastCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int8_t> b,
                  LocalTensor<uint8_t> ub, uint64_t mask[2], const uint64_t fixed[2],
                  uint8_t repeat) {
  MulCast(b, h, h, 8);
  MulCast(ub, h, h, 8);
  MulCast<int8_t, half>(b, h, h, 8);
  MulCast(b, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  MulCast(b, h, h, mask, repeat, {1, 1, 1, 8, 8, 8});
  MulCast<int8_t, half, true>(b, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  MulCast<int8_t, half, false>(b, h, h, MASK_PLACEHOLDER, 1, {1, 1, 1, 8, 8, 8});
  MulCast(b, h, h, fixed, 1, {1, 1, 1, 8, 8, 8});  // wrong: the array is not const
  MulCast(b, h, h, 8, 1);                          // wrong: no strides
  MulCast(b, h, 8);                                // wrong: one source
  MulCast(b, h, h, uint64_t(8), 1, {1, 1, 8, 8});  // wrong: strides of one source
  MulCast(b, f, f, 8);                             // ours: dtypes
  MulCast(h, h, h, 8);                             // ours: dtypes
}

void AddDeqReluCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                     LocalTensor<int32_t> i, LocalTensor<uint32_t> u, uint64_t mask[2],
                     const uint64_t fixed[2], uint8_t repeat) {
  AddDeqRelu(h, i, i, 8);
  AddDeqRelu<half, int32_t>(h, i, i, 8);
  AddDeqRelu(h, i, i, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  AddDeqRelu(h, i, i, mask, repeat, {1, 1, 1, 8, 8, 8});
  AddDeqRelu<half, int32_t, true>(h, i, i, mask, 1, {1, 1, 1, 8, 8, 8});
  AddDeqRelu<half, int32_t, false>(h, i, i, MASK_PLACEHOLDER, 1, {1, 1, 1, 8, 8, 8});
  AddDeqRelu(h, i, i, fixed, 1, {1, 1, 1, 8, 8, 8});  // wrong: the array is not const
  AddDeqRelu(h, i, i, 8, 1);                          // wrong: no strides
  AddDeqRelu(h, i, 8);                                // wrong: one source
  AddDeqRelu(h, i, i, uint64_t(8), 1, {1, 1, 8, 8});  // wrong: strides of one source
  AddDeqRelu<false>(h, i, i, MASK_PLACEHOLDER, 1, {1, 1, 1, 4, 8, 8});
  AddDeqRelu<true>(h, i, i, mask, 1, {1, 1, 1, 4, 8, 8});
  AddDeqRelu(h, i, u, 8);  // wrong: sources of two dtypes
  AddDeqRelu(f, i, i, 8);  // wrong: dtypes
  AddDeqRelu(h, s, s, 8);  // wrong: dtypes
}

void AxpyCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i, uint64_t mask[2],
               const uint64_t fixed[2], uint8_t repeat) {
  Axpy(h, h, half(2), 8);
  Axpy(f, f, 2.0f, 8);
  Axpy(f, h, half(2), 8);
  Axpy<float, half>(f, h, 2, 8);
  Axpy(f, h, half(2), uint64_t(8), 1, {1, 1, 8, 4});
  Axpy(f, h, half(2), mask, repeat, {1, 1, 8, 4});
  Axpy<float, float, true>(f, f, 2.0f, mask, 1, {1, 1, 8, 8});
  Axpy<float, half, false>(f, h, 2, MASK_PLACEHOLDER, 1, UnaryRepeatParams());
  Axpy(f, h, 2.0f, 8);                       // wrong: a scalar of another dtype
  Axpy(f, f, 2.0f, fixed, 1, {1, 1, 8, 8});  // wrong: the array is not const
  Axpy(f, f, f, 8);                          // wrong: a tensor
  Axpy(f, f, 8);                             // wrong: no scalar
  Axpy(h, f, 1.0f, 8);                       // ours: dtypes
  Axpy(i, i, 1, 8);                          // ours: dtypes
}

void CastPairsCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                    LocalTensor<int32_t> i, LocalTensor<int8_t> b, LocalTensor<uint8_t> ub,
                    LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf,
                    LocalTensor<int4b_t> nibble) {
  Cast(h, nibble, RoundMode::CAST_NONE, 64);
  Cast(h, b, RoundMode::CAST_NONE, 64);
  Cast(h, ub, RoundMode::CAST_NONE, 64);
  Cast(h, s, RoundMode::CAST_NONE, 64);
  Cast(f, s, RoundMode::CAST_NONE, 64);
  Cast(nibble, h, RoundMode::CAST_NONE, 64);
  Cast(b, h, RoundMode::CAST_NONE, 64);
  Cast(ub, h, RoundMode::CAST_NONE, 64);
  Cast(s, h, RoundMode::CAST_RINT, 64);
  Cast(i, h, RoundMode::CAST_RINT, 64);
  Cast(f, h, RoundMode::CAST_NONE, 64);
  Cast(i, bf, RoundMode::CAST_RINT, 64);
  Cast(f, bf, RoundMode::CAST_NONE, 64);
  Cast(s, i, RoundMode::CAST_NONE, 64);
  Cast(h, i, RoundMode::CAST_NONE, 64);
  Cast(f, i, RoundMode::CAST_NONE, 64);
  Cast(l, i, RoundMode::CAST_NONE, 64);
  Cast(s, f, RoundMode::CAST_RINT, 64);
  Cast(h, f, RoundMode::CAST_NONE, 64);
  Cast(bf, f, RoundMode::CAST_RINT, 64);
  Cast(i, f, RoundMode::CAST_RINT, 64);
  Cast(f, f, RoundMode::CAST_RINT, 64);
  Cast(l, f, RoundMode::CAST_RINT, 64);
  Cast(i, l, RoundMode::CAST_NONE, 64);
  Cast(f, l, RoundMode::CAST_NONE, 64);
}

void CastCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
               LocalTensor<uint16_t> us, LocalTensor<uint32_t> u, LocalTensor<int8_t> b,
               LocalTensor<bfloat16_t> bf, LocalTensor<int4b_t> nibble, uint64_t mask[2],
               const uint64_t fixed[2], uint8_t repeat) {
  Cast<half, float>(h, f, RoundMode::CAST_RINT, 64);
  Cast<int4b_t, half>(nibble, h, RoundMode::CAST_CEIL, uint64_t(128), 1, {1, 1, 2, 8});
  Cast(h, f, RoundMode::CAST_FLOOR, uint64_t(64), 1, {1, 1, 4, 8});
  Cast(h, f, RoundMode::CAST_CEIL, mask, repeat, {1, 1, 4, 8});
  Cast(h, f, RoundMode::CAST_ROUND, fixed, 1, {1, 1, 4, 8});
  Cast<half, float, true>(h, f, RoundMode::CAST_TRUNC, mask, 1, UnaryRepeatParams());
  Cast<half, float, false>(h, f, RoundMode::CAST_ODD, MASK_PLACEHOLDER, 1, {1, 1, 4, 8});
  Cast(h, f, 64);                                     // wrong: no rounding mode
  Cast(h, f, 1, 64);                                  // wrong: a number as the rounding mode
  Cast(h, f, CMPMODE::EQ, 64);                        // wrong: another mode
  Cast<float, half>(h, f, RoundMode::CAST_RINT, 64);  // wrong: the destination comes first
  Cast(h, f, RoundMode::CAST_RINT, uint64_t(64), 1);  // wrong: no strides
  Cast(h, f, RoundMode::CAST_RINT, uint64_t(64), 1,
       {1, 1, 1, 4, 8, 8});                   // wrong: strides of two sources
  Cast(h, f, RoundMode::CAST_NEAREST, 64);    // wrong: no such mode
  Cast(bf, h, RoundMode::CAST_RINT, 64);      // wrong: no such pair
  Cast(b, f, RoundMode::CAST_RINT, 64);       // wrong: dtypes
  Cast(bf, bf, RoundMode::CAST_NONE, 64);     // wrong: dtypes
  Cast(us, h, RoundMode::CAST_RINT, 64);      // wrong: dtypes
  Cast(u, f, RoundMode::CAST_RINT, 64);       // wrong: dtypes
  Cast(nibble, s, RoundMode::CAST_NONE, 64);  // wrong: dtypes
  Cast(h, bf, RoundMode::CAST_RINT, 64);      // wrong: dtypes
}

void CastDequantCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
                      uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  CastDequant(h, i, 64);
  CastDequant<half, int32_t>(h, i, 64);
  CastDequant<half, int32_t, false, false>(h, i, 64);
  CastDequant<half, int32_t, true, false, true>(h, i, 64, 1, {1, 1, 4, 8});
  CastDequant<half, int32_t, false>(h, i, int32_t(MASK_PLACEHOLDER), 1, {1, 1, 4, 8});
  CastDequant(h, i, mask, repeat, {1, 1, 4, 8});
  CastDequant(h, i, fixed, 1, UnaryRepeatParams());
  CastDequant(h, i, RoundMode::CAST_RINT, 64);  // wrong: it takes no rounding mode
  CastDequant(h, i, 64, 1);                     // wrong: no strides
  CastDequant(f, i, 64);                        // ours: dtypes
  CastDequant(h, f, 64);                        // ours: dtypes
}

void CastDeqCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int32_t> i,
                  uint64_t mask[2], const uint64_t fixed[2], uint8_t repeat) {
  CastDeq(h, i, 64);
  CastDeq<half, int32_t>(h, i, 64);
  CastDeq<half, int32_t, false, false>(h, i, 64);
  CastDeq<half, int32_t, true, false, true>(h, i, 64, 1, {1, 1, 4, 8});
  CastDeq<half, int32_t, false>(h, i, int32_t(MASK_PLACEHOLDER), 1, {1, 1, 4, 8});
  CastDeq(h, i, mask, repeat, {1, 1, 4, 8});
  CastDeq(h, i, fixed, 1, UnaryRepeatParams());
  CastDeq(h, i, RoundMode::CAST_RINT, 64);  // wrong: it takes no rounding mode
  CastDeq(h, i, 64, 1);                     // wrong: no strides
  CastDeq(f, i, 64);                        // ours: dtypes
  CastDeq(h, f, 64);                        // ours: dtypes
}

void SetDeqScaleCalls(LocalTensor<half> h) {
  SetDeqScale(half(2));
  SetDeqScale(1.0f);
  SetDeqScale();   // wrong: no scale
  SetDeqScale(h);  // wrong: a tensor
}
