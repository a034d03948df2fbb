// Transpose and TransDataTo5HD: elements change places and keep their states.
#include "operand.h"

namespace emulator {

namespace {

constexpr uint32_t kSquareSide = 16;  // of a square, and blocks in a list

// Counts what 256 bytes a cycle move.
void Account(Core& core, DType dtype, uint64_t elements) {
  const uint32_t lanes = kRepeatBytes / SizeOf(dtype);
  Lanes account =
      FullRepeats(static_cast<uint32_t>(CeilDivide(elements, lanes)), std::max(SizeOf(dtype), 2u));
  account.elements = elements;
  core.Compute(dtype, account);
}

void Square(Core& core, DType dtype, const LocalRef& dst, const LocalRef& src) {
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t all = kSquareSide * kSquareSide * bytes;
  Account(core, dtype, kSquareSide * kSquareSide);
  core.Check(dst, 0, all, kBlockBytes);
  core.Check(src, 0, all, kBlockBytes);
  if (dst.begin != src.begin) CheckApart(dst, all, src, all);
  const uint32_t from = FollowPart(src, 0, all);
  core.Write(MemoryOf(dst.position), dst.begin, dst.begin + all);
  core.Carry(MemoryOf(dst.position), [&](uint8_t* memory) {
    const std::vector<uint8_t> square(memory + from, memory + from + all);
    for (uint32_t i = 0; i < kSquareSide * kSquareSide; ++i) {
      std::memcpy(memory + dst.begin + (i % kSquareSide * kSquareSide + i / kSquareSide) * bytes,
                  square.data() + i * bytes, bytes);
    }
  });
}

// The sizes are refused where the documents end, and computed with nevertheless.
void CheckShape(DType dtype, const TransposeShape& shape) {
  const uint32_t bytes = SizeOf(dtype);
  const uint64_t plane = uint64_t{shape.h} * shape.w;
  if (shape.type == TransposeType::TRANSPOSE_ND2ND_B16) {
    if (dtype != DType::kUint16 || shape.h != kSquareSide || shape.w != kSquareSide) {
      Report(Rule::kTransposeParams, "a square is 16 x 16 of uint16, got %u x %u of %s", shape.h,
             shape.w, Name(dtype));
    }
  } else if (!limits::TransposeParamsExt::cSize.Allows(shape.c) ||
             !limits::TransposeParamsExt::plane.Allows(static_cast<int64_t>(plane)) ||
             plane * bytes % kBlockBytes != 0) {
    Report(Rule::kTransposeParams,
           "cSize and hSize * wSize are at most 4095, planes whole blocks of 32 bytes; got %u and "
           "%llu of %u bytes",
           shape.c, Number(plane), bytes);
  }
}

// Uses the temporary tensor up.
void UseTmp(Core& core, DType dtype, const LocalRef& tmp, const TransposeShape& shape) {
  const uint32_t rows = SizeOf(dtype) == 1 ? 32 : 16;
  const bool to_nhwc = shape.type == TransposeType::TRANSPOSE_NCHW2NHWC;
  const uint32_t needed = (to_nhwc ? shape.c + 2 : 2 * shape.c + 1) * rows * kBlockBytes;
  const uint32_t size = tmp.end - tmp.begin;
  if (size < needed) {
    Report(Rule::kTransposeTmp, "the temporary tensor needs %u bytes, got %u", needed, size);
  }
  const uint32_t used = std::min(needed, size);
  const uint32_t begin = core.Check(tmp, 0, used, kBlockBytes);
  core.Write(MemoryOf(tmp.position), begin, begin + used, ByteState::kPoison);
}

}  // namespace

void TransposeSquare(DType dtype, const LocalRef& dst, const LocalRef& src) {
  Core& core = Begin(Op::kTranspose, PIPE_V);
  Square(core, dtype, dst, src);
}

void Transpose(DType dtype, const LocalRef& dst, const LocalRef& src, const LocalRef& tmp,
               const TransposeShape& shape) {
  Core& core = Begin(Op::kTranspose, PIPE_V);
  if (shape.type == TransposeType::TRANSPOSE_TYPE_NONE) return;
  CheckShape(dtype, shape);
  if (shape.type == TransposeType::TRANSPOSE_ND2ND_B16) return Square(core, dtype, dst, src);
  const uint32_t bytes = SizeOf(dtype);
  const uint32_t plane = shape.h * shape.w;
  const uint64_t elements = uint64_t{shape.n} * shape.c * plane;
  Account(core, dtype, elements);
  if (elements == 0) return;
  for (const LocalRef* ref : {&dst, &src}) core.Check(*ref, 0, elements * bytes, kBlockBytes);
  const auto all = static_cast<uint32_t>(elements * bytes);
  CheckApart(dst, all, src, all);
  CheckApart(tmp, tmp.end - tmp.begin, src, all);
  CheckApart(tmp, tmp.end - tmp.begin, dst, all);
  FollowPart(src, 0, all);
  UseTmp(core, dtype, tmp, shape);
  core.Write(MemoryOf(dst.position), dst.begin, dst.begin + all);
  // columns of the source become rows of the destination
  const bool to_nhwc = shape.type == TransposeType::TRANSPOSE_NCHW2NHWC;
  const uint32_t rows = to_nhwc ? shape.c : plane;
  const uint32_t columns = to_nhwc ? plane : shape.c;
  core.Carry(MemoryOf(dst.position), [&](uint8_t* memory) {
    const uint8_t* from = memory + src.begin;
    for (uint32_t n = 0; n < shape.n; ++n) {
      uint8_t* matrix = memory + dst.begin + uint64_t{n} * rows * columns * bytes;
      for (uint32_t i = 0; i < rows * columns; ++i, from += bytes) {
        std::memmove(matrix + (i % columns * rows + i / columns) * bytes, from, bytes);
      }
    }
  });
}

BlockList BlocksAt(const uint64_t* addresses) {
  Enter(Op::kTransDataTo5HD);
  BlockList blocks;
  for (uint32_t i = 0; i < kSquareSide; ++i) blocks[i] = UbAt(addresses[i]);
  return blocks;
}

BlockList BlocksOf(const LocalRef& addresses) {
  Core& core = Enter(Op::kTransDataTo5HD);
  if (core.style.used_static) Report(Rule::kStaticApi, "addresses in tensors need TPipe");
  std::array<uint64_t, kSquareSide> list;
  for (uint32_t i = 0; i < kSquareSide; ++i) {
    LoadScalar(addresses, i * sizeof(uint64_t), DType::kUint64, &list[i]);
  }
  return BlocksAt(list.data());
}

namespace {

// Bytes of UB that one repeat reads or writes in each block of a list.
struct BlockRun {
  const BlockList& list;
  uint32_t step;   // from one repeat to the next
  uint32_t begin;  // in a block
  uint32_t bytes;

