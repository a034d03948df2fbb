// What a program asks of its chip, by the tables of the emulator.
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
  return emulator::CeilDivide(slices, ratio);
}

void PlatformAscendC::GetCoreMemSize(const CoreMemType& memory, uint64_t& size) const {
  using emulator::Memory;
  using emulator::MemoryBytes;
  switch (memory) {
    case CoreMemType::L0_A:
    case CoreMemType::L0_B:
      size = MemoryBytes(Memory::kL0A);
      return;
    case CoreMemType::L0_C:
      size = MemoryBytes(Memory::kL0C);
      return;
    case CoreMemType::L1:
      size = MemoryBytes(Memory::kL1);
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
      size = MemoryBytes(Memory::kFixpipe);
      return;
    case CoreMemType::BT:
      size = MemoryBytes(Memory::kBias);
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
