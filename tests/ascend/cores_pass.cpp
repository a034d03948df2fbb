// Correct kernels of many products and of a cube core with its vector cores;
// tests/emulator/test_cube_kernels.py compares each with NumPy.
#include "cube_operands.h"

namespace moge_tests {

namespace {

// --- many products ---------------------------------------------------------------------------

// y [64, 96] = A [64, 128] B [96, 128]^T: L1 and L0 in two halves each, results given to Fixpipe by
// unit flags; the tiles of 32 x 48 go round the cores. With `slices` the cores share k instead and
// add to z.
template <uint32_t slices>
class Blocked {
 public:
  static constexpr uint32_t kM = 64, kN = 96, kK = 128;
  static constexpr uint32_t kTileM = 32, kTileN = 48, kL1 = 64, kL0 = 32;
  static constexpr uint32_t kFractal = 256;

  __aicore__ inline Blocked(GM_ADDR x, GM_ADDR out)
      : a_(Global<half>(x)), b_(Global<half>(x)[kM * kK]), out_(Global<float>(out)) {}

  __aicore__ inline void Process() {
    SetMMRowMajor();
    for (const int32_t half_id : {0, 1}) {
      SetFlag<HardEvent::MTE1_MTE2>(half_id);
      SetFlag<HardEvent::M_MTE1>(half_id);
    }
    const auto cores = static_cast<uint32_t>(GetBlockNum());
    const auto core = static_cast<uint32_t>(GetBlockIdx());
    const uint32_t depth = kK / slices;
    const uint32_t begin = slices == 1 ? 0 : core * depth;
    for (uint32_t tile = slices == 1 ? core : 0; tile < kM / kTileM * kN / kTileN;
         tile += slices == 1 ? cores : 1) {
      Tile(tile / (kN / kTileN) * kTileM, tile % (kN / kTileN) * kTileN, begin, begin + depth);
    }
    for (const int32_t half_id : {0, 1}) {
      WaitFlag<HardEvent::MTE1_MTE2>(half_id);
      WaitFlag<HardEvent::M_MTE1>(half_id);
    }
  }

 private:
  __aicore__ inline void Tile(uint32_t m, uint32_t n, uint32_t begin, uint32_t end) {
    for (uint32_t k1 = begin; k1 < end; k1 += kL1) {
      CopyIn(m, n, k1);
      for (uint32_t k0 = 0; k0 < kL1; k0 += kL0) {
        Load(k0);
        const bool first = k1 + k0 == begin;
        const bool last = k1 + k0 + kL0 == end;
        WaitFlag<HardEvent::MTE1_M>(l0_);
        Mmad(c_, a2_[l0_ * kHalfL0], b2_[l0_ * kHalfL0],
             Product(kTileM, kTileN, kL0, first, last ? 3 : 2));
        PipeBarrier<PIPE_M>();  // 2 x 3 fractals
        SetFlag<HardEvent::M_MTE1>(l0_);
        l0_ ^= 1;
      }
      SetFlag<HardEvent::MTE1_MTE2>(l1_);
      l1_ ^= 1;
    }
    FixpipeParamsV220 out(kTileN, kTileM, kTileM, kN, false);
    out.unitFlag = 3;
    if (slices > 1) SetAtomicAdd<float>();
    Fixpipe<float, float, CFG_ROW_MAJOR>(out_[m * kN + n], c_, out);
    if (slices > 1) SetAtomicNone();
  }

  __aicore__ inline void CopyIn(uint32_t m, uint32_t n, uint32_t k) {
    WaitFlag<HardEvent::MTE1_MTE2>(l1_);
    CopyNz(a1_[l1_ * kHalfL1], a_[m * kK + k], kTileM, kL1, kK);
    CopyNz(b1_[l1_ * kHalfL1], b_[n * kK + k], kTileN, kL1, kK);
    SetFlag<HardEvent::MTE2_MTE1>(l1_);
    WaitFlag<HardEvent::MTE2_MTE1>(l1_);
  }

