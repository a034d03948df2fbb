// High-level calls: sorting, softmax, activations.
#include "kernel_operator.h"

using namespace AscendC;

static constexpr SoftmaxConfig kShape(true, 32, 64);

// --- sorting ------------------------------------------------------------------------------------

void Offsets(uint32_t count) {
  uint32_t a = GetSortOffset<half>(count);
  uint32_t b = GetSortOffset<float>(32);
  uint32_t c = GetSortLen<half>(count);
  uint32_t d = GetSortLen<float>(128);
  GetSortOffset(count);         // wrong: no type
  GetSortLen(count);            // wrong: no type
  GetSortLen<half>(count, 32);  // wrong: one argument
  GetSortLen<int32_t>(count);   // ours: half and float are what a list holds
  GetSortOffset<int16_t>(32);   // ours: half and float are what a list holds
}

void ConcatForms(LocalTensor<float> list, LocalTensor<float> src, LocalTensor<float> tmp,
                 LocalTensor<half> narrow) {
  Concat(list, src, tmp, 8);
  Concat<float>(list, src, tmp, 8);
  Concat(narrow, narrow, narrow, 255);
  Concat(list, src, 8);          // wrong: no temporary tensor
  Concat(list, src, narrow, 8);  // wrong: two dtypes
  Concat(list[0], src, tmp, 8);  // wrong: the list is an output by reference
  Concat(list, src, tmp);        // wrong: no repeats
}

void SortForms(LocalTensor<float> dst, LocalTensor<float> list, LocalTensor<uint32_t> index,
               LocalTensor<float> tmp, LocalTensor<half> narrow,
               LocalTensor<int32_t> signed_index) {
  Sort<float, true>(dst, list, index, tmp, 4);
  Sort<float, false>(dst, list, index, tmp, 4);
  Sort<half, true>(narrow, narrow, index, narrow, 4);
  Sort<float, true>(dst[64], list[32], index[32], tmp, 1);
  Sort(dst, list, index, tmp, 4);                      // wrong: full or not is a template argument
  Sort<float>(dst, list, index, tmp, 4);               // wrong: full or not is a template argument
  Sort<float, true>(dst, list, signed_index, tmp, 4);  // wrong: dtype of an index
  Sort<float, true>(dst, narrow, index, tmp, 4);       // wrong: two dtypes
  Sort<float, true>(dst, list, index, tmp[0], 4);      // wrong: a temporary tensor by reference
  Sort<float, true>(dst, list, index, 4);              // wrong: no temporary tensor
}

void ExtractForms(LocalTensor<float> value, LocalTensor<uint32_t> index, LocalTensor<float> list,
                  LocalTensor<half> narrow, LocalTensor<int32_t> signed_index) {
  Extract(value, index, list, 4);
  Extract<float>(value, index, list, 4);
  Extract(narrow, index, narrow, 255);
  Extract(value[32], index[32], list[64], 1);
  Extract(value, signed_index, list, 4);  // wrong: dtype of an index
  Extract(value, index, narrow, 4);       // wrong: two dtypes
  Extract(value, index, list);            // wrong: no repeats
  Extract(value, list, 4);                // wrong: no index
}

void MergeForms(LocalTensor<float> dst, LocalTensor<float> a, LocalTensor<float> b,
                LocalTensor<half> narrow) {
  MrgSortSrcList<float> lists(a, b, a, b);
  MrgSortSrcList deduced = MrgSortSrcList(a[0], a[64], a[128], a[192]);
  deduced.src1 = a;
  deduced.src2 = b;
  deduced.src3 = a[32];
  deduced.src4 = b[32];
  const uint16_t lengths[4] = {32, 32, 32, 32};
  uint32_t sorted[4];
  ASSERT(lengths[0] != 0 && "an empty list");
  uint16_t narrow_sorted[4];
  MrgSort<float, false>(dst, lists, lengths, sorted, 0b1111, 1);
  MrgSort<float, true>(dst, lists, lengths, sorted, 0b11, 1);
  MrgSort<float>(dst, deduced, lengths, sorted, 7, 2);
  MrgSort(dst, lists, lengths, sorted, 15, 1);
  MrgSort(dst, lists, lengths, sorted, 15);              // wrong: no repeats
  MrgSort(narrow, lists, lengths, sorted, 15, 1);        // wrong: two dtypes
  MrgSort(dst, lists, lengths, narrow_sorted, 15, 1);    // wrong: dtype of the numbers
  MrgSort<float, true>(dst, a, lengths, sorted, 15, 1);  // wrong: a tensor for the lists
}

