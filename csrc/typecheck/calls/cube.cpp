// Cube cores: loads into L0, and products.
#include "kernel_operator.h"

using namespace AscendC;

// --- LoadData, fractals

void FractalParameters(uint8_t repeat, uint16_t stride, uint32_t wide) {
  LoadData2DParams none;
  LoadData2DParams all(0, repeat, stride, 0, 0, false, 0);
  LoadData2DParams braced{0, 16, 1, 0, 0, true, 0};
  LoadData2dParams old(0, 1, 1, 0, 0, false, 0);
  LoadData2DParams short_of_one(0, 1, 1, 0, 0, false);  // wrong
  none.startIndex = 3;
  none.repeatTimes = repeat;
  none.srcStride = stride;
  none.sid = 0;
  none.dstGap = 1;
  none.ifTranspose = true;
  none.addrMode = 0;
  none.repeatTimes = wide / 16;
  none.dstStride = 1;  // wrong
}

void FractalsFromL1(LocalTensor<half> a, LocalTensor<bfloat16_t> b, LocalTensor<int8_t> c,
                    LocalTensor<uint8_t> d, LocalTensor<int16_t> e, LocalTensor<uint16_t> f,
                    LocalTensor<int32_t> g, LocalTensor<uint32_t> h, LocalTensor<float> i,
                    LocalTensor<int4b_t> j) {
  LoadData2DParams params;
  LoadData(a, a, params);
  LoadData(b, b, params);
  LoadData(c, c, params);
  LoadData(d, d, params);
  LoadData(e, e, params);
  LoadData(f, f, params);
  LoadData(g, g, params);
  LoadData(h, h, params);
  LoadData(i, i, params);
  LoadData(j, j, params);
  LoadData<half>(a, a, params);
  LoadData(a[256], a[512], LoadData2DParams(0, 1, 1, 0, 0, false, 0));
  LoadData(a, b, params);  // wrong
  LoadData(a, a);          // wrong
  LoadData(a, a, 16);      // wrong
}

void FractalsFromGlobalMemory(LocalTensor<half> a, GlobalTensor<half> x, LocalTensor<float> b,
                              GlobalTensor<float> y, LocalTensor<int8_t> c, GlobalTensor<int8_t> z,
                              LocalTensor<int4b_t> d, GlobalTensor<int4b_t> w) {
  LoadData2DParams params;
  LoadData(a, x, params);
  LoadData(b, y, params);
  LoadData(c, z[1024], params);
  LoadData(a, y, params);  // wrong
  LoadData(x, a, params);  // wrong
  LoadData(d, w, params);  // ours: int4 comes from L1
}

void FractalParametersOfANewerChip(LocalTensor<half> a) {
  LoadData2DParamsV2 params;
  params.mStartPosition = 0;
  params.kStartPosition = 0;
  params.mStep = 1;
  params.kStep = 1;
  params.srcStride = 1;
  params.dstStride = 1;
  params.ifTranspose = false;
  params.sid = 0;
  LoadData(a, a, params);  // ours: Atlas A2 has no such load
}

// --- LoadData, windows

void WindowParameters(uint32_t k, bool flag) {
  const uint8_t padding[4] = {0, 0, 1, 1};
  LoadData3DParamsV2<half> none;
  LoadData3DParamsV2<half> most(padding, 4, 4, 16, 16, 16, 0, 0, 1, 1, 1, 1, 1, 1, false, false,
                                half(0));
  LoadData3DParamsV2<half> all(padding, 4, 4, 16, 16, 16, 0, 0, 1, 1, 1, 1, 1, 1, false, false,
                               half(0), false, false, false);
  LoadData3DParamsV2<float> braced{padding, 4, 4, 8, 8, 16, 0, 0, 1, 1, 2, 2, 1, 1, true, false, 0};
  LoadData3DParamsV2<half> without_padding(4, 4, 16, 16, 16, 0, 0, 1, 1, 1, 1, 1, 1, false, false,
                                           half(0));  // wrong
  none.padList[0] = 1;
  none.l1H = 1;
  none.l1W = k;
  none.channelSize = k;
  none.kExtension = k;
  none.mExtension = 16;
  none.kStartPt = 0;
  none.mStartPt = 0;
  none.strideW = 1;
  none.strideH = 1;
  none.filterW = 1;
  none.filterH = 1;
  none.dilationFilterW = 1;
  none.dilationFilterH = 1;
  none.enTranspose = flag;
  none.enSmallK = false;
  none.padValue = 0;
  none.filterSizeW = false;
  none.filterSizeH = 0;
  none.fMatrixCtrl = false;
  none.c1Index = 0;  // wrong
}

void PackedWindowParameters(uint64_t extent) {
  LoadData3DParamsV2Pro none;
  LoadData3DParamsV2Pro all(32, false, false, false, false, false, extent, 0x10101010101);
  none.channelSize = 32;
  none.enTranspose = false;
  none.enSmallK = false;
  none.filterSizeW = false;
  none.filterSizeH = false;
  none.fMatrixCtrl = false;
  none.extConfig = extent | 32;
  none.filterConfig = 0x10101010101;
  none.l1H = 1;  // wrong
}

