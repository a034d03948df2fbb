// The rules of the cube core and of flags between cores, as must_fail.cpp has those of the vector
// core.
#include "must_fail.h"

namespace moge_tests {

namespace {

Options Cube(uint32_t blocks = 1, KernelType kernel = KernelType::kCube) {
  return Launch(kernel, blocks);
}
Options Mix(uint32_t blocks = 1) { return Launch(KernelType::kMix, blocks); }
Options Counting(KernelType kernel = KernelType::kVector) {
  Options options = Launch(kernel);
  options.counting = true;
  return options;
}

struct Started {
  Started() { InitSocState(); }
};
// Both operands of a product of up to 64 x 64 x 64 halves in L1 and L0, ones from x.
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

#define STATIC_FAILS(...) MUST_FAIL_WITH(Started, started, __VA_ARGS__)
#define CUBE_FAILS(NAME) MUST_FAIL_WITH(Ready, cube, NAME, Cube())

// 64 x 64 floats, row by row
FixpipeParamsV220 Out(uint8_t unit = 0) {
  FixpipeParamsV220 params(64, 64, 64, 64, false);
  params.unitFlag = unit;
  return params;
}

// --- memory ----------------------------------------------------------------------------------

STATIC_FAILS("position.no-memory cube", Cube()) {
  LocalTensor<half> tensor(TPosition::VECIN, 0, 1024);
}
STATIC_FAILS("local.capacity", Cube()) { LocalTensor<half> tensor(TPosition::A1, 0, 262145); }
STATIC_FAILS("local.capacity L0A", Cube()) { LocalTensor<half> tensor(TPosition::A2, 512, 32768); }
STATIC_FAILS("local.capacity L0C", Cube()) {
  LocalMemAllocator<Hardware::L0C> allocator;
  allocator.Alloc<float>(16384);
  allocator.Alloc<TPosition::CO1, float>(16385);
}
STATIC_FAILS("local.capacity mix", Mix()) {
  if ASCEND_IS_AIC {
    LocalTensor<half> tensor(TPosition::A1, 0, 262144);
  }
}
STATIC_FAILS("local.capacity BT", Cube()) { LocalTensor<float> tensor(TPosition::C2, 0, 257); }
CUBE_FAILS("address.alignment L0") {
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(cube.a2[16], cube.a1, LoadData2DParams(0, 1, 1, 0, 0, false, 0));
}
CUBE_FAILS("address.alignment Mmad") {
  cube.Operands(x);
  Mmad(cube.c[128], cube.a2, cube.b2, Product(16, 16, 16));
}
CUBE_FAILS("address.alignment Fixpipe") {
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c[8], FixpipeParamsV220(16, 16, 64, 16, false));
}
CUBE_FAILS("gm.alignment NZ") {
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe<float, float, CFG_NZ>(Global<float>(y + 4), cube.c,
                                FixpipeParamsV220(16, 16, 64, 32, false));
}
CUBE_FAILS("local.declared-size LoadData") {
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(cube.a2, cube.a1, LoadData2DParams(15, 2, 1, 0, 0, false, 0));
}
CUBE_FAILS("local.declared-size Mmad") {
  cube.Operands(x);
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 80));
}
CUBE_FAILS("local.declared-size Fixpipe") {
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c[4080], FixpipeParamsV220(16, 2, 16, 16, false));
}
CUBE_FAILS("local.bounds end-of-memory") {
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  LocalTensor<float> last(TPosition::CO1, 131072 - 1024, 256);
  Fixpipe(Global<float>(y), last, FixpipeParamsV220(16, 32, 32, 16, false));
}
CUBE_FAILS("gm.bounds Fixpipe") {
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y, 4095), cube.c, Out());
}
CUBE_FAILS("local.uninitialised L0A") {
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(cube.a2, cube.a1, LoadData2DParams(0, 15, 1, 0, 0, false, 0));
  LoadData(cube.b2, cube.b1, LoadData2DParams(0, 16, 1, 0, 0, false, 0));
  Sync<HardEvent::MTE1_M>();
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64));
}
CUBE_FAILS("local.uninitialised tail") {
  // 60 rows in L1, 61 multiplied
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
CUBE_FAILS("local.uninitialised L0C") {
  cube.Operands(x);
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64, false));
}
CUBE_FAILS("gm.undefined L0C") {
  cube.Operands(x);
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 60, 64));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out());
}

