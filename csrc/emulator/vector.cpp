// Element-wise instructions: their arithmetic, filling and moving.
#include <cmath>
#include <limits>

#include "operand.h"

namespace emulator {

namespace {

// A lane computes half and float in float, integers in int64.
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
      Report(Rule::kIntOverflow, "%lld does not fit %s", static_cast<long long>(value),
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
  const auto map = [&](auto f) { Map2<T>(d, a, b, count, f); };
  if (op == Op::kAdd) return map([](W x, W y) { return x + y; });
  if (op == Op::kSub) return map([](W x, W y) { return x - y; });
  if (op == Op::kMul) return map([](W x, W y) { return x * y; });
  if (op == Op::kMax) return map([](W x, W y) { return Larger(x, y); });
  if (op == Op::kMin) return map([](W x, W y) { return Smaller(x, y); });
  if constexpr (std::is_floating_point_v<W>) {
    map([](W x, W y) { return x / y; });
  } else if (op == Op::kAnd) {
    map([](W x, W y) { return x & y; });
  } else {
    map([](W x, W y) { return x | y; });
  }
}

template <typename T>
void ScalarRun(Op op, uint8_t* d, const uint8_t* a, const void* scalar, uint32_t count) {
  using W = Wide<T>;
  T narrow;
  std::memcpy(&narrow, scalar, sizeof(T));
  const W y = static_cast<W>(narrow);
  const auto map = [&](auto f) { Map1<T>(d, a, count, f); };
  if (op == Op::kAdds) return map([y](W x) { return x + y; });
  if (op == Op::kMuls) return map([y](W x) { return x * y; });
  if (op == Op::kMaxs) return map([y](W x) { return Larger(x, y); });
  if (op == Op::kMins) return map([y](W x) { return Smaller(x, y); });
  if constexpr (std::is_integral_v<T>) {
    if (op == Op::kShiftRight) return map([y](W x) { return x >> y; });
    auto* to = reinterpret_cast<T*>(d);
    const auto* from = reinterpret_cast<const T*>(a);
    // bits shifted out are lost
    for (uint32_t i = 0; i < count; ++i)
      to[i] = static_cast<T>(static_cast<uint64_t>(from[i]) << y);
  }
}

template <typename T>
void UnaryRun(Op op, uint8_t* d, const uint8_t* a, uint32_t count) {
  using W = Wide<T>;
  const auto map = [&](auto f) { Map1<T>(d, a, count, f); };
  if (op == Op::kRelu) return map([](W x) { return Larger(x, W{0}); });
  if constexpr (std::is_floating_point_v<W>) {
    if (op == Op::kExp) return map([](W x) { return std::exp(x); });
    if (op == Op::kLn) return map([](W x) { return std::log(x); });
    if (op == Op::kSqrt) return map([](W x) { return std::sqrt(x); });
    if (op == Op::kRsqrt) return map([](W x) { return 1 / std::sqrt(x); });
    if (op == Op::kReciprocal) return map([](W x) { return 1 / x; });
    map([](W x) { return std::fabs(x); });
  } else {
    auto* to = reinterpret_cast<T*>(d);
    const auto* from = reinterpret_cast<const T*>(a);
    for (uint32_t i = 0; i < count; ++i) to[i] = static_cast<T>(~from[i]);
  }
}

// Calls f with a value of the element type, to choose a template.
template <typename F>
void WithArithmetic(DType dtype, F f) {
  if (dtype == DType::kFloat) return f(float{});
  if (dtype == DType::kHalf) return f(half{});
  if (dtype == DType::kInt32) return f(int32_t{});
  if (dtype == DType::kUint32) return f(uint32_t{});
  if (dtype == DType::kUint16) return f(uint16_t{});
  f(int16_t{});
}

uint32_t Widest(const Operand& a, const Operand& b) {
  return std::max(SizeOf(a.dtype), SizeOf(b.dtype));
}

// Where dst is also src1 and a stride is 0, each repeat works on the results of the one before.
bool IsRunningResult(Op op, const Operand& dst, const Operand& src1) {
  const bool allowed =
      op == Op::kAdd || op == Op::kSub || op == Op::kMul || op == Op::kMax || op == Op::kMin;
  return allowed && dst.dtype != DType::kInt16 && dst.ref.begin == src1.ref.begin &&
         dst.block_stride == src1.block_stride &&
         (src1.repeat_stride == 0 || dst.repeat_stride == 0);
}

void CheckShift(DType dtype, const void* scalar) {
  WithArithmetic(dtype, [&](auto type) {
    decltype(type) shift;
    std::memcpy(&shift, scalar, sizeof shift);
    const auto bits = static_cast<int64_t>(static_cast<Wide<decltype(type)>>(shift));
    if (bits >= 0 && bits <= static_cast<int64_t>(8 * sizeof shift)) return;
    Fail(Rule::kShiftRange, "a shift by %lld of %s", static_cast<long long>(bits), Name(dtype));
  });
}

}  // namespace

void Binary(Op op, const Operand& dst, const Operand& src0, const Operand& src1,
            const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_V);
  const Lanes lanes = Resolve(core, extent, Widest(dst, src0));
  const bool accumulates = op == Op::kMulAddDst;
  if (accumulates) ReadOperand(core, dst, lanes);
  if (!PrepareElements(core, src0.dtype, dst, {&src0, &src1}, lanes,
                       IsRunningResult(op, dst, src1) ? &src1 : nullptr)) {
    return;
  }
  ForEachElementRun<3>(core, {&dst, &src0, &src1}, lanes, [&](auto at, uint32_t count) {
    if (accumulates) {
      return AccumulateRun(dst.dtype, src0.dtype, at[0], at[1], at[2], false, count);
    }
    WithArithmetic(dst.dtype,
                   [&](auto type) { BinaryRun<decltype(type)>(op, at[0], at[1], at[2], count); });
  });
}

