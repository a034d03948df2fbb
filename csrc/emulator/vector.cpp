// Element-wise instructions: choosing lanes, walking operands, arithmetic.
#include <cmath>
#include <limits>

#include "operand.h"

namespace emulator {

// --- lanes
// ----------------------------------------------------------------------------------------

Lanes Resolve(Core& core, const Extent& extent, uint32_t element_bytes) {
  Lanes lanes;
  lanes.lanes = kRepeatBytes / element_bytes;
  const auto set_count = [&](uint64_t count) {
    if (count > kUbBytes / element_bytes) {
      Fail(Rule::kLocalBounds, "%llu elements of %u bytes are more than UB holds",
           static_cast<unsigned long long>(count), element_bytes);
    }
    lanes.elements = count;
    lanes.repeats = static_cast<uint32_t>((count + lanes.lanes - 1) / lanes.lanes);
    lanes.mask = PrefixMask(lanes.lanes);
    lanes.last =
        count == 0
            ? lanes.mask
            : PrefixMask(static_cast<uint32_t>(count - uint64_t{lanes.repeats - 1} * lanes.lanes));
    lanes.prefix = true;
  };
  if (extent.form == MaskForm::kCount) {
    const auto count = static_cast<int64_t>(extent.low);
    if (count < 0) Fail(Rule::kCountNegative, "count is %lld", static_cast<long long>(count));
    set_count(extent.low);
    return lanes;
  }
  if (core.counter_mode) {
    set_count(extent.form == MaskForm::kRegister ? core.mask[0] : extent.low);
    return lanes;
  }
  if (extent.repeat < 0 || extent.repeat > 255) {
    Fail(Rule::kRepeatRange, "repeat is 0 to 255, got %lld", static_cast<long long>(extent.repeat));
  }
  lanes.repeats = static_cast<uint32_t>(extent.repeat);
  if (extent.form == MaskForm::kContiguous) {
    if (extent.low > lanes.lanes) {
      Fail(Rule::kMaskRange, "mask is at most %u for elements of %u bytes, got %llu", lanes.lanes,
           element_bytes, static_cast<unsigned long long>(extent.low));
    }
    lanes.mask = PrefixMask(static_cast<uint32_t>(extent.low));
  } else {
    const bool from_register = extent.form == MaskForm::kRegister;
    lanes.mask = from_register ? core.mask : std::array<uint64_t, 2>{extent.low, extent.high};
    const std::array<uint64_t, 2> possible = PrefixMask(lanes.lanes);
    const bool default_register = from_register && !core.mask_touched;
    if (!default_register &&
        ((lanes.mask[0] & ~possible[0]) != 0 || (lanes.mask[1] & ~possible[1]) != 0)) {
      Fail(Rule::kMaskHighBits, "%u lanes of %u bytes, got mask[1]=%#llx, mask[0]=%#llx",
           lanes.lanes, element_bytes, static_cast<unsigned long long>(lanes.mask[1]),
           static_cast<unsigned long long>(lanes.mask[0]));
    }
    lanes.mask[0] &= possible[0];
    lanes.mask[1] &= possible[1];
    if (lanes.mask[0] == 0 && lanes.mask[1] == 0) {
      Fail(Rule::kMaskRange, "a bit mask has at least one bit");
    }
  }
  lanes.last = lanes.mask;
  uint32_t active = 0;
  for (uint32_t lane = 0; lane < lanes.lanes; ++lane) active += HasLane(lanes.mask, lane);
  lanes.elements = uint64_t{active} * lanes.repeats;
  lanes.prefix = active == lanes.lanes || (lanes.repeats == 1 && lanes.mask == PrefixMask(active));
  if (active == 0) lanes.repeats = 0;
  return lanes;
}

void CheckAlive(Core& core, const Operand& operand, uint32_t alignment) {
  core.Check(operand.ref, 0, 0, alignment);
}

void ReadOperand(Core& core, const Operand& operand, const Lanes& lanes) {
  const Memory memory = MemoryOf(operand.ref.position);
  ForEachRange(operand, lanes, [&](uint32_t begin, uint32_t end) {
    const uint32_t address = core.Check(operand.ref, begin, end - begin, 1);
    core.Read(memory, address, address + (end - begin));
  });
}

void WriteOperand(Core& core, const Operand& operand, const Lanes& lanes) {
  if (operand.block_stride == 0) {
    Fail(Rule::kDstBlockStride, "dstBlkStride is 0: every block would land on the first");
  }
  const Memory memory = MemoryOf(operand.ref.position);
  ForEachRange(operand, lanes, [&](uint32_t begin, uint32_t end) {
    const uint32_t address = core.Check(operand.ref, begin, end - begin, 1);
    core.Write(memory, address, address + (end - begin));
  });
}

namespace {

struct Span {
  uint32_t begin = ~0u;
  uint32_t end = 0;
};

Span Reach(const Operand& operand, const Lanes& lanes) {
  Span span;
  ForEachRange(operand, lanes, [&](uint32_t begin, uint32_t end) {
    span.begin = std::min(span.begin, operand.ref.begin + begin);
    span.end = std::max(span.end, operand.ref.begin + end);
  });
  return span;
}

}  // namespace

void CheckOverlap(Core& core, const Operand& dst, const Operand& src, const Lanes& lanes) {
  if (!core.machine.options.checks || lanes.elements == 0) return;
  const bool same_strides = SizeOf(dst.dtype) == SizeOf(src.dtype) &&
                            dst.block_stride == src.block_stride &&
                            (dst.repeat_stride == src.repeat_stride || lanes.repeats == 1);
  // in place; but where a repeat does not move on, the next one would read what this one wrote
  if (dst.ref.begin == src.ref.begin && same_strides &&
      (lanes.repeats == 1 || dst.repeat_stride != 0)) {
    return;
  }
  const Span to = Reach(dst, lanes);
  const Span from = Reach(src, lanes);
  if (to.end <= from.begin || from.end <= to.begin) return;
  // byte by byte: the repeat that wrote it, from 1
  std::vector<uint16_t> written(to.end - to.begin, 0);
  Lanes one = lanes;
  one.repeats = 1;
  one.prefix = false;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    one.mask = one.last = lanes.Mask(repeat);
    const uint32_t dst_at = dst.ref.begin + repeat * dst.repeat_stride * kBlockBytes;
    const uint32_t src_at = src.ref.begin + repeat * src.repeat_stride * kBlockBytes;
    const bool identical = dst_at == src_at && same_strides;
    ForEachRange(dst, one, [&](uint32_t begin, uint32_t end) {
      for (uint32_t i = dst_at + begin; i < dst_at + end; ++i) {
        if (!identical || written[i - to.begin] == 0) {
          written[i - to.begin] = static_cast<uint16_t>(repeat + 1);
        }
      }
    });
    ForEachRange(src, one, [&](uint32_t begin, uint32_t end) {
      for (uint32_t i = src_at + begin; i < src_at + end; ++i) {
        if (i < to.begin || i >= to.end || written[i - to.begin] == 0) continue;
        if (identical && written[i - to.begin] == repeat + 1) continue;
        Fail(Rule::kOverlap, "repeat %u reads UB byte %u, which repeat %u writes", repeat, i,
             written[i - to.begin] - 1u);
      }
    });
  }
}

