// LoadData of windows: an image in L1 becomes the matrix of its windows, of which a part is loaded.
//
// The matrix has a row for each place of the filter and a column for each value under it: channels
// in groups of C0 (32 bytes), in a group the points of the filter, at a point the group's channels.
// An image of one row under a filter of one point is such a matrix itself, so this is the way to
// load fractals in two directions at once.
#include <algorithm>

#include "core.h"

namespace emulator {

namespace {

// The bytes of a fractal, and their states.
struct Fractal {
  std::array<uint8_t, kFractalBytes> bytes;
  std::array<uint8_t, kFractalBytes> states;
};

// A run of source bytes in L1 that have been taken, to be told at once.
class TakenBytes {
 public:
  explicit TakenBytes(Core& core) : core_(core) {}

  void Add(uint32_t begin, uint32_t bytes) {
    if (begin != end_) {
      Tell();
      begin_ = begin;
    }
    end_ = begin + bytes;
  }
  void Tell() const { core_.Follow(Memory::kL1, begin_, end_); }

 private:
  Core& core_;
  uint32_t begin_ = 0, end_ = 0;
};

class Loader {
 public:
  Loader(Core& core, DType dtype, const LocalRef& dst, const LocalRef& src, const Windows& windows,
         const Image& image);

  // Cycles by the documented table.
  double Cycles() const;
  uint32_t Fractals() const { return row_fractals_ * column_fractals_; }
  void Check() const;
  void Load();

 private:
  // Rows and columns of the part, all repeats as one, to those of the whole matrix.
  uint32_t RowAt(uint32_t row) const {
    const uint32_t step = registers_.repeat_mode == 0 ? registers_.repeat_stride * kSide : 0;
    return windows_.first_row + row / windows_.rows * step + row % windows_.rows;
  }
  uint32_t ColumnAt(uint32_t column) const {
    const uint32_t step = registers_.repeat_mode == 1 ? registers_.repeat_stride * c0_ : 0;
    return windows_.first_column + column / windows_.columns * step + column % windows_.columns;
  }
  int64_t OutRow(uint32_t row) const {
    return int64_t{RowAt(row)} / std::max(out_width_, int64_t{1});
  }
  void Gather(uint32_t row_fractal, uint32_t column_fractal, Fractal& to);
  void GatherRow(uint32_t row, uint32_t column, uint8_t* bytes, uint8_t* states, TakenBytes& taken);
  void Put(uint64_t fractal, const Fractal& from, uint32_t rows = kSide);
  void PutSquare(uint32_t row_fractal, uint32_t column_fractal, const Fractal& left,
                 const Fractal& right);