// --- TopK ---------------------------------------------------------------------------------------

void TopKForms(LocalTensor<float> value, LocalTensor<int32_t> index, LocalTensor<float> src,
               LocalTensor<bool> finished, LocalTensor<uint8_t> tmp, LocalTensor<half> narrow,
               LocalTensor<uint32_t> unsigned_index, const TopkTiling& tiling) {
  TopKInfo info;
  TopKInfo shape = {4, 32, 17};
  info.outter = 2;
  info.inner = 32;
  info.n = 32;
  TopK(value, index, src, index, finished, tmp, 5, tiling, info);
  TopK<float>(value, index, src, index, finished, tmp, 5, tiling, info, false);
  TopK<float, true>(value, index, src, index, finished, tmp, 5, tiling, shape, true);
  TopK<float, true, true>(value, index, src, index, finished, tmp, 5, tiling, info);
  TopK<float, true, true, false>(value, index, src, index, finished, tmp, 5, tiling, info);
  TopK<half, false, false, false, TopKMode::TOPK_NORMAL>(narrow, index, narrow, index, finished,
                                                         tmp, 5, tiling, info);
  TopK<float, true, false, false, TopKMode::TOPK_NSMALL>(value, index, src, index, finished, tmp, 5,
                                                         tiling, info);
  TopK(value, index, src, index, finished, 5, tiling, info);
  TopK<float>(value, index, src, index, finished, 5, tiling, info, false);
  TopK<half, true, true, false, TopKMode::TOPK_NORMAL>(narrow, index, narrow, index, finished, 5,
                                                       tiling, info);
  TopK<float, false, false, false, TopKMode::TOPK_NSMALL>(value, index, src, index, finished, 5,
                                                          tiling, info, true);
  TopK(value, unsigned_index, src, index, finished, tmp, 5, tiling, info);  // wrong: an index
  TopK(value, index, narrow, index, finished, tmp, 5, tiling, info);        // wrong: two dtypes
  TopK(value, index, src, index, tmp, tmp, 5, tiling, info);       // wrong: not truth values
  TopK(value, index, src, index, finished, src, 5, tiling, info);  // wrong: dtype of tmp
  TopK(value, index, src, index, finished, tmp, 5, info);          // wrong: no tiling
  TopK(value, index, src, index, finished, tmp, 5, tiling);        // wrong: no shape
  TopK<float, true, true, TopKMode::TOPK_NORMAL>(value, index, src, index, finished, 5, tiling,
                                                 info);  // wrong: the mode is the fifth
  TopK<float, 1, 0, 0, TopKMode::TOPK_LARGE>(value, index, src, index, finished, 5, tiling,
                                             info);  // wrong: no such mode
}

// --- softmax ------------------------------------------------------------------------------------

void Shapes(uint32_t rows) {
  SoftMaxShapeInfo none;
  SoftMaxShapeInfo shape = {rows, 64, rows, 63};
  SoftMaxShapeInfo called{32, 64, 32, 64};
  none.srcM = rows;
  none.srcK = 64;
  none.oriSrcM = rows;
  none.oriSrcK = 63;
  SoftmaxConfig one(true);
  SoftmaxConfig three(false, 32, 64);
  SoftmaxConfig four(true, 32, 64, SoftmaxMode::SOFTMAX_NORMAL);
  SoftmaxConfig mode{true, 0, 0, SoftmaxMode::SOFTMAX_OUTPUT_WITHOUT_BRC};
  SoftmaxConfig copied = SOFTMAX_DEFAULT_CFG;
  bool check = copied.isCheckTiling;
  uint32_t sum = copied.oriSrcM + copied.oriSrcK;
  SoftmaxMode how = copied.mode;
  SoftmaxConfig zero;          // wrong: no such constructor
  SoftmaxConfig two(true, 3);  // wrong: no such constructor
}

