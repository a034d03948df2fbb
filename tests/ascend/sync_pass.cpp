// Cores that wait for each other by global memory, atomic transfers, the scalar unit's accesses:
// correct kernels, which tests/emulator/test_sync.py compares with NumPy.
#include "common.h"

namespace moge_tests {

namespace {

constexpr uint32_t kCount = 64;      // floats of a core
constexpr uint32_t kLine = 64;       // bytes of a cache line
constexpr uint32_t kFlags = 16384;   // byte of z where the flags start
constexpr uint32_t kShared = 32768;  // and where the data that a core hands on

LocalTensor<float> Tile(uint32_t number = 0) {
  return LocalTensor<float>(TPosition::VECCALC, number * kCount * sizeof(float), kCount);
}

__gm__ int32_t* Flag(GM_ADDR z, uint32_t number) {
  return reinterpret_cast<__gm__ int32_t*>(z + kFlags + number * kLine);
}

__aicore__ void SetFlagCached(GM_ADDR z, uint32_t number, int32_t value) {
  const GlobalTensor<int32_t> flag = Global<int32_t>(z + kFlags + number * kLine, 1);
  flag.SetValue(0, value);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(flag);
}

__aicore__ int32_t ReadFlagCached(GM_ADDR z, uint32_t number) {
  const GlobalTensor<int32_t> flag = Global<int32_t>(z + kFlags + number * kLine, 1);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(flag);
  return flag.GetValue(0);
}

// Each block doubles its part of x; block 0 adds the parts of all once their flags are set.
__global__ __vector__ void polled(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  const auto block = static_cast<uint32_t>(GetBlockIdx());
  const GlobalTensor<float> shared = Global<float>(z + kShared);
  DataCopy(Tile(), Global<float>(x)[block * kCount], kCount);
  Sync<HardEvent::MTE2_V>();
  Muls(Tile(), Tile(), 2.0f, kCount);
  Sync<HardEvent::V_MTE3>();
  DataCopy(shared[block * kCount], Tile(), kCount);
  Sync<HardEvent::MTE3_S>();
  SetFlagCached(z, block, 1);
  if (block == 0) {
    for (uint32_t other = 0; other < GetBlockNum(); ++other) {
      while (ReadFlagCached(z, other) != 1) {
      }
    }
    Sync<HardEvent::S_MTE2>();
    Sync<HardEvent::S_V>();
    Duplicate(Tile(1), 0.0f, kCount);
    for (uint32_t other = 0; other < GetBlockNum(); ++other) {
      Sync<HardEvent::V_MTE2>();
      DataCopy(Tile(), shared[other * kCount], kCount);
      Sync<HardEvent::MTE2_V>();
      PipeBarrier<PIPE_V>();
      Add(Tile(1), Tile(1), Tile(), kCount);
    }
    Sync<HardEvent::V_MTE3>();
    DataCopy(Global<float>(y), Tile(1), kCount);
  }
  PipeBarrier<PIPE_ALL>();
}

// The last block starts, each adds one to the sum of the one after it: uncached flags, both ways.
template <HardEvent done, HardEvent go>
__aicore__ void Chain(GM_ADDR x, GM_ADDR y, GM_ADDR z, LocalTensor<float> tile) {
  const auto block = static_cast<uint32_t>(GetBlockIdx());
  const auto last = static_cast<uint32_t>(GetBlockNum()) - 1;
  const GlobalTensor<float> shared = Global<float>(z + kShared);
  if (block != last) {
    while (ReadGmByPassDCache(Flag(z, block + 1)) != 1) {
    }
    WriteGmByPassDCache(Flag(z, block + 1), 0);
    Sync<go>();
  }
  DataCopy(tile, block == last ? Global<float>(x) : shared[(block + 1) * kCount], kCount);
  Sync<HardEvent::MTE2_MTE3>();
  DataCopy(shared[block * kCount], tile, kCount);
  if (block == 0) DataCopy(Global<float>(y), tile, kCount);
  Sync<done>();
  WriteGmByPassDCache(Flag(z, block), 1);
}
__global__ __vector__ void chained(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  Chain<HardEvent::MTE3_S, HardEvent::S_MTE2>(x, y, z, Tile());
  PipeBarrier<PIPE_ALL>();
}
// On cube cores nothing is automatic.
__global__ __cube__ void chained_cube(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  Chain<HardEvent::MTE3_S, HardEvent::S_MTE2>(x, y, z,
                                              LocalTensor<float>(TPosition::A1, 0, kCount));
  PipeBarrier<PIPE_ALL>();
}

// Data and flag both go past the cache.
__global__ __vector__ void uncached(GM_ADDR, GM_ADDR, GM_ADDR z) {
  InitSocState();
  if (GetBlockIdx() == 0) {
    WriteGmByPassDCache(Flag(z, 1), 21);
    DataSyncBarrier<MemDsbT::DDR>();
    WriteGmByPassDCache(Flag(z, 0), 6);
  } else {
    while (ReadGmByPassDCache(Flag(z, 0)) != 6) {
    }
    WriteGmByPassDCache(Flag(z, 2), 2 * ReadGmByPassDCache(Flag(z, 1)));
  }
  PipeBarrier<PIPE_ALL>();
}

// The table is read again and again by all cores, while nobody writes: that is no waiting.
__global__ __vector__ void reread(GM_ADDR, GM_ADDR, GM_ADDR z) {
  const GlobalTensor<int32_t> table = Global<int32_t>(z);
  int32_t sum = 0;
  for (uint32_t round = 0; round < 100; ++round) {
    for (uint32_t i = 0; i < 64; ++i) sum += table.GetValue(i);
  }
  SetFlagCached(z, static_cast<uint32_t>(GetBlockIdx()), sum);
}

// A SetValue that is never cleaned reaches memory at the end.
__global__ __vector__ void left_dirty(GM_ADDR, GM_ADDR, GM_ADDR z) {
  Global<int32_t>(z).SetValue(GetBlockIdx() * 16, 7);
}

// Transfers that combine with what is there; block i brings row i of x.
template <typename T, emulator::AtomicKind kind>
__aicore__ void Combined(GM_ADDR x, GM_ADDR, GM_ADDR z) {
  InitSocState();
  const LocalTensor<T> tile(TPosition::VECCALC, 0, kCount);
  DisableDmaAtomic();
  DataCopy(tile, Global<T>(x)[GetBlockIdx() * kCount], kCount);
  Sync<HardEvent::MTE2_MTE3>();
  if constexpr (kind == emulator::AtomicKind::kAdd) SetAtomicAdd<T>();
  if constexpr (kind == emulator::AtomicKind::kMax) SetAtomicMax<T>();
  if constexpr (kind == emulator::AtomicKind::kMin) SetAtomicMin<T>();
  DataCopy(Global<T>(z), tile, kCount);
  DisableDmaAtomic();
  PipeBarrier<PIPE_ALL>();
}

// The type alone, and the register.
__global__ __vector__ void atomic_register(GM_ADDR x, GM_ADDR, GM_ADDR z) {
  InitSocState();
  const LocalTensor<half> tile(TPosition::VECCALC, 0, kCount);
  DataCopy(tile, Global<half>(x), kCount);
  Sync<HardEvent::MTE2_MTE3>();
  SetAtomicType<half>();
  DataCopy(Global<half>(z), tile, kCount);
  uint16_t type = 0;
  uint16_t op = 9;
  GetStoreAtomicConfig(type, op);
  SetFlagCached(z, 0, type * 16 + op);
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_BF16, AtomicOp::ATOMIC_SUM>();
  GetStoreAtomicConfig(type, op);
  SetFlagCached(z, 1, type * 16 + op);
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_NONE, AtomicOp::ATOMIC_SUM>();
  SetAtomicMin<int8_t>();
  GetStoreAtomicConfig(type, op);
  SetFlagCached(z, 2, type * 16 + op);
  InitSocState();
  GetStoreAtomicConfig(type, op);
  SetFlagCached(z, 3, type * 16 + op);
  PipeBarrier<PIPE_ALL>();
}

// Buffers and the workspace of those that a TPipe kernel waits with.
class Waiting {
 public:
  Waiting() {
    pipe_.InitBuffer(data_, 1, kCount * sizeof(float));
    pipe_.InitBuffer(work_, 1, 1024);
    work = work_.AllocTensor<int32_t>();
  }
  ~Waiting() { work_.FreeTensor(work); }
  // x to `to`
  __aicore__ void Carry(const GlobalTensor<float>& to, const GlobalTensor<float>& from) {
    LocalTensor<float> tile = data_.AllocTensor<float>();
    DataCopy(tile, from, kCount);
    const int32_t id = pipe_.FetchEventID(HardEvent::MTE2_MTE3);
    SetFlag<HardEvent::MTE2_MTE3>(id);
    WaitFlag<HardEvent::MTE2_MTE3>(id);
    DataCopy(to, tile, kCount);
    data_.FreeTensor(tile);
  }
  LocalTensor<int32_t> work;

