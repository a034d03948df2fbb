// One instruction on an image of UB, in every form: the tests compare what it leaves with NumPy.
#include <stdexcept>

#include "forms.h"

namespace moge_tests {

namespace {

constexpr uint32_t kImageBytes = 65536;

// Copies the scores of a sorted list to 8 KiB after it, and the indices to 12 KiB.
template <typename T>
void Split(const Place& ub, uint32_t list, uint32_t count) {
  uint64_t taken = 0;
  const uint8_t first = sizeof(T) == 2 ? 3 : 1;
  GatherMask(ub.At<T>(list + 8192), ub.At<T>(list), first, true, count * 8 / sizeof(T),
             {1, 1, 8, 0}, taken);
  GatherMask(ub.At<int32_t>(list + 12288), ub.At<int32_t>(list), 2, true, count * 2, {1, 1, 8, 0},
             taken);
}

#define TYPES T
template <typename T>
void Arithmetic(const Instruction& c, const Place& ub) {
  auto dst = ub.At<T>(c.dst), a = ub.At<T>(c.src0), b = ub.At<T>(c.src1);
  const T scalar = static_cast<T>(c.scalar);
  FORMS(Add, BinaryStrides(c), dst, a, b)
  FORMS(Sub, BinaryStrides(c), dst, a, b)
  FORMS(Mul, BinaryStrides(c), dst, a, b)
  FORMS(Max, BinaryStrides(c), dst, a, b)
  FORMS(Min, BinaryStrides(c), dst, a, b)
  FORMS(Adds, UnaryStrides(c), dst, a, scalar)
  FORMS(Muls, UnaryStrides(c), dst, a, scalar)
  FORMS(Maxs, UnaryStrides(c), dst, a, scalar)
  FORMS(Mins, UnaryStrides(c), dst, a, scalar)
  if (c.op == "CreateVecIndex") return CreateVecIndex(dst, scalar, c.low);
  if constexpr (!std::is_same_v<T, int16_t>) {
    FORMS(Relu, UnaryStrides(c), dst, a)
    const auto mode = static_cast<CMPMODE>(c.mode);
    auto bits = ub.At<uint8_t>(c.dst);
    if (c.op == "Compare" && c.form == "count") return Compare(bits, a, b, mode, c.low);
    if (c.op == "Compares" && c.form == "count") return Compares(bits, a, scalar, mode, c.low);
    if (c.op == "Compare" && c.form == "mask") {
      return Compare(bits, a, b, mode, c.low, c.repeat, BinaryStrides(c));
    }
    if (c.op == "Compares" && c.form == "mask") {
      return Compares(bits, a, scalar, mode, c.low, c.repeat, UnaryStrides(c));
    }
  }
}

template <typename T>
void Floats(const Instruction& c, const Place& ub) {
  auto dst = ub.At<T>(c.dst), a = ub.At<T>(c.src0), b = ub.At<T>(c.src1), tmp = ub.At<T>(c.tmp);
  const T scalar = static_cast<T>(c.scalar);
  FORMS(Div, BinaryStrides(c), dst, a, b)
  FORMS(Exp, UnaryStrides(c), dst, a)
  FORMS(Ln, UnaryStrides(c), dst, a)
  FORMS(Sqrt, UnaryStrides(c), dst, a)
  FORMS(Rsqrt, UnaryStrides(c), dst, a)
  FORMS(Reciprocal, UnaryStrides(c), dst, a)
  FORMS(Abs, UnaryStrides(c), dst, a)
  const auto mode = static_cast<SELMODE>(c.mode);
  auto mask = ub.At<uint8_t>(c.tmp);
  if (c.op == "Select" && mode == SELMODE::VSEL_TENSOR_SCALAR_MODE) {
    if (c.form == "count") return Select(dst, mask, a, scalar, mode, c.low);
    return Select(dst, mask, a, scalar, mode, c.low, c.repeat, BinaryStrides(c));
  }
  if (c.op == "Select") {
    if (c.form == "count") return Select(dst, mask, a, b, mode, c.low);
    return Select(dst, mask, a, b, mode, c.low, c.repeat, BinaryStrides(c));
  }
  if (c.op == "CompareRegister") {
    Compare(a, b, static_cast<CMPMODE>(c.mode), c.low, BinaryRepeatParams());
    return GetCmpMask(ub.At<uint8_t>(c.dst));
  }
  const auto order = static_cast<ReduceOrder>(c.mode);
  WithMask(c, [&](auto bits, auto is_set) {
    constexpr bool kSet = decltype(is_set)::value;
    const auto& s = c.strides;
    if (c.op == "WholeReduceSum") {
      WholeReduceSum<T, kSet>(dst, a, bits, c.repeat, s[0], s[1], s[2]);
    } else if (c.op == "WholeReduceMax") {
      WholeReduceMax<T, kSet>(dst, a, bits, c.repeat, s[0], s[1], s[2], order);
    } else if (c.op == "WholeReduceMin") {
      WholeReduceMin<T, kSet>(dst, a, bits, c.repeat, s[0], s[1], s[2], order);
    } else if (c.op == "BlockReduceSum") {
      BlockReduceSum<T, kSet>(dst, a, c.repeat, bits, s[0], s[1], s[2]);
    } else if (c.op == "BlockReduceMax") {
      BlockReduceMax<T, kSet>(dst, a, c.repeat, bits, s[0], s[1], s[2]);
    } else if (c.op == "BlockReduceMin") {
      BlockReduceMin<T, kSet>(dst, a, c.repeat, bits, s[0], s[1], s[2]);
    } else if (c.op == "PairReduceSum") {
      PairReduceSum<T, kSet>(dst, a, c.repeat, bits, s[0], s[1], s[2]);
    }
  });
  if (c.op == "ReduceSum") return ReduceSum(dst, a, tmp, c.low);
  if (c.op == "ReduceMax") return ReduceMax(dst, a, tmp, c.low, c.flag);
  if (c.op == "ReduceMin") return ReduceMin(dst, a, tmp, c.low, c.flag);
  if (c.op == "Sort32") {
    Sort32(dst, a, ub.At<uint32_t>(c.src1), c.repeat);
    return Split<T>(ub, c.dst, c.repeat * 32);
  }
  if (c.op == "MrgSort") {
    // lists of `low` pairs, one after the other
    const uint32_t step = c.low * 8;
    const MrgSortSrcList<T> lists(ub.At<T>(c.src0), ub.At<T>(c.src0 + step),
                                  ub.At<T>(c.src0 + 2 * step), ub.At<T>(c.src0 + 3 * step));
    const auto length = static_cast<uint16_t>(c.low);
    const uint16_t lengths[4] = {length, length, length, length};
    MrgSort(dst, lists, MrgSort4Info(lengths, c.flag, c.mode, c.repeat));
    uint32_t sorted = 4 * c.low * c.repeat;
    if (c.flag) {
      uint16_t taken[4];
      GetMrgSortResult(taken[0], taken[1], taken[2], taken[3]);
      auto counts = ub.At<uint16_t>(c.tmp);
      for (int i = 0; i < 4; ++i) counts.SetValue(i, taken[i]);
      sorted = taken[0] + taken[1] + taken[2] + taken[3];
    }
    Split<T>(ub, c.dst, sorted);
  }
}
#undef TYPES

template <typename T>
uint64_t Moves(const Instruction& c, const Place& ub) {
  auto dst = ub.At<T>(c.dst), a = ub.At<T>(c.src0);
  const T scalar = static_cast<T>(c.scalar);
  auto offsets = ub.At<uint32_t>(c.src1);
  using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
  uint64_t taken = 0;
  if (c.op == "Brcb") {
    Brcb(dst, a, c.repeat, {c.strides[0], c.strides[1]});
  } else if (c.op == "Gather" && c.form == "count") {
    Gather(dst, a, offsets, static_cast<uint32_t>(c.scalar), static_cast<uint32_t>(c.low));
  } else if (c.op == "Gather") {
    Gather(dst, a, offsets, static_cast<uint32_t>(c.scalar), c.low, c.repeat, c.strides[0]);
  } else if (c.op == "Gatherb") {
    Gatherb(ub.At<Bits>(c.dst), ub.At<Bits>(c.src0), offsets, c.repeat,
            {c.strides[0], c.strides[1]});
  } else if (c.op == "DataCopy" && c.form == "count") {
    DataCopy(dst, a, static_cast<uint32_t>(c.low));
  } else if (c.op == "DataCopy") {
    DataCopy(dst, a, DataCopyParams(c.strides[0], c.strides[1], c.strides[2], c.strides[3]));
  } else if (c.op == "GatherMask") {
    const GatherMaskParams params(c.strides[0], c.repeat, c.strides[1], c.strides[2]);
    if (c.mode != 0) {
      GatherMask(dst, a, static_cast<uint8_t>(c.mode), c.flag, c.low, params, taken);
    } else {
      GatherMask(dst, a, ub.At<Bits>(c.src1), c.flag, c.low, params, taken);
    }
  } else if (c.form == "count") {
    Duplicate(dst, scalar, static_cast<int32_t>(c.low));
  } else {
    WithMask(c, [&](auto mask, auto is_set) {
      constexpr bool kSet = decltype(is_set)::value;
      if (c.op == "Duplicate") {
        Duplicate<T, kSet>(dst, scalar, mask, c.repeat, c.strides[0], c.strides[2]);
      } else {
        Copy<T, kSet>(dst, a, mask, c.repeat,
                      {c.strides[0], c.strides[1], c.strides[2], c.strides[3]});
      }
    });
  }
  return taken;
}

#define TYPES T
template <typename T>
void Bits(const Instruction& c, const Place& ub) {
  auto dst = ub.At<T>(c.dst), a = ub.At<T>(c.src0), b = ub.At<T>(c.src1);
  const T scalar = static_cast<T>(c.scalar);
  FORMS(ShiftLeft, UnaryStrides(c), dst, a, scalar)
  FORMS(ShiftRight, UnaryStrides(c), dst, a, scalar)
  if constexpr (sizeof(T) == 2) {
    FORMS(And, BinaryStrides(c), dst, a, b)
    FORMS(Or, BinaryStrides(c), dst, a, b)
    FORMS(Not, UnaryStrides(c), dst, a)
  }
}
#undef TYPES

#define TYPES T, U
template <typename T, typename U>
void Accumulating(const Instruction& c, const Place& ub) {
  auto dst = ub.At<T>(c.dst);
  auto a = ub.At<U>(c.src0), b = ub.At<U>(c.src1);
  const U scalar = static_cast<U>(c.scalar);
  FORMS(MulAddDst, BinaryStrides(c), dst, a, b)
  FORMS(Axpy, UnaryStrides(c), dst, a, scalar)
}

template <typename T, typename U>
bool Casts(const Instruction& c, const Place& ub) {
  const auto name = [](emulator::DType dtype) {
    static constexpr const char* kNames[] = {
#define MOGE_DTYPE(name, type, text) text,
        MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
    };
    return std::string(kNames[static_cast<int>(dtype)]);
  };
  if (c.dtype != name(emulator::kDTypeOf<T>) || c.src_dtype != name(emulator::kDTypeOf<U>)) {
    return false;
  }
  auto dst = ub.At<T>(c.dst);
  auto a = ub.At<U>(c.src0);
  const auto mode = static_cast<RoundMode>(c.mode);
  if (c.form == "count") {
    Cast(dst, a, mode, static_cast<uint32_t>(c.low));
  } else {
    WithMask(c, [&](auto mask, auto is_set) {
      Cast<T, U, decltype(is_set)::value>(dst, a, mode, mask, c.repeat, UnaryStrides(c));
    });
  }
  return true;
}
#undef TYPES

template <typename U, typename... T>
bool CastsFrom(const Instruction& c, const Place& ub) {
  return (Casts<T, U>(c, ub) || ...);
}

void DispatchCast(const Instruction& c, const Place& ub) {
  if (c.scalar != 0) SetDeqScale(half(c.scalar));
  const bool found = CastsFrom<half, float, int32_t, int16_t, int8_t, uint8_t, int4b_t>(c, ub) ||
                     CastsFrom<int4b_t, half>(c, ub) ||
                     CastsFrom<float, half, bfloat16_t, int32_t, int16_t, int64_t, float>(c, ub) ||
                     CastsFrom<bfloat16_t, float, int32_t>(c, ub) ||
                     CastsFrom<int8_t, half>(c, ub) || CastsFrom<uint8_t, half>(c, ub) ||
                     CastsFrom<int16_t, half, float>(c, ub) ||
                     CastsFrom<int32_t, float, int16_t, int64_t, half>(c, ub) ||
                     CastsFrom<int64_t, int32_t, float>(c, ub);
  if (!found) throw std::invalid_argument("no Cast from " + c.src_dtype + " to " + c.dtype);
}

uint64_t Dispatch(const Instruction& c, const Place& ub) {
  const auto is_one_of = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (c.op == name) return true;
    }
    return false;
  };
  if (ExecuteCompound(c, ub)) {
    return 0;
  } else if (c.op == "Cast") {
    DispatchCast(c, ub);
  } else if (is_one_of({"MulAddDst", "Axpy"})) {
    if (c.dtype == "half") Accumulating<half, half>(c, ub);
    if (c.dtype == "float" && c.src_dtype == "float") Accumulating<float, float>(c, ub);
    if (c.dtype == "float" && c.src_dtype == "half") Accumulating<float, half>(c, ub);
  } else if (is_one_of({"ShiftLeft", "ShiftRight", "And", "Or", "Not"})) {
    if (c.dtype == "int16") Bits<int16_t>(c, ub);
    if (c.dtype == "uint16") Bits<uint16_t>(c, ub);
    if (c.dtype == "int32") Bits<int32_t>(c, ub);
    if (c.dtype == "uint32") Bits<uint32_t>(c, ub);
  } else if (is_one_of(
                 {"Brcb", "Gather", "Gatherb", "GatherMask", "Duplicate", "Copy", "DataCopy"})) {
    if (c.dtype == "half") return Moves<half>(c, ub);
    if (c.dtype == "bf16") return Moves<bfloat16_t>(c, ub);
    if (c.dtype == "float") return Moves<float>(c, ub);
    if (c.dtype == "int32") return Moves<int32_t>(c, ub);
  } else {
    if (c.dtype == "half") Arithmetic<half>(c, ub);
    if (c.dtype == "float") Arithmetic<float>(c, ub);
    if (c.dtype == "int16") Arithmetic<int16_t>(c, ub);
    if (c.dtype == "int32") Arithmetic<int32_t>(c, ub);
    if (c.dtype == "half") Floats<half>(c, ub);
    if (c.dtype == "float") Floats<float>(c, ub);
  }
  return 0;
}

}  // namespace

uint64_t Execute(const Instruction& call, uint8_t* image, uint8_t* result) {
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffer;
  pipe.InitBuffer(buffer, kImageBytes);
  GlobalTensor<uint8_t> in;
  GlobalTensor<uint8_t> out;
  in.SetGlobalBuffer(image);
  out.SetGlobalBuffer(result);
  DataCopy(buffer.Get<uint8_t>(), in, kImageBytes);
  PipeBarrier<PIPE_ALL>();
  if (call.counter) SetMaskCount();
  if (call.form == "register") SetVectorMask<half>(call.high, call.low);
  const uint64_t taken = Dispatch(call, Place{buffer});
  SetMaskNorm();
  ResetMask();
  PipeBarrier<PIPE_ALL>();
  DataCopy(out[call.out_begin], buffer.Get<uint8_t>()[call.out_begin],
           call.out_end - call.out_begin);
  return taken;
}

}  // namespace moge_tests
