// The rules of the cube core and of flags between cores, as must_fail.cpp has those of the vector
// core.
#include "must_fail.h"

namespace moge_tests {

using namespace AscendC;
using emulator::KernelType;
using emulator::Options;

namespace {

Options Cube(uint32_t blocks = 1, KernelType kernel = KernelType::kCube) {
  Options options;
  options.blocks = blocks;
  options.kernel = kernel;
  return options;
}
Options Mix(uint32_t blocks = 1) { return Cube(blocks, KernelType::kMix); }
Options Vector() { return {}; }
Options Counting(KernelType kernel = KernelType::kVector) {
  Options options = Cube(1, kernel);
  options.counting = true;
  return options;
}

template <HardEvent event>
void Sync() {
  SetFlag<event>(0);
  WaitFlag<event>(0);
}

// One product of these sizes; `init` false adds to what is there.
MmadParams Product(uint32_t m, uint32_t n, uint32_t k, bool init = true, uint8_t unit = 0) {
  MmadParams params;
  params.m = m;
  params.n = n;
  params.k = k;
  params.cmatrixInitVal = init;
  params.unitFlag = unit;
  return params;
}

// Both operands of a product of up to 64 x 64 x 64 halves in L1 and L0, ones from x.
struct Started {
  Started() { InitSocState(); }
};
class Ready : Started {
 public:
  void Copy(GM_ADDR x) {
    DataCopy(a1, Global<half>(x), 4096);
    DataCopy(b1, Global<half>(x), 4096);
  }
  void Load() {
    LoadData(a2, a1, LoadData2DParams(0, 16, 1, 0, 0, false, 0));
    LoadData(b2, b1, LoadData2DParams(0, 16, 1, 0, 0, false, 0));
  }
  void Operands(GM_ADDR x) {
    Copy(x);
    Sync<HardEvent::MTE2_MTE1>();
    Load();
    Sync<HardEvent::MTE1_M>();
  }
  void Multiply(GM_ADDR x, uint8_t unit = 0) {
    Operands(x);
    Mmad(c, a2, b2, Product(64, 64, 64, true, unit));
  }

