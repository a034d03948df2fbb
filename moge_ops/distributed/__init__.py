"""More than one device: expert parallelism with static sizes, on torch.distributed.

Process groups and meshes are torch's, and so is the transport: gloo, NCCL, HCCL by the same calls.
"""

from moge_ops.distributed._mesh import Plan
from moge_ops.distributed.expert_parallel import ExpertParallel
from moge_ops.distributed.loss import load_balance_loss
from moge_ops.distributed.top_k import TopKExpertParallel

__all__ = ["ExpertParallel", "Plan", "TopKExpertParallel", "load_balance_loss"]