void CheckApart(const LocalRef& dst, uint64_t dst_bytes, const LocalRef& src, uint64_t src_bytes) {
  if (dst.begin + dst_bytes <= src.begin || src.begin + src_bytes <= dst.begin) return;
  Fail(Rule::kOverlap, "the destination, UB [%u, %llu), overlaps a source, UB [%u, %llu)",
       dst.begin, static_cast<unsigned long long>(dst.begin + dst_bytes), src.begin,
       static_cast<unsigned long long>(src.begin + src_bytes));
}

// --- arithmetic
// -----------------------------------------------------------------------------------

namespace {

// what a lane computes in: float for half and float, wider integers for integers
template <typename T>
struct WideOf {
  using type = int64_t;
};
template <>
struct WideOf<half> {
  using type = float;
};
template <>
struct WideOf<float> {
  using type = float;
};
template <typename T>
using Wide = typename WideOf<T>::type;

template <typename T>
T Narrow(Wide<T> value) {
  if constexpr (std::is_integral_v<T>) {
    if (value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max()) {
      Fail(Rule::kIntOverflow, "%lld does not fit %s", static_cast<long long>(value),
           Name(kDTypeOf<T>));
    }
  }
  return static_cast<T>(value);
}

template <typename T>
T Larger(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
  }
  return a < b ? b : a;
}

