// LoadData, Fill, Mmad and Fixpipe: limits, unit flags, order, layouts.
#include <algorithm>
#include <cmath>

#include "core.h"
#include "mmad.h"
#include "params.h"

namespace emulator {

namespace {

constexpr uint32_t kSide = 16;      // rows and columns of a fractal of results
constexpr uint32_t kRowBytes = 64;  // 16 results

uint32_t CeilDivide(uint32_t value, uint32_t divisor) { return (value + divisor - 1) / divisor; }

// --- loads ---------------------------------------------------------------------------------------

Path LoadPath(bool from_global, Memory to) {
  if (to == Memory::kL0A) return from_global ? Path::kGmToL0A : Path::kL1ToL0A;
  if (to == Memory::kL0B) return from_global ? Path::kGmToL0B : Path::kL1ToL0B;
  Fail(Rule::kCopyPath, "a load into %s", Name(to));
}

uint32_t SideOf(uint32_t bytes) { return bytes == 1 ? 32 : kSide; }

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

void TransposeSquare(uint32_t bytes, const uint8_t* from, uint8_t* to, uint32_t gap) {
  if (bytes == 1) return TransposeSquare<1>(from, to, gap);
  if (bytes == 2) return TransposeSquare<2>(from, to, gap);
  TransposeSquare<4>(from, to, gap);
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
  Core& core = CurrentCore();
  core.Begin(op, PIPE_MTE1);
  const Memory from = MemoryOf(src.position);
  const Memory to = MemoryOf(dst.position);
  if (from != Memory::kL1) Fail(Rule::kCopyPath, "a load from %s", Name(from));
  core.CountPath(LoadPath(false, to), run.repeat * (unit_bytes / kFractalBytes), kFractalBytes);
  core.Check(src, 0, 0, kBlockBytes);
  const uint32_t begin = core.Check(dst, 0, 0, kFractalBytes);
  const uint32_t fractals = unit_bytes / kFractalBytes;
  if (core.machine.options.counting) {
    if (run.repeat == 0) return;
    core.Check(src, SourceAt(run, run.repeat - 1, unit_bytes), unit_bytes, 1);
    core.Check(dst, DestinationAt(run, run.repeat - 1), kFractalBytes, 1);
    return;
  }
  std::array<bool, 65536 / kFractalBytes> taken{};
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
      if (is_taken) Fail(Rule::kLoadOverlap, "unit %u lands on one before it", unit);
      is_taken = true;
      core.Write(to, address, address + kFractalBytes);
    }
    place(bytes_from + source, bytes_to + destination);
    if (core.machine.options.checks) {
      place(core.Local(from).state.data() + source_begin,
            core.Local(to).state.data() + begin + destination);
    }
  }
}

}  // namespace

void LoadFractals(DType dtype, const LocalRef& dst, const LocalRef& src, const FractalRun& run) {
  Core& core = CurrentCore();
  core.op = Op::kLoadData;
  if (run.transpose && SizeOf(dtype) != 2) {
    Fail(Rule::kLoadTranspose, "ifTranspose with %s: use LoadDataWithTranspose", Name(dtype));
  }
  if (run.backwards) Fail(Rule::kParamRange, "addrMode is 0 on the way from L1");
  LoadUnits(Op::kLoadData, dst, src, run, kFractalBytes, [&](const uint8_t* from, uint8_t* to) {
    if (run.transpose) {
      TransposeSquare<2>(from, to, 0);
    } else {
      std::memcpy(to, from, kFractalBytes);
    }
  });
}

