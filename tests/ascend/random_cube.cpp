// Kernels of a cube core whose parameters are all numbers of z, for the random tests of
// tests/emulator: each does one thing as the numbers say, and writes what it left to y.
#include "numbers.h"

namespace moge_tests {

namespace {

constexpr uint32_t kHalfL1 = 262144;

// --- fractals into L0, and what of them lies where -----------------------------------------------

// numbers: whether to the right, whether with LoadDataWithTranspose, bytes of the source, the
// parameters, how many fractals of L0 are shown and which. x: the source, then fractals of ones in
// the diagonal. Each fractal that is shown is multiplied by those, and so written as a matrix.
template <typename T, typename Acc>
void FractalsKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  Numbers numbers(z);
  const bool right = numbers.Next() != 0, squares = numbers.Next() != 0;
  const uint32_t source_bytes = numbers.Next(), ones_bytes = numbers.Next();
  const auto bytes = Global<uint8_t>(x);
  const uint32_t depth = numbers.Next();  // elements of 32 bytes
  const LocalTensor<uint8_t> source1(TPosition::A1, 0, source_bytes);
  const LocalTensor<uint8_t> ones1(TPosition::B1, kHalfL1, ones_bytes);
  const LocalTensor<T> a(TPosition::A2, 0, 65536 / 4 * (4 / sizeof(T)));
  const LocalTensor<T> b(TPosition::B2, 0, 65536 / 4 * (4 / sizeof(T)));
  const LocalTensor<Acc> c(TPosition::CO1, 0, 32768);
  DataCopy(source1, bytes, source_bytes);
  DataCopy(ones1, bytes[source_bytes], ones_bytes);
  Sync<HardEvent::MTE2_MTE1>();
  const auto& loaded = right ? b : a;
  const auto& ones = right ? a : b;
  const auto source = source1.ReinterpretCast<T>();
  const uint32_t start = numbers.Next(), repeat = numbers.Next(), stride = numbers.Next();
  const uint32_t gap = numbers.Next(), extra = numbers.Next(), mode = numbers.Next();
  if (squares) {
    LoadData2dTransposeParams params(start, repeat, stride, gap, extra);
    params.addrMode = mode;
    LoadDataWithTranspose(loaded, source, params);
  } else {
    LoadData(loaded, source, LoadData2DParams(start, repeat, stride, 0, gap, extra != 0, mode));
  }
  LoadData(ones.template ReinterpretCast<uint8_t>(), ones1,
           LoadData2DParams(0, ones_bytes / 512, 1, 0, 0, false, 0));
  Sync<HardEvent::MTE1_M>();
  const uint32_t shown = numbers.Next();
  const uint32_t m = right ? depth : 16, n = right ? 16 : (depth + 15) / 16 * 16;
  for (uint32_t i = 0; i < shown; ++i) {
    const auto place = loaded.template ReinterpretCast<uint8_t>()[numbers.Next() * 512];
    const auto fractal = place.template ReinterpretCast<T>();
    Mmad(c, right ? ones : fractal, right ? fractal : ones, Product(m, n, depth));
    Sync<HardEvent::M_FIX>();
    Fixpipe(Global<Acc>(y)[i * m * n], c, FixpipeParamsV220(n, m, (m + 15) / 16 * 16, n, false));
    Sync<HardEvent::FIX_M>();
  }
  PipeBarrier<PIPE_ALL>();
}

// --- products and their ways out -----------------------------------------------------------------

// A and B in L0, loaded from x, which holds their fractals one after the other.
template <typename T>
struct Factors {
  Factors(GM_ADDR x, Numbers& numbers) {
    const uint32_t a_bytes = numbers.Next(), b_bytes = numbers.Next();
    const auto bytes = Global<uint8_t>(x);
    const LocalTensor<uint8_t> a1(TPosition::A1, 0, a_bytes);
    const LocalTensor<uint8_t> b1(TPosition::B1, kHalfL1, b_bytes);
    DataCopy(a1, bytes, a_bytes);
    DataCopy(b1, bytes[a_bytes], b_bytes);
    Sync<HardEvent::MTE2_MTE1>();
    LoadData(a.template ReinterpretCast<uint8_t>(), a1,
             LoadData2DParams(0, a_bytes / 512, 1, 0, 0, false, 0));
    LoadData(b.template ReinterpretCast<uint8_t>(), b1,
             LoadData2DParams(0, b_bytes / 512, 1, 0, 0, false, 0));
    Sync<HardEvent::MTE1_M>();
  }
  LocalTensor<T> a{TPosition::A2, 0, 65536 / 4 * (4 / sizeof(T))};
  LocalTensor<T> b{TPosition::B2, 0, 65536 / 4 * (4 / sizeof(T))};
};

// numbers: bytes of A and of B, m, n, k, how the sums start: from 0, from a product, from a bias,
// from the table; what HF32 is. z holds the bias behind 64 numbers.
template <typename T, typename Acc>
void ProductKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  Numbers numbers(z);
  const Factors<T> factors(x, numbers);
  const uint32_t m = numbers.Next(), n = numbers.Next(), k = numbers.Next();
  const uint32_t start = numbers.Next();
  const uint32_t wide = (n + 15) / 16 * 16;
  const LocalTensor<Acc> c(TPosition::CO1, 0, 32768);
  const LocalTensor<Acc> bias1(TPosition::C1, 131072, wide), bias(TPosition::C2, 0, wide);
  DataCopy(bias1, Global<Acc>(z)[64], wide);
  Sync<HardEvent::MTE2_MTE1>();
  DataCopy(bias, bias1, DataCopyParams(1, wide / 16, 0, 0));
  Sync<HardEvent::MTE1_M>();
  MmadParams product = Product(m, n, k, start == 0);
  if (start == 1) {
    Mmad(c, factors.a, factors.b, Product(m, n, k));
    PipeBarrier<PIPE_M>();
  }
  product.cmatrixSource = start == 3;
  if constexpr (!std::is_same_v<T, int4b_t>) {
    if (start == 2) Mmad(c, factors.a, factors.b, bias, product);
  }
  if (start != 2) Mmad(c, factors.a, factors.b, product);
  Sync<HardEvent::M_FIX>();
  // whole columns of fractals: what lies beyond n is undefined
  Fixpipe(Global<Acc>(y), c, FixpipeParamsV220(n / 16 * 16, m, (m + 15) / 16 * 16, wide, false));
  PipeBarrier<PIPE_ALL>();
}