template <typename T>
T Smaller(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
  }
  return b < a ? b : a;
}

template <typename T, typename F>
void Map2(uint8_t* dst, const uint8_t* src0, const uint8_t* src1, uint32_t count, F f) {
  auto* d = reinterpret_cast<T*>(dst);
  const auto* a = reinterpret_cast<const T*>(src0);
  const auto* b = reinterpret_cast<const T*>(src1);
  for (uint32_t i = 0; i < count; ++i) {
    d[i] = Narrow<T>(f(static_cast<Wide<T>>(a[i]), static_cast<Wide<T>>(b[i])));
  }
}

template <typename T, typename F>
void Map1(uint8_t* dst, const uint8_t* src, uint32_t count, F f) {
  auto* d = reinterpret_cast<T*>(dst);
  const auto* a = reinterpret_cast<const T*>(src);
  for (uint32_t i = 0; i < count; ++i) d[i] = Narrow<T>(f(static_cast<Wide<T>>(a[i])));
}

// dst + a * b with one rounding: the product of two floats is exact in double
template <typename T, typename U>
void Accumulate(uint8_t* dst, const uint8_t* src0, const uint8_t* src1, bool one_factor,
                uint32_t count) {
  auto* d = reinterpret_cast<T*>(dst);
  const auto* a = reinterpret_cast<const U*>(src0);
  const auto* b = reinterpret_cast<const U*>(src1);
  for (uint32_t i = 0; i < count; ++i) {
    const double product = static_cast<double>(static_cast<float>(a[i])) *
                           static_cast<double>(static_cast<float>(b[one_factor ? 0 : i]));
    d[i] =
        static_cast<T>(static_cast<float>(static_cast<double>(static_cast<float>(d[i])) + product));
  }
}

void AccumulateRun(DType dst_type, DType src_type, uint8_t* d, const uint8_t* a, const uint8_t* b,
                   bool one_factor, uint32_t count) {
  if (dst_type == DType::kHalf) {
    Accumulate<half, half>(d, a, b, one_factor, count);
  } else if (src_type == DType::kFloat) {
    Accumulate<float, float>(d, a, b, one_factor, count);
  } else {
    Accumulate<float, half>(d, a, b, one_factor, count);
  }
}

template <typename T>
void BinaryRun(Op op, uint8_t* d, const uint8_t* a, const uint8_t* b, uint32_t count) {
  using W = Wide<T>;
  switch (op) {
    case Op::kAdd:
      return Map2<T>(d, a, b, count, [](W x, W y) { return x + y; });
    case Op::kSub:
      return Map2<T>(d, a, b, count, [](W x, W y) { return x - y; });
    case Op::kMul:
      return Map2<T>(d, a, b, count, [](W x, W y) { return x * y; });
    case Op::kMax:
      return Map2<T>(d, a, b, count, [](W x, W y) { return Larger(x, y); });
    case Op::kMin:
      return Map2<T>(d, a, b, count, [](W x, W y) { return Smaller(x, y); });
    case Op::kDiv:
      if constexpr (std::is_floating_point_v<W>) {
        return Map2<T>(d, a, b, count, [](W x, W y) { return x / y; });
      }
      return;
    case Op::kAnd:
      if constexpr (std::is_integral_v<W>) {
        return Map2<T>(d, a, b, count, [](W x, W y) { return x & y; });
      }
      return;
    default:
      if constexpr (std::is_integral_v<W>) {
        return Map2<T>(d, a, b, count, [](W x, W y) { return x | y; });
      }
  }
}

