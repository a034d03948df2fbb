// Parameters of the instructions of a cube core.
#ifndef MOGE_EMULATOR_PARAMS_CUBE_H_
#define MOGE_EMULATOR_PARAMS_CUBE_H_

#include "machine.h"

namespace AscendC {

// in fractals of 512 bytes
struct LoadData2DParams {
  LoadData2DParams() = default;
  LoadData2DParams(emulator::U16 start, emulator::U8 repeat, emulator::U16 src_stride,
                   emulator::U8 reserved, emulator::U16 dst_gap, bool transpose,
                   emulator::U8 address_mode)
      : startIndex(start),
        repeatTimes(repeat),
        srcStride(src_stride),
        sid(reserved),
        dstGap(dst_gap),
        ifTranspose(transpose),
        addrMode(address_mode) {}

  emulator::M16 startIndex;
  emulator::M8 repeatTimes;
  emulator::M16 srcStride;
  emulator::M8 sid;
  emulator::M16 dstGap;
  bool ifTranspose = false;
  emulator::M8 addrMode;
};
using LoadData2dParams = LoadData2DParams;

// of newer chips: sources for several of them name it, Atlas A2 has no load that takes it
struct LoadData2DParamsV2 {
  emulator::M32 mStartPosition, kStartPosition;
  emulator::M16 mStep, kStep;
  int32_t srcStride = 0;
  emulator::M16 dstStride;
  bool ifTranspose = false;
  emulator::M8 sid;
};

// the source in squares of one or two fractals, the destination in fractals
struct LoadData2dTransposeParams {
  LoadData2dTransposeParams() = default;
  LoadData2dTransposeParams(emulator::U16 start, emulator::U8 repeat, emulator::U16 src_stride,
                            emulator::U16 dst_gap, emulator::U16 dst_fractal_gap)
      : LoadData2dTransposeParams(start, repeat, src_stride, dst_gap, dst_fractal_gap, 0) {}
  LoadData2dTransposeParams(emulator::U16 start, emulator::U8 repeat, emulator::U16 src_stride,
                            emulator::U16 dst_gap, emulator::U16 dst_fractal_gap,
                            emulator::U8 address_mode)
      : startIndex(start),
        repeatTimes(repeat),
        srcStride(src_stride),
        dstGap(dst_gap),
        dstFracGap(dst_fractal_gap),
        addrMode(address_mode) {}

  emulator::M16 startIndex;
  emulator::M8 repeatTimes;
  emulator::M16 srcStride, dstGap, dstFracGap;
  emulator::M8 addrMode;
};

// An image [C1, H, W, C0] in L1 to the matrix of its windows: a row for each position of the
// filter, of which a part is loaded, `kExtension` columns from `kStartPt` and `mExtension` rows
// from `mStartPt`. The padding is left, right, top, bottom.
template <typename T>
struct LoadData3DParamsV2 {
  LoadData3DParamsV2() = default;
  LoadData3DParamsV2(const uint8_t padding[4], emulator::U16 height, emulator::U16 width,
                     emulator::U16 channels, emulator::U16 columns, emulator::U16 rows,
                     emulator::U16 first_column, emulator::U16 first_row, emulator::U8 step_w,
                     emulator::U8 step_h, emulator::U8 filter_w, emulator::U8 filter_h,
                     emulator::U8 dilation_w, emulator::U8 dilation_h, bool transpose, bool small_k,
                     T pad_value)
      : LoadData3DParamsV2(padding, height, width, channels, columns, rows, first_column, first_row,
                           step_w, step_h, filter_w, filter_h, dilation_w, dilation_h, transpose,
                           small_k, pad_value, false, false, false) {}
  LoadData3DParamsV2(const uint8_t padding[4], emulator::U16 height, emulator::U16 width,
                     emulator::U16 channels, emulator::U16 columns, emulator::U16 rows,
                     emulator::U16 first_column, emulator::U16 first_row, emulator::U8 step_w,
                     emulator::U8 step_h, emulator::U8 filter_w, emulator::U8 filter_h,
                     emulator::U8 dilation_w, emulator::U8 dilation_h, bool transpose, bool small_k,
                     T pad_value, bool filter_w_high, bool filter_h_high, bool right_matrix)
      : padList{padding[0], padding[1], padding[2], padding[3]},
        l1H(height),
        l1W(width),
        channelSize(channels),
        kExtension(columns),
        mExtension(rows),
        kStartPt(first_column),
        mStartPt(first_row),
        strideW(step_w),
        strideH(step_h),
        filterW(filter_w),
        filterH(filter_h),
        dilationFilterW(dilation_w),
        dilationFilterH(dilation_h),
        enTranspose(transpose),
        enSmallK(small_k),
        padValue(pad_value),
        filterSizeW(filter_w_high),
        filterSizeH(filter_h_high),
        fMatrixCtrl(right_matrix) {}

