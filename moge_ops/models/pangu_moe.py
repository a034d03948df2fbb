"""Pangu Pro MoE: configuration, attention with a cache, MoGE blocks, loss and generation.

Dimensions: B batch, L new tokens of a row, S tokens of a row with the cached ones, V vocabulary,
A attention heads, C key and value heads, D width of a head. Those of the expert layers are the
repository's: T = B·L tokens, H hidden, E experts, G groups, k experts that a token takes from each
group, K = G·k experts per token, F expert width.

Source: Tang et al. 2025, "Pangu Pro MoE" (arXiv:2505.21411), and the formulas of its released
``modeling_pangu_moe.py``.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moge_ops import _checks
from moge_ops.models._steps import Hook, Step, Steps
from moge_ops.models.cache import Cache, KVCache, rotation
from moge_ops.models.generation import Sampler, left_padded
from moge_ops.models.speculation import Draft, make_draft
from moge_ops.nn import FrozenWeight, MoGE, PooledWeight
from moge_ops.ops.grouped_gate import Gating
from moge_ops.ops.load_balance_loss import load_balance_loss

IGNORED = -100  # label of a token that the loss leaves out
# sizes that a config.json may lack, and those that may be 0
OPTIONAL = ("num_groups", "max_position_embeddings", "num_nextn_predict_layers")
MAY_BE_ZERO = ("shared_expert_intermediate_size", "num_nextn_predict_layers")
ROUTER_DTYPES = ("float64", "float32", "bfloat16", "float16")
MULTIPLES = {  # a size -> the size that it must be a multiple of
    "hidden_size": "num_attention_heads",
    "num_attention_heads": "num_key_value_heads",
    "num_experts_per_tok": "num_groups",
}
RANGES = {  # a setting that is a number -> the least and the largest value, both allowed
    "rope_theta": (sys.float_info.min, _checks.MOST_FLOAT),
    "rms_norm_eps": (0.0, _checks.MOST_FLOAT),
    "attention_dropout": (0.0, 1.0),
    "initializer_range": (0.0, _checks.MOST_FLOAT),
    "router_aux_loss_coef": (0.0, _checks.MOST_FLOAT),
}
# keys that would make it another model, each with its only value here
FIXED = {
    "model_type": "PanguProMoE",
    "hidden_act": "silu",
    "rope_scaling": None,
    "tie_word_embeddings": False,
}


def _is_int(value: Any) -> bool:
    """A bool does not count."""
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass
class PanguMoEConfig:
    """A released ``config.json``. The defaults are those of the 72B model.

    The released files do not give the number of groups: it is 8, unless ``num_groups`` or
    ``router_n_groups`` says otherwise. ``router_dtype`` is the dtype of the routers' parameters in
    a new model, as in :class:`moge_ops.nn.MoGE`; files keep the dtypes that they have.
    ``num_nextn_predict_layers`` is the number of :class:`moge_ops.models.mtp.MTPHead`. ``extra``
    holds the file as it was read, so that keys that are unknown here are written back.

    Raises:
        ValueError: A value has the wrong type or is out of range, a size does not fit another, an
            id is outside the vocabulary, or the file asks for something that the released model
            does not have. Ids that are the defaults may be outside: a smaller vocabulary lacks
            these tokens.
    """

    vocab_size: int = 153376
    hidden_size: int = 5120
    num_hidden_layers: int = 48
    num_attention_heads: int = 40
    num_key_value_heads: int = 8
    num_experts: int = 64
    num_experts_per_tok: int = 8
    num_groups: int = 8
    moe_intermediate_size: int = 1344
    shared_expert_intermediate_size: int = 5376
    max_position_embeddings: int = 131072
    rope_theta: float = 16e6
    rms_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    router_aux_loss_coef: float = 0.001
    router_dtype: str | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 45892
    num_nextn_predict_layers: int = 0
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in self._sizes():
            least, value = int(name not in MAY_BE_ZERO), getattr(self, name)
            if not _is_int(value) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r:.200}")
            if value > _checks.MOST_SIZE:
                most = _checks.MOST_SIZE
                raise ValueError(f"{name} must be an int of at most {most}, got {value!r:.200}")
        for name, of in MULTIPLES.items():
            value, unit = getattr(self, name), getattr(self, of)
            if value % unit:
                raise ValueError(f"{name} must be a multiple of {of}={unit}, got {value}")
        _checks.groups(
            self.num_experts, self.num_groups, self.num_experts_per_tok // self.num_groups
        )
        if self.head_dim % 2:
            raise ValueError(f"hidden_size / num_attention_heads must be even, got {self.head_dim}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            # NaN fails the comparison, and an int that no float holds does too
            if not (_is_int(value) or isinstance(value, float)) or not low <= value <= high:
                raise ValueError(
                    f"{name} must be a number from {low} to {high}, got {value!r:.200}"
                )
        if self.router_dtype not in (None, *ROUTER_DTYPES):
            names, got = ", ".join(ROUTER_DTYPES), f"{self.router_dtype!r:.200}"
            raise ValueError(f"router_dtype must be one of {names}, or null, got {got}")
        for name in ("bos_token_id", "eos_token_id"):
            self._check_ids(name, getattr(self, name))
        for name, only in FIXED.items():
            if self.extra.get(name, only) != only:
                raise ValueError(f"{name} must be {only!r}, got {self.extra[name]!r:.200}")

    def _check_ids(self, name: str, value: Any) -> None:
        several = isinstance(value, list) and name == "eos_token_id"
        for i in value if several else [] if value is None else [value]:
            # type(self) has the defaults as attributes
            if not _is_int(i) or (i != getattr(type(self), name) and not 0 <= i < self.vocab_size):
                kind = "an int or a list of ints" if name == "eos_token_id" else "an int"
                raise ValueError(
                    f"{name} must be {kind} in [0, vocab_size={self.vocab_size}), or null, "
                    f"got {value!r:.200}"
                )

    @classmethod
    def _sizes(cls) -> list[str]:
        return [f.name for f in dataclasses.fields(cls) if f.type is int]

    @property
    def head_dim(self) -> int:
        """D, width of a head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PanguMoEConfig":
        """The configuration of a parsed file; raises ValueError if a size is missing or wrong."""
        missing = [n for n in cls._sizes() if n not in values and n not in OPTIONAL]
        if missing:
            raise ValueError(f"the config lacks {', '.join(missing)}")
        known = {"num_groups": values.get("router_n_groups", 8), **values}
        names = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        return cls(**{k: v for k, v in known.items() if k in names}, extra=dict(values))

    def to_dict(self) -> dict[str, Any]:
        """The keys that ``from_dict`` read, and those changed since; all keys for a new config."""
        out = self.extra or {"architectures": ["PanguProMoEForCausalLM"], **FIXED}
        fields = {f.name: f for f in dataclasses.fields(self) if f.name != "extra"}
        current = {name: getattr(self, name) for name in fields}
        return out | {
            name: value
            for name, value in current.items()
            if not self.extra or name in self.extra or value != fields[name].default
        }


