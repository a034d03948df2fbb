// Enumerators.
#include "kernel_operator.h"

using namespace AscendC;

void Pipes() {
  pipe_t value = PIPE_S;
  value = PIPE_V;
  value = PIPE_M;
  value = PIPE_MTE1;
  value = PIPE_MTE2;
  value = PIPE_MTE3;
  value = PIPE_FIX;
  value = PIPE_ALL;
  value = PIPE_MTE4;          // wrong
  value = HardEvent::MTE2_V;  // wrong
}

void EventIds() {
  event_t value = EVENT_ID0;
  value = EVENT_ID1;
  value = EVENT_ID2;
  value = EVENT_ID3;
  value = EVENT_ID4;
  value = EVENT_ID5;
  value = EVENT_ID6;
  value = EVENT_ID7;
  value = 0;          // wrong
  value = EVENT_ID8;  // wrong
}

void Positions() {
  TPosition value = TPosition::GM;
  value = TPosition::A1;
  value = TPosition::A2;
  value = TPosition::B1;
  value = TPosition::B2;
  value = TPosition::C1;
  value = TPosition::C2;
  value = TPosition::CO1;
  value = TPosition::CO2;
  value = TPosition::VECIN;
  value = TPosition::VECOUT;
  value = TPosition::VECCALC;
  value = TPosition::LCM;
  value = TPosition::SPM;
  value = TPosition::SHM;
  value = TPosition::TSCM;
  value = TPosition::C2PIPE2GM;
  value = TPosition::C2PIPE2LOCAL;
  value = TPosition::MAX;
  value = QuePosition::VECIN;
  value = QuePosition::A1;
  value = TPosition::UB;     // wrong
  value = QuePosition::VEC;  // wrong
}

void Events() {
  HardEvent value = HardEvent::MTE2_V;
  value = HardEvent::V_MTE2;
  value = HardEvent::V_MTE3;
  value = HardEvent::MTE3_V;
  value = HardEvent::MTE2_MTE1;
  value = HardEvent::MTE1_MTE2;
  value = HardEvent::MTE1_M;
  value = HardEvent::M_MTE1;
  value = HardEvent::M_FIX;
  value = HardEvent::FIX_M;
  value = HardEvent::MTE3_MTE2;
  value = HardEvent::MTE2_MTE3;
  value = HardEvent::S_V;
  value = HardEvent::V_S;
  value = HardEvent::S_MTE2;
  value = HardEvent::MTE2_S;
  value = HardEvent::S_MTE3;
  value = HardEvent::MTE3_S;
  value = HardEvent::FIX_S;
  value = HardEvent::M_S;
  value = HardEvent::FIX_MTE2;
  value = HardEvent::MTE2_FIX;
  value = HardEvent::FIX_MTE3;
  value = HardEvent::M_V;
  value = HardEvent::V_M;
  value = HardEvent::MTE3_MTE1;
  value = HardEvent::MTE1_MTE3;
  value = HardEvent::MTE1_FIX;
  value = HardEvent::FIX_MTE1;
  value = HardEvent::MTE1_V;
  value = HardEvent::V_MTE1;
  value = HardEvent::MTE2_M;
  value = HardEvent::M_MTE2;
  value = HardEvent::V_V;
  value = HardEvent::FIX_FIX;
  value = HardEvent::MAX;
  value = HardEvent::S_S;        // wrong
  value = HardEvent::S_M;        // wrong
  value = HardEvent::MTE3_FIX;   // wrong
  value = HardEvent::MTE2_MTE2;  // wrong
  value = PIPE_V;                // wrong
}

void Modes() {
  MaskMode value = MaskMode::NORMAL;
  value = MaskMode::COUNTER;
  value = MaskMode::NORM;  // wrong
}

void Rounding() {
  RoundMode value = RoundMode::CAST_NONE;
  value = RoundMode::CAST_RINT;
  value = RoundMode::CAST_FLOOR;
  value = RoundMode::CAST_CEIL;
  value = RoundMode::CAST_ROUND;
  value = RoundMode::CAST_TRUNC;
  value = RoundMode::CAST_ODD;
  value = RoundMode::CAST_HYBRID;  // wrong
  value = RoundMode::RINT;         // wrong
}

void Comparisons() {
  CMPMODE value = CMPMODE::LT;
  value = CMPMODE::GT;
  value = CMPMODE::EQ;
  value = CMPMODE::LE;
  value = CMPMODE::GE;
  value = CMPMODE::NE;
  value = CMPMODE::LTE;  // wrong
}

void Selections() {
  SELMODE value = SELMODE::VSEL_CMPMASK_SPR;
  value = SELMODE::VSEL_TENSOR_SCALAR_MODE;
  value = SELMODE::VSEL_TENSOR_TENSOR_MODE;
  value = CMPMODE::LT;  // wrong
}

