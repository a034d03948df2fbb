// Transposing: right calls of every form, and their mistakes.
#include "kernel_operator.h"

using namespace AscendC;

void Squares(LocalTensor<half> dst, LocalTensor<half> src, LocalTensor<int16_t> narrow,
             LocalTensor<uint16_t> bits, LocalTensor<float> wide, LocalTensor<int8_t> bytes) {
  Transpose(dst, src);
  Transpose<half>(dst, src);
  Transpose(narrow, narrow);
  Transpose<uint16_t>(bits, bits[256]);
  Transpose(dst, narrow);           // wrong
  Transpose(dst);                   // wrong
  Transpose(dst, src, 16);          // wrong
  Transpose<half, half>(dst, src);  // wrong
  Transpose(wide, wide);            // ours: 16 bits
  Transpose(bytes, bytes);          // ours: 16 bits
}

void Formats(LocalTensor<half> dst, LocalTensor<half> src, LocalTensor<uint8_t> tmp,
             LocalTensor<int8_t> bytes, LocalTensor<int16_t> narrow, LocalTensor<uint16_t> bits,
             LocalTensor<int32_t> whole, LocalTensor<uint32_t> words, LocalTensor<float> wide,
             LocalTensor<int64_t> large, TransposeParamsExt params) {
  Transpose(dst, src, tmp, params);
  Transpose<half>(dst, src, tmp, TransposeParamsExt());
  Transpose(dst, src, tmp, {1, 3, 4, 4, TransposeType::TRANSPOSE_NCHW2NHWC});
  Transpose(bytes, bytes, tmp, params);
  Transpose(tmp, tmp, tmp, params);
  Transpose(narrow, narrow, tmp, params);
  Transpose(bits, bits, tmp, params);
  Transpose(whole, whole, tmp, params);
  Transpose(words, words, tmp, params);
  Transpose(wide, wide, tmp, params);
  Transpose(dst, src, bytes, params);                // wrong
  Transpose(dst, src, params);                       // wrong
  Transpose(dst, wide, tmp, params);                 // wrong
  Transpose(dst, src, tmp, TransDataTo5HDParams());  // wrong
  Transpose(large, large, tmp, params);              // wrong
}

void FormatParameters(uint16_t size) {
  TransposeParamsExt params;
  params.nSize = 1;
  params.cSize = size;
  params.hSize = 4;
  params.wSize = 4;
  params.transposeType = TransposeType::TRANSPOSE_NCHW2NHWC;
  params.transposeType = TransposeType::TRANSPOSE_NHWC2NCHW;
  params.transposeType = TransposeType::TRANSPOSE_ND2ND_B16;
  params.transposeType = TransposeType::TRANSPOSE_TYPE_NONE;
  TransposeParamsExt all(1, size, 4, 4, TransposeType::TRANSPOSE_NHWC2NCHW);
  TransposeParamsExt without_type(1, 3, 4, 4);  // wrong
  TransposeParamsExt number(1, 3, 4, 4, 11);    // wrong
  params.transposeType = 11;                    // wrong
  params.dSize = 4;                             // wrong
}

void Blocks(LocalTensor<half> tensor, LocalTensor<int8_t> bytes, LocalTensor<float> wide,
            LocalTensor<uint64_t> addresses, LocalTensor<int64_t> signed_addresses,
            TransDataTo5HDParams params) {
  uint64_t dst[16];
  uint64_t src[NCHW_CONV_ADDR_LIST_SIZE];
  LocalTensor<half> dst_list[16];
  LocalTensor<half> src_list[16];
  LocalTensor<float> wide_list[16];
  LocalTensor<half> short_list[8];
  LocalTensor<int64_t> large_list[16];
  dst[0] = (uint64_t)(tensor[16].GetPhyAddr());
  src[0] = reinterpret_cast<uint64_t>(bytes.GetPhyAddr());
  src[1] = (uint64_t)wide.GetPhyAddr(8);
  TransDataTo5HD<half>(dst, src, params);
  TransDataTo5HD<int8_t>(dst, src, {true, false, 1, 0, 0});
  TransDataTo5HD<uint8_t>(dst, src, params);
  TransDataTo5HD<int16_t>(dst, src, params);
  TransDataTo5HD<uint16_t>(dst, src, params);
  TransDataTo5HD<int32_t>(dst, src, TransDataTo5HDParams());
  TransDataTo5HD<uint32_t>(dst, src, params);
  TransDataTo5HD<float>(dst, src, params);
  TransDataTo5HD<half>(dst_list, src_list, params);
  TransDataTo5HD(dst_list, src_list, params);
  TransDataTo5HD(wide_list, wide_list, params);
  TransDataTo5HD<int8_t>(addresses, addresses, params);
  TransDataTo5HD<half>(addresses, addresses, TransDataTo5HDParams(false, false, 16, 16, 1));
  TransDataTo5HD(dst, src, params);                                  // wrong
  TransDataTo5HD(addresses, addresses, params);                      // wrong
  TransDataTo5HD<half>(dst_list, wide_list, params);                 // wrong
  TransDataTo5HD<float>(dst_list, src_list, params);                 // wrong
  TransDataTo5HD(dst_list, short_list, params);                      // wrong
  TransDataTo5HD<half>(dst, src_list, params);                       // wrong
  TransDataTo5HD<half>(dst, src);                                    // wrong
  TransDataTo5HD<half>(signed_addresses, signed_addresses, params);  // wrong
  TransDataTo5HD<half>(tensor, tensor, params);                      // wrong
  TransDataTo5HD(large_list, large_list, params);                    // wrong
}

void BlockParameters(TransDataTo5HDParams params) {
  params.dstHighHalf = true;
  params.srcHighHalf = false;
  params.repeatTimes = 16;
  params.dstRepStride = 16;
  params.srcRepStride = 1;
  TransDataTo5HDParams four(false, false, 16, 16);  // wrong
  params.repeatTime = 16;                           // wrong
}
