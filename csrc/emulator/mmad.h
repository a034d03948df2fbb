// The arithmetic of Mmad, for the emulator's own .cpp files only.
#ifndef MOGE_EMULATOR_MMAD_H_
#define MOGE_EMULATOR_MMAD_H_

#include <algorithm>

#include "types.h"

namespace emulator {

struct ProductShape {
  DType dtype;  // of A and B
  uint32_t m, n, k;
  uint32_t k_side;      // elements of a fractal along k
  uint32_t k_fractals;  // that the product reads
  uint32_t a_pitch;     // fractals from one row of them in A to the next
  bool init;            // C = A * B, else C += A * B
};

// A in Zz, or one row where m is 1; B in Zn; C in Nz, where what lies beyond m and n is undefined.
// `bias`: one row that C starts from; null: none.
void MultiplyFractals(const ProductShape& shape, const uint8_t* a, const uint8_t* b,
                      const uint8_t* bias, uint8_t* c);

}  // namespace emulator

#endif  // MOGE_EMULATOR_MMAD_H_
