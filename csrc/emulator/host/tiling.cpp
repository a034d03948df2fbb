// Sizes of temporary memory and tilings, as the kernel side of each call needs them.
#include "tiling/high_level.h"

namespace ge {

int64_t Shape::GetShapeSize() const {
  int64_t size = 1;
  for (const int64_t dim : dims_) size *= dim;
  return dims_.empty() ? 0 : size;
}

}  // namespace ge

namespace AscendC {

using emulator::RowTmpBytes;
using emulator::RowUse;

namespace {

// All axes but the last together are the rows.
struct Matrix {
  explicit Matrix(const TensorShape& shape) {
    const std::vector<int64_t> dims = shape.GetDims();
    if (dims.empty() || shape.GetShapeSize() <= 0) return;
    columns = static_cast<uint32_t>(dims.back());
    rows = static_cast<uint32_t>(shape.GetShapeSize() / dims.back());
  }
  uint32_t rows = 0, columns = 0;
};

// A shape with sums and maxima of float may have data of half: they need more.
uint32_t Least(RowUse use, const TensorShape& shape) {
  const Matrix matrix(shape);
  return static_cast<uint32_t>(RowTmpBytes(use, 1, matrix.columns, true));
}
uint32_t Most(RowUse use, const TensorShape& shape) {
  const Matrix matrix(shape);
  const uint64_t bytes = RowTmpBytes(use, std::clamp(matrix.rows, 1u, 248u), matrix.columns, true);
  return static_cast<uint32_t>(bytes);
}

tiling::SoftMaxTiling Tile(RowUse use, const TensorShape& shape, uint32_t bytes, uint32_t block,
                           uint32_t tmp_bytes) {
  const Matrix matrix(shape);
  return emulator::TileRows(use, matrix.rows, matrix.columns, bytes, block, tmp_bytes);
}

template <typename Class, typename Struct>
void SetRows(Class& to, const Struct& from) {
#define MOGE_SET(type, name) to.set_##name(from.name);
  MOGE_SOFTMAX_TILING(MOGE_SET)
#undef MOGE_SET
}
template <typename Struct>
void CopyRows(Struct& to, const tiling::SoftMaxTiling& from) {
#define MOGE_COPY(type, name) to.name = from.name;
  MOGE_SOFTMAX_TILING(MOGE_COPY)
#undef MOGE_COPY
}

}  // namespace

// --- sorting ------------------------------------------------------------------------------------

uint32_t GetConcatTmpSize(const platform_ascendc::PlatformAscendC&, const uint32_t,
                          const uint32_t) {
  return 0;  // on A2 a list to sort is the scores themselves
}

uint32_t GetSortTmpSize(const platform_ascendc::PlatformAscendC&, const uint32_t elemCount,
                        const uint32_t) {
  return emulator::SortTmpBytes(elemCount);
}

void GetSortMaxMinTmpSize(const TensorShape& srcShape, TensorDataType, TensorDataType, bool,
                          const SortConfig&, uint32_t& maxValue, uint32_t& minValue) {
  maxValue = minValue = emulator::SortTmpBytes(static_cast<uint32_t>(srcShape.GetShapeSize()));
}

bool GetTopKMaxMinTmpSize(const platform_ascendc::PlatformAscendC&, const int32_t inner,
                          const int32_t outter, const bool, const bool isInitIndex,
                          enum TopKMode mode, const bool isLargest, const uint32_t dataTypeSize,
                          uint32_t& maxValue, uint32_t& minValue) {
  if (inner <= 0 || inner % 32 != 0 || outter <= 0) return false;
  if (dataTypeSize != 2 && dataTypeSize != 4) return false;
  maxValue = minValue =
      emulator::TopKTmpBytes(static_cast<uint32_t>(inner), static_cast<uint32_t>(outter),
                             isInitIndex, mode == TopKMode::TOPK_NSMALL, isLargest, dataTypeSize);
  return true;
}

bool TopKTilingFunc(const platform_ascendc::PlatformAscendC& ascendcPlatform, const int32_t inner,
                    const int32_t outter, const int32_t k, const uint32_t dataTypeSize,
                    const bool isInitIndex, enum TopKMode mode, const bool isLargest,
                    AscendC::tiling::TopkTiling& topKTiling) {
  uint32_t most = 0, least = 0;
  if (!GetTopKMaxMinTmpSize(ascendcPlatform, inner, outter, false, isInitIndex, mode, isLargest,
                            dataTypeSize, most, least)) {
    return false;
  }
  topKTiling = {};
  topKTiling.tmpLocalSize = static_cast<int32_t>(least / dataTypeSize);
  topKTiling.allDataSize = inner * outter;
  topKTiling.innerDataSize = inner;
  topKTiling.sortRepeat = static_cast<uint32_t>(inner) / 32;
  topKTiling.kAlignFourBytes = emulator::RoundUp(k, 8);
  topKTiling.kAlignTwoBytes = emulator::RoundUp(k, 16);
  return true;
}

bool TopKTilingFunc(const platform_ascendc::PlatformAscendC& ascendcPlatform, const int32_t inner,
                    const int32_t outter, const int32_t k, const uint32_t dataTypeSize,
                    const bool isInitIndex, enum TopKMode mode, const bool isLargest,
                    optiling::TopkTiling& topKTiling) {
  tiling::TopkTiling plain;
  if (!TopKTilingFunc(ascendcPlatform, inner, outter, k, dataTypeSize, isInitIndex, mode, isLargest,
                      plain)) {
    return false;
  }
#define MOGE_SET(type, name) topKTiling.set_##name(plain.name);
  MOGE_TOPK_TILING(MOGE_SET)
#undef MOGE_SET
  return true;
}

// --- softmax ------------------------------------------------------------------------------------

uint32_t GetSoftMaxMaxTmpSize(const TensorShape& srcShape, const uint32_t, const bool) {
  return Most(RowUse::kSoftMax, srcShape);
}
uint32_t GetSoftMaxMinTmpSize(const TensorShape& srcShape, const uint32_t, const bool) {
  return Least(RowUse::kSoftMax, srcShape);
}
void SoftMaxTilingFunc(const TensorShape& srcShape, const uint32_t dataTypeSize,
                       const uint32_t localWorkSpaceSize,
                       AscendC::tiling::SoftMaxTiling& softmaxTiling) {
  softmaxTiling = Tile(RowUse::kSoftMax, srcShape, dataTypeSize, dataTypeSize, localWorkSpaceSize);
}
void SoftMaxTilingFunc(const TensorShape& srcShape, const uint32_t dataTypeSize,
                       const uint32_t localWorkSpaceSize, optiling::SoftMaxTiling& softmaxTiling) {
  SetRows(softmaxTiling,
          Tile(RowUse::kSoftMax, srcShape, dataTypeSize, dataTypeSize, localWorkSpaceSize));
}

uint32_t GetLogSoftMaxMaxTmpSize(const TensorShape srcShape, const uint32_t, const bool) {
  return Most(RowUse::kSoftMax, srcShape);
}
uint32_t GetLogSoftMaxMinTmpSize(const TensorShape srcShape, const uint32_t, const bool) {
  return Least(RowUse::kSoftMax, srcShape);
}
void LogSoftMaxTilingFunc(const TensorShape srcShape, const uint32_t dataTypeSize,
                          const uint32_t localWorkSpaceSize,
                          AscendC::tiling::LogSoftMaxTiling& softmaxTiling) {
  CopyRows(softmaxTiling,
           Tile(RowUse::kSoftMax, srcShape, dataTypeSize, dataTypeSize, localWorkSpaceSize));
}
void LogSoftMaxTilingFunc(const TensorShape srcShape, const uint32_t dataTypeSize,
                          const uint32_t localWorkSpaceSize,
                          optiling::LogSoftMaxTiling& softmaxTiling) {
  SetRows(softmaxTiling,
          Tile(RowUse::kSoftMax, srcShape, dataTypeSize, dataTypeSize, localWorkSpaceSize));
}

uint32_t GetSoftMaxFlashMaxTmpSize(const TensorShape& srcShape, const uint32_t, const bool,
                                   const bool) {
  return Most(RowUse::kFlash, srcShape);
}
uint32_t GetSoftMaxFlashMinTmpSize(const TensorShape& srcShape, const uint32_t, const bool,
                                   const bool) {
  return Least(RowUse::kFlash, srcShape);
}
void SoftMaxFlashTilingFunc(const TensorShape& srcShape, const uint32_t dataTypeSize,
                            const uint32_t localWorkSpaceSize,
                            AscendC::tiling::SoftMaxTiling& softmaxFlashTiling, const bool) {
  softmaxFlashTiling =
      Tile(RowUse::kFlash, srcShape, dataTypeSize, dataTypeSize, localWorkSpaceSize);
}
void SoftMaxFlashTilingFunc(const TensorShape& srcShape, const uint32_t dataTypeSize,
                            const uint32_t localWorkSpaceSize,
                            optiling::SoftMaxTiling& softmaxFlashTiling, const bool) {
  SetRows(softmaxFlashTiling,
          Tile(RowUse::kFlash, srcShape, dataTypeSize, dataTypeSize, localWorkSpaceSize));
}

uint32_t GetSoftMaxFlashV2MinTmpSize(const TensorShape& srcShape, const uint32_t, const uint32_t,
                                     const bool, const bool, const bool) {
  return Least(RowUse::kFlash, srcShape);
}
uint32_t GetSoftMaxFlashV2MaxTmpSize(const TensorShape& srcShape, const uint32_t, const uint32_t,
                                     const bool, const bool, const bool) {
  return Most(RowUse::kFlash, srcShape);
}
void SoftMaxFlashV2TilingFunc(const TensorShape& srcShape, const uint32_t dataTypeSize1,
                              const uint32_t dataTypeSize2, const uint32_t localWorkSpaceSize,
                              AscendC::tiling::SoftMaxTiling& softmaxFlashTiling, const bool,
                              const bool, const bool) {
  softmaxFlashTiling =
      Tile(RowUse::kFlash, srcShape, dataTypeSize1, dataTypeSize2, localWorkSpaceSize);
}
void SoftMaxFlashV2TilingFunc(const TensorShape& srcShape, const uint32_t dataTypeSize1,
                              const uint32_t dataTypeSize2, const uint32_t localWorkSpaceSize,
                              optiling::SoftMaxTiling& softmaxFlashTiling, const bool, const bool,
                              const bool) {
  SetRows(softmaxFlashTiling,
          Tile(RowUse::kFlash, srcShape, dataTypeSize1, dataTypeSize2, localWorkSpaceSize));
}

uint32_t GetSoftMaxGradMaxTmpSize(const TensorShape& srcShape, const uint32_t, const bool,
                                  const bool) {
  return Most(RowUse::kGrad, srcShape);
}
uint32_t GetSoftMaxGradMinTmpSize(const TensorShape& srcShape, const uint32_t, const bool,
                                  const bool) {
  return Least(RowUse::kGrad, srcShape);
}
void SoftMaxGradTilingFunc(const TensorShape& srcShape, const uint32_t dataTypeSize,
                           const uint32_t localWorkSpaceSize,
                           AscendC::tiling::SoftMaxTiling& softmaxGradTiling, const bool) {
  softmaxGradTiling = Tile(RowUse::kGrad, srcShape, dataTypeSize, dataTypeSize, localWorkSpaceSize);
}
void SoftMaxGradTilingFunc(const TensorShape& srcShape, const uint32_t dataTypeSize,
                           const uint32_t localWorkSpaceSize,
                           optiling::SoftMaxTiling& softmaxGradTiling, const bool) {
  SetRows(softmaxGradTiling,
          Tile(RowUse::kGrad, srcShape, dataTypeSize, dataTypeSize, localWorkSpaceSize));
}

bool IsBasicBlockInSoftMax(AscendC::tiling::SoftMaxTiling& tiling, const uint32_t dataTypeSize) {
  return emulator::IsBasicBlock(tiling.srcM, tiling.srcK, dataTypeSize);
}
bool IsBasicBlockInSoftMax(optiling::SoftMaxTiling& tiling, const uint32_t dataTypeSize) {
  return emulator::IsBasicBlock(tiling.get_srcM(), tiling.get_srcK(), dataTypeSize);
}

// --- element by element -------------------------------------------------------------------------

void GetSigmoidMaxMinTmpSize(const TensorShape&, const uint32_t, bool, uint32_t& maxValue,
                             uint32_t& minValue) {
  maxValue = minValue = emulator::kOnesBytes;
}
void GetSiluTmpSize(const TensorShape&, const uint32_t, const bool, uint32_t& maxValue,
                    uint32_t& minValue) {
  maxValue = minValue = 0;
}
void GetSwishTmpSize(const TensorShape&, const uint32_t, const bool, uint32_t& maxValue,
                     uint32_t& minValue) {
  maxValue = minValue = 0;
}
void GetSwiGLUMaxMinTmpSize(const TensorShape&, const uint32_t, uint32_t& maxValue,
                            uint32_t& minValue, const bool) {
  maxValue = minValue = 0;
}
void GetGeGLUMaxMinTmpSize(const TensorShape&, const uint32_t, const bool, uint32_t& maxValue,
                           uint32_t& minValue) {
  maxValue = minValue = 0;
}

uint32_t GetGeluMaxTmpSize(const TensorShape& srcShape, const uint32_t typeSize) {
  const auto bytes = static_cast<uint32_t>(srcShape.GetShapeSize()) * typeSize;
  return std::max(emulator::RoundUp(bytes, emulator::kGeluBytes), emulator::kGeluBytes);
}
uint32_t GetGeluMinTmpSize(const TensorShape&, const uint32_t) { return emulator::kGeluBytes; }
void GetGeluMaxMinTmpSize(const TensorShape& srcShape, const uint32_t typeSize, uint32_t& maxValue,
                          uint32_t& minValue) {
  maxValue = GetGeluMaxTmpSize(srcShape, typeSize);
  minValue = GetGeluMinTmpSize(srcShape, typeSize);
}

}  // namespace AscendC
