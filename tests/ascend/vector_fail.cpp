// Kernels that break a rule of the vector instructions.
#include "must_fail.h"

namespace moge_tests {

namespace {

UB_FAILS("select.no-cmpmask") {
  SetVectorMask<float>(64);
  Select<float, SELMODE::VSEL_CMPMASK_SPR>(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(0), 1,
                                           BinaryRepeatParams());
}
UB_FAILS("select.no-cmpmask address") {
  SetCmpMask(ub.At<uint8_t>(0));
  SetVectorMask<float>(64);
  Select<float, SELMODE::VSEL_TENSOR_TENSOR_MODE>(ub.At<float>(kFree), ub.At<float>(0),
                                                  ub.At<float>(0), 1, BinaryRepeatParams());
}
UB_FAILS("cmp-mask.space") {
  Compare(ub.At<float>(0), ub.At<float>(0), CMPMODE::EQ, 64, BinaryRepeatParams());
  GetCmpMask(ub.At<uint8_t>(32768 - 32));
}
UB_FAILS("cast.int4-pairs") {
  Cast(ub.At<int4b_t>(kFree), ub.At<half>(0), RoundMode::CAST_RINT, 63);
}
UB_FAILS("cast.int4-pairs bits") {
  uint64_t mask[2] = {6, 0};
  Cast(ub.At<int4b_t>(kFree), ub.At<half>(0), RoundMode::CAST_RINT, mask, 1, {1, 1, 2, 8});
}
UB_FAILS("cast.deq-scale dequant") { CastDequant(ub.At<half>(kFree), ub.At<int32_t>(0), 64); }
UB_FAILS("cast.deq-scale add") {
  AddDeqRelu(ub.At<half>(kFree), ub.At<int32_t>(0), ub.At<int32_t>(0), 64);
}
UB_FAILS("overlap.operands fused") {
  FusedMulAdd(ub.At<float>(0), ub.At<float>(32), ub.At<float>(1024), 64);
}

}  // namespace

}  // namespace moge_tests
