"""What the routers of a model give each expert."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moge_ops import _checks, _files
from moge_ops.nn import MoGE, MoGEOutput
from moge_ops.ops.grouped_gate import Gating

__all__ = ["RouterStatistics"]


class RouterStatistics:
    """Sums of what the routers of a model give each expert, kept apart by task.

    They tell which experts matter least for a task, so that these can be switched off::

        statistics = RouterStatistics()
        with statistics.collect(model, "law"):
            model(input_ids)
        statistics.save("law.pt")

        for layer, mask in RouterStatistics.load("law.pt").masks("law", keep=4).items():
            model.get_submodule(layer).expert_mask = mask.to(device)

    Attributes:
        sums: Task -> layer -> ``[2, G, E/G]`` float64: for each expert the sum of the weights with
            which it was chosen, and the number of times that it was chosen.

    Source:
        Pei et al. 2025, "PreMoe" (arXiv:2505.17639), keeps the experts with the highest expected
        score on a task. Its score is a softmax over the chosen logits and leaves out the least
        confident tokens; the score here is the weight from the gate, over all tokens.
    """

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def update(
        self,
        task: str,
        layer: str,
        gating: Gating,
        num_groups: int,
        row_mask: Tensor | None = None,
    ) -> None:
        """Adds one batch. The sums are deterministic, and the host does not wait for the device.

        Args:
            task: Any name.
            layer: The layer's name.
            gating: From :func:`moge_ops.grouped_gate`.
            num_groups: G, of the layer.
            row_mask: ``[T]`` bool, false for a row that is left out, as padding is.
        """
        weights, counts = gating.weights.double(), gating.counts.double()
        E = len(counts)
        scores = weights.new_zeros(len(weights), E + 1)  # the last column: slots of no expert
        ids = gating.experts.long()
        ids = torch.where(ids < 0, E, ids)
        scores.scatter_add_(1, ids, weights)  # a token's experts are all different, if not given
        if row_mask is not None:
            _checks.shape("row_mask", row_mask, "[T]", (len(weights),))
            if row_mask.dtype != torch.bool:
                raise TypeError(f"row_mask must be bool, got {row_mask.dtype}")
            scores.masked_fill_(~row_mask.unsqueeze(1), 0.0)  # not a product: a weight may be NaN
            ones = row_mask.unsqueeze(1).expand_as(ids).flatten().double()
            counts = counts.new_zeros(E + 1).scatter_add_(0, ids.flatten(), ones)[:E]
        new = torch.stack([scores.sum(0)[:E], counts]).view(2, num_groups, -1)
        layers = self.sums.setdefault(task, {})
        layers[layer] = layers[layer] + new if layer in layers else new

    @contextmanager
    def collect(self, model: nn.Module, task: str) -> Iterator[None]:
        """Adds every forward of the :class:`moge_ops.nn.MoGE` layers in ``model`` inside the block.

        Rows that a ``row_mask`` leaves out do not count, and neither does what activation
        checkpointing computes a second time. A layer that is called without ``return_routing`` is
        computed twice.
        """

        def watch(name: str, module: MoGE) -> Any:
            @torch.no_grad()
            def hook(_: MoGE, args: Any, kwargs: dict[str, Any], out: Any) -> None:
                # recomputed within a backward pass: counted in the forward pass already
                if torch._C._current_graph_task_id() != -1:
                    return
                if not isinstance(out, MoGEOutput):
                    out = module.forward(*args, **{**kwargs, "return_routing": True})
                rows = module.counted(kwargs.get("row_mask"))
                self.update(task, name, out.gating, module.num_groups, rows)

            return module.register_forward_hook(hook, with_kwargs=True)

        with ExitStack() as hooks:
            for name, module in model.named_modules():
                if isinstance(module, MoGE):
                    hooks.callback(watch(name, module).remove)
            yield

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file with 16 bytes for each expert of each layer and task.

        A file that was there is replaced when the new one is whole, and stays if writing fails.
        """
        tasks, data = self.sums.items(), io.BytesIO()
        torch.save({task: {k: v.cpu() for k, v in layers.items()} for task, layers in tasks}, data)
        _files.write(path, data.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RouterStatistics":
        """Reads a file that :meth:`save` wrote; nothing in the file is executed.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no regular file, or :meth:`save` did not write it.
        """
        statistics, wrong = cls(), f"{path} must be a file that RouterStatistics.save wrote"
        _files.regular(Path(path))
        try:
            sums = torch.load(path, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle raises whatever its reader meets
            raise ValueError(f"{wrong}: {error}") from None
        layers = [*sums.values()] if isinstance(sums, dict) else [sums]
        if not all(isinstance(each, dict) for each in layers):
            raise ValueError(f"{wrong}, got {type(sums).__name__}")
        for layer, x in (item for each in layers for item in each.items()):
            if not isinstance(x, Tensor) or x.ndim != 3 or len(x) != 2 or x.dtype != torch.float64:
                raise ValueError(f"{wrong}, got {layer} without [2, G, E/G] float64")
        statistics.sums = sums
        return statistics

    def masks(self, task: str, keep: int) -> dict[str, Tensor]:
        """Masks that keep the ``keep`` experts of each group with the largest sums of weights.

        Args:
            task: A task that was collected.
            keep: Experts that stay on in each group, at least the layer's k.

        Returns:
            Layer -> ``[E]`` bool, true where an expert stays on. Ties go to the lowest id.

        Raises:
            ValueError: The task is unknown, or ``keep`` is outside [1, E/G].
        """
        if task not in self.sums:
            raise ValueError(f"task must be one of {', '.join(self.sums)}, got {task!r}")
        masks = {}
        for layer, (weights, _) in self.sums[task].items():
            P = weights.shape[1]
            if not 1 <= keep <= P:
                raise ValueError(f"keep must be from 1 to the experts per group, {P}, got {keep}")
            best = weights.argsort(dim=1, descending=True, stable=True)[:, :keep]
            mask = torch.zeros_like(weights, dtype=torch.bool).scatter_(1, best, True)
            masks[layer] = mask.flatten()
        return masks
