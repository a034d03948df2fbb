// The vector instructions as data: for each its element types and its speed, as the documents'
// tables have them (the page of each instruction; theoretical performance of the vector
// instructions). The headers check types by it, the model of time counts cycles by it.
#ifndef MOGE_EMULATOR_INSTRUCTIONS_H_
#define MOGE_EMULATOR_INSTRUCTIONS_H_

#include <iterator>
#include <string_view>

#include "constants.h"
#include "types.h"

// X(name, types, unit, rate of 16-bit types, rate of 32-bit types)
//
// `types` is what T may be, or pairs of types, destination<-source. The rate is elements a cycle,
// of the source's type. Whole: every repeat that is begun counts, masked or not. Each: the elements
// themselves count. AddDeqRelu has no figure: it is an addition, a Cast and a Relu.
// clang-format off: a table
#define MOGE_VECTOR_INSTRUCTIONS(X) \
  X(Add, "int16, half, int32, float", Whole, 128, 64) \
  X(Sub, "int16, half, int32, float", Whole, 128, 64) \
  X(Mul, "int16, half, int32, float", Whole, 128, 64) \
  X(Max, "int16, half, int32, float", Whole, 128, 64) \
  X(Min, "int16, half, int32, float", Whole, 128, 64) \
  X(Div, "half, float", Whole, 32, 32) \
  X(AddRelu, "int16, half, float", Whole, 128, 64) \
  X(SubRelu, "int16, half, float", Whole, 128, 64) \
  X(FusedMulAdd, "half, float", Whole, 128, 64) \
  X(MulAddRelu, "half, float", Whole, 128, 64) \
  X(And, "int16, uint16", Whole, 128, 64) \
  X(Or, "int16, uint16", Whole, 128, 64) \
  X(MulAddDst, "half<-half, float<-float, float<-half", Whole, 64, 32) \
  X(Exp, "half, float", Whole, 32, 32) \
  X(Ln, "half, float", Whole, 32, 32) \
  X(Sqrt, "half, float", Whole, 32, 32) \
  X(Rsqrt, "half, float", Whole, 128, 64) \
  X(Reciprocal, "half, float", Whole, 128, 64) \
  X(Abs, "half, float", Whole, 128, 64) \
  X(Relu, "half, float, int32", Whole, 128, 64) \
  X(Not, "int16, uint16", Whole, 128, 64) \
  X(Adds, "int16, half, int32, float", Whole, 128, 64) \
  X(Muls, "int16, half, int32, float", Whole, 128, 64) \
  X(Maxs, "int16, half, int32, float", Whole, 128, 64) \
  X(Mins, "int16, half, int32, float", Whole, 128, 64) \
  X(ShiftLeft, "int16, uint16, int32, uint32", Whole, 128, 64) \
  X(ShiftRight, "int16, uint16, int32, uint32", Whole, 128, 64) \
  X(LeakyRelu, "half, float", Whole, 128, 64) \
  X(AddReluCast, "int8<-half, int8<-int16, half<-float", Whole, 128, 64) \
  X(SubReluCast, "int8<-half, int8<-int16, half<-float", Whole, 128, 64) \
  X(MulCast, "int8<-half, uint8<-half", Whole, 128, 64) \
  X(CastDequant, "half<-int32", Whole, 128, 64) \
  X(AddDeqRelu, "half<-int32", Whole, 128.0 / 3, 64.0 / 3) \
  X(Axpy, "half<-half, float<-float, float<-half", Whole, 128, 64) \
  X(Cast, "", Whole, 128, 64) \
  X(Duplicate, "int16, uint16, half, bf16, int32, uint32, float", Whole, 128, 64) \
  X(CreateVecIndex, "int16, half, int32, float", Whole, 128, 64) \
  X(Brcb, "int16, uint16, half, bf16, int32, uint32, float", Whole, 128, 64) \
  X(Copy, "int16, uint16, half, bf16, int32, uint32, float", Whole, 128, 64) \
  X(Compare, "half, float, int32", Whole, 128, 64) \
  X(Compares, "half, float, int32", Whole, 128, 64) \
  X(Select, "half, float", Whole, 128, 64) \
  X(ReduceRepeat, "half, float", Whole, 128.0 / 7, 64.0 / 7) \
  X(ReduceDataBlock, "half, float", Whole, 128.0 / 7, 64) \
  X(ReducePairElem, "half, float", Whole, 128, 64) \
  X(ReduceSum, "half, float", Whole, 128, 64) \
  X(ReduceMax, "half, float", Whole, 128, 64) \
  X(ReduceMin, "half, float", Whole, 128, 64) \
  X(Sort32, "half, float", Each, 2, 2) \
  X(MrgSort, "half, float", Each, 2, 2) \
  X(GatherMask, "int16, uint16, half, bf16, int32, uint32, float", Whole, 64, 32) \
  X(Gather, "int16, uint16, half, bf16, int32, uint32, float", Each, 5, 5) \
  X(Gatherb, "uint16, uint32", Each, 42, 21) \
  X(Transpose, "int8, uint8, int16, uint16, half, int32, uint32, float", Whole, 128, 64) \
  X(TransDataTo5HD, "int8, uint8, int16, uint16, half, int32, uint32, float", Whole, 128, 64)
