// Gathering: right calls of every form, and their mistakes.
#include "kernel_operator.h"

using namespace AscendC;

template <typename T>
using Local = LocalTensor<T>;

void GatherByCount(Local<half> dst, Local<half> src, Local<uint32_t> offset, Local<float> wide,
                   Local<int32_t> whole, Local<int16_t> narrow, Local<uint16_t> bits,
                   Local<bfloat16_t> brain) {
  Gather(dst, src, offset, 0, 512);
  Gather(dst, src, offset, uint32_t(0), uint32_t(512));
  Gather<half>(dst, src, offset, 64u, 512);
  Gather(wide, wide, offset, 0, 64);
  Gather(whole, whole, offset, 0, 64);
  Gather(narrow, narrow, offset, 0, 64);
  Gather(bits, bits, offset, 0, 64);
  Gather(brain, brain, offset, 0, 64);
  Gather(offset, offset, offset, 0, 64);
  Gather(dst, src, whole, 0, 512);                   // wrong
  Gather(dst, wide, offset, 0, 512);                 // wrong
  Gather(dst, src, offset, 512);                     // wrong
  Gather(dst, src, 0, offset, 512);                  // wrong
  Gather<half, uint32_t>(dst, src, offset, 0, 512);  // wrong
}

void GatherByMask(Local<half> dst, Local<half> src, Local<uint32_t> offset, Local<float> wide) {
  uint64_t bits[2] = {~uint64_t{0}, ~uint64_t{0}};
  const uint64_t mask = 128;
  Gather(dst, src, offset, 0, 128, 4, 8);
  Gather(dst, src, offset, 0, mask, 4, 8);
  Gather<half>(dst, src, offset, 0, bits, 4, 8);
  Gather(wide, wide, offset, uint32_t(32), bits, uint8_t(1), uint16_t(8));
  Gather(wide, wide, offset, 32, 64, 1, 8);
  Gather(dst, src, offset, 0, 128, 4);          // wrong
  Gather(dst, src, offset, 0, 128, 4, 8, 8);    // wrong
  Gather(dst, src, offset, 0, bits, {4}, dst);  // wrong
}

void GatherOfOtherTypes(Local<int8_t> bytes, Local<int64_t> large, Local<uint32_t> offset) {
  Gather(bytes, bytes, offset, 0, 64);  // ours: 16 and 32 bits
  Gather(large, large, offset, 0, 64);  // ours: 16 and 32 bits
}

void GatherBlocks(Local<uint16_t> dst, Local<uint16_t> src, Local<uint32_t> wide,
                  Local<uint32_t> offset, Local<int32_t> signed_offset, Local<half> other,
                  Local<int8_t> bytes) {
  Gatherb(dst, src, offset, 1, GatherRepeatParams());
  Gatherb(dst, src, offset, 1, {1, 8});
  Gatherb<uint16_t>(dst, src, offset, uint8_t(2), GatherRepeatParams(1, 8));
  Gatherb(wide, wide, offset, 1, GatherRepeatParams{1, 8});
  Gatherb(dst, src, signed_offset, 1, GatherRepeatParams());  // wrong
  Gatherb(dst, wide, offset, 1, GatherRepeatParams());        // wrong
  Gatherb(dst, src, offset, GatherRepeatParams());            // wrong
  Gatherb(dst, src, offset, 1, GatherMaskParams());           // wrong
  Gatherb(other, other, offset, 1, GatherRepeatParams());     // ours: uint16 and uint32
  Gatherb(signed_offset, signed_offset, offset, 1, {1, 8});   // ours: uint16 and uint32
  Gatherb(bytes, bytes, offset, 1, {1, 8});                   // ours: uint16 and uint32
}

void BlockParameters(uint8_t block, uint16_t repeat) {
  GatherRepeatParams params;
  params.dstBlkStride = block;
  params.dstRepStride = repeat;
  GatherRepeatParams strides(1, 8);
  GatherRepeatParams one(1);          // wrong
  GatherRepeatParams three(1, 8, 8);  // wrong
  params.srcRepStride = 8;            // wrong
}

