// Parameters of vector instructions. Block strides are between the blocks of a repeat, repeat
// strides between repeats, both in 32 bytes.
#ifndef MOGE_EMULATOR_PARAMS_VECTOR_H_
#define MOGE_EMULATOR_PARAMS_VECTOR_H_

#include "machine.h"

namespace AscendC {

inline constexpr uint64_t MASK_PLACEHOLDER = 0;
inline constexpr int32_t DEFAULT_BLK_NUM = 8;
inline constexpr int32_t DEFAULT_BLK_STRIDE = 1;
inline constexpr uint8_t DEFAULT_REPEAT_STRIDE = 8;

struct UnaryRepeatParams {
  UnaryRepeatParams() = default;
  UnaryRepeatParams(emulator::U16 dst_blk, emulator::U16 src_blk, emulator::U8 dst_rep,
                    emulator::U8 src_rep, bool upper_half = false)
      : dstBlkStride(dst_blk),
        srcBlkStride(src_blk),
        dstRepStride(dst_rep),
        srcRepStride(src_rep),
        halfBlock(upper_half) {}

  emulator::M16 dstBlkStride{1}, srcBlkStride{1};
  emulator::M8 dstRepStride{8}, srcRepStride{8};
  bool halfBlock = false;
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

  emulator::M8 dstBlkStride{1}, src0BlkStride{1}, src1BlkStride{1}, dstRepStride{8},
      src0RepStride{8}, src1RepStride{8};
};

// strides between blocks are 0 unless they are set
struct CopyRepeatParams {
  CopyRepeatParams() = default;
  CopyRepeatParams(emulator::U16 dst_stride, emulator::U16 src_stride, emulator::U16 dst_repeat,
                   emulator::U16 src_repeat)
      : dstStride(dst_stride),
        srcStride(src_stride),
        dstRepeatSize(dst_repeat),
        srcRepeatSize(src_repeat) {}

  emulator::M16 dstStride, srcStride, dstRepeatSize{8}, srcRepeatSize{8};
};

struct BrcbRepeatParams {
  BrcbRepeatParams() = default;
  BrcbRepeatParams(emulator::U16 dst_blk, emulator::U16 dst_rep)
      : dstBlkStride(dst_blk), dstRepStride(dst_rep) {}

  emulator::M16 dstBlkStride{1}, dstRepStride{8};
};

struct GatherRepeatParams {
  GatherRepeatParams() = default;
  GatherRepeatParams(emulator::U8 dst_blk, emulator::U8 dst_rep)
      : dstBlkStride(dst_blk), dstRepStride(dst_rep) {}

  emulator::M8 dstBlkStride{1};
  emulator::M16 dstRepStride{8};
};

struct GatherMaskParams {
  GatherMaskParams() = default;
  GatherMaskParams(emulator::U8 src0_blk, emulator::U16 repeat, emulator::U16 src0_rep,
                   emulator::U8 src1_rep)
      : src0BlockStride(src0_blk),
        repeatTimes(repeat),
        src0RepeatStride(src0_rep),
        src1RepeatStride(src1_rep) {}

  emulator::M8 src0BlockStride{1};
  emulator::M16 repeatTimes, src0RepeatStride{8};
  emulator::M8 src1RepeatStride{8};
};

struct MrgSort4Info {
  MrgSort4Info() = default;
  MrgSort4Info(const uint16_t lengths[4], bool suspend, emulator::U16 valid, emulator::U16 repeat)
      : elementLengths{lengths[0], lengths[1], lengths[2], lengths[3]},
        ifExhaustedSuspension(suspend),
        validBit(valid),
        repeatTimes(emulator::U8(repeat)) {}

  uint16_t elementLengths[4] = {};
  bool ifExhaustedSuspension = false;
  emulator::M16 validBit;
  emulator::M8 repeatTimes{1};
};

// which half of a block 8-bit elements are read from and written to
struct TransDataTo5HDParams {
  constexpr TransDataTo5HDParams() = default;
  constexpr TransDataTo5HDParams(bool dst_high, bool src_high, emulator::U8 repeat,
                                 emulator::U16 dst_rep, emulator::U16 src_rep)
      : dstHighHalf(dst_high),
        srcHighHalf(src_high),
        repeatTimes(repeat),
        dstRepStride(dst_rep),
        srcRepStride(src_rep) {}

  bool dstHighHalf = false, srcHighHalf = false;
  emulator::M8 repeatTimes{1};
  emulator::M16 dstRepStride, srcRepStride;
};

struct TransposeParamsExt {
  constexpr TransposeParamsExt() = default;
  constexpr TransposeParamsExt(emulator::U16 n, emulator::U16 c, emulator::U16 h, emulator::U16 w,
                               TransposeType type)
      : nSize(n), cSize(c), hSize(h), wSize(w), transposeType(type) {}

  emulator::M16 nSize, cSize, hSize, wSize;
  TransposeType transposeType = TransposeType::TRANSPOSE_ND2ND_B16;
};

// scale, offset and signedness of each of 16 columns that are quantised
struct VdeqInfo {
  VdeqInfo() = default;
  VdeqInfo(const float scales[16], const int16_t offsets[16], const bool signs[16]) {
    for (int i = 0; i < 16; ++i) {
      vdeqScale[i] = scales[i];
      vdeqOffset[i] = offsets[i];
      vdeqSignMode[i] = signs[i];
    }
  }

  float vdeqScale[16] = {};
  int16_t vdeqOffset[16] = {};
  bool vdeqSignMode[16] = {};
};

}  // namespace AscendC

#endif  // MOGE_EMULATOR_PARAMS_VECTOR_H_
