"""Modelled seconds of a step: rooflines of its products, and bytes over links, one after another.

Legend as in ``_memory``. Latencies, launches, element-wise work and the overlap of communication
with computation are left out, as in ``make balance``.
"""

from typing import NamedTuple

from moge_ops.models.pangu_moe import PanguMoEConfig
from moge_ops.planner._cost import (
    Chip,
    dense_seconds,
    exchanged_seconds,
    gather_seconds,
    ring_seconds,
    routed_seconds,
)
from moge_ops.planner._layout import Layout, is_top_k, stages
from moge_ops.planner._memory import (
    Precision,
    Work,
    layer_shapes,
    numel,
    outer_shapes,
    stage_parameters,
)


class Times(NamedTuple):
    """Modelled seconds of a step.

    Attributes:
        attention: Projections, scores, and reading the cache.
        experts: Router, routed experts and shared expert.
        head: The projection to the vocabulary.
        links: Tokens between ranks, of attention, experts and pipeline stages.
        gradients: Sums over ranks, and parameters that the copies gather.
        update: The optimizer, as a roofline of its memory.
        bubble: Waiting of the pipeline's stages.
    """

    attention: float = 0.0
    experts: float = 0.0
    head: float = 0.0
    links: float = 0.0
    gradients: float = 0.0
    update: float = 0.0
    bubble: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self)


class Setting(NamedTuple):
    """What all plans of a search share."""

    config: PanguMoEConfig
    chip: Chip
    precision: Precision

    @property
    def speed(self) -> float:
        """Products a second over those of the chip: twice as many of int8."""
        return 2.0 if self.precision.matrix == 1 else 1.0


def attention_seconds(s: Setting, layout: Layout, work: Work) -> float:
    """One layer, forward: two projections, and for every pair of a query and a key 4·D FLOPs."""
    c, T = s.config, work.rows * work.length
    q = c.num_attention_heads * c.head_dim // layout.heads
    kv = c.num_key_value_heads * c.head_dim // layout.heads
    H, before = c.hidden_size, work.context - work.length
    rates = (s.chip, s.precision.matrix, s.speed)
    projections = dense_seconds(T, H * (q + 2 * kv), *rates) + dense_seconds(T, q * H, *rates)
    pairs = work.rows * (work.length * before + work.length * (work.length + 1) / 2)
    read = work.rows * before * 2 * kv * s.precision.item / s.chip.bytes
    return projections + max(4 * pairs * q / s.chip.flops, read)


