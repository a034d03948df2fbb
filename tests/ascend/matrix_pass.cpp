// Correct kernels of a cube core beside those of cube_pass.cpp: windows of images, results to L1
// and by what was set, products of other kinds; tests/emulator/test_cube.py compares each with
// NumPy.
#include "numbers.h"

namespace moge_tests {

namespace {

constexpr uint32_t kHalfL1 = 262144;

template <typename T>
void SetRegisters(const LoadData3DParamsV2<T>& params) {
  SetFmatrix(params.l1H, params.l1W, params.padList, FmatrixMode::FMATRIX_LEFT);
  SetLoadDataPaddingValue(params.padValue);
}

LoadData3DParamsV2Pro Packed(const LoadData3DParamsV2<half>& params) {
  const auto pack = [](uint64_t high, uint64_t next, uint64_t low, uint32_t bits) {
    return (high << bits | next) << bits | low;
  };
  const uint64_t extension =
      pack(params.mStartPt, params.kStartPt, params.mExtension, 16) << 16 | params.kExtension;
  const uint64_t filter = pack(params.dilationFilterH, params.dilationFilterW, params.filterH, 8)
                              << 24 |
                          pack(params.filterW, params.strideH, params.strideW, 8);
  return {params.channelSize, params.enTranspose, false, false, false, false, extension, filter};
}

// The windows of an image, multiplied by the other operand, which x holds in fractals behind the
// image. `right`: the windows are B. `form` 0: all in the call; 1: registers; 2: packed.
template <typename T, typename Acc, bool right, int form>
void WindowsKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  Numbers numbers(z);
  const uint32_t m = numbers.Next(), n = numbers.Next(), k = numbers.Next();
  const uint32_t image_size = numbers.Next(), other_size = numbers.Next();
  LoadData3DParamsV2<T> params;
  params.l1H = numbers.Next();
  params.l1W = numbers.Next();
  params.channelSize = numbers.Next();
  params.kExtension = numbers.Next();
  params.mExtension = numbers.Next();
  params.kStartPt = numbers.Next();
  params.mStartPt = numbers.Next();
  params.strideW = numbers.Next();
  params.strideH = numbers.Next();
  params.filterW = numbers.Next();
  params.filterH = numbers.Next();
  params.dilationFilterW = numbers.Next();
  params.dilationFilterH = numbers.Next();
  for (uint8_t& padding : params.padList) padding = numbers.Next();
  params.padValue = static_cast<T>(static_cast<float>(numbers.Next()));
  params.enTranspose = numbers.Next() != 0;
  const uint32_t stride = numbers.Next(), times = numbers.Next(), mode = numbers.Next();
  SetLoadDataRepeat({stride, times, mode});
  SetLoadDataBoundary(numbers.Next());

  const LocalTensor<T> image(TPosition::A1, 0, image_size);
  const LocalTensor<T> other(TPosition::B1, kHalfL1, other_size);
  const LocalTensor<T> a(TPosition::A2, 0, 65536 / sizeof(T));
  const LocalTensor<T> b(TPosition::B2, 0, 65536 / sizeof(T));
  const LocalTensor<Acc> c(TPosition::CO1, 0, 32768);
  DataCopy(image, Global<T>(x), image_size);
  DataCopy(other, Global<T>(x)[image_size], other_size);
  Sync<HardEvent::MTE2_MTE1>();
  const auto& windows = right ? b : a;
  static constexpr IsResetLoad3dConfig kKept = {false, false};
  if constexpr (form == 0) {
    LoadData(windows, image, params);
  } else if constexpr (form == 1) {
    SetRegisters(params);
    LoadData<T, kKept>(windows, image, params);
  } else {
    SetRegisters(params);
    LoadData(windows, image, Packed(params));
  }
  LoadData(right ? a : b, other,
           LoadData2DParams(0, other_size * sizeof(T) / 512, 1, 0, 0, false, 0));
  Sync<HardEvent::MTE1_M>();
  MmadParams product = Product(m, n, k);
  product.kDirectionAlign = params.enTranspose;
  Mmad(c, a, b, product);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<Acc>(y), c, FixpipeParamsV220(n, m, (m + 15) / 16 * 16, n, false));
  PipeBarrier<PIPE_ALL>();
}

// --- products ------------------------------------------------------------------------------------

struct Started {
  Started() { InitSocState(); }
};

// Operands that x holds in fractals, A then B; both on their way to L0.
template <typename T>
struct Operands : Started {
  Operands(GM_ADDR x, uint32_t a_bytes, uint32_t b_bytes) {
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
  }
  LocalTensor<T> a{TPosition::A2, 0, 65536 / sizeof(T)};
  LocalTensor<T> b{TPosition::B2, 0, 65536 / sizeof(T)};
};