  LocalTensor<half> a1{TPosition::A1, 0, 4096};
  LocalTensor<half> b1{TPosition::B1, 8192, 4096};
  LocalTensor<half> a2{TPosition::A2, 0, 4096};
  LocalTensor<half> b2{TPosition::B2, 0, 4096};
  LocalTensor<float> c{TPosition::CO1, 0, 4096};
};

// 64 x 64 floats, row by row
FixpipeParamsV220 Out(uint8_t unit = 0) {
  FixpipeParamsV220 params(64, 64, 64, 64, false);
  params.unitFlag = unit;
  return params;
}

// --- memory
// ---------------------------------------------------------------------------------------

MUST_FAIL(UbOnCube, "position.no-memory cube", Cube()) {
  InitSocState();
  LocalTensor<half> tensor(TPosition::VECIN, 0, 1024);
}
MUST_FAIL(L1Capacity, "local.capacity", Cube()) {
  InitSocState();
  LocalTensor<half> tensor(TPosition::A1, 0, 262145);
}
MUST_FAIL(L0ACapacity, "local.capacity L0A", Cube()) {
  InitSocState();
  LocalTensor<half> tensor(TPosition::A2, 512, 32768);
}
MUST_FAIL(L0CAllocator, "local.capacity L0C", Cube()) {
  InitSocState();
  LocalMemAllocator<Hardware::L0C> allocator;
  allocator.Alloc<float>(16384);
  allocator.Alloc<TPosition::CO1, float>(16385);
}
MUST_FAIL(L1CapacityInMix, "local.capacity mix", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    LocalTensor<half> tensor(TPosition::A1, 0, 262144);
  }
}
MUST_FAIL(BiasCapacity, "local.capacity BT", Cube()) {
  InitSocState();
  LocalTensor<float> tensor(TPosition::C2, 0, 257);
}
MUST_FAIL(L0Alignment, "address.alignment L0", Cube()) {
  Ready cube;
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(cube.a2[16], cube.a1, LoadData2DParams(0, 1, 1, 0, 0, false, 0));
}
MUST_FAIL(MmadAlignment, "address.alignment Mmad", Cube()) {
  Ready cube;
  cube.Operands(x);
  Mmad(cube.c[128], cube.a2, cube.b2, Product(16, 16, 16));
}
MUST_FAIL(FixpipeAlignment, "address.alignment Fixpipe", Cube()) {
  Ready cube;
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c[8], FixpipeParamsV220(16, 16, 64, 16, false));
}
MUST_FAIL(NzAlignment, "gm.alignment NZ", Cube()) {
  Ready cube;
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe<float, float, CFG_NZ>(Global<float>(y + 4), cube.c,
                                FixpipeParamsV220(16, 16, 64, 32, false));
}
MUST_FAIL(LoadBounds, "local.bounds LoadData", Cube()) {
  Ready cube;
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(cube.a2, cube.a1, LoadData2DParams(15, 2, 1, 0, 0, false, 0));
}
MUST_FAIL(MmadBounds, "local.bounds Mmad", Cube()) {
  Ready cube;
  cube.Operands(x);
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 80));
}
MUST_FAIL(FixpipeSourceBounds, "local.bounds Fixpipe", Cube()) {
  Ready cube;
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c[4080], FixpipeParamsV220(16, 2, 16, 16, false));
}
MUST_FAIL(FixpipeBounds, "gm.bounds Fixpipe", Cube()) {
  Ready cube;
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y, 4095), cube.c, Out());
}
MUST_FAIL(NotLoaded, "local.uninitialised L0A", Cube()) {
  Ready cube;
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(cube.a2, cube.a1, LoadData2DParams(0, 15, 1, 0, 0, false, 0));
  LoadData(cube.b2, cube.b1, LoadData2DParams(0, 16, 1, 0, 0, false, 0));
  Sync<HardEvent::MTE1_M>();
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64));
}
MUST_FAIL(TailNotCopied, "local.uninitialised tail", Cube()) {
  Ready cube;  // 60 rows in L1, 61 multiplied
  DataCopy(cube.a1, Global<half>(x), Nd2NzParams(1, 60, 64, 0, 64, 64, 1, 0));
  DataCopy(cube.b1, Global<half>(x), 4096);
  Sync<HardEvent::MTE2_MTE1>();
  for (uint32_t row = 0; row < 4; ++row) {
    LoadData(cube.a2[row * 1024], cube.a1[row * 256], LoadData2DParams(0, 4, 4, 0, 0, false, 0));
  }
  LoadData(cube.b2, cube.b1, LoadData2DParams(0, 16, 1, 0, 0, false, 0));
  Sync<HardEvent::MTE1_M>();
  Mmad(cube.c, cube.a2, cube.b2, Product(61, 64, 64));
}
MUST_FAIL(NothingToAddTo, "local.uninitialised L0C", Cube()) {
  Ready cube;
  cube.Operands(x);
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64, false));
}
MUST_FAIL(BeyondN, "local.poison L0C", Cube()) {
  Ready cube;
  cube.Operands(x);
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 60, 64));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out());
}

// --- pipes and styles
// -----------------------------------------------------------------------------

MUST_FAIL(MmadOnVector, "core.pipe", Vector()) {
  LocalTensor<float> c;
  LocalTensor<half> a;
  Mmad(c, a, a, Product(16, 16, 16));
}
MUST_FAIL(VectorFlagOnCube, "core.pipe flag", Cube()) {
  InitSocState();
  Sync<HardEvent::MTE2_V>();
}
MUST_FAIL(VectorBarrierOnCube, "core.pipe barrier", Cube()) {
  InitSocState();
  PipeBarrier<PIPE_V>();
}
MUST_FAIL(OrderOnVector, "core.pipe order", Vector()) { SetMMRowMajor(); }
MUST_FAIL(PipeOnCube, "style.cube-static", Cube()) {
  TPipe pipe;
  TQue<TPosition::A1, 1> queue;
  pipe.InitBuffer(queue, 1, 1024);
}
MUST_FAIL(CubeBarrier, "static.final-barrier cube", Cube()) { Ready cube; }

// --- order
// ----------------------------------------------------------------------------------------

