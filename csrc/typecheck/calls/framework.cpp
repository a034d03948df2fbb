// Calls of TPipe, queues, buffers and pools. See ../README.md.
#include "kernel_operator.h"

using namespace AscendC;

constexpr TQueConfig MakeConfig(uint32_t number) {
  return {false, false, false, 0, number, 0, {}, false, false};
}
static constexpr TQueConfig kConfig = MakeConfig(2);

class OwnPool {
 public:
  OwnPool() { Init(); }
  template <class T>
  bool InitBuffer(T& queue, uint8_t number, uint32_t bytes) {
    auto handle = this->GetBufHandle(this->GetCurBufSize());
    auto address = this->GetCurAddr();
    queue.InitStartBufHandle(handle, number, bytes);
    queue.InitBufHandle(this, 0, handle, address, bytes);
    this->SetCurAddr(address + bytes);
    this->SetCurBufSize(this->GetCurBufSize() + number);
    return true;
  }

  EXTERN_IMPL_BUFPOOL(OwnPool, AscendC::TPosition::VECCALC, 16);
};

void Pipes(uint32_t bytes, int number) {
  TPipe pipe;
  pipe.Init();
  TQue<TPosition::VECIN, 1> in;
  TQue<TPosition::VECOUT, 2> out;
  TQue<QuePosition::VECIN, 1> old_name;
  TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> both;
  TQueBind<TPosition::GM, TPosition::VECIN, 2> bound;
  TBuf<TPosition::VECCALC> buffer;
  TBuf<> plain;
  TBuf<QuePosition::LCM> alias;
  pipe.InitBuffer(in, 1, 1024);
  pipe.InitBuffer(in, number, bytes);
  pipe.InitBuffer(out, 2, bytes * sizeof(half));
  pipe.InitBuffer(old_name, 2, bytes);
  pipe.InitBuffer(both, 2, bytes);
  pipe.InitBuffer(bound, 1, bytes);
  pipe.InitBuffer(buffer, bytes);
  pipe.InitBuffer(plain, 64);
  pipe.InitBuffer(alias, 64);
  const bool done = pipe.InitBuffer(in, 1, 32);
  pipe.Reset();
  pipe.Destroy();
  pipe.DestroyWithoutPipeAll();
  TPipe* pointer = GetTPipePtr();
  GetTPipePtr()->InitBuffer(in, 2, bytes);
  ::GetTPipePtr()->Reset();
  pipe.InitBuffer(in, 1);           // wrong: no length
  pipe.InitBuffer(in);              // wrong: nothing
  pipe.InitBuffer(buffer);          // wrong: no length
  pipe.InitBuffer(1, 1024);         // wrong: no buffer
  TPipe copy(1);                    // wrong: takes nothing
  TQue<TPosition::VECIN> no_depth;  // wrong: no depth
  TQue<float, 1> no_position;       // wrong: no position
  AscendC::GetTPipePtr();           // wrong: it is in the global namespace
}

void Events(TPipe& pipe, HardEvent event) {
  TEventID allocated = pipe.AllocEventID<HardEvent::MTE2_V>();
  SetFlag<HardEvent::MTE2_V>(allocated);
  WaitFlag<HardEvent::MTE2_V>(allocated);
  pipe.ReleaseEventID<HardEvent::MTE2_V>(allocated);
  event_t fetched = static_cast<event_t>(pipe.FetchEventID(HardEvent::V_S));
  TEventID one = pipe.FetchEventID(event);
  TEventID other = pipe.FetchEventID<HardEvent::V_MTE3>();
  int32_t number = GetTPipePtr()->FetchEventID(HardEvent::S_V);
  pipe.AllocEventID();                       // wrong: no event
  pipe.AllocEventID(HardEvent::MTE2_V);      // wrong: the event is a template argument
  pipe.ReleaseEventID<HardEvent::MTE2_V>();  // wrong: no id
}

