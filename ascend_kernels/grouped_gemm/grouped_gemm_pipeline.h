// The pipeline of the grouped products on a cube core: load, multiply, store.
#ifndef MOGE_ASCEND_GROUPED_GEMM_PIPELINE_H_
#define MOGE_ASCEND_GROUPED_GEMM_PIPELINE_H_

#include "grouped_gemm_factors.h"
#include "grouped_gemm_memory.h"
#include "grouped_gemm_pack.h"

namespace moge {

// The left factor is there from the beginning.
struct AtOnce {
  static constexpr bool kLater = false;
  __aicore__ inline void operator()() const {}
};

// result[m, c] = left[m, r] right[r, c], tile after tile:
//
//            left                                 right
//   forward  rows [N, I]         kDepthInner      weight [E, O, I]  kDepthInner or kPacked
//   dX       d_out [N, O]        kDepthInner      weight [E, O, I]  kDepthOuter
//   dW       d_out [N, O]        kDepthOuter      rows [N, I]       kDepthOuter
//
// A step multiplies a chunk of the left factor with one of the right one, and there are three
// phases: LoadLeft and LoadRight (to L1), MultiplyStep (through L0 into L0C) and StoreStep (the
// epilogue: from L0C). Load is one step ahead of multiply:
//
//    MTE2       Load 0 | Load 1     | Load 2     | Load 3     |
//    MTE1, M           | Multiply 0 | Multiply 1 | Multiply 2 | Multiply 3
//    FIX                                         | Store: step 1 ended a sum
//
// A cube core synchronises nothing by itself, so every buffer has a flag that says free and one
// that says filled. s is right_stages_.
//
//    buffer        where  KB: streaming, resident  filled by  read by  free          filled
//    left_l1_[i]   L1     2 x 128   4 x 84         MTE2       MTE1     MTE1_MTE2,    MTE2_MTE1,
//                         dW        3 x 106                            id s + i      id s + i
//    right_l1_[i]  L1     2 x 128   2 x 84         MTE2       MTE1     MTE1_MTE2,    MTE2_MTE1,
//                         fused 2 x 112;                               id i          id i
//                         dX, dW 3 x 64 (dX resident 2 x 84)
//    both, of bytes, resident: 3 x 84 each
//    left_l0_[i]   L0A    2 x 32; dX, dW 2 x 16    MTE1       M        M_MTE1,       MTE1_M,
//    right_l0_[i]  L0B    2 x 32; fused 2 x 28     MTE1       M        id i: both    id i: both
//    tile_l0c_     L0C    128                      M          FIX      unit flags    unit flags
//
// Where rows of the right factor run along the depth, a tile has two parts, the halves of its
// columns: with fewer rows in a chunk, each can be long. Where they run along the columns, a row of
// a chunk has all of the tile's columns, and the tile is one part. Then the vector cores may pack
// the right factor (grouped_gemm_pack.h), and LoadStep takes its chunks from there.
// With kHalves = 2, the right factor is [E, 2 * C, R], and the parts are the same columns of its
// two halves, or columns that follow each other (tiling.beside).
// kColumns: the most columns of a part.
// kNibbles: bytes are two integers of four bits each, and r counts bytes. A row is two of the left
// factor, and a tile has one more, of ones.
template <typename T, Layout kLeft, Layout kRight, uint32_t kHalves = 1,
          uint32_t kColumns = kMostColumns<kRight, kHalves>, bool kNibbles = false>
class TileProducts {
 public:
  using Sum = SumOf<T>;
  using Factor = FactorOf<T, kNibbles>;
  static constexpr bool kRaggedDepth = kLeft == Layout::kDepthOuter;
  static constexpr bool kRightDepthOuter = kRight == Layout::kDepthOuter;
  static constexpr uint32_t kParts = kRightDepthOuter ? 1 : 2;
  static constexpr uint32_t kPartC = kColumns;
  // the most columns of the result that a tile may have
  static constexpr uint32_t kMaxC = kHalves == 1 ? kParts * kPartC : kPartC;
  static constexpr uint32_t kL0Depth = kL0Bytes / 2 / (kTileC / kParts) / sizeof(T);
  using Factors = ProductFactors<T, kLeft, kRight, kHalves, kPartC>;
  using Scheduler = TileScheduler<kRaggedDepth, kMaxC, kNibbles ? 2 : 1>;
  using Streaming = StreamingLeft<kRightDepthOuter, kPartC>;
  using Resident = ResidentLeft<kRaggedDepth, sizeof(T) == 1>;
  static_assert(kHalves == 1 || !kRightDepthOuter, "parts are rows of the weight");
  // A mix kernel has less of L1: its parts are narrower, or nothing streams (StaysInL1).
  static_assert(Streaming::kBytes <= (kPartC == kTileC / 2 ? kL1Bytes : kL1MixBytes),
                "L1, streaming");
  static_assert(Resident::kBytes <= kL1MixBytes, "L1, resident");
  static_assert(2 * kTileM * kL0Depth * sizeof(T) <= kL0Bytes, "L0A");
  static_assert(2 * kPartC * kL0Depth * sizeof(T) <= kL0Bytes, "L0B");
  static_assert(kParts * kTileM * kPartC * sizeof(Sum) <= kL0cBytes, "L0C");

