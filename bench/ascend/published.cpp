// Kernels whose times their authors published, written from what they say of them: the examples
// data_copy, add_high_performance and matmul_basic_api_high_performance of the Ascend C best
// practices, and the theoretical performance of Mmad. Counting mode runs them over addresses that
// hold no memory: only the time of the instructions and of their waits is of interest here.
#include "published.h"

namespace py = pybind11;

namespace published {

namespace {

// --- copies --------------------------------------------------------------------------------------

// Each core copies its part of a matrix of half, tile by tile, and uses nothing of it.
struct CopyShape {
  uint32_t M, N;
  uint32_t tile_m, tile_n;
  uint32_t slices, repeats;  // the columns are read in slices, each slice `repeats` times
  bool all;                  // every core reads all parts past L2, in the same order
  bool rotated;              // or each begins with its own part
};

template <typename Copy>
void CopyPart(const CopyShape& shape, uint32_t m0, uint32_t rows, Copy copy) {
  const uint32_t width = shape.N / shape.slices;
  for (uint32_t slice = 0; slice < shape.slices; ++slice) {
    const uint32_t end = slice + 1 == shape.slices ? shape.N : (slice + 1) * width;
    for (uint32_t repeat = 0; repeat < shape.repeats; ++repeat) {
      for (uint32_t m = m0; m < m0 + rows; m += shape.tile_m) {
        for (uint32_t n = slice * width; n < end; n += shape.tile_n) {
          copy(uint64_t{m} * shape.N + n, std::min(shape.tile_n, end - n));
        }
      }
    }
  }
}

template <typename Copy>
void CopyParts(const CopyShape& shape, Copy copy) {
  const auto cores = static_cast<uint32_t>(GetBlockNum());
  const auto core = static_cast<uint32_t>(GetBlockIdx());
  const uint32_t rows = shape.M / cores;
  if (!shape.all) return CopyPart(shape, core * rows, rows, copy);
  for (uint32_t i = 0; i < cores; ++i) {
    CopyPart(shape, (shape.rotated ? (i + core) % cores : i) * rows, rows, copy);
  }
}

void CopyToUb(void* x, const CopyShape& shape) {
  InitSocState();
  GlobalTensor<half> source = Global<half>(x);
  if (shape.all) source.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE);
  const LocalTensor<half> tile(TPosition::VECCALC, 0, shape.tile_m * shape.tile_n);
  CopyParts(shape, [&](uint64_t offset, uint32_t columns) {
    DataCopyPad(tile, source[offset],
                DataCopyExtParams(shape.tile_m, columns * 2, (shape.N - columns) * 2, 0, 0),
                DataCopyPadExtParams<half>());
  });
  PipeBarrier<PIPE_ALL>();
}

void CopyToL1(void* x, const CopyShape& shape) {
  InitSocState();
  GlobalTensor<half> source = Global<half>(x);
  if (shape.all) source.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE);
  const LocalTensor<half> tile(TPosition::A1, 0, shape.tile_m * shape.tile_n);
  CopyParts(shape, [&](uint64_t offset, uint32_t columns) {
    DataCopy(tile, source[offset],
             Nd2NzParams(1, shape.tile_m, columns, 0, shape.N, shape.tile_m, 1, 0));
  });
  PipeBarrier<PIPE_ALL>();
}

// --- add -----------------------------------------------------------------------------------------

struct AddShape {
  uint32_t rows, columns;
  uint32_t length;   // elements that one copy moves
  uint32_t buffers;  // 2: the next tile is read while this one is added
  bool bypass;       // reads go past L2
};

