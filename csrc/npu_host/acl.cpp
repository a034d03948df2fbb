// The functions of CANN's runtime that PyTorch's NPU backend calls for memory, copies, streams,
// events and kernels, over this process. Signatures and codes are those of the public API
// documents; handles are opaque and enumerations are integers there as here.
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"
#include "npu_host.h"
#include "settings.h"
#include "status.h"
#include "stream.h"

namespace npu_host {

namespace {

// What `act` returns for the stream of a handle, or an error where there is none.
int On(const char* function, void* handle, const std::function<int(Stream&)>& act) {
  const std::shared_ptr<Stream> stream = Stream::Find(handle);
  if (stream != nullptr) return act(*stream);
  const bool no_card = handle == nullptr;
  return Fail(no_card ? kNoContext : kInvalidParameter,
              std::string(function) + (no_card ? ": no card was set in this thread"
                                               : ": the stream does not exist, or no longer"));
}

int Finish(Stream& stream, int milliseconds, const char* function) {
  if (!stream.Wait(milliseconds)) {
    return Fail(kTimeout, std::string(function) + ": stream " + std::to_string(stream.id()) +
                              " did not end within " + std::to_string(milliseconds) + " ms");
  }
  const std::string error = stream.Error();
  return error.empty() ? kSuccess : Fail(kTaskFailed, error);
}

// aclrtMemcpyKind
enum Kind { kHostToHost, kHostToDevice, kDeviceToHost, kDeviceToDevice };

// What of a copy lies on a card: its own, or for a copy between cards either one.
std::vector<Piece> Pieces(void* to, const void* from, uint64_t bytes, int kind, int card) {
  std::vector<Piece> pieces;
  const int owner = kind == kDeviceToDevice ? kAnyCard : card;
  if (kind == kHostToDevice || kind == kDeviceToDevice) {
    pieces.push_back({"the target", to, bytes, owner});
  }
  if (kind == kDeviceToHost || kind == kDeviceToDevice) {
    pieces.push_back({"the source", from, bytes, owner});
  }
  return pieces;
}

int Fits(const char* function, size_t bytes, size_t room) {
  if (bytes <= room) return kSuccess;
  return Fail(kInvalidParameter, std::string(function) + ": " + std::to_string(bytes) +
                                     " bytes into " + std::to_string(room));
}

int Allocate(void** data, uint64_t bytes, int card, const char* function) {
  *data = Memory::Get().Allocate(bytes, card);
  if (*data != nullptr) return kSuccess;
  return Fail(kNoMemory, std::string(function) + ": " + std::to_string(bytes) + " bytes on " +
                             Name(card) + ", which has " + std::to_string(TheSettings().memory));
}

Event& ToEvent(void* event) { return *static_cast<Event*>(event); }

}  // namespace

}  // namespace npu_host

using namespace npu_host;

