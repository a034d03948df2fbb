// Conversions of results: scale, shift, offset and ReLU of the way out of L0C.
#include "quant.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace emulator {

Scaling ScalingOf(DType from, DType to, QuantMode_t mode) {
  struct Entry {
    DType from, to;
    QuantMode_t mode;
    Scaling scaling;
  };
  static constexpr Entry kTable[] = {
      {DType::kFloat, DType::kFloat, QuantMode_t::NoQuant, Scaling::kNone},
      {DType::kFloat, DType::kHalf, QuantMode_t::F322F16, Scaling::kNone},
      {DType::kFloat, DType::kBfloat16, QuantMode_t::F322BF16, Scaling::kNone},
      {DType::kFloat, DType::kInt8, QuantMode_t::QF322B8_PRE, Scaling::kOne},
      {DType::kFloat, DType::kUint8, QuantMode_t::QF322B8_PRE, Scaling::kOne},
      {DType::kFloat, DType::kInt8, QuantMode_t::VQF322B8_PRE, Scaling::kVector},
      {DType::kFloat, DType::kUint8, QuantMode_t::VQF322B8_PRE, Scaling::kVector},
      {DType::kInt32, DType::kInt32, QuantMode_t::NoQuant, Scaling::kNone},
      {DType::kInt32, DType::kHalf, QuantMode_t::DEQF16, Scaling::kOne},
      {DType::kInt32, DType::kHalf, QuantMode_t::VDEQF16, Scaling::kVector},
      {DType::kInt32, DType::kInt8, QuantMode_t::REQ8, Scaling::kOne},
      {DType::kInt32, DType::kUint8, QuantMode_t::REQ8, Scaling::kOne},
      {DType::kInt32, DType::kInt8, QuantMode_t::VREQ8, Scaling::kVector},
      {DType::kInt32, DType::kUint8, QuantMode_t::VREQ8, Scaling::kVector},
  };
  for (const Entry& entry : kTable) {
    if (entry.from == from && entry.to == to && entry.mode == mode) return entry.scaling;
  }
  Fail(Rule::kFixpipeQuant, "quantPre %d from %s to %s", static_cast<int>(mode), Name(from),
       Name(to));
}

namespace {

// The documented fields of a scale: a float of 1, 8 and 10 bits, a shift, an offset, a sign.
struct Scale {
  explicit Scale(uint64_t bits)
      : factor(BitsFloat(static_cast<uint32_t>(bits) & 0xffffe000u)),
        shift((bits >> 36 & 1) != 0 ? static_cast<uint32_t>(bits >> 32 & 15) + 1 : 0),
        offset(static_cast<int32_t>(bits >> 37 & 511)),
        is_signed((bits >> 46 & 1) != 0) {
    if (offset > 255) offset -= 512;
  }

  float factor;
  uint32_t shift;
  int32_t offset;
  bool is_signed;
};

float ToFloat(DType from, const uint8_t* at, uint32_t shift) {
  if (from == DType::kFloat) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  int32_t value;
  std::memcpy(&value, at, sizeof value);
  if (shift != 0) value = std::clamp(value >> shift, -32768, 32767);
  return static_cast<float>(value);
}

}  // namespace

void ConvertElement(DType from, DType to, Scaling scaling, uint64_t scale_bits, bool relu,
                    const uint8_t* at, uint8_t* out) {
  if (from == DType::kInt32 && to == DType::kInt32) {
    int32_t value;
    std::memcpy(&value, at, sizeof value);
    if (relu) value = std::max(value, 0);
    std::memcpy(out, &value, sizeof value);
    return;
  }
  const Scale scale(scale_bits);
  float value = ToFloat(from, at, scaling == Scaling::kNone ? 0 : scale.shift);
  if (relu && value < 0) {  // what is negative has a factor of its own, which is 0
    value = 0;
  } else if (scaling != Scaling::kNone) {
    value *= scale.factor;
  }
  switch (to) {
    case DType::kFloat:
      std::memcpy(out, &value, sizeof value);
      return;
    case DType::kHalf:
    case DType::kBfloat16: {
      const uint16_t bits = to == DType::kHalf ? FloatToHalf(value) : FloatToBfloat16(value);
      std::memcpy(out, &bits, sizeof bits);
      return;
    }
    default: {
      const float low = scale.is_signed ? -128.0f : 0.0f;
      const float high = scale.is_signed ? 127.0f : 255.0f;
      // 9 bits, and those with the offset to 8
      const float rounded = std::isnan(value) ? 0.0f : std::nearbyint(value);
      const float offset = std::clamp(rounded, -256.0f, 255.0f) + static_cast<float>(scale.offset);
      *out = static_cast<uint8_t>(static_cast<int>(std::clamp(offset, low, high)));
    }
  }
}

}  // namespace emulator