// clang-format on

// The page of Cast: X(source, destination, rounding modes). Rounds: RINT, FLOOR, CEIL, ROUND,
// TRUNC. A repeat, 256 bytes of the wider type, takes one cycle. The mode of int32 to half has no
// effect.
// clang-format off: a table
#define MOGE_CASTS(X) \
  X(Int4, Half, kNone) \
  X(Int8, Half, kNone) \
  X(Uint8, Half, kNone) \
  X(Int16, Half, kRounds | kNone) \
  X(Int16, Float, kNone) \
  X(Half, Int4, kRounds | kNone) \
  X(Half, Int8, kRounds | kNone) \
  X(Half, Uint8, kRounds | kNone) \
  X(Half, Int16, kRounds) \
  X(Half, Int32, kRounds) \
  X(Half, Float, kNone) \
  X(Bfloat16, Int32, kRounds) \
  X(Bfloat16, Float, kNone) \
  X(Int32, Int16, kNone) \
  X(Int32, Half, kAny) \
  X(Int32, Float, kRounds | kNone) \
  X(Int32, Int64, kNone) \
  X(Float, Int16, kRounds) \
  X(Float, Half, kRounds | kOdd | kNone) \
  X(Float, Bfloat16, kRounds) \
  X(Float, Int32, kRounds) \
  X(Float, Float, kRounds) \
  X(Float, Int64, kRounds) \
  X(Int64, Int32, kNone) \
  X(Int64, Float, kRounds)
// clang-format on

namespace emulator {

namespace casts {

// sets of rounding modes
constexpr uint32_t Bit(AscendC::RoundMode mode) { return 1u << static_cast<int>(mode); }
inline constexpr uint32_t kNone = Bit(AscendC::RoundMode::CAST_NONE);
inline constexpr uint32_t kOdd = Bit(AscendC::RoundMode::CAST_ODD);
inline constexpr uint32_t kRounds =
    Bit(AscendC::RoundMode::CAST_RINT) | Bit(AscendC::RoundMode::CAST_FLOOR) |
    Bit(AscendC::RoundMode::CAST_CEIL) | Bit(AscendC::RoundMode::CAST_ROUND) |
    Bit(AscendC::RoundMode::CAST_TRUNC);
inline constexpr uint32_t kAny = kRounds | kOdd | kNone;

struct Pair {
  DType src, dst;
  uint32_t modes;
};
inline constexpr Pair kPairs[] = {
#define MOGE_CAST(src, dst, modes) {DType::k##src, DType::k##dst, modes},
    MOGE_CASTS(MOGE_CAST)
#undef MOGE_CAST
};

// Where the table has the pair; -1: nowhere.
constexpr int Find(DType dst, DType src) {
  for (size_t i = 0; i < std::size(kPairs); ++i) {
    if (kPairs[i].dst == dst && kPairs[i].src == src) return static_cast<int>(i);
  }
  return -1;
}

}  // namespace casts

constexpr std::string_view TextOf(DType dtype) {
  constexpr std::string_view kTexts[] = {
#define MOGE_DTYPE(name, type, text) text,
      MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
  };
  return kTexts[static_cast<int>(dtype)];
}

// Whether the list has this type, or this pair: its words stand between ", ".
constexpr bool Lists(std::string_view list, std::string_view dst, std::string_view src = {}) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    std::string_view word = list.substr(0, comma);
    if (src.empty()
            ? word == dst
            : word.size() == dst.size() + 2 + src.size() && word.substr(0, dst.size()) == dst &&
                  word.substr(dst.size(), 2) == "<-" && word.substr(dst.size() + 2) == src) {
      return true;
    }
    list.remove_prefix(comma == std::string_view::npos ? list.size() : comma + 2);
  }
  return false;
}

// A header asks by `MOGE_CHECK_TYPES(Add, T);`, with (destination, source) where the table has
// pairs.
namespace checks {
#define MOGE_INSTRUCTION(name, types, unit, narrow, wide)         \
  template <typename... T>                                        \
  constexpr void name() {                                         \
    static_assert(emulator::Lists(types, TextOf(kDTypeOf<T>)...), \
                  #name ": rule dtype.table: " types);            \
  }
MOGE_VECTOR_INSTRUCTIONS(MOGE_INSTRUCTION)
#undef MOGE_INSTRUCTION
}  // namespace checks

#define MOGE_CHECK_TYPES(NAME, ...) emulator::checks::NAME<__VA_ARGS__>()

}  // namespace emulator

#endif  // MOGE_EMULATOR_INSTRUCTIONS_H_
