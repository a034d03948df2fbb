// Entries of the unpermute kernels, one for each dtype, and of their scalars' reordering.
#include "take_scalars_kernel.h"
#include "unpermute_kernel.h"

#define MOGE_UNPERMUTE_ENTRIES(dtype, T)                                                         \
  extern "C" __global__ __vector__ void unpermute_fwd_##dtype(                                   \
      GM_ADDR rows, GM_ADDR slot_to_row, GM_ADDR weights, GM_ADDR y, UnpermuteTiling tiling) {   \
    AscendC::TPipe pipe;                                                                         \
    moge::UnpermuteFwd<T> kernel;                                                                \
    kernel.Init(rows, slot_to_row, weights, y, tiling, &pipe);                                   \
    kernel.Process(tiling);                                                                      \
  }                                                                                              \
  extern "C" __global__ __vector__ void unpermute_bwd_##dtype(                                   \
      GM_ADDR d_y, GM_ADDR rows, GM_ADDR row_to_slot, GM_ADDR slot_to_row, GM_ADDR weights,      \
      GM_ADDR d_rows, GM_ADDR d_weights, UnpermuteTiling tiling) {                               \
    AscendC::TPipe pipe;                                                                         \
    moge::UnpermuteBwd<T> kernel;                                                                \
    kernel.Init(d_y, rows, row_to_slot, slot_to_row, weights, d_rows, d_weights, tiling, &pipe); \
    kernel.Process(tiling);                                                                      \
  }

MOGE_FOR_EACH_DTYPE(MOGE_UNPERMUTE_ENTRIES)

extern "C" __global__ __vector__ void take_scalars(GM_ADDR scalars, GM_ADDR index, GM_ADDR results,
                                                   TakeScalarsTiling tiling) {
  AscendC::TPipe pipe;
  moge::TakeScalars kernel;
  kernel.Init(scalars, index, results, tiling, &pipe);
  kernel.Process(tiling);
}
