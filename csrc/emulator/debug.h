// Prints, dumps and assertions of device code.
#ifndef MOGE_EMULATOR_DEBUG_H_
#define MOGE_EMULATOR_DEBUG_H_

#include <string>
#include <type_traits>

#include "shape.h"

namespace emulator {

// To stdout at once, so that it stands before the error that may follow.
void PrintText(const char* format, ...);
std::string FormatText(const char* format, ...);
[[noreturn]] void FailAssertion(const char* file, int line, const char* expression,
                                const std::string& text);

// Contents of a tensor, undefined bytes included: none of these is an access of the kernel.
void PrintBlocks(const LocalRef& ref, DType dtype, uint32_t count);
int32_t WriteFile(const LocalRef& ref, uint32_t bytes, const char* path);
void Dump(const LocalRef& ref, DType dtype, uint64_t offset, uint32_t number, uint32_t count,
          const AscendC::ShapeInfo* shape);
void Dump(const GlobalRef& ref, DType dtype, uint64_t offset, uint32_t number, uint32_t count,
          const AscendC::ShapeInfo* shape);

// What a format takes for an argument: a plain number for what converts to one.
template <typename T>
auto Printable(const T& value) {
  if constexpr (std::is_same_v<T, half> || std::is_same_v<T, bfloat16_t>) {
    return static_cast<double>(static_cast<float>(value));
  } else if constexpr (std::is_class_v<T>) {
    return Printable(+value);
  } else {
    return value;
  }
}
inline const char* Printable(const char* text) { return text; }

template <typename Condition, typename... Args>
constexpr void Assert(const char* file, int line, const char* expression,
                      const Condition& condition, const Args&... args) {
  if (static_cast<bool>(condition)) return;
  if constexpr (sizeof...(args) == 0) {
    FailAssertion(file, line, expression, "");
  } else {
    FailAssertion(file, line, expression, FormatText(Printable(args)...));
  }
}

}  // namespace emulator

// the condition, and a format with its arguments if there is a text
#define ascendc_assert(...) ::emulator::Assert(__FILE__, __LINE__, #__VA_ARGS__, __VA_ARGS__)
// its older name
#define ASSERT(...) ascendc_assert(__VA_ARGS__)
#undef assert
#ifdef NDEBUG
#define assert(...) static_cast<void>(0)
#else
#define assert(...) ascendc_assert(__VA_ARGS__)
#endif

namespace AscendC {

template <typename... Args>
void printf(const __gm__ char* fmt, Args&&... args) {
  emulator::PrintText(fmt, emulator::Printable(args)...);
}
template <typename... Args>
void PRINTF(const __gm__ char* fmt, Args&&... args) {
  printf(fmt, args...);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_DEBUG_H_
