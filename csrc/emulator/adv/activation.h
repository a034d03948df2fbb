// Sigmoid, Silu, Swish, Gelu and the gated units, element by element.
#ifndef MOGE_EMULATOR_ADV_ACTIVATION_H_
#define MOGE_EMULATOR_ADV_ACTIVATION_H_

#include "adv/call.h"
#include "adv/sizes.h"

namespace emulator {

// dst = 1 + exp(scale * src)
template <typename T>
void OnePlusExp(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src, T scale,
                int32_t count) {
  AscendC::Muls(dst, src, scale, count);
  Then();
  AscendC::Exp(dst, dst, count);
  Then();
  AscendC::Adds(dst, dst, static_cast<T>(1), count);
  Then();
}

// dst = 1 / dst
template <typename T>
void DivideOnes(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& ones,
                uint32_t count) {
  constexpr uint32_t kLanes = 256 / sizeof(T);
  constexpr uint32_t kRepeats = limits::Repeats::repeatTime.most;
  AscendC::Duplicate(ones, static_cast<T>(1), static_cast<int32_t>(kOnesBytes / sizeof(T)));
  Then();
  const AscendC::BinaryRepeatParams params(1, 0, 1, 8, 0, 8);
  for (uint32_t first = 0; first < count;) {
    const uint32_t repeats = std::min(kRepeats, (count - first) / kLanes);
    const uint64_t mask = repeats == 0 ? count - first : kLanes;
    AscendC::Div(dst[first], ones, dst[first], mask,
                 static_cast<uint8_t>(repeats == 0 ? 1 : repeats), params);
    first += repeats == 0 ? static_cast<uint32_t>(mask) : repeats * kLanes;
  }
}

template <typename T>
void SigmoidCall(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
                 const AscendC::LocalTensor<uint8_t>* tmp, uint32_t count) {
  MOGE_CHECK_HALF_OR_FLOAT("Sigmoid", T);
  const HighLevelCall call("Sigmoid");
  const LocalRef room =
      tmp == nullptr ? FrameworkTmp(kOnesBytes) : GivenTmp(tmp->Ref(), kOnesBytes);
  const uint64_t bytes = uint64_t{count} * sizeof(T);
  RefuseOverlap("source and destination", dst.Ref(), bytes, src.Ref(), bytes);
  CheckTmpApart(room, kOnesBytes, bytes, {&dst.Ref(), &src.Ref()});
  if (count == 0) return;
  uint32_t byte = 0;
  const auto ones = TakePart<T>(room, &byte, kOnesBytes / sizeof(T));
  OnePlusExp(dst, src, static_cast<T>(-1), static_cast<int32_t>(count));
  DivideOnes(dst, ones, count);
}

// dst = src / (1 + exp(-beta * src)), and times the gate if there is one
template <typename T>
void SwishCall(const char* name, const AscendC::LocalTensor<T>& dst,
               const AscendC::LocalTensor<T>& src, const AscendC::LocalTensor<T>* gate, float beta,
               uint32_t count) {
  MOGE_CHECK_HALF_OR_FLOAT("Swish", T);
  const HighLevelCall call(name);
  const uint64_t bytes = uint64_t{count} * sizeof(T);
  RefuseOverlap("source and destination", dst.Ref(), bytes, src.Ref(), bytes);
  if (gate != nullptr) {
    RefuseOverlap("source and destination", dst.Ref(), bytes, gate->Ref(), bytes);
  }
  const auto number = static_cast<int32_t>(count);
  OnePlusExp(dst, src, static_cast<T>(-beta), number);
  AscendC::Div(dst, src, dst, number);
  if (gate == nullptr) return;
  Then();
  AscendC::Mul(dst, *gate, dst, number);
}

// dst = 1 + exp(a * src * (src^2 + b)), the form that the documents give GELU
template <typename T>
void OnePlusExpCubic(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
                     int32_t count) {
  constexpr float kA = -0.0713548162726f;
  constexpr float kB = 2.2363860002236e1f;
  AscendC::Mul(dst, src, src, count);
  Then();
  AscendC::Adds(dst, dst, static_cast<T>(kB), count);
  Then();
  AscendC::Mul(dst, dst, src, count);
  Then();
  OnePlusExp(dst, dst, static_cast<T>(kA), count);
}

// dst = gate * Gelu(src)
template <typename T>
void GeGluCall(const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& gate,
               const AscendC::LocalTensor<T>& src, uint32_t count) {
  MOGE_CHECK_HALF_OR_FLOAT("GeGLU", T);
  const HighLevelCall call("GeGLU");
  const uint64_t bytes = uint64_t{count} * sizeof(T);
  RefuseOverlap("source and destination", dst.Ref(), bytes, src.Ref(), bytes);
  RefuseOverlap("source and destination", dst.Ref(), bytes, gate.Ref(), bytes);
  const auto number = static_cast<int32_t>(count);
  OnePlusExpCubic(dst, src, number);
  AscendC::Div(dst, src, dst, number);
  Then();
  AscendC::Mul(dst, gate, dst, number);
}

// Source and destination may be the same: what is between is in the temporary memory, as much of
// it at a time as there is room for.
template <typename T>
void GeluCall(const char* name, bool faster, const AscendC::LocalTensor<T>& dst,
              const AscendC::LocalTensor<T>& src, const AscendC::LocalTensor<uint8_t>* tmp,
              uint32_t count) {
  MOGE_CHECK_HALF_OR_FLOAT("Gelu", T);
  const HighLevelCall call(name);
  const LocalRef room =
      tmp == nullptr ? FrameworkTmp(kGeluBytes) : GivenTmp(tmp->Ref(), kGeluBytes);
  CheckTmpApart(room, kGeluBytes, uint64_t{count} * sizeof(T), {&dst.Ref(), &src.Ref()});
  const uint32_t most = (room.end - room.begin) / kGeluBytes * (kGeluBytes / sizeof(T));
  for (uint32_t first = 0; first < count; first += most) {
    uint32_t byte = 0;
    const uint32_t part = std::min(most, count - first);
    const auto divisor = TakePart<T>(room, &byte, part);
    const auto number = static_cast<int32_t>(part);
    if (faster) {
      OnePlusExp(divisor, src[first], static_cast<T>(-1.702f), number);
    } else {
      OnePlusExpCubic(divisor, src[first], number);
    }
    AscendC::Div(dst[first], src[first], divisor, number);
    Then();
  }
}

}  // namespace emulator

