// Grouped products of bytes, or of bytes and integers of four bits. A cube core sums them exactly,
// in int32, and has no way to multiply the sums by scales of rows and of columns: its two vector
// cores do that.
//
// The cube has no product of a byte and four bits. It has one of four bits and four bits, with
// twice the rate, so each row of bytes is two: x = 16 high + low + 8, with both in [-8, 7]. Thus
//
//   sum(x w) = 16 sum(high w) + sum(low w) + 8 sum(w)
//
// The weights pass the cube once, with the rows high 0, low 0, high 1, low 1, ... and ones as left
// factor. Each sum is below 8 * 128 * 65535 < 2^27, and so exact.
#ifndef MOGE_ASCEND_GROUPED_GEMM_INT8_KERNEL_H_
#define MOGE_ASCEND_GROUPED_GEMM_INT8_KERNEL_H_

#include "../swiglu/swiglu_kernel.h"
#include "ring.h"

namespace moge {

// In the ring, a row of a part has a line of L2 to itself, which is 128 sums.
constexpr uint32_t kSumPitch = kLineBytes / sizeof(int32_t);
// Of four bits there are two rows of sums for each of the result. The vector cores are the bound
// then where there are many, and a third slot helps: modelled on 910B1 at 2048 tokens, down takes
// 545 us in place of 582, November 2026. Of bytes it does not.
template <bool kNibbles>
constexpr uint32_t kSumSlots = kNibbles ? 3 : kRingSlots;
template <bool kNibbles = false>
using SumRing = Ring<int32_t, kSumPitch, kSumSlots<kNibbles>>;

template <uint32_t kHalves, uint32_t kColumns, bool kNibbles = false>
using ByteProducts =
    TileProducts<int8_t, Layout::kDepthInner, Layout::kDepthInner, kHalves, kColumns, kNibbles>;

struct ByteTensors {
  GM_ADDR row_scale;  // [N] float
  GM_ADDR scale;      // [E, kHalves * C] float
  GM_ADDR offsets;
  GM_ADDR ring;
  GM_ADDR pre;  // [N, 2 C], with two halves, or none
  GM_ADDR out;  // [N, pitch]: the product, or SwiGLU of its two halves
};

// A consumer, on a vector core: it takes half of each tile's rows.
//
//   x = float(sum) * (row_scale * scale), out = x or SwiGLU(gate, up)
template <typename T, uint32_t kHalves, uint32_t kColumns, bool kNibbles = false>
class ScaleSums {
  using Products = ByteProducts<kHalves, kColumns, kNibbles>;
  using Sums = SumRing<kNibbles>;