  __aicore__ inline void Init(GM_ADDR left, GM_ADDR right, GM_ADDR offsets,
                              const GroupedGemmTiling& tiling) {
    InitSocState();
    SetMMRowMajor();  // the order in which CopyOut takes the fractals
    Prepare(left, right, offsets, tiling);
  }
  // All but the core's registers: for a second product in the same kernel.
  __aicore__ inline void Prepare(GM_ADDR left, GM_ADDR right, GM_ADDR offsets,
                                 const GroupedGemmTiling& tiling) {
    factors_.Init(left, right, tiling);
    tiling_ = tiling;
    scheduler_.Init(offsets, tiling, GetBlockIdx());
    // what is read once must not drive the rest out of L2
    if (scheduler_.Contiguous()) factors_.ReadRightOnce();
    const uint64_t most = scheduler_.MostRows();
    const uint64_t rows = (kRaggedDepth ? tiling.rows : most) + (kNibbles ? 1 : 0);
    const uint32_t m = RoundUp(Min(kTileM, rows), kFractal);
    resident_ = Resident::Fits(m, kRaggedDepth ? most : tiling.R, sizeof(T));
    packs_ = kRightDepthOuter && Packs(scheduler_, tiling);
    if (resident_) {
      DivideL1<Resident>();
    } else {
      DivideL1<Streaming>();
    }
    for (uint32_t i = 0; i < 2; ++i) {
      left_l0_[i] = LocalTensor<T>(TPosition::A2, i * kL0Bytes / 2, kTileM * kL0Depth);
      right_l0_[i] = LocalTensor<T>(TPosition::B2, i * kL0Bytes / 2, kPartC * kL0Depth);
    }
    tile_l0c_ = LocalTensor<Sum>(TPosition::CO1, 0, kTileM * kTileC);
  }

  // Rows of the product.
  static __aicore__ inline uint32_t Rows(const Tile& tile) { return tile.m + (kNibbles ? 1 : 0); }
  static __aicore__ inline uint32_t Parts(const Tile& tile) { return Factors::Parts(tile); }
  // Where vector cores pack the right factor: after Init, before Process.
  __aicore__ inline void TakePacked(GM_ADDR packed) { packed_.Init(packed); }

