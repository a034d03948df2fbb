"""The reference model over a mesh: its layers with their collectives in H2P's places."""

from typing import TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from moge_ops.distributed._collectives import filled, gather, reduce_scatter
from moge_ops.distributed._mesh import Plan, check_divides, own_part, size, split
from moge_ops.distributed.expert_parallel import ExpertParallel, gating_of
from moge_ops.models.pangu_moe import Attention, Context, Layer, PanguMoEForCausalLM
from moge_ops.nn import MoGE, MoGEOutput
from moge_ops.ops.grouped_gate import Gating

Module = TypeVar("Module", MoGE, PanguMoEForCausalLM)


class Shards:
    """How tokens lie on the ranks that share attention, those along the dimension ``heads``.

    They have the same T rows of a batch. Outside of attention each has ``ceil(T / ranks)`` of
    them, in order, the last ones filled up with rows of no meaning.
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
        """``[T_r, H] -> [T, H]`` for work that each rank does a part of."""
        return x if self.group is None else gather(x, self.group)[:T]

    def add_up(self, x: Tensor) -> Tensor:
        """``[T, H] -> [T_r, H]``: own rows of the sum of the ranks' parts."""
        return x if self.group is None else reduce_scatter(self._filled(x), self.group)

    def whole(self, x: Tensor, T: int) -> Tensor:
        """``[T_r, H] -> [T, H]`` for work that all ranks do alike, so that gradients are equal.

        Each takes its own rows' gradient from its own work.
        """
        if self.group is None:
            return x
        with torch.no_grad():
            rows = list(gather(x, self.group).tensor_split(self.ranks))
        rows[self.rank] = x
        return torch.cat(rows)[:T]


class _Embedding(nn.Module):
    """``[B, L] -> [T_r, H]``; all ids are looked up, so that all ranks refuse a wrong one."""

    def __init__(self, embed: nn.Embedding, mesh: DeviceMesh, shards: Shards) -> None:
        super().__init__()
        self.weight, self.shards = split(embed.weight, mesh), shards

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.shards.own(F.embedding(input_ids.flatten(), own_part(self.weight)))


class _Norm(nn.Module):
    """RMSNorm of rows that other ranks, but those along ``alike``, do not have."""

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
    """Own heads' queries, keys and values; a parameter of each, as each is split on its own."""

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

        # three products: to put the weights together would copy them in every step
        return torch.cat([F.linear(x, part(f"{n}_weight"), part(f"{n}_bias")) for n in "qkv"], -1)


class _Output(nn.Module):
    """``[B, L, own heads] -> [T_r, H]``: the ranks' parts are added up, and then the bias."""

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

    The norms see each token once. Before attention the gather comes after the norm; after it a
    reduce-scatter takes the place of an all-reduce.
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
        # Module.__setattr__ takes any module where a Linear was
        self.attention.qkv, self.attention.o = cast(nn.Linear, qkv), cast(nn.Linear, output)
        self.attention.heads //= shards.ranks
        self.attention.kv_heads //= shards.ranks
        self.moge_norm = _Norm(layer.moge_norm, mesh)
        self.moge = ExpertParallel(layer.moge, mesh, plan, max_tokens=max_tokens)
        if shards.group is not None:  # the router's report is on the tokens of all these ranks
            self.moge.routing_of = tuple(
                dist.get_group_rank(self.moge.group, rank)
                for rank in dist.get_process_group_ranks(shards.group)
            )

    def forward(
        self, x: Tensor, context: Context, kv: Tensor | None
    ) -> tuple[Tensor, Tensor, Gating]:
        """As :meth:`moge_ops.models.pangu_moe.Layer.forward`."""
        B, L = context.shape
        everyone = self.shards.gather(self.attention_norm(x), B * L)
        x = x + self.attention(everyone.view(B, L, -1), context, kv)
        voters = None
        if self.moge.num_voted is not None:  # rows of no meaning do not vote
            voters = self.shards.own(x.new_ones(B * L, 1)).flatten().bool()
        out: MoGEOutput = self.moge(self.moge_norm(x), return_routing=True, row_mask=voters)
        x = x + out.y
        if self.last:
            x = self.shards.whole(x, B * L).view(B, L, -1)
        # the last of these ranks have rows of no meaning
        logits, weights, experts = (z[: B * L] for z in (out.logits, *out.gating[:2]))
        return x, logits, gating_of(weights, experts, logits.shape[1])


def parallelize(
    module: Module, mesh: DeviceMesh, plan: Plan, *, max_tokens: int | None = None
) -> Module:
    """Spreads a layer, or the reference model, over the ranks of a mesh.

    An :class:`moge_ops.nn.MoGE` becomes an :class:`ExpertParallel`. In the model every layer's
    does, and tokens are split over all ranks of the mesh between the parts: embedding, norms and
    residual sums see each token on one rank only. Attention gathers them along ``plan.heads``,
    after its norm, and each of these ranks has its share of the heads; along the mesh's other
    dimension every rank has rows of the batch of its own. The biases of the output projection are
    added once. Any number of tokens will do; ranks are filled up.

    Call the model as before, with the same ``input_ids`` on all ranks along ``plan.heads`` and
    other rows of the batch, equally many unless ``max_tokens`` is given, on the others. Logits,
    losses and router reports are those of these rows, on all ranks along ``plan.heads`` alike;
    hidden states but the last are those of a rank's own tokens. Gradients are those of the sum of
    the losses of the rows' ranks, whole on every rank. Caches hold own heads. All ranks have to
    generate equally many tokens: without an end-of-text id, if they have rows of their own.

    Args:
        module: With the same weights on every rank, or on the meta device; changed in place where
            it is a model, and not to be used afterwards where it is a layer.
        mesh: What ``plan`` splits. Dimensions for FSDP2 are not part of it: ``mesh["ep", "tp"]``.
        plan: Which dimension splits what.
        max_tokens: As in :class:`ExpertParallel`: most tokens that a rank has in the expert
            layers, ``ceil(B L / ranks along plan.heads)``.

    Returns:
        The parallel module, all of whose parameters are DTensors on ``mesh``.

    Raises:
        TypeError: ``module`` is neither.
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
    module.kv_heads //= shards.ranks
    model = cast(nn.Module, module)
    model.embed = _Embedding(module.embed, mesh, shards)
    for i, layer in enumerate(module.layers):  # one by one, so that the whole of one is freed
        last = i + 1 == len(module.layers)
        module.layers[i] = ParallelLayer(
            cast(Layer, layer), mesh, plan, shards, last=last, max_tokens=max_tokens
        ).train(layer.training)
    model.norm = _Norm(module.norm, mesh, alike=plan.heads)
    model.lm_head = _Head(module.lm_head, mesh, alike=plan.heads)
    return module
