// What a kernel sets for loads of windows, for products and for the way out of L0C.
#include "core.h"
#include "cube.h"

namespace emulator {

namespace {

CubeRegisters& SetCube(Op op) {
  Core& core = Begin(op, PIPE_S);
  if (!core.IsCube()) Fail(Rule::kCorePipe, "a vector core has no %s", Name(op));
  return core.registers.cube;
}

}  // namespace

void SetImage(const Image& image, bool right_matrix) {
  CubeRegisters& registers = SetCube(Op::kSetFmatrix);
  CheckRange(limits::SetFmatrix::l1H, image.height);
  CheckRange(limits::SetFmatrix::l1W, image.width);
  CheckRange(limits::SetFmatrix::fmatrixMode, right_matrix);
  registers.image = image;
}

void SetImagePadding(uint32_t bits) { SetCube(Op::kSetLoadDataPaddingValue).padding = bits; }

void SetImageRepeat(uint32_t stride, uint32_t times, uint32_t mode) {
  CubeRegisters& registers = SetCube(Op::kSetLoadDataRepeat);
  CheckRange(limits::LoadDataRepeatParam::repeatMode, mode);
  registers.repeat_stride = stride;
  registers.repeat_times = times;
  registers.repeat_mode = mode;
}

void SetImageBoundary(uint32_t bytes) { SetCube(Op::kSetLoadDataBoundary).boundary = bytes; }

void SetProductOrder(bool row_major) {
  SetCube(row_major ? Op::kSetMMRowMajor : Op::kSetMMColumnMajor).product_order =
      row_major ? ProductOrder::kRowMajor : ProductOrder::kColumnMajor;
}

void SetHalfFloat(bool on) { SetCube(Op::kSetHF32Mode).half_float = on; }
void SetHalfFloatRounding(bool to_zero) {
  SetCube(Op::kSetHF32TransMode).half_float_to_zero = to_zero;
}

void CheckRelu(uint8_t mode) {
  Enter(Op::kDataCopy);
  CheckRange(limits::DataCopyCO12DstParams::reluPre, mode);
}

void SetScale(uint64_t scale) { SetCube(Op::kSetFixpipePreQuantFlag).scale = scale; }

void SetMatrices(uint32_t count, uint32_t source, uint32_t destination) {
  CubeRegisters& registers = SetCube(Op::kSetFixpipeNz2ndFlag);
  CheckRange(limits::SetFixpipeNz2ndFlag::ndNum, count);
  CheckRange(
      count > 1 ? limits::FixpipeOfMany::srcNdStride : limits::SetFixpipeNz2ndFlag::srcNdStride,
      source);
  registers.matrices = {count, source, destination};
}

void SetScales(const LocalRef& scales, DType dtype, bool clear) {
  CubeRegisters& registers = SetCube(Op::kSetFixPipeConfig);
  const Memory memory = MemoryOf(scales.position);
  if (memory == Memory::kFixpipe && dtype == DType::kUint64) {
    registers.scales = scales;
  } else if (memory != Memory::kL0C || !clear) {
    Fail(Rule::kFixpipeConfig, "a tensor of %s in %s", Name(dtype), Name(memory));
  }
  if (clear) CurrentCore().units.fill(0);
}

}  // namespace emulator