void SoftMaxForms(LocalTensor<float> dst, LocalTensor<float> block, LocalTensor<float> src,
                  LocalTensor<half> narrow, LocalTensor<uint8_t> tmp, const SoftMaxTiling& tiling,
                  const SoftMaxShapeInfo& shape, const TopkTiling& other) {
  SoftMax(dst, block, block, src, tmp, tiling, shape);
  SoftMax<float>(dst, block, block, src, tmp, tiling, shape);
  SoftMax<float>(dst, block, block, src, tmp, tiling);
  SoftMax<float, false, true>(dst, block, block, src, tmp, tiling, shape);
  SoftMax<float, false, false, true>(dst, block, block, src, tmp, tiling, shape);
  SoftMax<float, false, false, false, kShape>(dst, block, block, src, tmp, tiling, shape);
  SoftMax<half>(narrow, narrow, narrow, narrow, tmp, tiling, shape);
  SoftMax<half>(narrow, block, block, narrow, tmp, tiling, shape);
  SoftMax<half, false, true, false>(narrow, block, block, narrow, tmp, tiling, shape);
  SoftMax<float>(dst, block, block, src, tiling, shape);
  SoftMax<float>(dst, block, block, src, tiling);
  SoftMax<half>(narrow, block, block, narrow, tiling, shape);
  SoftMax<float>(dst, src, tmp, tiling, shape);
  SoftMax<half>(narrow, narrow, tmp, tiling);
  SoftMax<float, false, true>(dst, src, tmp, tiling, shape);
  SoftMax<float, false, false, kShape>(dst, src, tmp, tiling, shape);
  SoftMax<float>(dst, src, tiling, shape);
  SoftMax(dst, src, tiling);
  SoftMax<float>(dst, block, block, src, tmp, tiling, {32, 64, 32, 64});
  SoftMax<float>(dst, block, block, src, tmp, shape);             // wrong: no tiling
  SoftMax<float>(dst, block, block, src, tmp, other, shape);      // wrong: another tiling
  SoftMax<float>(dst, block, block, src, block, tiling, shape);   // wrong: dtype of tmp
  SoftMax<float>(dst, block, block, narrow, tmp, tiling, shape);  // wrong: two dtypes
  SoftMax(narrow, block, block, narrow, tmp, tiling, shape);      // wrong: T cannot be deduced
  SoftMax<float>(dst, block, src, tmp, tiling, shape);            // wrong: no maxima
  SoftMax<float, false, false, true, true>(dst, block, block, src, tiling);  // wrong: a config
}

void SimpleSoftMaxForms(LocalTensor<float> dst, LocalTensor<float> block, LocalTensor<float> src,
                        LocalTensor<half> narrow, LocalTensor<uint8_t> tmp,
                        const SoftMaxTiling& tiling, const SoftMaxShapeInfo& shape) {
  SimpleSoftMax(dst, block, block, src, tmp, tiling, shape);
  SimpleSoftMax<float>(dst, block, block, src, tmp, tiling);
  SimpleSoftMax<float, false, true>(dst, block, block, src, tmp, tiling, shape);
  SimpleSoftMax<float, false, false, true>(dst, block, block, src, tmp, tiling, shape);
  SimpleSoftMax<float, false, false, false, kShape>(dst, block, block, src, tmp, tiling, shape);
  SimpleSoftMax<half>(narrow, narrow, narrow, narrow, tmp, tiling, shape);
  SimpleSoftMax<half>(narrow, block, block, narrow, tmp, tiling, shape);
  SimpleSoftMax<float>(dst, block, block, src, tiling, shape);
  SimpleSoftMax<half>(narrow, block, block, narrow, tiling, shape);
  SimpleSoftMax<float>(dst, src, tmp, tiling, shape);                 // wrong: no sums, no maxima
  SimpleSoftMax<float>(dst, block, narrow, src, tmp, tiling, shape);  // wrong: two dtypes
  SimpleSoftMax<float>(dst, block, block, src, tmp, shape);           // wrong: no tiling
}

