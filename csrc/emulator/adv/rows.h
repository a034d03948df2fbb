// Rows of a matrix in UB, ND or NZ, and what the softmax family does to a group of them: the result
// of each row, the same for all its elements, instructions over all rows at once.
#ifndef MOGE_EMULATOR_ADV_ROWS_H_
#define MOGE_EMULATOR_ADV_ROWS_H_

#include "adv/call.h"
#include "adv/sizes.h"

namespace emulator {

// ND: a row is in one piece, and instructions take 64 elements of each. NZ: a row is in pieces of
// 16 elements, `height` rows of each piece together.
template <typename T>
struct MatrixRows {
  AscendC::LocalTensor<T> data;
  uint32_t height, width;
  bool nz;

  uint32_t Lanes() const { return nz ? 16 : 64; }
  // elements from one piece of a row to its next
  uint32_t Step() const { return nz ? height * 16 : 64; }
  // from a row to the next, in blocks of 32 bytes; one row alone needs none
  uint8_t Stride(uint32_t rows) const {
    const uint32_t blocks = (nz ? 16 : width) * uint32_t{sizeof(T)} / 32;
    return rows == 1 ? 0 : static_cast<uint8_t>(blocks);
  }
  MatrixRows From(uint32_t row) const { return {data[row * (nz ? 16 : width)], height, width, nz}; }

  // f(first element, elements) for each piece of the first `columns` of a row.
  template <typename F>
  void ForEachPiece(uint32_t columns, F f) const {
    for (uint32_t first = 0; first < columns; first += Lanes()) {
      f(first / Lanes() * Step(), std::min(columns - first, Lanes()));
    }
  }
  // f(first element, elements) for each run of elements of `rows` rows that is in one piece.
  template <typename F>
  void ForEachRun(uint32_t rows, F f) const {
    if (!nz) return f(0u, rows * width);
    for (uint32_t first = 0; first < width; first += 16) f(first / 16 * Step(), rows * 16);
  }
};

// The temporary memory of a group of rows.
class RowGroup {
 public:
  RowGroup(const LocalRef& tmp, RowUse use, uint32_t rows, bool is_half);

  uint32_t rows = 0;                       // of this group
  AscendC::LocalTensor<float> result;      // one for each row
  AscendC::LocalTensor<half> narrow;       // the same in half
  AscendC::LocalTensor<float> work;        // 64 for each row
  AscendC::LocalTensor<float> block;       // in its place: the result of a row, 8 times
  AscendC::LocalTensor<float> old, other;  // two more of these
  uint32_t rest;                           // the byte where the rows in float are

  void Reduce(AscendC::ReduceType type, const MatrixRows<float>& in, uint32_t columns) const;
  // `block` from `result`, and `result` from blocks
  void Spread() const;
  void Gather(const AscendC::LocalTensor<float>& blocks) const;
  // A tensor with a block for each row, from its row `row` on.
  void Load(const AscendC::LocalTensor<float>& to, const AscendC::LocalTensor<float>& from,
            uint32_t row) const;
  void Load(const AscendC::LocalTensor<float>& to, const AscendC::LocalTensor<half>& from,
            uint32_t row) const;
  // `blocks` in float; in half it takes the place of `block` and `result`
  void Store(const AscendC::LocalTensor<float>& to, const AscendC::LocalTensor<float>& blocks,
             uint32_t row) const;
  void Store(const AscendC::LocalTensor<half>& to, const AscendC::LocalTensor<float>& blocks,
             uint32_t row) const;
};

enum class RowOp : uint8_t { kSub, kDiv, kMul };
// Each row with its block.
void ApplyBlocks(RowOp op, const MatrixRows<float>& out, const MatrixRows<float>& in,
                 const AscendC::LocalTensor<float>& blocks, uint32_t rows);
void ExpRows(const MatrixRows<float>& rows, uint32_t count);
void MulRows(const MatrixRows<float>& out, const MatrixRows<float>& one,
             const MatrixRows<float>& other, uint32_t count);
// log10
void LogRows(const MatrixRows<float>& rows, uint32_t count);

// Rows in float: those of the call, or copies of them that Narrow brings back.
inline MatrixRows<float> Widen(const MatrixRows<float>& from, const AscendC::LocalTensor<float>&,
                               uint32_t) {
  return from;
}
MatrixRows<float> Widen(const MatrixRows<half>& from, const AscendC::LocalTensor<float>& copy,
                        uint32_t count);
void Narrow(const MatrixRows<half>& to, const MatrixRows<float>& from, uint32_t count);

}  // namespace emulator

#endif  // MOGE_EMULATOR_ADV_ROWS_H_
