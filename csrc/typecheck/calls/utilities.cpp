// Prints, assertions, what the compiler knows by itself, division rounded up.
#include "kernel_operator.h"

using namespace AscendC;

void Work(int a, float b) {}
__aicore__ __forceinline__ int Forced(int a) { return a; }
__aicore__ __inline__ int Inlined(int a) { return a; }

void Prints(int i, float f, half h, bfloat16_t b, DataCopyParams params) {
  AscendC::printf("text");
  AscendC::printf("%d %f\n", i, f);
  AscendC::printf("%f %f\n", h, b);
  AscendC::PRINTF("%f %s\n", f, "text");
  PRINTF("%d", params.blockLen);
  printf("%d\n", i);
  AscendC::printf();  // wrong
}

void Assertions(int i, __gm__ int* pointer) {
  assert(i == 1);
  assert(pointer);
  assert(i == 1, "text");
  assert(i == 1, "text %d", i);
  ascendc_assert(i == 1);
  ascendc_assert(i == 1, "text %d", i);
  Trap();
}

void Cores(int i, float f) {
  i = g_coreType == AIV;
  i = g_coreType == AscendC::AIC;
  i = ::g_coreType;
  static_assert(AIC == 1 && AIV == 2);
  Async<EngineType::AIC, Work>(i, f);
  Async<EngineType::AIV, Work>(i, f);
  Async<AIC, Work>(i, f);   // wrong: a number
  i = EngineType::AIC;      // wrong: a class
  i = AscendC::g_coreType;  // wrong
  i = block_idx;
  i = block_idx * 4 + 1;
  i = block_num;
}

void Kinds() {
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
  KERNEL_TASK_TYPE(1, KERNEL_TYPE_MIX_AIC_1_2);
}

void GlobalForms() {
  set_flag(PIPE_MTE2, PIPE_V, EVENT_ID0);
  wait_flag(PIPE_MTE2, PIPE_V, EVENT_ID0);
  pipe_barrier(PIPE_ALL);
  pipe_barrier(PIPE_V);
}

void Divisions(int i, uint32_t u, uint64_t wide) {
  u = DivCeil(u, 3);
  i = DivCeil(i, i);
  u = AlignUp(u, 32);
  u = Ceil(u, 32);
  u = DivCeil(wide, 32);
  static_assert(DivCeil(5, 2) == 3);
  static_assert(AlignUp(5, 4) == 8);
  static_assert(Ceil(5, 2) == 3);  // wrong: not a constant
  static_assert(std::is_same_v<decltype(DivCeil(i, i)), uint32_t>);
  static_assert(std::is_same_v<decltype(AlignUp(wide, wide)), uint32_t>);
  u = DivCeil(u);  // wrong
}

void Constants() {
  static_assert(ONE_BLK_SIZE == 32 && sizeof(ONE_BLK_SIZE) == 2);
  static_assert(BLOCK_CUBE == 16);
  static_assert(PAD_SIZE == 4);
  static_assert(DEFAULT_BLK_NUM == 8);
  static_assert(DEFAULT_BLK_STRIDE == 1);
  static_assert(DEFAULT_REPEAT_STRIDE == 8);
  static_assert(MASK_PLACEHOLDER == 0);
  static_assert(std::is_same_v<decltype(DEFAULT_REPEAT_STRIDE), const uint8_t>);
  static_assert(std::is_same_v<decltype(MASK_PLACEHOLDER), const uint64_t>);
  static_assert(GetDataBlockSizeInBytes() == 32);
}

void System(int64_t i) {
  i = GetProgramCounter();
  ICachePreLoad(2);
  i = GetICachePreloadStatus();
  MetricsProfStart();
  MetricsProfStop();
}