class Context(NamedTuple):
    """What all layers of one forward share."""

    cos: Tensor  # [B or 1, L, 1, 1, D/2]
    sin: Tensor  # [B or 1, L, 1, 2, D/2], negative for the first half
    mask: Tensor | None  # [B or 1, 1, L, S], true where a query sees a key; None: all before it
    rows: Tensor | None  # [B, L] bool, false at padding; None: there is none
    shape: tuple[int, int]  # B, L
    # (attention, q [B, A, L, D], k and v [B, C, S, D], mask) -> [B, L, A, D]
    attend: Callable[["Attention", Tensor, Tensor, Tensor, Tensor | None], Tensor]


def rotate(x: Tensor, context: Context) -> Tensor:
    """Rotates the pairs ``(x[i], x[i + D/2])`` of ``[B, L, heads, D]`` by the position's angles."""
    halves = x.view(*x.shape[:-1], 2, -1)  # [B, L, heads, 2, D/2]
    return torch.addcmul(halves * context.cos, halves.flip(-2), context.sin).flatten(-2)


def seen_by(own: Tensor, real: Tensor, rows: Tensor) -> Tensor:
    """The mask ``[B, 1, L, S]`` of new tokens in the columns ``own``, ``[L]`` or ``[B, L]``.

    ``real`` ``[B, S]`` and ``rows`` ``[B, L]`` are false at padding.
    """
    columns = torch.arange(real.shape[1], device=real.device)
    # a query that sees nothing becomes NaN, so padding sees the tokens before it
    seen = real[:, None, :] | ~rows[:, :, None]  # [B, L, S]
    return (seen & (columns <= own[..., None])).unsqueeze(1)


