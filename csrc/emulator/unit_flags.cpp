// Unit flags: Mmad and Fixpipe take turns at each 512 bytes of L0C.
//
//   Mmad, unitFlag 2   adds to a block that is empty or its own
//   Mmad, unitFlag 3   adds the last product and gives the block to Fixpipe: it is full
//   Fixpipe, 3         moves a full block out: it is empty, the next Mmad may write it
#include "core.h"

namespace emulator {

void CheckUnitFlag(uint8_t flag) {
  if (flag == 0 || flag == 2 || flag == 3) return;
  Fail(Rule::kUnitFlagValue, "unitFlag is 0, 2 or 3, got %u", flag);
}

// Called before an instruction touches its blocks of L0C. The flags order Mmad and Fixpipe there,
// so the records of the other pipe's accesses are dropped.
void TakeUnits(Core& core, uint32_t begin, uint32_t end, uint8_t flag) {
  const bool writes = core.pipe == PIPE_M;
  LocalMemory& local = core.Local(Memory::kL0C);
  for (uint32_t unit = begin / kFractalBytes; unit * kFractalBytes < end; ++unit) {
    uint8_t& bits = core.units[unit];
    const bool full = (bits & kUnitFull) != 0;
    const uint32_t from = unit * kFractalBytes;
    const uint32_t to = from + kFractalBytes;
    if (flag == 0) {
      if (full || (!writes && (bits & kUnitByMmad) != 0)) {
        Report(Rule::kUnitFlagSides, "L0C [%u, %u) was written with a unit flag: use it here, too",
               from, to);
      }
      bits = 0;
      continue;
    }
    core.TakeTurn(unit, writes ? (bits & kUnitByFixpipe) != 0 : full, flag == 3);
    if (writes && full) {
      Fail(Rule::kUnitFlagOrder, "waits for Fixpipe to move L0C [%u, %u) out, which it has not",
           from, to);
    }
    if (!writes && !full) {
      if ((bits & kUnitByMmad) == 0) {
        Report(Rule::kUnitFlagSides, "waits for L0C [%u, %u), which no Mmad with unitFlag wrote",
               from, to);
        continue;
      }
      Fail(Rule::kUnitFlagOrder,
           "waits for L0C [%u, %u): the last Mmad on it has unitFlag 2, not 3", from, to);
    }
    if (core.machine.options.checks) {
      BlockRecord& record = local.blocks[unit];
      if (writes && (bits & kUnitByFixpipe) != 0) record.read[PIPE_FIX] = 0;
      if (!writes && record.writer == PIPE_M) record.written = 0;
    }
    if (writes) {
      bits = kUnitByMmad | (flag == 3 ? kUnitFull : 0);
    } else if (flag == 3) {
      bits = kUnitByFixpipe;
    }
  }
}

}  // namespace emulator
