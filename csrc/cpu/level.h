// One level's kernels, as a table: what each level's own file ends in.
#pragma once
#include "gate.h"
#include "grouped_mlp_backward.h"
#include "rowwise.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// A kernel for each dtype, and how much memory it needs; also of those that multiply integers.
#define MOGE_KERNEL(Args, Run, Memory)                             \
  {                                                                \
      kBlockRows,                                                  \
      {[](const Args& s, Team& team) { Run<float>(s, team); },     \
       [](const Args& s, Team& team) { Run<Bfloat16>(s, team); },  \
       [](const Args& s, Team& team) { Run<Half>(s, team); }},     \
      {[](const Args& s) { return BytesOf<Memory<float>>(s); },    \
       [](const Args& s) { return BytesOf<Memory<Bfloat16>>(s); }, \
       [](const Args& s) { return BytesOf<Memory<Half>>(s); }},    \
  }

#define MOGE_INTEGERS(Args, Run, Memory)                                 \
  {                                                                      \
      kBlockRows,                                                        \
      {[](const Args& s, Team& team) { Run<float, Int8>(s, team); },     \
       [](const Args& s, Team& team) { Run<Bfloat16, Int8>(s, team); },  \
       [](const Args& s, Team& team) { Run<Half, Int8>(s, team); }},     \
      {[](const Args& s) { return BytesOf<Memory<float, Int8>>(s); },    \
       [](const Args& s) { return BytesOf<Memory<Bfloat16, Int8>>(s); }, \
       [](const Args& s) { return BytesOf<Memory<Half, Int8>>(s); }},    \
  }

template <typename Memory, typename Args>
inline Bytes BytesOf(const Args& s) {
  const Memory memory(s, nullptr, nullptr);
  return {memory.shared.used, memory.own.used};
}

// constexpr: what runs before the level is chosen must not use it
constexpr Kernels Table() {
  return {MOGE_KERNEL(MlpForward, RunMlpForward, ForwardMemory),
          MOGE_INTEGERS(MlpForward, RunMlpForward, ForwardMemory),
          MOGE_KERNEL(MlpBackward, RunMlpBackward, BackwardMemory),
          MOGE_KERNEL(Gemm, RunGemm, GemmMemory),
          MOGE_INTEGERS(Gemm, RunGemm, GemmMemory),
          MOGE_KERNEL(Gemm, RunGemmDx, GemmDxMemory),
          MOGE_KERNEL(Gemm, RunGemmDw, GemmDwMemory),
          MOGE_KERNEL(Rowwise, RunPermute, NoMemory),
          MOGE_KERNEL(Rowwise, RunUnpermute, NoMemory),
          MOGE_KERNEL(Rowwise, RunUnpermuteBackward, NoMemory),
          MOGE_KERNEL(Swiglu, RunSwiglu, NoMemory),
          MOGE_KERNEL(Swiglu, RunSwigluBackward, NoMemory),
          MOGE_KERNEL(Gate, RunGate, GateMemory),
          MOGE_KERNEL(GateBackward, RunGateBackward, GateBackwardMemory),
          MOGE_KERNEL(Loss, RunLoss, LossMemory),
          MOGE_KERNEL(Loss, RunLossBackward, GateMemory)};
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
