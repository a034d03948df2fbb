// Routing for Pangu's E = 64, G = 8 and K = 8, without a scalar for each token.
//
// A core has one tile of 16 L tokens, seen as 16 streams of L tokens that follow each other. In the
// stream layout [L, 16, G], row r holds the r-th token of every stream, 128 lanes of float16:
//
//             | stream 0     | stream 1     | ... | stream 15      |
//             | group 0 .. 7 | group 0 .. 7 |     | group 0 .. 7   |   a repeat of 16 bits
//    row 0    | token 0      | token L      |     | token 15 L     |
//    row 1    | token 1      | token L + 1  |     | token 15 L + 1 |
//     :
//
// A running count down the rows is one addition for all streams and groups, and exact: at most L.
// It is the last term of a slot's row. Where the slot's expert is the i-th of group g:
//
//    row of a slot = group_[g]              rows of the groups before
//                  + start_[i, g]           rows of the experts before it in the group    }
//                  + before_[i, g]          its slots on the cores before                 } first_
//                  + streams_[s, i, g]      its slots in the streams before               }
//                  + running_[r, i, s, g]   its slots in the stream, up to this one       - 1
//
// The other direction, row_to_slot, consists of lists: for each expert GatherMask cuts its tokens
// out of the numbers of all tokens. The list goes to the rows from group_ + start_ + before_ on.
#ifndef MOGE_ASCEND_ROUTE_STREAMS_KERNEL_H_
#define MOGE_ASCEND_ROUTE_STREAMS_KERNEL_H_

#include "../rows.h"
#include "route_tiling.h"

namespace moge {

constexpr uint32_t kStreams = 16;
constexpr uint32_t kStreamStep = 8;  // L is a multiple: then lists of tokens fill whole repeats
constexpr uint32_t kRouteMaxTokens = kStreams * 32;
constexpr uint32_t kRouteMaxCores = 64;
constexpr int16_t kFirstBits = -0x6000;              // see RouteStreams::kCountBase
constexpr uint32_t kRouteMaxT = -kFirstBits - 1024;  // bits of a first row stay below -1024

// UB, in bytes where a tile has the most tokens. All but the queues is filled and read by V, in
// order (and by S where said); no flag guards it.
//
//    buffer       bytes    holds
//    ids_in_      16 KB    ids [t, G]; queue: MTE2 fills it, V reads it
//    by_stream_   16 KB    ids [L, 16, G]; later the selected counts, and the selected first rows
//    by_group_    8 KB     ids [G, t]; and a block of constants
//    running_     64 KB    running counts [L, P, 16, G]; before that ids [t, G] as float16
//    bits_        4.5 KB   P times [L, 16, G]: whose expert is i; and one more for a temporary
//    constants_   288      ones; for each i the experts' ids, a block each
//    streams_     8 KB     counts [16, P, G] of the streams before, and of each
//    first_       2 KB     first rows [P, 16, G] in int16; before that counts in float16
//    counts_in_   16 KB    counts [cores, P, G]; queue: MTE2 fills it, V reads it
//    sums_        1 KB     before_, total_, start_ [P, G], group_ [G]; S reads it, and fills group_
//    wide_        16 KB    rows [t, G] in float
//    token_slots_ 1 KB     first slot of each token of the tile
//    lists_       1.3 KB   slots of the P experts of a group
//    slots_out_   2 x 2.5 KB the same in int32; queue: V fills it, MTE3 reads it
//    rows_out_    16 KB    rows [t, G] in int32; queue: V fills it, MTE3 reads it
//    small_out_   288      counts [P, G], then offsets; queue: V or S fills it, MTE3 reads it
class RouteStreams : Pangu {
 public:
  __aicore__ inline void Init(GM_ADDR experts, GM_ADDR row_to_slot, GM_ADDR slot_to_row,
                              GM_ADDR offsets, GM_ADDR workspace, const RouteTiling& tiling,
                              TPipe* pipe) {
    experts_ = Global<int32_t>(experts);
    row_to_slot_ = Global<int32_t>(row_to_slot);
    slot_to_row_ = Global<int32_t>(slot_to_row);
    offsets_ = Global<int32_t>(offsets);
    workspace_ = Global<float>(workspace);
    L_ = tiling.stream_tokens;
    tokens_ = kStreams * L_;
    N_ = tiling.T * kG;
    share_ = MyShare(tiling.T);
    pipe->InitBuffer(ids_in_, 1, tokens_ * kG * sizeof(int32_t));
    pipe->InitBuffer(counts_in_, 1, kRouteMaxCores * kE * sizeof(float));
    pipe->InitBuffer(wide_, tokens_ * kG * sizeof(float));
    pipe->InitBuffer(by_stream_, 2 * L_ * kLanes * sizeof(half));
    pipe->InitBuffer(by_group_, tokens_ * kG * sizeof(half) + kBlockBytes);
    pipe->InitBuffer(running_, L_ * kP * kLanes * sizeof(half));
    pipe->InitBuffer(bits_, (kP + 1) * L_ * kLanes / 8);
    pipe->InitBuffer(constants_, (kP + 1) * kBlockBytes);
    pipe->InitBuffer(streams_, 2 * kStreams * kE * sizeof(float));
    pipe->InitBuffer(first_, kP * kLanes * sizeof(int16_t));
    pipe->InitBuffer(sums_, 4 * kE * sizeof(float));
    pipe->InitBuffer(token_slots_, tokens_ * sizeof(half));
    pipe->InitBuffer(lists_, kLists * sizeof(half));
    pipe->InitBuffer(slots_out_, 2, kLists * sizeof(int32_t));
    pipe->InitBuffer(rows_out_, 1, tokens_ * kG * sizeof(int32_t));
    pipe->InitBuffer(small_out_, 1, (kE + kPerBlock<float>)*sizeof(float));
    before_ = sums_.Get<float>();
    total_ = before_[kE];
    start_ = total_[kE];
    group_ = start_[kE];
  }
  __aicore__ inline void Process() {
    TakeIds();
    RunningCounts();
    StreamCounts();
    SyncAll();
    ExpertRows();
    SlotRows();
    RowSlots();
    MarkUnusedRows(row_to_slot_, used_, N_, rows_out_, tokens_ * kG);
  }

