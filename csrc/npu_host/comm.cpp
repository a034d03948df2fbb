#include "comm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace npu_host {

namespace {

constexpr uint32_t kMaxRanks = 16;
constexpr uint64_t kSlot = uint64_t{1} << 20;  // bytes of a rank in one round
constexpr uint64_t kAligned = 64;
constexpr auto kPatience = std::chrono::seconds(120);

std::string Text(const Call& call) {
  return std::string(call.function) + " of " + std::to_string(call.bytes) + " bytes, type " +
         std::to_string(call.type) + ", reduction " + std::to_string(call.reduction) + ", root " +
         std::to_string(call.root);
}

}  // namespace

struct Shared {
  std::atomic<uint32_t> arrived, round;
  Call calls[kMaxRanks];
  alignas(kAligned) char slots[kMaxRanks][kSlot];
};

std::string Comm::Create() {
  static std::atomic<int> made{0};
  const std::string name = "/npu_host-" + std::to_string(getpid()) + "-" + std::to_string(made++);
  const int file = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  if (file < 0) return "";
  // sparse: a slot takes memory once it is used
  const bool sized = ftruncate(file, sizeof(Shared)) == 0;
  close(file);
  return sized ? name : "";
}

Comm::Comm(const std::string& name, uint32_t rank, uint32_t ranks)
    : name(name), rank(rank), ranks(ranks) {
  if (ranks == 0 || ranks > kMaxRanks || rank >= ranks) {
    throw std::runtime_error("rank " + std::to_string(rank) + " of " + std::to_string(ranks) +
                             " ranks, at most " + std::to_string(kMaxRanks));
  }
  const int file = shm_open(name.c_str(), O_RDWR, 0600);
  void* memory = MAP_FAILED;
  if (file >= 0) {
    memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
  }
  if (memory == MAP_FAILED) throw std::runtime_error("there is no shared memory " + name);
  shared_ = static_cast<Shared*>(memory);
  try {
    Meet();
  } catch (const std::runtime_error&) {
    munmap(shared_, sizeof(Shared));
    shm_unlink(name.c_str());
    throw;
  }
  if (rank == 0) shm_unlink(name.c_str());  // all have it
}

Comm::~Comm() { munmap(shared_, sizeof(Shared)); }

char* Comm::Slot(uint32_t of) const { return shared_->slots[of]; }

void Comm::Meet() const {
  const uint32_t round = shared_->round.load();
  if (shared_->arrived.fetch_add(1) + 1 == ranks) {
    shared_->arrived.store(0);
    shared_->round.fetch_add(1);
    return;
  }
  const auto end = std::chrono::steady_clock::now() + kPatience;
  for (int i = 0; shared_->round.load() == round; ++i) {
    if (i < 64) {
      std::this_thread::yield();
      continue;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    if (std::chrono::steady_clock::now() > end) {
      throw std::runtime_error("a rank of " + name + " did not come");
    }
  }
}

void Comm::Agree(const Call& call) const {
  shared_->calls[rank] = call;
  Meet();
  std::string error;
  const std::string first = Text(shared_->calls[0]);
  for (uint32_t r = 1; r < ranks && error.empty(); ++r) {
    const std::string other = Text(shared_->calls[r]);
    if (other == first) continue;
    error = "rank 0 is at " + first + ", and rank " + std::to_string(r) + " at " + other;
  }
  Meet();
  if (!error.empty()) throw std::runtime_error(error);
}

void Comm::Publish(bool sends, const void* data, uint64_t bytes,
                   const std::function<void(uint64_t, uint64_t)>& take) const {
  for (uint64_t offset = 0; offset < bytes; offset += kSlot) {
    const uint64_t length = std::min(kSlot, bytes - offset);
    if (sends) std::memcpy(Slot(rank), static_cast<const char*>(data) + offset, length);
    Meet();
    take(offset, length);
    Meet();
  }
}

void Comm::Distribute(bool sends, const void* data, const std::vector<uint64_t>& sizes,
                      const std::vector<uint64_t>& places, uint64_t most,
                      const std::function<void(uint64_t, uint64_t)>& take) const {
  const uint64_t length = kSlot / ranks / kAligned * kAligned;
  for (uint64_t offset = 0; offset < most; offset += length) {
    for (uint32_t r = 0; sends && r < ranks; ++r) {
      if (offset >= sizes[r]) continue;
      std::memcpy(Slot(rank) + r * length, static_cast<const char*>(data) + places[r] + offset,
                  std::min(length, sizes[r] - offset));
    }
    Meet();
    take(offset, length);
    Meet();
  }
}

}  // namespace npu_host
