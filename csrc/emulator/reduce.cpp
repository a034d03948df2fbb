// Reductions. Sums are binary trees of neighbours, rounded at every node; of equal extremes the
// first wins.
#include <cmath>

#include "operand.h"

namespace emulator {

namespace {

constexpr uint32_t kMaxLanes = 128;  // of half

float LoadFloat(DType dtype, const uint8_t* from) {
  if (dtype == DType::kHalf) {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return HalfToFloat(bits);
  }
  float value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

void StoreFloat(DType dtype, uint8_t* to, float value) {
  if (dtype == DType::kHalf) {
    const uint16_t bits = FloatToHalf(value);
    std::memcpy(to, &bits, sizeof bits);
  } else {
    std::memcpy(to, &value, sizeof value);
  }
}

// an index as the bits of an element
void StoreIndex(DType dtype, uint8_t* to, uint32_t index) {
  if (dtype == DType::kHalf) {
    const auto bits = static_cast<uint16_t>(index);
    std::memcpy(to, &bits, sizeof bits);
  } else {
    std::memcpy(to, &index, sizeof index);
  }
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

void CheckStrides(std::initializer_list<int32_t> strides) {
  for (const int32_t stride : strides) {
    if (stride < 0 || stride > 65535) {
      Fail(Rule::kParamRange, "strides are 0 to 65535, got %d", stride);
    }
  }
}

struct Reduction {
  Lanes lanes;
  Operand src;
  const uint8_t* from;
};

// What the three forms share: the source's checks and reads.
Reduction Start(Op op, DType dtype, const LocalRef& src, const Extent& extent,
                int32_t dst_rep_stride, int32_t src_blk_stride, int32_t src_rep_stride) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_V);
  CheckStrides({dst_rep_stride, src_blk_stride, src_rep_stride});
  Reduction reduction{
      Resolve(core, extent, SizeOf(dtype)),
      {src, dtype, static_cast<uint32_t>(src_blk_stride), static_cast<uint32_t>(src_rep_stride)},
      nullptr};
  core.Compute(dtype, reduction.lanes);
  CheckAlive(core, reduction.src);
  ReadOperand(core, reduction.src, reduction.lanes);
  reduction.from = core.Bytes(src);
  return reduction;
}

// Results must not land on a source that is still to be read.
void CheckResults(const LocalRef& dst, uint64_t bytes, const Reduction& reduction) {
  ForEachRange(reduction.src, reduction.lanes, [&](uint32_t begin, uint32_t end) {
    LocalRef part = reduction.src.ref;
    part.begin += begin;
    CheckApart(dst, bytes, part, end - begin);
  });
}

}  // namespace

void ReduceRepeats(ReduceType type, DType dtype, const LocalRef& dst, const LocalRef& src,
                   const Extent& extent, int32_t dst_rep_stride, int32_t src_blk_stride,
                   int32_t src_rep_stride, ReduceOrder order) {
  Core& core = CurrentCore();
  const Reduction reduction =
      Start(Op::kReduceRepeat, dtype, src, extent, dst_rep_stride, src_blk_stride, src_rep_stride);
  const Lanes& lanes = reduction.lanes;
  const uint32_t bytes = SizeOf(dtype);
  const bool sums = type == ReduceType::SUM;
  const bool value_first = order == ReduceOrder::ORDER_VALUE_INDEX;
  const bool pair = !sums && (value_first || order == ReduceOrder::ORDER_INDEX_VALUE);
  const bool index_only = !sums && order == ReduceOrder::ORDER_ONLY_INDEX;
  const uint32_t result_bytes = index_only ? 4 : pair ? 2 * bytes : bytes;
  core.Check(dst, 0, 0, result_bytes);
  const uint64_t pitch = uint64_t{result_bytes} * static_cast<uint32_t>(dst_rep_stride);
  if (lanes.repeats != 0) {
    CheckResults(dst, (lanes.repeats - 1) * pitch + result_bytes, reduction);
  }
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
    uint8_t* to = WritePart(dst, repeat * pitch, result_bytes);
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
                  const Extent& extent, int32_t dst_rep_stride, int32_t src_blk_stride,
                  int32_t src_rep_stride) {
  Core& core = CurrentCore();
  const Reduction reduction = Start(Op::kReduceDataBlock, dtype, src, extent, dst_rep_stride,
                                    src_blk_stride, src_rep_stride);
  const Lanes& lanes = reduction.lanes;
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t per_block = kBlockBytes / bytes;
  const uint32_t results = lanes.lanes / per_block;
  core.Check(dst, 0, 0, results * bytes);
  const uint64_t pitch = uint64_t{results} * bytes * static_cast<uint32_t>(dst_rep_stride);
  if (lanes.repeats != 0) {
    CheckResults(dst, (lanes.repeats - 1) * pitch + results * bytes, reduction);
  }
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
      StoreFloat(dtype, WritePart(dst, repeat * pitch + block * bytes, bytes), result);
    }
  }
}

void ReducePairs(DType dtype, const LocalRef& dst, const LocalRef& src, const Extent& extent,
                 int32_t dst_rep_stride, int32_t src_blk_stride, int32_t src_rep_stride) {
  Core& core = CurrentCore();
  const Reduction reduction = Start(Op::kReducePairElem, dtype, src, extent, dst_rep_stride,
                                    src_blk_stride, src_rep_stride);
  const Lanes& lanes = reduction.lanes;
  const uint32_t bytes = SizeOf(dtype);
  core.Check(dst, 0, 0, kBlockBytes);
  const uint64_t pitch = uint64_t{kRepeatBytes / 2} * static_cast<uint32_t>(dst_rep_stride);
  if (lanes.repeats != 0) {
    CheckResults(dst, (lanes.repeats - 1) * pitch + kRepeatBytes / 2, reduction);
  }
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    for (uint32_t pair = 0; pair < lanes.lanes / 2; ++pair) {
      float sum = 0;
      bool any = false;
      for (const uint32_t lane : {2 * pair, 2 * pair + 1}) {
        if (!HasLane(lanes.Mask(repeat), lane)) continue;
        any = true;
        sum += LoadFloat(dtype, reduction.from + LaneOffset(reduction.src, repeat, lane));
      }
      if (any) StoreFloat(dtype, WritePart(dst, repeat * pitch + pair * bytes, bytes), sum);
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
  const Reduction reduction = Start(op, dtype, src, extent, 1, 1, src_rep_stride);
  if (core.style.used_static) Fail(Rule::kStaticApi, "forms with a temporary tensor need TPipe");
  const Lanes& lanes = reduction.lanes;
  if (lanes.elements == 0) return;
  const uint32_t bytes = SizeOf(dtype);
  const uint64_t needed =
      TmpElements(lanes.repeats, lanes.lanes, kBlockBytes / bytes, with_index) * bytes;
  if (tmp.end - tmp.begin < needed) {
    Fail(Rule::kReduceTmp, "the temporary tensor needs %llu bytes, got %u",
         static_cast<unsigned long long>(needed), tmp.end - tmp.begin);
  }
  const uint32_t scratch = core.Check(tmp, 0, needed, kBlockBytes);
  CheckResults(tmp, needed, reduction);
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
