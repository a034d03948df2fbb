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

  emulator::U16 dstBlkStride = 1;
  emulator::U16 srcBlkStride = 1;
  emulator::U8 dstRepStride = 8;
  emulator::U8 srcRepStride = 8;
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

  emulator::U8 dstBlkStride = 1;
  emulator::U8 src0BlkStride = 1;
  emulator::U8 src1BlkStride = 1;
  emulator::U8 dstRepStride = 8;
  emulator::U8 src0RepStride = 8;
  emulator::U8 src1RepStride = 8;
};

struct CopyRepeatParams {
  CopyRepeatParams() = default;
  CopyRepeatParams(emulator::U16 dst_stride, emulator::U16 src_stride, emulator::U16 dst_repeat,
                   emulator::U16 src_repeat)
      : dstStride(dst_stride),
        srcStride(src_stride),
        dstRepeatSize(dst_repeat),
        srcRepeatSize(src_repeat) {}

  emulator::U16 dstStride = 1;
  emulator::U16 srcStride = 1;
  emulator::U16 dstRepeatSize = 8;
  emulator::U16 srcRepeatSize = 8;
};

struct BrcbRepeatParams {
  BrcbRepeatParams() = default;
  BrcbRepeatParams(emulator::U16 dst_blk, emulator::U16 dst_rep)
      : dstBlkStride(dst_blk), dstRepStride(dst_rep) {}

  emulator::U16 dstBlkStride = 1;
  emulator::U16 dstRepStride = 8;
};

struct GatherRepeatParams {
  GatherRepeatParams() = default;
  GatherRepeatParams(emulator::U8 dst_blk, emulator::U8 dst_rep)
      : dstBlkStride(dst_blk), dstRepStride(dst_rep) {}

  emulator::U8 dstBlkStride = 1;
  emulator::U8 dstRepStride = 8;
};

// gaps from the end of one block to the start of the next, lengths and gaps in 32 bytes
struct DataCopyParams {
  DataCopyParams() = default;
  DataCopyParams(emulator::U16 count, emulator::U16 length, emulator::U16 src_gap,
                 emulator::U16 dst_gap)
      : blockCount(count), blockLen(length), srcStride(src_gap), dstStride(dst_gap) {}

  emulator::U16 blockCount = 1;
  emulator::U16 blockLen = 0;
  emulator::U16 srcStride = 0;
  emulator::U16 dstStride = 0;
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
  emulator::U32 blockLen = 0;
  emulator::U32 srcStride = 0;
  emulator::U32 dstStride = 0;
  emulator::U32 rsv = 0;
};

template <typename T>
struct DataCopyPadExtParams {
  DataCopyPadExtParams() = default;
  DataCopyPadExtParams(bool pad, emulator::U8 left, emulator::U8 right, T value)
      : isPad(pad), leftPadding(left), rightPadding(right), paddingValue(value) {}

  bool isPad = false;
  emulator::U8 leftPadding = 0;
  emulator::U8 rightPadding = 0;
  T paddingValue{};
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
  emulator::U16 repeatTimes = 0;
  emulator::U16 src0RepeatStride = 8;
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