template <typename T, typename Acc>
void ProductOfFractals(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t kM = 32, kN = 48, kFractals = 2;
  const Operands<T> operands(x, kM / 16 * kFractals * 512, kN / 16 * kFractals * 512);
  const LocalTensor<Acc> c(TPosition::CO1, 0, kM * kN);
  Sync<HardEvent::MTE1_M>();
  Mmad(c, operands.a, operands.b, Product(kM, kN, std::is_same_v<T, int4b_t> ? 100 : 16));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<Acc>(y), c, FixpipeParamsV220(kN, kM, kM, kN, false));
  PipeBarrier<PIPE_ALL>();
}

template <HF32TransMode rounding>
void HalfFloats(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  SetHF32Mode(HF32Mode::ENABLE);
  SetHF32TransMode(rounding);
  ProductOfFractals<float, float>(x, y, z);
  SetHF32Mode(HF32Mode::DISABLE);
  PipeBarrier<PIPE_ALL>();
}

// the bias lies where BT starts
void FromTable(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const Operands<half> operands(x, 1024, 1024);
  const LocalTensor<float> bias1(TPosition::C1, 131072, 32), bias(TPosition::C2, 0, 32);
  const LocalTensor<float> c(TPosition::CO1, 0, 1024);
  DataCopy(bias1, Global<float>(z), 32);
  Sync<HardEvent::MTE2_MTE1>();
  DataCopy(bias, bias1, DataCopyParams(1, 2, 0, 0));
  Sync<HardEvent::MTE1_M>();
  MmadParams product = Product(32, 32, 16, false);
  product.cmatrixSource = true;
  Mmad(c, operands.a, operands.b, product);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(32, 32, 32, 32, false));
  PipeBarrier<PIPE_ALL>();
}

// A [32, 128] by B [128, 32], of which z holds 64 rows in fractals and then what was left out
void SparseProduct(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  constexpr uint32_t kA = 4096, kB = 2048;
  const LocalTensor<int8_t> a1(TPosition::A1, 0, kA), b1(TPosition::B1, kA, kB);
  const LocalTensor<uint8_t> index(TPosition::B1, kA + kB, kB / 4);
  const LocalTensor<int8_t> a(TPosition::A2, 0, kA), b(TPosition::B2, 0, kB);
  const LocalTensor<int32_t> c(TPosition::CO1, 0, 1024);
  DataCopy(a1, Global<int8_t>(x), kA);
  DataCopy(b1, Global<int8_t>(z), kB);
  DataCopy(index, Global<uint8_t>(z)[kB], kB / 4);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(a, a1, LoadData2DParams(0, 8, 1, 0, 0, false, 0));
  LoadDataWithSparse(b, b1, index, LoadData2DParams(0, 4, 0, 0, 0, false, 0));
  Sync<HardEvent::MTE1_M>();
  MmadWithSparse(c, a, b, Product(32, 32, 128));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<int32_t>(y), c, FixpipeParamsV220(32, 32, 32, 32, false));
  PipeBarrier<PIPE_ALL>();
}

// --- loads ---------------------------------------------------------------------------------------

// 64 x 64 values of 4 bits, transposed on their way to L0B, by a matrix of ones in the diagonal
void TransposedInt4(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  InitSocState();
  const LocalTensor<int4b_t> a1(TPosition::A1, 0, 4096), b1(TPosition::B1, 2048, 4096);
  const LocalTensor<int4b_t> a(TPosition::A2, 0, 4096), b(TPosition::B2, 0, 4096);
  const LocalTensor<int32_t> c(TPosition::CO1, 0, 4096);
  DataCopy(a1, Global<int4b_t>(x), 4096);
  DataCopy(b1, Global<int4b_t>(x)[4096], 4096);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(a, a1, LoadData2DParams(0, 4, 1, 0, 0, false, 0));
  LoadDataWithTranspose(b, b1, LoadData2dTransposeParams(0, 1, 1, 0, 0));
  Sync<HardEvent::MTE1_M>();
  Mmad(c, a, b, Product(64, 64, 64));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<int32_t>(y), c, FixpipeParamsV220(64, 64, 64, 64, false));
  PipeBarrier<PIPE_ALL>();
}

// every second of 8 fractals from the last one down, through L1
void FractalsBackwards(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  InitSocState();
  const LocalTensor<float> l1(TPosition::A1, 0, 1024);
  Fill(l1, InitConstValueParams<float>(1, 128, 0, 1.5f));
  PipeBarrier<PIPE_MTE2>();
  LoadData(l1, Global<float>(x), LoadData2DParams(7, 4, 2, 0, 1, false, 1));
  Sync<HardEvent::MTE2_MTE3>();
  DataCopy(Global<float>(y), l1, 1024);
  PipeBarrier<PIPE_ALL>();
}

// --- ways out ------------------------------------------------------------------------------------

// [32, 48] from A [32, 32] and B [48, 32] of 8 bits or half in fractals
template <typename T, typename Acc>
LocalTensor<Acc> Results(GM_ADDR x) {
  const Operands<T> operands(x, 32 * 32 * sizeof(T), 48 * 32 * sizeof(T));
  const LocalTensor<Acc> c(TPosition::CO1, 0, 32 * 48);
  Sync<HardEvent::MTE1_M>();
  Mmad(c, operands.a, operands.b, Product(32, 48, 32));
  Sync<HardEvent::M_FIX>();
  return c;
}

