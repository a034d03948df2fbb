// Vectors of float32 and what loads, stores and transposes them, at one level of the instruction
// set. Each level compiles this header into a namespace of its own, with its own compiler flags;
// templates of the standard library stay away, since the linker would keep one level's copy of them
// for all.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace moge_cpu {
namespace MOGE_LEVEL {

constexpr int kLanes = MOGE_LANES;
typedef float V __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes)));
typedef float UnalignedV __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t UnalignedI __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));

struct Bfloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
struct Int8 {
  int8_t value;
};
struct Int16 {
  int16_t value;
};

inline V Splat(float x) { return x - V{}; }  // not V{} + x, which is 0 and not -0 for x = -0
inline I Splat(int32_t x) { return x - I{}; }
inline V Bits(I x) { return (V)x; }  // the same bits, as another type
inline I Bits(V x) { return (I)x; }

inline V Load(const float* p) { return *reinterpret_cast<const UnalignedV*>(p); }
inline I LoadBits(const void* p) { return *static_cast<const UnalignedI*>(p); }
inline void Store(float* p, V x) { *reinterpret_cast<UnalignedV*>(p) = x; }
inline void StoreBits(void* p, I x) { *static_cast<UnalignedI*>(p) = x; }

// sum + a b, rounded once. By name: left to itself GCC fuses the two in one unrolled loop and not
// in another, and a number's bits would depend on its neighbours.
inline V MultiplyAdd(V sum, V a, V b) {
#ifdef __AVX512F__
  return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#else
  for (int i = 0; i < kLanes / 8; i++) {
    __m256 part[3];
    memcpy(&part[0], reinterpret_cast<char*>(&sum) + 32 * i, 32);
    memcpy(&part[1], reinterpret_cast<char*>(&a) + 32 * i, 32);
    memcpy(&part[2], reinterpret_cast<char*>(&b) + 32 * i, 32);
    part[0] = _mm256_fmadd_ps(part[1], part[2], part[0]);
    memcpy(reinterpret_cast<char*>(&sum) + 32 * i, &part[0], 32);
  }
  return sum;
#endif
}

// 16-bit numbers, each in the low half of a lane. Without AVX-512 by eight; a build that tests 16
// lanes on any processor has two of these.
inline I LoadShorts(const void* p) {
#ifdef __AVX512F__
  return (I)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
#else
  I x;
  for (int i = 0; i < kLanes; i += 8) {
    const auto* part = (const __m128i*)(static_cast<const uint16_t*>(p) + i);
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(part));
    memcpy(reinterpret_cast<int32_t*>(&x) + i, &wide, sizeof(wide));
  }
  return x;
#endif
}
inline void StoreShorts(void* p, I x) {
#ifdef __AVX512F__
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16((__m512i)x));
#else
  for (int i = 0; i < kLanes; i += 8) {
    __m256i wide;
    memcpy(&wide, reinterpret_cast<const int32_t*>(&x) + i, sizeof(wide));
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08);
    _mm_storeu_si128((__m128i*)(static_cast<uint16_t*>(p) + i), _mm256_castsi256_si128(both));
  }
#endif
}

// The upper half of each lane is x rounded to bfloat16, to nearest even.
inline I Rounded(V x) {
  const I bits = Bits(x);
  const I rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return x == x ? rounded : (bits | 0x400000);  // a NaN stays one
}

inline V Load(const Bfloat16* p) { return Bits(LoadShorts(p) << 16); }
inline void Store(Bfloat16* p, V x) { StoreShorts(p, (Rounded(x) >> 16) & 0xffff); }

inline V Load(const Half* p) {
#ifdef __AVX512F__
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#else
  V x;
  for (int i = 0; i < kLanes; i += 8) {
    const __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + i)));
    memcpy(reinterpret_cast<float*>(&x) + i, &wide, sizeof(wide));
  }
  return x;
#endif
}
inline void Store(Half* p, V x) {
#ifdef __AVX512F__
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; i += 8) {
    __m256 wide;
    memcpy(&wide, reinterpret_cast<const float*>(&x) + i, sizeof(wide));
    _mm_storeu_si128((__m128i*)(p + i), _mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT));
  }
#endif
}

// The first n of a vector's elements; n may exceed them. The other lanes are 0.
template <typename T>
inline V Load(const T* p, int64_t n) {
  if (n >= kLanes) return Load(p);
  T part[kLanes] = {};
  for (int64_t i = 0; i < n; i++) part[i] = p[i];
  return Load(part);
}
template <typename T>
inline void Store(T* p, V x, int64_t n) {
  if (n >= kLanes) return Store(p, x);
  T part[kLanes];
  Store(part, x);
  for (int64_t i = 0; i < n; i++) p[i] = part[i];
}

template <int S, typename X, size_t... J>
inline void Exchange(X& a, X& b, std::index_sequence<J...>) {
  constexpr int L = kLanes;
  const X low = __builtin_shufflevector(a, b, ((J & S) ? int(J) - S + L : int(J))...);
  b = __builtin_shufflevector(a, b, ((J & S) ? int(J) + L : int(J) + S)...);
  a = low;
}

template <int S = kLanes / 2>
inline void Transpose(V (&m)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i++)
    if (!(i & S)) Exchange<S>(m[i], m[i + S], std::make_index_sequence<kLanes>());
  if constexpr (S > 1) Transpose<S / 2>(m);
}

