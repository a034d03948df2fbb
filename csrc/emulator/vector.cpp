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

// NaN wins, and -0 is less than 0.
template <typename T>
T Larger(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
    if (a == b) return std::signbit(a) ? b : a;
  }
  return a < b ? b : a;
}

template <typename T>
T Smaller(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
    if (a == b) return std::signbit(a) ? a : b;
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

// MulAddDst and Axpy add a * b to the destination, FusedMulAdd and MulAddRelu b to a times it.
bool Accumulates(Op op) {
  return op == Op::kMulAddDst || op == Op::kAxpy || op == Op::kFusedMulAdd || op == Op::kMulAddRelu;
}

// With one rounding: the product of two floats is exact in double. Of Axpy b is one value. A
// product beyond the type is infinite, which tells beside an infinite addend only.
template <typename T, typename U>
void Accumulate(Op op, uint8_t* dst, const uint8_t* src0, const uint8_t* src1, uint32_t count) {
  auto* d = reinterpret_cast<T*>(dst);
  const auto* a = reinterpret_cast<const U*>(src0);
  const auto* b = reinterpret_cast<const U*>(src1);
  const bool scales = op == Op::kFusedMulAdd || op == Op::kMulAddRelu;
  for (uint32_t i = 0; i < count; ++i) {
    const auto before = static_cast<double>(static_cast<float>(d[i]));
    const auto x = static_cast<double>(static_cast<float>(a[i]));
    const auto y = static_cast<double>(static_cast<float>(b[op == Op::kAxpy ? 0 : i]));
    const double addend = scales ? y : before;
    double product = scales ? before * x : x * y;
    if (std::isinf(addend))
      product = static_cast<float>(static_cast<T>(static_cast<float>(product)));
    const auto sum = static_cast<float>(addend + product);
    d[i] = static_cast<T>(op == Op::kMulAddRelu ? Larger(0.0f, sum) : sum);
  }
}

void AccumulateRun(Op op, DType dst_type, DType src_type, uint8_t* d, const uint8_t* a,
                   const uint8_t* b, uint32_t count) {
  if (dst_type == DType::kHalf) {
    Accumulate<half, half>(op, d, a, b, count);
  } else if (src_type == DType::kFloat) {
    Accumulate<float, float>(op, d, a, b, count);
  } else {
    Accumulate<float, half>(op, d, a, b, count);
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
  if (op == Op::kAddRelu) return map([](W x, W y) { return Larger(W{0}, x + y); });
  if (op == Op::kSubRelu) return map([](W x, W y) { return Larger(W{0}, x - y); });
  if constexpr (std::is_floating_point_v<W>) {
    map([](W x, W y) { return x / y; });
  } else if (op == Op::kAnd) {
    map([](W x, W y) { return x & y; });
  } else {
    map([](W x, W y) { return x | y; });
  }
}

template <typename T>
void ScalarRun(Op op, uint8_t* d, const uint8_t* a, const void* scalar, bool rounds,
               uint32_t count) {
  using W = Wide<T>;
  T narrow;
  std::memcpy(&narrow, scalar, sizeof(T));
  const W y = static_cast<W>(narrow);
  const auto map = [&](auto f) { Map1<T>(d, a, count, f); };
  if (op == Op::kAdds) return map([y](W x) { return x + y; });
  if (op == Op::kMuls) return map([y](W x) { return x * y; });
  if (op == Op::kMaxs) return map([y](W x) { return Larger(x, y); });
  if (op == Op::kMins) return map([y](W x) { return Smaller(x, y); });
  if constexpr (std::is_floating_point_v<W>) {
    map([y](W x) { return std::signbit(x) ? x * y : x; });  // LeakyRelu
  } else {
    if (op == Op::kShiftRight && rounds && std::is_signed_v<T> && y > 0) {
      return map([y](W x) { return (x >> y) + (x >> (y - 1) & 1); });
    }
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
  // of -0 it is 0
  if (op == Op::kRelu) return map([](W x) { return Larger(W{0}, x); });
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
  const bool allowed = op == Op::kAdd || op == Op::kSub || op == Op::kMul || op == Op::kMax ||
                       op == Op::kMin || op == Op::kAddRelu || op == Op::kSubRelu;
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
    Fail(Rule::kShiftRange, "a shift of %s is 0 to %zu, got %lld", Name(dtype), 8 * sizeof shift,
         static_cast<long long>(bits));
  });
}

}  // namespace

