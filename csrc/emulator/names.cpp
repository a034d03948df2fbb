// Names of instructions, types, memories, pipes and events; where a position lies.
#include "names.h"

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

Memory MemoryOf(TPosition position) {
  switch (position) {
    case TPosition::A1:
    case TPosition::B1:
    case TPosition::C1:
      return Memory::kL1;
    case TPosition::A2:
      return Memory::kL0A;
    case TPosition::B2:
      return Memory::kL0B;
    case TPosition::CO1:
      return Memory::kL0C;
    case TPosition::C2:
      return Memory::kBias;
    case TPosition::C2PIPE2GM:
      return Memory::kFixpipe;
    default:
      return Memory::kUb;
  }
}

uint32_t MemoryBytes(Memory memory) {
  static constexpr uint32_t kBytes[] = {kUbBytes, 524288, 65536, 65536, 131072, 1024, 2048};
  return kBytes[static_cast<int>(memory)];
}

}  // namespace emulator
