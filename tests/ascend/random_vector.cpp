// Kernels of a vector core whose parameters are all numbers of z, for the random tests of
// tests/emulator: each does one thing as the numbers say, and writes what it left to y.
#include "numbers.h"

namespace moge_tests {

namespace {

// --- copies --------------------------------------------------------------------------------------

constexpr uint32_t kUbUsed = 32768;

struct Cleared {
  Cleared() {
    InitSocState();
    Duplicate(LocalTensor<int32_t>(TPosition::VECIN, 0, kUbUsed / 4), 0, kUbUsed / 4);
    PipeBarrier<PIPE_ALL>();
  }
  template <typename T>
  LocalTensor<T> At(uint32_t byte) const {
    return LocalTensor<T>(TPosition::VECIN, byte, (kUbUsed - byte) / sizeof(T));
  }
};

// numbers: where in x, rows, bytes, gaps, padding: given, before, after; whether SetPadValue is
// called, values of both, how many bytes are written to y.
template <typename T>
void PadInKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const Cleared ub;
  Numbers numbers(z);
  const uint32_t from = numbers.Next(), rows = numbers.Next(), bytes = numbers.Next();
  const uint32_t src_gap = numbers.Next(), dst_gap = numbers.Next();
  const bool is_pad = numbers.Next() != 0;
  const uint32_t left = numbers.Next(), right = numbers.Next();
  const bool is_set = numbers.Next() != 0;
  const T set = static_cast<T>(static_cast<float>(numbers.Next()));
  const T value = static_cast<T>(static_cast<float>(numbers.Next()));
  if (is_set) SetPadValue(set);
  const auto out = ub.At<T>(0);
  DataCopyPad(out, Global<T>(x + from), DataCopyExtParams(rows, bytes, src_gap, dst_gap, 0),
              DataCopyPadExtParams<T>(is_pad, left, right, value));
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<uint8_t>(y), ub.At<uint8_t>(0), numbers.Next());
  PipeBarrier<PIPE_ALL>();
}

// numbers: where in y, rows, bytes, gaps
template <typename T>
void PadOutKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const Cleared ub;
  Numbers numbers(z);
  DataCopy(ub.At<uint8_t>(0), Global<uint8_t>(x), kUbUsed);
  PipeBarrier<PIPE_ALL>();
  const uint32_t to = numbers.Next(), rows = numbers.Next(), bytes = numbers.Next();
  const uint32_t src_gap = numbers.Next(), dst_gap = numbers.Next();
  DataCopyPad(Global<T>(y + to), ub.At<T>(0), DataCopyExtParams(rows, bytes, src_gap, dst_gap, 0));
  PipeBarrier<PIPE_ALL>();
}

// numbers: the eight parameters
template <typename T>
void ToColumnsKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const Cleared ub;
  Numbers numbers(z);
  uint32_t p[8];
  for (uint32_t& number : p) number = numbers.Next();
  DataCopy(ub.At<T>(0), Global<T>(x), Nd2NzParams(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]));
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<uint8_t>(y), ub.At<uint8_t>(0), kUbUsed);
  PipeBarrier<PIPE_ALL>();
}

// numbers: the seven parameters
template <typename T>
void ToRowsKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const Cleared ub;
  Numbers numbers(z);
  uint32_t p[7];
  for (uint32_t& number : p) number = numbers.Next();
  DataCopy(ub.At<uint8_t>(0), Global<uint8_t>(x), kUbUsed);
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<T>(y), ub.At<T>(0), Nz2NdParamsFull(p[0], p[1], p[2], p[3], p[4], p[5], p[6]));
  PipeBarrier<PIPE_ALL>();
}

// numbers: dimensions, whether out of UB, five numbers for each dimension of the destination, then
// of the source
template <typename T>
void SliceKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const Cleared ub;
  Numbers numbers(z);
  const uint32_t dimensions = numbers.Next();
  const bool out = numbers.Next() != 0;
  SliceInfo slices[2][4];
  for (auto& side : slices) {
    for (uint32_t i = 0; i < dimensions; ++i) {
      uint32_t p[5];
      for (uint32_t& number : p) number = numbers.Next();
      side[i] = SliceInfo(p[0], p[1], p[2], p[3], p[4]);
    }
  }
  if (out) {
    DataCopy(ub.At<uint8_t>(0), Global<uint8_t>(x), kUbUsed);
    PipeBarrier<PIPE_ALL>();
    DataCopy(Global<T>(y), ub.At<T>(0), slices[0], slices[1], dimensions);
  } else {
    DataCopy(ub.At<T>(0), Global<T>(x), slices[0], slices[1], dimensions);
    PipeBarrier<PIPE_ALL>();
    DataCopy(Global<uint8_t>(y), ub.At<uint8_t>(0), kUbUsed);
  }
  PipeBarrier<PIPE_ALL>();
}

