// Sizes of a fractal, for the cube core's .cpp files.
#ifndef MOGE_EMULATOR_FRACTAL_H_
#define MOGE_EMULATOR_FRACTAL_H_

#include <cstdint>

namespace emulator {

inline constexpr uint32_t kSide = 16;      // rows and columns of a fractal of results
inline constexpr uint32_t kRowBytes = 64;  // 16 results

inline uint32_t CeilDivide(uint32_t value, uint32_t divisor) {
  return (value + divisor - 1) / divisor;
}

}  // namespace emulator

#endif  // MOGE_EMULATOR_FRACTAL_H_
