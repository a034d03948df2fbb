// GlobalTensor, LocalTensor, shapes, the allocator of the static style.
#include "kernel_operator.h"

using namespace AscendC;

void GlobalBuffers(__gm__ float* address, __gm__ half* other, GM_ADDR bytes) {
  GlobalTensor<float> tensor;
  tensor.SetGlobalBuffer(address);
  tensor.SetGlobalBuffer(address, 64);
  tensor.SetGlobalBuffer((__gm__ float*)bytes);
  tensor.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(bytes), 64);
  tensor.SetGlobalBuffer(other);      // wrong: of another type
  tensor.SetGlobalBuffer(other, 64);  // wrong: of another type
  tensor.SetGlobalBuffer(64);         // wrong
}

void GlobalElements(GlobalTensor<float> tensor, GlobalTensor<half> other, uint64_t offset, int i) {
  float value = tensor.GetValue(0);
  value = tensor.GetValue(i);
  value = tensor(offset);
  tensor.SetValue(0, 1.0f);
  tensor.SetValue(offset, i);
  tensor(offset) = value;
  tensor(1) = tensor(0);
  tensor(1) += value;
  tensor(1) *= tensor(0);
  auto read = tensor(3) * 2 + tensor(4);
  GlobalTensor<float> rest = tensor[offset];
  rest = tensor[i];
  rest = other[i];            // wrong: of another type
  tensor.SetValue(0);         // wrong
  value = tensor.GetValue();  // wrong
}

void GlobalProperties(GlobalTensor<float> tensor, uint64_t offset) {
  uint64_t size = tensor.GetSize();
  const __gm__ float* first = tensor.GetPhyAddr();
  __gm__ float* later = tensor.GetPhyAddr(offset);
  __gm__ float* mutable_first = tensor.GetPhyAddr();  // wrong: constant without an offset
  tensor.SetL2CacheHint(CacheMode::CACHE_MODE_DISABLE);
  tensor.SetL2CacheHint<CacheRwMode::READ>(CacheMode::CACHE_MODE_NORMAL);
  tensor.SetL2CacheHint<CacheRwMode::WRITE>(CacheMode::CACHE_MODE_PERSISTENT);
  tensor.SetL2CacheHint<CacheRwMode::RW>(CacheMode::CACHE_MODE_LAST);
  tensor.SetL2CacheHint(CacheRwMode::READ);  // wrong
  static_assert(std::is_same_v<GlobalTensor<half>::PrimType, half>);
  GlobalTensor<half> halves = tensor.ReinterpretCast<half>();  // wrong: not on Atlas A2
  tensor.SetSize(64);                                          // wrong: of local tensors
}

void LocalPlaces(uint32_t address) {
  LocalTensor<float> none;
  LocalTensor<float> placed(TPosition::VECIN, 0, 64);
  LocalTensor<half> computed(TPosition::VECCALC, address, address);
  LocalTensor<float> braced{TPosition::VECOUT, 0, 64};
  LocalTensor<float> only_address(address);     // wrong: for tensor traits
  LocalTensor<float> two(TPosition::VECIN, 0);  // wrong
}

void LocalElements(LocalTensor<float> tensor, LocalTensor<half> halves, uint32_t offset, int i) {
  float value = tensor.GetValue(0);
  value = tensor.GetValue(i);
  value = tensor(offset);
  tensor.SetValue(0, 1.0f);
  tensor.SetValue(offset, i);
  halves.SetValue(0, half(1));
  halves.SetValue(0, 1.5f);
  tensor(offset) = value;
  tensor(1) = tensor(0);
  tensor(1) = 3;
  tensor(1) += value;
  tensor(1) -= tensor(0);
  halves(1) = halves(0);
  auto read = tensor(3) * 2 + tensor(4);
  half product = halves(0) * halves(1);
  LocalTensor<float> rest = tensor[offset];
  rest = tensor[i];
  rest = halves[i];    // wrong: of another type
  tensor.SetValue(0);  // wrong
  tensor.GetValue();   // wrong
}

