"""The reference model over a mesh, with its collectives where H2P has them."""

from dataclasses import replace
from typing import TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from moge_ops.distributed._collectives import filled, gather, reduce_scatter
from moge_ops.distributed._mesh import Plan, check_divides, own_part, size, split
from moge_ops.distributed.expert_parallel import ExpertParallel, gating_of
from moge_ops.models.cache import Cache
from moge_ops.models.pangu_moe import Attention, Context, Layer, PanguMoEForCausalLM
from moge_ops.nn import MoGE, MoGEOutput
from moge_ops.ops.grouped_gate import Gating

Module = TypeVar("Module", MoGE, PanguMoEForCausalLM)


class Shards:
    """How tokens are spread over the ranks that share attention, those along dimension ``heads``.

    These ranks have the same T tokens. Outside of attention each has its own
    ``T_r = ceil(T / ranks)`` of them, in order; padding fills up the last ranks.
    """

    def __init__(self, mesh: DeviceMesh, heads: str | None) -> None:
        self.group: dist.ProcessGroup | None = None if heads is None else mesh.get_group(heads)
        self.ranks = size(mesh, heads)
        self.rank = 0 if self.group is None else self.group.rank()

    def _filled(self, x: Tensor) -> Tensor:
        return filled(x, -(-x.shape[0] // self.ranks) * self.ranks)

    def own(self, x: Tensor) -> Tensor:
        """``[T, H] -> [T_r, H]``: this rank's rows."""
        return self._filled(x).tensor_split(self.ranks)[self.rank]

    def gather(self, x: Tensor, T: int) -> Tensor:
        """``[T_r, H] -> [T, H]`` for work of which each rank does a part."""
        return x if self.group is None else gather(x, self.group)[:T]

    def add_up(self, x: Tensor) -> Tensor:
        """``[T, H] -> [T_r, H]``: this rank's rows of the sum of the ranks' parts."""
        return x if self.group is None else reduce_scatter(self._filled(x), self.group)

    def whole(self, x: Tensor, T: int) -> Tensor:
        """``[T_r, H] -> [T, H]`` for work that all ranks do alike.

        Their gradients are equal, so each rank takes its rows' gradient from its own work.
        """
        if self.group is None:
            return x
        with torch.no_grad():
            rows = list(gather(x, self.group).tensor_split(self.ranks))
        rows[self.rank] = x
        return torch.cat(rows)[:T]


class _Embedding(nn.Module):
    """``[B, L] -> [T_r, H]``; looks up all ids, so that all ranks refuse a wrong one."""

    def __init__(self, embed: nn.Embedding, mesh: DeviceMesh, shards: Shards) -> None:
        super().__init__()
        self.weight, self.shards = split(embed.weight, mesh), shards

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.shards.own(F.embedding(input_ids.flatten(), own_part(self.weight)))


class _Norm(nn.Module):
    """RMSNorm of rows that no other rank has, except those along ``alike``."""

    def __init__(self, norm: nn.RMSNorm, mesh: DeviceMesh, alike: str | None = None) -> None:
        super().__init__()
        self.weight, self.eps, self.alike = split(norm.weight, mesh), norm.eps, alike

    def forward(self, x: Tensor) -> Tensor:
        weight = own_part(self.weight, alike=self.alike)
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)


class _Head(nn.Module):
    """The projection to the vocabulary, alike on all ranks that share attention."""

    def __init__(self, head: nn.Linear, mesh: DeviceMesh, alike: str | None) -> None:
        super().__init__()
        self.weight, self.alike = split(head.weight, mesh), alike

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, own_part(self.weight, alike=self.alike))


class _QKV(nn.Module):
    """Queries, keys and values of own heads, each with parameters that are split on their own."""

    def __init__(self, attention: Attention, mesh: DeviceMesh, heads: str | None) -> None:
        super().__init__()
        rows = {} if heads is None else {heads: 0}
        A, C, D = attention.heads, attention.kv_heads, attention.head_dim
        for kind in ("weight", "bias"):
            parts = getattr(attention.qkv, kind).split([A * D, C * D, C * D])
            for name, part in zip("qkv", parts, strict=True):
                self.register_parameter(f"{name}_{kind}", split(part, mesh, **rows))

    def forward(self, x: Tensor) -> Tensor:
        def part(name: str) -> Tensor:
            return own_part(self.get_parameter(name))

        # three products, because joining the weights would copy them in every step
        return torch.cat([F.linear(x, part(f"{n}_weight"), part(f"{n}_bias")) for n in "qkv"], -1)


class _Output(nn.Module):
    """``[B, L, own heads] -> [T_r, H]``: adds up the ranks' parts, then adds the bias."""

    def __init__(
        self, linear: nn.Linear, mesh: DeviceMesh, heads: str | None, shards: Shards
    ) -> None:
        super().__init__()
        self.weight = split(linear.weight, mesh, **({} if heads is None else {heads: 1}))
        self.bias, self.shards = split(cast(Tensor, linear.bias), mesh), shards

    def forward(self, y: Tensor) -> Tensor:
        part = F.linear(y.flatten(0, 1), own_part(self.weight))
        return self.shards.add_up(part) + own_part(self.bias)