  std::array<uint32_t, kSquareSide> At(uint32_t repeat) const {
    std::array<uint32_t, kSquareSide> places;
    for (uint32_t i = 0; i < kSquareSide; ++i) places[i] = list[i].begin + repeat * step + begin;
    return places;
  }
  Span Reach(uint32_t first, uint32_t last) const {
    Span span;
    for (const LocalRef& ref : list) {
      span.begin = std::min(span.begin, ref.begin + first * step + begin);
      span.end = std::max(span.end, ref.begin + last * step + begin + bytes);
    }
    return span;
  }
};

// One repeat may go back to the blocks that it comes from, all of them; none may reach what a
// later one reads.
void CheckBlocks(const BlockRun& dst, const BlockRun& src, uint32_t first, uint32_t last) {
  const Span to = dst.Reach(first, last);
  const Span from = src.Reach(first, last);
  if (to.end <= from.begin || from.end <= to.begin) return;
  WriteLog log(to);
  for (uint32_t repeat = first; repeat <= last; ++repeat) {
    std::array<uint32_t, kSquareSide> writes = dst.At(repeat);
    std::array<uint32_t, kSquareSide> reads = src.At(repeat);
    std::sort(writes.begin(), writes.end());
    std::sort(reads.begin(), reads.end());
    const auto write = [&] {
      for (const uint32_t at : writes) log.Write(repeat, at, at + dst.bytes);
    };
    const bool in_place = writes == reads;
    if (!in_place) write();
    for (const uint32_t at : reads) log.Read(repeat, at, at + src.bytes);
    if (in_place) write();
  }
}

}  // namespace

void TransposeBlocks(DType dtype, const BlockList& dst, const BlockList& src,
                     const BlockSteps& steps) {
  Core& core = Begin(Op::kTransDataTo5HD, PIPE_V);
  const uint32_t bytes = SizeOf(dtype);
  const bool halves = bytes == 1;
  const uint32_t part = halves ? kBlockBytes / 2 : kBlockBytes;
  const uint32_t per_block = part / bytes;
  Account(core, dtype, uint64_t{steps.repeat} * kSquareSide * per_block);
  for (const BlockList* list : {&dst, &src}) {
    for (const LocalRef& ref : *list) core.Check(ref, 0, 0, kBlockBytes);
  }
  if (steps.repeat == 0) return;
  const BlockRun to{dst, steps.dst_step * kBlockBytes, halves && steps.dst_high ? part : 0, part};
  const BlockRun from{src, steps.src_step * kBlockBytes, halves && steps.src_high ? part : 0, part};
  // a single repeat starts one step further
  const uint32_t first = steps.repeat == 1 ? 1 : 0;
  const uint32_t last = steps.repeat == 1 ? 1 : steps.repeat - 1;
  for (uint32_t repeat = first; repeat <= last; ++repeat) {
    for (const LocalRef& ref : src)
      FollowPart(ref, uint64_t{repeat} * from.step + from.begin, part);
  }
  if (core.machine.options.checks) CheckBlocks(to, from, first, last);
  for (uint32_t repeat = first; repeat <= last; ++repeat) {
    for (const LocalRef& ref : dst) {
      WritePart(ref, uint64_t{repeat} * to.step + to.begin, part);
    }
  }
  const uint32_t blocks_of_row = kSquareSide / per_block;  // 2 for elements of 32 bits
  core.Carry(Memory::kUb, [&](uint8_t* memory) {
    std::vector<uint8_t> columns(kSquareSide * part);
    for (uint32_t repeat = first; repeat <= last; ++repeat) {
      const std::array<uint32_t, kSquareSide> reads = from.At(repeat);
      const std::array<uint32_t, kSquareSide> writes = to.At(repeat);
      for (uint32_t i = 0; i < kSquareSide; ++i) {
        std::memcpy(columns.data() + i * part, memory + reads[i], part);
      }
      for (uint32_t i = 0; i < kSquareSide * per_block; ++i) {
        const uint32_t row = i / kSquareSide, column = i % kSquareSide;
        const uint32_t block = row * blocks_of_row + column / per_block;
        std::memcpy(memory + writes[block] + column % per_block * bytes,
                    columns.data() + column * part + row * bytes, bytes);
      }
    }
  });
}

}  // namespace emulator
