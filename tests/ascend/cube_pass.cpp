// Correct kernels of one product, in the documented style: static tensors and explicit flags;
// tests/emulator/test_cube_kernels.py compares each with NumPy.
#include "cube_operands.h"

namespace moge_tests {

namespace {

template <typename T, typename Acc, typename To, bool transpose_a, bool transpose_b, uint32_t m,
          uint32_t n, uint32_t k>
__global__ __cube__ void matmul(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const auto c = Multiplied<T, Acc, transpose_a, transpose_b>(x, m, n, k);
  FixpipeParamsV220 out(n, m, CeilTo(m, 16), n, false);
  out.quantPre = QuantOf<To>();
  Fixpipe<To, Acc, CFG_ROW_MAJOR>(Global<To>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

// Nd2Nz fills the last column block with zeros: k goes up to its end.
__global__ __cube__ void zero_tail(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t m = 32, n = 48, k = 70;
  InitSocState();
  Operands<half, false, false> operands(m, n, k);
  LocalTensor<float> c(TPosition::CO1, 0, 32768);
  operands.Copy(Global<half>(x), Global<half>(x)[m * k]);
  Sync<HardEvent::MTE2_MTE1>();
  operands.Load();
  Sync<HardEvent::MTE1_M>();
  Mmad(c, operands.a2_, operands.b2_, Product(m, n, CeilTo(k, 16)));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(n, m, m, n, false));
  PipeBarrier<PIPE_ALL>();
}

// A product without terms: both operands filled with zeros in L0.
__global__ __cube__ void no_terms(GM_ADDR, GM_ADDR y, GM_ADDR) {
  InitSocState();
  LocalTensor<bfloat16_t> a2(TPosition::A2, 0, 1024);
  LocalTensor<bfloat16_t> b2(TPosition::B2, 0, 512);
  LocalTensor<float> c(TPosition::CO1, 0, 512);
  const bfloat16_t zero = ToBfloat16(0.0f);
  Fill(a2, InitConstValueParams<bfloat16_t>(2, 1, 1, zero));  // fractals 0 and 2
  Fill(a2[256], InitConstValueParams<bfloat16_t>(2, 1, 1, zero));
  Fill(b2, InitConstValueParams<bfloat16_t>(1, 2, 0, zero));
  Sync<HardEvent::MTE1_M>();
  Mmad(c, a2, b2, Product(32, 16, 32));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(16, 32, 32, 16, false));
  PipeBarrier<PIPE_ALL>();
}

// Operands that lie in fractals from global memory to L0, those of B from the last to the first;
// what L1 holds back to global memory.
__global__ __cube__ void short_ways(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  LocalTensor<float> a1(TPosition::A1, 0, 1024);
  LocalTensor<float> a2(TPosition::A2, 0, 512);
  LocalTensor<float> b2(TPosition::B2, 0, 512);
  LocalTensor<float> c(TPosition::CO1, 0, 256);
  LoadData(a2, Global<float>(x), LoadData2DParams(0, 4, 1, 0, 0, false, 0));
  LoadData(b2, Global<float>(x)[512], LoadData2DParams(3, 4, 1, 0, 0, false, 1));
  DataCopy(a1, Global<float>(x), 1024);
  SetFlag<HardEvent::MTE2_MTE3>(0);
  SetFlag<HardEvent::MTE2_MTE1>(0);
  WaitFlag<HardEvent::MTE2_MTE1>(0);
  Sync<HardEvent::MTE1_M>();
  Mmad(c, a2, b2, Product(16, 16, 32));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(16, 16, 16, 16, false));
  WaitFlag<HardEvent::MTE2_MTE3>(0);
  SetAtomicAdd<float>();
  DataCopy(Global<float>(z), a1, 1024);
  SetAtomicNone();
  PipeBarrier<PIPE_ALL>();
}

// A B and a row from z
__global__ __cube__ void biased(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  constexpr uint32_t m = 40, n = 48, k = 64;
  InitSocState();
  Operands<half, false, false> operands(m, n, k);
  LocalTensor<float> c(TPosition::CO1, 0, 32768);
  LocalTensor<float> c1(TPosition::C1, 262144, n);
  LocalTensor<float> c2(TPosition::C2, 0, n);
  operands.Copy(Global<half>(x), Global<half>(x)[m * k]);
  DataCopy(c1, Global<float>(z), n);
  Sync<HardEvent::MTE2_MTE1>();
  operands.Load();
  DataCopy(c2, c1, DataCopyParams(1, n * sizeof(float) / 64, 0, 0));
  Sync<HardEvent::MTE1_M>();
  Mmad(c, operands.a2_, operands.b2_, c2, Product(m, n, k, false));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(n, m, CeilTo(m, 16), n, false));
  PipeBarrier<PIPE_ALL>();
}

