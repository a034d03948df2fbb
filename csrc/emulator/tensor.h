// GlobalTensor, LocalTensor and the allocator of the static style.
#ifndef MOGE_EMULATOR_TENSOR_H_
#define MOGE_EMULATOR_TENSOR_H_

#include <string>

#include "debug.h"
#include "shape.h"

namespace emulator {

// What operator() of a tensor returns: reads and writes of one element go through the machine.
template <typename T, typename Ref>
class Element {
 public:
  Element(const Ref& ref, uint64_t index) : ref_(ref), offset_(index * sizeof(T)) {}
  operator T() const {
    static_assert(!std::is_same_v<T, AscendC::int4b_t>, "GetValue: rule dtype.table: no int4");
    T value;
    LoadScalar(ref_, offset_, kDTypeOf<T>, &value);
    return value;
  }
  const Element& operator=(T value) const {
    static_assert(!std::is_same_v<T, AscendC::int4b_t>, "SetValue: rule dtype.table: no int4");
    StoreScalar(ref_, offset_, kDTypeOf<T>, &value);
    return *this;
  }
  const Element& operator=(const Element& other) const { return *this = static_cast<T>(other); }
  Element(const Element&) = default;

#define MOGE_COMPOUND(op, assigning)                            \
  template <typename Number>                                    \
  const Element& operator assigning(Number by) const {          \
    return *this = static_cast<T>(static_cast<T>(*this) op by); \
  }
  MOGE_COMPOUND(+, +=)
  MOGE_COMPOUND(-, -=)
  MOGE_COMPOUND(*, *=)
  MOGE_COMPOUND(/, /=)
#undef MOGE_COMPOUND

 private:
  Ref ref_;
  uint64_t offset_;
};

}  // namespace emulator

namespace AscendC {

using TTagType = int32_t;

template <typename T>
class GlobalTensor {
 public:
  using PrimType = T;

  void SetGlobalBuffer(__gm__ T* buffer) {
    ref_ = emulator::PlaceGlobal(buffer, 0);
    size_ = emulator::ElementsIn(emulator::kDTypeOf<T>, ref_.bytes);
  }
  void SetGlobalBuffer(__gm__ T* buffer, uint64_t size) {
    ref_ = emulator::PlaceGlobal(buffer, emulator::BytesOf(emulator::kDTypeOf<T>, size));
    size_ = size;
  }
  GlobalTensor operator[](uint64_t offset) const {
    GlobalTensor view(*this);
    view.ref_ = emulator::Offset(ref_, emulator::BytesOf(emulator::kDTypeOf<T>, offset));
    return view;
  }
  emulator::Element<T, emulator::GlobalRef> operator()(uint64_t offset) const {
    return {ref_, offset};
  }
  T GetValue(uint64_t offset) const { return (*this)(offset); }
  void SetValue(uint64_t offset, T value) const { (*this)(offset) = value; }
  template <CacheRwMode mode = CacheRwMode::RW>
  void SetL2CacheHint(CacheMode how) {
    ref_.bypass = how == CacheMode::CACHE_MODE_DISABLE;
  }
  uint64_t GetSize() const { return size_; }
  void SetShapeInfo(const ShapeInfo& shape) { shape_ = emulator::KeepShape(shape); }
  ShapeInfo GetShapeInfo() const { return emulator::FindShape(shape_); }
  const __gm__ T* GetPhyAddr() const { return GetPhyAddr(0); }
  __gm__ T* GetPhyAddr(uint64_t offset) const {
    return reinterpret_cast<T*>(ref_.address + emulator::BytesOf(emulator::kDTypeOf<T>, offset));
  }
  const emulator::GlobalRef& Ref() const { return ref_; }

 private:
  emulator::GlobalRef ref_;
  uint64_t size_ = 0;
  int32_t shape_ = -1;
};

template <typename T>
class LocalTensor;

}  // namespace AscendC

namespace emulator {

// What `src0 + src1` and `src0 < src1` are, before they are assigned to a tensor.
template <typename T, Op op>
struct WholeTensors {
  const AscendC::LocalTensor<T>& src0;
  const AscendC::LocalTensor<T>& src1;
};
template <typename T>
struct ComparedTensors {
  const AscendC::LocalTensor<T>& src0;
  const AscendC::LocalTensor<T>& src1;
  AscendC::CMPMODE mode;
};

}  // namespace emulator

namespace AscendC {

template <typename T>
class LocalTensor {
 public:
  using PrimType = T;

