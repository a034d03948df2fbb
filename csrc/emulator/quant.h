// How results are converted on their way out of L0C, for the emulator's own .cpp files only.
#ifndef MOGE_EMULATOR_QUANT_H_
#define MOGE_EMULATOR_QUANT_H_

#include "names.h"

namespace emulator {

enum class Scaling : uint8_t { kNone, kOne, kVector };

// Refuses a mode that does not go with the types.
Scaling ScalingOf(DType from, DType to, QuantMode_t mode);

// One result at `at` to one element at `out`.
void ConvertElement(DType from, DType to, Scaling scaling, uint64_t scale_bits, bool relu,
                    const uint8_t* at, uint8_t* out);

}  // namespace emulator

#endif  // MOGE_EMULATOR_QUANT_H_