void Binary(Op op, const Operand& dst, const Operand& src0, const Operand& src1,
            const Extent& extent) {
  Core& core = Begin(op, PIPE_V);
  const Lanes lanes = Resolve(core, extent, Widest(dst, src0));
  const bool accumulates = Accumulates(op);
  if (accumulates) ReadOperand(core, dst, lanes);
  if (!PrepareElements(core, src0.dtype, dst, {&src0, &src1}, lanes,
                       IsRunningResult(op, dst, src1) ? &src1 : nullptr)) {
    return;
  }
  ForEachElementRun<3>(core, {&dst, &src0, &src1}, lanes, [&](auto at, uint32_t count) {
    if (accumulates) {
      return AccumulateRun(op, dst.dtype, src0.dtype, at[0], at[1], at[2], count);
    }
    WithArithmetic(dst.dtype,
                   [&](auto type) { BinaryRun<decltype(type)>(op, at[0], at[1], at[2], count); });
  });
}

void Unary(Op op, const Operand& dst, const Operand& src, const Extent& extent) {
  Core& core = Begin(op, PIPE_V);
  const Lanes lanes = Resolve(core, extent, SizeOf(src.dtype));
  if (!PrepareElements(core, src.dtype, dst, {&src}, lanes)) return;
  ForEachElementRun<2>(core, {&dst, &src}, lanes, [&](auto at, uint32_t count) {
    WithArithmetic(dst.dtype,
                   [&](auto type) { UnaryRun<decltype(type)>(op, at[0], at[1], count); });
  });
}

void Scalar(Op op, const Operand& dst, const Operand& src, const void* scalar, const Extent& extent,
            bool rounds) {
  Core& core = Begin(op, PIPE_V);
  if (op == Op::kShiftLeft || op == Op::kShiftRight) CheckShift(src.dtype, scalar);
  const Lanes lanes = Resolve(core, extent, Widest(dst, src));
  const bool accumulates = Accumulates(op);
  if (accumulates) ReadOperand(core, dst, lanes);
  if (!PrepareElements(core, src.dtype, dst, {&src}, lanes)) return;
  ForEachElementRun<2>(core, {&dst, &src}, lanes, [&](auto at, uint32_t count) {
    if (accumulates) {
      return AccumulateRun(op, dst.dtype, src.dtype, at[0], at[1],
                           static_cast<const uint8_t*>(scalar), count);
    }
    WithArithmetic(dst.dtype, [&](auto type) {
      ScalarRun<decltype(type)>(op, at[0], at[1], scalar, rounds, count);
    });
  });
}

// --- filling --------------------------------------------------------------------------------

void Fill(const Operand& dst, const void* value, const Extent& extent) {
  Core& core = Begin(Op::kDuplicate, PIPE_V);
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = Resolve(core, extent, bytes);
  if (!PrepareElements(core, dst.dtype, dst, {}, lanes)) return;
  ForEachElementRun<1>(core, {&dst}, lanes, [&](auto at, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) std::memcpy(at[0] + i * bytes, value, bytes);
  });
}

void CreateIndex(const Operand& dst, const void* first, const Extent& extent) {
  Core& core = Begin(Op::kCreateVecIndex, PIPE_V);
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
  Core& core = Begin(Op::kBrcb, PIPE_V);
  constexpr uint32_t kPerRepeat = 8;
  const uint32_t bytes = SizeOf(dst.dtype);
  const Lanes lanes = FullRepeats(repeat, bytes);
  core.Compute(dst.dtype, lanes, core.timed() ? BankCycles(dst, {}, lanes) : 0);
  for (const Operand* operand : {&dst, &src}) CheckAlive(core, *operand);
  const uint32_t source_bytes = repeat * kPerRepeat * bytes;
  core.Check(src.ref, 0, source_bytes, kBlockBytes);
  FollowPart(src.ref, 0, source_bytes);
  WriteOperand(core, dst, lanes);
  const Span reach = Reach(dst, lanes);
  if (repeat != 0) CheckApart(dst.ref, reach.end - dst.ref.begin, src.ref, source_bytes);
  core.Carry(MemoryOf(src.ref.position), [&](uint8_t* memory) {
    const uint8_t* values = memory + src.ref.begin;
    ForEachRun(lanes, kBlockBytes / bytes, [&](uint32_t at, uint32_t lane, uint32_t count) {
      const uint32_t block = lane / (kBlockBytes / bytes);
      for (uint32_t i = lane; i < lane + count; ++i) {
        std::memmove(memory + dst.ref.begin + LaneOffset(dst, at, i),
                     values + (at * kPerRepeat + block) * bytes, bytes);
      }
    });
  });
}

}  // namespace emulator