// --- pipes and styles ------------------------------------------------------------------------

MUST_FAIL("core.pipe") {
  LocalTensor<float> c;
  LocalTensor<half> a;
  Mmad(c, a, a, Product(16, 16, 16));
}
STATIC_FAILS("core.pipe flag", Cube()) { Sync<HardEvent::MTE2_V>(); }
STATIC_FAILS("core.pipe barrier", Cube()) { PipeBarrier<PIPE_V>(); }
MUST_FAIL("core.pipe order") { SetMMRowMajor(); }
MUST_FAIL("static.final-barrier cube", Cube()) {
  Ready cube;
  cube.Copy(x);
}

// --- order -----------------------------------------------------------------------------------

CUBE_FAILS("sync.missing MTE2-MTE1") {
  cube.Copy(x);
  cube.Load();
}
CUBE_FAILS("sync.missing MTE1-M") {
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  cube.Load();
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64));
}
CUBE_FAILS("sync.missing M-MTE1") {
  cube.Multiply(x);
  PipeBarrier<PIPE_MTE1>();
  cube.Load();
}
CUBE_FAILS("sync.missing MTE1-MTE2") {
  cube.Operands(x);
  PipeBarrier<PIPE_MTE2>();
  cube.Copy(x);
}
CUBE_FAILS("sync.missing M-FIX") {
  cube.Multiply(x);
  Fixpipe(Global<float>(y), cube.c, Out());
}
CUBE_FAILS("sync.missing FIX-M") {
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out());
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64));
}
CUBE_FAILS("sync.missing FIX-MTE2") {
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out());
  DataCopy(cube.a1, Global<half>(y), 4096);
}
MUST_FAIL("sync.missing cube scalar", Cube()) {
  // beside a vector core's scalar unit the compiler would have put a barrier
  Ready cube;
  const auto numbers = Global<int32_t>(z);
  numbers.SetValue(0, 1);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE>(numbers);
  DataCopy(cube.a1, Global<half>(z), 64);
}
CUBE_FAILS("sync.missing Fill") {
  Fill(cube.a1, InitConstValueParams<half>(1, 256, 0, half(0)));
  cube.Copy(x);
}
CUBE_FAILS("mmad.barrier") {
  cube.Operands(x);
  Mmad(cube.c, cube.a2, cube.b2, Product(48, 63, 64));
  Mmad(cube.c, cube.a2, cube.b2, Product(48, 63, 64, false));
}

// --- transfers -------------------------------------------------------------------------------

