// Compare, Select and the compare mask.
#include "operand.h"

namespace emulator {

namespace {

template <typename T>
bool Holds(CMPMODE mode, T a, T b) {
  if (mode == CMPMODE::LT) return a < b;
  if (mode == CMPMODE::GT) return a > b;
  if (mode == CMPMODE::EQ) return a == b;
  if (mode == CMPMODE::LE) return a <= b;
  if (mode == CMPMODE::GE) return a >= b;
  return a < b || a > b;  // a NaN is not even unequal
}

bool CompareElement(DType dtype, CMPMODE mode, const uint8_t* a, const uint8_t* b) {
  if (dtype == DType::kInt32) {
    int32_t x, y;
    std::memcpy(&x, a, sizeof x);
    std::memcpy(&y, b, sizeof y);
    return Holds(mode, x, y);
  }
  return Holds(mode, LoadFloat(dtype, a), LoadFloat(dtype, b));
}

constexpr uint32_t kCompareMaskBytes = sizeof(LaneMask);

bool GetBit(const uint8_t* bytes, uint64_t bit) { return (bytes[bit / 8] >> (bit % 8) & 1) != 0; }

void SetBit(uint8_t* bytes, uint64_t bit, bool value) {
  const auto mask = static_cast<uint8_t>(1u << (bit % 8));
  bytes[bit / 8] = static_cast<uint8_t>(value ? bytes[bit / 8] | mask : bytes[bit / 8] & ~mask);
}

// Bytes that hold one bit for each lane of each repeat.
uint32_t BitBytes(const Lanes& lanes) {
  if (lanes.repeats == 0) return 0;
  return static_cast<uint32_t>(CeilDivide(uint64_t{lanes.repeats} * lanes.lanes, 8u));
}

// Reads the bits that an instruction takes: from repeat to repeat other ones, or the same.
const uint8_t* ReadBits(Core& core, const Operand& dst, const LocalRef& mask, const Lanes& lanes,
                        bool same) {
  uint64_t needed = 0;
  for (uint32_t repeat : {0u, lanes.repeats - 1}) {
    for (uint32_t lane = 0; lanes.repeats != 0 && lane < lanes.lanes; ++lane) {
      if (!HasLane(lanes.Mask(repeat), lane)) continue;
      needed = std::max(needed, (same ? 0 : uint64_t{repeat} * lanes.lanes) + lane + 1);
    }
  }
  const auto bytes = static_cast<uint32_t>(CeilDivide(needed, 8u));
  const uint32_t begin = core.Check(mask, 0, bytes, kBlockBytes);
  core.Read(MemoryOf(mask.position), begin, begin + bytes);
  CheckApart(dst, lanes, mask, bytes);
  return core.Bytes(mask);
}

// Where the bit is 1 src0, else src1 or, with that null, the scalar.
void SelectLanes(Core& core, const Operand& dst, const uint8_t* bits, bool same,
                 const Operand& src0, const Operand* src1, const void* scalar, const Lanes& lanes) {
  if (!PrepareElements(core, dst.dtype, dst, {&src0, src1}, lanes)) return;
  const uint32_t bytes = SizeOf(dst.dtype);
  uint8_t* to = core.Bytes(dst.ref);
  const uint8_t* from0 = core.Bytes(src0.ref);
  const uint8_t* from1 = src1 != nullptr ? core.Bytes(src1->ref) : nullptr;
  ForEachRun(lanes, kBlockBytes / bytes, [&](uint32_t repeat, uint32_t lane, uint32_t count) {
    for (uint32_t i = lane; i < lane + count; ++i) {
      const uint64_t bit = same ? i : uint64_t{repeat} * lanes.lanes + i;
      const uint8_t* otherwise = src1 != nullptr ? from1 + LaneOffset(*src1, repeat, i)
                                                 : static_cast<const uint8_t*>(scalar);
      const uint8_t* from = GetBit(bits, bit) ? from0 + LaneOffset(src0, repeat, i) : otherwise;
      std::memmove(to + LaneOffset(dst, repeat, i), from, bytes);
    }
  });
}

// SetCmpMask took its address from another tensor, in the lower 32 bits.
LocalRef TensorAtAddress(uint64_t address) {
  const auto at = static_cast<uint32_t>(address);
  if (at >= kUbBytes) {
    Fail(Rule::kSelectCmpMask, "for mode 2 SetCmpMask takes the address of the bits, in UB");
  }
  LocalRef ref;
  ref.position = TPosition::VECCALC;
  ref.begin = at;
  ref.end = kUbBytes;
  return ref;
}

}  // namespace

void Compare(Op op, const LocalRef* dst, const Operand& src0, const Operand* src1,
             const void* scalar, CMPMODE mode, const Extent& extent) {
  Core& core = Begin(op, PIPE_V);
  const uint32_t bytes = SizeOf(src0.dtype);
  if (src0.dtype == DType::kInt32 && mode != CMPMODE::EQ) {
    Report(Rule::kCompareInt32, "int32 takes CMPMODE::EQ only");
  }
  if (extent.form == MaskForm::kCount && extent.low * bytes % kRepeatBytes != 0) {
    Report(Rule::kCompareCount,
           "count*sizeof(T) must be a multiple of 256 bytes, got count=%llu of %s",
           Number(extent.low), Name(src0.dtype));
  }
  Extent whole = extent;  // repeats that are not full are left out
  if (whole.form == MaskForm::kCount) whole.low -= whole.low % (kRepeatBytes / bytes);
  const Lanes lanes = Resolve(core, whole, bytes);
  core.Compute(src0.dtype, lanes);
  ReadSources(core, {&src0, src1}, lanes);
  const uint32_t bit_bytes = BitBytes(lanes);
  uint8_t* to = nullptr;
  std::array<uint8_t, kCompareMaskBytes> to_register{};
  if (dst != nullptr) {
    const uint32_t begin = core.Check(*dst, 0, bit_bytes, kBlockBytes);
    CheckApart(*dst, bit_bytes, src0, lanes);
    if (src1 != nullptr) CheckApart(*dst, bit_bytes, *src1, lanes);
    core.Write(MemoryOf(dst->position), begin, begin + bit_bytes);
    if (core.lacks_data) return;
    to = core.Bytes(*dst);
  } else {
    if (core.lacks_data) core.FailVirtual();
    to = to_register.data();
  }
  const uint8_t* from0 = core.Bytes(src0.ref);
  const uint8_t* from1 = src1 != nullptr ? core.Bytes(src1->ref) : nullptr;
  std::memset(to, 0, bit_bytes);  // a masked lane gives 0
  ForEachRun(lanes, kBlockBytes / bytes, [&](uint32_t repeat, uint32_t lane, uint32_t count) {
    for (uint32_t i = lane; i < lane + count; ++i) {
      const uint8_t* a = from0 + LaneOffset(src0, repeat, i);
      const uint8_t* b = src1 != nullptr ? from1 + LaneOffset(*src1, repeat, i)
                                         : static_cast<const uint8_t*>(scalar);
      SetBit(to, uint64_t{repeat} * lanes.lanes + i, CompareElement(src0.dtype, mode, a, b));
    }
  });
  if (dst == nullptr) {
    std::memcpy(&core.registers.compare_mask.emplace(), to_register.data(), to_register.size());
  }
}

void LoadCompareMask(const LocalRef& src) {
  Core& core = Begin(Op::kSetCmpMask, PIPE_V);
  const uint32_t begin = core.Check(src, 0, kCompareMaskBytes, kBlockBytes / 2);
  core.Read(MemoryOf(src.position), begin, begin + kCompareMaskBytes);
  if (core.lacks_data) core.FailVirtual();
  std::memcpy(&core.registers.compare_mask.emplace(), core.Bytes(src), kCompareMaskBytes);
}

void StoreCompareMask(const LocalRef& dst) {
  Core& core = Begin(Op::kGetCmpMask, PIPE_V);
  if (dst.end - dst.begin < 128) {
    Report(Rule::kCmpMaskSpace, "the destination has 128 bytes or more, got %u",
           dst.end - dst.begin);
  }
  const uint32_t begin = core.Check(dst, 0, kCompareMaskBytes, kBlockBytes / 2);
  core.Write(MemoryOf(dst.position), begin, begin + kCompareMaskBytes);
  const LaneMask mask = core.registers.compare_mask.value_or(LaneMask{});
  std::memcpy(core.Bytes(dst), &mask, kCompareMaskBytes);
}

void Select(const Operand& dst, const LocalRef& mask, const Operand& src0, const Operand* src1,
            const void* scalar, SELMODE mode, const Extent& extent) {
  Core& core = Begin(Op::kSelect, PIPE_V);
  if ((mode == SELMODE::VSEL_TENSOR_SCALAR_MODE) != (src1 == nullptr)) {
    Fail(Rule::kSelectMode, "mode 1 takes a scalar as src1, modes 0 and 2 a tensor; got mode %d",
         static_cast<int>(mode));
  }
  const bool same = mode == SELMODE::VSEL_CMPMASK_SPR;
  if (!same) core.ReserveUb(Op::kSelect, kSelectBytes);
  const Lanes lanes = Resolve(core, extent, SizeOf(dst.dtype));
  const uint8_t* bits = ReadBits(core, dst, mask, lanes, same);
  SelectLanes(core, dst, bits, same, src0, src1, scalar, lanes);
}

void SelectByRegister(const Operand& dst, const LocalRef* mask, const Operand& src0,
                      const Operand* src1, SELMODE mode, const Extent& extent) {
  Core& core = Begin(Op::kSelect, PIPE_V);
  if (!core.registers.compare_mask) {
    Fail(Rule::kSelectCmpMask, "no SetCmpMask or Compare into the register came before");
  }
  const LaneMask in_register = *core.registers.compare_mask;
  const bool same = mode == SELMODE::VSEL_CMPMASK_SPR;
  if (!same) core.ReserveUb(Op::kSelect, kSelectBytes);
  const Lanes lanes = Resolve(core, extent, SizeOf(dst.dtype));
  const auto* bits = reinterpret_cast<const uint8_t*>(in_register.data());
  if (!same) {
    const LocalRef tensor = mask != nullptr ? *mask : TensorAtAddress(in_register[0]);
    bits = ReadBits(core, dst, tensor, lanes, false);
  }
  SelectLanes(core, dst, bits, same, src0, src1, in_register.data(), lanes);
}

}  // namespace emulator