template <typename T>
void ScalarRun(Op op, uint8_t* d, const uint8_t* a, const void* scalar, uint32_t count) {
  using W = Wide<T>;
  T narrow;
  std::memcpy(&narrow, scalar, sizeof(T));
  const W y = static_cast<W>(narrow);
  switch (op) {
    case Op::kAdds:
      return Map1<T>(d, a, count, [y](W x) { return x + y; });
    case Op::kMuls:
      return Map1<T>(d, a, count, [y](W x) { return x * y; });
    case Op::kMaxs:
      return Map1<T>(d, a, count, [y](W x) { return Larger(x, y); });
    case Op::kMins:
      return Map1<T>(d, a, count, [y](W x) { return Smaller(x, y); });
    case Op::kShiftLeft:
      if constexpr (std::is_integral_v<T>) {
        auto* to = reinterpret_cast<T*>(d);
        const auto* from = reinterpret_cast<const T*>(a);
        // bits shifted out are lost
        for (uint32_t i = 0; i < count; ++i) {
          to[i] = static_cast<T>(static_cast<uint64_t>(from[i]) << y);
        }
      }
      return;
    default:
      if constexpr (std::is_integral_v<T>) {
        return Map1<T>(d, a, count, [y](W x) { return x >> y; });
      }
  }
}

template <typename T>
void UnaryRun(Op op, uint8_t* d, const uint8_t* a, uint32_t count) {
  using W = Wide<T>;
  if (op == Op::kRelu) return Map1<T>(d, a, count, [](W x) { return Larger(x, W{0}); });
  if constexpr (std::is_floating_point_v<W>) {
    switch (op) {
      case Op::kExp:
        return Map1<T>(d, a, count, [](W x) { return std::exp(x); });
      case Op::kLn:
        return Map1<T>(d, a, count, [](W x) { return std::log(x); });
      case Op::kSqrt:
        return Map1<T>(d, a, count, [](W x) { return std::sqrt(x); });
      case Op::kRsqrt:
        return Map1<T>(d, a, count, [](W x) { return 1 / std::sqrt(x); });
      case Op::kReciprocal:
        return Map1<T>(d, a, count, [](W x) { return 1 / x; });
      default:
        return Map1<T>(d, a, count, [](W x) { return std::fabs(x); });
    }
  } else {
    auto* to = reinterpret_cast<T*>(d);
    const auto* from = reinterpret_cast<const T*>(a);
    for (uint32_t i = 0; i < count; ++i) to[i] = static_cast<T>(~from[i]);
  }
}

// Calls f with a value of the element type, to choose a template.
template <typename F>
void WithArithmetic(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat:
      return f(float{});
    case DType::kHalf:
      return f(half{});
    case DType::kInt32:
      return f(int32_t{});
    case DType::kUint32:
      return f(uint32_t{});
    case DType::kUint16:
      return f(uint16_t{});
    default:
      return f(int16_t{});
  }
}

uint32_t Widest(const Operand& a, const Operand& b) {
  return std::max(SizeOf(a.dtype), SizeOf(b.dtype));
}

// dst as src1 without moving on: each repeat adds to the sums of the one before
bool IsRunningResult(Op op, const Operand& dst, const Operand& src1) {
  const bool allowed =
      op == Op::kAdd || op == Op::kSub || op == Op::kMul || op == Op::kMax || op == Op::kMin;
  return allowed && dst.dtype != DType::kInt16 && dst.ref.begin == src1.ref.begin &&
         dst.block_stride == src1.block_stride &&
         (src1.repeat_stride == 0 || dst.repeat_stride == 0);
}

}  // namespace

