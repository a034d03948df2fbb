/* What the host runtime has beside CANN's functions: a way in for kernels that were built for the
 * host, as those of moge_ops under the emulator are. A C interface: any language can call it. */
#ifndef MOGE_NPU_HOST_H_
#define MOGE_NPU_HOST_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  const char* name; /* for messages */
  const void* data;
  uint64_t bytes;
} MogeNpuBuffer;

/* Runs on the stream's thread. Returns 0, or writes why it failed into error[0 .. room). */
typedef int (*MogeNpuKernel)(void* argument, char* error, size_t room);

/* Puts a kernel into a stream (NULL: the one that every card has). Every buffer must lie in one
 * live allocation of the stream's card, now and when the kernel runs. Returns 0; else the kernel
 * will not run, and aclGetRecentErrMsg() says why. A kernel that fails at its turn fails its
 * stream: the next synchronisation returns its error. In each case `release` is called once with
 * the argument when it is no longer needed. */
int moge_npu_host_launch(void* stream, const char* name, const MogeNpuBuffer* buffers,
                         uint32_t count, MogeNpuKernel kernel, void* argument,
                         void (*release)(void* argument));

#ifdef __cplusplus
}
#endif

#endif /* MOGE_NPU_HOST_H_ */
