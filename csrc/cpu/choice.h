// Which levels of the instruction set this machine has.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace moge_cpu {

struct Level {
  std::string name;
  const Kernels* kernels;
  std::string missing;  // why it cannot run here; empty where it can
};

// From the lowest to the highest.
const std::vector<Level>& Levels();
// The highest that runs here, or null.
const Level* BestLevel();

}  // namespace moge_cpu