 public:
  __aicore__ inline void Init(const ByteTensors& tensors, const GroupedGemmTiling& tiling,
                              uint32_t pitch) {
    const uint64_t core = GetBlockIdx() / GetSubBlockNum();
    scheduler_.Init(tensors.offsets, tiling, core);
    ring_ = Sums::Of(tensors.ring, core);
    row_scale_ = Global<float>(tensors.row_scale);
    scale_ = Global<float>(tensors.scale);
    pre_ = Global<T>(tensors.pre);
    out_ = Global<T>(tensors.out);
    C_ = tiling.C;
    pitch_ = pitch;
    save_ = tensors.pre != nullptr;
    LocalMemAllocator<> ub;
    for (uint32_t i = 0; i < 2; ++i) {
      sums_[i] = ub.Alloc<TPosition::VECIN, int32_t>(kHalves * kChunk);
      if constexpr (kNibbles) {
        low_[i] = ub.Alloc<TPosition::VECIN, int32_t>(kHalves * kChunk);
        ones_[i] = ub.Alloc<TPosition::VECIN, int32_t>(kHalves * kMaxC);
      }
      of_columns_[i] = ub.Alloc<TPosition::VECIN, float>(kHalves * kMaxC);
      of_rows_[i] = ub.Alloc<TPosition::VECIN, float>(kMaxRows);
      if constexpr (kResults > 0) {
        result_[i] = ub.Alloc<TPosition::VECOUT, T>(kResults * kChunk);
      }
      // columns that fill a fractal have no scale, but are multiplied like the others
      Duplicate(of_columns_[i], 0.0f, kHalves * kMaxC);
    }
    of_rows_blocks_ = ub.Alloc<TPosition::VECCALC, float>(kMaxRows * kPerBlock<float>);
    floats_ = ub.Alloc<TPosition::VECCALC, float>(kChunk);
    PipeBarrier<PIPE_ALL>();
  }
  __aicore__ inline void Process() {
    for (int32_t i = 0; i < 2; ++i) SetFlag<HardEvent::MTE3_MTE2>(i);
    ReadRing<kSumSlots<kNibbles>>(scheduler_, *this);
    for (int32_t i = 0; i < 2; ++i) WaitFlag<HardEvent::MTE3_MTE2>(i);
  }
  // Rows [begin, end) of the tile in a slot.
  __aicore__ inline void operator()(const Tile& tile, uint32_t slot, uint32_t begin, uint32_t end) {
    const uint32_t c16 = RoundUp(tile.c, kFractal);
    const uint32_t most = Min(kChunk / c16, kMaxRows);
    const uint64_t row = (tile.row + tile.m0) / kPlanes, at = slot * Sums::kSlotElements;
    for (uint32_t m = begin / kPlanes; m < end / kPlanes; m += most) {
      const RingChunk chunk{row + m, tile.c0, static_cast<uint32_t>(Min(most, end / kPlanes - m)),
                            tile.c, c16};
      WaitFlag<HardEvent::MTE3_MTE2>(buffer_);
      CopySums(sums_[buffer_], kChunk, chunk, chunk.rows, at + m * kPlanes * kSumPitch);
      if constexpr (kNibbles) {
        CopySums(low_[buffer_], kChunk, chunk, chunk.rows, at + (m * kPlanes + 1) * kSumPitch);
        CopySums(ones_[buffer_], kMaxC, chunk, 1, at + tile.m * kSumPitch);
      }
      CopyScales(tile, chunk);
      Compute(tile, chunk);
      CopyOut(chunk);
      buffer_ ^= 1;
    }
  }

 private:
  static constexpr uint32_t kMaxC = Products::kMaxC;
  static constexpr uint32_t kPlanes = kNibbles ? 2 : 1;  // rows of sums for each of the result
  static constexpr uint32_t kMaxRows = kTileM / 2;
  // Elements of each half that are in UB at a time: two buffers of sums and of results, and their
  // scales, multiplied.
  static constexpr uint32_t kChunk = (kNibbles ? 7168 : 8192) / kHalves;
  // Results in 16 bits have room of their own, and SwiGLU's two factors, too. In float they stay
  // where they were.
  static constexpr uint32_t kResults = kIsFloat<T> ? kHalves - 1 : 2 * kHalves - 1;
  static_assert(2 * (kPlanes * kHalves * (kChunk + kMaxC) * sizeof(int32_t) +
                     kMaxRows * sizeof(float) + kResults * kChunk * sizeof(T)) +
                        kMaxRows * kBlockBytes + kChunk * sizeof(float) <=
                    kUbBytes,
                "UB");

  // A tile without a depth is zero, and its rows may have no expert.
  static __aicore__ inline bool Scaled(const Tile& tile) { return tile.r != 0; }

