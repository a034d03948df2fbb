#include "memory.h"

#include <sys/mman.h>

#include <cstring>

namespace npu_host {

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kFilled = uint64_t{32} << 20;  // of an allocation: larger ones would take long

uint64_t Pages(uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

std::string Name(int card) { return card == kHost ? "the host" : "card " + std::to_string(card); }

Memory& Memory::Get() {
  static Memory& memory = *new Memory;  // never destroyed: streams may outlive static objects
  return memory;
}

uint64_t Memory::Used(int card) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return used_[card];
}

void* Memory::Allocate(uint64_t bytes, int card) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (card != kHost && bytes > TheSettings().memory - used_[card]) return nullptr;
  // whole pages that nothing else shares, so that the system takes them back when they are freed
  void* data = mmap(nullptr, Pages(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  std::memset(data, 0xff, bytes < kFilled ? bytes : kFilled);
  const auto address = reinterpret_cast<uintptr_t>(data);
  // what lay there once is forgotten
  auto gone = freed_.lower_bound(address);
  if (gone != freed_.begin()) --gone;
  while (gone != freed_.end() && gone->first < address + bytes) {
    gone = gone->first + gone->second.bytes > address ? freed_.erase(gone) : std::next(gone);
  }
  live_[address] = {bytes, card};
  if (card != kHost) used_[card] += bytes;
  return data;
}

bool Memory::Free(void* data) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto block = live_.find(reinterpret_cast<uintptr_t>(data));
  if (block == live_.end()) return false;
  if (block->second.card != kHost) used_[block->second.card] -= block->second.bytes;
  munmap(data, Pages(block->second.bytes));
  freed_.insert(*block);
  live_.erase(block);
  return true;
}

Memory::Blocks::const_iterator Memory::Holding(const Blocks& blocks, uintptr_t address) {
  auto next = blocks.upper_bound(address);
  if (next == blocks.begin()) return blocks.end();
  --next;
  return address < next->first + next->second.bytes ? next : blocks.end();
}

bool Memory::IsPinned(const void* data) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto block = Holding(live_, reinterpret_cast<uintptr_t>(data));
  return block != live_.end() && block->second.card == kHost;
}

std::string Memory::Check(const void* data, uint64_t bytes, int card) {
  if (bytes == 0) return "";
  const auto address = reinterpret_cast<uintptr_t>(data);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto block = Holding(live_, address);
  if (block == live_.end()) {
    const bool freed = Holding(freed_, address) != freed_.end();
    return freed ? "points to memory that was freed" : "points to no memory of the cards";
  }
  const bool fits = card == kAnyCard ? block->second.card != kHost : block->second.card == card;
  if (!fits) {
    return "points to memory of " + Name(block->second.card) + ", not of " + Name(card);
  }
  const uint64_t end = block->first + block->second.bytes;
  if (bytes > end - address) {
    return "reaches " + std::to_string(bytes - (end - address)) + " bytes past its allocation of " +
           std::to_string(block->second.bytes);
  }
  return "";
}

}  // namespace npu_host
