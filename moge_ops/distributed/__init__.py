"""More than one device: expert parallelism with static sizes, on torch.distributed.

Process groups, meshes and transport are torch's: gloo, NCCL and HCCL take the same calls. The tests
run gloo with CPU tensors, and HCCL's calls on a host runtime (`make test-npu`); nothing has run on
NCCL, or on HCCL itself. :mod:`moge_ops.distributed.checkpoint` loads released folders and
needs safetensors.
"""

from moge_ops.distributed._mesh import Plan
from moge_ops.distributed.expert_parallel import ExpertParallel
from moge_ops.distributed.loss import load_balance_loss
from moge_ops.distributed.optimizer import optimizer_state_dict
from moge_ops.distributed.pangu import parallelize
from moge_ops.distributed.top_k import TopKExpertParallel
from moge_ops.models.layout import state_dict

__all__ = [
    "ExpertParallel",
    "Plan",
    "TopKExpertParallel",
    "load_balance_loss",
    "optimizer_state_dict",
    "parallelize",
    "state_dict",
]
