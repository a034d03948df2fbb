// The functions of CANN's runtime that PyTorch's NPU backend calls, over this process: contexts,
// cards, memory, streams and events. Signatures and codes are those of the public API documents;
// handles are opaque and enumerations are integers there as here.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"
#include "npu_host.h"
#include "status.h"
#include "stream.h"

namespace npu_host {

namespace {

thread_local std::string message;
thread_local int current = -1;  // this thread's card
char contexts[kMaxCards];       // one for each card: a context's address says which

int Cards() {
  const char* text = std::getenv("MOGE_NPU_HOST_CARDS");
  const int cards = text == nullptr ? 1 : std::atoi(text);
  return cards < 1 ? 1 : cards > kMaxCards ? kMaxCards : cards;
}

// Says why the runtime must not be here where CANN or an NPU is.
int Refuse() {
  std::string found;
  const auto look = [&found](const std::string& path) {
    struct stat info;
    if (found.empty() && stat(path.c_str(), &info) == 0) found = path;
  };
  look("/dev/davinci_manager");
  look("/usr/local/Ascend");
  for (const char* variable : {"ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"}) {
    if (const char* folder = std::getenv(variable)) look(folder);
  }
  if (found.empty()) return kSuccess;
  return Fail(kInvalidParameter, "the host runtime stands in for CANN where there is none, and " +
                                     found + " is here: take its folder out of LD_LIBRARY_PATH");
}

Stream* Of(void* stream) {
  return stream == nullptr ? Stream::Default(current) : static_cast<Stream*>(stream);
}

int Finish(Stream& stream, int milliseconds, const char* function) {
  if (!stream.Wait(milliseconds)) {
    return Fail(kTimeout, std::string(function) + ": stream " + std::to_string(stream.id()) +
                              " did not end within " + std::to_string(milliseconds) + " ms");
  }
  const std::string error = stream.Error();
  return error.empty() ? kSuccess : Fail(kKernelFault, error);
}

int FinishCard(int milliseconds, const char* function) {
  if (current < 0) return Fail(kNoContext, std::string(function) + ": no card was set");
  int first = kSuccess;
  for (Stream* stream : Stream::On(current)) {
    const int code = Finish(*stream, milliseconds, function);
    if (first == kSuccess) first = code;
  }
  return first;
}

// aclrtMemcpyKind
enum Kind { kHostToHost, kHostToDevice, kDeviceToHost, kDeviceToDevice, kDefault };

// Why a copy cannot be made; empty if it can.
std::string CheckCopy(const void* to, const void* from, uint64_t bytes, int kind, int card) {
  const auto check = [&](const char* name, const void* data) {
    // a copy between cards has either one
    std::string error = Memory::Get().Check(data, bytes, card);
    for (int other = 0; kind == kDeviceToDevice && !error.empty() && other < Cards(); ++other) {
      if (Memory::Get().Check(data, bytes, other).empty()) error.clear();
    }
    return error.empty() ? error : std::string("a copy's ") + name + " " + error;
  };
  std::string error;
  if (kind == kHostToDevice || kind == kDeviceToDevice) error = check("target", to);
  if (error.empty() && (kind == kDeviceToHost || kind == kDeviceToDevice)) {
    error = check("source", from);
  }
  return error;
}

int Put(Stream* stream, const std::function<std::string()>& check, std::function<void()> act) {
  const std::string error = check();
  if (!error.empty()) return Fail(kInvalidParameter, error);
  stream->Push({[check, act] {
    std::string late = check();  // freed in the meantime
    if (late.empty()) act();
    return late;
  }});
  return kSuccess;
}

int Allocate(void** data, uint64_t bytes, int card, const char* function) {
  *data = Memory::Get().Allocate(bytes, card);
  if (*data != nullptr) return kSuccess;
  return Fail(kNoMemory, std::string(function) + ": " + std::to_string(bytes) + " bytes on " +
                             Name(card) + ", which has " + std::to_string(Memory::Get().Limit()));
}

}  // namespace

int Fail(Code code, const std::string& text) {
  message = text;
  return code;
}

int Missing(const char* function) {
  const std::string text = std::string(function) + ": the host runtime has no such function";
  std::fprintf(stderr, "npu_host: %s\n", text.c_str());
  return Fail(kNotSupported, text);
}

}  // namespace npu_host

using namespace npu_host;

extern "C" {

int aclInit(const char*) { return Refuse(); }
int aclFinalize() { return kSuccess; }
const char* aclGetRecentErrMsg() { return message.c_str(); }
void aclAppLog(int level, const char* function, const char*, uint32_t, const char* format, ...) {
  constexpr int kError = 3;
  if (level < kError) return;
  char text[512];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "npu_host: %s: %s\n", function, text);
}

// Cards and contexts.

