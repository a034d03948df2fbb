// Cast: every pair of the table, every rounding mode; and the instructions that end in a Cast.
#include <cmath>
#include <limits>

#include "instructions.h"
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

// An element of 4 bits is computed as one of 8.
int8_t SaturateInt4(double value) { return std::clamp<int8_t>(Saturate<int8_t>(value), -8, 7); }

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
    return static_cast<float>(RoundToIntegral(static_cast<double>(value), mode)) + 0.0f;  // no -0
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

// Two elements of 4 bits are one lane, the first in the lower half of the byte.
template <>
void Run<AscendC::int4b_t, half>(uint8_t* dst, const uint8_t* src, uint32_t count, RoundMode mode,
                                 float) {
  const auto* s = reinterpret_cast<const half*>(src);
  const auto convert = [&](half value) {
    return SaturateInt4(RoundToIntegral(static_cast<double>(static_cast<float>(value)), mode)) & 15;
  };
  for (uint32_t i = 0; i < count; ++i) {
    dst[i] = static_cast<uint8_t>(convert(s[2 * i]) | convert(s[2 * i + 1]) << 4);
  }
}

template <>
void Run<half, AscendC::int4b_t>(uint8_t* dst, const uint8_t* src, uint32_t count, RoundMode,
                                 float) {
  auto* d = reinterpret_cast<half*>(dst);
  for (uint32_t i = 0; i < count; ++i) {
    d[2 * i] = half(((src[i] & 15) ^ 8) - 8);
    d[2 * i + 1] = half(((src[i] >> 4) ^ 8) - 8);
  }
}

// in the order of casts::kPairs
constexpr CastRun kRuns[] = {
#define MOGE_RUN(src, dst, modes) &Run<TypeOf<DType::k##dst>::Type, TypeOf<DType::k##src>::Type>,
    MOGE_CASTS(MOGE_RUN)
#undef MOGE_RUN
};

constexpr bool IsInt4(const Operand& operand) { return operand.dtype == DType::kInt4; }

// The lanes of pairs of elements.
Lanes PairsOf(const Lanes& lanes) {
  Lanes pairs = lanes;
  pairs.lanes /= 2;
  const auto pair_up = [](const LaneMask& from, LaneMask* to) {
    *to = {};
    uint64_t number = 0;
    bool even = true;
    for (uint32_t lane = 0; lane < 128; lane += 2) {
      even = even && HasLane(from, lane) == HasLane(from, lane + 1);
      if (!HasLane(from, lane) && !HasLane(from, lane + 1)) continue;
      (*to)[0] |= uint64_t{1} << (lane / 2);
      ++number;
    }
    if (!even) {
      Report(Rule::kCastPairs, "count and mask are even, and the bits of a pair are the same");
    }
    return number;
  };
  const uint64_t each = pair_up(lanes.mask, &pairs.mask);
  const uint64_t last = pair_up(lanes.last, &pairs.last);
  pairs.elements = lanes.repeats == 0 ? 0 : each * (lanes.repeats - 1) + last;
  return pairs;
}

// Of a pair of elements: a byte of int4b_t, 4 bytes of half.
Operand PairsOf(const Operand& operand) {
  return {operand.ref, IsInt4(operand) ? DType::kUint8 : DType::kUint32, operand.block_stride,
          operand.repeat_stride};
}

float DequantScale(const Core& core) {
  if (!core.registers.dequant_scale) Fail(Rule::kCastDeqScale, "call SetDeqScale(half) first");
  return *core.registers.dequant_scale;
}

half Scaled(int32_t value, float scale) { return half(static_cast<float>(value) * scale); }

float AtLeastZero(float value) { return value > 0 ? value : 0; }  // of NaN it is 0

// What the instruction makes of two elements. The sum and the product are of the sources' type.
template <typename T, typename U>
T Combine(Op op, U a, U b, float scale) {
  if constexpr (std::is_same_v<U, int32_t>) {
    const int64_t sum = int64_t{a} + b;
    if (sum != static_cast<int32_t>(sum)) {
      Report(Rule::kIntOverflow, "%lld does not fit int32", static_cast<long long>(sum));
    }
    return half(AtLeastZero(static_cast<float>(Scaled(static_cast<int32_t>(sum), scale))));
  } else if constexpr (std::is_same_v<U, int16_t>) {
    return SaturateInteger<T>(std::max(op == Op::kAddReluCast ? a + b : a - b, 0));
  } else {
    const auto x = static_cast<float>(a), y = static_cast<float>(b);
    const U result = op == Op::kMulCast ? U(x * y) : op == Op::kAddReluCast ? U(x + y) : U(x - y);
    const auto value = static_cast<float>(result);
    return Convert<T, float>(op == Op::kMulCast ? value : AtLeastZero(value), RoundMode::CAST_RINT,
                             0);
  }
}

