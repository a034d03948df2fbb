// Shapes and options of the softmax family.
#ifndef MOGE_EMULATOR_ADV_SOFTMAX_TYPES_H_
#define MOGE_EMULATOR_ADV_SOFTMAX_TYPES_H_

#include "adv/sizes.h"
#include "adv/tiling_data.h"

namespace AscendC {

enum class SoftmaxMode { SOFTMAX_NORMAL = 0, SOFTMAX_OUTPUT_WITHOUT_BRC = 1 };

struct SoftmaxConfig {
  constexpr SoftmaxConfig(const bool check) : isCheckTiling(check) {}
  constexpr SoftmaxConfig(const bool check, const uint32_t rows, const uint32_t columns,
                          const SoftmaxMode how = SoftmaxMode::SOFTMAX_NORMAL)
      : isCheckTiling(check), oriSrcM(rows), oriSrcK(columns), mode(how) {}

  bool isCheckTiling = true;
  uint32_t oriSrcM = 0;
  uint32_t oriSrcK = 0;
  SoftmaxMode mode = SoftmaxMode::SOFTMAX_NORMAL;
};
inline constexpr SoftmaxConfig SOFTMAX_DEFAULT_CFG = {true, 0, 0, SoftmaxMode::SOFTMAX_NORMAL};

struct SoftMaxShapeInfo {
  uint32_t srcM = 0;
  uint32_t srcK = 0;
  uint32_t oriSrcM = 0;
  uint32_t oriSrcK = 0;
};

}  // namespace AscendC

namespace emulator {

constexpr bool IsBasicBlock(uint32_t rows, uint32_t columns, uint32_t element_bytes) {
  return rows != 0 && rows % 8 == 0 && columns % 64 == 0 && columns < 2048 &&
         columns * element_bytes >= 256;
}

// `block`: the bytes of an element of the sums and maxima
constexpr SoftMaxTiling TileRows(RowUse use, uint32_t rows, uint32_t columns, uint32_t bytes,
                                 uint32_t block, uint32_t tmp_bytes) {
  SoftMaxTiling tiling;
  const uint32_t at_once =
      std::max(RowsAtOnce(use, tmp_bytes, rows, columns, bytes == 2), uint32_t{1});
  tiling.srcM = rows;
  tiling.srcK = columns;
  tiling.srcSize = rows * columns;
  tiling.outMaxM = rows;
  tiling.outMaxK = 32 / block;
  tiling.outMaxSize = rows * tiling.outMaxK;
  tiling.splitM = tiling.reduceM = at_once;
  tiling.splitK = columns;
  tiling.splitSize = at_once * columns;
  tiling.reduceK = tiling.outMaxK;
  tiling.reduceSize = at_once * tiling.reduceK;
  tiling.rangeM = rows / at_once;
  tiling.tailM = rows % at_once;
  tiling.tailSplitSize = tiling.tailM * columns;
  tiling.tailReduceSize = tiling.tailM * tiling.reduceK;
  return tiling;
}

}  // namespace emulator

#endif  // MOGE_EMULATOR_ADV_SOFTMAX_TYPES_H_
