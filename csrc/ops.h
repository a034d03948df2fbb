// What bindings.cpp exposes: functions that check their arguments, choose the tiling and launch.
// Pointers are addresses of contiguous tensors. Four or more sizes that several functions take are
// a struct; other sizes come one by one.
//
// One rule of names: the extension's function swiglu_fwd is LaunchSwigluFwd here, and launches the
// entry swiglu_fwd_<dtype>. Nothing on the device is called Launch.
#ifndef MOGE_CSRC_OPS_H_
#define MOGE_CSRC_OPS_H_

#include "../ascend_kernels/grouped_gate/grouped_gate_tiling.h"
#include "launch.h"

namespace moge {

// cores for T tokens, of the gate and of the balance loss; each has E values in a workspace
int64_t TokenCores(int64_t T);
// The tiling brings sizes and options; the launch adds which tensors there are.
// [T, E], [E] float or none, [E] float or none, and [T, K] int32 if the tiling says that experts
// are given -> [T, K] float, [T, K] int32, [E] int32
void LaunchGroupedGateFwd(Pointer logits, Pointer bias, Pointer router_scale, Pointer given,
                          Pointer weights, Pointer experts, Pointer counts, Pointer workspace,
                          GroupedGateTiling tiling, DType dtype, Pointer stream);
// [T, K] float, [T, E], [T, K], [E] float or none -> [T, E], [E] float or none
void LaunchGroupedGateBwd(Pointer d_weights, Pointer logits, Pointer experts, Pointer router_scale,
                          Pointer d_logits, Pointer d_router_scale, Pointer workspace,
                          GroupedGateTiling tiling, DType dtype, Pointer stream);

// [T, E], [T, K] -> scalar, [E] float; workspaces [TokenCores(T), E] of float and of int32
void LaunchLoadBalanceLossFwd(Pointer logits, Pointer experts, Pointer loss, Pointer f,
                              Pointer scores, Pointer counts, int64_t T, int64_t K, int64_t E,
                              GateScore score, DType dtype, Pointer stream);
// scalar, [T, E], [E] float -> [T, E]
void LaunchLoadBalanceLossBwd(Pointer d_loss, Pointer logits, Pointer f, Pointer d_logits,
                              int64_t T, int64_t E, GateScore score, DType dtype, Pointer stream);

// A grouped product: N rows, sorted by E experts, and the sides of the weight [E, O, I].
struct GemmShape {
  int64_t N, E, O, I;
};
// columns that a result has room for: whole fractals; past its own columns there are zeros
int64_t GroupedGemmPitch(int64_t columns);
// [N, I], [E, O, I], [E + 1] -> [N, pitch of O]
void LaunchGroupedGemmFwd(Pointer rows, Pointer weight, Pointer offsets, Pointer out,
                          const GemmShape& shape, DType dtype, Pointer stream);
// the same with a weight in the layout NZ
void LaunchGroupedGemmPacked(Pointer rows, Pointer weight, Pointer offsets, Pointer out,
                             const GemmShape& shape, DType dtype, Pointer stream);
// [N, O], [E, O, I], [E + 1] -> [N, pitch of I]
void LaunchGroupedGemmDx(Pointer d_out, Pointer weight, Pointer offsets, Pointer d_rows,
                         const GemmShape& shape, DType dtype, Pointer stream);
// [N, O], [N, I], [E + 1] -> [E, O, pitch of I]
void LaunchGroupedGemmDw(Pointer d_out, Pointer rows, Pointer offsets, Pointer d_weight,
                         const GemmShape& shape, DType dtype, Pointer stream);

// elements of the ring that LaunchGroupedMlpUp needs
int64_t GroupedMlpRing(const GemmShape& shape);
// rows [N, I], weight [E, O = 2F, I], [E + 1], row_weights [N] float or none, the ring
// -> pre [N, 2F] or none, act [N, F], multiplied by the row's weight
void LaunchGroupedMlpUp(Pointer rows, Pointer weight, Pointer offsets, Pointer row_weights,
                        Pointer ring, Pointer pre, Pointer act, const GemmShape& shape, DType dtype,
                        Pointer stream);
// The backward pass of the weighted activation, between the two products:
// g [N, F] = d_y D with D = w_down, pre [N, 2F], row_weights [N] float -> d_pre [N, 2F], act [N, F]
// times the row's weight, d_row_weights [N] float
void LaunchGroupedMlpActBwd(Pointer g, Pointer pre, Pointer row_weights, Pointer d_pre, Pointer act,
                            Pointer d_row_weights, int64_t N, int64_t F, DType dtype,
                            Pointer stream);

// cores of a route's launch; each has a row of E counts in the workspace
int64_t RouteCores(int64_t T);
// [T, K] int32 -> [N], [T, K], [E + 1]; G is 1 where the ids are not promised to be group-wise
void LaunchRouteFwd(Pointer experts, Pointer row_to_slot, Pointer slot_to_row, Pointer offsets,
                    Pointer workspace, int64_t T, int64_t K, int64_t E, int64_t G, Pointer stream);

// [T, H], [N], [T, K] -> [N, H]
void LaunchPermuteFwd(Pointer x, Pointer row_to_slot, Pointer slot_to_row, Pointer rows, int64_t T,
                      int64_t H, int64_t K, DType dtype, Pointer stream);

// [N, H], [T, K], [T, K] float or none -> [T, H]
void LaunchUnpermuteFwd(Pointer rows, Pointer slot_to_row, Pointer weights, Pointer y, int64_t T,
                        int64_t H, int64_t K, DType dtype, Pointer stream);
// [T, H], [N, H], [N], [T, K], [T, K] float -> [N, H], [T, K] float
void LaunchUnpermuteBwd(Pointer d_y, Pointer rows, Pointer row_to_slot, Pointer slot_to_row,
                        Pointer weights, Pointer d_rows, Pointer d_weights, int64_t T, int64_t H,
                        int64_t K, DType dtype, Pointer stream);

// [N, 2F] -> [N, F]
void LaunchSwigluFwd(Pointer gate_up, Pointer act, int64_t N, int64_t F, DType dtype,
                     Pointer stream);
// [N, F], [N, 2F] -> [N, 2F]
void LaunchSwigluBwd(Pointer d_act, Pointer gate_up, Pointer d_gate_up, int64_t N, int64_t F,
                     DType dtype, Pointer stream);

}  // namespace moge

#endif  // MOGE_CSRC_OPS_H_
