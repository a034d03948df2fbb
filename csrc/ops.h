// The functions that bindings.cpp exposes: checks, tiling, launch. Pointers to contiguous tensors.
#ifndef MOGE_CSRC_OPS_H_
#define MOGE_CSRC_OPS_H_

#include "launch.h"

namespace moge {

struct GateShape {
  int64_t T, E, G, k;
};
// cores of a gate launch, of which each has a row of E values in the workspace
int64_t GateBlocks(int64_t T);
// [T, E], [E] float or none, [E] float or none -> [T, K] float, [T, K] int32, [E] int32
void GroupedGateForward(Pointer logits, Pointer bias, Pointer router_scale, Pointer weights,
                        Pointer experts, Pointer counts, Pointer workspace, const GateShape& shape,
                        bool softmax, bool renormalize, double scaling, DType dtype,
                        Pointer stream);
// [T, K] float, [T, E], [T, K], [E] float or none -> [T, E], [E] float or none
void GroupedGateBackward(Pointer d_weights, Pointer logits, Pointer experts, Pointer router_scale,
                         Pointer d_logits, Pointer d_router_scale, Pointer workspace,
                         const GateShape& shape, bool softmax, bool renormalize, double scaling,
                         DType dtype, Pointer stream);

// [T, E], [T, K] -> scalar, [E] float; workspaces [GateBlocks(T), E] of float and of int32
void LoadBalanceLossForward(Pointer logits, Pointer experts, Pointer loss, Pointer f,
                            Pointer scores, Pointer counts, int64_t T, int64_t K, int64_t E,
                            bool softmax, DType dtype, Pointer stream);
// scalar, [T, E], [E] float -> [T, E]
void LoadBalanceLossBackward(Pointer d_loss, Pointer logits, Pointer f, Pointer d_logits, int64_t T,
                             int64_t E, bool softmax, DType dtype, Pointer stream);

// Rows of N that are sorted by E experts, and the sides of their weights [E, out, in].
struct GemmShape {
  int64_t N, E, out, in;
};
// columns that a result has room for: whole fractals; beyond its own there are zeros
int64_t GemmPitch(int64_t columns);
// [N, in], [E, out, in] or packed (NZ), [E + 1] -> [N, pitch of out]
void GroupedGemmForward(Pointer rows, Pointer weight, Pointer offsets, Pointer out,
                        const GemmShape& shape, bool packed, DType dtype, Pointer stream);
// [N, out], [E, out, in], [E + 1] -> [N, pitch of in]
void GroupedGemmDx(Pointer d_out, Pointer weight, Pointer offsets, Pointer d_rows,
                   const GemmShape& shape, DType dtype, Pointer stream);
// [N, out], [N, in], [E + 1] -> [E, out, pitch of in]
void GroupedGemmDw(Pointer d_out, Pointer rows, Pointer offsets, Pointer d_weight,
                   const GemmShape& shape, DType dtype, Pointer stream);

// elements of GroupedMlpUp's ring
int64_t GroupedMlpRing(const GemmShape& shape);
// rows [N, in], weight [E, out = 2F, in], [E + 1], row_weights [N] float or none, the ring
// -> pre [N, 2F] or none, act [N, F], multiplied by the row's weight
void GroupedMlpUp(Pointer rows, Pointer weight, Pointer offsets, Pointer row_weights, Pointer ring,
                  Pointer pre, Pointer act, const GemmShape& shape, DType dtype, Pointer stream);

// g [N, F] = d_y D', pre [N, 2F], row_weights [N] float -> d_pre [N, 2F], act [N, F] times the
// row's weight, d_row_weights [N] float
void GroupedMlpBackward(Pointer g, Pointer pre, Pointer row_weights, Pointer d_pre, Pointer act,
                        Pointer d_row_weights, int64_t N, int64_t F, DType dtype, Pointer stream);

// [N, 2F] -> [N, F]
void SwigluForward(Pointer gate_up, Pointer act, int64_t N, int64_t F, DType dtype, Pointer stream);
// [N, F], [N, 2F] -> [N, 2F]
void SwigluBackward(Pointer d_act, Pointer gate_up, Pointer d_gate_up, int64_t N, int64_t F,
                    DType dtype, Pointer stream);

// cores of a route launch, of which each has a row of E counts in the workspace
int64_t RouteBlocks(int64_t T);
// [T, K] int32 -> [N], [T, K], [E + 1]; G is 1 where the ids are not promised to be group-wise
void RouteForward(Pointer experts, Pointer row_to_slot, Pointer slot_to_row, Pointer offsets,
                  Pointer workspace, int64_t T, int64_t K, int64_t E, int64_t G, Pointer stream);

// [T, H], [N], [T, K] -> [N, H]
void PermuteForward(Pointer x, Pointer row_to_slot, Pointer slot_to_row, Pointer rows, int64_t T,
                    int64_t H, int64_t K, DType dtype, Pointer stream);

// [N, H], [T, K], [T, K] float or none -> [T, H]
void UnpermuteForward(Pointer rows, Pointer slot_to_row, Pointer weights, Pointer y, int64_t T,
                      int64_t H, int64_t K, DType dtype, Pointer stream);
// [T, H], [N, H], [N], [T, K], [T, K] float -> [N, H], [T, K] float
void UnpermuteBackward(Pointer d_y, Pointer rows, Pointer row_to_slot, Pointer slot_to_row,
                       Pointer weights, Pointer d_rows, Pointer d_weights, int64_t T, int64_t H,
                       int64_t K, DType dtype, Pointer stream);

}  // namespace moge

#endif  // MOGE_CSRC_OPS_H_
