// Reductions, gathering and transposing: kernels of tests/emulator/test_rearranged.py. Each reads x
// into UB, does one thing as the numbers in z say, and writes what it left to y.
#include "common.h"

namespace moge_tests {

namespace {

constexpr uint32_t kTarget = 65536;  // where the results lie, after the 64 KiB of x
constexpr uint32_t kSpare = 98304;   // the rest, which nothing has written
constexpr uint32_t kEnd = 163840;
constexpr uint32_t kOut = 32768;

class Ub {
 public:
  Ub(GM_ADDR x, GM_ADDR z) : numbers_(Global<int32_t>(z)) {
    pipe_.InitBuffer(buffer_, kEnd);
    DataCopy(At<uint8_t>(0), Global<uint8_t>(x), kTarget);
    Duplicate(At<int32_t>(kTarget), 0, kOut / 4);
    PipeBarrier<PIPE_ALL>();
  }
  template <typename T>
  LocalTensor<T> At(uint32_t byte) {
    return buffer_.Get<uint8_t>()[byte].ReinterpretCast<T>();
  }
  int32_t operator[](uint32_t i) const { return numbers_.GetValue(i); }
  void Write(GM_ADDR y, uint32_t from = kTarget, uint32_t bytes = kOut) {
    PipeBarrier<PIPE_ALL>();
    DataCopy(Global<uint8_t>(y), At<uint8_t>(from), bytes);
  }

 private:
  TPipe pipe_;
  TBuf<TPosition::VECCALC> buffer_;
  GlobalTensor<int32_t> numbers_;
};

// --- transposing ---------------------------------------------------------------------------------

// numbers: form, parameters, distances of the blocks of the destination and of the source
template <typename T>
void BlocksKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  const TransDataTo5HDParams params(ub[1] != 0, ub[2] != 0, ub[3], ub[4], ub[5]);
  LocalTensor<T> dst[16], src[16];
  uint64_t dst_addresses[16], src_addresses[16];
  auto dst_list = ub.At<uint64_t>(kSpare), src_list = ub.At<uint64_t>(kSpare + 128);
  for (int i = 0; i < 16; ++i) {
    dst[i] = ub.At<T>(kTarget + i * ub[6]);
    src[i] = ub.At<T>(i * ub[7]);
    dst_addresses[i] = (uint64_t)(dst[i].GetPhyAddr());
    src_addresses[i] = (uint64_t)(src[i].GetPhyAddr());
    dst_list.SetValue(i, dst_addresses[i]);
    src_list.SetValue(i, src_addresses[i]);
  }
  if (ub[0] == 0) TransDataTo5HD<T>(dst, src, params);
  if (ub[0] == 1) TransDataTo5HD<T>(dst_addresses, src_addresses, params);
  if (ub[0] == 2) TransDataTo5HD<T>(dst_list, src_list, params);
  ub.Write(y);
}

template <typename T>
void FormatKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  const TransposeParamsExt params(ub[1], ub[2], ub[3], ub[4], static_cast<TransposeType>(ub[0]));
  Transpose(ub.At<T>(kTarget), ub.At<T>(0), ub.At<uint8_t>(kEnd - ub[5]), params);
  ub.Write(y);
}

// numbers: whether in place
template <typename T>
void SquareKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  const uint32_t to = ub[0] != 0 ? 0 : kTarget;
  Transpose(ub.At<T>(to), ub.At<T>(0));
  ub.Write(y, to, 512);
}

// --- reductions ----------------------------------------------------------------------------------

// numbers: count, whether by the mask register. The sum, and 32 bytes on the same from its
// register.
template <typename T>
void SumKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  auto dst = ub.At<T>(kTarget);
  if (ub[1] != 0) {
    SetMaskCount();
    SetVectorMask<T, MaskMode::COUNTER>(0, ub[0]);
    ReduceSum<T, false>(dst, ub.At<T>(0), dst, 1);
    SetMaskNorm();
    ResetMask();
  } else {
    ReduceSum(dst, ub.At<T>(0), dst, ub[0]);
  }
  PipeBarrier<PIPE_ALL>();
  dst.SetValue(32 / sizeof(T), GetReduceRepeatSumSpr<T>());
  ub.Write(y);
}