 private:
  static constexpr uint32_t kLanes = kStreams * kG;  // a repeat of 16 bits
  // the P lists of a group, each of which begins on a block
  static constexpr uint32_t kLists = kRouteMaxTokens + kP * kPerBlock<half>;
  static constexpr uint32_t kMaxSlots = kRouteMaxTokens * kG;
  // A slot's running count and its stream's first row pass through Select as float16, and their
  // bits are then added as int16. So both are kept where bits are integers: a count from 1024 up,
  // where the bits of float16 grow by 1 as its value does, and a first row as the bits of a normal
  // negative number. For a slot of no expert the sum is kRowBias.
  static constexpr float kCountBase = 1024.0f;
  static constexpr int16_t kCountBits = 0x6400;
  static constexpr float kFirstBase = -0x1p-7f;  // has kFirstBits
  static constexpr int16_t kRowBias = kCountBits + kFirstBits;
  static_assert(kMaxSlots <= 16384, "slots of a tile in float16");
  static_assert(kMaxSlots * (3 * 4 + 3 * 2 + kP * 2) +  // ids, rows, counts
                        (kP + 1) * kMaxSlots / 8 + (kP + 2) * kBlockBytes +
                        (kRouteMaxCores + 2 * kStreams + 4 + 2) * kE * 4 +  // counts
                        kP * kLanes * 2 + kRouteMaxTokens * 2 + kLists * (2 + 2 * 4) <=
                    kUbBytes,
                "UB");

  // Ids become float16, by stream and by group. An id that is no expert's may be rounded, but not
  // to an expert's.
  __aicore__ inline void TakeIds() {
    const uint32_t count = share_.end - share_.begin, slots = tokens_ * kG;
    LocalTensor<int32_t> ids = ids_in_.AllocTensor<int32_t>();
    Load(ids, experts_[share_.begin * kG], count * kG);
    ids_in_.EnQue(ids);
    ids = ids_in_.DeQue<int32_t>();
    if (count < tokens_) Duplicate(ids[count * kG], -1, (tokens_ - count) * kG);
    SetDeqScale(static_cast<half>(1.0f));  // a cast from int32 to float16 multiplies by it
    LocalTensor<half> by_stream = by_stream_.Get<half>();
    for (uint32_t h = 0; h < 2; ++h) {  // 64 lanes of a row: 8 streams, whose tokens lie apart
      Cast(by_stream[h * 64], ids[h * 64 * L_], RoundMode::CAST_NONE, 64, L_,
           UnaryRepeatParams(1, L_, 8, 1));
    }
    LocalTensor<half> by_token = running_.Get<half>(), pairs = by_token[slots];
    LocalTensor<half> by_group = by_group_.Get<half>();
    Cast(by_token, ids, RoundMode::CAST_NONE, slots);
    ids_in_.FreeTensor(ids);
    // GatherMask's patterns 3 to 6 take the first to the fourth of every four elements, its
    // patterns 1 and 2 the first and the second of every two. A token has 8 ids: one for each
    // group.
    uint64_t taken = 0;
    for (uint32_t q = 0; q < 4; ++q) {  // groups q and q + 4 together, then each by itself
      GatherMask(pairs, by_token, static_cast<uint8_t>(3 + q), true, slots,
                 GatherMaskParams(1, 1, 8, 8), taken);
      GatherMask(by_group[q * tokens_], pairs, static_cast<uint8_t>(1), true, 2 * tokens_,
                 GatherMaskParams(1, 1, 8, 8), taken);
      GatherMask(by_group[(q + 4) * tokens_], pairs, static_cast<uint8_t>(2), true, 2 * tokens_,
                 GatherMaskParams(1, 1, 8, 8), taken);
    }
  }