def attend(attention: "Attention", q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention, as a :class:`Context` has it."""
    B, A, L, D = q.shape
    C = k.shape[1]
    dropout = attention.dropout if attention.training else 0.0
    if L == 1:  # heads that share a key become queries of one head, so no key is repeated
        q = q.reshape(B, C, A // C, D)
        return F.scaled_dot_product_attention(q, k, v, mask, dropout).view(B, 1, A, D)
    # in this order, because torch.compile knows L as a symbol, and `L > 1` is no bool then
    causal = L > 1 and mask is None
    y = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, enable_gqa=True)
    return y.transpose(1, 2)


class Attention(nn.Module):
    """Grouped-query attention; the projections of queries, keys and values are one product."""

    is_causal = True  # the attention functions of transformers read it

    def __init__(self, config: PanguMoEConfig, layer: int) -> None:
        super().__init__()
        H = config.hidden_size
        self.layer = layer  # its place in the model, and in a cache
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(H, (self.heads + 2 * self.kv_heads) * config.head_dim)
        self.o = nn.Linear(H, H)

    @property
    def num_key_value_groups(self) -> int:
        """Heads that share a key, by the name that transformers' attention functions read."""
        return self.heads // self.kv_heads

    def forward(self, x: Tensor, context: Context, cache: Cache | None) -> Tensor:
        """``[B, L, H] -> [B, L, H]``; adds keys and values to the cache."""
        B, L, _ = x.shape
        A, C, D = self.heads, self.kv_heads, self.head_dim
        qkv = self.qkv(x).view(B, L, A + 2 * C, D)
        qk = rotate(qkv[:, :, : A + C], context).transpose(1, 2)  # [B, A + C, L, D]
        q, k = qk[:, :A], qk[:, A:]
        v = qkv[:, :, A + C :].transpose(1, 2)  # [B, C, L, D]
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        y = context.attend(self, q, k, v, context.mask)
        return self.o(y.reshape(B, L, A * D))  # type: ignore[no-any-return]


class Norm(nn.RMSNorm):
    """RMSNorm in the dtype of its weight, which may be float32 beside bfloat16 matrices."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., H] -> [..., H]``, in the dtype of ``x``."""
        weight = self.weight
        y = F.rms_norm(x.to(weight.dtype), self.normalized_shape, weight, self.eps)
        return y.to(x.dtype)


class Layer(nn.Module):
    """Attention and experts, each after a norm and added to its input."""

    def __init__(self, config: PanguMoEConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.moge_norm = Norm(config.hidden_size, config.rms_norm_eps)
        name = config.router_dtype
        self.moge = MoGE(
            config.hidden_size,
            config.moe_intermediate_size,
            config.num_experts,
            config.num_groups,
            config.num_experts_per_tok // config.num_groups,
            shared_size=config.shared_expert_intermediate_size,
            router_dtype=None if name is None else getattr(torch, name),
        )

    def forward(
        self,
        x: Tensor,
        context: Context,
        cache: Cache | None = None,
        routing: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Gating]:
        """``[B, L, H] -> [B, L, H]``, with the router's logits ``[T, E]`` and its choice.

        ``routing`` ``[B, L, K]`` is the choice, if it is made.
        """
        x = x + self.attention(self.attention_norm(x), context, cache)
        y, router_logits, gating = self.moge(
            self.moge_norm(x), return_routing=True, row_mask=context.rows, routing=routing
        )
        return x + y, router_logits, gating


class PanguMoEOutput(NamedTuple):
    """What a forward returns when asked for more than logits."""

    logits: Tensor
    """``[B, L, V]``."""
    hidden_states: list[Tensor]
    """``[B, L, H]`` before every layer, and after the last norm."""
    router_logits: list[Tensor]
    """``[T, E]`` of every layer."""
    gating: list[Gating]
    """Of every layer."""


def of_layers(
    routing: Tensor | Sequence[Tensor] | None, config: Any, shape: tuple[int, int]
) -> list[Tensor | None]:
    """The ids ``[B, L, K]`` of every layer, or None for each, from an argument ``routing``.

    Args:
        routing: As in :meth:`PanguMoEForCausalLM.forward`.
        config: With the number of layers and K.
        shape: B, L.

    Raises:
        TypeError: It is neither a tensor nor a sequence.
        ValueError: It does not fit.
    """
    layers, (B, L), K = config.num_hidden_layers, shape, config.num_experts_per_tok
    if routing is None:
        return [None] * layers
    if isinstance(routing, Tensor):
        _checks.shape("routing", routing, "[B, L, layers, K]", (B, L, layers, K))
        return list(routing.unbind(2))
    if not isinstance(routing, Sequence):
        raise TypeError(
            "routing must be a tensor [B, L, layers, K], or a sequence with the ids of each layer, "
            f"got {type(routing).__name__}"
        )
    if len(routing) != layers:
        raise ValueError(f"routing must have the ids of {layers} layers, got {len(routing)}")
    for ids in routing:
        if not isinstance(ids, Tensor) or ids.shape not in ((B, L, K), (B * L, K)):
            got = list(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(
                f"routing of a layer must be [T, K] = [{B * L}, {K}] or [B, L, K] = "
                f"[{B}, {L}, {K}], got {got}"
            )
    return [ids.view(B, L, K) for ids in routing]


def predicted(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Labels ``[B, L]``, ``IGNORED`` at padding and where there is only padding to predict from."""
    if attention_mask is None:
        return labels
    real = attention_mask.bool()[:, -labels.shape[1] :]  # without cached tokens
    return labels.masked_fill(~(real & real.roll(1, 1)), IGNORED)


def balance(
    router_logits: Sequence[Tensor], experts: Sequence[Tensor], rows: Tensor | None
) -> Tensor:
    """Mean over layers of :func:`moge_ops.load_balance_loss`, of the tokens that ``rows`` keeps."""
    of_layers = []
    for logits, chosen in zip(router_logits, experts, strict=True):  # each on its own device
        kept = slice(None) if rows is None else rows.flatten().to(logits.device)
        of_layers.append(load_balance_loss(logits[kept], chosen[kept]))
    return torch.stack([loss.to(of_layers[0].device) for loss in of_layers]).mean()


def losses(
    out: PanguMoEOutput, labels: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The two terms of :meth:`PanguMoEForCausalLM.loss`, which describes the arguments."""
    _checks.shape("labels", labels, "[B, L]", tuple(out.logits.shape[:2]))
    acc = torch.promote_types(out.logits.dtype, torch.float32)
    targets = predicted(labels, attention_mask)[:, 1:].flatten()
    logits = out.logits[:, :-1].flatten(0, 1).to(acc)
    rows = None if attention_mask is None else attention_mask.bool()
    aux_loss = balance(out.router_logits, [gates.experts for gates in out.gating], rows)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED), aux_loss


class PanguMoEForCausalLM(nn.Module):
    """The language model.

    A model that is built under ``torch.device("meta")`` takes no memory;
    :func:`moge_ops.models.checkpoint.from_pretrained` starts from one.

    Attributes:
        mtp: The :class:`moge_ops.models.mtp.MTPHead` modules, ``num_nextn_predict_layers`` of them.
            A forward and the loss leave them out; :func:`moge_ops.models.mtp.losses` trains them,
            and ``generate(draft="mtp")`` drafts with them.
        gradient_checkpointing: Whether the backward pass recomputes the layers' activations
            instead of keeping them. Off at first.
    """

    def __init__(self, config: PanguMoEConfig) -> None:
        from moge_ops.models.mtp import MTPHead  # its layer is this file's

        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.kv_heads = config.num_key_value_heads  # of a new cache
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        heads = range(config.num_nextn_predict_layers)
        self.mtp = nn.ModuleList(MTPHead(config) for _ in heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all matrices from a normal distribution with deviation ``initializer_range``."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=self.config.initializer_range)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def parameter_counts(self) -> tuple[int, int]:
        """All parameters, and the active ones: those without the experts that a token skips.

        A quantised weight counts as the numbers that it stands for, and so does an offloaded one.
        Heads that predict further tokens are none of the active ones, as the next token does not
        need them.
        """
        elsewhere = (FrozenWeight, PooledWeight)

        def count(part: nn.Module) -> int:
            theirs = (math.prod(w.shape) for w in part.modules() if isinstance(w, elsewhere))
            return sum(p.numel() for p in part.parameters()) + sum(theirs)

        total, c = count(self), self.config
        skipped = c.num_experts - c.num_experts_per_tok
        expert = 3 * c.moe_intermediate_size * c.hidden_size
        return total, total - count(self.mtp) - c.num_hidden_layers * skipped * expert

    def new_cache(self, batch: int, max_length: int) -> KVCache:
        """A cache for ``batch`` rows of at most ``max_length`` tokens."""
        weight, C = self.embed.weight, self.kv_heads
        return KVCache(
            self.config, batch, max_length, kv_heads=C, device=weight.device, dtype=weight.dtype
        )

    def _context(
        self,
        x: Tensor,
        shape: tuple[int, int],
        attention_mask: Tensor | None,
        cache: KVCache | None,
    ) -> Context:
        """What the layers share; a cache with rows of several lengths also learns its places."""
        if cache is not None and cache.lengths is not None:
            return self._uneven_context(x, shape, attention_mask, cache)
        start, L = 0 if cache is None else cache.length, shape[1]
        mask = rows = positions = None
        if attention_mask is not None:
            real = attention_mask.bool()  # [B, S]
            rows = real[:, start:]
            positions = (real.cumsum(-1) - 1).clamp_min(0)[:, start:]  # [B, L]
            mask = seen_by(torch.arange(start, start + L, device=x.device), real, rows)
        elif start and L > 1:
            columns = torch.arange(start + L, device=x.device)  # [S]
            mask = (columns <= columns[start:, None])[None, None]
        if cache is not None:
            turns = cache.rotation(positions, L)
        else:
            if positions is None:
                positions = torch.arange(L, device=x.device).unsqueeze(0)
            turns = rotation(positions, self.config, x.dtype)
        return Context(*turns, mask, rows, shape, attend)

    def _uneven_context(
        self, x: Tensor, shape: tuple[int, int], attention_mask: Tensor | None, cache: KVCache
    ) -> Context:
        """The same where each row's tokens go to a column of their own."""
        assert cache.lengths is not None
        B, L = shape
        S = cache.length + L if attention_mask is None else attention_mask.shape[1]
        own = cache.lengths[:, None] + torch.arange(L, device=x.device)  # [B, L]
        real = own.new_ones((B, S), dtype=torch.bool)
        if attention_mask is not None:
            real = attention_mask.bool()
        beyond = F.pad(real, (0, L))  # padding may stick out of the S columns
        rows = beyond.gather(1, own)  # [B, L]
        positions = (beyond.cumsum(-1) - 1).clamp_min(0).gather(1, own)
        cache.place(rows, S)
        mask = seen_by(own, real, rows)
        return Context(*cache.rotation(positions, L), mask, rows, shape, attend)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        *,
        logits_to_keep: int = 0,
        return_details: bool = False,
        routing: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor | PanguMoEOutput:
        """Logits ``[B, L, V]`` of every token's successor, or a :class:`PanguMoEOutput`.

        Args:
            input_ids: ``[B, L]``, integers in [0, V).
            attention_mask: ``[B, S]``, cached tokens included: 0 at padding, which no other token
                sees and which positions do not count. Its columns are the cache's: where rows
                differ in length, S is the longest length + L, or less if the cache is full, and
                the new tokens of row b begin in column ``lengths[b]``, padding last.
            cache: Keys and values of the tokens before these; a forward adds its own.
            logits_to_keep: Number of last tokens whose logits are returned; 0 for all.
            return_details: Also return the hidden states and what the routers did.
            routing: Ids of the experts that every token takes, as another run chose them, so that
                no router chooses: ``[B, L, layers, K]``, as engines return them with their tokens,
                or for each layer ``[T, K]`` or ``[B, L, K]``, as ``gating`` of the details has
                them. int32 | int64; an id outside [0, E) is no expert. The weights are this
                model's, with their gradient.

        Raises:
            TypeError: ``input_ids`` or ``routing`` are not integers.
            ValueError: A shape does not fit, the cache is too small, or an id is out of range
                (checked on the CPU; other devices assert it in their kernels).
        """
        x, hidden_states, router_logits, gating = self._layers(
            input_ids, attention_mask, cache, routing, details=return_details
        )
        x = self.norm(x[:, -logits_to_keep:])
        logits: Tensor = self.lm_head(x)
        if not return_details:
            return logits
        return PanguMoEOutput(logits, [*hidden_states[:-1], x], router_logits, gating)

    def _layers(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        cache: KVCache | None,
        routing: Tensor | Sequence[Tensor] | None = None,
        *,
        details: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Gating]]:
        """What a forward does before the last norm; the arguments are those of :meth:`forward`.

        Returns:
            ``[B, L, H]`` after the last layer, and with ``details`` those before every layer, after
            the last one too, and what the routers did.
        """
        _checks.tensors(("input_ids", input_ids, "[B, L]", _checks.IDS))
        B, L = input_ids.shape
        start = 0 if cache is None else cache.length
        S = start + L
        if cache is not None and cache.lengths is not None and attention_mask is not None:
            S = min(S, cache.kv.shape[4])  # only padding may stick out
        if attention_mask is not None:
            _checks.shape("attention_mask", attention_mask, "[B, S]", (B, S))
        if cache is not None:
            batch, length = cache.kv.shape[2], cache.kv.shape[4]
            if batch != B or length < S:
                got = f"{B} rows of {start} + {L}"
                raise ValueError(f"the cache holds {batch} rows of {length} tokens, got {got}")
        try:
            x = self.embed(input_ids)  # [B, L, H]
        except IndexError as error:
            V, got = self.config.vocab_size, f"{int(input_ids.min())} to {int(input_ids.max())}"
            raise ValueError(f"input_ids must be in [0, {V}), got {got}") from error

        context = self._context(x, (B, L), attention_mask, cache)
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        hidden_states, router_logits, gating = [x], [], []
        for layer, ids in zip(self.layers, of_layers(routing, self.config, (B, L)), strict=True):
            if recompute:
                x, scores, gates = checkpoint(layer, x, context, cache, ids, use_reentrant=False)
            else:
                x, scores, gates = layer(x, context, cache, ids)
            if details:
                hidden_states.append(x)
                router_logits.append(scores)
                gating.append(gates)
        if cache is not None:
            cache.advance(context.rows, S)
        return x, hidden_states, router_logits, gating

    def loss(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        routing: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Mean cross-entropy of the next tokens, plus the load-balance term.

        Args:
            input_ids: ``[B, L]``, integers in [0, V).
            labels: ``[B, L]``, tokens to predict, each from the tokens before it; ``IGNORED`` where
                nothing is predicted. By default ``input_ids``.
            attention_mask: ``[B, L]``, 0 at padding, which counts in neither term.
            routing: As in :meth:`forward`.

        Returns:
            Scalar, float32 or wider. The second term is ``router_aux_loss_coef`` times the mean
            over layers of :func:`moge_ops.load_balance_loss`.
        """
        out = self(input_ids, attention_mask, return_details=True, routing=routing)
        labels = input_ids if labels is None else labels
        cross_entropy, aux_loss = losses(out, labels, attention_mask)
        return cross_entropy + float(self.config.router_aux_loss_coef) * aux_loss

    def generate(
        self,
        input_ids: Tensor | Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        attention_mask: Tensor | None = None,
        temperature: float = 0.6,
        top_k: int = 50,
        top_p: float = 0.95,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int = 0,
        generator: torch.Generator | None = None,
        streamer: Callable[[Tensor], object] | None = None,
        cache: KVCache | None = None,
        draft: str | nn.Module | Draft | None = None,
        draft_tokens: int = 3,
        hook: Hook | None = None,
    ) -> Tensor:
        """Continues every prompt. The defaults are the published sampling settings.

        Args:
            input_ids: ``[B, L]``, or a list of prompts of any lengths.
            max_new_tokens: Most tokens to add.
            attention_mask: ``[B, L]``, 0 at padding, which must be on the left; for a tensor only.
            temperature, top_k, top_p, generator: As in
                :class:`moge_ops.models.generation.Sampler`; temperature 0 is greedy.
            eos_token_id: One or more ids that end a row; by default the config's, ``()`` for none.
            pad_token_id: Fills shorter prompts on the left and ended rows on the right.
            streamer: Called in every step with the chosen ids ``[B]``. With ``draft`` or ``hook``
                a step may have several calls, and an id is -1 where a row has none.
            cache: Used from its start, in place of a new one.
            draft: Guesses the next tokens, which the model then verifies in one forward: "lookup"
                (:class:`moge_ops.models.speculation.PromptLookup`), "mtp" (the model's own heads),
                a smaller model of the same vocabulary, or another
                :class:`moge_ops.models.speculation.Draft`. Greedy tokens are the same as without,
                up to rounding; sampled ones have the same distribution.
            draft_tokens: Most guesses of a step.
            hook: Called after every step with each row's new ids, none for a row that has ended.
                The ids that it returns for a row come next there, as if the model had chosen them.

        Returns:
            ``[B, L + n]`` int64, prompts and continuations; n is ``max_new_tokens``, or less if all
            rows have ended before. The host waits for the device in every step.

        Raises:
            TypeError: ``input_ids`` are not integers, ``top_k`` or ``draft_tokens`` is not an int,
                or ``draft`` is no draft.
            ValueError: A prompt is empty, an id or a setting is out of range, padding is not on the
                left, there are more tokens than the cache or the model's positions hold, the
                logits are not finite, because weights or settings are damaged or too large, the
                draft has another vocabulary, or the hook names a row or an id that does not exist.
        """
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
        embed, V = self.embed.weight, self.config.vocab_size
        if not 0 <= pad_token_id < V:
            raise ValueError(f"pad_token_id must be in [0, {V}), got {pad_token_id}")
        sampler = Sampler(temperature, top_k, top_p, generator)
        guesser = None if draft is None else make_draft(draft)
        _checks.integer("draft_tokens", draft_tokens, least=1)
        ids, mask = left_padded(
            input_ids, attention_mask, pad=pad_token_id, vocab_size=V, device=embed.device
        )
        B, L = ids.shape
        room = self.config.max_position_embeddings
        room = room if cache is None else min(room, cache.kv.shape[4])
        if L + max_new_tokens > room:
            raise ValueError(
                f"prompt and new tokens must fit into {room}, got {L} + {max_new_tokens}"
            )
        cache = self.new_cache(B, L + max_new_tokens) if cache is None else cache
        cache.keep([0] * B)
        eos = self.config.eos_token_id if eos_token_id is None else eos_token_id
        ends = [eos] if isinstance(eos, int) else list(eos or ())
        steps = Steps(ids, mask, max_new_tokens, ends, pad_token_id)
        with torch.inference_mode():
            if guesser is not None:
                guesser.passes = guesser.proposed = guesser.accepted = 0
                guesser.start(self, ids, mask, L + max_new_tokens + draft_tokens, sampler)
            step = steps.first()
            while steps.alive:
                logits, hidden = self._step(step, cache, hidden=guesser is not None)
                try:
                    new = steps.choose(step, logits, sampler)  # of every row
                except ValueError as error:
                    raise ValueError(f"new token {steps.longest}: {error}") from None
                cache.keep(steps.lengths)
                if streamer is not None:
                    steps.stream(new, streamer, whole=guesser is None and hook is None)
                if hook is not None:
                    steps.force(hook([list(row) for row in new]), V)
                proposal = None
                if guesser is not None and hidden is not None:
                    steps.count(step, guesser)
                    most = min(draft_tokens, steps.left - 1)
                    if most > 0:
                        proposal = guesser.propose(steps.accepted(step, new, hidden), most)
                step = steps.next(cache, proposal)
        # outside inference mode, so that autograd takes the tensor
        return torch.cat([ids, steps.result()], 1)

    def _step(self, step: Step, cache: KVCache, *, hidden: bool) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, m + 1, V]`` of a step, the last ones alone where nothing is to be verified.

        With ``hidden``, also the states ``[B, L, H]`` after the last norm.
        """
        last = int(not any(step.rows))
        if not hidden:
            return self(step.ids, step.mask, cache, logits_to_keep=last), None
        states = self.norm(self._layers(step.ids, step.mask, cache)[0])
        return self.lm_head(states[:, -last:]), states
