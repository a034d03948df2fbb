// Sorting: right calls of every form, and their mistakes.
#include "kernel_operator.h"

using namespace AscendC;

void OfThirtyTwo(LocalTensor<float> dst, LocalTensor<float> score, LocalTensor<uint32_t> index,
                 LocalTensor<half> narrow, LocalTensor<int32_t> whole, int32_t repeat) {
  Sort32(dst, score, index, 4);
  Sort32<float>(dst, score, index, repeat);
  Sort32(narrow, narrow, index, 1);
  Sort32<half>(narrow, narrow[32], index[32], uint8_t(1));
  Sort32(dst, score, whole, 4);                // wrong
  Sort32(dst, narrow, index, 4);               // wrong
  Sort32(dst, score, index);                   // wrong
  Sort32(dst, score, 4);                       // wrong
  Sort32<float, float>(dst, score, index, 4);  // wrong
  Sort32(whole, whole, index, 4);              // ours: half and float
}

void OfLists(LocalTensor<float> dst, LocalTensor<float> a, LocalTensor<half> narrow,
             LocalTensor<int32_t> whole) {
  const uint16_t lengths[4] = {32, 32, 32, 32};
  uint16_t own[4] = {32, 32, 32, 32};
  MrgSort4Info info(lengths, false, 15, 1);
  MrgSort4Info other(own, true, 0b11, 1);
  MrgSortSrcList<float> lists(a, a[64], a[128], a[192]);
  MrgSort(dst, lists, info);
  MrgSort<float>(dst, lists, other);
  MrgSort(dst, MrgSortSrcList<float>(a, a, a, a), MrgSort4Info(own, false, 7, 1));
  MrgSort<float>(dst, {a, a, a, a}, {lengths, false, 15, 1});
  MrgSort(narrow, MrgSortSrcList<half>(narrow, narrow, narrow, narrow), info);
  MrgSort(narrow, lists, info);  // wrong
  MrgSort(dst, a, info);         // wrong
  MrgSort(dst, lists);           // wrong
  MrgSort(dst, lists, lengths);  // wrong
  MrgSort(whole, MrgSortSrcList<int32_t>(whole, whole, whole, whole),
          info);  // ours: half and float
}

void SourceLists(LocalTensor<float> a, LocalTensor<half> narrow) {
  MrgSortSrcList<float> lists;
  lists.src1 = a;
  lists.src2 = a[64];
  lists.src3 = a[128];
  lists.src4 = a[192];
  MrgSortSrcList<float> three(a, a, a);          // wrong
  MrgSortSrcList<float> mixed(a, a, a, narrow);  // wrong
  lists.src5 = a;                                // wrong
  lists.src1 = narrow;                           // wrong
}

void Parameters(uint16_t length, uint16_t* pointer) {
  MrgSort4Info info;
  info.elementLengths[0] = 32;
  info.elementLengths[3] = length;
  info.ifExhaustedSuspension = true;
  info.validBit = 0b1111;
  info.repeatTimes = 2;
  MrgSort4Info by_pointer(pointer, true, 15, length);
  MrgSort4Info three(pointer, true, 15);  // wrong
  MrgSort4Info no_list(32, true, 15, 1);  // wrong
  info.elementLength[0] = 32;             // wrong
}

void HowMuchWasTaken(uint16_t a, uint16_t b, uint16_t c, uint16_t d, uint32_t wide) {
  GetMrgSortResult(a, b, c, d);
  GetMrgSortResult(a, b, c);        // wrong
  GetMrgSortResult(a, b, c, wide);  // wrong
  GetMrgSortResult(a, b, c, 4);     // wrong
}
