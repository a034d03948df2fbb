// Collectives between processes of this machine, or threads of one, with the names of HCCL: each
// rank puts a part of its data into shared memory, all meet, each takes what it needs, all meet.
//
// Sums are taken in the order of the ranks, so that every rank gets the same bits. Only what
// torch.distributed needs for all_reduce, broadcast, reduce, scatter, all_gather, reduce_scatter,
// all_to_all and barrier is here; point-to-point messages are not.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "memory.h"
#include "status.h"
#include "stream.h"

namespace npu_host {

namespace {

constexpr int kHcclSuccess = 0, kHcclParameter = 1, kHcclTimeout = 9, kHcclInternal = 4;
constexpr uint32_t kMaxRanks = 16;
constexpr uint64_t kSlot = uint64_t{1} << 20;  // bytes of a rank in one round
constexpr uint64_t kAligned = 64;
constexpr uint64_t kRootInfoBytes = 4108;
constexpr uint64_t kNameBytes = 128;
constexpr auto kPatience = std::chrono::seconds(120);

struct Shared {
  std::atomic<uint32_t> arrived, round;
  alignas(kAligned) char slots[kMaxRanks][kSlot];
};

// A rank's view of its communicator.
struct Comm {
  std::string name;
  uint32_t rank, ranks;
  Shared* shared;

  char* Slot(uint32_t of) const { return shared->slots[of]; }

