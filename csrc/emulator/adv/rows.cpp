// Groups of rows, by public instructions.
#include "adv/rows.h"

namespace emulator {

using AscendC::BinaryRepeatParams;
using AscendC::LocalTensor;
using AscendC::ReduceOrder;
using AscendC::ReduceType;
using AscendC::UnaryRepeatParams;

namespace {

constexpr uint32_t kInBlock = 8;  // floats
constexpr uint32_t kInWork = 64;

uint32_t Eights(uint32_t rows) { return CeilDivide(rows, 8u); }

// A result for each row, from 64 floats or fewer of each; `stride` in blocks from row to row.
void ReduceToResult(ReduceType type, const LocalTensor<float>& result,
                    const LocalTensor<float>& from, uint32_t lanes, uint32_t rows,
                    uint32_t stride) {
  const auto mask = static_cast<int32_t>(lanes);
  const auto repeat = static_cast<int32_t>(rows);
  const auto step = static_cast<int32_t>(stride);
  if (type == ReduceType::MAX) {
    AscendC::WholeReduceMax(result, from, mask, repeat, 1, 1, step, ReduceOrder::ORDER_ONLY_VALUE);
  } else {
    AscendC::WholeReduceSum(result, from, mask, repeat, 1, 1, step);
  }
}

}  // namespace

RowGroup::RowGroup(const LocalRef& tmp, RowUse use, uint32_t rows, bool is_half) : rows(rows) {
  uint32_t byte = 0;
  const uint32_t eights = Eights(rows) * 8;
  result = TakePart<float>(tmp, &byte, eights);
  if (is_half) narrow = TakePart<half>(tmp, &byte, Eights(rows) * 16);
  work = TakePart<float>(tmp, &byte, rows * kInWork);
  block = work;
  if (use == RowUse::kFlash) {
    old = TakePart<float>(tmp, &byte, rows * kInBlock);
    other = TakePart<float>(tmp, &byte, rows * kInBlock);
  }
  rest = byte;
}

void RowGroup::Reduce(ReduceType type, const MatrixRows<float>& in, uint32_t columns) const {
  // what follows the last row is spread with it
  AscendC::Duplicate(result, 0.0f, static_cast<int32_t>(Eights(rows) * 8));
  Then();
  const auto repeat = static_cast<uint8_t>(rows);
  const uint8_t stride = in.Stride(rows);
  if (columns <= in.Lanes()) {
    ReduceToResult(type, result, in.data, columns, rows, stride);
    Then();
    return;
  }
  in.ForEachPiece(columns, [&](uint32_t first, uint32_t lanes) {
    const uint64_t mask = lanes;
    if (first == 0) {
      AscendC::Copy(work, in.data, mask, repeat, {1, 1, 8, stride});
    } else if (type == ReduceType::MAX) {
      AscendC::Max(work, work, in.data[first], mask, repeat, {1, 1, 1, 8, 8, stride});
    } else {
      AscendC::Add(work, work, in.data[first], mask, repeat, {1, 1, 1, 8, 8, stride});
    }
    Then();
  });
  ReduceToResult(type, result, work, in.Lanes(), rows, 8);
  Then();
}

void RowGroup::Spread() const {
  AscendC::Brcb(block, result, static_cast<uint8_t>(Eights(rows)), {1, 8});
  Then();
}

void RowGroup::Gather(const LocalTensor<float>& blocks) const {
  ReduceToResult(ReduceType::MAX, result, blocks, kInBlock, rows, 1);
  Then();
}

void RowGroup::Load(const LocalTensor<float>& to, const LocalTensor<float>& from,
                    uint32_t row) const {
  AscendC::DataCopy(to, from[row * kInBlock], rows * kInBlock);
  Then();
}

void RowGroup::Load(const LocalTensor<float>& to, const LocalTensor<half>& from,
                    uint32_t row) const {
  AscendC::Cast(to, from[row * 16], AscendC::RoundMode::CAST_NONE, uint64_t{kInBlock},
                static_cast<uint8_t>(rows), UnaryRepeatParams(1, 1, 1, 1));
  Then();
}

void RowGroup::Store(const LocalTensor<float>& to, const LocalTensor<float>& blocks,
                     uint32_t row) const {
  AscendC::DataCopy(to[row * kInBlock], blocks, rows * kInBlock);
  Then();
}

void RowGroup::Store(const LocalTensor<half>& to, const LocalTensor<float>& blocks,
                     uint32_t row) const {
  Gather(blocks);
  AscendC::Cast(narrow, result, AscendC::RoundMode::CAST_NONE, Eights(rows) * 8);
  Then();
  const LocalTensor<half> spread = block.ReinterpretCast<half>();
  AscendC::Brcb(spread, narrow, static_cast<uint8_t>(Eights(rows)), {1, 8});
  Then();
  AscendC::DataCopy(to[row * 16], spread, rows * 16);
  Then();
}

void ApplyBlocks(RowOp op, const MatrixRows<float>& out, const MatrixRows<float>& in,
                 const LocalTensor<float>& blocks, uint32_t rows) {
  const auto repeat = static_cast<uint8_t>(rows);
  const BinaryRepeatParams params(1, 1, 0, out.Stride(rows), in.Stride(rows), 1);
  for (uint32_t first = 0; first < in.width; first += in.Lanes()) {
    const uint64_t mask = std::min(in.width - first, in.Lanes());
    const uint32_t piece = first / in.Lanes();
    const LocalTensor<float> to = out.data[piece * out.Step()];
    const LocalTensor<float> from = in.data[piece * in.Step()];
    if (op == RowOp::kSub) AscendC::Sub(to, from, blocks, mask, repeat, params);
    if (op == RowOp::kDiv) AscendC::Div(to, from, blocks, mask, repeat, params);
    if (op == RowOp::kMul) AscendC::Mul(to, from, blocks, mask, repeat, params);
  }
  Then();
}

void ExpRows(const MatrixRows<float>& rows, uint32_t count) {
  rows.ForEachRun(count, [&](uint32_t first, uint32_t elements) {
    AscendC::Exp(rows.data[first], rows.data[first], static_cast<int32_t>(elements));
  });
  Then();
}

void MulRows(const MatrixRows<float>& out, const MatrixRows<float>& one,
             const MatrixRows<float>& other, uint32_t count) {
  const auto repeat = static_cast<uint8_t>(count);
  const BinaryRepeatParams params(1, 1, 1, out.Stride(count), one.Stride(count),
                                  other.Stride(count));
  for (uint32_t first = 0; first < one.width; first += one.Lanes()) {
    const uint64_t mask = std::min(one.width - first, one.Lanes());
    const uint32_t piece = first / one.Lanes();
    AscendC::Mul(out.data[piece * out.Step()], one.data[piece * one.Step()],
                 other.data[piece * other.Step()], mask, repeat, params);
  }
  Then();
}

void LogRows(const MatrixRows<float>& rows, uint32_t count) {
  constexpr float kPerE = 0.43429448190325182765f;  // log10(e)
  rows.ForEachRun(count, [&](uint32_t first, uint32_t elements) {
    const auto number = static_cast<int32_t>(elements);
    AscendC::Ln(rows.data[first], rows.data[first], number);
    Then();
    AscendC::Muls(rows.data[first], rows.data[first], kPerE, number);
  });
  Then();
}

MatrixRows<float> Widen(const MatrixRows<half>& from, const LocalTensor<float>& copy,
                        uint32_t count) {
  const MatrixRows<float> wide{copy, count, from.width, from.nz};
  if (!from.nz) {
    AscendC::Cast(copy, from.data, AscendC::RoundMode::CAST_NONE, count * from.width);
  }
  for (uint32_t piece = 0; from.nz && piece < from.width / 16; ++piece) {
    AscendC::Cast(copy[piece * wide.Step()], from.data[piece * from.Step()],
                  AscendC::RoundMode::CAST_NONE, count * 16);
  }
  Then();
  return wide;
}

void Narrow(const MatrixRows<half>& to, const MatrixRows<float>& from, uint32_t count) {
  if (!to.nz) AscendC::Cast(to.data, from.data, AscendC::RoundMode::CAST_NONE, count * to.width);
  for (uint32_t piece = 0; to.nz && piece < to.width / 16; ++piece) {
    AscendC::Cast(to.data[piece * to.Step()], from.data[piece * from.Step()],
                  AscendC::RoundMode::CAST_NONE, count * 16);
  }
  Then();
}

}  // namespace emulator
