// Cycles of instructions by the documented tables, and the devices that are known.
#include <algorithm>
#include <array>

#include "figures.h"
#include "instructions.h"
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

enum class Unit : uint8_t { kWhole, kEach };
struct Speed {
  Unit unit = Unit::kWhole;
  double narrow = 128, wide = 64;  // elements a cycle of 16-bit and of 32-bit types
};

const std::array<Speed, kOps>& Speeds() {
  static const std::array<Speed, kOps> speeds = [] {
    std::array<Speed, kOps> all;
#define MOGE_INSTRUCTION(name, types, unit, narrow, wide) \
  all[static_cast<int>(Op::k##name)] = {Unit::k##unit, narrow, wide};
    MOGE_VECTOR_INSTRUCTIONS(MOGE_INSTRUCTION)
#undef MOGE_INSTRUCTION
    return all;
  }();
  return speeds;
}

}  // namespace

double VectorCycles(Op op, DType dtype, uint64_t repeats, uint64_t elements) {
  const auto count = static_cast<double>(elements);
  const auto rounds = static_cast<double>(repeats);
  const bool wide = SizeOf(dtype) >= 4;
  const Speed& speed = Speeds()[static_cast<int>(op)];
  const double rate = wide ? speed.wide : speed.narrow;
  return speed.unit == Unit::kEach ? count / rate : rounds * (wide ? 64 : 128) / rate;
}

double LocalMoveCycles(Path path, uint64_t bytes) {
  const auto count = static_cast<double>(bytes);
  if (path == Path::kL1ToBias || path == Path::kL1ToFixpipe) return count / 32;
  if (path == Path::kL0CToL1) return count / kFixpipePort;
  return count / (path == Path::kL1ToL0B ? 128 : 256);
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
