// Parameter structs, with the field widths of the hardware.
#ifndef MOGE_EMULATOR_PARAMS_H_
#define MOGE_EMULATOR_PARAMS_H_

#include "machine.h"

namespace AscendC {

inline constexpr uint64_t MASK_PLACEHOLDER = 0;

struct UnaryRepeatParams {
  UnaryRepeatParams() = default;
  UnaryRepeatParams(emulator::U16 dst_blk, emulator::U16 src_blk, emulator::U8 dst_rep,
                    emulator::U8 src_rep)
      : dstBlkStride(dst_blk),
        srcBlkStride(src_blk),
        dstRepStride(dst_rep),
        srcRepStride(src_rep) {}

  emulator::U16 dstBlkStride = 1, srcBlkStride = 1;
  emulator::U8 dstRepStride = 8, srcRepStride = 8;
};

struct BinaryRepeatParams {
  BinaryRepeatParams() = default;
  BinaryRepeatParams(emulator::U8 dst_blk, emulator::U8 src0_blk, emulator::U8 src1_blk,
                     emulator::U8 dst_rep, emulator::U8 src0_rep, emulator::U8 src1_rep)
      : dstBlkStride(dst_blk),
        src0BlkStride(src0_blk),
        src1BlkStride(src1_blk),
        dstRepStride(dst_rep),
        src0RepStride(src0_rep),
        src1RepStride(src1_rep) {}

  emulator::U8 dstBlkStride = 1, src0BlkStride = 1, src1BlkStride = 1, dstRepStride = 8,
               src0RepStride = 8, src1RepStride = 8;
};

struct CopyRepeatParams {
  CopyRepeatParams() = default;
  CopyRepeatParams(emulator::U16 dst_stride, emulator::U16 src_stride, emulator::U16 dst_repeat,
                   emulator::U16 src_repeat)
      : dstStride(dst_stride),
        srcStride(src_stride),
        dstRepeatSize(dst_repeat),
        srcRepeatSize(src_repeat) {}

  emulator::U16 dstStride = 1, srcStride = 1, dstRepeatSize = 8, srcRepeatSize = 8;
};

struct BrcbRepeatParams {
  BrcbRepeatParams() = default;
  BrcbRepeatParams(emulator::U16 dst_blk, emulator::U16 dst_rep)
      : dstBlkStride(dst_blk), dstRepStride(dst_rep) {}

  emulator::U16 dstBlkStride = 1, dstRepStride = 8;
};

struct GatherRepeatParams {
  GatherRepeatParams() = default;
  GatherRepeatParams(emulator::U8 dst_blk, emulator::U8 dst_rep)
      : dstBlkStride(dst_blk), dstRepStride(dst_rep) {}

  emulator::U8 dstBlkStride = 1, dstRepStride = 8;
};

// gaps from the end of one block to the start of the next, lengths and gaps in 32 bytes
struct DataCopyParams {
  DataCopyParams() = default;
  DataCopyParams(emulator::U16 count, emulator::U16 length, emulator::U16 src_gap,
                 emulator::U16 dst_gap)
      : blockCount(count), blockLen(length), srcStride(src_gap), dstStride(dst_gap) {}

  emulator::U16 blockCount = 1, blockLen = 0, srcStride = 0, dstStride = 0;
};

// length and the gap in global memory in bytes, the gap in local memory in 32 bytes
struct DataCopyExtParams {
  DataCopyExtParams() = default;
  DataCopyExtParams(emulator::U16 count, emulator::U32 length, emulator::U32 src_gap,
                    emulator::U32 dst_gap, emulator::U32 reserved)
      : blockCount(count),
        blockLen(length),
        srcStride(src_gap),
        dstStride(dst_gap),
        rsv(reserved) {}

  emulator::U16 blockCount = 1;
  emulator::U32 blockLen = 0, srcStride = 0, dstStride = 0, rsv = 0;
};

template <typename T>
struct DataCopyPadExtParams {
  DataCopyPadExtParams() = default;
  DataCopyPadExtParams(bool pad, emulator::U8 left, emulator::U8 right, T value)
      : isPad(pad), leftPadding(left), rightPadding(right), paddingValue(value) {}

  bool isPad = false;
  emulator::U8 leftPadding = 0, rightPadding = 0;
  T paddingValue{};
};

// rows and columns of matrices in global memory to NZ in L1; source strides in elements, those of
// the destination in 32 bytes
struct Nd2NzParams {
  Nd2NzParams() = default;
  Nd2NzParams(emulator::U16 matrices, emulator::U16 rows, emulator::U16 columns,
              emulator::U16 src_matrix, emulator::U16 src_row, emulator::U16 dst_c0,
              emulator::U16 dst_row, emulator::U16 dst_matrix)
      : ndNum(matrices),
        nValue(rows),
        dValue(columns),
        srcNdMatrixStride(src_matrix),
        srcDValue(src_row),
        dstNzC0Stride(dst_c0),
        dstNzNStride(dst_row),
        dstNzMatrixStride(dst_matrix) {}

