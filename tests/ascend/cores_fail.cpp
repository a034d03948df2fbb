// The rules of cores that wait for each other, and of counting mode.
#include "must_fail_cube.h"

namespace moge_tests {

namespace {

Options Counting(KernelType kernel = KernelType::kVector) {
  Options options = Launch(kernel);
  options.counting = true;
  return options;
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
