#include <algorithm>

#include "../names.h"
#include "settings.h"
#include "tiling/platform/platform_ascendc.h"

namespace platform_ascendc {

using emulator::host::TheDevice;

uint32_t PlatformAscendC::GetCoreNum() const { return TheDevice().cube_cores; }
uint32_t PlatformAscendC::GetCoreNumAic() const { return TheDevice().cube_cores; }
uint32_t PlatformAscendC::GetCoreNumAiv() const { return TheDevice().vector_cores; }

// Blocks for as many slices of vector cores: a block has the vector cores of one cube core.
uint32_t PlatformAscendC::CalcTschNumBlocks(uint32_t slices, uint32_t cubes,
                                            uint32_t vectors) const {
  if (cubes == 0 || vectors == 0 || cubes > vectors) return slices;
  const uint32_t ratio = vectors / cubes;
  return (slices + ratio - 1) / ratio;
}

void PlatformAscendC::GetCoreMemSize(const CoreMemType& memory, uint64_t& size) const {
  switch (memory) {
    case CoreMemType::L0_A:
    case CoreMemType::L0_B:
      size = 65536;
      return;
    case CoreMemType::L0_C:
      size = 131072;
      return;
    case CoreMemType::L1:
      size = 524288;
      return;
    case CoreMemType::L2:
      size = uint64_t{192} << 20;
      return;
    case CoreMemType::UB:
      size = emulator::kUbUser - reserved_;
      return;
    case CoreMemType::HBM:
      size = uint64_t{64} << 30;
      return;
    case CoreMemType::FB:
      size = 2048;
      return;
    case CoreMemType::BT:
      size = 1024;
      return;
    default:
      size = 0;
      return;
  }
}

PlatformAscendC* PlatformAscendCManager::GetInstance(const char*) {
  static PlatformAscendC platform;
  return &platform;
}

}  // namespace platform_ascendc
