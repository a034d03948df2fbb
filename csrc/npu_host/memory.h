// The memory of the cards, and the pinned memory of the host: what is allocated, and to whom a
// pointer belongs.
#ifndef MOGE_NPU_HOST_MEMORY_H_
#define MOGE_NPU_HOST_MEMORY_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "settings.h"

namespace npu_host {

constexpr int kHost = -1;     // the "card" of pinned host memory
constexpr int kAnyCard = -2;  // in a check: whichever it is, but not the host

class Memory {
 public:
  static Memory& Get();

  uint64_t Used(int card);

  // Whole pages whose first 32 MiB are filled with 0xff, a NaN: nobody may count on zeros. Null
  // where the card has not as much left.
  void* Allocate(uint64_t bytes, int card);
  // False if no allocation begins there.
  bool Free(void* data);

  // Why a piece of memory is not in one live allocation of `card`; empty if it is.
  std::string Check(const void* data, uint64_t bytes, int card);
  bool IsPinned(const void* data);

 private:
  struct Block {
    uint64_t bytes;
    int card;
  };
  using Blocks = std::map<uintptr_t, Block>;  // by address
  static Blocks::const_iterator Holding(const Blocks& blocks, uintptr_t address);

  std::mutex mutex_;
  Blocks live_, freed_;  // freed_: for messages, until the memory is used again
  uint64_t used_[kMaxCards] = {};
};

std::string Name(int card);

}  // namespace npu_host

#endif  // MOGE_NPU_HOST_MEMORY_H_
