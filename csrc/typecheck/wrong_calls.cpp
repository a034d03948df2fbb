// Calls that the type check must reject, each after its correct twin. The compiler verifies the
// comments: an `expected-error` that does not come fails the check, and so does any other error.
#include "kernel_operator.h"

using namespace AscendC;

void OperandsOfTwoDtypes(LocalTensor<float> dst, LocalTensor<float> a, LocalTensor<half> b) {
  Add(dst, a, a, 64);
  // expected-error@+1 {{no matching function for call to 'Add'}}
  Add(dst, a, b, 64);
}

void DtypeOfAnIndex(LocalTensor<float> dst, LocalTensor<float> src, LocalTensor<uint32_t> offset,
                    LocalTensor<int32_t> signed_offset) {
  Gather(dst, src, offset, 0, 64);
  // expected-error@+1 {{no matching function for call to 'Gather'}}
  Gather(dst, src, signed_offset, 0, 64);
}

void ScalarMissing(LocalTensor<float> dst, LocalTensor<float> src) {
  Muls(dst, src, 2.0f, 64);
  // expected-error@+1 {{no matching function for call to 'Muls'}}
  Muls(dst, src, 64);
}

void NumberOfBuffersMissing(TPipe& pipe, TQue<TPosition::VECIN, 1>& queue) {
  pipe.InitBuffer(queue, 1, 256);
  // expected-error@+1 {{no matching member function for call to 'InitBuffer'}}
  pipe.InitBuffer(queue, 256);
}

void EnumOfAnotherCall(LocalTensor<uint8_t> mask, LocalTensor<float> a, LocalTensor<float> b) {
  Compare(mask, a, b, CMPMODE::EQ, 64);
  // expected-error@+1 {{no matching function for call to 'Compare'}}
  Compare(mask, a, b, SELMODE::VSEL_CMPMASK_SPR, 64);
}

void UnknownEnumerator(LocalTensor<float> dst, LocalTensor<half> src) {
  Cast(dst, src, RoundMode::CAST_NONE, 64);
  // expected-error@+1 {{no member named 'CAST_NEAREST' in 'AscendC::RoundMode'}}
  Cast(dst, src, RoundMode::CAST_NEAREST, 64);
}

void PipeAsAFlag(int32_t id) {
  SetFlag<HardEvent::MTE2_V>(id);
  // expected-error@+1 {{no matching function for call to 'SetFlag'}}
  SetFlag<PIPE_MTE2>(id);
}

void UnknownQueueMethod(TQue<TPosition::VECIN, 1>& queue) {
  LocalTensor<float> tensor = queue.AllocTensor<float>();
  queue.FreeTensor(tensor);
  // expected-error@+1 {{no member named 'Free' in 'AscendC::TQue}}
  queue.Free(tensor);
}

void TensorOfAnotherDtypeFromAQueue(TQue<TPosition::VECIN, 1>& queue) {
  LocalTensor<half> right = queue.DeQue<half>();
  // expected-error@+1 {{no viable conversion from 'LocalTensor<float>' to 'LocalTensor<half>'}}
  LocalTensor<half> wrong = queue.DeQue<float>();
}

void PadParametersOfAnotherDtype(LocalTensor<half> dst, GlobalTensor<half> src) {
  const DataCopyExtParams rows(1, 10, 0, 0, 0);
  DataCopyPad(dst, src, rows, DataCopyPadExtParams<half>());
  // expected-error@+1 {{no matching function for call to 'DataCopyPad'}}
  DataCopyPad(dst, src, rows, DataCopyPadExtParams<float>());
}

void PadParametersMissing(LocalTensor<float> local, GlobalTensor<float> global) {
  const DataCopyExtParams rows(1, 20, 0, 0, 0);
  DataCopyPad(global, local, rows);
  // expected-error@+1 {{no matching function for call to 'DataCopyPad'}}
  DataCopyPad(local, global, rows);
}