  // epilogue(tile, part, columns of the part, L0C) stores each part of a tile.
  template <typename Epilogue>
  __aicore__ inline void Process(Epilogue& epilogue) {
    AtOnce ready;
    Process(epilogue, ready);
  }
  // With Ready::kLater, ready() returns once there is a left factor. The right one's chunks of the
  // first two steps come before.
  template <typename Epilogue, typename Ready>
  __aicore__ inline void Process(Epilogue& epilogue, Ready& ready) {
    SetFree();
    Step step{}, loaded{};  // `loaded` is the one before `step`
    bool any = false, later = Ready::kLater;
    while (NextTile(step.tile)) {
      const Tile& tile = step.tile;
      const uint32_t lefts = LeftChunks(tile), parts = Parts(tile);
      if (tile.starts_strip) TakeStages(tile, lefts);
      for (uint32_t i = 0; i < lefts; ++i) {
        step.left = LeftChunk(tile, lefts, i);
        const bool load = LoadsLeft(tile, i), free = FreesLeft(tile, lefts, i);
        const uint32_t rights = Max(1, CeilDiv(step.left.r, right_depth_));
        for (step.part = 0; step.part < parts; ++step.part) {
          for (uint32_t j = 0; j < rights; ++j) {
            const bool first = j == 0, last = j + 1 == rights;
            step.loads_left = load && step.part == 0 && first;
            step.frees_left = free && step.part + 1 == parts && last;
            step.right = RightChunk(step.left, j);
            step.starts_sum = i == 0 && first;
            step.ends_sum = i + 1 == lefts && last;
            // the left stage is free before the right one
            if (!later) LoadLeft(step);
            LoadRight(step);
            if (later && any) {
              ready();
              LoadLeft(loaded);
              LoadLeft(step);
              later = false;
            }
            if (any) MultiplyAndStore(loaded, epilogue);
            loaded = step;
            any = true;
          }
        }
      }
    }
    if (later) {
      ready();
      if (any) LoadLeft(loaded);
    }
    if (any) MultiplyAndStore(loaded, epilogue);
    if (kRightDepthOuter && packs_) packed_.Finish(scheduler_, tiling_);
    WaitFree();
  }

 private:
  // A stage of L1, which holds r of a factor's depth, from r0 on.
  struct Chunk {
    uint32_t stage, r0, r;
  };
  struct Step {
    Tile tile;
    uint32_t part;
    Chunk left, right;
    bool loads_left, frees_left;  // the first, the last step that needs what is in left's stage
    bool starts_sum, ends_sum;    // the first, the last step of the part's sum
  };

  // --- the order of steps ---

  __aicore__ inline bool NextTile(Tile& tile) {
    if (!scheduler_.Next(tile)) return false;
    // A core's contiguous share begins with any column. Its tiles all sum forwards, or else the
    // order of a sum would depend on the number of cores. So a tile finds nothing of the last
    // one's streaming left factor in L1.
    if (scheduler_.Contiguous() && !resident_) tile.starts_strip = tile.ends_strip = true;
    return true;
  }
  // The first chunk of a strip takes the stage after the one used last, which is not free yet.
  __aicore__ inline void TakeStages(const Tile& tile, uint32_t lefts) {
    const uint32_t stage = left_stage_ + 1, at = tile.backward ? lefts - 1 : 0;
    // the chunk with depth 0 is `at` stages before it, counted around the stages
    stage_of_depth_0_ = (stage + left_stages_ - at % left_stages_) % left_stages_;
  }
  // The i-th chunk that a tile takes.
  __aicore__ inline Chunk LeftChunk(const Tile& tile, uint32_t lefts, uint32_t i) {
    const uint32_t at = tile.backward ? lefts - 1 - i : i;
    const uint32_t depth = LeftDepth(tile);
    left_stage_ = (stage_of_depth_0_ + at) % left_stages_;
    return {left_stage_, at * depth, static_cast<uint32_t>(Min(depth, tile.r - at * depth))};
  }
  // In the tiles of a strip after the first, as many chunks as there are stages are still in L1,
  // and as many stay for the next tile.
  __aicore__ inline bool LoadsLeft(const Tile& tile, uint32_t i) const {
    return tile.starts_strip || i >= left_stages_;
  }
  __aicore__ inline bool FreesLeft(const Tile& tile, uint32_t lefts, uint32_t i) const {
    return tile.ends_strip || i + left_stages_ < lefts;
  }
  // The j-th chunk of the right factor for a chunk of the left one.
  __aicore__ inline Chunk RightChunk(const Chunk& left, uint32_t j) {
    const uint32_t r = j * right_depth_;
    right_stage_ = (right_stage_ + 1) % right_stages_;
    return {right_stage_, left.r0 + r, static_cast<uint32_t>(Min(right_depth_, left.r - r))};
  }
  __aicore__ inline uint32_t LeftDepth(const Tile& tile) const {
    return resident_ ? Resident::ChunkDepth(tile.r, sizeof(T)) : kRowBytes / sizeof(T);
  }
  __aicore__ inline uint32_t LeftChunks(const Tile& tile) const {
    return Max(1, CeilDiv(tile.r, LeftDepth(tile)));  // a tile without a depth takes one step
  }
  __aicore__ inline uint32_t Columns(const Step& step) const {
    return Factors::Columns(step.tile, step.part);
  }

