// Calls of data movement. See ../README.md.
#include "kernel_operator.h"
#include "kernel_operator_list_tensor_intf.h"

using namespace AscendC;

void ByCount(LocalTensor<half> local, LocalTensor<half> other, GlobalTensor<half> global,
             LocalTensor<float> wide, GlobalTensor<float> wide_global, LocalTensor<uint8_t> bytes,
             GlobalTensor<uint8_t> byte_global, LocalTensor<int64_t> longs,
             GlobalTensor<int64_t> long_global, LocalTensor<double> doubles,
             GlobalTensor<double> double_global, LocalTensor<bfloat16_t> brain,
             GlobalTensor<bfloat16_t> brain_global, uint32_t count, int signed_count) {
  DataCopy(local, global, 128);
  DataCopy(local, global, count);
  DataCopy(local, global, signed_count);
  DataCopy(local[16], global[3], 64);
  DataCopy<half>(local, global, 128);
  DataCopy(global, local, 128);
  DataCopy<half>(global, local, count);
  DataCopy(local, other, 128);
  DataCopy<half>(local, other, count);
  DataCopy(wide, wide_global, 8);
  DataCopy(wide_global, wide, 8);
  DataCopy(bytes, byte_global, 32);
  DataCopy(byte_global, bytes, 32);
  DataCopy(longs, long_global, 4);
  DataCopy(long_global, longs, 4);
  DataCopy(doubles, double_global, 4);
  DataCopy(double_global, doubles, 4);
  DataCopy(brain, brain_global, 16);
  DataCopy(brain_global, brain, 16);
  DataCopy(local, wide_global, 8);    // wrong: two element types
  DataCopy(wide_global, local, 8);    // wrong: two element types
  DataCopy(local, wide, 8);           // wrong: two element types
  DataCopy(global, global, 8);        // wrong: from global memory to global memory
  DataCopy(local, global);            // wrong: no count
  DataCopy(local, 128, global);       // wrong: the order
  DataCopy(local, global, 16, 16);    // wrong: one count
  DataCopy<float>(local, global, 8);  // wrong: not its element type
}

void Blocks(LocalTensor<half> local, LocalTensor<half> other, GlobalTensor<half> global,
            LocalTensor<float> wide, LocalTensor<uint64_t> longs, LocalTensor<uint64_t> other_longs,
            GlobalTensor<int8_t> byte_global, LocalTensor<int8_t> bytes, uint32_t rows, int gap) {
  DataCopyParams params;
  params.blockCount = 2;
  params.blockLen = 3;
  params.srcGap = 1;
  params.dstGap = rows;
  params.srcStride = gap;
  params.dstStride = 0;
  params.blockLen = rows * sizeof(half) / 32;
  DataCopyParams copied = params;
  DataCopyParams four(1, 8, 0, 0);
  DataCopyParams converted(rows, gap, rows, gap);
  DataCopyParams listed = {1, 16, 0, 0};
  DataCopyParams braces{1, 16, 0, 0};
  DataCopyParams nothing{};
  const uint16_t length = params.blockLen;
  DataCopy(local, global, params);
  DataCopy(global, local, params);
  DataCopy(local, other, params);
  DataCopy<half>(local, global, params);
  DataCopy<half>(global, local, params);
  DataCopy<half>(local, other, params);
  DataCopy(local, global, DataCopyParams(1, 8, 0, 0));
  DataCopy(bytes, byte_global, DataCopyParams{1, 1, 0, 0});
  DataCopy(longs, other_longs, params);
  DataCopy(global, local, {1, 8, 0, 0});
  DataCopyParams three(1, 8, 0);       // wrong: three of four
  DataCopyParams five(1, 8, 0, 0, 0);  // wrong: five of four
  params.blockLength = 3;              // wrong: no such member
  DataCopy(global, wide, params);      // wrong: two element types
}

void Enhanced(LocalTensor<half> local, GlobalTensor<half> global, LocalTensor<half> other) {
  DataCopyCO12DstParams params;
  DataCopy(local, global, Nd2NzParams(), 1);   // wrong: no such form
  DataCopy(local, other, SliceInfo());         // wrong: no such form
  DataCopy(global, local, Nd2NzParams());      // wrong: only into local memory
  DataCopy(local, global, Nz2NdParamsFull());  // wrong: only out of local memory
}