class ParallelLayer(nn.Module):
    """A layer on this rank's tokens: ``[T_r, H] -> [T_r, H]``; the last one returns ``[B, L, H]``.

    The norms see each token on one rank only: the gather for attention comes after the norm, and a
    reduce-scatter after attention takes the place of an all-reduce.
    """

    def __init__(
        self,
        layer: Layer,
        mesh: DeviceMesh,
        plan: Plan,
        shards: Shards,
        *,
        last: bool,
        max_tokens: int | None,
    ) -> None:
        super().__init__()
        self.shards, self.last = shards, last
        self.attention_norm = _Norm(layer.attention_norm, mesh)
        self.attention = layer.attention
        qkv = _QKV(self.attention, mesh, plan.heads)
        output = _Output(self.attention.o, mesh, plan.heads, shards)
        # Module.__setattr__ lets any module replace a Linear
        self.attention.qkv, self.attention.o = cast(nn.Linear, qkv), cast(nn.Linear, output)
        self.attention.heads //= shards.ranks
        self.attention.kv_heads //= shards.ranks
        self.moge_norm = _Norm(layer.moge_norm, mesh)
        self.moge = ExpertParallel(layer.moge, mesh, plan, max_tokens=max_tokens)
        if shards.group is not None:  # each of these ranks reports the routing of all their tokens
            self.moge.routing_of = tuple(
                dist.get_group_rank(self.moge.group, rank)
                for rank in dist.get_process_group_ranks(shards.group)
            )

    def forward(
        self,
        x: Tensor,
        context: Context,
        cache: Cache | None = None,
        routing: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Gating]:
        """As :meth:`moge_ops.models.pangu_moe.Layer.forward`."""
        B, L = context.shape
        everyone = self.shards.gather(self.attention_norm(x), B * L)
        x = x + self.attention(everyone.view(B, L, -1), context, cache)
        rows = x.new_ones(B, L) if context.rows is None else context.rows
        mask = self.shards.own(rows.to(torch.uint8).view(-1, 1)).flatten().bool()
        if routing is not None:
            routing = self.shards.own(routing.flatten(0, 1))
        out: MoGEOutput = self.moge(
            self.moge_norm(x), return_routing=True, row_mask=mask, routing=routing
        )
        x = x + out.y
        if self.last:
            x = self.shards.whole(x, B * L).view(B, L, -1)
        # without the padding of the last ranks
        logits, weights, experts = (z[: B * L] for z in (out.logits, *out.gating[:2]))
        return x, logits, gating_of(weights, experts, logits.shape[1])


def parallelize(
    module: Module, mesh: DeviceMesh, plan: Plan, *, max_tokens: int | None = None
) -> Module:
    """Spreads a layer, or the reference model, over the ranks of a mesh.

    An :class:`moge_ops.nn.MoGE` becomes an :class:`ExpertParallel`, and so does that of every layer
    of the model. Between the parts of the model all ranks of the mesh share the tokens: embedding,
    norms and residual sums see each token on one rank only. Attention gathers the tokens along
    ``plan.heads``, after its norm, and each of these ranks has its share of the heads. Along the
    mesh's other dimension every rank has its own rows of the batch. Any number of tokens is
    allowed; padding makes it a multiple of the ranks.

    Call the model as before. All ranks along ``plan.heads`` need the same ``input_ids``. Ranks
    along the other dimension have other rows of the batch, equally many unless ``max_tokens`` is
    given. Logits, losses and reports of the routers are those of these rows, the same on all ranks
    along ``plan.heads``; hidden states, except the last, are those of a rank's own tokens.
    Gradients are those of the sum of the losses over the ranks that have rows of their own, and
    whole on every rank. A cache holds a rank's own heads. All ranks must generate equally many
    tokens: ranks with rows of their own have to generate without an end-of-text id.

    Args:
        module: With the same weights on every rank, or on the meta device. A model is changed in
            place; do not use a layer afterwards.
        mesh: The dimensions that ``plan`` names, without those of FSDP2: ``mesh["ep", "tp"]``.
        plan: Which dimension splits what.
        max_tokens: As in :class:`ExpertParallel`: most tokens that a rank has in the expert
            layers, ``ceil(B·L / ranks along plan.heads)``.

    Returns:
        The parallel module. All its parameters are DTensors on ``mesh``. Heads that predict further
        tokens are left out: ``num_nextn_predict_layers`` of its config is 0.

    Raises:
        TypeError: ``module`` is neither of the two.
        ValueError: The plan names a dimension that the mesh does not have, or ranks do not divide
            what they split; raised on every rank before any communication and before any change.

    Source:
        Tang et al. 2025, "Pangu Pro MoE", H2P (arXiv:2505.21411).
    """
    if isinstance(module, MoGE):
        return cast(Module, ExpertParallel(module, mesh, plan, max_tokens=max_tokens))
    if not isinstance(module, PanguMoEForCausalLM):
        raise TypeError(f"module must be MoGE or PanguMoEForCausalLM, got {type(module).__name__}")
    c = module.config
    plan.check(mesh)
    plan.check_sizes(mesh, c.num_groups, c.moe_intermediate_size, c.shared_expert_intermediate_size)
    for name in ("num_attention_heads", "num_key_value_heads"):
        check_divides(repr(plan.heads), size(mesh, plan.heads), name, getattr(c, name))

    shards = Shards(mesh, plan.heads)
    module.mtp, module.config = nn.ModuleList(), replace(c, num_nextn_predict_layers=0)
    module.kv_heads //= shards.ranks
    model = cast(nn.Module, module)
    model.embed = _Embedding(module.embed, mesh, shards)
    for i, layer in enumerate(module.layers):  # one by one: a whole layer is freed before the next
        last = i + 1 == len(module.layers)
        module.layers[i] = ParallelLayer(
            cast(Layer, layer), mesh, plan, shards, last=last, max_tokens=max_tokens
        ).train(layer.training)
    model.norm = _Norm(module.norm, mesh, alike=plan.heads)
    model.lm_head = _Head(module.lm_head, mesh, alike=plan.heads)
    return module
