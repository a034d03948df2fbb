// Kernels that break a rule of reductions, gathering, sorting or transposing.
#include "must_fail.h"

namespace moge_tests {

namespace {

constexpr uint32_t kEnd = 32768;

// --- reductions ----------------------------------------------------------------------------------

UB_FAILS("overlap.operands pairs") {
  ReducePairElem<ReduceType::SUM>(ub.At<float>(384), ub.At<float>(0), 64, 2, 1, 1, 8);
}
UB_FAILS("overlap.operands blocks") {
  ReduceDataBlock<ReduceType::MAX>(ub.At<float>(0), ub.At<float>(0), 64, 2, 8, 1, 0);
}
UB_FAILS("reduce.tmp-size sum") {
  ReduceSum(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(kEnd - 32), 64, 9, 8);
}
// with 8 repeats of half 16 elements of the first level and 2 of the second, each in a block
UB_FAILS("reduce.tmp-size second-level") {
  ReduceMax(ub.At<half>(kFree), ub.At<half>(0), ub.At<half>(kEnd - 32), 128, 8, 8, true);
}
// with 33 repeats of float 66 elements, 4 and 2
UB_FAILS("reduce.tmp-size third-level") {
  ReduceMin(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(kEnd - 320), 64, 33, 8, true);
}
UB_FAILS("overlap.operands tmp") {
  ReduceMax(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(256), 64, 4, 8);
}
UB_FAILS("local.poison tmp") {
  ReduceMax(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(kFree + 32), 64, 4, 8);
  Adds(ub.At<float>(kFree + 1024), ub.At<float>(kFree + 32), 1.0f, 8);
}
UB_FAILS("local.poison source-as-tmp") {
  ReduceMax(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(0), 64);
  Adds(ub.At<float>(kFree + 1024), ub.At<float>(0), 1.0f, 8);
}
UB_FAILS("address.alignment reduce-index") {
  ReduceMax(ub.At<float>(kFree + 4), ub.At<float>(0), ub.At<float>(kFree + 32), 64, true);
}
UB_FAILS("repeat.range reduce") {
  ReduceSum(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(kFree + 32), 64, -1, 8);
}
UB_FAILS("reduce.result") { GetReduceRepeatSumSpr<float>(); }
UB_FAILS("reduce.result repeats") {
  ReduceSum(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(kFree + 32), 64, 2, 8);
  GetReduceRepeatSumSpr<float>();
}
UB_FAILS("reduce.result type") {
  ReduceSum(ub.At<float>(kFree), ub.At<float>(0), ub.At<float>(kFree), 64);
  GetReduceRepeatSumSpr<half>();
}
UB_FAILS("reduce.result extreme") {
  float value, index;
  ReduceRepeat<ReduceType::SUM>(ub.At<float>(kFree), ub.At<float>(0), 64, 1, 1, 1, 8);
  GetReduceRepeatMaxMinSpr<float>(value, index);
}
UB_FAILS("reduce.result strided") {
  float value, index;
  ReduceRepeat<ReduceType::MAX>(ub.At<float>(kFree), ub.At<float>(0), 64, 1, 1, 1, 8);
  ReduceRepeat<ReduceType::MAX>(ub.At<float>(kFree), ub.At<float>(0), 64, 2, 1, 1, 16);
  GetReduceRepeatMaxMinSpr<float>(value, index);
}
UB_FAILS("reduce.result counter-mode") {
  float value, index;
  SetMaskCount();
  SetVectorMask<float, MaskMode::COUNTER>(0, 64);
  WholeReduceMax<float, false>(ub.At<float>(kFree), ub.At<float>(0), 64, 1, 1, 1, 8);
  GetReduceRepeatMaxMinSpr<float>(value, index);
}
MUST_FAIL("static.api-list tmp") {
  InitSocState();
  LocalTensor<float> tensor(TPosition::VECCALC, 0, 256);
  Duplicate(tensor, 1.0f, 64);
  ReduceMax(tensor[64], tensor, tensor[128], 64);
}

// --- gathering and sorting -----------------------------------------------------------------------

// the second repeat starts again where the first one put its elements
UB_FAILS("overlap.operands gather-mask in place") {
  uint64_t taken = 0;
  GatherMask(ub.At<float>(0), ub.At<float>(0), 7, false, 0, {1, 2, 0, 0}, taken);
}
UB_FAILS("local.uninitialised carried") {
  Brcb(ub.At<float>(kFree + 1024), ub.At<float>(kFree), 1, {1, 8});
  Adds(ub.At<float>(0), ub.At<float>(kFree + 1024), 1.0f, 8);
}
UB_FAILS("local.uninitialised gathered") {
  uint64_t taken = 0;
  GatherMask(ub.At<float>(kFree + 1024), ub.At<float>(kFree), 7, false, 0, {1, 1, 8, 0}, taken);
  Adds(ub.At<float>(0), ub.At<float>(kFree + 1024), 1.0f, 8);
}
UB_FAILS("local.uninitialised score") {
  Sort32(ub.At<float>(0), ub.At<float>(kFree), ub.At<uint32_t>(4096), 1);
}
UB_FAILS("overlap.operands merge-repeats") {
  auto list = ub.At<float>(128);
  const uint16_t lengths[4] = {1, 1, 1, 1};
  MrgSort(ub.At<float>(544), {list, list[2], list[4], list[6]}, {lengths, false, 15, 16});
}

// --- transposing ---------------------------------------------------------------------------------

UB_FAILS("overlap.operands transpose") { Transpose(ub.At<half>(32), ub.At<half>(0)); }
UB_FAILS("overlap.operands format") {
  Transpose(ub.At<half>(0), ub.At<half>(0), ub.At<uint8_t>(kFree),
            {1, 2, 4, 4, TransposeType::TRANSPOSE_NCHW2NHWC});
}
UB_FAILS("overlap.operands format-tmp") {
  Transpose(ub.At<half>(kFree), ub.At<half>(0), ub.At<uint8_t>(32),
            {1, 2, 4, 4, TransposeType::TRANSPOSE_NCHW2NHWC});
}
UB_FAILS("transpose.params") {
  Transpose(ub.At<half>(kFree), ub.At<half>(0), ub.At<uint8_t>(kFree + 1024),
            {1, 2, 3, 5, TransposeType::TRANSPOSE_NCHW2NHWC});
}
UB_FAILS("transpose.params channels") {
  Transpose(ub.At<half>(kFree), ub.At<half>(0), ub.At<uint8_t>(kFree + 1024),
            {0, 4096, 4, 4, TransposeType::TRANSPOSE_NHWC2NCHW});
}
UB_FAILS("transpose.params square") {
  Transpose(ub.At<uint16_t>(kFree), ub.At<uint16_t>(0), ub.At<uint8_t>(kFree + 1024),
            {0, 0, 16, 8, TransposeType::TRANSPOSE_ND2ND_B16});
}
UB_FAILS("transpose.params type") {
  Transpose(ub.At<half>(kFree), ub.At<half>(0), ub.At<uint8_t>(kFree + 1024),
            {0, 0, 16, 16, TransposeType::TRANSPOSE_ND2ND_B16});
}
// (2 + 2) * 16 * 32 bytes are needed
UB_FAILS("transpose.tmp-size") {
  Transpose(ub.At<half>(kFree), ub.At<half>(0), ub.At<uint8_t>(kEnd - 2016),
            {1, 2, 4, 4, TransposeType::TRANSPOSE_NCHW2NHWC});
}
// (2 * 2 + 1) * 16 * 32
UB_FAILS("transpose.tmp-size back") {
  Transpose(ub.At<half>(kFree), ub.At<half>(0), ub.At<uint8_t>(kEnd - 2528),
            {1, 2, 4, 4, TransposeType::TRANSPOSE_NHWC2NCHW});
}
UB_FAILS("local.poison transpose-tmp") {
  Transpose(ub.At<half>(kFree), ub.At<half>(0), ub.At<uint8_t>(kFree + 1024),
            {1, 2, 4, 4, TransposeType::TRANSPOSE_NCHW2NHWC});
  Adds(ub.At<float>(0), ub.At<float>(kFree + 1024), 1.0f, 8);
}

// Addresses of 16 blocks, `step` bytes apart.
void Fill(uint64_t (&list)[16], uint64_t first, uint64_t step = 32) {
  for (int i = 0; i < 16; ++i) list[i] = first + i * step;
}

UB_FAILS("transpose.address") {
  uint64_t dst[16], src[16];
  Fill(dst, 196608);
  Fill(src, ub.At<half>(0).GetPhyAddr());
  TransDataTo5HD<half>(dst, src, TransDataTo5HDParams());
}
UB_FAILS("address.alignment blocks") {
  uint64_t dst[16], src[16];
  Fill(dst, ub.At<half>(kFree).GetPhyAddr());
  Fill(src, ub.At<half>(2).GetPhyAddr());
  TransDataTo5HD<half>(dst, src, TransDataTo5HDParams());
}
UB_FAILS("local.bounds blocks") {
  LocalTensor<half> dst[16], src[16];
  for (int i = 0; i < 16; ++i) {
    dst[i] = ub.At<half>(kFree + 32 * i);
    src[i] = ub.At<half>(kEnd - 32);
  }
  TransDataTo5HD<half>(dst, src, {false, false, 1, 0, 1});
}
UB_FAILS("overlap.operands blocks-shifted") {
  uint64_t dst[16], src[16];
  Fill(dst, ub.At<half>(256).GetPhyAddr());
  Fill(src, ub.At<half>(0).GetPhyAddr());
  TransDataTo5HD<half>(dst, src, TransDataTo5HDParams());
}
// the first repeat writes what the second one reads
UB_FAILS("overlap.operands blocks-repeat") {
  uint64_t dst[16], src[16];
  Fill(dst, ub.At<half>(512).GetPhyAddr());
  Fill(src, ub.At<half>(0).GetPhyAddr());
  TransDataTo5HD<half>(dst, src, {false, false, 2, 16, 16});
}
MUST_FAIL("static.api-list addresses") {
  InitSocState();
  LocalTensor<uint64_t> list(TPosition::VECCALC, 0, 16);
  for (int i = 0; i < 16; ++i) list.SetValue(i, 1024 + 32 * i);
  TransDataTo5HD<half>(list, list, TransDataTo5HDParams());
}

}  // namespace

}  // namespace moge_tests
