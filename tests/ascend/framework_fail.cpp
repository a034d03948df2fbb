// Kernels that break a rule of TPipe, of queues and of pools.
#include "must_fail.h"

namespace moge_tests {

namespace {

Options Cube() { return Launch(KernelType::kCube); }

// A pool of 4096 bytes of UB.
struct Pooled {
  Pooled() { pipe.InitBufPool(pool, 4096); }

  TPipe pipe;
  TBufPool<TPosition::VECCALC> pool, other;
  TBuf<> buffer, second;
};
#define POOL_FAILS(...) MUST_FAIL_WITH(Pooled, own, __VA_ARGS__)

// A queue of depth 0, whose tensors are the kernel's.
struct InPlace {
  InPlace() { pipe.InitBuffer(queue, 1, 256); }

  TPipe pipe;
  TQue<TPosition::VECOUT, 0> queue;
  LocalTensor<float> tensor;
};
#define IN_PLACE_FAILS(...) MUST_FAIL_WITH(InPlace, own, __VA_ARGS__)

constexpr TQueConfig kTwo = [] {
  TQueConfig config;
  config.bufferNumber = 2;
  return config;
}();
constexpr TQueConfig kShort = [] {
  TQueConfig config;
  config.bufferLen = 128;
  return config;
}();

class OwnPool {
 public:
  OwnPool() { Init(); }
  template <typename T>
  bool InitBuffer(T& queue, uint8_t number, uint32_t bytes, uint32_t address) {
    const TBufHandle handle = GetBufHandle(GetCurBufSize());
    queue.InitStartBufHandle(handle, number, bytes);
    queue.InitBufHandle(this, 0, handle, address, bytes);
    return true;
  }

  EXTERN_IMPL_BUFPOOL(OwnPool, TPosition::VECCALC, 4);
};

// --- TPipe -----------------------------------------------------------------------------------

MUST_FAIL("pipe.none-alive") {
  TPipe pipe;
  pipe.Destroy();
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 64);
}
MUST_FAIL("pipe.none-alive twice") {
  TPipe pipe;
  pipe.DestroyWithoutPipeAll();
  pipe.Destroy();
}
MUST_FAIL("pipe.one-at-a-time init") {
  TPipe first;
  first.Destroy();
  TPipe second;
  first.Init();
}
MUST_FAIL("queue.not-initialised reset") {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 256);
  pipe.Reset();
  queue.AllocTensor<float>();
}
MUST_FAIL("queue.leak destroy") {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 256);
  queue.AllocTensor<float>();
  pipe.Destroy();
}
MUST_FAIL("sync.missing destroy") {
  for (int i = 0; i < 2; ++i) {
    TPipe pipe;
    TBuf<> buffer;
    pipe.InitBuffer(buffer, 256);
    if (i == 0) DataCopy(buffer.Get<float>(), Global<float>(x), 64);
    if (i == 0) pipe.DestroyWithoutPipeAll();
    pipe.Init();
    pipe.InitBuffer(buffer, 256);
    Duplicate(buffer.Get<float>(), 1.0f, 64);
  }
}
MUST_FAIL("ub.capacity place") {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, Std::make_tuple(0, 1024), Std::make_tuple(196608, 32));
}
MUST_FAIL("buf.offset-32B") {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 256);
  buffer.GetWithOffset<float>(8, 16);
}
MUST_FAIL("buf.length offset") {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 256);
  buffer.GetWithOffset<float>(33, 128);
}

// --- queues ----------------------------------------------------------------------------------

MUST_FAIL("queue.route") {
  TPipe pipe;
  TQueBind<TPosition::VECOUT, TPosition::A1, 1> queue;
  pipe.InitBuffer(queue, 1, 1024);
}
MUST_FAIL("queue.route user") {
  TPipe pipe;
  TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> queue;
  pipe.InitBuffer(queue, 1, 1024);
  auto tensor = queue.AllocTensor<float>();
  queue.EnQue<TPosition::GM, TPosition::CO2, float>(tensor);
}
MUST_FAIL("queue.config") {
  TPipe pipe;
  TQue<TPosition::VECIN, 1, &kTwo> queue;
  pipe.InitBuffer(queue, 1, 256);
}
MUST_FAIL("queue.config length") {
  TPipe pipe;
  TQue<TPosition::VECIN, 1, &kShort> queue;
  pipe.InitBuffer(queue, 1, 256);
}
IN_PLACE_FAILS("queue.empty in-place") {
  own.queue.AllocTensor(own.tensor);
  own.queue.DeQue(own.tensor);
}
MUST_FAIL("queue.leak events") {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 256);
  queue.AllocTensor<float>();
  queue.FreeAllEvent();
}