template <typename To>
void FromL1(GM_ADDR y, const LocalTensor<To>& l1, uint32_t count) {
  Sync<HardEvent::FIX_MTE3>();
  DataCopy(Global<To>(y), l1, count);
  PipeBarrier<PIPE_ALL>();
}

void ResultsToL1(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const auto c = Results<half, float>(x);
  const LocalTensor<half> l1(TPosition::C1, 0, 1536);
  FixpipeParamsV220 out(48, 32, 32, 32, true);
  out.quantPre = QuantMode_t::F322F16;
  Fixpipe(l1, c, out);  // NZ, as all that goes to L1
  FromL1(y, l1, 1536);
}

// scales in z, in their own buffer; columns of 32 bytes to L1, rows to global memory
template <bool to_l1>
void CopiedByScales(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const auto c = Results<int8_t, int32_t>(x);
  const LocalTensor<uint64_t> scales1(TPosition::C1, 65536, 48);
  const LocalTensor<uint64_t> scales(TPosition::C2PIPE2GM, 0, 48);
  DataCopy(scales1, Global<uint64_t>(z), 48);
  Sync<HardEvent::MTE2_FIX>();
  DataCopy(scales, scales1, DataCopyParams(1, 3, 0, 0));
  SetFixPipeConfig(scales);
  if constexpr (to_l1) {
    const LocalTensor<int8_t> l1(TPosition::C1, 0, 2048);
    DataCopy(l1, c, DataCopyCO12DstParams(48, 32, 32, 32, QuantMode_t::VREQ8, 1, false, false));
    FromL1(y, l1, 1536);
  } else {
    SetFixpipeNz2ndFlag(1, 0, 0);
    DataCopy(Global<half>(y), c,
             DataCopyCO12DstParams(48, 32, 48, 32, QuantMode_t::VDEQF16, 0, false, true));
    PipeBarrier<PIPE_ALL>();
  }
}

// one scale in z; the results as two matrices of 16 columns, 16 beside them stay behind
void CopiedMatrices(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const auto c = Results<int8_t, int32_t>(x);
  SetFixpipePreQuantFlag(Global<uint64_t>(z).GetValue(0));
  SetFixpipeNz2ndFlag(2, 4, 512);
  DataCopy(Global<half>(y), c,
           DataCopyCO12DstParams(16, 32, 16, 32, QuantMode_t::DEQF16, 0, false, true));
  PipeBarrier<PIPE_ALL>();
}

// The flags that Fixpipe leaves are cleared, so that the next product may start.
void UnitFlagsCleared(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const Operands<half> operands(x, 1024, 1024);
  const LocalTensor<float> c(TPosition::CO1, 0, 1024);
  SetMMLayoutTransform(true);
  Sync<HardEvent::MTE1_M>();
  Mmad(c, operands.a, operands.b, Product(32, 32, 16, true, 3));
  FixpipeParamsV220 half_of_it(16, 32, 32, 32, false);
  half_of_it.unitFlag = 3;
  Fixpipe(Global<float>(y), c, half_of_it);
  Sync<HardEvent::M_FIX>();
  SetFixPipeConfig(c, true);
  Fixpipe(Global<float>(y)[16], c[512], FixpipeParamsV220(16, 32, 32, 32, false));
  PipeBarrier<PIPE_ALL>();
}

}  // namespace

const std::vector<Case>& Matrices() {
  const Options cube = Launch(KernelType::kCube);
  static const std::vector<Case> cases = {
      {"half", WindowsKernel<half, float, false, 0>, cube},
      {"half registers", WindowsKernel<half, float, false, 1>, cube},
      {"half packed", WindowsKernel<half, float, false, 2>, cube},
      {"half right", WindowsKernel<half, float, true, 0>, cube},
      {"float", WindowsKernel<float, float, false, 0>, cube},
      {"float right", WindowsKernel<float, float, true, 1>, cube},
      {"int8", WindowsKernel<int8_t, int32_t, false, 0>, cube},
      {"int4 product", ProductOfFractals<int4b_t, int32_t>, cube},
      {"hf32 even", HalfFloats<HF32TransMode::NEAREST_EVEN>, cube},
      {"hf32 zero", HalfFloats<HF32TransMode::NEAREST_ZERO>, cube},
      {"from table", FromTable, cube},
      {"sparse", SparseProduct, cube},
      {"transposed int4", TransposedInt4, cube},
      {"backwards", FractalsBackwards, cube},
      {"to L1", ResultsToL1, cube},
      {"scales", CopiedByScales<false>, cube},
      {"scales to L1", CopiedByScales<true>, cube},
      {"matrices", CopiedMatrices, cube},
      {"unit flags cleared", UnitFlagsCleared, cube},
  };
  return cases;
}

}  // namespace moge_tests
