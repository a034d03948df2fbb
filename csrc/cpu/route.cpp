// Routing: one counting sort. Integers only, and little of them: one thread is quickest.
#include <cstring>
#include <vector>

#include "plan.h"

namespace moge_cpu {

template <typename Id>
void Route(const Id* experts, int64_t T, int64_t K, int64_t E, int64_t G, int32_t* row_to_slot,
           int32_t* slot_to_row, int32_t* offsets) {
  const int64_t columns = K / G, P = E / G, N = T * K;
  // the expert of a slot, or -1 where it is out of range or not of its column's group
  auto kept = [&](int64_t slot) -> int64_t {
    const int64_t id = experts[slot], first = slot % K / columns * P;
    return id >= first && id < first + P ? id : -1;
  };
  std::memset(offsets, 0, (E + 1) * sizeof(int32_t));
  for (int64_t slot = 0; slot < N; slot++)
    if (const int64_t id = kept(slot); id >= 0) offsets[id + 1]++;
  for (int64_t e = 0; e < E; e++) offsets[e + 1] += offsets[e];
  std::vector<int32_t> next(offsets, offsets + E);
  for (int64_t slot = 0; slot < N; slot++) {
    const int64_t id = kept(slot);
    slot_to_row[slot] = id < 0 ? -1 : next[id]++;
    if (id >= 0) row_to_slot[slot_to_row[slot]] = int32_t(slot);
  }
  for (int64_t row = offsets[E]; row < N; row++) row_to_slot[row] = -1;
}

template void Route(const int32_t*, int64_t, int64_t, int64_t, int64_t, int32_t*, int32_t*,
                    int32_t*);
template void Route(const int64_t*, int64_t, int64_t, int64_t, int64_t, int32_t*, int32_t*,
                    int32_t*);

}  // namespace moge_cpu
