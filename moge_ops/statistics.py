"""What is done with the experts of a trained model: which of them matter, and where they stand."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moge_ops.nn import MoGE, MoGEOutput
from moge_ops.ops.grouped_gate import Gating

__all__ = ["RouterStatistics", "permute_experts"]


class RouterStatistics:
    """What the routers of a model gave each expert, by task, to switch off those that matter least.

    ::

        statistics = RouterStatistics()
        with statistics.collect(model, "law"):
            model(input_ids)
        statistics.save("law.pt")

        for layer, mask in RouterStatistics.load("law.pt").masks("law", keep=4).items():
            model.get_submodule(layer).expert_mask = mask.to(device)

    Attributes:
        sums: Task -> layer -> ``[2, G, E/G]`` float64: the sum of the weights with which an expert
            was chosen, and how often it was.

    Source:
        Pei et al. 2025, "PreMoe" (arXiv:2505.17639): experts are kept by their expected score when
        chosen on a task. Its score takes the softmax of the chosen logits and leaves out the least
        confident tokens; here it is the weight that the gate gave.
    """

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def update(self, task: str, layer: str, gating: Gating, num_groups: int) -> None:
        """Adds the choice of one batch; deterministic, without the host waiting for the device.

        Args:
            task: Any name.
            layer: Name of the layer.
            gating: From :func:`moge_ops.grouped_gate`.
            num_groups: G.
        """
        weights = gating.weights.double()
        scores = weights.new_zeros(len(weights), len(gating.counts))  # [T, E]
        scores.scatter_(1, gating.experts.long(), weights)  # a row's experts are all different
        new = torch.stack([scores.sum(0), gating.counts.double()]).view(2, num_groups, -1)
        layers = self.sums.setdefault(task, {})
        layers[layer] = layers[layer] + new if layer in layers else new

    @contextmanager
    def collect(self, model: nn.Module, task: str) -> Iterator[None]:
        """Within it, every forward of an :class:`moge_ops.nn.MoGE` in ``model`` is added.

        A layer that is called without ``return_routing`` is computed twice.
        """

        def watch(name: str, module: MoGE) -> Any:
            @torch.no_grad()
            def hook(_: MoGE, args: Any, kwargs: dict[str, Any], out: Any) -> None:
                if not isinstance(out, MoGEOutput):
                    out = module.forward(*args, **{**kwargs, "return_routing": True})
                self.update(task, name, out.gating, module.num_groups)

            return module.register_forward_hook(hook, with_kwargs=True)

        with ExitStack() as hooks:
            for name, module in model.named_modules():
                if isinstance(module, MoGE):
                    hooks.callback(watch(name, module).remove)
            yield

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file of 16 bytes for each task, layer and expert."""
        tasks = self.sums.items()
        torch.save({task: {k: v.cpu() for k, v in layers.items()} for task, layers in tasks}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RouterStatistics":
        """Reads what :meth:`save` wrote; nothing in the file is executed."""
        statistics = cls()
        statistics.sums = torch.load(path, map_location="cpu", weights_only=True)
        return statistics

    def masks(self, task: str, keep: int) -> dict[str, Tensor]:
        """Layer -> ``[E]`` bool: true for the ``keep`` experts of each group with the most weight.

        Equal ones go to the lowest id. ``keep`` must be at least the layer's k.

        Raises:
            ValueError: The task is unknown, or ``keep`` is outside [1, E/G].
        """
        if task not in self.sums:
            raise ValueError(f"task must be one of {', '.join(self.sums)}, got {task!r}")
        masks = {}
        for layer, (weights, _) in self.sums[task].items():
            if not 1 <= keep <= weights.shape[1]:
                raise ValueError(
                    f"keep must be from 1 to the experts per group, {weights.shape[1]}, got {keep}"
                )
            best = weights.argsort(dim=1, descending=True, stable=True)[:, :keep]
            mask = torch.zeros_like(weights, dtype=torch.bool).scatter_(1, best, True)
            masks[layer] = mask.flatten()
        return masks


@torch.no_grad()
def permute_experts(layer: MoGE, perm: Sequence[int] | Tensor) -> None:
    """Re-places the experts of a layer in place, as a load balancer does; its function stays.

    Router, ``router_scale``, ``bias``, ``expert_mask`` and both expert weights move together. The
    outputs are those of before to rounding, and bit for bit while groups stay where they are; only
    experts of exactly equal score change, because ties go to the lowest id. Gradients and an
    optimizer's state stay where they were: call it between runs, not between steps.

    Args:
        layer: The layer.
        perm: ``[E]``, a permutation: place i gets the expert that stood at ``perm[i]``. Groups may
            change places, and experts may within their group; none may leave its group.

    Raises:
        ValueError: ``perm`` is not a permutation of E, or breaks a group.
    """
    E = len(layer.gate)
    index = torch.as_tensor(perm, device=layer.gate.device)
    if sorted(index.flatten().tolist()) != list(range(E)) or index.ndim != 1:
        raise ValueError(f"perm must be a permutation of 0 to {E - 1}, got {index.tolist()}")
    per_group = E // layer.num_groups
    for group, members in enumerate(index.view(layer.num_groups, -1).tolist()):
        first = min(members) // per_group * per_group
        if max(members) >= first + per_group:
            expected = f"the experts of one group, {first} to {first + per_group - 1}"
            raise ValueError(f"perm must give group {group} {expected}, got {members}")
    for x in (
        layer.gate,
        layer.router_scale,
        layer.w_gate_up,
        layer.w_down,
        layer.bias,
        layer.expert_mask,
    ):
        if isinstance(x, Tensor):
            x.copy_(x[index])
