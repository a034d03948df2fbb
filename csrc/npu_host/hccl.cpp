// Collectives between processes of this machine, or threads of one, with the names of HCCL: each
// rank puts a part of its data into shared memory, all meet, each takes what it needs, all meet.
//
// Sums are taken in the order of the ranks, so that every rank gets the same bits. Only what
// torch.distributed needs for all_reduce, broadcast, reduce, scatter, all_gather, reduce_scatter,
// all_to_all and barrier is here; point-to-point messages are not.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "comm.h"
#include "status.h"
#include "stream.h"

namespace npu_host {

namespace {

constexpr int kHcclSuccess = 0, kHcclParameter = 1, kHcclInternal = 4;
constexpr uint64_t kRootInfoBytes = 4108;
constexpr uint64_t kNameBytes = 128;

using CommHandle = std::shared_ptr<Comm>;  // tasks may outlive a handle

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
};
// bytes, in the order of the types
constexpr uint64_t kSizes[] = {1, 2, 4, 2, 4, 8, 8, 1, 2, 4, 8, 2};
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
      return with(int32_t{}, int64_t{});
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

// Checks what a collective is given, and puts it into the stream.
int Enter(const char* function, void* comm, void* on, Call call, std::vector<Piece> pieces,
          std::function<void(const Comm&)> act) {
  std::string error;
  if (call.type < 0 || call.type > static_cast<int>(DataType::kBfloat16)) {
    error = std::string(function) + ": data type " + std::to_string(call.type) + " is not served";
  } else if (call.reduction < kSum || call.reduction > kMin) {
    error = std::string(function) + ": there is no reduction " + std::to_string(call.reduction);
  }
  const std::shared_ptr<Stream> stream = Stream::Find(on);
  if (stream == nullptr) error = std::string(function) + ": the stream does not exist";
  if (!error.empty()) {
    Fail(kInvalidParameter, error);
    return kHcclParameter;
  }
  std::strncpy(call.function, function, sizeof call.function - 1);
  for (Piece& piece : pieces) piece.card = stream->card();
  const CommHandle given = *static_cast<CommHandle*>(comm);
  const int code =
      Put(*stream, function, pieces, [=, called = std::string(function)]() -> std::string {
        try {
          given->Agree(call);
          act(*given);
        } catch (const std::runtime_error& caught) {
          return called + ": " + caught.what();
        }
        return "";
      });
  return code == kSuccess ? kHcclSuccess : kHcclParameter;
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

uint32_t Ranks(void* comm) { return (*static_cast<CommHandle*>(comm))->ranks; }

}  // namespace

}  // namespace npu_host

using namespace npu_host;

