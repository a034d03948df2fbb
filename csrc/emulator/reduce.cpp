// Reductions of each repeat, of each block and of each pair of neighbours.
#include "reduction.h"

namespace emulator {

namespace {

struct Reduction {
  Lanes lanes;
  Operand src;
  const uint8_t* from;
  uint64_t pitch;  // bytes from the results of one repeat to those of the next
};

// What all forms share: the source is read; a repeat has results of `result_bytes`.
Reduction Start(Op op, DType dtype, const LocalRef& src, const Extent& extent,
                const ReduceStrides& strides, uint32_t result_bytes) {
  Core& core = Begin(op, PIPE_V);
  CheckRange(limits::Reduce::dstRepStride, strides.dst_repeat);
  CheckRange(limits::Reduce::srcBlkStride, strides.src_block);
  CheckRange(limits::Reduce::srcRepStride, strides.src_repeat);
  Reduction reduction{Resolve(core, extent, SizeOf(dtype)),
                      {src, dtype, static_cast<uint32_t>(strides.src_block),
                       static_cast<uint32_t>(strides.src_repeat)},
                      core.Bytes(src),
                      uint64_t{result_bytes} * static_cast<uint32_t>(strides.dst_repeat)};
  core.Compute(dtype, reduction.lanes);
  ReadSources(core, {&reduction.src}, reduction.lanes);
  return reduction;
}

// A repeat may write over its own source, from where that starts, and over those of repeats before
// it, but not over what is still to be read.
void CheckResults(const LocalRef& dst, uint32_t bytes, uint32_t alignment,
                  const Reduction& reduction) {
  Core& core = CurrentCore();
  core.Check(dst, 0, 0, alignment);
  const Lanes& lanes = reduction.lanes;
  if (!core.machine.options.checks || lanes.elements == 0) return;
  const uint64_t end = dst.begin + (lanes.repeats - 1) * reduction.pitch + bytes;
  const Span from = Reach(reduction.src, lanes);
  if (end <= from.begin || from.end <= dst.begin) return;
  WriteLog log({dst.begin, static_cast<uint32_t>(std::min<uint64_t>(end, kUbBytes))});
  Lanes one = lanes;
  one.repeats = 1;
  one.prefix = false;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    one.mask = one.last = lanes.Mask(repeat);
    const auto to = static_cast<uint32_t>(dst.begin + repeat * reduction.pitch);
    const uint32_t src_at =
        reduction.src.ref.begin + repeat * reduction.src.repeat_stride * kBlockBytes;
    if (to != src_at) log.Write(repeat, to, to + bytes);
    ForEachRange(reduction.src, one, [&](uint32_t begin, uint32_t stop) {
      log.Read(repeat, src_at + begin, src_at + stop);
    });
    if (to == src_at) log.Write(repeat, to, to + bytes);
  }
}

}  // namespace

void ReduceRepeats(ReduceType type, DType dtype, const LocalRef& dst, const LocalRef& src,
                   const Extent& extent, const ReduceStrides& strides, ReduceOrder order) {
  const uint32_t bytes = SizeOf(dtype);
  const bool sums = type == ReduceType::SUM;
  const bool value_first = order == ReduceOrder::ORDER_VALUE_INDEX;
  const bool pair = !sums && (value_first || order == ReduceOrder::ORDER_INDEX_VALUE);
  const bool index_only = !sums && order == ReduceOrder::ORDER_ONLY_INDEX;
  const uint32_t result_bytes = index_only ? 4 : pair ? 2 * bytes : bytes;
  const Reduction reduction = Start(Op::kReduceRepeat, dtype, src, extent, strides, result_bytes);
  CheckResults(dst, result_bytes, result_bytes, reduction);
  Core& core = CurrentCore();
  const Lanes& lanes = reduction.lanes;
  Extreme overall;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    Extreme extreme;
    float sum = 0;
    if (sums) {
      sum = SumOfRepeat(reduction.src, reduction.from, lanes, repeat);
    } else {
      TakeRepeat(extreme, type, reduction.src, reduction.from, lanes, repeat, 0);
      overall.Take(type, extreme.value, repeat * lanes.lanes + extreme.index);
    }
    uint8_t* to = WritePart(dst, repeat * reduction.pitch, result_bytes);
    if (sums) {
      StoreFloat(dtype, to, sum);
    } else if (index_only) {
      StoreIndex(DType::kUint32, to, extreme.index);
    } else if (pair) {
      StoreFloat(dtype, to + (value_first ? 0 : bytes), extreme.value);
      StoreIndex(dtype, to + (value_first ? bytes : 0), extreme.index);
    } else {
      StoreFloat(dtype, to, extreme.value);
    }
  }
  if (!overall.any) return;
  const bool contiguous = strides.src_block == 1 && strides.src_repeat == 8;
  core.registers.extreme.reset();
  if (contiguous && !core.registers.counter_mode) {
    core.registers.extreme = ResultOf(core, dtype, overall.value, overall.index);
  }
}

void ReduceBlocks(ReduceType type, DType dtype, const LocalRef& dst, const LocalRef& src,
                  const Extent& extent, const ReduceStrides& strides) {
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t per_block = kBlockBytes / bytes;
  const uint32_t results = kRepeatBytes / kBlockBytes;
  const Reduction reduction =
      Start(Op::kReduceDataBlock, dtype, src, extent, strides, results * bytes);
  CheckResults(dst, results * bytes, results * bytes, reduction);
  const Lanes& lanes = reduction.lanes;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    for (uint32_t block = 0; block < results; ++block) {
      std::array<float, kMaxLanes> terms{};
      Extreme extreme;
      bool any = false;
      for (uint32_t i = 0; i < per_block; ++i) {
        const uint32_t lane = block * per_block + i;
        if (!HasLane(lanes.Mask(repeat), lane)) continue;
        any = true;
        terms[i] = LoadFloat(dtype, reduction.from + LaneOffset(reduction.src, repeat, lane));
        extreme.Take(type, terms[i], lane);
      }
      if (!any) continue;
      const float result =
          type == ReduceType::SUM ? TreeSum(dtype, terms.data(), per_block) : extreme.value;
      StoreFloat(dtype, WritePart(dst, repeat * reduction.pitch + block * bytes, bytes), result);
    }
  }
}

void ReducePairs(DType dtype, const LocalRef& dst, const LocalRef& src, const Extent& extent,
                 const ReduceStrides& strides) {
  const uint32_t bytes = SizeOf(dtype);
  const Reduction reduction =
      Start(Op::kReducePairElem, dtype, src, extent, strides, kRepeatBytes / 2);
  CheckResults(dst, kRepeatBytes / 2, kBlockBytes, reduction);
  const Lanes& lanes = reduction.lanes;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    for (uint32_t pair = 0; pair < lanes.lanes / 2; ++pair) {
      float sum = 0;
      bool any = false;
      for (const uint32_t lane : {2 * pair, 2 * pair + 1}) {
        if (!HasLane(lanes.Mask(repeat), lane)) continue;
        any = true;
        sum += LoadFloat(dtype, reduction.from + LaneOffset(reduction.src, repeat, lane));
      }
      if (any)
        StoreFloat(dtype, WritePart(dst, repeat * reduction.pitch + pair * bytes, bytes), sum);
    }
  }
}

}  // namespace emulator
