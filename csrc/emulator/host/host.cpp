// Launches of a translated program: which memory a kernel may touch, and what its first error was.
#include "host.h"

#include <execinfo.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

#include "device_memory.h"
#include "places.h"
#include "settings.h"

namespace emulator::host {

namespace {

[[noreturn]] void End() {
  std::fflush(nullptr);
  std::_Exit(1);
}

uint64_t ToNumber(const char* variable, uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return otherwise;
  char* end = nullptr;
  const uint64_t number = std::strtoull(text, &end, 10);
  if (*end == '\0') return number;
  std::fprintf(stderr, "error: %s is a number, got '%s'\n", variable, text);
  End();
}

Settings Read() {
  const auto text = [](const char* variable, const char* otherwise) {
    const char* const value = std::getenv(variable);
    return std::string(value == nullptr || *value == '\0' ? otherwise : value);
  };
  Settings settings{nullptr, ToNumber("MOGE_EMULATOR_STRICT", 0) != 0,
                    ToNumber("MOGE_EMULATOR_SEED", 0), text("MOGE_EMULATOR_TRACE", "")};
  const std::string name = text("MOGE_EMULATOR_DEVICE", "910B1");
  std::string known;
  for (const Device& device : Devices()) {
    if (device.name == name) settings.device = &device;
    known += " " + device.name;
  }
  if (settings.device == nullptr) {
    std::fprintf(stderr, "error: MOGE_EMULATOR_DEVICE is one of%s, got '%s'\n", known.c_str(),
                 name.c_str());
    End();
  }
  return settings;
}

// Of the running launch: the header of its call, and the calls that led to it.
std::string header;
std::vector<void*> launch_trace;

void Tell(const char* kind, const Error& error) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s: %s\n", kind, error.what());
  std::vector<std::string> places = Places(error.trace(), header);
  // what is found when a kernel has ended has no line of the kernel
  if (places.empty()) places = Places(launch_trace, header);
  for (const std::string& place : places) std::fprintf(stderr, "  at %s\n", place.c_str());
}

[[noreturn]] void Refuse(const LaunchCall& call, const std::string& message) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s: %s\n", call.name, message.c_str());
  for (const std::string& place : Places(launch_trace, header)) {
    std::fprintf(stderr, "  at %s\n", place.c_str());
  }
  End();
}

// A pointer of the host among the arguments is the usual reason.
void TellForeign(const LaunchCall& call, const std::vector<const void*>& pointers) {
  std::istringstream lines(call.arguments);
  std::string name;
  for (const void* const pointer : pointers) {
    std::getline(lines, name);
    if (pointer == nullptr || FindBlock(pointer, 0) != nullptr) continue;
    std::fprintf(
        stderr,
        "  '%s' of the launch is no memory that aclrtMalloc gave out: copy the data there\n",
        name.c_str());
  }
}

// The live allocations. One that an argument points into goes by the argument's name.
std::vector<Allocation> Allocations(const LaunchCall& call,
                                    const std::vector<const void*>& pointers) {
  std::vector<std::string> names;
  std::istringstream lines(call.arguments);
  for (std::string line; std::getline(lines, line);) names.push_back(line);
  std::vector<Allocation> allocations;
  for (const auto& [address, block] : Blocks()) {
    std::string name = "allocation " + std::to_string(block.number);
    for (size_t i = 0; i < std::min(pointers.size(), names.size()); ++i) {
      if (pointers[i] == nullptr || FindBlock(pointers[i], 0) != &block) continue;
      const auto same = [&](const Allocation& other) { return other.name == names[i]; };
      if (std::none_of(allocations.begin(), allocations.end(), same)) name = names[i];
      break;
    }
    allocations.push_back(
        {address, block.bytes, name, block.initialised ? Access::kInOut : Access::kOut});
  }
  return allocations;
}

// What the launch wrote may be read by the next one.
void NoteWritten(const LaunchCall& call, const Counters& counters,
                 const std::vector<Allocation>& allocations) {
  const CoreCounters total = counters.Total();
  for (const Allocation& allocation : allocations) {
    const auto found = total.global.find(allocation.name);
    if (found == total.global.end() || found->second.written == 0) continue;
    Block& block = Blocks().at(static_cast<uint8_t*>(allocation.data));
    block.initialised = true;
    block.writer = call.name;
    block.stream = call.stream;
  }
}

// One line for a launch, then one for each instruction: core, pipe, operation, start, end.
void WriteTrace(const Counters& counters, const std::string& path) {
  static bool fresh = true;
  std::FILE* const file = std::fopen(path.c_str(), fresh ? "w" : "a");
  fresh = false;
  if (file == nullptr) {
    std::perror(path.c_str());
    End();
  }
  const Times& times = counters.times;
  std::fprintf(file, "launch\t%s\t%s\t%.0f\t%.9g\n", counters.name.c_str(), times.device.c_str(),
               times.cycles, times.seconds);
  for (const Slice& slice : times.picture) {
    std::fprintf(file, "%u\t%s\t%s\t%.1f\t%.1f\n", slice.core, slice.pipe, slice.op, slice.start,
                 slice.end);
  }
  std::fclose(file);
}

}  // namespace

const Settings& TheSettings() {
  static const Settings settings = Read();
  return settings;
}

void Run(const LaunchCall& call, const std::vector<const void*>& pointers,
         const std::function<void()>& kernel) {
  const Settings& settings = TheSettings();
  header = call.header;
  launch_trace.resize(64);
  launch_trace.resize(backtrace(launch_trace.data(), static_cast<int>(launch_trace.size())));
  if (call.blocks == 0) Refuse(call, "a launch has 1 to 65535 blocks, got 0");
  Options options;
  options.name = call.name;
  options.blocks = call.blocks;
  options.cores = settings.device->vector_cores;
  options.cube_cores = settings.device->cube_cores;
  options.kernel = call.kernel;
  options.allocations = Allocations(call, pointers);
  options.strict = settings.strict;
  options.seed = settings.seed;
  options.warn = [](const Error& warning) { Tell("warning", warning); };
  if (!settings.trace.empty()) {
    options.device = settings.device;
    options.pictured = {0};
    if (call.kernel == KernelType::kMix) options.pictured = {0, 1, 2};
    if (call.kernel == KernelType::kMixPair) options.pictured = {0, 1};
  }
  try {
    const Counters counters = Launch(options, kernel);
    NoteWritten(call, counters, options.allocations);
    if (!settings.trace.empty()) WriteTrace(counters, settings.trace);
  } catch (const Error& error) {
    Tell("error", error);
    if (error.rule() == Rule::kGmUnregistered) TellForeign(call, pointers);
    End();
  } catch (const std::exception& error) {
    Refuse(call, error.what());
  }
}

}  // namespace emulator::host
