// The arithmetic of Mmad: fractals to float once, then rows of 16 columns at a time.
#include "mmad.h"

#include <vector>

#include "names.h"

namespace emulator {

namespace {

constexpr uint32_t kRows = 2;  // of A that share the loads of B
// with plain arrays the speed depended on the compiler, from 2 to 20 GFLOP/s
using Vector = float __attribute__((vector_size(16)));
constexpr uint32_t kVectors = kSide * sizeof(float) / sizeof(Vector);

// One row of a fractal; the products of two 8- or 16-bit values are exact in float.
template <typename T>
void ToFloat(const uint8_t* from, float* to, uint32_t count) {
  const auto* elements = reinterpret_cast<const T*>(from);
  for (uint32_t i = 0; i < count; ++i) to[i] = static_cast<float>(elements[i]);
}

// The first of two is in the lower half of a byte.
void Int4ToFloat(const uint8_t* from, float* to, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    const int bits = from[i / 2] >> (i % 2 * 4) & 15;
    to[i] = static_cast<float>((bits ^ 8) - 8);
  }
}

void ToFloat(DType dtype, const uint8_t* from, float* to, uint32_t count) {
  if (dtype == DType::kInt4) return Int4ToFloat(from, to, count);
  if (dtype == DType::kHalf) return ToFloat<half>(from, to, count);
  if (dtype == DType::kBfloat16) return ToFloat<bfloat16_t>(from, to, count);
  if (dtype == DType::kFloat) return ToFloat<float>(from, to, count);
  ToFloat<int8_t>(from, to, count);
}

// Nearest in either case; of two as near the even one, or the one nearer to zero.
void Round(HalfFloat mode, std::vector<float>& values) {
  constexpr uint32_t kCut = 12;  // bits of a float's fraction that go
  for (float& value : values) {
    const uint32_t bits = FloatBits(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) continue;  // infinite or NaN
    const uint32_t half = 1u << (kCut - 1);
    const uint32_t odd = mode == HalfFloat::kToEven ? bits >> kCut & 1u : 0u;
    value = BitsFloat((bits + half - 1 + odd) & ~((1u << kCut) - 1));
  }
}

// Integers do not leave their range.
int32_t Sum(int32_t sum, float term) {
  const int64_t wide = int64_t{sum} + static_cast<int64_t>(term);
  return static_cast<int32_t>(std::clamp<int64_t>(wide, INT32_MIN, INT32_MAX));
}
float Sum(float sum, float term) { return sum + term; }

// Adds 16 rows by 16 columns to `c`: the terms of a chunk first, then the chunks one by one. The
// sum of a chunk of 8-bit products is below 2^24, so it is exact, too.
template <typename C>
void AddTile(const float* __restrict a, uint32_t pitch, const float* __restrict b, uint32_t chunks,
             uint32_t chunk, uint32_t rows, C* __restrict c) {
  for (uint32_t first = 0; first < rows; first += kRows) {
    const float* row = a + first * pitch;
    const float* column = b;
    for (uint32_t at = 0; at < chunks * chunk; at += chunk) {
      Vector part[kRows][kVectors] = {};
      for (uint32_t k = 0; k < chunk; ++k, column += kSide) {
        Vector line[kVectors];
        std::memcpy(line, column, sizeof line);
        for (uint32_t r = 0; r < kRows; ++r) {
          for (uint32_t j = 0; j < kVectors; ++j) part[r][j] += row[r * pitch + at + k] * line[j];
        }
      }
      float sums[kRows * kSide];
      std::memcpy(sums, part, sizeof sums);
      C* to = c + first * kSide;
      for (uint32_t i = 0; i < kRows * kSide; ++i) to[i] = Sum(to[i], sums[i]);
    }
  }
}

template <typename C>
void MultiplyInto(const ProductShape& shape, const float* a, const float* b, const uint8_t* bias,
                  uint8_t* c) {
  const uint32_t depth = shape.k_fractals * shape.k_side;
  const uint32_t m_fractals = CeilDivide(shape.m, kSide);
  const uint32_t n_fractals = CeilDivide(shape.n, kSide);
  for (uint32_t column = 0; column < n_fractals; ++column) {
    for (uint32_t row = 0; row < m_fractals; ++row) {
      C tile[kSide * kSide] = {};
      uint8_t* to = c + (column * m_fractals + row) * sizeof tile;
      if (!shape.init) std::memcpy(tile, to, sizeof tile);
      for (uint32_t i = 0; bias != nullptr && i < kSide; ++i) {
        const uint32_t columns = std::min(kSide, shape.n - column * kSide);
        std::memcpy(tile + i * kSide, bias + column * kSide * sizeof(C), columns * sizeof(C));
      }
      AddTile(a + row * kSide * depth, depth, b + column * kSide * depth, shape.k_fractals,
              shape.k_side, std::min(kSide, shape.m - row * kSide), tile);
      std::memcpy(to, tile, sizeof tile);
    }
  }
}

// B as columns of 16: a row of k after the other.
void RightToFloat(const ProductShape& shape, const uint8_t* b, float* right) {
  const uint32_t depth = shape.k_fractals * shape.k_side;
  const uint32_t n_fractals = CeilDivide(shape.n, kSide);
  for (uint32_t k = 0; k < shape.k; k += shape.k_side) {
    const uint32_t count = std::min(shape.k_side, shape.k - k);
    for (uint32_t i = 0; i < shape.n; ++i) {
      const uint32_t fractal = k / shape.k_side * n_fractals + i / kSide;
      float row[64];
      ToFloat(shape.dtype, b + (fractal * kSide + i % kSide) * 32, row, count);
      float* to = right + (i / kSide * depth + k) * kSide + i % kSide;
      for (uint32_t j = 0; j < count; ++j) to[j * kSide] = row[j];
    }
  }
}

// The same of int8 where two of every four rows are left out. Of those that are there the first is
// one of the first three, the other one of the last three.
void SparseToFloat(const ProductShape& shape, const uint8_t* b, float* right) {
  const uint32_t depth = shape.k_fractals * shape.k_side;
  const uint32_t n_fractals = CeilDivide(shape.n, kSide);
  for (uint32_t k = 0; k < shape.k / 2; ++k) {
    for (uint32_t i = 0; i < shape.n; ++i) {
      const uint32_t fractal = k / shape.k_side * n_fractals + i / kSide;
      const uint32_t at = (fractal * kSide + i % kSide) * 32 + k % shape.k_side;
      const uint32_t choice = shape.index[at / 4] >> (at % 4 * 2) & 3u;
      const uint32_t row = k / 2 * 4 + k % 2 + std::min(choice, 2u);
      right[(i / kSide * depth + row) * kSide + i % kSide] += static_cast<int8_t>(b[at]);
    }
  }
}

}  // namespace

