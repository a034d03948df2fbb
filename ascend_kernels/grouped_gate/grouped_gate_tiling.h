// Sizes and options of a gate launch, shared by host and device.
#ifndef MOGE_ASCEND_GROUPED_GATE_TILING_H_
#define MOGE_ASCEND_GROUPED_GATE_TILING_H_

#include <cstdint>

enum class GateScore : uint32_t { kSoftmax, kSigmoid, kSqrtSoftplus };

struct GroupedGateTiling {
  uint64_t T;
  uint32_t E;
  uint32_t G;
  uint32_t k;
  float scaling;
  GateScore score;
  uint32_t renormalize;
  uint32_t has_bias;
  uint32_t has_router_scale;
  uint32_t given;        // the experts, which then may be any ids
  uint32_t has_counts;   // else the rest of the launch finds them
  uint32_t tile_tokens;  // forward: a core gets whole tiles of this many tokens
};

#endif  // MOGE_ASCEND_GROUPED_GATE_TILING_H_
