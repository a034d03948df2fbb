// The ways out of L0C: results to global memory or to L1, converted and laid out.
#include <algorithm>

#include "core.h"
#include "figures.h"
#include "quant.h"

namespace emulator {

namespace {

void CheckShape(DType from, DType to, const Export& shape) {
  CheckRange(limits::FixpipeParamsV220::nSize, shape.n);
  CheckRange(shape.row_major ? limits::FixpipeToRows::mSize : limits::FixpipeParamsV220::mSize,
             shape.m);
  CheckRange(limits::FixpipeParamsV220::srcNdStride, shape.source_matrix);
  if (shape.split &&
      (from != DType::kFloat || to != DType::kFloat || shape.row_major || shape.unit_flag != 0)) {
    Report(Rule::kFixpipeSplit, "isChannelSplit from %s to %s, %s, unitFlag %u", Name(from),
           Name(to), shape.row_major ? "ND" : "NZ", shape.unit_flag);
  }
  if (shape.n % (shape.split ? 8 : kSide) != 0) {
    Report(Rule::kFixpipeSize, "nSize is a multiple of %u, got %u", shape.split ? 8 : kSide,
           shape.n);
  }
  if (shape.destination_stride == 0) Report(Rule::kFixpipeStride, "dstStride is 1 or more, got 0");
}

// Results go out as they come where rows of them are put together.
void CheckOrientation(const Core& core, DType to, const Export& shape) {
  const bool rows = shape.row_major || SizeOf(to) == 1;
  const auto wanted = rows ? ProductOrder::kRowMajor : ProductOrder::kColumnMajor;
  if (shape.unit_flag == 0 || core.registers.cube.product_order == wanted) return;
  Report(Rule::kUnitFlagOrientation, "unitFlag %u and %s of %s: call SetMM%sMajor()",
         shape.unit_flag, shape.row_major ? "ND" : "NZ", Name(to), rows ? "Row" : "Column");
}

// How the result lies outside: in columns of `width` elements, whose rows lie below each
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

// One scale for each column, from L1 or FB.
std::vector<uint64_t> ReadScales(Core& core, Memory memory, const LocalRef* scales,
                                 const Export& shape) {
  std::vector<uint64_t> values(shape.n, shape.scale);
  if (scales == nullptr) return values;
  if (MemoryOf(scales->position) != memory) {
    Fail(Rule::kCopyPath, "scales in %s, not in %s", Name(MemoryOf(scales->position)),
         Name(memory));
  }
  const auto bytes = static_cast<uint32_t>(values.size() * sizeof(uint64_t));
  const uint32_t at = core.Check(*scales, 0, bytes, kBlockBytes);
  if (core.machine.options.counting) return values;
  core.Read(memory, at, at + bytes);
  std::memcpy(values.data(), core.Bytes(*scales), bytes);
  return values;
}

void CheckScales(const std::vector<uint64_t>& scales) {
  for (size_t column = 0; column < scales.size(); ++column) {
    const uint32_t magnitude = static_cast<uint32_t>(scales[column]) & 0x7fffffffu;
    if (magnitude == 0 || (magnitude >= 0x00800000u && magnitude < 0x7f800000u)) continue;
    Report(Rule::kFixpipeScale, "the scale of column %zu is %g", column,
           static_cast<double>(BitsFloat(static_cast<uint32_t>(scales[column]))));
  }
}

// Where 16 columns of a matrix start in L0C, in bytes from the source: all their rows follow.
uint64_t ResultsAt(const Export& shape, uint32_t matrix, uint32_t column) {
  return uint64_t{matrix} * shape.source_matrix * kProductBytes +
         uint64_t{column / kSide} * shape.source_stride * kRowBytes;
}

// Whether all of them are defined; `carries`: else they go out undefined; `tells`: and are
// reported.
bool ReadResults(Core& core, const LocalRef& src, const Export& shape, bool carries, bool tells) {
  bool whole = true;
  const auto check = [&](uint32_t begin, uint32_t end) {
    if (!carries) return core.CheckValid(Memory::kL0C, begin, end);
    const uint32_t invalid = core.FirstInvalid(Memory::kL0C, begin, end);
    if (tells && whole && invalid != end) {
      Report(Rule::kGmUndefined, "moves out L0C byte %u, which no product has defined", invalid);
    }
    whole = whole && invalid == end;
  };
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
        check(begin, begin + height);
        continue;
      }
      for (uint32_t row = begin; row < begin + height; row += kRowBytes) {
        check(row, row + width);
      }
    }
  }
  return whole;
}