extern "C" {

// Memory.

int aclrtGetMemInfo(int, size_t* free, size_t* total) {
  if (CurrentCard() < 0) return Fail(kNoContext, "aclrtGetMemInfo: no card was set");
  *total = TheSettings().memory;
  *free = *total - Memory::Get().Used(CurrentCard());
  return kSuccess;
}
int aclrtMalloc(void** data, size_t bytes, int) {
  if (CurrentCard() < 0) return Fail(kNoContext, "aclrtMalloc: no card was set in this thread");
  return Allocate(data, bytes, CurrentCard(), "aclrtMalloc");
}
int aclrtMallocAlign32(void** data, size_t bytes, int policy) {
  return aclrtMalloc(data, bytes, policy);
}
int aclrtMallocHost(void** data, size_t bytes) {
  return Allocate(data, bytes, kHost, "aclrtMallocHost");
}
int aclrtFree(void* data) {
  if (Memory::Get().Free(data)) return kSuccess;
  return Fail(kInvalidParameter, "aclrtFree: no allocation begins at the address");
}
int aclrtFreeHost(void* data) { return aclrtFree(data); }

int aclrtMemcpyAsync(void* to, size_t room, const void* from, size_t bytes, int kind, void* on) {
  if (const int code = Fits("aclrtMemcpyAsync", bytes, room); code != kSuccess) return code;
  return On("aclrtMemcpyAsync", on, [=](Stream& stream) {
    const auto copy = [=] {
      std::memcpy(to, from, bytes);
      return std::string();
    };
    const int code = Put(stream, "a copy", Pieces(to, from, bytes, kind, stream.card()), copy);
    // only pinned memory of the host is copied while the program goes on
    const bool pinned =
        kind == kDeviceToDevice || Memory::Get().IsPinned(kind == kHostToDevice ? from : to);
    return code != kSuccess || pinned ? code : Finish(stream, -1, "aclrtMemcpyAsync");
  });
}
int aclrtMemcpy(void* to, size_t room, const void* from, size_t bytes, int kind) {
  const int code = aclrtMemcpyAsync(to, room, from, bytes, kind, nullptr);
  if (code != kSuccess) return code;
  return On("aclrtMemcpy", nullptr,
            [](Stream& stream) { return Finish(stream, -1, "aclrtMemcpy"); });
}
int aclrtMemsetAsync(void* data, size_t room, int32_t value, size_t bytes, void* on) {
  if (const int code = Fits("aclrtMemsetAsync", bytes, room); code != kSuccess) return code;
  return On("aclrtMemsetAsync", on, [=](Stream& stream) {
    return Put(stream, "aclrtMemset", {{"the target", data, bytes, stream.card()}}, [=] {
      std::memset(data, value, bytes);
      return std::string();
    });
  });
}
int aclrtMemset(void* data, size_t room, int32_t value, size_t bytes) {
  const int code = aclrtMemsetAsync(data, room, value, bytes, nullptr);
  if (code != kSuccess) return code;
  return On("aclrtMemset", nullptr,
            [](Stream& stream) { return Finish(stream, -1, "aclrtMemset"); });
}

// Streams.

int aclrtCreateStream(void** stream) {
  if (CurrentCard() < 0) return Fail(kNoContext, "aclrtCreateStream: no card was set");
  *stream = Stream::Create(CurrentCard()).get();
  return kSuccess;
}
int aclrtCreateStreamWithConfig(void** stream, uint32_t, uint32_t) {
  return aclrtCreateStream(stream);
}
int aclrtDestroyStream(void* stream) {
  if (Stream::Destroy(stream, false)) return kSuccess;
  return Fail(kInvalidParameter, "aclrtDestroyStream: there is no such stream");
}
int aclrtDestroyStreamForce(void* stream) {
  if (Stream::Destroy(stream, true)) return kSuccess;
  return Fail(kInvalidParameter, "aclrtDestroyStreamForce: there is no such stream");
}
int aclrtStreamGetId(void* stream, int32_t* id) {
  return On("aclrtStreamGetId", stream, [=](Stream& found) {
    *id = found.id();
    return kSuccess;
  });
}
int aclrtStreamQuery(void* stream, int* status) {  // 0: complete
  return On("aclrtStreamQuery", stream, [=](Stream& found) {
    *status = found.Idle() ? 0 : 1;
    return kSuccess;
  });
}
int aclrtSynchronizeStreamWithTimeout(void* stream, int32_t milliseconds) {
  return On("aclrtSynchronizeStream", stream,
            [=](Stream& found) { return Finish(found, milliseconds, "aclrtSynchronizeStream"); });
}
int aclrtSynchronizeStream(void* stream) { return aclrtSynchronizeStreamWithTimeout(stream, -1); }
int aclrtSynchronizeDeviceWithTimeout(int32_t milliseconds) {
  if (CurrentCard() < 0) return Fail(kNoContext, "aclrtSynchronizeDevice: no card was set");
  int first = kSuccess;
  for (const std::shared_ptr<Stream>& stream : Stream::On(CurrentCard())) {
    const int code = Finish(*stream, milliseconds, "aclrtSynchronizeDevice");
    if (first == kSuccess) first = code;
  }
  return first;
}
int aclrtSynchronizeDevice() { return aclrtSynchronizeDeviceWithTimeout(-1); }

// Events.

int aclrtCreateEventExWithFlag(void** event, uint32_t) {
  *event = new Event;
  return kSuccess;
}
int aclrtCreateEventWithFlag(void** event, uint32_t flag) {
  return aclrtCreateEventExWithFlag(event, flag);
}
int aclrtDestroyEvent(void* event) {
  delete &ToEvent(event);
  return kSuccess;
}
int aclrtRecordEvent(void* event, void* stream) {
  return On("aclrtRecordEvent", stream, [=](Stream& found) {
    ToEvent(event).Record(found);
    return kSuccess;
  });
}
int aclrtResetEvent(void*, void*) { return kSuccess; }  // a recording forgets the one before
int aclrtStreamWaitEvent(void* stream, void* event) {
  return On("aclrtStreamWaitEvent", stream, [=](Stream& found) {
    ToEvent(event).HoldUp(found);
    return kSuccess;
  });
}
int aclrtSynchronizeEvent(void* event) {
  const std::string error = ToEvent(event).Wait();
  return error.empty() ? kSuccess : Fail(kTaskFailed, error);
}
int aclrtQueryEventStatus(void* event, int* status) {  // 1: complete
  *status = ToEvent(event).Reached() ? 1 : 0;
  return kSuccess;
}
int aclrtQueryEventWaitStatus(void* event, int* status) {  // 0: complete
  *status = ToEvent(event).Reached() ? 0 : 1;
  return kSuccess;
}
int aclrtEventElapsedTime(float* milliseconds, void* first, void* second) {
  const double time = ToEvent(first).Until(ToEvent(second));
  if (time < 0) return Fail(kNoTimestamp, "aclrtEventElapsedTime: an event was not reached");
  *milliseconds = static_cast<float>(time);
  return kSuccess;
}

// Kernels.

int aclrtLaunchHostFunc(void* stream, void (*function)(void*), void* argument) {
  return On("aclrtLaunchHostFunc", stream, [=](Stream& found) {
    found.Push({[=] {
      function(argument);
      return std::string();
    }});
    return kSuccess;
  });
}

int moge_npu_host_launch(void* on, const char* name, const MogeNpuBuffer* buffers, uint32_t count,
                         MogeNpuKernel kernel, void* argument, void (*release)(void*)) {
  const std::shared_ptr<void> owned(argument, release);
  return On(name, on, [&](Stream& stream) {
    if (stream.card() != CurrentCard()) {
      return Fail(kWrongContext, std::string(name) + ": the stream is of " + Name(stream.card()) +
                                     ", and this thread's card is " +
                                     std::to_string(CurrentCard()));
    }
    std::vector<Piece> pieces;
    for (uint32_t i = 0; i < count; ++i) {
      pieces.push_back({buffers[i].name, buffers[i].data, buffers[i].bytes, stream.card()});
    }
    return Put(stream, name, pieces, [owned, kernel, called = std::string(name)] {
      char error[1024] = "";
      const bool failed = kernel(owned.get(), error, sizeof error) != 0;
      return failed ? called + ": " + error : std::string();
    });
  });
}

}  // extern "C"
