// What bindings.cpp exposes: functions that check their arguments, choose the tiling and launch.
// Pointers are addresses of contiguous tensors. Four or more sizes that several functions take are
// a struct; other sizes come one by one.
//
// One rule of names: the extension's function swiglu_fwd is LaunchSwigluFwd here, and launches the
// entry swiglu_fwd_<dtype>. Nothing on the device is called Launch.
#ifndef MOGE_CSRC_OPS_H_
#define MOGE_CSRC_OPS_H_

#include "../ascend_kernels/grouped_gate/grouped_gate_tiling.h"
#include "../ascend_kernels/route/route_tiling.h"
#include "../ascend_kernels/swiglu/activation_tiling.h"
#include "launch.h"

namespace moge {

// Raises ValueError for sizes that the gate has no room for.
void CheckGate(const char* op, const GroupedGateTiling& tiling, DType dtype);
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

// Gate and route in one launch of at least one token; the tensors of both, with one workspace of
// elements of int32:
int64_t GateAndRouteWorkspace(int64_t T, int64_t K, int64_t E, int64_t G);
void LaunchGroupedGateAndRouteFwd(Pointer logits, Pointer bias, Pointer router_scale, Pointer given,
                                  Pointer weights, Pointer experts, Pointer counts,
                                  Pointer row_to_slot, Pointer slot_to_row, Pointer offsets,
                                  Pointer workspace, GroupedGateTiling tiling, DType dtype,
                                  Pointer stream);

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
// elements in which LaunchGroupedGemmDx packs weights
int64_t GroupedGemmDxRoom(const GemmShape& shape, DType dtype);
// [N, O], [E, O, I], [E + 1], that room or none -> [N, pitch of I]
void LaunchGroupedGemmDx(Pointer d_out, Pointer weight, Pointer offsets, Pointer packed,
                         Pointer d_rows, const GemmShape& shape, DType dtype, Pointer stream);
// elements in which LaunchGroupedGemmDw packs rows
int64_t GroupedGemmDwRoom(const GemmShape& shape, DType dtype);
// [N, O], [N, I], [E + 1], that room or none -> [E, O, pitch of I]
void LaunchGroupedGemmDw(Pointer d_out, Pointer rows, Pointer offsets, Pointer packed,
                         Pointer d_weight, const GemmShape& shape, DType dtype, Pointer stream);

// The expert layer: T tokens of H, each with K slots, and E experts of width F.
struct MlpShape {
  int64_t T, K, E, H, F;
};
// elements of the ring that LaunchGroupedMlpFwd needs
int64_t GroupedMlpRing(const MlpShape& shape);
// x [T, H], gate_up [E, 2F, H], down [E, H, F], weights [T, K] float, [T, K], [E + 1]; workspaces:
// rows [N, pitch of H], row_weights [N] float, if the activation is to be weighted and not the
// output, the ring, act [N, F] -> pre [N, 2F] or none, y [T, H]. Biases [E, 2F] and [E, H] and the
// series [2, terms] float may be none. Without a gate, 2F is F.
void LaunchGroupedMlpFwd(Pointer x, Pointer gate_up, Pointer down, Pointer weights,
                         Pointer slot_to_row, Pointer offsets, Pointer b_gate_up, Pointer b_down,
                         Pointer series, Pointer rows, Pointer row_weights, Pointer ring,
                         Pointer pre, Pointer act, Pointer y, const MlpShape& shape,
                         const ActivationTiling& activation, DType dtype, Pointer stream);
// The backward pass of the weighted activation, between the two products:
// g [N, F] = d_y D with D = w_down, pre [N, 2F], row_weights [N] float -> d_pre [N, 2F], act [N, F]
// times the row's weight, d_row_weights [N] float, to which more [N] float is added, if there is
// any. With d_series [cores, 16] float, each core's sums for the factors and for the offsets of up
// to 8 terms.
int64_t GroupedMlpActBwdCores(int64_t N);
void LaunchGroupedMlpActBwd(Pointer g, Pointer pre, Pointer row_weights, Pointer more,
                            Pointer series, Pointer d_pre, Pointer act, Pointer d_row_weights,
                            Pointer d_series, int64_t N, int64_t F,
                            const ActivationTiling& activation, DType dtype, Pointer stream);

// Products of bytes, whose sums are exact: float(sum) * (row_scale * scale).
// elements of the int32 ring that LaunchGroupedGemmInt8 needs
int64_t GroupedGemmInt8Ring(const GemmShape& shape);
// [N, I] int8, [N] float, [E, O, I] int8, [E, O] float, [E + 1], the ring -> [N, pitch of O], of
// which the columns past O are not written
void LaunchGroupedGemmInt8(Pointer rows, Pointer row_scale, Pointer weight, Pointer scale,
                           Pointer offsets, Pointer ring, Pointer out, const GemmShape& shape,
                           DType dtype, Pointer stream);
// The same of weights of four bits, [E, O, I / 2], the first of two in the lower half of a byte,
// with the rows as two planes [N, 2, I / 2], as LaunchQuantizePlanes makes them. The elements of
// its ring:
int64_t GroupedGemmInt4Ring(const GemmShape& shape);
void LaunchGroupedGemmInt4(Pointer planes, Pointer row_scale, Pointer weight, Pointer scale,
                           Pointer offsets, Pointer ring, Pointer out, const GemmShape& shape,
                           DType dtype, Pointer stream);
int64_t GroupedMlpInt4Ring(const GemmShape& shape);
// planes, weight [E, O = 2F, I / 2] -> pre [N, 2F] or none, act [N, F]
void LaunchGroupedMlpUpInt4(Pointer planes, Pointer row_scale, Pointer weight, Pointer scale,
                            Pointer offsets, Pointer ring, Pointer pre, Pointer act,
                            const GemmShape& shape, DType dtype, Pointer stream);
// elements of the int32 ring that LaunchGroupedMlpInt8Fwd needs
int64_t GroupedMlpInt8Ring(const MlpShape& shape);
// LaunchGroupedMlpFwd with int8 weights and the scales of their rows, [E, 2F] and [E, H] float. It
// quantises x and act; the output is weighted. Further workspaces: row_scale [N] float, q [N, F]
// int8
void LaunchGroupedMlpInt8Fwd(Pointer x, Pointer gate_up, Pointer gate_up_scale, Pointer down,
                             Pointer down_scale, Pointer weights, Pointer slot_to_row,
                             Pointer offsets, Pointer rows, Pointer row_scale, Pointer ring,
                             Pointer pre, Pointer act, Pointer q, Pointer y, const MlpShape& shape,
                             DType dtype, Pointer stream);

// Raises ValueError for sizes that route cannot number, or groups that are not whole.
void CheckRoute(const char* op, int64_t T, int64_t K, int64_t E, int64_t G);
// How a route is done: a kernel with more cores than these may do it, too, and the others idle.
struct RoutePlan {
  int64_t cores, workspace;  // elements of int32
  RouteTiling tiling;
};
RoutePlan PlanRoute(int64_t T, int64_t K, int64_t E, int64_t G);
// elements of route's workspace
int64_t RouteWorkspace(int64_t T, int64_t K, int64_t E, int64_t G);
// [T, K] int32 -> [N], [T, K], [E + 1]; G is 1 where the ids are not promised to be group-wise
void LaunchRouteFwd(Pointer experts, Pointer row_to_slot, Pointer slot_to_row, Pointer offsets,
                    Pointer workspace, int64_t T, int64_t K, int64_t E, int64_t G, Pointer stream);

// [T, H], [N], [T, K] -> [N, H]
void LaunchPermuteFwd(Pointer x, Pointer row_to_slot, Pointer slot_to_row, Pointer rows, int64_t T,
                      int64_t H, int64_t K, DType dtype, Pointer stream);
// the same with rows quantised to planes of four bits, [N, 2, H / 2], as LaunchQuantizePlanes makes
// them, and their scales [N] float; rows that no slot has stay as they are
void LaunchPermutePlanes(Pointer x, Pointer slot_to_row, Pointer planes, Pointer row_scale,
                         int64_t T, int64_t H, int64_t K, DType dtype, Pointer stream);

// [N, I] -> [N, I] int8, [N] float
void LaunchQuantizeRows(Pointer rows, Pointer q, Pointer scale, int64_t N, int64_t I, DType dtype,
                        Pointer stream);
// The same, with q = 16 high + low + 8 as planes of four bits: [N, 2, I / 2], high and then low,
// the first of two numbers in the lower half of a byte.
void LaunchQuantizePlanes(Pointer rows, Pointer planes, Pointer scale, int64_t N, int64_t I,
                          DType dtype, Pointer stream);
// [N, I] int8, [N] float -> [N, I]
void LaunchDecodeWeight(Pointer data, Pointer scale, Pointer weight, int64_t N, int64_t I,
                        DType dtype, Pointer stream);
// bytes of two numbers of four bits, the first in the lower half -> int8, twice as many
void LaunchUnpackInt4(Pointer packed, Pointer data, int64_t bytes, Pointer stream);

// [N, H], [T, K], [T, K] float or none -> [T, H]
void LaunchUnpermuteFwd(Pointer rows, Pointer slot_to_row, Pointer weights, Pointer y, int64_t T,
                        int64_t H, int64_t K, DType dtype, Pointer stream);
// [T, H], [N, H], [N], [T, K], [T, K] float -> [N, H], [T, K] float
void LaunchUnpermuteBwd(Pointer d_y, Pointer rows, Pointer row_to_slot, Pointer slot_to_row,
                        Pointer weights, Pointer d_rows, Pointer d_weights, int64_t T, int64_t H,
                        int64_t K, DType dtype, Pointer stream);
// scalars [size] float, index [count] -> [count] float: 0 where no scalar has that index
void LaunchTakeScalars(Pointer scalars, Pointer index, Pointer results, int64_t size, int64_t count,
                       Pointer stream);

// [N, 2F] -> [N, F]
void LaunchSwigluFwd(Pointer gate_up, Pointer act, int64_t N, int64_t F, DType dtype,
                     Pointer stream);
// Raises ValueError for a series that the kernels have no room for.
void CheckActivation(const char* op, const ActivationTiling& activation);
// pre [N, O], what is added to it or none, series [2, terms] float or none -> [N, F], where O is 2F
// with a gate, else F
void LaunchActivationFwd(Pointer pre, Pointer bias, Pointer series, Pointer act, int64_t N,
                         int64_t F, const ActivationTiling& activation, DType dtype,
                         Pointer stream);
// [N, F], [N, 2F] -> [N, 2F]
void LaunchSwigluBwd(Pointer d_act, Pointer gate_up, Pointer d_gate_up, int64_t N, int64_t F,
                     DType dtype, Pointer stream);

}  // namespace moge

#endif  // MOGE_CSRC_OPS_H_
