// GlobalTensor, LocalTensor and the allocator of the static style.
#ifndef MOGE_EMULATOR_TENSOR_H_
#define MOGE_EMULATOR_TENSOR_H_

#include "machine.h"

namespace AscendC {

template <typename T>
class GlobalTensor {
 public:
  using PrimType = T;

  void SetGlobalBuffer(__gm__ T* buffer) {
    ref_ = emulator::PlaceGlobal(buffer, 0);
    size_ = ref_.bytes / sizeof(T);
  }
  void SetGlobalBuffer(__gm__ T* buffer, uint64_t size) {
    ref_ = emulator::PlaceGlobal(buffer, size * sizeof(T));
    size_ = size;
  }
  GlobalTensor operator[](uint64_t offset) const {
    GlobalTensor view(*this);
    view.ref_ = emulator::Offset(ref_, offset * sizeof(T));
    return view;
  }
  T GetValue(uint64_t offset) const {
    T value;
    emulator::LoadScalar(ref_, offset * sizeof(T), emulator::kDTypeOf<T>, &value);
    return value;
  }
  void SetValue(uint64_t offset, T value) const {
    emulator::StoreScalar(ref_, offset * sizeof(T), emulator::kDTypeOf<T>, &value);
  }
  template <typename U>
  GlobalTensor<U> ReinterpretCast() const {
    GlobalTensor<U> view;
    view.ref_ = ref_;
    view.size_ = size_ * sizeof(T) / sizeof(U);
    return view;
  }
  template <CacheRwMode mode = CacheRwMode::RW>
  void SetL2CacheHint(CacheMode how) {
    ref_.bypass = how == CacheMode::CACHE_MODE_DISABLE;
  }
  uint64_t GetSize() const { return size_; }
  __gm__ T* GetPhyAddr(uint64_t offset = 0) const {
    return reinterpret_cast<T*>(ref_.address) + offset;
  }
  const emulator::GlobalRef& Ref() const { return ref_; }

 private:
  template <typename U>
  friend class GlobalTensor;

  emulator::GlobalRef ref_;
  uint64_t size_ = 0;
};

// what operator() of a LocalTensor returns: reads and writes go through the machine
template <typename T>
class LocalElement {
 public:
  LocalElement(const emulator::LocalRef& ref, uint32_t index) : ref_(ref), index_(index) {}
  operator T() const {
    T value;
    emulator::LoadScalar(ref_, uint64_t{index_} * sizeof(T), emulator::kDTypeOf<T>, &value);
    return value;
  }
  LocalElement& operator=(T value) {
    emulator::StoreScalar(ref_, uint64_t{index_} * sizeof(T), emulator::kDTypeOf<T>, &value);
    return *this;
  }

 private:
  emulator::LocalRef ref_;
  uint32_t index_;
};

template <typename T>
class LocalTensor {
 public:
  using PrimType = T;

  LocalTensor() = default;
  // static style: memory by address
  LocalTensor(TPosition position, uint32_t address, uint32_t size)
      : ref_(emulator::PlaceLocal(position, address, uint64_t{size} * sizeof(T))), size_(size) {}
  // inside the emulator: memory that a queue, a buffer or another tensor owns
  explicit LocalTensor(const emulator::LocalRef& ref)
      : ref_(ref), size_((ref.end - ref.begin) / sizeof(T)) {}

  LocalTensor operator[](uint32_t offset) const {
    return LocalTensor(emulator::Offset(ref_, uint64_t{offset} * sizeof(T)));
  }
  LocalElement<T> operator()(uint32_t index) const { return {ref_, index}; }
  T GetValue(uint32_t index) const { return LocalElement<T>(ref_, index); }
  template <typename V>
  void SetValue(uint32_t index, V value) const {
    LocalElement<T>(ref_, index) = static_cast<T>(value);
  }
  template <typename U>
  LocalTensor<U> ReinterpretCast() const {
    return LocalTensor<U>(ref_);
  }
  uint32_t GetSize() const { return size_; }
  void SetSize(uint32_t size) { size_ = size; }
  int32_t GetPosition() const { return static_cast<int32_t>(ref_.position); }
  const emulator::LocalRef& Ref() const { return ref_; }

 private:
  emulator::LocalRef ref_;
  uint32_t size_ = 0;
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
    address_ = (address_ + size * sizeof(T) + 31) / 32 * 32;
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