void LocalViews(LocalTensor<float> tensor, LocalTensor<half> halves) {
  LocalTensor<half> same = tensor.ReinterpretCast<half>();
  LocalTensor<uint8_t> bytes = tensor[8].ReinterpretCast<uint8_t>();
  LocalTensor<float> wrong = tensor.ReinterpretCast<half>();  // wrong
  tensor.SetAddrWithOffset(halves, 4);
  tensor.SetAddrWithOffset(tensor, 4);
  tensor.SetAddrWithOffset(halves);  // wrong
  tensor.SetBufferLen(4);
  tensor.SetSize(64);
  uint32_t size = tensor.GetSize();
  uint32_t length = tensor.GetLength();
  int32_t position = tensor.GetPosition();
  uint64_t address = (uint64_t)tensor.GetPhyAddr();
  address = (uint64_t)tensor.GetPhyAddr(4);
  address = tensor.GetPhyAddr();  // theirs: a pointer when debugging on a CPU
  TTagType tag = 10;
  tensor.SetUserTag(tag);
  tag = tensor.GetUserTag();
  tensor.Print();
  tensor.Print(8);
  int32_t failed = tensor.ToFile("tensor.bin");
  static_assert(std::is_same_v<LocalTensor<half>::PrimType, half>);
}

void Shapes(LocalTensor<float> tensor, GlobalTensor<float> global) {
  uint32_t sizes[] = {4, 8};
  ShapeInfo none;
  ShapeInfo two(2, sizes);
  ShapeInfo three(2, sizes, DataFormat::ND);
  ShapeInfo five(2, sizes, 2, sizes, DataFormat::NHWC);
  ShapeInfo four(2, sizes, 2, sizes);  // wrong
  int size = GetShapeSize(two);
  none.shapeDim = 1;
  none.originalShapeDim = 1;
  none.shape[K_MAX_DIM - 1] = 1;
  none.originalShape[0] = none.shape[0];
  none.dataFormat = DataFormat::NC1HWC0;
  none.dataFormat = DataFormat::NCHW;
  none.dataFormat = DataFormat::NZ;
  tensor.SetShapeInfo(two);
  tensor.SetShapeInfo(ShapeInfo(2, sizes, DataFormat::ND));
  none = tensor.GetShapeInfo();
  global.SetShapeInfo(two);
  none = global.GetShapeInfo();
  static_assert(K_MAX_DIM == 8);
}

void Dumps(LocalTensor<float> tensor, GlobalTensor<half> global, ShapeInfo shape) {
  DumpTensor(tensor, 5, 32);
  DumpTensor(global, 5, 32);
  DumpTensor(tensor, 5, 32, shape);
  DumpTensor(global, 5, 32, shape);
  DumpAccChkPoint(tensor, 5, 8, 32);
  DumpAccChkPoint(global, 5, 8, 32);
  DumpTensor(tensor, 5);          // wrong
  DumpTensor(shape, 5, 32);       // wrong
  DumpAccChkPoint(tensor, 5, 8);  // wrong
}

void Allocator(uint32_t size) {
  LocalMemAllocator<Hardware::UB> ub;
  LocalMemAllocator<> same;
  LocalMemAllocator<Hardware::L1> l1;
  LocalMemAllocator<Hardware::L0A> l0a;
  LocalMemAllocator<Hardware::L0B> l0b;
  LocalMemAllocator<Hardware::L0C> l0c;
  LocalMemAllocator<Hardware::BIAS> bias;
  LocalMemAllocator<Hardware::FIXBUF> fixpipe;
  LocalTensor<float> a = ub.Alloc<float>(size);
  LocalTensor<float> b = ub.Alloc<float, 64>();
  LocalTensor<float> c = ub.Alloc<TPosition::VECIN, float>(size);
  LocalTensor<float> d = ub.Alloc<TPosition::VECIN, float, 64>();
  LocalTensor<half> e = l1.Alloc<TPosition::A1, half>(size);
  uint32_t address = ub.GetCurAddr();
  LocalTensor<half> f = ub.Alloc<float>(size);  // wrong: of another type
  LocalTensor<float> g = ub.Alloc<float>();     // wrong: no size
}