void MultiplyFractals(const ProductShape& shape, const uint8_t* a, const uint8_t* b,
                      const uint8_t* bias, uint8_t* c) {
  // what lies beyond k in the last fractal is not part of the product
  const uint32_t depth = shape.k_fractals * shape.k_side;
  const uint32_t m_fractals = CeilDivide(shape.m, kSide);
  const uint32_t n_fractals = CeilDivide(shape.n, kSide);
  thread_local std::vector<float> left;
  thread_local std::vector<float> right;
  left.assign(m_fractals * kSide * depth, 0.0f);
  right.assign(n_fractals * kSide * depth, 0.0f);
  if (shape.m == 1 && shape.index == nullptr) {
    ToFloat(shape.dtype, a, left.data(), shape.k);
  } else {
    for (uint32_t i = 0; i < shape.m; ++i) {
      const uint8_t* row = a + (i / kSide * shape.a_pitch * kSide + i % kSide) * 32;
      for (uint32_t k = 0; k < shape.k; k += shape.k_side) {
        ToFloat(shape.dtype, row + k / shape.k_side * 512, left.data() + i * depth + k,
                std::min(shape.k_side, shape.k - k));
      }
    }
  }
  if (shape.index != nullptr) {
    SparseToFloat(shape, b, right.data());
  } else {
    RightToFloat(shape, b, right.data());
  }
  if (shape.half_float != HalfFloat::kOff) {
    Round(shape.half_float, left);
    Round(shape.half_float, right);
  }
  if (shape.dtype == DType::kInt8 || shape.dtype == DType::kInt4) {
    MultiplyInto<int32_t>(shape, left.data(), right.data(), bias, c);
  } else {
    MultiplyInto<float>(shape, left.data(), right.data(), bias, c);
  }
}

}  // namespace emulator
