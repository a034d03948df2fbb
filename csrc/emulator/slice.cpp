// Slices: a box of pieces of a tensor of up to 8 dimensions, as one transfer for each of its rows.
#include <algorithm>

#include "core.h"
#include "params.h"

namespace emulator {

namespace {

using AscendC::SliceInfo;

// One dimension of one side, in elements.
struct Axis {
  uint64_t first, pieces, piece, pitch;  // from the start of a piece to that of the next
};

Axis Resolve(const SliceInfo& slice, uint32_t dimension, uint32_t dimensions, uint32_t per_block) {
  const uint64_t first = slice.startIndex;
  const uint64_t last = slice.endIndex;
  const uint64_t gap = slice.stride;
  // without an extent one dimension ends where the tensor does
  const bool bounded = dimensions > 1 || slice.shapeValue != 0;
  if (first >= last || (bounded && last > slice.shapeValue)) {
    Fail(Rule::kCopySlice, "dimension %u: startIndex %llu < endIndex %llu <= shapeValue %u",
         dimension, Number(first), Number(last), unsigned{slice.shapeValue});
  }
  if (dimension > 0 && slice.burstLen != 1) {
    Fail(Rule::kCopySlice, "dimension %u: burstLen is 1 above the first dimension, got %u",
         dimension, unsigned{slice.burstLen});
  }
  const uint64_t piece = dimension == 0 ? uint64_t{slice.burstLen} * per_block : 1;
  const uint64_t length = last - first + 1;
  if (piece == 0 || (length + gap) % (piece + gap) != 0) {
    Fail(Rule::kCopySlice,
         "dimension %u: %llu elements are not pieces of %llu with gaps of %llu between them",
         dimension, Number(length), Number(piece), Number(gap));
  }
  return {first, (length + gap) / (piece + gap), piece, piece + gap};
}

// Both sides, and where each of their rows starts.
class Box {
 public:
  Box(DType dtype, const SliceInfo* dst, const SliceInfo* src, uint32_t dimensions)
      : dimensions_(dimensions), element_(SizeOf(dtype)) {
    CheckFields(Enter(Op::kDataCopy));
    if (dimensions == 0 || dimensions > kDimensions) {
      Fail(Rule::kCopySlice, "%u dimensions, of 1 to %u", dimensions, kDimensions);
    }
    const uint32_t per_block = kBlockBytes / element_;
    for (uint32_t i = 0; i < dimensions; ++i) {
      axes_[0][i] = Resolve(dst[i], i, dimensions, per_block);
      axes_[1][i] = Resolve(src[i], i, dimensions, per_block);
      extents_[0][i] = dst[i].shapeValue;
      extents_[1][i] = src[i].shapeValue;
      if (axes_[0][i].pieces != axes_[1][i].pieces || axes_[0][i].piece != axes_[1][i].piece) {
        Fail(Rule::kCopySlice, "dimension %u: %llu pieces into %llu, or of another length", i,
             Number(axes_[1][i].pieces), Number(axes_[0][i].pieces));
      }
    }
  }

  // `local`: which side is in UB, 0 for the destination
  Rows RowsOf(int local) const {
    const Axis& dst = axes_[0][0];
    const Axis& src = axes_[1][0];
    const uint64_t pitch = axes_[local][0].pitch * element_;
    if (dst.pieces > 1 && pitch % kBlockBytes != 0) {
      Report(Rule::kAddressAlignment, "pieces in UB are %llu bytes apart, which 32 does not divide",
             Number(pitch));
    }
    return {static_cast<uint32_t>(dst.pieces), static_cast<uint32_t>(dst.piece * element_),
            src.pitch * element_, dst.pitch * element_};
  }

  // Calls f(offset in the destination, offset in the source) for each row, in bytes.
  template <typename F>
  void ForEachRow(F f) const {
    std::array<uint64_t, kDimensions> at{};
    for (;;) {
      f(Offset(0, at), Offset(1, at));
      uint32_t i = 1;
      while (i < dimensions_ && ++at[i] == axes_[0][i].pieces) at[i++] = 0;
      if (i >= dimensions_) return;
    }
  }

 private:
  static constexpr uint32_t kDimensions = 8;

  uint64_t Offset(int side, const std::array<uint64_t, kDimensions>& at) const {
    uint64_t offset = axes_[side][0].first;
    uint64_t row = 1;
    for (uint32_t i = 1; i < dimensions_; ++i) {
      row *= extents_[side][i - 1];
      offset += (axes_[side][i].first + at[i] * axes_[side][i].pitch) * row;
    }
    return offset * element_;
  }

  const uint32_t dimensions_;
  const uint32_t element_;
  std::array<Axis, kDimensions> axes_[2];
  std::array<uint64_t, kDimensions> extents_[2];
};

}  // namespace

void CopySlice(DType dtype, const LocalRef& dst, const GlobalRef& src, const SliceInfo* dst_slices,
               const SliceInfo* src_slices, uint32_t dimensions) {
  const Box box(dtype, dst_slices, src_slices, dimensions);
  const Rows rows = box.RowsOf(0);
  box.ForEachRow([&](uint64_t to, uint64_t from) {
    CopyIn(Op::kDataCopy, dtype, Offset(dst, to), Offset(src, from), rows, nullptr);
  });
}

void CopySlice(DType dtype, const GlobalRef& dst, const LocalRef& src, const SliceInfo* dst_slices,
               const SliceInfo* src_slices, uint32_t dimensions) {
  const Box box(dtype, dst_slices, src_slices, dimensions);
  const Rows rows = box.RowsOf(1);
  box.ForEachRow([&](uint64_t to, uint64_t from) {
    CopyOut(Op::kDataCopy, Offset(dst, to), Offset(src, from), rows);
  });
}

}  // namespace emulator
