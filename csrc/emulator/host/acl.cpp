// The runtime: memory, copies, streams and events. Work of a stream is done at once, which is an
// order that streams allow; what the host sees of it before it waits is in streams.h.
#include "acl/acl.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../rounding.h"
#include "../types.h"
#include "device_memory.h"
#include "settings.h"
#include "streams.h"

namespace emulator::host {

namespace {

constexpr uint64_t kDeviceMemory = uint64_t{64} << 30;
constexpr size_t kAlignment = 512;

thread_local std::string last_message;
thread_local aclError last_error = ACL_SUCCESS;
thread_local int32_t current_device = 0;

// Programs seldom look at what a call returns, so it is told on stderr, too.
aclError Refuse(aclError code, const std::string& message) {
  last_message = message;
  last_error = code;
  std::fprintf(stderr, "acl: %s (error %d)\n", message.c_str(), code);
  return code;
}

// Why [data, data + bytes) is not memory of the device.
std::string Outside(const void* data, size_t bytes) {
  const Block* const block = FindBlock(data, 0);
  if (block == nullptr) return " is no memory that aclrtMalloc gave out";
  return " has " + std::to_string(block->bytes) + " bytes, too few for " + std::to_string(bytes) +
         " from the given address on";
}

// Whether both sides are what `kind` says, and large enough.
aclError CheckCopy(const char* function, void* to, size_t room, const void* from, size_t bytes,
                   aclrtMemcpyKind kind) {
  const std::string name(function);
  if (bytes > room) {
    return Refuse(ACL_ERROR_INVALID_PARAM, name + ": destMax must be at least the " +
                                               std::to_string(bytes) + " bytes of the copy, got " +
                                               std::to_string(room));
  }
  if (bytes != 0 && (to == nullptr || from == nullptr)) {
    return Refuse(ACL_ERROR_INVALID_PARAM,
                  name + ": the target and the source must be set, got a null pointer");
  }
  const bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  const bool from_device = kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  if (to_device && FindBlock(to, bytes) == nullptr) {
    return Refuse(ACL_ERROR_RT_PARAM_INVALID, name + ": the target" + Outside(to, bytes));
  }
  if (from_device && FindBlock(from, bytes) == nullptr) {
    return Refuse(ACL_ERROR_RT_PARAM_INVALID, name + ": the source" + Outside(from, bytes));
  }
  return ACL_SUCCESS;
}

void Move(void* to, const void* from, size_t bytes) {
  std::memmove(to, from, bytes);
  if (Block* const target = FindBlock(to, bytes)) target->initialised = true;
}

struct Event {
  std::chrono::steady_clock::time_point time;
  bool recorded = false;
  const void* stream = nullptr;  // that it was recorded on
};

}  // namespace

std::map<uint8_t*, Block>& Blocks() {
  static auto& blocks = *new std::map<uint8_t*, Block>;  // destructors may still free
  return blocks;
}

Block* FindBlock(const void* data, uint64_t bytes) {
  const auto* const begin = static_cast<const uint8_t*>(data);
  auto next = Blocks().upper_bound(const_cast<uint8_t*>(begin));
  if (next == Blocks().begin()) return nullptr;
  auto& [address, block] = *--next;
  const auto offset = static_cast<uint64_t>(begin - address);
  return offset <= block.bytes && bytes <= block.bytes - offset ? &block : nullptr;
}

}  // namespace emulator::host

using namespace emulator::host;