// From numbers that take turns, a's first, those in even places and those in odd ones; and back.
template <size_t... J>
inline void Unzip(V& a, V& b, std::index_sequence<J...>) {
  const V even = __builtin_shufflevector(a, b, int(2 * J)...);
  b = __builtin_shufflevector(a, b, int(2 * J + 1)...);
  a = even;
}
template <size_t... J>
inline void Zip(V& a, V& b, std::index_sequence<J...>) {
  constexpr int L = kLanes;
  const V first = __builtin_shufflevector(a, b, int(J / 2 + J % 2 * L)...);
  b = __builtin_shufflevector(a, b, int(L / 2 + J / 2 + J % 2 * L)...);
  a = first;
}
inline void Unzip(V& a, V& b) { Unzip(a, b, std::make_index_sequence<kLanes>()); }
inline void Zip(V& a, V& b) { Zip(a, b, std::make_index_sequence<kLanes>()); }

// Lane i of the result is the sum of the lanes of m[i], which is used up.
template <int S = kLanes / 2, typename X>
inline X AddLanes(X (&m)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < S; i++) {
    Exchange<S>(m[i], m[i + S], std::make_index_sequence<kLanes>());
    m[i] += m[i + S];
  }
  if constexpr (S > 1) AddLanes<S / 2>(m);
  return m[0];
}

// The first n lanes, and y in the others.
inline V Select(V x, int64_t n, float y) {
  if (n >= kLanes) return x;
  I lane;
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  return lane < Splat(int32_t(n)) ? x : Splat(y);
}
inline V First(V x, int64_t n) { return Select(x, n, 0.0f); }

inline float Sum(V x) {
  float parts[kLanes];
  Store(parts, x);
  for (int n = kLanes / 2; n; n /= 2)  // in pairs, which rounds less often than in a row
    for (int i = 0; i < n; i++) parts[i] += parts[i + n];
  return parts[0];
}

inline V Minimum(V x, float y) { return x > y ? Splat(y) : x; }  // of NaN: NaN
inline V Maximum(V x, float y) { return x < y ? Splat(y) : x; }

// e^x within 2 units in the last place: 2^n e^r with |r| <= ln 2 / 2, and the Taylor series of e^r.
inline V Exp(V x) {
  x = Maximum(Minimum(x, 89.0f), -105.0f);  // beyond, the result is infinite, or 0
  const V magic = Splat(12582912.0f);       // 1.5 * 2^23: the sum's last bits are the integer
  const V shifted = x * 1.44269504f + magic;
  const V n = shifted - magic;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = Splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = (p * r * r + r) + 1.0f;  // the large terms last, so that few bits are lost
  // in two factors, either of which is a normal number where their product is not
  const I power = Bits(shifted) - Bits(magic);
  const I half = power >> 1;
  return p * Bits((half + 127) << 23) * Bits((power - half + 127) << 23);
}

inline V Sigmoid(V x) { return 1.0f / (1.0f + Exp(-x)); }

// The normal distribution: its density, and the share P below x.
//
// Away from 0 the share beyond |x| is e^(-x^2 / 2) t R(t) with t = 1 / (1 + 0.35 |x|), the form of
// Hastings' approximations of erfc. R is of degree 8 and fitted for this file: relative to the
// share its error is below 3.3e-8 up to |x| = 14, where the exponential is near its end. Near 0 P
// is its Taylor series, which rounds less. In float32 P has an error below 1.3e-7, 4e-7 of itself
// down to x = -3, and from there on x^2 / 2 more of the rounding unit.
struct Normal {
  V density, below;
  explicit Normal(V x) {
    const V size = Bits(Bits(x) & 0x7fffffff), square = x * x, bell = Exp(square * -0.5f);
    const V t = 1.0f / (1.0f + 0.35f * size);
    V r = Splat(-0.0291578740f);
    r = r * t + 0.144030862f;
    r = r * t - 0.255838884f;
    r = r * t + 0.159319558f;
    r = r * t - 0.0232122596f;
    r = r * t + 0.105552463f;
    r = r * t + 0.119821297f;
    r = r * t + 0.139863514f;
    r = r * t + 0.139621307f;
    const V beyond = bell * (r * t), far = x < 0.0f ? beyond : 1.0f - beyond;
    V c = Splat(1.0f / 599040);  // of x^(2k + 1): (-1/2)^k / (k! (2k + 1))
    c = c * square - 1.0f / 42240;
    c = c * square + 1.0f / 3456;
    c = c * square - 1.0f / 336;
    c = c * square + 1.0f / 40;
    c = c * square - 1.0f / 6;
    c = c * square + 1.0f;
    constexpr float kHeight = 0.398942280f;  // 1 / sqrt(2 pi)
    density = bell * kHeight;
    below = size < 0.8f ? 0.5f + x * kHeight * c : far;
  }
};

// act = silu(gate) up with silu(x) = x sigmoid(x), and its derivatives, where d is that of act:
// silu' = s + silu (1 - s).
struct SwigluGradient {
  V act, d_gate, d_up;
  SwigluGradient(V gate, V up, V d) {
    const V sigmoid = Sigmoid(gate), silu = gate * sigmoid;
    act = silu * up;
    d_gate = d * up * (sigmoid + silu * (1.0f - sigmoid));
    d_up = d * silu;
  }
};

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
