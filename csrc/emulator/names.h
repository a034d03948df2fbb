// Sizes of the machine and names for messages, for the emulator's own .cpp files only.
#ifndef MOGE_EMULATOR_NAMES_H_
#define MOGE_EMULATOR_NAMES_H_

#include <cstdarg>
#include <string>

#include "machine.h"

namespace emulator {

// X(memory, in messages, bytes)
// clang-format off: a table
#define MOGE_EMULATOR_MEMORIES(X) \
  X(kUb, "UB", 196608) \
  X(kL1, "L1", 524288) \
  X(kL0A, "L0A", 65536) \
  X(kL0B, "L0B", 65536) \
  X(kL0C, "L0C", 131072) \
  X(kBias, "BT", 1024) \
  X(kFixpipe, "FB", 2048)
// clang-format on
enum class Memory : uint8_t {
#define MOGE_MEMORY(name, text, bytes) name,
  MOGE_EMULATOR_MEMORIES(MOGE_MEMORY)
#undef MOGE_MEMORY
};
inline constexpr int kMemories = static_cast<int>(Memory::kFixpipe) + 1;

constexpr uint32_t MemoryBytes(Memory memory) {
  constexpr uint32_t kBytes[] = {
#define MOGE_MEMORY(name, text, bytes) bytes,
      MOGE_EMULATOR_MEMORIES(MOGE_MEMORY)
#undef MOGE_MEMORY
  };
  return kBytes[static_cast<int>(memory)];
}

inline constexpr int kPipes = PIPE_ALL;
inline constexpr uint32_t kUbBytes = MemoryBytes(Memory::kUb);
inline constexpr uint32_t kBlockBytes = 32;
inline constexpr uint32_t kRepeatBytes = 256;
// what the framework keeps of L1 where a block has both kinds of cores, and of UB where an
// instruction keeps more
inline constexpr uint32_t kReservedBytes = 256;
inline constexpr uint32_t kUbUser = kUbBytes - kReservedBytes;
inline constexpr uint32_t kSelectBytes = 8192;
inline constexpr uint32_t kCacheLineBytes = 64;
inline constexpr uint32_t kFractalBytes = 512;   // 16 x 32 bytes; one unit flag in L0C
inline constexpr uint32_t kProductBytes = 1024;  // 16 x 16 results in L0C
inline constexpr uint32_t kSide = 16;            // rows and columns of a fractal of results
inline constexpr uint32_t kRowBytes = 64;        // 16 results
inline constexpr int kEvents = static_cast<int>(HardEvent::MAX);
inline constexpr int kEventIds = 8;
inline constexpr int kCrossIds = 16;
inline constexpr size_t kCrossAhead = 15;

// clang-format off: a list, which it lays out anew every time
#define MOGE_EMULATOR_PATHS(X)                                                        \
  X(kGmToUb, "gm->ub") X(kUbToGm, "ub->gm") X(kUbToUb, "ub->ub") X(kGmToL1, "gm->l1") \
  X(kL1ToGm, "l1->gm") X(kGmToL0A, "gm->l0a") X(kGmToL0B, "gm->l0b")                  \
  X(kL1ToL0A, "l1->l0a") X(kL1ToL0B, "l1->l0b") X(kL1ToBias, "l1->bt")                \
  X(kL1ToFixpipe, "l1->fb") X(kL0CToL1, "l0c->l1") X(kL0CToGm, "l0c->gm")
// clang-format on
enum class Path : uint8_t {
#define MOGE_PATH(name, text) name,
  MOGE_EMULATOR_PATHS(MOGE_PATH)
#undef MOGE_PATH
};
inline constexpr int kPaths = static_cast<int>(Path::kL0CToGm) + 1;

// Accesses of the scalar unit to UB and to global memory.
enum class ScalarAccess : uint8_t { kUbGet, kUbSet, kGmGet, kGmSet };
inline constexpr int kScalarAccesses = 4;

const char* Name(Op op);
const char* Name(DType dtype);
const char* Name(Memory memory);
const char* Name(Path path);
const char* Name(ScalarAccess access);
const char* Name(HardEvent event);
const char* PipeName(int pipe);
// What vprintf prints.
std::string Formatted(const char* format, va_list arguments);
// How two accesses are made to follow each other, for the end of a message.
std::string Remedy(int earlier, int later);
pipe_t EventSource(HardEvent event);
pipe_t EventDestination(HardEvent event);
// Where a position lies; `IsLocal` says whether that is local memory at all.
Memory MemoryOf(TPosition position);
bool IsLocal(TPosition position);

}  // namespace emulator

#endif  // MOGE_EMULATOR_NAMES_H_
