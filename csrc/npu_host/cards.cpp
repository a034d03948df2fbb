// Initialisation, cards and contexts; settings of a real card that change nothing here; messages.
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <string>

#include "settings.h"
#include "status.h"

namespace npu_host {

namespace {

thread_local std::string message;
thread_local int current = -1;
char contexts[kMaxCards];              // one for each card: a context's address says which
std::atomic<bool> was_set[kMaxCards];  // in this process, so that the context exists

}  // namespace

int CurrentCard() { return current; }

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

int aclInit(const char*) {
  const std::string& refusal = TheSettings().refusal;
  return refusal.empty() ? kSuccess : Fail(kInvalidParameter, refusal);
}
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
  *count = TheSettings().cards;
  return kSuccess;
}
int aclrtSetDevice(int32_t card) {
  if (!TheSettings().refusal.empty()) return Fail(kInvalidParameter, TheSettings().refusal);
  const int cards = TheSettings().cards;
  if (card < 0 || card >= cards) {
    return Fail(kInvalidDevice, "aclrtSetDevice: there is no card " + std::to_string(card) +
                                    ", MOGE_NPU_HOST_CARDS is " + std::to_string(cards));
  }
  current = card;
  was_set[card] = true;
  return kSuccess;
}
int aclrtGetPrimaryCtxState(int32_t card, uint32_t* flags, int32_t* active) {
  if (card < 0 || card >= TheSettings().cards) {
    return Fail(kInvalidDevice,
                "aclrtGetPrimaryCtxState: there is no card " + std::to_string(card));
  }
  if (flags) *flags = 0;
  *active = was_set[card];
  return kSuccess;
}
int aclrtGetDevice(int32_t* card) {
  *card = current;
  return current < 0 ? kNoContext : kSuccess;  // no message: a question, asked on the way to others
}
int aclrtResetDevice(int32_t) { return kSuccess; }
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

}  // extern "C"