  uint8_t padList[4] = {};
  emulator::M16 l1H, l1W, channelSize, kExtension, mExtension, kStartPt, mStartPt;
  emulator::M8 strideW{1}, strideH{1}, filterW{1}, filterH{1}, dilationFilterW{1},
      dilationFilterH{1};
  bool enTranspose = false, enSmallK = false;
  T padValue = 0;
  bool filterSizeW = false, filterSizeH = false;  // bit 8 of the filter's width and height
  bool fMatrixCtrl = false;
};

// the same, with the numbers that change between calls packed, and the image set apart
struct LoadData3DParamsV2Pro {
  LoadData3DParamsV2Pro() = default;
  LoadData3DParamsV2Pro(emulator::U16 channels, bool transpose, bool small_k, bool filter_w_high,
                        bool filter_h_high, bool right_matrix, uint64_t extension, uint64_t filter)
      : channelSize(channels),
        enTranspose(transpose),
        enSmallK(small_k),
        filterSizeW(filter_w_high),
        filterSizeH(filter_h_high),
        fMatrixCtrl(right_matrix),
        extConfig(extension),
        filterConfig(filter) {}

  emulator::M16 channelSize;
  bool enTranspose = false, enSmallK = false, filterSizeW = false, filterSizeH = false,
       fMatrixCtrl = false;
  uint64_t extConfig = 0;
  uint64_t filterConfig = 0x10101010101;
};

struct LoadDataRepeatParam {
  LoadDataRepeatParam() = default;
  LoadDataRepeatParam(emulator::U16 stride, emulator::U8 times, emulator::U8 mode)
      : repeatStride(stride), repeatTime(times), repeatMode(mode) {}

  emulator::M16 repeatStride;
  emulator::M8 repeatTime{1}, repeatMode;
};

// whether a load sets the image and the padding value, or takes those that were set before
struct IsResetLoad3dConfig {
  constexpr IsResetLoad3dConfig(bool image, bool padding)
      : isSetFMatrix(image), isSetPadding(padding) {}

  bool isSetFMatrix, isSetPadding;
};
inline constexpr IsResetLoad3dConfig IS_RESER_LOAD3D_DEFAULT_CONFIG = {true, true};

// blocks of 32 bytes in L1, of 512 bytes in L0A and L0B
template <typename T>
struct InitConstValueParams {
  InitConstValueParams() = default;
  InitConstValueParams(emulator::U16 repeat, emulator::U16 blocks, emulator::U16 gap, T value)
      : repeatTimes(repeat), blockNum(blocks), dstGap(gap), initValue(value) {}
  InitConstValueParams(emulator::U16 repeat, T value) : repeatTimes(repeat), initValue(value) {}

  emulator::M16 repeatTimes, blockNum, dstGap;
  T initValue = 0;
};

struct MmadParams {
  MmadParams() = default;
  MmadParams(emulator::U16 rows, emulator::U16 columns, emulator::U16 inner, emulator::U8 flag,
             bool initial_from_table, bool initial_zero)
      : m(rows),
        n(columns),
        k(inner),
        unitFlag(flag),
        cmatrixSource(initial_from_table),
        cmatrixInitVal(initial_zero) {}
  // an older form: adds to what is there, or does not; Atlas A2 ignores the rest
  MmadParams(emulator::U16 rows, emulator::U16 columns, emulator::U16 inner, bool adds,
             int32_t offset, bool sparse, bool winograd_left, bool winograd_right)
      : m(rows),
        n(columns),
        k(inner),
        isBias(adds),
        fmOffset(offset),
        enSsparse(sparse),
        enWinogradA(winograd_left),
        enWinogradB(winograd_right) {}

  emulator::M16 m, n, k;
  bool isBias = false;
  int32_t fmOffset = 0;
  bool enSsparse = false, enWinogradA = false, enWinogradB = false;
  emulator::M8 unitFlag;
  bool kDirectionAlign = false, cmatrixSource = false, cmatrixInitVal = true;
};

struct FixpipeParamsV220 {
  FixpipeParamsV220() = default;
  FixpipeParamsV220(emulator::U16 columns, emulator::U16 rows, emulator::U16 src_stride,
                    emulator::U32 dst_stride, bool relu)
      : nSize(columns), mSize(rows), srcStride(src_stride), dstStride(dst_stride), reluEn(relu) {}
  FixpipeParamsV220(emulator::U16 columns, emulator::U16 rows, emulator::U16 src_stride,
                    emulator::U32 dst_stride, bool relu, QuantMode_t conversion, int64_t scale,
                    emulator::U16 matrices, emulator::U16 src_matrix, emulator::U16 dst_matrix,
                    emulator::U8 flag, bool split = false)
      : nSize(columns),
        mSize(rows),
        srcStride(src_stride),
        dstStride(dst_stride),
        quantPre(conversion),
        deqScalar(static_cast<uint64_t>(scale)),
        ndNum(matrices),
        srcNdStride(src_matrix),
        dstNdStride(dst_matrix),
        reluEn(relu),
        unitFlag(flag),
        isChannelSplit(split) {}

  emulator::M16 nSize, mSize;
  emulator::M16 srcStride;  // in 16 elements of L0C
  emulator::M32 dstStride;  // ND: elements; NZ: 32 bytes
  QuantMode_t quantPre = QuantMode_t::NoQuant;
  uint64_t deqScalar = 0;
  emulator::M16 ndNum{1};
  emulator::M16 srcNdStride;  // in fractals of L0C
  emulator::M16 dstNdStride;  // elements
  bool reluEn = false;
  emulator::M8 unitFlag;
  bool isChannelSplit = false;
};

}  // namespace AscendC

#endif  // MOGE_EMULATOR_PARAMS_CUBE_H_