extern "C" {

aclError aclInit(const char*) { return ACL_SUCCESS; }
aclError aclFinalize() { return ACL_SUCCESS; }
const char* aclGetRecentErrMsg() { return last_message.empty() ? nullptr : last_message.c_str(); }
aclError aclrtGetLastError(int) {
  const aclError error = last_error;
  last_error = ACL_SUCCESS;
  return error;
}

aclError aclrtSetDevice(int32_t device) {
  if (device != 0) {
    return Refuse(ACL_ERROR_RT_PARAM_INVALID, "aclrtSetDevice: the only device is 0");
  }
  return ACL_SUCCESS;
}
aclError aclrtResetDevice(int32_t) { return aclrtSynchronizeDevice(); }
aclError aclrtGetDevice(int32_t* device) {
  *device = current_device;
  return ACL_SUCCESS;
}
aclError aclrtGetDeviceCount(uint32_t* count) {
  *count = 1;
  return ACL_SUCCESS;
}
aclError aclrtGetRunMode(aclrtRunMode* mode) {
  *mode = ACL_HOST;
  return ACL_SUCCESS;
}
aclError aclrtGetMemInfo(aclrtMemAttr, size_t* free, size_t* total) {
  *total = *free = kDeviceMemory;
  for (const auto& [address, block] : Blocks()) *free -= block.bytes;
  return ACL_SUCCESS;
}
const char* aclrtGetSocName() {
  static const std::string name = "Ascend" + TheDevice().name;
  return name.c_str();
}
aclError aclrtCreateContext(aclrtContext* context, int32_t) {
  *context = &current_device;
  return ACL_SUCCESS;
}
aclError aclrtDestroyContext(aclrtContext) { return ACL_SUCCESS; }
aclError aclrtSetCurrentContext(aclrtContext) { return ACL_SUCCESS; }
aclError aclrtGetCurrentContext(aclrtContext* context) {
  return aclrtCreateContext(context, current_device);
}

aclError aclrtMalloc(void** data, size_t bytes, aclrtMemMallocPolicy) {
  static uint32_t number = 0;
  if (bytes == 0)
    return Refuse(ACL_ERROR_INVALID_PARAM, "aclrtMalloc: the size must be 1 or more, got 0");
  const size_t rounded = emulator::RoundUp(bytes, kAlignment);
  auto* const memory = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded));
  if (memory == nullptr) {
    return Refuse(ACL_ERROR_RT_MEMORY_ALLOCATION,
                  "aclrtMalloc: the host has no memory for " + std::to_string(bytes) + " bytes");
  }
  std::memset(memory, 0, rounded);
  Blocks()[memory] = {bytes, number++, false};
  *data = memory;
  return ACL_SUCCESS;
}
aclError aclrtFree(void* data) {
  if (Blocks().erase(static_cast<uint8_t*>(data)) == 0) {
    return Refuse(ACL_ERROR_RT_PARAM_INVALID, "aclrtFree: no allocation begins at the address");
  }
  std::free(data);
  return ACL_SUCCESS;
}
aclError aclrtMallocHost(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return *data != nullptr ? ACL_SUCCESS
                          : Refuse(ACL_ERROR_RT_MEMORY_ALLOCATION,
                                   "aclrtMallocHost: the host has no memory for " +
                                       std::to_string(bytes) + " bytes");
}
aclError aclrtFreeHost(void* data) {
  std::free(data);
  return ACL_SUCCESS;
}
aclError aclrtMemcpy(void* to, size_t room, const void* from, size_t bytes, aclrtMemcpyKind kind) {
  const aclError error = CheckCopy("aclrtMemcpy", to, room, from, bytes, kind);
  if (error != ACL_SUCCESS) return error;
  if (Block* const source = FindBlock(from, bytes); source && !source->writer.empty()) {
    std::fprintf(stderr,
                 "acl: aclrtMemcpy reads what the launch of %s writes, and nothing has waited for "
                 "it: call aclrtSynchronizeStream before\n",
                 source->writer.c_str());
    source->writer.clear();  // told once
  }
  Move(to, from, bytes);
  return ACL_SUCCESS;
}
aclError aclrtMemcpyAsync(void* to, size_t room, const void* from, size_t bytes,
                          aclrtMemcpyKind kind, aclrtStream stream) {
  const aclError error = CheckCopy("aclrtMemcpyAsync", to, room, from, bytes, kind);
  if (error != ACL_SUCCESS) return error;
  if (FindBlock(to, bytes) == nullptr) {
    CopyWhenWaited(to, from, bytes, stream);
  } else {
    // the source may be what an earlier copy of the stream has still to bring
    if (FindBlock(from, bytes) == nullptr) Wait(stream);
    Move(to, from, bytes);
  }
  return ACL_SUCCESS;
}
aclError aclrtMemset(void* data, size_t room, int32_t value, size_t bytes) {
  Block* const block = FindBlock(data, bytes);
  if (bytes > room) {
    return Refuse(ACL_ERROR_INVALID_PARAM, "aclrtMemset: maxCount must be at least the " +
                                               std::to_string(bytes) + " bytes to set, got " +
                                               std::to_string(room));
  }
  if (block == nullptr) {
    return Refuse(ACL_ERROR_INVALID_PARAM, "aclrtMemset: the memory" + Outside(data, bytes));
  }
  std::memset(data, value, bytes);
  block->initialised = true;
  return ACL_SUCCESS;
}
aclError aclrtMemsetAsync(void* data, size_t room, int32_t value, size_t bytes, aclrtStream) {
  return aclrtMemset(data, room, value, bytes);
}

