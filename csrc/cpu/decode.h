// Rows of a quantised weight, decoded on the way into a product: (data - zero) * scale in float32,
// rounded to T, the same bits as moge_ops.quant.dequantize.
#pragma once
#include "operands.h"

namespace moge_cpu {
namespace MOGE_LEVEL {

// ---- Stored numbers as vectors of float32, from the byte where they begin.
// Each format has the numbers in one byte, and what it makes of those that share a scale and a zero
// point.

// Bytes, each in a lane.
inline I LoadBytes(const uint8_t* p, bool is_signed) {
#ifdef __AVX512F__
  const __m128i bytes = _mm_loadu_si128((const __m128i*)p);
  return (I)(is_signed ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes));
#else
  I x;
  for (int i = 0; i < kLanes; i += 8) {
    const __m128i bytes = _mm_loadl_epi64((const __m128i*)(p + i));
    const __m256i wide = is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    memcpy(reinterpret_cast<int32_t*>(&x) + i, &wide, sizeof(wide));
  }
  return x;
#endif
}

// Halves of bytes, the lower ones first.
inline I LoadNibbles(const uint8_t* p) {
  I words, shifts;
  for (int i = 0; i < kLanes; i += 8) {
    int32_t word;
    memcpy(&word, p + i / 2, sizeof(word));
    for (int j = 0; j < 8; j++) {
      words[i + j] = word;
      shifts[i + j] = 4 * j;
    }
  }
  return (words >> shifts) & 15;
}

struct Int8Numbers {
  static constexpr int kPerByte = 1;
  V scale;

  V At(const uint8_t* p) const { return __builtin_convertvector(LoadBytes(p, true), V) * scale; }
};

struct Int4Numbers {
  static constexpr int kPerByte = 2;
  V scale;
  V zero;  // of the codes: 8 is added to every number

  V Of(I codes) const { return (__builtin_convertvector(codes, V) - zero) * scale; }
  V At(const uint8_t* p) const { return Of(LoadNibbles(p)); }
};

// e2m1
struct Fp4Numbers {
  static constexpr int kPerByte = 2;
  V scale;

  V Of(I codes) const {
    constexpr float kSizes[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    V sizes;
    for (int i = 0; i < kLanes; i++) sizes[i] = kSizes[i % 8];
    const V size = __builtin_shuffle(sizes, codes & 7);
    return Bits(Bits(size) | ((codes & 8) << 28)) * scale;
  }
  V At(const uint8_t* p) const { return Of(LoadNibbles(p)); }
};

// e4m3: with its bits moved to where float16 has them, 2^-8 times the number; denormal ones too.
struct Fp8Numbers {
  static constexpr int kPerByte = 1;
  V scale;

  V At(const uint8_t* p) const {
    V x;
#ifdef __AVX512F__
    const __m256i b = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
    const __m256i size = _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x7f)), 7);
    const __m256i nan = _mm256_cmpeq_epi16(size, _mm256_set1_epi16(0x7f << 7));
    const __m256i sign = _mm256_and_si256(b, _mm256_set1_epi16(int16_t(0x8000)));
    const __m256i more = _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00));
    x = (V)_mm512_cvtph_ps(_mm256_or_si256(_mm256_or_si256(size, sign), more));
#else
    for (int i = 0; i < kLanes; i += 8) {
      const __m128i b = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i*)(p + i)));
      const __m128i size = _mm_slli_epi16(_mm_and_si128(b, _mm_set1_epi16(0x7f)), 7);
      const __m128i nan = _mm_cmpeq_epi16(size, _mm_set1_epi16(0x7f << 7));
      const __m128i sign = _mm_and_si128(b, _mm_set1_epi16(int16_t(0x8000)));
      const __m128i more = _mm_and_si128(nan, _mm_set1_epi16(0x7e00));
      const __m256 wide = _mm256_cvtph_ps(_mm_or_si128(_mm_or_si128(size, sign), more));
      memcpy(reinterpret_cast<float*>(&x) + i, &wide, sizeof(wide));
    }
