// The scalar unit: its accesses to global memory with and without its cache, and its arithmetic.
#ifndef MOGE_EMULATOR_SCALAR_H_
#define MOGE_EMULATOR_SCALAR_H_

#include "tensor.h"
#include "utilities.h"

namespace emulator {

half RoundToHalfOdd(float value);
int32_t RoundToInt(float value, RoundMode mode);

template <typename T>
inline constexpr bool kIsUncached =
    kIsOneOf<T, int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t>;

}  // namespace emulator

namespace AscendC {

// --- the cache ----------------------------------------------------------------------------------

template <typename T, CacheLine entire, DcciDst destination>
void DataCacheCleanAndInvalid(const GlobalTensor<T>& dst) {
  static_assert(destination != DcciDst::CACHELINE_ATOMIC,
                "DataCacheCleanAndInvalid: CACHELINE_ATOMIC is not supported on Atlas A2");
  emulator::CleanCache(dst.Ref(), entire == CacheLine::ENTIRE_DATA_CACHE);
}
template <typename T, CacheLine entire>
void DataCacheCleanAndInvalid(const GlobalTensor<T>& dst) {
  emulator::CleanCache(dst.Ref(), entire == CacheLine::ENTIRE_DATA_CACHE);
}
// UB is not cached here.
template <typename T, CacheLine entire, DcciDst destination>
void DataCacheCleanAndInvalid(const LocalTensor<T>&) {
  static_assert(destination != DcciDst::CACHELINE_ATOMIC,
                "DataCacheCleanAndInvalid: CACHELINE_ATOMIC is not supported on Atlas A2");
}
template <typename T>
void DataCachePreload(const GlobalTensor<uint64_t>& src, const T cacheOffset) {
  static_assert(emulator::kIsOneOf<T, int16_t, int64_t>,
                "DataCachePreload: rule dtype.table: an offset of int16 or int64");
  emulator::PreloadCache(src.Ref(), cacheOffset);
}
inline void ICachePreLoad(const int64_t preFetchLen) { emulator::PreloadInstructions(preFetchLen); }
// 0: it is done
inline int64_t GetICachePreloadStatus() { return 0; }

template <typename T>
T ReadGmByPassDCache(__gm__ T* addr) {
  static_assert(emulator::kIsUncached<T>,
                "ReadGmByPassDCache: rule dtype.table: integers of 8 to 64 bits");
  T value;
  emulator::LoadUncached(addr, emulator::kDTypeOf<T>, &value);
  return value;
}
template <typename T>
void WriteGmByPassDCache(__gm__ T* addr, T value) {
  static_assert(emulator::kIsUncached<T>,
                "WriteGmByPassDCache: rule dtype.table: integers of 8 to 64 bits");
  emulator::StoreUncached(addr, emulator::kDTypeOf<T>, &value);
}

// --- bits of a value ----------------------------------------------------------------------------

template <int countValue>
int64_t GetBitCount(uint64_t valueIn) {
  static_assert(countValue == 0 || countValue == 1, "GetBitCount counts 0 or 1");
  return __builtin_popcountll(countValue == 1 ? valueIn : ~valueIn);
}
template <int countValue>
int64_t ScalarGetCountOfValue(uint64_t valueIn) {
  return GetBitCount<countValue>(valueIn);
}
inline int64_t CountLeadingZero(uint64_t valueIn) {
  return valueIn == 0 ? 64 : __builtin_clzll(valueIn);
}
inline int64_t ScalarCountLeadingZero(uint64_t valueIn) { return CountLeadingZero(valueIn); }
// After the sign; -1 if all are like it.
inline int64_t CountBitsCntSameAsSignBit(int64_t valueIn) {
  return valueIn == 0 || valueIn == -1 ? -1 : __builtin_clrsbll(valueIn);
}
// From the lowest bit up; -1: there is none.
template <int countValue>
int64_t GetSFFValue(uint64_t valueIn) {
  static_assert(countValue == 0 || countValue == 1, "GetSFFValue looks for 0 or 1");
  return __builtin_ffsll(static_cast<int64_t>(countValue == 1 ? valueIn : ~valueIn)) - 1;
}
template <int countValue>
int64_t ScalarGetSFFValue(uint64_t valueIn) {
  return GetSFFValue<countValue>(valueIn);
}

// --- conversions --------------------------------------------------------------------------------

template <typename T, typename U, RoundMode roundMode>
U Cast(T valueIn) {
  static_assert(std::is_same_v<T, float> && emulator::kIsOneOf<U, half, int32_t>,
                "Cast of a scalar: rule dtype.table: float to half or int32");
  if constexpr (std::is_same_v<U, half>) {
    static_assert(roundMode == RoundMode::CAST_ODD, "Cast of a scalar to half: CAST_ODD");
    return emulator::RoundToHalfOdd(valueIn);
  } else {
    static_assert(roundMode == RoundMode::CAST_ROUND || roundMode == RoundMode::CAST_CEIL ||
                      roundMode == RoundMode::CAST_FLOOR || roundMode == RoundMode::CAST_RINT,
                  "Cast of a scalar to int32: CAST_ROUND, CAST_CEIL, CAST_FLOOR, CAST_RINT");
    return emulator::RoundToInt(valueIn, roundMode);
  }
}
template <typename T, typename U, RoundMode roundMode>
U ScalarCast(T valueIn) {
  return Cast<T, U, roundMode>(valueIn);
}
inline bfloat16_t Cast(const float& fVal) { return ToBfloat16(fVal); }
inline float Cast(const bfloat16_t& bVal) { return ToFloat(bVal); }

}  // namespace AscendC

#endif  // MOGE_EMULATOR_SCALAR_H_
