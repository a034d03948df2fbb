// The right factor of dX and dW, laid out anew by the vector cores.
//
// Its rows run along the columns of the result, [r, c], and a tile needs a box of them, 256 columns
// wide: MTE2 pays for each of the short rows, more where they are cut out of lines, and all the
// tiles below each other read the same box. The vector cores have nothing else to do. They read
// each expert's factor once, in long rows, and write it as L1 will hold it: [c / 16, r, 16] (NZ).
// The cube cores then read it in runs of 32 bytes times the depth of a chunk.
//
// They are ahead of the cube cores by a few experts, which are in slots that L2 holds. Experts
// without rows are left out; here are three slots:
//
//   vector cores   | expert 0 | expert 1 | expert 2 |      expert 3 |      expert 4 |
//     slot         |    0     |    1     |    2     |         0     |         1     |
//   cube cores                | expert 0 ...        | expert 1 ...  | expert 2 ...
//
// Cube cores take strips of several experts at the same time. So a slot is filled once all vector
// cores are done with it, and free once all cube cores are. A core can only tell those of its
// block; what all vector cores have to know, they tell each other:
//
//   a cube core    kSlotFree when it is done with an expert       -> its two vector cores
//   vector cores   kAllThere when each has written its share of an expert, and knows from its
//                  cube core that the next one's slot is free     -> all vector cores
//   vector cores   kSlotFilled                                    -> their cube core
#ifndef MOGE_ASCEND_GROUPED_GEMM_PACK_H_
#define MOGE_ASCEND_GROUPED_GEMM_PACK_H_

#include "grouped_gemm_scheduler.h"

namespace moge {

namespace packing {
constexpr uint16_t kSlotFilled = 0, kSlotFree = 1, kAllThere = 2;  // flags between the cores
}

// Experts whose weights dX has room for: fast cube cores read one, slow ones still read the one
// before it, and the vector cores pack a third. Four would not stay in L2.
constexpr uint32_t kPackSlots = 3;

// Whether the right factor is packed: one of few rows is read too seldom to be worth it.
template <typename Scheduler>
__aicore__ inline bool Packs(const Scheduler& scheduler, const GroupedGemmTiling& tiling) {
  return tiling.slots != 0 && scheduler.MostRows() > kTileM &&
         scheduler.MostRows() <= kMostPackedRows;
}

// The experts that have rows, one after the other.
template <bool kRaggedDepth>
class PackedExperts {
 public:
  // Goes on to the next one; false after the last.
  template <typename Scheduler>
  __aicore__ inline bool Next(const Scheduler& scheduler, const GroupedGemmTiling& tiling) {
    for (; next_ < tiling.E; ++next_) {
      const Rows rows = scheduler.RowsOf(next_);
      if (rows.count == 0) continue;
      const uint64_t pitch = RoundUp(tiling.C, kFractal);
      depth_ = kRaggedDepth ? rows.count : tiling.R;
      row_ = kRaggedDepth ? rows.first : uint64_t{next_} * tiling.R;
      at_ = (kRaggedDepth ? rows.first : uint64_t{count_ % tiling.slots} * tiling.R) * pitch;
      ++next_;
      ++count_;
      return true;
    }
    return false;
  }
  __aicore__ inline uint32_t Passed() const { return next_; }  // experts, those without rows, too
  __aicore__ inline uint32_t Count() const { return count_; }  // of those with rows
  // The factor's rows, their number, and where they are when packed.
  __aicore__ inline uint64_t Row() const { return row_; }
  __aicore__ inline uint32_t Depth() const { return depth_; }
  __aicore__ inline uint64_t At() const { return at_; }