  __aicore__ inline LocalTensor<uint8_t> Bits(uint32_t i) {
    return bits_.Get<uint8_t>()[i * L_ * kLanes / 8];
  }

  // running[r, i, s, g] = kCountBase + the tokens 0 to r of stream s whose expert in group g is i
  __aicore__ inline void RunningCounts() {
    LocalTensor<half> ones = constants_.Get<half>(), mine = ones[kPerBlock<half>];
    LocalTensor<half> by_stream = by_stream_.Get<half>(), running = running_.Get<half>();
    Duplicate(ones, static_cast<half>(1.0f), kPerBlock<half>);
    LocalTensor<half> groups = by_group_.Get<half>()[tokens_ * kG];
    CreateVecIndex(groups, static_cast<half>(0.0f), kPerBlock<half>);
    // the first experts of groups, 0, 8, ... 56; a block has two streams' lanes, so twice
    Muls(groups, groups, static_cast<half>(static_cast<float>(kP)), kPerBlock<half>);
    uint64_t second[2] = {0xff00, 0};
    Adds(groups, groups, static_cast<half>(-static_cast<float>(kE)), second, 1,
         UnaryRepeatParams(1, 1, 8, 8));
    const uint8_t rows = L_;
    for (uint32_t i = 0; i < kP; ++i) {
      LocalTensor<half> expert = mine[i * kPerBlock<half>];
      Adds(expert, groups, static_cast<half>(static_cast<float>(i)), kPerBlock<half>);
      Compare(Bits(i), by_stream, expert, CMPMODE::EQ, kLanes, rows,
              BinaryRepeatParams(1, 1, 0, 8, 8, 0));
      Select(running[i * kLanes], Bits(i), ones, static_cast<half>(0.0f),
             SELMODE::VSEL_TENSOR_SCALAR_MODE, kLanes, rows,
             BinaryRepeatParams(1, 0, 0, 8 * kP, 0, 0));
    }
    Adds(running, running, static_cast<half>(kCountBase), kP * kLanes);
    for (uint32_t r = 1; r < L_; ++r) {
      LocalTensor<half> row = running[r * kP * kLanes];
      Add(row, running[(r - 1) * kP * kLanes], row, kP * kLanes);
    }
  }

  // streams[s, i, g] = slots of the streams before s; the core's sum goes to the workspace
  __aicore__ inline void StreamCounts() {
    LocalTensor<float> before = streams_.Get<float>(), own = before[kStreams * kE];
    LocalTensor<half> last = first_.Get<half>();
    Adds(last, running_.Get<half>()[(L_ - 1) * kP * kLanes], static_cast<half>(-kCountBase),
         kP * kLanes);
    for (uint32_t h = 0; h < 2; ++h) {
      Cast(own[h * 8 * kE], last[h * 64], RoundMode::CAST_NONE, 64, kP,
           UnaryRepeatParams(8, 1, 1, 8));
    }
    Duplicate(before, 0.0f, kE);
    for (uint32_t s = 1; s < kStreams; ++s) {
      Add(before[s * kE], before[(s - 1) * kE], own[(s - 1) * kE], kE);
    }
    LocalTensor<float> counts = small_out_.AllocTensor<float>();
    Add(counts, before[(kStreams - 1) * kE], own[(kStreams - 1) * kE], kE);
    small_out_.EnQue(counts);
    counts = small_out_.DeQue<float>();
    Store(workspace_[GetBlockIdx() * kE], counts, kE);
    small_out_.FreeTensor(counts);
  }

