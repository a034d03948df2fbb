// Kernels whose times can be worked out by hand; tests/test_ascend_model.py does.
#include "common.h"

namespace moge_tests {

namespace {

constexpr uint32_t kTile = 2048;  // floats, 8 KB

LocalTensor<float> Tile(uint32_t number) {
  return LocalTensor<float>(TPosition::VECCALC, number * kTile * sizeof(float), kTile);
}

// Four tiles are read and changed; tile i goes to buffer i % buffers.
template <uint32_t buffers>
__aicore__ void Buffered(GM_ADDR x, GM_ADDR, GM_ADDR) {
  InitSocState();
  for (uint32_t i = 0; i < buffers; ++i) SetFlag<HardEvent::V_MTE2>(i);
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t buffer = i % buffers;
    WaitFlag<HardEvent::V_MTE2>(buffer);
    DataCopy(Tile(buffer), Global<float>(x)[i * kTile], kTile);
    SetFlag<HardEvent::MTE2_V>(buffer);
    WaitFlag<HardEvent::MTE2_V>(buffer);
    Exp(Tile(buffer), Tile(buffer), kTile);
    SetFlag<HardEvent::V_MTE2>(buffer);
  }
  for (uint32_t i = 0; i < buffers; ++i) WaitFlag<HardEvent::V_MTE2>(i);
  PipeBarrier<PIPE_ALL>();
}

// The same with queues.
__aicore__ void Queued(GM_ADDR x, GM_ADDR, GM_ADDR) {
  TPipe pipe;
  TQue<TPosition::VECIN, 1> queue;
  pipe.InitBuffer(queue, 2, kTile * sizeof(float));
  for (uint32_t i = 0; i < 4; ++i) {
    LocalTensor<float> tile = queue.AllocTensor<float>();
    DataCopy(tile, Global<float>(x)[i * kTile], kTile);
    queue.EnQue(tile);
    tile = queue.DeQue<float>();
    Exp(tile, tile, kTile);
    queue.FreeTensor(tile);
  }
}

// Barriers of one pipe and of all instead of flags.
__aicore__ void Barriers(GM_ADDR x, GM_ADDR, GM_ADDR) {
  InitSocState();
  DataCopy(Tile(0), Global<float>(x), kTile);
  PipeBarrier<PIPE_MTE2>();
  DataCopy(Tile(1), Global<float>(x)[kTile], DataCopyParams(4, kTile / 32, 0, 0));
  PipeBarrier<PIPE_ALL>();
  Exp(Tile(1), Tile(0), kTile);
  PipeBarrier<PIPE_ALL>();
}

// A bias on its way from global memory to the bias table.
__aicore__ void Bias(GM_ADDR x, GM_ADDR, GM_ADDR) {
  InitSocState();
  const LocalTensor<float> in_l1(TPosition::C1, 0, 64);
  DataCopy(in_l1, Global<float>(x), 64);
  Sync<HardEvent::MTE2_MTE1>();
  DataCopy(LocalTensor<float>(TPosition::C2, 0, 64), in_l1, 64);
  PipeBarrier<PIPE_ALL>();
}

__aicore__ void Vectors(GM_ADDR, GM_ADDR, GM_ADDR) {
  InitSocState();
  Duplicate(Tile(0), 1.0f, kTile);
  Add(Tile(1), Tile(0), Tile(0), kTile);
  Exp(Tile(1), Tile(0), kTile);
  Exp(Tile(1).ReinterpretCast<half>(), Tile(0).ReinterpretCast<half>(), kTile);
  Cast(Tile(1).ReinterpretCast<half>(), Tile(0), RoundMode::CAST_NONE, kTile);
  const float first = Tile(0).GetValue(0);
  Adds(Tile(1), Tile(0), first, kTile);
  PipeBarrier<PIPE_ALL>();
}

// Past L2, so that every core reads from memory.
__aicore__ void Crowd(GM_ADDR x, GM_ADDR, GM_ADDR) {
  InitSocState();
  GlobalTensor<float> source = Global<float>(x);
  source.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE);
  for (uint32_t i = 0; i < 8; ++i) DataCopy(Tile(i), source[i * kTile], kTile);
  PipeBarrier<PIPE_ALL>();
}

// 64 rows of 128 bytes, a line or two apart; every core reads the same, or begins elsewhere.
template <bool apart>
__aicore__ void Rows(GM_ADDR x, GM_ADDR, GM_ADDR) {
  InitSocState();
  GlobalTensor<float> source = Global<float>(x);
  source.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE);
  // apart: 16 cores have four lines each
  const uint32_t rows = apart ? 4 : 64, first = apart ? GetBlockIdx() % 16 * 4 : 0;
  const DataCopyExtParams params(rows, 128, 1024 - 128, 0, 0);
  for (uint32_t i = 0; i < 256 / rows; ++i) {
    const LocalTensor<float> to(TPosition::VECCALC, i * rows * 128, rows * 32);
    DataCopyPad(to, source[first * 256], params, DataCopyPadExtParams<float>());
  }
  PipeBarrier<PIPE_ALL>();
}

