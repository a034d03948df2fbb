// The figures of the model of time, each with where it comes from, for the emulator's own .cpp
// files only.
#ifndef MOGE_EMULATOR_FIGURES_H_
#define MOGE_EMULATOR_FIGURES_H_

#include "names.h"
#include "timing.h"

namespace emulator {

// The device is Atlas A2. Published copies are those of the data_copy, add and matmul examples of
// the Ascend C best practices; "mte2 time" is the busy time of the unit that they list beside the
// task's.
// clang-format off: a table
#define MOGE_TIME_PARAMETERS(X)                                                                    \
  X(kL2Rate, 5.2e12, "B/s", "documented: peak of pure reads from L2")                              \
  X(kL2Bytes, 192.0 * 1048576, "B", "documented")                                                  \
  X(kLineBytes, 512, "B", "documented: the alignment that transfers want")                         \
  X(kLaunch, 13e-6, "s", "calibrated: task less mte2 time of the copies, 12.8 to 13.2 us")         \
  X(kIssue, 4, "cycles", "calibrated: scalar time of matmul, 337 us, 14 calls a step") \
  X(kScalarUb, 34.0 / 3, "cycles", "documented: 18.4 ns, two reads and a write of a scalar Add") \
  X(kLatency, 445, "cycles", "calibrated: Add on one core, two copies of 8 KB in 379 ns")          \
  X(kQueue, 32, "instructions", "documented: depth of MTE1's queue; taken for all")                \
  X(kVectorPort, 64, "B/cycle", "calibrated: L2 read by 48 vector cores, 365.7 us") \
  X(kCubePort, 128, "B/cycle", "assumed: twice a vector core's, as there are half as many") \
  X(kFixpipePort, 64, "B/cycle", "calibrated: fixpipe time of matmul, 0.54 us a tile")             \
  X(kFixpipeResults, 64, "elements/cycle", "documented: L0C to L1, whatever the type") \
  X(kCopyHead, 16, "cycles", "calibrated: copies of 128 bytes, 564.8 us")                          \
  X(kNdToNzHead, 142, "cycles", "calibrated with the next: Nd2Nz of 64 x 64, 300.7 us") \
  X(kPiece, 2.05, "cycles", "calibrated: mte2 time of matmul, 3552 us; of each row") \
  X(kUnaligned, 1 / 0.7, "", "documented: 32-byte alignment has 70 % of the rate of 512 at worst") \
  X(kChannels, 32, "", "assumed: four stacks of HBM2e, each with eight channels")                   \
  X(kUnderWay, 8, "lines", "calibrated: 48 vector cores copy rows far apart, 828.1 us") \
  X(kFar, 16384, "B", "assumed: rows 4 KB apart stream, rows 24 KB apart do not")                  \
  X(kLongRow, 4096, "B", "assumed: such a row streams by itself, one of 2 KB does not")            \
  X(kSameLine, 0.413, "cycles", "calibrated: 48 cores read the same past L2, 539.4 us; a request") \
  X(kVectorHead, 22, "cycles", "calibrated: vec time of Add, 150 cycles for 127 repeats")          \
  X(kLoadHead, 14, "cycles", "calibrated: mte1 time of matmul, 2538 us, in eight LoadData a step") \
  X(kMmadHead, 10, "cycles", "calibrated: mac time of matmul, 2 % above theory")                   \
  X(kSyncAllCycles, 890, "cycles", "assumed: a latency to tell and one to hear")                   \
  X(kCrossCycles, 445, "cycles", "assumed: a latency")
// clang-format on

// Bytes a cycle of moves inside a core, by their path: X(path, rate). The documents give those out
// of L1; the vector unit is taken to copy at the rate of its other instructions.
#define MOGE_LOCAL_RATES(X) \
  X(UbToUb, 256)            \
  X(L1ToL0A, 256)           \
  X(L1ToL0B, 128)           \
  X(L1ToBias, 32)           \
  X(L1ToFixpipe, 32)

#define MOGE_PARAMETER(name, value, unit, origin) inline constexpr double name = value;
MOGE_TIME_PARAMETERS(MOGE_PARAMETER)
#undef MOGE_PARAMETER

// What an instruction takes by the documented tables, without its head: moved inside the core, or
// computed on vectors.
double LocalMoveCycles(Path path, uint64_t bytes);
double VectorCycles(Op op, DType dtype, uint64_t repeats, uint64_t elements);
// Cycles before an instruction starts its work.
double HeadCycles(Op op, pipe_t pipe);
// What a transfer from or to global memory costs beside its bytes, and how fast its core takes
// them.
double MoveCycles(bool nd_to_nz, pipe_t pipe, uint32_t rows);
double PortRate(pipe_t pipe, bool cube);
// The part of memory's rate that such a transfer gets while this many cores do the like.
double MemoryShare(const Transfer& transfer, size_t cores);
// Cycles of the scalar unit: for each call, and for an access to local memory or to global memory.
inline double IssueCycles() { return kIssue; }
inline double ScalarCycles(bool missed) { return missed ? kLatency : kScalarUb - kIssue; }

}  // namespace emulator

#endif  // MOGE_EMULATOR_FIGURES_H_