  LocalTensor() = default;
  // static style: memory by address
  LocalTensor(TPosition position, uint32_t address, uint32_t size)
      : ref_(emulator::PlaceLocal(position, address,
                                  emulator::BytesOf(emulator::kDTypeOf<T>, size))),
        size_(size) {}
  // inside the emulator: memory that a queue, a buffer or another tensor owns
  explicit LocalTensor(const emulator::LocalRef& ref)
      : ref_(ref),
        size_(static_cast<uint32_t>(
            emulator::ElementsIn(emulator::kDTypeOf<T>, ref.end - ref.begin))) {}

  LocalTensor(const LocalTensor&) = default;
  LocalTensor& operator=(const LocalTensor&) = default;
  template <emulator::Op op>
  void operator=(const emulator::WholeTensors<T, op>& sources);
  template <typename U>
  void operator=(const emulator::ComparedTensors<U>& sources);
  LocalTensor operator[](uint32_t offset) const {
    return LocalTensor(emulator::Offset(ref_, emulator::BytesOf(emulator::kDTypeOf<T>, offset)));
  }
  emulator::Element<T, emulator::LocalRef> operator()(uint32_t offset) const {
    return {ref_, offset};
  }
  T GetValue(uint32_t index) const { return (*this)(index); }
  template <typename V>
  void SetValue(uint32_t index, V value) const {
    (*this)(index) = static_cast<T>(value);
  }
  template <typename U>
  LocalTensor<U> ReinterpretCast() const {
    return LocalTensor<U>(ref_);
  }
  // the memory of another tensor, from its element `offset` on
  template <typename U>
  void SetAddrWithOffset(const LocalTensor<U>& src, uint32_t offset) {
    *this = src[offset].template ReinterpretCast<T>();
  }
  uint32_t GetSize() const { return size_; }
  void SetSize(uint32_t size) { size_ = size; }
  void SetBufferLen(uint32_t size) { size_ = size; }
  uint32_t GetLength() const {
    return static_cast<uint32_t>(emulator::BytesOf(emulator::kDTypeOf<T>, size_));
  }
  int32_t GetPosition() const { return static_cast<int32_t>(ref_.position); }
  // address in its memory
  uint64_t GetPhyAddr() const { return GetPhyAddr(0); }
  uint64_t GetPhyAddr(uint32_t offset) const {
    return ref_.begin + emulator::BytesOf(emulator::kDTypeOf<T>, offset);
  }
  void SetUserTag(TTagType tag) { tag_ = tag; }
  TTagType GetUserTag() const { return tag_; }
  void SetShapeInfo(const ShapeInfo& shape) { shape_ = emulator::KeepShape(shape); }
  ShapeInfo GetShapeInfo() const { return emulator::FindShape(shape_); }
  // for a look at it, past the checks of a kernel's accesses
  void Print() const { Print(size_); }
  void Print(uint32_t len) const { emulator::PrintBlocks(ref_, emulator::kDTypeOf<T>, len); }
  int32_t ToFile(const std::string& fileName) const {
    return emulator::WriteFile(ref_, GetLength(), fileName.c_str());
  }
  const emulator::LocalRef& Ref() const { return ref_; }

 private:
  emulator::LocalRef ref_;
  uint32_t size_ = 0;
  TTagType tag_ = 0;
  int32_t shape_ = -1;
};

// Static style: hands out one memory from address 0 up.
template <Hardware hardware = Hardware::UB>
class LocalMemAllocator {
  static_assert(hardware != Hardware::GM, "LocalMemAllocator: global memory is the host's");

 public:
  template <TPosition position, typename T, uint32_t size>
  LocalTensor<T> Alloc() {
    return Alloc<position, T>(size);
  }
  template <TPosition position, typename T>
  LocalTensor<T> Alloc(uint32_t size) {
    LocalTensor<T> tensor(position, address_, size);
    const uint64_t bytes = emulator::BytesOf(emulator::kDTypeOf<T>, size);
    address_ = static_cast<uint32_t>(emulator::RoundUp(address_ + bytes, 32u));
    return tensor;
  }
  template <typename T, uint32_t size>
  LocalTensor<T> Alloc() {
    return Alloc<kPosition, T>(size);
  }
  template <typename T>
  LocalTensor<T> Alloc(uint32_t size) {
    return Alloc<kPosition, T>(size);
  }
  uint32_t GetCurAddr() const { return address_; }

 private:
  static constexpr TPosition kPosition = hardware == Hardware::L1       ? TPosition::A1
                                         : hardware == Hardware::L0A    ? TPosition::A2
                                         : hardware == Hardware::L0B    ? TPosition::B2
                                         : hardware == Hardware::L0C    ? TPosition::CO1
                                         : hardware == Hardware::BIAS   ? TPosition::C2
                                         : hardware == Hardware::FIXBUF ? TPosition::C2PIPE2GM
                                                                        : TPosition::VECCALC;
  uint32_t address_ = 0;
};

}  // namespace AscendC

#endif  // MOGE_EMULATOR_TENSOR_H_
