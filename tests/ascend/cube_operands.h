// How the correct kernels of a cube core bring their operands from global memory to L0.
#ifndef MOGE_TESTS_ASCEND_CUBE_OPERANDS_H_
#define MOGE_TESTS_ASCEND_CUBE_OPERANDS_H_

#include "common.h"

namespace moge_tests {

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

}  // namespace moge_tests

#endif  // MOGE_TESTS_ASCEND_CUBE_OPERANDS_H_
