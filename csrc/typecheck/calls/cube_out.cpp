// Cube cores: the ways out of L0C.
#include "kernel_operator.h"

using namespace AscendC;

// --- Fixpipe

void WayOutParameters(uint16_t m, uint32_t n, uint64_t scale) {
  FixpipeParamsV220 none;
  FixpipeParamsV220 five(16, 16, 16, 16, false);
  FixpipeParamsV220 eleven(16, 16, 16, 16, false, QuantMode_t::DEQF16, 0, 1, 0, 0, 0);
  FixpipeParamsV220 twelve(16, 16, 16, 16, false, QuantMode_t::NoQuant, 0, 1, 0, 0, 3, false);
  FixpipeParamsV220 variables(n, m, m, n, 0);
  FixpipeParamsV220 four(16, 16, 16, 16);                              // wrong
  FixpipeParamsV220 six(16, 16, 16, 16, false, QuantMode_t::NoQuant);  // wrong
  none.nSize = n;
  none.mSize = m;
  none.srcStride = 16;
  none.dstStride = n;
  none.quantPre = QuantMode_t::NoQuant;
  none.quantPre = QuantMode_t::F322F16;
  none.quantPre = QuantMode_t::F322BF16;
  none.quantPre = QuantMode_t::DEQF16;
  none.quantPre = QuantMode_t::VDEQF16;
  none.quantPre = QuantMode_t::QF322B8_PRE;
  none.quantPre = QuantMode_t::VQF322B8_PRE;
  none.quantPre = QuantMode_t::REQ8;
  none.quantPre = QuantMode_t::VREQ8;
  none.deqScalar = scale;
  none.ndNum = 1;
  none.srcNdStride = 0;
  none.dstNdStride = 0;
  none.reluEn = true;
  none.unitFlag = 3;
  none.isChannelSplit = false;
  none.quantPre = 1;  // wrong
}

void ResultsToGlobalMemory(LocalTensor<float> c, LocalTensor<int32_t> d, GlobalTensor<float> x,
                           GlobalTensor<half> y, GlobalTensor<bfloat16_t> z, GlobalTensor<int8_t> b,
                           GlobalTensor<uint8_t> u, GlobalTensor<int32_t> w,
                           LocalTensor<uint64_t> scales, LocalTensor<float> factors) {
  const FixpipeParamsV220 params;
  static constexpr FixpipeConfig kRows(CO2Layout::ROW_MAJOR);
  static constexpr FixpipeConfig kFractals = {CO2Layout::NZ};
  Fixpipe(x, c, params);
  Fixpipe(y, c, params);
  Fixpipe(z, c, params);
  Fixpipe(b, c, params);
  Fixpipe(u, c, params);
  Fixpipe(w, d, params);
  Fixpipe(y, d, params);
  Fixpipe(b, d, params);
  Fixpipe(u, d, params);
  Fixpipe<float, float>(x, c, params);
  Fixpipe<float, float, CFG_ROW_MAJOR>(x, c, params);
  Fixpipe<float, float, CFG_NZ>(x, c, params);
  Fixpipe<float, float, kRows>(x, c, params);
  Fixpipe<float, float, kFractals>(x, c, params);
  Fixpipe(y, d, scales, params);
  Fixpipe(b, c, scales, params);
  Fixpipe<half, int32_t, CFG_NZ>(y, d, scales, params);
  Fixpipe<half, int32_t, CFG_ROW_MAJOR, uint64_t>(y, d, scales, params);
  Fixpipe(x, c);                                       // wrong
  Fixpipe(y, d, factors, params);                      // wrong
  Fixpipe<float, float, CO2Layout::NZ>(x, c, params);  // wrong
  Fixpipe(x, d, params);                               // ours: int32 to float
  Fixpipe(w, c, params);                               // ours: float to int32
}

void ResultsToL1(LocalTensor<float> c, LocalTensor<int32_t> d, LocalTensor<half> y,
                 LocalTensor<bfloat16_t> z, LocalTensor<int8_t> b, LocalTensor<uint8_t> u,
                 LocalTensor<uint64_t> scales) {
  const FixpipeParamsV220 params;
  Fixpipe(y, c, params);
  Fixpipe(z, c, params);
  Fixpipe<int8_t, float, CFG_NZ>(b, c, params);
  Fixpipe<uint8_t, int32_t, CFG_NZ>(u, d, params);
  Fixpipe<half, int32_t, CFG_NZ>(y, d, params);
  Fixpipe(b, c, scales, params);
  Fixpipe<half, int32_t, CFG_NZ>(y, d, scales, params);
  Fixpipe(y, c, params, scales);  // wrong
  Fixpipe(c, c, params);          // ours: float does not go to L1
}

// --- DataCopy out of L0C

void CopyOutParameters(uint16_t m, uint32_t n) {
  DataCopyCO12DstParams none;
  DataCopyCO12DstParams all(16, 16, 16, 16, QuantMode_t::DEQF16, 1, false, true);
  DataCopyCO12DstParams variables(n, m, n, m, QuantMode_t::NoQuant, 0, false, false);
  DataCopyCO12DstParams seven(16, 16, 16, 16, QuantMode_t::DEQF16, 1, false);  // wrong
  none.sid = 0;
  none.nSize = n;
  none.mSize = m;
  none.dstStride = n;
  none.srcStride = m;
  none.unitFlag = 0;
  none.quantPre = QuantMode_t::REQ8;
  none.reluPre = 1;
  none.channelSplit = false;
  none.nz2ndEn = true;
  none.ndNum = 1;  // wrong
}

void CopiesOut(LocalTensor<float> c, LocalTensor<int32_t> d, GlobalTensor<float> x,
               GlobalTensor<half> y, GlobalTensor<int8_t> b, LocalTensor<half> l,
               LocalTensor<int8_t> m) {
  const DataCopyCO12DstParams params;
  DataCopy(x, c, params);
  DataCopy(y, c, params);
  DataCopy(y, d, params);
  DataCopy(b, d, params);
  DataCopy<half, int32_t>(y, d, params);
  DataCopy(l, c, params);
  DataCopy(m, d, params);
  DataCopy<int8_t, float>(m, c, params);
  DataCopy(x, x, params);  // wrong
}

void WayOutRegisters(LocalTensor<uint64_t> scales, LocalTensor<float> results, uint64_t scale,
                     uint16_t count) {
  SetFixPipeConfig(scales);
  SetFixPipeConfig(scales, true);
  SetFixPipeConfig(scales, scales);
  SetFixPipeConfig(scales, scales, true);
  SetFixPipeConfig<float>(results, true);
  SetFixPipeConfig<uint64_t, false>(scales);
  SetFixPipeConfig();                 // wrong
  SetFixPipeConfig(scales, results);  // wrong
  SetFixpipePreQuantFlag(scale);
  SetFixpipePreQuantFlag(0);
  SetFixpipePreQuantFlag(scales);  // wrong
  SetFixpipeNz2ndFlag(count, 0, 0);
  SetFixpipeNz2ndFlag(1, 2, 3);
  SetFixpipeNz2ndFlag(1, 2);  // wrong
}

// --- scales on their way

void ScalesToTheirBuffer(LocalTensor<uint64_t> to, LocalTensor<uint64_t> from) {
  LocalTensor<uint64_t> scales(TPosition::C2PIPE2GM, 0, 128);
  DataCopy(to, from, DataCopyParams(1, 1, 0, 0));
  DataCopy(scales, from, 128);
}