  Core& core_;
  const DType dtype_;
  const LocalRef& dst_;
  const LocalRef& src_;
  const Windows& windows_;
  const Image& image_;
  const CubeRegisters& registers_;
  const Memory to_;
  const bool transpose_;
  const uint32_t c0_;  // elements of 32 bytes
  const uint32_t points_;
  int64_t out_width_ = 0, places_ = 0;
  uint32_t rows_, columns_;
  uint32_t row_fractals_, column_fractals_;
  uint32_t whole_groups_, rest_bytes_;  // of the last group, if it is not whole
};

// Places of the filter along one side of the image.
int64_t Places(uint32_t size, uint32_t before, uint32_t after, uint32_t filter, uint32_t dilation,
               uint32_t stride) {
  const int64_t reach = int64_t{filter - 1} * dilation + 1;
  const int64_t room = int64_t{size} + before + after - reach;
  return room < 0 ? 0 : room / std::max(stride, 1u) + 1;
}

Loader::Loader(Core& core, DType dtype, const LocalRef& dst, const LocalRef& src,
               const Windows& windows, const Image& image)
    : core_(core),
      dtype_(dtype),
      dst_(dst),
      src_(src),
      windows_(windows),
      image_(image),
      registers_(core.registers.cube),
      to_(MemoryOf(dst.position)),
      transpose_(windows.transpose || to_ == Memory::kL0B),
      c0_(static_cast<uint32_t>(ElementsIn(dtype, kBlockBytes))),
      points_(windows.filter_w * windows.filter_h) {
  out_width_ = Places(image.width, image.left, image.right, windows.filter_w, windows.dilation_w,
                      windows.stride_w);
  places_ = out_width_ * Places(image.height, image.top, image.bottom, windows.filter_h,
                                windows.dilation_h, windows.stride_h);
  const uint32_t times = registers_.repeat_times;
  rows_ = windows.rows * (registers_.repeat_mode == 0 ? times : 1);
  columns_ = windows.columns * (registers_.repeat_mode == 1 ? times : 1);
  row_fractals_ = CeilDivide(rows_, kSide);
  column_fractals_ = CeilDivide(columns_, c0_);
  whole_groups_ = windows.channels / c0_;
  rest_bytes_ = static_cast<uint32_t>(BytesOf(dtype, windows.channels % c0_));
}

double Loader::Cycles() const {
  const bool left = to_ == Memory::kL0A;
  const uint32_t stride = windows_.stride_w;
  double cycles = 0;
  for (uint32_t row = 0; row < rows_; row += kSide) {
    // rows of places that the fractal spans
    const uint32_t last = std::min(row + kSide, rows_) - 1;
    const auto spanned = static_cast<uint32_t>(OutRow(last) - OutRow(row) + 1);
    double fractal = 0;
    if (stride <= 1) {
      fractal = spanned == 1 ? (left ? 2 : 4) : spanned + (left ? 2 : 4);
    } else if (stride == 2 || stride == 4 || stride == 8) {
      fractal = stride * 2 + (left ? 0 : 2) + (spanned == 1 ? 0 : spanned);
    } else {
      fractal = kSide * 2;
    }
    cycles += std::min(fractal, left ? 16.0 : 18.0) * column_fractals_;
  }
  return cycles;
}

void Loader::Check() const {
  const uint32_t rest = windows_.channels % c0_;
  if (rest != 0 && rest * 2 != c0_ && (rest * 4 != c0_ || c0_ == 8) &&
      (rest * 8 != c0_ || c0_ < 32)) {
    Report(Rule::kLoadChannels, "channelSize %u of %s, of which 32 bytes hold %u",
           windows_.channels, Name(dtype_), c0_);
  }
  const uint64_t width = uint64_t{windows_.channels} * points_;
  const uint32_t last_column = ColumnAt(columns_ - 1) + 1;
  const uint32_t last_row = RowAt(rows_ - 1) + 1;
  if (windows_.first_column % c0_ != 0 || (windows_.columns % c0_ != 0 && last_column < width)) {
    Report(Rule::kLoadPart, "columns [%u, %u) of %llu: %u %s are a fractal's",
           windows_.first_column, last_column, Number(width), c0_, Name(dtype_));
  }
  if (windows_.rows % kSide != 0 && last_row < places_ && SizeOf(dtype_) != 4) {
    Report(Rule::kLoadPart, "rows [%u, %u) of %lld: 16 are a fractal's", windows_.first_row,
           last_row, static_cast<long long>(places_));
  }
  const uint32_t begin = core_.Check(src_, 0, 0, kBlockBytes);
  const uint32_t boundary = registers_.boundary;
  if (boundary != 0 && (boundary < 1024 || begin >= boundary)) {
    Report(Rule::kLoadBoundary, "a boundary of %u, the source starts at %u", boundary, begin);
  }
  core_.Check(dst_, 0, 0, kFractalBytes);
}

// 32 bytes of a row of the matrix. What lies beyond the matrix is undefined.
void Loader::GatherRow(uint32_t row, uint32_t column, uint8_t* bytes, uint8_t* states,
                       TakenBytes& taken) {
  std::memset(bytes, 0xff, kBlockBytes);
  std::memset(states, static_cast<int>(ByteState::kPoison), kBlockBytes);
  const int64_t place = RowAt(row);
  if (row >= rows_ || place >= places_) return;
  const uint32_t group = column / c0_ / points_;
  const bool whole = group < whole_groups_;
  const uint32_t piece = whole ? kBlockBytes : rest_bytes_;
  if (piece == 0 || group > whole_groups_) return;
  // in the last group, if it is not whole, 32 bytes are of several points
  const uint32_t before = whole ? group * points_ : whole_groups_ * points_;
  const auto first_byte = static_cast<uint32_t>(BytesOf(dtype_, column)) - before * kBlockBytes;
  const int64_t top = place / out_width_ * windows_.stride_h - image_.top;
  const int64_t left = place % out_width_ * windows_.stride_w - image_.left;
  const uint64_t group_at = uint64_t{group} * image_.height * image_.width * kBlockBytes;
  const LocalMemory& local = core_.Local(Memory::kL1);
  for (uint32_t done = 0; done + piece <= kBlockBytes; done += piece) {
    const uint32_t point = (first_byte + done) / piece;
    if (point >= points_) return;
    const int64_t y = top + int64_t{point / windows_.filter_w} * windows_.dilation_h;
    const int64_t x = left + int64_t{point % windows_.filter_w} * windows_.dilation_w;
    if (y < 0 || x < 0 || y >= image_.height || x >= image_.width) {
      const uint32_t size = SizeOf(dtype_);
      for (uint32_t i = 0; i < piece; i += size) {
        std::memcpy(bytes + done + i, &*registers_.padding, size);
      }
      std::memset(states + done, static_cast<int>(ByteState::kValid), piece);
      continue;
    }
    const auto pixel = static_cast<uint64_t>(y * image_.width + x);
    uint64_t at = group_at + pixel * piece;
    if (registers_.boundary != 0 && src_.begin + at >= registers_.boundary) {
      at = (src_.begin + at) % registers_.boundary;  // reading goes on at the start of L1
      if (at + piece > local.bytes.size()) {
        Fail(Rule::kLocalBounds, "byte %llu of L1, for a boundary of %u", Number(at),
             registers_.boundary);
      }
    } else {
      at = core_.Check(src_, at, piece, 1);
    }
    std::memcpy(bytes + done, local.bytes.data() + at, piece);
    if (!core_.machine.options.checks) continue;
    std::memcpy(states + done, local.state.data() + at, piece);
    taken.Add(static_cast<uint32_t>(at), piece);
  }
}

void Loader::Gather(uint32_t row_fractal, uint32_t column_fractal, Fractal& to) {
  TakenBytes taken(core_);
  const uint32_t column = ColumnAt(column_fractal * c0_);
  for (uint32_t row = 0; row < kSide; ++row) {
    GatherRow(row_fractal * kSide + row, column, to.bytes.data() + row * kBlockBytes,
              to.states.data() + row * kBlockBytes, taken);
  }
  taken.Tell();
  if (columns_ % c0_ == 0 || column_fractal + 1 < column_fractals_) return;
  const auto used = static_cast<uint32_t>(BytesOf(dtype_, columns_ % c0_));
  for (uint32_t row = 0; row < kSide; ++row) {
    std::memset(to.states.data() + row * kBlockBytes + used, static_cast<int>(ByteState::kPoison),
                kBlockBytes - used);
  }
}

// The first rows of a fractal to where it belongs in L0.
void Loader::Put(uint64_t fractal, const Fractal& from, uint32_t rows) {
  const uint32_t bytes = rows * kBlockBytes;
  const uint32_t at = core_.Check(dst_, fractal * kFractalBytes, bytes, 1);
  core_.Write(to_, at, at + bytes);
  LocalMemory& local = core_.Local(to_);
  std::memcpy(local.bytes.data() + at, from.bytes.data(), bytes);
  if (core_.machine.options.checks) {
    std::memcpy(local.state.data() + at, from.states.data(), bytes);
  }
}

template <typename T>
void Transpose(const uint8_t* from, uint8_t* to) {
  T in[kSide * kSide];
  T out[kSide * kSide];
  std::memcpy(in, from, sizeof in);
  for (uint32_t row = 0; row < kSide; ++row) {
    for (uint32_t column = 0; column < kSide; ++column) {
      out[column * kSide + row] = in[row * kSide + column];
    }
  }
  std::memcpy(to, out, sizeof out);
}

// Two fractals of 16 rows by 8 columns of 4 bytes, transposed: two of 16 rows, the columns, by 8.
// If there is no second one, 8 rows of each are left as they are.
void Loader::PutSquare(uint32_t row_fractal, uint32_t column_fractal, const Fractal& left,
                       const Fractal& right) {
  const auto transposed = [](const auto& of_left, const auto& of_right, uint32_t half, auto& to) {
    for (uint32_t column = 0; column < kSide; ++column) {
      const auto& from = column < 8 ? of_left : of_right;
      for (uint32_t row = 0; row < 8; ++row) {
        std::memcpy(to.data() + column * kBlockBytes + row * 4,
                    from.data() + (half * 8 + row) * kBlockBytes + column % 8 * 4, 4);
      }
    }
  };
  const uint32_t squares = CeilDivide(column_fractals_, 2);
  const uint32_t square = column_fractal / 2;
  const uint32_t rows = column_fractal + 1 < column_fractals_ ? kSide : kSide / 2;
  for (uint32_t half = 0; half < 2; ++half) {
    Fractal out;
    transposed(left.bytes, right.bytes, half, out.bytes);
    transposed(left.states, right.states, half, out.states);
    const uint64_t at = to_ == Memory::kL0A
                            ? (uint64_t{square} * row_fractals_ + row_fractal) * 2 + half
                            : (uint64_t{row_fractal} * 2 + half) * squares + square;
    Put(at, out, rows);
  }
}

void Loader::Load() {
  const bool wide = SizeOf(dtype_) == 4;
  Fractal fractal, next;
  for (uint32_t row = 0; row < row_fractals_; ++row) {
    for (uint32_t column = 0; column < column_fractals_; ++column) {
      Gather(row, column, fractal);
      if (transpose_ && wide) {
        next = fractal;
        if (column + 1 < column_fractals_) Gather(row, column + 1, next);
        PutSquare(row, column++, fractal, next);
        continue;
      }
      if (transpose_) {
        Transpose<uint16_t>(fractal.bytes.data(), fractal.bytes.data());
        Transpose<uint16_t>(fractal.states.data(), fractal.states.data());
      }
      const bool by_columns = transpose_ && to_ == Memory::kL0A;
      Put(by_columns ? uint64_t{column} * row_fractals_ + row
                     : uint64_t{row} * column_fractals_ + column,
          fractal);
    }
  }
}

void CheckWindows(const Windows& windows) {
  CheckRange(limits::LoadData3DParamsV2::mStartPt, windows.first_row);
  CheckRange(limits::LoadData3DParamsV2::strideW, windows.stride_w);
  CheckRange(limits::LoadData3DParamsV2::strideH, windows.stride_h);
  CheckRange(limits::LoadData3DParamsV2::enSmallK, windows.small_k);
  CheckRange(limits::LoadData3DParamsV2::fMatrixCtrl, windows.right_matrix);
}

}  // namespace

void LoadWindows(DType dtype, const LocalRef& dst, const LocalRef& src, const Windows& windows,
                 const Image* image, const uint32_t* padding) {
  Core& core = Begin(Op::kLoadData, PIPE_MTE1);
  CubeRegisters& registers = core.registers.cube;
  const Memory from = MemoryOf(src.position);
  const Memory to = MemoryOf(dst.position);
  if (from != Memory::kL1 || (to != Memory::kL0A && to != Memory::kL0B)) {
    Fail(Rule::kCopyPath, "a load from %s into %s", Name(from), Name(to));
  }
  if (SizeOf(dtype) == 1 && (windows.transpose || to == Memory::kL0B)) {
    Fail(Rule::kLoadType, "%s transposed into %s", Name(dtype), Name(to));
  }
  if (image != nullptr) registers.image = *image;
  if (padding != nullptr) registers.padding = *padding;
  if (!registers.image) Fail(Rule::kLoadNotSet, "call SetFmatrix() first");
  const Image& taken = *registers.image;
  if (!registers.padding && taken.left + taken.right + taken.top + taken.bottom != 0) {
    Fail(Rule::kLoadNotSet, "call SetLoadDataPaddingValue() first");
  }
  CheckRange(limits::LoadData3DParamsV2::l1H, taken.height);
  CheckRange(limits::LoadData3DParamsV2::l1W, taken.width);
  const Path path = to == Memory::kL0A ? Path::kL1ToL0A : Path::kL1ToL0B;
  if (taken.height == 0 || taken.width == 0 || windows.channels == 0 || windows.columns == 0 ||
      windows.rows == 0 || windows.filter_w == 0 || windows.filter_h == 0 ||
      registers.repeat_times == 0) {
    return core.Move(path, 0, 0);
  }
  CheckWindows(windows);
  Loader loader(core, dtype, dst, src, windows, taken);
  core.Move(path, loader.Fractals(), kFractalBytes, loader.Cycles());
  loader.Check();
  if (core.machine.options.counting) {
    core.Check(dst, 0, uint64_t{loader.Fractals()} * kFractalBytes, 1);
    return;
  }
  loader.Load();
}

}  // namespace emulator
