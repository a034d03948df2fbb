// Correct kernels of TPipe, queues and pools: all but the last add 1024 floats, a chunk at a time.
// What they do is compared with NumPy in tests/emulator/test_framework.py.
#include "common.h"

namespace moge_tests {

namespace {

constexpr uint32_t kChunk = 256;
constexpr uint32_t kBytes = kChunk * sizeof(float);

// y[i] = x[i] + term, for one chunk, by two queues.
template <typename In, typename Out>
void AddChunk(In& in, Out& out, GM_ADDR x, GM_ADDR y, uint32_t chunk, float term) {
  auto from = in.template AllocTensor<float>();
  DataCopy(from, Global<float>(x)[chunk * kChunk], kChunk);
  in.EnQue(from);
  from = in.template DeQue<float>();
  auto to = out.template AllocTensor<float>();
  Adds(to, from, term, kChunk);
  in.FreeTensor(from);
  out.EnQue(to);
  to = out.template DeQue<float>();
  DataCopy(Global<float>(y)[chunk * kChunk], to, kChunk);
  out.FreeTensor(to);
}

// One tensor for each queue, for all chunks.
__global__ __vector__ void in_place(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  TPipe pipe;
  TQue<TPosition::VECIN, 0> in;
  TQue<TPosition::VECOUT, 0> out;
  pipe.InitBuffer(in, 2, kBytes);
  pipe.InitBuffer(out, 1, kBytes);
  LocalTensor<float> from;
  LocalTensor<float> to;
  for (uint32_t chunk = 0; chunk < 4; ++chunk) {
    in.AllocTensor(from);
    DataCopy(from, Global<float>(x)[chunk * kChunk], kChunk);
    in.EnQue(from);
    in.DeQue(from);
    out.AllocTensor(to);
    Adds(to, from, 1.0f, kChunk);
    in.FreeTensor(from);
    out.EnQue(to);
    out.DeQue(to);
    DataCopy(Global<float>(y)[chunk * kChunk], to, kChunk);
    out.FreeTensor(to);
  }
}

// In and out through the same buffer.
__global__ __vector__ void bound_both_ways(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  TPipe pipe;
  TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> queue;
  pipe.InitBuffer(queue, 2, kBytes);
  for (uint32_t chunk = 0; chunk < 4; ++chunk) {
    auto tensor = queue.AllocTensor<float>();
    DataCopy(tensor, Global<float>(x)[chunk * kChunk], kChunk);
    queue.EnQue<TPosition::GM, TPosition::VECIN, float>(tensor);
    tensor = queue.DeQue<TPosition::GM, TPosition::VECIN, float>();
    Adds(tensor, tensor, 1.0f, kChunk);
    queue.EnQue<TPosition::VECOUT, TPosition::GM, float>(tensor);
    tensor = queue.DeQue<TPosition::VECOUT, TPosition::GM, float>();
    DataCopy(Global<float>(y)[chunk * kChunk], tensor, kChunk);
    queue.FreeTensor(tensor);
  }
}

constexpr TQueConfig kConfig = [] {
  TQueConfig config;
  config.bufferNumber = 2;
  config.bufferLen = kBytes;
  return config;
}();

// Both ends named, buffers at addresses of the kernel's, one queue with a TQueConfig.
__global__ __vector__ void placed(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  TPipe pipe;
  TQueBind<TPosition::GM, TPosition::VECIN, 1, &kConfig> in;
  TQueBind<TPosition::VECOUT, TPosition::GM, 1> out;
  pipe.InitBuffer(in, Std::make_tuple(4096, 1024), Std::make_tuple(0, 1024));
  pipe.InitBuffer(out, Std::make_tuple(2048, 1024));
  for (uint32_t chunk = 0; chunk < 4; ++chunk) AddChunk(in, out, x, y, chunk, 1.0f);
}

// A TPipe for each chunk: the first ends, the second is destroyed and starts again, and is reset.
__global__ __vector__ void pipes(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  const auto add = [&](uint32_t chunk) {
    GetTPipePtr()->InitBuffer(in, 1, kBytes);
    GetTPipePtr()->InitBuffer(out, 1, kBytes);
    AddChunk(in, out, x, y, chunk, 1.0f);
  };
  {
    TPipe pipe;
    add(0);
  }
  TPipe pipe;
  add(1);
  pipe.Destroy();
  pipe.Init();
  add(2);
  pipe.Reset();
  add(3);
}

// More queues than there are events for, one after the other.
__global__ __vector__ void many_queues(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  TPipe pipe;
  for (uint32_t chunk = 0; chunk < 4; ++chunk) {
    TQue<TPosition::VECIN, 1> in;
    TQue<TPosition::VECOUT, 1> out;
    pipe.InitBuffer(in, 4, kBytes);
    pipe.InitBuffer(out, 4, kBytes);
    AddChunk(in, out, x, y, chunk, 1.0f);
    in.FreeAllEvent();
    out.FreeAllEvent();
  }
}

// Two pools take turns at one part of UB; a third is a part of the first.
__global__ __vector__ void pools(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  TPipe pipe;
  TBufPool<TPosition::VECCALC> first, inner;
  TBufPool<TPosition::VECIN, 8> second;
  pipe.InitBufPool(first, 4 * kBytes);
  pipe.InitBufPool(second, 4 * kBytes, first);
  first.InitBufPool(inner, 2 * kBytes);
  TQue<TPosition::VECIN, 1> in[3];
  TQue<TPosition::VECOUT, 1> out[3];
  first.InitBuffer(in[0], 1, kBytes);
  first.InitBuffer(out[0], 1, kBytes);
  inner.InitBuffer(in[1], 1, kBytes);
  inner.InitBuffer(out[1], 1, kBytes);
  second.InitBuffer(in[2], 2, kBytes);
  second.InitBuffer(out[2], 2, kBytes);
  AddChunk(in[0], out[0], x, y, 0, 1.0f);
  AddChunk(in[1], out[1], x, y, 1, 1.0f);
  inner.Reset();
  first.Reset();
  AddChunk(in[2], out[2], x, y, 2, 1.0f);
  second.Reset();
  AddChunk(in[0], out[0], x, y, 3, 1.0f);
}

// A pool of the kernel's own making, whose queues share their memory.
class SharedPool {
 public:
  SharedPool() { Init(); }
  template <typename T>
  bool InitBuffer(T& queue, uint8_t number, uint32_t bytes) {
    const TBufHandle handle = GetBufHandle(GetCurBufSize());
    queue.InitStartBufHandle(handle, number, bytes);
    for (uint8_t i = 0; i < number; ++i) {
      queue.InitBufHandle(this, i, handle, GetCurAddr() + i * bytes, bytes);
    }
    SetCurAddr(GetCurAddr() + number * bytes);
    SetCurBufSize(GetCurBufSize() + number);
    return true;
  }
  template <TPosition where>
  bool InitBuffer(TBuf<where>& buffer, uint32_t bytes) {
    const TBufHandle handle = GetBufHandle(GetCurBufSize());
    buffer.InitStartBufHandle(handle, 1, bytes);
    buffer.InitBufHandle(this, 0, handle, GetCurAddr(), bytes);
    SetCurAddr(GetCurAddr() + bytes);
    SetCurBufSize(GetCurBufSize() + 1);
    return true;
  }