// numbers: whether in counter mode, mask, repeats, strides. x goes to the first half of what is
// used, of which a part is copied to the second.
template <typename T>
void CopyKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  const Cleared ub;
  Numbers numbers(z);
  DataCopy(ub.At<uint8_t>(0), Global<uint8_t>(x), kUbUsed / 2);
  PipeBarrier<PIPE_ALL>();
  const bool counted = numbers.Next() != 0;
  const uint64_t mask = numbers.Next();
  const auto repeats = static_cast<uint8_t>(numbers.Next());
  const uint32_t dst_block = numbers.Next(), src_block = numbers.Next();
  const uint32_t dst_repeat = numbers.Next(), src_repeat = numbers.Next();
  const CopyRepeatParams strides(dst_block, src_block, dst_repeat, src_repeat);
  if (counted) {
    SetMaskCount();
    SetVectorMask<T, MaskMode::COUNTER>(0, mask);
    Copy<T, false>(ub.At<T>(kUbUsed / 2), ub.At<T>(0), MASK_PLACEHOLDER, repeats, strides);
    SetMaskNorm();
    ResetMask();
  } else {
    Copy(ub.At<T>(kUbUsed / 2), ub.At<T>(0), mask, repeats, strides);
  }
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<uint8_t>(y), ub.At<uint8_t>(0), kUbUsed);
  PipeBarrier<PIPE_ALL>();
}

// numbers: lengths of four lists, which lie one after the other in x, those that are used, whether
// the end of one stops it, repeats. y: 16 KiB of the list, then how many of each were taken.
template <typename T>
void MergeKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  TPipe pipe;
  TBuf<TPosition::VECCALC> buffer;
  pipe.InitBuffer(buffer, 2 * kUbUsed);
  const auto at = [&](uint32_t byte) { return buffer.Get<uint8_t>()[byte].ReinterpretCast<T>(); };
  Numbers numbers(z);
  DataCopy(at(0), Global<T>(x), kUbUsed / sizeof(T));
  Duplicate(at(kUbUsed), static_cast<T>(0), kUbUsed / sizeof(T));
  PipeBarrier<PIPE_ALL>();
  uint16_t lengths[4];
  uint32_t starts[4], end = 0;
  for (int i = 0; i < 4; ++i) {
    lengths[i] = static_cast<uint16_t>(numbers.Next());
    starts[i] = end;
    end += lengths[i] * 8;
  }
  const auto valid = static_cast<uint16_t>(numbers.Next());
  const bool suspends = numbers.Next() != 0;
  const MrgSortSrcList<T> lists(at(starts[0]), at(starts[1]), at(starts[2]), at(starts[3]));
  MrgSort(at(kUbUsed), lists, MrgSort4Info(lengths, suspends, valid, numbers.Next()));
  PipeBarrier<PIPE_ALL>();
  auto counts = buffer.Get<uint16_t>()[kUbUsed - 16];  // the last 32 bytes
  if (suspends) {
    uint16_t taken[4];
    GetMrgSortResult(taken[0], taken[1], taken[2], taken[3]);
    for (int i = 0; i < 4; ++i) counts.SetValue(i, taken[i]);
    PipeBarrier<PIPE_ALL>();
  }
  // scores, then indices: the middle of a pair of halves is undefined
  uint64_t count = 0;
  GatherMask(at(0), at(kUbUsed), sizeof(T) == 2 ? 3 : 1, false, 0, {1, 64, 8, 0}, count);
  const auto index = buffer.Get<int32_t>();
  GatherMask(index[2048], index[kUbUsed / 4], 2, false, 0, {1, 64, 8, 0}, count);
  PipeBarrier<PIPE_ALL>();
  DataCopy(Global<uint8_t>(y), buffer.Get<uint8_t>(), 16384);
  DataCopy(Global<uint8_t>(y)[16384], buffer.Get<uint8_t>()[2 * kUbUsed - 32], 32);
}

// --- cores that wait for each other --------------------------------------------------------------

constexpr uint32_t kRow = 64;          // floats
constexpr uint32_t kFlagsAt = 16384;   // bytes of z: a cache line for each row
constexpr uint32_t kEventsAt = 24576;  // the workspace of IBSet
constexpr uint32_t kRowsAt = 32768;