MUST_FAIL(CopyThenLoad, "sync.missing MTE2-MTE1", Cube()) {
  Ready cube;
  cube.Copy(x);
  cube.Load();
}
MUST_FAIL(LoadThenMultiply, "sync.missing MTE1-M", Cube()) {
  Ready cube;
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  cube.Load();
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64));
}
MUST_FAIL(MultiplyThenLoad, "sync.missing M-MTE1", Cube()) {
  Ready cube;
  cube.Multiply(x);
  PipeBarrier<PIPE_MTE1>();
  cube.Load();
}
MUST_FAIL(LoadThenCopy, "sync.missing MTE1-MTE2", Cube()) {
  Ready cube;
  cube.Operands(x);
  PipeBarrier<PIPE_MTE2>();
  cube.Copy(x);
}
MUST_FAIL(MultiplyThenMove, "sync.missing M-FIX", Cube()) {
  Ready cube;
  cube.Multiply(x);
  Fixpipe(Global<float>(y), cube.c, Out());
}
MUST_FAIL(MoveThenMultiply, "sync.missing FIX-M", Cube()) {
  Ready cube;
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out());
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64));
}
MUST_FAIL(MoveThenCopy, "sync.missing FIX-MTE2", Cube()) {
  Ready cube;
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out());
  DataCopy(cube.a1, Global<half>(y), 4096);
}
MUST_FAIL(ScalarThenCopy, "sync.missing cube scalar", Cube()) {
  // beside a vector core's scalar unit the compiler would have put a barrier
  Ready cube;
  const auto numbers = Global<int32_t>(z);
  numbers.SetValue(0, 1);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE>(numbers);
  DataCopy(cube.a1, Global<half>(z), 64);
}
MUST_FAIL(FillThenCopy, "sync.missing Fill", Cube()) {
  Ready cube;
  Fill(cube.a1, InitConstValueParams<half>(1, 256, 0, half(0)));
  cube.Copy(x);
}
MUST_FAIL(NoMmadBarrier, "mmad.barrier", Cube()) {
  Ready cube;
  cube.Operands(x);
  Mmad(cube.c, cube.a2, cube.b2, Product(48, 63, 64));
  Mmad(cube.c, cube.a2, cube.b2, Product(48, 63, 64, false));
}

// --- transfers
// ------------------------------------------------------------------------------------

MUST_FAIL(IntoL0, "copy.path", Cube()) {
  Ready cube;
  DataCopy(cube.a2, Global<half>(x), 256);
}
MUST_FAIL(PadIntoL1, "copy.path DataCopyPad", Cube()) {
  Ready cube;
  DataCopyPad(cube.a1, Global<half>(x), DataCopyExtParams(1, 30, 0, 0, 0),
              DataCopyPadExtParams<half>(true, 0, 1, half(0)));
}
MUST_FAIL(FromL0, "copy.path LoadData", Cube()) {
  Ready cube;
  LoadData(cube.b2, cube.a2, LoadData2DParams(0, 1, 1, 0, 0, false, 0));
}
MUST_FAIL(IntoL0C, "copy.path L0C", Cube()) {
  Ready cube;
  LoadData(cube.c, cube.a1.ReinterpretCast<float>(), LoadData2DParams(0, 1, 1, 0, 0, false, 0));
}
MUST_FAIL(FillL0C, "copy.path Fill", Cube()) {
  Ready cube;
  Fill(cube.c, InitConstValueParams<float>(1, 1, 0, 0.0f));
}
MUST_FAIL(MoveFromL1, "copy.path Fixpipe", Cube()) {
  Ready cube;
  Fixpipe(Global<float>(y), cube.a1.ReinterpretCast<float>(),
          FixpipeParamsV220(16, 16, 16, 16, false));
}
MUST_FAIL(NdToNzInUb, "copy.path Nd2Nz", Vector()) {
  InitSocState();
  LocalTensor<half> ub(TPosition::VECIN, 0, 256);
  DataCopy(ub, Global<half>(x), Nd2NzParams(1, 16, 16, 0, 16, 16, 1, 0));
}
MUST_FAIL(NdToNzRange, "params.range Nd2Nz", Cube()) {
  Ready cube;
  DataCopy(cube.a1, Global<half>(x), Nd2NzParams(1, 16, 16, 0, 16, 0, 1, 0));
}
MUST_FAIL(NdToNzColumns, "nd2nz.overlap", Cube()) {
  Ready cube;  // columns of 17 rows, 16 apart
  DataCopy(cube.a1, Global<half>(x), Nd2NzParams(1, 17, 32, 0, 32, 16, 1, 0));
}
MUST_FAIL(NdToNzMatrices, "nd2nz.overlap matrices", Cube()) {
  Ready cube;
  DataCopy(cube.a1, Global<half>(x), Nd2NzParams(2, 16, 16, 256, 16, 16, 1, 240));
}
MUST_FAIL(NdToNzBounds, "gm.bounds Nd2Nz", Cube()) {
  Ready cube;
  DataCopy(cube.a1, Global<half>(x, 255), Nd2NzParams(1, 16, 16, 0, 16, 16, 1, 0));
}
MUST_FAIL(TransposeFloat, "load.transpose", Cube()) {
  Ready cube;
  LoadData(cube.a2.ReinterpretCast<float>(), cube.a1.ReinterpretCast<float>(),
           LoadData2DParams(0, 1, 1, 0, 0, true, 0));
}
MUST_FAIL(GlobalLoadBounds, "gm.bounds LoadData", Cube()) {
  Ready cube;
  LoadData(cube.a2, Global<half>(x, 511), LoadData2DParams(1, 1, 1, 0, 0, false, 0));
}
MUST_FAIL(TransposeGlobal, "load.transpose global", Cube()) {
  Ready cube;
  LoadData(cube.a2, Global<half>(x), LoadData2DParams(0, 1, 1, 0, 0, true, 0));
}
MUST_FAIL(AddressMode, "params.range addrMode", Cube()) {
  Ready cube;
  LoadData(cube.a2, cube.a1, LoadData2DParams(0, 1, 1, 0, 0, false, 1));
}
MUST_FAIL(SquaresOverlap, "load.overlap", Cube()) {
  Ready cube;
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadDataWithTranspose(cube.a2.ReinterpretCast<float>(), cube.a1.ReinterpretCast<float>(),
                        LoadData2dTransposeParams(0, 2, 1, 0, 0, 0));
}
MUST_FAIL(BeforeTheStart, "local.bounds backwards", Cube()) {
  Ready cube;
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadDataWithTranspose(cube.a2, cube.a1, LoadData2dTransposeParams(0, 2, 1, 0, 0, 1));
}
MUST_FAIL(FillRange, "params.range Fill", Cube()) {
  Ready cube;
  Fill(cube.a1, InitConstValueParams<half>(1, 1, 32768, half(0)));
}