// numbers: bytes of A and of B, m, n, k of the product, then the parameters; z holds scales behind
// 64 numbers. `format`: 0 rows, 1 fractals, 2 fractals to L1.
template <typename T, typename Acc, typename To>
void WayOutKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  Numbers numbers(z);
  const Factors<T> factors(x, numbers);
  const uint32_t m = numbers.Next(), n = numbers.Next(), k = numbers.Next();
  const LocalTensor<Acc> c(TPosition::CO1, 0, 32768);
  Mmad(c, factors.a, factors.b, Product(m, n, k));
  const LocalTensor<uint64_t> scales(TPosition::C1, 65536, 256);
  DataCopy(scales, Global<uint64_t>(z)[32], 256);
  Sync<HardEvent::MTE2_FIX>();
  Sync<HardEvent::M_FIX>();
  const uint32_t format = numbers.Next(), from = numbers.Next();
  const bool by_vector = numbers.Next() != 0;
  FixpipeParamsV220 out;
  out.nSize = numbers.Next();
  out.mSize = numbers.Next();
  out.srcStride = numbers.Next();
  out.dstStride = numbers.Next();
  out.quantPre = static_cast<QuantMode_t>(numbers.Next());
  out.reluEn = numbers.Next() != 0;
  out.ndNum = numbers.Next();
  out.srcNdStride = numbers.Next();
  out.dstNdStride = numbers.Next();
  out.isChannelSplit = numbers.Next() != 0;
  out.deqScalar = numbers.NextPair();
  const auto start = c[from];
  const auto global = Global<To>(y);
  if constexpr (sizeof(To) < 4) {
    const LocalTensor<To> l1(TPosition::C1, 131072, 32768 / sizeof(To));
    if (format == 2) {
      Fill(l1.template ReinterpretCast<uint16_t>(), InitConstValueParams<uint16_t>(1, 1024, 0, 0));
      Sync<HardEvent::MTE2_FIX>();
      if (by_vector) {
        Fixpipe(l1, start, scales, out);
      } else {
        Fixpipe(l1, start, out);
      }
      Sync<HardEvent::FIX_MTE3>();
      DataCopy(global, l1, 32768 / sizeof(To));
    }
  }
  if (format == 0 && by_vector) Fixpipe(global, start, scales, out);
  if (format == 0 && !by_vector) Fixpipe(global, start, out);
  if (format == 1 && by_vector) Fixpipe<To, Acc, CFG_NZ>(global, start, scales, out);
  if (format == 1 && !by_vector) Fixpipe<To, Acc, CFG_NZ>(global, start, out);
  PipeBarrier<PIPE_ALL>();
}

}  // namespace

const std::vector<Case>& RandomCubes() {
  const Options cube = Launch(KernelType::kCube);
  static const std::vector<Case> cases = {
      {"fractals half", FractalsKernel<half, float>, cube},
      {"fractals bf16", FractalsKernel<bfloat16_t, float>, cube},
      {"fractals float", FractalsKernel<float, float>, cube},
      {"fractals int8", FractalsKernel<int8_t, int32_t>, cube},
      {"fractals int4", FractalsKernel<int4b_t, int32_t>, cube},
      {"product half", ProductKernel<half, float>, cube},
      {"product bf16", ProductKernel<bfloat16_t, float>, cube},
      {"product float", ProductKernel<float, float>, cube},
      {"product int8", ProductKernel<int8_t, int32_t>, cube},
      {"product int4", ProductKernel<int4b_t, int32_t>, cube},
      {"out float float", WayOutKernel<float, float, float>, cube},
      {"out float half", WayOutKernel<float, float, half>, cube},
      {"out float bf16", WayOutKernel<float, float, bfloat16_t>, cube},
      {"out float int8", WayOutKernel<float, float, int8_t>, cube},
      {"out float uint8", WayOutKernel<float, float, uint8_t>, cube},
      {"out int32 int32", WayOutKernel<int8_t, int32_t, int32_t>, cube},
      {"out int32 half", WayOutKernel<int8_t, int32_t, half>, cube},
      {"out int32 int8", WayOutKernel<int8_t, int32_t, int8_t>, cube},
      {"out int32 uint8", WayOutKernel<int8_t, int32_t, uint8_t>, cube},
  };
  return cases;
}

}  // namespace moge_tests