CUBE_FAILS("copy.path") { DataCopy(cube.a2, Global<half>(x), 256); }
CUBE_FAILS("copy.path DataCopyPad") {
  DataCopyPad(cube.a1, Global<half>(x), DataCopyExtParams(1, 30, 0, 0, 0),
              DataCopyPadExtParams<half>(true, 0, 1, half(0)));
}
CUBE_FAILS("copy.path LoadData") {
  LoadData(cube.b2, cube.a2, LoadData2DParams(0, 1, 1, 0, 0, false, 0));
}
CUBE_FAILS("copy.path L0C") {
  LoadData(cube.c, cube.a1.ReinterpretCast<float>(), LoadData2DParams(0, 1, 1, 0, 0, false, 0));
}
CUBE_FAILS("copy.path Fill") { Fill(cube.c, InitConstValueParams<float>(1, 1, 0, 0.0f)); }
CUBE_FAILS("copy.path Fixpipe") {
  Fixpipe(Global<float>(y), cube.a1.ReinterpretCast<float>(),
          FixpipeParamsV220(16, 16, 16, 16, false));
}
STATIC_FAILS("copy.path Nd2Nz", Cube()) {
  LocalTensor<half> l0(TPosition::A2, 0, 256);
  DataCopy(l0, Global<half>(x), Nd2NzParams(1, 16, 16, 0, 16, 16, 1, 0));
}
CUBE_FAILS("params.range Nd2Nz") {
  DataCopy(cube.a1, Global<half>(x), Nd2NzParams(1, 16, 16, 0, 16, 0, 1, 0));
}
CUBE_FAILS("nd2nz.overlap") {
  // columns of 17 rows, 16 apart
  DataCopy(cube.a1, Global<half>(x), Nd2NzParams(1, 17, 32, 0, 32, 16, 1, 0));
}
CUBE_FAILS("nd2nz.overlap matrices") {
  DataCopy(cube.a1, Global<half>(x), Nd2NzParams(2, 16, 16, 256, 16, 16, 1, 240));
}
CUBE_FAILS("gm.bounds Nd2Nz") {
  DataCopy(cube.a1, Global<half>(x, 255), Nd2NzParams(1, 16, 16, 0, 16, 16, 1, 0));
}
CUBE_FAILS("load.transpose") {
  LoadData(cube.a2.ReinterpretCast<float>(), cube.a1.ReinterpretCast<float>(),
           LoadData2DParams(0, 1, 1, 0, 0, true, 0));
}
CUBE_FAILS("gm.bounds LoadData") {
  LoadData(cube.a2, Global<half>(x, 511), LoadData2DParams(1, 1, 1, 0, 0, false, 0));
}
CUBE_FAILS("load.transpose global") {
  LoadData(cube.a2, Global<half>(x), LoadData2DParams(0, 1, 1, 0, 0, true, 0));
}
CUBE_FAILS("params.range addrMode") {
  LoadData(cube.a2, cube.a1, LoadData2DParams(0, 1, 1, 0, 0, false, 1));
}
CUBE_FAILS("load.overlap") {
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadDataWithTranspose(cube.a2.ReinterpretCast<float>(), cube.a1.ReinterpretCast<float>(),
                        LoadData2dTransposeParams(0, 2, 1, 0, 0, 0));
}
CUBE_FAILS("local.bounds backwards") {
  cube.Copy(x);
  Sync<HardEvent::MTE2_MTE1>();
  LoadDataWithTranspose(cube.a2, cube.a1, LoadData2dTransposeParams(0, 2, 1, 0, 0, 1));
}
CUBE_FAILS("params.range Fill") { Fill(cube.a1, InitConstValueParams<half>(1, 1, 32768, half(0))); }

// --- Mmad ------------------------------------------------------------------------------------

CUBE_FAILS("mmad.position") {
  cube.Operands(x);
  Mmad(cube.c, cube.b2, cube.a2, Product(64, 64, 64));
}
CUBE_FAILS("params.range Mmad") { Mmad(cube.c, cube.a2, cube.b2, Product(4096, 16, 16)); }
CUBE_FAILS("params.range Mmad 16 bits") { Mmad(cube.c, cube.a2, cube.b2, Product(65552, 16, 16)); }

CUBE_FAILS("mmad.bias") {
  LocalTensor<float> bias(TPosition::C2, 0, 16);
  Mmad(cube.c, cube.a2, cube.b2, bias, Product(16, 16, 16));
}
CUBE_FAILS("mmad.position bias") {
  Mmad(cube.c, cube.a2, cube.b2, cube.c, Product(16, 16, 16, false));
}
CUBE_FAILS("sync.missing bias") {
  cube.Operands(x);
  LocalTensor<float> from(TPosition::C1, 0, 16);
  LocalTensor<float> bias(TPosition::C2, 0, 16);
  DataCopy(bias, from, 16);
  Mmad(cube.c, cube.a2, cube.b2, bias, Product(16, 16, 16, false));
}
CUBE_FAILS("address.alignment bias") {
  LocalTensor<float> bias(TPosition::C2, 32, 16);
  DataCopy(bias, LocalTensor<float>(TPosition::C1, 0, 16), 16);
}
CUBE_FAILS("copy.path local") { DataCopy(cube.a2, cube.a1, 256); }

// --- unit flags ------------------------------------------------------------------------------

