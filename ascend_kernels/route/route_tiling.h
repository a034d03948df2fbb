// Sizes of a route launch, shared by host and device.
#ifndef MOGE_ASCEND_ROUTE_TILING_H_
#define MOGE_ASCEND_ROUTE_TILING_H_

#include <cstdint>

struct RouteTiling {
  uint64_t T;
  uint32_t K;
  uint32_t E;
  uint32_t G;              // 1 where the ids are not promised to be group-wise
  uint32_t stream_tokens;  // by streams: tokens of each of a tile's 16 streams; else 0
  uint32_t tile_tokens;    // by sorting: tokens that are sorted at once; else 0
};

#endif  // MOGE_ASCEND_ROUTE_TILING_H_
