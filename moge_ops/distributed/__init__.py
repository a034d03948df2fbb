"""More than one device: expert parallelism with static sizes, on torch.distributed.

Process groups and meshes are torch's, and so is the transport: gloo, NCCL, HCCL by the same calls.
Run on gloo with CPU tensors; NCCL and HCCL have not been run. Released checkpoint folders:
:mod:`moge_ops.distributed.checkpoint`, which needs safetensors.
"""

from moge_ops.distributed._mesh import Plan
from moge_ops.distributed.expert_parallel import ExpertParallel
from moge_ops.distributed.loss import load_balance_loss
from moge_ops.distributed.pangu import parallelize
from moge_ops.distributed.top_k import TopKExpertParallel
from moge_ops.models.layout import state_dict

__all__ = [
    "ExpertParallel",
    "Plan",
    "TopKExpertParallel",
    "load_balance_loss",
    "parallelize",
    "state_dict",
]
