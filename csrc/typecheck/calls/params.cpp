// Parameter structs: every constructor, members and their conversions.
#include "kernel_operator.h"

using namespace AscendC;

enum Number { kThree = 3 };

void Narrow(int i, uint32_t u, uint64_t wide, size_t size, bool flag, float f, Number number,
            LocalTensor<int32_t> tensor, DataCopyExtParams other, GlobalTensor<int64_t> global) {
  DataCopyParams params(i, u, wide, size);
  params.blockCount = i;
  params.blockLen = u;
  params.srcStride = wide * 2;
  params.dstStride = size / 32;
  params.blockLen = number;
  params.blockLen = kThree;
  params.blockLen = f;
  params.blockLen = flag;
  params.blockLen = tensor.GetValue(0);
  params.blockLen = tensor(0);
  params.blockLen = other.blockLen;
  params.blockCount = params.blockLen;
  params.blockCount = params.blockLen = 3;
  params.blockLen += 2;
  params.blockLen -= u;
  params.blockLen *= 2;
  params.blockLen /= 2;
  params.blockLen %= 8;
  params.blockLen <<= 1;
  params.blockLen >>= 1;
  params.blockLen &= 7;
  params.blockLen |= 8;
  params.blockLen ^= 1;
  params.blockLen++;
  ++params.blockLen;
  params.blockLen--;
  --params.blockLen;
  i = params.blockLen;
  i = params.blockLen * i + params.blockCount;
  i = flag ? params.blockLen : 0;
  u = flag ? params.blockLen : u;
  u = flag ? params.blockLen : params.blockCount;
  wide = static_cast<uint64_t>(params.blockLen) * 32;
  flag = params.blockLen == 3 && params.blockLen < params.blockCount && params.blockLen != u;
  flag = !params.blockLen;
  uint16_t plain = params.blockLen;
  auto same = params.blockLen;
  DataCopyParams from_members(params.blockCount, other.blockLen, other.srcStride, 0);
  DataCopyParams from_others(number, tensor(0), f, global(0));
  DataCopyParams listed = {1, 2, 3, 4};
  DataCopyParams cast = {static_cast<uint16_t>(i), static_cast<uint16_t>(u), 0, 0};
  DataCopyParams narrowed = {i, u, 0, 0};   // theirs: narrowing of a variable in a list
  params.blockLen = tensor;                 // wrong
  params.blockLen = nullptr;                // wrong
  params.blockLen = CMPMODE::LT;            // wrong: a class
  DataCopyParams tensors(tensor, 1, 1, 1);  // wrong
}

void Unary() {
  UnaryRepeatParams none;
  UnaryRepeatParams four(1, 1, 8, 8);
  UnaryRepeatParams five(1, 1, 8, 8, true);
  UnaryRepeatParams braced{1, 1, 8, 8};
  UnaryRepeatParams three(1, 1, 8);            // wrong
  UnaryRepeatParams six(1, 1, 8, 8, true, 1);  // wrong
  none.dstBlkStride = 1;
  none.srcBlkStride = 1;
  none.dstRepStride = 8;
  none.srcRepStride = 8;
  none.halfBlock = false;
  none.src0BlkStride = 1;                        // wrong
  UnaryRepeatParams list = {.dstBlkStride = 1};  // wrong: not an aggregate
}

void Binary() {
  BinaryRepeatParams none;
  BinaryRepeatParams six(1, 1, 1, 8, 8, 8);
  BinaryRepeatParams braced{1, 1, 1, 8, 8, 8};
  BinaryRepeatParams four(1, 1, 8, 8);  // wrong
  none.dstBlkStride = 1;
  none.src0BlkStride = 1;
  none.src1BlkStride = 1;
  none.dstRepStride = 8;
  none.src0RepStride = 8;
  none.src1RepStride = 8;
  none.srcBlkStride = 1;  // wrong
}

