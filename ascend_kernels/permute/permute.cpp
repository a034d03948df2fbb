// Entries of the permute kernels, one for each dtype.
#include "permute_kernel.h"
#include "permute_quantized_kernel.h"

#define MOGE_PERMUTE_ENTRIES(dtype, T)                                                            \
  extern "C" __global__ __vector__ void permute_fwd_##dtype(                                      \
      GM_ADDR x, GM_ADDR row_to_slot, GM_ADDR slot_to_row, GM_ADDR rows, PermuteTiling tiling) {  \
    AscendC::TPipe pipe;                                                                          \
    moge::PermuteFwd<T> kernel;                                                                   \
    kernel.Init(x, row_to_slot, slot_to_row, rows, tiling, &pipe);                                \
    kernel.Process(tiling);                                                                       \
  }                                                                                               \
  extern "C" __global__ __vector__ void permute_planes_##dtype(GM_ADDR x, GM_ADDR slot_to_row,    \
                                                               GM_ADDR planes, GM_ADDR row_scale, \
                                                               PermuteQuantizedTiling tiling) {   \
    AscendC::InitSocState();                                                                      \
    moge::SpreadQuantized<T, true> kernel;                                                        \
    kernel.Init(x, slot_to_row, planes, row_scale, tiling);                                       \
    kernel.Process(moge::MyShare(tiling.x.N * tiling.parts));                                     \
    AscendC::PipeBarrier<PIPE_ALL>();                                                             \
  }

MOGE_FOR_EACH_DTYPE(MOGE_PERMUTE_ENTRIES)
