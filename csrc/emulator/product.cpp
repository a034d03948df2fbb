// Mmad: its limits, what it reads and writes, and which products of it are defined.
#include <algorithm>

#include "core.h"
#include "mmad.h"
#include "params.h"

namespace emulator {

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

// An int4 has half a byte.
uint32_t RowBytes(DType dtype, uint32_t elements) {
  return static_cast<uint32_t>(BytesOf(dtype, elements + (dtype == DType::kInt4 ? 1 : 0)));
}

// One row of A lies as it is, but for a sparse B.
bool IsRow(const ProductShape& shape) { return shape.m == 1 && shape.index == nullptr; }

void ReadLeft(Core& core, uint32_t begin, const ProductShape& shape) {
  if (IsRow(shape)) {  // one row, as it lies
    core.Read(Memory::kL0A, begin, begin + RowBytes(shape.dtype, shape.k));
    return;
  }
  const uint32_t last = RowBytes(shape.dtype, shape.k - (shape.k_fractals - 1) * shape.k_side);
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
  const uint32_t columns = CeilDivide(shape.n, kSide);
  const uint32_t last = shape.n - (columns - 1) * kSide;
  const uint32_t depth = shape.index != nullptr ? shape.k / 2 : shape.k;
  for (uint32_t k = 0; k < depth; k += shape.k_side) {
    const uint32_t at = begin + k / shape.k_side * columns * kFractalBytes;
    const uint32_t row_bytes = RowBytes(shape.dtype, std::min(shape.k_side, depth - k));
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
    if (core.clocks().PassedBarrier(PIPE_M, record.written)) continue;
    Report(
        Rule::kMmadBarrier,
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

// A column whose bias is undefined is undefined, which is no error unless somebody uses it.
void CarryBias(Core& core, uint32_t bias, uint32_t begin, const ProductShape& shape) {
  const uint8_t* known = core.Local(Memory::kBias).state.data() + bias;
  uint8_t* state = core.Local(Memory::kL0C).state.data();
  const uint32_t height = CeilDivide(shape.m, kSide) * kProductBytes;
  for (uint32_t column = 0; column < shape.n; ++column) {
    const uint8_t of_column = known[column * 4];
    if (of_column == static_cast<uint8_t>(ByteState::kValid)) continue;
    uint8_t* at = state + begin + column / kSide * height + column % kSide * 4;
    for (uint32_t row = 0; row < shape.m; ++row) std::memset(at + row * kRowBytes, of_column, 4);
  }
}

void CheckPosition(const LocalRef& ref, Memory memory) {
  if (MemoryOf(ref.position) == memory) return;
  Fail(Rule::kMmadPosition, "an operand in %s, where %s is needed", Name(MemoryOf(ref.position)),
       Name(memory));
}

ProductShape ShapeOf(const CubeRegisters& registers, DType dtype, const Product& product) {
  ProductShape shape{};
  shape.dtype = dtype;
  if (dtype == DType::kFloat && registers.half_float) {
    shape.half_float = registers.half_float_to_zero ? HalfFloat::kToZero : HalfFloat::kToEven;
  }
  shape.m = product.m;
  shape.n = product.n;
  shape.k = product.k;
  shape.k_side = static_cast<uint32_t>(ElementsIn(dtype, kBlockBytes));
  shape.k_fractals = CeilDivide(product.k, shape.k_side);
  // transposed loads leave the fractals of A, 8 floats wide, in pairs
  shape.a_pitch = product.align_k && dtype == DType::kFloat ? CeilDivide(product.k, kSide) * 2
                                                            : shape.k_fractals;
  shape.init = product.init || product.bias != nullptr;
  return shape;
}

// All that a product does but for its operands' kinds.
void Run(Core& core, const LocalRef& dst, const LocalRef& a, const LocalRef& b,
         const Product& product, const ProductShape& shape) {
  CheckPosition(dst, Memory::kL0C);
  CheckPosition(a, Memory::kL0A);
  CheckPosition(b, Memory::kL0B);
  if (product.bias != nullptr) CheckPosition(*product.bias, Memory::kBias);
  CheckRange(limits::MmadParams::m, product.m);
  CheckRange(limits::MmadParams::n, product.n);
  CheckRange(limits::MmadParams::k, product.k);
  CheckUnitFlag(product.unit_flag);
  const uint32_t m_fractals = CeilDivide(shape.m, kSide);
  const uint32_t n_fractals = CeilDivide(shape.n, kSide);
  ProductCounters work;
  work.calls = 1;
  work.fractals = uint64_t{m_fractals} * n_fractals * shape.k_fractals;
  // a fractal of floats takes two cycles, any other one
  const bool slow = shape.dtype == DType::kFloat && shape.half_float == HalfFloat::kOff;
  work.cycles = work.fractals * (slow ? 2 : 1);
  work.products = uint64_t{shape.m} * shape.n * shape.k;
  core.Multiply(shape.dtype, work);
  if (work.products == 0) return;
  const uint64_t left_bytes =
      IsRow(shape) ? RowBytes(shape.dtype, shape.k)
                   : (uint64_t{m_fractals - 1} * shape.a_pitch + shape.k_fractals) * kFractalBytes;
  const uint32_t left = core.Check(a, 0, left_bytes, kFractalBytes);
  const uint32_t right_fractals =
      shape.index != nullptr ? CeilDivide(shape.k / 2, shape.k_side) : shape.k_fractals;
  const uint32_t right =
      core.Check(b, 0, uint64_t{right_fractals} * n_fractals * kFractalBytes, kFractalBytes);
  const uint64_t result_bytes = uint64_t{m_fractals} * n_fractals * kProductBytes;
  const uint32_t result = core.Check(dst, 0, result_bytes, kProductBytes);
  const auto result_end = static_cast<uint32_t>(result + result_bytes);
  if (product.bias != nullptr) core.Check(*product.bias, 0, shape.n * 4, 64);
  TakeUnits(core, result, result_end, product.unit_flag);
  if (core.machine.options.counting) return;
  if (core.machine.options.checks) {
    ReadLeft(core, left, shape);
    ReadRight(core, right, shape);
    if (product.bias != nullptr) {
      core.Follow(Memory::kBias, product.bias->begin, product.bias->begin + shape.n * 4);
    }
    if (!shape.init) ReadSums(core, result, result_end, shape);
    WriteSums(core, result, result_end, shape);
    if (product.bias != nullptr) CarryBias(core, product.bias->begin, result, shape);
  }
  MultiplyFractals(shape, core.Bytes(a), core.Bytes(b),
                   product.bias != nullptr ? core.Bytes(*product.bias) : nullptr, core.Bytes(dst));
}

// A bias without a tensor starts where BT does.
void RunFromTable(Core& core, const LocalRef& dst, const LocalRef& a, const LocalRef& b,
                  const Product& product, ProductShape shape) {
  Product with = product;
  const LocalRef table{TPosition::C2, 0, MemoryBytes(Memory::kBias), 0, 0};
  if (product.from_table) {
    with.bias = &table;
    shape.init = true;
  }
  Run(core, dst, a, b, with, shape);
}

}  // namespace

void CheckBias(const AscendC::MmadParams& params) {
  Enter(Op::kMmad);
  if (params.cmatrixInitVal) {
    Fail(Rule::kMmadBias, "cmatrixInitVal is true: the product would start from 0");
  }
}

void Multiply(DType dtype, const LocalRef& dst, const LocalRef& a, const LocalRef& b,
              const Product& product) {
  Core& core = Begin(Op::kMmad, PIPE_M);
  RunFromTable(core, dst, a, b, product, ShapeOf(core.registers.cube, dtype, product));
}

void LoadSparse(const LocalRef& dst, const LocalRef& src, const LocalRef& index, uint32_t start,
                uint32_t repeat) {
  Core& core = Begin(Op::kLoadDataWithSparse, PIPE_MTE1);
  for (const LocalRef* ref : {&src, &index}) {
    if (MemoryOf(ref->position) == Memory::kL1) continue;
    Fail(Rule::kCopyPath, "a load from %s", Name(MemoryOf(ref->position)));
  }
  if (MemoryOf(dst.position) != Memory::kL0B) {
    Fail(Rule::kCopyPath, "a sparse load into %s", Name(MemoryOf(dst.position)));
  }
  core.Move(Path::kL1ToL0B, repeat, kFractalBytes);
  if (repeat == 0) return;
  constexpr uint32_t kIndexBytes = kFractalBytes / 4;
  const uint32_t bytes = repeat * kFractalBytes;
  const uint32_t to = core.Check(dst, 0, bytes, kFractalBytes);
  core.Check(src, 0, 0, kBlockBytes);
  core.Check(index, 0, 0, kBlockBytes);
  const uint32_t from = core.Check(src, uint64_t{start} * kFractalBytes, bytes, 1);
  const uint32_t index_from =
      core.Check(index, uint64_t{start} * kIndexBytes, repeat * kIndexBytes, 1);
  if (core.machine.options.counting) return;
  core.Read(Memory::kL1, index_from, index_from + repeat * kIndexBytes);
  core.Carry(Memory::kL1, from, Memory::kL0B, to, bytes);
  core.sparse_index.resize(MemoryBytes(Memory::kL0B) / 4);
  std::memcpy(core.sparse_index.data() + to / 4, core.Local(Memory::kL1).bytes.data() + index_from,
              repeat * kIndexBytes);
}

void MultiplySparse(const LocalRef& dst, const LocalRef& a, const LocalRef& b,
                    const Product& product) {
  Core& core = Begin(Op::kMmadWithSparse, PIPE_M);
  CheckRange(limits::MmadWithSparse::kDirectionAlign, product.align_k);
  if (core.sparse_index.empty()) {
    Fail(Rule::kMmadIndex, "call LoadDataWithSparse() first");
  }
  ProductShape shape = ShapeOf(core.registers.cube, DType::kInt8, product);
  shape.index = core.sparse_index.data() + b.begin / 4;
  RunFromTable(core, dst, a, b, product, shape);
}

}  // namespace emulator
