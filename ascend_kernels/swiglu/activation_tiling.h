// What stands between an expert's two products, shared by host and device.
#ifndef MOGE_ASCEND_ACTIVATION_TILING_H_
#define MOGE_ASCEND_ACTIVATION_TILING_H_

#include <cstdint>

enum class Phi : uint32_t { kSilu, kGelu, kGeluTanh, kRelu, kRelu2 };

// act = phi(min(gate, limit)) (clamp(up, -limit, limit) + shift), or phi(min(gate, limit)) alone
struct ActivationTiling {
  Phi phi;
  uint32_t gated;        // 1: there is up; 0: all columns are the gate
  uint32_t interleaved;  // 1: gate and up of each of F take turns; 0: all F of the gate come first
  uint32_t terms;        // of the series; 0: there is none
  uint32_t limited;      // 1: there is a limit
  float alpha;           // within silu's sigmoid
  float limit;
  float shift;
};

// The default, for which the kernels have a shorter way.
inline bool IsSwiglu(const ActivationTiling& of) {
  return of.phi == Phi::kSilu && of.gated != 0 && of.interleaved == 0 && of.terms == 0 &&
         of.limited == 0 && of.alpha == 1.0f && of.shift == 0.0f;
}

#endif  // MOGE_ASCEND_ACTIVATION_TILING_H_