  EXTERN_IMPL_BUFPOOL(SharedPool, TPosition::VECCALC, 8);
};
__global__ __vector__ void own_pool(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  TPipe pipe;
  TBuf<> before;
  SharedPool pool;
  pipe.InitBuffer(before, 64);
  pipe.InitBufPool(pool, 5 * kBytes);
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 1> out;
  TBuf<> term;
  for (uint32_t turn = 0; turn < 2; ++turn) {
    pool.InitBuffer(in, 2, kBytes);
    pool.InitBuffer(out, 1, kBytes);
    pool.InitBuffer(term, kBytes);
    Duplicate(term.Get<float>(), 1.0f, kChunk);
    for (uint32_t chunk = 2 * turn; chunk < 2 * turn + 2; ++chunk) {
      AddChunk(in, out, x, y, chunk, 1.0f);
    }
    pool.Reset();
  }
}

// What is left of UB, as one tensor; a part of a buffer.
__global__ __vector__ void rest(GM_ADDR, GM_ADDR y, GM_ADDR) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 4096);
  LocalTensor<float> left;
  PopStackBuffer<float, TPosition::VECCALC>(left);
  auto out = buffer.GetWithOffset<float>(64, 1024);
  Duplicate(out, static_cast<float>(left.GetSize()), 64);
  Duplicate(left[48128 - 64], 1.0f, 64);
  Add(out, out, left[48128 - 64], 64);
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<float>(y), out, 64);
}