aclError aclrtCreateStream(aclrtStream* stream) {
  *stream = new char;
  return ACL_SUCCESS;
}
aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t, uint32_t) {
  return aclrtCreateStream(stream);
}
aclError aclrtDestroyStream(aclrtStream stream) {
  if (HasCopies(stream)) {
    std::fprintf(stderr,
                 "acl: nothing has waited for an aclrtMemcpyAsync to the host: call "
                 "aclrtSynchronizeStream before its data are read\n");
  }
  Wait(stream);
  delete static_cast<char*>(stream);
  return ACL_SUCCESS;
}
aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtDestroyStream(stream); }
aclError aclrtSynchronizeStream(aclrtStream stream) {
  Wait(stream);
  return ACL_SUCCESS;
}
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t) {
  return aclrtSynchronizeStream(stream);
}
aclError aclrtSynchronizeDevice() {
  WaitForAll();
  return ACL_SUCCESS;
}
aclError aclrtSynchronizeDeviceWithTimeout(int32_t) { return aclrtSynchronizeDevice(); }

aclError aclrtCreateEvent(aclrtEvent* event) {
  *event = new Event;
  return ACL_SUCCESS;
}
aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t) { return aclrtCreateEvent(event); }
aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t) { return aclrtCreateEvent(event); }
aclError aclrtDestroyEvent(aclrtEvent event) {
  delete static_cast<Event*>(event);
  return ACL_SUCCESS;
}
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  *static_cast<Event*>(event) = {std::chrono::steady_clock::now(), true, stream};
  return ACL_SUCCESS;
}
aclError aclrtResetEvent(aclrtEvent, aclrtStream) { return ACL_SUCCESS; }
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  const Event& waited = *static_cast<const Event*>(event);
  if (waited.recorded) Join(stream, waited.stream);
  return ACL_SUCCESS;
}
aclError aclrtSynchronizeEvent(aclrtEvent event) {
  const Event& waited = *static_cast<const Event*>(event);
  if (waited.recorded) Wait(waited.stream);
  return ACL_SUCCESS;
}
aclError aclrtEventElapsedTime(float* milliseconds, aclrtEvent start, aclrtEvent end) {
  const auto& first = *static_cast<const Event*>(start);
  const auto& second = *static_cast<const Event*>(end);
  if (!first.recorded || !second.recorded) {
    return Refuse(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
                  "aclrtEventElapsedTime: an event was not recorded: call aclrtRecordEvent before");
  }
  *milliseconds = std::chrono::duration<float, std::milli>(second.time - first.time).count();
  return ACL_SUCCESS;
}

size_t aclDataTypeSize(aclDataType type) {
  switch (type) {
    case ACL_INT8:
    case ACL_UINT8:
    case ACL_BOOL:
      return 1;
    case ACL_FLOAT16:
    case ACL_BF16:
    case ACL_INT16:
    case ACL_UINT16:
      return 2;
    case ACL_FLOAT:
    case ACL_INT32:
    case ACL_UINT32:
      return 4;
    case ACL_INT64:
    case ACL_UINT64:
    case ACL_DOUBLE:
      return 8;
    default:
      return 0;
  }
}
float aclFloat16ToFloat(aclFloat16 value) { return emulator::HalfToFloat(value); }
aclFloat16 aclFloatToFloat16(float value) { return emulator::FloatToHalf(value); }

}  // extern "C"