  __aicore__ inline void Load(uint32_t k) {
    WaitFlag<HardEvent::M_MTE1>(l0_);
    const LocalTensor<half> a1 = a1_[l1_ * kHalfL1 + k * kTileM];
    for (uint32_t row = 0; row < kTileM / 16; ++row) {
      LoadData(a2_[l0_ * kHalfL0 + row * kL0 * 16], a1[row * kFractal],
               LoadData2DParams(0, kL0 / 16, kTileM / 16, 0, 0, false, 0));
    }
    LoadData(b2_[l0_ * kHalfL0], b1_[l1_ * kHalfL1 + k * kTileN],
             LoadData2DParams(0, kL0 / 16 * kTileN / 16, 1, 0, 0, false, 0));
    SetFlag<HardEvent::MTE1_M>(l0_);
  }

  static constexpr uint32_t kHalfL1 = 65536;  // elements
  static constexpr uint32_t kHalfL0 = 16384;
  GlobalTensor<half> a_, b_;
  GlobalTensor<float> out_;
  LocalTensor<half> a1_{TPosition::A1, 0, 2 * kHalfL1};
  LocalTensor<half> b1_{TPosition::B1, 262144, 2 * kHalfL1};
  LocalTensor<half> a2_{TPosition::A2, 0, 2 * kHalfL0};
  LocalTensor<half> b2_{TPosition::B2, 0, 2 * kHalfL0};
  LocalTensor<float> c_{TPosition::CO1, 0, kTileM * kTileN};
  int32_t l1_ = 0;
  int32_t l0_ = 0;
};

__global__ __cube__ void blocked(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  InitSocState();
  Blocked<1>(x, y).Process();
  PipeBarrier<PIPE_ALL>();
}

__global__ __cube__ void split_k(GM_ADDR x, GM_ADDR, GM_ADDR z) {
  InitSocState();
  Blocked<2>(x, z).Process();
  PipeBarrier<PIPE_ALL>();
}

// B as it lies in L1, in columns of 16 along k: a plain copy; the rows beyond k are filled with 0.
__global__ __cube__ void nz_weights(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t m = 32, n = 48, k = 64, kFirst = 32;
  InitSocState();
  LocalTensor<half> a1(TPosition::A1, 0, m * k);
  LocalTensor<half> b1(TPosition::B1, 65536, n * k);
  LocalTensor<half> a2(TPosition::A2, 0, m * k);
  LocalTensor<half> b2(TPosition::B2, 0, n * k);
  LocalTensor<float> c(TPosition::CO1, 0, m * n);
  CopyNz(a1, Global<half>(x), m, k, k);
  // the weights of [96, 64] lie in columns of 96 x 16: rows 48 to 95 of each
  DataCopy(b1, Global<half>(x)[m * k + n * 16], DataCopyParams(kFirst / 16, n, n, 0));
  Fill(b1[n * kFirst], InitConstValueParams<half>(2, n, 0, half(0)));
  Sync<HardEvent::MTE2_MTE1>();
  for (uint32_t row = 0; row < m / 16; ++row) {
    LoadData(a2[row * k * 16], a1[row * 256], LoadData2DParams(0, k / 16, m / 16, 0, 0, false, 0));
  }
  LoadData(b2, b1, LoadData2DParams(0, n / 16 * k / 16, 1, 0, 0, false, 0));
  Sync<HardEvent::MTE1_M>();
  Mmad(c, a2, b2, Product(m, n, k));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(n, m, m, n, false));
  PipeBarrier<PIPE_ALL>();
}

// --- a cube core with its vector cores -------------------------------------------------------

// y = 2 A B, tile by tile: the cube core writes products of 32 x 64 into a ring of two slots in z,
// each vector core doubles its half of the rows and gives the slot back.
class Ring {
 public:
  static constexpr uint32_t kRows = 32, kColumns = 64, kDepth = 64, kTiles = 4;
  static constexpr uint32_t kTile = kRows * kColumns;
  static constexpr uint16_t kFull = 0, kFree = 2;  // and the ids after them, one for each slot