  // --- phase 1: to L1 ---

  __aicore__ inline void LoadLeft(const Step& step) {
    if (step.tile.r == 0 || !step.loads_left) return;
    const Chunk& left = step.left;
    WaitFlag<HardEvent::MTE1_MTE2>(LeftFlag(left));
    CopyInFactor<T, kLeft, kNibbles>(left_l1_[left.stage], factors_.Left(step.tile, left.r0),
                                     factors_.LeftPitch(), step.tile.m, left.r);
    SetFlag<HardEvent::MTE2_MTE1>(LeftFlag(left));
  }
  __aicore__ inline void LoadRight(const Step& step) {
    if (step.tile.r == 0) return;
    const Tile& tile = step.tile;
    const Chunk& right = step.right;
    if (kRightDepthOuter && packs_) packed_.GoTo(tile.expert, scheduler_, tiling_);
    WaitFlag<HardEvent::MTE1_MTE2>(right.stage);
    if (kRightDepthOuter && packs_) {
      packed_.CopyIn(right_l1_[right.stage], tile.c0, tile.c, right.r0, right.r);
    } else {
      CopyInFactor<T, kRight>(right_l1_[right.stage], factors_.Right(tile, step.part, right.r0),
                              factors_.RightPitch(), Columns(step), right.r);
    }
    SetFlag<HardEvent::MTE2_MTE1>(right.stage);
  }

  // --- phase 2: through L0 into L0C ---

  __aicore__ inline void MultiplyStep(const Step& step) {
    if (step.tile.r == 0) {
      MultiplyZeros(step);
      return;
    }
    const Chunk &left = step.left, &right = step.right;
    if (step.loads_left) WaitFlag<HardEvent::MTE2_MTE1>(LeftFlag(left));
    WaitFlag<HardEvent::MTE2_MTE1>(right.stage);
    // Even pieces: while the cube multiplies a short one, MTE1 would not have loaded a long one.
    const uint32_t pieces = CeilDiv(right.r, kL0Depth);
    const uint32_t depth = RoundUp(CeilDiv(right.r, pieces), Max(kFractal, kC0<T>));
    for (uint32_t r0 = 0; r0 < right.r; r0 += depth) {
      const uint32_t r = Min(depth, right.r - r0);
      WaitFlag<HardEvent::M_MTE1>(l0_);
      LoadFractals<T, kLeft, true>(left_l0_[l0_], left_l1_[left.stage], Rows(step.tile), left.r,
                                   right.r0 + r0 - left.r0, r);
      LoadFractals<T, kRight, false>(right_l0_[l0_], right_l1_[right.stage], Columns(step), right.r,
                                     r0, r);
      SetFlag<HardEvent::MTE1_M>(l0_);
      MultiplyL0(step, r, step.starts_sum && r0 == 0, step.ends_sum && r0 + r == right.r);
    }
    SetFlag<HardEvent::MTE1_MTE2>(right.stage);
    if (step.frees_left) SetFlag<HardEvent::MTE1_MTE2>(LeftFlag(left));
  }
  // A tile without a depth: the product of zeros.
  __aicore__ inline void MultiplyZeros(const Step& step) {
    WaitFlag<HardEvent::M_MTE1>(l0_);
    LoadZeros(left_l0_[l0_], Rows(step.tile));
    LoadZeros(right_l0_[l0_], Columns(step));
    SetFlag<HardEvent::MTE1_M>(l0_);
    MultiplyL0(step, kC0<T>, true, true);
  }
  __aicore__ inline void MultiplyL0(const Step& step, uint32_t r, bool first, bool last) {
    const Tile& tile = step.tile;
    MmadParams params;
    params.m = Max(2, Rows(tile));  // for one row, Mmad expects another layout
    params.n = RoundUp(Columns(step), kFractal);
    params.k = r * (kNibbles ? 2 : 1);
    params.unitFlag = last ? kUnitFlagLast : kUnitFlagMore;
    params.kDirectionAlign = kIsFloat<T> && kLeft == Layout::kDepthOuter && tile.r != 0;
    params.cmatrixInitVal = first;
    WaitFlag<HardEvent::MTE1_M>(l0_);
    Mmad(PartL0c(step), left_l0_[l0_].template ReinterpretCast<Factor>(),
         right_l0_[l0_].template ReinterpretCast<Factor>(), params);
    if (params.m / kFractal * (params.n / kFractal) < kFewFractals) PipeBarrier<PIPE_M>();
    SetFlag<HardEvent::M_MTE1>(l0_);
    l0_ ^= 1;
  }
  __aicore__ inline LocalTensor<Sum> PartL0c(const Step& step) const {
    return tile_l0c_[step.part * kTileM * kPartC];
  }