void AddTiles(void* x, void* y, void* z, const AddShape& shape) {
  InitSocState();
  GlobalTensor<half> from[] = {Global<half>(x), Global<half>(y)};
  const GlobalTensor<half> to = Global<half>(z);
  if (shape.bypass) {
    for (GlobalTensor<half>& each : from) each.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE);
  }
  const auto cores = static_cast<uint64_t>(GetBlockNum());
  const auto core = static_cast<uint64_t>(GetBlockIdx());
  const uint64_t begin = shape.rows * core / cores * shape.columns;
  const uint64_t end = shape.rows * (core + 1) / cores * shape.columns;
  // the second operand follows the first: where that is 16384 elements, they share their banks
  constexpr uint32_t kRoom = 16384 * 2;
  const auto local = [&](uint32_t buffer, uint32_t which) {
    const uint32_t at = which == 2 ? 4 * kRoom + buffer * shape.length * 2
                                   : 2 * kRoom * buffer + which * shape.length * 2;
    return LocalTensor<half>(TPosition::VECCALC, at, shape.length);
  };
  for (uint32_t buffer = 0; buffer < shape.buffers; ++buffer) {
    SetFlag<HardEvent::V_MTE2>(buffer);
    SetFlag<HardEvent::MTE3_V>(buffer);
  }
  uint32_t buffer = 0;
  for (uint64_t at = begin; at < end; at += shape.length) {
    const auto length = static_cast<uint32_t>(std::min<uint64_t>(shape.length, end - at));
    WaitFlag<HardEvent::V_MTE2>(buffer);
    for (uint32_t i : {0u, 1u}) DataCopy(local(buffer, i), from[i][at], length);
    SetFlag<HardEvent::MTE2_V>(buffer);
    WaitFlag<HardEvent::MTE2_V>(buffer);
    WaitFlag<HardEvent::MTE3_V>(buffer);
    Add(local(buffer, 2), local(buffer, 0), local(buffer, 1), static_cast<int32_t>(length));
    SetFlag<HardEvent::V_MTE2>(buffer);
    SetFlag<HardEvent::V_MTE3>(buffer);
    WaitFlag<HardEvent::V_MTE3>(buffer);
    DataCopy(to[at], local(buffer, 2), length);
    SetFlag<HardEvent::MTE3_V>(buffer);
    buffer = (buffer + 1) % shape.buffers;
  }
  for (uint32_t i = 0; i < shape.buffers; ++i) {
    WaitFlag<HardEvent::V_MTE2>(i);
    WaitFlag<HardEvent::MTE3_V>(i);
  }
  PipeBarrier<PIPE_ALL>();
}

// The same without vectors: two reads and a write of UB for each element.
void AddScalars(uint32_t count) {
  InitSocState();
  const LocalTensor<half> tile(TPosition::VECCALC, 0, count);
  Duplicate(tile, half(1.0f), static_cast<int32_t>(count));
  for (uint32_t i = 0; i < count; ++i) {
    const float sum = static_cast<float>(tile.GetValue(i)) + static_cast<float>(tile.GetValue(i));
    tile.SetValue(i, half(sum));
  }
  PipeBarrier<PIPE_ALL>();
}

// Where the operands of an Add of floats lie in UB, and how it walks the first.
struct BankShape {
  uint32_t src0, src1, dst;
  uint8_t block_stride, repeat_stride;
};

void AddBanks(const BankShape& shape, uint32_t times) {
  InitSocState();
  const auto tensor = [](uint32_t at) { return LocalTensor<float>(TPosition::VECCALC, at, 4096); };
  for (uint32_t i = 0; i < times; ++i) {
    Add(tensor(shape.dst), tensor(shape.src0), tensor(shape.src1), 64, 64,
        BinaryRepeatParams(1, shape.block_stride, 1, 8, shape.repeat_stride, 8));
  }
  PipeBarrier<PIPE_ALL>();
}

// --- matmul --------------------------------------------------------------------------------------

// c [M, N] = a [M, K] x b [N, K], in tiles of 128 x 256 and steps of 64 along K:
//
//   memory --MTE2--> L1: steps_a steps of A and steps_b of B at a time, two buffers of each
//          --MTE1--> L0: one step of both, two buffers of each
//          ---M----> L0C: one tile, which FIX writes to memory
//
// Of the 4 x 6 cores the last four have a third of the others' columns.
struct MatmulShape {
  uint32_t M, N, K;
  uint32_t core_m, core_n;  // rows and columns that a core makes in one round
  uint32_t rounds;          // 2: half of A's rows at a time
  uint32_t steps_a, steps_b;
};

class Matmul {
 public:
  Matmul(void* a, void* b, void* c, const MatmulShape& shape)
      : a_(Global<half>(a)), b_(Global<half>(b)), c_(Global<half>(c)), shape_(shape) {
    for (uint32_t i : {0u, 1u}) {
      a1_[i] = LocalTensor<half>(TPosition::A1, i * 131072, 65536);
      b1_[i] = LocalTensor<half>(TPosition::B1, 262144 + i * 131072, 65536);
      a2_[i] = LocalTensor<half>(TPosition::A2, i * 32768, 8192);
      b2_[i] = LocalTensor<half>(TPosition::B2, i * 32768, 16384);
    }
    c1_ = LocalTensor<float>(TPosition::CO1, 0, kM * kN);
  }

