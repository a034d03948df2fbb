// The vector instructions as data: for each its element types and its speed, as the documents'
// tables have them (the page of each instruction; theoretical performance of the vector
// instructions). The headers check types by it, the model of time counts cycles by it.
#ifndef MOGE_EMULATOR_INSTRUCTIONS_H_
#define MOGE_EMULATOR_INSTRUCTIONS_H_

#include <string_view>

#include "types.h"

// X(name, types, unit, rate of 16-bit types, rate of 32-bit types)
//
// `types` is what T may be, or pairs of types, destination<-source. The rate is elements a cycle.
// Whole: every repeat that is begun counts, masked or not. Each: the elements themselves count.
// clang-format off: a table
#define MOGE_VECTOR_INSTRUCTIONS(X) \
  X(Add, "int16, half, int32, float", Whole, 128, 64) \
  X(Sub, "int16, half, int32, float", Whole, 128, 64) \
  X(Mul, "int16, half, int32, float", Whole, 128, 64) \
  X(Max, "int16, half, int32, float", Whole, 128, 64) \
  X(Min, "int16, half, int32, float", Whole, 128, 64) \
  X(Div, "half, float", Whole, 32, 32) \
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
  X(Axpy, "half<-half, float<-float, float<-half", Whole, 128, 64) \
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
  X(Gatherb, "int16, uint16, half, bf16, int32, uint32, float", Each, 42, 21)
// clang-format on

namespace emulator {

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
