"""What the routers of a model give each expert, by task, and which task a query is like."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moge_ops import _checks, _null, _statistics_file
from moge_ops._first_router import check_sizes, first_router, moge_layers
from moge_ops.nn import MoGE, MoGEOutput
from moge_ops.ops.grouped_gate import Gating

__all__ = ["RouterStatistics"]

SCORES = ("weights", "selection")
ROWS = {"weights": 0, "selection": 2}  # of the sums


def selection_scores(
    logits: Tensor, experts: Tensor, threshold: float | None = None
) -> Tensor:  # [T, K]
    r"""How sure a router is of each expert that a token takes.

    .. math:: s_c = p_c\,[p_c \ge r], \qquad p = \mathrm{softmax}_{c \in 1..K}(z_{e_c})

    Args:
        logits: :math:`z`, ``[T, E]``.
        experts: :math:`e`, ``[T, K]``, ids; one outside [0, E) is no expert and has no part.
        threshold: :math:`r`; None for 1/K, an even share.

    Returns:
        ``[T, K]``, zero where p < r. Float32, as weights are: sums of many in float64 are exact
        then, but for the smallest, and do not depend on the batches.
    """
    E, K = logits.shape[1], experts.shape[1]
    ids = experts.long()
    none = (ids < 0) | (ids >= E)
    chosen = logits.double().gather(1, ids.masked_fill(none, 0)).masked_fill(none, -math.inf)
    p = chosen.softmax(1)
    r = 1.0 / K if threshold is None else threshold
    return p.masked_fill(none | (p < r), 0.0).float()  # a NaN stays


class RouterStatistics:
    r"""Sums of what the routers of a model give each expert, kept apart by task.

    They tell which experts matter least for a task, so that these can be switched off, or are never
    loaded; and the sums of the first layer tell which task a query is like::

        statistics = RouterStatistics()
        with statistics.collect(model, "law"):
            model(input_ids)
        statistics.save("law.pt")

        profiles = RouterStatistics.load("law.pt")
        task = profiles.nearest(model, query)
        for layer, mask in profiles.masks(task, keep=4, score="selection").items():
            model.get_submodule(layer).expert_mask = mask.to(device)

    Two scores are collected in the same pass:

    - ``"weights"``: the sum of the weights from the gate, over all tokens.
    - ``"selection"``: the sum of the probabilities that a softmax over the logits of a token's K
      chosen experts gives them, without those below a threshold r. Its mean over a task's tokens is
      PreMoe's task-conditioned expected selection score. The sums are not divided by the number of
      tokens, which changes neither the order of experts nor a profile of unit length.

    The softmax is over all K choices of a token, those of all groups. A task keeps the same number
    of experts in every group, so that devices with one group each stay equally loaded. A group
    whose logits are small may have no score at all with a high threshold; its experts are then
    ordered by their weights.

    Attributes:
        sums: Task -> layer -> ``[3, G, E/G]`` float64: for each expert the sum of the weights with
            which it was chosen, the number of times that it was chosen, and the sum of its
            selection scores. Sums of several batches add up. Null experts are not among them.
        tokens: Task -> layer -> ``[K + 1]`` float64: how many tokens took 0, 1, ... K experts. That
            is K for all tokens, unless the layer has null experts or tokens dropped slots.
        pairs: Task -> layer -> ``[E, E]`` float64: how many tokens took expert i and expert j, with
            the tokens of each expert on the diagonal. Collected if asked for: it grows with the
            square of E. :func:`moge_ops.placement.group_experts` takes it.
        threshold: r; None for 1/K, with which each token counts for one expert at least.

    Args:
        threshold: r, from 0, which leaves nothing out, to 1.
        co_activation: Whether ``pairs`` are collected.

    Raises:
        TypeError: ``co_activation`` is no bool.
        ValueError: ``threshold`` is out of range.

    Source:
        Pei et al. 2025, "PreMoe" (arXiv:2505.17639). The probabilities are summed here. The code
        that its authors released sums the logits of the experts above the threshold instead, so
        that an expert with a negative logit counts less for being chosen, and its demonstration
        takes each token's best expert alone.
    """

    def __init__(self, threshold: float | None = None, *, co_activation: bool = False) -> None:
        if not _statistics_file.is_threshold(threshold):
            raise ValueError(f"threshold must be a number from 0 to 1, or None, got {threshold!r}")
        if not isinstance(co_activation, bool):
            raise TypeError(f"co_activation must be a bool, got {type(co_activation).__name__}")
        self.threshold = threshold
        self.sums: dict[str, dict[str, Tensor]] = {}
        self.tokens: dict[str, dict[str, Tensor]] = {}
        self.co_activation = co_activation
        self.pairs: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def update(
        self,
        task: str,
        layer: str,
        gating: Gating,
        num_groups: int,
        row_mask: Tensor | None = None,
        *,
        logits: Tensor,
        num_null: int = 0,
    ) -> None:
        """Adds one batch. The sums are deterministic, and the host does not wait for the device.

        Args:
            task: Any name.
            layer: The layer's name.
            gating: From :func:`moge_ops.grouped_gate`.
            num_groups: G, of the layer.
            row_mask: ``[T]`` bool, false for a row that is left out, as padding is.
            logits: ``[T, E]``, those of the router that chose.
            num_null: n, null experts of each group; gating and logits are then of E + G·n outputs,
                as :class:`moge_ops.nn.MoGE` gives them.

        Raises:
            TypeError: ``row_mask`` is not bool, or a number no int.
            ValueError: Shapes do not fit, G does not divide the outputs, a group has no expert, or
                the layer had other sizes before.
        """
        T, outputs = len(gating.weights), len(gating.counts)
        _checks.shape("logits", logits, "[T, E]", (T, outputs))
        _checks.groups(outputs, num_groups, name="the columns of logits")
        _checks.integer("num_null", num_null, least=0, most=outputs // num_groups - 1)
        ids = _null.true_ids(gating.experts, outputs, num_groups, num_null).long()
        logits, counts = (
            _null.true_outputs(x, num_groups, num_null) for x in (logits, gating.counts.double())
        )
        weights, E = gating.weights.double(), len(counts)
        selection = selection_scores(logits, ids, self.threshold)
        scores = weights.new_zeros(2, T, E + 1)  # the last column: slots of no expert
        ids = torch.where(ids < 0, E, ids)
        # a token's experts are all different, if not given
        scores.scatter_add_(2, ids.expand(2, -1, -1), torch.stack([weights, selection.double()]))
        if row_mask is not None:
            _checks.shape("row_mask", row_mask, "[T]", (T,))
            if row_mask.dtype != torch.bool:
                raise TypeError(f"row_mask must be bool, got {row_mask.dtype}")
            scores.masked_fill_(~row_mask.unsqueeze(1), 0.0)  # not a product: a weight may be NaN
            ones = row_mask.unsqueeze(1).expand_as(ids).flatten().double()
            counts = counts.new_zeros(E + 1).scatter_add_(0, ids.flatten(), ones)[:E]
        of_weights, of_selection = scores.sum(1)[:, :E]
        new = torch.stack([of_weights, counts, of_selection]).view(3, num_groups, -1)
        layers = self.sums.setdefault(task, {})
        if layer in layers and layers[layer].shape != new.shape:
            was, now = (list(x.shape[1:]) for x in (layers[layer], new))
            raise ValueError(f"{layer} must have [G, E/G] = {was} as before, got {now}")
        self._count_tokens(task, layer, ids < E, row_mask)
        if self.co_activation:
            self._count_pairs(task, layer, ids, E, row_mask)
        layers[layer] = layers[layer] + new if layer in layers else new

    def _count_pairs(
        self, task: str, layer: str, ids: Tensor, E: int, row_mask: Tensor | None
    ) -> None:
        """``ids`` ``[T, K]``, E for a slot of no expert. Before the sums of the batch are added."""
        found = self.pairs.setdefault(task, {})
        if layer in self.sums[task] and layer not in found:
            return  # earlier batches were collected without: a part would mislead
        hits = torch.zeros(len(ids), E + 1, dtype=torch.float64, device=ids.device)
        hits = hits.scatter_(1, ids, 1.0)[:, :E]
        if row_mask is not None:
            hits = hits * row_mask.unsqueeze(1)
        new = hits.T @ hits
        found[layer] = found[layer] + new if layer in found else new

    def _count_tokens(self, task: str, layer: str, taken: Tensor, row_mask: Tensor | None) -> None:
        """``taken`` ``[T, K]``: the slots of experts. Before the sums of the batch are added."""
        found = self.tokens.setdefault(task, {})
        if layer in self.sums[task] and layer not in found:
            return  # sums of an old file, whose tokens are not known: a part would mislead
        K = taken.shape[1]
        rows = taken.new_ones(len(taken)) if row_mask is None else row_mask
        new = rows.new_zeros(K + 1, dtype=torch.float64)
        new.scatter_add_(0, taken.sum(1), rows.double())
        old = found.get(layer, new.new_zeros(K + 1))
        most = max(len(old), len(new))  # k may have changed between the batches
        found[layer] = F.pad(old, (0, most - len(old))) + F.pad(new, (0, most - len(new)))

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
                G, n = module.num_groups, module.num_null
                self.update(task, name, out.gating, G, rows, logits=out.logits, num_null=n)

            return module.register_forward_hook(hook, with_kwargs=True)

        with ExitStack() as hooks:
            for name, module in moge_layers(model).items():
                hooks.callback(watch(name, module).remove)
            yield

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file with 24 bytes for each expert of each layer and task, and 8 (K + 1) more.

        With ``pairs`` 8·E² bytes for each layer and task come on top.

        A file that was there is replaced when the new one is whole, and stays if writing fails.
        """
        parts = {"sums": self.sums, "tokens": self.tokens, "pairs": self.pairs}
        _statistics_file.write(path, self.threshold, self.co_activation, parts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RouterStatistics":
        """Reads a file that :meth:`save` wrote; nothing in the file is executed.

        A file of the first version has no selection scores. Its weights and counts are read, and
        :meth:`profile` refuses the other score. Files of the first two versions have no ``tokens``,
        and :meth:`mean_experts` refuses their tasks.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no regular file, :meth:`save` did not write it, or a later version of
                it did.
        """
        threshold, co_activation, parts = _statistics_file.read(Path(path))
        statistics = cls(threshold, co_activation=co_activation)
        for name, part in parts.items():
            setattr(statistics, name, part)
        return statistics

    def profile(self, task: str, score: str = "selection") -> dict[str, Tensor]:
        """The sums of one score: layer -> ``[G, E/G]`` float64.

        Args:
            task: A task that was collected.
            score: ``"selection"`` or ``"weights"``.

        Raises:
            ValueError: The task or the score is unknown, or the sums are not finite: a file of the
                first version has no selection scores, and a damaged model gives NaN.
        """
        _checks.choice("score", score, SCORES)
        if task not in self.sums:
            known = ", ".join(self.sums) or "those collected, of which there are none"
            raise ValueError(f"task must be one of {known}, got {task!r}")
        found = {layer: x[ROWS[score]] for layer, x in self.sums[task].items()}
        for layer, x in found.items():
            if not x.isfinite().all():
                raise ValueError(
                    f"{task!r} must have finite {score} scores: collect it again, because {layer} "
                    "has none or some that are NaN, as files of the first version do"
                )
        return found

    def mean_experts(self, task: str) -> dict[str, float]:
        """How many experts a token of a task took on average: layer -> from 0 to K.

        Raises:
            ValueError: The task is unknown, or was collected by a version that did not count this.
        """
        counted = [name for name, x in self.sums.items() if {*x} == {*self.tokens.get(name, ())}]
        if task not in counted:
            known = ", ".join(counted) or "none so far"
            raise ValueError(
                f"task must be one whose tokens were counted, which are {known}, got {task!r}"
            )
        found = {}
        for layer, x in self.tokens[task].items():
            total = (x * torch.arange(len(x), dtype=x.dtype, device=x.device)).sum()
            found[layer] = float(total / x.sum().clamp_min(1.0))
        return found

    def masks(self, task: str, keep: int, score: str = "weights") -> dict[str, Tensor]:
        """Masks that keep the ``keep`` experts of each group with the largest sums of a score.

        Args:
            task: A task that was collected.
            keep: Experts that stay on in each group, at least the layer's k.
            score: ``"weights"`` or ``"selection"``.

        Returns:
            Layer -> ``[E]`` bool, true where an expert stays on. Of equal selection scores the
            larger weight stays, and then the lowest id.

        Raises:
            ValueError: The task or the score is unknown, ``keep`` is outside [1, E/G], or the sums
                are not finite.
        """
        masks = {}
        for layer, scores in self.profile(task, score).items():
            P = scores.shape[1]
            if not 1 <= keep <= P:
                raise ValueError(f"keep must be from 1 to the experts per group, {P}, got {keep}")
            weights = self.sums[task][layer][ROWS["weights"]]
            order = weights.argsort(dim=1, descending=True, stable=True)
            again = scores.gather(1, order).argsort(dim=1, descending=True, stable=True)
            best = order.gather(1, again)[:, :keep]
            mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)
            masks[layer] = mask.flatten()
        return masks

    def distances(
        self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> dict[str, float]:
        r"""How far each task is from a query, the nearest first; of equal ones the first collected.

        .. math:: d = \lVert q/|q| - s/|s| \rVert_2

        with the selection scores q of the query's tokens and s of the task, both of the model's
        first MoGE layer. The model runs up to that layer's router and no further, so that no expert
        is read: the experts of an offloaded model need not be loaded. The layer chooses among all
        its experts, whatever its ``expert_mask``, as it did when tasks were collected.

        Args:
            model: The model that the tasks were collected from. It is called with ``input_ids``
                and, if there is one, ``attention_mask=``.
            input_ids: ``[B, L]``; rows are tokens of one query.
            attention_mask: ``[B, L]``, 0 at padding.

        Returns:
            Task -> distance, from 0 to :math:`\sqrt 2`. The host waits for the device.

        Raises:
            ValueError: No task was collected, they are of another model, or no token of the query
                counts.
        """
        if not self.sums:
            raise ValueError("no task was collected")
        self.check(model)
        seen = first_router(model, input_ids, attention_mask)
        query = RouterStatistics(self.threshold)
        if seen is not None:
            name, module, logits, gating, rows = seen
            G, n = module.num_groups, module.num_null
            query.update("query", name, gating, G, rows, logits=logits, num_null=n)
        if seen is None or not (q := query.profile("query")[name]).any():
            raise ValueError("input_ids must have a token that counts, and reach a MoGE layer")
        q = F.normalize(q.cpu().flatten(), dim=0)
        found = {}
        for task in self.sums:
            profile = self.profile(task)
            if name not in profile:
                raise ValueError(f"{task!r} must have {name}, the model's first layer with experts")
            s = F.normalize(profile[name].cpu().flatten(), dim=0)
            found[task] = float((q - s).norm())
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def nearest(
        self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> str:
        """The task that a query is most like: the first of :meth:`distances`, which says more."""
        return next(iter(self.distances(model, input_ids, attention_mask)))

    def check(self, model: nn.Module) -> None:
        """Checks that the tasks were collected from such a model.

        Layers that no task has are allowed where their kind has another name, as heads that predict
        further tokens have.

        Raises:
            ValueError: The model has other layers with experts, or another G or E.
        """
        for task, layers in self.sums.items():
            check_sizes(task, {name: list(x.shape[1:]) for name, x in layers.items()}, model)
