// Element types, the decorations of a kernel, and the emulator's name for each type.
#ifndef MOGE_EMULATOR_TYPES_H_
#define MOGE_EMULATOR_TYPES_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#define __aicore__
#define __global__
#define __gm__
#define __ubuf__
#define __vector__
#define __cube__
#define __mix__(cube_cores, vector_cores)
#define __schedmode__(mode)
#define __host__
#define __forceinline__ inline
#define GM_ADDR __gm__ uint8_t*

namespace emulator {

inline uint32_t FloatBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float BitsFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// round to nearest even, overflow to infinity
inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = FloatBits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude >= 0x38800000u) {
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
  // subnormal: adding 0.5 leaves the rounded significand, in units of 2^-24, in the low bits
  const float shifted = BitsFloat(magnitude) + 0.5f;
  return static_cast<uint16_t>(sign | (FloatBits(shifted) - 0x3f000000u));
}

inline float HalfToFloat(uint16_t half_bits) {
  const uint32_t sign = static_cast<uint32_t>(half_bits & 0x8000u) << 16;
  const uint32_t magnitude = half_bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return BitsFloat(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x400u) return BitsFloat(sign | ((magnitude << 13) + 0x38000000u));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return sign != 0 ? -value : value;
}

inline uint16_t FloatToBfloat16(float value) {
  const uint32_t bits = FloatBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace emulator

struct half {
  uint16_t bits;

  half() = default;
  template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
  half(Number value) : bits(emulator::FloatToHalf(static_cast<float>(value))) {}
  explicit half(struct bfloat16_t value);
  operator float() const { return emulator::HalfToFloat(bits); }
};

struct bfloat16_t {
  uint16_t bits;

  bfloat16_t() = default;
  template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
  bfloat16_t(Number value) : bits(emulator::FloatToBfloat16(static_cast<float>(value))) {}
  explicit bfloat16_t(half value) : bfloat16_t(static_cast<float>(value)) {}
  operator float() const { return emulator::BitsFloat(static_cast<uint32_t>(bits) << 16); }
};

inline half::half(bfloat16_t value) : half(static_cast<float>(value)) {}

// As with types of the language each operation rounds, an integer takes the other operand's type,
// and a half meets a float as a float.
#define MOGE_ARITHMETIC(T, op, assigning)                                                   \
  inline T operator op(T a, T b) { return static_cast<float>(a) op static_cast<float>(b); } \
  template <typename Number, typename = std::enable_if_t<std::is_integral_v<Number>>>       \
  T operator op(T a, Number b) {                                                            \
    return a op T(b);                                                                       \
  }                                                                                         \
  template <typename Number, typename = std::enable_if_t<std::is_integral_v<Number>>>       \
  T operator op(Number a, T b) {                                                            \
    return T(a) op b;                                                                       \
  }                                                                                         \
  template <typename Number, typename = std::enable_if_t<std::is_convertible_v<Number, T>>> \
  T& operator assigning(T& a, Number b) {                                                   \
    return a = T(a op b);                                                                   \
  }
#define MOGE_ARITHMETIC_OF(T) \
  MOGE_ARITHMETIC(T, +, +=)   \
  MOGE_ARITHMETIC(T, -, -=)   \
  MOGE_ARITHMETIC(T, *, *=)   \
  MOGE_ARITHMETIC(T, /, /=)   \
  inline T operator-(T a) { return -static_cast<float>(a); }
MOGE_ARITHMETIC_OF(half)
MOGE_ARITHMETIC_OF(bfloat16_t)
#undef MOGE_ARITHMETIC_OF
#undef MOGE_ARITHMETIC
#define MOGE_WITH_FLOAT(op)                                                                 \
  template <typename Number, typename = std::enable_if_t<std::is_floating_point_v<Number>>> \
  Number operator op(half a, Number b) {                                                    \
    return static_cast<float>(a) op b;                                                      \
  }                                                                                         \
  template <typename Number, typename = std::enable_if_t<std::is_floating_point_v<Number>>> \
  Number operator op(Number a, half b) {                                                    \
    return a op static_cast<float>(b);                                                      \
  }
MOGE_WITH_FLOAT(+)
MOGE_WITH_FLOAT(-)
MOGE_WITH_FLOAT(*)
MOGE_WITH_FLOAT(/)
#undef MOGE_WITH_FLOAT

namespace AscendC {

// 4 bits with a sign. As a C++ object it has a byte of its own; in memory two share one, the first
// in the lower half.
struct int4b_t {
  int8_t value;

  int4b_t() = default;
  template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
  int4b_t(Number number) : value(static_cast<int8_t>((static_cast<int>(number) & 15) ^ 8) - 8) {}
  operator int8_t() const { return value; }
};

}  // namespace AscendC

namespace emulator {

// name of the enumerator, C++ type, name in counters and messages
#define MOGE_EMULATOR_DTYPES(X)    \
  X(kUint8, uint8_t, "uint8")      \
  X(kInt8, int8_t, "int8")         \
  X(kUint16, uint16_t, "uint16")   \
  X(kInt16, int16_t, "int16")      \
  X(kHalf, half, "half")           \
  X(kBfloat16, bfloat16_t, "bf16") \
  X(kUint32, uint32_t, "uint32")   \
  X(kInt32, int32_t, "int32")      \
  X(kFloat, float, "float")        \
  X(kUint64, uint64_t, "uint64")   \
  X(kInt64, int64_t, "int64")      \
  X(kDouble, double, "double")     \
  X(kInt4, AscendC::int4b_t, "int4")

enum class DType : uint8_t {
#define MOGE_DTYPE(name, type, text) name,
  MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
};
inline constexpr int kDTypes = static_cast<int>(DType::kInt4) + 1;

// Bytes of one element; of an int4, which has half of one, 1.
constexpr uint32_t SizeOf(DType dtype) {
  constexpr uint32_t kSizes[] = {
#define MOGE_DTYPE(name, type, text) sizeof(type),
      MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
  };
  return kSizes[static_cast<int>(dtype)];
}

// Bytes of elements in memory, and elements in bytes.
constexpr uint64_t BytesOf(DType dtype, uint64_t elements) {
  return dtype == DType::kInt4 ? elements / 2 : elements * SizeOf(dtype);
}
constexpr uint64_t ElementsIn(DType dtype, uint64_t bytes) {
  return dtype == DType::kInt4 ? bytes * 2 : bytes / SizeOf(dtype);
}

template <typename T>
struct DTypeOf;
template <DType dtype>
struct TypeOf;
#define MOGE_DTYPE(name, type, text)            \
  template <>                                   \
  struct DTypeOf<type> {                        \
    static constexpr DType value = DType::name; \
  };                                            \
  template <>                                   \
  struct TypeOf<DType::name> {                  \
    using Type = type;                          \
  };
MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
template <>
struct DTypeOf<bool> {  // a byte of a tensor of truth values
  static constexpr DType value = DType::kUint8;
};

template <typename T>
inline constexpr DType kDTypeOf = DTypeOf<T>::value;

template <typename T, typename... Types>
inline constexpr bool kIsOneOf = (std::is_same_v<T, Types> || ...);

template <typename T>
inline constexpr bool kIs16Or32Bit = sizeof(T) == 2 || sizeof(T) == 4;

}  // namespace emulator

#endif  // MOGE_EMULATOR_TYPES_H_
