// The mistakes that the type check must see, each after its correct twin.
#include "kernel_operator.h"

using namespace AscendC;

void OperandsOfTwoDtypes(LocalTensor<float> dst, LocalTensor<float> a, LocalTensor<half> b) {
  Add(dst, a, a, 64);
  Add(dst, a, b, 64);  // wrong
}

void DtypeOfAnIndex(LocalTensor<float> dst, LocalTensor<float> src, LocalTensor<uint32_t> offset,
                    LocalTensor<int32_t> signed_offset) {
  Gather(dst, src, offset, 0, 64);
  Gather(dst, src, signed_offset, 0, 64);  // wrong
}

void ScalarMissing(LocalTensor<float> dst, LocalTensor<float> src) {
  Muls(dst, src, 2.0f, 64);
  Muls(dst, src, 64);  // wrong
}

void NumberOfBuffersMissing(TPipe& pipe, TQue<TPosition::VECIN, 1>& queue) {
  pipe.InitBuffer(queue, 1, 256);
  pipe.InitBuffer(queue, 256);  // wrong
}

void EnumOfAnotherCall(LocalTensor<uint8_t> mask, LocalTensor<float> a, LocalTensor<float> b) {
  Compare(mask, a, b, CMPMODE::EQ, 64);
  Compare(mask, a, b, SELMODE::VSEL_CMPMASK_SPR, 64);  // wrong
}

void UnknownEnumerator(LocalTensor<float> dst, LocalTensor<half> src) {
  Cast(dst, src, RoundMode::CAST_NONE, 64);
  Cast(dst, src, RoundMode::CAST_NEAREST, 64);  // wrong
}

void PipeAsAFlag(int32_t id) {
  SetFlag<HardEvent::MTE2_V>(id);
  SetFlag<PIPE_MTE2>(id);  // wrong
}

void UnknownQueueMethod(TQue<TPosition::VECIN, 1>& queue) {
  LocalTensor<float> tensor = queue.AllocTensor<float>();
  queue.FreeTensor(tensor);
  queue.Free(tensor);  // wrong
}

void TensorOfAnotherDtypeFromAQueue(TQue<TPosition::VECIN, 1>& queue) {
  LocalTensor<half> right = queue.DeQue<half>();
  LocalTensor<half> wrong = queue.DeQue<float>();  // wrong
}

void PadParametersOfAnotherDtype(LocalTensor<half> dst, GlobalTensor<half> src) {
  const DataCopyExtParams rows(1, 10, 0, 0, 0);
  DataCopyPad(dst, src, rows, DataCopyPadExtParams<half>());
  DataCopyPad(dst, src, rows, DataCopyPadExtParams<float>());  // wrong
}

void PadParametersMissing(LocalTensor<float> local, GlobalTensor<float> global) {
  const DataCopyExtParams rows(1, 20, 0, 0, 0);
  DataCopyPad(global, local, rows);
  DataCopyPad(local, global, rows);  // wrong
}

void GlobalTensorInArithmetic(LocalTensor<float> dst, LocalTensor<float> a, GlobalTensor<float> b) {
  Add(dst, a, a, 64);
  Add(dst, a, b, 64);  // wrong
}

void GlobalToGlobal(LocalTensor<float> local, GlobalTensor<float> dst, GlobalTensor<float> src) {
  DataCopy(local, src, 64);
  DataCopy(dst, src, 64);  // wrong
}

void FieldOfANewerChip(MmadParams params) {
  params.unitFlag = 3;
  params.disableGemv = true;  // wrong
}

void CopyOfANewerChip(LocalTensor<float> dst, GlobalTensor<float> src) {
  DataCopy(dst, src, DataCopyParams());
  DataCopy(dst, src, MultiCopyParams<float, 2>());  // wrong
}

void CastWithoutAnInstruction(LocalTensor<bfloat16_t> dst, LocalTensor<float> wide,
                              LocalTensor<half> narrow) {
  Cast(dst, wide, RoundMode::CAST_RINT, 64);
  Cast(dst, narrow, RoundMode::CAST_RINT, 64);  // wrong
}

// --- cube cores ---------------------------------------------------------------------------------

void FactorInGlobalMemory(LocalTensor<float> dst, LocalTensor<half> left, LocalTensor<half> right,
                          GlobalTensor<half> global) {
  Mmad(dst, left, right, MmadParams());
  Mmad(dst, left, global, MmadParams());  // wrong
}

void FractalParametersOfTheTransposingLoad(LocalTensor<float> dst, LocalTensor<float> src) {
  LoadDataWithTranspose(dst, src, LoadData2dTransposeParams());
  LoadDataWithTranspose(dst, src, LoadData2DParams());  // wrong
}

void RowsToFractalsFromLocalMemory(LocalTensor<half> dst, GlobalTensor<half> src,
                                   LocalTensor<half> local) {
  DataCopy(dst, src, Nd2NzParams());
  DataCopy(GlobalTensor<half>(), local, Nd2NzParams());  // wrong
}

void ResultOutOfGlobalMemory(GlobalTensor<half> dst, LocalTensor<float> tile,
                             GlobalTensor<float> global) {
  Fixpipe<half, float, CFG_ROW_MAJOR>(dst, tile, FixpipeParamsV220());
  Fixpipe<half, float, CFG_ROW_MAJOR>(dst, global, FixpipeParamsV220());  // wrong
}

void FieldOfANewerChipsResult(FixpipeParamsV220 params) {
  params.isChannelSplit = true;
  params.dualDstCtl = 1;  // wrong
}

void UnknownConversion(FixpipeParamsV220 params) {
  params.quantPre = QuantMode_t::F322BF16;
  params.quantPre = QuantMode_t::S322BF16;  // wrong
}

void FilledWithAnotherDtype(LocalTensor<half> dst) {
  Fill(dst, InitConstValueParams<half>());
  Fill(dst, InitConstValueParams<float>());  // wrong
}

void FlagBetweenCoresWithoutItsPipe() {
  CrossCoreSetFlag<2, PIPE_FIX>(0);
  CrossCoreSetFlag<2>(0);  // wrong
}