#endif
    return x * 256.0f * scale;
  }
#ifdef __AVX512BF16__
  // Two vectors at once, 2^-8 times the numbers, of which the caller's factor takes care.
  static void Two(const uint8_t* p, V& lower, V& upper) {
    const __m512i b = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
    const __m512i size = _mm512_slli_epi16(_mm512_and_si512(b, _mm512_set1_epi16(0x7f)), 7);
    const __mmask32 nan = _mm512_cmpeq_epi16_mask(size, _mm512_set1_epi16(0x7f << 7));
    constexpr int kOrAnd = 0xf8;  // size | (b & sign)
    __m512i half = _mm512_ternarylogic_epi32(size, b, _mm512_set1_epi16(int16_t(0x8000)), kOrAnd);
    half = _mm512_mask_mov_epi16(half, nan, _mm512_set1_epi16(0x7e00));
    lower = (V)_mm512_cvtph_ps(_mm512_castsi512_si256(half));
    upper = (V)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1));
  }
#endif
};

// ---- Rounded to T, as the product takes them

template <typename T>
inline V RoundTo(V x) {
  if constexpr (std::is_same<T, float>::value) return x;
  if constexpr (std::is_same<T, Bfloat16>::value) return Bits(Rounded(x) & int32_t(0xffff0000));
  if constexpr (std::is_same<T, Half>::value) {
    Half part[kLanes];
    Store(part, x);
    return Load(part);
  }
}
template <typename T>
inline void StoreDecoded(Packed<T>* to, V x) {
  if constexpr (kPairs<T>)
    Store(to, x);
  else
    Store(to, RoundTo<T>(x));
}

// Of e8m0: 2^(exponent - 127).
inline float ScaleOf(uint32_t exponent) {
  const uint32_t power = exponent ? exponent << 23 : 1u << 22;
  float scale;
  memcpy(&scale, &power, sizeof(scale));
  return scale;
}
inline float ScaleOf(const Coding& c, int64_t i) {
  uint16_t bits;
  if (c.format == Format::kFp4) return ScaleOf(static_cast<const uint8_t*>(c.scale)[i]);
  if (c.scale_dtype == DType::kFloat32) return static_cast<const float*>(c.scale)[i];
  memcpy(&bits, static_cast<const char*>(c.scale) + 2 * i, sizeof(bits));
  if (c.scale_dtype == DType::kFloat16) return _cvtsh_ss(bits);
  const uint32_t wide = uint32_t(bits) << 16;
  float scale;
  memcpy(&scale, &wide, sizeof(scale));
  return scale;
}

// Where a row's scales and zero points begin. Most often each row has its own, and a division takes
// as long as the products of 64 numbers.
inline int64_t ScalesOf(const Coding& c, int64_t row) {
  return (c.scale_rows == 1 ? row : row / c.scale_rows) * c.groups;
}

#ifdef __AVX512BF16__
// A row of which 32 numbers at a time are looked up in a table of the 16 that they can be, twice:
// the fifth bit of an index is a neighbour's.
struct NibbleRow {
  using Table = __m512i;
  const uint8_t* data;
  const Coding* coding;
  int64_t scales;
  const Bfloat16 (*of_exponents)[kLanes];  // of e8m0 scales, the numbers

  NibbleRow() {}
  NibbleRow(const Coding& c, int64_t row)
      : data(static_cast<const uint8_t*>(c.data) + row * c.row_bytes),
        coding(&c),
        scales(ScalesOf(c, row)),
        of_exponents(c.format == Format::kFp4 ? OfExponents() : nullptr) {}

  static bool Serves(const Coding& c) {
    return c.format == Format::kInt4 || c.format == Format::kFp4;
  }