// numbers: mask, repeats, stride, bytes of the temporary tensor
template <typename T>
void SumOfRepeatsKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  ReduceSum(ub.At<T>(kTarget), ub.At<T>(0), ub.At<T>(kEnd - ub[3]), ub[0], ub[1], ub[2]);
  ub.Write(y);
}

// numbers: whether the least, count or mask, repeats (0: by count), stride, where the temporary
// tensor lies
template <typename T>
void ExtremeKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  auto dst = ub.At<T>(kTarget), src = ub.At<T>(0), tmp = ub.At<T>(ub[4]);
  if (ub[0] == 0 && ub[2] == 0) ReduceMax(dst, src, tmp, ub[1], true);
  if (ub[0] == 0 && ub[2] != 0) ReduceMax(dst, src, tmp, ub[1], ub[2], ub[3], true);
  if (ub[0] == 1 && ub[2] == 0) ReduceMin(dst, src, tmp, ub[1], true);
  if (ub[0] == 1 && ub[2] != 0) ReduceMin(dst, src, tmp, ub[1], ub[2], ub[3], true);
  PipeBarrier<PIPE_ALL>();
  DataCopyPad(Global<T>(y), dst, DataCopyExtParams(1, 2 * sizeof(T), 0, 0, 0));
}

// numbers: repeats. Greatest and least with their places, from the register.
template <typename T>
void RegisterKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  auto dst = ub.At<T>(kTarget);
  auto spare = ub.At<T>(kSpare);
  T value, index;
  ReduceRepeat<ReduceType::MAX>(spare, ub.At<T>(0), 256 / sizeof(T), ub[0], 1, 1, 8);
  PipeBarrier<PIPE_ALL>();
  GetReduceRepeatMaxMinSpr<T>(value, index);
  dst.SetValue(0, value);
  dst.SetValue(1, index);
  WholeReduceMin(spare, ub.At<T>(0), 256 / sizeof(T), ub[0], 1, 1, 8,
                 ReduceOrder::ORDER_ONLY_VALUE);
  PipeBarrier<PIPE_ALL>();
  GetReduceMaxMinCount<T>(value, index);
  dst.SetValue(2, value);
  dst.SetValue(3, index);
  ReduceMax(spare[64], ub.At<T>(0), spare[128], 100, true);
  PipeBarrier<PIPE_ALL>();
  GetReduceRepeatMaxMinSpr<T>(value, index);
  dst.SetValue(4, value);
  ub.Write(y);
}

// numbers: which. The result lies where the source did.
template <typename T>
void InPlaceKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  auto both = ub.At<T>(0);
  constexpr int32_t kLanes = 256 / sizeof(T);
  uint64_t taken = 0;
  if (ub[0] == 0) ReducePairElem<ReduceType::SUM>(both, both, kLanes, 3, 1, 1, 8);
  if (ub[0] == 1) RepeatReduceSum(both, both, 3, kLanes, 0, 1, 1, 8);
  if (ub[0] == 2) ReduceDataBlock<ReduceType::MAX>(both, both, kLanes, 3, 1, 1, 8);
  if (ub[0] == 3) GatherMask(both, both, 2, false, 0, {1, 3, 8, 0}, taken);
  ub.Write(y, 0, 3 * 256);
}

// --- carried along -------------------------------------------------------------------------------

// numbers: which. Of 64 elements 16 are written; all are moved, and the first ones are kept.
template <typename T>
void CarriedKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  auto dst = ub.At<T>(kSpare + 4096), src = ub.At<T>(kSpare);
  auto offset = ub.At<int32_t>(kSpare + 1024);
  uint64_t taken = 0;
  DataCopy(src, Global<T>(x), 16);
  CreateVecIndex(offset, 0, 64);
  Muls(offset, offset, static_cast<int32_t>(ub[0] == 3 ? 32 : sizeof(T)), 64);
  PipeBarrier<PIPE_ALL>();
  auto offsets = offset.template ReinterpretCast<uint32_t>();
  if (ub[0] == 0) Brcb(dst, src, 8, {1, 8});
  if (ub[0] == 1) GatherMask(dst, src, 7, true, 64, {1, 1, 8, 0}, taken);
  if (ub[0] == 2) Gather(dst, src, offsets, 0, 64);
  if (ub[0] == 3) {
    using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
    Gatherb(ub.At<Bits>(kSpare + 4096), ub.At<Bits>(kSpare), offsets, 1, {1, 8});
  }
  ub.Write(y, kSpare + 4096, ub[0] == 0 ? 512 : 32);
}