  // --- phase 3: to global memory ---

  template <typename Epilogue>
  __aicore__ inline void StoreStep(const Step& step, Epilogue& epilogue) {
    if (step.ends_sum) epilogue(step.tile, step.part, Columns(step), PartL0c(step));
  }
  template <typename Epilogue>
  __aicore__ inline void MultiplyAndStore(const Step& step, Epilogue& epilogue) {
    MultiplyStep(step);
    StoreStep(step, epilogue);
  }

  // --- buffers ---

  template <typename Plan>
  __aicore__ inline void DivideL1() {
    left_stages_ = Plan::kLeftStages;
    right_stages_ = Plan::kRightStages;
    for (uint32_t i = 0; i < left_stages_; ++i) {
      left_l1_[i] =
          LocalTensor<T>(TPosition::A1, i * Plan::kLeftBytes, Plan::kLeftBytes / sizeof(T));
    }
    for (uint32_t i = 0; i < right_stages_; ++i) {
      right_l1_[i] =
          LocalTensor<T>(TPosition::B1, left_stages_ * Plan::kLeftBytes + i * Plan::kRightBytes,
                         Plan::kRightBytes / sizeof(T));
    }
    // A chunk of the right factor is as deep as its stage allows. Where its rows run along the
    // columns, it is cut into whole pieces of L0; where they run along the depth, into whole lines.
    // If rows do not begin on lines, all that fits is taken: more of a line costs less than a cut.
    constexpr uint32_t kFits = Plan::kRightBytes / (kRightDepthOuter ? kTileC : kPartC) / sizeof(T);
    const uint32_t row = tiling_.R * sizeof(T) % kLineBytes == 0 ? kLineBytes : kBlockBytes;
    const uint32_t unit = kRightDepthOuter ? kL0Depth : row / sizeof(T);
    right_depth_ = kFits / unit * unit;
  }
  __aicore__ inline int32_t LeftFlag(const Chunk& left) const { return right_stages_ + left.stage; }
  // In the beginning every buffer is free, and so it must be in the end.
  __aicore__ inline void SetFree() {
    for (uint32_t i = 0; i < left_stages_ + right_stages_; ++i) SetFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < 2; ++i) SetFlag<HardEvent::M_MTE1>(i);
  }
  __aicore__ inline void WaitFree() {
    for (uint32_t i = 0; i < left_stages_ + right_stages_; ++i) WaitFlag<HardEvent::MTE1_MTE2>(i);
    for (int32_t i = 0; i < 2; ++i) WaitFlag<HardEvent::M_MTE1>(i);
  }

  Factors factors_;
  GroupedGemmTiling tiling_;
  Scheduler scheduler_;
  PackedRight<T, kRaggedDepth> packed_;
  bool packs_ = false;
  bool resident_ = false;  // the left factor stays in L1 for a strip
  uint32_t left_stages_ = 0, right_stages_ = 0, right_depth_ = 0;
  LocalTensor<T> left_l1_[kMaxStages], right_l1_[kMaxStages];
  LocalTensor<T> left_l0_[2], right_l0_[2];
  LocalTensor<Sum> tile_l0c_;
  uint32_t left_stage_ = 0, right_stage_ = 0;  // where the last chunks taken are
  uint32_t stage_of_depth_0_ = 0;  // the strip's; its other chunks follow around the stages
  int32_t l0_ = 0;                 // half of L0 that is filled next
};

}  // namespace moge

#endif  // MOGE_ASCEND_GROUPED_GEMM_PIPELINE_H_