void LogSoftMaxForms(LocalTensor<float> dst, LocalTensor<float> block, LocalTensor<float> src,
                     LocalTensor<half> narrow, LocalTensor<uint8_t> tmp,
                     const LogSoftMaxTiling& tiling, const SoftMaxTiling& other,
                     const SoftMaxShapeInfo& shape) {
  LogSoftMax(dst, block, block, src, tmp, tiling, shape);
  LogSoftMax<float>(dst, block, block, src, tmp, tiling);
  LogSoftMax<float, false, true>(dst, block, block, src, tmp, tiling, shape);
  LogSoftMax<half, false>(narrow, narrow, narrow, narrow, tmp, tiling, shape);
  LogSoftMax(dst, block, block, src, tmp, other, shape);  // wrong: another tiling
  LogSoftMax(dst, block, block, src, tiling, shape);      // wrong: no temporary tensor
  LogSoftMax(dst, src, tmp, tiling, shape);               // wrong: no sums, no maxima
  LogSoftMax(narrow, block, block, narrow, tmp, tiling);  // wrong: two dtypes
}

void AdjustForms(LocalTensor<float> result, LocalTensor<float> block, LocalTensor<half> narrow,
                 const SoftMaxShapeInfo& shape) {
  bool found = AdjustSoftMaxRes<float, float>(result, block, 0xFF7FFFFF, 0.0f, shape);
  AdjustSoftMaxRes<half, float>(narrow, block, 0xFF7FFFFF, half(0.0f), shape);
  AdjustSoftMaxRes<half, half>(narrow, narrow, 0xFBFF, half(0.0f), shape);
  AdjustSoftMaxRes<float, half, false, 0>(result, narrow, 0xFBFF, 1.0f, shape);
  AdjustSoftMaxRes<float, float, false, 1>(result, block, 0, 1.0f, shape);
  AdjustSoftMaxRes<float, float, true>(result, block, 0, 1.0f, shape);
  AdjustSoftMaxRes(result, block, 0, 1.0f, shape);
  AdjustSoftMaxRes<float, float>(result, block, 0, shape);         // wrong: no value
  AdjustSoftMaxRes<float, float>(result, 0, 1.0f, shape);          // wrong: no maxima
  AdjustSoftMaxRes<float, float>(result, narrow, 0, 1.0f, shape);  // wrong: T2
}

void FlashForms(LocalTensor<float> dst, LocalTensor<float> block, LocalTensor<float> src,
                LocalTensor<half> narrow, LocalTensor<uint8_t> tmp, const SoftMaxTiling& tiling,
                const SoftMaxShapeInfo& shape) {
  SoftmaxFlash(dst, block, block, src, block, block, block, tmp, tiling, true, shape);
  SoftmaxFlash<float>(dst, block, block, src, block, block, block, tmp, tiling);
  SoftmaxFlash<float, false, true>(dst, block, block, src, block, block, block, tmp, tiling, false,
                                   shape);
  SoftmaxFlash<half>(narrow, block, block, narrow, narrow, block, block, tmp, tiling, true, shape);
  SoftmaxFlash<float>(dst, block, block, src, block, block, block, tiling, true, shape);
  SoftmaxFlash<half>(narrow, block, block, narrow, narrow, block, block, tiling, true, shape);
  SoftmaxFlash<float>(dst, block, block, src, block, block, tmp, tiling, true);  // wrong: no maxima
  SoftmaxFlashV2(dst, block, block, src, block, block, block, tmp, tiling, shape);
  SoftmaxFlashV2<float>(dst, block, block, src, block, block, block, tmp, tiling);
  SoftmaxFlashV2<float, true>(dst, block, block, src, block, block, block, tmp, tiling, shape);
  SoftmaxFlashV2<float, true, true, true>(dst, block, block, src, block, block, block, tmp, tiling,
                                          shape);
  SoftmaxFlashV2<float, true, false, false, true>(dst, block, block, src, block, block, block, tmp,
                                                  tiling, shape);
  SoftmaxFlashV2<float, true, false, false, false, kShape>(dst, block, block, src, block, block,
                                                           block, tmp, tiling, shape);
  SoftmaxFlashV2<half, true>(narrow, narrow, narrow, narrow, narrow, narrow, narrow, tmp, tiling,
                             shape);
  SoftmaxFlashV2<half, true>(narrow, block, block, narrow, narrow, block, block, tmp, tiling,
                             shape);
  SoftmaxFlashV2<float, true>(dst, block, block, src, block, block, block, tiling, shape);
  SoftmaxFlashV2<half, true>(narrow, block, block, narrow, narrow, block, block, tiling, shape);
  SoftmaxFlashV2<half, true>(narrow, block, block, narrow, block, block, block, tmp, tiling,
                             shape);  // wrong: dtype of the factors
  SoftmaxFlashV2<float, true>(dst, block, block, src, block, block, block, tmp, tiling, true,
                              shape);  // wrong: the update is a template argument
  constexpr SoftMaxTiling a = SoftMaxFlashV2TilingFunc({32, 64, 32, 64}, 4, 4, 8192);
  SoftMaxTiling b = SoftMaxFlashV2TilingFunc(shape, 2, 4, 8192, true, false, false, false);
  SoftMaxFlashV2TilingFunc(shape, 4, 4);  // wrong: no memory
}