void GlobalTensorInArithmetic(LocalTensor<float> dst, LocalTensor<float> a, GlobalTensor<float> b) {
  Add(dst, a, a, 64);
  // expected-error@+1 {{no matching function for call to 'Add'}}
  Add(dst, a, b, 64);
}

void GlobalToGlobal(LocalTensor<float> local, GlobalTensor<float> dst, GlobalTensor<float> src) {
  DataCopy(local, src, 64);
  // expected-error@+1 {{no matching function for call to 'DataCopy'}}
  DataCopy(dst, src, 64);
}

void FieldOfANewerChip(MmadParams params) {
  params.unitFlag = 3;
  // expected-error@+1 {{no member named 'disableGemv' in 'AscendC::MmadParams'}}
  params.disableGemv = true;
}

void CopyOfANewerChip(LocalTensor<float> dst, GlobalTensor<float> src) {
  DataCopy(dst, src, DataCopyParams());
  // expected-error@+1 {{no matching function for call to 'DataCopy'}}
  DataCopy(dst, src, MultiCopyParams<float, 2>());
}

void CastWithoutAnInstruction(LocalTensor<bfloat16_t> dst, LocalTensor<float> wide,
                              LocalTensor<half> narrow) {
  Cast(dst, wide, RoundMode::CAST_RINT, 64);
  // the headers' own error, in their text
  // expected-error@*:* {{no matching function for call to 'Cast}}
  Cast(dst, narrow, RoundMode::CAST_RINT, 64);
}

// --- cube cores ---------------------------------------------------------------------------------

void FactorInGlobalMemory(LocalTensor<float> dst, LocalTensor<half> left, LocalTensor<half> right,
                          GlobalTensor<half> global) {
  Mmad(dst, left, right, MmadParams());
  // expected-error@+1 {{no matching function for call to 'Mmad'}}
  Mmad(dst, left, global, MmadParams());
}

void FractalParametersOfTheTransposingLoad(LocalTensor<float> dst, LocalTensor<float> src) {
  LoadDataWithTranspose(dst, src, LoadData2dTransposeParams());
  // expected-error@+1 {{no matching function for call to 'LoadDataWithTranspose'}}
  LoadDataWithTranspose(dst, src, LoadData2DParams());
}

void RowsToFractalsFromLocalMemory(LocalTensor<half> dst, GlobalTensor<half> src,
                                   LocalTensor<half> local) {
  DataCopy(dst, src, Nd2NzParams());
  // expected-error@+1 {{no matching function for call to 'DataCopy'}}
  DataCopy(GlobalTensor<half>(), local, Nd2NzParams());
}

void ResultOutOfGlobalMemory(GlobalTensor<half> dst, LocalTensor<float> tile,
                             GlobalTensor<float> global) {
  Fixpipe<half, float, CFG_ROW_MAJOR>(dst, tile, FixpipeParamsV220());
  // expected-error@+1 {{no matching function for call to 'Fixpipe'}}
  Fixpipe<half, float, CFG_ROW_MAJOR>(dst, global, FixpipeParamsV220());
}

void FieldOfANewerChipsResult(FixpipeParamsV220 params) {
  params.isChannelSplit = true;
  // expected-error@+1 {{no member named 'dualDstCtl' in 'AscendC::FixpipeParamsV220'}}
  params.dualDstCtl = 1;
}

void UnknownConversion(FixpipeParamsV220 params) {
  params.quantPre = QuantMode_t::F322BF16;
  // expected-error@+1 {{no member named 'S322BF16' in 'QuantMode_t'}}
  params.quantPre = QuantMode_t::S322BF16;
}

void FilledWithAnotherDtype(LocalTensor<half> dst) {
  Fill(dst, InitConstValueParams<half>());
  // expected-error@+1 {{no matching function for call to 'Fill'}}
  Fill(dst, InitConstValueParams<float>());
}

void FlagBetweenCoresWithoutItsPipe() {
  CrossCoreSetFlag<2, PIPE_FIX>(0);
  // expected-error@+1 {{no matching function for call to 'CrossCoreSetFlag'}}
  CrossCoreSetFlag<2>(0);
}
