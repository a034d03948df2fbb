// Error codes of the runtime, as its documents number them, and the message that goes with one.
#ifndef MOGE_NPU_HOST_STATUS_H_
#define MOGE_NPU_HOST_STATUS_H_

#include <string>

namespace npu_host {

enum Code : int {
  kSuccess = 0,
  kInvalidParameter = 107000,
  kInvalidDevice = 107001,
  kNoContext = 107002,
  kWrongContext = 107003,
  kNoTimestamp = 107006,
  kNotSupported = 207000,
  kNoMemory = 207001,
  kTaskFailed = 507035,  // by the documents an exception on a vector core; here of any task
  kTimeout = 507046,
};

// Keeps the message for this thread's aclGetRecentErrMsg() and returns the code.
int Fail(Code code, const std::string& message);

// The same for a function that the runtime does not have; says so on standard error, too, because
// not every caller looks at what it gets.
int Missing(const char* function);

// This thread's card; -1 where none was set.
int CurrentCard();

}  // namespace npu_host

#endif  // MOGE_NPU_HOST_STATUS_H_
