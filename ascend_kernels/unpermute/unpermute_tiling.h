// Sizes of an unpermute launch, shared by host and device.
#ifndef MOGE_ASCEND_UNPERMUTE_TILING_H_
#define MOGE_ASCEND_UNPERMUTE_TILING_H_

#include <cstdint>

struct UnpermuteTiling {
  uint64_t T;
  uint32_t H;
  uint32_t K;
  uint32_t tokens;    // whose d_weights are stored together
  uint32_t columns;   // the part of a row that is summed at a time
  uint32_t weighted;  // 0: there are no weights, each counts as 1
};

struct TakeScalarsTiling {
  uint64_t size;   // scalars
  uint64_t count;  // results
};

#endif  // MOGE_ASCEND_UNPERMUTE_TILING_H_
