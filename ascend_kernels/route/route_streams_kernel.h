// Routing for E = 64, G = 8, K = 8, Pangu's, without a scalar for a token.
//
// A core has one tile of 16 R tokens, seen as 16 streams of R tokens that follow each other. In the
// stream layout [R, 16, G] a row of 128 float16 lanes holds one token of each stream, so a running
// count over the rows is one addition for all streams and groups, and exact: at most R. With the
// counts of the streams and cores before, that gives the row of every slot. The other direction,
// the slots of every row, are lists that GatherMask cuts out of the token numbers, group by group.
#ifndef MOGE_ASCEND_ROUTE_STREAMS_KERNEL_H_
#define MOGE_ASCEND_ROUTE_STREAMS_KERNEL_H_

#include "route_slots_kernel.h"

namespace moge {

constexpr uint32_t kStreams = 16;
constexpr uint32_t kRouteG = 8;  // groups, and slots of a token
constexpr uint32_t kLocal = 8;   // experts of a group
constexpr uint32_t kRouteE = kRouteG * kLocal;
constexpr uint32_t kLanes = kStreams * kRouteG;  // one repeat of 16 bits
constexpr uint32_t kRouteRowStep = 8;            // rows whose lists fill whole repeats
constexpr uint32_t kRouteMaxRows = 32;           // R
constexpr uint32_t kRouteMaxTokens = kStreams * kRouteMaxRows;
constexpr uint32_t kRouteMaxCores = 64;
// Both parts of a slot's row go through Select as float16 and are added as int16. Running counts
// are kept from 1024 up, where the bits of float16 go up by one as its value does; the first rows
// of experts, counted from their group's, are the bits of normal negative numbers. The sum of the
// two for a slot of no expert is kRowBias.
constexpr float kCountBase = 1024.0f;
constexpr int16_t kCountBits = 0x6400;
constexpr int16_t kFirstBits = -0x6000;
constexpr float kFirstBase = -0x1p-7f;  // has these bits
constexpr int16_t kRowBias = kCountBits + kFirstBits;
constexpr uint32_t kRouteMaxT = -kFirstBits - 1024;  // the bits stay below -1024
// lists of a group, each on its own blocks
constexpr uint32_t kLists = kRouteMaxTokens + kLocal * kPerBlock<half>;
constexpr uint32_t kRouteMaxSlots = kRouteMaxTokens * kRouteG;
static_assert(kRouteMaxTokens * kRouteG <= 16384, "slots of a tile in float16");
static_assert(kRouteMaxSlots * (3 * 4 + 3 * 2 + kLocal * 2) +  // ids, rows, counts
                      (kLocal + 1) * kRouteMaxSlots / 8 + (kLocal + 2) * kBlockBytes +
                      (kRouteMaxCores + 2 * kStreams + 4 + 2) * kRouteE * 4 +  // counts
                      kLocal * kLanes * 2 + kRouteMaxTokens * 2 + kLists * (2 + 2 * 4) <=
                  kUbBytes,
              "UB");

class RouteStreams {
 public:
  __aicore__ inline void Init(GM_ADDR experts, GM_ADDR row_to_slot, GM_ADDR slot_to_row,
                              GM_ADDR offsets, GM_ADDR workspace, const RouteTiling& tiling,
                              TPipe* pipe) {
    experts_ = Global<int32_t>(experts);
    row_to_slot_ = Global<int32_t>(row_to_slot);
    slot_to_row_ = Global<int32_t>(slot_to_row);
    offsets_ = Global<int32_t>(offsets);
    workspace_ = Global<float>(workspace);
    R_ = tiling.rows;
    tokens_ = kStreams * R_;
    N_ = tiling.T * kRouteG;
    share_ = MyShare(tiling.T);
    pipe->InitBuffer(ids_in_, 1, tokens_ * kRouteG * sizeof(int32_t));
    pipe->InitBuffer(counts_in_, 1, kRouteMaxCores * kRouteE * sizeof(float));
    pipe->InitBuffer(float_, tokens_ * kRouteG * sizeof(float));
    pipe->InitBuffer(by_stream_, 2 * R_ * kLanes * sizeof(half));
    pipe->InitBuffer(by_group_, tokens_ * kRouteG * sizeof(half) + kBlockBytes);
    pipe->InitBuffer(running_, R_ * kLocal * kLanes * sizeof(half));
    pipe->InitBuffer(bits_, (kLocal + 1) * R_ * kLanes / 8);
    pipe->InitBuffer(constants_, (kLocal + 1) * kBlockBytes);
    pipe->InitBuffer(streams_, 2 * kStreams * kRouteE * sizeof(float));
    pipe->InitBuffer(first_, kLocal * kLanes * sizeof(int16_t));
    pipe->InitBuffer(experts_sum_, 4 * kRouteE * sizeof(float));
    pipe->InitBuffer(index_, tokens_ * sizeof(half));
    pipe->InitBuffer(lists_, kLists * sizeof(half));
    pipe->InitBuffer(slots_out_, 2, kLists * sizeof(int32_t));
    pipe->InitBuffer(rows_out_, 1, tokens_ * kRouteG * sizeof(int32_t));
    pipe->InitBuffer(small_out_, 1, (kRouteE + kPerBlock<float>)*sizeof(float));
  }
  __aicore__ inline void Process() {
    TakeIds();
    RunningCounts();
    StreamCounts();
    SyncAll();
    ExpertRows();
    SlotRows();
    RowSlots();
    EndRows(row_to_slot_, used_, N_, rows_out_, tokens_ * kRouteG);
  }

