// Correct kernels for a cube core and its vector cores, in the documented style: static tensors and
// explicit flags; tests/test_emulator.py compares each with NumPy.
#include "common.h"

namespace moge_tests {

namespace {

constexpr uint32_t kFractalRows = 16;
constexpr uint32_t kFractalBytes = 512;

constexpr uint32_t CeilDiv(uint32_t value, uint32_t divisor) {
  return (value + divisor - 1) / divisor;
}
constexpr uint32_t CeilTo(uint32_t value, uint32_t multiple) {
  return CeilDiv(value, multiple) * multiple;
}

// rows x columns of a row-major matrix to NZ at `dst`
template <typename T>
__aicore__ inline void CopyNz(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t rows,
                              uint32_t columns, uint32_t pitch) {
  DataCopy(dst, src, Nd2NzParams(1, rows, columns, 0, pitch, CeilTo(rows, 16), 1, 0));
}

// rows x columns in blocks of 16 rows, each block with its columns beside each other
__aicore__ inline void CopySquares(const LocalTensor<float>& dst, const GlobalTensor<float>& src,
                                   uint32_t rows, uint32_t columns) {
  const uint32_t block = CeilTo(columns, 16) * kFractalRows;  // elements
  for (uint32_t row = 0; row < rows; row += kFractalRows) {
    const uint32_t count = rows - row < kFractalRows ? rows - row : kFractalRows;
    DataCopy(dst[row / kFractalRows * block], src[row * columns],
             Nd2NzParams(1, count, columns, 0, columns, kFractalRows, 1, 0));
  }
}

// C [m, n] = A B. A is stored [m, k], or [k, m] where it is transposed; B is stored [n, k], or
// [k, n]. All of it at once; `from` and `to` of k, for products in parts.
template <typename T, bool transpose_a, bool transpose_b>
class Operands {
 public:
  static constexpr uint32_t kC0 = 32 / sizeof(T);
  static constexpr uint32_t kFractal = kFractalBytes / sizeof(T);

  __aicore__ inline Operands(uint32_t m, uint32_t n, uint32_t k) : m_(m), n_(n), k_(k) {}

  __aicore__ inline void Copy(const GlobalTensor<T>& a, const GlobalTensor<T>& b) {
    if constexpr (!transpose_a) {
      CopyNz(a1_, a, m_, k_, k_);
    } else if constexpr (sizeof(T) == 4) {
      CopySquares(a1_, a, k_, m_);
    } else {
      CopyNz(a1_, a, k_, m_, m_);
    }
    if constexpr (!transpose_b) {
      CopyNz(b1_, b, n_, k_, k_);
    } else if constexpr (sizeof(T) == 4) {
      CopySquares(b1_, b, k_, n_);
    } else if constexpr (sizeof(T) == 1) {
      DataCopy(b1_, b, Nd2NzParams(1, k_, n_, 0, n_, CeilTo(k_, 32), 1, 0));
    } else {
      CopyNz(b1_, b, k_, n_, n_);
    }
  }

  __aicore__ inline void Load() {
    LoadA();
    LoadB();
  }

  LocalTensor<T> a2_{TPosition::A2, 0, 65536 / sizeof(T)};
  LocalTensor<T> b2_{TPosition::B2, 0, 65536 / sizeof(T)};

 private:
  __aicore__ inline void LoadA() {
    const uint32_t rows = CeilDiv(m_, 16);
    const uint32_t depth = CeilDiv(k_, kC0);
    if constexpr (!transpose_a) {
      for (uint32_t row = 0; row < rows; ++row) {
        LoadData(a2_[row * depth * kFractal], a1_[row * kFractal],
                 LoadData2DParams(0, depth, rows, 0, 0, false, 0));
      }
    } else if constexpr (sizeof(T) == 4) {
      const uint32_t squares = CeilDiv(k_, 16);
      for (uint32_t row = 0; row < rows; ++row) {
        LoadDataWithTranspose(a2_[row * squares * 2 * kFractal], a1_[row * 2 * kFractal],
                              LoadData2dTransposeParams(0, squares, rows, 1, 0, 0));
      }
    } else {
      for (uint32_t row = 0; row < rows; ++row) {
        LoadData(a2_[row * depth * kFractal], a1_[row * depth * kFractal],
                 LoadData2DParams(0, depth, 1, 0, 0, true, 0));
      }
    }
  }