  // Waits until every rank is here; throws where one does not come.
  void Meet() const {
    const uint32_t round = shared->round.load();
    if (shared->arrived.fetch_add(1) + 1 == ranks) {
      shared->arrived.store(0);
      shared->round.fetch_add(1);
      return;
    }
    const auto end = std::chrono::steady_clock::now() + kPatience;
    for (int i = 0; shared->round.load() == round; ++i) {
      if (i < 64) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        if (std::chrono::steady_clock::now() > end) {
          throw std::string("a rank of " + name + " did not come");
        }
      }
    }
  }
};

enum class DataType : int {
  kInt8,
  kInt16,
  kInt32,
  kFloat16,
  kFloat32,
  kInt64,
  kUint64,
  kUint8,
  kUint16,
  kUint32,
  kFloat64,
  kBfloat16
};  // clang-format off
constexpr uint64_t kSizes[] = {1, 2, 4, 2, 4, 8, 8, 1, 2, 4, 8, 2};
// clang-format on
enum Reduction : int { kSum, kProduct, kMax, kMin };

struct Bfloat16 {
  uint16_t bits;
  operator float() const {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
  Bfloat16() = default;
  explicit Bfloat16(float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, sizeof wide);
    const bool nan = value != value;
    bits = static_cast<uint16_t>(nan ? 0x7fc0 : (wide + 0x7fff + (wide >> 16 & 1)) >> 16);
  }
};

// out[i] = the reduction of from(r)[i] over the ranks, rounded once.
template <typename T, typename Wide>
void Reduce(char* out, uint64_t count, uint32_t ranks, Reduction reduction,
            const std::function<const char*(uint32_t)>& from) {
  std::vector<const T*> inputs;
  for (uint32_t r = 0; r < ranks; ++r) inputs.push_back(reinterpret_cast<const T*>(from(r)));
  for (uint64_t i = 0; i < count; ++i) {
    auto sum = static_cast<Wide>(inputs[0][i]);
    for (uint32_t r = 1; r < ranks; ++r) {
      const auto next = static_cast<Wide>(inputs[r][i]);
      switch (reduction) {
        case kSum:
          sum = static_cast<Wide>(sum + next);
          break;
        case kProduct:
          sum = static_cast<Wide>(sum * next);
          break;
        case kMax:
          sum = std::max(sum, next);
          break;
        case kMin:
          sum = std::min(sum, next);
          break;
      }
    }
    reinterpret_cast<T*>(out)[i] = static_cast<T>(sum);
  }
}

void Reduce(DataType type, char* out, uint64_t bytes, uint32_t ranks, Reduction reduction,
            const std::function<const char*(uint32_t)>& from) {
  const uint64_t count = bytes / kSizes[static_cast<int>(type)];
  const auto with = [&](auto value, auto wide) {
    Reduce<decltype(value), decltype(wide)>(out, count, ranks, reduction, from);
  };
  switch (type) {
    case DataType::kInt8:
      return with(int8_t{}, int8_t{});
    case DataType::kInt16:
      return with(int16_t{}, int16_t{});
    case DataType::kInt32:
      return with(int32_t{}, uint32_t{});
    case DataType::kFloat16:
      return with(_Float16{}, float{});
    case DataType::kFloat32:
      return with(float{}, float{});
    case DataType::kInt64:
      return with(int64_t{}, int64_t{});
    case DataType::kUint64:
      return with(uint64_t{}, uint64_t{});
    case DataType::kUint8:
      return with(uint8_t{}, uint8_t{});
    case DataType::kUint16:
      return with(uint16_t{}, uint16_t{});
    case DataType::kUint32:
      return with(uint32_t{}, uint32_t{});
    case DataType::kFloat64:
      return with(double{}, double{});
    case DataType::kBfloat16:
      return with(Bfloat16{}, float{});
  }
}

struct Piece {
  const char* name;
  const void* data;
  uint64_t bytes;
};

// Checks the buffers, then puts a collective into the stream.
int Put(const char* function, void* comm, void* on, int type, const std::vector<Piece>& pieces,
        std::function<void(const Comm&)> act) {
  const auto* given = static_cast<const Comm*>(comm);
  auto* stream = static_cast<Stream*>(on);
  const auto check = [=, called = std::string(function)] {
    for (const Piece& piece : pieces) {
      const std::string error = Memory::Get().Check(piece.data, piece.bytes, stream->card());
      if (!error.empty()) return called + ": " + piece.name + " " + error;
    }
    return std::string();
  };
  std::string error = check();
  if (type < 0 || type > static_cast<int>(DataType::kBfloat16)) {
    error = std::string(function) + ": data type " + std::to_string(type) + " is not served";
  }
  if (!error.empty()) {
    Fail(kInvalidParameter, error);
    return kHcclParameter;
  }
  stream->Push({[=, called = std::string(function)] {
    std::string late = check();
    if (!late.empty()) return late;
    try {
      act(*given);
    } catch (const std::string& lost) {
      late = called + ": " + lost;
    }
    return late;
  }});
  return kHcclSuccess;
}

// The collectives, in rounds of what fits into the slots. `parts` lie one after the other in a
// rank's slot: one for all ranks, or one for each.

// Every rank shows the same `bytes` to all.
void Show(const Comm& comm, bool shows, const char* data, uint64_t bytes,
          const std::function<void(uint64_t offset, uint64_t length)>& take) {
  for (uint64_t offset = 0; offset < bytes; offset += kSlot) {
    const uint64_t length = std::min(kSlot, bytes - offset);
    if (shows) std::memcpy(comm.Slot(comm.rank), data + offset, length);
    comm.Meet();
    take(offset, length);
    comm.Meet();
  }
}

// Every rank has `sizes[r]` bytes at data + places[r] for each other one; `take` gets what rank r
// has for this one, at most `most` bytes in all rounds.
void Deal(const Comm& comm, bool deals, const char* data, const std::vector<uint64_t>& sizes,
          const std::vector<uint64_t>& places, uint64_t most,
          const std::function<void(uint64_t offset, uint64_t step)>& take) {
  const uint64_t step = kSlot / comm.ranks / kAligned * kAligned;
  for (uint64_t offset = 0; offset < most; offset += step) {
    for (uint32_t r = 0; deals && r < comm.ranks; ++r) {
      if (offset >= sizes[r]) continue;
      std::memcpy(comm.Slot(comm.rank) + r * step, data + places[r] + offset,
                  std::min(step, sizes[r] - offset));
    }
    comm.Meet();
    take(offset, step);
    comm.Meet();
  }
}

std::vector<uint64_t> Even(uint32_t ranks, uint64_t bytes) {
  return std::vector<uint64_t>(ranks, bytes);
}
std::vector<uint64_t> Strides(uint32_t ranks, uint64_t bytes) {
  std::vector<uint64_t> places;
  for (uint32_t r = 0; r < ranks; ++r) places.push_back(r * bytes);
  return places;
}
std::vector<uint64_t> Scaled(const void* counts, uint32_t ranks, uint64_t size) {
  const auto* first = static_cast<const uint64_t*>(counts);
  std::vector<uint64_t> scaled(first, first + ranks);
  for (uint64_t& each : scaled) each *= size;
  return scaled;
}

uint64_t SizeOf(int type) {
  return type >= 0 && type <= static_cast<int>(DataType::kBfloat16) ? kSizes[type] : 1;
}

int Attach(const char* name, uint32_t ranks, uint32_t rank, void** comm) {
  if (ranks == 0 || ranks > kMaxRanks || rank >= ranks) {
    Fail(kInvalidParameter, "HcclCommInitRootInfo: rank " + std::to_string(rank) + " of " +
                                std::to_string(ranks) + ", at most " + std::to_string(kMaxRanks));
    return kHcclParameter;
  }
  const int file = shm_open(name, O_RDWR, 0600);
  void* memory = file < 0
                     ? MAP_FAILED
                     : mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  if (memory == MAP_FAILED) {
    Fail(kInvalidParameter, std::string("HcclCommInitRootInfo: no shared memory ") + name);
    return kHcclInternal;
  }
  auto made = std::make_unique<Comm>(Comm{name + 1, rank, ranks, static_cast<Shared*>(memory)});
  try {
    made->Meet();
  } catch (const std::string& lost) {
    Fail(kTimeout, "HcclCommInitRootInfo: " + lost);
    return kHcclTimeout;
  }
  if (rank == 0) shm_unlink(name);  // all have it
  *comm = made.release();
  return kHcclSuccess;
}

}  // namespace

}  // namespace npu_host