 private:
  // Ids by stream, and by group in the order of tokens, as float16: what is no expert's number may
  // be rounded, but not to one.
  __aicore__ inline void TakeIds() {
    const uint32_t count = share_.end - share_.begin, slots = tokens_ * kRouteG;
    LocalTensor<int32_t> ids = ids_in_.AllocTensor<int32_t>();
    Load(ids, experts_[share_.begin * kRouteG], count * kRouteG);
    ids_in_.EnQue(ids);
    ids = ids_in_.DeQue<int32_t>();
    if (count < tokens_) Duplicate(ids[count * kRouteG], -1, (tokens_ - count) * kRouteG);
    SetDeqScale(static_cast<half>(1.0f));  // a cast from int32 to float16 multiplies by it
    LocalTensor<half> by_stream = by_stream_.Get<half>();
    for (uint32_t h = 0; h < 2; ++h) {  // 8 streams, R tokens apart, are 64 lanes of a row
      Cast(by_stream[h * 64], ids[h * 64 * R_], RoundMode::CAST_NONE, 64, R_,
           UnaryRepeatParams(1, R_, 8, 1));
    }
    LocalTensor<half> by_token = running_.Get<half>(), pairs = by_token[slots];
    LocalTensor<half> by_group = by_group_.Get<half>();
    Cast(by_token, ids, RoundMode::CAST_NONE, slots);
    ids_in_.FreeTensor(ids);
    uint64_t taken = 0;
    for (uint32_t q = 0; q < 4; ++q) {  // columns q and q + 4, then each of them
      GatherMask(pairs, by_token, static_cast<uint8_t>(3 + q), true, slots,
                 GatherMaskParams(1, 1, 8, 8), taken);
      GatherMask(by_group[q * tokens_], pairs, static_cast<uint8_t>(1), true, 2 * tokens_,
                 GatherMaskParams(1, 1, 8, 8), taken);
      GatherMask(by_group[(q + 4) * tokens_], pairs, static_cast<uint8_t>(2), true, 2 * tokens_,
                 GatherMaskParams(1, 1, 8, 8), taken);
    }
  }

  __aicore__ inline LocalTensor<uint8_t> Bits(uint32_t i) {
    return bits_.Get<uint8_t>()[i * R_ * kLanes / 8];
  }

