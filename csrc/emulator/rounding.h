// Division rounded up, and the next multiple.
#ifndef MOGE_EMULATOR_ROUNDING_H_
#define MOGE_EMULATOR_ROUNDING_H_

#include <type_traits>

namespace emulator {

template <typename Value, typename Unit>
constexpr std::common_type_t<Value, Unit> CeilDivide(Value value, Unit divisor) {
  return (value + divisor - 1) / divisor;
}

template <typename Value, typename Unit>
constexpr std::common_type_t<Value, Unit> RoundUp(Value value, Unit multiple) {
  return CeilDivide(value, multiple) * multiple;
}

}  // namespace emulator

#endif  // MOGE_EMULATOR_ROUNDING_H_
