#include "plan.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace moge_cpu {

void CheckOffsets(const int32_t* offsets, int64_t E, int64_t N) {
  bool rising = offsets[0] == 0 && offsets[E] <= N;
  for (int64_t e = 0; e < E; e++) rising &= offsets[e] <= offsets[e + 1];
  if (rising) return;
  std::string got;
  for (int64_t e = 0; e <= E; e++) got += (e ? ", " : "") + std::to_string(offsets[e]);
  throw std::invalid_argument("offsets must rise from 0 to at most N=" + std::to_string(N) +
                              ", got [" + got + "]");
}

void CheckRouting(const Routing& r, bool padding) {
  CheckOffsets(r.offsets, r.E, r.N);
  const int64_t used = r.offsets[r.E], slots = r.T * r.K, least = padding ? -1 : 0;
  bool inside = true;
  for (int64_t i = 0; i < used; i++)
    inside &= r.row_to_slot[i] >= least && r.row_to_slot[i] < slots;
  if (!inside)
    throw std::invalid_argument("routing.row_to_slot must have, in its first " +
                                std::to_string(used) + " rows, numbers of " +
                                std::to_string(slots) + " slots: is it what route returned?");
}

std::vector<Block> Blocks(const int32_t* offsets, int64_t E, int most) {
  std::vector<Block> blocks;
  for (int64_t e = 0; e < E; e++) {
    const int64_t rows = offsets[e + 1] - offsets[e], parts = (rows + most - 1) / most;
    for (int64_t part = 0; part < parts; part++) {
      // of whole panels but the last, and about equal
      const int64_t step = ((rows + parts - 1) / parts + 15) / 16 * 16;
      const int64_t first = std::min(rows, part * step), last = std::min(rows, first + step);
      if (first < last)
        blocks.push_back({int32_t(e), int32_t(offsets[e] + first), int32_t(last - first)});
    }
  }
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const Block& a, const Block& b) { return a.count > b.count; });
  return blocks;
}

int Threads(int threads, double flops) {
  // A parallel region costs some 3 us when its threads are awake, and far more when they are not.
  // This is 20 to 40 us of one Zen 3 core that reads weights for one token (November 2026).
  constexpr double kWorth = 3e5;
  return std::max(1, std::min(threads, int(std::min(flops / kWorth, 1e6))));
}

int64_t Parts(int64_t blocks, int threads, int64_t columns) {
  if (threads == 1 || blocks >= 3 * threads || !blocks) return 1;
  const int64_t wanted = (3 * threads + blocks - 1) / blocks;
  return std::max<int64_t>(1, std::min(wanted, (columns + 31) / 32));
}

int64_t Longest(const int32_t* offsets, int64_t E) {
  int64_t longest = 0;
  for (int64_t e = 0; e < E; e++) longest = std::max<int64_t>(longest, offsets[e + 1] - offsets[e]);
  return longest;
}

}  // namespace moge_cpu