int aclrtGetDeviceCount(uint32_t* count) {
  *count = Cards();
  return kSuccess;
}
int aclrtSetDevice(int32_t card) {
  if (current < 0 && Refuse() != kSuccess) return kInvalidParameter;
  if (card < 0 || card >= Cards()) {
    return Fail(kInvalidDevice, "aclrtSetDevice: there is no card " + std::to_string(card) +
                                    ", MOGE_NPU_HOST_CARDS is " + std::to_string(Cards()));
  }
  current = card;
  return kSuccess;
}
int aclrtGetDevice(int32_t* card) {
  *card = current;
  return current < 0 ? kNoContext : kSuccess;  // without a message: a question, asked for others
}
int aclrtResetDevice(int32_t card) {
  for (Stream* stream : Stream::On(card)) stream->Wait(-1);
  return kSuccess;
}
int aclrtGetCurrentContext(void** context) {
  if (current < 0) return kNoContext;
  *context = &contexts[current];
  return kSuccess;
}
int aclrtSetCurrentContext(void* context) {
  return aclrtSetDevice(static_cast<int32_t>(static_cast<char*>(context) - contexts));
}
const char* aclrtGetSocName() { return "Ascend910B1"; }
int aclGetDeviceCapability(uint32_t, int what, int64_t* value) {
  constexpr int64_t kFigures[] = {24, 48, 192 << 20};  // cube cores, vector cores, bytes of L2
  if (what < 0 || what > 2) {
    return Fail(kNotSupported, "aclGetDeviceCapability: " + std::to_string(what));
  }
  *value = kFigures[what];
  return kSuccess;
}
int aclrtGetDeviceInfo(uint32_t, int kind, int64_t* value) {
  constexpr int kCubeCores = 102, kVectorCores = 201;
  if (kind != kCubeCores && kind != kVectorCores) {
    return Fail(kNotSupported, "aclrtGetDeviceInfo: attribute " + std::to_string(kind));
  }
  *value = kind == kCubeCores ? 24 : 48;
  return kSuccess;
}
int aclrtDeviceGetBareTgid(int32_t* pid) {
  *pid = getpid();
  return kSuccess;
}
int aclrtDeviceCanAccessPeer(int32_t* can, int32_t, int32_t) {
  *can = 1;
  return kSuccess;
}
int aclrtDeviceEnablePeerAccess(int32_t, uint32_t) { return kSuccess; }

// Settings of a real card that change nothing here.

int aclrtGetSysParamOpt(int, int64_t* value) {
  *value = 0;
  return kSuccess;
}
int aclrtSetSysParamOpt(int, int64_t) { return kSuccess; }
int aclrtCtxSetSysParamOpt(int, int64_t) { return kSuccess; }
int aclrtSetDeviceSatMode(int) { return kSuccess; }
int aclrtSetOpExecuteTimeOut(uint32_t) { return kSuccess; }
int aclrtSetOpWaitTimeout(uint32_t) { return kSuccess; }
int aclrtSetStreamFailureMode(void*, uint64_t) { return kSuccess; }
int aclSetCompileopt(int, const char*) { return kSuccess; }
int MsprofRegisterCallback(uint32_t, void*) { return kSuccess; }

// Memory.

int aclrtGetMemInfo(int, size_t* free, size_t* total) {
  if (current < 0) return Fail(kNoContext, "aclrtGetMemInfo: no card was set in this thread");
  *total = Memory::Get().Limit();
  *free = *total - Memory::Get().Used(current);
  return kSuccess;
}
int aclrtMalloc(void** data, size_t bytes, int) {
  if (current < 0) return Fail(kNoContext, "aclrtMalloc: no card was set in this thread");
  return Allocate(data, bytes, current, "aclrtMalloc");
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
  if (bytes > room) {
    return Fail(kInvalidParameter, "aclrtMemcpyAsync: " + std::to_string(bytes) + " bytes into " +
                                       std::to_string(room));
  }
  if (kind == kDefault) kind = kHostToHost;  // the addresses are of one space: nothing to check
  Stream* stream = Of(on);
  const int card = stream->card();
  const int code = Put(
      stream, [=] { return CheckCopy(to, from, bytes, kind, card); },
      [=] { std::memcpy(to, from, bytes); });
  // only pinned memory of the host is copied while the program goes on
  const bool pinned =
      kind == kDeviceToDevice || Memory::Get().IsPinned(kind == kHostToDevice ? from : to);
  return code != kSuccess || pinned ? code : Finish(*stream, -1, "aclrtMemcpyAsync");
}
int aclrtMemcpy(void* to, size_t room, const void* from, size_t bytes, int kind) {
  if (bytes > room) {
    return Fail(kInvalidParameter, "aclrtMemcpy: more bytes than there is room for");
  }
  const std::string error =
      kind == kDefault ? "" : CheckCopy(to, from, bytes, kind, current < 0 ? 0 : current);
  if (!error.empty()) return Fail(kInvalidParameter, error);
  std::memcpy(to, from, bytes);
  return kSuccess;
}
int aclrtMemsetAsync(void* data, size_t room, int32_t value, size_t bytes, void* on) {
  if (bytes > room) return Fail(kInvalidParameter, "aclrtMemsetAsync: more bytes than room");
  Stream* stream = Of(on);
  const int card = stream->card();
  return Put(
      stream, [=] { return Memory::Get().Check(data, bytes, card); },
      [=] { std::memset(data, value, bytes); });
}
int aclrtMemset(void* data, size_t room, int32_t value, size_t bytes) {
  const int code = aclrtMemsetAsync(data, room, value, bytes, nullptr);
  return code == kSuccess ? Finish(*Of(nullptr), -1, "aclrtMemset") : code;
}