using namespace npu_host;

extern "C" {

int HcclGetRootInfo(void* info) {
  static std::atomic<int> made{0};
  const std::string name = "/npu_host-" + std::to_string(getpid()) + "-" + std::to_string(made++);
  const int file = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  // sparse: a slot takes memory once it is used
  if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) {
    Fail(kNoMemory, "HcclGetRootInfo: no shared memory " + name);
    return kHcclInternal;
  }
  close(file);
  std::memset(info, 0, kRootInfoBytes);
  std::memcpy(info, name.c_str(), name.size());
  return kHcclSuccess;
}
int HcclCommInitRootInfo(uint32_t ranks, const void* info, uint32_t rank, void** comm) {
  return Attach(static_cast<const char*>(info), ranks, rank, comm);
}
int HcclCommInitRootInfoConfig(uint32_t ranks, const void* info, uint32_t rank, const void*,
                               void** comm) {
  return Attach(static_cast<const char*>(info), ranks, rank, comm);
}
uint32_t HcclGetCommConfigCapability() { return 0; }  // of the settings, none changes anything
int HcclCommDestroy(void* comm) {
  auto* given = static_cast<Comm*>(comm);
  munmap(given->shared, sizeof(Shared));
  delete given;
  return kHcclSuccess;
}
int HcclGetCommAsyncError(void*, int* error) {
  *error = kHcclSuccess;  // a collective that fails fails its stream
  return kHcclSuccess;
}
int HcclGetCommName(void* comm, char* name) {
  std::strncpy(name, static_cast<Comm*>(comm)->name.c_str(), kNameBytes - 1);
  name[kNameBytes - 1] = 0;
  return kHcclSuccess;
}
const char* HcclGetErrorString(int) { return "see aclGetRecentErrMsg"; }
int HcclSetConfig(int, void*) { return kHcclSuccess; }

