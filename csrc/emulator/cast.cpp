// Cast: every pair of the table, every rounding mode.
#include <cmath>
#include <limits>

#include "operand.h"

namespace emulator {

namespace {

double RoundToIntegral(double value, RoundMode mode) {
  if (mode == RoundMode::CAST_FLOOR) return std::floor(value);
  if (mode == RoundMode::CAST_CEIL) return std::ceil(value);
  if (mode == RoundMode::CAST_ROUND) return std::round(value);
  if (mode == RoundMode::CAST_TRUNC) return std::trunc(value);
  return std::nearbyint(value);
}

// A magnitude lies between two neighbours of the narrower type: whether the upper one is the
// result.
bool RoundsAway(double magnitude, double lower, double upper, bool negative, bool lower_is_odd,
                RoundMode mode) {
  if (magnitude == lower) return false;
  switch (mode) {
    case RoundMode::CAST_FLOOR:
      return negative;
    case RoundMode::CAST_CEIL:
      return !negative;
    case RoundMode::CAST_TRUNC:
      return false;
    case RoundMode::CAST_ODD:
      return !lower_is_odd;
    default: {
      const double below = magnitude - lower;
      const double above = upper - magnitude;
      if (below != above) return above < below;
      return mode == RoundMode::CAST_ROUND || lower_is_odd;
    }
  }
}

// The bits of half and bf16 are a sign and a magnitude, which grows with its bits.
template <typename T>
T RoundToShort(float value, RoundMode mode) {
  if (!std::isfinite(value)) return T(value);
  constexpr bool kHalf = std::is_same_v<T, half>;
  constexpr uint16_t kInfinity = kHalf ? 0x7c00 : 0x7f80;
  const auto from_bits = [](uint16_t bits) {
    T result;
    result.bits = bits;
    return result;
  };
  // the value that infinity's bits would have if the exponent went on
  const auto extended = [&](uint16_t bits) {
    if (bits == kInfinity) return kHalf ? 65536.0 : 0x1p128;
    return static_cast<double>(static_cast<float>(from_bits(bits)));
  };
  const double magnitude = std::fabs(static_cast<double>(value));
  const bool negative = std::signbit(value);
  auto bits = static_cast<uint16_t>(T(static_cast<float>(magnitude)).bits & 0x7fff);
  if (bits == kInfinity || extended(bits) > magnitude) --bits;
  const auto next = static_cast<uint16_t>(bits + 1);
  if (RoundsAway(magnitude, extended(bits), extended(next), negative, (bits & 1) != 0, mode)) {
    bits = next;
  }
  return from_bits(static_cast<uint16_t>(bits | (negative ? 0x8000 : 0)));
}

float RoundToFloat(long double value, RoundMode mode) {
  const auto nearest = static_cast<float>(value);
  if (mode == RoundMode::CAST_NONE || mode == RoundMode::CAST_RINT) return nearest;
  const long double magnitude = std::fabs(value);
  float lower = std::fabs(nearest);
  if (static_cast<long double>(lower) > magnitude) lower = std::nextafter(lower, 0.0f);
  const float upper = std::nextafter(lower, std::numeric_limits<float>::infinity());
  // the differences are small integers here: int64 is the only source wider than a float
  const auto base = static_cast<long double>(lower);
  const bool away = RoundsAway(static_cast<double>(magnitude - base), 0.0,
                               static_cast<double>(static_cast<long double>(upper) - base),
                               value < 0, (FloatBits(lower) & 1) != 0, mode);
  return std::copysign(away ? upper : lower, static_cast<float>(value));
}

template <typename T>
T Saturate(double value) {
  if (std::isnan(value)) return 0;
  // the limits of int64 are not doubles: compare with the powers of two around them
  const double low = static_cast<double>(std::numeric_limits<T>::min());
  const double high = std::is_unsigned_v<T> ? 256.0 : -low;  // uint8 is the only unsigned target
  if (value < low) return std::numeric_limits<T>::min();
  if (value >= high) return std::numeric_limits<T>::max();
  return static_cast<T>(value);
}

template <typename T, typename U>
T SaturateInteger(U value) {
  if (value < std::numeric_limits<T>::min()) return std::numeric_limits<T>::min();
  if (value > std::numeric_limits<T>::max()) return std::numeric_limits<T>::max();
  return static_cast<T>(value);
}

template <typename T, typename U>
T Convert(U value, RoundMode mode, float deq_scale) {
  constexpr bool kFromInteger = std::is_integral_v<U>;
  if constexpr (std::is_integral_v<T> && kFromInteger) {
    return SaturateInteger<T>(value);
  } else if constexpr (std::is_integral_v<T>) {
    return Saturate<T>(RoundToIntegral(static_cast<double>(static_cast<float>(value)), mode));
  } else if constexpr (std::is_same_v<T, half> && std::is_same_v<U, int32_t>) {
    return half(static_cast<float>(value) * deq_scale);
  } else if constexpr (std::is_same_v<T, float> && kFromInteger) {
    return RoundToFloat(static_cast<long double>(value), mode);
  } else if constexpr (std::is_same_v<T, float> && std::is_same_v<U, float>) {
    return static_cast<float>(RoundToIntegral(static_cast<double>(value), mode));
  } else if constexpr (std::is_same_v<T, float>) {
    return static_cast<float>(value);
  } else {
    return RoundToShort<T>(static_cast<float>(value), mode);
  }
}

using CastRun = void (*)(uint8_t* dst, const uint8_t* src, uint32_t count, RoundMode mode,
                         float deq_scale);

template <typename T, typename U>
void Run(uint8_t* dst, const uint8_t* src, uint32_t count, RoundMode mode, float deq_scale) {
  auto* d = reinterpret_cast<T*>(dst);
  const auto* s = reinterpret_cast<const U*>(src);
  if constexpr (std::is_same_v<U, float> && !std::is_arithmetic_v<T>) {
    if (mode == RoundMode::CAST_RINT || mode == RoundMode::CAST_NONE) {  // most casts take this way
      for (uint32_t i = 0; i < count; ++i) d[i] = T(s[i]);
      return;
    }
  }
  for (uint32_t i = 0; i < count; ++i) d[i] = Convert<T, U>(s[i], mode, deq_scale);
}

// bits of the modes that a pair takes
constexpr uint32_t Bit(RoundMode mode) { return 1u << static_cast<int>(mode); }
constexpr uint32_t kNone = Bit(RoundMode::CAST_NONE);
constexpr uint32_t kModes = Bit(RoundMode::CAST_RINT) | Bit(RoundMode::CAST_FLOOR) |
                            Bit(RoundMode::CAST_CEIL) | Bit(RoundMode::CAST_ROUND) |
                            Bit(RoundMode::CAST_TRUNC);
constexpr uint32_t kAny = kNone | kModes | Bit(RoundMode::CAST_ODD);

struct Pair {
  DType dst;
  DType src;
  uint32_t modes;
  CastRun run;
};
template <typename T, typename U>
constexpr Pair MakePair(uint32_t modes) {
  return {kDTypeOf<T>, kDTypeOf<U>, modes, &Run<T, U>};
}

constexpr Pair kPairs[] = {
    MakePair<float, half>(kNone),
    MakePair<int32_t, half>(kModes),
    MakePair<int16_t, half>(kModes),
    MakePair<int8_t, half>(kModes | kNone),
    MakePair<uint8_t, half>(kModes | kNone),
    MakePair<half, float>(kAny),
    MakePair<bfloat16_t, float>(kModes),
    MakePair<int32_t, float>(kModes),
    MakePair<int16_t, float>(kModes),
    MakePair<int64_t, float>(kModes),
    MakePair<float, float>(kModes),
    MakePair<float, bfloat16_t>(kNone),
    MakePair<int32_t, bfloat16_t>(kModes),
    MakePair<half, int8_t>(kNone),
    MakePair<half, uint8_t>(kNone),
    MakePair<half, int16_t>(kModes | kNone),
    MakePair<float, int16_t>(kNone),
    MakePair<float, int32_t>(kModes | kNone),
    MakePair<int16_t, int32_t>(kNone),
    MakePair<int64_t, int32_t>(kNone),
    MakePair<half, int32_t>(kAny),
    MakePair<int32_t, int64_t>(kNone),
    MakePair<float, int64_t>(kModes),
};

const Pair& FindPair(DType dst, DType src) {
  for (const Pair& pair : kPairs) {
    if (pair.dst == dst && pair.src == src) return pair;
  }
  throw std::logic_error("Cast: a pair of types that the header lets through has no conversion");
}

}  // namespace

void Cast(const Operand& dst, const Operand& src, RoundMode mode, const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(Op::kCast, PIPE_V);
  const Pair& pair = FindPair(dst.dtype, src.dtype);
  if ((pair.modes & Bit(mode)) == 0) {
    static constexpr const char* kNames[] = {"NONE",  "RINT",  "FLOOR", "CEIL",
                                             "ROUND", "TRUNC", "ODD"};
    Report(Rule::kCastMode, "%s to %s does not take CAST_%s", Name(src.dtype), Name(dst.dtype),
           kNames[static_cast<int>(mode)]);
  }
  const std::optional<float>& scale = core.registers.dequant_scale;
  if (dst.dtype == DType::kHalf && src.dtype == DType::kInt32 && !scale) {
    Fail(Rule::kCastDeqScale, "call SetDeqScale(half) first");
  }
  const Lanes lanes = Resolve(core, extent, std::max(SizeOf(dst.dtype), SizeOf(src.dtype)));
  if (!PrepareElements(core, src.dtype, dst, {&src}, lanes)) return;
  ForEachElementRun<2>(core, {&dst, &src}, lanes, [&](auto at, uint32_t count) {
    pair.run(at[0], at[1], count, mode, scale.value_or(0));
  });
}

}  // namespace emulator
