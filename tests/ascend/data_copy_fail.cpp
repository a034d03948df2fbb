// Kernels that break a rule of data movement.
#include "must_fail.h"

namespace moge_tests {

namespace {

Options Cube() { return Launch(KernelType::kCube); }

// 1 KiB of ones in UB, then what nothing has written.
struct Local {
  Local() {
    pipe.InitBuffer(buffer, 8192);
    Duplicate(At<float>(0), 1.0f, 256);
    PipeBarrier<PIPE_ALL>();
  }
  template <typename T>
  LocalTensor<T> At(uint32_t byte) {
    return buffer.Get<uint8_t>()[byte].ReinterpretCast<T>();
  }

  TPipe pipe;
  TBuf<> buffer;
};
constexpr uint32_t kFree = 1024;
#define COPY_FAILS(...) MUST_FAIL_WITH(Local, ub, __VA_ARGS__)

// L1 with 1 KiB of x.
struct Loaded {
  explicit Loaded(GM_ADDR x) {
    InitSocState();
    tensor = LocalTensor<uint64_t>(TPosition::C1, 0, 128);
    DataCopy(tensor, Global<uint64_t>(x), 128);
    Sync<HardEvent::MTE2_FIX>();
  }

  LocalTensor<uint64_t> tensor;
};

// --- undefined bytes -------------------------------------------------------------------------

COPY_FAILS("local.uninitialised carried") {
  DataCopy(ub.At<float>(4096), ub.At<float>(kFree - 32), 16);
  Exp(ub.At<float>(4096), ub.At<float>(4096), 16);
}
COPY_FAILS("gm.undefined carried") {
  DataCopy(ub.At<float>(4096), ub.At<float>(kFree - 32), 16);
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y), ub.At<float>(4096), 16);
}
COPY_FAILS("local.uninitialised carried-mask") {
  Copy(ub.At<float>(4096), ub.At<float>(kFree - 128), 64, 1, {1, 1, 8, 8});
  Exp(ub.At<float>(4096), ub.At<float>(4096), 33);
}
COPY_FAILS("local.uninitialised carried-scalar") {
  DataCopy(ub.At<float>(4096), ub.At<float>(kFree), 8);
  PipeBarrier<PIPE_ALL>();
  ub.At<float>(4096).GetValue(0);
}
COPY_FAILS("gm.uninitialised stored") {
  DataCopy(Global<float>(y), ub.At<float>(kFree), 8);
  PipeBarrier<PIPE_ALL>();
  Global<float>(y).GetValue(0);
}
COPY_FAILS("local.uninitialised there-and-back") {
  DataCopy(Global<float>(y), ub.At<float>(kFree), 8);
  PipeBarrier<PIPE_ALL>();
  DataCopy(ub.At<float>(4096), Global<float>(y), 8);
  PipeBarrier<PIPE_ALL>();
  Exp(ub.At<float>(4096), ub.At<float>(4096), 8);
}
COPY_FAILS("gm.undefined poison") {
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), {1, 20, 0, 0, 0}, {false, 0, 1, 0.0f});
  PipeBarrier<PIPE_ALL>();
  DataCopy(ub.At<float>(4096), ub.At<float>(kFree), 8);
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y), ub.At<float>(4096), 8);
}
COPY_FAILS("sync.missing carried") {
  DataCopy(ub.At<float>(kFree), Global<float>(x), 64);
  DataCopy(ub.At<float>(4096), ub.At<float>(kFree), 64);
}

// --- parameters ------------------------------------------------------------------------------

COPY_FAILS("copy.padding type") {
  SetPadValue(half(1.0f));
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), {1, 20, 0, 0, 0}, {false, 0, 3, 0.0f});
}
COPY_FAILS("copy.padding params") {
  DataCopyPad(ub.At<float>(kFree), Global<float>(x), DataCopyParams(1, 4, 0, 0),
              DataCopyPadParams(true, 9, 0, 0));
}
COPY_FAILS("copy.block-length params") {
  DataCopyPad(Global<float>(y), ub.At<float>(0), DataCopyParams(1, 18, 0, 0));
}
COPY_FAILS("stride.dst-block-0 counted") {
  SetMaskCount();
  Copy(ub.At<float>(kFree), ub.At<float>(0), uint64_t{16}, 1, {0, 1, 8, 8});
}
COPY_FAILS("params.range nd2nz") {
  DataCopy(ub.At<half>(kFree), Global<half>(x), Nd2NzParams(1, 16, 16, 0, 0, 16, 1, 0));
}
COPY_FAILS("params.range nz2nd") {
  DataCopy(Global<half>(y), ub.At<half>(0), Nz2NdParamsFull(1, 16, 16, 513, 16, 16, 1));
}
COPY_FAILS("nz2nd.d-value-16") {
  DataCopy(Global<half>(y), ub.At<half>(0), Nz2NdParamsFull(1, 16, 8, 1, 16, 16, 1));
}
MUST_FAIL("params.range nd2nz L1", Cube()) {
  InitSocState();
  LocalTensor<half> tensor(TPosition::A1, 0, 4096);
  DataCopy(tensor, Global<half>(x), Nd2NzParams(2, 16, 16, 256, 16, 16, 1, 16385));
}

