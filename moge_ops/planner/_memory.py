"""Bytes of every part of a plan, counted from the shapes that the reference model has on a rank.

Legend: T tokens of a rank of attention, T_r those that it has between the parts, T_m those of all
ranks of the mesh, padding included; H, E, K, F, S as in the model, A and C heads, D their width.
"""

import math
from typing import NamedTuple

from moge_ops.models.pangu_moe import PanguMoEConfig
from moge_ops.planner._layout import Layout, is_top_k, stages

Shape = tuple[int, ...]
FLOAT, INT, LONG = 4, 4, 8


class Precision(NamedTuple):
    """Bytes of a number of each kind.

    Attributes:
        item: Weights, gradients, activations, cache and what links carry.
        matrix: Weights of attention, experts and shared expert: 1 for W8A8, whose rows then have a
            float32 scale each, and whose products take half the time.
    """

    item: int = 2
    matrix: int = 2

    @property
    def states(self) -> int:
        """AdamW's two moments, and a float32 copy of narrower weights."""
        return 2 * FLOAT + (FLOAT if self.item < FLOAT else 0)


class Memory(NamedTuple):
    """Bytes of one device, the fullest stage."""

    parameters: int = 0
    gradients: int = 0
    states: int = 0
    activations: int = 0
    cache: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