 private:
  TPipe pipe_;
  TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> data_;
  TQue<TPosition::VECIN, 1> work_;
};

// Block 2 writes, 0 hands it on, 1 brings it to y; three times with the same flags.
__global__ __vector__ void paired(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Waiting own;
  const GlobalTensor<int32_t> flags = Global<int32_t>(z + kFlags, 256);
  const GlobalTensor<float> shared = Global<float>(z + kShared);
  for (uint32_t i = 0; i < 3; ++i) {
    if (GetBlockIdx() == 2) {
      if (i != 0) IBWait(flags, own.work, 1, 1);
      own.Carry(shared, Global<float>(x)[i * kCount]);
      IBSet(flags, own.work, 2, 0);
    } else if (GetBlockIdx() == 0) {
      IBWait<true>(flags, own.work, 2, 0);
      own.Carry(shared[kCount], shared);
      IBSet<true>(flags, own.work, 0, 1);
    } else {
      IBWait(flags, own.work, 0, 1);
      own.Carry(Global<float>(y)[i * kCount], shared[kCount]);
      if (i != 2) IBSet(flags, own.work, 1, 1);
    }
  }
}

// Blocks take turns at the same place: what stays is the last one's.
__global__ __vector__ void in_turn(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Waiting own;
  GlobalTensor<int32_t> turns = Global<int32_t>(z + kFlags);
  InitDetermineComputeWorkspace(turns, own.work);
  for (uint32_t i = 0; i < 2; ++i) {
    WaitPreBlock(turns, own.work);
    own.Carry(Global<float>(y)[i * kCount], Global<float>(x)[GetBlockIdx() * kCount]);
    NotifyNextBlock(turns, own.work);
  }
}

// Blocks 2 and up wait for blocks 0 and 1, twice.
__global__ __vector__ void grouped(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Waiting own;
  const GlobalTensor<float> shared = Global<float>(z + kShared);
  GroupBarrier<PipeMode::MTE3_MODE> group(z, 2, static_cast<uint32_t>(GetBlockNum()) - 2);
  const auto block = static_cast<uint32_t>(GetBlockIdx());
  for (uint32_t i = 0; i < 2; ++i) {
    if (block < 2) {
      own.Carry(shared[(i * 2 + block) * kCount], Global<float>(x)[(i * 2 + block) * kCount]);
      group.Arrive(block);
    } else {
      group.Wait(block - 2);
      own.Carry(Global<float>(y)[(i * 8 + block) * kCount], shared[(i * 2 + block % 2) * kCount]);
    }
  }
  if (group.GetWorkspaceLen() != 512 * static_cast<uint64_t>(GetBlockNum() - 2)) Trap();
}

// Three of five meet, in a workspace that the kernel itself has set to zero.
__global__ __vector__ void some_meet(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Waiting own;
  const auto block = static_cast<uint32_t>(GetBlockIdx());
  const GlobalTensor<float> shared = Global<float>(z + kShared);
  if (block >= 3) return;
  for (uint32_t i = 0; i < 2; ++i) {
    own.Carry(shared[(i * 3 + block) * kCount], Global<float>(x)[(i * 3 + block) * kCount]);
    SyncAll(Global<int32_t>(z), own.work, 3);
    own.Carry(Global<float>(y)[(i * 3 + block) * kCount],
              shared[(i * 3 + (block + 1) % 3) * kCount]);
  }
}

// A kernel with as many vector cores as cube cores: every kind of flag.
__global__ __mix__(1, 1) void pairs(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  const auto block = static_cast<uint32_t>(GetBlockIdx());
  const GlobalTensor<float> shared = Global<float>(z + kShared);
  if ASCEND_IS_AIC {
    const LocalTensor<float> tile(TPosition::A1, 0, kCount);
    DataCopy(tile, Global<float>(x)[block * kCount], kCount);
    Sync<HardEvent::MTE2_MTE3>();
    DataCopy(shared[block * kCount], tile, kCount);
    CrossCoreSetFlag<2, PIPE_MTE3>(3);
  } else {
    CrossCoreWaitFlag(3);
    DataCopy(Tile(), shared[block * kCount], kCount);
    Sync<HardEvent::MTE2_V>();
    Adds(Tile(), Tile(), static_cast<float>(GetSubBlockNum() + 10 * GetTaskRatio()), kCount);
    Sync<HardEvent::V_MTE3>();
    DataCopy(shared[block * kCount], Tile(), kCount);
    CrossCoreSetFlag<1, PIPE_MTE3>(4);
    CrossCoreWaitFlag(4);
    CrossCoreSetFlag<0, PIPE_MTE3>(5);
    CrossCoreWaitFlag(5);
    DataCopy(Tile(1), shared[(block + 1) % GetBlockNum() * kCount], kCount);
    Sync<HardEvent::MTE2_MTE3>();
    DataCopy(Global<float>(y)[block * kCount], Tile(1), kCount);
  }
  SyncAll<false>();
  PipeBarrier<PIPE_ALL>();
}

// Flags whose ids the kernel chooses, beside a TPipe; one that another call asks for.
__global__ __vector__ void chosen_ids(GM_ADDR, GM_ADDR y, GM_ADDR) {
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffer;
  pipe.InitBuffer(buffer, 256);
  LocalTensor<int32_t> tile = buffer.Get<int32_t>();
  WaitPreTaskEnd();
  for (int32_t i = 0; i < 64; ++i) tile.SetValue(i, i);
  TQueSync<PIPE_S, PIPE_MTE3> sync;
  sync.SetFlag(0);
  sync.WaitFlag(0);
  DataCopy(Global<int32_t>(y), tile, 64);
  SetNextTaskStart();
}

Options Cases(KernelType kernel, uint32_t blocks, bool strict = false) {
  Options options = Launch(kernel, blocks);
  options.strict = strict;
  return options;
}

}  // namespace

const std::vector<Case>& Syncs() {
  using emulator::AtomicKind;
  constexpr auto kVector = KernelType::kVector;
  static const std::vector<Case> cases = {
      {"polled", &polled, Cases(kVector, 4, true)},
      {"chained", &chained, Cases(kVector, 4, true)},
      {"chained_cube", &chained_cube, Cases(KernelType::kCube, 4)},
      {"uncached", &uncached, Cases(kVector, 2)},
      {"reread", &reread, Cases(kVector, 4)},
      {"left_dirty", &left_dirty, Cases(kVector, 4)},
      {"add float", &Combined<float, AtomicKind::kAdd>, Cases(kVector, 3)},
      {"add half", &Combined<half, AtomicKind::kAdd>, Cases(kVector, 3)},
      {"add int8", &Combined<int8_t, AtomicKind::kAdd>, Cases(kVector, 3)},
      {"max float", &Combined<float, AtomicKind::kMax>, Cases(kVector, 3)},
      {"max half", &Combined<half, AtomicKind::kMax>, Cases(kVector, 3)},
      {"max int32", &Combined<int32_t, AtomicKind::kMax>, Cases(kVector, 3)},
      {"max int16", &Combined<int16_t, AtomicKind::kMax>, Cases(kVector, 3)},
      {"min float", &Combined<float, AtomicKind::kMin>, Cases(kVector, 3)},
      {"min int8", &Combined<int8_t, AtomicKind::kMin>, Cases(kVector, 3)},
      {"atomic_register", &atomic_register, Cases(kVector, 1)},
      {"paired", &paired, Cases(kVector, 3)},
      {"in_turn", &in_turn, Cases(kVector, 4)},
      {"grouped", &grouped, Cases(kVector, 6)},
      {"some_meet", &some_meet, Cases(kVector, 5)},
      {"pairs", &pairs, Cases(KernelType::kMixPair, 3)},
      {"chosen_ids", &chosen_ids, Cases(kVector, 1, true)},
  };
  return cases;
}

}  // namespace moge_tests
