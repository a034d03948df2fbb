// One factor of a product, on its way from global memory through L1 to L0.
#ifndef MOGE_ASCEND_GROUPED_GEMM_OPERAND_H_
#define MOGE_ASCEND_GROUPED_GEMM_OPERAND_H_

#include "../common.h"

namespace moge {

// A fractal is 16 rows of 32 bytes, kC0 elements each; L0A, L0B and L0C hold whole ones.
constexpr uint32_t kFractal = 16;
template <typename T>
constexpr uint32_t kC0 = kBlockBytes / sizeof(T);
template <typename T>
constexpr uint32_t kFractalElements = kFractal * kC0<T>;

// What products of T are summed in: those of bytes are exact integers.
template <typename T>
struct SumOfProducts {
  using Type = float;
};
template <>
struct SumOfProducts<int8_t> {
  using Type = int32_t;
};
template <typename T>
using SumOf = typename SumOfProducts<T>::Type;

// How a factor lies in global memory. r is the depth, over which the product sums; x are the rows
// of the left factor or the columns of the right one.
enum class Layout {
  kDepthInner,  // [x, r]
  kDepthOuter,  // [r, x]: is transposed on its way to L0
  kPacked,  // [r / kC0, x, kC0] as L1 holds it (NZ): r and x are rounded up and filled with zeros
};

// GM to L1: [x, r] from `src` on, whose rows are `pitch` elements apart (kPacked: its x). Whole
// fractals arrive: x is filled up to a multiple of 16 with zeros. The order of fractals in L1:
//   kDepthInner, kPacked   [x, r], column after column of fractals (NZ)
//   kDepthOuter, 2 bytes   [r, x], column after column (NZ)
//   kDepthOuter, 4 bytes   [r, x], row after row (Zz), as LoadDataWithTranspose takes two in a row
template <typename T, Layout kLayout>
__aicore__ inline void CopyInFactor(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                                    uint32_t pitch, uint32_t x, uint32_t r) {
  const uint32_t x16 = RoundUp(x, kFractal);
  const T zero = static_cast<T>(0);
  if constexpr (kLayout == Layout::kPacked) {
    DataCopy(dst, src, DataCopyParams(CeilDiv(r, kC0<T>), x16, pitch - x16, 0));
  } else if constexpr (kLayout == Layout::kDepthInner) {
    DataCopy(dst, src, Nd2NzParams(1, x, r, 0, pitch, x16, 1, 0));
    if (x < x16) {
      Fill(dst[x * kC0<T>], InitConstValueParams<T>(CeilDiv(r, kC0<T>), x16 - x, x, zero));
    }
  } else if constexpr (!kIsFloat<T>) {
    DataCopy(dst, src, Nd2NzParams(1, r, x, 0, pitch, RoundUp(r, kFractal), 1, 0));
  } else {
    for (uint32_t row = 0; row < r; row += kFractal) {
      DataCopy(dst[row * x16], src[static_cast<uint64_t>(row) * pitch],
               Nd2NzParams(1, Min(kFractal, r - row), x, 0, pitch, kFractal, 1, 0));
    }
    const uint32_t x8 = RoundUp(x, kC0<T>);
    if (x8 < x16) {
      Fill(dst[x8 * kFractal],
           InitConstValueParams<T>(CeilDiv(r, kFractal), kFractal, 2 * x16 - kFractal, zero));
    }
  }
}

// L1 to L0: `depth` of the r in L1, from r0 on. The left factor's fractals follow each other along
// the depth (Zz), the right one's along x (Zn).
template <typename T, Layout kLayout, bool kLeft>
__aicore__ inline void LoadFractals(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                                    uint32_t x, uint32_t r, uint32_t r0, uint32_t depth) {
  const uint32_t across = CeilDiv(x, kFractal);
  if constexpr (kIsFloat<T> && kLayout == Layout::kDepthOuter) {
    const uint32_t squares = CeilDiv(depth, kFractal);  // 16 by 16 each, two fractals
    for (uint32_t i = 0; i < squares; ++i) {
      LoadDataWithTranspose(
          dst[2 * i * (kLeft ? 1 : across) * kFractalElements<T>], src,
          LoadData2dTransposeParams((r0 / kFractal + i) * across, across, 1,
                                    kLeft ? 2 * squares - 1 : 0, kLeft ? 0 : across - 1, 0));
    }
  } else {
    constexpr bool kTranspose = kLayout == Layout::kDepthOuter;
    const uint32_t blocks = CeilDiv(depth, kC0<T>);
    const uint32_t first = r0 / kC0<T>;
    if (!kTranspose && !kLeft) {  // as it lies in L1
      LoadData(dst, src, LoadData2DParams(first * across, blocks * across, 1, 0, 0, false, 0));
    } else if (!kTranspose && across < blocks) {
      for (uint32_t i = 0; i < across; ++i) {
        LoadData(dst[i * blocks * kFractalElements<T>], src,
                 LoadData2DParams(first * across + i, blocks, across, 0, 0, false, 0));
      }
    } else {
      for (uint32_t i = 0; i < blocks; ++i) {
        LoadData(dst[i * (kLeft ? 1 : across) * kFractalElements<T>], src,
                 LoadData2DParams(kTranspose ? first + i : (first + i) * across, across,
                                  kTranspose ? CeilDiv(r, kFractal) : 1, 0, kLeft ? blocks - 1 : 0,
                                  kTranspose, 0));
      }
    }
  }
}

// L0 for a factor without a depth: zeros, one fractal deep.
template <typename T>
__aicore__ inline void LoadZeros(const LocalTensor<T>& dst, uint32_t x) {
  Fill(dst, InitConstValueParams<T>(1, CeilDiv(x, kFractal), 0, static_cast<T>(0)));
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_OPERAND_H_