void Others() {
  CopyRepeatParams copy;
  CopyRepeatParams copy_four(1, 1, 8, 8);
  CopyRepeatParams copy_two(1, 1);  // wrong
  copy.dstStride = 1;
  copy.srcStride = 1;
  copy.dstRepeatSize = 8;
  copy.srcRepeatSize = 8;
  BrcbRepeatParams brcb;
  BrcbRepeatParams brcb_two(1, 8);
  BrcbRepeatParams brcb_three(1, 8, 8);  // wrong
  brcb.dstBlkStride = 1;
  brcb.dstRepStride = 8;
  GatherRepeatParams gather;
  GatherRepeatParams gather_two(1, 8);
  GatherRepeatParams gather_one(1);  // wrong
  gather.dstBlkStride = 1;
  gather.dstRepStride = 8;
  GatherMaskParams mask;
  GatherMaskParams mask_four(1, 1, 8, 8);
  GatherMaskParams mask_three(1, 1, 8);  // wrong
  mask.src0BlockStride = 1;
  mask.repeatTimes = 1000;
  mask.src0RepeatStride = 8;
  mask.src1RepeatStride = 0;
}

void Sorting(uint16_t* pointer) {
  uint16_t lengths[4] = {4, 4, 4, 4};
  MrgSort4Info none;
  MrgSort4Info four(lengths, false, 15, 1);
  MrgSort4Info from_pointer(pointer, true, 3, 1);
  MrgSort4Info braced{lengths, false, 15, 1};
  MrgSort4Info list({4, 4, 4, 4}, false, 15, 1);  // wrong: a list is no pointer
  MrgSort4Info two(lengths, false);               // wrong
  none.elementLengths[0] = 32;
  none.ifExhaustedSuspension = true;
  none.validBit = 0b1111;
  none.repeatTimes = 1;
}

void Transposing() {
  TransDataTo5HDParams none;
  TransDataTo5HDParams five(false, true, 1, 0, 0);
  TransDataTo5HDParams braced{false, true, 1, 0, 0};
  TransDataTo5HDParams four(false, true, 1, 0);  // wrong
  none.dstHighHalf = true;
  none.srcHighHalf = true;
  none.repeatTimes = 4;
  none.dstRepStride = 16;
  none.srcRepStride = 1;
  TransposeParamsExt shape;
  TransposeParamsExt shape_five(1, 16, 16, 16, TransposeType::TRANSPOSE_NCHW2NHWC);
  TransposeParamsExt shape_four(1, 16, 16, 16);  // wrong
  shape.nSize = 1;
  shape.cSize = 16;
  shape.hSize = 16;
  shape.wSize = 16;
  shape.transposeType = TransposeType::TRANSPOSE_ND2ND_B16;
}

void Dequantising(float* scales, int16_t* offsets, bool* signs) {
  VdeqInfo none;
  VdeqInfo three(scales, offsets, signs);
  VdeqInfo two(scales, offsets);  // wrong
  none.vdeqScale[0] = 1;
  none.vdeqOffset[15] = 1;
  none.vdeqSignMode[0] = true;
}

void Copying() {
  DataCopyParams none;
  DataCopyParams four(1, 8, 0, 0);
  DataCopyParams three(1, 8, 0);  // wrong
  none.srcGap = 1;
  none.dstGap = 1;
  none.srcStride = 1;
  none.dstStride = 1;
  none.blockCount = 4095;
  DataCopyExtParams ext;
  DataCopyExtParams ext_five(1, 20, 0, 0, 0);
  DataCopyExtParams ext_list = {1, 20, 0, 0, 0};
  DataCopyExtParams ext_four(1, 20, 0, 0);  // wrong
  ext.blockCount = 1;
  ext.blockLen = 20;
  ext.srcStride = 0;
  ext.dstStride = 0;
  ext.rsv = 0;
  ext.srcGap = 0;  // wrong
  none = ext;      // wrong: another struct
}

void Padding(half value) {
  DataCopyPadParams bits;
  DataCopyPadParams bits_four(true, 1, 2, 0x3f80);
  DataCopyPadParams bits_three(true, 1, 2);  // wrong
  bits.isPad = true;
  bits.leftPadding = 1;
  bits.rightPadding = 2;
  bits.paddingValue = 3;
  DataCopyPadExtParams<half> ext;
  DataCopyPadExtParams<half> ext_four(true, 0, 2, value);
  DataCopyPadExtParams<half> ext_number(true, 0, 2, 0);
  DataCopyPadExtParams<half> ext_list{true, 0, 2, 0};
  DataCopyPadExtParams<bfloat16_t> ext_short(true, 0, 2, 0);
  DataCopyPadExtParams<float> ext_float = {true, 0, 2, 0.5f};
  DataCopyPadExtParams<half> ext_three(true, 0, 2);  // wrong
  ext.isPad = true;
  ext.leftPadding = 1;
  ext.rightPadding = 2;
  ext.paddingValue = 3;
}

