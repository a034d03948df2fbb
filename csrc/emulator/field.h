// Integers as narrow as the registers of the hardware that they go to. What a plain narrow integer
// would silently cut is an error of the call that takes the value.
#ifndef MOGE_EMULATOR_FIELD_H_
#define MOGE_EMULATOR_FIELD_H_

#include <cstdint>
#include <type_traits>

namespace emulator {

void NoteTruncation(long long value, unsigned bits);

// The value in the narrow type; notes what does not fit.
template <typename Narrow, typename Number>
constexpr Narrow Cut(const Number& value) {
  if constexpr (std::is_class_v<Number> || std::is_enum_v<Number>) {
    return Cut<Narrow>(+value);  // the integer that it converts to
  } else if constexpr (std::is_integral_v<Number>) {
    const Narrow cut = static_cast<Narrow>(value);
    if (static_cast<Number>(cut) != value || (cut < Narrow{}) != (value < Number{})) {
      NoteTruncation(static_cast<long long>(value), sizeof(Narrow) * 8);
    }
    return cut;
  } else {
    return static_cast<Narrow>(value);
  }
}

// An argument of a function or of a constructor: anything that converts to the narrow type.
template <typename Narrow>
class Field {
 public:
  constexpr Field() = default;
  template <typename Number, typename = std::enable_if_t<std::is_convertible_v<Number, Narrow>>>
  constexpr Field(const Number& value) : value_(Cut<Narrow>(value)) {}
  constexpr operator Narrow() const { return value_; }

 private:
  Narrow value_{};
};

using U8 = Field<uint8_t>;
using U16 = Field<uint16_t>;
using U32 = Field<uint32_t>;

// A member of a parameter struct. No integer becomes one by itself: so `flag ? params.m : 16` has
// one meaning, as with a plain member.
template <typename Narrow>
class Member {
 public:
  constexpr Member() = default;
  constexpr explicit Member(Field<Narrow> value) : value_(value) {}
  constexpr operator Narrow() const { return value_; }
  template <typename Number, typename = std::enable_if_t<std::is_convertible_v<Number, Narrow>>>
  constexpr Member& operator=(const Number& value) {
    value_ = Cut<Narrow>(value);
    return *this;
  }

#define MOGE_COMPOUND(op, assigning)                \
  template <typename Number>                        \
  constexpr Member& operator assigning(Number by) { \
    return *this = value_ op by;                    \
  }
  MOGE_COMPOUND(+, +=)
  MOGE_COMPOUND(-, -=)
  MOGE_COMPOUND(*, *=)
  MOGE_COMPOUND(/, /=)
  MOGE_COMPOUND(%, %=)
  MOGE_COMPOUND(&, &=)
  MOGE_COMPOUND(|, |=)
  MOGE_COMPOUND(^, ^=)
  MOGE_COMPOUND(<<, <<=)
  MOGE_COMPOUND(>>, >>=)
#undef MOGE_COMPOUND
  constexpr Member& operator++() { return *this += 1; }
  constexpr Member& operator--() { return *this -= 1; }
  constexpr Narrow operator++(int) {
    const Narrow before = value_;
    ++*this;
    return before;
  }
  constexpr Narrow operator--(int) {
    const Narrow before = value_;
    --*this;
    return before;
  }

 private:
  Narrow value_{};
};

using M8 = Member<uint8_t>;
using M16 = Member<uint16_t>;
using M32 = Member<uint32_t>;

}  // namespace emulator

#endif  // MOGE_EMULATOR_FIELD_H_
