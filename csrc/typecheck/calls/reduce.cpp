// Reductions: right calls of every form, and their mistakes.
#include "kernel_operator.h"

using namespace AscendC;

using Half = LocalTensor<half>;
using Float = LocalTensor<float>;

// --- of each repeat ------------------------------------------------------------------------------

void RepeatByMask(Half dst, Half src, Float wide_dst, Float wide, Half& by_reference) {
  ReduceRepeat<ReduceType::SUM>(dst, src, 128, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::MAX>(dst, src, 128, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::MIN>(wide_dst, wide, 64, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::SUM, half>(dst, src, 128, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::MAX, half, half>(dst, src, 128, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::MIN, float, float, true>(wide_dst, wide, 64, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::SUM, float, float, false>(wide_dst, wide, MASK_PLACEHOLDER, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::SUM>(dst[16], by_reference[128], 128, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::SUM>(dst, src, 128u, uint8_t(4), uint16_t(1), uint32_t(1), int64_t(8));
  ReduceRepeat<ReduceType::SUM, float, true>(wide_dst, wide, 64, 4, 1, 1, 8);  // wrong
  ReduceRepeat<ReduceType::SUM, half, false>(dst, src, 0, 4, 1, 1, 8);         // wrong
  ReduceRepeat<half>(dst, src, 128, 4, 1, 1, 8);                               // wrong
  ReduceRepeat(dst, src, 128, 4, 1, 1, 8);                                     // wrong
  ReduceRepeat<ReduceType::SUM>(dst, src, 128, 4, 1, 1);                       // wrong
  ReduceRepeat<ReduceType::SUM, float>(dst, src, 128, 4, 1, 1, 8);             // wrong
}

void RepeatByBits(Half dst, Half src, Float wide_dst, Float wide, const uint64_t* pointer) {
  uint64_t bits[2] = {~uint64_t{0}, ~uint64_t{0}};
  const uint64_t fixed[2] = {1, 2};
  ReduceRepeat<ReduceType::SUM>(dst, src, bits, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::MAX>(dst, src, fixed, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::MIN>(wide_dst, wide, pointer, 4, 1, 1, 8);
  ReduceRepeat<ReduceType::MAX, half, half, true>(dst, src, bits, 4, 1, 1, 8,
                                                  ReduceOrder::ORDER_ONLY_VALUE);
  int32_t narrow[2] = {1, 2};
  ReduceRepeat<ReduceType::SUM>(dst, src, narrow, 4, 1, 1, 8);  // wrong
}

void OrdersOfTheResult(Half dst, Half src) {
  ReduceRepeat<ReduceType::MAX>(dst, src, 128, 4, 1, 1, 8, ReduceOrder::ORDER_VALUE_INDEX);
  ReduceRepeat<ReduceType::MAX>(dst, src, 128, 4, 1, 1, 8, ReduceOrder::ORDER_INDEX_VALUE);
  ReduceRepeat<ReduceType::MIN>(dst, src, 128, 4, 1, 1, 8, ReduceOrder::ORDER_ONLY_VALUE);
  ReduceRepeat<ReduceType::MIN>(dst, src, 128, 4, 1, 1, 8, ReduceOrder::ORDER_ONLY_INDEX);
  ReduceRepeat<ReduceType::SUM>(dst, src, 128, 4, 1, 1, 8, ReduceOrder::ORDER_ONLY_VALUE);
  ReduceRepeat<ReduceType::MAX>(dst, src, 128, 4, 1, 1, 8, ReduceOrder::ORDER_NOTHING);  // wrong
  ReduceRepeat<ReduceType::MAX>(dst, src, 128, 4, 1, 1, 8, 2);                           // wrong
  ReduceRepeat<ReduceType::AVERAGE>(dst, src, 128, 4, 1, 1, 8);                          // wrong
}

void RepeatOfOtherTypes(LocalTensor<int32_t> whole, LocalTensor<int16_t> narrow,
                        LocalTensor<bfloat16_t> brain, Half half_tensor, Float wide) {
  ReduceRepeat<ReduceType::SUM>(whole, whole, 64, 1, 1, 1, 8);       // ours: half and float
  ReduceRepeat<ReduceType::MAX>(narrow, narrow, 128, 1, 1, 1, 8);    // ours: half and float
  ReduceRepeat<ReduceType::MAX>(brain, brain, 128, 1, 1, 1, 8);      // ours: half and float
  ReduceRepeat<ReduceType::SUM>(wide, half_tensor, 64, 1, 1, 1, 8);  // wrong
}

void WholeReduce(Half dst, Half src, Float wide_dst, Float wide) {
  uint64_t bits[2] = {1, 0};
  WholeReduceSum(dst, src, 128, 4, 1, 1, 8);
  WholeReduceSum<half>(dst, src, bits, 4, 1, 1, 8);
  WholeReduceSum<float, false>(wide_dst, wide, MASK_PLACEHOLDER, 4, 1, 1, 8);
  WholeReduceMax(dst, src, 128, 4, 1, 1, 8);
  WholeReduceMax<float, true>(wide_dst, wide, 64, 4, 1, 1, 8, ReduceOrder::ORDER_ONLY_INDEX);
  WholeReduceMax(dst, src, bits, 4, 1, 1, 8, ReduceOrder::ORDER_INDEX_VALUE);
  WholeReduceMin(dst, src, 128, 4, 1, 1, 8);
  WholeReduceMin<half, false>(dst, src, bits, 4, 1, 1, 8);
  WholeReduceMin(wide_dst, wide, bits, 4, 1, 1, 8, ReduceOrder::ORDER_ONLY_VALUE);
  WholeReduceSum(dst, src, 128, 4, 1, 1, 8, ReduceOrder::ORDER_ONLY_VALUE);  // wrong
  WholeReduceSum<false>(dst, src, 128, 4, 1, 1, 8);                          // wrong
  WholeReduceMax<half, half>(dst, src, 128, 4, 1, 1, 8);                     // wrong
  WholeReduceSum(dst, wide, 64, 4, 1, 1, 8);                                 // wrong
  WholeReduceMax(dst, wide, 64, 4, 1, 1, 8);                                 // wrong
  WholeReduceMin(dst, wide, 64, 4, 1, 1, 8);                                 // wrong
}

void RepeatSum(Half dst, Half src, Float wide_dst, Float wide) {
  uint64_t bits[2] = {1, 0};
  RepeatReduceSum(dst, src, 4, 128, 0, 1, 1, 8);
  RepeatReduceSum<half>(dst, src, 4, 128, 0, 1, 1, 8);
  RepeatReduceSum<float, false>(wide_dst, wide, 4, MASK_PLACEHOLDER, 0, 1, 1, 8);
  RepeatReduceSum(dst, src, 4, bits, 0, 1, 1, 8);      // wrong
  RepeatReduceSum(dst, src, 4, 128, 1, 1, 8);          // wrong
  RepeatReduceSum(wide_dst, src, 4, 128, 0, 1, 1, 8);  // wrong
}

// --- of blocks and of pairs ----------------------------------------------------------------------

void DataBlocks(Half dst, Half src, Float wide_dst, Float wide, LocalTensor<int32_t> whole) {
  uint64_t bits[2] = {1, 0};
  ReduceDataBlock<ReduceType::SUM>(dst, src, 128, 1, 1, 1, 8);
  ReduceDataBlock<ReduceType::MAX>(dst, src, bits, 1, 1, 1, 8);
  ReduceDataBlock<ReduceType::MIN, half>(dst, src, 128, 1, 1, 1, 8);
  ReduceDataBlock<ReduceType::SUM, float, float>(wide_dst, wide, bits, 1, 1, 1, 8);
  ReduceDataBlock<ReduceType::SUM, float, float, false>(wide_dst, wide, MASK_PLACEHOLDER, 1, 1, 1,
                                                        8);
  ReduceDataBlock<ReduceType::SUM, float, false>(wide_dst, wide, 64, 1, 1, 1, 8);  // wrong
  ReduceDataBlock(dst, src, 128, 1, 1, 1, 8);                                      // wrong
  ReduceDataBlock<ReduceType::SUM>(dst, src, 128, 1, 1, 1, 8,
                                   ReduceOrder::ORDER_ONLY_VALUE);  // wrong
  ReduceDataBlock<ReduceType::SUM>(whole, whole, 64, 1, 1, 1, 8);   // ours: half and float
  ReduceDataBlock<ReduceType::SUM>(wide_dst, src, 64, 1, 1, 1, 8);  // wrong
  BlockReduceSum(dst, src, 1, 128, 1, 1, 8);
  BlockReduceSum<half, false>(dst, src, 1, MASK_PLACEHOLDER, 1, 1, 8);
  BlockReduceSum<float>(wide_dst, wide, 1, bits, 1, 1, 8);
  BlockReduceMax(dst, src, 1, 128, 1, 1, 8);
  BlockReduceMax<float, true>(wide_dst, wide, 1, bits, 1, 1, 8);
  BlockReduceMin(dst, src, 1, bits, 1, 1, 8);
  BlockReduceMin<float>(wide_dst, wide, 1, 64, 1, 1, 8);
  BlockReduceSum(dst, src, bits, 1, 1, 1, 8);  // wrong
  BlockReduceMax(dst, wide, 1, 64, 1, 1, 8);   // wrong
  BlockReduceMin(wide, 1, 64, 1, 1, 8);        // wrong
}

void Pairs(Half dst, Half src, Float wide_dst, Float wide) {
  uint64_t bits[2] = {1, 0};
  ReducePairElem<ReduceType::SUM>(dst, src, 128, 1, 1, 1, 8);
  ReducePairElem<ReduceType::SUM>(dst, dst, 128, 1, 1, 1, 8);
  ReducePairElem<ReduceType::SUM, float>(wide_dst, wide, bits, 1, 1, 1, 8);
  ReducePairElem<ReduceType::SUM, half, half, false>(dst, src, MASK_PLACEHOLDER, 1, 1, 1, 8);
  ReducePairElem<ReduceType::SUM, half, true>(dst, src, 128, 1, 1, 1, 8);  // wrong
  ReducePairElem(dst, src, 128, 1, 1, 1, 8);                               // wrong
  ReducePairElem<ReduceType::MAX>(dst, src, 128, 1, 1, 1, 8);              // wrong
  ReducePairElem<ReduceType::SUM>(wide_dst, src, 64, 1, 1, 1, 8);          // wrong
  PairReduceSum(dst, src, 1, 128, 1, 1, 8);
  PairReduceSum<half>(dst, src, 1, bits, 1, 1, 8);
  PairReduceSum<float, false>(wide_dst, wide, 1, MASK_PLACEHOLDER, 1, 1, 8);
  PairReduceSum(dst, src, bits, 1, 1, 1, 8);     // wrong
  PairReduceSum(wide_dst, src, 1, 64, 1, 1, 8);  // wrong
}

// --- of a whole tensor ---------------------------------------------------------------------------

void SumOfATensor(Half dst, Half src, Half tmp, Float wide, LocalTensor<int32_t> whole) {
  uint64_t bits[2] = {1, 0};
  const int32_t count = 288;
  ReduceSum(dst, src, tmp, 288);
  ReduceSum(dst, src, tmp, count);
  ReduceSum<half>(dst, src, tmp, 288);
  ReduceSum<half, false>(dst, src, tmp, 1);
  ReduceSum<float, true>(wide, wide, wide, 64u);
  ReduceSum(dst, src, tmp, 128, 65, 8);
  ReduceSum<half>(dst, src, tmp, bits, 65, 8);
  ReduceSum<float>(wide, wide, wide, 64, 300, 8);
  ReduceSum(dst, src, 288);                           // wrong
  ReduceSum(dst, src, wide, 288);                     // wrong
  ReduceSum(dst, src, tmp, 288, true);                // wrong
  ReduceSum(dst, src, tmp, 128, 65, 8, true);         // wrong
  ReduceSum<half, false>(dst, src, tmp, 128, 65, 8);  // wrong
  ReduceSum(whole, whole, whole, 64);                 // ours: half and float
}

void ExtremeOfATensor(Half dst, Half src, Half tmp, Float wide, LocalTensor<int32_t> whole) {
  uint64_t bits[2] = {1, 0};
  ReduceMax(dst, src, tmp, 288);
  ReduceMax(dst, src, tmp, 288, true);
  ReduceMax<half>(dst, src, src, 288, false);
  ReduceMax(dst, src, tmp, 128, 4, 8);
  ReduceMax<half>(dst, src, tmp, 128, 4, 8, true);
  ReduceMax(wide, wide, wide, bits, 4, 8, true);
  ReduceMin(dst, src, tmp, 288);
  ReduceMin<float>(wide, wide, wide, 288, true);
  ReduceMin(dst, src, tmp, 128, 4, 8);
  ReduceMin<half>(dst, src, tmp, bits, 4, 8, false);
  ReduceMin(dst, src, tmp, bits, 4, 8, 1);
  ReduceMax(dst, src, 288);                   // wrong
  ReduceMax(dst, wide, tmp, 288);             // wrong
  ReduceMin(dst, src, tmp);                   // wrong
  ReduceMin<half, true>(dst, src, tmp, 288);  // wrong
  ReduceMax(dst, src, tmp, bits, 4);          // wrong
  ReduceMax(whole, whole, whole, 64);         // ours: half and float
  ReduceMin(whole, whole, whole, 64);         // ours: half and float
}

void ResultsInRegisters(half value, half index, float wide, float wide_index, int32_t whole) {
  half sum = GetReduceRepeatSumSpr<half>();
  float other = GetReduceRepeatSumSpr<float>();
  GetReduceRepeatMaxMinSpr<half>(value, index);
  GetReduceRepeatMaxMinSpr(wide, wide_index);
  sum = GetAccVal<half>();
  other = GetAccVal<float>();
  GetReduceMaxMinCount<float>(wide, wide_index);
  GetReduceMaxMinCount(value, index);
  GetReduceRepeatSumSpr();                      // ours: of which type
  GetAccVal();                                  // ours: of which type
  GetReduceRepeatSumSpr<half>(value);           // wrong
  GetReduceRepeatMaxMinSpr<half>(wide, index);  // wrong
  GetReduceRepeatMaxMinSpr(value, wide);        // wrong
  GetReduceRepeatMaxMinSpr<half>(1, index);     // wrong
  GetReduceRepeatMaxMinSpr<half>(value);        // ours: of another chip
  GetReduceMaxMinCount<float>(wide);            // ours: of another chip
  GetReduceMaxMinCount(wide, whole);            // wrong
}
