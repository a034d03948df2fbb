// What the levels of the instruction set have in common: the arguments of the kernels, and the
// table of functions that each level fills with its own.
#pragma once
#include <cstdint>

#include "pool.h"

namespace moge_cpu {

enum class DType { kFloat32, kBfloat16, kFloat16 };
constexpr int kDTypes = 3;
enum class Score { kSoftmax, kSigmoid, kSqrtSoftplus };
enum class Function { kSilu, kGelu, kGeluTanh, kRelu, kRelu2 };
constexpr int kMostTerms = 8;  // of a series

// Rows [first, first + count) of the expert-sorted order, all of one expert.
struct Block {
  int32_t expert, first, count;
};

// A matrix [rows, columns], or a stack [E, rows, columns] of them, whose columns are adjacent.
struct Matrix {
  void* data;
  int64_t row, expert;  // strides in elements
};

// How the numbers of a quantised weight are stored: see moge_ops.quant.
enum class Format { kInt8, kInt4, kFp8, kFp4 };

// A stack of quantised weights [E, O, I], contiguous. A number is (data - zero) * scale.
struct Coding {
  const void* data;    // null: the weight is not quantised
  const void* scale;   // [E, O / scale_rows, groups]; of kFp4 exponents, one byte each
  const int8_t* zero;  // in the shape of scale, or null
  Format format;
  DType scale_dtype;
  int64_t row_bytes;
  int64_t scale_rows, groups, group_size;  // rows and columns that share a scale
};

// What stands between the two products of an expert: see moge_ops.Activation.
struct Activation {
  Function function;
  bool gated, interleaved;
  float alpha, limit, shift;  // limit: infinite where there is none
  const float* series;        // [2, terms], scales and shifts; one term of 1 and 0 where none
  int64_t terms;
  bool plain;  // SwiGLU without any of these
};

// Which row belongs to which slot = token * K + column, as moge_ops.route gives it.
struct Routing {
  const int32_t* row_to_slot;  // [N]
  const int32_t* slot_to_row;  // [T, K]
  const int32_t* offsets;      // [E + 1]
  int64_t T, K, N, E;
};

// How an operator is divided: blocks of rows, largest first, and where these alone are too few for
// the threads, the parts of the output features.
struct Plan {
  const Block* blocks;
  int64_t count;
  int64_t parts;
  int64_t longest;  // rows of the expert that has most
};

// Memory for one call. `own` is each thread's, `shared` is everybody's.
struct Scratch {
  char* shared;
  char* own;
  int64_t own_bytes;
};

struct MlpForward {
  Matrix x, w_gate_up, w_down;  // [T, H], [E, O, H], [E, H, F]
  Coding gate_up, down;         // instead of the two, where they are quantised
  Matrix b_gate_up, b_down;     // [E, O], [E, H], or null
  const float* weights;         // [T, K]
  void *y, *pre;                // [T, H], [N, O] or null
  int64_t H, F, O;              // O: 2F, or F without a gate
  Activation activation;
  bool weight_on_activation;
  Routing routing;
  Plan plan;
  Scratch scratch;
};

struct MlpBackward {
  Matrix d_y, x, w_gate_up, w_down;
  Coding gate_up, down;
  Matrix b_down;
  const float* weights;
  const void* pre;
  void *d_x, *d_w_gate_up, *d_w_down;  // null where not needed
  void *d_b_gate_up, *d_b_down;        // both null where not needed
  float *d_weights, *d_series;         // [T, K]; [2, terms] or null
  int64_t H, F, O;
  Activation activation;
  Routing routing;
  Plan plan;
  Scratch scratch;
};

// The three products of one stack of weights. Each has its result in one of the operands:
//   gemm     out    = rows W'
//   gemm_dx  rows   = out W      (d_rows of d_out)
//   gemm_dw  weight = out' rows  (d_W of d_out)
struct Gemm {
  Matrix rows, weight, out;  // [N, I], [E, O, I], [N, O]
  Coding coding;             // instead of weight
  int64_t N, I, O, E;
  const int32_t* offsets;
  Plan plan;
  Scratch scratch;
};

struct Rowwise {         // permute, unpermute and the derivative of the latter
  Matrix x, rows;        // [T, H], of the derivative d_y, and [N, H]
  const float* weights;  // [T, K] or null
  void* out;
  float* d_weights;
  int64_t H;
  Routing routing;
  Scratch scratch;
};

struct Swiglu {
  Matrix gate_up, d_act;  // [N, 2F], [N, F]
  void* out;
  int64_t N, F;
  Scratch scratch;
};

struct Gate {
  Matrix logits;                     // [T, E]
  const float *bias, *router_scale;  // [E] or null
  float* weights;                    // [T, K]
  int32_t *experts, *counts;         // [T, K], [E]
  const void* given;                 // [T, K], the choice, int64 if wide; or null
  bool wide;
  int64_t T, E, G, k;
  Score score;
  bool renormalize;
  float scaling;
  Scratch scratch;
};

struct GateBackward {
  Matrix logits;
  const float *d_weights, *router_scale;
  const int32_t* experts;  // [T, K]; a slot whose id is outside [0, E) has no part
  void* d_logits;
  double* d_router_scale;  // [E]
  int64_t T, E, K;
  Score score;
  bool renormalize;
  float scaling;
  Scratch scratch;
};

struct Loss {
  Matrix logits;
  float* f;     // [E]: share of the slots, times E
  float* loss;  // or its gradient
  void* d_logits;
  int64_t T, E;
  Score score;
  Scratch scratch;
};

// What a call needs: for all threads together, and for each.
struct Bytes {
  int64_t shared, own;
};

// A kernel for each dtype, run by every thread of a team, and what it needs. Where a result or an
// optional input is not wanted its address is null.
template <typename Args>
struct Kernel {
  int block_rows;  // of the largest block that it takes
  void (*run[kDTypes])(const Args&, Team&);
  Bytes (*bytes[kDTypes])(const Args&);
};

// The kernels of one level of the instruction set.
struct Kernels {
  Kernel<MlpForward> mlp_forward, mlp_forward_int8;
  Kernel<MlpBackward> mlp_backward;
  Kernel<Gemm> gemm, gemm_int8, gemm_dx, gemm_dw;
  Kernel<Rowwise> permute, unpermute, unpermute_backward;
  Kernel<Swiglu> swiglu, swiglu_backward;
  Kernel<Gate> gate;
  Kernel<GateBackward> gate_backward;
  Kernel<Loss> loss, loss_backward;
};

}  // namespace moge_cpu
