// Lists of tensors in global memory.
#include "list_tensor.h"

#include "core.h"

namespace emulator {

namespace {

constexpr uint32_t kNotGiven = 0xffffffff;

// Walks over the descriptions up to that of tensor `index`, or to the end; returns its word and how
// many came before it.
struct Found {
  uint64_t word;
  uint32_t before;
};
Found Walk(void* list, uint32_t index) {
  if (list == nullptr) {
    Fail(Rule::kListTensor, "the list has no memory: call ListTensorDesc::Init first");
  }
  const uint64_t offset = ReadListWord(list, 0);
  Found at{1, 0};
  while (at.before != index && at.word * 8 < offset) {
    at.word += 1 + (ReadListWord(list, at.word) & 0xffffffff);
    ++at.before;
  }
  if (at.word * 8 > offset || offset % 8 != 0) {
    Enter(Op::kListTensorDesc);
    Fail(Rule::kListTensor, "the addresses start at byte %llu, inside a description",
         Number(offset));
  }
  return at;
}

void CheckIndex(void* list, uint32_t index) {
  const uint32_t tensors = CountListTensors(list);
  Enter(Op::kListTensorDesc);
  if (index >= tensors) {
    Fail(Rule::kListTensor, "the list has %u tensors, got index %u", tensors, index);
  }
}

}  // namespace

uint64_t ReadListWord(void* list, uint64_t word) {
  uint64_t value;
  LoadScalar(PlaceGlobal(list, 0), word * 8, DType::kUint64, &value);
  return value;
}

uint32_t CountListTensors(void* list) { return Walk(list, kNotGiven).before; }

uint64_t ListTensorAddress(void* list, uint32_t index) {
  CheckIndex(list, index);
  return ReadListWord(list, ReadListWord(list, 0) / 8 + index);
}

uint64_t FindListShape(void* list, uint32_t index) {
  CheckIndex(list, index);
  return Walk(list, index).word;
}

void CheckShapeAddress(const uint64_t* shape) {
  Enter(Op::kListTensorDesc);
  if (shape == nullptr) Fail(Rule::kListTensor, "call TensorDesc::SetShapeAddr first");
}

void CheckList(void* list, uint32_t bytes, uint32_t tensors) {
  const Found end = Walk(list, kNotGiven);
  Enter(Op::kListTensorDesc);
  if (tensors != kNotGiven && tensors != end.before) {
    Fail(Rule::kListTensor, "%u tensors, not %u", end.before, tensors);
  }
  if (bytes != kNotGiven && bytes < (end.word + end.before) * 8) {
    Fail(Rule::kListTensor, "%llu bytes, not %u", Number((end.word + end.before) * 8), bytes);
  }
}

}  // namespace emulator