void Layouts(LocalTensor<half> local, GlobalTensor<half> global, LocalTensor<float> wide,
             GlobalTensor<float> wide_global, LocalTensor<int8_t> bytes,
             GlobalTensor<int8_t> byte_global, LocalTensor<int64_t> longs,
             GlobalTensor<int64_t> long_global, uint32_t rows) {
  Nd2NzParams in;
  in.ndNum = 1;
  in.nValue = rows;
  in.dValue = rows;
  in.srcNdMatrixStride = 0;
  in.srcDValue = rows;
  in.dstNzC0Stride = rows;
  in.dstNzNStride = 1;
  in.dstNzMatrixStride = 0;
  Nd2NzParams eight(1, 16, 16, 0, 16, 16, 1, 0);
  Nd2NzParams listed = {1, 16, 16, 0, 16, 16, 1, 0};
  DataCopy(local, global, in);
  DataCopy<half>(local, global, in);
  DataCopy(wide, wide_global, in);
  DataCopy(bytes, byte_global, in);
  DataCopy(local, global, Nd2NzParams{1, 16, 16, 0, 16, 16, 1, 0});
  Nz2NdParamsFull out;
  out.ndNum = 1;
  out.nValue = rows;
  out.dValue = 16;
  out.srcNdMatrixStride = 1;
  out.srcNStride = rows;
  out.dstDStride = 16;
  out.dstNdMatrixStride = 1;
  Nz2NdParamsFull seven(1, 32, 32, 1, 32, 32, 1);
  Nz2NdParamsFull braces{1, 32, 32, 1, 32, 32, 1};
  DataCopy(global, local, out);
  DataCopy<half>(global, local, out);
  DataCopy(wide_global, wide, out);
  DataCopy(global, local, Nz2NdParamsFull{1, 32, 32, 1, 32, 32, 1});
  Nd2NzParams short_one(1, 16, 16, 0, 16, 16, 1);   // wrong: seven of eight
  Nz2NdParamsFull short_two(1, 32, 32, 1, 32, 32);  // wrong: six of seven
  DataCopy(longs, long_global, in);                 // ours: no 64-bit types
  DataCopy(long_global, longs, out);                // ours: no 64-bit types
  DataCopy(byte_global, bytes, out);                // ours: no 8-bit types
}

void Slices(LocalTensor<float> local, GlobalTensor<float> global, LocalTensor<int64_t> longs,
            GlobalTensor<int64_t> long_global, uint32_t number) {
  SliceInfo slice;
  slice.startIndex = 0;
  slice.endIndex = number;
  slice.stride = 0;
  slice.burstLen = 1;
  slice.shapeValue = 32;
  SliceInfo four(0, 31, 0, 4);
  SliceInfo five(0, 31, 0, 4, 32);
  SliceInfo from[] = {{16, 70, 7, 3, 87}, {0, 2, 1, 1, 3}};
  SliceInfo to[K_MAX_DIM] = {{0, 47, 0, 3, 48}, {0, 1, 0, 1, 2}};
  DataCopy(local, global, to, from, 2);
  DataCopy(local, global, to, from, number);
  DataCopy(local, global, to, from);
  DataCopy<float>(local, global, to, from, 2);
  DataCopy(global, local, to, from, 2);
  DataCopy(global, local, to, from);
  DataCopy<float>(global, local, to, from);
  SliceInfo three(0, 31, 0);               // wrong: three
  DataCopy(local, local, to, from, 2);     // wrong: inside local memory
  DataCopy(local, global, slice, slice);   // wrong: no array
  DataCopy(longs, long_global, to, from);  // ours: no 64-bit types
  DataCopy(long_global, longs, to, from);  // ours: no 64-bit types
}

void Padded(LocalTensor<half> local, GlobalTensor<half> global, LocalTensor<float> wide,
            GlobalTensor<float> wide_global, LocalTensor<int64_t> longs,
            GlobalTensor<int64_t> long_global, uint32_t bytes, int columns, half value) {
  DataCopyExtParams params;
  params.blockCount = 1;
  params.blockLen = bytes;
  params.srcStride = bytes;
  params.dstStride = 0;
  params.rsv = 0;
  DataCopyExtParams five(1, bytes, 0, 0, 0);
  DataCopyExtParams listed{static_cast<uint16_t>(columns), bytes, 0, 0, 0};
  DataCopyPadExtParams<half> pad;
  pad.isPad = true;
  pad.leftPadding = 0;
  pad.rightPadding = columns;
  pad.paddingValue = 0;
  DataCopyPadExtParams<half> four(true, 0, 2, value);
  DataCopyPadExtParams<float> wide_pad{true, 0, 2, 0.0f};
  DataCopyPadExtParams<int64_t> long_pad{false, 0, 0, 0};
  DataCopyPad(local, global, params, pad);
  DataCopyPad<half>(local, global, params, pad);
  DataCopyPad(wide, wide_global, params, wide_pad);
  DataCopyPad(longs, long_global, params, long_pad);
  DataCopyPad(local, global, {1, bytes, 0, 0, 0}, {true, 0, 2, value});
  DataCopyPad(local, global, DataCopyExtParams(1, 20, 0, 0, 0),
              DataCopyPadExtParams<half>(false, 0, 0, 0));
  DataCopyPad(global, local, params);
  DataCopyPad<half>(global, local, params);
  DataCopyPad(wide_global, wide, DataCopyExtParams{1, bytes, 0, 0, 0});
  DataCopyParams narrow(1, 20, 0, 0);
  DataCopyPadParams narrow_pad;
  narrow_pad.isPad = true;
  narrow_pad.leftPadding = 1;
  narrow_pad.rightPadding = columns;
  narrow_pad.paddingValue = 0x3c00;
  DataCopyPadParams narrow_four(true, 0, 2, 0);
  DataCopyPadParams narrow_braces{true, 0, 2, 0};
  DataCopyPad(local, global, narrow, narrow_pad);
  DataCopyPad<half>(local, global, narrow, narrow_pad);
  DataCopyPad(local, global, DataCopyParams{1, 20, 0, 0}, DataCopyPadParams{true, 0, 2, 0});
  DataCopyPad(global, local, narrow);
  DataCopyPad<half>(global, local, narrow);
  DataCopyPad(global, local, DataCopyParams(1, 20, 0, 0));
  SetPadValue(value);
  SetPadValue((half)1);
  SetPadValue<float>(1.0f);
  SetPadValue<half, TPosition::VECIN>(value);
  SetPadValue<half, TPosition::VECOUT>(value);
  SetPadValue<half, TPosition::MAX>(value);
  SetPadValue<int32_t>(columns);
  DataCopyPad(local, global, params);               // wrong: into local memory with a padding
  DataCopyPad(local, global, params, wide_pad);     // wrong: the padding's type
  DataCopyPad(local, global, params, narrow_pad);   // wrong: parameters of two forms
  DataCopyPad(local, global, narrow, pad);          // wrong: parameters of two forms
  DataCopyPad(global, local, params, pad);          // wrong: out of local memory without one
  DataCopyPad(wide_global, local, params);          // wrong: two element types
  DataCopyExtParams four_of_five(1, bytes, 0, 0);   // wrong: four of five
  DataCopyPadParams three_of_four(true, 0, 2);      // wrong: three of four
  DataCopyPadExtParams<half> no_value(true, 0, 2);  // wrong: three of four
  SetPadValue<half, TPosition::A1>(value);          // ours: into UB
  SetPadValue();                                    // wrong: no value
}

