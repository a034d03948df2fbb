// The rules of loads by windows, of products of other kinds, and of results by what was set.
#include "must_fail.h"

namespace moge_tests {

namespace {

struct Started {
  Started() { InitSocState(); }
};

// 64 x 64 halves of x in L1, as an image of one row too, and room in L0
struct Ready : Started {
  explicit Ready(GM_ADDR x) {
    DataCopy(l1, Global<half>(x), 4096);
    Sync<HardEvent::MTE2_MTE1>();
    windows.l1H = 1;
    windows.l1W = 64;
    windows.channelSize = 64;
    windows.kExtension = 64;
    windows.mExtension = 64;
  }
  void Multiply() {
    LoadData(a2, l1, windows);
    LoadData(b2, l1, windows);
    Sync<HardEvent::MTE1_M>();
    Mmad(c, a2, b2, Product(64, 64, 64));
    Sync<HardEvent::M_FIX>();
  }
  LocalTensor<half> l1{TPosition::A1, 0, 4096};
  LocalTensor<half> a2{TPosition::A2, 0, 4096};
  LocalTensor<half> b2{TPosition::B2, 0, 4096};
  LocalTensor<float> c{TPosition::CO1, 0, 4096};
  LoadData3DParamsV2<half> windows;
};

const Options kCube = Launch(KernelType::kCube);
#define MATRIX_FAILS(NAME) MUST_FAIL(NAME, kCube)

MATRIX_FAILS("load.type") {
  Ready cube(x);
  LoadData3DParamsV2<int8_t> windows;
  windows.l1H = windows.l1W = windows.mExtension = 16;
  windows.channelSize = windows.kExtension = 32;
  LoadData(cube.b2.ReinterpretCast<int8_t>(), cube.l1.ReinterpretCast<int8_t>(), windows);
}
MATRIX_FAILS("load.type int4") {
  Ready cube(x);
  LoadDataWithTranspose(cube.a2.ReinterpretCast<int4b_t>(), cube.l1.ReinterpretCast<int4b_t>(),
                        LoadData2dTransposeParams(0, 1, 1, 0, 0));
}
MATRIX_FAILS("load.not-set") {
  Ready cube(x);
  LoadData(cube.a2, cube.l1, LoadData3DParamsV2Pro());
}
MATRIX_FAILS("load.not-set padding") {
  Ready cube(x);
  static constexpr IsResetLoad3dConfig kKept = {true, false};
  cube.windows.padList[0] = 1;
  LoadData<half, kKept>(cube.a2, cube.l1, cube.windows);
}
MATRIX_FAILS("load.channels") {
  Ready cube(x);
  cube.windows.channelSize = 18;
  LoadData(cube.a2, cube.l1, cube.windows);
}
MATRIX_FAILS("load.part") {
  Ready cube(x);
  cube.windows.kExtension = 40;
  LoadData(cube.a2, cube.l1, cube.windows);
}
MATRIX_FAILS("load.part start") {
  Ready cube(x);
  cube.windows.kStartPt = 8;
  cube.windows.kExtension = 16;
  LoadData(cube.a2, cube.l1, cube.windows);
}
MATRIX_FAILS("load.part rows") {
  Ready cube(x);
  cube.windows.mExtension = 40;
  LoadData(cube.a2, cube.l1, cube.windows);
}
MATRIX_FAILS("load.boundary") {
  Ready cube(x);
  SetLoadDataBoundary(1023);
  LoadData(cube.a2, cube.l1, cube.windows);
}
MATRIX_FAILS("load.boundary source") {
  Ready cube(x);
  SetLoadDataBoundary(1024);
  LoadData(cube.a2, cube.l1[512], cube.windows);
}
MATRIX_FAILS("params.range strideW") {
  Ready cube(x);
  cube.windows.strideW = 64;
  LoadData(cube.a2, cube.l1, cube.windows);
}
MATRIX_FAILS("params.range SetFmatrix") {
  InitSocState();
  const uint8_t padding[4] = {};
  SetFmatrix(0, 16, padding, FmatrixMode::FMATRIX_LEFT);
}
MATRIX_FAILS("local.declared-size windows") {
  Ready cube(x);
  cube.windows.l1W = 80;
  cube.windows.mExtension = 80;
  LoadData(cube.a2, cube.l1, cube.windows);
}
MATRIX_FAILS("local.poison windows") {
  // rows that are no windows
  Ready cube(x);
  cube.windows.l1W = 48;
  cube.Multiply();
}
MATRIX_FAILS("sync.missing windows") {
  Ready cube(x);
  DataCopy(cube.l1, Global<half>(x), 4096);
  LoadData(cube.a2, cube.l1, cube.windows);
}
MATRIX_FAILS("copy.path windows") {
  Ready cube(x);
  LoadData(cube.a2, cube.b2, cube.windows);
}
MUST_FAIL("core.pipe SetFmatrix") {
  const uint8_t padding[4] = {};
  SetFmatrix(1, 16, padding, FmatrixMode::FMATRIX_LEFT);
}

MATRIX_FAILS("mmad.index") {
  Ready cube(x);
  MmadWithSparse(cube.c.ReinterpretCast<int32_t>(), cube.a2.ReinterpretCast<int8_t>(),
                 cube.b2.ReinterpretCast<int8_t>(), Product(16, 16, 64));
}
MATRIX_FAILS("gm.undefined table") {
  Ready cube(x);
  LoadData(cube.a2, cube.l1, cube.windows);
  LoadData(cube.b2, cube.l1, cube.windows);
  Sync<HardEvent::MTE1_M>();
  MmadParams product = Product(16, 16, 16, false);
  product.cmatrixSource = true;
  Mmad(cube.c, cube.a2, cube.b2, product);
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(16, 16, 16, 16, false));
}

MATRIX_FAILS("fixpipe.not-set") {
  Ready cube(x);
  cube.Multiply();
  DataCopy(Global<int8_t>(y), cube.c,
           DataCopyCO12DstParams(64, 64, 64, 64, QuantMode_t::QF322B8_PRE, 0, false, false));
}
MATRIX_FAILS("fixpipe.not-set scales") {
  Ready cube(x);
  cube.Multiply();
  DataCopy(Global<int8_t>(y), cube.c,
           DataCopyCO12DstParams(64, 64, 64, 64, QuantMode_t::VQF322B8_PRE, 0, false, false));
}
MATRIX_FAILS("fixpipe.not-set matrices") {
  Ready cube(x);
  cube.Multiply();
  DataCopy(Global<float>(y), cube.c,
           DataCopyCO12DstParams(64, 64, 64, 64, QuantMode_t::NoQuant, 0, false, true));
}
MATRIX_FAILS("fixpipe.config") {
  Ready cube(x);
  SetFixPipeConfig(LocalTensor<uint64_t>(TPosition::C1, 0, 64));
}
MATRIX_FAILS("fixpipe.config L0C") {
  Ready cube(x);
  SetFixPipeConfig(cube.c);
}
MATRIX_FAILS("fixpipe.scale") {
  Ready cube(x);
  cube.Multiply();
  FixpipeParamsV220 out(64, 64, 64, 64, false);
  out.quantPre = QuantMode_t::QF322B8_PRE;
  out.deqScalar = 0x7f800000;  // infinite
  Fixpipe(Global<int8_t>(y), cube.c, out);
}
MATRIX_FAILS("params.range reluPre") {
  Ready cube(x);
  cube.Multiply();
  DataCopy(Global<half>(y), cube.c,
           DataCopyCO12DstParams(64, 64, 64, 64, QuantMode_t::F322F16, 2, false, false));
}
MATRIX_FAILS("copy.path Fixpipe L0A") {
  Ready cube(x);
  cube.Multiply();
  FixpipeParamsV220 out(64, 64, 64, 64, false);
  out.quantPre = QuantMode_t::F322F16;
  Fixpipe(cube.a2, cube.c, out);
}
MATRIX_FAILS("copy.path scales") {
  Ready cube(x);
  DataCopy(LocalTensor<half>(TPosition::C2PIPE2GM, 0, 64), cube.l1, DataCopyParams(1, 1, 0, 0));
}
MATRIX_FAILS("local.declared-size Fixpipe L1") {
  Ready cube(x);
  cube.Multiply();
  FixpipeParamsV220 out(64, 64, 64, 65, false);
  out.quantPre = QuantMode_t::F322F16;
  Fixpipe(cube.l1, cube.c, out);
}
MATRIX_FAILS("gm.undefined bias") {
  // the product is defined but for the columns that take their bias from what nobody wrote
  Ready cube(x);
  cube.Multiply();
  LocalTensor<float> bias(TPosition::C2, 0, 16);
  Mmad(cube.c, cube.a2, cube.b2, bias, Product(16, 16, 16, false));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), cube.c, FixpipeParamsV220(16, 16, 16, 16, false));
}
MATRIX_FAILS("sync.missing Fixpipe L1") {
  Ready cube(x);
  cube.Multiply();
  FixpipeParamsV220 out(64, 64, 64, 64, false);
  out.quantPre = QuantMode_t::F322F16;
  Fixpipe(cube.l1, cube.c, out);
  LoadData(cube.a2, cube.l1, cube.windows);
}

}  // namespace

}  // namespace moge_tests
