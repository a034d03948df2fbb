// Cycles of instructions by the documented tables, and the devices that are known.
#include <algorithm>

#include "figures.h"
#include "launch.h"

namespace emulator {

std::vector<TimeParameter> TimeParameters() {
#define MOGE_PARAMETER(name, value, unit, origin) {&#name[1], value, unit, origin},
  return {MOGE_TIME_PARAMETERS(MOGE_PARAMETER)};
#undef MOGE_PARAMETER
}

const std::vector<Device>& Devices() {
  // Of the 910B4 neither figure was found documented. The clock follows from 246 TFLOP/s of fp16 in
  // the platform files; the rate is half of the 64 GB chips', since it has 32 GB.
  static const std::vector<Device> devices = {
      {"910B1", 24, 48, 1.85e9, 1.6e12},
      {"910B4", 20, 40, 1.5e9, 0.8e12},
  };
  return devices;
}

namespace {

// Elements per cycle of types of 16 and 32 bits, where it is not a whole repeat of 256 bytes;
// documented: theoretical performance of the vector instructions.
double ElementsPerCycle(Op op, bool wide) {
  switch (op) {
    case Op::kExp:
    case Op::kLn:
    case Op::kSqrt:
    case Op::kDiv:
      return 32;
    case Op::kMulAddDst:
    case Op::kGatherMask:
      return wide ? 32 : 64;
    case Op::kReduceDataBlock:
      return wide ? 64 : 128.0 / 7;
    case Op::kReduceRepeat:
      return wide ? 64.0 / 7 : 128.0 / 7;
    default:
      return wide ? 64 : 128;
  }
}

}  // namespace

double VectorCycles(Op op, DType dtype, uint64_t repeats, uint64_t elements) {
  const auto count = static_cast<double>(elements);
  const auto rounds = static_cast<double>(repeats);
  const bool wide = SizeOf(dtype) >= 4;
  switch (op) {
    case Op::kGather:
      return count / 5;
    case Op::kGatherb:
      return count / (wide ? 21 : 42);
    case Op::kSort32:
    case Op::kMrgSort:
      return count / 2;
    case Op::kCast:  // 64 elements of any type; a repeat has as many of the wider one
      return std::max(rounds, count / 64);
    case Op::kBrcb:
      return rounds;
    default:
      // a masked or partial repeat costs a whole one
      return rounds * (wide ? 64 : 128) / ElementsPerCycle(op, wide);
  }
}

double LocalMoveCycles(Path path, uint64_t bytes) {
  if (path == Path::kL1ToBias) return 0;
  return static_cast<double>(bytes) / (path == Path::kL1ToL0B ? 128 : 256);
}

double HeadCycles(Op op, pipe_t pipe) {
  if (pipe == PIPE_V) return kVectorHead;
  if (pipe == PIPE_M) return kMmadHead;
  if (pipe == PIPE_MTE1) return kLoadHead;
  return op == Op::kFill ? kCopyHead : 0;
}

double MoveCycles(bool nd_to_nz, pipe_t pipe, uint32_t rows) {
  if (pipe == PIPE_FIX) return 0;
  return (nd_to_nz ? kNdToNzHead : kCopyHead) + rows * kPiece;
}

double PortRate(pipe_t pipe, bool cube) {
  return pipe == PIPE_FIX ? kFixpipePort : cube ? kCubePort : kVectorPort;
}

}  // namespace emulator