CUBE_FAILS("unit-flag.value") { cube.Multiply(x, 1); }
CUBE_FAILS("unit-flag.order") {
  SetMMRowMajor();
  cube.Multiply(x, 2);
  Fixpipe(Global<float>(y), cube.c, Out(3));
}
CUBE_FAILS("unit-flag.order Mmad") {
  SetMMRowMajor();
  cube.Multiply(x, 3);
  Mmad(cube.c, cube.a2, cube.b2, Product(64, 64, 64, true, 2));
}
CUBE_FAILS("unit-flag.both-sides") {
  cube.Multiply(x, 3);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out());
}
CUBE_FAILS("unit-flag.both-sides Fixpipe") {
  SetMMRowMajor();
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, Out(3));
}
CUBE_FAILS("unit-flag.orientation") {
  cube.Multiply(x, 3);
  Fixpipe(Global<float>(y), cube.c, Out(3));
}
CUBE_FAILS("unit-flag.orientation NZ") {
  SetMMRowMajor();
  cube.Multiply(x, 3);
  FixpipeParamsV220 out(64, 64, 64, 128, false);
  out.unitFlag = 3;
  Fixpipe<float, float, CFG_NZ>(Global<float>(y), cube.c, out);
}
CUBE_FAILS("unit-flag.left-set") {
  // half of the columns
  SetMMRowMajor();
  cube.Multiply(x, 3);
  FixpipeParamsV220 out(32, 64, 64, 64, false);
  out.unitFlag = 3;
  Fixpipe(Global<float>(y), cube.c, out);
  PipeBarrier<PIPE_ALL>();
}

// --- Fixpipe ---------------------------------------------------------------------------------

CUBE_FAILS("fixpipe.n-size") {
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(60, 64, 64, 64, false));
}
CUBE_FAILS("fixpipe.dst-stride") {
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(64, 64, 64, 0, false));
}
CUBE_FAILS("fixpipe.quant") { Fixpipe(Global<half>(y), cube.c, Out()); }
CUBE_FAILS("fixpipe.quant scales") {
  FixpipeParamsV220 out = Out();
  out.quantPre = QuantMode_t::VQF322B8_PRE;
  Fixpipe(Global<int8_t>(y), cube.c, out);
}
CUBE_FAILS("fixpipe.channel-split") {
  FixpipeParamsV220 out = Out();
  out.isChannelSplit = true;
  Fixpipe(Global<float>(y), cube.c, out);
}
CUBE_FAILS("fixpipe.overlap") {
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(64, 64, 64, 63, false));
}
CUBE_FAILS("fixpipe.overlap matrices") {
  FixpipeParamsV220 out(32, 64, 64, 64, false);
  out.ndNum = 2;
  out.srcNdStride = 8;
  out.dstNdStride = 31;
  Fixpipe(Global<float>(y), cube.c, out);
}
CUBE_FAILS("params.range Fixpipe") {
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(64, 8193, 64, 64, false));
}

// --- flags between cores ---------------------------------------------------------------------

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