void Slices() {
  SliceInfo none;
  SliceInfo four(0, 31, 0, 32);
  SliceInfo five(0, 31, 0, 32, 128);
  SliceInfo array[] = {{16, 70, 7, 3, 87}, {0, 2, 1, 1, 3}};
  SliceInfo three(0, 31, 0);  // wrong
  none.startIndex = 0;
  none.endIndex = 31;
  none.stride = 1;
  none.burstLen = 1;
  none.shapeValue = 128;
}

void RowsAndFractals() {
  Nd2NzParams to;
  Nd2NzParams to_eight(1, 16, 32, 0, 32, 16, 1, 0);
  Nd2NzParams to_list = {1, 16, 32, 0, 32, 16, 1, 0};
  Nd2NzParams to_seven(1, 16, 32, 0, 32, 16, 1);  // wrong
  to.ndNum = 1;
  to.nValue = 16;
  to.dValue = 32;
  to.srcNdMatrixStride = 0;
  to.srcDValue = 32;
  to.dstNzC0Stride = 16;
  to.dstNzNStride = 1;
  to.dstNzMatrixStride = 0;
  Nz2NdParamsFull from;
  Nz2NdParamsFull from_seven(1, 32, 32, 1, 32, 32, 1);
  Nz2NdParamsFull from_eight(1, 32, 32, 1, 32, 32, 1, 1);  // wrong
  from.ndNum = 1;
  from.nValue = 32;
  from.dValue = 32;
  from.srcNdMatrixStride = 1;
  from.srcNStride = 32;
  from.dstDStride = 32;
  from.dstNdMatrixStride = 1;
  from.dstNzC0Stride = 1;  // wrong
}

void Results() {
  DataCopyCO12DstParams none;
  DataCopyCO12DstParams eight(16, 16, 16, 16, QuantMode_t::F322F16, 0, false, true);
  DataCopyCO12DstParams seven(16, 16, 16, 16, QuantMode_t::F322F16, 0, false);  // wrong
  none.sid = 0;
  none.nSize = 16;
  none.mSize = 16;
  none.dstStride = 16;
  none.srcStride = 16;
  none.unitFlag = 0;
  none.quantPre = QuantMode_t::NoQuant;
  none.reluPre = 1;
  none.channelSplit = true;
  none.nz2ndEn = true;
  none.clipReluPre = 0;  // ours: not on Atlas A2
  none.eltWiseOp = 0;    // ours: not on Atlas A2
}

void Fractals() {
  LoadData2DParams none;
  LoadData2dParams same;
  LoadData2DParams seven(0, 4, 1, 0, 0, false, 0);
  LoadData2DParams six(0, 4, 1, 0, 0, false);  // wrong
  none.startIndex = 0;
  none.repeatTimes = 4;
  none.srcStride = 1;
  none.sid = 0;
  none.dstGap = 0;
  none.ifTranspose = true;
  none.addrMode = 0;
  LoadData2dTransposeParams turned;
  LoadData2dTransposeParams turned_five(0, 4, 1, 0, 0);
  LoadData2dTransposeParams turned_six(0, 4, 1, 0, 0, 0);
  LoadData2dTransposeParams turned_four(0, 4, 1, 0);  // wrong
  turned.startIndex = 0;
  turned.repeatTimes = 4;
  turned.srcStride = 1;
  turned.dstGap = 0;
  turned.dstFracGap = 0;
  turned.addrMode = 0;
  turned.srcFracGap = 0;  // wrong
}