  __aicore__ inline void LoadB() {
    const uint32_t columns = CeilDiv(n_, 16);
    const uint32_t depth = CeilDiv(k_, kC0);
    if constexpr (!transpose_b) {
      LoadData(b2_, b1_, LoadData2DParams(0, depth * columns, 1, 0, 0, false, 0));
    } else if constexpr (sizeof(T) == 4) {
      for (uint32_t square = 0; square < CeilDiv(k_, 16); ++square) {
        const uint32_t at = square * columns * 2 * kFractal;
        LoadDataWithTranspose(b2_[at], b1_[at],
                              LoadData2dTransposeParams(0, columns, 1, 0, columns - 1, 0));
      }
    } else if constexpr (sizeof(T) == 1) {
      for (uint32_t square = 0; square < depth; ++square) {
        LoadDataWithTranspose(b2_[square * columns * kFractal], b1_[square * 2 * kFractal],
                              LoadData2dTransposeParams(0, CeilDiv(n_, 32), depth, 1, 0, 0));
      }
    } else {
      for (uint32_t part = 0; part < depth; ++part) {
        LoadData(b2_[part * columns * kFractal], b1_[part * kFractal],
                 LoadData2DParams(0, columns, depth, 0, 0, true, 0));
      }
    }
  }

  uint32_t m_, n_, k_;
  LocalTensor<T> a1_{TPosition::A1, 0, 131072 / sizeof(T)};
  LocalTensor<T> b1_{TPosition::B1, 131072, 131072 / sizeof(T)};
};

template <typename To>
constexpr QuantMode_t QuantOf() {
  if constexpr (std::is_same_v<To, half>) return QuantMode_t::F322F16;
  if constexpr (std::is_same_v<To, bfloat16_t>) return QuantMode_t::F322BF16;
  return QuantMode_t::NoQuant;
}

// A B in one product, ready for Fixpipe; x holds A, then B.
template <typename T, typename Acc, bool transpose_a, bool transpose_b>
__aicore__ inline LocalTensor<Acc> Multiplied(GM_ADDR x, uint32_t m, uint32_t n, uint32_t k) {
  InitSocState();
  Operands<T, transpose_a, transpose_b> operands(m, n, k);
  LocalTensor<Acc> c(TPosition::CO1, 0, 32768);
  operands.Copy(Global<T>(x), Global<T>(x)[m * k]);
  Sync<HardEvent::MTE2_MTE1>();
  operands.Load();
  Sync<HardEvent::MTE1_M>();
  MmadParams product = Product(m, n, k);
  product.kDirectionAlign = transpose_a;
  Mmad(c, operands.a2_, operands.b2_, product);
  Sync<HardEvent::M_FIX>();
  return c;
}

template <typename T, typename Acc, typename To, bool transpose_a, bool transpose_b, uint32_t m,
          uint32_t n, uint32_t k>
__global__ __cube__ void matmul(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const auto c = Multiplied<T, Acc, transpose_a, transpose_b>(x, m, n, k);
  FixpipeParamsV220 out(n, m, CeilTo(m, 16), n, false);
  out.quantPre = QuantOf<To>();
  Fixpipe<To, Acc, CFG_ROW_MAJOR>(Global<To>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

// Nd2Nz fills the last column block with zeros: k goes up to its end.
__global__ __cube__ void zero_tail(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t m = 32, n = 48, k = 70;
  InitSocState();
  Operands<half, false, false> operands(m, n, k);
  LocalTensor<float> c(TPosition::CO1, 0, 32768);
  operands.Copy(Global<half>(x), Global<half>(x)[m * k]);
  Sync<HardEvent::MTE2_MTE1>();
  operands.Load();
  Sync<HardEvent::MTE1_M>();
  Mmad(c, operands.a2_, operands.b2_, Product(m, n, CeilTo(k, 16)));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(n, m, m, n, false));
  PipeBarrier<PIPE_ALL>();
}

// A product without terms: both operands filled with zeros in L0.
__global__ __cube__ void no_terms(GM_ADDR, GM_ADDR y, GM_ADDR) {
  InitSocState();
  LocalTensor<bfloat16_t> a2(TPosition::A2, 0, 1024);
  LocalTensor<bfloat16_t> b2(TPosition::B2, 0, 512);
  LocalTensor<float> c(TPosition::CO1, 0, 512);
  const bfloat16_t zero = ToBfloat16(0.0f);
  Fill(a2, InitConstValueParams<bfloat16_t>(2, 1, 1, zero));  // fractals 0 and 2
  Fill(a2[256], InitConstValueParams<bfloat16_t>(2, 1, 1, zero));
  Fill(b2, InitConstValueParams<bfloat16_t>(1, 2, 0, zero));
  Sync<HardEvent::MTE1_M>();
  Mmad(c, a2, b2, Product(32, 16, 32));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(16, 32, 32, 16, false));
  PipeBarrier<PIPE_ALL>();
}

// Operands that lie in fractals from global memory to L0, those of B from the last to the first;
// what L1 holds back to global memory.
__global__ __cube__ void short_ways(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  LocalTensor<float> a1(TPosition::A1, 0, 1024);
  LocalTensor<float> a2(TPosition::A2, 0, 512);
  LocalTensor<float> b2(TPosition::B2, 0, 512);
  LocalTensor<float> c(TPosition::CO1, 0, 256);
  LoadData(a2, Global<float>(x), LoadData2DParams(0, 4, 1, 0, 0, false, 0));
  LoadData(b2, Global<float>(x)[512], LoadData2DParams(3, 4, 1, 0, 0, false, 1));
  DataCopy(a1, Global<float>(x), 1024);
  SetFlag<HardEvent::MTE2_MTE3>(0);
  SetFlag<HardEvent::MTE2_MTE1>(0);
  WaitFlag<HardEvent::MTE2_MTE1>(0);
  Sync<HardEvent::MTE1_M>();
  Mmad(c, a2, b2, Product(16, 16, 32));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(16, 16, 16, 16, false));
  WaitFlag<HardEvent::MTE2_MTE3>(0);
  SetAtomicAdd<float>();
  DataCopy(Global<float>(z), a1, 1024);
  SetAtomicNone();
  PipeBarrier<PIPE_ALL>();
}

// A B and a row from z
__global__ __cube__ void biased(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  constexpr uint32_t m = 40, n = 48, k = 64;
  InitSocState();
  Operands<half, false, false> operands(m, n, k);
  LocalTensor<float> c(TPosition::CO1, 0, 32768);
  LocalTensor<float> c1(TPosition::C1, 262144, n);
  LocalTensor<float> c2(TPosition::C2, 0, n);
  operands.Copy(Global<half>(x), Global<half>(x)[m * k]);
  DataCopy(c1, Global<float>(z), n);
  Sync<HardEvent::MTE2_MTE1>();
  operands.Load();
  DataCopy(c2, c1, DataCopyParams(1, n * sizeof(float) / 64, 0, 0));
  Sync<HardEvent::MTE1_M>();
  Mmad(c, operands.a2_, operands.b2_, c2, Product(m, n, k, false));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(n, m, CeilTo(m, 16), n, false));
  PipeBarrier<PIPE_ALL>();
}