// Where results go: what differs between global memory and L1.
class ToGlobal {
 public:
  ToGlobal(Core& core, const GlobalRef& dst) : core_(core), dst_(dst) {}
  static constexpr bool kToL1 = false;

  void Move(const Traffic& traffic, uint64_t) { core_.Move(Path::kL0CToGm, dst_, traffic); }
  void Check(uint64_t reach, bool row_major) {
    core_.CheckGlobal(dst_, 0, reach, row_major ? 1 : kBlockBytes);
  }
  // what is not bulk would have to be computed
  void CheckCounting() const {
    if (!core_.IsBulk(dst_)) core_.FailVirtual();
  }
  bool Carries() const { return !core_.registers.atomic; }
  void Write(uint64_t at, const uint8_t* line, uint32_t bytes, const uint8_t* states) {
    core_.WriteGlobal(dst_, at, bytes, core_.registers.atomic.has_value());
    Deliver(core_, dst_.address + at, line, bytes);
    if (states != nullptr) core_.CarryOut(dst_, at, states, bytes);
  }

 private:
  Core& core_;
  const GlobalRef& dst_;
};

class ToL1 {
 public:
  ToL1(Core& core, const LocalRef& dst) : core_(core), dst_(dst) {
    if (MemoryOf(dst.position) != Memory::kL1) {
      Fail(Rule::kCopyPath, "from L0C into %s", Name(MemoryOf(dst.position)));
    }
  }
  static constexpr bool kToL1 = true;

  void Move(const Traffic& traffic, uint64_t elements) {
    core_.Move(Path::kL0CToL1, traffic.rows, traffic.row_bytes,
               static_cast<double>(elements) / kFixpipeResults);
  }
  void Check(uint64_t reach, bool) { core_.Check(dst_, 0, reach, kBlockBytes); }
  void CheckCounting() const {}
  bool Carries() const { return true; }
  void Write(uint64_t at, const uint8_t* line, uint32_t bytes, const uint8_t* states) {
    const auto begin = static_cast<uint32_t>(dst_.begin + at);
    core_.Write(Memory::kL1, begin, begin + bytes);
    std::memcpy(core_.Bytes(dst_) + at, line, bytes);
    if (states == nullptr) return;
    std::memcpy(core_.Local(Memory::kL1).state.data() + begin, states, bytes);
  }

 private:
  Core& core_;
  const LocalRef& dst_;
};

// Lays all results out, a line of a column at a time. `whole`: all are defined.
template <typename Sink>
void Convert(Core& core, Sink& sink, DType from, DType to, const LocalRef& src,
             const std::vector<uint64_t>& scale, const Columns& columns, const Export& shape,
             bool whole) {
  const uint32_t bytes = SizeOf(to);
  const Scaling scaling = ScalingOf(from, to, shape.quant);
  const uint8_t* results = core.Bytes(src);
  std::vector<uint8_t> line(std::min(columns.width, shape.n) * bytes);
  const uint8_t* known = core.Local(Memory::kL0C).state.data() + (whole ? 0 : src.begin);
  std::vector<uint8_t> states(whole ? 0 : line.size());
  for (uint32_t matrix = 0; matrix < shape.matrices; ++matrix) {
    for (uint32_t first = 0; first < shape.n; first += columns.width) {
      const uint32_t width = std::min(columns.width, shape.n - first);
      // the last 16 of an odd number of 8-bit columns lie without a gap
      const uint64_t row_pitch = shape.row_major ? columns.row_pitch : width * bytes;
      for (uint32_t row = 0; row < shape.m; ++row) {
        for (uint32_t i = 0; i < width; ++i) {
          const uint32_t column = first + i;
          const uint64_t result =
              ResultsAt(shape, matrix, column) + row * kRowBytes + column % kSide * 4;
          ConvertElement(from, to, scaling, scale[column], shape.relu, results + result,
                         line.data() + i * bytes);
          if (!whole) std::memset(states.data() + i * bytes, known[result], bytes);
        }
        const uint64_t at = uint64_t{matrix} * shape.destination_matrix * bytes +
                            first / columns.width * columns.column_pitch + row * row_pitch;
        sink.Write(at, line.data(), width * bytes, whole ? nullptr : states.data());
      }
    }
  }
}

