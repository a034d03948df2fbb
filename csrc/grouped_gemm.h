// What the launches of grouped products share.
#ifndef MOGE_CSRC_GROUPED_GEMM_H_
#define MOGE_CSRC_GROUPED_GEMM_H_

#include "../ascend_kernels/grouped_gemm/grouped_gemm_tiling.h"
#include "ops.h"

namespace moge {

// Raises ValueError for sizes that a field of the kernels cannot hold.
void CheckGemm(const char* op, const GemmShape& shape);
// What the cube multiplies for bytes and four bits, in bytes: each row of the result is two of it.
GemmShape PlanesOf(const char* op, const GemmShape& shape);
// Sizes of one expert's result and the depth that is summed over; 0 for the ragged one.
GroupedGemmTiling GemmTiling(const GemmShape& shape, int64_t rows, int64_t columns, int64_t depth);
// Cores for a result that has `rows` rows over all experts; a tile is at least 16 columns wide.
int64_t GemmBlocks(int64_t rows, int64_t experts, int64_t columns, Cores cores);

}  // namespace moge

#endif  // MOGE_CSRC_GROUPED_GEMM_H_
