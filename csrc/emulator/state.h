// What one core keeps from one instruction to the next, as plain structures, for the emulator's own
// .cpp files only.
#ifndef MOGE_EMULATOR_STATE_H_
#define MOGE_EMULATOR_STATE_H_

#include <deque>
#include <map>
#include <optional>
#include <unordered_set>

#include "machine_cube.h"
#include "memory_shadow.h"

namespace emulator {

enum class CoreKind : uint8_t { kVector, kCube };

using LaneMask = std::array<uint64_t, 2>;  // a bit for each lane of a repeat

// The elements that an instruction takes: `repeats` times `lanes`, the last repeat with its own
// mask.
struct Lanes {
  uint32_t lanes = 0;
  uint32_t repeats = 0;
  LaneMask mask{};
  LaneMask last{};
  uint64_t elements = 0;
  bool prefix = false;  // full masks, and the last one a run from lane 0: a plain count

  const LaneMask& Mask(uint32_t repeat) const { return repeat + 1 == repeats ? last : mask; }
};

enum class ProductOrder : uint8_t { kUnset, kRowMajor, kColumnMajor };

// What is set for the loads of windows and for the way out of L0C.
struct CubeRegisters {
  std::optional<Image> image;
  std::optional<uint32_t> padding;  // bits of one element
  uint32_t repeat_stride = 0, repeat_times = 1, repeat_mode = 0;
  uint32_t boundary = 0;  // bytes of L1; 0: none
  ProductOrder product_order = ProductOrder::kUnset;
  bool half_float = false;  // HF32
  bool half_float_to_zero = false;
  std::optional<uint64_t> scale;
  std::optional<LocalRef> scales;
  std::optional<std::array<uint32_t, 3>> matrices;  // number, from one to the next in L0C, outside
};

// What a transfer does to the value that is there.
struct Atomic {
  AtomicKind kind;
  DType dtype;
};

// What the scalar unit can ask of the last reduction.
struct Reduced {
  DType dtype;
  float value;
  uint32_t index;
  bool lacks_data;
};

// What one instruction sets for those after it.
struct Registers {
  bool counter_mode = false;
  bool mask_touched = false;
  LaneMask mask{~uint64_t{0}, ~uint64_t{0}};
  std::optional<LaneMask> compare_mask;
  std::optional<float> dequant_scale;
  std::optional<Atomic> atomic;                         // what transfers to global memory do
  std::optional<uint64_t> pad_value;                    // of SetPadValue
  uint32_t pad_bytes = 0;                               // of its element
  std::optional<std::array<uint16_t, 4>> merge_counts;  // of the last MrgSort, if it was suspended
  std::optional<Reduced> sum;                           // of the last ReduceSum by count
  std::optional<Reduced> extreme;  // of the last contiguous ReduceRepeat, ReduceMax or ReduceMin
  CubeRegisters cube;
};

// The kernel places its tensors by a TPipe or by address, and does not mix the two.
struct Style {
  void* tpipe = nullptr;  // the one that is alive
  bool used_tpipe = false;
  bool used_static = false;
  bool init_soc = false;
  bool final_barrier = false;
};

enum class BufferState : uint8_t { kIdle, kAllocated, kEnqueued, kDequeued, kPermanent };

struct Buffer {
  TPosition position;
  uint32_t begin = 0;
  uint32_t end = 0;
  uint32_t generation = 0;
  int32_t queue = -1;
  uint32_t pool = 0;  // 0: of the TPipe itself
  bool alive = true;  // until its TPipe is reset
  BufferState state = BufferState::kIdle;
  Signal ready{};              // of the filling pipe at EnQue
  std::optional<Signal> free;  // of the using pipe at FreeTensor
};

// The pipe that fills a tensor between two positions, and the one that empties it.
struct Route {
  pipe_t producer, consumer;
};

struct Queue {
  TPosition position;  // of its buffers
  Route route;
  int32_t depth = 0;  // 0: the tensors themselves are passed on
  bool alive = true;
  std::vector<uint32_t> buffers;
  std::deque<uint32_t> idle;  // the longest idle first: two buffers take turns
  std::deque<uint32_t> enqueued;
};

// A part of UB or L1 that a TBufPool hands out.
struct Pool {
  Memory memory;
  uint32_t begin, end, next;
  uint32_t limit;        // of its buffers
  uint32_t buffers = 0;  // that it has
  uint32_t parent = 0;   // the pool that it is a part of; 0: the TPipe
  bool in_use = false;   // since it was reset
};

// What TPipes have given out.
struct Buffers {
  std::vector<Buffer> all{1};  // number 0 means memory without a buffer
  std::vector<Queue> queues;
  std::vector<Pool> pools{1};              // number 0 is the TPipe itself
  uint32_t initialised = 0;                // by the TPipe that is alive
  std::array<uint32_t, kMemories> next{};  // where its next buffer starts
  std::map<TPosition, int> outstanding;
};

// Flags between the pipes of the core.
struct Flags {
  std::array<std::array<std::optional<Signal>, kEventIds>, kEvents> pending;
  std::array<uint8_t, kEvents> taken{};  // bits of the ids that AllocEventID gave out
  std::array<uint8_t, kEvents> known{};  // and of those that FetchEventID named as well
};

// Flags from other cores.
struct CrossFlags {
  std::array<std::deque<Message>, kCrossIds> inbox;  // they have come and were not waited for
  uint16_t used = 0;                                 // bits of the ids set or waited for
  std::array<uint8_t, kCrossIds> modes{};            // of the last set, from 1 up; 0: none
};

// Whose turn it is at each 512 bytes of L0C, if Mmad and Fixpipe use unit flags.
enum UnitBits : uint8_t { kUnitFull = 1, kUnitByMmad = 2, kUnitByFixpipe = 4 };
using UnitFlags = std::array<uint8_t, MemoryBytes(Memory::kL0C) / kFractalBytes>;

// The first parameter that was cut to its field.
struct Truncation {
  long long value;
  unsigned bits;
};

// Rows of global memory, from the start of one to that of the next.
struct Traffic {
  uint64_t rows, row_bytes, pitch;
  bool nd_to_nz = false;
  uint64_t bytes = rows * row_bytes;  // differs where the last row is shorter
};

// A core that reads global memory again and again, which nobody changes.
struct Polls {
  uint64_t changes = 0;                     // by other cores, when it began
  std::unordered_set<const uint8_t*> seen;  // what it has read since
  uint32_t fruitless = 0;                   // reads of those, with nothing else between
};

}  // namespace emulator

#endif  // MOGE_EMULATOR_STATE_H_
