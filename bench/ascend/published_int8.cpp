// Products of int8 with a dequantising epilogue whose times are published, written from what their
// authors say of them: the tuning of a grouped product in the guide of Ascend C, and CATLASS's
// quantised products. Counting mode runs them, as those of published.cpp.
#include "published.h"

namespace py = pybind11;

namespace published {

namespace {

// Experts one after the other, y = f(x [M, K] x w [K, N] * channel scale * token scale), in tiles
// of 128 x 256. A cube core is the producer of tiles of int32, its vector cores are the consumers:
//
//   memory --MTE2--> L1: chunks of A and B, two buffers, the next one while this one is used
//          --MTE1--> L0: steps of 128 along K, two buffers
//          ---M----> L0C: one tile, without unit flags
//          --FIX---> a slot of the core's ring in memory
//          --AIV---> int32 to float, two products with scales, GELU or not, half, to memory
struct Int8Shape {
  uint32_t experts, M, N, K;
  uint32_t chunk;    // of K that is loaded at a time
  uint32_t slots;    // of the ring
  uint32_t vectors;  // beside a cube core
  uint32_t buffers;  // of the epilogue
  bool early;        // a tile waits for its slot before it loads, not before it stores
  bool gelu;
  bool blocked;  // B lies in memory as L1 wants it, and is read past L2
  bool keep_a;   // A of the tile's rows stays in L1 while they are the same
};

constexpr uint32_t kM = 128, kN = 256, kK = 128;
constexpr uint32_t kTile = kM * kN;
constexpr uint32_t kRows = 32;  // that the epilogue takes at a time
constexpr uint32_t kPart = kRows * kN;
constexpr uint16_t kFilled = 0, kFree = 1;  // flags between the cores

struct Tile {
  uint32_t expert, m, n;
};

// Tiles in strips of three columns, down one strip and up the next, are dealt out to the cores in
// turn; where A is kept, a core has tiles that follow each other in their row.
template <typename F>
void ForEachTile(const Int8Shape& shape, uint32_t core, F f) {
  constexpr uint32_t kStrip = 3;
  const uint32_t rows = (shape.M + kM - 1) / kM, columns = shape.N / kN;
  const uint32_t all = rows * columns;
  const auto cores = static_cast<uint32_t>(GetBlockNum());
  if (shape.keep_a && rows > 1) {
    for (uint32_t i = core * all / cores; i < (core + 1) * all / cores; ++i) {
      f(Tile{0, i / columns * kM, i % columns * kN});
    }
    return;
  }
  for (uint32_t i = core; i < shape.experts * all; i += cores) {
    const uint32_t strip = i % all / (kStrip * rows), inside = i % all % (kStrip * rows);
    const uint32_t width = std::min(kStrip, columns - strip * kStrip);
    const uint32_t row = inside / width, column = strip * kStrip + inside % width;
    f(Tile{i / all, (strip % 2 == 0 ? row : rows - 1 - row) * kM, column * kN});
  }
}

class Cube {
 public:
  Cube(uint8_t** memory, const Int8Shape& shape)
      : x_(Global<int8_t>(memory[0])), w_(Global<int8_t>(memory[1])), shape_(shape) {
    const auto core = static_cast<uint64_t>(GetBlockIdx());
    ring_ = Global<int32_t>(memory[3])[core * shape.slots * kTile];
    if (shape.blocked) w_.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE);
    const uint32_t depth = shape.keep_a ? shape.K : shape.chunk;
    const uint32_t a_bytes = kM * depth, b_bytes = kN * shape.chunk;
    const uint32_t a_buffers = shape.keep_a ? 1 : 2;
    for (uint32_t i : {0u, 1u}) {
      a1_[i] = LocalTensor<int8_t>(TPosition::A1, shape.keep_a ? 0 : i * a_bytes, a_bytes);
      b1_[i] = LocalTensor<int8_t>(TPosition::B1, a_buffers * a_bytes + i * b_bytes, b_bytes);
      a2_[i] = LocalTensor<int8_t>(TPosition::A2, i * kM * kK, kM * kK);
      b2_[i] = LocalTensor<int8_t>(TPosition::B2, i * kN * kK, kN * kK);
    }
    c1_ = LocalTensor<int32_t>(TPosition::CO1, 0, kTile);
  }

