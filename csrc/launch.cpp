#include "launch.h"

#include <algorithm>

#ifdef MOGE_ASCEND_CANN
#include "acl/acl.h"
#else
#include <dlfcn.h>

#include <cstdio>
#include <utility>

#include "emulation.h"
#include "npu_host/npu_host.h"
#endif

namespace moge {

void CheckBuffers(const Launch& launch) {
  for (const Buffer& buffer : launch.buffers) {
    if (buffer.count == 0) continue;
    if (buffer.data == 0) {
      throw std::invalid_argument(launch.name + ": " + buffer.name + " must not be null");
    }
    if (buffer.data % static_cast<Pointer>(buffer.size) != 0) {
      throw std::invalid_argument(launch.name + ": " + buffer.name + " must be aligned to " +
                                  std::to_string(buffer.size) + " bytes, got address " +
                                  std::to_string(buffer.data));
    }
  }
}

void CheckSize(const char* op, const char* name, int64_t value, int64_t most) {
  if (value < 0 || value > most) {
    throw std::invalid_argument(std::string(op) + ": " + name + " must be in [0, " +
                                std::to_string(most) + "], got " + std::to_string(value));
  }
}

void CheckEven(const char* op, const char* name, int64_t value) {
  if (value % 2 == 0) return;
  throw std::invalid_argument(std::string(op) + ": " + name + " must be even, got " +
                              std::to_string(value));
}

void CheckRows(const char* op, int64_t T, int64_t H, int64_t K, int64_t most_slots) {
  CheckSize(op, "H", H, INT32_MAX);
  CheckSize(op, "K", K, most_slots);
  CheckSize(op, "T", T, INT32_MAX / std::max<int64_t>(K, 1));  // rows are numbered in int32
  CheckSize(op, "N * H", T * K * H, kMaxElements);
}

namespace {

bool HasCube(Cores cores) { return cores == Cores::kCube || cores == Cores::kMix; }

}  // namespace

#ifdef MOGE_ASCEND_CANN

int64_t Blocks(int64_t units, Cores cores) {
  int64_t number = 0;
  int32_t device = 0;
  const auto kind = HasCube(cores) ? ACL_DEV_ATTR_CUBE_CORE_NUM : ACL_DEV_ATTR_VECTOR_CORE_NUM;
  if (aclrtGetDevice(&device) != ACL_SUCCESS ||
      aclrtGetDeviceInfo(device, kind, &number) != ACL_SUCCESS) {
    throw std::runtime_error("the number of cores cannot be read: is a device set?");
  }
  return std::max<int64_t>(1, std::min(number, units));
}

#else

namespace {

// every cube core has two vector cores
uint32_t CubeCores() { return (TheEmulation().cores + 1) / 2; }

emulator::KernelType ToKernelType(Cores cores) {
  switch (cores) {
    case Cores::kVector:
      return emulator::KernelType::kVector;
    case Cores::kMixVector:
      return emulator::KernelType::kMixVector;
    case Cores::kCube:
      return emulator::KernelType::kCube;
    default:
      return emulator::KernelType::kMix;
  }
}

emulator::Access ToAccess(Access access) {
  switch (access) {
    case Access::kIn:
      return emulator::Access::kIn;
    case Access::kOut:
      return emulator::Access::kOut;
    default:
      return emulator::Access::kInOut;
  }
}

// Large tensors, and what is computed from them, have no data when launches are only counted.
// Indices and offsets, which decide what a kernel does, are smaller and keep theirs.
constexpr uint64_t kBulkBytes = 1024 * 1024;
void MarkBulk(std::vector<emulator::Allocation>& allocations) {
  bool any = false;
  for (emulator::Allocation& allocation : allocations) {
    allocation.bulk = allocation.bytes >= kBulkBytes;
    any = any || (allocation.bulk && allocation.access == emulator::Access::kIn);
  }
  for (emulator::Allocation& allocation : allocations) {
    allocation.bulk = allocation.bulk || (any && allocation.access == emulator::Access::kOut);
  }
}

// Inputs may share memory, as views of one tensor do; those that overlap become one allocation.
std::vector<emulator::Allocation> Allocations(std::vector<Buffer> buffers) {
  std::sort(buffers.begin(), buffers.end(),
            [](const Buffer& a, const Buffer& b) { return a.data < b.data; });
  std::vector<emulator::Allocation> allocations;
  for (const Buffer& buffer : buffers) {
    if (buffer.count == 0) continue;
    auto* data = reinterpret_cast<uint8_t*>(buffer.data);
    const uint64_t bytes = static_cast<uint64_t>(buffer.count * buffer.size);
    if (!allocations.empty() && buffer.access == Access::kIn) {
      emulator::Allocation& last = allocations.back();
      auto* begin = static_cast<uint8_t*>(last.data);
      if (last.access == emulator::Access::kIn && data < begin + last.bytes) {
        last.bytes = std::max<uint64_t>(last.bytes, data - begin + bytes);
        continue;
      }
    }
    allocations.push_back({data, bytes, buffer.name, ToAccess(buffer.access)});
  }
  if (TheEmulation().counting) MarkBulk(allocations);
  return allocations;
}

void Run(const emulator::Options& options, const std::function<void()>& kernel) {
  Emulation& emulation = TheEmulation();
  const std::lock_guard<std::mutex> lock(emulation.turn);
  emulator::Counters counters = emulator::Launch(options, kernel);
  if (emulation.record) emulation.launches.push_back(std::move(counters));
}

// What the stream's thread runs; it owns what it needs.
struct Task {
  emulator::Options options;
  std::function<void()> kernel;
};

int RunTask(void* task, char* error, size_t room) {
  try {
    Run(static_cast<Task*>(task)->options, static_cast<Task*>(task)->kernel);
    return 0;
  } catch (const std::exception& caught) {
    std::snprintf(error, room, "%s", caught.what());
    return 1;  // nothing else is thrown, and nothing may leave the stream's thread
  }
}

void Enqueue(const Launch& launch, Task task) {
  // the one that torch_npu has loaded; nothing is loaded here
  void* runtime = dlopen("libascendcl.so", RTLD_LAZY | RTLD_NOLOAD);
  const auto enqueue = runtime == nullptr ? nullptr
                                          : reinterpret_cast<decltype(&moge_npu_host_launch)>(
                                                dlsym(runtime, "moge_npu_host_launch"));
  if (enqueue == nullptr) {
    throw std::runtime_error(launch.name +
                             ": the emulated kernels run on the CPU, and on the streams of the "
                             "host runtime in csrc/npu_host; the stream is of another runtime");
  }
  std::vector<MogeNpuBuffer> buffers;
  for (const Buffer& buffer : launch.buffers) {
    const auto bytes = static_cast<uint64_t>(buffer.count * buffer.size);
    buffers.push_back({buffer.name, Gm(buffer.data), bytes});
  }
  const int code =
      enqueue(reinterpret_cast<void*>(launch.stream), launch.name.c_str(), buffers.data(),
              static_cast<uint32_t>(buffers.size()), RunTask, new Task(std::move(task)),
              [](void* done) { delete static_cast<Task*>(done); });
  if (code != 0) {
    const auto message = reinterpret_cast<const char* (*)()>(dlsym(runtime, "aclGetRecentErrMsg"));
    throw std::runtime_error(message());
  }
}

}  // namespace

Emulation& TheEmulation() {
  static Emulation& emulation = *new Emulation;  // streams may outlive static objects
  return emulation;
}

int64_t Blocks(int64_t units, Cores cores) {
  const int64_t number = HasCube(cores) ? CubeCores() : TheEmulation().cores;
  return std::max<int64_t>(1, std::min(number, units));
}

void Emulate(const Launch& launch, const std::function<void()>& kernel) {
  Emulation& emulation = TheEmulation();
  emulator::Options options;
  options.name = launch.name;
  options.blocks = static_cast<uint32_t>(launch.blocks);
  options.cores = emulation.cores;
  options.cube_cores = CubeCores();
  options.kernel = ToKernelType(launch.cores);
  options.allocations = Allocations(launch.buffers);
  options.strict = emulation.strict;
  options.checks = emulation.checks;
  options.seed = emulation.seed;
  options.rules = emulation.rules;
  options.counting = emulation.counting;
  if (emulation.record) {
    options.device = emulation.device;
    options.pictured = emulation.pictured;
    options.cache = &emulation.cache;
  }
  if (launch.stream == 0) {
    Run(options, kernel);
  } else {
    Enqueue(launch, {std::move(options), kernel});
  }
}

#endif

}  // namespace moge