  // Each of the two buffers goes round in three stages; a flag guards each step to the next:
  //
  //   MTE2 CopyIn --MTE2_V--> V Compute --V_MTE3--> MTE3 CopyOut --MTE3_MTE2--> CopyIn
  // `rows` of sums, every kPlanes-th from `at` on; in UB, the halves are `half` elements apart.
  __aicore__ inline void CopySums(const LocalTensor<int32_t>& dst, uint32_t half,
                                  const RingChunk& chunk, uint32_t rows, uint64_t at) {
    for (uint32_t part = 0, c0 = 0; part < 2 && c0 < chunk.pitch; ++part) {
      // two halves lie one after the other in UB, two parts of a product side by side
      const uint32_t c = kHalves == 2 ? chunk.pitch : Min(kColumns, chunk.pitch - c0);
      DataCopy(dst[kHalves == 2 ? part * half : c0], ring_[at + part * Sums::kPartElements],
               DataCopyParams(rows, c / kPerBlock<int32_t>,
                              (kPlanes * kSumPitch - c) / kPerBlock<int32_t>,
                              kHalves == 2 ? 0 : (chunk.pitch - c) / kPerBlock<int32_t>));
      if (kHalves == 1) c0 += c;
    }
  }
  __aicore__ inline void CopyScales(const Tile& tile, const RingChunk& chunk) {
    if (Scaled(tile)) {
      LoadFilled(of_rows_[buffer_], row_scale_[chunk.row], chunk.rows);
      for (uint32_t half = 0; half < kHalves; ++half) {
        const uint64_t first = (uint64_t{tile.expert} * kHalves + half) * C_ + chunk.column;
        LoadFilled(of_columns_[buffer_][half * kMaxC], scale_[first], chunk.columns);
      }
    }
    SetFlag<HardEvent::MTE2_V>(buffer_);
  }
  // The last block is filled with zeros.
  __aicore__ inline void LoadFilled(const LocalTensor<float>& dst, const GlobalTensor<float>& src,
                                    uint32_t count) const {
    const uint32_t filler = RoundUp(count, kPerBlock<float>) - count;
    DataCopyPad(dst, src, DataCopyExtParams(1, count * sizeof(float), 0, 0, 0),
                DataCopyPadExtParams<float>(true, 0, filler, 0.0f));
  }

