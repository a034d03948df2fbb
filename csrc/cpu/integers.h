// int8_w8a8: rows of tokens as integers, each with a scale, and sums of integers as numbers.
#pragma once
#include "decode.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

constexpr int32_t kOffset = kQuads ? 128 : 0;  // added to integers of panels

// To the nearest integer, of a tie the even one.
inline I Nearest(V x) {
#ifdef __AVX512F__
  return (I)_mm512_cvtps_epi32((__m512)x);
#else
  I rounded;
  for (int i = 0; i < kLanes; i += 8) {
    __m256 part;
    memcpy(&part, reinterpret_cast<const float*>(&x) + i, sizeof(part));
    const __m256i found = _mm256_cvtps_epi32(part);
    memcpy(reinterpret_cast<int32_t*>(&rounded) + i, &found, sizeof(found));
  }
  return rounded;
#endif
}

// Sizes of numbers as integers: their order is the same, and NaN is the largest.
inline I SizeBits(V x) { return Bits(x) & 0x7fffffff; }
inline I Larger(I a, I b) { return a > b ? a : b; }

// What makes integers of numbers of which the largest has size m, and back: see
// moge_ops._quantized.quantize_rows.
struct Factors {
  V to, back;
  explicit Factors(I size) {
    const V m = Bits(size), none{};
    const auto finite = size < 0x7f800000, large = m >= 0x1p-100f;
    to = finite & large ? 127.0f / m : none;
    back = large ? m / 127.0f : none;
    back = finite ? back : Bits(I{} + 0x7fc00000);
  }
};

// Column j of b: K numbers, read by load(k), as integers and `offset` more.
template <typename LoadAt>
inline void QuantizeRow(LoadAt load, const PackedB<Int8>& b, int64_t j, int32_t offset,
                        Packed<Int8>* to) {
  const int64_t K = b.K;
  I size{};
  for (int64_t k = 0; k < K; k += kLanes) size = Larger(size, SizeBits(load(k)));
  int32_t most = 0;
  for (int i = 0; i < kLanes; i++) most = size[i] > most ? size[i] : most;
  const Factors factors(Splat(most));
  I sum{};
  for (int64_t k = 0; k < K; k += kLanes) {
    I q = Nearest(load(k) * factors.to);
    sum += q;
    q += offset;
#ifdef __AVX512F__
    if (kQuads) {
      _mm_storeu_si128((__m128i*)(to + k), _mm512_cvtepi32_epi8((__m512i)q));
      continue;
    }
#endif
    for (int i = 0; i < kLanes; i++) to[k + i] = {decltype(to->value)(q[i])};
  }
  const int64_t written = RoundUp(K, kLanes);
  memset(to + written, 0, (Depth(K) - written) * sizeof(*to));
  b.scales[j] = factors.back[0];
  int32_t total = 0;
  for (int i = 0; i < kLanes; i++) total += sum[i];
  b.excess[j] = kOffset * total;
}

// Columns of b are rows of memory of any type: column j is row(j). One panel has room in `room`.
template <typename Row>
inline void PackIntegers(const PackedB<Int8>& b, Packed<Int8>* room, Row row) {
  const int64_t depth = Depth(b.K);
  PackColumns(b, [&](int64_t j) {
    const auto* source = row(j);
    Packed<Int8>* to = room + j % kPanel * depth;
    QuantizeRow([&](int64_t k) { return Load(source + k, b.K - k); }, b, j, b.lines ? 0 : kOffset,
                to);
    return const_cast<const Packed<Int8>*>(to);
  });
}

// The same for columns that are there in float32, in b's own form, and are to be rounded to T.
template <typename T>
inline void PackIntegers(const PackedB<Int8>& b, const PackedB<float>& from) {
  if (b.lines) {
    for (int64_t j = 0; j < b.columns; j++)
      QuantizeRow([&](int64_t k) { return RoundTo<T>(Load(from.Line(j) + k, b.K - k)); }, b, j, 0,
                  b.Line(j));
    return;
  }
  constexpr int kBits = 8 * sizeof(Packed<Int8>);
  for (int64_t j = 0; j < b.Vectors() * kLanes; j += kLanes) {
    const float* source = from.Panel(j / kPanel) + j % kPanel;
    auto load = [&](int64_t k) { return k < b.K ? RoundTo<T>(Load(source + k * kPanel)) : V{}; };
    I size{};
    for (int64_t k = 0; k < b.K; k++) size = Larger(size, SizeBits(load(k)));
    const Factors factors(size);
    Store(b.scales + j, factors.back);
    for (int64_t k = 0; k < b.K; k += kWord<Int8>) {
      I word{};
      for (int i = 0; i < kWord<Int8>; i++)
        word |= ((Nearest(load(k + i) * factors.to) + kOffset) & ((1 << kBits) - 1)) << (i * kBits);
      StoreBits(b.Panel(j / kPanel) + k * kPanel + j % kPanel * kWord<Int8>, word);
    }
  }
}

// The sum of the numbers in a row of a, times what is added to those of b.
inline int32_t Excess(const Int8* row, int64_t K) {
  using S = Step<Int8, Int8>;
  constexpr int kVector = 4 * kLanes;
  const I offset = Splat(int32_t(0x80808080));
  I sum{};
  for (int64_t k = 0; k < K; k += kVector)
    sum = S::Add(sum, S::Along(row + k, Least(K - k, kVector)), offset);
  int32_t total = 0;
  for (int i = 0; i < kLanes; i++) total += sum[i];
  return total;
}

// From the sums of one group, integers, the numbers that they stand for.
inline void Finish(const Rows<Int8>& a, const PackedB<Int8>& b, float* c) {
  alignas(64) float channels[kGroup] = {};
  alignas(64) int32_t excess[kGroup] = {};
  const Coding& q = *a.coding;
  if (q.scale_dtype == DType::kFloat32 && q.scale_rows == 1)
    memcpy(channels, static_cast<const float*>(q.scale) + a.row, a.count * sizeof(float));
  else
    for (int r = 0; r < a.count; r++) channels[r] = ScaleOf(q, ScalesOf(q, a.row + r));
  for (int r = 0; r < a.count; r++) {
    if (kQuads && !b.lines) excess[r] = Excess(a.data + r * a.stride, b.K);
  }
  auto number = [](const float* sum, I excess) {
    return __builtin_convertvector(LoadBits(sum) - excess, V);
  };
  if (b.lines) {
    for (int r = 0; r < kGroup; r += kLanes) {
      const V channel = Load(channels + r);
      for (int64_t j = 0; j < b.columns; j++) {
        float* sum = c + j * kGroup + r;
        Store(sum, number(sum, Splat(b.excess[j])) * (b.scales[j] * channel));
      }
    }
    return;
  }
  for (int r = 0; r < a.count; r++)
    for (int64_t j = 0; j < b.Vectors() * kLanes; j += kLanes) {
      float* sum = c + r * b.Width() + j;
      Store(sum, number(sum, Splat(excess[r])) * (Load(b.scales + j) * channels[r]));
    }
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