  static I Codes() { return I{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
  static const Bfloat16 (*OfExponents()) [kLanes] {
    struct Tables {
      alignas(64) Bfloat16 numbers[256][kLanes];
      Tables() {
        for (uint32_t e = 0; e < 256; e++)
          Store(numbers[e], Fp4Numbers{Splat(ScaleOf(e))}.Of(Codes()));
      }
    };
    static const Tables tables;
    return tables.numbers;
  }

  Table Of(int64_t group) const {
    const int64_t i = scales + group;
    if (of_exponents) {
      const auto* numbers = of_exponents[static_cast<const uint8_t*>(coding->scale)[i]];
      return _mm512_broadcast_i64x4(_mm256_load_si256((const __m256i*)numbers));
    }
    const float zero = 8.0f + (coding->zero ? coding->zero[i] : 0);
    const float scale = ScaleOf(*coding, i);
    const V numbers = Int4Numbers{Splat(scale), Splat(zero)}.Of(Codes());
    __m256i once;
    if (__builtin_expect(scale < 0x1p-100f && scale > -0x1p-100f, 0)) {
      Bfloat16 rounded[kLanes];  // the instruction takes smaller numbers for 0
      Store(rounded, numbers);
      once = _mm256_loadu_si256((const __m256i*)rounded);
    } else {
      once = (__m256i)_mm512_cvtneps_pbh((__m512)numbers);
    }
    return _mm512_broadcast_i64x4(once);
  }

  // Each of 32 lanes takes its byte, and moves the half that is its own down.
  static __m512i Find(Table table, const uint8_t* from) {
    const __m512i byte =
        _mm512_set_epi32(0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a,
                         0x09090909, 0x08080808, 0x07070707, 0x06060606, 0x05050505, 0x04040404,
                         0x03030303, 0x02020202, 0x01010101, 0);
    const __m128i some = _mm_loadu_si128((const __m128i*)from);
    const __m512i words = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(some), byte);
    return _mm512_permutexvar_epi16(_mm512_srlv_epi16(words, _mm512_set1_epi32(4 << 16)), table);
  }
};
#endif

// Numbers [k, end) of a row, of one scale, to `to` and, in whole vectors, beyond.
template <typename T, typename Numbers>
inline void DecodeGroup(const Numbers& numbers, bool normal, const uint8_t* data, int64_t k,
                        int64_t end, Packed<T>* to) {
  constexpr int n = Numbers::kPerByte;
#ifdef __AVX512BF16__
  if constexpr (kPairs<T> && std::is_same<Numbers, Fp8Numbers>::value) {
    const V factor = numbers.scale * 256.0f;  // a power of two more, which rounds nothing
    if (normal && factor[0] - factor[0] == 0.0f)
      for (V lower, upper; k + 2 * kLanes <= end; k += 2 * kLanes, to += 2 * kLanes) {
        Fp8Numbers::Two(data + k, lower, upper);
        lower *= factor, upper *= factor;
        _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)upper, (__m512)lower));
      }
  }
  if constexpr (kPairs<T>)
    if (normal)  // the instruction takes smaller numbers for 0
      for (; k + 2 * kLanes <= end; k += 2 * kLanes, to += 2 * kLanes) {
        const V upper = numbers.At(data + (k + kLanes) / n), lower = numbers.At(data + k / n);
        _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)upper, (__m512)lower));
      }
#endif
  (void)normal;
  for (; k + kLanes <= end; k += kLanes, to += kLanes)
    StoreDecoded<T>(to, numbers.At(data + k / n));
  if (k == end) return;
  uint8_t part[kLanes] = {};
  memcpy(part, data + k / n, (end - k) / n);
  StoreDecoded<T>(to, numbers.At(part));
}