 private:
  uint32_t next_ = 0, count_ = 0, depth_ = 0;
  uint64_t row_ = 0, at_ = 0;
};

// On a cube core: the packed factor as it reads it.
template <typename T, bool kRaggedDepth>
class PackedRight {
 public:
  __aicore__ inline void Init(GM_ADDR packed) { packed_ = Global<T>(packed); }
  // Waits for the slot of a tile's expert. Experts before it are done with.
  template <typename Scheduler>
  __aicore__ inline void GoTo(uint32_t expert, const Scheduler& scheduler,
                              const GroupedGemmTiling& tiling) {
    while (experts_.Passed() <= expert) NextSlot(scheduler, tiling);
  }
  // Passes the experts that are left, of which this core has no tile.
  template <typename Scheduler>
  __aicore__ inline void Finish(const Scheduler& scheduler, const GroupedGemmTiling& tiling) {
    while (NextSlot(scheduler, tiling)) {
    }
  }
  // To L1, as CopyInFactor brings it there: r of the depth from r0 on, c columns from c0 on.
  __aicore__ inline void CopyIn(const LocalTensor<T>& dst, uint32_t c0, uint32_t c, uint32_t r0,
                                uint32_t r) const {
    const uint64_t at = experts_.At() + (uint64_t{c0} / kC0<T> * experts_.Depth() + r0) * kC0<T>;
    DataCopy(dst, packed_[at],
             DataCopyParams(CeilDiv(c, kC0<T>), r, experts_.Depth() - r, RoundUp(r, kFractal) - r));
  }

 private:
  template <typename Scheduler>
  __aicore__ inline bool NextSlot(const Scheduler& scheduler, const GroupedGemmTiling& tiling) {
    if (experts_.Count() != 0 && !told_) CrossCoreSetFlag<2, PIPE_MTE2>(packing::kSlotFree);
    told_ = !experts_.Next(scheduler, tiling);
    if (!told_) CrossCoreWaitFlag(packing::kSlotFilled);
    return !told_;
  }

  GlobalTensor<T> packed_;
  PackedExperts<kRaggedDepth> experts_;
  bool told_ = false;  // all slots are free again, and the vector cores know
};

// On a vector core: its share of each expert's factor.
template <typename T, bool kRaggedDepth>
class RightPacker {
 public:
  __aicore__ inline void Init(GM_ADDR right, GM_ADDR offsets, GM_ADDR packed,
                              const GroupedGemmTiling& tiling) {
    InitSocState();
    scheduler_.Init(offsets, tiling, GetBlockIdx() / GetSubBlockNum());
    right_ = Global<T>(right);
    packed_ = Global<T>(packed);
    tiling_ = tiling;
    // a weight is read here and nowhere else
    if (!kRaggedDepth) right_.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE);
    LocalMemAllocator<> ub;
    for (uint32_t i = 0; i < 2; ++i) {
      in_[i] = ub.Alloc<TPosition::VECIN, T>(kFractal * kColumns);
      out_[i] = ub.Alloc<TPosition::VECOUT, T>(kFractal * kColumns);
    }
  }
  __aicore__ inline void Process() {
    if (!Packs(scheduler_, tiling_)) return;
    for (int32_t i = 0; i < 2; ++i) {
      SetFlag<HardEvent::V_MTE2>(i);
      SetFlag<HardEvent::MTE3_V>(i);
    }
    PackedExperts<kRaggedDepth> experts;
    uint32_t freed = 0;
    while (experts.Next(scheduler_, tiling_)) {
      PackShare(experts);
      if (experts.Count() >= tiling_.slots) {
        CrossCoreWaitFlag(packing::kSlotFree);
        ++freed;
      }
      CrossCoreSetFlag<0, PIPE_MTE3>(packing::kAllThere);
      CrossCoreWaitFlag(packing::kAllThere);
      CrossCoreSetFlag<2, PIPE_MTE3>(packing::kSlotFilled);
    }
    for (; freed < experts.Count(); ++freed) CrossCoreWaitFlag(packing::kSlotFree);
    for (int32_t i = 0; i < 2; ++i) {
      WaitFlag<HardEvent::V_MTE2>(i);
      WaitFlag<HardEvent::MTE3_V>(i);
    }
  }