void Binary(Op op, const Operand& dst, const Operand& src0, const Operand& src1,
            const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_V);
  const Lanes lanes = Resolve(core, extent, Widest(dst, src0));
  core.CountVector(op, src0.dtype, lanes);
  for (const Operand* operand : {&dst, &src0, &src1}) CheckAlive(core, *operand);
  const bool accumulates = op == Op::kMulAddDst;
  ReadOperand(core, src0, lanes);
  ReadOperand(core, src1, lanes);
  if (accumulates) ReadOperand(core, dst, lanes);
  CheckOverlap(core, dst, src0, lanes);
  if (!IsRunningResult(op, dst, src1)) CheckOverlap(core, dst, src1, lanes);
  WriteOperand(core, dst, lanes);
  if (core.lacks_data) return;
  uint8_t* to = core.Bytes(dst.ref);
  const uint8_t* from0 = core.Bytes(src0.ref);
  const uint8_t* from1 = core.Bytes(src1.ref);
  ForEachElementRun<3>(
      {&dst, &src0, &src1}, lanes, [&](const std::array<uint32_t, 3>& at, uint32_t count) {
        uint8_t* d = to + at[0];
        const uint8_t* a = from0 + at[1];
        const uint8_t* b = from1 + at[2];
        if (accumulates) {
          AccumulateRun(dst.dtype, src0.dtype, d, a, b, false, count);
        } else {
          WithArithmetic(dst.dtype,
                         [&](auto type) { BinaryRun<decltype(type)>(op, d, a, b, count); });
        }
      });
}

void Unary(Op op, const Operand& dst, const Operand& src, const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_V);
  const Lanes lanes = Resolve(core, extent, SizeOf(src.dtype));
  core.CountVector(op, src.dtype, lanes);
  for (const Operand* operand : {&dst, &src}) CheckAlive(core, *operand);
  ReadOperand(core, src, lanes);
  CheckOverlap(core, dst, src, lanes);
  WriteOperand(core, dst, lanes);
  if (core.lacks_data) return;
  uint8_t* to = core.Bytes(dst.ref);
  const uint8_t* from = core.Bytes(src.ref);
  ForEachElementRun<2>({&dst, &src}, lanes, [&](const std::array<uint32_t, 2>& at, uint32_t count) {
    WithArithmetic(dst.dtype, [&](auto type) {
      UnaryRun<decltype(type)>(op, to + at[0], from + at[1], count);
    });
  });
}

void Scalar(Op op, const Operand& dst, const Operand& src, const void* scalar,
            const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_V);
  const Lanes lanes = Resolve(core, extent, Widest(dst, src));
  core.CountVector(op, src.dtype, lanes);
  for (const Operand* operand : {&dst, &src}) CheckAlive(core, *operand);
  if (op == Op::kShiftLeft || op == Op::kShiftRight) {
    WithArithmetic(src.dtype, [&](auto type) {
      decltype(type) shift;
      std::memcpy(&shift, scalar, sizeof shift);
      const auto bits = static_cast<int64_t>(static_cast<Wide<decltype(type)>>(shift));
      if (bits < 0 || bits > static_cast<int64_t>(8 * sizeof shift)) {
        Fail(Rule::kShiftRange, "a shift by %lld of %s", static_cast<long long>(bits),
             Name(src.dtype));
      }
    });
  }
  const bool accumulates = op == Op::kAxpy;
  ReadOperand(core, src, lanes);
  if (accumulates) ReadOperand(core, dst, lanes);
  CheckOverlap(core, dst, src, lanes);
  WriteOperand(core, dst, lanes);
  if (core.lacks_data) return;
  uint8_t* to = core.Bytes(dst.ref);
  const uint8_t* from = core.Bytes(src.ref);
  ForEachElementRun<2>({&dst, &src}, lanes, [&](const std::array<uint32_t, 2>& at, uint32_t count) {
    uint8_t* d = to + at[0];
    const uint8_t* a = from + at[1];
    if (accumulates) {
      AccumulateRun(dst.dtype, src.dtype, d, a, static_cast<const uint8_t*>(scalar), true, count);
    } else {
      WithArithmetic(dst.dtype,
                     [&](auto type) { ScalarRun<decltype(type)>(op, d, a, scalar, count); });
    }
  });
}

// --- filling and moving
// ---------------------------------------------------------------------------

