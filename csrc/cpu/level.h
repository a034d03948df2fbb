// One level's kernels, as a table: what each level's own file ends in.
#pragma once
#include "gate.h"
#include "grouped_mlp.h"
#include "rowwise.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// Rows of a block: its operand and its activations stay in a core's second cache.
constexpr int kBlockRows = kLanes == 16 ? (MOGE_TILES ? 128 : 96) : 64;

// A kernel for each dtype, and how much memory it needs.
#define MOGE_KERNEL(Args, Run, Memory)                                                          \
  {                                                                                             \
    {[](const Args& s, Team& team) { Run<float>(s, kBlockRows, team); },                        \
     [](const Args& s, Team& team) { Run<Bfloat16>(s, kBlockRows, team); },                     \
     [](const Args& s, Team& team) { Run<Half>(s, kBlockRows, team); }},                        \
    {                                                                                           \
      [](const Args& s, int64_t longest) { return BytesOf<Memory<float>>(s, longest); },        \
          [](const Args& s, int64_t longest) { return BytesOf<Memory<Bfloat16>>(s, longest); }, \
          [](const Args& s, int64_t longest) { return BytesOf<Memory<Half>>(s, longest); }      \
    }                                                                                           \
  }

template <typename Memory, typename Args>
inline Bytes BytesOf(const Args& s, int64_t longest) {
  const Memory memory(s, kBlockRows, longest, nullptr, nullptr);
  return {memory.shared.used, memory.own.used};
}

// constexpr: what runs before the level is chosen must not use it
constexpr Kernels Table(const char* name) {
  return {name,
          kBlockRows,
          MOGE_KERNEL(MlpForward, RunMlpForward, ForwardMemory),
          MOGE_KERNEL(MlpBackward, RunMlpBackward, BackwardMemory),
          MOGE_KERNEL(Gemm, RunGemm, GemmMemory),
          MOGE_KERNEL(Gemm, RunGemmDx, GemmDxMemory),
          MOGE_KERNEL(Gemm, RunGemmDw, GemmDwMemory),
          MOGE_KERNEL(Rowwise, RunPermute, NoMemory),
          MOGE_KERNEL(Rowwise, RunUnpermute, NoMemory),
          MOGE_KERNEL(Rowwise, RunUnpermuteBackward, NoMemory),
          MOGE_KERNEL(Swiglu, RunSwiglu, NoMemory),
          MOGE_KERNEL(Swiglu, RunSwigluBackward, NoMemory),
          MOGE_KERNEL(Gate, RunGate, GateMemory),
          MOGE_KERNEL(GateBackward, RunGateBackward, GateMemory),
          MOGE_KERNEL(Loss, RunLoss, GateMemory),
          MOGE_KERNEL(Loss, RunLossBackward, GateMemory)};
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