extern "C" {

int HcclGetRootInfo(void* info) {
  const std::string name = Comm::Create();
  if (name.empty()) {
    Fail(kNoMemory, "HcclGetRootInfo: no shared memory");
    return kHcclInternal;
  }
  std::memset(info, 0, kRootInfoBytes);
  std::memcpy(info, name.c_str(), name.size());
  return kHcclSuccess;
}
int HcclCommInitRootInfo(uint32_t ranks, const void* info, uint32_t rank, void** comm) {
  try {
    *comm = new CommHandle(new Comm(static_cast<const char*>(info), rank, ranks));
    return kHcclSuccess;
  } catch (const std::runtime_error& caught) {
    Fail(kInvalidParameter, std::string("HcclCommInitRootInfo: ") + caught.what());
    return kHcclInternal;
  }
}
int HcclCommInitRootInfoConfig(uint32_t ranks, const void* info, uint32_t rank, const void*,
                               void** comm) {
  return HcclCommInitRootInfo(ranks, info, rank, comm);  // no setting changes anything
}
uint32_t HcclGetCommConfigCapability() { return 0; }  // of the settings, none changes anything
int HcclCommDestroy(void* comm) {
  delete static_cast<CommHandle*>(comm);
  return kHcclSuccess;
}
int HcclGetCommAsyncError(void*, int* error) {
  *error = kHcclSuccess;  // a collective that fails fails its stream
  return kHcclSuccess;
}
int HcclGetCommName(void* comm, char* name) {
  std::strncpy(name, (*static_cast<CommHandle*>(comm))->name.c_str() + 1, kNameBytes - 1);
  name[kNameBytes - 1] = 0;
  return kHcclSuccess;
}
const char* HcclGetErrorString(int) { return "see aclGetRecentErrMsg"; }
int HcclSetConfig(int, void*) { return kHcclSuccess; }

int HcclAllReduce(void* send, void* recv, uint64_t count, int type, int reduction, void* comm,
                  void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  return Enter("HcclAllReduce", comm, stream, {{}, bytes, type, reduction, 0},
               {{"sendBuf", send, bytes, 0}, {"recvBuf", recv, bytes, 0}}, [=](const Comm& own) {
                 own.Publish(true, send, bytes, [&](uint64_t offset, uint64_t n) {
                   Reduce(static_cast<DataType>(type), static_cast<char*>(recv) + offset, n,
                          own.ranks, static_cast<Reduction>(reduction),
                          [&](uint32_t r) { return own.Slot(r); });
                 });
               });
}
int HcclReduce(void* send, void* recv, uint64_t count, int type, int reduction, uint32_t root,
               void* comm, void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  return Enter("HcclReduce", comm, stream, {{}, bytes, type, reduction, root},
               {{"sendBuf", send, bytes, 0}, {"recvBuf", recv, bytes, 0}}, [=](const Comm& own) {
                 own.Publish(true, send, bytes, [&](uint64_t offset, uint64_t n) {
                   if (own.rank != root) return;
                   Reduce(static_cast<DataType>(type), static_cast<char*>(recv) + offset, n,
                          own.ranks, static_cast<Reduction>(reduction),
                          [&](uint32_t r) { return own.Slot(r); });
                 });
               });
}
int HcclBroadcast(void* data, uint64_t count, int type, uint32_t root, void* comm, void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  return Enter("HcclBroadcast", comm, stream, {{}, bytes, type, kSum, root},
               {{"buf", data, bytes, 0}}, [=](const Comm& own) {
                 own.Publish(own.rank == root, data, bytes, [&](uint64_t offset, uint64_t n) {
                   if (own.rank == root) return;
                   std::memcpy(static_cast<char*>(data) + offset, own.Slot(root), n);
                 });
               });
}
int HcclAllGather(void* send, void* recv, uint64_t count, int type, void* comm, void* stream) {
  const uint64_t bytes = count * SizeOf(type), all = bytes * Ranks(comm);
  return Enter("HcclAllGather", comm, stream, {{}, bytes, type, kSum, 0},
               {{"sendBuf", send, bytes, 0}, {"recvBuf", recv, all, 0}}, [=](const Comm& own) {
                 own.Publish(true, send, bytes, [&](uint64_t offset, uint64_t n) {
                   for (uint32_t r = 0; r < own.ranks; ++r) {
                     std::memcpy(static_cast<char*>(recv) + r * bytes + offset, own.Slot(r), n);
                   }
                 });
               });
}
int HcclReduceScatter(void* send, void* recv, uint64_t count, int type, int reduction, void* comm,
                      void* stream) {
  const uint64_t bytes = count * SizeOf(type), all = bytes * Ranks(comm);
  return Enter("HcclReduceScatter", comm, stream, {{}, bytes, type, reduction, 0},
               {{"sendBuf", send, all, 0}, {"recvBuf", recv, bytes, 0}}, [=](const Comm& own) {
                 own.Distribute(
                     true, send, Even(own.ranks, bytes), Strides(own.ranks, bytes), bytes,
                     [&](uint64_t offset, uint64_t length) {
                       Reduce(static_cast<DataType>(type), static_cast<char*>(recv) + offset,
                              std::min(length, bytes - offset), own.ranks,
                              static_cast<Reduction>(reduction),
                              [&](uint32_t r) { return own.Slot(r) + own.rank * length; });
                     });
               });
}
int HcclScatter(void* send, void* recv, uint64_t count, int type, uint32_t root, void* comm,
                void* stream) {
  const uint64_t bytes = count * SizeOf(type);
  const bool is_root = (*static_cast<CommHandle*>(comm))->rank == root;
  const uint64_t all = is_root ? bytes * Ranks(comm) : 0;
  return Enter("HcclScatter", comm, stream, {{}, bytes, type, kSum, root},
               {{"sendBuf", send, all, 0}, {"recvBuf", recv, bytes, 0}}, [=](const Comm& own) {
                 own.Distribute(is_root, send, Even(own.ranks, bytes), Strides(own.ranks, bytes),
                                bytes, [&](uint64_t offset, uint64_t length) {
                                  std::memcpy(static_cast<char*>(recv) + offset,
                                              own.Slot(root) + own.rank * length,
                                              std::min(length, bytes - offset));
                                });
               });
}
int HcclAlltoAllV(const void* send, const void* send_counts, const void* send_places, int send_type,
                  const void* recv, const void* recv_counts, const void* recv_places, int type,
                  void* comm, void* stream) {
  const uint32_t ranks = Ranks(comm);
  const uint64_t size = SizeOf(type);
  const auto sizes = Scaled(send_counts, ranks, size), places = Scaled(send_places, ranks, size);
  const auto taken = Scaled(recv_counts, ranks, size), put = Scaled(recv_places, ranks, size);
  uint64_t sent = 0, received = 0;
  for (uint32_t r = 0; r < ranks; ++r) {
    sent = std::max(sent, places[r] + sizes[r]);
    received = std::max(received, put[r] + taken[r]);
  }
  return Enter(
      "HcclAlltoAllV", comm, stream, {{}, 0, send_type == type ? type : -1, kSum, 0},
      {{"sendBuf", send, sent, 0}, {"recvBuf", recv, received, 0}}, [=](const Comm& own) {
        // the sizes first: rank r has sizes[own.rank] for this one, of which it must take all
        std::vector<uint64_t> theirs(own.ranks);
        uint64_t most = 0;
        own.Publish(true, sizes.data(), own.ranks * sizeof(uint64_t), [&](uint64_t, uint64_t) {
          for (uint32_t r = 0; r < own.ranks; ++r) {
            const auto* row = reinterpret_cast<const uint64_t*>(own.Slot(r));
            theirs[r] = row[own.rank];
            most = std::max(most, *std::max_element(row, row + own.ranks));
          }
        });
        auto* target = static_cast<char*>(const_cast<void*>(recv));
        own.Distribute(true, send, sizes, places, most, [&](uint64_t offset, uint64_t length) {
          for (uint32_t r = 0; r < own.ranks; ++r) {
            const uint64_t bytes = std::min(theirs[r], taken[r]);
            if (offset >= bytes) continue;
            std::memcpy(target + put[r] + offset, own.Slot(r) + own.rank * length,
                        std::min(length, bytes - offset));
          }
        });
        if (theirs != taken) {
          throw std::runtime_error("the sizes that are sent are not those that are received");
        }
      });
}
int HcclAlltoAll(const void* send, uint64_t count, int send_type, const void* recv, uint64_t,
                 int type, void* comm, void* stream) {
  const uint32_t ranks = Ranks(comm);
  const auto counts = Even(ranks, count), places = Strides(ranks, count);
  return HcclAlltoAllV(send, counts.data(), places.data(), send_type, recv, counts.data(),
                       places.data(), type, comm, stream);
}

}  // extern "C"