class Work(NamedTuple):
    """What one forward has: ``rows`` sequences of ``length`` new tokens each.

    ``context`` is the length with the cached tokens, for which the cache has room.
    """

    rows: int
    length: int
    context: int

    def tokens(self, layout: Layout) -> tuple[int, int, int]:
        """T, T_r and T_m."""
        T = self.rows * self.length
        own = -(-T // layout.heads)
        return T, own, own * layout.ranks


def layer_shapes(config: PanguMoEConfig, layout: Layout) -> dict[str, Shape]:
    """Shapes of a rank's parameters in one layer."""
    c, hp, n = config, layout.heads, layout.ranks
    H, E, D = c.hidden_size, c.num_experts, c.head_dim
    q, kv = c.num_attention_heads * D // hp, c.num_key_value_heads * D // hp
    F, S = c.moe_intermediate_size // layout.tp, c.shared_expert_intermediate_size
    S = S if is_top_k(c) else S // n
    shapes: dict[str, Shape] = {
        "attention_norm": (H,),
        "moge_norm": (H,),
        "o_weight": (H, q),
        "o_bias": (H,),
        "gate": (E, H),
        "router_scale": (E,),
        "w_down": (E // layout.ep, H, F),
    }
    shapes |= {"shared_down": (H, S)} if S else {}
    if n == 1:  # the model as it is, which has one product for each of these
        shapes |= {"qkv_weight": (q + 2 * kv, H), "qkv_bias": (q + 2 * kv,)}
        shapes |= {"w_gate_up": (E, 2 * F, H)}
        return shapes | ({"shared_gate_up": (2 * S, H)} if S else {})
    for name, rows in (("q", q), ("k", kv), ("v", kv)):
        shapes |= {f"{name}_weight": (rows, H), f"{name}_bias": (rows,)}
    shapes |= {"w_gate_up": (E // layout.ep, 2, F, H)}
    return shapes | ({"shared_gate_up": (2, S, H)} if S else {})


def outer_shapes(config: PanguMoEConfig, *, first: bool, last: bool) -> dict[str, Shape]:
    """Shapes of the parameters beside the layers, which every rank of a stage has whole."""
    V, H = config.vocab_size, config.hidden_size
    found: dict[str, Shape] = {"embed": (V, H)} if first else {}
    return found | ({"norm": (H,), "lm_head": (V, H)} if last else {})


def _quantized(name: str) -> bool:
    return name.startswith(("w_", "shared_")) or name.endswith("_weight")


def numel(shape: Shape, parts: int = 1) -> int:
    """Elements of the largest of the parts that FSDP2 makes of the first dimension."""
    return -(-shape[0] // parts) * math.prod(shape[1:])


def weight_bytes(name: str, shape: Shape, precision: Precision, parts: int = 1) -> int:
    """Bytes of a parameter, with the scales of its rows if it is quantised."""
    count = numel(shape, parts)
    if precision.matrix == precision.item or not _quantized(name):
        return count * precision.item
    return count * precision.matrix + count // shape[-1] * FLOAT


def saved_attention(config: PanguMoEConfig, layout: Layout, work: Work, item: int) -> int:
    """Bytes that both norms and attention keep for the backward pass of a layer.

    A norm keeps its input and its output before the weight in float32. Attention keeps its input,
    the projections (a view of them is the values), the rotated queries and keys, its output and the
    logarithm of each query's sum.
    """
    T, own, _ = work.tokens(layout)
    c, hp = config, layout.heads
    A, C, D, H = c.num_attention_heads // hp, c.num_key_value_heads // hp, c.head_dim, c.hidden_size
    norms = 2 * own * (2 * H + 1) * FLOAT
    heads = (A + C) + (A + 2 * C) + A
    return norms + own * hp * H * item + T * (heads * D * item + A * FLOAT)


def saved_experts(config: PanguMoEConfig, layout: Layout, work: Work, item: int) -> int:
    """Bytes that the expert layer keeps: gathered tokens, routing, and pre-activations.

    The experts and weights of all groups are kept, since a rank's columns are a view of them.
    """
    c, n = config, layout.ranks
    _, own, everyone = work.tokens(layout)
    H, E, K = c.hidden_size, c.num_experts, c.num_experts_per_tok
    F, S = c.moe_intermediate_size // layout.tp, c.shared_expert_intermediate_size
    if is_top_k(c):  # rows of other ranks come after the gate, as many as leave if all is even
        rows, tokens, shared = own * K, own, S
        arrived = rows * H * item * (2 if layout.ep > 1 else 0)  # rows there and back
    else:
        rows, tokens, shared, arrived = everyone * K // layout.ep, everyone, S // n, 0
    gate = tokens * (H * item + E * item + K * (INT + FLOAT))
    routing = 2 * rows * INT + (E // layout.ep + 1) * INT
    return gate + routing + arrived + rows * 2 * F * item + tokens * 3 * shared * item


def saved_loss(config: PanguMoEConfig, layout: Layout, work: Work, item: int) -> int:
    """What the load-balance loss keeps of a layer: frequencies, and logits that are copies."""
    E, (_, own, _) = config.num_experts, work.tokens(layout)
    copied = layout.ranks > 1 and not is_top_k(config)
    return E * FLOAT + (own * layout.heads * E * item if copied else 0)


def saved_layer(config: PanguMoEConfig, layout: Layout, work: Work, item: int) -> int:
    """Bytes that a layer keeps until its backward pass."""
    _, own, _ = work.tokens(layout)
    loss, entry = saved_loss(config, layout, work, item), own * config.hidden_size * item
    if layout.recompute != "none" and layout.ranks == 1:
        loss += own * config.num_experts * item  # else the gate's own copy, which is gone
    if layout.recompute == "full":
        return loss + entry
    attention = saved_attention(config, layout, work, item)
    if layout.recompute == "selective":
        return loss + attention + entry
    return loss + attention + saved_experts(config, layout, work, item)


def rotation_bytes(config: PanguMoEConfig, work: Work, item: int) -> int:
    """Cosines of every position and pair, and sines with both signs."""
    return work.length * config.head_dim * item * 3 // 2


def saved_outside(
    config: PanguMoEConfig, layout: Layout, work: Work, item: int, *, first: bool, last: bool
) -> int:
    """Bytes that embedding, rotation, last norm, head and cross-entropy keep."""
    (T, own, _), H, V = work.tokens(layout), config.hidden_size, config.vocab_size
    found = rotation_bytes(config, work, item)
    if first:
        found += T * LONG
        if item == FLOAT or layout.recompute == "full":  # a rank's rows are a view of all rows
            found += (layout.heads - 1) * own * H * item
    if last:
        targets = work.rows * (work.length - 1)
        found += T * ((2 * H + 1) * FLOAT + H * item)
        if item == FLOAT:  # the last norm's rows are a view, which padding ends
            found += (own * layout.heads - T) * H * item
        found += targets * (V * FLOAT + LONG) + FLOAT
    return found


def cache_bytes(config: PanguMoEConfig, layout: Layout, work: Work, item: int) -> int:
    """Keys and values of a rank's own heads, for the whole context of its rows."""
    heads = config.num_key_value_heads // layout.heads * config.head_dim
    return 2 * config.num_hidden_layers * heads * item * work.rows * work.context


def _buffers(
    config: PanguMoEConfig, layout: Layout, work: Work, item: int, *, train: bool, last: bool = True
) -> int:
    """The largest that a step takes for a while, beside what is kept.

    In an expert layer: the tokens of all ranks and their partial outputs, the rows' outputs and
    activations, and in inference the pre-activations too. In the head, which the last stage has:
    logits, and in training their float32 copies and gradients. With recomputation: what one layer
    keeps besides.
    """
    c = config
    T, own, everyone = work.tokens(layout)
    H, K, F = c.hidden_size, c.num_experts_per_tok, c.moe_intermediate_size // layout.tp
    rows = own * K if is_top_k(c) else everyone * K // layout.ep
    layer = (2 * everyone * H + rows * (H + (1 if train else 3) * F)) * item
    if layout.recompute != "none":
        layer += saved_experts(c, layout, work, item)
        if layout.recompute == "full":
            layer += saved_attention(c, layout, work, item)
    logits = T * (2 * item + 2 * FLOAT) if train else work.rows * (item + FLOAT)
    return max(layer, logits * c.vocab_size if last else 0)


def _copies_buffers(
    config: PanguMoEConfig, layout: Layout, precision: Precision, stage: int
) -> int:
    """What is whole for a while although the copies split it.

    As FSDP2 does where each layer is wrapped, and then the model: what is beside the layers is
    whole from the forward pass to the end of the backward pass, and so are its gradients.
    """
    outer = outer_shapes(config, first=stage == 0, last=stage == layout.pp - 1)
    layer = layer_shapes(config, layout)
    size = 0
    if layout.shard >= 2:
        size += precision.item * sum(numel(s) for s in (*outer.values(), *layer.values()))
    if layout.shard == 3:  # a layer is gathered, and the next one while it works
        for times, shapes in ((1, outer), (2, layer)):
            size += times * sum(weight_bytes(n, s, precision) for n, s in shapes.items())
    return size


def stage_parameters(
    config: PanguMoEConfig, layout: Layout, precision: Precision, stage: int, parts: int = 1
) -> tuple[int, int]:
    """Elements and bytes of a rank's parameters in one stage, or of its part of their copies."""
    outer = outer_shapes(config, first=stage == 0, last=stage == layout.pp - 1)
    groups = [(1, outer), (stages(config, layout.pp)[stage], layer_shapes(config, layout))]
    count = size = 0
    for times, shapes in groups:
        count += times * sum(numel(shape, parts) for shape in shapes.values())
        size += times * sum(weight_bytes(n, s, precision, parts) for n, s in shapes.items())
    return count, size


def inference_memory(
    config: PanguMoEConfig, layout: Layout, precision: Precision, work: Work
) -> Memory:
    """Bytes of a device that generates."""
    _, weights = stage_parameters(config, layout, precision, 0)
    cache = cache_bytes(config, layout, work, precision.item)
    buffers = _buffers(config, layout, work, precision.item, train=False)
    return Memory(parameters=weights, cache=cache, buffers=buffers)


def training_memory(
    config: PanguMoEConfig, layout: Layout, precision: Precision, work: Work, micro_batches: int
) -> Memory:
    """Bytes of a device of the fullest stage; ``work`` is that of one micro-batch.

    Stage s of a schedule of one forward, one backward keeps min(micro-batches, pp - s) of them.
    """
    return max(
        (
            stage_memory(config, layout, precision, work, micro_batches, stage)
            for stage in sorted({0, min(1, layout.pp - 1), layout.pp - 1})
        ),
        key=lambda memory: memory.total,
    )


def stage_memory(
    config: PanguMoEConfig,
    layout: Layout,
    precision: Precision,
    work: Work,
    micro_batches: int,
    stage: int,
) -> Memory:
    """Bytes of a device of one stage."""
    item, dp, pp = precision.item, layout.dp, layout.pp
    count, size = stage_parameters(config, layout, precision, stage)
    part, part_size = stage_parameters(config, layout, precision, stage, dp)
    layers = stages(config, pp)[stage]
    kept = layers * saved_layer(config, layout, work, item)
    last = stage == pp - 1
    kept += saved_outside(config, layout, work, item, first=stage == 0, last=last)
    buffers = _buffers(config, layout, work, item, train=True, last=last)
    buffers += _copies_buffers(config, layout, precision, stage)
    return Memory(
        parameters=part_size if layout.shard == 3 else size,
        gradients=(part if layout.shard >= 2 else count) * item,
        states=(part if layout.shard >= 1 else count) * precision.states,
        activations=kept * min(micro_batches, pp - stage),
        buffers=buffers,
    )
