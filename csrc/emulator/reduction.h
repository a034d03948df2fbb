// What the reductions share, for the emulator's own .cpp files only. Sums are binary trees of
// neighbours, rounded at every node; of equal extremes the first wins.
#ifndef MOGE_EMULATOR_REDUCTION_H_
#define MOGE_EMULATOR_REDUCTION_H_

#include <cmath>

#include "operand.h"

namespace emulator {

inline constexpr uint32_t kMaxLanes = 128;  // of half

// an index as the bits of an element
inline void StoreIndex(DType dtype, uint8_t* to, uint32_t index) {
  std::memcpy(to, &index, SizeOf(dtype));  // half has room for the lower 16 bits
}

inline float Rounded(DType dtype, float value) {
  return dtype == DType::kHalf ? HalfToFloat(FloatToHalf(value)) : value;
}

// The first `count` values are used up.
inline float TreeSum(DType dtype, float* values, size_t count) {
  while (count > 1) {
    const size_t pairs = (count + 1) / 2;
    for (size_t i = 0; i < pairs; ++i) {
      const float second = 2 * i + 1 < count ? values[2 * i + 1] : 0.0f;
      values[i] = Rounded(dtype, values[2 * i] + second);
    }
    count = pairs;
  }
  return values[0];
}

struct Extreme {
  float value = 0;
  uint32_t index = 0;
  bool any = false;

  void Take(ReduceType type, float next, uint32_t at) {
    const bool better = type == ReduceType::MAX ? next > value : next < value;
    if (!any || (!std::isnan(value) && (better || std::isnan(next)))) {
      value = next;
      index = at;
    }
    any = true;
  }
};

// The sum of the lanes of one repeat.
inline float SumOfRepeat(const Operand& src, const uint8_t* from, const Lanes& lanes,
                         uint32_t repeat) {
  std::array<float, kMaxLanes> terms{};
  for (uint32_t lane = 0; lane < lanes.lanes; ++lane) {
    if (!HasLane(lanes.Mask(repeat), lane)) continue;
    terms[lane] = LoadFloat(src.dtype, from + LaneOffset(src, repeat, lane));
  }
  return TreeSum(src.dtype, terms.data(), lanes.lanes);
}

// The extreme of the lanes of one repeat, or of those and an earlier one. Lanes count from `first`.
inline void TakeRepeat(Extreme& extreme, ReduceType type, const Operand& src, const uint8_t* from,
                       const Lanes& lanes, uint32_t repeat, uint32_t first) {
  for (uint32_t lane = 0; lane < lanes.lanes; ++lane) {
    if (!HasLane(lanes.Mask(repeat), lane)) continue;
    extreme.Take(type, LoadFloat(src.dtype, from + LaneOffset(src, repeat, lane)), first + lane);
  }
}

// What the scalar unit can ask for afterwards.
inline Reduced ResultOf(const Core& core, DType dtype, float value, uint32_t index) {
  return {dtype, value, index, core.lacks_data};
}

}  // namespace emulator

#endif  // MOGE_EMULATOR_REDUCTION_H_