  void Process() {
    SetMMRowMajor();
    for (int32_t i : {0, 1, 2, 3}) SetFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i : {0, 1}) SetFlag<HardEvent::M_MTE1>(i);
    const uint32_t m_parts = shape_.M / shape_.core_m / shape_.rounds;
    const auto core = static_cast<uint32_t>(GetBlockIdx());
    for (uint32_t round = 0; round < shape_.rounds; ++round) {
      const uint32_t m0 = (core % m_parts + round * m_parts) * shape_.core_m;
      const uint32_t n0 = core / m_parts * shape_.core_n;
      const uint32_t n_end = std::min(n0 + shape_.core_n, shape_.N);
      for (uint32_t m = m0; m < m0 + shape_.core_m; m += kM) {
        for (uint32_t n = n0; n < n_end; n += kN) Tile(m, n);
      }
    }
    for (int32_t i : {0, 1, 2, 3}) WaitFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i : {0, 1}) WaitFlag<HardEvent::M_MTE1>(i);
  }

 private:
  static constexpr uint32_t kM = 128, kN = 256, kK = 64;

  void CopyA(uint32_t m, uint32_t step) {
    if (step * kK >= shape_.K) return;
    const uint32_t i = step / shape_.steps_a % 2;
    WaitFlag<HardEvent::MTE1_MTE2>(i);
    DataCopy(a1_[i], a_[uint64_t{m} * shape_.K + step * kK],
             Nd2NzParams(1, kM, shape_.steps_a * kK, 0, shape_.K, kM, 1, 0));
    SetFlag<HardEvent::MTE2_MTE1>(i);
  }
  void CopyB(uint32_t n, uint32_t step) {
    if (step * kK >= shape_.K) return;
    const uint32_t i = step / shape_.steps_b % 2;
    WaitFlag<HardEvent::MTE1_MTE2>(i + 2);
    DataCopy(b1_[i], b_[uint64_t{n} * shape_.K + step * kK],
             Nd2NzParams(1, kN, shape_.steps_b * kK, 0, shape_.K, kN, 1, 0));
    SetFlag<HardEvent::MTE2_MTE1>(i + 2);
  }

  void Tile(uint32_t m, uint32_t n) {
    CopyB(n, 0);
    CopyA(m, 0);
    CopyB(n, shape_.steps_b);
    CopyA(m, shape_.steps_a);
    const uint32_t steps = shape_.K / kK;
    for (uint32_t step = 0; step < steps; ++step) {
      const uint32_t a = step / shape_.steps_a % 2, b = step / shape_.steps_b % 2;
      WaitFlag<HardEvent::M_MTE1>(l0_);
      if (step % shape_.steps_a == 0) WaitFlag<HardEvent::MTE2_MTE1>(a);
      if (step % shape_.steps_b == 0) WaitFlag<HardEvent::MTE2_MTE1>(b + 2);
      for (uint32_t i = 0; i < kK / 16; ++i) {
        LoadData(a2_[l0_][i * 256], a1_[a],
                 LoadData2DParams((step % shape_.steps_a * 4 + i) * (kM / 16), kM / 16, 1, 0,
                                  kK / 16 - 1, false, 0));
        LoadData(b2_[l0_][i * kN * 16], b1_[b],
                 LoadData2DParams((step % shape_.steps_b * 4 + i) * (kN / 16), kN / 16, 1, 0, 0,
                                  false, 0));
      }
      if ((step + 1) % shape_.steps_a == 0) SetFlag<HardEvent::MTE1_MTE2>(a);
      if ((step + 1) % shape_.steps_b == 0) SetFlag<HardEvent::MTE1_MTE2>(b + 2);
      SetFlag<HardEvent::MTE1_M>(l0_);
      WaitFlag<HardEvent::MTE1_M>(l0_);
      Mmad(c1_, a2_[l0_], b2_[l0_], Product(kM, kN, kK, step + 1 == steps ? 3 : 2, step == 0));
      SetFlag<HardEvent::M_MTE1>(l0_);
      l0_ ^= 1;
      if ((step + 1) % shape_.steps_b == 0) CopyB(n, step + 1 + shape_.steps_b);
      if ((step + 1) % shape_.steps_a == 0) CopyA(m, step + 1 + shape_.steps_a);
    }
    FixpipeParamsV220 params(kN, kM, kM, shape_.N, false);
    params.quantPre = QuantMode_t::F322F16;
    params.unitFlag = 3;
    Fixpipe<half, float, CFG_ROW_MAJOR>(c_[uint64_t{m} * shape_.N + n], c1_, params);
  }

  GlobalTensor<half> a_, b_, c_;
  MatmulShape shape_;
  LocalTensor<half> a1_[2], b1_[2], a2_[2], b2_[2];
  LocalTensor<float> c1_;
  int32_t l0_ = 0;
};