int HcclAllReduce(void* send, void* recv, uint64_t count, int type, int op, void* comm,
                  void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  return Put("HcclAllReduce", comm, stream, type,
             {{"sendBuf", send, bytes}, {"recvBuf", recv, bytes}}, [=](const Comm& own) {
               Show(own, true, static_cast<char*>(send), bytes, [&](uint64_t offset, uint64_t n) {
                 Reduce(static_cast<DataType>(type), static_cast<char*>(recv) + offset, n,
                        own.ranks, static_cast<Reduction>(op),
                        [&](uint32_t r) { return own.Slot(r); });
               });
             });
}
int HcclReduce(void* send, void* recv, uint64_t count, int type, int op, uint32_t root, void* comm,
               void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  return Put("HcclReduce", comm, stream, type, {{"sendBuf", send, bytes}, {"recvBuf", recv, bytes}},
             [=](const Comm& own) {
               Show(own, true, static_cast<char*>(send), bytes, [&](uint64_t offset, uint64_t n) {
                 if (own.rank != root) return;
                 Reduce(static_cast<DataType>(type), static_cast<char*>(recv) + offset, n,
                        own.ranks, static_cast<Reduction>(op),
                        [&](uint32_t r) { return own.Slot(r); });
               });
             });
}
int HcclBroadcast(void* data, uint64_t count, int type, uint32_t root, void* comm, void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  return Put("HcclBroadcast", comm, stream, type, {{"buf", data, bytes}}, [=](const Comm& own) {
    auto* mine = static_cast<char*>(data);
    Show(own, own.rank == root, mine, bytes, [&](uint64_t offset, uint64_t n) {
      if (own.rank != root) std::memcpy(mine + offset, own.Slot(root), n);
    });
  });
}
int HcclAllGather(void* send, void* recv, uint64_t count, int type, void* comm, void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  const uint64_t all = bytes * static_cast<Comm*>(comm)->ranks;
  return Put("HcclAllGather", comm, stream, type,
             {{"sendBuf", send, bytes}, {"recvBuf", recv, all}}, [=](const Comm& own) {
               Show(own, true, static_cast<char*>(send), bytes, [&](uint64_t offset, uint64_t n) {
                 for (uint32_t r = 0; r < own.ranks; ++r) {
                   std::memcpy(static_cast<char*>(recv) + r * bytes + offset, own.Slot(r), n);
                 }
               });
             });
}
int HcclReduceScatter(void* send, void* recv, uint64_t count, int type, int op, void* comm,
                      void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  const uint64_t all = bytes * static_cast<Comm*>(comm)->ranks;
  return Put("HcclReduceScatter", comm, stream, type,
             {{"sendBuf", send, all}, {"recvBuf", recv, bytes}}, [=](const Comm& own) {
               Deal(own, true, static_cast<char*>(send), Even(own.ranks, bytes),
                    Strides(own.ranks, bytes), bytes, [&](uint64_t offset, uint64_t step) {
                      Reduce(static_cast<DataType>(type), static_cast<char*>(recv) + offset,
                             std::min(step, bytes - offset), own.ranks, static_cast<Reduction>(op),
                             [&](uint32_t r) { return own.Slot(r) + own.rank * step; });
                    });
             });
}
int HcclScatter(void* send, void* recv, uint64_t count, int type, uint32_t root, void* comm,
                void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  const auto* of = static_cast<Comm*>(comm);
  const uint64_t all = of->rank == root ? bytes * of->ranks : 0;
  return Put("HcclScatter", comm, stream, type, {{"sendBuf", send, all}, {"recvBuf", recv, bytes}},
             [=](const Comm& own) {
               Deal(own, own.rank == root, static_cast<char*>(send), Even(own.ranks, bytes),
                    Strides(own.ranks, bytes), bytes, [&](uint64_t offset, uint64_t step) {
                      std::memcpy(static_cast<char*>(recv) + offset,
                                  own.Slot(root) + own.rank * step, std::min(step, bytes - offset));
                    });
             });
}
int HcclAlltoAllV(const void* send, const void* send_counts, const void* send_places, int send_type,
                  const void* recv, const void* recv_counts, const void* recv_places, int type,
                  void* comm, void* stream) {
  const uint32_t ranks = static_cast<Comm*>(comm)->ranks;
  const uint64_t size = SizeOf(type);
  const auto sizes = Scaled(send_counts, ranks, size), places = Scaled(send_places, ranks, size);
  const auto taken = Scaled(recv_counts, ranks, size), put = Scaled(recv_places, ranks, size);
  uint64_t sent = 0, received = 0;
  for (uint32_t r = 0; r < ranks; ++r) {
    sent = std::max(sent, places[r] + sizes[r]);
    received = std::max(received, put[r] + taken[r]);
  }
  return Put("HcclAlltoAllV", comm, stream, send_type == type ? type : -1,
             {{"sendBuf", send, sent}, {"recvBuf", recv, received}}, [=](const Comm& own) {
               // as many rounds as the largest part of any rank needs
               uint64_t most = *std::max_element(sizes.begin(), sizes.end());
               Show(own, true, reinterpret_cast<const char*>(&most), sizeof most,
                    [&, mine = most](uint64_t, uint64_t) {
                      most = mine;
                      for (uint32_t r = 0; r < own.ranks; ++r) {
                        uint64_t theirs;
                        std::memcpy(&theirs, own.Slot(r), sizeof theirs);
                        most = std::max(most, theirs);
                      }
                    });
               auto* target = static_cast<char*>(const_cast<void*>(recv));
               Deal(own, true, static_cast<const char*>(send), sizes, places, most,
                    [&](uint64_t offset, uint64_t step) {
                      for (uint32_t r = 0; r < own.ranks; ++r) {
                        if (offset >= taken[r]) continue;
                        std::memcpy(target + put[r] + offset, own.Slot(r) + own.rank * step,
                                    std::min(step, taken[r] - offset));
                      }
                    });
             });
}
int HcclAlltoAll(const void* send, uint64_t count, int send_type, const void* recv, uint64_t,
                 int type, void* comm, void* stream) {
  const uint32_t ranks = static_cast<Comm*>(comm)->ranks;
  const auto counts = Even(ranks, count), places = Strides(ranks, count);
  return HcclAlltoAllV(send, counts.data(), places.data(), send_type, recv, counts.data(),
                       places.data(), type, comm, stream);
}

}  // extern "C"
