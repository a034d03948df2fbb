// The documented ranges of parameters as data, to be read against the tables of the documents: of
// each structure or call its fields, with the least and the most that they may be. A field that its
// type alone bounds is not here: field.h sees to that. Types, speeds and casts of instructions are
// in instructions.h, sizes of memories in names.h.
#ifndef MOGE_EMULATOR_PARAMETER_LIMITS_H_
#define MOGE_EMULATOR_PARAMETER_LIMITS_H_

#include <cstdint>

// X(structure or call, field, least, most) /* what is no name of the API, or when it holds */
// clang-format off: a table
#define MOGE_LIMITS(X) \
  /* by repeatStride the high-level calls know how many rows they take at once */ \
  X(Repeats, repeatTime, 0, 255) /* vector instructions */ \
  X(Repeats, repeatStride, 0, 255) /* vector instructions */ \
  X(ReduceTensor, repeatTime, 0, INT32_MAX) /* ReduceMax, ReduceMin, ReduceSum */ \
  X(CopyRepeatParams, dstRepeatSize, 0, 4095) \
  X(CopyRepeatParams, srcRepeatSize, 0, 4095) \
  X(Reduce, dstRepStride, 0, 65535) /* reductions */ \
  X(Reduce, srcBlkStride, 0, 65535) /* reductions */ \
  X(Reduce, srcRepStride, 0, 65535) /* reductions */ \
  X(MrgSort4Info, elementLengths, 0, 4095) \
  X(TransposeParamsExt, cSize, 0, 4095) \
  X(TransposeParamsExt, plane, 0, 4095) /* hSize * wSize */ \
  /* DataCopy, DataCopyPad */ \
  X(DataCopyParams, blockCount, 0, 4095) \
  X(DataCopyExtParams, blockLen, 0, 2097151) \
  X(Nd2NzParams, ndNum, 0, 4095) \
  X(Nd2NzParams, nValue, 0, 16384) \
  X(Nd2NzParams, srcDValue, 1, 65535) \
  X(Nd2NzParams, dstNzC0Stride, 1, 16384) \
  X(Nd2NzParams, dstNzNStride, 1, 16384) \
  X(Nd2NzParams, dstNzMatrixStride, 0, 16384) /* into L1 */ \
  X(Nz2NdParamsFull, ndNum, 0, 4095) \
  X(Nz2NdParamsFull, nValue, 1, 8192) \
  X(Nz2NdParamsFull, dValue, 1, 8192) \
  X(Nz2NdParamsFull, srcNdMatrixStride, 1, 512) \
  X(Nz2NdParamsFull, srcNStride, 0, 4096) \
  X(Nz2NdParamsFull, dstDStride, 1, 65535) \
  X(Nz2NdParamsFull, dstNdMatrixStride, 1, 65535) \
  /* into L0 */ \
  X(LoadData2DParams, addrMode, 0, 0) /* from L1 */ \
  X(LoadData3DParamsV2, l1H, 0, 32767) \
  X(LoadData3DParamsV2, l1W, 0, 32767) \
  X(LoadData3DParamsV2, mStartPt, 0, 32767) \
  X(LoadData3DParamsV2, strideW, 1, 63) \
  X(LoadData3DParamsV2, strideH, 1, 63) \
  X(LoadData3DParamsV2, enSmallK, 0, 0) \
  X(LoadData3DParamsV2, fMatrixCtrl, 0, 0) \
  X(SetFmatrix, l1H, 1, 32767) \
  X(SetFmatrix, l1W, 1, 32767) \
  X(SetFmatrix, fmatrixMode, 0, 0) \
  X(LoadDataRepeatParam, repeatMode, 0, 1) \
  X(InitConstValueParams, repeatTimes, 0, 32767) \
  X(InitConstValueParams, blockNum, 0, 32767) \
  X(InitConstValueParams, dstGap, 0, 32767) \
  /* the product and its way out */ \
  X(MmadParams, m, 0, 4095) \
  X(MmadParams, n, 0, 4095) \
  X(MmadParams, k, 0, 4095) \
  X(MmadWithSparse, kDirectionAlign, 0, 0) \
  X(FixpipeParamsV220, nSize, 0, 4095) \
  X(FixpipeParamsV220, mSize, 0, 65535) \
  X(FixpipeParamsV220, srcNdStride, 0, 512) \
  X(FixpipeToRows, mSize, 0, 8192) /* Fixpipe with NZ2ND */ \
  X(DataCopyCO12DstParams, reluPre, 0, 1) \
  X(SetFixpipeNz2ndFlag, ndNum, 1, 65535) \
  X(SetFixpipeNz2ndFlag, srcNdStride, 0, 512) \
  X(FixpipeOfMany, srcNdStride, 1, 512) /* SetFixpipeNz2ndFlag with an ndNum above 1 */ \
  /* tensors and buffers */ \
  X(ShapeInfo, shapeDim, 0, 8) \
  X(ShapeInfo, originalShapeDim, 0, 8) \
  X(InitStartBufHandle, num, 1, 1) /* of a TBuf */ \
  X(TBufPool, bufIDSize, 0, 16) \
  X(TPipe, buffers, 0, 64) \
  X(TQue, allocated, 0, 8) /* tensors of one position at a time */ \
  /* the scalar unit */ \
  X(DataCachePreload, calls, 0, 4) /* one after the other */ \
  /* high-level calls */ \
  X(Sort, repeatTime, 0, 255) \
  X(MrgSort, repeatTime, 1, 255) \
  X(TopKInfo, outter, 1, INT32_MAX) \
  X(TopKInfo, inner, 1, 4096)
// clang-format on

namespace emulator {

struct Limit {
  const char* name;
  int64_t least, most;

  constexpr bool Allows(int64_t value) const { return value >= least && value <= most; }
};

// limits::Nd2NzParams::ndNum and its like
#define MOGE_LIMIT(call, field, least, most)         \
  namespace limits::call {                           \
  inline constexpr Limit field{#field, least, most}; \
  }
MOGE_LIMITS(MOGE_LIMIT)
#undef MOGE_LIMIT

// Refuses a parameter outside its documented range.
void CheckRange(const Limit& limit, int64_t value);
// The same for a number of repeats, which has a rule of its own.
void CheckRepeat(const Limit& limit, int64_t repeat);

}  // namespace emulator

#endif  // MOGE_EMULATOR_PARAMETER_LIMITS_H_