void MaskedByAPattern(Local<half> dst, Local<half> src, Local<uint16_t> bits, Local<float> wide,
                      Local<uint32_t> words, Local<int16_t> narrow, Local<int32_t> whole,
                      Local<bfloat16_t> brain, uint64_t& taken, uint32_t mask) {
  GatherMask(dst, src, bits, true, 70, {1, 2, 4, 0}, taken);
  GatherMask(dst, dst, bits, true, mask, GatherMaskParams(1, 2, 4, 0), taken);
  GatherMask<half>(dst, src, bits, false, 0, GatherMaskParams(), taken);
  GatherMask<half, uint16_t>(dst, src, bits, true, 70, {1, 2, 4, 0}, taken);
  GatherMask<half, uint16_t, GatherMaskMode::VERSION_V2>(dst, src, bits, true, 70, {1, 2, 4, 0},
                                                         taken);
  GatherMask(wide, wide, words, true, 70, {1, 2, 4, 0}, taken);
  GatherMask(narrow, narrow, bits, true, 70, {1, 2, 4, 0}, taken);
  GatherMask(bits, bits, bits, true, 70, {1, 2, 4, 0}, taken);
  GatherMask(brain, brain, bits, true, 70, {1, 2, 4, 0}, taken);
  GatherMask(whole, whole, words, true, 70, {1, 2, 4, 0}, taken);
  GatherMask(words, words, words, true, 70, {1, 2, 4, 0}, taken);
  GatherMask(dst, wide, bits, true, 70, {1, 2, 4, 0}, taken);        // wrong
  GatherMask(dst, src, bits, true, 70, {1, 2, 4, 0});                // wrong
  GatherMask(dst, src, bits, 70, {1, 2, 4, 0}, taken);               // wrong
  GatherMask(dst, src, bits, true, 70, {1, 2, 4, 0}, mask);          // wrong
  GatherMask(dst, src, bits, true, 70, {1, 2, 4, 0, 0}, taken);      // wrong
  GatherMask<float>(dst, src, bits, true, 70, {1, 2, 4, 0}, taken);  // wrong
  GatherMask(dst, src, words, true, 70, {1, 2, 4, 0}, taken);        // ours: 16 bits by uint16
  GatherMask(wide, wide, bits, true, 70, {1, 2, 4, 0}, taken);       // ours: 32 bits by uint32
  GatherMask(dst, src, narrow, true, 70, {1, 2, 4, 0}, taken);       // wrong
}

void MaskedByABuiltInPattern(Local<half> dst, Local<half> src, Local<float> wide, uint64_t& taken,
                             const uint8_t pattern, Local<int8_t> bytes) {
  GatherMask(dst, src, pattern, false, 0, {1, 4, 8, 0}, taken);
  GatherMask(dst, src, 2, false, 0, {1, 4, 8, 0}, taken);
  GatherMask(src, src, uint8_t(7), true, 100u, GatherMaskParams(1, 1, 8, 0), taken);
  GatherMask<float>(wide, wide, 1, false, 0, GatherMaskParams{1, 4, 8, 8}, taken);
  GatherMask<half, GatherMaskMode::VERSION_V2>(dst, src, 2, false, 0, {1, 4, 8, 0}, taken);
  GatherMask<half, GatherMaskMode::VERSION_V1>(dst, src, 2, false, 0, {1, 4, 8, 0}, taken);
  GatherMask<half, uint8_t>(dst, src, 2, false, 0, {1, 4, 8, 0}, taken);  // wrong
  GatherMask(dst, wide, 2, false, 0, {1, 4, 8, 0}, taken);                // wrong
  GatherMask(dst, src, 2, false, 0, {1, 4, 8, 0}, 0);                     // wrong
  GatherMask(bytes, bytes, 2, false, 0, {1, 4, 8, 0}, taken);             // ours: 16 and 32 bits
}

void MaskParameters(GatherMaskParams params, uint16_t repeat) {
  params.src0BlockStride = 1;
  params.repeatTimes = repeat;
  params.src0RepeatStride = 8;
  params.src1RepeatStride = 0;
  GatherMaskParams whole(1, 4, 8, 0);
  GatherMaskParams three(1, 4, 8);  // wrong
  params.dstBlockStride = 1;        // wrong
}

void Broadcast(Local<half> dst, Local<half> src, Local<float> wide, Local<int16_t> narrow,
               Local<uint16_t> bits, Local<int32_t> whole, Local<uint32_t> words,
               Local<bfloat16_t> brain, Local<int8_t> bytes, BrcbRepeatParams params) {
  Brcb(dst, src, 2, {1, 8});
  Brcb<half>(dst, src, uint8_t(2), BrcbRepeatParams(1, 8));
  Brcb(wide, wide, 2, BrcbRepeatParams());
  Brcb(narrow, narrow, 2, params);
  Brcb(bits, bits, 2, params);
  Brcb(whole, whole, 2, params);
  Brcb(words, words, 2, params);
  Brcb(brain, brain, 2, params);
  params.dstBlkStride = 2;
  params.dstRepStride = 16;
  Brcb(dst, wide, 2, {1, 8});               // wrong
  Brcb(dst, src, 2);                        // wrong
  Brcb(dst, src, {1, 8});                   // wrong
  Brcb(dst, src, 2, GatherRepeatParams());  // wrong
  Brcb(bytes, bytes, 2, params);            // ours: 16 and 32 bits
  params.srcBlkStride = 2;                  // wrong
}