void Windows(half value) {
  uint8_t padding[4] = {0, 0, 0, 0};
  LoadData3DParamsV2<half> none;
  LoadData3DParamsV2<half> seventeen(padding, 1, 16, 16, 16, 16, 0, 0, 1, 1, 1, 1, 1, 1, false,
                                     false, value);
  LoadData3DParamsV2<half> number(padding, 1, 16, 16, 16, 16, 0, 0, 1, 1, 1, 1, 1, 1, false, false,
                                  0);
  LoadData3DParamsV2<half> twenty(padding, 1, 16, 16, 16, 16, 0, 0, 1, 1, 1, 1, 1, 1, false, false,
                                  0, false, false, false);
  LoadData3DParamsV2<half> eighteen(padding, 1, 16, 16, 16, 16, 0, 0, 1, 1, 1, 1, 1, 1, false,
                                    false, 0, false);  // wrong
  none.padList[0] = 1;
  none.l1H = 1;
  none.l1W = 16;
  none.channelSize = 16;
  none.kExtension = 16;
  none.mExtension = 16;
  none.kStartPt = 0;
  none.mStartPt = 0;
  none.strideW = 1;
  none.strideH = 1;
  none.filterW = 1;
  none.filterH = 1;
  none.dilationFilterW = 1;
  none.dilationFilterH = 1;
  none.enTranspose = false;
  none.enSmallK = false;
  none.padValue = 0;
  none.filterSizeW = false;
  none.filterSizeH = false;
  none.fMatrixCtrl = false;
  none.enDualSrc = false;  // wrong
  LoadData3DParamsV2Pro pro;
  LoadData3DParamsV2Pro pro_eight(16, false, false, false, false, false, 0, 0x10101010101);
  LoadData3DParamsV2Pro pro_seven(16, false, false, false, false, false, 0);  // wrong
  pro.channelSize = 16;
  pro.enTranspose = false;
  pro.enSmallK = false;
  pro.filterSizeW = false;
  pro.filterSizeH = false;
  pro.fMatrixCtrl = false;
  pro.extConfig = 16;
  pro.filterConfig = 0x10101010101;
  LoadDataRepeatParam repeat;
  LoadDataRepeatParam repeat_three(0, 1, 0);
  LoadDataRepeatParam repeat_two(0, 1);  // wrong
  repeat.repeatStride = 0;
  repeat.repeatTime = 1;
  repeat.repeatMode = 1;
  IsResetLoad3dConfig config = {true, false};
  config.isSetFMatrix = IS_RESER_LOAD3D_DEFAULT_CONFIG.isSetFMatrix;
  config.isSetPadding = IS_RESER_LOAD3D_DEFAULT_CONFIG.isSetPadding;
}

void Constant(half value) {
  InitConstValueParams<half> none;
  InitConstValueParams<half> two(1, value);
  InitConstValueParams<half> four(1, 4, 0, value);
  InitConstValueParams<half> number(1, 4, 0, 0);
  InitConstValueParams<bfloat16_t> other(1, 4, 0, 0);
  InitConstValueParams<half> three(1, 4, 0);  // wrong
  none.repeatTimes = 1;
  none.blockNum = 4;
  none.dstGap = 0;
  none.initValue = 0;
}

void Products(uint16_t m, uint16_t n, uint16_t k) {
  MmadParams none;
  MmadParams six(m, n, k, 0, false, true);
  MmadParams listed = {m, n, k, 3, false, false};
  MmadParams eight(m, n, k, false, 0, false, false, false);
  MmadParams four(m, n, k, 0);         // wrong
  MmadParams five(m, n, k, 0, false);  // wrong
  MmadParams three = {m, n, k};        // wrong
  none.m = m;
  none.n = n;
  none.k = k;
  none.unitFlag = 3;
  none.kDirectionAlign = true;
  none.cmatrixSource = true;
  none.cmatrixInitVal = false;
  none.isBias = false;
  none.fmOffset = 0;
  none.enSsparse = false;
  none.enWinogradA = false;
  none.enWinogradB = false;
}

void Outputs() {
  FixpipeParamsV220 none;
  FixpipeParamsV220 five(16, 16, 16, 16, false);
  FixpipeParamsV220 eleven(16, 16, 16, 16, false, QuantMode_t::F322F16, 0, 1, 0, 0, 0);
  FixpipeParamsV220 twelve(16, 16, 16, 16, false, QuantMode_t::F322F16, 0, 1, 0, 0, 0, true);
  FixpipeParamsV220 listed = {16, 16, 16, 16, false};
  FixpipeParamsV220 four(16, 16, 16, 16);                              // wrong
  FixpipeParamsV220 six(16, 16, 16, 16, false, QuantMode_t::F322F16);  // wrong
  none.nSize = 16;
  none.mSize = 16;
  none.srcStride = 16;
  none.dstStride = 16;
  none.quantPre = QuantMode_t::DEQF16;
  none.deqScalar = 0x3f800000;
  none.ndNum = 1;
  none.srcNdStride = 0;
  none.dstNdStride = 0;
  none.reluEn = true;
  none.unitFlag = 3;
  none.isChannelSplit = true;
}
