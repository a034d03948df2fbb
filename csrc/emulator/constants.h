// Enumerations of the API.
#ifndef MOGE_EMULATOR_CONSTANTS_H_
#define MOGE_EMULATOR_CONSTANTS_H_

#include <cstdint>

// clang-format off: lists, which it would lay out one name a line
enum pipe_t : uint8_t {
  PIPE_S, PIPE_V, PIPE_M, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_FIX, PIPE_ALL
};

enum event_t : uint8_t {
  EVENT_ID0, EVENT_ID1, EVENT_ID2, EVENT_ID3, EVENT_ID4, EVENT_ID5, EVENT_ID6, EVENT_ID7
};

// how Fixpipe converts on the way out
enum QuantMode_t : uint8_t {
  NoQuant, F322F16, F322BF16, DEQF16, VDEQF16, QF322B8_PRE, VQF322B8_PRE, REQ8, VREQ8
};

namespace AscendC {

enum class TPosition : uint8_t {
  GM, A1, A2, B1, B2, C1, C2, CO1, CO2, VECIN, VECOUT, VECCALC, LCM = VECCALC, SPM, SHM = SPM,
  TSCM, C2PIPE2GM, C2PIPE2LOCAL, MAX
};
using QuePosition = TPosition;

// source pipe, destination pipe
#define MOGE_EMULATOR_EVENTS(X)                                                            \
  X(MTE2, V) X(V, MTE2) X(V, MTE3) X(MTE3, V) X(MTE2, MTE1) X(MTE1, MTE2) X(MTE1, M)       \
  X(M, MTE1) X(M, FIX) X(FIX, M) X(MTE3, MTE2) X(MTE2, MTE3) X(S, V) X(V, S) X(S, MTE2)    \
  X(MTE2, S) X(S, MTE3) X(MTE3, S) X(FIX, S) X(M, S) X(FIX, MTE2) X(MTE2, FIX)             \
  X(FIX, MTE3) X(M, V) X(V, M) X(MTE3, MTE1) X(MTE1, MTE3) X(MTE1, FIX) X(FIX, MTE1)       \
  X(MTE1, V) X(V, MTE1) X(MTE2, M) X(M, MTE2) X(V, V) X(FIX, FIX)

enum class HardEvent : uint8_t {
#define MOGE_EVENT(source, destination) source##_##destination,
  MOGE_EMULATOR_EVENTS(MOGE_EVENT)
#undef MOGE_EVENT
      MAX,
};

enum class MaskMode : uint8_t { NORMAL, COUNTER };
enum class RoundMode : uint8_t {
  CAST_NONE, CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC, CAST_ODD
};
enum class CMPMODE : uint8_t { LT, GT, EQ, LE, GE, NE };
enum class SELMODE : uint8_t { VSEL_CMPMASK_SPR, VSEL_TENSOR_SCALAR_MODE, VSEL_TENSOR_TENSOR_MODE };
enum class ReduceType : uint8_t { SUM, MAX, MIN };
enum class ReduceOrder : uint8_t {
  ORDER_VALUE_INDEX, ORDER_INDEX_VALUE, ORDER_ONLY_VALUE, ORDER_ONLY_INDEX
};
enum class CacheRwMode : uint8_t { READ = 1, WRITE, RW };
enum class CacheMode : uint8_t {
  CACHE_MODE_DISABLE = 0, CACHE_MODE_NORMAL = 1, CACHE_MODE_LAST = 2, CACHE_MODE_PERSISTENT = 4
};
enum class CacheLine : uint8_t { SINGLE_CACHE_LINE, ENTIRE_DATA_CACHE };
enum class DcciDst : uint8_t { CACHELINE_ALL, CACHELINE_UB, CACHELINE_OUT, CACHELINE_ATOMIC };
enum class PipeMode : uint8_t { SCALAR_MODE, MTE3_MODE, MAX };
enum class AtomicDtype {
  ATOMIC_NONE, ATOMIC_F32, ATOMIC_F16, ATOMIC_S16, ATOMIC_S32, ATOMIC_S8, ATOMIC_BF16
};
enum class AtomicOp { ATOMIC_SUM };
enum class MemDsbT : uint8_t { ALL, DDR, UB, SEQ };
enum class Hardware : uint8_t { GM, UB, L1, L0A, L0B, L0C, BIAS, FIXBUF };
enum class CO2Layout : uint8_t { NZ, ROW_MAJOR };
enum class HF32Mode { ENABLE, DISABLE };
enum class HF32TransMode { NEAREST_ZERO, NEAREST_EVEN };
enum class GatherMaskMode : uint8_t { VERSION_V1, VERSION_V2 };
enum class FmatrixMode : uint8_t { FMATRIX_LEFT, FMATRIX_RIGHT };
enum class DataFormat : uint8_t { ND, NZ, NCHW, NC1HWC0, NHWC };
enum class TransposeType : uint8_t {
  TRANSPOSE_TYPE_NONE, TRANSPOSE_ND2ND_B16 = 10, TRANSPOSE_NCHW2NHWC, TRANSPOSE_NHWC2NCHW
};
// clang-format on

struct FixpipeConfig {
  constexpr FixpipeConfig(CO2Layout layout) : format(layout) {}
  CO2Layout format;
};
inline constexpr FixpipeConfig CFG_NZ = {CO2Layout::NZ};
inline constexpr FixpipeConfig CFG_ROW_MAJOR = {CO2Layout::ROW_MAJOR};

}  // namespace AscendC

#endif  // MOGE_EMULATOR_CONSTANTS_H_
