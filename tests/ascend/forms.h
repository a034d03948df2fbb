// How one instruction of a test is called, in each of its forms.
#ifndef MOGE_TESTS_ASCEND_FORMS_H_
#define MOGE_TESTS_ASCEND_FORMS_H_

#include "common.h"

namespace moge_tests {

struct Place {
  TBuf<TPosition::VECCALC>& buffer;

  template <typename T>
  LocalTensor<T> At(uint32_t byte) const {
    return buffer.Get<uint8_t>()[byte].ReinterpretCast<T>();
  }
};

inline UnaryRepeatParams UnaryStrides(const Instruction& c) {
  return {c.strides[0], c.strides[1], c.strides[2], c.strides[3]};
}
inline BinaryRepeatParams BinaryStrides(const Instruction& c) {
  return {c.strides[0], c.strides[1], c.strides[2], c.strides[3], c.strides[4], c.strides[5]};
}

// Calls f with the mask of the form: a number or two words, and whether the call sets the register.
template <typename F>
void WithMask(const Instruction& c, F f) {
  uint64_t bits[2] = {c.low, c.high};
  if (c.form == "mask") {
    f(c.low, std::true_type{});
  } else if (c.form == "bits") {
    f(bits, std::true_type{});
  } else {
    f(uint64_t{MASK_PLACEHOLDER}, std::false_type{});
  }
}

#define FORMS(NAME, PARAMS, ...)                                                   \
  if (c.op == #NAME) {                                                             \
    if (c.form == "count") {                                                       \
      NAME(__VA_ARGS__, static_cast<int32_t>(c.low));                              \
    } else {                                                                       \
      WithMask(c, [&](auto mask, auto is_set) {                                    \
        NAME<TYPES, decltype(is_set)::value>(__VA_ARGS__, mask, c.repeat, PARAMS); \
      });                                                                          \
    }                                                                              \
    return;                                                                        \
  }

// Whether it is one of compounds.cpp; then it has run.
bool ExecuteCompound(const Instruction& call, const Place& ub);

}  // namespace moge_tests

#endif  // MOGE_TESTS_ASCEND_FORMS_H_
