"""Pangu Pro MoE: configuration, attention with a cache, MoGE blocks, loss and generation.

Dimensions: B batch, L new tokens of a row, S tokens of a row with the cached ones, H hidden,
V vocabulary, A attention heads, C key and value heads, D width of a head; those of the expert
layers as everywhere: T = B·L tokens, E experts, G groups, K experts per token, F expert width.

Source: Tang et al. 2025, "Pangu Pro MoE" (arXiv:2505.21411), and the formulas of its released
``modeling_pangu_moe.py``.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moge_ops import _checks
from moge_ops.nn import MoGE
from moge_ops.ops.grouped_gate import Gating
from moge_ops.ops.load_balance_loss import load_balance_loss

IGNORED = -100  # label of a token that the loss leaves out


@dataclass
class PanguMoEConfig:
    """A released ``config.json``; the defaults are the 72B model's.

    The group count is not in the released files: it is 8 unless ``num_groups`` or
    ``router_n_groups`` says otherwise. ``extra`` holds the file as it was read, so that keys
    unknown here are written back.

    Raises:
        TypeError: A size is not an int.
        ValueError: Sizes do not fit each other, or the file asks for something that the released
            model does not have.
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
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 45892
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in SIZES:
            value = getattr(self, name)
            least = 0 if name == "shared_expert_intermediate_size" else 1
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name, of in MULTIPLES.items():
            if getattr(self, name) % getattr(self, of):
                raise ValueError(
                    f"{name} must be a multiple of {of}={getattr(self, of)}, "
                    f"got {getattr(self, name)}"
                )
        if self.head_dim % 2:
            raise ValueError(f"hidden_size / num_attention_heads must be even, got {self.head_dim}")
        _checks.groups(self.num_experts, self.num_groups, self.experts_per_group)
        for name, only in FIXED.items():
            if self.extra.get(name, only) != only:
                raise ValueError(f"{name} must be {only!r}, got {self.extra[name]!r}")

    @property
    def head_dim(self) -> int:
        """D."""
        return self.hidden_size // self.num_attention_heads

    @property
    def experts_per_group(self) -> int:
        """Experts of one group that a token uses, k = K/G."""
        return self.num_experts_per_tok // self.num_groups

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PanguMoEConfig":
        """Of a parsed ``config.json``; raises ValueError where a size is missing."""
        missing = [name for name in SIZES if name not in values and name not in MAY_LACK]
        if missing:
            raise ValueError(f"the config lacks {', '.join(missing)}")
        groups = {"num_groups": values["router_n_groups"]} if "router_n_groups" in values else {}
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        given = {name: value for name, value in values.items() if name in known}
        return cls(**{**groups, **given}, extra=dict(values))

    def to_dict(self) -> dict[str, Any]:
        """What ``from_dict`` was given, with what has changed since; for a new config, all of it."""
        out = self.extra or {"architectures": ["PanguProMoEForCausalLM"], **FIXED}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name != "extra" and (
                f.name in self.extra or not self.extra or value != f.default
            ):
                out = {**out, f.name: value}
        return out


SIZES = [f.name for f in dataclasses.fields(PanguMoEConfig) if f.type is int]
MAY_LACK = ("num_groups", "max_position_embeddings")
MULTIPLES = {
    "hidden_size": "num_attention_heads",
    "num_attention_heads": "num_key_value_heads",
    "num_experts_per_tok": "num_groups",
}
# keys that would change the model, and the only value they may have
FIXED = {
    "model_type": "PanguProMoE",
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_scaling": None,
}


