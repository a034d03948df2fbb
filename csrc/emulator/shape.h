// ShapeInfo, which a tensor can carry, for DumpTensor and for the kernel itself.
#ifndef MOGE_EMULATOR_SHAPE_H_
#define MOGE_EMULATOR_SHAPE_H_

#include <algorithm>

#include "machine.h"

namespace AscendC {

inline constexpr int32_t K_MAX_DIM = emulator::limits::ShapeInfo::shapeDim.most;

struct ShapeInfo {
  ShapeInfo() = default;
  ShapeInfo(uint8_t dims, const uint32_t sizes[], uint8_t original_dims,
            const uint32_t original_sizes[], DataFormat format)
      : shapeDim(std::min<uint8_t>(dims, K_MAX_DIM)),
        originalShapeDim(std::min<uint8_t>(original_dims, K_MAX_DIM)),
        dataFormat(format) {
    emulator::CheckRange(emulator::limits::ShapeInfo::shapeDim, dims);
    emulator::CheckRange(emulator::limits::ShapeInfo::originalShapeDim, original_dims);
    for (int i = 0; i < shapeDim; ++i) shape[i] = sizes[i];
    for (int i = 0; i < originalShapeDim; ++i) originalShape[i] = original_sizes[i];
  }
  ShapeInfo(uint8_t dims, const uint32_t sizes[], DataFormat format)
      : ShapeInfo(dims, sizes, dims, sizes, format) {}
  ShapeInfo(uint8_t dims, const uint32_t sizes[]) : ShapeInfo(dims, sizes, DataFormat::ND) {}

  uint8_t shapeDim = 0, originalShapeDim = 0;
  uint32_t shape[K_MAX_DIM] = {}, originalShape[K_MAX_DIM] = {};
  DataFormat dataFormat = DataFormat::ND;
};

inline int GetShapeSize(const ShapeInfo& info) {
  uint32_t size = 1;
  for (int i = 0; i < info.shapeDim; ++i) size *= info.shape[i];
  return static_cast<int>(size);
}

}  // namespace AscendC

namespace emulator {

// Tensors are copied all the time, and few have a shape: they keep a number for it.
int32_t KeepShape(const AscendC::ShapeInfo& shape);
AscendC::ShapeInfo FindShape(int32_t number);

}  // namespace emulator

#endif  // MOGE_EMULATOR_SHAPE_H_
