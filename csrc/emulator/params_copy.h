// Parameters of copies between global and local memory, and within local memory.
#ifndef MOGE_EMULATOR_PARAMS_COPY_H_
#define MOGE_EMULATOR_PARAMS_COPY_H_

#include "machine.h"

namespace AscendC {

// gaps from the end of one block to the start of the next, lengths and gaps in 32 bytes
struct DataCopyParams {
  DataCopyParams() : DataCopyParams(1, 0, 0, 0) {}
  DataCopyParams(emulator::U16 count, emulator::U16 length, emulator::U16 src_gap,
                 emulator::U16 dst_gap)
      : blockCount(count), blockLen(length), srcStride(src_gap), dstStride(dst_gap) {}

  emulator::M16 blockCount, blockLen;
  union {  // two names of the same
    emulator::M16 srcGap;
    emulator::M16 srcStride;
  };
  union {
    emulator::M16 dstGap;
    emulator::M16 dstStride;
  };
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

  emulator::M16 blockCount{1};
  emulator::M32 blockLen, srcStride, dstStride, rsv;
};

// the value as the bits of an element
struct DataCopyPadParams {
  DataCopyPadParams() = default;
  DataCopyPadParams(bool pad, emulator::U8 left, emulator::U8 right, uint64_t value)
      : isPad(pad), leftPadding(left), rightPadding(right), paddingValue(value) {}

  bool isPad = false;
  emulator::M8 leftPadding, rightPadding;
  uint64_t paddingValue = 0;
};

template <typename T>
struct DataCopyPadExtParams {
  DataCopyPadExtParams() = default;
  DataCopyPadExtParams(bool pad, emulator::U8 left, emulator::U8 right, T value)
      : isPad(pad), leftPadding(left), rightPadding(right), paddingValue(value) {}

  bool isPad = false;
  emulator::M8 leftPadding, rightPadding;
  T paddingValue = 0;
};

// one dimension of a box of elements: from the first to the last, in pieces with gaps between them
struct SliceInfo {
  SliceInfo() = default;
  SliceInfo(emulator::U32 first, emulator::U32 last, emulator::U32 gap, emulator::U32 piece,
            emulator::U32 extent = 0)
      : startIndex(first), endIndex(last), stride(gap), burstLen(piece), shapeValue(extent) {}

  emulator::M32 startIndex, endIndex{31}, stride, burstLen{32}, shapeValue;
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

  emulator::M16 ndNum, nValue, dValue, srcNdMatrixStride, srcDValue, dstNzC0Stride, dstNzNStride,
      dstNzMatrixStride;
};

// and back, from UB: source strides in fractals of 256 elements and in 16 elements, those of the
// destination in elements
struct Nz2NdParamsFull {
  Nz2NdParamsFull() = default;
  Nz2NdParamsFull(emulator::U16 matrices, emulator::U16 rows, emulator::U16 columns,
                  emulator::U16 src_matrix, emulator::U16 src_column, emulator::U16 dst_row,
                  emulator::U16 dst_matrix)
      : ndNum(matrices),
        nValue(rows),
        dValue(columns),
        srcNdMatrixStride(src_matrix),
        srcNStride(src_column),
        dstDStride(dst_row),
        dstNdMatrixStride(dst_matrix) {}

  emulator::M16 ndNum{1}, nValue, dValue, srcNdMatrixStride{1}, srcNStride, dstDStride,
      dstNdMatrixStride{1};
};

// L0C to global memory or to L1
struct DataCopyCO12DstParams {
  DataCopyCO12DstParams() = default;
  DataCopyCO12DstParams(emulator::U16 columns, emulator::U16 rows, emulator::U32 dst_stride,
                        emulator::U16 src_stride, QuantMode_t conversion, emulator::U8 relu,
                        bool split, bool to_rows)
      : nSize(columns),
        mSize(rows),
        dstStride(dst_stride),
        srcStride(src_stride),
        quantPre(conversion),
        reluPre(relu),
        channelSplit(split),
        nz2ndEn(to_rows) {}

  emulator::M8 sid;
  emulator::M16 nSize, mSize;
  emulator::M32 dstStride;
  emulator::M16 srcStride;
  emulator::M8 unitFlag;
  QuantMode_t quantPre = QuantMode_t::NoQuant;
  emulator::M8 reluPre;
  bool channelSplit = false;
  bool nz2ndEn = false;
};

}  // namespace AscendC

#endif  // MOGE_EMULATOR_PARAMS_COPY_H_