void LoadFractals(DType dtype, const LocalRef& dst, const GlobalRef& src, const FractalRun& run) {
  Core& core = CurrentCore();
  core.Begin(Op::kLoadData, PIPE_MTE2);
  if (run.transpose) {
    Fail(Rule::kLoadTranspose, "ifTranspose with %s from global memory", Name(dtype));
  }
  const Memory to = MemoryOf(dst.position);
  core.CountPath(LoadPath(true, to), run.repeat, kFractalBytes);
  core.CountGlobal(src, uint64_t{run.repeat} * kFractalBytes, false);
  core.TimeMove(src, run.repeat, kFractalBytes, uint64_t{run.source_stride} * kFractalBytes);
  core.Check(dst, 0, 0, kFractalBytes);
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
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t side = SideOf(bytes);
  LoadUnits(Op::kLoadDataWithTranspose, dst, src, run, side * side * bytes,
            [&](const uint8_t* from, uint8_t* to) {
              TransposeSquare(bytes, from, to, run.fraction_gap);
            });
}

void FillBlocks(DType dtype, const LocalRef& dst, const void* value, uint32_t repeat,
                uint32_t blocks, uint32_t gap) {
  Core& core = CurrentCore();
  const Memory memory = MemoryOf(dst.position);
  core.Begin(Op::kFill, memory == Memory::kL1 ? PIPE_MTE2 : PIPE_MTE1);
  const bool fractals = memory == Memory::kL0A || memory == Memory::kL0B;
  if (memory != Memory::kL1 && !fractals) Fail(Rule::kCopyPath, "Fill of %s", Name(memory));
  if (repeat > 32767 || blocks > 32767 || gap > 32767) {
    Fail(Rule::kParamRange, "repeatTimes, blockNum and dstGap are 0 to 32767, got %u, %u, %u",
         repeat, blocks, gap);
  }
  const uint32_t unit = fractals ? kFractalBytes : kBlockBytes;
  Work work;
  work.bytes = uint64_t{repeat} * blocks * unit;
  core.Account(work);
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

// --- unit flags ----------------------------------------------------------------------------------

namespace {

void CheckUnitFlag(uint8_t flag) {
  if (flag == 0 || flag == 2 || flag == 3) return;
  Fail(Rule::kUnitFlagValue, "unitFlag is 0, 2 or 3, got %u", flag);
}

// The blocks of L0C that one instruction covers, before it touches them. What the flags order is
// forgotten: both pipes follow each other there.
void TakeUnits(Core& core, uint32_t begin, uint32_t end, uint8_t flag) {
  const bool writes = core.pipe == PIPE_M;
  LocalMemory& local = core.Local(Memory::kL0C);
  for (uint32_t unit = begin / kFractalBytes; unit * kFractalBytes < end; ++unit) {
    uint8_t& bits = core.units[unit];
    const bool full = (bits & Core::kUnitFull) != 0;
    const uint32_t from = unit * kFractalBytes;
    const uint32_t to = from + kFractalBytes;
    if (flag == 0) {
      if (full || (!writes && (bits & Core::kUnitByMmad) != 0)) {
        Fail(Rule::kUnitFlagSides, "L0C [%u, %u) was written with a unit flag: use it here, too",
             from, to);
      }
      bits = 0;
      continue;
    }
    if (core.trace) {
      const bool follows = writes ? (bits & Core::kUnitByFixpipe) != 0 : full;
      core.trace->Unit(unit, follows, flag == 3);
    }
    if (writes && full) {
      Fail(Rule::kUnitFlagOrder, "waits for Fixpipe to move L0C [%u, %u) out, which it has not",
           from, to);
    }
    if (!writes && !full) {
      if ((bits & Core::kUnitByMmad) == 0) {
        Fail(Rule::kUnitFlagSides, "waits for L0C [%u, %u), which no Mmad with unitFlag wrote",
             from, to);
      }
      Fail(Rule::kUnitFlagOrder,
           "waits for L0C [%u, %u): the last Mmad on it has unitFlag 2, not 3", from, to);
    }
    if (core.machine.options.checks) {
      BlockRecord& record = local.blocks[unit];
      if (writes && (bits & Core::kUnitByFixpipe) != 0) record.read[PIPE_FIX] = 0;
      if (!writes && record.writer == PIPE_M) record.written = 0;
    }
    if (writes) {
      bits = Core::kUnitByMmad | (flag == 3 ? Core::kUnitFull : 0);
    } else if (flag == 3) {
      bits = Core::kUnitByFixpipe;
    }
  }
}

}  // namespace

void SetProductOrder(bool row_major) {
  Core& core = CurrentCore();
  core.Begin(row_major ? Op::kSetMMRowMajor : Op::kSetMMColumnMajor, PIPE_S);
  if (!core.IsCube()) Fail(Rule::kCorePipe, "a vector core has no Mmad");
  core.product_order = row_major ? Core::ProductOrder::kRowMajor : Core::ProductOrder::kColumnMajor;
}

// --- Mmad ----------------------------------------------------------------------------------------

namespace {

// `rows` by `row_bytes` of each fractal, 32 bytes a row: what the product takes must be valid.
void CheckFractals(Core& core, Memory memory, uint32_t begin, uint32_t fractals, uint32_t rows,
                   uint32_t row_bytes) {
  if (row_bytes == kBlockBytes && (rows == kSide || fractals == 1)) {
    core.CheckValid(memory, begin, begin + (fractals - 1) * kFractalBytes + rows * kBlockBytes);
    return;
  }
  for (uint32_t fractal = 0; fractal < fractals; ++fractal) {
    for (uint32_t row = 0; row < rows; ++row) {
      const uint32_t at = begin + fractal * kFractalBytes + row * kBlockBytes;
      core.CheckValid(memory, at, at + row_bytes);
    }
  }
}

void ReadLeft(Core& core, uint32_t begin, const ProductShape& shape) {
  const uint32_t bytes = SizeOf(shape.dtype);
  if (shape.m == 1) {  // one row, as it lies
    core.Read(Memory::kL0A, begin, begin + shape.k * bytes);
    return;
  }
  const uint32_t last = (shape.k - (shape.k_fractals - 1) * shape.k_side) * bytes;
  for (uint32_t row = 0; row < shape.m; row += kSide) {
    const uint32_t at = begin + row / kSide * shape.a_pitch * kFractalBytes;
    const uint32_t rows = std::min(kSide, shape.m - row);
    const uint32_t tail = at + (shape.k_fractals - 1) * kFractalBytes;
    core.Follow(Memory::kL0A, at, tail + kFractalBytes);
    if (shape.k_fractals > 1) {
      CheckFractals(core, Memory::kL0A, at, shape.k_fractals - 1, rows, kBlockBytes);
    }
    CheckFractals(core, Memory::kL0A, tail, 1, rows, last);
  }
}

void ReadRight(Core& core, uint32_t begin, const ProductShape& shape) {
  const uint32_t bytes = SizeOf(shape.dtype);
  const uint32_t columns = CeilDivide(shape.n, kSide);
  const uint32_t last = shape.n - (columns - 1) * kSide;
  for (uint32_t k = 0; k < shape.k; k += shape.k_side) {
    const uint32_t at = begin + k / shape.k_side * columns * kFractalBytes;
    const uint32_t row_bytes = std::min(shape.k_side, shape.k - k) * bytes;
    const uint32_t tail = at + (columns - 1) * kFractalBytes;
    core.Follow(Memory::kL0B, at, tail + kFractalBytes);
    if (columns > 1) CheckFractals(core, Memory::kL0B, at, columns - 1, kSide, row_bytes);
    CheckFractals(core, Memory::kL0B, tail, 1, last, row_bytes);
  }
}

// Rows and columns of C that hold results, fractal by fractal: f(begin, end) of each run of bytes.
template <typename F>
void ForEachResult(uint32_t begin, const ProductShape& shape, F f) {
  const uint32_t height = CeilDivide(shape.m, kSide) * kProductBytes;
  for (uint32_t column = 0; column < shape.n; column += kSide) {
    const uint32_t at = begin + column / kSide * height;
    const uint32_t width = std::min(kSide, shape.n - column) * 4;
    if (width == kRowBytes) {
      f(at, at + shape.m * kRowBytes);
      continue;
    }
    for (uint32_t row = 0; row < shape.m; ++row)
      f(at + row * kRowBytes, at + row * kRowBytes + width);
  }
}

void CheckBarrier(Core& core, uint32_t begin, uint32_t end, const ProductShape& shape) {
  if ((shape.m / kSide) * (shape.n / kSide) >= 10) return;
  const LocalMemory& local = core.Local(Memory::kL0C);
  for (uint32_t unit = begin / kFractalBytes; unit * kFractalBytes < end; ++unit) {
    const BlockRecord& record = local.blocks[unit];
    if (record.written == 0 || record.writer != PIPE_M) continue;
    if (core.PassedBarrier(PIPE_M, record.written)) continue;
    Fail(Rule::kMmadBarrier,
         "adds %u x %u to L0C [%u, %u) that a Mmad wrote before: (m / 16) * (n / 16) is below 10, "
         "add PipeBarrier<PIPE_M>",
         shape.m, shape.n, unit * kFractalBytes, (unit + 1) * kFractalBytes);
  }
}

void ReadSums(Core& core, uint32_t begin, uint32_t end, const ProductShape& shape) {
  CheckBarrier(core, begin, end, shape);
  core.Follow(Memory::kL0C, begin, end);
  ForEachResult(begin, shape,
                [&](uint32_t from, uint32_t until) { core.CheckValid(Memory::kL0C, from, until); });
}

// Beyond m and n the fractals of the result are undefined.
void WriteSums(Core& core, uint32_t begin, uint32_t end, const ProductShape& shape) {
  core.Write(Memory::kL0C, begin, end, ByteState::kPoison);
  uint8_t* state = core.Local(Memory::kL0C).state.data();
  ForEachResult(begin, shape, [&](uint32_t from, uint32_t until) {
    std::memset(state + from, static_cast<int>(ByteState::kValid), until - from);
  });
}

void CheckPosition(const LocalRef& ref, Memory memory) {
  if (MemoryOf(ref.position) == memory) return;
  Fail(Rule::kMmadPosition, "an operand in %s, where %s is needed", Name(MemoryOf(ref.position)),
       Name(memory));
}

ProductShape ShapeOf(DType dtype, const Product& product) {
  ProductShape shape{};
  shape.dtype = dtype;
  shape.m = product.m;
  shape.n = product.n;
  shape.k = product.k;
  shape.k_side = kBlockBytes / SizeOf(dtype);
  shape.k_fractals = CeilDivide(product.k, shape.k_side);
  // A that was transposed on its way has its fractals of 8 floats in pairs
  shape.a_pitch = product.align_k && dtype == DType::kFloat ? CeilDivide(product.k, kSide) * 2
                                                            : shape.k_fractals;
  shape.init = product.init || product.bias != nullptr;
  return shape;
}

}  // namespace

void CheckBias(const AscendC::MmadParams& params, bool has_bias) {
  CurrentCore().op = Op::kMmad;
  if (!has_bias && params.cmatrixSource) {
    Fail(Rule::kMmadBias, "cmatrixSource: pass the bias as a tensor");
  }
  if (has_bias && params.cmatrixInitVal) {
    Fail(Rule::kMmadBias, "cmatrixInitVal is true: the product would start from 0");
  }
}

void Multiply(DType dtype, const LocalRef& dst, const LocalRef& a, const LocalRef& b,
              const Product& product) {
  Core& core = CurrentCore();
  core.Begin(Op::kMmad, PIPE_M);
  CheckPosition(dst, Memory::kL0C);
  CheckPosition(a, Memory::kL0A);
  CheckPosition(b, Memory::kL0B);
  if (product.bias != nullptr) CheckPosition(*product.bias, Memory::kBias);
  if (product.m > 4095 || product.n > 4095 || product.k > 4095) {
    Fail(Rule::kParamRange, "m, n and k are 0 to 4095, got %u, %u, %u", product.m, product.n,
         product.k);
  }
  CheckUnitFlag(product.unit_flag);
  const ProductShape shape = ShapeOf(dtype, product);
  const uint32_t m_fractals = CeilDivide(shape.m, kSide);
  const uint32_t n_fractals = CeilDivide(shape.n, kSide);
  ProductCounters work;
  work.calls = 1;
  work.fractals = uint64_t{m_fractals} * n_fractals * shape.k_fractals;
  // a fractal of floats takes two cycles, any other one
  work.cycles = work.fractals * (dtype == DType::kFloat ? 2 : 1);
  work.products = uint64_t{shape.m} * shape.n * shape.k;
  core.CountProduct(dtype, work);
  if (work.products == 0) return;
  const uint32_t left_bytes =
      shape.m == 1 ? shape.k * SizeOf(dtype)
                   : ((m_fractals - 1) * shape.a_pitch + shape.k_fractals) * kFractalBytes;
  const uint32_t left = core.Check(a, 0, left_bytes, kFractalBytes);
  const uint32_t right =
      core.Check(b, 0, shape.k_fractals * n_fractals * kFractalBytes, kFractalBytes);
  const uint32_t result_bytes = m_fractals * n_fractals * kProductBytes;
  const uint32_t result = core.Check(dst, 0, result_bytes, kProductBytes);
  if (product.bias != nullptr) core.Check(*product.bias, 0, shape.n * 4, 64);
  TakeUnits(core, result, result + result_bytes, product.unit_flag);
  if (core.machine.options.counting) return;
  if (core.machine.options.checks) {
    ReadLeft(core, left, shape);
    ReadRight(core, right, shape);
    if (product.bias != nullptr) {
      core.Read(Memory::kBias, product.bias->begin, product.bias->begin + shape.n * 4);
    }
    if (!shape.init) ReadSums(core, result, result + result_bytes, shape);
    WriteSums(core, result, result + result_bytes, shape);
  }
  MultiplyFractals(shape, core.Bytes(a), core.Bytes(b),
                   product.bias != nullptr ? core.Bytes(*product.bias) : nullptr, core.Bytes(dst));
}

// --- Fixpipe -------------------------------------------------------------------------------------

namespace {

enum class Scaling : uint8_t { kNone, kOne, kVector };

Scaling CheckQuant(DType from, DType to, QuantMode_t mode, bool has_scales) {
  struct Entry {
    DType from, to;
    QuantMode_t mode;
    Scaling scaling;
  };
  static constexpr Entry kTable[] = {
      {DType::kFloat, DType::kFloat, QuantMode_t::NoQuant, Scaling::kNone},
      {DType::kFloat, DType::kHalf, QuantMode_t::F322F16, Scaling::kNone},
      {DType::kFloat, DType::kBfloat16, QuantMode_t::F322BF16, Scaling::kNone},
      {DType::kFloat, DType::kInt8, QuantMode_t::QF322B8_PRE, Scaling::kOne},
      {DType::kFloat, DType::kUint8, QuantMode_t::QF322B8_PRE, Scaling::kOne},
      {DType::kFloat, DType::kInt8, QuantMode_t::VQF322B8_PRE, Scaling::kVector},
      {DType::kFloat, DType::kUint8, QuantMode_t::VQF322B8_PRE, Scaling::kVector},
      {DType::kInt32, DType::kInt32, QuantMode_t::NoQuant, Scaling::kNone},
      {DType::kInt32, DType::kHalf, QuantMode_t::DEQF16, Scaling::kOne},
      {DType::kInt32, DType::kHalf, QuantMode_t::VDEQF16, Scaling::kVector},
      {DType::kInt32, DType::kInt8, QuantMode_t::REQ8, Scaling::kOne},
      {DType::kInt32, DType::kUint8, QuantMode_t::REQ8, Scaling::kOne},
      {DType::kInt32, DType::kInt8, QuantMode_t::VREQ8, Scaling::kVector},
      {DType::kInt32, DType::kUint8, QuantMode_t::VREQ8, Scaling::kVector},
  };
  for (const Entry& entry : kTable) {
    if (entry.from != from || entry.to != to || entry.mode != mode) continue;
    if ((entry.scaling == Scaling::kVector) == has_scales) return entry.scaling;
    Fail(Rule::kFixpipeQuant, "quantPre %d from %s to %s %s", static_cast<int>(mode), Name(from),
         Name(to), has_scales ? "takes no tensor of scales" : "needs a tensor of scales");
  }
  Fail(Rule::kFixpipeQuant, "quantPre %d from %s to %s", static_cast<int>(mode), Name(from),
       Name(to));
}

// The documented fields of a scale: a float of 1, 8 and 10 bits, a shift, an offset, a sign.
struct Scale {
  explicit Scale(uint64_t bits)
      : factor(BitsFloat(static_cast<uint32_t>(bits) & 0xffffe000u)),
        shift((bits >> 36 & 1) != 0 ? static_cast<uint32_t>(bits >> 32 & 15) + 1 : 0),
        offset(static_cast<int32_t>(bits >> 37 & 511)),
        is_signed((bits >> 46 & 1) != 0) {
    if (offset > 255) offset -= 512;
  }

  float factor;
  uint32_t shift;
  int32_t offset;
  bool is_signed;
};

float ToFloat(DType from, const uint8_t* at, uint32_t shift) {
  if (from == DType::kFloat) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  int32_t value;
  std::memcpy(&value, at, sizeof value);
  if (shift != 0) value = std::clamp(value >> shift, -32768, 32767);
  return static_cast<float>(value);
}

void ConvertElement(DType from, DType to, Scaling scaling, uint64_t scale_bits, bool relu,
                    const uint8_t* at, uint8_t* out) {
  if (from == DType::kInt32 && to == DType::kInt32) {
    int32_t value;
    std::memcpy(&value, at, sizeof value);
    if (relu) value = std::max(value, 0);
    std::memcpy(out, &value, sizeof value);
    return;
  }
  const Scale scale(scale_bits);
  float value = ToFloat(from, at, scaling == Scaling::kNone ? 0 : scale.shift);
  if (scaling != Scaling::kNone) value *= scale.factor;
  if (relu && value < 0) value = 0;
  switch (to) {
    case DType::kFloat:
      std::memcpy(out, &value, sizeof value);
      return;
    case DType::kHalf: {
      const uint16_t bits = FloatToHalf(value);
      std::memcpy(out, &bits, sizeof bits);
      return;
    }
    case DType::kBfloat16: {
      const uint16_t bits = FloatToBfloat16(value);
      std::memcpy(out, &bits, sizeof bits);
      return;
    }
    default: {
      const float low = scale.is_signed ? -128.0f : 0.0f;
      const float high = scale.is_signed ? 127.0f : 255.0f;
      const float rounded = std::nearbyint(value) + static_cast<float>(scale.offset);
      const float bounded = std::isnan(rounded) ? 0.0f : std::clamp(rounded, low, high);
      *out = static_cast<uint8_t>(static_cast<int>(bounded));
    }
  }
}

void CheckShape(DType from, DType to, const Export& shape) {
  if (shape.n > 4095 || (shape.row_major && shape.m > 8192)) {
    Fail(Rule::kParamRange, "nSize is 0 to 4095 and mSize 0 to 8192 (NZ: 65535), got %u and %u",
         shape.n, shape.m);
  }
  if (shape.source_matrix > 512) {
    Fail(Rule::kParamRange, "srcNdStride is 0 to 512, got %u", shape.source_matrix);
  }
  if (shape.split &&
      (from != DType::kFloat || to != DType::kFloat || shape.row_major || shape.unit_flag != 0)) {
    Fail(Rule::kFixpipeSplit, "isChannelSplit from %s to %s, %s, unitFlag %u", Name(from), Name(to),
         shape.row_major ? "ND" : "NZ", shape.unit_flag);
  }
  if (shape.n % (shape.split ? 8 : kSide) != 0) {
    Fail(Rule::kFixpipeSize, "nSize is a multiple of %u, got %u", shape.split ? 8 : kSide, shape.n);
  }
  if (shape.destination_stride == 0) Fail(Rule::kFixpipeStride, "dstStride is 0");
}

void CheckOrientation(const Core& core, const Export& shape) {
  const auto wanted =
      shape.row_major ? Core::ProductOrder::kRowMajor : Core::ProductOrder::kColumnMajor;
  if (shape.unit_flag == 0 || core.product_order == wanted) return;
  Fail(Rule::kUnitFlagOrientation, "unitFlag %u and %s: call SetMM%sMajor()", shape.unit_flag,
       shape.row_major ? "ND" : "NZ", shape.row_major ? "Row" : "Column");
}

// How the result lies in global memory: columns of `width` elements, each with its rows below
// each other; of ND one column for each matrix.
struct Columns {
  uint32_t width;
  uint64_t column_pitch, row_pitch;  // bytes
};

Columns Arrange(DType to, const Export& shape) {
  const uint32_t bytes = SizeOf(to);
  if (shape.row_major) {
    return {shape.n, 0, shape.destination_stride * bytes};
  }
  const uint32_t width = shape.split ? 8 : bytes == 1 ? 32 : kSide;
  return {width, shape.destination_stride * kBlockBytes, width * bytes};
}

void CheckApart(DType to, const Export& shape, const Columns& columns) {
  const uint64_t bytes = SizeOf(to);
  const uint64_t row = std::min(columns.width, shape.n) * bytes;
  bool apart = shape.m == 1 || columns.row_pitch >= row;
  const uint64_t height = (shape.m - 1) * columns.row_pitch + row;
  if (shape.row_major) {
    const uint64_t pitch = shape.destination_matrix * bytes;
    apart = apart && (shape.matrices == 1 || pitch >= height ||
                      (pitch >= row && shape.matrices * pitch <= columns.row_pitch));
  } else {
    apart = apart && (shape.n <= columns.width || columns.column_pitch >= height);
  }
  if (!apart) {
    Fail(Rule::kFixpipeOverlap, "%u x %u, dstStride %llu, %u matrices %u apart", shape.m, shape.n,
         static_cast<unsigned long long>(shape.destination_stride), shape.matrices,
         shape.destination_matrix);
  }
}

// Bytes from the start of the destination to its end.
uint64_t Reach(DType to, const Export& shape, const Columns& columns) {
  const uint64_t bytes = SizeOf(to);
  const uint32_t last = (shape.n - 1) / columns.width;
  const uint64_t width = (shape.n - last * columns.width) * bytes;
  const uint64_t row_pitch = shape.row_major ? columns.row_pitch : width;
  return (shape.matrices - 1) * shape.destination_matrix * bytes + last * columns.column_pitch +
         (shape.m - 1) * row_pitch + width;
}

// One scale for each column.
std::vector<uint64_t> ReadScales(Core& core, const LocalRef* scales, const Export& shape) {
  std::vector<uint64_t> values(shape.n, shape.scale);
  if (scales == nullptr) return values;
  if (MemoryOf(scales->position) != Memory::kL1) {
    Fail(Rule::kCopyPath, "scales of Fixpipe in %s", Name(MemoryOf(scales->position)));
  }
  const auto bytes = static_cast<uint32_t>(values.size() * sizeof(uint64_t));
  const uint32_t at = core.Check(*scales, 0, bytes, kBlockBytes);
  if (core.machine.options.counting) return values;
  core.Read(Memory::kL1, at, at + bytes);
  std::memcpy(values.data(), core.Bytes(*scales), bytes);
  return values;
}

// Byte of L0C, from the start of the source, where 16 columns of a matrix start: all the rows of
// them lie below each other.
uint64_t ResultsAt(const Export& shape, uint32_t matrix, uint32_t column) {
  return uint64_t{matrix} * shape.source_matrix * kProductBytes +
         uint64_t{column / kSide} * shape.source_stride * kRowBytes;
}

void ReadResults(Core& core, const LocalRef& src, const Export& shape) {
  for (uint32_t matrix = 0; matrix < shape.matrices; ++matrix) {
    for (uint32_t column = 0; column < shape.n; column += kSide) {
      const uint32_t height = shape.m * kRowBytes;
      const uint32_t begin = core.Check(src, ResultsAt(shape, matrix, column), height, 1);
      const uint32_t width = std::min(kSide, shape.n - column) * 4;
      // the flags of a fractal go together
      TakeUnits(core, begin, CeilDivide(begin + height, kProductBytes) * kProductBytes,
                shape.unit_flag);
      if (core.machine.options.counting) continue;
      core.Follow(Memory::kL0C, begin, begin + height);
      if (width == kRowBytes) {
        core.CheckValid(Memory::kL0C, begin, begin + height);
        continue;
      }
      for (uint32_t row = begin; row < begin + height; row += kRowBytes) {
        core.CheckValid(Memory::kL0C, row, row + width);
      }
    }
  }
}

}  // namespace

void MoveOut(DType from, DType to, const GlobalRef& dst, const LocalRef& src,
             const LocalRef* scales, const Export& args) {
  Core& core = CurrentCore();
  core.Begin(Op::kFixpipe, PIPE_FIX);
  if (MemoryOf(src.position) != Memory::kL0C) {
    Fail(Rule::kCopyPath, "Fixpipe from %s", Name(MemoryOf(src.position)));
  }
  Export shape = args;
  if (!shape.row_major) shape.matrices = std::min(shape.matrices, 1u);
  CheckUnitFlag(shape.unit_flag);
  const uint32_t bytes = SizeOf(to);
  const uint64_t elements = uint64_t{shape.m} * shape.n * shape.matrices;
  const Columns columns = Arrange(to, shape);
  const uint64_t rows =
      shape.row_major ? uint64_t{shape.m} * shape.matrices : CeilDivide(shape.n, columns.width);
  core.CountPath(Path::kL0CToGm, rows, rows == 0 ? 0 : elements / rows * bytes);
  core.CountGlobal(dst, elements * bytes, true);
  core.TimeMove(dst, rows, rows == 0 ? 0 : elements / rows * bytes,
                shape.row_major ? columns.row_pitch : columns.column_pitch);
  if (elements == 0) return;
  CheckShape(from, to, shape);
  const Scaling scaling = CheckQuant(from, to, shape.quant, scales != nullptr);
  CheckApart(to, shape, columns);
  CheckOrientation(core, shape);
  core.Check(src, 0, 0, kRowBytes);
  core.CheckGlobal(dst, 0, Reach(to, shape, columns), shape.row_major ? 1 : kBlockBytes);
  const std::vector<uint64_t> scale = ReadScales(core, scales, shape);
  ReadResults(core, src, shape);
  if (core.machine.options.counting) {
    if (!core.IsBulk(dst)) core.FailVirtual();
    return;
  }
  const uint8_t* results = core.Bytes(src);
  std::vector<uint8_t> line(std::min(columns.width, shape.n) * bytes);
  for (uint32_t matrix = 0; matrix < shape.matrices; ++matrix) {
    for (uint32_t first = 0; first < shape.n; first += columns.width) {
      const uint32_t width = std::min(columns.width, shape.n - first);
      // the last 16 of an odd number of 8-bit columns lie without a gap
      const uint64_t row_pitch = shape.row_major ? columns.row_pitch : width * bytes;
      for (uint32_t row = 0; row < shape.m; ++row) {
        for (uint32_t i = 0; i < width; ++i) {
          const uint32_t column = first + i;
          const uint8_t* result =
              results + ResultsAt(shape, matrix, column) + row * kRowBytes + column % kSide * 4;
          ConvertElement(from, to, scaling, scale[column], shape.relu, result,
                         line.data() + i * bytes);
        }
        const uint64_t at = uint64_t{matrix} * shape.destination_matrix * bytes +
                            first / columns.width * columns.column_pitch + row * row_pitch;
        core.WriteGlobal(dst, at, width * bytes, core.atomic);
        Deliver(core, dst.address + at, line.data(), width * bytes);
      }
    }
  }
}

}  // namespace emulator
