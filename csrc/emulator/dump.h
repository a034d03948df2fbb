// DumpTensor: the contents of a tensor as text.
#ifndef MOGE_EMULATOR_DUMP_H_
#define MOGE_EMULATOR_DUMP_H_

#include "tensor.h"

namespace AscendC {

template <typename T>
void DumpTensor(const LocalTensor<T>& tensor, uint32_t desc, uint32_t dumpSize) {
  emulator::Dump(tensor.Ref(), emulator::kDTypeOf<T>, 0, desc, dumpSize, nullptr);
}
template <typename T>
void DumpTensor(const GlobalTensor<T>& tensor, uint32_t desc, uint32_t dumpSize) {
  emulator::Dump(tensor.Ref(), emulator::kDTypeOf<T>, 0, desc, dumpSize, nullptr);
}
template <typename T>
void DumpTensor(const LocalTensor<T>& tensor, uint32_t desc, uint32_t dumpSize,
                const ShapeInfo& shapeInfo) {
  emulator::Dump(tensor.Ref(), emulator::kDTypeOf<T>, 0, desc, dumpSize, &shapeInfo);
}
template <typename T>
void DumpTensor(const GlobalTensor<T>& tensor, uint32_t desc, uint32_t dumpSize,
                const ShapeInfo& shapeInfo) {
  emulator::Dump(tensor.Ref(), emulator::kDTypeOf<T>, 0, desc, dumpSize, &shapeInfo);
}
// from an element on
template <typename T>
void DumpAccChkPoint(const LocalTensor<T>& tensor, uint32_t index, uint32_t countOff,
                     uint32_t dumpSize) {
  emulator::Dump(tensor.Ref(), emulator::kDTypeOf<T>, countOff, index, dumpSize, nullptr);
}
template <typename T>
void DumpAccChkPoint(const GlobalTensor<T>& tensor, uint32_t index, uint32_t countOff,
                     uint32_t dumpSize) {
  emulator::Dump(tensor.Ref(), emulator::kDTypeOf<T>, countOff, index, dumpSize, nullptr);
}

}  // namespace AscendC

#endif  // MOGE_EMULATOR_DUMP_H_