void MatmulTiles(void* a, void* b, void* c, const MatmulShape& shape) {
  InitSocState();
  Matmul(a, b, c, shape).Process();
  PipeBarrier<PIPE_ALL>();
}

// 128 x 256 x 512 as eight Mmads.
void MmadOnly() {
  InitSocState();
  const LocalTensor<half> a(TPosition::A2, 0, 128 * 64);
  const LocalTensor<half> b(TPosition::B2, 0, 256 * 64);
  const LocalTensor<float> c(TPosition::CO1, 0, 128 * 256);
  for (int step = 0; step < 8; ++step) {
    Mmad(c, a, b, Product(128, 256, 64, 0, step == 0));
  }
  PipeBarrier<PIPE_ALL>();
}

// --- launches ------------------------------------------------------------------------------------

}  // namespace

}  // namespace published

using namespace published;

PYBIND11_MODULE(moge_published, m) {
  DefineInt8(m);
  m.def(
      "copy",
      [](bool to_l1, uint32_t M, uint32_t N, uint32_t tile_m, uint32_t tile_n, uint32_t slices,
         uint32_t repeats, bool all, bool rotated) {
        const CopyShape shape{M, N, tile_m, tile_n, slices, repeats, all, rotated};
        return Run("copy", to_l1 ? emulator::KernelType::kCube : emulator::KernelType::kVector,
                   to_l1 ? 24 : 48, {uint64_t{M} * N * 2}, [&](uint8_t** memory) {
                     to_l1 ? CopyToL1(memory[0], shape) : CopyToUb(memory[0], shape);
                   });
      },
      py::arg("to_l1"), py::arg("M"), py::arg("N"), py::arg("tile_m"), py::arg("tile_n"),
      py::arg("slices") = 1, py::arg("repeats") = 1, py::arg("all") = false,
      py::arg("rotated") = false);
  m.def("add", [](uint32_t blocks, uint32_t length, uint32_t buffers, bool bypass) {
    const AddShape shape{8192, 8192, length, buffers, bypass};
    const uint64_t bytes = uint64_t{8192} * 8192 * 2;
    return Run("add", emulator::KernelType::kVector, blocks, {bytes, bytes, bytes},
               [&](uint8_t** memory) { AddTiles(memory[0], memory[1], memory[2], shape); });
  });
  m.def("add_scalars", [](uint32_t count) {
    return Run("add_scalars", emulator::KernelType::kVector, 1, {},
               [&](uint8_t**) { AddScalars(count); });
  });
  m.def("add_banks", [](uint32_t src0, uint32_t src1, uint32_t dst, uint8_t block_stride,
                        uint8_t repeat_stride, uint32_t times) {
    const BankShape shape{src0, src1, dst, block_stride, repeat_stride};
    return Run("add_banks", emulator::KernelType::kVector, 1, {},
               [&](uint8_t**) { AddBanks(shape, times); });
  });
  m.def("matmul", [](uint32_t rounds, uint32_t steps_a, uint32_t steps_b) {
    const MatmulShape shape{8192, 8192, 8192, 2048 / rounds, 1536, rounds, steps_a, steps_b};
    const uint64_t bytes = uint64_t{8192} * 8192 * 2;
    return Run("matmul", emulator::KernelType::kCube, 24, {bytes, bytes, bytes},
               [&](uint8_t** memory) { MatmulTiles(memory[0], memory[1], memory[2], shape); });
  });
  m.def("mmad", [] {
    return Run("mmad", emulator::KernelType::kCube, 1, {}, [](uint8_t**) { MmadOnly(); });
  });
}