// --- slices ----------------------------------------------------------------------------------

COPY_FAILS("copy.slice") {
  const SliceInfo dst[] = {{0, 15, 0, 2, 16}};
  const SliceInfo src[] = {{0, 7, 0, 1, 16}};
  DataCopy(ub.At<float>(kFree), Global<float>(x), dst, src);
}
COPY_FAILS("copy.slice order") {
  const SliceInfo dst[] = {{0, 7, 0, 1, 16}};
  const SliceInfo src[] = {{8, 8, 0, 1, 16}};
  DataCopy(ub.At<float>(kFree), Global<float>(x), dst, src);
}
COPY_FAILS("copy.slice extent") {
  const SliceInfo dst[] = {{0, 7, 0, 1, 8}, {0, 1, 0, 1, 2}};
  const SliceInfo src[] = {{8, 15, 0, 1, 14}, {0, 1, 0, 1, 2}};
  DataCopy(ub.At<float>(kFree), Global<float>(x), dst, src, 2);
}
COPY_FAILS("copy.slice pieces") {
  const SliceInfo dst[] = {{0, 15, 0, 1, 16}};
  const SliceInfo src[] = {{0, 16, 2, 1, 32}};
  DataCopy(ub.At<float>(kFree), Global<float>(x), dst, src);
}
COPY_FAILS("copy.slice rows") {
  const SliceInfo dst[] = {{0, 7, 0, 1, 8}, {0, 1, 0, 2, 2}};
  DataCopy(ub.At<float>(kFree), Global<float>(x), dst, dst, 2);
}
COPY_FAILS("copy.slice dimensions") {
  const SliceInfo slices[K_MAX_DIM + 1];
  DataCopy(Global<float>(y), ub.At<float>(0), slices, slices, K_MAX_DIM + 1);
}
COPY_FAILS("address.alignment slice") {
  const SliceInfo dst[] = {{0, 16, 1, 1, 32}};
  const SliceInfo src[] = {{0, 15, 0, 1, 32}};
  DataCopy(ub.At<float>(kFree), Global<float>(x), dst, src);
}

// --- the fixpipe buffer ----------------------------------------------------------------------

MUST_FAIL("copy.path FB", Cube()) {
  Loaded l1(x);
  LocalTensor<float> fb(TPosition::C2PIPE2GM, 0, 32);
  DataCopy(fb, l1.tensor.ReinterpretCast<float>(), 32);
}
MUST_FAIL("address.alignment FB", Cube()) {
  Loaded l1(x);
  LocalTensor<uint64_t> fb(TPosition::C2PIPE2GM, 64, 16);
  DataCopy(fb, l1.tensor, 16);
}
MUST_FAIL("copy.path L1", Cube()) {
  Loaded l1(x);
  LocalTensor<uint64_t> other(TPosition::A1, 4096, 128);
  DataCopy(other, l1.tensor, 128);
}

// --- lists of tensors ------------------------------------------------------------------------

MUST_FAIL("list-tensor.layout") { ListTensorDesc().GetSize(); }
MUST_FAIL("list-tensor.layout index") {
  // no description, no address
  auto words = Global<uint64_t>(z);
  words.SetValue(0, 8);
  DataCacheCleanAndInvalid<uint64_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(words);
  ListTensorDesc(z).GetDataPtr<float>(0);
}
MUST_FAIL("list-tensor.layout offset") {
  auto words = Global<uint64_t>(z);
  words.SetValue(0, 16);
  words.SetValue(1, 2);
  DataCacheCleanAndInvalid<uint64_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(words);
  ListTensorDesc list(z);
}
MUST_FAIL("list-tensor.layout number") {
  auto words = Global<uint64_t>(z);
  words.SetValue(0, 8);
  DataCacheCleanAndInvalid<uint64_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(words);
  ListTensorDesc list(z, 64, 2);
}

// --- advice ----------------------------------------------------------------------------------

COPY_FAILS("advice.transfer-16KB") { DataCopy(ub.At<float>(kFree), Global<float>(x), 64); }
COPY_FAILS("advice.gm-512B") { DataCopy(ub.At<float>(kFree), Global<float>(x)[8], 64); }

}  // namespace

}  // namespace moge_tests
