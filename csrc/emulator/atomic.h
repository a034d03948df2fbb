// What transfers to global memory do to the value that is there.
#ifndef MOGE_EMULATOR_ATOMIC_H_
#define MOGE_EMULATOR_ATOMIC_H_

#include "machine.h"

namespace AscendC {

#define MOGE_CHECK_ATOMIC(name, T)                                                        \
  static_assert(emulator::kIsOneOf<T, float, half, bfloat16_t, int16_t, int32_t, int8_t>, \
                #name ": rule dtype.table: float, half, bf16, int16, int32, int8")

template <typename T>
void SetAtomicAdd() {
  MOGE_CHECK_ATOMIC(SetAtomicAdd, T);
  emulator::SetAtomic(emulator::AtomicKind::kAdd, emulator::kDTypeOf<T>);
}
template <typename T>
void SetAtomicMax() {
  MOGE_CHECK_ATOMIC(SetAtomicMax, T);
  emulator::SetAtomic(emulator::AtomicKind::kMax, emulator::kDTypeOf<T>);
}
template <typename T>
void SetAtomicMin() {
  MOGE_CHECK_ATOMIC(SetAtomicMin, T);
  emulator::SetAtomic(emulator::AtomicKind::kMin, emulator::kDTypeOf<T>);
}
// Of what is on, or of an addition.
template <typename T>
void SetAtomicType() {
  MOGE_CHECK_ATOMIC(SetAtomicType, T);
  emulator::SetAtomicDType(emulator::kDTypeOf<T>);
}
#undef MOGE_CHECK_ATOMIC

inline void DisableDmaAtomic() { emulator::ClearAtomic(); }
inline void SetAtomicNone() { emulator::ClearAtomic(); }

template <AtomicDtype type, AtomicOp op>
void SetStoreAtomicConfig() {
  static_assert(op == AtomicOp::ATOMIC_SUM);
  emulator::SetAtomicCode(static_cast<uint16_t>(type));
}
inline void GetStoreAtomicConfig(uint16_t& atomicType, uint16_t& atomicOp) {
  const emulator::AtomicCodes codes = emulator::GetAtomicCodes();
  atomicType = codes.type;
  atomicOp = codes.kind;
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_ATOMIC_H_