  // running[r, i, s, g]: tokens of stream s up to r whose expert in group g is the i-th, from
  // kCountBase up
  __aicore__ inline void RunningCounts() {
    LocalTensor<half> ones = constants_.Get<half>(), mine = ones[kPerBlock<half>];
    LocalTensor<half> by_stream = by_stream_.Get<half>(), running = running_.Get<half>();
    Duplicate(ones, static_cast<half>(1.0f), kPerBlock<half>);
    LocalTensor<half> groups = by_group_.Get<half>()[tokens_ * kRouteG];
    CreateVecIndex(groups, static_cast<half>(0.0f), kPerBlock<half>);
    Muls(groups, groups, static_cast<half>(8.0f), kPerBlock<half>);  // 0, 8, ... 120
    // lanes 8 to 15 are the groups of the next stream
    uint64_t second[2] = {0xff00, 0};
    Adds(groups, groups, static_cast<half>(-64.0f), second, 1, UnaryRepeatParams(1, 1, 8, 8));
    const uint8_t rows = R_;
    for (uint32_t i = 0; i < kLocal; ++i) {
      LocalTensor<half> expert = mine[i * kPerBlock<half>];
      Adds(expert, groups, static_cast<half>(static_cast<float>(i)), kPerBlock<half>);
      Compare(Bits(i), by_stream, expert, CMPMODE::EQ, kLanes, rows,
              BinaryRepeatParams(1, 1, 0, 8, 8, 0));
      Select(running[i * kLanes], Bits(i), ones, static_cast<half>(0.0f),
             SELMODE::VSEL_TENSOR_SCALAR_MODE, kLanes, rows,
             BinaryRepeatParams(1, 0, 0, 8 * kLocal, 0, 0));
    }
    Adds(running, running, static_cast<half>(kCountBase), kLocal * kLanes);
    for (uint32_t r = 1; r < R_; ++r) {
      LocalTensor<half> row = running[r * kLocal * kLanes];
      Add(row, running[(r - 1) * kLocal * kLanes], row, kLocal * kLanes);
    }
  }

  // streams[s, i, g]: slots of the streams before s; the core's own counts go to the workspace
  __aicore__ inline void StreamCounts() {
    LocalTensor<float> before = streams_.Get<float>(), own = before[kStreams * kRouteE];
    LocalTensor<half> last = first_.Get<half>();
    Adds(last, running_.Get<half>()[(R_ - 1) * kLocal * kLanes], static_cast<half>(-kCountBase),
         kLocal * kLanes);
    for (uint32_t h = 0; h < 2; ++h) {
      Cast(own[h * 8 * kRouteE], last[h * 64], RoundMode::CAST_NONE, 64, kLocal,
           UnaryRepeatParams(8, 1, 1, 8));
    }
    Duplicate(before, 0.0f, kRouteE);
    for (uint32_t s = 1; s < kStreams; ++s) {
      Add(before[s * kRouteE], before[(s - 1) * kRouteE], own[(s - 1) * kRouteE], kRouteE);
    }
    LocalTensor<float> counts = small_out_.AllocTensor<float>();
    Add(counts, before[(kStreams - 1) * kRouteE], own[(kStreams - 1) * kRouteE], kRouteE);
    small_out_.EnQue(counts);
    counts = small_out_.DeQue<float>();
    Store(workspace_[GetBlockIdx() * kRouteE], counts, kRouteE);
    small_out_.FreeTensor(counts);
  }

