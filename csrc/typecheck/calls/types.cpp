// Element types, their conversions and arithmetic, and the decorations of functions.
#include "kernel_operator.h"

using namespace AscendC;

__global__ __aicore__ void Kernel(GM_ADDR x);
__vector__ __global__ __aicore__ void VectorKernel(__gm__ float* x);
__cube__ __global__ __aicore__ void CubeKernel(__gm__ half* x);
__mix__(1, 2) __global__ __aicore__ void MixKernel(__gm__ half* x);
__schedmode__(1) __mix__(1, 2) __global__ __aicore__ void BatchKernel(__gm__ half* x);
__aicore__ inline int Inlined(__ubuf__ float* x);
__host__ int OnTheHost();

void HalfFromOthers(float f, double d, int i, bool b, int64_t l, bfloat16_t other) {
  half from_int = 1;
  half from_double = 1.5;
  half from_float = f;
  half from_variable(i);
  half listed = {1};
  half braced{f};
  half assigned = half(2.5f);
  half cast = (half)0.001;
  half other_short(other);
  half wide = other;  // wrong: no implicit conversion between the two short types
  assigned = 1;
  assigned = f;
  assigned = d;
  assigned = b;
}

void HalfToOthers(half h) {
  float f = h;
  double d = h;
  int i = h;
  uint16_t u = h;
  int j = static_cast<int>(h);
  int8_t* pointer = h;  // wrong
}

void HalfArithmetic(half h, float f) {
  h = h + h;
  h = h - h;
  h = h * h;
  h = h / h;
  h += h;
  h -= 1;
  h *= f;
  h /= h;
  h = -h;
  bool less = h < h;
  bool equal = h == h;
  h = true ? h : half(1);
  static_assert(std::is_same_v<decltype(h + h), half>);
  static_assert(std::is_same_v<decltype(h + h), float>);  // wrong: it rounds to half
  h = h % h;                                              // wrong
  h = h * 2;        // theirs: the type for debugging on a CPU lacks it
  f = h * 2.0f;     // theirs: the type for debugging on a CPU lacks it
  h = h + f;        // theirs: the type for debugging on a CPU lacks it
  equal = h == 1;   // theirs: the type for debugging on a CPU lacks it
  less = h > 1.0f;  // theirs: the type for debugging on a CPU lacks it
  bool set = !h;    // theirs: the type for debugging on a CPU lacks it
}

void Bfloat16FromOthers(float f, int i, uint16_t u, int64_t l, half other) {
  bfloat16_t from_int = 1;
  bfloat16_t from_double = 1.5;
  bfloat16_t from_float = f;
  bfloat16_t from_variable(i);
  bfloat16_t explicitly(f);
  bfloat16_t listed = {1};
  bfloat16_t from_short = u;
  bfloat16_t from_long = l;
  bfloat16_t other_short(other);
  bfloat16_t wide = other;  // wrong: no implicit conversion between the two short types
  from_int = 1;
  from_int = f;
}

void Bfloat16ToOthers(bfloat16_t b) {
  float f = b;
  float g(b);
  float h = static_cast<float>(b);
  int i = b;
  int j = static_cast<int>(b);
  uint64_t u = b;
  bool set = b;
}

void Bfloat16Arithmetic(bfloat16_t b, float f) {
  b = b + b;
  b = b - b;
  b = b * b;
  b = b / b;
  b = b * 2;
  b += b;
  b -= 1;
  b = -b;
  bool less = b < b;
  bool equal = b == b;
  less = b > 1.0f;
  b = true ? b : bfloat16_t(1);
  static_assert(std::is_same_v<decltype(b + b), bfloat16_t>);
  b = b + f;  // wrong: ambiguous
  b *= f;     // wrong: ambiguous
  f = ToFloat(b) * f;
}

void Int4(int8_t i) {
  static_assert(sizeof(int4b_t) == 1);
  static_assert(std::is_same_v<AscendC::int4b_t, int4b_t>);
  int4b_t number;
  int4b_t from_int = 3;
  int4b_t explicitly(3);
  int8_t wide = from_int;
  bool equal = from_int == explicitly;
  LocalTensor<int4b_t> tensor;
  GlobalTensor<int4b_t> global;
}

void ScalarConversions(float f, bfloat16_t b, half h, int i) {
  b = Cast(f);
  f = Cast(b);
  h = Cast<float, half, RoundMode::CAST_ODD>(f);
  i = Cast<float, int32_t, RoundMode::CAST_ROUND>(f);
  i = Cast<float, int32_t, RoundMode::CAST_CEIL>(f);
  i = Cast<float, int32_t, RoundMode::CAST_FLOOR>(f);
  i = Cast<float, int32_t, RoundMode::CAST_RINT>(f);
  i = ScalarCast<float, int32_t, RoundMode::CAST_RINT>(f);
  h = ScalarCast<float, half, RoundMode::CAST_ODD>(f);
  b = ToBfloat16(f);
  b = ToBfloat16(1);
  f = ToFloat(b);
  f = ToFloat(h);                                      // wrong: of a bfloat16_t only
  h = Cast<float, half, RoundMode::CAST_RINT>(f);      // ours: CAST_ODD only
  i = Cast<float, int32_t, RoundMode::CAST_TRUNC>(f);  // ours: not of the table
}

void Bits(uint64_t u, int64_t i) {
  i = GetBitCount<0>(u);
  i = GetBitCount<1>(u);
  i = GetSFFValue<0>(u);
  i = GetSFFValue<1>(u);
  i = CountLeadingZero(u);
  i = CountBitsCntSameAsSignBit(i);
  i = ScalarGetCountOfValue<1>(u);
  i = ScalarGetSFFValue<1>(u);
  i = ScalarCountLeadingZero(u);
  static_assert(std::is_same_v<decltype(GetBitCount<1>(u)), int64_t>);
  i = GetBitCount(u);     // wrong: of which bits
  i = GetSFFValue<2>(u);  // wrong: 0 or 1
}

void TypeTraits() {
  static_assert(IsSameType<half, half>::value);
  static_assert(!IsSameType<half, float>::value);
  static_assert(std::is_same_v<Conditional<true, half, float>::type, half>);
  static_assert(std::is_same_v<Conditional<false, half, float>::type, float>);
  static_assert(std::is_same_v<PrimT<half>, half>);
}
