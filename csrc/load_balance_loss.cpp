// The entries are in this translation unit: a launch with <<<>>> needs their definitions.
#include "../ascend_kernels/load_balance_loss/load_balance_loss.cpp"

#include <algorithm>

#include "ops.h"

namespace moge {

namespace {

LoadBalanceLossTiling LossTiling(const char* op, int64_t T, int64_t K, int64_t E, GateScore score) {
  CheckSize(op, "E", E, kLossMaxE);
  CheckSize(op, "T", T, kMaxElements / std::max<int64_t>(E, 1));
  CheckSize(op, "K", K, INT32_MAX / std::max<int64_t>(T, 1));  // counts are int32
  LoadBalanceLossTiling tiling{};
  tiling.T = static_cast<uint64_t>(T);
  tiling.E = static_cast<uint32_t>(E);
  tiling.K = static_cast<uint32_t>(K);
  tiling.score = score;
  return tiling;
}

}  // namespace

void LaunchLoadBalanceLossFwd(Pointer logits, Pointer experts, Pointer loss, Pointer f,
                              Pointer scores, Pointer counts, int64_t T, int64_t K, int64_t E,
                              GateScore score, DType dtype, Pointer stream) {
  const char* op = "load_balance_loss_fwd";
  const LoadBalanceLossTiling tiling = LossTiling(op, T, K, E, score);
  const int64_t cores = TokenCores(T);
  const Launch launch{op,
                      cores,
                      stream,
                      {{"logits", logits, T * E, SizeOf(dtype), Access::kIn},
                       {"experts", experts, T * K, 4, Access::kIn},
                       {"loss", loss, 1, 4, Access::kOut},
                       {"f", f, E, 4, Access::kOut},
                       {"scores", scores, cores * E, 4, Access::kOut},
                       {"counts", counts, cores * E, 4, Access::kOut}},
                      Cores::kMixVector};
  MOGE_LAUNCH_DTYPE(launch, dtype, load_balance_loss_fwd, Gm(logits), Gm(experts), Gm(loss), Gm(f),
                    Gm(scores), Gm(counts), tiling);
}

void LaunchLoadBalanceLossBwd(Pointer d_loss, Pointer logits, Pointer f, Pointer d_logits,
                              int64_t T, int64_t E, GateScore score, DType dtype, Pointer stream) {
  if (T == 0) return;
  const char* op = "load_balance_loss_bwd";
  const LoadBalanceLossTiling tiling = LossTiling(op, T, 0, E, score);
  const Launch launch{op,
                      TokenCores(T),
                      stream,
                      {{"d_loss", d_loss, 1, 4, Access::kIn},
                       {"logits", logits, T * E, SizeOf(dtype), Access::kIn},
                       {"f", f, E, 4, Access::kIn},
                       {"d_logits", d_logits, T * E, SizeOf(dtype), Access::kOut}}};
  MOGE_LAUNCH_DTYPE(launch, dtype, load_balance_loss_bwd, Gm(d_loss), Gm(logits), Gm(f),
                    Gm(d_logits), tiling);
}

}  // namespace moge