// The scores of a list whose indices nothing has written.
void WithoutIndexKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  auto sorted = ub.At<float>(kSpare), merged = ub.At<float>(kSpare + 2048);
  const uint16_t lengths[4] = {32, 32, 0, 0};
  uint64_t taken = 0;
  Sort32(sorted, ub.At<float>(0), ub.At<uint32_t>(kSpare + 1024), 2);
  MrgSort(merged, {sorted, sorted[64], sorted, sorted}, {lengths, false, 3, 1});
  GatherMask(ub.At<float>(kTarget), merged, 1, true, 128, {1, 1, 8, 0}, taken);
  ub.Write(y);
}

// --- what the documents define beyond a range ----------------------------------------------------

// A mask over the lanes is all of them, one without bits is none.
void MasksKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  const uint64_t none[2] = {0, 0};
  WholeReduceSum(ub.At<float>(kTarget), ub.At<float>(0), 65, 1, 1, 1, 8);
  WholeReduceSum(ub.At<float>(kTarget + 32), ub.At<float>(0), none, 1, 1, 1, 8);
  WholeReduceSum(ub.At<float>(kTarget + 32), ub.At<float>(0), 0, 1, 1, 1, 8);
  ub.Write(y);
}

// Two repeats of lists that are not four: one.
void RepeatsWithoutEffectKernel(GM_ADDR x, GM_ADDR y, GM_ADDR z) {
  Ub ub(x, z);
  auto list = ub.At<float>(0);
  const uint16_t lengths[4] = {4, 4, 0, 0};
  MrgSort(ub.At<float>(kTarget), {list, list[8], list, list}, {lengths, false, 3, 2});
  ub.Write(y);
}

}  // namespace

#define OF_FLOATS(NAME, KERNEL)       \
  {NAME " half", KERNEL<half>, {}}, { \
    NAME " float", KERNEL<float>, {}  \
  }

const std::vector<Case>& Rearranged() {
  static const std::vector<Case> cases = {
      {"blocks int8", BlocksKernel<int8_t>, {}},
      {"blocks uint8", BlocksKernel<uint8_t>, {}},
      {"blocks int16", BlocksKernel<int16_t>, {}},
      {"blocks uint16", BlocksKernel<uint16_t>, {}},
      {"blocks half", BlocksKernel<half>, {}},
      {"blocks int32", BlocksKernel<int32_t>, {}},
      {"blocks uint32", BlocksKernel<uint32_t>, {}},
      {"blocks float", BlocksKernel<float>, {}},
      {"format int8", FormatKernel<int8_t>, {}},
      {"format uint8", FormatKernel<uint8_t>, {}},
      {"format int16", FormatKernel<int16_t>, {}},
      {"format uint16", FormatKernel<uint16_t>, {}},
      {"format half", FormatKernel<half>, {}},
      {"format int32", FormatKernel<int32_t>, {}},
      {"format uint32", FormatKernel<uint32_t>, {}},
      {"format float", FormatKernel<float>, {}},
      {"square int16", SquareKernel<int16_t>, {}},
      {"square uint16", SquareKernel<uint16_t>, {}},
      {"square half", SquareKernel<half>, {}},
      OF_FLOATS("sum", SumKernel),
      OF_FLOATS("sum of repeats", SumOfRepeatsKernel),
      OF_FLOATS("extreme", ExtremeKernel),
      OF_FLOATS("register", RegisterKernel),
      OF_FLOATS("in place", InPlaceKernel),
      OF_FLOATS("carried", CarriedKernel),
      {"without index", WithoutIndexKernel, {}},
      {"masks", MasksKernel, {}},
      {"repeats without effect", RepeatsWithoutEffectKernel, {}},
  };
  return cases;
}

}  // namespace moge_tests