def expert_layer_seconds(s: Setting, layout: Layout, work: Work) -> float:
    """One layer, forward: router, the slowest rank's experts, its part of the shared expert."""
    c = s.config
    _, own, everyone = work.tokens(layout)
    tokens, S = everyone, c.shared_expert_intermediate_size / layout.ranks
    if is_top_k(c):
        tokens, S = own, float(c.shared_expert_intermediate_size)
    H, k = c.hidden_size, c.num_experts_per_tok // c.num_groups
    sizes = (c.num_experts, c.num_groups, k, H, c.moe_intermediate_size // layout.tp)
    precision = (s.precision.matrix, s.speed)
    routed = routed_seconds(everyone, sizes, layout.ep, s.chip, *precision)
    router = dense_seconds(tokens, c.num_experts * H, s.chip, s.precision.item)
    shared = dense_seconds(tokens, 2 * S * H, s.chip, *precision)
    return router + routed + shared + dense_seconds(tokens, S * H, s.chip, *precision)


def head_seconds(s: Setting, tokens: int) -> float:
    """The projection to the vocabulary, forward; every rank has it whole."""
    return dense_seconds(
        tokens, s.config.vocab_size * s.config.hidden_size, s.chip, s.precision.item
    )


def link_seconds(s: Setting, layout: Layout, work: Work) -> tuple[float, float]:
    """One layer, forward: of attention, and of the experts."""
    c = s.config
    _, own, everyone = work.tokens(layout)
    token = c.hidden_size * s.precision.item
    heads = gather_seconds(layout.heads, own, token, s.chip)
    if is_top_k(c):
        sizes = (c.num_experts, c.num_groups, c.num_experts_per_tok // c.num_groups)
        return heads, exchanged_seconds(everyone, sizes, layout.ep, token, s.chip)
    return heads, gather_seconds(layout.ranks, own, token, s.chip)


def inference_times(s: Setting, layout: Layout, work: Work) -> Times:
    """A step that generates a token of every row, or one that reads prompts."""
    L = s.config.num_hidden_layers
    return Times(
        attention=L * attention_seconds(s, layout, work),
        experts=L * expert_layer_seconds(s, layout, work),
        head=head_seconds(s, work.rows),
        links=L * sum(link_seconds(s, layout, work)),
    )


def mesh_sums(s: Setting, layout: Layout, stage: int) -> float:
    """Sums, in each backward pass, of gradients that ranks of a mesh have parts of.

    Embedding, norms, router and output bias are on all ranks, attention's own heads on those along
    the other dimension. The last norm and the head have equal gradients along the heads.
    """
    c, n, hp = s.config, layout.ranks, layout.heads
    last = stage == layout.pp - 1
    outer = outer_shapes(c, first=stage == 0, last=last)
    shapes = layer_shapes(c, layout)
    layers = stages(c, layout.pp)[stage]
    alone = ("w_", "shared_")
    of_heads = [k for k in shapes if k[:2] in ("q_", "k_", "v_") or k == "o_weight"]
    rest = [k for k in shapes if k not in of_heads and not k.startswith(alone)]
    everywhere = layers * sum(numel(shapes[k]) for k in rest)
    everywhere += numel(outer["embed"]) if "embed" in outer else 0
    alike = layers * sum(numel(shapes[k]) for k in of_heads)
    alike += sum(numel(outer[k]) for k in ("norm", "lm_head") if k in outer)
    item = s.precision.item
    return 2 * ring_seconds(n, 1, everywhere * item, s.chip) + 2 * ring_seconds(
        n // hp, hp, alike * item, s.chip
    )


def copy_sums(s: Setting, layout: Layout, stage: int, micro_batches: int) -> float:
    """What the copies exchange in a step.

    Without ZeRO, or with ZeRO-1, gradients are summed once; whole gradients or updated parameters
    take as many bytes. ZeRO-2 has no place for whole gradients, so each micro-batch is summed.
    ZeRO-3 gathers parameters in each forward and backward pass instead of after the update.
    """
    size = stage_parameters(s.config, layout, s.precision, stage)[1]
    once = ring_seconds(layout.dp, layout.ranks * layout.pp, size, s.chip)
    scattered = micro_batches if layout.shard >= 2 else 1
    gathered = 2 * micro_batches if layout.shard == 3 else 1
    return (scattered + gathered) * once


def training_times(s: Setting, layout: Layout, work: Work, micro_batches: int) -> Times:
    """A step of training; ``work`` is that of one micro-batch.

    A backward pass has twice the products of the forward pass, and the same communication the other
    way round. The slowest stage sets the pace: micro-batches follow each other through it, and
    pp - 1 of them are its wait at the start and the end.
    """
    return max(
        (
            _stage_times(s, layout, work, micro_batches, stage)
            for stage in sorted({0, min(1, layout.pp - 1), layout.pp - 1})
        ),
        key=lambda times: times.total,
    )


def _stage_times(s: Setting, layout: Layout, work: Work, m: int, stage: int) -> Times:
    layers, last = stages(s.config, layout.pp)[stage], stage == layout.pp - 1
    again = {"none": (0, 0), "selective": (0, 1), "full": (1, 1)}[layout.recompute]
    attention = layers * (3 + again[0]) * attention_seconds(s, layout, work)
    experts = layers * (3 + again[1]) * expert_layer_seconds(s, layout, work)
    head = 3 * head_seconds(s, work.rows * work.length) if last else 0.0
    of_heads, of_experts = link_seconds(s, layout, work)
    links = layers * ((2 + again[0]) * of_heads + (2 + again[1]) * of_experts)
    _, own, _ = work.tokens(layout)
    if layout.pp > 1:  # to the next stage, and gradients back
        quick = 2 * layout.ranks <= s.chip.node
        link = s.chip.node_link if quick else s.chip.net_link
        links += 2 * own * s.config.hidden_size * s.precision.item / link
    sums = mesh_sums(s, layout, stage)
    count, size = stage_parameters(
        s.config, layout, s.precision, stage, layout.dp if layout.shard else 1
    )
    # states are read and written, gradients read, weights written
    moved = count * (2 * s.precision.states + s.precision.item) + size
    pace = attention + experts + head + links + sums
    return Times(
        attention=m * attention,
        experts=m * experts,
        head=m * head,
        links=m * links,
        gradients=m * sums + copy_sums(s, layout, stage, m),
        update=moved / s.chip.bytes,
        bubble=(layout.pp - 1) * pace,
    )