STATIC_FAILS("gm.race ring forward", Mix()) {
  if ASCEND_IS_AIC {
    Slot(z).Write(x);
  }
  if ASCEND_IS_AIV {
    ReadSlot(z);
  }
  PipeBarrier<PIPE_ALL>();
}
STATIC_FAILS("gm.race ring back", Mix()) {
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
STATIC_FAILS("gm.race ring back early", Mix()) {
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
STATIC_FAILS("gm.race ring back pipe", Mix()) {
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
STATIC_FAILS("gm.race ring forward pipe", Mix()) {
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
MUST_FAIL("gm.race readers", Cube(3, KernelType::kMixVector)) {
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
MUST_FAIL("gm.race adders", Cube(3, KernelType::kMixVector)) {
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
STATIC_FAILS("cross-core.kernel-type", Cube()) { CrossCoreSetFlag<0, PIPE_FIX>(0); }
STATIC_FAILS("cross-core.kernel-type wait", Cube()) { CrossCoreWaitFlag(0); }
STATIC_FAILS("cross-core.kernel-type mode 2", Cube(1, KernelType::kMixCube)) {
  CrossCoreSetFlag<2, PIPE_FIX>(0);
}
STATIC_FAILS("cross-core.mode", Mix()) { CrossCoreSetFlag<4, PIPE_MTE2>(0); }
STATIC_FAILS("cross-core.mode pipe", Mix()) { CrossCoreSetFlag<2, PIPE_S>(0); }
STATIC_FAILS("cross-core.mode cube", Mix()) {
  if ASCEND_IS_AIC {
    CrossCoreSetFlag<1, PIPE_FIX>(0);
  }
}
STATIC_FAILS("cross-core.flag-id", Mix()) { CrossCoreSetFlag<2, PIPE_MTE2>(16); }
STATIC_FAILS("cross-core.flag-id SyncAll", Mix()) {
  SyncAll<false>();
  CrossCoreSetFlag<2, PIPE_MTE2>(11);
}
STATIC_FAILS("cross-core.flag-id before SyncAll", Mix()) {
  CrossCoreSetFlag<2, PIPE_MTE2>(14);
  SyncAll<false>();
}
STATIC_FAILS("cross-core.counter-15", Mix()) {
  if ASCEND_IS_AIC {
    for (int i = 0; i < 16; ++i) CrossCoreSetFlag<2, PIPE_FIX>(3);
  }
}
STATIC_FAILS("cross-core.unpaired", Mix()) {
  if ASCEND_IS_AIC {
    CrossCoreSetFlag<2, PIPE_FIX>(3);
  }
  PipeBarrier<PIPE_ALL>();
}
STATIC_FAILS("cross-core.unpaired alone", Mix()) {
  if ASCEND_IS_AIV {
    if (GetSubBlockIdx() == 0) CrossCoreSetFlag<2, PIPE_MTE2>(3);
  }
  PipeBarrier<PIPE_ALL>();
}
STATIC_FAILS("deadlock cross-core", Mix()) {
  if ASCEND_IS_AIC {
    CrossCoreWaitFlag(0);
  }
  if ASCEND_IS_AIV {
    if (GetSubBlockIdx() == 0) CrossCoreSetFlag<2, PIPE_MTE2>(0);  // the other does not
  }
  PipeBarrier<PIPE_ALL>();
}
STATIC_FAILS("deadlock circle", Mix()) {
  CrossCoreWaitFlag(0);
  CrossCoreSetFlag<2, PIPE_MTE2>(0);
}
MUST_FAIL("sync-all.kernel-type cube", Mix()) {
  if ASCEND_IS_AIC {
    SyncAll();
  }
}
MUST_FAIL("sync-all.blocks cube", Cube(25, KernelType::kMixCube)) { SyncAll<false>(); }

// --- counting mode: x and y have no memory ---------------------------------------------------

MUST_FAIL("counting.virtual-data", Counting()) { Global<float>(x).GetValue(0); }
STATIC_FAILS("counting.virtual-data UB", Counting()) {
  LocalTensor<float> tile(TPosition::VECIN, 0, 128);
  DataCopy(tile, Global<float>(x), 64);
  Sync<HardEvent::MTE2_V>();
  Exp(tile[64], tile, 64);
  tile.GetValue(64);
}
STATIC_FAILS("counting.virtual-data GM", Counting()) {
  LocalTensor<float> tile(TPosition::VECIN, 0, 64);
  DataCopy(tile, Global<float>(x), 64);
  Sync<HardEvent::MTE2_MTE3>();
  DataCopy(Global<float>(z), tile, 64);
}
STATIC_FAILS("counting.virtual-data Gather", Counting()) {
  LocalTensor<float> tile(TPosition::VECIN, 0, 128);
  DataCopy(tile, Global<float>(x), 64);
  Sync<HardEvent::MTE2_V>();
  Gather(tile[64], tile, tile.ReinterpretCast<uint32_t>(), 0, 64);
}
MUST_FAIL("counting.virtual-data Fixpipe", Counting(KernelType::kCube)) {
  Ready cube;
  cube.Multiply(x);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(z), cube.c, Out());
}

}  // namespace

}  // namespace moge_tests
