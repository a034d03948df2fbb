// Local and global memory with the shadow of who touched it, for the emulator's own .cpp files
// only.
#ifndef MOGE_EMULATOR_MEMORY_SHADOW_H_
#define MOGE_EMULATOR_MEMORY_SHADOW_H_

#include <cstdlib>
#include <memory>
#include <optional>
#include <unordered_map>

#include "clock.h"
#include "launch.h"

namespace emulator {

// Who touched 32 bytes of local memory, or a fractal of L0, last: numbers of instructions on their
// pipes, 0 for none.
struct BlockRecord {
  std::array<uint32_t, kPipes> read{};
  uint32_t written = 0;
  uint8_t writer = 0;  // pipe
  Op written_by{};
  std::array<Op, kPipes> read_by{};
};

enum class ByteState : uint8_t {
  kUninitialised,
  kValid,
  kPoison,   // the hardware leaves it undefined
  kVirtual,  // counting mode: its value was never computed
};

struct LocalMemory {
  uint32_t block_bytes = kBlockBytes;
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> state;  // ByteState
  std::vector<BlockRecord> blocks;
};

// What happened to one cell of an allocation; the cell is as wide as the narrowest access needs.
// All zero means untouched.
struct GlobalCell {
  GlobalAccess written;
  GlobalAccess read;
  uint64_t stamp;    // of the last write, in the order of the launch
  uint32_t release;  // what the last write tells, a number in the launch; 0: it was no scalar one
  uint8_t atomic;    // 0, or what the last write did to the value there, an AtomicKind + 1
  bool more;         // there are accesses beside these, which they do not follow
};
struct BesideAccess {
  GlobalAccess access;
  bool wrote;  // atomically; else a read
  uint8_t atomic = 0;
};

class GlobalMemory {
 public:
  // `tracked`: with cells
  GlobalMemory(const Allocation& allocation, bool tracked);
  const Allocation& allocation() const { return allocation_; }
  const char* name() const { return allocation_.name.c_str(); }
  uint8_t* begin() const { return static_cast<uint8_t*>(allocation_.data); }
  uint64_t place = 0;  // where the model of time sees it
  uint64_t width() const { return width_; }
  // Cells of [begin, end), split first where the range does not fall on their borders.
  GlobalCell* Cells(uint64_t begin, uint64_t end, uint64_t* count);
  // Accesses of the cell at `byte` that have no place in it.
  std::vector<BesideAccess>& Beside(uint64_t byte) { return beside_[byte]; }
  void Forget(uint64_t byte) { beside_.erase(byte); }
  // States of bytes, as what was stored had them; none is kept until one is not valid.
  const uint8_t* States(uint64_t begin) const {
    return states_.empty() ? nullptr : states_.data() + begin;
  }
  void StoreStates(uint64_t begin, const uint8_t* states, uint64_t bytes);
  void Validate(uint64_t begin, uint64_t bytes) {
    if (states_.empty()) return;
    std::memset(states_.data() + begin, static_cast<int>(ByteState::kValid), bytes);
  }

 private:
  // calloc: a large allocation costs only the pages that the kernel touches
  using CellArray = std::unique_ptr<GlobalCell[], decltype(&std::free)>;
  CellArray Make(uint64_t width) const;

  Allocation allocation_;
  uint64_t width_ = 32;
  CellArray cells_;
  std::unordered_map<uint64_t, std::vector<BesideAccess>> beside_;
  std::vector<uint8_t> states_;
};

// A line of the scalar unit's data cache.
struct CacheLineState {
  std::array<uint8_t, kCacheLineBytes> bytes{};
  uint64_t dirty = 0;  // a bit for each byte
  uint64_t stamp = 0;  // when the line was fetched
  int32_t allocation = -1;
  std::optional<Release> release;  // of the last SetValue
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_MEMORY_SHADOW_H_