// --- Mmad
// -----------------------------------------------------------------------------------------

MUST_FAIL(OperandsSwapped, "mmad.position", Cube()) {
  Ready cube;
  cube.Operands(x);
  Mmad(cube.c, cube.b2, cube.a2, Product(64, 64, 64));
}
MUST_FAIL(MmadRange, "params.range Mmad", Cube()) {
  Ready cube;
  Mmad(cube.c, cube.a2, cube.b2, Product(4096, 16, 16));
}
MUST_FAIL(MmadTruncated, "params.range Mmad 16 bits", Cube()) {
  Ready cube;
  Mmad(cube.c, cube.a2, cube.b2, Product(65552, 16, 16));
}

MUST_FAIL(BiasWithoutTensor, "mmad.bias", Cube()) {
  Ready cube;
  MmadParams product = Product(16, 16, 16, false);
  product.cmatrixSource = true;
  Mmad(cube.c, cube.a2, cube.b2, product);
}
MUST_FAIL(BiasFromZero, "mmad.bias init", Cube()) {
  Ready cube;
  LocalTensor<float> bias(TPosition::C2, 0, 16);
  Mmad(cube.c, cube.a2, cube.b2, bias, Product(16, 16, 16));
}
MUST_FAIL(BiasInL0C, "mmad.position bias", Cube()) {
  Ready cube;
  Mmad(cube.c, cube.a2, cube.b2, cube.c, Product(16, 16, 16, false));
}
MUST_FAIL(BiasOrder, "sync.missing bias", Cube()) {
  Ready cube;
  cube.Operands(x);
  LocalTensor<float> from(TPosition::C1, 0, 16);
  LocalTensor<float> bias(TPosition::C2, 0, 16);
  DataCopy(bias, from, 16);
  Mmad(cube.c, cube.a2, cube.b2, bias, Product(16, 16, 16, false));
}
MUST_FAIL(BiasAlignment, "address.alignment bias", Cube()) {
  Ready cube;
  LocalTensor<float> bias(TPosition::C2, 32, 16);
  DataCopy(bias, LocalTensor<float>(TPosition::C1, 0, 16), 16);
}
MUST_FAIL(LocalPath, "copy.path local", Cube()) {
  Ready cube;
  DataCopy(cube.a2, cube.a1, 256);
}

