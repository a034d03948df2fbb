// What multiplies and adds: numbers of b in the lanes of a vector with numbers of a. bfloat16 goes
// in pairs where the processor adds such: k in the lower half of a lane, k + 1 in the upper one.
#pragma once
#include "vector.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

template <typename T>
constexpr bool kPairs = MOGE_PAIRS && std::is_same<T, Bfloat16>::value;
template <typename T>
using Packed = std::conditional_t<kPairs<T>, Bfloat16, float>;  // of a, T; of b, this
template <typename T>
constexpr int kWord = kPairs<T> ? 2 : 1;  // numbers in one lane of b

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

// Two numbers that follow each other, of which n are there, in every lane.
inline I SplatPair(const Bfloat16* p, int64_t n) {
  if (n == 1) return Splat(int32_t(p->bits));
#if defined(__AVX512F__) || MOGE_LANES == 8
  I lanes;
  // by hand: a compiler would shift the scalar first and fill the lanes from its register, which
  // takes twice as long as from memory
  typedef int32_t Word __attribute__((may_alias, aligned(2)));
  asm("vpbroadcastd %1, %0" : "=v"(lanes) : "m"(*reinterpret_cast<const Word*>(p)));
  return lanes;
#else
  int32_t pair;
  memcpy(&pair, p, sizeof(pair));
  return Splat(pair);
#endif
}

// What multiplies and adds, by the types of a and b: kDepth numbers of k at once. A number of a, or
// a pair, fills all lanes; to read it quickly kRead numbers must be there.
template <typename T, typename B>
struct Step {
  using Vector = V;
  static constexpr int kDepth = 1, kRead = std::is_same<T, Bfloat16>::value ? 2 : 1;

  static V Left(const float* p, int64_t) { return Splat(*p); }
  static V Left(const Bfloat16* p, int64_t n) { return Bits(SplatPair(p, n) << 16); }
  static V Right(const float* p) { return Load(p); }
  static V Along(const T* p, int64_t n) { return Load(p, n); }
  static V Add(V sum, V left, V right) { return MultiplyAdd(sum, left, right); }
};

#if MOGE_PAIRS
template <>
struct Step<Bfloat16, Bfloat16> {
  using Vector = I;
  static constexpr int kDepth = 2, kRead = 2;

  static I Left(const Bfloat16* p, int64_t n) { return SplatPair(p, n); }
  static I Right(const Bfloat16* p) { return LoadBits(p); }
  static I Along(const Bfloat16* p, int64_t n) {
    if (n >= 2 * kLanes) return LoadBits(p);
    Bfloat16 part[2 * kLanes] = {};
    memcpy(part, p, n * sizeof(Bfloat16));
    return LoadBits(part);
  }
  static V Add(V sum, I left, I right) { return AddPairs(sum, left, right); }
};
#endif

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