  __aicore__ inline Ring(GM_ADDR x, GM_ADDR y, GM_ADDR z, uint32_t block)
      : a_(Global<half>(x)[block * kTiles * kRows * kDepth]),
        b_(Global<half>(x)[kBlocks * kTiles * kRows * kDepth]),
        ring_(Global<float>(z)[block * 2 * kTile]),
        y_(Global<half>(y)[block * kTiles * kTile]) {}

  __aicore__ inline void Produce() {
    Operands<half, false, false> operands(kRows, kColumns, kDepth);
    LocalTensor<float> c(TPosition::CO1, 0, kTile);
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      const auto slot = static_cast<uint16_t>(tile % 2);
      operands.Copy(a_[tile * kRows * kDepth], b_);
      Sync<HardEvent::MTE2_MTE1>();
      operands.Load();
      Sync<HardEvent::MTE1_MTE2>();
      Sync<HardEvent::MTE1_M>();
      Mmad(c, operands.a2_, operands.b2_, Product(kRows, kColumns, kDepth));
      Sync<HardEvent::M_MTE1>();
      Sync<HardEvent::M_FIX>();
      if (tile >= 2) CrossCoreWaitFlag(kFree + slot);
      Fixpipe(ring_[slot * kTile], c, FixpipeParamsV220(kColumns, kRows, kRows, kColumns, false));
      Sync<HardEvent::FIX_M>();
      CrossCoreSetFlag<2, PIPE_FIX>(kFull + slot);
    }
    CrossCoreWaitFlag(kFree);
    CrossCoreWaitFlag(kFree + 1);
  }

  __aicore__ inline void Consume(uint32_t half_id) {
    constexpr uint32_t kPart = kTile / 2;
    LocalTensor<float> in(TPosition::VECIN, 0, kPart);
    LocalTensor<half> out(TPosition::VECOUT, kPart * 4, kPart);
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      const auto slot = static_cast<uint16_t>(tile % 2);
      CrossCoreWaitFlag(kFull + slot);
      DataCopy(in, ring_[slot * kTile + half_id * kPart], kPart);
      CrossCoreSetFlag<2, PIPE_MTE2>(kFree + slot);
      Sync<HardEvent::MTE2_V>();
      Muls(in, in, 2.0f, static_cast<int32_t>(kPart));
      Cast(out, in, RoundMode::CAST_RINT, kPart);
      Sync<HardEvent::V_MTE2>();
      Sync<HardEvent::V_MTE3>();
      DataCopy(y_[tile * kTile + half_id * kPart], out, kPart);
      Sync<HardEvent::MTE3_V>();
    }
  }

  static constexpr uint32_t kBlocks = 2;

 private:
  GlobalTensor<half> a_, b_;
  GlobalTensor<float> ring_;
  GlobalTensor<half> y_;
};

__global__ __mix__(1, 2) void ring(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  if ASCEND_IS_AIC {
    Ring(x, y, z, static_cast<uint32_t>(GetBlockIdx())).Produce();
  }
  if ASCEND_IS_AIV {
    const auto block = static_cast<uint32_t>(GetBlockIdx() / GetTaskRation());
    Ring(x, y, z, block).Consume(static_cast<uint32_t>(GetSubBlockIdx()));
  }
  PipeBarrier<PIPE_ALL>();
}

// Numbers through z between the vector cores of a block, of all blocks, and of every core: each
// adds its own and says what it is.
__global__ __mix__(1, 2) void exchange(GM_ADDR, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  const auto vector_cores = static_cast<uint32_t>(GetBlockNum() * 2);
  if ASCEND_IS_AIV {
    const auto core = static_cast<uint32_t>(GetBlockIdx());
    LocalTensor<float> own(TPosition::VECCALC, 0, 8);
    LocalTensor<float> read(TPosition::VECCALC, 32, 64);
    Duplicate(own, static_cast<float>(core + 1), 8);
    Sync<HardEvent::V_MTE3>();
    DataCopy(Global<float>(z)[core * 8], own, 8);
    CrossCoreSetFlag<1, PIPE_MTE3>(4);
    CrossCoreWaitFlag(4);
    DataCopy(read, Global<float>(z)[(core ^ 1) * 8], 8);  // of the other core of the block
    CrossCoreSetFlag<0, PIPE_MTE3>(5);
    CrossCoreWaitFlag(5);
    DataCopy(read[8], Global<float>(z)[(core + 2) % vector_cores * 8], 8);  // of the next block
    Sync<HardEvent::MTE2_V>();
    Add(own, read, read[8], 8);
    Sync<HardEvent::V_MTE3>();
    DataCopy(Global<float>(y)[core * 8], own, 8);
  }
  SyncAll<false>();
  PipeBarrier<PIPE_ALL>();
}