// --- unit flags
// -----------------------------------------------------------------------------------

MUST_FAIL(UnitValue, "unit-flag.value", Cube()) {
  Ready cube;
  cube.Multiply(x, 1);
}
MUST_FAIL(UnitNotReleased, "unit-flag.order", Cube()) {
  Ready cube;
  SetMMRowMajor();
  cube.Multiply(x, 2);
  Fixpipe(Global<float>(y), cube.c, Out(3));
}
MUST_FAIL(UnitNotMovedOut, "unit-flag.order Mmad", Cube()) {
  Ready cube;
  SetMMRowMajor();
  cube.Multiply(x, 3);
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64, true, 2));
}
MUST_FAIL(UnitByMmadOnly, "unit-flag.both-sides", Cube()) {
  Ready cube;
  cube.Multiply(x, 3);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out());
}
MUST_FAIL(UnitByFixpipeOnly, "unit-flag.both-sides Fixpipe", Cube()) {
  Ready cube;
  SetMMRowMajor();
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out(3));
}
MUST_FAIL(UnitOrientation, "unit-flag.orientation", Cube()) {
  Ready cube;
  cube.Multiply(x, 3);
  Fixpipe(Global<float>(y), cube.c, Out(3));
}
MUST_FAIL(UnitOrientationNz, "unit-flag.orientation NZ", Cube()) {
  Ready cube;
  SetMMRowMajor();
  cube.Multiply(x, 3);
  FixpipeParamsV220 out(64, 64, 64, 128, false);
  out.unitFlag = 3;
  Fixpipe<float, float, CFG_NZ>(Global<float>(y), cube.c, out);
}
MUST_FAIL(UnitLeft, "unit-flag.left-set", Cube()) {
  Ready cube;  // half of the columns
  SetMMRowMajor();
  cube.Multiply(x, 3);
  FixpipeParamsV220 out(32, 64, 64, 64, false);
  out.unitFlag = 3;
  Fixpipe(Global<float>(y), cube.c, out);
  PipeBarrier<PIPE_ALL>();
}

// --- Fixpipe
// --------------------------------------------------------------------------------------

MUST_FAIL(FixpipeColumns, "fixpipe.n-size", Cube()) {
  Ready cube;
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(60, 64, 64, 64, false));
}
MUST_FAIL(FixpipeStride, "fixpipe.dst-stride", Cube()) {
  Ready cube;
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(64, 64, 64, 0, false));
}
MUST_FAIL(FixpipeNoQuant, "fixpipe.quant", Cube()) {
  Ready cube;
  Fixpipe(Global<half>(y), cube.c, Out());
}
MUST_FAIL(FixpipeNoScales, "fixpipe.quant scales", Cube()) {
  Ready cube;
  FixpipeParamsV220 out = Out();
  out.quantPre = QuantMode_t::VQF322B8_PRE;
  Fixpipe(Global<int8_t>(y), cube.c, out);
}
MUST_FAIL(FixpipeSplitNd, "fixpipe.channel-split", Cube()) {
  Ready cube;
  FixpipeParamsV220 out = Out();
  out.isChannelSplit = true;
  Fixpipe(Global<float>(y), cube.c, out);
}
MUST_FAIL(FixpipeRows, "fixpipe.overlap", Cube()) {
  Ready cube;
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(64, 64, 64, 63, false));
}
MUST_FAIL(FixpipeMatrices, "fixpipe.overlap matrices", Cube()) {
  Ready cube;
  FixpipeParamsV220 out(32, 64, 64, 64, false);
  out.ndNum = 2;
  out.srcNdStride = 8;
  out.dstNdStride = 31;
  Fixpipe(Global<float>(y), cube.c, out);
}
MUST_FAIL(FixpipeRange, "params.range Fixpipe", Cube()) {
  Ready cube;
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(64, 8193, 64, 64, false));
}

// --- flags between cores
// --------------------------------------------------------------------------

// One tile from the cube core to its vector cores: z holds a slot that is used twice.
class Slot {
 public:
  explicit Slot(GM_ADDR z) : slot_(Global<float>(z, 4096)) {}

  void Write(GM_ADDR x) {
    cube_.Multiply(x);
    Sync<HardEvent::M_FIX>();
    Again();
  }
  void Again() { Fixpipe(slot_, cube_.c, Out()); }