void Reductions() {
  ReduceType value = ReduceType::SUM;
  value = ReduceType::MAX;
  value = ReduceType::MIN;
  value = ReduceType::MEAN;  // wrong
}

void Orders() {
  ReduceOrder value = ReduceOrder::ORDER_VALUE_INDEX;
  value = ReduceOrder::ORDER_INDEX_VALUE;
  value = ReduceOrder::ORDER_ONLY_VALUE;
  value = ReduceOrder::ORDER_ONLY_INDEX;
  value = ORDER_VALUE_INDEX;  // wrong
}

void CacheAccesses() {
  CacheRwMode value = CacheRwMode::READ;
  value = CacheRwMode::WRITE;
  value = CacheRwMode::RW;
  value = CacheRwMode::NONE;  // wrong
}

void CacheModes() {
  CacheMode value = CacheMode::CACHE_MODE_DISABLE;
  value = CacheMode::CACHE_MODE_NORMAL;
  value = CacheMode::CACHE_MODE_LAST;
  value = CacheMode::CACHE_MODE_PERSISTENT;
  value = CacheMode::DISABLE;  // wrong
}

void Lines() {
  CacheLine value = CacheLine::SINGLE_CACHE_LINE;
  value = CacheLine::ENTIRE_DATA_CACHE;
  value = CacheLine::ALL;  // wrong
}

void Cleaned() {
  DcciDst value = DcciDst::CACHELINE_ALL;
  value = DcciDst::CACHELINE_UB;
  value = DcciDst::CACHELINE_OUT;
  value = DcciDst::CACHELINE_ATOMIC;
  value = DcciDst::OUT;  // wrong
}

void Barriers() {
  MemDsbT value = MemDsbT::ALL;
  value = MemDsbT::DDR;
  value = MemDsbT::UB;
  value = MemDsbT::SEQ;
  value = MemDsbT::L1;  // wrong
}

void Memories() {
  Hardware value = Hardware::GM;
  value = Hardware::UB;
  value = Hardware::L1;
  value = Hardware::L0A;
  value = Hardware::L0B;
  value = Hardware::L0C;
  value = Hardware::BIAS;
  value = Hardware::FIXBUF;
  value = Hardware::SSBUF;  // wrong
}

void Layouts() {
  CO2Layout value = CO2Layout::NZ;
  value = CO2Layout::ROW_MAJOR;
  value = CO2Layout::ND;            // wrong
  value = CO2Layout::COLUMN_MAJOR;  // ours: not on Atlas A2
}

void Conversions() {
  QuantMode_t value = QuantMode_t::NoQuant;
  value = QuantMode_t::F322F16;
  value = QuantMode_t::F322BF16;
  value = QuantMode_t::DEQF16;
  value = QuantMode_t::VDEQF16;
  value = QuantMode_t::QF322B8_PRE;
  value = QuantMode_t::VQF322B8_PRE;
  value = QuantMode_t::REQ8;
  value = QuantMode_t::VREQ8;
  value = F322F16;
  value = QuantMode_t::S322BF16;  // wrong
}

void MaskModes() {
  GatherMaskMode value = GatherMaskMode::VERSION_V1;
  value = GatherMaskMode::VERSION_V2;
  value = GatherMaskMode::V1;  // wrong
}

void Transpositions() {
  TransposeType value = TransposeType::TRANSPOSE_TYPE_NONE;
  value = TransposeType::TRANSPOSE_ND2ND_B16;
  value = TransposeType::TRANSPOSE_NCHW2NHWC;
  value = TransposeType::TRANSPOSE_NHWC2NCHW;
  value = TransposeType::TRANSPOSE_ND2ND_021;   // wrong
  value = TransposeType::TRANSPOSE_NZ2ND_0213;  // ours: not on Atlas A2
}

void Images() {
  FmatrixMode value = FmatrixMode::FMATRIX_LEFT;
  value = FmatrixMode::FMATRIX_RIGHT;
  value = FmatrixMode::LEFT;  // wrong
}

void Formats() {
  DataFormat value = DataFormat::ND;
  value = DataFormat::NZ;
  value = DataFormat::NCHW;
  value = DataFormat::NC1HWC0;
  value = DataFormat::NHWC;
  value = DataFormat::NHCW;          // wrong
  value = DataFormat::FRACTAL_Z_3D;  // ours: not on Atlas A2
}

void Engines() {
  EngineType value = EngineType::AIC;
  value = EngineType::AIV;
  value = AIC;  // wrong
}

void OutputFormats() {
  FixpipeConfig made(CO2Layout::NZ);
  FixpipeConfig listed = {CO2Layout::ROW_MAJOR};
  made.format = CO2Layout::ROW_MAJOR;
  static_assert(CFG_NZ.format == CO2Layout::NZ);
  static_assert(CFG_ROW_MAJOR.format == CO2Layout::ROW_MAJOR);
}