namespace AscendC {

// 1 / (1 + exp(-src))
template <typename T, bool isReuseSource = false>
void Sigmoid(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor,
             const LocalTensor<uint8_t>& sharedTmpBuffer, const uint32_t calCount) {
  emulator::SigmoidCall(dstTensor, srcTensor, &sharedTmpBuffer, calCount);
}
template <typename T, bool isReuseSource = false>
void Sigmoid(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor,
             const LocalTensor<uint8_t>& sharedTmpBuffer) {
  emulator::SigmoidCall(dstTensor, srcTensor, &sharedTmpBuffer, srcTensor.GetSize());
}
template <typename T, bool isReuseSource = false>
void Sigmoid(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor,
             const uint32_t calCount) {
  emulator::SigmoidCall(dstTensor, srcTensor, nullptr, calCount);
}
template <typename T, bool isReuseSource = false>
void Sigmoid(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor) {
  emulator::SigmoidCall(dstTensor, srcTensor, nullptr, srcTensor.GetSize());
}

// src / (1 + exp(-src))
template <typename T, bool isReuseSource = false>
void Silu(const LocalTensor<T>& dstLocal, const LocalTensor<T>& srcLocal, uint32_t dataSize) {
  emulator::SwishCall<T>("Silu", dstLocal, srcLocal, nullptr, 1.0f, dataSize);
}
// src / (1 + exp(-scalarValue * src))
template <typename T, bool isReuseSource = false>
void Swish(const LocalTensor<T>& dstLocal, const LocalTensor<T>& srcLocal, uint32_t dataSize,
           const T scalarValue) {
  emulator::SwishCall<T>("Swish", dstLocal, srcLocal, nullptr, static_cast<float>(scalarValue),
                         dataSize);
}

// srcTensor0 * Swish(srcTensor1): the destination holds what is between, no form needs more memory
template <typename T, bool isReuseSource = false>
void SwiGLU(LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor0,
            const LocalTensor<T>& srcTensor1, const float& scalarValue,
            const LocalTensor<uint8_t>& /*sharedTmpBuffer*/, const uint32_t calCount) {
  emulator::SwishCall("SwiGLU", dstTensor, srcTensor1, &srcTensor0, scalarValue, calCount);
}
template <typename T, bool isReuseSource = false>
void SwiGLU(LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor0,
            const LocalTensor<T>& srcTensor1, const float& scalarValue,
            const LocalTensor<uint8_t>& /*sharedTmpBuffer*/) {
  emulator::SwishCall("SwiGLU", dstTensor, srcTensor1, &srcTensor0, scalarValue,
                      srcTensor0.GetSize());
}
template <typename T, bool isReuseSource = false>
void SwiGLU(LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor0,
            const LocalTensor<T>& srcTensor1, const float& scalarValue, const uint32_t calCount) {
  emulator::SwishCall("SwiGLU", dstTensor, srcTensor1, &srcTensor0, scalarValue, calCount);
}
template <typename T, bool isReuseSource = false>
void SwiGLU(LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor0,
            const LocalTensor<T>& srcTensor1, const float& scalarValue) {
  emulator::SwishCall("SwiGLU", dstTensor, srcTensor1, &srcTensor0, scalarValue,
                      srcTensor0.GetSize());
}

template <typename T, bool highPrecision = false, bool highPerformance = false>
void Gelu(const LocalTensor<T>& dstLocal, const LocalTensor<T>& srcLocal,
          const LocalTensor<uint8_t>& sharedTmpBuffer, const uint32_t dataSize) {
  emulator::GeluCall("Gelu", false, dstLocal, srcLocal, &sharedTmpBuffer, dataSize);
}
template <typename T, bool highPrecision = false, bool highPerformance = false>
void Gelu(const LocalTensor<T>& dstLocal, const LocalTensor<T>& srcLocal, const uint32_t dataSize) {
  emulator::GeluCall<T>("Gelu", false, dstLocal, srcLocal, nullptr, dataSize);
}
// src / (1 + exp(-1.702 * src))
template <typename T, bool highPrecision = false, bool highPerformance = false>
void FasterGelu(const LocalTensor<T>& dstLocal, const LocalTensor<T>& srcLocal,
                const LocalTensor<uint8_t>& sharedTmpBuffer, const uint32_t dataSize) {
  emulator::GeluCall("FasterGelu", true, dstLocal, srcLocal, &sharedTmpBuffer, dataSize);
}
template <typename T, bool highPrecision = false, bool highPerformance = false>
void FasterGelu(const LocalTensor<T>& dstLocal, const LocalTensor<T>& srcLocal,
                const uint32_t dataSize) {
  emulator::GeluCall<T>("FasterGelu", true, dstLocal, srcLocal, nullptr, dataSize);
}

// srcTensor0 * Gelu(srcTensor1)
template <typename T, bool isReuseSource = false>
void GeGLU(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor0,
           const LocalTensor<T>& srcTensor1, const LocalTensor<uint8_t>& /*sharedTmpBuffer*/,
           uint32_t calCount) {
  emulator::GeGluCall(dstTensor, srcTensor0, srcTensor1, calCount);
}
template <typename T, bool isReuseSource = false>
void GeGLU(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor0,
           const LocalTensor<T>& srcTensor1, const LocalTensor<uint8_t>& /*sharedTmpBuffer*/) {
  emulator::GeGluCall(dstTensor, srcTensor0, srcTensor1, srcTensor0.GetSize());
}
template <typename T, bool isReuseSource = false>
void GeGLU(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor0,
           const LocalTensor<T>& srcTensor1, uint32_t calCount) {
  emulator::GeGluCall(dstTensor, srcTensor0, srcTensor1, calCount);
}
template <typename T, bool isReuseSource = false>
void GeGLU(const LocalTensor<T>& dstTensor, const LocalTensor<T>& srcTensor0,
           const LocalTensor<T>& srcTensor1) {
  emulator::GeGluCall(dstTensor, srcTensor0, srcTensor1, srcTensor0.GetSize());
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_ADV_ACTIVATION_H_
