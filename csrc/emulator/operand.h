// How the vector instructions walk their operands, for the emulator's own .cpp files only.
#ifndef MOGE_EMULATOR_OPERAND_H_
#define MOGE_EMULATOR_OPERAND_H_

#include <algorithm>

#include "core.h"

namespace emulator {

inline bool HasLane(const std::array<uint64_t, 2>& mask, uint32_t lane) {
  return (mask[lane / 64] >> (lane % 64) & 1) != 0;
}

// Byte at which lane `lane` of repeat `repeat` lies, from the start of the operand.
inline uint32_t LaneOffset(const Operand& operand, uint32_t repeat, uint32_t lane) {
  const uint32_t bytes = SizeOf(operand.dtype);
  const uint32_t per_block = kBlockBytes / bytes;
  return repeat * operand.repeat_stride * kBlockBytes +
         lane / per_block * operand.block_stride * kBlockBytes + lane % per_block * bytes;
}

// Every lane of `repeats` repeats, for instructions without a mask.
inline Lanes FullRepeats(uint32_t repeats, uint32_t element_bytes) {
  Lanes lanes;
  lanes.lanes = kRepeatBytes / element_bytes;
  lanes.repeats = repeats;
  lanes.mask = lanes.last = PrefixMask(lanes.lanes);
  lanes.elements = uint64_t{repeats} * lanes.lanes;
  lanes.prefix = true;
  return lanes;
}

// Whether all the elements of the operand lie one after the other.
inline bool IsContiguous(const Operand& operand, const Lanes& lanes) {
  return lanes.prefix &&
         (operand.block_stride == 1 || lanes.elements * SizeOf(operand.dtype) <= kBlockBytes) &&
         (lanes.repeats == 1 ||
          operand.repeat_stride * kBlockBytes == lanes.lanes * SizeOf(operand.dtype));
}

// Calls f(repeat, first lane, number of lanes) for each run of lanes inside one block of `group`.
template <typename F>
void ForEachRun(const Lanes& lanes, uint32_t group, F f) {
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    const std::array<uint64_t, 2>& mask = lanes.Mask(repeat);
    for (uint32_t first = 0; first < lanes.lanes; first += group) {
      const uint64_t all = group == 64 ? ~uint64_t{0} : (uint64_t{1} << group) - 1;
      const uint64_t bits = mask[first / 64] >> (first % 64) & all;
      if (bits == 0) continue;
      if (bits == all) {
        f(repeat, first, group);
        continue;
      }
      for (uint32_t lane = 0; lane < group;) {
        uint32_t end = lane;
        while (end < group && (bits >> end & 1) != 0) ++end;
        if (end > lane) f(repeat, first + lane, end - lane);
        lane = end + 1;
      }
    }
  }
}

// Calls f(begin, end) for the byte ranges of one operand, from its start.
template <typename F>
void ForEachRange(const Operand& operand, const Lanes& lanes, F f) {
  if (lanes.elements == 0) return;
  const uint32_t bytes = SizeOf(operand.dtype);
  if (IsContiguous(operand, lanes)) {
    f(0u, static_cast<uint32_t>(lanes.elements * bytes));
    return;
  }
  ForEachRun(lanes, std::min(kBlockBytes / bytes, lanes.lanes),
             [&](uint32_t repeat, uint32_t lane, uint32_t count) {
               const uint32_t begin = LaneOffset(operand, repeat, lane);
               f(begin, begin + count * bytes);
             });
}

// Calls f(offset of each operand, number of elements) for runs that are contiguous in all of them.
template <size_t N, typename F>
void ForEachElementRun(const std::array<const Operand*, N>& operands, const Lanes& lanes, F f) {
  if (lanes.elements == 0) return;
  std::array<uint32_t, N> offsets{};
  bool contiguous = true;
  uint32_t group = lanes.lanes;
  for (const Operand* operand : operands) {
    contiguous = contiguous && IsContiguous(*operand, lanes);
    group = std::min(group, kBlockBytes / SizeOf(operand->dtype));
  }
  if (contiguous) {
    f(offsets, static_cast<uint32_t>(lanes.elements));
    return;
  }
  ForEachRun(lanes, group, [&](uint32_t repeat, uint32_t lane, uint32_t count) {
    for (size_t i = 0; i < N; ++i) offsets[i] = LaneOffset(*operands[i], repeat, lane);
    f(offsets, count);
  });
}

void CheckAlive(Core& core, const Operand& operand, uint32_t alignment = kBlockBytes);
void ReadOperand(Core& core, const Operand& operand, const Lanes& lanes);
void WriteOperand(Core& core, const Operand& operand, const Lanes& lanes);
// The source is the destination, lane by lane, or apart from what was written before it.
void CheckOverlap(Core& core, const Operand& dst, const Operand& src, const Lanes& lanes);
// Byte ranges of plain tensors that must not meet.
void CheckApart(const LocalRef& dst, uint64_t dst_bytes, const LocalRef& src, uint64_t src_bytes);

}  // namespace emulator

#endif  // MOGE_EMULATOR_OPERAND_H_
