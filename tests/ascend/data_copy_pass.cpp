// Correct kernels of data movement; what they do is compared with NumPy in
// tests/emulator/test_data_copy.py.
#include "common.h"

namespace moge_tests {

namespace {

// UB by address, from 0 up.
template <typename T>
LocalTensor<T> Ub(uint32_t byte, uint32_t size) {
  return LocalTensor<T>(TPosition::VECIN, byte, size);
}

struct Kernel0 {
  Kernel0() { InitSocState(); }
  ~Kernel0() { PipeBarrier<PIPE_ALL>(); }
};

// Rows of 5 halves with 3 between them become rows of 16; then 4 of each go out side by side.
__global__ __vector__ void pad_params(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  Kernel0 kernel;
  auto rows = Ub<half>(0, 6 * 32);
  DataCopyPad(rows, Global<half>(x + 1), DataCopyParams(6, 10, 6, 1),
              DataCopyPadParams(true, 2, 9, 0x3c00));
  Sync<HardEvent::MTE2_MTE3>();
  DataCopyPad(Global<half>(y), rows, DataCopyParams(6, 32, 1, 0));
  DataCopyPad(Global<half>(y + 193), rows, DataCopyParams(1, 6, 0, 0));
}

// 3 rows of 5 floats, padded on both sides with what SetPadValue says.
__global__ __vector__ void pad_value(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  Kernel0 kernel;
  auto rows = Ub<float>(0, 24);
  SetPadValue(7.0f);
  DataCopyPad(rows, Global<float>(x), {3, 20, 0, 0, 0}, {false, 1, 1, 5.0f});
  Sync<HardEvent::MTE2_MTE3>();
  DataCopyPad(Global<float>(y), rows, {1, 96, 0, 0, 0});
}

// Without padding the rest of a block repeats the first element of its row.
__global__ __vector__ void pad_repeats(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  Kernel0 kernel;
  auto rows = Ub<int16_t>(0, 64);
  DataCopyPad(rows, Global<int16_t>(x), {2, 34, 0, 0, 0}, {false, 0, 0, 0});
  Sync<HardEvent::MTE2_MTE3>();
  DataCopyPad(Global<int16_t>(y), rows, {1, 128, 0, 0, 0});
}

// From 4 x 3 x 40 floats two pieces of 8 of every other row, of planes 1 and 3; to 2 x 2 x 24 with
// a gap between the pieces.
__global__ __vector__ void slices(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  Kernel0 kernel;
  auto box = Ub<float>(0, 96);
  Duplicate(box, 0.0f, 96);
  Sync<HardEvent::V_MTE2>();
  const SliceInfo from[] = {{3, 23, 5, 1, 40}, {0, 2, 1, 1, 3}, {1, 3, 1, 1, 4}};
  const SliceInfo to[] = {{0, 23, 8, 1, 24}, {0, 1, 0, 1, 2}, {0, 1, 0, 1, 2}};
  DataCopy(box, Global<float>(x), to, from, 3);
  Sync<HardEvent::MTE2_MTE3>();
  DataCopy(Global<float>(y), box, to, to, 3);
  // one dimension, without its extent
  const SliceInfo line[] = {SliceInfo(0, 15, 0, 2)};
  DataCopy(Global<float>(y + 384), box, line, line);
}

// Rows to columns of 32 bytes in UB and, from columns of 16 elements, back.
template <typename T>
__global__ __vector__ void layouts(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  Kernel0 kernel;
  auto nz = Ub<T>(0, 2 * 48 * 16);
  DataCopy(nz, Global<T>(x), Nd2NzParams(2, 5, 24, 200, 40, 5, 1, 768));
  Sync<HardEvent::MTE2_MTE3>();
  DataCopy(Global<T>(y), nz, sizeof(T) == 2 ? 160 : 120);
  DataCopy(Global<T>(y + 8192), nz, Nz2NdParamsFull(2, 3, 16, 3, 5, 20, 80));
}

// In counter mode each repeat has as many elements as the mask says.
__global__ __vector__ void copy_counted(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  Kernel0 kernel;
  auto from = Ub<float>(0, 512);
  auto to = Ub<float>(2048, 256);
  DataCopy(from, Global<float>(x), 512);
  Sync<HardEvent::MTE2_V>();
  Duplicate(to, 0.0f, 256);
  SetMaskCount();
  SetVectorMask<float>(0, 76);
  Copy<float, false>(to, from, MASK_PLACEHOLDER, 2, {1, 2, 12, 1});
  SetMaskNorm();
  ResetMask();
  const uint64_t mask[2] = {0x5, 0};
  Copy(to[192], from, mask, 1, {1, 1, 8, 8});
  Sync<HardEvent::V_MTE3>();
  DataCopy(Global<float>(y), to, 256);
}

// Undefined bytes are carried along; only what is defined is used.
__global__ __vector__ void carried(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  Kernel0 kernel;
  auto rows = Ub<float>(0, 32);
  auto moved = Ub<float>(128, 32);
  auto again = Ub<float>(256, 32);
  auto whole = Ub<float>(384, 64);
  auto last = Ub<float>(640, 64);
  DataCopyPad(rows, Global<float>(x), {2, 20, 0, 1, 0}, {false, 0, 3, 0.0f});
  Sync<HardEvent::MTE2_V>();
  DataCopy(moved, rows, 32);
  DataCopy(again, moved, DataCopyParams(2, 1, 1, 1));
  Copy(whole, rows, 32, 1, {1, 1, 8, 8});
  Copy(last, whole, 32, 1, {1, 1, 8, 8});
  Adds(again, again, 1.0f, 5);
  Adds(last[16], last[16], 2.0f, 5);
  Sync<HardEvent::V_MTE3>();
  DataCopyPad(Global<float>(y), again, {2, 20, 1, 0, 0});
  DataCopyPad(Global<float>(y + 40), last[16], {1, 20, 0, 0, 0});
}

// 64 bits of any kind; any byte of global memory for L1.
__global__ __vector__ void doubles(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  Kernel0 kernel;
  auto line = Ub<double>(0, 64);
  DataCopy(line, Global<double>(x), 64);
  Sync<HardEvent::MTE2_MTE3>();
  DataCopy(Global<double>(y), line, DataCopyParams(2, 4, 4, 1));
  DataCopyPad(Global<double>(y + 512), line, {1, 24, 0, 0, 0});
}
__global__ __cube__ void odd_bytes(GM_ADDR x, GM_ADDR y, GM_ADDR) {
  Kernel0 kernel;
  LocalTensor<half> line(TPosition::A1, 0, 64);
  DataCopy(line, Global<half>(x + 1), 64);
  Sync<HardEvent::MTE2_MTE3>();
  DataCopy(Global<half>(y + 3), line, DataCopyParams(1, 4, 0, 0));
}

// z holds a list of two tensors, which are read by its addresses and shapes.
__global__ __vector__ void listed(GM_ADDR, GM_ADDR y, GM_ADDR z) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 256);
  auto out = buffer.Get<int32_t>();
  ListTensorDesc list(reinterpret_cast<__gm__ void*>(z), 72, 2);
  out.SetValue(0, static_cast<int32_t>(list.GetSize()));
  uint64_t shape[4] = {};
  TensorDesc<int32_t> tensor;
  tensor.SetShapeAddr(shape);
  for (uint32_t i = 0; i < 2; ++i) {
    list.GetDesc(tensor, i);
    out.SetValue(1 + 3 * i, static_cast<int32_t>(tensor.GetDim()));
    out.SetValue(2 + 3 * i, static_cast<int32_t>(tensor.GetShape(tensor.GetDim() - 1)));
    out.SetValue(3 + 3 * i, tensor.GetDataObj().GetValue(tensor.GetIndex()));
  }
  out.SetValue(7, *list.GetDataPtr<int32_t>(1));
  const TEventID id = GetTPipePtr()->FetchEventID<HardEvent::S_MTE3>();
  SetFlag<HardEvent::S_MTE3>(id);
  WaitFlag<HardEvent::S_MTE3>(id);
  DataCopy(Global<int32_t>(y), out, 8);
}

}  // namespace

const std::vector<Case>& DataCopies() {
  static const std::vector<Case> cases = {
      {"pad_params", pad_params, {}},
      {"pad_value", pad_value, {}},
      {"pad_repeats", pad_repeats, {}},
      {"slices", slices, {}},
      {"layouts half", layouts<half>, {}},
      {"layouts float", layouts<float>, {}},
      {"copy_counted", copy_counted, {}},
      {"carried", carried, {}},
      {"doubles", doubles, {}},
      {"odd_bytes", odd_bytes, Launch(KernelType::kCube)},
      {"listed", listed, {}},
  };
  return cases;
}

}  // namespace moge_tests