// One row times B: A lies in L0A as it is, 512 bytes a load.
__global__ __cube__ void gemv(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  constexpr uint32_t n = 48;
  constexpr uint32_t k = 300;
  InitSocState();
  LocalTensor<half> a1(TPosition::A1, 0, 512);
  LocalTensor<half> b1(TPosition::B1, 1024, 16384);
  LocalTensor<half> a2(TPosition::A2, 0, 512);
  LocalTensor<half> b2(TPosition::B2, 0, 16384);
  LocalTensor<float> c(TPosition::CO1, 0, 768);
  DataCopy(a1, Global<half>(x), CeilTo(k, 16));
  CopyNz(b1, Global<half>(x)[512], n, k, k);
  Sync<HardEvent::MTE2_MTE1>();
  LoadData(a2, a1, LoadData2DParams(0, 2, 1, 0, 0, false, 0));
  LoadData(b2, b1, LoadData2DParams(0, CeilDiv(k, 16) * n / 16, 1, 0, 0, false, 0));
  Sync<HardEvent::MTE1_M>();
  Mmad(c, a2, b2, Product(1, n, k));
  Sync<HardEvent::M_FIX>();
  Fixpipe(Global<float>(y), c, FixpipeParamsV220(n, 1, 16, n, false));
  PipeBarrier<PIPE_ALL>();
}

// --- ways out --------------------------------------------------------------------------------

