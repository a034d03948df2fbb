#include "settings.h"

#include <sys/stat.h>

#include <cstdlib>

namespace npu_host {

namespace {

// A variable as an integer from `least` to `most`; a fault otherwise.
uint64_t Integer(const char* name, uint64_t otherwise, uint64_t least, uint64_t most,
                 std::string& fault) {
  const char* text = std::getenv(name);
  if (text == nullptr) return otherwise;
  char* end = nullptr;
  const uint64_t value = std::strtoull(text, &end, 10);
  const bool digits = *text >= '0' && *text <= '9' && *end == 0;
  if (digits && value >= least && value <= most) return value;
  fault = std::string(name) + " must be an integer from " + std::to_string(least) + " to " +
          std::to_string(most) + ", got " + text;
  return otherwise;
}

// A file or folder that only a machine with CANN or an NPU has; empty where there is none.
std::string RealCann() {
  std::string found;
  const auto look = [&found](const std::string& path) {
    struct stat info;
    if (found.empty() && stat(path.c_str(), &info) == 0) found = path;
  };
  look("/dev/davinci_manager");
  look("/usr/local/Ascend");
  if (const char* home = std::getenv("HOME")) look(std::string(home) + "/Ascend");
  for (const char* variable : {"ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"}) {
    if (const char* folder = std::getenv(variable)) look(folder);
  }
  return found;
}

Settings Read() {
  constexpr uint64_t kMostMiB = uint64_t{1} << 30, kUsualMiB = 16 * 1024;
  Settings settings{};
  std::string& fault = settings.refusal;
  settings.cards = static_cast<int>(Integer("MOGE_NPU_HOST_CARDS", 1, 1, kMaxCards, fault));
  settings.memory = Integer("MOGE_NPU_HOST_MEMORY", kUsualMiB, 1, kMostMiB, fault) << 20;
  settings.seed = static_cast<uint32_t>(Integer("MOGE_NPU_HOST_SEED", 0, 0, UINT32_MAX, fault));
  if (const std::string cann = RealCann(); !cann.empty()) {
    fault = "the host runtime stands in for CANN where there is none, and " + cann +
            " is here: take the host runtime's folder out of LD_LIBRARY_PATH";
  }
  return settings;
}

}  // namespace

const Settings& TheSettings() {
  static const Settings settings = Read();
  return settings;
}

}  // namespace npu_host
