// What a kernel sets for products and for the way out of L0C, and scales on their way to FB.
#include "core.h"
#include "cube.h"

namespace emulator {

namespace {

CubeRegisters& Set(Op op) {
  Core& core = CurrentCore();
  core.Begin(op, PIPE_S);
  if (!core.IsCube()) Fail(Rule::kCorePipe, "a vector core has no %s", Name(op));
  return core.registers.cube;
}

}  // namespace

void SetProductOrder(bool row_major) {
  Set(row_major ? Op::kSetMMRowMajor : Op::kSetMMColumnMajor).product_order =
      row_major ? ProductOrder::kRowMajor : ProductOrder::kColumnMajor;
}

void SetHalfFloat(bool on) { Set(Op::kSetHF32Mode).half_float = on; }
void SetHalfFloatRounding(bool to_zero) { Set(Op::kSetHF32TransMode).half_float_to_zero = to_zero; }

void CheckRelu(uint8_t mode) {
  CurrentCore().op = Op::kDataCopy;
  CheckRange("reluPre", mode, 0, 1);
}

void SetScale(uint64_t scale) { Set(Op::kSetFixpipePreQuantFlag).scale = scale; }

void SetMatrices(uint32_t count, uint32_t source, uint32_t destination) {
  CubeRegisters& registers = Set(Op::kSetFixpipeNz2ndFlag);
  CheckRange("ndNum", count, 1, 65535);
  CheckRange("srcNdStride", source, count > 1 ? 1 : 0, 512);
  registers.matrices = {count, source, destination};
}

void SetScales(const LocalRef& scales, DType dtype, bool clear) {
  CubeRegisters& registers = Set(Op::kSetFixPipeConfig);
  const Memory memory = MemoryOf(scales.position);
  if (memory == Memory::kFixpipe && dtype == DType::kUint64) {
    registers.scales = scales;
  } else if (memory != Memory::kL0C || !clear) {
    Fail(Rule::kFixpipeConfig, "a tensor of %s in %s", Name(dtype), Name(memory));
  }
  if (clear) CurrentCore().units.fill(0);
}

}  // namespace emulator
