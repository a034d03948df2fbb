// Entries of the load-balance loss, one for each dtype of the logits; mix kernels, for SyncAll.
#include "load_balance_loss_kernel.h"

#define MOGE_LOSS_ENTRIES(dtype, T)                                                                \
  extern "C" __global__ __mix__(0, 1) void load_balance_loss_fwd_##dtype(                          \
      GM_ADDR logits, GM_ADDR experts, GM_ADDR loss, GM_ADDR f, GM_ADDR scores, GM_ADDR counts,    \
      LoadBalanceLossTiling tiling) {                                                              \
    AscendC::TPipe pipe;                                                                           \
    moge::LoadBalanceLossFwd<T> kernel;                                                            \
    kernel.Init(logits, experts, loss, f, scores, counts, tiling, &pipe);                          \
    kernel.Process(tiling);                                                                        \
  }                                                                                                \
  extern "C" __global__ __vector__ void load_balance_loss_bwd_##dtype(                             \
      GM_ADDR d_loss, GM_ADDR logits, GM_ADDR f, GM_ADDR d_logits, LoadBalanceLossTiling tiling) { \
    AscendC::TPipe pipe;                                                                           \
    moge::LoadBalanceLossBwd<T> kernel;                                                            \
    kernel.Init(d_loss, logits, f, d_logits, tiling, &pipe);                                       \
    kernel.Process(tiling);                                                                        \
  }

MOGE_FOR_EACH_DTYPE(MOGE_LOSS_ENTRIES)