void Windows(LocalTensor<half> a, LocalTensor<float> b, LocalTensor<int8_t> c,
             LocalTensor<uint8_t> d, LocalTensor<bfloat16_t> e, LocalTensor<int32_t> f,
             LocalTensor<uint32_t> g) {
  static constexpr IsResetLoad3dConfig kKept = {false, false};
  LoadData(a, a, LoadData3DParamsV2<half>());
  LoadData(b, b, LoadData3DParamsV2<float>());
  LoadData(c, c, LoadData3DParamsV2<int8_t>());
  LoadData(d, d, LoadData3DParamsV2<uint8_t>());
  LoadData(e, e, LoadData3DParamsV2<bfloat16_t>());
  LoadData(f, f, LoadData3DParamsV2<int32_t>());
  LoadData(g, g, LoadData3DParamsV2<uint32_t>());
  LoadData<half>(a, a, LoadData3DParamsV2<half>());
  LoadData<half, kKept>(a, a, LoadData3DParamsV2<half>());
  LoadData<half, IS_RESER_LOAD3D_DEFAULT_CONFIG, half>(a, a, LoadData3DParamsV2<half>());
  LoadData(a, a, LoadData3DParamsV2Pro());
  LoadData(c, c, LoadData3DParamsV2Pro());
  LoadData(a, a, LoadData3DParamsV2<float>());             // wrong
  LoadData(a, b, LoadData3DParamsV2<half>());              // wrong
  LoadData<half, true>(a, a, LoadData3DParamsV2<half>());  // wrong
}

void WindowsFromGlobalMemory(LocalTensor<half> a, GlobalTensor<half> x) {
  LoadData(a, x, LoadData2DParams());
  LoadData(a, x, LoadData3DParamsV2<half>());  // wrong
}

void WindowRegisters(uint16_t height, uint32_t width) {
  uint8_t padding[PAD_SIZE] = {0, 0, 0, 0};
  SetFmatrix(height, width, padding, FmatrixMode::FMATRIX_LEFT);
  SetFmatrix(1, 16, padding, FmatrixMode::FMATRIX_RIGHT);
  SetFmatrix(1, 16, padding);         // wrong
  SetFmatrix(1, 16, padding, false);  // wrong
  SetLoadDataPaddingValue(0);
  SetLoadDataPaddingValue(half(1));
  SetLoadDataPaddingValue<int8_t>(-1);
  SetLoadDataPaddingValue(1.0f);
  SetLoadDataPaddingValue();  // wrong
  LoadDataRepeatParam none;
  LoadDataRepeatParam all(2, 3, 1);
  none.repeatStride = 2;
  none.repeatTime = 3;
  none.repeatMode = 1;
  SetLoadDataRepeat(all);
  SetLoadDataRepeat({0, 1, 0});
  SetLoadDataRepeat(0, 1, 0);  // wrong
  SetLoadDataBoundary(1024);
  SetLoadDataBoundary((uint32_t)0);
  SetLoadDataBoundary();  // wrong
  IsResetLoad3dConfig config(true, false);
  config.isSetFMatrix = false;
  config.isSetPadding = true;
}

// --- LoadDataWithTranspose, LoadDataWithSparse, Fill

void Transposed(LocalTensor<half> a, LocalTensor<float> b, LocalTensor<int8_t> c,
                LocalTensor<uint8_t> d, LocalTensor<bfloat16_t> e, LocalTensor<int32_t> f,
                LocalTensor<uint32_t> g, LocalTensor<int4b_t> h, GlobalTensor<half> x) {
  LoadData2dTransposeParams none;
  LoadData2dTransposeParams five(0, 1, 1, 0, 0);
  LoadData2dTransposeParams all(0, 1, 1, 0, 0, 0);
  LoadData2dTransposeParams four(0, 1, 1, 0);  // wrong
  none.startIndex = 0;
  none.repeatTimes = 2;
  none.srcStride = 1;
  none.dstGap = 1;
  none.dstFracGap = 0;
  none.addrMode = 1;
  LoadDataWithTranspose(a, a, none);
  LoadDataWithTranspose(b, b, none);
  LoadDataWithTranspose(c, c, none);
  LoadDataWithTranspose(d, d, none);
  LoadDataWithTranspose(e, e, none);
  LoadDataWithTranspose(f, f, none);
  LoadDataWithTranspose(g, g, none);
  LoadDataWithTranspose(h, h, none);
  LoadDataWithTranspose<half>(a, a, none);
  LoadDataWithTranspose(a, b, none);                // wrong
  LoadDataWithTranspose(a, x, none);                // wrong
  LoadDataWithTranspose(a, a, LoadData2DParams());  // wrong
}

