// The host's side of the emulator: launch a kernel, get its counters, catch its first error.
//
//   emulator::Options options;
//   options.blocks = 8;
//   options.allocations = {{x, bytes, "x", emulator::Access::kIn},
//                          {y, bytes, "y", emulator::Access::kOut}};
//   emulator::Counters counters = emulator::Launch(options, [&] { add_half(x, y, tiling); });
//
// README.md beside this file says what a launch is, docs/backends/emulator.md what it cannot catch.
#ifndef MOGE_EMULATOR_LAUNCH_H_
#define MOGE_EMULATOR_LAUNCH_H_

#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "counters.h"
#include "rules.h"

namespace emulator {

class Error : public std::runtime_error {
 public:
  Error(Rule rule, const std::string& message);
  Rule rule() const { return rule_; }
  const char* rule_id() const;
  // return addresses of the calls that led here, innermost first
  const std::vector<void*>& trace() const { return trace_; }

 private:
  Rule rule_;
  std::vector<void*> trace_;
};

enum class Access {
  kIn,     // initialised; a write is an error
  kOut,    // uninitialised until the kernel writes it
  kInOut,  // initialised, and written
};

struct Allocation {
  void* data;
  uint64_t bytes;
  std::string name;
  Access access;
  bool bulk = false;  // counting mode only: the addresses have no memory
};

// How the kernel was declared. Hardware SyncAll and cross-core flags exist only in the mix forms.
enum class KernelType {
  kVector,     // __vector__
  kMixVector,  // __mix__(0, 1)
  kCube,       // __cube__
  kMixCube,    // __mix__(1, 0)
  kMix,        // __mix__(1, 2): one cube core and two vector cores a block
  kMixPair,    // __mix__(1, 1): one of each a block
};

// What the model of time needs to know of a chip.
struct Device {
  std::string name;
  uint32_t cube_cores, vector_cores;
  double clock;        // Hz
  double memory_rate;  // bytes per second
};
const std::vector<Device>& Devices();

// A figure of the model of time, and where it comes from.
struct TimeParameter {
  const char* name;
  double value;
  const char* unit;
  const char* origin;
};
std::vector<TimeParameter> TimeParameters();

class CacheModel;

struct Options {
  std::string name = "kernel";
  uint32_t blocks = 1;
  uint32_t cores = 48;       // vector cores of the device
  uint32_t cube_cores = 24;  // and cube cores
  KernelType kernel = KernelType::kVector;
  std::vector<Allocation> allocations;
  // false: the compiler's automatic barriers, vector after vector and scalar beside V, MTE2, MTE3
  bool strict = false;
  // whether bytes are written and defined when they are read, hazards, races, stale cache lines,
  // most overlaps of operands; every other rule is always checked
  bool checks = true;
  // Only counts: bulk data is neither moved nor computed with, small allocations are. Without
  // checks.
  bool counting = false;
  uint64_t seed = 0;  // other than 0: cores take turns in a shuffled order
  uint64_t max_instructions = uint64_t{1} << 32;  // of one core, against endless loops
  const Device* device = nullptr;                 // whose times are modelled
  CacheModel* cache = nullptr;                    // L2 as earlier launches left it; null: empty
  std::vector<uint32_t> pictured;  // cores whose instructions are listed with their times
  // Levels of rules: "fixpipe.n-size=error, overlap.*=off"; "warning=error" makes every warning
  // one. The variable MOGE_EMULATOR_RULES, of the same form, is read before;
  // docs/backends/emulator.md lists the rules.
  std::string rules;
  // Is told the first warning of each rule and instruction; Counters::warnings count them all.
  // Null: a line on stderr.
  void (*warn)(const Error& warning) = nullptr;
};

// Runs the kernel once on each core. Throws Error at the first broken rule whose level is an error,
// std::invalid_argument where the options have no meaning.
Counters Launch(const Options& options, const std::function<void()>& kernel);

struct RuleText {
  std::string id;
  std::string level;  // "fixed": an error that cannot be lowered
  std::string sentence;
};
std::vector<RuleText> Rules();

}  // namespace emulator

#endif  // MOGE_EMULATOR_LAUNCH_H_
