// Accesses of the scalar unit to global memory, atomic transfers, masks.
#include "kernel_operator.h"

using namespace AscendC;

// --- the data cache -----------------------------------------------------------------------------

void Caches(GlobalTensor<int32_t> gm, GlobalTensor<half> halves, LocalTensor<int32_t> ub) {
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(gm);
  DataCacheCleanAndInvalid<int32_t, CacheLine::ENTIRE_DATA_CACHE, DcciDst::CACHELINE_ALL>(gm[8]);
  DataCacheCleanAndInvalid<half, CacheLine::ENTIRE_DATA_CACHE, DcciDst::CACHELINE_UB>(halves);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE>(gm);
  DataCacheCleanAndInvalid<half, CacheLine::ENTIRE_DATA_CACHE>(halves);
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_UB>(ub);
  DataCacheCleanAndInvalid<int32_t, CacheLine::ENTIRE_DATA_CACHE, DcciDst::CACHELINE_OUT>(ub);
  DataCacheCleanAndInvalid(gm);                                         // wrong
  DataCacheCleanAndInvalid<int32_t>(gm);                                // wrong
  DataCacheCleanAndInvalid<half, CacheLine::SINGLE_CACHE_LINE>(gm);     // wrong
  DataCacheCleanAndInvalid<CacheLine::SINGLE_CACHE_LINE>(gm);           // wrong
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE>(ub);  // wrong
  DataCacheCleanAndInvalid<int32_t, DcciDst::CACHELINE_OUT>(gm);        // wrong
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE,
                           DcciDst::CACHELINE_ATOMIC>(gm);  // ours: not supported on Atlas A2
}

void Preloads(GlobalTensor<uint64_t> gm, GlobalTensor<int32_t> words, int16_t narrow,
              int64_t wide) {
  DataCachePreload(gm, narrow);
  DataCachePreload(gm, wide);
  DataCachePreload<int64_t>(gm, 64);
  DataCachePreload(gm);           // wrong
  DataCachePreload(words, wide);  // wrong
  DataCachePreload(wide, gm);     // wrong
}

void PastTheCache(__gm__ int32_t* words, __gm__ uint8_t* bytes, __gm__ int64_t* wide,
                  __gm__ uint16_t* shorts, __gm__ float* reals) {
  const int32_t word = ReadGmByPassDCache(words);
  const int32_t named = ReadGmByPassDCache<int32_t>(words + 1);
  const uint8_t byte = ReadGmByPassDCache<uint8_t>(bytes);
  const int64_t long_word = ReadGmByPassDCache(wide);
  const uint16_t short_word = ReadGmByPassDCache(shorts);
  WriteGmByPassDCache(words, word);
  WriteGmByPassDCache(words, 1);
  WriteGmByPassDCache<int32_t>(words + 1, 1);
  WriteGmByPassDCache<uint8_t>(bytes, 1);
  WriteGmByPassDCache<int64_t>(wide, 1);
  WriteGmByPassDCache<uint16_t>(shorts, 1);
  ReadGmByPassDCache<int32_t>(bytes);           // wrong
  ReadGmByPassDCache(GlobalTensor<int32_t>());  // wrong
  ReadGmByPassDCache();                         // wrong
  WriteGmByPassDCache(words);                   // wrong
  WriteGmByPassDCache(1, words);                // wrong
  WriteGmByPassDCache<int64_t>(words, 1);       // wrong
  ReadGmByPassDCache(reals);                    // wrong
  WriteGmByPassDCache(reals, 1.0f);             // wrong
}

// --- atomic transfers ---------------------------------------------------------------------------

void Atomics(uint16_t& type, uint16_t& op) {
  SetAtomicAdd<float>();
  SetAtomicAdd<half>();
  SetAtomicAdd<bfloat16_t>();
  SetAtomicAdd<int8_t>();
  SetAtomicAdd<int16_t>();
  SetAtomicAdd<int32_t>();
  SetAtomicMax<float>();
  SetAtomicMax<half>();
  SetAtomicMax<bfloat16_t>();
  SetAtomicMax<int8_t>();
  SetAtomicMax<int16_t>();
  SetAtomicMax<int32_t>();
  SetAtomicMin<float>();
  SetAtomicMin<half>();
  SetAtomicMin<bfloat16_t>();
  SetAtomicMin<int8_t>();
  SetAtomicMin<int16_t>();
  SetAtomicMin<int32_t>();
  SetAtomicType<float>();
  SetAtomicType<half>();
  SetAtomicType<bfloat16_t>();
  SetAtomicType<int8_t>();
  SetAtomicType<int16_t>();
  SetAtomicType<int32_t>();
  DisableDmaAtomic();
  SetAtomicNone();
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_NONE, AtomicOp::ATOMIC_SUM>();
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_F32, AtomicOp::ATOMIC_SUM>();
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_F16, AtomicOp::ATOMIC_SUM>();
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_S16, AtomicOp::ATOMIC_SUM>();
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_S32, AtomicOp::ATOMIC_SUM>();
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_S8, AtomicOp::ATOMIC_SUM>();
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_BF16, AtomicOp::ATOMIC_SUM>();
  GetStoreAtomicConfig(type, op);
  SetAtomicAdd();                                      // wrong
  SetAtomicAdd(0);                                     // wrong
  SetAtomicAdd<DcciDst::CACHELINE_OUT>();              // wrong
  SetAtomicMax<float>(0);                              // wrong
  DisableDmaAtomic<float>();                           // wrong
  SetStoreAtomicConfig();                              // wrong
  SetStoreAtomicConfig<AtomicDtype::ATOMIC_F16>();     // wrong
  SetStoreAtomicConfig<half, AtomicOp::ATOMIC_SUM>();  // wrong
  GetStoreAtomicConfig();                              // ours: not documented
  GetStoreAtomicConfig(type, 0);                       // wrong
  SetAtomicAdd<int64_t>();                             // ours: not in the table
  SetAtomicMax<uint32_t>();                            // ours: not in the table
  SetAtomicMin<uint8_t>();                             // ours: not in the table
  SetAtomicType<uint16_t>();                           // ours: not in the table
}

// --- masks and scales ---------------------------------------------------------------------------

void Masks(uint64_t high, uint64_t low, int32_t length) {
  SetMaskCount();
  SetMaskNorm();
  SetVectorMask<half>(high, low);
  SetVectorMask<half, MaskMode::NORMAL>(high, low);
  SetVectorMask<float, MaskMode::NORMAL>(length);
  SetVectorMask<half>(64);
  SetVectorMask<half, MaskMode::COUNTER>(length);
  SetVectorMask<half, MaskMode::COUNTER>(0, low);
  ResetMask();
  SetMaskCount(0);                        // wrong
  SetVectorMask(high, low);               // wrong
  SetVectorMask<half>();                  // wrong
  SetVectorMask<half>(high, low, 0);      // wrong
  SetVectorMask<MaskMode::NORMAL>(high);  // wrong
  ResetMask(0);                           // wrong
}

void Scales(half scale) {
  SetDeqScale(scale);
  SetDeqScale(half(1));
  SetDeqScale();  // wrong
}