template <typename T, typename U>
void CombineRun(Op op, std::array<uint8_t*, 3> at, uint32_t count, float scale) {
  auto* d = reinterpret_cast<T*>(at[0]);
  const auto* a = reinterpret_cast<const U*>(at[1]);
  const auto* b = reinterpret_cast<const U*>(at[2]);
  for (uint32_t i = 0; i < count; ++i) d[i] = Combine<T, U>(op, a[i], b[i], scale);
}

}  // namespace

void Cast(const Operand& dst, const Operand& src, RoundMode mode, const Extent& extent) {
  Core& core = Begin(Op::kCast, PIPE_V);
  const int pair = casts::Find(dst.dtype, src.dtype);
  if ((casts::kPairs[pair].modes & casts::Bit(mode)) == 0) {
    static constexpr const char* kNames[] = {"NONE",  "RINT",  "FLOOR", "CEIL",
                                             "ROUND", "TRUNC", "ODD"};
    Report(Rule::kCastMode, "%s to %s does not take CAST_%s", Name(src.dtype), Name(dst.dtype),
           kNames[static_cast<int>(mode)]);
  }
  const bool scales = dst.dtype == DType::kHalf && src.dtype == DType::kInt32;
  const float scale = scales ? DequantScale(core) : 0;
  const Lanes lanes = Resolve(core, extent, std::max(SizeOf(dst.dtype), SizeOf(src.dtype)));
  const auto run = [&](auto at, uint32_t count) { kRuns[pair](at[0], at[1], count, mode, scale); };
  if (!IsInt4(dst) && !IsInt4(src)) {
    if (!PrepareElements(core, src.dtype, dst, {&src}, lanes)) return;
    return ForEachElementRun<2>(core, {&dst, &src}, lanes, run);
  }
  core.Compute(src.dtype, lanes);
  const Lanes pairs = PairsOf(lanes);
  const Operand to = PairsOf(dst), from = PairsOf(src);
  CheckAlive(core, to);
  ReadSources(core, {&from}, pairs);
  CheckOverlap(core, to, from, pairs);
  WriteOperand(core, to, pairs);
  if (!core.lacks_data) ForEachElementRun<2>(core, {&to, &from}, pairs, run);
}

void Dequantise(const Operand& dst, const Operand& src, const Extent& extent) {
  Core& core = Begin(Op::kCastDequant, PIPE_V);
  const float scale = DequantScale(core);
  const Lanes lanes = Resolve(core, extent, SizeOf(src.dtype));
  if (!PrepareElements(core, src.dtype, dst, {&src}, lanes)) return;
  ForEachElementRun<2>(core, {&dst, &src}, lanes, [&](auto at, uint32_t count) {
    Run<half, int32_t>(at[0], at[1], count, RoundMode::CAST_RINT, scale);
  });
}

void BinaryCast(Op op, const Operand& dst, const Operand& src0, const Operand& src1,
                const Extent& extent) {
  Core& core = Begin(op, PIPE_V);
  const float scale = op == Op::kAddDeqRelu ? DequantScale(core) : 0;
  const Lanes lanes = Resolve(core, extent, SizeOf(src0.dtype));
  if (!PrepareElements(core, src0.dtype, dst, {&src0, &src1}, lanes)) return;
  ForEachElementRun<3>(core, {&dst, &src0, &src1}, lanes, [&](auto at, uint32_t count) {
    if (src0.dtype == DType::kInt32) return CombineRun<half, int32_t>(op, at, count, scale);
    if (src0.dtype == DType::kFloat) return CombineRun<half, float>(op, at, count, scale);
    if (src0.dtype == DType::kInt16) return CombineRun<int8_t, int16_t>(op, at, count, scale);
    if (dst.dtype == DType::kUint8) return CombineRun<uint8_t, half>(op, at, count, scale);
    CombineRun<int8_t, half>(op, at, count, scale);
  });
}

half RoundToHalfOdd(float value) { return RoundToShort<half>(value, RoundMode::CAST_ODD); }

int32_t RoundToInt(float value, RoundMode mode) {
  return Saturate<int32_t>(RoundToIntegral(value, mode));
}

}  // namespace emulator
