// The arithmetic of Mmad, for the emulator's own .cpp files only.
#ifndef MOGE_EMULATOR_MMAD_H_
#define MOGE_EMULATOR_MMAD_H_

#include <algorithm>

#include "types.h"

namespace emulator {

// float operands rounded to HF32, which has 11 bits of fraction, before they are multiplied
enum class HalfFloat : uint8_t { kOff, kToEven, kToZero };

struct ProductShape {
  DType dtype;  // of A and B
  HalfFloat half_float;
  uint32_t m, n, k;
  uint32_t k_side;      // elements of a fractal along k
  uint32_t k_fractals;  // that the product reads
  uint32_t a_pitch;     // fractals from one row of them in A to the next
  bool init;            // C = A * B, else C += A * B
  // null, or of each value of B, which has two of four rows, 2 bits that say which one
  const uint8_t* index;
};

// A in Zz, or one row where m is 1; B in Zn; C in Nz, where what lies beyond m and n is undefined.
// `bias`: one row that C starts from; null: none.
void MultiplyFractals(const ProductShape& shape, const uint8_t* a, const uint8_t* b,
                      const uint8_t* bias, uint8_t* c);

}  // namespace emulator

#endif  // MOGE_EMULATOR_MMAD_H_
