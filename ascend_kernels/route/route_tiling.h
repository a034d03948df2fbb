// Sizes of a route launch, shared by host and device.
#ifndef MOGE_ASCEND_ROUTE_TILING_H_
#define MOGE_ASCEND_ROUTE_TILING_H_

#include <cstdint>

struct RouteTiling {
  uint64_t T;
  uint32_t K;
  uint32_t E;
  uint32_t G;              // 1 where the ids are not promised to be group-wise
  uint32_t stream_tokens;  // tokens of each of a core's 16 streams; 0: a slot at a time
};

#endif  // MOGE_ASCEND_ROUTE_TILING_H_
