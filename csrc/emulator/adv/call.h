// What every high-level call shares: its name in messages, its temporary memory.
#ifndef MOGE_EMULATOR_ADV_CALL_H_
#define MOGE_EMULATOR_ADV_CALL_H_

#include "compare.h"
#include "compound.h"
#include "data_copy.h"
#include "gather.h"
#include "reduce.h"
#include "sync.h"

namespace emulator {

template <typename T>
inline constexpr bool kIsHalfOrFloat = kIsOneOf<T, half, float>;
#define MOGE_CHECK_HALF_OR_FLOAT(NAME, T) \
  static_assert(emulator::kIsHalfOrFloat<T>, NAME ": rule dtype.table: half, float")

// While it lives, messages about an instruction name the call that the instruction is part of.
class HighLevelCall {
 public:
  explicit HighLevelCall(const char* name);
  ~HighLevelCall();
  HighLevelCall(const HighLevelCall&) = delete;
  HighLevelCall& operator=(const HighLevelCall&) = delete;

 private:
  const char* outer_;
};

// The temporary tensor that the kernel gave, if it holds `bytes`.
LocalRef GivenTmp(const LocalRef& tmp, uint64_t bytes);
// For the forms without one: what neither a TPipe nor a tensor by address has taken of UB, if it
// holds `bytes`.
LocalRef FrameworkTmp(uint64_t bytes);

// Refuses two operands that share memory where the page of the call forbids it.
void RefuseOverlap(const char* what, const LocalRef& one, uint64_t one_bytes, const LocalRef& other,
                   uint64_t other_bytes);
// The same for temporary memory and each of the operands, which have `bytes`.
void CheckTmpApart(const LocalRef& tmp, uint64_t tmp_bytes, uint64_t bytes,
                   std::initializer_list<const LocalRef*> operands);

// The scalar unit waits for what the vector pipe has done.
void AwaitVector();

// A part of a temporary tensor, from `*byte` up, which moves on by a multiple of 32 bytes.
template <typename T>
AscendC::LocalTensor<T> TakePart(const LocalRef& tmp, uint32_t* byte, uint32_t elements) {
  const auto bytes = static_cast<uint32_t>(elements * sizeof(T));
  LocalRef part = Offset(tmp, *byte);
  part.end = part.begin + bytes;
  *byte += RoundUp(bytes, 32);
  return AscendC::LocalTensor<T>(part);
}

// Between two instructions of which the second needs what the first has written.
inline void Then() { AscendC::PipeBarrier<PIPE_V>(); }

}  // namespace emulator

#endif  // MOGE_EMULATOR_ADV_CALL_H_
