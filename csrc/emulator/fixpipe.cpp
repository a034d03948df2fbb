// Fixpipe: results of L0C to global memory, converted and laid out.
#include <algorithm>
#include <cmath>

#include "core.h"

namespace emulator {

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
    case DType::kHalf:
    case DType::kBfloat16: {
      const uint16_t bits = to == DType::kHalf ? FloatToHalf(value) : FloatToBfloat16(value);
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
  CheckRange("nSize", shape.n, 0, 4095);
  CheckRange("mSize", shape.m, 0, shape.row_major ? 8192 : 65535);
  CheckRange("srcNdStride", shape.source_matrix, 0, 512);
  if (shape.split &&
      (from != DType::kFloat || to != DType::kFloat || shape.row_major || shape.unit_flag != 0)) {
    Report(Rule::kFixpipeSplit, "isChannelSplit from %s to %s, %s, unitFlag %u", Name(from),
           Name(to), shape.row_major ? "ND" : "NZ", shape.unit_flag);
  }
  if (shape.n % (shape.split ? 8 : kSide) != 0) {
    Report(Rule::kFixpipeSize, "nSize is a multiple of %u, got %u", shape.split ? 8 : kSide,
           shape.n);
  }
  if (shape.destination_stride == 0) Report(Rule::kFixpipeStride, "dstStride is 0");
}

void CheckOrientation(const Core& core, const Export& shape) {
  const auto wanted = shape.row_major ? ProductOrder::kRowMajor : ProductOrder::kColumnMajor;
  if (shape.unit_flag == 0 || core.registers.product_order == wanted) return;
  Report(Rule::kUnitFlagOrientation, "unitFlag %u and %s: call SetMM%sMajor()", shape.unit_flag,
         shape.row_major ? "ND" : "NZ", shape.row_major ? "Row" : "Column");
}

// How the result lies in global memory: in columns of `width` elements, whose rows lie below each
// other. An ND matrix is one column.
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
    Report(Rule::kFixpipeOverlap, "%u x %u, dstStride %llu, %u matrices %u apart", shape.m, shape.n,
           Number(shape.destination_stride), shape.matrices, shape.destination_matrix);
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

// Where 16 columns of a matrix start in L0C, in bytes from the source: all their rows follow.
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
  core.Move(Path::kL0CToGm, dst,
            {rows, rows == 0 ? 0 : elements / rows * bytes,
             shape.row_major ? columns.row_pitch : columns.column_pitch, false, elements * bytes});
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
        core.WriteGlobal(dst, at, width * bytes, core.registers.atomic.has_value());
        Deliver(core, dst.address + at, line.data(), width * bytes);
      }
    }
  }
}

}  // namespace emulator
