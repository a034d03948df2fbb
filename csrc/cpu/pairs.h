// Two bfloat16 in each lane: k in the lower half, k + 1 in the upper one.
#pragma once
#include "vector.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// sum + the product of the lower numbers + that of the upper ones, in float32; numbers below the
// normal ones count as 0.
inline V AddPairs(V sum, I a, I b) {
#ifdef __AVX512BF16__
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else  // a build that tests this level on any processor
  constexpr int32_t kUpper = 0xffff0000;
  return sum + Bits(a << 16) * Bits(b << 16) + Bits(a & kUpper) * Bits(b & kUpper);
#endif
}

// Both rounded to bfloat16.
inline V Pair(V lower, V upper) {
  return Bits(((Rounded(lower) >> 16) & 0xffff) | (Rounded(upper) & int32_t(0xffff0000)));
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