// --- queues of a cube core -------------------------------------------------------------------

MUST_FAIL("position.no-memory queue", Cube()) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 1, 1024);
  queue.AllocTensor<half>();
}
MUST_FAIL("position.no-memory buffer") {
  TPipe pipe;
  TBuf<TPosition::A1> buffer;
  pipe.InitBuffer(buffer, 1024);
  buffer.Get<half>();
}
MUST_FAIL("local.capacity queue", Cube()) {
  TPipe pipe;
  TQue<TPosition::A2, 1> queue;
  pipe.InitBuffer(queue, 2, 32800);
}
MUST_FAIL("sync.missing queue", Cube()) {
  TPipe pipe;
  TQue<TPosition::A1, 1> in;
  TQue<TPosition::A2, 1> out;
  pipe.InitBuffer(in, 1, 512);
  pipe.InitBuffer(out, 1, 512);
  auto a1 = in.AllocTensor<half>();
  auto a2 = out.AllocTensor<half>();
  DataCopy(a1, Global<half>(x), 256);
  LoadData(a2, a1, LoadData2DParams(0, 1, 1, 0, 0, false, 0));
}
MUST_FAIL("sync.missing loaded", Cube()) {
  TPipe pipe;
  TQue<TPosition::A1, 1> in;
  pipe.InitBuffer(in, 1, 512);
  auto a1 = in.AllocTensor<half>();
  DataCopy(a1, Global<half>(x), 256);
  in.EnQue(a1);
  a1 = in.DeQue<half>();
  DataCopy(Global<half>(y), a1, 256);
}

// --- pools -----------------------------------------------------------------------------------

MUST_FAIL("pool.not-initialised") {
  TPipe pipe;
  TBufPool<TPosition::VECCALC> pool;
  TBuf<> buffer;
  pool.InitBuffer(buffer, 64);
  pool.Reset();
}
MUST_FAIL("pool.not-initialised share") {
  TPipe pipe;
  TBufPool<TPosition::VECCALC> pool, other;
  pipe.InitBufPool(pool, 64, other);
}
POOL_FAILS("pool.memory") {
  TQue<TPosition::A1, 1> queue;
  own.pool.InitBuffer(queue, 1, 64);
}
POOL_FAILS("pool.memory share") {
  TBufPool<TPosition::A1> other;
  own.pipe.InitBufPool(other, 64, own.pool);
}
POOL_FAILS("pool.capacity") { own.pool.InitBuffer(own.buffer, 4128); }
POOL_FAILS("pool.capacity nested") { own.pool.InitBufPool(own.other, 4128); }
POOL_FAILS("pool.capacity share") { own.pipe.InitBufPool(own.other, 4128, own.pool); }
MUST_FAIL("pool.capacity own") {
  TPipe pipe;
  OwnPool pool;
  TBuf<> before;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(before, 64);
  pipe.InitBufPool(pool, 1024);
  pool.InitBuffer(queue, 1, 64, 32);
}
MUST_FAIL("params.range own") {
  TPipe pipe;
  OwnPool pool;
  pipe.InitBufPool(pool, 1024);
  pool.GetBufHandle(4);
}
POOL_FAILS("pool.buffers") {
  TQue<TPosition::VECIN, 1> queue;
  own.pool.InitBuffer(queue, 5, 64);
}
POOL_FAILS("pool.buffers nested") {
  own.pool.InitBuffer(own.buffer, 64);
  own.pool.InitBufPool(own.other, 64);
}
POOL_FAILS("pool.buffers share") {
  TBufPool<TPosition::VECCALC, 8> large;
  own.pool.InitBufPool(own.other, 64);
  own.pool.InitBufPool(large, 64, own.other);
}
POOL_FAILS("pool.not-reset") {
  own.pipe.InitBufPool(own.other, 4096, own.pool);
  own.pool.InitBuffer(own.buffer, 64);
  own.other.InitBuffer(own.second, 64);
  Duplicate(own.buffer.Get<float>(), 1.0f, 16);
  own.second.Get<float>();
}
POOL_FAILS("queue.leak pool") {
  TQue<TPosition::VECIN, 1> queue;
  own.pool.InitBuffer(queue, 1, 64);
  queue.AllocTensor<float>();
  own.pool.Reset();
}
POOL_FAILS("local.uninitialised pool") {
  own.pool.InitBuffer(own.buffer, 64);
  auto tensor = own.buffer.Get<float>();
  Duplicate(tensor, 1.0f, 16);
  own.pool.Reset();
  Adds(tensor, tensor, 1.0f, 16);
}

}  // namespace

}  // namespace moge_tests
