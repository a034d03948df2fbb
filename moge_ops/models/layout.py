"""The model's tensors by name: in a state dict that a mesh can split, and in the released files."""

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from moge_ops.models.pangu_moe import Attention, PanguMoEConfig
from moge_ops.nn import MoGE
from moge_ops.ops._activation import Activation

__all__ = [
    "Index",
    "check_activations",
    "original",
    "parameter_counts",
    "parameter_name",
    "released_count",
    "released_names",
    "released_shapes",
    "split",
    "state_dict",
]

Index = tuple[int | None, ...]
# what released files repeat within a head that predicts further tokens -> whose it is
REPEATED = {"embed_tokens": "model.embed_tokens", "shared_head.head": "lm_head"}
COPY = re.compile(r"model\.layers\.(\d{1,9})\.(embed_tokens|shared_head\.head)\.(.+)")


def state_dict(module: nn.Module) -> dict[str, Tensor]:
    """What ``torch.distributed.checkpoint`` saves and loads, on any mesh and on none.

    For a parallel module it is the module's own ``state_dict()``. For a module in one process it
    has the same names and shapes, as views of the parameters, so that loading writes into them.
    The halves of a SwiGLU and the parts of a QKV projection are separate here, because a mesh
    splits each of them on its own: w_gate_up is ``[E, 2, F, H]``, shared_gate_up is ``[2, S, H]``,
    and qkv is six tensors. Without a gate, or with interleaved rows, there are no such halves, and
    no mesh takes the layer: both weights are as the layer has them.

    Args:
        module: The reference model, or a module that holds :class:`moge_ops.nn.MoGE` layers;
            parallel or not, under FSDP2 or not.

    Returns:
        Name to tensor, DTensors where the module is parallel. The memory is the module's.
    """
    return split(module, module.state_dict())