void Sparse(LocalTensor<int8_t> b, LocalTensor<uint8_t> index, LocalTensor<half> wide,
            LocalTensor<int32_t> c, LocalTensor<float> sums) {
  LoadDataWithSparse(b, b, index, LoadData2dParams());
  LoadDataWithSparse<int8_t, uint8_t>(b, b, index, LoadData2DParams());
  LoadDataWithSparse(b, b, b, LoadData2dParams());            // wrong
  LoadDataWithSparse(wide, wide, index, LoadData2dParams());  // wrong
  MmadWithSparse(c, b, b, MmadParams());
  MmadWithSparse<int32_t, int8_t>(c, b, b, {16, 16, 64, false, 0, false, false, false});
  MmadWithSparse(sums, b, b, MmadParams());     // wrong
  MmadWithSparse(c, wide, wide, MmadParams());  // wrong
}

void Filled(LocalTensor<half> a, LocalTensor<float> b, LocalTensor<bfloat16_t> c,
            LocalTensor<int16_t> d, LocalTensor<int32_t> e, LocalTensor<uint16_t> f,
            LocalTensor<uint32_t> g) {
  InitConstValueParams<half> none;
  InitConstValueParams<half> all(1, 2, 0, half(1));
  InitConstValueParams<half> two(1, half(1));
  InitConstValueParams<half> three(1, 2, half(1));  // wrong
  none.repeatTimes = 1;
  none.blockNum = 2;
  none.dstGap = 0;
  none.initValue = half(1);
  Fill(a, all);
  Fill(a, {1, 16, 0, 1});
  Fill<half>(a, none);
  Fill<half, half>(a, none);
  Fill(b, InitConstValueParams<float>(1, 2, 0, 1.0f));
  Fill(c, InitConstValueParams<bfloat16_t>());
  Fill(d, InitConstValueParams<int16_t>());
  Fill(e, InitConstValueParams<int32_t>());
  Fill(f, InitConstValueParams<uint16_t>());
  Fill(g, InitConstValueParams<uint32_t>());
  InitConstValue(a, all);
  InitConstValue<float>(b, InitConstValueParams<float>());
  Fill(a, InitConstValueParams<float>());            // wrong
  InitConstValue(a, InitConstValueParams<float>());  // wrong
  Fill(a, 0);                                        // wrong
}

// --- Mmad

void ProductParameters(uint32_t m, uint16_t n, bool first) {
  MmadParams none;
  MmadParams six(16, 16, 16, 0, false, true);
  MmadParams eight(16, 16, 16, true, 0, false, false, false);
  MmadParams braced{16, 32, 64, 3, false, false};
  MmadParams variables(m, n, 16, first ? 2 : 3, false, first);
  MmadParams five(16, 16, 16, 0, false);  // wrong
  none.m = m;
  none.n = n;
  none.k = 16;
  none.isBias = false;
  none.fmOffset = 0;
  none.enSsparse = false;
  none.enWinogradA = false;
  none.enWinogradB = false;
  none.unitFlag = 3;
  none.kDirectionAlign = true;
  none.cmatrixSource = true;
  none.cmatrixInitVal = first;
  none.disableGemv = true;  // wrong
}

void Products(LocalTensor<float> c, LocalTensor<int32_t> d, LocalTensor<half> a,
              LocalTensor<bfloat16_t> b, LocalTensor<float> f, LocalTensor<int8_t> i,
              LocalTensor<int4b_t> q, LocalTensor<uint8_t> u) {
  const MmadParams params;
  Mmad(c, a, a, params);
  Mmad(c, b, b, params);
  Mmad(c, f, f, params);
  Mmad(d, i, i, params);
  Mmad(d, q, q, params);
  Mmad<float, half, half>(c, a, a, params);
  Mmad(c, a, a, {16, 16, 16, 0, false, true});
  Mmad(c, a, a, c, params);
  Mmad(c, b, b, c, params);
  Mmad(c, f, f, c, params);
  Mmad(d, i, i, d, params);
  Mmad<float, half, half, float>(c, a, a, c, params);
  Mmad(c, a, a);             // wrong
  Mmad(c, a, params, a);     // wrong
  Mmad(c, a, b, params);     // ours: two dtypes
  Mmad(d, a, a, params);     // ours: half to int32
  Mmad(c, i, i, params);     // ours: int8 to float
  Mmad(d, u, u, params);     // ours: uint8
  Mmad(c, a, a, d, params);  // ours: a bias of another dtype
  Mmad(d, q, q, d, params);  // ours: int4 has no bias
}

void ProductRegisters(bool on) {
  SetHF32Mode(HF32Mode::ENABLE);
  SetHF32Mode(HF32Mode::DISABLE);
  SetHF32Mode(on);
  SetHF32Mode();  // wrong
  SetHF32TransMode(HF32TransMode::NEAREST_ZERO);
  SetHF32TransMode(HF32TransMode::NEAREST_EVEN);
  SetHF32TransMode(on);
  SetHF32TransMode(HF32Mode::ENABLE);  // wrong
  SetMMRowMajor();
  SetMMColumnMajor();
  SetMMRowMajor(true);  // wrong
  SetMMLayoutTransform(on);
}
