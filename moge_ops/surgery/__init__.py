"""Changes to a trained model: experts in other places, fewer or narrower ones, a smaller model.

:func:`permute_experts` moves the experts of a layer. :func:`prune_experts` keeps some experts of
every group. :func:`slim_experts` keeps all experts and narrows each of them, by the scores of
:func:`expert_sensitivity`. :func:`inherit` makes a small model of a large one's layers, channels,
heads, experts and neurons, by :func:`layer_importance` and :func:`channel_importance`. Models that
were made smaller are saved in the released layout, as every other.
"""

from moge_ops.surgery._experts import permute_experts
from moge_ops.surgery._importance import Importance, channel_importance, layer_importance
from moge_ops.surgery._inherit import inherit
from moge_ops.surgery._prune import prune_experts
from moge_ops.surgery._sensitivity import Sensitivity, distillation_loss, expert_sensitivity
from moge_ops.surgery._slim import slim_experts

__all__ = [
    "Importance",
    "Sensitivity",
    "channel_importance",
    "distillation_loss",
    "expert_sensitivity",
    "inherit",
    "layer_importance",
    "permute_experts",
    "prune_experts",
    "slim_experts",
]