def split(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the names and shapes of a module's parameters, as :func:`state_dict` has these.

    Some parameters may be missing. A scalar stands for each of the tensors that its parameter is
    split into.
    """
    state = dict(tensors)
    for at, part in module.named_modules():
        prefix = f"{at}." if at else ""
        if isinstance(part, MoGE) and _has_halves(part):
            E = part.w_down.shape[0]
            # a quantised one is not in the state, and not split by a mesh
            for name, shape in (("w_gate_up", (E, 2, -1)), ("shared_gate_up", (2, -1))):
                whole = state.get(f"{prefix}{name}")
                if whole is not None and whole.ndim:
                    state[f"{prefix}{name}"] = whole.view(*shape, whole.shape[-1])
        elif isinstance(part, Attention) and isinstance(part.qkv, nn.Linear):
            rows = [n * part.head_dim for n in (part.heads, part.kv_heads, part.kv_heads)]
            for kind in ("weight", "bias"):
                whole = state.pop(f"{prefix}qkv.{kind}", None)
                if whole is not None:
                    parts = torch.split(whole, rows) if whole.ndim else [whole] * 3
                    for name, x in zip("qkv", parts, strict=True):
                        state[f"{prefix}qkv.{name}_{kind}"] = x
    return state


def _has_halves(layer: MoGE) -> bool:
    """Whether gate and up lie one after the other, and are not apart already, as on a mesh."""
    halves = layer.activation.gated and not layer.activation.interleaved
    return halves and len(layer.w_gate_up.shape) == 3


def check_activations(model: nn.Module) -> None:
    """Raises ValueError if a layer cannot be written: a config has no activation but SwiGLU."""
    for at, module in model.named_modules():
        if isinstance(module, MoGE) and module.activation != Activation():
            raise ValueError(
                f"{at}.activation must be SwiGLU, the only one of the released layout, got "
                f"{module.activation}"
            )


def released_names(config: PanguMoEConfig) -> Iterator[tuple[str, str, Index]]:
    """Every tensor of the released layout, which has one for each matrix of each expert.

    Heads that predict further tokens are numbered after the layers, and named as in the released
    files of DeepSeek-V3; the embedding and the output head, which they share, are not repeated:
    see :func:`original`.

    Yields:
        The released name, the name in :func:`state_dict`, and the index of the part of that tensor;
        None adds a dimension of size one.
    """
    yield "model.embed_tokens.weight", "embed.weight", ()
    heads = config.num_nextn_predict_layers
    for i in range(config.num_hidden_layers + heads):
        there, here, j = f"model.layers.{i}", f"layers.{i}", i - config.num_hidden_layers
        if j >= 0:
            for name in ("enorm", "hnorm", "eh_proj"):
                yield f"{there}.{name}.weight", f"mtp.{j}.{name}.weight", ()
            yield f"{there}.shared_head.norm.weight", f"mtp.{j}.norm.weight", ()
            here = f"mtp.{j}.layer"
        yield f"{there}.input_layernorm.weight", f"{here}.attention_norm.weight", ()
        for kind in ("weight", "bias"):
            for name in "qkv":
                whole = f"{here}.attention.qkv.{name}_{kind}"
                yield f"{there}.self_attn.{name}_proj.{kind}", whole, ()
            yield f"{there}.self_attn.o_proj.{kind}", f"{here}.attention.o.{kind}", ()
        yield f"{there}.post_attention_layernorm.weight", f"{here}.moge_norm.weight", ()
        yield f"{there}.mlp.gate.weight", f"{here}.moge.gate", ()
        yield f"{there}.mlp.router_scale", f"{here}.moge.router_scale", (None,)
        experts = [(f"experts.{e}", "w", (e,)) for e in range(config.num_experts)]
        shared = [("shared_expert", "shared", ())] if config.shared_expert_intermediate_size else []
        for name, kind, index in (*experts, *shared):
            at = f"{there}.mlp.{name}"
            yield f"{at}.gate_proj.weight", f"{here}.moge.{kind}_gate_up", (*index, 0)
            yield f"{at}.up_proj.weight", f"{here}.moge.{kind}_gate_up", (*index, 1)
            yield f"{at}.down_proj.weight", f"{here}.moge.{kind}_down", index
    yield "model.norm.weight", "norm.weight", ()
    yield "lm_head.weight", "lm_head.weight", ()


def original(name: str, config: PanguMoEConfig) -> str | None:
    """The name of the model's own tensor that a head's repeats; None if ``name`` is no copy.

    The released files of DeepSeek-V3 have the embedding and the output head once more within each
    head that predicts further tokens.
    """
    found, layers = COPY.fullmatch(name), config.num_hidden_layers
    if found is None or not 0 <= int(found[1]) - layers < config.num_nextn_predict_layers:
        return None
    return f"{REPEATED[found[2]]}.{found[3]}"


def parameter_name(name: str) -> str:
    """The module's own name for the parameter that a tensor of :func:`state_dict` is a part of."""
    return re.sub(r"\bqkv\.[qkv]_", "qkv.", name)


def released_count(config: PanguMoEConfig) -> int:
    """How many tensors :func:`released_names` yields."""
    experts = config.num_experts + bool(config.shared_expert_intermediate_size)
    heads = config.num_nextn_predict_layers
    return 3 + (config.num_hidden_layers + heads) * (12 + 3 * experts) + heads * 4


def _shapes(config: PanguMoEConfig) -> dict[str, list[int]]:
    """Shape of a released tensor, by the end of the name of the parameter that it is part of."""
    H, D, V = config.hidden_size, config.head_dim, config.vocab_size
    F, S, E = (
        config.moe_intermediate_size,
        config.shared_expert_intermediate_size,
        config.num_experts,
    )
    q, kv = config.num_attention_heads * D, config.num_key_value_heads * D
    return {
        "embed.weight": [V, H],
        "lm_head.weight": [V, H],
        "norm.weight": [H],
        "enorm.weight": [H],
        "hnorm.weight": [H],
        "eh_proj.weight": [H, 2 * H],
        "attention_norm.weight": [H],
        "moge_norm.weight": [H],
        "qkv.q_weight": [q, H],
        "qkv.k_weight": [kv, H],
        "qkv.v_weight": [kv, H],
        "qkv.q_bias": [q],
        "qkv.k_bias": [kv],
        "qkv.v_bias": [kv],
        "o.weight": [H, H],
        "o.bias": [H],
        "moge.gate": [E, H],
        "moge.router_scale": [1, E],
        "moge.w_gate_up": [F, H],
        "moge.w_down": [H, F],
        "moge.shared_gate_up": [S, H],
        "moge.shared_down": [H, S],
    }


def released_shapes(config: PanguMoEConfig) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of every tensor of the released layout, without a model."""
    shapes = _shapes(config)
    for name, whole, _ in released_names(config):
        yield name, shapes[".".join(whole.split(".")[-2:])]


def parameter_counts(config: PanguMoEConfig) -> tuple[int, int]:
    """All parameters, and those of one token, by arithmetic: a config may ask for any sizes.

    The first count has the heads that predict further tokens, the second does not.
    """
    sizes = {name: math.prod(shape) for name, shape in _shapes(config).items()}
    norm, vocabulary = sizes.pop("norm.weight"), sizes.pop("embed.weight")
    outer = norm + vocabulary + sizes.pop("lm_head.weight")
    head = norm + sum(sizes.pop(f"{name}.weight") for name in ("enorm", "hnorm", "eh_proj"))
    expert = 2 * sizes.pop("moge.w_gate_up") + sizes.pop("moge.w_down")
    layer = sum(sizes.values()) + sizes["moge.shared_gate_up"]  # gate and up have one shape
    L, E, K = config.num_hidden_layers, config.num_experts, config.num_experts_per_tok
    D = config.num_nextn_predict_layers
    total = outer + (L + D) * (layer + E * expert) + D * head
    return total, outer + L * (layer + K * expert)
