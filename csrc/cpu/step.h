// What multiplies and adds: numbers of b in the lanes of a vector with numbers of a. bfloat16 goes
// in pairs where the processor adds such: k in the lower half of a lane, k + 1 in the upper one.
// There it also adds the products of four bytes; elsewhere integers are pairs of 16 bits.
#pragma once
#include "vector.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

template <typename T>
constexpr bool kIntegers = std::is_same<T, Int8>::value || std::is_same<T, Int16>::value;
constexpr bool kQuads = MOGE_PAIRS;  // of bytes
template <typename T>
constexpr bool kPairs = MOGE_PAIRS && std::is_same<T, Bfloat16>::value;
template <typename T>
using Packed =
    std::conditional_t<kIntegers<T>, std::conditional_t<kQuads, Int8, Int16>,
                       std::conditional_t<kPairs<T>, Bfloat16, float>>;  // of a, T; of b, this
template <typename T>
constexpr int kWord = 4 / sizeof(Packed<T>);  // numbers in one lane of b

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

// sum + the products of pairs of 16 bits.
inline I AddShorts(I sum, I a, I b) {
#ifdef __AVX512BW__
  return sum + (I)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#else
  for (int i = 0; i < kLanes; i += 8) {
    __m256i part[2];
    memcpy(&part[0], reinterpret_cast<int32_t*>(&a) + i, 32);
    memcpy(&part[1], reinterpret_cast<int32_t*>(&b) + i, 32);
    part[0] = _mm256_madd_epi16(part[0], part[1]);
    memcpy(reinterpret_cast<int32_t*>(&a) + i, &part[0], 32);
  }
  return sum + a;
#endif
}

// sum + the products of four bytes, unsigned ones and signed ones.
inline I AddQuads(I sum, I bytes, I signed_bytes) {
#ifdef __AVX512VNNI__
  return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)bytes, (__m512i)signed_bytes);
#else  // a build that tests this level on any processor
  for (int i = 0; i < 32; i += 8) sum += ((bytes >> i) & 0xff) * ((signed_bytes << (24 - i)) >> 24);
  return sum;
#endif
}

// A word of numbers that follow each other, of which n are there, in every lane.
template <typename T>
inline I SplatWord(const T* p, int64_t n) {
  constexpr int64_t kNumbers = 4 / sizeof(T);
  if (n < kNumbers) {
    int32_t part = 0;
    memcpy(&part, p, n * sizeof(T));
    return Splat(part);
  }
#if defined(__AVX512F__) || MOGE_LANES == 8
  I lanes;
  // by hand: a compiler would shift the scalar first and fill the lanes from its register, which
  // takes twice as long as from memory
  typedef int32_t Word __attribute__((may_alias, aligned(1)));
  asm("vpbroadcastd %1, %0" : "=v"(lanes) : "m"(*reinterpret_cast<const Word*>(p)));
  return lanes;
#else
  int32_t word;
  memcpy(&word, p, sizeof(word));
  return Splat(word);
#endif
}

// What multiplies and adds, by the types of a and b: kDepth numbers of k at once. A number of a, or
// a pair, fills all lanes; to read it quickly kRead numbers must be there.
template <typename T, typename B>
struct Step {
  using Vector = V;
  using Sum = V;
  static constexpr int kDepth = 1, kRead = std::is_same<T, Bfloat16>::value ? 2 : 1;

  static V Left(const float* p, int64_t) { return Splat(*p); }
  static V Left(const Bfloat16* p, int64_t n) { return Bits(SplatWord(p, n) << 16); }
  static V Right(const float* p) { return Load(p); }
  static V Along(const T* p, int64_t n) { return Load(p, n); }
  static V Add(V sum, V left, V right) { return MultiplyAdd(sum, left, right); }
  static V AddLine(V sum, V left, V right) { return Add(sum, left, right); }
};

// Several numbers in a lane.
template <typename T>
struct WordStep {
  using Vector = I;
  static constexpr int kDepth = 4 / sizeof(T), kRead = kDepth;

  static I Left(const T* p, int64_t n) { return SplatWord(p, n); }
  static I Right(const T* p) { return LoadBits(p); }
  static I Along(const T* p, int64_t n) {
    if (n >= kDepth * kLanes) return LoadBits(p);
    T part[kDepth * kLanes] = {};
    memcpy(part, p, n * sizeof(T));
    return LoadBits(part);
  }
};

#if MOGE_PAIRS
template <>
struct Step<Bfloat16, Bfloat16> : WordStep<Bfloat16> {
  using Sum = V;
  static V Add(V sum, I left, I right) { return AddPairs(sum, left, right); }
  static V AddLine(V sum, I left, I right) { return Add(sum, left, right); }
};
#endif
template <>
struct Step<Int16, Int16> : WordStep<Int16> {
  using Sum = I;
  static I Add(I sum, I left, I right) { return AddShorts(sum, left, right); }
  static I AddLine(I sum, I left, I right) { return Add(sum, left, right); }
};
// Of panels b is unsigned, with 128 added, and of lines a.
template <>
struct Step<Int8, Int8> : WordStep<Int8> {
  using Sum = I;
  static I Add(I sum, I left, I right) { return AddQuads(sum, right, left); }
  static I AddLine(I sum, I left, I right) { return AddQuads(sum, left, right); }
};

inline void StoreSum(float* p, V sum) { Store(p, sum); }
inline void StoreSum(float* p, I sum) { StoreBits(p, sum); }  // the bits of an integer

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