// `scales_in`: the memory that scales come from
template <typename Sink>
void MoveTo(Core& core, Sink sink, DType from, DType to, const LocalRef& src, Memory scales_in,
            const LocalRef* scales, Export shape) {
  if (MemoryOf(src.position) != Memory::kL0C) {
    Fail(Rule::kCopyPath, "Fixpipe from %s", Name(MemoryOf(src.position)));
  }
  if (Sink::kToL1) shape.row_major = shape.split = false;
  if (!shape.row_major) shape.matrices = std::min(shape.matrices, 1u);
  CheckUnitFlag(shape.unit_flag);
  const uint32_t bytes = SizeOf(to);
  const uint64_t elements = uint64_t{shape.m} * shape.n * shape.matrices;
  const Columns columns = Arrange(to, shape);
  const uint64_t rows =
      shape.row_major ? uint64_t{shape.m} * shape.matrices : CeilDivide(shape.n, columns.width);
  sink.Move({rows, rows == 0 ? 0 : elements / rows * bytes,
             shape.row_major ? columns.row_pitch : columns.column_pitch, false, elements * bytes},
            elements);
  if (elements == 0) return;
  CheckShape(from, to, shape);
  CheckApart(to, shape, columns);
  CheckOrientation(core, to, shape);
  core.Check(src, 0, 0, kRowBytes);
  sink.Check(Reach(to, shape, columns), shape.row_major);
  const std::vector<uint64_t> scale = ReadScales(core, scales_in, scales, shape);
  if (ScalingOf(from, to, shape.quant) != Scaling::kNone) CheckScales(scale);
  const bool whole = ReadResults(core, src, shape, sink.Carries(), !Sink::kToL1);
  if (core.machine.options.counting) return sink.CheckCounting();
  Convert(core, sink, from, to, src, scale, columns, shape, whole);
}

// Fixpipe brings its scales along, in L1.
template <typename Sink>
void MoveWith(Core& core, Sink sink, DType from, DType to, const LocalRef& src,
              const LocalRef* scales, const Export& shape) {
  const bool by_vector = ScalingOf(from, to, shape.quant) == Scaling::kVector;
  if (by_vector != (scales != nullptr)) {
    Fail(Rule::kFixpipeQuant, "quantPre %d from %s to %s %s", static_cast<int>(shape.quant),
         Name(from), Name(to),
         by_vector ? "needs a tensor of scales" : "takes no tensor of scales");
  }
  MoveTo(core, sink, from, to, src, Memory::kL1, scales, shape);
}

// DataCopy takes scales and matrices that were set.
template <typename Sink>
void MoveAsSet(Core& core, Sink sink, DType from, DType to, const LocalRef& src, Export shape) {
  const CubeRegisters& registers = core.registers.cube;
  const Scaling scaling = ScalingOf(from, to, shape.quant);
  if (scaling == Scaling::kOne && !registers.scale) {
    Fail(Rule::kFixpipeNotSet, "call SetFixpipePreQuantFlag() first");
  }
  if (scaling == Scaling::kVector && !registers.scales) {
    Fail(Rule::kFixpipeNotSet, "call SetFixPipeConfig() first");
  }
  shape.scale = registers.scale.value_or(0);
  if (shape.row_major && !Sink::kToL1) {
    if (!registers.matrices) Fail(Rule::kFixpipeNotSet, "call SetFixpipeNz2ndFlag() first");
    const auto& [matrices, source, destination] = *registers.matrices;
    shape.matrices = matrices;
    shape.source_matrix = source;
    shape.destination_matrix = destination;
  }
  MoveTo(core, sink, from, to, src, Memory::kFixpipe,
         scaling == Scaling::kVector ? &*registers.scales : nullptr, shape);
}

}  // namespace

void MoveOut(DType from, DType to, const GlobalRef& dst, const LocalRef& src,
             const LocalRef* scales, const Export& shape) {
  Core& core = Begin(Op::kFixpipe, PIPE_FIX);
  MoveWith(core, ToGlobal(core, dst), from, to, src, scales, shape);
}

void MoveOut(DType from, DType to, const LocalRef& dst, const LocalRef& src, const LocalRef* scales,
             const Export& shape) {
  Core& core = Begin(Op::kFixpipe, PIPE_FIX);
  MoveWith(core, ToL1(core, dst), from, to, src, scales, shape);
}

void MoveOutAsSet(DType from, DType to, const GlobalRef& dst, const LocalRef& src,
                  const Export& shape) {
  Core& core = Begin(Op::kDataCopy, PIPE_FIX);
  MoveAsSet(core, ToGlobal(core, dst), from, to, src, shape);
}

void MoveOutAsSet(DType from, DType to, const LocalRef& dst, const LocalRef& src,
                  const Export& shape) {
  Core& core = Begin(Op::kDataCopy, PIPE_FIX);
  MoveAsSet(core, ToL1(core, dst), from, to, src, shape);
}

}  // namespace emulator
