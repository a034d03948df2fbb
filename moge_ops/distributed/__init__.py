"""More than one device: expert parallelism with static sizes, on torch.distributed.

Process groups and meshes are torch's, and so is the transport: gloo, NCCL, HCCL by the same calls.
"""

from moge_ops.distributed._mesh import Plan
from moge_ops.distributed.expert_parallel import ExpertParallel

__all__ = ["ExpertParallel", "Plan"]
