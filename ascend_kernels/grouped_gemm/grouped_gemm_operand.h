// One factor of a product, on its way from global memory through L1 to L0.
#ifndef MOGE_ASCEND_GROUPED_GEMM_OPERAND_H_
#define MOGE_ASCEND_GROUPED_GEMM_OPERAND_H_

#include <type_traits>

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

// What the cube multiplies: T, or two integers of four bits in each byte.
template <typename T, bool kNibbles>
using FactorOf = std::conditional_t<kNibbles, int4b_t, T>;

// How a factor lies in global memory. r is the depth, over which the product sums; x are the rows
// of the left factor or the columns of the right one.
enum class Layout {
  kDepthInner,  // [x, r]
  kDepthOuter,  // [r, x]: is transposed on its way to L0
  kPacked,  // [r / kC0, x, kC0] as L1 holds it (NZ): r and x are rounded up and filled with zeros
};

// Fill has no bytes, so it writes two of them at a time.
template <typename T>
__aicore__ inline void FillZeros(const LocalTensor<T>& dst, uint16_t repeats, uint16_t blocks,
                                 uint16_t gap) {
  if constexpr (sizeof(T) == 1) {
    FillZeros(dst.template ReinterpretCast<int16_t>(), repeats, blocks, gap);
  } else {
    Fill(dst, InitConstValueParams<T>(repeats, blocks, gap, static_cast<T>(0)));
  }
}

// GM to L1: [x, r] from `src` on, whose rows are `pitch` elements apart (kPacked: its x). Whole
// fractals arrive: x is filled up to a multiple of 16 with zeros. The order of fractals in L1:
//   kDepthInner, kPacked   [x, r], column after column of fractals (NZ)
//   kDepthOuter, 2 bytes   [r, x], column after column (NZ)
//   kDepthOuter, 4 bytes   [r, x], row after row (Zz), as LoadDataWithTranspose takes two in a row
// kNibbles: kDepthInner, of bytes that hold two integers of four bits each. The rows below the x
// are ones: that fills the last fractals, and their products are the sums of the right factor.
template <typename T, Layout kLayout, bool kNibbles = false>
__aicore__ inline void CopyInFactor(const LocalTensor<T>& dst, const GlobalTensor<T>& src,
                                    uint32_t pitch, uint32_t x, uint32_t r) {
  const uint32_t x16 = RoundUp(x + (kNibbles ? 1 : 0), kFractal);
  if constexpr (kNibbles) {
    static_assert(kLayout == Layout::kDepthInner, "rows of bytes");
    DataCopy(dst, src, Nd2NzParams(1, x, r, 0, pitch, x16, 1, 0));
    Fill(dst[x * kC0<T>].template ReinterpretCast<int16_t>(),
         InitConstValueParams<int16_t>(CeilDiv(r, kC0<T>), x16 - x, x, 0x1111));
  } else if constexpr (kLayout == Layout::kPacked) {
    DataCopy(dst, src, DataCopyParams(CeilDiv(r, kC0<T>), x16, pitch - x16, 0));
  } else if constexpr (kLayout == Layout::kDepthInner) {
    DataCopy(dst, src, Nd2NzParams(1, x, r, 0, pitch, x16, 1, 0));
    if (x < x16) {
      FillZeros(dst[x * kC0<T>], CeilDiv(r, kC0<T>), x16 - x, x);
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
      FillZeros(dst[x8 * kFractal], CeilDiv(r, kFractal), kFractal, 2 * x16 - kFractal);
    }
  }
}

// L1 to L0: `depth` of the r in L1, from r0 on. The left factor's fractals follow each other along
// the depth (Zz), the right one's along x (Zn). One instruction loads them all, as each has a head
// of 14 cycles: as they lie in L1, or as the windows of one point of an image of one row, which
// are the rows of a matrix in NZ.
template <typename T, Layout kLayout, bool kLeft>
__aicore__ inline void LoadFractals(const LocalTensor<T>& dst, const LocalTensor<T>& src,
                                    uint32_t x, uint32_t r, uint32_t r0, uint32_t depth) {
  const uint32_t across = CeilDiv(x, kFractal);
  constexpr bool kTranspose = kLayout == Layout::kDepthOuter;
  if constexpr (kIsFloat<T> && kTranspose) {
    const uint32_t squares = CeilDiv(depth, kFractal);  // 16 by 16 each, two fractals
    for (uint32_t i = 0; i < squares; ++i) {
      LoadDataWithTranspose(
          dst[2 * i * (kLeft ? 1 : across) * kFractalElements<T>], src,
          LoadData2dTransposeParams((r0 / kFractal + i) * across, across, 1,
                                    kLeft ? 2 * squares - 1 : 0, kLeft ? 0 : across - 1, 0));
    }
  } else if constexpr (!kTranspose && !kLeft) {
    const uint32_t first = r0 / kC0<T>, blocks = CeilDiv(depth, kC0<T>);
    LoadData(dst, src, LoadData2DParams(first * across, blocks * across, 1, 0, 0, false, 0));
  } else {
    constexpr uint32_t kUnit = kTranspose ? kFractal : kC0<T>;  // of the depth
    const uint32_t x16 = across * kFractal, r16 = RoundUp(r, kUnit),
                   depth16 = RoundUp(depth, kUnit);
    LoadData3DParamsV2<T> part;
    part.l1H = 1;
    part.l1W = kTranspose ? r16 : x16;
    part.channelSize = kTranspose ? x16 : r16;
    part.mExtension = kTranspose ? depth16 : x16;
    part.kExtension = kTranspose ? x16 : depth16;
    part.mStartPt = kTranspose ? r0 : 0;
    part.kStartPt = kTranspose ? 0 : r0;
    part.enTranspose = kTranspose;
    LoadData(dst, src, part);
  }
}

// L0 for a factor without a depth: zeros, one fractal deep.
template <typename T>
__aicore__ inline void LoadZeros(const LocalTensor<T>& dst, uint32_t x) {
  FillZeros(dst, 1, CeilDiv(x, kFractal), 0);
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_OPERAND_H_
