"""Expert parallelism for MoGE: every rank has whole groups, so every size is known beforehand."""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from moge_ops.distributed._collectives import filled, gather, reduce_scatter
from moge_ops.distributed._mesh import Plan, flat_group, own_part, size, split
from moge_ops.nn import MoGE, MoGEOutput
from moge_ops.ops._layer import applied
from moge_ops.ops.grouped_gate import Gating
from moge_ops.ops.grouped_mlp import grouped_mlp
from moge_ops.ops.route import route


def gating_of(weights: Tensor, experts: Tensor, num_experts: int) -> Gating:
    """A gating of some tokens, with the counts of these: ``[T, K]``, ``[T, K]`` and ``[E]``."""
    ids = torch.where(experts < 0, num_experts, experts).flatten()  # a slot of no expert
    counts = ids.new_zeros(num_experts + 1).scatter_add_(0, ids.long(), torch.ones_like(ids))
    counts = counts[:num_experts]
    return Gating(weights, experts, counts)


class ExpertParallel(MoGE):
    r"""A :class:`moge_ops.nn.MoGE` over the ranks of a mesh, where every rank has its own tokens.

    ::

        forward   x of this rank -- all-gather --> x of all ranks
                  gate: experts for all tokens; keep the K / n columns of own groups
                  own experts and own part of the shared expert --> partial y of all tokens
                  y of this rank <-- reduce-scatter -- partial y
        backward  the same the other way round

    With T tokens in all, each of n ranks along ``plan.groups`` works on exactly T·K / n rows,
    because every token takes k experts from every group. In the forward pass a rank receives 2·H
    elements per token, times (ranks - 1)/ranks, in the dtype of ``x``; in the backward pass as
    many, and the gradients of the router, whose size does not depend on T. As no size depends on a
    value, nothing is read back to the host, there is no capacity, and nothing is dropped: the layer
    can be captured in a graph, and ``torch.compile(fullgraph=True)`` works.

    On a mesh of two dimensions ``plan.width`` splits F inside every expert too. The width of the
    shared expert is split over all ranks. The one reduce-scatter adds up all partial sums.

    Gradients are those of the *sum* of the ranks' losses, on every rank and for every parameter:
    the backward pass sums the gradients of the replicated ones, gate and router_scale, over the
    ranks. FSDP2 and DDP then take their means over the data-parallel ranks along another dimension.

    Partial outputs are rounded to the dtype of ``x`` and added up in it, and so are gradients. In
    bfloat16 this is one rounding per rank more than in a single process.

    If a rank dies, the others get a RuntimeError: on gloo at once if its connection closes,
    otherwise after the timeout of the process group. The groups of a mesh's dimensions have the
    backend's default timeout, not that of ``init_process_group``, unless ``init_device_mesh`` gets
    another by ``backend_override`` (pytorch/pytorch#119574). A process that
    ends right after its last collective may be aborted by gloo's threads, which let go of its
    tensors under Python's lock (torch 2.13): let a script wait a moment before it ends.

    Parameters, all DTensors on ``mesh``, in state dicts too (shapes are global):
        gate ``[E, H]``, router_scale ``[E]``: replicated.
        w_gate_up: ``[E, 2, F, H]``; w_down: ``[E, H, F]``.
        shared_gate_up: ``[2, S, H]``; shared_down: ``[H, S]``.

    Args:
        moge: The layer, with the same weights on every rank or on the meta device. A rank keeps its
            part. Do not use ``moge`` afterwards: replicated parameters are not copied.
        mesh: With one named dimension, or two.
        plan: What the dimensions split; ``heads`` is not used.
        max_tokens: Most tokens of a rank in any call. Every rank's tokens are padded to this number
            with zero rows, whose outputs are zero, so ranks may have different numbers of tokens,
            or none. Without it all ranks must have equally many tokens in a call.

    Raises:
        ValueError: The ranks do not divide G, F or S, or the plan does not fit the mesh; raised on
            every rank before any communication.

    Source:
        Tang et al. 2025, "Pangu Pro MoE", sections 2 and 4 (arXiv:2505.21411).
    """

    def __init__(
        self,
        moge: MoGE,
        mesh: DeviceMesh,
        plan: Plan | None = None,
        *,
        max_tokens: int | None = None,
    ) -> None:
        plan = Plan() if plan is None else plan
        plan.check(mesh)
        w_gate_up, w_down = moge.w_gate_up, moge.w_down
        if not isinstance(w_gate_up, Tensor) or not isinstance(w_down, Tensor):
            raise ValueError(
                "moge must have plain expert weights in memory: quantised ones are not split"
            )
        if moge.num_null:
            raise ValueError(
                "moge must have no null experts, as ranks exchange equally many rows, got "
                f"num_null={moge.num_null}"
            )
        if moge.activation.interleaved or not moge.activation.gated:
            raise ValueError(
                "moge must have gate and up in two halves, whose width is split, got "
                f"{moge.activation}"
            )
        shared = 0 if moge.shared_down is None else moge.shared_down.shape[1]
        plan.check_sizes(mesh, moge.num_groups, moge.w_down.shape[2], shared)
        # a module keeps its state in __dict__, so this copies options, buffers and hooks
        nn.Module.__init__(self)
        vars(self).update({name: copy.copy(value) for name, value in vars(moge).items()})
        self.mesh, self.plan, self.max_tokens = mesh, plan, max_tokens

        parts = size(mesh, plan.groups)
        (E, H, width), K = moge.w_down.shape, moge.num_groups * moge.k

        names = mesh.mesh_dim_names or ()
        rows = {plan.groups: 0}
        columns = {} if plan.width is None else {plan.width: 2}
        self.gate = split(moge.gate, mesh)
        if moge.router_scale is not None:
            self.router_scale = split(moge.router_scale, mesh)
        self.w_gate_up = split(w_gate_up.view(E, 2, width, -1), mesh, **rows, **columns)
        self.w_down = split(w_down, mesh, **rows, **columns)
        if moge.shared_gate_up is not None and moge.shared_down is not None:
            everywhere = dict.fromkeys(names, 1)
            self.shared_gate_up = split(moge.shared_gate_up.view(2, -1, H), mesh, **everywhere)
            self.shared_down = split(moge.shared_down, mesh, **everywhere)

        # this rank's share: its groups, their columns of the gating, and the first expert
        self.own_groups = moge.num_groups // parts
        part = mesh.get_local_rank(plan.groups)
        self.own_columns = slice(part * K // parts, (part + 1) * K // parts)
        self.first_expert = part * E // parts
        self.group = flat_group(mesh)
        self.routing_of: tuple[int, ...] = (self.group.rank(),)

    def router_weights(self) -> tuple[Tensor, Tensor | None]:
        """The router's parameters, whose gradients add up: each rank's come from its own groups."""
        scale = self.router_scale
        return own_part(self.gate), None if scale is None else own_part(scale)

    def _gathered(self, row_mask: Tensor, rows: int) -> Tensor:
        """``[...] -> [ranks, rows]``: the masks of all ranks, false where there is no token."""
        mask = filled(row_mask.to(torch.uint8).view(-1, 1), rows)
        return gather(mask, self.group).view(self.group.size(), rows).bool()

    def counted(self, row_mask: Tensor | None) -> Tensor | None:
        """As in :class:`moge_ops.nn.MoGE`, for every rank in ``routing_of``; all ranks call it."""
        if row_mask is None:
            return None
        T = row_mask.numel()
        masks = self._gathered(row_mask, T if self.max_tokens is None else self.max_tokens)
        return torch.cat([masks[rank, :T] for rank in self.routing_of])

    def forward(
        self,
        x: Tensor,
        *,
        return_routing: bool = False,
        row_mask: Tensor | None = None,
        routing: Tensor | None = None,
    ) -> Tensor | MoGEOutput:
        """Applies the layer to the tokens of this rank; every rank must call it.

        Args:
            x: ``[..., H]``, this rank's T tokens.
            return_routing: Also return the router's logits ``[T, E]`` and the gating, of this
                rank's tokens.
            row_mask: As in :class:`moge_ops.nn.MoGE`, for this rank's tokens; on all ranks or on
                none. The tokens of all ranks vote together; padding does not vote.
            routing: As in :class:`moge_ops.nn.MoGE`, for this rank's tokens; on all ranks or on
                none. As any rank may own all of a token's experts then, each reserves T·K rows.

        Returns:
            ``[..., H]``, or a :class:`moge_ops.nn.MoGEOutput`.

        Raises:
            ValueError: The last dimension of ``x`` is not H, there are more than ``max_tokens``,
                ``row_mask`` or ``routing`` does not fit, or ``round_to`` is set in training mode.
        """
        H = self.gate.shape[1]
        if x.ndim < 1 or x.shape[-1] != H:
            raise ValueError(f"x must be [..., H={H}], got {list(x.shape)}")
        if self.training and self.round_to is not None:
            raise ValueError(
                f"round_to must be None where ranks share the experts, got {self.round_to}"
            )
        own = x.reshape(-1, H)  # [T, H]
        T = own.shape[0]
        if self.max_tokens is not None:
            if self.max_tokens < T:
                raise ValueError(f"x must have at most max_tokens={self.max_tokens}, got {T}")
            own = filled(own, self.max_tokens)
        if row_mask is not None and row_mask.numel() != T:
            raise ValueError(f"row_mask must have the {T} tokens of x, got {row_mask.numel()}")
        voters = None
        if self.num_voted is not None and (row_mask is not None or self.max_tokens is not None):
            mask = own.new_ones(T, dtype=torch.bool) if row_mask is None else row_mask
            voters = self._gathered(mask, own.shape[0]).flatten()  # [ranks * T]
        tokens = gather(own, self.group)  # [ranks * T, H]

        given = self.given(routing, x.shape[:-1])
        columns, own_groups = self.own_columns, cast("int | None", self.own_groups)
        if given is not None:  # ids of other ranks are then dropped slots, as -1 is
            given = gather(filled(given + 1, own.shape[0]) - 1, self.group)
            columns, own_groups = slice(None), None
        logits, gating = self.router(tokens, voters, given)
        # only the columns of own groups are used, so ids of other ranks need no mask
        experts = gating.experts[:, columns] - self.first_expert
        w_gate_up, w_down = (cast(Tensor, w) for w in (self.w_gate_up, self.w_down))
        w_down = own_part(w_down)
        rows = route(experts, w_down.shape[0], num_groups=own_groups)
        y = grouped_mlp(
            tokens,
            own_part(w_gate_up).flatten(1, 2),
            w_down,
            gating.weights[:, columns],
            rows,
            weight_on=self.weight_on,
            activation=self.activation,
        )
        if self.shared_gate_up is not None and self.shared_down is not None:
            pre = F.linear(tokens, own_part(self.shared_gate_up).flatten(0, 1))
            act = applied(pre, self.activation)
            y = y + F.linear(act, own_part(self.shared_down))
        y = reduce_scatter(y, self.group)[:T].reshape(x.shape)
        return MoGEOutput(y, *self._routing(logits, gating, T)) if return_routing else y

    def _routing(self, logits: Tensor, gating: Gating, T: int) -> tuple[Tensor, Gating]:
        """The routing of the ranks in ``routing_of``, T tokens of each, without padding.

        Only this rank's rows have gradients, because every rank has its own loss.
        """

        def rows(x: Tensor) -> Tensor:
            blocks = x.view(self.group.size(), -1, x.shape[1])
            parts = [blocks[rank, :T] for rank in self.routing_of]
            return torch.cat(
                [
                    part if rank == self.group.rank() else part.detach()
                    for rank, part in zip(self.routing_of, parts, strict=True)
                ]
            )

        chosen = gating_of(rows(gating.weights), rows(gating.experts), logits.shape[1])
        return rows(logits), chosen
