// What a program asks of its chip, as the public documents of PlatformAscendC name it, for the chip
// that MOGE_EMULATOR_DEVICE names.
#ifndef MOGE_EMULATOR_HOST_PLATFORM_ASCENDC_H_
#define MOGE_EMULATOR_HOST_PLATFORM_ASCENDC_H_

#include <cstdint>

namespace platform_ascendc {

enum class CoreMemType {
  L0_A = 0,
  L0_B = 1,
  L0_C = 2,
  L1 = 3,
  L2 = 4,
  UB = 5,
  HBM = 6,
  FB = 7,
  BT = 8,
  RESERVED
};

enum class SocVersion { ASCEND910B };

enum class ReservedSize { RESERVED_SIZE_8K, RESERVED_SIZE_16K, RESERVED_SIZE_32K };

class PlatformAscendC {
 public:
  uint32_t GetCoreNum() const;
  uint32_t GetCoreNumAic() const;
  uint32_t GetCoreNumAiv() const;
  uint32_t GetCoreNumVector() const { return 0; }
  uint32_t CalcTschNumBlocks(uint32_t slices, uint32_t cubes, uint32_t vectors) const;
  uint32_t CalcTschBlockDim(uint32_t slices, uint32_t cubes, uint32_t vectors) const {
    return CalcTschNumBlocks(slices, cubes, vectors);
  }
  SocVersion GetSocVersion() const { return SocVersion::ASCEND910B; }
  uint32_t GetLibApiWorkSpaceSize() const { return 16u << 20; }
  uint32_t GetResGroupBarrierWorkSpaceSize() const { return 16u << 20; }
  uint32_t GetResCubeGroupWorkSpaceSize() const { return 16u << 20; }
  void GetCoreMemSize(const CoreMemType& memory, uint64_t& size) const;
  void ReserveLocalMemory(ReservedSize size) {
    reserved_ = uint64_t{8192} << static_cast<int>(size);
  }

 private:
  uint64_t reserved_ = 0;  // of UB
};

class PlatformAscendCManager {
 public:
  // The name is of a chip that the program would compile for without one; here it is set already.
  static PlatformAscendC* GetInstance(const char* name = nullptr);
};

}  // namespace platform_ascendc

#endif  // MOGE_EMULATOR_HOST_PLATFORM_ASCENDC_H_