  __aicore__ inline void Compute(const Tile& tile, const RingChunk& chunk) {
    const uint32_t count = chunk.rows * chunk.pitch;
    const LocalTensor<float> x = Floats();
    const LocalTensor<T>& result = result_[buffer_];
    WaitFlag<HardEvent::MTE2_V>(buffer_);
    if (Scaled(tile)) {
      Brcb(of_rows_blocks_, of_rows_[buffer_], CeilDiv(chunk.rows, kPerBlock<float>),
           BrcbRepeatParams(1, kPerBlock<float>));
      PipeBarrier<PIPE_V>();
    }
    for (uint32_t half = 0; half < kHalves; ++half) Scale(tile, chunk, half, count);
    if constexpr (kHalves == 2) {
      if constexpr (!kIsFloat<T>) {
        if (save_) {
          Narrow(result[kChunk], x, count);
          Narrow(result[2 * kChunk], x[kChunk], count);
        }
        Activate(floats_, x, x[kChunk], floats_, count);
        Narrow(result, floats_, count);
      } else {
        Activate(result, x, x[kChunk], floats_, count);
      }
    } else if constexpr (!kIsFloat<T>) {
      Narrow(result, x, count);
    }
    SetFlag<HardEvent::V_MTE3>(buffer_);
  }
  // Sums become numbers where they are.
  __aicore__ inline LocalTensor<float> Floats() const {
    return sums_[buffer_].template ReinterpretCast<float>();
  }
  __aicore__ inline void Scale(const Tile& tile, const RingChunk& chunk, uint32_t half,
                               uint32_t count) {
    const LocalTensor<float> x = Floats()[half * kChunk];
    if constexpr (kNibbles) JoinPlanes(chunk, half, count);
    Cast(x, sums_[buffer_][half * kChunk], RoundMode::CAST_RINT, count);
    if (Scaled(tile)) {
      MultiplyScales(chunk, half);
      PipeBarrier<PIPE_V>();
      Mul(x, x, floats_, count);
    }
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void JoinPlanes(const RingChunk& chunk, uint32_t half, uint32_t count) {
    const LocalTensor<int32_t> high = sums_[buffer_][half * kChunk];
    const LocalTensor<int32_t> ones = ones_[buffer_][half * kMaxC];
    Muls(high, high, 16, count);
    Muls(ones, ones, 8, chunk.pitch);
    PipeBarrier<PIPE_V>();
    Add(high, high, low_[buffer_][half * kChunk], count);
    PipeBarrier<PIPE_V>();
    constexpr uint32_t kStep = kRepeatBytes / sizeof(int32_t);
    const uint8_t row = chunk.pitch / kPerBlock<int32_t>;
    for (uint32_t c = 0; c < chunk.pitch; c += kStep) {
      Add(high[c], high[c], ones[c], Min(kStep, chunk.pitch - c), chunk.rows,
          BinaryRepeatParams(1, 1, 1, row, row, 0));
    }
    PipeBarrier<PIPE_V>();
  }
  // A repeat is 64 columns of a row: the columns' scales are the same in each repeat, and the row's
  // is in each block.
  __aicore__ inline void MultiplyScales(const RingChunk& chunk, uint32_t half) {
    constexpr uint32_t kStep = kPerRepeat<float>;
    const BinaryRepeatParams repeats(1, 1, 0, chunk.pitch / kPerBlock<float>, 0, 1);
    for (uint32_t c = 0; c < chunk.pitch; c += kStep) {
      Mul(floats_[c], of_columns_[buffer_][half * kMaxC + c], of_rows_blocks_,
          Min(kStep, chunk.pitch - c), chunk.rows, repeats);
    }
  }

  __aicore__ inline void CopyOut(const RingChunk& chunk) {
    WaitFlag<HardEvent::V_MTE3>(buffer_);
    const uint64_t at = chunk.row * pitch_ + chunk.column;
    const LocalTensor<T>& result = result_[buffer_];
    if constexpr (kIsFloat<T>) {
      const LocalTensor<float> x = Floats();
      StoreChunk(out_[at], kHalves == 1 ? x : result, chunk, pitch_);
      if (save_) SaveChunk(x, x[kChunk], chunk);
    } else {
      StoreChunk(out_[at], result, chunk, pitch_);
      if (save_) SaveChunk(result[kChunk], result[2 * kChunk], chunk);
    }
    SetFlag<HardEvent::MTE3_MTE2>(buffer_);
  }
  __aicore__ inline void SaveChunk(const LocalTensor<T>& gate, const LocalTensor<T>& up,
                                   const RingChunk& chunk) const {
    const GlobalTensor<T> pre = pre_[chunk.row * 2 * C_ + chunk.column];
    StoreChunk(pre, gate, chunk, 2 * C_);
    StoreChunk(pre[C_], up, chunk, 2 * C_);
  }

  typename Products::Scheduler scheduler_;
  GlobalTensor<int32_t> ring_;
  GlobalTensor<float> row_scale_, scale_;
  GlobalTensor<T> pre_, out_;
  uint64_t C_ = 0, pitch_ = 0;
  bool save_ = false;
  LocalTensor<int32_t> sums_[2];           // of four bits, those of the high half
  LocalTensor<int32_t> low_[2], ones_[2];  // of four bits
  LocalTensor<float> of_columns_[2], of_rows_[2], of_rows_blocks_, floats_;
  LocalTensor<T> result_[2];
  int32_t buffer_ = 0;
};

template <typename T, uint32_t kHalves, uint32_t kColumns, bool kNibbles>
__aicore__ inline void MultiplyParts(GM_ADDR rows, GM_ADDR weight, const ByteTensors& tensors,
                                     const GroupedGemmTiling& tiling) {
  using Products = ByteProducts<kHalves, kColumns, kNibbles>;
  if ASCEND_IS_AIC {
    Products products;
    products.Init(rows, weight, tensors.offsets, tiling);
    StoreToRing<int32_t, kSumPitch, Products, kSumSlots<kNibbles>> epilogue(tensors.ring);
    products.Process(epilogue);
    epilogue.Finish();
  }
  if ASCEND_IS_AIV {
    InitSocState();
    ScaleSums<T, kHalves, kColumns, kNibbles> scale;
    scale.Init(tensors, tiling, kHalves == 1 ? tiling.pitch : tiling.C);
    scale.Process();
  }
  PipeBarrier<PIPE_ALL>();
}

template <typename T, bool kNibbles = false>
__aicore__ inline void MultiplyBytes(GM_ADDR rows, GM_ADDR weight, const ByteTensors& tensors,
                                     const GroupedGemmTiling& tiling) {
  if (StaysInL1<int8_t>(tiling.R)) {
    MultiplyParts<T, 1, kTileC / 2, kNibbles>(rows, weight, tensors, tiling);
  } else {
    MultiplyParts<T, 1, kMixPartC, kNibbles>(rows, weight, tensors, tiling);
  }
}

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_INT8_KERNEL_H_
