// What the launches of the expert layer share.
#ifndef MOGE_CSRC_GROUPED_MLP_H_
#define MOGE_CSRC_GROUPED_MLP_H_

#include "../ascend_kernels/grouped_mlp/grouped_mlp_tiling.h"
#include "ops.h"

namespace moge {

// Raises ValueError for sizes that a field of the kernels cannot hold.
void CheckMlp(const char* op, const MlpShape& shape);
// All phases have the same cores: those that the largest one can use.
int64_t MlpBlocks(const MlpShape& shape);
// Sizes of a layer of at least one row, all but its options.
GroupedMlpTiling MlpTiling(const MlpShape& shape);

// What stands between the products, for MlpTiling's sizes.
void Choose(GroupedMlpTiling& tiling, const ActivationTiling& activation, bool biased);

}  // namespace moge

#endif  // MOGE_CSRC_GROUPED_MLP_H_
