// LoadData and Fill: fractals on their way to L1 and L0, as they are or transposed.
#include "core.h"

namespace emulator {

namespace {

Path LoadPath(bool from_global, Memory to) {
  if (to == Memory::kL0A) return from_global ? Path::kGmToL0A : Path::kL1ToL0A;
  if (to == Memory::kL0B) return from_global ? Path::kGmToL0B : Path::kL1ToL0B;
  if (to == Memory::kL1 && from_global) return Path::kGmToL1;
  Fail(Rule::kCopyPath, "a load into %s", Name(to));
}

// Byte of element (row, column) in the fractals of a square; `gap` fractals between two of them.
template <uint32_t bytes>
uint32_t SquareByte(uint32_t row, uint32_t column, uint32_t gap) {
  const uint32_t at = column * bytes;
  // 8 bits: the second fractal holds the lower rows; 32 bits: the right columns
  const uint32_t fractal = bytes == 1 ? row / kSide : at / kBlockBytes;
  return fractal * (1 + gap) * kFractalBytes + row % kSide * kBlockBytes + at % kBlockBytes;
}

template <uint32_t bytes>
void TransposeSquare(const uint8_t* from, uint8_t* to, uint32_t gap) {
  for (uint32_t row = 0; row < (bytes == 1 ? 32 : kSide); ++row) {
    for (uint32_t column = 0; column < (bytes == 1 ? 32 : kSide); ++column) {
      std::memcpy(to + SquareByte<bytes>(row, column, gap),
                  from + SquareByte<bytes>(column, row, 0), bytes);
    }
  }
}

constexpr uint32_t kInt4Side = 64;

// Four fractals, 64 rows of 32 bytes; `join` makes a byte of what two rows have in one.
template <typename Join>
void TransposeInt4(const uint8_t* from, uint8_t* to, uint32_t gap, Join join) {
  for (uint32_t row = 0; row < kInt4Side; ++row) {
    for (uint32_t pair = 0; pair < kInt4Side / 2; ++pair) {
      const uint8_t* upper = from + 2 * pair * kBlockBytes + row / 2;
      const uint32_t at = row / kSide * (1 + gap) * kFractalBytes + row % kSide * kBlockBytes;
      to[at + pair] = join(upper[0], upper[kBlockBytes], row % 2 * 4);
    }
  }
}

uint8_t JoinHalves(uint8_t first, uint8_t second, uint32_t shift) {
  return static_cast<uint8_t>((first >> shift & 15) | (second >> shift & 15) << 4);
}

// A byte is valid if both halves are.
uint8_t JoinStates(uint8_t first, uint8_t second, uint32_t) {
  return first == static_cast<uint8_t>(ByteState::kValid) ? second : first;
}

// `states`: of the bytes, not the bytes themselves
void TransposeSquare(DType dtype, bool states, const uint8_t* from, uint8_t* to, uint32_t gap) {
  if (dtype == DType::kInt4) return TransposeInt4(from, to, gap, states ? JoinStates : JoinHalves);
  const uint32_t bytes = SizeOf(dtype);
  if (bytes == 1) return TransposeSquare<1>(from, to, gap);
  if (bytes == 2) return TransposeSquare<2>(from, to, gap);
  TransposeSquare<4>(from, to, gap);
}

uint32_t SquareBytes(DType dtype) {
  if (dtype == DType::kInt4) return kInt4Side * kBlockBytes;
  const uint32_t bytes = SizeOf(dtype);
  return bytes == 1 ? 32 * 32 : kSide * kSide * bytes;
}

// Where the units of a run start, in bytes from the start of their tensors.
uint64_t SourceAt(const FractalRun& run, uint32_t unit, uint32_t unit_bytes) {
  const int64_t step = run.backwards ? -int64_t{run.source_stride} : int64_t{run.source_stride};
  const int64_t at = int64_t{run.start} + step * unit;
  if (at < 0) Fail(Rule::kLocalBounds, "unit %u lies before the start of the source", unit);
  return static_cast<uint64_t>(at) * unit_bytes;
}

uint64_t DestinationAt(const FractalRun& run, uint32_t unit) {
  return uint64_t{unit} * (1 + run.destination_gap) * kFractalBytes;
}

// What the loads from L1 share: units of `unit_bytes`, whose bytes and states `place` puts down.
// Undefined bytes travel along: a product must not read them.
template <typename Place>
void LoadUnits(Op op, const LocalRef& dst, const LocalRef& src, const FractalRun& run,
               uint32_t unit_bytes, Place place) {
  Core& core = Begin(op, PIPE_MTE1);
  const Memory from = MemoryOf(src.position);
  const Memory to = MemoryOf(dst.position);
  if (from != Memory::kL1) Fail(Rule::kCopyPath, "a load from %s", Name(from));
  core.Move(LoadPath(false, to), run.repeat * (unit_bytes / kFractalBytes), kFractalBytes);
  core.Check(src, 0, 0, kBlockBytes);
  const uint32_t begin = core.Check(dst, 0, 0, kFractalBytes);
  const uint32_t fractals = unit_bytes / kFractalBytes;
  if (core.machine.options.counting) {
    if (run.repeat == 0) return;
    core.Check(src, SourceAt(run, run.repeat - 1, unit_bytes), unit_bytes, 1);
    core.Check(dst, DestinationAt(run, run.repeat - 1), kFractalBytes, 1);
    return;
  }
  std::array<bool, MemoryBytes(Memory::kL0A) / kFractalBytes> taken{};
  uint8_t* bytes_to = core.Bytes(dst);
  const uint8_t* bytes_from = core.Bytes(src);
  for (uint32_t unit = 0; unit < run.repeat; ++unit) {
    const uint64_t source = SourceAt(run, unit, unit_bytes);
    const uint64_t destination = DestinationAt(run, unit);
    const uint32_t source_begin = core.Check(src, source, unit_bytes, 1);
    core.Follow(from, source_begin, source_begin + unit_bytes);
    for (uint32_t fractal = 0; fractal < fractals; ++fractal) {
      const uint64_t at = destination + uint64_t{fractal} * (1 + run.fraction_gap) * kFractalBytes;
      const uint32_t address = core.Check(dst, at, kFractalBytes, 1);
      bool& is_taken = taken[address / kFractalBytes];
      if (is_taken) Report(Rule::kLoadOverlap, "unit %u lands on one before it", unit);
      is_taken = true;
      core.Write(to, address, address + kFractalBytes);
    }
    place(bytes_from + source, bytes_to + destination, false);
    if (core.machine.options.checks) {
      place(core.Local(from).state.data() + source_begin,
            core.Local(to).state.data() + begin + destination, true);
    }
  }
}

}  // namespace

void LoadFractals(DType dtype, const LocalRef& dst, const LocalRef& src, const FractalRun& run) {
  Enter(Op::kLoadData);
  if (run.transpose && SizeOf(dtype) != 2) {
    Fail(Rule::kLoadTranspose, "ifTranspose with %s: use LoadDataWithTranspose", Name(dtype));
  }
  CheckRange(limits::LoadData2DParams::addrMode, run.backwards);
  LoadUnits(Op::kLoadData, dst, src, run, kFractalBytes,
            [&](const uint8_t* from, uint8_t* to, bool) {
              if (run.transpose) {
                TransposeSquare<2>(from, to, 0);
              } else {
                std::memcpy(to, from, kFractalBytes);
              }
            });
}

void LoadFractals(DType dtype, const LocalRef& dst, const GlobalRef& src, const FractalRun& run) {
  Core& core = Begin(Op::kLoadData, PIPE_MTE2);
  if (run.transpose) {
    Fail(Rule::kLoadTranspose, "ifTranspose with %s from global memory", Name(dtype));
  }
  const Memory to = MemoryOf(dst.position);
  core.Move(LoadPath(true, to), src,
            {run.repeat, kFractalBytes, uint64_t{run.source_stride} * kFractalBytes});
  core.Check(dst, 0, 0, to == Memory::kL1 ? kBlockBytes : kFractalBytes);
  for (uint32_t unit = 0; unit < run.repeat; ++unit) {
    const uint64_t from = SourceAt(run, unit, kFractalBytes);
    const uint64_t at = DestinationAt(run, unit);
    core.CheckGlobal(src, from, kFractalBytes, 1);
    core.ReadGlobal(src, from, kFractalBytes);
    const uint32_t address = core.Check(dst, at, kFractalBytes, 1);
    if (core.machine.options.counting) continue;
    core.Write(to, address, address + kFractalBytes);
    std::memcpy(core.Bytes(dst) + at, src.address + from, kFractalBytes);
  }
}

void LoadSquares(DType dtype, const LocalRef& dst, const LocalRef& src, const FractalRun& run) {
  if (dtype == DType::kInt4 && MemoryOf(dst.position) != Memory::kL0B) {
    Enter(Op::kLoadDataWithTranspose);
    Fail(Rule::kLoadType, "int4 into %s", Name(MemoryOf(dst.position)));
  }
  LoadUnits(Op::kLoadDataWithTranspose, dst, src, run, SquareBytes(dtype),
            [&](const uint8_t* from, uint8_t* to, bool states) {
              TransposeSquare(dtype, states, from, to, run.fraction_gap);
            });
}

void FillBlocks(DType dtype, const LocalRef& dst, const void* value, uint32_t repeat,
                uint32_t blocks, uint32_t gap) {
  Core& core = CurrentCore();
  const Memory memory = MemoryOf(dst.position);
  core.Begin(Op::kFill, memory == Memory::kL1 ? PIPE_MTE2 : PIPE_MTE1);
  const bool fractals = memory == Memory::kL0A || memory == Memory::kL0B;
  if (memory != Memory::kL1 && !fractals) Fail(Rule::kCopyPath, "Fill of %s", Name(memory));
  CheckRange(limits::InitConstValueParams::repeatTimes, repeat);
  CheckRange(limits::InitConstValueParams::blockNum, blocks);
  CheckRange(limits::InitConstValueParams::dstGap, gap);
  const uint32_t unit = fractals ? kFractalBytes : kBlockBytes;
  core.FillBytes(uint64_t{repeat} * blocks * unit);
  core.Check(dst, 0, 0, unit);
  if (blocks == 0 || core.machine.options.counting) return;
  const uint32_t bytes = SizeOf(dtype);
  for (uint32_t row = 0; row < repeat; ++row) {
    const uint64_t at = uint64_t{row} * (blocks + gap) * unit;
    const uint32_t begin = core.Check(dst, at, uint64_t{blocks} * unit, 1);
    core.Write(memory, begin, begin + blocks * unit);
    uint8_t* to = core.Bytes(dst) + at;
    for (uint32_t byte = 0; byte < blocks * unit; byte += bytes) {
      std::memcpy(to + byte, value, bytes);
    }
  }
}

}  // namespace emulator