  // first_[i, s, g]: bits of the row of the stream's first slot, counted from the group's
  __aicore__ inline void ExpertRows() {
    const uint32_t cores = GetBlockNum(), me = GetBlockIdx();
    LocalTensor<float> counts = counts_in_.AllocTensor<float>();
    Load(counts, workspace_, cores * kRouteE);
    counts_in_.EnQue(counts);
    counts = counts_in_.DeQue<float>();
    LocalTensor<float> before = experts_sum_.Get<float>(), total = before[kRouteE];  // [i, g]
    LocalTensor<float> start = total[kRouteE], group = start[kRouteE];
    const BinaryRepeatParams accumulate(1, 1, 1, 0, 8, 0);
    Duplicate(before, 0.0f, kRouteE);
    Add(before, counts, before, kRouteE, me, accumulate);
    Adds(total, before, 0.0f, kRouteE);
    Add(total, counts[me * kRouteE], total, kRouteE, cores - me, accumulate);
    counts_in_.FreeTensor(counts);

    // start[i, g]: rows of the experts before i in the group
    Duplicate(start, 0.0f, kRouteG);
    for (uint32_t i = 1; i < kLocal; ++i) {
      Add(start[i * kRouteG], start[(i - 1) * kRouteG], total[(i - 1) * kRouteG], kRouteG);
    }
    // the same of the groups: a group's rows are those of its last expert and before
    constexpr uint32_t kLast = (kLocal - 1) * kRouteG;
    float row = 0.0f;
    for (uint32_t g = 0; g < kRouteG; ++g) {
      group.SetValue(g, row);
      row += start.GetValue(kLast + g) + total.GetValue(kLast + g);
    }
    used_ = static_cast<uint64_t>(row);
    if (me == 0) StoreOffsets(start, group);

    Add(before, before, start, kRouteE);
    LocalTensor<float> streams = streams_.Get<float>();
    Adds(total, before, static_cast<float>(kFirstBits), kRouteE);
    Add(streams, streams, total, kRouteE, kStreams, BinaryRepeatParams(1, 1, 1, 8, 8, 0));
    LocalTensor<int16_t> first = first_.Get<int16_t>();
    for (uint32_t h = 0; h < 2; ++h) {
      Cast(first[h * 64], streams[h * 8 * kRouteE], RoundMode::CAST_RINT, 64, kLocal,
           UnaryRepeatParams(1, 8, 8, 1));
    }
  }
  // 65 of them, in the order of experts
  __aicore__ inline void StoreOffsets(const LocalTensor<float>& start,
                                      const LocalTensor<float>& group) {
    LocalTensor<int32_t> offsets = small_out_.AllocTensor<int32_t>();
    for (uint32_t e = 0; e < kRouteE; ++e) {
      const uint32_t g = e / kLocal, i = e % kLocal;
      offsets.SetValue(e,
                       static_cast<int32_t>(group.GetValue(g) + start.GetValue(i * kRouteG + g)));
    }
    offsets.SetValue(kRouteE, static_cast<int32_t>(used_));
    small_out_.EnQue(offsets);
    offsets = small_out_.DeQue<int32_t>();
    Store(offsets_, offsets, kRouteE + 1);
    small_out_.FreeTensor(offsets);
  }

  // slot_to_row: of each slot's expert, its first row and the running count
  __aicore__ inline void SlotRows() {
    LocalTensor<half> count = by_stream_.Get<half>(), row = count[R_ * kLanes];
    LocalTensor<half> running = running_.Get<half>();
    LocalTensor<half> first = first_.Get<int16_t>().ReinterpretCast<half>();
    const uint8_t rows = R_;
    constexpr uint8_t kPitch = 8 * kLocal;
    Select(count, Bits(0), running, static_cast<half>(kCountBase), SELMODE::VSEL_TENSOR_SCALAR_MODE,
           kLanes, rows, BinaryRepeatParams(1, 1, 0, 8, kPitch, 0));
    Select(row, Bits(0), first, static_cast<half>(kFirstBase), SELMODE::VSEL_TENSOR_SCALAR_MODE,
           kLanes, rows, BinaryRepeatParams(1, 1, 0, 8, 0, 0));
    for (uint32_t i = 1; i < kLocal; ++i) {
      Select(count, Bits(i), running[i * kLanes], count, SELMODE::VSEL_TENSOR_TENSOR_MODE, kLanes,
             rows, BinaryRepeatParams(1, 1, 1, 8, kPitch, 8));
      Select(row, Bits(i), first[i * kLanes], row, SELMODE::VSEL_TENSOR_TENSOR_MODE, kLanes, rows,
             BinaryRepeatParams(1, 1, 1, 8, 0, 8));
    }
    const uint32_t slots = tokens_ * kRouteG;
    LocalTensor<int16_t> biased = row.ReinterpretCast<int16_t>();
    Add(biased, biased, count.ReinterpretCast<int16_t>(), slots);
    LocalTensor<float> wide = float_.Get<float>();
    for (uint32_t h = 0; h < 2; ++h) {  // back to the order of tokens
      Cast(wide[h * 64 * R_], biased[h * 64], RoundMode::CAST_NONE, 64, R_,
           UnaryRepeatParams(R_, 1, 1, 8));
    }
    const bool dropped = used_ < N_;
    // counts start with 1: what is still at kRowBias is no expert's
    if (dropped) Compares(Bits(kLocal), wide, kRowBias + 0.5f, CMPMODE::GT, slots);
    LocalTensor<float> group = experts_sum_.Get<float>()[3 * kRouteE], shift = group[kRouteG];
    Adds(shift, group, -(kRowBias + 1.0f), kRouteG);
    for (uint32_t from = 0; from < slots; from += kMaxRepeats / 8 * 8 * 64) {
      const uint32_t part = Min(kMaxRepeats / 8 * 8 * 64, slots - from);
      Add(wide[from], wide[from], shift, 64, part / 64, BinaryRepeatParams(1, 1, 0, 8, 8, 0));
    }
    if (dropped) {
      Select(wide, Bits(kLocal), wide, -1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, slots);
    }
    LocalTensor<int32_t> out = rows_out_.AllocTensor<int32_t>();
    Cast(out, wide, RoundMode::CAST_RINT, slots);
    rows_out_.EnQue(out);
    out = rows_out_.DeQue<int32_t>();
    const uint32_t count_out = (share_.end - share_.begin) * kRouteG;
    if (count_out != 0) Store(slot_to_row_[share_.begin * kRouteG], out, count_out);
    rows_out_.FreeTensor(out);
  }