// Columns [first, last) of row `row`, of all experts', and some past them, of no meaning: room for
// whole vectors. `first` begins a vector.
template <typename T>
__attribute__((noinline)) void DecodeColumns(const Coding& c, int64_t row, int64_t first,
                                             int64_t last, Packed<T>* to) {
  const uint8_t* data = static_cast<const uint8_t*>(c.data) + row * c.row_bytes;
  const int64_t scales = ScalesOf(c, row);
  int64_t group = first ? first / c.group_size : 0;
#ifdef __AVX512BF16__
  if constexpr (kPairs<T>)
    if (NibbleRow::Serves(c) && last % 32 == 0) {
      const NibbleRow nibbles(c, row);
      for (int64_t k = first; k < last; group++) {
        const auto table = nibbles.Of(group);
        for (const int64_t end = Least(last, (group + 1) * c.group_size); k < end;
             k += 32, to += 32)
          _mm512_storeu_si512(to, NibbleRow::Find(table, data + k / 2));
      }
      return;
    }
#endif
  for (int64_t k = first, end; k < last; to += end - k, k = end, group++) {
    end = Least(last, (group + 1) * c.group_size);
    const float scale = ScaleOf(c, scales + group);
    const bool normal = !(scale < 0x1p-100f && scale > -0x1p-100f);
    const V wide = Splat(scale);
    switch (c.format) {
      case Format::kInt8:
        DecodeGroup<T>(Int8Numbers{wide}, normal, data, k, end, to);
        break;
      case Format::kInt4:
        DecodeGroup<T>(Int4Numbers{wide, Splat(8.0f + (c.zero ? c.zero[scales + group] : 0))},
                       normal, data, k, end, to);
        break;
      case Format::kFp8:
        DecodeGroup<T>(Fp8Numbers{wide}, normal, data, k, end, to);
        break;
      case Format::kFp4:
        DecodeGroup<T>(Fp4Numbers{wide}, normal, data, k, end, to);
        break;
    }
  }
}
// Where four bytes are not multiplied at once, bytes become 16 bits.
template <>
inline void DecodeColumns<Int8>(const Coding& c, int64_t row, int64_t first, int64_t last,
                                Packed<Int8>* to) {
  const auto* data = static_cast<const int8_t*>(c.data) + row * c.row_bytes;
  for (int64_t k = first; k < last; k++) to[k - first] = {data[k]};
}

// A whole row; the one that is `ahead` rows further on is asked for from memory.
template <typename T>
inline void DecodeRow(const Coding& c, int64_t row, int64_t columns, int64_t ahead, Packed<T>* to) {
  const char* next = static_cast<const char*>(c.data) + (row + ahead) * c.row_bytes;
  for (int64_t i = 0; i < c.row_bytes; i += 64) __builtin_prefetch(next + i);
  DecodeColumns<T>(c, row, 0, columns, to);
}

// The rows of a, decoded, or widened, into slot `slot` of b's room.
template <typename T>
inline Rows<Packed<T>> Ready(const Rows<T>& a, const PackedB<T>& b, int slot) {
  const int64_t depth = Depth(b.K);
  Packed<T>* room = b.room + slot * kGroup * depth;
  for (int r = 0; r < a.count; r++, room += depth)
    if (a.Coded())
      DecodeRow<T>(*a.coding, a.row + r, b.K, 4, room);
    else if constexpr (std::is_same<T, Half>::value)
      for (int64_t k = 0; k < b.K; k += kLanes)
        Store(room + k, Load(a.data + r * a.stride + k, b.K - k));
  return {b.room + slot * kGroup * depth, depth, a.count};
}

// Columns [first, first + b.columns) of b.K rows of a weight as b. `first` begins a vector.
template <typename T>
inline void PackWeight(const PackedB<T>& b, const Weight<T>& w, int64_t first) {
  if (!w.coding) return PackRows(b, [&](int64_t k) { return w.Row(k) + first; });
  const Coding& c = *w.coding;
  alignas(64) Packed<T> decoded[2][kColumns];
  const int64_t per_byte = c.format == Format::kInt4 || c.format == Format::kFp4 ? 2 : 1;
  PackRows(
      b,
      [&](int64_t k) {
        DecodeColumns<T>(c, w.row + k, first, first + b.columns, decoded[k % 2]);
        return const_cast<const Packed<T>*>(decoded[k % 2]);
      },
      [&](int64_t k) {
        __builtin_prefetch(static_cast<const char*>(c.data) + (w.row + k) * c.row_bytes +
                           first / per_byte);
      });
}

}  // namespace MOGE_LEVEL
}  // namespace moge_cpu
