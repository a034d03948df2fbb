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
  template <typename N, typename = std::enable_if_t<std::is_arithmetic_v<N>>>
  half(N value) : bits(emulator::FloatToHalf(static_cast<float>(value))) {}
  operator float() const { return emulator::HalfToFloat(bits); }
};

struct bfloat16_t {
  uint16_t bits;

  bfloat16_t() = default;
  template <typename N, typename = std::enable_if_t<std::is_arithmetic_v<N>>>
  explicit bfloat16_t(N value) : bits(emulator::FloatToBfloat16(static_cast<float>(value))) {}
  explicit operator float() const { return emulator::BitsFloat(static_cast<uint32_t>(bits) << 16); }
};

namespace AscendC {
inline bfloat16_t ToBfloat16(const float& value) { return bfloat16_t(value); }
inline float ToFloat(const bfloat16_t& value) { return static_cast<float>(value); }
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
  X(kInt64, int64_t, "int64")

enum class DType : uint8_t {
#define MOGE_DTYPE(name, type, text) name,
  MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
};
inline constexpr int kDTypes = static_cast<int>(DType::kInt64) + 1;

constexpr uint32_t SizeOf(DType dtype) {
  constexpr uint32_t kSizes[] = {
#define MOGE_DTYPE(name, type, text) sizeof(type),
      MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
  };
  return kSizes[static_cast<int>(dtype)];
}

template <typename T>
struct DTypeOf;
#define MOGE_DTYPE(name, type, text)            \
  template <>                                   \
  struct DTypeOf<type> {                        \
    static constexpr DType value = DType::name; \
  };
MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE

template <typename T>
inline constexpr DType kDTypeOf = DTypeOf<T>::value;

template <typename T, typename... Types>
inline constexpr bool kIsOneOf = (std::is_same_v<T, Types> || ...);

template <typename T>
inline constexpr bool kIs16Or32Bit = sizeof(T) == 2 || sizeof(T) == 4;

}  // namespace emulator

#endif  // MOGE_EMULATOR_TYPES_H_