  emulator::U16 ndNum = 0, nValue = 0, dValue = 0, srcNdMatrixStride = 0, srcDValue = 0,
                dstNzC0Stride = 0, dstNzNStride = 0, dstNzMatrixStride = 0;
};

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

  emulator::U16 startIndex = 0;
  emulator::U8 repeatTimes = 0;
  emulator::U16 srcStride = 0;
  emulator::U8 sid = 0;
  emulator::U16 dstGap = 0;
  bool ifTranspose = false;
  emulator::U8 addrMode = 0;
};

// the source in squares of one or two fractals, the destination in fractals
struct LoadData2dTransposeParams {
  LoadData2dTransposeParams() = default;
  LoadData2dTransposeParams(emulator::U16 start, emulator::U8 repeat, emulator::U16 src_stride,
                            emulator::U16 dst_gap, emulator::U16 dst_fractal_gap,
                            emulator::U8 address_mode)
      : startIndex(start),
        repeatTimes(repeat),
        srcStride(src_stride),
        dstGap(dst_gap),
        dstFracGap(dst_fractal_gap),
        addrMode(address_mode) {}

  emulator::U16 startIndex = 0;
  emulator::U8 repeatTimes = 0;
  emulator::U16 srcStride = 0, dstGap = 0, dstFracGap = 0;
  emulator::U8 addrMode = 0;
};

// blocks of 32 bytes in L1, of 512 bytes in L0A and L0B
template <typename T>
struct InitConstValueParams {
  InitConstValueParams() = default;
  InitConstValueParams(emulator::U16 repeat, emulator::U16 blocks, emulator::U16 gap, T value)
      : repeatTimes(repeat), blockNum(blocks), dstGap(gap), initValue(value) {}

  emulator::U16 repeatTimes = 0, blockNum = 0, dstGap = 0;
  T initValue{};
};

struct MmadParams {
  emulator::U16 m = 0, n = 0, k = 0;
  emulator::U8 unitFlag = 0;
  bool kDirectionAlign = false, cmatrixSource = false, cmatrixInitVal = true;
};

struct FixpipeParamsV220 {
  FixpipeParamsV220() = default;
  FixpipeParamsV220(emulator::U16 columns, emulator::U16 rows, emulator::U16 src_stride,
                    emulator::U32 dst_stride, bool relu)
      : nSize(columns), mSize(rows), srcStride(src_stride), dstStride(dst_stride), reluEn(relu) {}

  emulator::U16 nSize = 0, mSize = 0;
  emulator::U16 srcStride = 0;  // in 16 elements of L0C
  emulator::U32 dstStride = 0;  // ND: elements; NZ: 32 bytes
  QuantMode_t quantPre = QuantMode_t::NoQuant;
  uint64_t deqScalar = 0;
  emulator::U16 ndNum = 1;
  emulator::U16 srcNdStride = 0;  // in fractals of L0C
  emulator::U16 dstNdStride = 0;  // elements
  bool reluEn = false;
  emulator::U8 unitFlag = 0;
  bool isChannelSplit = false;
};

struct GatherMaskParams {
  GatherMaskParams() = default;
  GatherMaskParams(emulator::U8 src0_blk, emulator::U16 repeat, emulator::U16 src0_rep,
                   emulator::U8 src1_rep)
      : src0BlockStride(src0_blk),
        repeatTimes(repeat),
        src0RepeatStride(src0_rep),
        src1RepeatStride(src1_rep) {}

  emulator::U8 src0BlockStride = 1;
  emulator::U16 repeatTimes = 0, src0RepeatStride = 8;
  emulator::U8 src1RepeatStride = 8;
};

struct MrgSort4Info {
  MrgSort4Info() = default;
  MrgSort4Info(const uint16_t (&lengths)[4], bool suspend, emulator::U16 valid, emulator::U8 repeat)
      : elementLengths{lengths[0], lengths[1], lengths[2], lengths[3]},
        ifExhaustedSuspension(suspend),
        validBit(valid),
        repeatTimes(repeat) {}

  uint16_t elementLengths[4] = {};
  bool ifExhaustedSuspension = false;
  emulator::U16 validBit = 0;
  emulator::U8 repeatTimes = 1;
};

}  // namespace AscendC

#endif  // MOGE_EMULATOR_PARAMS_H_