// A number from the first vector core to every other core of the launch, hand to hand: to its cube
// core, from there to the other cube core, from there to the vector cores beside it.
__global__ __mix__(1, 2) void relay(GM_ADDR, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  const bool first = GetBlockIdx() / GetTaskRation() == 0;
  if ASCEND_IS_AIC {
    if (first) CrossCoreWaitFlag(0);
    CrossCoreSetFlag<0, PIPE_FIX>(1);
    CrossCoreWaitFlag(1);
    if (!first) CrossCoreSetFlag<2, PIPE_FIX>(2);
  }
  if ASCEND_IS_AIV {
    LocalTensor<float> tile(TPosition::VECCALC, 0, 8);
    const int64_t core = GetBlockIdx();
    if (first) {
      Duplicate(tile, static_cast<float>(core + 5), 8);
      Sync<HardEvent::V_MTE3>();
      DataCopy(Global<float>(z)[core * 8], tile, 8);
      CrossCoreSetFlag<2, PIPE_MTE3>(0);
    } else {
      CrossCoreWaitFlag(2);
      DataCopy(tile, Global<float>(z)[(core - 2) * 8], 8);
      Sync<HardEvent::MTE2_MTE3>();
      DataCopy(Global<float>(y)[core * 8], tile, 8);
    }
  }
  PipeBarrier<PIPE_ALL>();
}

// Products to every vector core of the launch.
__global__ __mix__(1, 2) void sync_all_mix(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  constexpr uint32_t kRows = 32, kColumns = 64, kDepth = 64, kTile = kRows * kColumns;
  InitSocState();
  const auto block = static_cast<uint32_t>(GetBlockIdx());
  if ASCEND_IS_AIC {
    Operands<half, false, false> operands(kRows, kColumns, kDepth);
    LocalTensor<float> c(TPosition::CO1, 0, kTile);
    operands.Copy(Global<half>(x)[block * kRows * kDepth], Global<half>(x)[2 * kRows * kDepth]);
    Sync<HardEvent::MTE2_MTE1>();
    operands.Load();
    Sync<HardEvent::MTE1_M>();
    Mmad(c, operands.a2_, operands.b2_, Product(kRows, kColumns, kDepth));
    Sync<HardEvent::M_FIX>();
    Fixpipe(Global<float>(z)[block * kTile], c,
            FixpipeParamsV220(kColumns, kRows, kRows, kColumns, false));
  }
  SyncAll<false>();
  if ASCEND_IS_AIV {  // the four of them: half a tile each, of the other block
    LocalTensor<float> part(TPosition::VECIN, 0, kTile / 2);
    DataCopy(part, Global<float>(z)[(block ^ 2) * kTile / 2], kTile / 2);
    Sync<HardEvent::MTE2_MTE3>();
    DataCopy(Global<float>(y)[(block ^ 2) * kTile / 2], part, kTile / 2);
  }
  PipeBarrier<PIPE_ALL>();
}

Options Cube(uint32_t blocks = 1) { return Launch(KernelType::kCube, blocks); }
Options Mix(uint32_t blocks) { return Launch(KernelType::kMix, blocks); }

const std::vector<Case> kCases = {
    {"blocked", blocked, Cube(2)},          {"split_k", split_k, Cube(2)},
    {"nz_weights", nz_weights, Cube()},     {"ring", ring, Mix(Ring::kBlocks)},
    {"exchange", exchange, Mix(3)},         {"relay", relay, Mix(2)},
    {"sync_all_mix", sync_all_mix, Mix(2)},
};
const Addition kAdded(MustPassCube(), kCases);

}  // namespace

}  // namespace moge_tests
