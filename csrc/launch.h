// What every launch needs on the host: the description of its buffers, checks, and one macro for
// both builds. Addresses come as integers from Python, which owns all memory.
#ifndef MOGE_CSRC_LAUNCH_H_
#define MOGE_CSRC_LAUNCH_H_

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace moge {

using Pointer = uintptr_t;  // 0: there is no tensor

// The most elements that a tensor may have: its bytes still fit into int64.
constexpr int64_t kMaxElements = int64_t{1} << 58;

enum class DType { kFloat16, kBfloat16, kFloat32 };
constexpr int64_t SizeOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

enum class Access { kIn, kOut, kInOut };

struct Buffer {
  const char* name;
  Pointer data;
  int64_t count;  // elements
  int64_t size;   // bytes of an element
  Access access;
};

// How the kernel is declared, which decides what one of its blocks runs on.
enum class Cores {
  kVector,     // __vector__: a vector core
  kMixVector,  // __mix__(0, 1): a vector core that may call SyncAll
  kCube,       // __cube__: a cube core
  kMix,        // __mix__(1, 2): a cube core and its two vector cores
};

struct Launch {
  std::string name;
  int64_t blocks;
  Pointer stream;  // the NPU's; 0 under the emulator for tensors of the CPU
  std::vector<Buffer> buffers;
  Cores cores = Cores::kVector;
};

// Raises ValueError (std::invalid_argument) for a buffer that is missing or misaligned.
void CheckBuffers(const Launch& launch);
// Raises ValueError where `value` is outside [0, most].
void CheckSize(const char* op, const char* name, int64_t value, int64_t most);
void CheckEven(const char* op, const char* name, int64_t value);

// Raises ValueError where T * K rows of H elements cannot be numbered, or K is above `most_slots`.
void CheckRows(const char* op, int64_t T, int64_t H, int64_t K, int64_t most_slots);

inline uint8_t* Gm(Pointer pointer) { return reinterpret_cast<uint8_t*>(pointer); }

// How many blocks to launch: one for each unit of work, but no more than the device has cores to
// run them on.
int64_t Blocks(int64_t units, Cores cores = Cores::kVector);

}  // namespace moge

#ifdef MOGE_ASCEND_CANN

#define MOGE_LAUNCH(launch, kernel, ...)                               \
  do {                                                                 \
    moge::CheckBuffers(launch);                                        \
    kernel<<<static_cast<uint32_t>((launch).blocks), nullptr,          \
             reinterpret_cast<void*>((launch).stream)>>>(__VA_ARGS__); \
  } while (false)

#else

#include <functional>

namespace moge {

// At once, or at its turn in the stream of a host runtime (npu_host/): then `kernel` has to own its
// arguments, and what goes wrong in it is the stream's error.
void Emulate(const Launch& launch, const std::function<void()>& kernel);

}  // namespace moge

#define MOGE_LAUNCH(launch, kernel, ...)                 \
  do {                                                   \
    moge::CheckBuffers(launch);                          \
    moge::Emulate(launch, [=] { kernel(__VA_ARGS__); }); \
  } while (false)

#endif

// Launches the kernel's entry for `dtype`.
#define MOGE_LAUNCH_DTYPE(launch, dtype, kernel, ...)      \
  switch (dtype) {                                         \
    case moge::DType::kFloat16:                            \
      MOGE_LAUNCH(launch, kernel##_float16, __VA_ARGS__);  \
      break;                                               \
    case moge::DType::kBfloat16:                           \
      MOGE_LAUNCH(launch, kernel##_bfloat16, __VA_ARGS__); \
      break;                                               \
    case moge::DType::kFloat32:                            \
      MOGE_LAUNCH(launch, kernel##_float32, __VA_ARGS__);  \
      break;                                               \
  }

#endif  // MOGE_CSRC_LAUNCH_H_
