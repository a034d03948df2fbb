// Names of instructions, types, memories, pipes and events; where a position lies.
#include "names.h"

#include <algorithm>
#include <cstdio>
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
#define MOGE_OP(name, ...) #name,
      MOGE_VECTOR_INSTRUCTIONS(MOGE_OP) MOGE_OTHER_OPS(MOGE_OP)
#undef MOGE_OP
  };
  return kNames[static_cast<int>(op)];
}

const char* Name(DType dtype) { return TextOf(dtype).data(); }  // of a whole string

const char* Name(Memory memory) {
  static constexpr const char* kNames[] = {
#define MOGE_MEMORY(name, text, bytes) text,
      MOGE_EMULATOR_MEMORIES(MOGE_MEMORY)
#undef MOGE_MEMORY
  };
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

HardEvent FindEvent(pipe_t source, pipe_t destination) {
  const HardEvent event = EventOf(source, destination);
  if (event != HardEvent::MAX) return event;
  Fail(Rule::kCorePipe, "no flag goes from PIPE_%s to PIPE_%s", PipeName(source),
       PipeName(destination));
}

std::string Formatted(const char* format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  const int length = std::vsnprintf(nullptr, 0, format, again);
  va_end(again);
  std::string text(static_cast<size_t>(std::max(length, 0)) + 1, '\0');
  std::vsnprintf(text.data(), text.size(), format, arguments);
  text.pop_back();
  return text;
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

struct Place {
  Memory memory;
  bool local;
};
const Place& PlaceOf(TPosition position) {
  static constexpr Place kPlaces[] = {
      {Memory::kUb, false},      // GM
      {Memory::kL1, true},       // A1
      {Memory::kL0A, true},      // A2
      {Memory::kL1, true},       // B1
      {Memory::kL0B, true},      // B2
      {Memory::kL1, true},       // C1
      {Memory::kBias, true},     // C2
      {Memory::kL0C, true},      // CO1
      {Memory::kUb, false},      // CO2, in global memory
      {Memory::kUb, true},       // VECIN
      {Memory::kUb, true},       // VECOUT
      {Memory::kUb, true},       // VECCALC
      {Memory::kUb, false},      // SPM, in global memory
      {Memory::kL1, true},       // TSCM
      {Memory::kFixpipe, true},  // C2PIPE2GM
      {Memory::kUb, false},      // C2PIPE2LOCAL, which has no use yet
      {Memory::kUb, false},      // MAX
  };
  static_assert(std::size(kPlaces) == static_cast<size_t>(TPosition::MAX) + 1);
  return kPlaces[static_cast<int>(position)];
}

}  // namespace

Memory MemoryOf(TPosition position) { return PlaceOf(position).memory; }
bool IsLocal(TPosition position) { return PlaceOf(position).local; }

}  // namespace emulator