  void Process() {
    SetMMRowMajor();
    for (int32_t i : {0, 1}) SetFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i : {0, 1}) SetFlag<HardEvent::M_MTE1>(i);
    SetFlag<HardEvent::FIX_M>(0);
    std::vector<Tile> tiles;
    ForEachTile(shape_, static_cast<uint32_t>(GetBlockIdx()),
                [&](const Tile& tile) { tiles.push_back(tile); });
    const uint32_t chunks = shape_.K / shape_.chunk;
    const auto all = static_cast<uint32_t>(tiles.size()) * chunks;
    if (all != 0 && !shape_.early) Load(tiles, 0, chunks);
    for (uint32_t i = 0; i < all; ++i) {
      const bool first = i % chunks == 0, last = (i + 1) % chunks == 0;
      if (shape_.early && first) {
        WaitForSlot();
        Load(tiles, i, chunks);
      }
      if (i + 1 < all && !(shape_.early && last)) Load(tiles, i + 1, chunks);
      Multiply(i, first, last, i % chunks);
      if (last) Store();
    }
    for (uint32_t i = 0; i < std::min(filled_, shape_.slots); ++i) CrossCoreWaitFlag(kFree);
    for (int32_t i : {0, 1}) WaitFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i : {0, 1}) WaitFlag<HardEvent::M_MTE1>(i);
    WaitFlag<HardEvent::FIX_M>(0);
  }

 private:
  void Load(const std::vector<Tile>& tiles, uint32_t number, uint32_t chunks) {
    const Tile& tile = tiles[number / chunks];
    const uint32_t k = number % chunks * shape_.chunk, i = number % 2;
    const uint64_t row = uint64_t{tile.expert} * shape_.M + tile.m;
    WaitFlag<HardEvent::MTE1_MTE2>(i);
    if (!shape_.keep_a || number / chunks == 0 || tiles[number / chunks - 1].m != tile.m) {
      DataCopy(shape_.keep_a ? a1_[0][kM * k] : a1_[i], x_[row * shape_.K + k],
               Nd2NzParams(1, kM, shape_.chunk, 0, shape_.K, kM, 1, 0));
    }
    if (shape_.blocked) {  // columns of 32 bytes: of each, the rows of a chunk touch
      const uint64_t expert = uint64_t{tile.expert} * shape_.N * shape_.K;
      const uint16_t blocks = static_cast<uint16_t>(shape_.chunk);
      DataCopy(b1_[i], w_[expert + uint64_t{tile.n} * shape_.K + k * 32],
               DataCopyParams(kN / 32, blocks, static_cast<uint16_t>(shape_.K - blocks), 0));
    } else {
      DataCopy(b1_[i], w_[uint64_t{k} * shape_.N + tile.n],
               Nd2NzParams(1, shape_.chunk, kN, 0, shape_.N, shape_.chunk, 1, 0));
    }
    SetFlag<HardEvent::MTE2_MTE1>(i);
  }

  void Multiply(uint32_t number, bool first, bool last, uint32_t chunk) {
    const uint32_t i = number % 2;
    WaitFlag<HardEvent::MTE2_MTE1>(i);
    if (first) WaitFlag<HardEvent::FIX_M>(0);
    for (uint32_t k = 0; k < shape_.chunk; k += kK) {
      WaitFlag<HardEvent::M_MTE1>(l0_);
      const LocalTensor<int8_t> a =
          shape_.keep_a ? a1_[0][kM * (chunk * shape_.chunk + k)] : a1_[i][kM * k];
      // the real ones transpose B here, which moves as much
      for (uint32_t j = 0; j < kK / 32; ++j) {
        LoadData(a2_[l0_][j * 512], a,
                 LoadData2DParams(j * (kM / 16), kM / 16, 1, 0, kK / 32 - 1, false, 0));
        LoadData(b2_[l0_][j * kN * 32], b1_[i][kN * k],
                 LoadData2DParams(j * (kN / 16), kN / 16, 1, 0, 0, false, 0));
      }
      SetFlag<HardEvent::MTE1_M>(l0_);
      WaitFlag<HardEvent::MTE1_M>(l0_);
      Mmad(c1_, a2_[l0_], b2_[l0_], Product(kM, kN, kK, 0, first && k == 0));
      SetFlag<HardEvent::M_MTE1>(l0_);
      l0_ ^= 1;
    }
    SetFlag<HardEvent::MTE1_MTE2>(i);
    if (last) SetFlag<HardEvent::M_FIX>(0);
  }

  void WaitForSlot() {
    if (filled_ >= shape_.slots) CrossCoreWaitFlag(kFree);
  }

  void Store() {
    if (!shape_.early) WaitForSlot();
    WaitFlag<HardEvent::M_FIX>(0);
    Fixpipe<int32_t, int32_t, CFG_ROW_MAJOR>(ring_[uint64_t{filled_ % shape_.slots} * kTile], c1_,
                                             FixpipeParamsV220(kN, kM, kM, kN, false));
    SetFlag<HardEvent::FIX_M>(0);
    CrossCoreSetFlag<2, PIPE_FIX>(kFilled);
    ++filled_;
  }

  GlobalTensor<int8_t> x_, w_;
  GlobalTensor<int32_t> ring_;
  Int8Shape shape_;
  LocalTensor<int8_t> a1_[2], b1_[2], a2_[2], b2_[2];
  LocalTensor<int32_t> c1_;
  int32_t l0_ = 0;
  uint32_t filled_ = 0;
};