// float results to half in NZ, negative ones to 0
__global__ __cube__ void fixpipe_nz(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const auto c = Multiplied<half, float, false, false>(x, 40, 48, 64);
  FixpipeParamsV220 out(48, 40, 48, 42, true);  // columns of 16 start 42 blocks of 32 bytes apart
  out.quantPre = QuantMode_t::F322F16;
  Fixpipe<half, float, CFG_NZ>(Global<half>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

// float results in columns of 8
__global__ __cube__ void fixpipe_split(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const auto c = Multiplied<half, float, false, false>(x, 40, 48, 64);
  FixpipeParamsV220 out(40, 40, 48, 40, false);
  out.isChannelSplit = true;
  Fixpipe<float, float, CFG_NZ>(Global<float>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

// int32 results to int8 by one scale in z, in columns of 32, the last one of 16
__global__ __cube__ void fixpipe_int8(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const auto c = Multiplied<int8_t, int32_t, false, false>(x, 40, 48, 64);
  FixpipeParamsV220 out(48, 40, 48, 40, false);
  out.quantPre = QuantMode_t::REQ8;
  out.deqScalar = Global<uint64_t>(z).GetValue(0);
  Fixpipe<int8_t, int32_t, CFG_NZ>(Global<int8_t>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

// int32 results to half, each column by its scale in z
__global__ __cube__ void fixpipe_scales(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const auto c = Multiplied<int8_t, int32_t, false, false>(x, 40, 48, 64);
  LocalTensor<uint64_t> scales(TPosition::C1, 262144, 48);
  DataCopy(scales, Global<uint64_t>(z), 48);
  Sync<HardEvent::MTE2_FIX>();
  FixpipeParamsV220 out(48, 40, 48, 48, false);
  out.quantPre = QuantMode_t::VDEQF16;
  Fixpipe<half, int32_t, CFG_ROW_MAJOR>(Global<half>(y), c, scales, out);
  PipeBarrier<PIPE_ALL>();
}

// the halves of the columns as two matrices, one below the other
__global__ __cube__ void fixpipe_matrices(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  const auto c = Multiplied<half, float, false, false>(x, 32, 64, 64);
  FixpipeParamsV220 out(32, 32, 32, 40, false);
  out.ndNum = 2;
  out.srcNdStride = 4;  // fractals: two columns of two
  out.dstNdStride = 32 * 40;
  Fixpipe<float, float, CFG_ROW_MAJOR>(Global<float>(y), c, out);
  PipeBarrier<PIPE_ALL>();
}

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

}  // namespace

const std::vector<Case>& MustPassCube() {
  static const std::vector<Case> cases = {
      {"matmul half", matmul<half, float, half, false, false, 40, 48, 70>, Cube()},
      {"matmul half ta", matmul<half, float, float, true, false, 40, 48, 70>, Cube()},
      {"matmul half tb", matmul<half, float, float, false, true, 40, 48, 70>, Cube()},
      {"matmul half ta tb", matmul<half, float, half, true, true, 40, 48, 70>, Cube()},
      {"matmul bf16 tb", matmul<bfloat16_t, float, bfloat16_t, false, true, 40, 48, 70>, Cube()},
      {"matmul float", matmul<float, float, float, false, false, 40, 48, 70>, Cube()},
      {"matmul float ta tb", matmul<float, float, float, true, true, 40, 48, 70>, Cube()},
      {"matmul float ta", matmul<float, float, float, true, false, 40, 48, 68>, Cube()},
      {"matmul int8", matmul<int8_t, int32_t, int32_t, false, false, 40, 64, 70>, Cube()},
      {"matmul int8 tb", matmul<int8_t, int32_t, int32_t, false, true, 40, 64, 70>, Cube()},
      {"zero_tail", zero_tail, Cube()},
      {"no_terms", no_terms, Cube()},
      {"short_ways", short_ways, Cube()},
      {"biased", biased, Cube()},
      {"gemv", gemv, Cube()},
      {"fixpipe_nz", fixpipe_nz, Cube()},
      {"fixpipe_split", fixpipe_split, Cube()},
      {"fixpipe_int8", fixpipe_int8, Cube()},
      {"fixpipe_scales", fixpipe_scales, Cube()},
      {"fixpipe_matrices", fixpipe_matrices, Cube()},
      {"blocked", blocked, Cube(2)},
      {"split_k", split_k, Cube(2)},
      {"nz_weights", nz_weights, Cube()},
      {"ring", ring, Mix(Ring::kBlocks)},
      {"exchange", exchange, Mix(3)},
      {"relay", relay, Mix(2)},
      {"sync_all_mix", sync_all_mix, Mix(2)},
  };
  return cases;
}

}  // namespace moge_tests