// One row times B: A lies in L0A as it is, 512 bytes a load.
__global__ __cube__ void gemv(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t n = 48;
  constexpr uint32_t k = 300;
  InitSocState();
  LocalTensor<half> a1(TPosition::A1, 0, 512);
  LocalTensor<half> b1(TPosition::B1, 1024, 16384);
  LocalTensor<half> a2(TPosition::A2, 0, 512);
  LocalTensor<half> b2(TPosition::B2, 0, 16384);
  LocalTensor<float> c(TPosition::CO1, 0, 768);
  DataCopy(a1, Global<half>(x), CeilTo(k, 16));
  CopyNz(b1, Global<half>(x)[512], n, k, k);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(a2, a1, LoadData2DParams(0, 2, 1, 0, 0, false, 0));
  LoadData(b2, b1, LoadData2DParams(0, CeilDiv(k, 16) * n / 16, 1, 0, 0, false, 0));
  Sync<HardEvent::MTE1_M>();
  Mmad(c, a2, b2, Product(1, n, k));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(n, 1, 16, n, false));
  PipeBarrier<PIPE_ALL>();
}

// --- ways out --------------------------------------------------------------------------------

// float results to half in NZ, negative ones to 0
__global__ __cube__ void fixpipe_nz(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const auto c = Multiplied<half, float, false, false>(x, 40, 48, 64);
  FixpipeParamsV220 out(48, 40, 48, 42, true);  // columns of 16 start 42 blocks of 32 bytes apart
  out.quantPre = QuantMode_t::F322F16;
  Fixpipe<half, float, CFG_NZ>(Global<half>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

// float results in columns of 8
__global__ __cube__ void fixpipe_split(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const auto c = Multiplied<half, float, false, false>(x, 40, 48, 64);
  FixpipeParamsV220 out(40, 40, 48, 40, false);
  out.isChannelSplit = true;
  Fixpipe<float, float, CFG_NZ>(Global<float>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

// int32 results to int8 by one scale in z, in columns of 32, the last one of 16
__global__ __cube__ void fixpipe_int8(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const auto c = Multiplied<int8_t, int32_t, false, false>(x, 40, 48, 64);
  FixpipeParamsV220 out(48, 40, 48, 40, false);
  out.quantPre = QuantMode_t::REQ8;
  out.deqScalar = Global<uint64_t>(z).GetValue(0);
  Fixpipe<int8_t, int32_t, CFG_NZ>(Global<int8_t>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

// int32 results to half, each column by its scale in z
__global__ __cube__ void fixpipe_scales(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const auto c = Multiplied<int8_t, int32_t, false, false>(x, 40, 48, 64);
  LocalTensor<uint64_t> scales(TPosition::C1, 262144, 48);
  DataCopy(scales, Global<uint64_t>(z), 48);
  Sync<HardEvent::MTE2_FIX>();
  FixpipeParamsV220 out(48, 40, 48, 48, false);
  out.quantPre = QuantMode_t::VDEQF16;
  Fixpipe<half, int32_t, CFG_ROW_MAJOR>(Global<half>(y), c, scales, out);
  PipeBarrier<PIPE_ALL>();
}

// the halves of the columns as two matrices, one below the other
__global__ __cube__ void fixpipe_matrices(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const auto c = Multiplied<half, float, false, false>(x, 32, 64, 64);
  FixpipeParamsV220 out(32, 32, 32, 40, false);
  out.ndNum = 2;
  out.srcNdStride = 4;  // fractals: two columns of two
  out.dstNdStride = 32 * 40;
  Fixpipe<float, float, CFG_ROW_MAJOR>(Global<float>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

Options Cube(uint32_t blocks = 1) { return Launch(KernelType::kCube, blocks); }

const std::vector<Case> kCases = {
    {"matmul half", matmul<half, float, half, false, false, 40, 48, 70>, Cube()},
    {"matmul half ta", matmul<half, float, float, true, false, 40, 48, 70>, Cube()},
    {"matmul half tb", matmul<half, float, float, false, true, 40, 48, 70>, Cube()},
    {"matmul half ta tb", matmul<half, float, half, true, true, 40, 48, 70>, Cube()},
    {"matmul bf16 tb", matmul<bfloat16_t, float, bfloat16_t, false, true, 40, 48, 70>, Cube()},
    {"matmul float", matmul<float, float, float, false, false, 40, 48, 70>, Cube()},
    {"matmul float ta tb", matmul<float, float, float, true, true, 40, 48, 70>, Cube()},
    {"matmul float ta", matmul<float, float, float, true, false, 40, 48, 68>, Cube()},
    {"matmul int8", matmul<int8_t, int32_t, int32_t, false, false, 40, 64, 70>, Cube()},
    {"matmul int8 tb", matmul<int8_t, int32_t, int32_t, false, true, 40, 64, 70>, Cube()},
    {"zero_tail", zero_tail, Cube()},
    {"no_terms", no_terms, Cube()},
    {"short_ways", short_ways, Cube()},
    {"biased", biased, Cube()},
    {"gemv", gemv, Cube()},
    {"fixpipe_nz", fixpipe_nz, Cube()},
    {"fixpipe_split", fixpipe_split, Cube()},
    {"fixpipe_int8", fixpipe_int8, Cube()},
    {"fixpipe_scales", fixpipe_scales, Cube()},
    {"fixpipe_matrices", fixpipe_matrices, Cube()},
};
const Addition kAdded(MustPassCube(), kCases);

}  // namespace

}  // namespace moge_tests
