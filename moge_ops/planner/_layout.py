"""What a plan is: which ranks split what, and the sizes that they must divide."""

from collections.abc import Iterator
from dataclasses import dataclass

from moge_ops.models.pangu_moe import PanguMoEConfig

RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True)
class Layout:
    r"""Where the parts of a model are; ``devices = pp * dp * ep * tp``.

    The ranks of a mesh, ``ep * tp`` of them, share one copy of the experts, as
    :func:`moge_ops.distributed.parallelize` spreads them. Neighbouring devices are those that share
    attention, then those of the mesh, then pipeline stages, then copies.

    Attributes:
        ep: Ranks that have whole groups of experts; whole experts in a plain top-k model.
        tp: Ranks that split the width inside every expert.
        heads: Ranks that split the attention heads: 1, ``ep`` or ``tp``, since
            :class:`moge_ops.distributed.Plan` names a dimension of the mesh. Along the others
            attention is data-parallel.
        dp: Copies of the mesh, each with tokens of its own.
        pp: Pipeline stages.
        micro: Sequences of a rank of attention in a micro-batch; in inference all of them.
        recompute: What the backward pass computes again: ``"none"``, ``"selective"`` (the expert
            layers, whose pre-activations are the largest), or ``"full"`` (whole layers, as
            ``gradient_checkpointing`` does).
        shard: What the copies split: 0 nothing, 1 optimizer states, 2 gradients too, 3 parameters
            too, as FSDP2 does.
    """

    ep: int = 1
    tp: int = 1
    heads: int = 1
    dp: int = 1
    pp: int = 1
    micro: int = 1
    recompute: str = "none"
    shard: int = 0

    @property
    def ranks(self) -> int:
        """Ranks of the mesh."""
        return self.ep * self.tp

    @property
    def devices(self) -> int:
        """All devices."""
        return self.pp * self.dp * self.ranks

    @property
    def replicas(self) -> int:
        """Ranks of attention with rows of their own, in one pipeline stage."""
        return self.dp * self.ranks // self.heads

    @property
    def attention(self) -> str:
        """``DP2·TP4``, as the paper writes it."""
        return _parts(DP=self.replicas, TP=self.heads)

    @property
    def experts(self) -> str:
        """``TP2·EP4``, as the paper writes it, with the copies in front."""
        return _parts(DP=self.dp, TP=self.tp, EP=self.ep)

    def __str__(self) -> str:
        found = f"attention {self.attention}, experts {self.experts}"
        found += f", PP{self.pp}" if self.pp > 1 else ""
        found += f", recompute {self.recompute}" if self.recompute != "none" else ""
        return found + (f", ZeRO-{self.shard}" if self.shard else "")


def _parts(**ranks: int) -> str:
    return "·".join(f"{name}{n}" for name, n in ranks.items() if n > 1) or "1"


def is_top_k(config: PanguMoEConfig) -> bool:
    """Whether a model chooses among all experts at once, so that ranks have uneven loads."""
    return config.num_groups == 1


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def layouts(devices: int, *, training: bool) -> Iterator[Layout]:
    """Every way to use all devices, whether or not a model's sizes allow it."""
    for pp in divisors(devices) if training else (1,):
        for ranks in divisors(devices // pp):
            dp = devices // pp // ranks
            shards = range(4) if training and dp > 1 else (0,)
            for ep in divisors(ranks):
                for heads in sorted({1, ep, ranks // ep}):
                    for recompute in RECOMPUTE if training else ("none",):
                        for shard in shards:
                            yield Layout(
                                ep, ranks // ep, heads, dp, pp, recompute=recompute, shard=shard
                            )


def problem(config: PanguMoEConfig, layout: Layout) -> tuple[str, int] | None:
    """What a model's sizes do not allow, and the number of ranks; None if they allow all."""
    c, top_k = config, is_top_k(config)
    F = c.moe_intermediate_size
    wanted = [
        (f"the {c.num_hidden_layers} layers", c.num_hidden_layers, layout.pp, False),
        (f"{c.num_groups} groups", 0 if top_k else c.num_groups, layout.ep, True),
        (f"{c.num_experts} experts", c.num_experts, layout.ep, True),
        (
            f"an expert's width of {F}",
            c.moe_intermediate_size,
            layout.tp,
            True,
        ),
        (f"{c.num_key_value_heads} key heads", c.num_key_value_heads, layout.heads, True),
        (f"{c.num_attention_heads} heads", c.num_attention_heads, layout.heads, True),
    ]
    if not top_k:
        S = c.shared_expert_intermediate_size
        wanted.append((f"the shared expert's width of {S}", S, layout.ranks, True))
    elif layout.tp > 1:
        return "an expert of plain top-k", layout.tp
    for what, number, ranks, evenly in wanted:
        if number % ranks if evenly else number < ranks:
            return what, ranks
    return None


def stages(config: PanguMoEConfig, pp: int) -> list[int]:
    """Layers of each stage; what is left over goes to stages after the first, which keeps most."""
    each, more = divmod(config.num_hidden_layers, pp)
    return [each + (1 <= i <= more) for i in range(pp)]