void Copies(LocalTensor<half> dst, LocalTensor<half> src, LocalTensor<float> wide,
            LocalTensor<int32_t> ints, LocalTensor<int8_t> bytes, LocalTensor<bfloat16_t> brain,
            LocalTensor<int64_t> longs, uint64_t mask, uint64_t* bits, uint8_t repeat) {
  CopyRepeatParams params;
  params.dstStride = 1;
  params.srcStride = 1;
  params.dstRepeatSize = 8;
  params.srcRepeatSize = 8;
  CopyRepeatParams four(1, 1, 8, 8);
  Copy(dst, src, mask, repeat, params);
  Copy(dst, src, 64, 8, {1, 1, 8, 8});
  Copy(dst, src, bits, repeat, {1, 1, 8, 8});
  Copy<half>(dst, src, mask, 8, four);
  Copy<half, true>(dst, src, mask, 8, params);
  Copy<half, false>(dst, src, MASK_PLACEHOLDER, 1, {1, 8, 8, 8});
  Copy<half, false>(dst, src, bits, 1, params);
  Copy(ints, ints[64], 64, 1, params);
  Copy(brain, brain, mask, 1, params);
  Copy(wide, wide, mask, 1, CopyRepeatParams());
  Copy(dst, wide, mask, 1, params);     // wrong: two element types
  Copy(dst, src, mask, 1);              // wrong: no parameters
  Copy(dst, src, 128);                  // wrong: no count form on this device
  Copy(dst, src, mask, params, 1);      // wrong: the order
  CopyRepeatParams three(1, 1, 8);      // wrong: three of four
  Copy(bytes, bytes, mask, 1, params);  // ours: 16- and 32-bit types
  Copy(longs, longs, bits, 1, params);  // ours: 16- and 32-bit types
}

void Lists(__gm__ uint8_t* memory, uint64_t* shape, uint32_t index) {
  ListTensorDesc later;
  later.Init((__gm__ void*)memory);
  later.Init((__gm__ void*)memory, 64);
  later.Init((__gm__ void*)memory, 64, 2);
  ListTensorDesc list((__gm__ void*)memory);
  ListTensorDesc with_length((__gm__ void*)memory, 64);
  ListTensorDesc with_number((__gm__ void*)memory, 64, 2);
  const uint32_t size = list.GetSize();
  __gm__ float* first = list.GetDataPtr<float>(0);
  __gm__ uint8_t* second = (__gm__ uint8_t*)list.GetDataPtr<__gm__ uint8_t>(index);
  TensorDesc<float> tensor;
  tensor.SetShapeAddr(shape);
  list.GetDesc(tensor, 0);
  list.GetDesc<float>(tensor, index);
  const uint64_t dimensions = tensor.GetDim();
  const uint64_t number = tensor.GetIndex();
  const uint64_t rows = tensor.GetShape(0);
  __gm__ float* data = tensor.GetDataPtr();
  GlobalTensor<float> object = tensor.GetDataObj();
  list.GetDataPtr(0);                    // wrong: no element type
  list.GetDesc(tensor);                  // wrong: no index
  tensor.SetShapeAddr(index);            // wrong: no address
  ListTensorDesc none(memory, 1, 2, 3);  // wrong: too many arguments
}