  // first_[i, s, g] = kFirstBits + the row of the stream's first slot, if the group's first is 0
  __aicore__ inline void ExpertRows() {
    const uint32_t cores = GetBlockNum(), me = GetBlockIdx();
    LocalTensor<float> counts = counts_in_.AllocTensor<float>();
    Load(counts, workspace_, cores * kE);
    counts_in_.EnQue(counts);
    counts = counts_in_.DeQue<float>();
    const BinaryRepeatParams accumulate(1, 1, 1, 0, 8, 0);
    Duplicate(before_, 0.0f, kE);
    Add(before_, counts, before_, kE, me, accumulate);
    Adds(total_, before_, 0.0f, kE);
    Add(total_, counts[me * kE], total_, kE, cores - me, accumulate);
    counts_in_.FreeTensor(counts);
    StartRows();
    if (me == 0) StoreOffsets();

    Add(before_, before_, start_, kE);  // from here on, before_ includes start_
    LocalTensor<float> streams = streams_.Get<float>();
    Adds(total_, before_, static_cast<float>(kFirstBits), kE);
    Add(streams, streams, total_, kE, kStreams, BinaryRepeatParams(1, 1, 1, 8, 8, 0));
    LocalTensor<int16_t> first = first_.Get<int16_t>();
    for (uint32_t h = 0; h < 2; ++h) {
      Cast(first[h * 64], streams[h * 8 * kE], RoundMode::CAST_RINT, 64, kP,
           UnaryRepeatParams(1, 8, 8, 1));
    }
  }
  __aicore__ inline void StartRows() {
    // start_[i, g] = rows of the experts before i in the group
    Duplicate(start_, 0.0f, kG);
    for (uint32_t i = 1; i < kP; ++i) {
      Add(start_[i * kG], start_[(i - 1) * kG], total_[(i - 1) * kG], kG);
    }
    // group_[g] = rows of the groups before; start and total of the last expert are a group's rows
    constexpr uint32_t kLast = (kP - 1) * kG;
    float row = 0.0f;
    for (uint32_t g = 0; g < kG; ++g) {
      group_.SetValue(g, row);
      row += start_.GetValue(kLast + g) + total_.GetValue(kLast + g);
    }
    used_ = static_cast<uint64_t>(row);
  }
  // Core 0 writes all E + 1.
  __aicore__ inline void StoreOffsets() {
    LocalTensor<int32_t> offsets = small_out_.AllocTensor<int32_t>();
    for (uint32_t e = 0; e < kE; ++e) {
      const uint32_t g = e / kP, i = e % kP;
      offsets.SetValue(e, static_cast<int32_t>(group_.GetValue(g) + start_.GetValue(i * kG + g)));
    }
    offsets.SetValue(kE, static_cast<int32_t>(used_));
    small_out_.EnQue(offsets);
    offsets = small_out_.DeQue<int32_t>();
    Store(offsets_, offsets, kE + 1);
    small_out_.FreeTensor(offsets);
  }

