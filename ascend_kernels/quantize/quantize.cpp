// Entries of the kernels that quantise rows and decode weights.
#include "quantize_kernel.h"

#define MOGE_QUANTIZE_ENTRIES(dtype, T)                                     \
  extern "C" __global__ __vector__ void quantize_rows_##dtype(              \
      GM_ADDR rows, GM_ADDR q, GM_ADDR scale, QuantizeTiling tiling) {      \
    AscendC::InitSocState();                                                \
    moge::QuantizeRows<T> kernel;                                           \
    kernel.Init(rows, q, scale, tiling);                                    \
    kernel.Process(moge::MyShare(tiling.N));                                \
    AscendC::PipeBarrier<PIPE_ALL>();                                       \
  }                                                                         \
  extern "C" __global__ __vector__ void quantize_planes_##dtype(            \
      GM_ADDR rows, GM_ADDR planes, GM_ADDR scale, QuantizeTiling tiling) { \
    AscendC::InitSocState();                                                \
    moge::QuantizeRows<T, true> kernel;                                     \
    kernel.Init(rows, planes, scale, tiling);                               \
    kernel.Process(moge::MyShare(tiling.N));                                \
    AscendC::PipeBarrier<PIPE_ALL>();                                       \
  }                                                                         \
  extern "C" __global__ __vector__ void decode_weight_##dtype(              \
      GM_ADDR data, GM_ADDR scale, GM_ADDR weight, QuantizeTiling tiling) { \
    AscendC::TPipe pipe;                                                    \
    moge::DecodeWeight<T> kernel;                                           \
    kernel.Init(data, scale, weight, &pipe);                                \
    kernel.Process(tiling);                                                 \
  }

MOGE_FOR_EACH_DTYPE(MOGE_QUANTIZE_ENTRIES)

extern "C" __global__ __vector__ void unpack_int4(GM_ADDR packed, GM_ADDR data, uint64_t bytes) {
  AscendC::TPipe pipe;
  moge::UnpackInt4 kernel;
  kernel.Init(packed, data, &pipe);
  kernel.Process(bytes);
}