 private:
  Ready cube_;
  GlobalTensor<float> slot_;
};

void ReadSlot(GM_ADDR z) {
  LocalTensor<float> tile(TPosition::VECIN, 0, 2048);
  DataCopy(tile, Global<float>(z)[GetSubBlockIdx() * 2048], 2048);
}

MUST_FAIL(RingNoFlag, "gm.race ring forward", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    Slot(z).Write(x);
  }
  if ASCEND_IS_AIV {
    ReadSlot(z);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(RingNoBackFlag, "gm.race ring back", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    Slot slot(z);
    slot.Write(x);
    CrossCoreSetFlag<2, PIPE_FIX>(0);
    PipeBarrier<PIPE_FIX>();
    slot.Again();
  }
  if ASCEND_IS_AIV {
    CrossCoreWaitFlag(0);
    ReadSlot(z);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(RingBackTooEarly, "gm.race ring back early", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    Slot slot(z);
    slot.Write(x);
    CrossCoreSetFlag<2, PIPE_FIX>(0);
    CrossCoreWaitFlag(1);
    slot.Again();
  }
  if ASCEND_IS_AIV {
    CrossCoreWaitFlag(0);
    CrossCoreSetFlag<2, PIPE_MTE2>(1);  // before the slot is read
    ReadSlot(z);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(RingBackWrongPipe, "gm.race ring back pipe", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    Slot slot(z);
    slot.Write(x);
    CrossCoreSetFlag<2, PIPE_FIX>(0);
    CrossCoreWaitFlag(1);
    slot.Again();
  }
  if ASCEND_IS_AIV {
    CrossCoreWaitFlag(0);
    ReadSlot(z);
    CrossCoreSetFlag<2, PIPE_MTE3>(1);  // which does not wait for MTE2
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(RingForwardWrongPipe, "gm.race ring forward pipe", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    Slot(z).Write(x);
    CrossCoreSetFlag<2, PIPE_M>(0);
  }
  if ASCEND_IS_AIV {
    CrossCoreWaitFlag(0);
    ReadSlot(z);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(ReadersOfTwoCores, "gm.race readers", Cube(3, KernelType::kMixVector)) {
  // of two cores that read, one tells the third, which writes
  InitSocState();
  LocalTensor<float> tile(TPosition::VECIN, 0, 64);
  if (GetBlockIdx() == 2) CrossCoreSetFlag<0, PIPE_MTE3>(0);
  if (GetBlockIdx() < 2) DataCopy(tile, Global<float>(z), 64);
  if (GetBlockIdx() == 0) CrossCoreSetFlag<0, PIPE_MTE2>(0);
  if (GetBlockIdx() == 1) CrossCoreSetFlag<0, PIPE_MTE3>(0);
  CrossCoreWaitFlag(0);
  if (GetBlockIdx() == 2) {
    Duplicate(tile, 1.0f, 64);
    Sync<HardEvent::V_MTE3>();
    DataCopy(Global<float>(z), tile, 64);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(AddersUntold, "gm.race adders", Cube(3, KernelType::kMixVector)) {
  // two cores add, and only the last of them tells the third, which reads
  InitSocState();
  LocalTensor<float> tile(TPosition::VECIN, 0, 64);
  if (GetBlockIdx() < 2) {
    Duplicate(tile, 1.0f, 64);
    Sync<HardEvent::V_MTE3>();
    SetAtomicAdd<float>();
    DataCopy(Global<float>(z), tile, 64);
    SetAtomicNone();
  }
  if (GetBlockIdx() == 0) CrossCoreSetFlag<0, PIPE_MTE2>(0);
  if (GetBlockIdx() != 0) CrossCoreSetFlag<0, PIPE_MTE3>(0);
  CrossCoreWaitFlag(0);
  if (GetBlockIdx() == 2) DataCopy(tile, Global<float>(z), 64);
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(CrossInCube, "cross-core.kernel-type", Cube()) {
  InitSocState();
  CrossCoreSetFlag<0, PIPE_FIX>(0);
}
MUST_FAIL(CrossWaitInCube, "cross-core.kernel-type wait", Cube()) {
  InitSocState();
  CrossCoreWaitFlag(0);
}
MUST_FAIL(CrossModeOfOneKind, "cross-core.kernel-type mode 2", Cube(1, KernelType::kMixCube)) {
  InitSocState();
  CrossCoreSetFlag<2, PIPE_FIX>(0);
}
MUST_FAIL(CrossMode, "cross-core.mode", Mix()) {
  InitSocState();
  CrossCoreSetFlag<4, PIPE_MTE2>(0);
}
MUST_FAIL(CrossScalar, "cross-core.mode pipe", Mix()) {
  InitSocState();
  CrossCoreSetFlag<2, PIPE_S>(0);
}
MUST_FAIL(CrossCubeMode1, "cross-core.mode cube", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    CrossCoreSetFlag<1, PIPE_FIX>(0);
  }
}
MUST_FAIL(CrossId, "cross-core.flag-id", Mix()) {
  InitSocState();
  CrossCoreSetFlag<2, PIPE_MTE2>(16);
}
MUST_FAIL(CrossIdOfSyncAll, "cross-core.flag-id SyncAll", Mix()) {
  InitSocState();
  SyncAll<false>();
  CrossCoreSetFlag<2, PIPE_MTE2>(11);
}
MUST_FAIL(CrossIdBeforeSyncAll, "cross-core.flag-id before SyncAll", Mix()) {
  InitSocState();
  CrossCoreSetFlag<2, PIPE_MTE2>(14);
  SyncAll<false>();
}
MUST_FAIL(CrossCounter, "cross-core.counter-15", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    for (int i = 0; i < 16; ++i) CrossCoreSetFlag<2, PIPE_FIX>(3);
  }
}
MUST_FAIL(CrossUnpaired, "cross-core.unpaired", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    CrossCoreSetFlag<2, PIPE_FIX>(3);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(CrossAlone, "cross-core.unpaired alone", Mix()) {
  InitSocState();
  if ASCEND_IS_AIV {
    if (GetSubBlockIdx() == 0) CrossCoreSetFlag<2, PIPE_MTE2>(3);
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(CrossDeadlock, "deadlock cross-core", Mix()) {
  InitSocState();
  if ASCEND_IS_AIC {
    CrossCoreWaitFlag(0);
  }
  if ASCEND_IS_AIV {
    if (GetSubBlockIdx() == 0) CrossCoreSetFlag<2, PIPE_MTE2>(0);  // the other does not
  }
  PipeBarrier<PIPE_ALL>();
}
MUST_FAIL(CrossCircle, "deadlock circle", Mix()) {
  InitSocState();
  CrossCoreWaitFlag(0);
  CrossCoreSetFlag<2, PIPE_MTE2>(0);
}
MUST_FAIL(SyncAllOnCube, "sync-all.kernel-type cube", Mix()) {
  if ASCEND_IS_AIC {
    SyncAll();
  }
}
MUST_FAIL(SyncAllCubeCores, "sync-all.blocks cube", Cube(25, KernelType::kMixCube)) {
  SyncAll<false>();
}

// --- counting mode: x and y have no memory
// --------------------------------------------------------

MUST_FAIL(BulkScalar, "counting.virtual-data", Counting()) { Global<float>(x).GetValue(0); }
MUST_FAIL(BulkInUb, "counting.virtual-data UB", Counting()) {
  InitSocState();
  LocalTensor<float> tile(TPosition::VECIN, 0, 128);
  DataCopy(tile, Global<float>(x), 64);
  Sync<HardEvent::MTE2_V>();
  Exp(tile[64], tile, 64);
  tile.GetValue(64);
}
MUST_FAIL(BulkToSmall, "counting.virtual-data GM", Counting()) {
  InitSocState();
  LocalTensor<float> tile(TPosition::VECIN, 0, 64);
  DataCopy(tile, Global<float>(x), 64);
  Sync<HardEvent::MTE2_MTE3>();
  DataCopy(Global<float>(z), tile, 64);
}
MUST_FAIL(BulkOffsets, "counting.virtual-data Gather", Counting()) {
  InitSocState();
  LocalTensor<float> tile(TPosition::VECIN, 0, 128);
  DataCopy(tile, Global<float>(x), 64);
  Sync<HardEvent::MTE2_V>();
  Gather(tile[64], tile, tile.ReinterpretCast<uint32_t>(), 0, 64);
}
MUST_FAIL(ProductToSmall, "counting.virtual-data Fixpipe", Counting(KernelType::kCube)) {
  Ready cube;
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(z), cube.c, Out());
}

}  // namespace

const std::vector<Case>& MustFailCube() { return Cases(); }

}  // namespace moge_tests