  // [L, 16, G] rows + kRowBias + 1: each slot's running count and first row, added up
  __aicore__ inline LocalTensor<int16_t> SelectRows() {
    LocalTensor<half> count = by_stream_.Get<half>(), row = count[L_ * kLanes];
    LocalTensor<half> running = running_.Get<half>();
    LocalTensor<half> first = first_.Get<int16_t>().ReinterpretCast<half>();
    const uint8_t rows = L_;
    constexpr uint8_t kPitch = 8 * kP;
    Select(count, Bits(0), running, static_cast<half>(kCountBase), SELMODE::VSEL_TENSOR_SCALAR_MODE,
           kLanes, rows, BinaryRepeatParams(1, 1, 0, 8, kPitch, 0));
    Select(row, Bits(0), first, static_cast<half>(kFirstBase), SELMODE::VSEL_TENSOR_SCALAR_MODE,
           kLanes, rows, BinaryRepeatParams(1, 1, 0, 8, 0, 0));
    for (uint32_t i = 1; i < kP; ++i) {
      Select(count, Bits(i), running[i * kLanes], count, SELMODE::VSEL_TENSOR_TENSOR_MODE, kLanes,
             rows, BinaryRepeatParams(1, 1, 1, 8, kPitch, 8));
      Select(row, Bits(i), first[i * kLanes], row, SELMODE::VSEL_TENSOR_TENSOR_MODE, kLanes, rows,
             BinaryRepeatParams(1, 1, 1, 8, 0, 8));
    }
    LocalTensor<int16_t> biased = row.ReinterpretCast<int16_t>();
    Add(biased, biased, count.ReinterpretCast<int16_t>(), tokens_ * kG);
    return biased;
  }
  // slot_to_row
  __aicore__ inline void SlotRows() {
    const uint32_t slots = tokens_ * kG;
    const LocalTensor<int16_t> biased = SelectRows();
    LocalTensor<float> wide = wide_.Get<float>();
    for (uint32_t h = 0; h < 2; ++h) {  // back to the order of slots
      Cast(wide[h * 64 * L_], biased[h * 64], RoundMode::CAST_NONE, 64, L_,
           UnaryRepeatParams(L_, 1, 1, 8));
    }
    const bool dropped = used_ < N_;
    // a running count is at least 1, so what is still kRowBias belongs to no expert
    if (dropped) Compares(Bits(kP), wide, kRowBias + 0.5f, CMPMODE::GT, slots);
    LocalTensor<float> shift = group_[kG];
    Adds(shift, group_, -(kRowBias + 1.0f), kG);
    for (uint32_t from = 0; from < slots; from += kMaxRepeats / 8 * 8 * 64) {
      const uint32_t count = Min(kMaxRepeats / 8 * 8 * 64, slots - from);
      Add(wide[from], wide[from], shift, 64, count / 64, BinaryRepeatParams(1, 1, 0, 8, 8, 0));
    }
    if (dropped) {
      Select(wide, Bits(kP), wide, -1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, slots);
    }
    LocalTensor<int32_t> out = rows_out_.AllocTensor<int32_t>();
    Cast(out, wide, RoundMode::CAST_RINT, slots);
    rows_out_.EnQue(out);
    out = rows_out_.DeQue<int32_t>();
    const uint32_t count_out = (share_.end - share_.begin) * kG;
    if (count_out != 0) Store(slot_to_row_[share_.begin * kG], out, count_out);
    rows_out_.FreeTensor(out);
  }

  // row_to_slot: for each group and expert, the list of its slots in the order of tokens
  __aicore__ inline void RowSlots() {
    // first slots of the tile's tokens, multiples of 8: exact in float16 up to 16384
    LocalTensor<half> index = token_slots_.Get<half>(), lists = lists_.Get<half>();
    CreateVecIndex(index, static_cast<half>(0.0f), tokens_);
    Muls(index, index, static_cast<half>(static_cast<float>(kG)), tokens_);
    Duplicate(lists, static_cast<half>(0.0f), kLists);
    for (uint32_t g = 0; g < kG; ++g) {
      LocalTensor<half> ids = by_group_.Get<half>()[g * tokens_];
      uint32_t counts[kP], at[kP], end = 0;
      for (uint32_t i = 0; i < kP; ++i) {
        uint64_t taken = 0;
        Compares(Bits(kP), ids, static_cast<half>(static_cast<float>(g * kP + i)), CMPMODE::EQ,
                 tokens_);
        GatherMask(lists[end], index, Bits(kP).ReinterpretCast<uint16_t>(), true, tokens_,
                   GatherMaskParams(1, 1, 8, 8), taken);
        counts[i] = taken;
        at[i] = end;
        end += RoundUp(counts[i], kPerBlock<half>);
      }
      if (end == 0) continue;
      LocalTensor<int32_t> slots = slots_out_.AllocTensor<int32_t>();
      Cast(slots, lists, RoundMode::CAST_RINT, end);
      Adds(slots, slots, static_cast<int32_t>(share_.begin * kG + g), end);
      slots_out_.EnQue(slots);
      slots = slots_out_.DeQue<int32_t>();
      for (uint32_t i = 0; i < kP; ++i) {
        if (counts[i] == 0) continue;
        const float row = group_.GetValue(g) + before_.GetValue(i * kG + g);
        Store(row_to_slot_[static_cast<uint64_t>(row)], slots[at[i]], counts[i]);
      }
      slots_out_.FreeTensor(slots);
    }
  }

  GlobalTensor<int32_t> experts_, row_to_slot_, slot_to_row_, offsets_;
  GlobalTensor<float> workspace_;
  uint32_t L_ = 0;       // a stream's tokens,
  uint32_t tokens_ = 0;  // and the tile's
  uint64_t N_ = 0, used_ = 0;
  Share share_{};
  LocalTensor<float> before_, total_, start_, group_;
  TQue<TPosition::VECIN, 1> ids_in_, counts_in_;
  TBuf<TPosition::VECCALC> wide_, by_stream_, by_group_, running_, bits_, constants_, streams_,
      first_, sums_, token_slots_, lists_;
  TQue<TPosition::VECOUT, 1> slots_out_, rows_out_, small_out_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_STREAMS_KERNEL_H_