void GradForms(LocalTensor<float> dst, LocalTensor<float> grad, LocalTensor<float> src,
               LocalTensor<half> narrow, LocalTensor<uint8_t> tmp, const SoftMaxTiling& tiling,
               const SoftMaxShapeInfo& shape) {
  SoftmaxGrad(dst, grad, src, tmp, tiling, false, shape);
  SoftmaxGrad<float>(dst, grad, src, tmp, tiling);
  SoftmaxGrad<float, false, true>(dst, grad, src, tmp, tiling, true, shape);
  SoftmaxGrad<half>(narrow, narrow, narrow, tmp, tiling, true, shape);
  SoftmaxGrad<float>(dst, grad, src, tiling, false, shape);
  SoftmaxGradFront(dst, grad, src, tmp, tiling, shape);
  SoftmaxGradFront<float, true>(dst, grad, src, tmp, tiling, shape);
  SoftmaxGradFront<half, false, true>(narrow, narrow, narrow, tmp, tiling, shape);
  SoftmaxGradFront<float>(dst, grad, src, tiling, shape);
  SoftmaxGrad<float>(dst, grad, src, tmp, tiling, shape);           // wrong: front before the shape
  SoftmaxGrad<float>(dst, narrow, src, tmp, tiling, false, shape);  // wrong: two dtypes
  SoftmaxGradFront<float>(dst, grad, src, tmp, tiling, true, shape);  // wrong: always front
  SoftmaxGradFront<float>(dst, grad, tmp, tiling, shape);             // wrong: no source
}

void Tilings(SoftMaxTiling rows, LogSoftMaxTiling logarithms, TopkTiling topk) {
  uint32_t a = rows.srcM + rows.srcK + rows.srcSize + rows.outMaxM + rows.outMaxK + rows.outMaxSize;
  uint32_t b = rows.splitM + rows.splitK + rows.splitSize + rows.reduceM + rows.reduceK;
  uint32_t c = rows.reduceSize + rows.rangeM + rows.tailM + rows.tailSplitSize;
  uint32_t d = rows.tailReduceSize + logarithms.srcM + logarithms.tailReduceSize;
  int32_t e = topk.tmpLocalSize + topk.allDataSize + topk.innerDataSize + topk.mrgSortRepeat;
  uint32_t f = topk.sortRepeat + topk.copyUbToUbBlockCount;
  int32_t g = topk.kAlignFourBytes + topk.kAlignTwoBytes + topk.maskOffset;
  int32_t h = topk.maskVreducev2FourBytes + topk.maskVreducev2TwoBytes + topk.mrgSortSrc1offset;
  int32_t i = topk.mrgSortSrc2offset + topk.mrgSortSrc3offset + topk.mrgSortTwoQueueSrc1Offset;
  int32_t j = topk.mrgFourQueueTailPara1 + topk.mrgFourQueueTailPara2 + topk.srcIndexOffset;
  int32_t k = topk.topkMrgSrc1MaskSizeOffset + topk.topkNSmallSrcIndexOffset;
  uint32_t l = topk.vreduceValMask0 + topk.vreduceValMask1 + topk.vreduceIdxMask0;
  uint32_t m = topk.vreduceIdxMask1 + topk.vreducehalfValMask0 + topk.vreducehalfValMask1;
  uint16_t n = topk.vreducehalfValMask2 | topk.vreducehalfValMask3 | topk.vreducehalfValMask4;
  uint16_t o = topk.vreducehalfValMask5 | topk.vreducehalfValMask6 | topk.vreducehalfValMask7;
  AscendC::tiling::SoftMaxTiling named = rows;
  AscendC::tiling::LogSoftMaxTiling named_too = logarithms;
  AscendC::tiling::TopkTiling named_last = topk;
}