void Places(TPipe& pipe) {
  TQue<TPosition::VECOUT, 1> queue;
  auto first = Std::make_tuple(0, 1024);
  auto second = Std::make_tuple(2048, 2048);
  Std::tuple<int, int> third(8192, 4096);
  const int address = Std::get<0>(third);
  pipe.InitBuffer(queue, first);
  pipe.InitBuffer(queue, first, second);
  pipe.InitBuffer(queue, first, second, third);
  TQue<TPosition::VECIN, 1, &kConfig> configured;
  pipe.InitBuffer(configured, 2, 256);
  TQueConfig config;
  config.nd2nz = false;
  config.nz2nd = false;
  config.scmBlockGroup = false;
  config.bufferLen = 0;
  config.bufferNumber = 1;
  config.consumerSize = 0;
  config.consumer[0] = TPosition::MAX;
  config.enableStaticEvtId = false;
  config.enableLoopQueue = false;
}

void Queues(TQue<TPosition::VECIN, 1>& in, TQue<TPosition::VECOUT, 2>& out,
            TQue<TPosition::VECOUT, 0>& in_place,
            TQueBind<TPosition::VECIN, TPosition::VECOUT, 1>& both, LocalTensor<float> wide) {
  LocalTensor<half> tensor = in.AllocTensor<half>();
  in.EnQue(tensor);
  in.EnQue<half>(tensor);
  const bool entered = in.EnQue(tensor);
  tensor = in.DeQue<half>();
  in.FreeTensor(tensor);
  in.FreeTensor<half>(tensor);
  out.EnQue<half>(tensor);
  auto next = out.DeQue<half>();
  out.FreeTensor(next);
  const bool vacant = in.VacantInQue();
  const bool waits = in.HasTensorInQue();
  const int32_t number = in.GetTensorCountInQue();
  const bool idle = in.HasIdleBuffer();
  in.FreeAllEvent();
  in_place.AllocTensor(tensor);
  in_place.AllocTensor<half>(tensor);
  in_place.EnQue(tensor);
  in_place.DeQue(tensor);
  in_place.DeQue<half>(tensor);
  in_place.FreeTensor(tensor);
  auto bound = both.AllocTensor<half>();
  both.EnQue<TPosition::GM, TPosition::VECIN, half>(bound);
  bound = both.DeQue<TPosition::GM, TPosition::VECIN, half>();
  both.EnQue<TPosition::VECOUT, TPosition::GM, half>(bound);
  bound = both.DeQue<TPosition::VECOUT, TPosition::GM, half>();
  both.EnQue(bound);
  in.AllocTensor<float>(wide);             // wrong: into a tensor of the caller at depth 0 only
  in.DeQue(tensor);                        // wrong: so it is here
  in_place.AllocTensor<half>();            // wrong: depth 0
  in_place.DeQue<half>();                  // wrong: depth 0
  in_place.HasIdleBuffer();                // wrong: depth 0
  in_place.FreeAllEvent();                 // wrong: depth 0
  in.AllocTensor();                        // wrong: no element type
  in.EnQue();                              // wrong: no tensor
  in.EnQue<float>(tensor);                 // wrong: not its element type
  in.FreeTensor();                         // wrong: no tensor
  in.FreeTensor(in.DeQue<half>());         // wrong: no variable
  tensor = in.DeQue<float>();              // wrong: another element type
  both.EnQue<TPosition::GM, half>(bound);  // wrong: one position
}

void Buffers(TBuf<TPosition::VECCALC>& buffer, TBuf<TPosition::A1>& l1, uint32_t size) {
  LocalTensor<float> whole = buffer.Get<float>();
  LocalTensor<float> part = buffer.Get<float>(size);
  LocalTensor<half> offset = buffer.GetWithOffset<half>(size, 64);
  auto bytes = l1.Get<uint8_t>();
  LocalTensor<float> rest;
  const bool popped = PopStackBuffer<float, TPosition::VECCALC>(rest);
  PopStackBuffer<float, TPosition::LCM>(rest);
  buffer.Get<float>(1, 2);           // wrong: one size
  buffer.GetWithOffset<half>(size);  // wrong: no offset
  buffer.GetWithOffset(size, 64);    // wrong: no element type
  part = buffer.Get<half>(size);     // wrong: another element type
  PopStackBuffer<float>(rest);       // wrong: no position
}