class Epilogue {
 public:
  Epilogue(uint8_t** memory, const Int8Shape& shape)
      : y_(Global<half>(memory[2])),
        channel_(Global<float>(memory[4])),
        token_(Global<float>(memory[5])),
        shape_(shape),
        core_(static_cast<uint32_t>(GetBlockIdx()) / shape.vectors),
        sub_(static_cast<uint32_t>(GetSubBlockIdx())) {
    ring_ = Global<int32_t>(memory[3])[uint64_t{core_} * shape.slots * kTile];
    uint32_t at = 0;
    const auto place = [&](auto& tensor, uint32_t count, uint32_t bytes) {
      tensor = {TPosition::VECCALC, at, count};
      at += count * bytes;
    };
    for (uint32_t i = 0; i < shape.buffers; ++i) {
      place(in_[i], kPart, 4);
      place(out_[i], kPart, 2);
    }
    place(scale_, kN, 4);
    place(tokens_, kM, 4);
    place(columns_, kM * 8, 4);
    place(floats_, kPart, 4);
    if (shape.gelu) place(tmp_, 24576, 1);
  }

  void Process() {
    for (uint32_t i = 0; i < shape_.buffers; ++i) {
      SetFlag<HardEvent::V_MTE2>(i);
      SetFlag<HardEvent::MTE3_V>(i);
    }
    SetFlag<HardEvent::V_MTE2>(kScales);
    ForEachTile(shape_, core_, [&](const Tile& tile) { Take(tile); });
    for (uint32_t i = 0; i < shape_.buffers; ++i) {
      WaitFlag<HardEvent::V_MTE2>(i);
      WaitFlag<HardEvent::MTE3_V>(i);
    }
    WaitFlag<HardEvent::V_MTE2>(kScales);
  }

 private:
  static constexpr int32_t kScales = 2;  // an event

  void Take(const Tile& tile) {
    const uint64_t row = uint64_t{tile.expert} * shape_.M + tile.m;
    WaitFlag<HardEvent::V_MTE2>(kScales);
    DataCopy(scale_, channel_[uint64_t{tile.expert} * shape_.N + tile.n], kN);
    DataCopy(tokens_, token_[row], kM);
    SetFlag<HardEvent::MTE2_V>(kScales);
    WaitFlag<HardEvent::MTE2_V>(kScales);
    Brcb(columns_, tokens_, kM / 8, BrcbRepeatParams(1, 8));
    CrossCoreWaitFlag(kFilled);
    for (uint32_t m = 0; m < kM; m += kRows) {
      if (m / kRows % shape_.vectors != sub_) continue;  // the vector cores take turns
      Dequantise(ring_[uint64_t{slot_} * kTile + uint64_t{m} * kN], m,
                 y_[(row + m) * shape_.N + tile.n]);
    }
    SetFlag<HardEvent::V_MTE2>(kScales);
    CrossCoreSetFlag<2, PIPE_MTE2>(kFree);
    slot_ = (slot_ + 1) % shape_.slots;
  }