// numbers: how they wait: 0 all together by a flag, 1 IBSet, 2 polls; the rounds; which wait is
// left out, from 1 up; then for each round and block the two rows of the round before whose sum is
// its row. Round 0 takes rows of x.
void RowsOfOthersKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  InitSocState();
  const auto block = static_cast<uint32_t>(GetBlockIdx());
  const auto blocks = static_cast<uint32_t>(GetBlockNum());
  const LocalTensor<float> tiles(TPosition::VECCALC, 0, 2 * kRow);
  const LocalTensor<int32_t> work(TPosition::VECCALC, 4096, 1024);
  const GlobalTensor<float> rows = Global<float>(z + kRowsAt);
  const GlobalTensor<int32_t> events = Global<int32_t>(z + kEventsAt, 2048);
  const auto flag = [&](uint32_t row) {
    return reinterpret_cast<__gm__ int32_t*>(z + kFlagsAt + row * 64);
  };
  Numbers numbers(z);
  const uint32_t kind = numbers.Next(), rounds = numbers.Next(), left_out = numbers.Next();
  uint32_t sources[4][8][2];
  for (uint32_t round = 0; round < rounds; ++round) {
    for (uint32_t i = 0; i < blocks; ++i) {
      for (uint32_t& source : sources[round][i]) source = numbers.Next();
    }
  }
  for (uint32_t round = 0; round < rounds; ++round) {
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t wait = (round * blocks + block) * 2 + i;
      const uint32_t source = sources[round][block][i];
      if (round != 0 && wait + 1 != left_out) {
        if (kind == 0 && i == 0) CrossCoreWaitFlag(1);
        if (kind == 1) IBWait(events, work, source, wait);
        while (kind == 2 && ReadGmByPassDCache(flag((round - 1) * blocks + source)) != 1) {
        }
      }
      PipeBarrier<PIPE_ALL>();
      const auto from = round == 0 ? Global<float>(x)[source * kRow]
                                   : rows[((round - 1) * blocks + source) * kRow];
      DataCopy(tiles[i * kRow], from, kRow);
    }
    PipeBarrier<PIPE_ALL>();
    Add(tiles, tiles, tiles[kRow], kRow);
    PipeBarrier<PIPE_ALL>();
    DataCopy(rows[(round * blocks + block) * kRow], tiles, kRow);
    PipeBarrier<PIPE_ALL>();
    if (round + 1 == rounds) break;
    if (kind == 0) CrossCoreSetFlag<0, PIPE_MTE3>(1);
    for (uint32_t i = 0; kind == 1 && i < 2 * blocks; ++i) {
      const uint32_t wait = (round + 1) * blocks * 2 + i;
      const bool needed = sources[round + 1][i / 2][i % 2] == block;
      if (needed && wait + 1 != left_out) IBSet(events, work, block, wait);
    }
    if (kind == 2) WriteGmByPassDCache(flag(round * blocks + block), 1);
  }
  DataCopy(Global<float>(y)[block * kRow], tiles, kRow);
  PipeBarrier<PIPE_ALL>();
}

}  // namespace

const std::vector<Case>& RandomVectors() {
  static const std::vector<Case> cases = {
      {"pad in int8", PadInKernel<int8_t>, {}},
      {"pad in half", PadInKernel<half>, {}},
      {"pad in float", PadInKernel<float>, {}},
      {"pad out int8", PadOutKernel<int8_t>, {}},
      {"pad out half", PadOutKernel<half>, {}},
      {"pad out float", PadOutKernel<float>, {}},
      {"to columns int8", ToColumnsKernel<int8_t>, {}},
      {"to columns half", ToColumnsKernel<half>, {}},
      {"to columns float", ToColumnsKernel<float>, {}},
      {"to rows half", ToRowsKernel<half>, {}},
      {"to rows float", ToRowsKernel<float>, {}},
      {"slice int8", SliceKernel<int8_t>, {}},
      {"slice half", SliceKernel<half>, {}},
      {"slice float", SliceKernel<float>, {}},
      {"copy half", CopyKernel<half>, {}},
      {"copy float", CopyKernel<float>, {}},
      {"rows of others", RowsOfOthersKernel, Launch(KernelType::kMixVector, 4)},
      {"merge half", MergeKernel<half>, {}},
      {"merge float", MergeKernel<float>, {}},
  };
  return cases;
}

}  // namespace moge_tests
