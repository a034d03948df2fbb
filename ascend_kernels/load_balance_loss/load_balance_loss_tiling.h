// Sizes and options of a launch of the load-balance loss, shared by host and device.
#ifndef MOGE_ASCEND_LOAD_BALANCE_LOSS_TILING_H_
#define MOGE_ASCEND_LOAD_BALANCE_LOSS_TILING_H_

#include <cstdint>

#include "../grouped_gate/grouped_gate_tiling.h"

struct LoadBalanceLossTiling {
  uint64_t T;
  uint32_t E;
  uint32_t K;
  GateScore score;
};

#endif  // MOGE_ASCEND_LOAD_BALANCE_LOSS_TILING_H_
