// ListTensorDesc and TensorDesc: a list of tensors whose addresses and shapes lie in global memory.
//
//   8 bytes   where the addresses start, in bytes from here
//   for each tensor
//     4 bytes  number of dimensions      4 bytes  index of the tensor
//     8 bytes  for each dimension
//   8 bytes   for each tensor: its address
#ifndef MOGE_EMULATOR_LIST_TENSOR_H_
#define MOGE_EMULATOR_LIST_TENSOR_H_

#include "tensor.h"

namespace emulator {

// One word of 8 bytes of the list, by the scalar unit.
uint64_t ReadListWord(void* list, uint64_t word);
uint32_t CountListTensors(void* list);
uint64_t ListTensorAddress(void* list, uint32_t index);
// The word that the description of a tensor starts with.
uint64_t FindListShape(void* list, uint32_t index);
// Refuses a TensorDesc without memory for its shape.
void CheckShapeAddress(const uint64_t* shape);
// `bytes` and `tensors` that are not 0xffffffff are compared with what the list says.
void CheckList(void* list, uint32_t bytes, uint32_t tensors);

}  // namespace emulator

namespace AscendC {

class ListTensorDesc;

template <typename T>
class TensorDesc {
 public:
  void SetShapeAddr(uint64_t* shape) { shape_ = shape; }
  uint64_t GetDim() { return dimensions_; }
  uint64_t GetIndex() { return index_; }
  uint64_t GetShape(uint32_t dimension) { return shape_[dimension]; }
  __gm__ T* GetDataPtr() { return data_; }
  GlobalTensor<T> GetDataObj() {
    GlobalTensor<T> tensor;
    tensor.SetGlobalBuffer(data_);
    return tensor;
  }

 private:
  friend class ListTensorDesc;

  uint64_t* shape_ = nullptr;  // the kernel's
  uint64_t dimensions_ = 0, index_ = 0;
  T* data_ = nullptr;
};

class ListTensorDesc {
 public:
  ListTensorDesc() = default;
  ListTensorDesc(__gm__ void* data, uint32_t length = 0xffffffff, uint32_t shapeSize = 0xffffffff) {
    Init(data, length, shapeSize);
  }
  void Init(__gm__ void* data, uint32_t length = 0xffffffff, uint32_t shapeSize = 0xffffffff) {
    emulator::CheckList(data, length, shapeSize);
    data_ = data;
  }
  template <typename T>
  void GetDesc(TensorDesc<T>& tensor, uint32_t index) {
    const uint64_t word = emulator::FindListShape(data_, index);
    tensor.dimensions_ = emulator::ReadListWord(data_, word) & 0xffffffff;
    tensor.index_ = index;
    tensor.data_ = GetDataPtr<T>(index);
    if (tensor.dimensions_ != 0) emulator::CheckShapeAddress(tensor.shape_);
    for (uint64_t i = 0; i < tensor.dimensions_; ++i) {
      tensor.shape_[i] = emulator::ReadListWord(data_, word + 1 + i);
    }
  }
  template <typename T>
  __gm__ T* GetDataPtr(uint32_t index) {
    return reinterpret_cast<T*>(emulator::ListTensorAddress(data_, index));
  }
  uint32_t GetSize() { return emulator::CountListTensors(data_); }

 private:
  void* data_ = nullptr;
};

}  // namespace AscendC

#endif  // MOGE_EMULATOR_LIST_TENSOR_H_