 private:
  // A piece is 16 rows of this many columns. UB has room for four times as many, but there is no
  // haste, and what the cube cores ask of memory waits behind pieces that were asked for before.
  // Modelled on 910B1, November 2026, dW of down at 8192 tokens: 86 % of the cube's time with 1344
  // columns, 88 % with these.
  static constexpr uint32_t kColumns = 336;
  static_assert(4 * kFractal * kColumns * sizeof(T) <= kUbBytes, "UB");

  struct Piece {
    uint32_t r0, r, c0, c;
  };

  __aicore__ inline void PackShare(const PackedExperts<kRaggedDepth>& experts) {
    const uint32_t across = CeilDiv(tiling_.C, kColumns);
    const uint64_t pieces = uint64_t{CeilDiv(experts.Depth(), kFractal)} * across;
    const uint64_t cores = GetBlockNum() * GetSubBlockNum();
    for (uint64_t i = GetBlockIdx(); i < pieces; i += cores) {
      const uint32_t r0 = i / across * kFractal;
      const Span columns = CutEvenly(tiling_.C, across, i % across);
      const Piece piece{r0, static_cast<uint32_t>(Min(kFractal, experts.Depth() - r0)),
                        columns.begin, columns.size};
      CopyIn(experts, piece);
      Pack(piece);
      CopyOut(experts, piece);
      buffer_ ^= 1;
    }
  }
  // Each of the two buffers goes round:
  //
  //   MTE2 CopyIn --MTE2_V--> V Pack --V_MTE3--> MTE3 CopyOut
  //        in_ is free <--V_MTE2--'  '<--MTE3_V-- out_ is free
  __aicore__ inline void CopyIn(const PackedExperts<kRaggedDepth>& experts, const Piece& piece) {
    const uint64_t at = (experts.Row() + piece.r0) * tiling_.C + piece.c0;
    const uint32_t filler = RoundUp(piece.c, kC0<T>) - piece.c;
    WaitFlag<HardEvent::V_MTE2>(buffer_);
    DataCopyPad(
        in_[buffer_], right_[at],
        DataCopyExtParams(piece.r, piece.c * sizeof(T), (tiling_.C - piece.c) * sizeof(T), 0, 0),
        DataCopyPadExtParams<T>(filler != 0, 0, filler, static_cast<T>(0)));
    SetFlag<HardEvent::MTE2_V>(buffer_);
  }
  __aicore__ inline void Pack(const Piece& piece) {
    const uint32_t blocks = CeilDiv(piece.c, kC0<T>);
    WaitFlag<HardEvent::MTE2_V>(buffer_);
    WaitFlag<HardEvent::MTE3_V>(buffer_);
    for (uint32_t i = 0; i < piece.r; ++i) {
      DataCopy(out_[buffer_][i * kC0<T>], in_[buffer_][i * blocks * kC0<T>],
               DataCopyParams(blocks, 1, 0, piece.r - 1));
    }
    SetFlag<HardEvent::V_MTE2>(buffer_);
    SetFlag<HardEvent::V_MTE3>(buffer_);
  }
  __aicore__ inline void CopyOut(const PackedExperts<kRaggedDepth>& experts, const Piece& piece) {
    const uint64_t at =
        experts.At() + (uint64_t{piece.c0} / kC0<T> * experts.Depth() + piece.r0) * kC0<T>;
    WaitFlag<HardEvent::V_MTE3>(buffer_);
    DataCopy(packed_[at], out_[buffer_],
             DataCopyParams(CeilDiv(piece.c, kC0<T>), piece.r, 0, experts.Depth() - piece.r));
    SetFlag<HardEvent::MTE3_V>(buffer_);
  }

  TileScheduler<kRaggedDepth, kTileC> scheduler_;
  GlobalTensor<T> right_, packed_;
  GroupedGemmTiling tiling_;
  LocalTensor<T> in_[2], out_[2];
  int32_t buffer_ = 0;
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_PACK_H_