// --- element by element -------------------------------------------------------------------------

void SigmoidForms(LocalTensor<float> dst, LocalTensor<float> src, LocalTensor<uint8_t> tmp,
                  LocalTensor<half> narrow, LocalTensor<int32_t> whole) {
  Sigmoid(dst, src);
  Sigmoid(dst, src, 32);
  Sigmoid(dst, src, tmp);
  Sigmoid(dst, src, tmp, 32);
  Sigmoid<float>(dst, src, tmp, 32);
  Sigmoid<float, false>(dst, src, 32);
  Sigmoid<half, false>(narrow, narrow);
  Sigmoid(narrow, narrow, tmp, 32);
  Sigmoid(dst, narrow, 32);    // wrong: two dtypes
  Sigmoid(dst, src, dst, 32);  // wrong: dtype of tmp
  Sigmoid(dst, 32);            // wrong: no source
  Sigmoid(whole, whole);       // wrong: dtype
}

void SwishForms(LocalTensor<float> dst, LocalTensor<float> src, LocalTensor<half> narrow,
                LocalTensor<uint8_t> tmp) {
  Silu(dst, src, 512);
  Silu<half>(narrow, narrow, 512);
  Silu<float, false>(dst, src, 512);
  Silu(dst, src);            // wrong: no size
  Silu(dst, narrow, 512);    // wrong: two dtypes
  Silu(dst, src, tmp, 512);  // wrong: no such form
  Swish(dst, src, 32, 1.702f);
  Swish<half>(narrow, narrow, 32, half(1.0f));
  Swish<float, false>(dst, src, 32, -1.702f);
  Swish(dst, src, 32);           // wrong: no factor
  Swish(dst, narrow, 32, 1.0f);  // wrong: two dtypes
}

void GatedForms(LocalTensor<float> dst, LocalTensor<float> a, LocalTensor<float> b,
                LocalTensor<half> narrow, LocalTensor<uint8_t> tmp) {
  SwiGLU(dst, a, b, 1.0f);
  SwiGLU(dst, a, b, 1.0f, 32);
  SwiGLU(dst, a, b, 1.0f, tmp);
  SwiGLU(dst, a, b, 1.0f, tmp, 32);
  SwiGLU<half, false>(narrow, narrow, narrow, 1.0f, tmp, 32);
  SwiGLU<half>(narrow, narrow, narrow, 1.0f);
  SwiGLU(dst[0], a, b, 1.0f, 32);    // wrong: the destination by reference
  SwiGLU(dst, a, narrow, 1.0f, 32);  // wrong: two dtypes
  SwiGLU(dst, a, b, tmp, 32);        // wrong: no factor
  SwiGLU(dst, a, 1.0f, 32);          // wrong: one source
  GeGLU(dst, a, b);
  GeGLU(dst, a, b, 32);
  GeGLU(dst, a, b, tmp);
  GeGLU(dst, a, b, tmp, 32);
  GeGLU<half, false>(narrow, narrow, narrow, tmp, 32);
  GeGLU(dst, a, narrow, 32);  // wrong: two dtypes
  GeGLU(dst, a, 32);          // wrong: one source
}

void GeluForms(LocalTensor<float> dst, LocalTensor<float> src, LocalTensor<half> narrow,
               LocalTensor<uint8_t> tmp) {
  Gelu(dst, src, 32);
  Gelu(dst, src, tmp, 32);
  Gelu<half>(narrow, narrow, 32);
  Gelu<half, true>(narrow, narrow, tmp, 32);
  Gelu<float, false, true>(dst, src, tmp, 32);
  Gelu(dst, src);           // wrong: no size
  Gelu(dst, narrow, 32);    // wrong: two dtypes
  Gelu(dst, src, dst, 32);  // wrong: dtype of tmp
  FasterGelu(dst, src, 32);
  FasterGelu(dst, src, tmp, 32);
  FasterGelu<half, true, false>(narrow, narrow, tmp, 32);
  FasterGelu<half>(narrow, narrow, 32);
  FasterGelu(dst, src);         // wrong: no size
  FasterGelu(dst, narrow, 32);  // wrong: two dtypes
}