// Additions whose operands share banks of UB or do not, and two that walk in steps of blocks.
__aicore__ void Banks(GM_ADDR, GM_ADDR, GM_ADDR) {
  InitSocState();
  const auto at = [](uint32_t address, uint32_t count = kTile) {
    return LocalTensor<float>(TPosition::VECCALC, address, count);
  };
  constexpr uint32_t kFilled = 0xc000 / sizeof(float);
  for (uint32_t address : {0, 0x10000}) Duplicate(at(address, kFilled), 1.0f, kFilled);
  Add(at(0x20000), at(0), at(0x10100), kTile);  // nothing shared
  Add(at(0x20000), at(0), at(0x4000), kTile);   // the sources: a bank
  Add(at(0x14100), at(0), at(0x10000), kTile);  // the sources: a group
  Add(at(0x4000), at(0), at(0x10100), kTile);   // a source and the result: a bank, block by block
  Add(at(0x4020), at(0), at(0x10100), kTile);   // the same, one block on
  Adds(at(0x20000), at(0), 1.0f, 64, 2, UnaryRepeatParams(1, 16, 8, 8));
  Adds(at(0x20000), at(0), 1.0f, 64, 2, UnaryRepeatParams(8, 1, 64, 8));
  Adds(at(0x20000), at(0), 1.0f, 8, 2, UnaryRepeatParams(16, 16, 8, 8));  // one block
  PipeBarrier<PIPE_ALL>();
}

// Block 0 has more to do before they meet.
__aicore__ void Meeting(GM_ADDR x, GM_ADDR, GM_ADDR z) {
  InitSocState();
  const uint32_t tiles = GetBlockIdx() == 0 ? 4 : 1;
  DataCopy(Tile(0), Global<float>(x), kTile);
  Sync<HardEvent::MTE2_MTE3>();
  for (uint32_t i = 0; i < tiles; ++i) {
    DataCopy(Global<float>(z)[(GetBlockIdx() * 4 + i) * kTile], Tile(0), kTile);
  }
  SyncAll();
  Duplicate(Tile(1), 1.0f, kTile);
  PipeBarrier<PIPE_ALL>();
}

// The same, but what block 0 has to do is its own.
__aicore__ void Late(GM_ADDR, GM_ADDR, GM_ADDR) {
  InitSocState();
  for (uint32_t i = 0; GetBlockIdx() == 0 && i < 100; ++i) Tile(0).SetValue(i, 1.0f);
  SyncAll();
  Duplicate(Tile(1), 1.0f, kTile);
  PipeBarrier<PIPE_ALL>();
}

// The cube core's product goes out under a unit flag and to its vector cores.
__aicore__ void Handed(GM_ADDR x, GM_ADDR, GM_ADDR z) {
  InitSocState();
  constexpr uint32_t kSide = 64;
  if ASCEND_IS_AIC {
    const LocalTensor<float> left(TPosition::A1, 0, kSide * kSide);
    const LocalTensor<float> a(TPosition::A2, 0, kSide * kSide);
    const LocalTensor<float> b(TPosition::B2, 0, kSide * kSide);
    const LocalTensor<float> c(TPosition::CO1, 0, kSide * kSide);
    SetMMRowMajor();
    DataCopy(left, Global<float>(x), Nd2NzParams(1, kSide, kSide, 0, kSide, kSide, 1, 0));
    Sync<HardEvent::MTE2_MTE1>();
    LoadData(a, left, LoadData2DParams(0, kSide * kSide * 4 / 512, 1, 0, 0, false, 0));
    LoadData(b, left, LoadData2DParams(0, kSide * kSide * 4 / 512, 1, 0, 0, false, 0));
    Sync<HardEvent::MTE1_M>();
    Mmad(c, a, b, Product(kSide, kSide, kSide, true, 3));
    FixpipeParamsV220 params(kSide, kSide, kSide, kSide, false);
    params.unitFlag = 3;
    Fixpipe<float, float, CFG_ROW_MAJOR>(Global<float>(z), c, params);
    CrossCoreSetFlag<2, PIPE_FIX>(0);
  }
  if ASCEND_IS_AIV {
    CrossCoreWaitFlag(0);
    DataCopy(Tile(0), Global<float>(z)[GetSubBlockIdx() * kTile], kTile);
  }
  PipeBarrier<PIPE_ALL>();
}

Options Modelled(KernelType kernel, uint32_t blocks) {
  Options options = Launch(kernel, blocks);
  options.device = &emulator::Devices()[0];
  const uint32_t cores = kernel == KernelType::kMix ? 3 * blocks : blocks;
  for (uint32_t core = 0; core < cores; ++core) options.pictured.push_back(core);
  return options;
}

}  // namespace

const std::vector<Case>& Schedules() {
  static const std::vector<Case> cases = {
      {"one buffer", &Buffered<1>, Modelled(KernelType::kVector, 1)},
      {"two buffers", &Buffered<2>, Modelled(KernelType::kVector, 1)},
      {"queue", &Queued, Modelled(KernelType::kVector, 1)},
      {"barriers", &Barriers, Modelled(KernelType::kVector, 1)},
      {"bias", &Bias, Modelled(KernelType::kCube, 1)},
      {"vectors", &Vectors, Modelled(KernelType::kVector, 1)},
      {"one reads", &Crowd, Modelled(KernelType::kVector, 1)},
      {"all read", &Crowd, Modelled(KernelType::kVector, 48)},
      {"same rows", &Rows<false>, Modelled(KernelType::kVector, 48)},
      {"rows apart", &Rows<true>, Modelled(KernelType::kVector, 16)},
      {"banks", &Banks, Modelled(KernelType::kVector, 1)},
      {"meeting", &Meeting, Modelled(KernelType::kMixVector, 2)},
      {"late", &Late, Modelled(KernelType::kMixVector, 2)},
      {"handed", &Handed, Modelled(KernelType::kMix, 1)},
  };
  return cases;
}

}  // namespace moge_tests
