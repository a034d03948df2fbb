// Constants, division rounded up, names for types.
#ifndef MOGE_EMULATOR_UTILITIES_H_
#define MOGE_EMULATOR_UTILITIES_H_

#include "rounding.h"
#include "types.h"

namespace AscendC {

inline constexpr uint16_t ONE_BLK_SIZE = 32;
inline constexpr int32_t BLOCK_CUBE = 16;
inline constexpr uint8_t PAD_SIZE = 4;

constexpr uint32_t DivCeil(uint32_t a, uint32_t b) { return emulator::CeilDivide(a, b); }
constexpr uint32_t AlignUp(uint32_t a, uint32_t rnd) { return emulator::RoundUp(a, rnd); }
inline uint32_t Ceil(uint32_t num, uint32_t rnd) { return DivCeil(num, rnd); }

template <typename T, typename U>
struct IsSameType {
  static constexpr bool value = std::is_same_v<T, U>;
};
template <bool condition, typename T, typename U>
struct Conditional {
  using type = std::conditional_t<condition, T, U>;
};
template <typename T>
using PrimT = T;

// names of earlier versions
inline bfloat16_t ToBfloat16(const float& fVal) { return fVal; }
inline float ToFloat(const bfloat16_t& bVal) { return bVal; }

}  // namespace AscendC

#endif  // MOGE_EMULATOR_UTILITIES_H_
