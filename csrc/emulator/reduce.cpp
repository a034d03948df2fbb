// Reductions. Sums are binary trees of neighbours, rounded at every node; of equal extremes the
// first wins.
#include <cmath>

#include "operand.h"

namespace emulator {

namespace {

constexpr uint32_t kMaxLanes = 128;  // of half

// an index as the bits of an element
void StoreIndex(DType dtype, uint8_t* to, uint32_t index) {
  std::memcpy(to, &index, SizeOf(dtype));  // half has room for the lower 16 bits
}

float Rounded(DType dtype, float value) {
  return dtype == DType::kHalf ? HalfToFloat(FloatToHalf(value)) : value;
}

// The first `count` values are used up.
float TreeSum(DType dtype, float* values, size_t count) {
  while (count > 1) {
    const size_t pairs = (count + 1) / 2;
    for (size_t i = 0; i < pairs; ++i) {
      const float second = 2 * i + 1 < count ? values[2 * i + 1] : 0.0f;
      values[i] = Rounded(dtype, values[2 * i] + second);
    }
    count = pairs;
  }
  return values[0];
}

struct Extreme {
  float value = 0;
  uint32_t index = 0;
  bool any = false;

  void Take(ReduceType type, float next, uint32_t at) {
    const bool better = type == ReduceType::MAX ? next > value : next < value;
    if (!any || (!std::isnan(value) && (better || std::isnan(next)))) {
      value = next;
      index = at;
    }
    any = true;
  }
};

struct Reduction {
  Lanes lanes;
  Operand src;
  const uint8_t* from;
  uint64_t pitch;  // bytes from the results of one repeat to those of the next
};

// What all forms share: the source is read; a repeat has results of `result_bytes`.
Reduction Start(Op op, DType dtype, const LocalRef& src, const Extent& extent,
                const ReduceStrides& strides, uint32_t result_bytes) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_V);
  CheckRange("dstRepStride", strides.dst_repeat, 0, 65535);
  CheckRange("srcBlkStride", strides.src_block, 0, 65535);
  CheckRange("srcRepStride", strides.src_repeat, 0, 65535);
  Reduction reduction{Resolve(core, extent, SizeOf(dtype)),
                      {src, dtype, static_cast<uint32_t>(strides.src_block),
                       static_cast<uint32_t>(strides.src_repeat)},
                      core.Bytes(src),
                      uint64_t{result_bytes} * static_cast<uint32_t>(strides.dst_repeat)};
  core.Compute(dtype, reduction.lanes);
  ReadSources(core, {&reduction.src}, reduction.lanes);
  return reduction;
}

// Results of each repeat must not land on a source that is still to be read.
void CheckResults(const LocalRef& dst, uint32_t bytes, uint32_t alignment,
                  const Reduction& reduction) {
  CurrentCore().Check(dst, 0, 0, alignment);
  const Lanes& lanes = reduction.lanes;
  if (lanes.repeats == 0) return;
  CheckApart(dst, (lanes.repeats - 1) * reduction.pitch + bytes, reduction.src, lanes);
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
  const Lanes& lanes = reduction.lanes;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    std::array<float, kMaxLanes> terms{};
    Extreme extreme;
    for (uint32_t lane = 0; lane < lanes.lanes; ++lane) {
      if (!HasLane(lanes.Mask(repeat), lane)) continue;
      const float value =
          LoadFloat(dtype, reduction.from + LaneOffset(reduction.src, repeat, lane));
      if (sums) {
        terms[lane] = value;
      } else {
        extreme.Take(type, value, lane);
      }
    }
    uint8_t* to = WritePart(dst, repeat * reduction.pitch, result_bytes);
    if (sums) {
      StoreFloat(dtype, to, TreeSum(dtype, terms.data(), lanes.lanes));
    } else if (index_only) {
      StoreIndex(DType::kUint32, to, extreme.index);
    } else if (pair) {
      StoreFloat(dtype, to + (value_first ? 0 : bytes), extreme.value);
      StoreIndex(dtype, to + (value_first ? bytes : 0), extreme.index);
    } else {
      StoreFloat(dtype, to, extreme.value);
    }
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

namespace {

// Elements of the temporary tensor: the results of each level of reduction, level by level if the
// index is asked for.
uint64_t TmpElements(uint64_t repeats, uint32_t lanes, uint32_t per_block, bool with_index) {
  const auto round_up = [](uint64_t value, uint64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
  };
  uint64_t results = 2 * repeats;
  uint64_t elements = round_up(results, per_block);
  for (int level = 0; with_index && level < 2; ++level) {
    results = round_up(results, lanes) / lanes * 2;
    elements += round_up(results, per_block);
  }
  return elements;
}

}  // namespace

void ReduceTensor(ReduceType type, DType dtype, const LocalRef& dst, const LocalRef& src,
                  const LocalRef& tmp, const Extent& extent, int32_t src_rep_stride,
                  bool with_index) {
  Core& core = CurrentCore();
  const Op op = type == ReduceType::SUM   ? Op::kReduceSum
                : type == ReduceType::MAX ? Op::kReduceMax
                                          : Op::kReduceMin;
  const Reduction reduction = Start(op, dtype, src, extent, {1, 1, src_rep_stride}, 0);
  if (core.style.used_static) Report(Rule::kStaticApi, "forms with a temporary tensor need TPipe");
  const Lanes& lanes = reduction.lanes;
  if (lanes.elements == 0) return;
  const uint32_t bytes = SizeOf(dtype);
  const uint64_t needed =
      TmpElements(lanes.repeats, lanes.lanes, kBlockBytes / bytes, with_index) * bytes;
  if (tmp.end - tmp.begin < needed) {
    Report(Rule::kReduceTmp, "the temporary tensor needs %llu bytes, got %u", Number(needed),
           tmp.end - tmp.begin);
  }
  const uint32_t scratch = core.Check(tmp, 0, needed, kBlockBytes);
  CheckApart(tmp, needed, reduction.src, reduction.lanes);
  core.Check(dst, 0, 0, type == ReduceType::SUM ? bytes : 2 * bytes);
  core.Write(MemoryOf(tmp.position), scratch, scratch + static_cast<uint32_t>(needed),
             ByteState::kPoison);
  Extreme extreme;
  std::vector<float> sums;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    std::array<float, kMaxLanes> terms{};
    for (uint32_t lane = 0; lane < lanes.lanes; ++lane) {
      if (!HasLane(lanes.Mask(repeat), lane)) continue;
      terms[lane] = LoadFloat(dtype, reduction.from + LaneOffset(reduction.src, repeat, lane));
      extreme.Take(type, terms[lane], repeat * lanes.lanes + lane);
    }
    sums.push_back(TreeSum(dtype, terms.data(), lanes.lanes));
  }
  uint8_t* to = WritePart(dst, 0, with_index ? 2 * bytes : bytes);
  StoreFloat(dtype, to,
             type == ReduceType::SUM ? TreeSum(dtype, sums.data(), sums.size()) : extreme.value);
  if (with_index) StoreIndex(dtype, to + bytes, extreme.index);
}

}  // namespace emulator
