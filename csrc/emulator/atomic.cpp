// What a transfer to global memory does to the value that is there: SetAtomicAdd, SetAtomicMax,
// SetAtomicMin.
#include <algorithm>

#include "core.h"

namespace emulator {

namespace {

template <typename T>
T Combine(AtomicKind kind, T there, T comes) {
  if constexpr (std::is_integral_v<T>) {
    if (kind == AtomicKind::kAdd) return static_cast<T>(int64_t{there} + comes);
    return kind == AtomicKind::kMax ? std::max(there, comes) : std::min(there, comes);
  } else {
    const auto a = static_cast<float>(there);
    const auto b = static_cast<float>(comes);
    if (kind == AtomicKind::kAdd) return T(a + b);
    return T(kind == AtomicKind::kMax ? std::max(a, b) : std::min(a, b));
  }
}

template <typename T>
void CombineRow(AtomicKind kind, uint8_t* dst, const uint8_t* src, uint32_t bytes) {
  for (uint32_t i = 0; i + sizeof(T) <= bytes; i += sizeof(T)) {
    T there;
    T comes;
    std::memcpy(&there, dst + i, sizeof(T));
    std::memcpy(&comes, src + i, sizeof(T));
    there = Combine(kind, there, comes);
    std::memcpy(dst + i, &there, sizeof(T));
  }
}

// In the order of the register's code, from 1 up.
constexpr DType kAtomicTypes[] = {DType::kFloat, DType::kHalf, DType::kInt16,
                                  DType::kInt32, DType::kInt8, DType::kBfloat16};

std::optional<Atomic>& Register(Op op) {
  Core& core = Begin(op, PIPE_S);
  return core.registers.atomic;
}

}  // namespace

void Deliver(const Core& core, uint8_t* dst, const uint8_t* src, uint32_t bytes) {
  if (!core.registers.atomic) {
    std::memcpy(dst, src, bytes);
    return;
  }
  const AtomicKind kind = core.registers.atomic->kind;
  switch (core.registers.atomic->dtype) {
    case DType::kFloat:
      return CombineRow<float>(kind, dst, src, bytes);
    case DType::kHalf:
      return CombineRow<half>(kind, dst, src, bytes);
    case DType::kBfloat16:
      return CombineRow<bfloat16_t>(kind, dst, src, bytes);
    case DType::kInt32:
      return CombineRow<int32_t>(kind, dst, src, bytes);
    case DType::kInt16:
      return CombineRow<int16_t>(kind, dst, src, bytes);
    default:
      return CombineRow<int8_t>(kind, dst, src, bytes);
  }
}

void SetAtomic(AtomicKind kind, DType dtype) {
  constexpr Op kOps[] = {Op::kSetAtomicAdd, Op::kSetAtomicMax, Op::kSetAtomicMin};
  Register(kOps[static_cast<int>(kind)]) = Atomic{kind, dtype};
}

void SetAtomicDType(DType dtype) {
  std::optional<Atomic>& atomic = Register(Op::kSetAtomicType);
  atomic = Atomic{atomic ? atomic->kind : AtomicKind::kAdd, dtype};
}

void ClearAtomic() { Register(Op::kDisableDmaAtomic).reset(); }

void SetAtomicCode(uint16_t code) {
  std::optional<Atomic>& atomic = Register(Op::kSetStoreAtomicConfig);
  atomic.reset();
  if (code != 0) atomic = Atomic{AtomicKind::kAdd, kAtomicTypes[code - 1]};
}

AtomicCodes GetAtomicCodes() {
  const std::optional<Atomic>& atomic = Register(Op::kGetStoreAtomicConfig);
  if (!atomic) return {0, 0};
  const auto* const at = std::find(std::begin(kAtomicTypes), std::end(kAtomicTypes), atomic->dtype);
  return {static_cast<uint16_t>(at - std::begin(kAtomicTypes) + 1),
          static_cast<uint16_t>(atomic->kind)};
}

}  // namespace emulator
