// Lets clang read `kernel<<<blocks, nullptr, stream>>>(arguments)`, the launch of Ascend C, as the
// launch of CUDA, whose syntax it is: included before all else, host side only.
#ifndef MOGE_TYPECHECK_LAUNCH_SYNTAX_H_
#define MOGE_TYPECHECK_LAUNCH_SYNTAX_H_

#include <exception>  // with <new>: what these declare is declared for the host before

// from here on no function is for one side only: Ascend C does not tell them apart
#pragma clang force_cuda_host_device begin

#include "stub_def.h"
#undef __global__
#define __global__ __attribute__((global))

// a kernel is called through what clang expects of a runtime: Ascend's second argument is a pointer
struct dim3 {
  dim3(uint32_t) {}
  dim3(std::nullptr_t) {}
};
extern "C" uint32_t __cudaPushCallConfiguration(dim3, dim3, void* stream = nullptr);

#endif  // MOGE_TYPECHECK_LAUNCH_SYNTAX_H_
