// What the headers of a cube core's API ask of the machine, as machine.h has the rest.
#ifndef MOGE_EMULATOR_MACHINE_CUBE_H_
#define MOGE_EMULATOR_MACHINE_CUBE_H_

#include "machine.h"

namespace emulator {

// Fractals of 512 bytes, or squares of them: the units of each field are the instruction's.
struct FractalRun {
  uint32_t start, repeat, source_stride;
  uint32_t destination_gap;
  uint32_t fraction_gap;  // between the fractals of one square
  bool transpose;
  bool backwards;  // the source goes down from `start`
};
void LoadFractals(DType dtype, const LocalRef& dst, const LocalRef& src, const FractalRun& run);
void LoadFractals(DType dtype, const LocalRef& dst, const GlobalRef& src, const FractalRun& run);
void LoadSquares(DType dtype, const LocalRef& dst, const LocalRef& src, const FractalRun& run);

// An image [C1, H, W, C0] in L1, and what surrounds it.
struct Image {
  uint32_t height, width;
  uint32_t left, right, top, bottom;  // padding
};
// A part of the matrix of the image's windows: a row for each place of the filter.
struct Windows {
  uint32_t channels;
  uint32_t columns, rows, first_column, first_row;
  uint32_t stride_w, stride_h, filter_w, filter_h, dilation_w, dilation_h;
  bool transpose, small_k, right_matrix;
};
void SetImage(const Image& image, bool right_matrix);
void SetImagePadding(uint32_t bits);
void SetImageRepeat(uint32_t stride, uint32_t times, uint32_t mode);
void SetImageBoundary(uint32_t bytes);
// `image`, `padding` null: what was set before
void LoadWindows(DType dtype, const LocalRef& dst, const LocalRef& src, const Windows& windows,
                 const Image* image, const uint32_t* padding);

// `value` points to one element
void FillBlocks(DType dtype, const LocalRef& dst, const void* value, uint32_t repeat,
                uint32_t blocks, uint32_t gap);

struct Product {
  uint32_t m, n, k;
  uint8_t unit_flag;
  bool align_k;
  bool init;             // from 0
  const LocalRef* bias;  // null: none
  bool from_table;       // from what is in BT, without a tensor
};
void Multiply(DType dtype, const LocalRef& dst, const LocalRef& a, const LocalRef& b,
              const Product& product);
void SetHalfFloat(bool on);
void SetHalfFloatRounding(bool to_zero);
// B with two of four rows of each column left out: fractals, and which rows there are.
void LoadSparse(const LocalRef& dst, const LocalRef& src, const LocalRef& index, uint32_t start,
                uint32_t repeat);
void MultiplySparse(const LocalRef& dst, const LocalRef& a, const LocalRef& b,
                    const Product& product);

struct Export {
  uint32_t n, m;
  uint32_t source_stride;  // in 16 elements
  uint64_t destination_stride;
  QuantMode_t quant;
  uint64_t scale;
  uint32_t matrices, source_matrix, destination_matrix;
  bool relu;
  uint8_t unit_flag;
  bool split;
  bool row_major;
};
// `scales` null: one scale for all
void MoveOut(DType from, DType to, const GlobalRef& dst, const LocalRef& src,
             const LocalRef* scales, const Export& shape);
void MoveOut(DType from, DType to, const LocalRef& dst, const LocalRef& src, const LocalRef* scales,
             const Export& shape);
// The same as DataCopy: scales and matrices are those that were set.
void MoveOutAsSet(DType from, DType to, const GlobalRef& dst, const LocalRef& src,
                  const Export& shape);
void MoveOutAsSet(DType from, DType to, const LocalRef& dst, const LocalRef& src,
                  const Export& shape);
void SetScale(uint64_t scale);
void SetMatrices(uint32_t count, uint32_t source, uint32_t destination);
// `scales`: of uint64 in FB; with `clear`, one in L0C: only the unit flags are cleared
void SetScales(const LocalRef& scales, DType dtype, bool clear);
void SetProductOrder(bool row_major);

}  // namespace emulator

#endif  // MOGE_EMULATOR_MACHINE_CUBE_H_