// A product of 32 x 48 by 48 x 16 halves, through a queue for each memory of a cube core.
__global__ __cube__ void cube_queues(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  TPipe pipe;
  TQue<TPosition::A1, 1> a1_queue;
  TQue<TPosition::B1, 1> b1_queue;
  TQue<TPosition::A2, 1> a2_queue;
  TQue<TPosition::B2, 1> b2_queue;
  TQue<TPosition::CO1, 1> out_queue;
  TBuf<TPosition::VECCALC> elsewhere;  // of the vector cores
  pipe.InitBuffer(elsewhere, 1024);
  pipe.InitBuffer(a1_queue, 1, 32 * 48 * 2);
  pipe.InitBuffer(b1_queue, 2, 48 * 16 * 2);
  pipe.InitBuffer(a2_queue, 2, 32 * 48 * 2);
  pipe.InitBuffer(b2_queue, 1, 48 * 16 * 2);
  pipe.InitBuffer(out_queue, 2, 32 * 16 * 4);
  for (uint32_t turn = 0; turn < 2; ++turn) {
    auto a1 = a1_queue.AllocTensor<half>();
    auto b1 = b1_queue.AllocTensor<half>();
    DataCopy(a1, Global<half>(x), Nd2NzParams(1, 32, 48, 0, 48, 32, 1, 0));
    DataCopy(b1, Global<half>(x)[32 * 48 * (1 + turn)], Nd2NzParams(1, 48, 16, 0, 16, 48, 1, 0));
    a1_queue.EnQue(a1);
    b1_queue.EnQue(b1);
    a1 = a1_queue.DeQue<half>();
    b1 = b1_queue.DeQue<half>();
    auto a2 = a2_queue.AllocTensor<half>();
    auto b2 = b2_queue.AllocTensor<half>();
    for (uint32_t row = 0; row < 2; ++row) {
      LoadData(a2[row * 3 * 256], a1[row * 256], LoadData2DParams(0, 3, 2, 0, 0, false, 0));
    }
    LoadData(b2, b1, LoadData2DParams(0, 3, 1, 0, 0, true, 0));
    a1_queue.FreeTensor(a1);
    b1_queue.FreeTensor(b1);
    a2_queue.EnQue(a2);
    b2_queue.EnQue(b2);
    a2 = a2_queue.DeQue<half>();
    b2 = b2_queue.DeQue<half>();
    auto c = out_queue.AllocTensor<float>();
    Mmad(c, a2, b2, Product(32, 16, 48));
    a2_queue.FreeTensor(a2);
    b2_queue.FreeTensor(b2);
    out_queue.EnQue(c);
    c = out_queue.DeQue<float>();
    Fixpipe<float, float, CFG_ROW_MAJOR>(Global<float>(y)[turn * 512], c,
                                         FixpipeParamsV220(16, 32, 32, 16, false));
    out_queue.FreeTensor(c);
  }
}

}  // namespace

const std::vector<Case>& Frameworks() {
  static const std::vector<Case> cases = {
      {"in_place", in_place, {}},
      {"bound_both_ways", bound_both_ways, {}},
      {"placed", placed, {}},
      {"pipes", pipes, {}},
      {"many_queues", many_queues, {}},
      {"pools", pools, {}},
      {"own_pool", own_pool, {}},
      {"rest", rest, {}},
      {"cube_queues", cube_queues, Launch(KernelType::kCube)},
  };
  return cases;
}

}  // namespace moge_tests
