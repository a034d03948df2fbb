// Element-wise instructions of two tensors.
#include "kernel_operator.h"

using namespace AscendC;

void AddCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
              LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<int8_t> b,
              LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf, uint64_t mask[2],
              const uint64_t fixed[2], uint8_t repeat) {
  Add(h, h, h, 8);
  Add(f, f, f, 8);
  Add(s, s, s, 8);
  Add(i, i, i, 8);
  Add<half>(h, h, h, 8);
  Add(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  Add(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  Add<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  Add<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  Add(h, h, h, 128, 1, BinaryRepeatParams());
  Add(h[16], h, h[32], 8);
  Add(h, h, f, 8);                             // wrong: two dtypes
  Add(bf, bf, bf, 8);                          // ours: dtype
  Add(us, us, us, 8);                          // ours: dtype
  Add(b, b, b, 8);                             // ours: dtype
  Add(l, l, l, 8);                             // ours: dtype
  Add(h, h, h, fixed, 1, {1, 1, 1, 8, 8, 8});  // wrong: the array is not const
  Add(h, h, h, 8, 1);                          // wrong: no strides
  Add(h, h, 8);                                // wrong: one source
  Add<half, false>(h, h, h, 8);                // wrong: a count has no isSetMask
  Add(h, h, h, mask, 1, UnaryRepeatParams());  // wrong: strides of one source
}

void SubCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
              LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<int8_t> b,
              LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf, uint64_t mask[2],
              uint8_t repeat) {
  Sub(h, h, h, 8);
  Sub(f, f, f, 8);
  Sub(s, s, s, 8);
  Sub(i, i, i, 8);
  Sub<half>(h, h, h, 8);
  Sub(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  Sub(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  Sub<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  Sub<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  Sub(h, h, f, 8);     // wrong: two dtypes
  Sub(bf, bf, bf, 8);  // ours: dtype
  Sub(us, us, us, 8);  // ours: dtype
  Sub(b, b, b, 8);     // ours: dtype
  Sub(l, l, l, 8);     // ours: dtype
}

void MulCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
              LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<int8_t> b,
              LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf, uint64_t mask[2],
              uint8_t repeat) {
  Mul(h, h, h, 8);
  Mul(f, f, f, 8);
  Mul(s, s, s, 8);
  Mul(i, i, i, 8);
  Mul<half>(h, h, h, 8);
  Mul(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  Mul(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  Mul<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  Mul<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  Mul(h, h, f, 8);     // wrong: two dtypes
  Mul(bf, bf, bf, 8);  // ours: dtype
  Mul(us, us, us, 8);  // ours: dtype
  Mul(b, b, b, 8);     // ours: dtype
  Mul(l, l, l, 8);     // ours: dtype
}

void DivCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
              LocalTensor<int32_t> i, LocalTensor<bfloat16_t> bf, uint64_t mask[2],
              const uint64_t fixed[2], uint8_t repeat) {
  Div(h, h, h, 8);
  Div(f, f, f, 8);
  Div<half>(h, h, h, 8);
  Div(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  Div(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  Div<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  Div<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  Div(h, h, f, 8);                             // wrong: two dtypes
  Div(i, i, i, 8);                             // ours: dtype
  Div(bf, bf, bf, 8);                          // ours: dtype
  Div(s, s, s, 8);                             // ours: dtype
  Div(h, h, h, fixed, 1, {1, 1, 1, 8, 8, 8});  // wrong: the array is not const
  Div(h, h, h, 8, 1);                          // wrong: no strides
  Div(h, h, 8);                                // wrong: one source
  Div<half, false>(h, h, h, 8);                // wrong: a count has no isSetMask
  Div(h, h, h, mask, 1, UnaryRepeatParams());  // wrong: strides of one source
}

void MaxCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
              LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<int8_t> b,
              LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf, uint64_t mask[2],
              uint8_t repeat) {
  Max(h, h, h, 8);
  Max(f, f, f, 8);
  Max(s, s, s, 8);
  Max(i, i, i, 8);
  Max<half>(h, h, h, 8);
  Max(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  Max(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  Max<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  Max<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  Max(h, h, f, 8);     // wrong: two dtypes
  Max(bf, bf, bf, 8);  // ours: dtype
  Max(us, us, us, 8);  // ours: dtype
  Max(b, b, b, 8);     // ours: dtype
  Max(l, l, l, 8);     // ours: dtype
}

void MinCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
              LocalTensor<uint16_t> us, LocalTensor<int32_t> i, LocalTensor<int8_t> b,
              LocalTensor<int64_t> l, LocalTensor<bfloat16_t> bf, uint64_t mask[2],
              uint8_t repeat) {
  Min(h, h, h, 8);
  Min(f, f, f, 8);
  Min(s, s, s, 8);
  Min(i, i, i, 8);
  Min<half>(h, h, h, 8);
  Min(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  Min(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  Min<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  Min<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  Min(h, h, f, 8);     // wrong: two dtypes
  Min(bf, bf, bf, 8);  // ours: dtype
  Min(us, us, us, 8);  // ours: dtype
  Min(b, b, b, 8);     // ours: dtype
  Min(l, l, l, 8);     // ours: dtype
}

void AndCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
              LocalTensor<uint16_t> us, uint64_t mask[2], uint8_t repeat) {
  And(s, s, s, 8);
  And(us, us, us, 8);
  And<int16_t>(s, s, s, 8);
  And(s, s, s, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  And(s, s, s, mask, 1, {1, 1, 1, 8, 8, 8});
  And<int16_t, true>(s, s, s, mask, 1, BinaryRepeatParams());
  And<int16_t, false>(s, s, s, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  And(s, s, f, 8);  // wrong: two dtypes
  And(h, h, h, 8);  // ours: dtype
  And(f, f, f, 8);  // ours: dtype
}

void OrCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
             LocalTensor<uint16_t> us, uint64_t mask[2], uint8_t repeat) {
  Or(s, s, s, 8);
  Or(us, us, us, 8);
  Or<int16_t>(s, s, s, 8);
  Or(s, s, s, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  Or(s, s, s, mask, 1, {1, 1, 1, 8, 8, 8});
  Or<int16_t, true>(s, s, s, mask, 1, BinaryRepeatParams());
  Or<int16_t, false>(s, s, s, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  Or(s, s, f, 8);  // wrong: two dtypes
  Or(h, h, h, 8);  // ours: dtype
  Or(f, f, f, 8);  // ours: dtype
}

void AddReluCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                  LocalTensor<uint16_t> us, LocalTensor<int32_t> i, uint64_t mask[2],
                  const uint64_t fixed[2], uint8_t repeat) {
  AddRelu(h, h, h, 8);
  AddRelu(f, f, f, 8);
  AddRelu(s, s, s, 8);
  AddRelu<half>(h, h, h, 8);
  AddRelu(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  AddRelu(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  AddRelu<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  AddRelu<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  AddRelu(h, h, f, 8);                             // wrong: two dtypes
  AddRelu(i, i, i, 8);                             // ours: dtype
  AddRelu(us, us, us, 8);                          // ours: dtype
  AddRelu(h, h, h, fixed, 1, {1, 1, 1, 8, 8, 8});  // wrong: the array is not const
  AddRelu(h, h, h, 8, 1);                          // wrong: no strides
  AddRelu(h, h, 8);                                // wrong: one source
  AddRelu<half, false>(h, h, h, 8);                // wrong: a count has no isSetMask
  AddRelu(h, h, h, mask, 1, UnaryRepeatParams());  // wrong: strides of one source
}

void SubReluCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                  LocalTensor<int32_t> i, LocalTensor<int8_t> b, uint64_t mask[2], uint8_t repeat) {
  SubRelu(h, h, h, 8);
  SubRelu(f, f, f, 8);
  SubRelu(s, s, s, 8);
  SubRelu<half>(h, h, h, 8);
  SubRelu(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  SubRelu(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  SubRelu<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  SubRelu<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  SubRelu(h, h, f, 8);  // wrong: two dtypes
  SubRelu(i, i, i, 8);  // ours: dtype
  SubRelu(b, b, b, 8);  // ours: dtype
}

void FusedMulAddCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                      LocalTensor<int32_t> i, uint64_t mask[2], uint8_t repeat) {
  FusedMulAdd(h, h, h, 8);
  FusedMulAdd(f, f, f, 8);
  FusedMulAdd<half>(h, h, h, 8);
  FusedMulAdd(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  FusedMulAdd(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  FusedMulAdd<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  FusedMulAdd<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  FusedMulAdd(h, h, f, 8);  // wrong: two dtypes
  FusedMulAdd(i, i, i, 8);  // ours: dtype
  FusedMulAdd(s, s, s, 8);  // ours: dtype
}

void MulAddReluCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                     LocalTensor<int32_t> i, uint64_t mask[2], uint8_t repeat) {
  MulAddRelu(h, h, h, 8);
  MulAddRelu(f, f, f, 8);
  MulAddRelu<half>(h, h, h, 8);
  MulAddRelu(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  MulAddRelu(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  MulAddRelu<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  MulAddRelu<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  MulAddRelu(h, h, f, 8);  // wrong: two dtypes
  MulAddRelu(i, i, i, 8);  // ours: dtype
  MulAddRelu(s, s, s, 8);  // ours: dtype
}

void FusedMulAddReluCalls(LocalTensor<half> h, LocalTensor<float> f, LocalTensor<int16_t> s,
                          uint64_t mask[2], uint8_t repeat) {
  FusedMulAddRelu(h, h, h, 8);
  FusedMulAddRelu(f, f, f, 8);
  FusedMulAddRelu<half>(h, h, h, 8);
  FusedMulAddRelu(h, h, h, uint64_t(8), 1, {1, 1, 1, 8, 8, 8});
  FusedMulAddRelu(h, h, h, mask, 1, {1, 1, 1, 8, 8, 8});
  FusedMulAddRelu<half, true>(h, h, h, mask, 1, BinaryRepeatParams());
  FusedMulAddRelu<half, false>(h, h, h, MASK_PLACEHOLDER, repeat, {1, 1, 1, 8, 8, 8});
  FusedMulAddRelu(h, h, f, 8);  // wrong: two dtypes
  FusedMulAddRelu(s, s, s, 8);  // ours: dtype
}
