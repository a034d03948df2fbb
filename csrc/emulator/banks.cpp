// Banks of UB: how long the vector unit takes to read and write its operands.
//
// UB has 16 groups of 3 banks of 4 KB; blocks that follow each other lie in groups that follow each
// other, and a bank holds every 16th block of its 64 KB:
//
//   address:   | bank 17 16 | row 15..9 | group 8..5 | byte 4..0 |
//
// In one cycle a group gives one block and takes one, and a bank does one of the two.
#include <algorithm>

#include "operand.h"

namespace emulator {

namespace {

constexpr uint32_t kGroups = 16;
constexpr uint32_t kMostBlocks = 8;
constexpr uint32_t kBankSpan = 65536;  // bytes of one bank of every group

// Blocks of an operand that one repeat touches, in order; one that is masked out is kNoBlock.
struct Blocks {
  static constexpr uint32_t kNoBlock = ~0u;
  std::array<uint32_t, kMostBlocks> bank;  // group + 16 * number in the group
  uint32_t count = 0;
};

Blocks BlocksOf(const Operand& operand, const Lanes& lanes, uint32_t repeat) {
  Blocks blocks;
  if (repeat != 0 && operand.repeat_stride == 0) return blocks;  // what it has read already
  const uint32_t per_block = kBlockBytes / SizeOf(operand.dtype);
  const LaneMask& mask = lanes.Mask(repeat);
  const uint32_t all = std::min(CeilDivide(lanes.lanes, per_block), kMostBlocks);
  blocks.count = operand.block_stride == 0 ? 1 : all;
  const uint32_t begin = operand.ref.begin + repeat * operand.repeat_stride * kBlockBytes;
  const uint64_t lanes_of_block = per_block == 64 ? ~uint64_t{0} : (uint64_t{1} << per_block) - 1;
  for (uint32_t i = 0; i < blocks.count; ++i) {
    const uint32_t lane = i * per_block;
    const bool used = (mask[lane / 64] >> (lane % 64) & lanes_of_block) != 0;
    const uint32_t at = begin + i * operand.block_stride * kBlockBytes;
    blocks.bank[i] =
        used ? at / kBankSpan * kGroups + at / kBlockBytes % kGroups : Blocks::kNoBlock;
  }
  return blocks;
}

// Cycles that the busiest group needs, one for each block.
class Groups {
 public:
  void Add(const Blocks& blocks) {
    for (uint32_t i = 0; i < blocks.count; ++i) {
      if (blocks.bank[i] == Blocks::kNoBlock) continue;
      most_ = std::max<uint32_t>(most_, ++used_[blocks.bank[i] % kGroups]);
    }
  }
  uint32_t most() const { return most_; }

 private:
  std::array<uint8_t, kGroups> used_{};
  uint32_t most_ = 0;
};

// Whether a repeat writes to a bank that it reads. Where the same blocks of both meet, the unit
// writes a repeat later than it reads, and they do not.
bool Meet(const Blocks& written, const Blocks& read) {
  for (uint32_t i = 0; i < written.count; ++i) {
    for (uint32_t j = 0; j < read.count; ++j) {
      if (i != j && written.bank[i] == read.bank[j] && read.bank[j] != Blocks::kNoBlock)
        return true;
    }
  }
  return false;
}

bool Same(const Operand& a, const Operand& b) {
  return a.ref.begin == b.ref.begin && a.block_stride == b.block_stride &&
         a.repeat_stride == b.repeat_stride;
}

}  // namespace

double BankCycles(const Operand& dst, std::initializer_list<const Operand*> sources,
                  const Lanes& lanes) {
  const uint32_t some = std::min(lanes.repeats, kGroups);  // then the groups come again
  uint32_t cycles = 0;
  for (uint32_t repeat = 0; repeat < some; ++repeat) {
    const Blocks to = BlocksOf(dst, lanes, repeat);
    Groups writes, reads;
    writes.Add(to);
    bool meet = false;
    const Operand* before = nullptr;
    for (const Operand* source : sources) {
      if (source == nullptr || (before != nullptr && Same(*before, *source))) continue;
      before = source;
      const Blocks from = BlocksOf(*source, lanes, repeat);
      reads.Add(from);
      meet = meet || Meet(to, from);
    }
    cycles += std::max({writes.most(), reads.most(), 1u}) + (meet ? 1 : 0);
  }
  return some == 0 ? 0 : static_cast<double>(cycles) * lanes.repeats / some;
}

}  // namespace emulator
