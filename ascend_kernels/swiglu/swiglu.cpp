// Entries of the kernels of activations alone, one for each dtype.
#include "activation_kernel.h"
#include "swiglu_kernel.h"

#define MOGE_SWIGLU_ENTRIES(dtype, T)                                                    \
  extern "C" __global__ __vector__ void swiglu_fwd_##dtype(GM_ADDR gate_up, GM_ADDR act, \
                                                           SwigluTiling tiling) {        \
    AscendC::TPipe pipe;                                                                 \
    moge::SwigluFwd<T> kernel;                                                           \
    kernel.Init(gate_up, act, tiling, &pipe);                                            \
    kernel.Process(tiling);                                                              \
  }                                                                                      \
  extern "C" __global__ __vector__ void swiglu_bwd_##dtype(                              \
      GM_ADDR d_act, GM_ADDR gate_up, GM_ADDR d_gate_up, SwigluTiling tiling) {          \
    AscendC::TPipe pipe;                                                                 \
    moge::SwigluBwd<T> kernel;                                                           \
    kernel.Init(d_act, gate_up, d_gate_up, tiling, &pipe);                               \
    kernel.Process(tiling);                                                              \
  }                                                                                      \
  extern "C" __global__ __vector__ void activation_fwd_##dtype(                          \
      GM_ADDR pre, GM_ADDR bias, GM_ADDR series, GM_ADDR act, SwigluTiling tiling,       \
      ActivationTiling activation) {                                                     \
    AscendC::TPipe pipe;                                                                 \
    moge::ActivationFwd<T> kernel;                                                       \
    kernel.Init(pre, bias, series, act, tiling, activation, &pipe);                      \
    kernel.Process(tiling);                                                              \
  }

MOGE_FOR_EACH_DTYPE(MOGE_SWIGLU_ENTRIES)
