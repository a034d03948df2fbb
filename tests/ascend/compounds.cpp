// Instructions of two steps, those that take what a register holds, and operators of whole tensors.
#include "forms.h"

namespace moge_tests {

namespace {

#define TYPES T
template <typename T>
void OneType(const Instruction& c, const Place& ub) {
  auto dst = ub.At<T>(c.dst), a = ub.At<T>(c.src0), b = ub.At<T>(c.src1);
  const T scalar = static_cast<T>(c.scalar);
  if (c.op == "AddsByRegister") return Adds<T, false>(dst, a, scalar, 1);
  FORMS(AddRelu, BinaryStrides(c), dst, a, b)
  FORMS(SubRelu, BinaryStrides(c), dst, a, b)
  if constexpr (std::is_integral_v<T>) {
    if (c.op != "ShiftRightRounded") return;
    WithMask(c, [&](auto mask, auto is_set) {
      ShiftRight<T, decltype(is_set)::value>(dst, a, scalar, mask, c.repeat, UnaryStrides(c), true);
    });
  } else {
    FORMS(FusedMulAdd, BinaryStrides(c), dst, a, b)
    FORMS(MulAddRelu, BinaryStrides(c), dst, a, b)
    FORMS(LeakyRelu, UnaryStrides(c), dst, a, scalar)
  }
}
#undef TYPES

#define TYPES T, U
template <typename T, typename U>
void TwoTypes(const Instruction& c, const Place& ub) {
  auto dst = ub.At<T>(c.dst);
  auto a = ub.At<U>(c.src0), b = ub.At<U>(c.src1);
  if constexpr (std::is_same_v<U, int32_t>) {
    SetDeqScale(half(c.scalar));
    FORMS(AddDeqRelu, BinaryStrides(c), dst, a, b)
    FORMS(CastDequant, UnaryStrides(c), dst, a)
  } else if constexpr (!std::is_same_v<T, uint8_t>) {
    FORMS(AddReluCast, BinaryStrides(c), dst, a, b)
    FORMS(SubReluCast, BinaryStrides(c), dst, a, b)
  }
  if constexpr (std::is_same_v<U, half>) {
    FORMS(MulCast, BinaryStrides(c), dst, a, b)
  }
}
#undef TYPES

// `low` elements from the mask register; the compare mask comes out of `tmp`.
template <typename T>
void SelectForms(const Instruction& c, const Place& ub) {
  auto dst = ub.At<T>(c.dst), a = ub.At<T>(c.src0), b = ub.At<T>(c.src1);
  const auto mode = static_cast<SELMODE>(c.mode);
  SetVectorMask<T>(static_cast<int32_t>(c.low));
  if (mode == SELMODE::VSEL_TENSOR_SCALAR_MODE) {
    SetCmpMask(b);
    PipeBarrier<PIPE_V>();
    return Select(dst, ub.At<uint8_t>(c.tmp), a, c.repeat, BinaryStrides(c));
  }
  if (mode == SELMODE::VSEL_TENSOR_TENSOR_MODE) {
    auto address = ub.At<uint32_t>(c.tmp + 1024);
    Duplicate(address, static_cast<uint32_t>(ub.At<uint8_t>(c.tmp).GetPhyAddr()), 32);
    PipeBarrier<PIPE_V>();
    SetCmpMask(address);
    PipeBarrier<PIPE_V>();
    SetVectorMask<T>(static_cast<int32_t>(c.low));
    return Select<T, SELMODE::VSEL_TENSOR_TENSOR_MODE>(dst, a, b, c.repeat, BinaryStrides(c));
  }
  SetCmpMask(ub.At<uint8_t>(c.tmp));
  PipeBarrier<PIPE_V>();
  Select<T, SELMODE::VSEL_CMPMASK_SPR>(dst, a, b, c.repeat, BinaryStrides(c));
}

// Of tensors that have `low` elements.
template <typename T>
void Operators(const Instruction& c, const Place& ub) {
  auto dst = ub.At<T>(c.dst), a = ub.At<T>(c.src0), b = ub.At<T>(c.src1);
  auto bits = ub.At<uint8_t>(c.dst);
  for (auto* tensor : {&dst, &a, &b}) tensor->SetSize(c.low);
  if (c.op == "+") dst = a + b;
  if (c.op == "-") dst = a - b;
  if (c.op == "*") dst = a * b;
  if constexpr (std::is_integral_v<T>) {
    if (c.op == "&") dst = a & b;
    if (c.op == "|") dst = a | b;
  } else {
    if (c.op == "/") dst = a / b;
    if (c.op == "<") bits = a < b;
    if (c.op == ">") bits = a > b;
    if (c.op == "==") bits = a == b;
    if (c.op == "<=") bits = a <= b;
    if (c.op == ">=") bits = a >= b;
    if (c.op == "!=") bits = a != b;
  }
}

}  // namespace

bool ExecuteCompound(const Instruction& c, const Place& ub) {
  const auto is_one_of = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (c.op == name) return true;
    }
    return false;
  };
  if (is_one_of({"+", "-", "*", "/", "&", "|", "<", ">", "==", "<=", ">=", "!="})) {
    if (c.dtype == "half") Operators<half>(c, ub);
    if (c.dtype == "int16") Operators<int16_t>(c, ub);
  } else if (c.op == "SelectByRegister") {
    c.dtype == "half" ? SelectForms<half>(c, ub) : SelectForms<float>(c, ub);
  } else if (is_one_of({"AddReluCast", "SubReluCast", "MulCast", "AddDeqRelu", "CastDequant"})) {
    if (c.src_dtype == "int32") TwoTypes<half, int32_t>(c, ub);
    if (c.src_dtype == "float") TwoTypes<half, float>(c, ub);
    if (c.src_dtype == "int16") TwoTypes<int8_t, int16_t>(c, ub);
    if (c.src_dtype == "half" && c.dtype == "int8") TwoTypes<int8_t, half>(c, ub);
    if (c.src_dtype == "half" && c.dtype == "uint8") TwoTypes<uint8_t, half>(c, ub);
  } else if (is_one_of({"AddsByRegister", "AddRelu", "SubRelu", "FusedMulAdd", "MulAddRelu",
                        "LeakyRelu", "ShiftRightRounded"})) {
    if (c.dtype == "half") OneType<half>(c, ub);
    if (c.dtype == "float") OneType<float>(c, ub);
    if (c.dtype == "int16") OneType<int16_t>(c, ub);
  } else {
    return false;
  }
  return true;
}

}  // namespace moge_tests
