// The rules of the cube core, as must_fail.cpp has those of the vector core.
#include "must_fail_cube.h"

namespace moge_tests {

namespace {

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

}  // namespace

}  // namespace moge_tests