void Fill(const Operand& dst, const void* value, const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(Op::kDuplicate, PIPE_V);
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = Resolve(core, extent, bytes);
  core.CountVector(Op::kDuplicate, dst.dtype, lanes);
  CheckAlive(core, dst);
  WriteOperand(core, dst, lanes);
  if (core.lacks_data) return;
  uint8_t* to = core.Bytes(dst.ref);
  ForEachElementRun<1>({&dst}, lanes, [&](const std::array<uint32_t, 1>& at, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) std::memcpy(to + at[0] + i * bytes, value, bytes);
  });
}

void Copy(const Operand& dst, const Operand& src, const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(Op::kCopy, PIPE_V);
  constexpr uint32_t kMaxRepeatStride = 4095;
  if (dst.repeat_stride > kMaxRepeatStride || src.repeat_stride > kMaxRepeatStride) {
    Fail(Rule::kParamRange, "repeat strides are 0 to %u, got %u and %u", kMaxRepeatStride,
         dst.repeat_stride, src.repeat_stride);
  }
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = Resolve(core, extent, bytes);
  core.CountVector(Op::kCopy, dst.dtype, lanes);
  for (const Operand* operand : {&dst, &src}) CheckAlive(core, *operand);
  ReadOperand(core, src, lanes);
  CheckOverlap(core, dst, src, lanes);
  WriteOperand(core, dst, lanes);
  if (core.lacks_data) return;
  uint8_t* to = core.Bytes(dst.ref);
  const uint8_t* from = core.Bytes(src.ref);
  ForEachElementRun<2>({&dst, &src}, lanes, [&](const std::array<uint32_t, 2>& at, uint32_t count) {
    std::memmove(to + at[0], from + at[1], count * bytes);
  });
}

void CreateIndex(const Operand& dst, const void* first, const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(Op::kCreateVecIndex, PIPE_V);
  const Lanes lanes = Resolve(core, extent, SizeOf(dst.dtype));
  core.CountVector(Op::kCreateVecIndex, dst.dtype, lanes);
  CheckAlive(core, dst);
  WriteOperand(core, dst, lanes);
  if (core.lacks_data) return;
  uint8_t* to = core.Bytes(dst.ref);
  WithArithmetic(dst.dtype, [&](auto type) {
    using T = decltype(type);
    T start;
    std::memcpy(&start, first, sizeof(T));
    ForEachRun(lanes, kBlockBytes / sizeof(T), [&](uint32_t repeat, uint32_t lane, uint32_t count) {
      for (uint32_t i = lane; i < lane + count; ++i) {
        const auto index = static_cast<Wide<T>>(uint64_t{repeat} * lanes.lanes + i);
        const T value = Narrow<T>(static_cast<Wide<T>>(start) + index);
        std::memcpy(to + LaneOffset(dst, repeat, i), &value, sizeof(T));
      }
    });
  });
}

void BroadcastBlocks(const Operand& dst, const Operand& src, uint8_t repeat) {
  Core& core = CurrentCore();
  core.Begin(Op::kBrcb, PIPE_V);
  constexpr uint32_t kPerRepeat = 8;
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = FullRepeats(repeat, bytes);
  core.CountVector(Op::kBrcb, dst.dtype, lanes);
  for (const Operand* operand : {&dst, &src}) CheckAlive(core, *operand);
  const uint32_t source_bytes = repeat * kPerRepeat * bytes;
  const uint32_t from = core.Check(src.ref, 0, source_bytes, kBlockBytes);
  core.Read(MemoryOf(src.ref.position), from, from + source_bytes);
  WriteOperand(core, dst, lanes);
  if (core.lacks_data) return;
  const Span reach = Reach(dst, lanes);
  if (repeat != 0) CheckApart(dst.ref, reach.end - dst.ref.begin, src.ref, source_bytes);
  uint8_t* to = core.Bytes(dst.ref);
  const uint8_t* values = core.Bytes(src.ref);
  ForEachRun(lanes, kBlockBytes / bytes, [&](uint32_t at, uint32_t lane, uint32_t count) {
    const uint32_t block = lane / (kBlockBytes / bytes);
    for (uint32_t i = lane; i < lane + count; ++i) {
      std::memcpy(to + LaneOffset(dst, at, i), values + (at * kPerRepeat + block) * bytes, bytes);
    }
  });
}

}  // namespace emulator
