// Cycles of instructions by the documented tables, and the devices that are known.
#include <algorithm>
#include <array>
#include <stdexcept>

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

enum class Unit : uint8_t { kWhole, kEach };
struct Speed {
  Unit unit = Unit::kWhole;
  double narrow = 128, wide = 64;  // elements a cycle of 16-bit and of 32-bit types
};

// those of the table, which come first; no other one computes on lanes
constexpr std::array<Speed, kOps> kSpeeds = {{
#define MOGE_INSTRUCTION(name, types, unit, narrow, wide) {Unit::k##unit, narrow, wide},
    MOGE_VECTOR_INSTRUCTIONS(MOGE_INSTRUCTION)
#undef MOGE_INSTRUCTION
}};

}  // namespace

double VectorCycles(Op op, DType dtype, uint64_t repeats, uint64_t elements) {
  const auto count = static_cast<double>(elements);
  const auto rounds = static_cast<double>(repeats);
  const bool wide = SizeOf(dtype) >= 4;
  const Speed& speed = kSpeeds[static_cast<int>(op)];
  const double rate = wide ? speed.wide : speed.narrow;
  return speed.unit == Unit::kEach ? count / rate : rounds * (wide ? 64 : 128) / rate;
}

double LocalMoveCycles(Path path, uint64_t bytes) {
  const auto count = static_cast<double>(bytes);
  switch (path) {
#define MOGE_LOCAL_RATE(name, rate) \
  case Path::k##name:               \
    return count / rate;
    MOGE_LOCAL_RATES(MOGE_LOCAL_RATE)
#undef MOGE_LOCAL_RATE
    default:
      throw std::logic_error("the rate of this path is not by its bytes alone");
  }
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

// The share of memory's channels that is busy while requests go to them at random, by the formula
// of a closed network of queues. Rows that touch or lie near each other take the channels in turn,
// and keep all of them busy.
double MemoryShare(const Transfer& transfer, size_t cores) {
  if (transfer.rows == 1 || transfer.writes) return 1;
  const bool parts = transfer.bypass && transfer.row_bytes < kLineBytes;
  if (!parts && (transfer.pitch < kFar || transfer.row_bytes >= kLongRow)) return 1;
  const double lines = static_cast<double>(cores) * (parts ? 1 : kUnderWay);
  return lines / (lines + kChannels - 1);
}

}  // namespace emulator
