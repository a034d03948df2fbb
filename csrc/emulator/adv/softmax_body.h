// What the forms of SoftMax share.
#ifndef MOGE_EMULATOR_ADV_SOFTMAX_BODY_H_
#define MOGE_EMULATOR_ADV_SOFTMAX_BODY_H_

#include "adv/rows.h"
#include "adv/softmax_types.h"

namespace emulator {

void CheckRows(const AscendC::SoftMaxShapeInfo& shape, uint32_t element_bytes, bool nz);
void CheckBasicBlock(const AscendC::SoftMaxShapeInfo& shape, uint32_t element_bytes);
// The shape that a call is about: constant, given, or that of the tiling.
AscendC::SoftMaxShapeInfo ShapeOf(const AscendC::SoftmaxConfig& config,
                                  const AscendC::SoftMaxShapeInfo& given,
                                  const SoftMaxTiling& tiling, uint32_t element_bytes);

struct SoftMaxKind {
  bool basic_block, nz, logarithm;
  const AscendC::SoftmaxConfig& config;
};

// The matrices, and the block of each row.
template <typename T, typename U>
struct SoftMaxOperands {
  const AscendC::LocalTensor<T>& dst;
  const AscendC::LocalTensor<T>& src;
  AscendC::LocalTensor<U> sum, max;  // no memory: not wanted
};

// How many rows the temporary memory holds at once; one, if instructions do not reach to the next.
inline uint32_t RowsOfGroup(RowUse use, const AscendC::SoftMaxShapeInfo& shape, bool nz,
                            bool is_half, const LocalRef& tmp) {
  const bool reaches = nz || limits::Repeats::repeatStride.Allows(shape.srcK * sizeof(float) / 32);
  return reaches ? RowsAtOnce(use, tmp.end - tmp.begin, shape.srcM, shape.srcK, is_half) : 1;
}

// f(rows of the group, temporary memory, the group's first row, source in float, destination in
// float) for each group of rows; where the data are half, the two are one copy.
template <typename T, typename F>
void ForEachGroup(RowUse use, const AscendC::SoftMaxShapeInfo& shape, bool nz,
                  const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
                  const LocalRef& tmp, F f) {
  constexpr bool kHalf = sizeof(T) == 2;
  const MatrixRows<T> in{src, shape.srcM, shape.srcK, nz};
  const MatrixRows<T> out{dst, shape.srcM, shape.srcK, nz};
  const uint32_t most = RowsOfGroup(use, shape, nz, kHalf, tmp);
  for (uint32_t first = 0; first < shape.srcM; first += most) {
    const RowGroup group(tmp, use, std::min(most, shape.srcM - first), kHalf);
    if constexpr (kHalf) {
      uint32_t byte = group.rest;
      const auto copy = TakePart<float>(tmp, &byte, group.rows * shape.srcK);
      const MatrixRows<float> wide = Widen(in.From(first), copy, group.rows);
      f(group, first, wide, wide);
      Narrow(out.From(first), wide, group.rows);
    } else {
      f(group, first, in.From(first), out.From(first));
    }
  }
}

// Checks a call and finds its temporary memory.
template <typename T>
LocalRef PrepareRows(RowUse use, const AscendC::SoftMaxShapeInfo& shape, const SoftMaxKind& kind,
                     const AscendC::LocalTensor<uint8_t>* tmp,
                     std::initializer_list<const LocalRef*> apart) {
  CheckRows(shape, sizeof(T), kind.nz);
  if (kind.basic_block && kind.config.oriSrcM == 0) CheckBasicBlock(shape, sizeof(T));
  const uint64_t bytes = RowTmpBytes(use, 1, shape.srcK, sizeof(T) == 2);
  if (tmp == nullptr) return FrameworkTmp(bytes);
  const LocalRef room = GivenTmp(tmp->Ref(), bytes);
  CheckTmpApart(room, bytes, uint64_t{shape.srcM} * shape.srcK * sizeof(T), apart);
  return room;
}

// The softmax of each row; `divides`: by its sum, which is kept all the same.
template <typename T, typename U>
void SoftMaxRows(RowUse use, const SoftMaxKind& kind, bool divides,
                 const SoftMaxOperands<T, U>& operands, const AscendC::SoftMaxShapeInfo& shape,
                 const LocalRef& room) {
  const bool stores = operands.sum.Ref().position != AscendC::TPosition::MAX;
  ForEachGroup(use, shape, kind.nz, operands.dst, operands.src, room,
               [&](const RowGroup& group, uint32_t first, const MatrixRows<float>& in,
                   const MatrixRows<float>& out) {
                 const auto keep = [&](const AscendC::LocalTensor<U>& to) {
                   group.Spread();
                   if (!stores) return;
                   group.Store(to, group.block, first);
                   if (sizeof(U) == 2) group.Spread();
                 };
                 group.Reduce(AscendC::ReduceType::MAX, in, shape.oriSrcK);
                 keep(operands.max);
                 ApplyBlocks(RowOp::kSub, out, in, group.block, group.rows);
                 ExpRows(out, group.rows);
                 group.Reduce(AscendC::ReduceType::SUM, out, shape.oriSrcK);
                 keep(operands.sum);
                 if (divides) ApplyBlocks(RowOp::kDiv, out, out, group.block, group.rows);
                 if (kind.logarithm) LogRows(out, group.rows);
               });
}

template <typename T, typename U>
void SoftMaxCall(const char* name, const SoftMaxKind& kind, const SoftMaxOperands<T, U>& operands,
                 const AscendC::LocalTensor<uint8_t>* tmp, const SoftMaxTiling& tiling,
                 const AscendC::SoftMaxShapeInfo& given) {
  const HighLevelCall call(name);
  const AscendC::SoftMaxShapeInfo shape = ShapeOf(kind.config, given, tiling, sizeof(T));
  const LocalRef room = PrepareRows<T>(RowUse::kSoftMax, shape, kind, tmp,
                                       {&operands.dst.Ref(), &operands.src.Ref()});
  SoftMaxRows(RowUse::kSoftMax, kind, true, operands, shape, room);
}

template <typename T, typename U>
void SimpleCall(const SoftMaxKind& kind, const SoftMaxOperands<T, U>& operands,
                const AscendC::LocalTensor<uint8_t>* tmp, const SoftMaxTiling& tiling,
                const AscendC::SoftMaxShapeInfo& given) {
  const HighLevelCall call("SimpleSoftMax");
  const AscendC::SoftMaxShapeInfo shape = ShapeOf(kind.config, given, tiling, sizeof(T));
  const LocalRef room = PrepareRows<T>(RowUse::kSoftMax, shape, kind, tmp,
                                       {&operands.dst.Ref(), &operands.src.Ref()});
  ForEachGroup(RowUse::kSoftMax, shape, kind.nz, operands.dst, operands.src, room,
               [&](const RowGroup& group, uint32_t first, const MatrixRows<float>& in,
                   const MatrixRows<float>& out) {
                 group.Load(group.block, operands.max, first);
                 ApplyBlocks(RowOp::kSub, out, in, group.block, group.rows);
                 ExpRows(out, group.rows);
                 group.Load(group.block, operands.sum, first);
                 ApplyBlocks(RowOp::kDiv, out, out, group.block, group.rows);
               });
}

}  // namespace emulator

#endif  // MOGE_EMULATOR_ADV_SOFTMAX_BODY_H_