  // row_to_slot: the tokens of each expert, in their order
  __aicore__ inline void RowSlots() {
    // slots of the tile's tokens, multiples of 8: exact in float16 up to 16384
    LocalTensor<half> index = index_.Get<half>(), lists = lists_.Get<half>();
    CreateVecIndex(index, static_cast<half>(0.0f), tokens_);
    Muls(index, index, static_cast<half>(static_cast<float>(kRouteG)), tokens_);
    Duplicate(lists, static_cast<half>(0.0f), kLists);
    LocalTensor<float> before = experts_sum_.Get<float>(), group = before[3 * kRouteE];
    for (uint32_t g = 0; g < kRouteG; ++g) {
      LocalTensor<half> ids = by_group_.Get<half>()[g * tokens_];
      uint32_t counts[kLocal], at[kLocal], end = 0;
      for (uint32_t i = 0; i < kLocal; ++i) {
        uint64_t taken = 0;
        Compares(Bits(kLocal), ids, static_cast<half>(static_cast<float>(g * kLocal + i)),
                 CMPMODE::EQ, tokens_);
        GatherMask(lists[end], index, Bits(kLocal).ReinterpretCast<uint16_t>(), true, tokens_,
                   GatherMaskParams(1, 1, 8, 8), taken);
        counts[i] = taken;
        at[i] = end;
        end += RoundUp(counts[i], kPerBlock<half>);
      }
      if (end == 0) continue;
      LocalTensor<int32_t> slots = slots_out_.AllocTensor<int32_t>();
      Cast(slots, lists, RoundMode::CAST_RINT, end);
      Adds(slots, slots, static_cast<int32_t>(share_.begin * kRouteG + g), end);
      slots_out_.EnQue(slots);
      slots = slots_out_.DeQue<int32_t>();
      for (uint32_t i = 0; i < kLocal; ++i) {
        if (counts[i] == 0) continue;
        const float row = group.GetValue(g) + before.GetValue(i * kRouteG + g);
        Store(row_to_slot_[static_cast<uint64_t>(row)], slots[at[i]], counts[i]);
      }
      slots_out_.FreeTensor(slots);
    }
  }

  GlobalTensor<int32_t> experts_, row_to_slot_, slot_to_row_, offsets_;
  GlobalTensor<float> workspace_;
  uint32_t R_ = 0, tokens_ = 0;
  uint64_t N_ = 0, used_ = 0;
  Share share_{};
  TQue<TPosition::VECIN, 1> ids_in_, counts_in_;
  TBuf<TPosition::VECCALC> float_, by_stream_, by_group_, running_, bits_, constants_, streams_,
      first_, experts_sum_, index_, lists_;
  TQue<TPosition::VECOUT, 1> slots_out_, rows_out_, small_out_;
};

}  // namespace moge

#endif  // MOGE_ASCEND_ROUTE_STREAMS_KERNEL_H_
