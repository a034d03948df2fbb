// Names of instructions, types, memories, pipes and events; where a position lies.
#include "names.h"

#include <iterator>

namespace emulator {

namespace {

struct Event {
  const char* name;
  pipe_t source;
  pipe_t destination;
};
constexpr Event kEventTable[] = {
#define MOGE_EVENT(source, destination) \
  {#source "_" #destination, PIPE_##source, PIPE_##destination},
    MOGE_EMULATOR_EVENTS(MOGE_EVENT)
#undef MOGE_EVENT
};

}  // namespace

const char* Name(Op op) {
  static constexpr const char* kNames[] = {
#define MOGE_OP(name) #name,
      MOGE_EMULATOR_OPS(MOGE_OP)
#undef MOGE_OP
  };
  return kNames[static_cast<int>(op)];
}

const char* Name(DType dtype) {
  static constexpr const char* kNames[] = {
#define MOGE_DTYPE(name, type, text) text,
      MOGE_EMULATOR_DTYPES(MOGE_DTYPE)
#undef MOGE_DTYPE
  };
  return kNames[static_cast<int>(dtype)];
}

const char* Name(Memory memory) {
  static constexpr const char* kNames[] = {"UB", "L1", "L0A", "L0B", "L0C", "BT", "FB"};
  return kNames[static_cast<int>(memory)];
}

const char* Name(Path path) {
  static constexpr const char* kNames[] = {
#define MOGE_PATH(name, text) text,
      MOGE_EMULATOR_PATHS(MOGE_PATH)
#undef MOGE_PATH
  };
  return kNames[static_cast<int>(path)];
}

const char* Name(ScalarAccess access) {
  static constexpr const char* kNames[] = {"ub.get", "ub.set", "gm.get", "gm.set"};
  return kNames[static_cast<int>(access)];
}

const char* PipeName(int pipe) {
  static constexpr const char* kNames[] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX", "ALL"};
  return kNames[pipe];
}

const char* Name(HardEvent event) { return kEventTable[static_cast<int>(event)].name; }
pipe_t EventSource(HardEvent event) { return kEventTable[static_cast<int>(event)].source; }
pipe_t EventDestination(HardEvent event) {
  return kEventTable[static_cast<int>(event)].destination;
}

std::string Remedy(int earlier, int later) {
  const std::string from = PipeName(earlier);
  const std::string to = PipeName(later);
  if (earlier == later) return "PipeBarrier<PIPE_" + from + ">";
  std::string remedy = "SetFlag/WaitFlag<HardEvent::" + from + "_" + to + ">";
  if ((earlier == PIPE_MTE2 && later == PIPE_V) || (earlier == PIPE_V && later == PIPE_MTE3)) {
    remedy += " or EnQue/DeQue";
  }
  return remedy;
}

namespace {

// Where a position lies, which pipe fills it and which one empties it.
struct Place {
  Memory memory;
  pipe_t producer, consumer;
};
const Place& PlaceOf(TPosition position) {
  static constexpr Place kPlaces[] = {
      {Memory::kUb, PIPE_MTE2, PIPE_V},       // GM
      {Memory::kL1, PIPE_MTE2, PIPE_MTE1},    // A1
      {Memory::kL0A, PIPE_MTE1, PIPE_M},      // A2
      {Memory::kL1, PIPE_MTE2, PIPE_MTE1},    // B1
      {Memory::kL0B, PIPE_MTE1, PIPE_M},      // B2
      {Memory::kL1, PIPE_MTE2, PIPE_MTE1},    // C1
      {Memory::kBias, PIPE_MTE1, PIPE_M},     // C2
      {Memory::kL0C, PIPE_M, PIPE_FIX},       // CO1
      {Memory::kUb, PIPE_FIX, PIPE_MTE3},     // CO2
      {Memory::kUb, PIPE_MTE2, PIPE_V},       // VECIN
      {Memory::kUb, PIPE_V, PIPE_MTE3},       // VECOUT
      {Memory::kUb, PIPE_V, PIPE_V},          // VECCALC
      {Memory::kFixpipe, PIPE_MTE2, PIPE_V},  // C2PIPE2GM
      {Memory::kUb, PIPE_MTE2, PIPE_V},       // MAX
  };
  static_assert(std::size(kPlaces) == static_cast<size_t>(TPosition::MAX) + 1);
  return kPlaces[static_cast<int>(position)];
}

}  // namespace

Memory MemoryOf(TPosition position) { return PlaceOf(position).memory; }
pipe_t Producer(TPosition position) { return PlaceOf(position).producer; }
pipe_t Consumer(TPosition position) { return PlaceOf(position).consumer; }

uint32_t MemoryBytes(Memory memory) {
  static constexpr uint32_t kBytes[] = {kUbBytes, 524288, 65536, 65536, 131072, 1024, 2048};
  return kBytes[static_cast<int>(memory)];
}

}  // namespace emulator