void CubeQueues(TPipe& pipe, LocalTensor<half> tensor) {
  TQue<TPosition::A1, 1> a1;
  TQue<TPosition::B1, 2> b1;
  TQue<TPosition::C1, 1> c1;
  TQue<TPosition::A2, 1> a2;
  TQue<TPosition::B2, 1> b2;
  TQue<TPosition::C2, 1> c2;
  TQue<TPosition::CO1, 1> co1;
  TQueBind<TPosition::GM, TPosition::A1, 1> bound_a1;
  TQueBind<TPosition::A1, TPosition::A2, 1> bound_a2;
  TQueBind<TPosition::CO1, TPosition::CO2, 1> bound_co1;
  TBuf<TPosition::CO1> out;
  TBuf<TPosition::C2PIPE2GM> scales;
  TBuf<TPosition::TSCM> shared;
  pipe.InitBuffer(a1, 1, 512);
  pipe.InitBuffer(b1, 2, 512);
  pipe.InitBuffer(c1, 1, 512);
  pipe.InitBuffer(a2, 1, 512);
  pipe.InitBuffer(b2, 1, 512);
  pipe.InitBuffer(c2, 1, 512);
  pipe.InitBuffer(co1, 1, 1024);
  pipe.InitBuffer(bound_a1, 1, 512);
  pipe.InitBuffer(bound_a2, 1, 512);
  pipe.InitBuffer(bound_co1, 1, 1024);
  pipe.InitBuffer(out, 1024);
  pipe.InitBuffer(scales, 128);
  tensor = a1.AllocTensor<half>();
  a1.EnQue(tensor);
  tensor = a1.DeQue<half>();
  a1.FreeTensor(tensor);
  auto products = co1.AllocTensor<float>();
  co1.EnQue<float>(products);
  products = co1.DeQue<float>();
  co1.FreeTensor(products);
  const TPosition positions[] = {TPosition::SPM, TPosition::SHM, TPosition::C2PIPE2LOCAL};
}

void Pools(TPipe& pipe, uint32_t bytes) {
  TBufPool<TPosition::VECCALC> pool, inner, turn;
  TBufPool<TPosition::VECCALC, 8> large;
  TBufPool<TPosition::A1> l1;
  TBufPool<TPosition::VECIN, 16> most;
  OwnPool own;
  TQue<TPosition::VECIN, 1> queue;
  TBuf<TPosition::VECCALC> buffer;
  pipe.InitBufPool(pool, bytes * 3);
  const bool shared = pipe.InitBufPool(large, bytes * 3, pool);
  pipe.InitBufPool(l1, 1024);
  pool.InitBufPool(inner, bytes);
  pool.InitBufPool(turn, bytes, inner);
  pool.InitBufPool(most, bytes);  // theirs: a private member of another specialisation
  pool.InitBuffer(queue, 1, bytes);
  pool.InitBuffer(buffer, bytes);
  const TPosition where = pool.poolPos;
  pool.Reset();
  const uint32_t usual = defaultBufIDSize;
  pipe.InitBufPool(own, bytes);
  own.InitBuffer(queue, 1, bytes);
  own.Init();
  TBufHandle handle = own.GetBufHandle(0);
  own.SetCurAddr(own.GetCurAddr() + 32);
  own.SetCurBufSize(own.GetCurBufSize() + 1);
  queue.InitStartBufHandle(handle, 1, bytes);
  queue.InitBufHandle(&own, 0, handle, 0, bytes);
  buffer.InitStartBufHandle(handle, 1, bytes);
  buffer.InitBufHandle(&own, 0, handle, 0, bytes);
  own.Reset();
  pipe.InitBufPool(pool);               // wrong: no length
  pool.InitBuffer(queue, 1);            // wrong: no length
  pool.InitBuffer(queue, 1, 2, 3);      // wrong: too many arguments
  pipe.InitBufPool(queue, bytes);       // wrong: no pool
  TBufPool<> nowhere;                   // wrong: no position
  TBufPool<TPosition::A2> in_l0;        // wrong: in UB or L1
  TBufPool<TPosition::VECIN, 17> many;  // ours: at most 16 buffers
}