  void Dequantise(const GlobalTensor<int32_t>& from, uint32_t m, const GlobalTensor<half>& to) {
    const int32_t i = static_cast<int32_t>(buffer_);
    WaitFlag<HardEvent::V_MTE2>(i);
    DataCopy(in_[i], from, kPart);
    SetFlag<HardEvent::MTE2_V>(i);
    WaitFlag<HardEvent::MTE2_V>(i);
    Cast(floats_, in_[i], RoundMode::CAST_RINT, kPart);
    SetFlag<HardEvent::V_MTE2>(i);
    constexpr uint8_t kPitch = kN / 8;  // blocks of a row of floats
    for (uint32_t n = 0; n < kN; n += 64) {
      Mul(floats_[n], floats_[n], scale_[n], 64, kRows,
          BinaryRepeatParams(1, 1, 1, kPitch, kPitch, 0));
    }
    for (uint32_t n = 0; n < kN; n += 64) {
      Mul(floats_[n], floats_[n], columns_[m * 8], 64, kRows,
          BinaryRepeatParams(1, 1, 0, kPitch, kPitch, 1));
    }
    if (shape_.gelu) Gelu(floats_, floats_, tmp_, kPart);
    WaitFlag<HardEvent::MTE3_V>(i);
    Cast(out_[i], floats_, RoundMode::CAST_RINT, kPart);
    SetFlag<HardEvent::V_MTE3>(i);
    WaitFlag<HardEvent::V_MTE3>(i);
    DataCopyPad(to, out_[i], DataCopyExtParams(kRows, kN * 2, 0, (shape_.N - kN) * 2, 0));
    SetFlag<HardEvent::MTE3_V>(i);
    buffer_ = (buffer_ + 1) % shape_.buffers;
  }

  GlobalTensor<half> y_;
  GlobalTensor<float> channel_, token_;
  GlobalTensor<int32_t> ring_;
  Int8Shape shape_;
  uint32_t core_, sub_, slot_ = 0, buffer_ = 0;
  LocalTensor<int32_t> in_[2];
  LocalTensor<half> out_[2];
  LocalTensor<float> scale_, tokens_, columns_, floats_;
  LocalTensor<uint8_t> tmp_;
};

void Int8Product(uint8_t** memory, const Int8Shape& shape) {
  InitSocState();
  if ASCEND_IS_AIC {
    Cube(memory, shape).Process();
  }
  if ASCEND_IS_AIV {
    Epilogue(memory, shape).Process();
  }
  PipeBarrier<PIPE_ALL>();
}

}  // namespace

void DefineInt8(py::module_& m) {
  m.def(
      "int8_product",
      [](uint32_t cores, uint32_t experts, uint32_t M, uint32_t N, uint32_t K, uint32_t chunk,
         uint32_t slots, uint32_t vectors, uint32_t buffers, bool early, bool gelu, bool blocked,
         bool keep_a) {
        const Int8Shape shape{experts, M,       N,     K,    chunk,   slots,
                              vectors, buffers, early, gelu, blocked, keep_a};
        const uint64_t rows = uint64_t{experts} * M, columns = uint64_t{experts} * N;
        const std::vector<uint64_t> bytes = {rows * K,     columns * K,
                                             rows * N * 2, uint64_t{cores} * slots * kTile * 4,
                                             columns * 4,  rows * 4};
        const emulator::KernelType type =
            vectors == 2 ? emulator::KernelType::kMix : emulator::KernelType::kMixPair;
        return Run(
            "int8_product", type, cores, bytes,
            [&](uint8_t** memory) { Int8Product(memory, shape); }, !blocked);
      },
      py::arg("cores"), py::arg("experts"), py::arg("M"), py::arg("N"), py::arg("K"),
      py::arg("chunk") = 512, py::arg("slots") = 2, py::arg("vectors") = 2, py::arg("buffers") = 2,
      py::arg("early") = false, py::arg("gelu") = false, py::arg("blocked") = false,
      py::arg("keep_a") = false);
}

}  // namespace published
