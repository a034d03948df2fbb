// Reductions of a whole tensor to one result, and what the scalar unit can ask of a reduction.
#include "reduction.h"

namespace emulator {

namespace {

// Bytes of the temporary tensor: what each level of the reduction leaves, in blocks; the levels
// after the first one reuse its place unless an index must be found through them.
uint64_t TmpBytes(ReduceType type, uint64_t repeats, uint32_t bytes, bool with_index) {
  const uint32_t per_block = kBlockBytes / bytes;
  if (type == ReduceType::SUM) return RoundUp(repeats, per_block) * bytes;
  const uint32_t lanes = kRepeatBytes / bytes;
  const uint64_t first = 2 * repeats;
  uint64_t elements = RoundUp(first, per_block);
  if (with_index) {
    const uint64_t second = RoundUp(first, lanes) / lanes * 2;
    elements += RoundUp(second, per_block);
    if (second > 2) elements += RoundUp(RoundUp(second, lanes) / lanes * 2, per_block);
  }
  return elements * bytes;
}

void CheckStyle(const Core& core) {
  if (core.style.used_static) {
    Report(Rule::kStaticApi, "reductions of a whole tensor need TPipe");
  }
}

// The temporary tensor is written in pieces; it may be the source itself, which is read before.
void UseTmp(Core& core, const LocalRef& tmp, uint64_t needed, const Operand& src,
            const Lanes& lanes) {
  const uint32_t size = tmp.end - tmp.begin;
  if (tmp.begin != src.ref.begin) {
    if (size < needed) {
      Report(Rule::kReduceTmp, "the temporary tensor needs %llu bytes, got %u", Number(needed),
             size);
    }
    CheckApart(tmp, std::min<uint64_t>(needed, size), src, lanes);
  }
  const auto used = static_cast<uint32_t>(std::min<uint64_t>(needed, size));
  const uint32_t begin = core.Check(tmp, 0, used, kBlockBytes);
  core.Write(MemoryOf(tmp.position), begin, begin + used, ByteState::kPoison);
}

}  // namespace

void SumInOrder(DType dtype, const LocalRef& dst, const LocalRef& src, const Extent& extent) {
  Core& core = Begin(Op::kReduceSum, PIPE_V);
  const uint32_t bytes = SizeOf(dtype);
  const Lanes lanes = Resolve(core, extent, bytes);
  const Operand source{src, dtype};
  core.Compute(dtype, lanes);
  CheckStyle(core);
  ReadSources(core, {&source}, lanes);
  core.Check(dst, 0, 0, bytes);
  if (lanes.elements == 0) return;
  float sum = 0;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    const float next = SumOfRepeat(source, core.Bytes(src), lanes, repeat);
    sum = repeat == 0 ? next : Rounded(dtype, sum + next);
  }
  StoreFloat(dtype, WritePart(dst, 0, bytes), sum);
  core.registers.sum = ResultOf(core, dtype, sum, 0);
}

void ReduceTensor(ReduceType type, DType dtype, const LocalRef& dst, const LocalRef& src,
                  const LocalRef& tmp, const Extent& extent, int32_t src_rep_stride,
                  bool with_index) {
  Core& core = CurrentCore();
  const bool sums = type == ReduceType::SUM;
  core.Begin(sums                      ? Op::kReduceSum
             : type == ReduceType::MAX ? Op::kReduceMax
                                       : Op::kReduceMin,
             PIPE_V);
  CheckRange(limits::Reduce::srcRepStride, src_rep_stride);
  const uint32_t bytes = SizeOf(dtype);
  const Lanes lanes = Resolve(core, extent, bytes, limits::ReduceTensor::repeatTime);
  const Operand source{src, dtype, 1, static_cast<uint32_t>(src_rep_stride)};
  core.Compute(dtype, lanes);
  CheckStyle(core);
  ReadSources(core, {&source}, lanes);
  const uint32_t result_bytes = with_index ? 2 * bytes : bytes;
  core.Check(dst, 0, 0, result_bytes);
  if (lanes.elements == 0) return;
  Extreme extreme;
  std::vector<float> sums_of_repeats;
  for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
    if (sums) {
      sums_of_repeats.push_back(SumOfRepeat(source, core.Bytes(src), lanes, repeat));
    } else {
      TakeRepeat(extreme, type, source, core.Bytes(src), lanes, repeat, repeat * lanes.lanes);
    }
  }
  // of a count only the whole repeats are counted, but one at least
  const uint64_t repeats = extent.form == MaskForm::kCount
                               ? std::max<uint64_t>(lanes.elements / lanes.lanes, 1)
                               : lanes.repeats;
  UseTmp(core, tmp, TmpBytes(type, repeats, bytes, with_index), source, lanes);
  uint8_t* to = WritePart(dst, 0, result_bytes);
  if (sums) {
    StoreFloat(dtype, to, TreeSum(dtype, sums_of_repeats.data(), sums_of_repeats.size()));
    return;
  }
  StoreFloat(dtype, to, extreme.value);
  if (with_index) StoreIndex(dtype, to + bytes, extreme.index);
  core.registers.extreme.reset();
  if (src_rep_stride == 8 && !core.registers.counter_mode) {
    // the register has an index inside the last level, which is of no use
    core.registers.extreme = ResultOf(core, dtype, extreme.value, ~0u);
  }
}

namespace {

const Reduced& ResultOfType(const std::optional<Reduced>& result, DType dtype,
                            const char* sources) {
  if (!result || result->dtype != dtype) {
    Fail(Rule::kReduceResult, "no %s of %s came before", sources, Name(dtype));
  }
  if (result->lacks_data) CurrentCore().FailVirtual();
  return *result;
}

}  // namespace

void LastSum(DType dtype, void* value) {
  Core& core = Begin(Op::kGetReduceRepeatSumSpr, PIPE_S);
  const Reduced& result = ResultOfType(core.registers.sum, dtype, "ReduceSum by count");
  StoreFloat(dtype, static_cast<uint8_t*>(value), result.value);
}

void LastExtreme(DType dtype, void* value, void* index) {
  Core& core = Begin(Op::kGetReduceRepeatMaxMinSpr, PIPE_S);
  const Reduced& result = ResultOfType(core.registers.extreme, dtype,
                                       "contiguous ReduceRepeat, ReduceMax or ReduceMin");
  StoreFloat(dtype, static_cast<uint8_t*>(value), result.value);
  StoreIndex(dtype, static_cast<uint8_t*>(index), result.index);
}

}  // namespace emulator
