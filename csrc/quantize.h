// What the launches that quantise rows share.
#ifndef MOGE_CSRC_QUANTIZE_H_
#define MOGE_CSRC_QUANTIZE_H_

#include "../ascend_kernels/quantize/quantize_tiling.h"
#include "ops.h"

namespace moge {

// Tiles of rows [N, I] that become integers. Raises ValueError for sizes that do not fit.
QuantizeTiling QuantizeRowsTiling(const char* op, int64_t N, int64_t I, DType dtype);
// The same, as planes of four bits: I must be even.
QuantizeTiling QuantizePlanesTiling(const char* op, int64_t N, int64_t I, DType dtype);

}  // namespace moge

#endif  // MOGE_CSRC_QUANTIZE_H_
