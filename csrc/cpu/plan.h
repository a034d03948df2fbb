// How a call is divided among threads, and its memory.
#pragma once
#include <vector>

#include "kernels.h"

namespace moge_cpu {

// ValueError of Python unless the offsets rise from 0 to at most N.
void CheckOffsets(const int32_t* offsets, int64_t E, int64_t N);
// ... and unless every row in use is of a slot, or with padding perhaps of none, -1. What the other
// tensor, slot_to_row, says is looked at where it is used.
void CheckRouting(const Routing& routing, bool padding);

// Blocks of the rows of every expert, of at most `most` rows, largest first.
std::vector<Block> Blocks(const int32_t* offsets, int64_t E, int most);

// Of `threads`, how many are worth their while for a number of multiplications and additions.
int Threads(int threads, double flops);

// Parts of `columns` output features that make enough units of work of `blocks` for the threads.
int64_t Parts(int64_t blocks, int threads, int64_t columns);

int64_t Longest(const int32_t* offsets, int64_t E);

// Slots sorted by expert, within an expert by slot: see moge_ops.route.
template <typename Id>
void Route(const Id* experts, int64_t T, int64_t K, int64_t E, int64_t G, int32_t* row_to_slot,
           int32_t* slot_to_row, int32_t* offsets);

// Fills args.scratch and runs one kernel on as many of the threads as are worth it.
template <typename Args>
void Run(const Kernel<Args>& kernel, DType dtype, Args& args, int threads, int worth) {
  const Bytes bytes = kernel.bytes[int(dtype)](args);
  args.scratch.own_bytes = (bytes.own + 4095) / 4096 * 4096;
  args.scratch.own = Memory(bytes.shared + worth * args.scratch.own_bytes);
  args.scratch.shared = args.scratch.own + worth * args.scratch.own_bytes;
  struct Call {
    void (*run)(const Args&, Team&);
    const Args* args;
  } call{kernel.run[int(dtype)], &args};
  Parallel(
      threads, worth,
      [](void* data, Team& team) {
        const auto* call = static_cast<Call*>(data);
        call->run(*call->args, team);
      },
      &call);
  Release();
}

}  // namespace moge_cpu
