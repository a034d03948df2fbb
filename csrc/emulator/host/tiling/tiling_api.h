// What host code asks before it calls the high-level API.
#ifndef MOGE_EMULATOR_HOST_TILING_API_H_
#define MOGE_EMULATOR_HOST_TILING_API_H_

#include <cstring>

#include "tiling/high_level.h"
#include "tiling/platform/platform_ascendc.h"

// The checked copy of C11's annex K, which CANN's own C library brings: 0, or nothing is copied.
inline int memcpy_s(void* to, size_t capacity, const void* from, size_t bytes) {
  if (to == nullptr || from == nullptr || bytes > capacity) return 1;
  std::memcpy(to, from, bytes);
  return 0;
}

#endif  // MOGE_EMULATOR_HOST_TILING_API_H_