class KVCache:
    """Keys and values of all layers, allocated once.

    Args:
        config: Of the model.
        batch: B.
        max_length: Most tokens of a row, padding included.
        device, dtype: Those of the model's weights.

    Attributes:
        kv: ``[layers, 2, B, C, max_length, D]``.
        length: Tokens of a row that are in use; the model moves it. Set it to 0 to start again.
    """

    def __init__(
        self,
        config: PanguMoEConfig,
        batch: int,
        max_length: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        heads = (config.num_key_value_heads, max_length, config.head_dim)
        shape = (config.num_hidden_layers, 2, batch, *heads)
        self.kv = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0


class Context(NamedTuple):
    """What the layers of one forward share."""

    cos: Tensor  # [B or 1, L, 1, 1, D/2]
    sin: Tensor  # [B or 1, L, 1, 2, D/2], negative for the first half
    mask: Tensor | None  # [B or 1, 1, L, S], true where a query sees a key
    causal: bool  # without a mask: whether a query sees no later key
    start: int  # S - L


def rotate(x: Tensor, context: Context) -> Tensor:
    """Turns the pairs ``(x[i], x[i + D/2])`` of ``[B, L, heads, D]`` by their position's angle."""
    halves = x.unflatten(-1, (2, -1))  # [B, L, heads, 2, D/2]
    return torch.addcmul(halves * context.cos, halves.flip(-2), context.sin).flatten(-2)


class Attention(nn.Module):
    """Grouped-query attention; the projections of queries, keys and values are one product."""

    def __init__(self, config: PanguMoEConfig) -> None:
        super().__init__()
        H = config.hidden_size
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(H, (self.heads + 2 * self.kv_heads) * config.head_dim)
        self.o = nn.Linear(H, H)

    def forward(self, x: Tensor, context: Context, kv: Tensor | None) -> Tensor:
        B, L, H = x.shape
        A, C = self.heads, self.kv_heads
        qkv = self.qkv(x).unflatten(-1, (A + 2 * C, -1))  # [B, L, A + 2C, D]
        q, k = rotate(qkv[:, :, : A + C], context).transpose(1, 2).split([A, C], 1)
        v = qkv[:, :, A + C :].transpose(1, 2)  # [B, C, L, D]
        if kv is not None:  # [2, B, C, S, D]
            kv[0, :, :, context.start :] = k
            kv[1, :, :, context.start :] = v
            k, v = kv[0], kv[1]

        dropout = self.dropout if self.training else 0.0
        if L == 1:  # the heads that share a key are so many queries: no key is repeated for them
            q = q.reshape(B, C, A // C, -1)
            y = F.scaled_dot_product_attention(q, k, v, context.mask, dropout)
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, context.mask, dropout, context.causal, enable_gqa=True
            ).transpose(1, 2)
        return self.o(y.reshape(B, L, H))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and experts, each behind a norm and added to its input."""

    def __init__(self, config: PanguMoEConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config)
        self.moge_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.moge = MoGE(
            config.hidden_size,
            config.moe_intermediate_size,
            config.num_experts,
            config.num_groups,
            config.experts_per_group,
            shared_size=config.shared_expert_intermediate_size,
        )

    def forward(
        self, x: Tensor, context: Context, kv: Tensor | None
    ) -> tuple[Tensor, Tensor, Gating]:
        x = x + self.attention(self.attention_norm(x), context, kv)
        y, router_logits, gating = self.moge(self.moge_norm(x), return_routing=True)
        return x + y, router_logits, gating  # [B, L, H], [T, E]


class PanguMoEOutput(NamedTuple):
    """What a forward returns when asked for more than logits."""

    logits: Tensor  # [B, L, V]
    hidden_states: list[Tensor]  # [B, L, H]: before every layer, and after the last norm
    router_logits: list[Tensor]  # [T, E] of every layer
    gating: list[Gating]  # of every layer


class PanguMoEForCausalLM(nn.Module):
    """The language model.

    Built under ``torch.device("meta")`` it takes no memory; see
    :func:`moge_ops.models.checkpoint.from_pretrained`.

    Attributes:
        gradient_checkpointing: Whether training recomputes the layers' activations in the
            backward pass instead of keeping them. Off at first.
    """

    def __init__(self, config: PanguMoEConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all matrices from a normal distribution of width ``initializer_range``."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=self.config.initializer_range)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def parameter_counts(self) -> tuple[int, int]:
        """All parameters, and the active ones: all but the routed experts that a token skips."""
        total = sum(p.numel() for p in self.parameters())
        routed = sum(
            layer.moge.w_gate_up.numel() + layer.moge.w_down.numel() for layer in self.layers
        )
        E, K = self.config.num_experts, self.config.num_experts_per_tok
        return total, total - routed * (E - K) // E

    def _context(self, attention_mask: Tensor | None, L: int, start: int) -> Context:
        weight = self.embed.weight
        columns = torch.arange(start + L, device=weight.device)  # [S]
        positions = columns[start:].unsqueeze(0)  # [1, L]
        mask = None
        if attention_mask is not None or (start and L > 1):
            mask = columns <= columns[start:, None]  # [L, S]
        if attention_mask is not None:
            real = attention_mask.bool()  # [B, S]
            positions = (real.cumsum(-1) - 1).clamp_min(0)[:, start:]  # [B, L]
            # padding sees what is before it, because a query that sees nothing becomes NaN
            mask = (mask & (real[:, None, :] | ~real[:, start:, None])).unsqueeze(1)
        D = self.config.head_dim
        powers = torch.arange(0, D, 2, device=weight.device, dtype=torch.float32) / D
        angles = positions[..., None, None, None] * self.config.rope_theta**-powers
        cos, sin = angles.cos().to(weight.dtype), angles.sin().to(weight.dtype)
        return Context(cos, torch.cat([-sin, sin], -2), mask, mask is None and L > 1, start)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        *,
        logits_to_keep: int = 0,
        return_details: bool = False,
    ) -> Tensor | PanguMoEOutput:
        """Logits of every token's successor.

        Args:
            input_ids: ``[B, L]``, integers in [0, V).
            attention_mask: ``[B, S]``, 0 at padding, which no other token sees and which positions
                skip; S counts the cached tokens too. Without it nothing is padding.
            cache: Keys and values of the tokens before these; these are added to it.
            logits_to_keep: Logits only of the last so many tokens of a row; 0 for all.
            return_details: Also return hidden states and what the routers did.

        Returns:
            ``[B, L, V]`` in the weights' dtype, or a :class:`PanguMoEOutput`.

        Raises:
            TypeError: ``input_ids`` are not integers.
            ValueError: A shape does not fit, an id is out of range (on the CPU; devices assert it
                themselves), or the cache is too small.
        """
        _checks.tensor("input_ids", input_ids, "[B, L]", _checks.IDS)
        B, L = input_ids.shape
        start = 0 if cache is None else cache.length
        S = start + L
        if attention_mask is not None:
            _checks.shape("attention_mask", attention_mask, "[B, S]", (B, S))
        if cache is not None:
            batch, length = cache.kv.shape[2], cache.kv.shape[4]
            if B != batch or S > length:
                raise ValueError(
                    f"the cache holds {batch} rows of {length} tokens, "
                    f"got {B} rows of {start} + {L} tokens"
                )
        try:
            x = self.embed(input_ids)  # [B, L, H]
        except IndexError as error:
            raise ValueError(
                f"input_ids must be in [0, {self.config.vocab_size}), "
                f"got {input_ids.min()} to {input_ids.max()}"
            ) from error

        context = self._context(attention_mask, L, start)
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        hidden_states, router_logits, gating = [x], [], []
        for i, layer in enumerate(self.layers):
            kv = None if cache is None else cache.kv[i, :, :, :, :S]
            if recompute:
                x, logits, gates = checkpoint(layer, x, context, kv, use_reentrant=False)
            else:
                x, logits, gates = layer(x, context, kv)
            if return_details:
                hidden_states.append(x)
                router_logits.append(logits)
                gating.append(gates)
        if cache is not None:
            cache.length = S
        x = self.norm(x[:, -logits_to_keep:])
        logits = self.lm_head(x)
        if not return_details:
            return logits
        return PanguMoEOutput(logits, [*hidden_states[:-1], x], router_logits, gating)

    def loss(
        self, input_ids: Tensor, labels: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy of every next token, plus the load-balance term.

        Args:
            input_ids: ``[B, L]``.
            labels: ``[B, L]``, the ids to predict, ``IGNORED`` where there is none; token t is
                predicted from those before it. By default ``input_ids``.
            attention_mask: ``[B, L]``, 0 at padding: counts neither here nor in the load balance.

        Returns:
            A float32 scalar (float64 for float64 weights): the mean cross-entropy, plus
            ``router_aux_loss_coef`` times the mean over layers of
            :func:`moge_ops.load_balance_loss`.
        """
        labels = input_ids if labels is None else labels
        _checks.shape("labels", labels, "[B, L]", tuple(input_ids.shape))
        if attention_mask is not None:
            labels = labels.masked_fill(attention_mask == 0, IGNORED)
        out = self(input_ids, attention_mask, return_details=True)
        acc = torch.promote_types(out.logits.dtype, torch.float32)
        loss = F.cross_entropy(
            out.logits[:, :-1].flatten(0, 1).to(acc),
            labels[:, 1:].flatten(),
            ignore_index=IGNORED,
        )
        rows = slice(None) if attention_mask is None else attention_mask.flatten().bool()
        balance = [
            load_balance_loss(logits[rows], gates.experts[rows])
            for logits, gates in zip(out.router_logits, out.gating, strict=True)
        ]
        return loss + self.config.router_aux_loss_coef * torch.stack(balance).mean()

    @torch.no_grad()
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
    ) -> Tensor:
        """Continues every prompt; the defaults are the published sampling settings.

        Args:
            input_ids: ``[B, L]``, or a list of prompts of any lengths.
            max_new_tokens: Most tokens to add.
            attention_mask: ``[B, L]`` for a tensor with padding, which must be on the left.
            temperature: Divides the logits; 0 takes the likeliest token.
            top_k: Tokens to choose from, the likeliest ones; 0 for all.
            top_p: Of those, the fewest whose probabilities reach this sum.
            eos_token_id: Where a row ends, one id or more; by default the config's, ``()`` for
                none.
            pad_token_id: Fills shorter prompts on the left, and rows that have ended.
            generator: For reproducible sampling.
            streamer: Called with the ids ``[B]`` of every step, as soon as they are chosen.
            cache: To use instead of a new one; what it holds is dropped.

        Returns:
            ``[B, L + n]`` int64, prompts and continuations; n is less than ``max_new_tokens`` where
            all rows have ended.

        Raises:
            TypeError: ``input_ids`` are not integers.
            ValueError: An empty prompt, an id out of range, padding elsewhere than on the left, a
                setting out of range, or more tokens than the cache or the model's positions hold.
        """
        ids, mask = self._prompts(input_ids, attention_mask, pad_token_id)
        (B, L), V = ids.shape, self.config.vocab_size
        for name, value, low, high in (
            ("max_new_tokens", max_new_tokens, 0, self.config.max_position_embeddings - L),
            ("temperature", temperature, 0, float("inf")),
            ("top_k", top_k, 0, float("inf")),
            ("top_p", top_p, 0, 1),
            ("pad_token_id", pad_token_id, 0, V - 1),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], got {value}")
        total = L + max_new_tokens
        if cache is None:
            weight = self.embed.weight
            cache = KVCache(self.config, B, total, device=weight.device, dtype=weight.dtype)
        elif total > cache.kv.shape[4]:
            raise ValueError(f"the cache holds rows of {cache.kv.shape[4]} tokens, got {L} + {max_new_tokens}")
        cache.length = 0
        eos = self.config.eos_token_id if eos_token_id is None else eos_token_id
        ends = ids.new_tensor([eos] if isinstance(eos, int) else list(eos or ()))
        done = torch.zeros(B, dtype=torch.bool, device=ids.device)
        out, step = [ids], ids
        for n in range(max_new_tokens):
            seen = None if mask is None else mask[:, : L + n]
            logits = self(step, seen, cache, logits_to_keep=1)[:, -1]
            chosen = sample(logits, temperature, top_k, top_p, generator).masked_fill(
                done, pad_token_id
            )
            step = chosen.unsqueeze(1)  # [B, 1]
            out.append(step)
            done |= torch.isin(chosen, ends)
            if streamer is not None:
                streamer(chosen)
            if done.all():
                break
        return torch.cat(out, 1)

    def _prompts(
        self, input_ids: Tensor | Sequence[Sequence[int]], mask: Tensor | None, pad: int
    ) -> tuple[Tensor, Tensor | None]:
        """Ids ``[B, L]`` and, where there is padding, their mask, both checked."""
        device, V = self.embed.weight.device, self.config.vocab_size
        if isinstance(input_ids, Tensor):
            _checks.tensor("input_ids", input_ids, "[B, L]", _checks.IDS)
            ids = input_ids.long()
            real = torch.ones_like(ids) if mask is None else mask.long()
            _checks.shape("attention_mask", real, "[B, L]", tuple(ids.shape))
        else:
            L = max(map(len, input_ids), default=0)
            ids = torch.tensor([[pad] * (L - len(row)) + [*row] for row in input_ids], device=device)
            real = torch.tensor([[0] * (L - len(row)) + [1] * len(row) for row in input_ids])
            real = real.to(device)
        if not ids.numel() or not real.any(1).all():
            raise ValueError(f"every prompt must have a token, got lengths {real.sum(-1).tolist()}")
        if (real.diff(dim=1) < 0).any():
            raise ValueError("attention_mask must have its zeros on the left, got zeros after ones")
        bad = ((ids < 0) | (ids >= V)) & real.bool()
        if bad.any():
            row, column = bad.nonzero()[0].tolist()
            raise ValueError(
                f"input_ids must be in [0, {V}), got {ids[row, column]} in row {row}, column {column}"
            )
        ids = ids.masked_fill(real == 0, pad)
        return ids, None if real.all() else real


def sample(
    logits: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator | None
) -> Tensor:
    """Chooses one id ``[B]`` from each row of ``[B, V]``; see ``generate`` for the settings."""
    if temperature == 0.0:
        return logits.argmax(-1)
    kept = min(top_k or logits.shape[-1], logits.shape[-1])
    values, ids = (logits.float() / temperature).topk(kept)  # descending
    probs = values.softmax(-1)
    # a token stays while those before it have not reached top_p: the first one always does
    probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)
    return ids.gather(-1, torch.multinomial(probs, 1, generator=generator)).squeeze(-1)