void Unary(Op op, const Operand& dst, const Operand& src, const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_V);
  const Lanes lanes = Resolve(core, extent, SizeOf(src.dtype));
  if (!PrepareElements(core, src.dtype, dst, {&src}, lanes)) return;
  ForEachElementRun<2>(core, {&dst, &src}, lanes, [&](auto at, uint32_t count) {
    WithArithmetic(dst.dtype,
                   [&](auto type) { UnaryRun<decltype(type)>(op, at[0], at[1], count); });
  });
}

void Scalar(Op op, const Operand& dst, const Operand& src, const void* scalar,
            const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_V);
  if (op == Op::kShiftLeft || op == Op::kShiftRight) CheckShift(src.dtype, scalar);
  const Lanes lanes = Resolve(core, extent, Widest(dst, src));
  const bool accumulates = op == Op::kAxpy;
  if (accumulates) ReadOperand(core, dst, lanes);
  if (!PrepareElements(core, src.dtype, dst, {&src}, lanes)) return;
  ForEachElementRun<2>(core, {&dst, &src}, lanes, [&](auto at, uint32_t count) {
    if (accumulates) {
      return AccumulateRun(dst.dtype, src.dtype, at[0], at[1], static_cast<const uint8_t*>(scalar),
                           true, count);
    }
    WithArithmetic(dst.dtype,
                   [&](auto type) { ScalarRun<decltype(type)>(op, at[0], at[1], scalar, count); });
  });
}

// --- filling and moving ---------------------------------------------------------------------

void Fill(const Operand& dst, const void* value, const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(Op::kDuplicate, PIPE_V);
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = Resolve(core, extent, bytes);
  if (!PrepareElements(core, dst.dtype, dst, {}, lanes)) return;
  ForEachElementRun<1>(core, {&dst}, lanes, [&](auto at, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) std::memcpy(at[0] + i * bytes, value, bytes);
  });
}

void Copy(const Operand& dst, const Operand& src, const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(Op::kCopy, PIPE_V);
  CheckRange("dstRepeatSize", dst.repeat_stride, 0, 4095);
  CheckRange("srcRepeatSize", src.repeat_stride, 0, 4095);
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = Resolve(core, extent, bytes);
  if (!PrepareElements(core, dst.dtype, dst, {&src}, lanes)) return;
  ForEachElementRun<2>(core, {&dst, &src}, lanes,
                       [&](auto at, uint32_t count) { std::memmove(at[0], at[1], count * bytes); });
}

void CreateIndex(const Operand& dst, const void* first, const Extent& extent) {
  Core& core = CurrentCore();
  core.Begin(Op::kCreateVecIndex, PIPE_V);
  const Lanes lanes = Resolve(core, extent, SizeOf(dst.dtype));
  if (!PrepareElements(core, dst.dtype, dst, {}, lanes)) return;
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
  core.Compute(dst.dtype, lanes);
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