// Streams.

int aclrtCreateStream(void** stream) {
  if (current < 0) return Fail(kNoContext, "aclrtCreateStream: no card was set in this thread");
  *stream = Stream::Create(current);
  return kSuccess;
}
int aclrtCreateStreamWithConfig(void** stream, uint32_t, uint32_t) {
  return aclrtCreateStream(stream);
}
int aclrtDestroyStream(void* stream) {
  Stream::Destroy(static_cast<Stream*>(stream), false);
  return kSuccess;
}
int aclrtDestroyStreamForce(void* stream) {
  Stream::Destroy(static_cast<Stream*>(stream), true);
  return kSuccess;
}
int aclrtStreamGetId(void* stream, int32_t* id) {
  *id = Of(stream)->id();
  return kSuccess;
}
int aclrtStreamQuery(void* stream, int* status) {
  *status = Of(stream)->Idle() ? 0 : 1;
  return kSuccess;
}
int aclrtSynchronizeStreamWithTimeout(void* stream, int32_t milliseconds) {
  return Finish(*Of(stream), milliseconds, "aclrtSynchronizeStream");
}
int aclrtSynchronizeStream(void* stream) { return aclrtSynchronizeStreamWithTimeout(stream, -1); }
int aclrtSynchronizeDeviceWithTimeout(int32_t milliseconds) {
  return FinishCard(milliseconds, "aclrtSynchronizeDevice");
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
  delete static_cast<Event*>(event);
  return kSuccess;
}
int aclrtRecordEvent(void* event, void* stream) {
  static_cast<Event*>(event)->Record(Of(stream));
  return kSuccess;
}
int aclrtResetEvent(void*, void*) { return kSuccess; }  // a recording forgets the one before
int aclrtStreamWaitEvent(void* stream, void* event) {
  static_cast<Event*>(event)->Block(Of(stream));
  return kSuccess;
}
int aclrtSynchronizeEvent(void* event) {
  static_cast<Event*>(event)->Wait();
  return kSuccess;
}
int aclrtQueryEventStatus(void* event, int* status) {  // 1: complete
  *status = static_cast<Event*>(event)->Reached() ? 1 : 0;
  return kSuccess;
}
int aclrtQueryEventWaitStatus(void* event, int* status) {  // 0: complete
  *status = static_cast<Event*>(event)->Reached() ? 0 : 1;
  return kSuccess;
}
int aclrtEventElapsedTime(float* milliseconds, void* first, void* second) {
  const double time = static_cast<Event*>(first)->Until(*static_cast<Event*>(second));
  if (time < 0) return Fail(kNoTimestamp, "aclrtEventElapsedTime: an event was not reached");
  *milliseconds = static_cast<float>(time);
  return kSuccess;
}

// Kernels.

int aclrtLaunchHostFunc(void* stream, void (*function)(void*), void* argument) {
  Of(stream)->Push({[=] {
    function(argument);
    return std::string();
  }});
  return kSuccess;
}

int moge_npu_host_launch(void* on, const char* name, const MogeNpuBuffer* buffers, uint32_t count,
                         MogeNpuKernel kernel, void* argument, void (*release)(void*)) {
  const std::shared_ptr<void> owned(argument, release);
  if (on == nullptr && current < 0) return Fail(kNoContext, "a launch: no card was set");
  Stream* stream = Of(on);
  const int card = stream->card();
  if (card != current) {
    return Fail(kWrongContext, std::string(name) + ": the stream is of " + Name(card) +
                                   ", and this thread's card is " + std::to_string(current));
  }
  const std::string called = name;
  std::vector<std::pair<std::string, MogeNpuBuffer>> given;
  for (uint32_t i = 0; i < count; ++i) given.emplace_back(buffers[i].name, buffers[i]);
  const auto check = [=] {
    for (const auto& [buffer, at] : given) {
      const std::string error = Memory::Get().Check(at.data, at.bytes, card);
      if (!error.empty()) return called + ": " + buffer + " " + error;
    }
    return std::string();
  };
  const std::string error = check();
  if (!error.empty()) return Fail(kInvalidParameter, error);
  stream->Push({[=] {
    std::string late = check();
    char text[1024] = "";
    if (late.empty() && kernel(owned.get(), text, sizeof text) != 0) late = called + ": " + text;
    return late;
  }});
  return kSuccess;
}

}  // extern "C"
