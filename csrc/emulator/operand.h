// How the vector instructions walk their operands, for the emulator's own .cpp files only.
#ifndef MOGE_EMULATOR_OPERAND_H_
#define MOGE_EMULATOR_OPERAND_H_

#include <algorithm>

#include "core.h"

namespace emulator {

inline bool HasLane(const LaneMask& mask, uint32_t lane) {
  return (mask[lane / 64] >> (lane % 64) & 1) != 0;
}

// An element of half or float, and as half or float.
inline float LoadFloat(DType dtype, const uint8_t* from) {
  if (dtype == DType::kHalf) {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return HalfToFloat(bits);
  }
  float value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline void StoreFloat(DType dtype, uint8_t* to, float value) {
  const uint32_t bits = dtype == DType::kHalf ? FloatToHalf(value) : FloatBits(value);
  std::memcpy(to, &bits, SizeOf(dtype));
}

// Byte at which lane `lane` of repeat `repeat` lies, from the start of the operand.
inline uint32_t LaneOffset(const Operand& operand, uint32_t repeat, uint32_t lane) {
  const uint32_t bytes = SizeOf(operand.dtype);
  const uint32_t per_block = kBlockBytes / bytes;
  return repeat * operand.repeat_stride * kBlockBytes +
         lane / per_block * operand.block_stride * kBlockBytes + lane % per_block * bytes;
}

// The lowest `lanes` bits.
inline LaneMask PrefixMask(uint32_t lanes) {
  const auto word = [](uint32_t bits) {
    return bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  };
  return {word(lanes), lanes > 64 ? word(lanes - 64) : 0};
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
    const LaneMask& mask = lanes.Mask(repeat);
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

// Calls f(bytes of each operand, number of elements) for runs that are contiguous in all of them.
template <size_t N, typename F>
void ForEachElementRun(Core& core, const std::array<const Operand*, N>& operands,
                       const Lanes& lanes, F f) {
  if (lanes.elements == 0) return;
  std::array<uint8_t*, N> bytes;
  for (size_t i = 0; i < N; ++i) bytes[i] = core.Bytes(operands[i]->ref);
  bool contiguous = true;
  uint32_t group = lanes.lanes;
  for (const Operand* operand : operands) {
    contiguous = contiguous && IsContiguous(*operand, lanes);
    group = std::min(group, kBlockBytes / SizeOf(operand->dtype));
  }
  if (contiguous) return f(bytes, static_cast<uint32_t>(lanes.elements));
  ForEachRun(lanes, group, [&](uint32_t repeat, uint32_t lane, uint32_t count) {
    std::array<uint8_t*, N> at = bytes;
    for (size_t i = 0; i < N; ++i) at[i] += LaneOffset(*operands[i], repeat, lane);
    f(at, count);
  });
}

// Cycles in which the banks of UB give and take the operands; a null source is a scalar.
double BankCycles(const Operand& dst, std::initializer_list<const Operand*> sources,
                  const Lanes& lanes);

// The elements that an instruction takes, by its count, its mask or the mask register.
Lanes Resolve(Core& core, const Extent& extent, uint32_t element_bytes,
              const Limit& repeats = limits::Repeats::repeatTime);
void CheckAlive(Core& core, const Operand& operand, uint32_t alignment = kBlockBytes);
void ReadOperand(Core& core, const Operand& operand, const Lanes& lanes);
void WriteOperand(Core& core, const Operand& operand, const Lanes& lanes);
// Bytes of UB from the first to the last that the operand covers.
struct Span {
  uint32_t begin = ~0u;
  uint32_t end = 0;
};
Span Reach(const Operand& operand, const Lanes& lanes);

// Which repeat wrote each byte of a part of UB first, to tell of one that reads it afterwards.
class WriteLog {
 public:
  explicit WriteLog(Span span) : begin_(span.begin), written_(span.end - span.begin, 0) {}
  void Write(uint32_t repeat, uint32_t begin, uint32_t end);
  void Read(uint32_t repeat, uint32_t begin, uint32_t end) const;

 private:
  uint32_t begin_;
  std::vector<uint32_t> written_;  // the repeat, from 1
};

// The source is the destination, lane by lane, or apart from what was written before it.
void CheckOverlap(Core& core, const Operand& dst, const Operand& src, const Lanes& lanes);
// The tensor from byte `at` on, which need not lie inside it.
inline LocalRef Part(LocalRef ref, uint32_t at) {
  ref.begin += at;
  return ref;
}
// Byte ranges that must not meet: of plain tensors, or of the elements of an operand.
void CheckApart(const LocalRef& dst, uint64_t dst_bytes, const LocalRef& src, uint64_t src_bytes);
void CheckApart(const Operand& dst, const Lanes& lanes, const LocalRef& src, uint64_t src_bytes);
void CheckApart(const LocalRef& dst, uint64_t dst_bytes, const Operand& src, const Lanes& lanes);

// A part of a tensor that is carried: checked, and in order with what wrote it.
uint32_t FollowPart(const LocalRef& ref, uint64_t offset, uint32_t bytes);

// A part of a tensor, checked and read, or checked and written.
const uint8_t* ReadPart(const LocalRef& ref, uint64_t offset, uint32_t bytes);
uint8_t* WritePart(const LocalRef& ref, uint64_t offset, uint32_t bytes,
                   ByteState state = ByteState::kValid);

// Sources of an instruction, aligned and read; a null one is a scalar.
void ReadSources(Core& core, std::initializer_list<const Operand*> sources, const Lanes& lanes);

// What every element-wise instruction does before its data: it is counted as one of type `counted`,
// its operands are aligned, read, apart and written. Returns whether there is data to compute with.
// `running`: a source that may be the destination, as each repeat adds to the one before.
bool PrepareElements(Core& core, DType counted, const Operand& dst,
                     std::initializer_list<const Operand*> sources, const Lanes& lanes,
                     const Operand* running = nullptr);

}  // namespace emulator

#endif  // MOGE_EMULATOR_OPERAND_H_
