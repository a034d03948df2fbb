"""Files of Pangu Pro MoE for transformers: the released layout, and transformers' own.

transformers loads and saves. Here stand what it converts, what it leaves unchecked, and what it
does not see: files that other tools pass as they are.
"""

# mypy: allow-untyped-calls

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    ConversionOps,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
)

from moge_ops import _files
from moge_ops.models import checkpoint, layout
from moge_ops.models.pangu_moe import FIXED, PanguMoEConfig

__all__ = ["checked", "load_released", "mixed", "names_of_heads", "stored", "written"]


class _Join(Concatenate):
    """Queries, keys and values to one projection; unlike their kind, they have unequal sizes."""

    @property
    def reverse_op(self) -> ConversionOps:
        return _Part(self.dim)


class _Part(ConversionOps):
    """The inverse of :class:`_Join`."""

    def __init__(self, dim: int = 0) -> None:
        self.dim = dim

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One tensor to three."""
        ((whole,), config) = input_dict.values(), kwargs["config"]
        whole = whole[0] if isinstance(whole, list) else whole
        heads = (config.num_attention_heads, *[config.num_key_value_heads] * 2)
        parts = whole.split([n * config.head_dim for n in heads], self.dim)
        return {name: part.contiguous() for name, part in zip(target_patterns, parts, strict=True)}

    @property
    def reverse_op(self) -> ConversionOps:
        return _Join(self.dim)


class _Flatten(ConversionOps):
    """``router_scale``, ``[1, E]`` in the released files, to ``[E]``, or back."""

    def __init__(self, shape: tuple[int, ...] = (-1,)) -> None:
        self.shape = shape

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One tensor to another view of it."""
        (x,) = input_dict.values()
        x = x[0] if isinstance(x, list) else x
        return {target_patterns[0]: x.reshape(self.shape)}

    @property
    def reverse_op(self) -> ConversionOps:
        return _Flatten((1, -1) if self.shape == (-1,) else (-1,))


def _gate_and_up(source: str, target: str, operations: list[ConversionOps]) -> WeightConverter:
    sources = [f"mlp.{source}.{half}_proj.weight" for half in ("gate", "up")]
    return WeightConverter(sources, f"moge.{target}_gate_up", operations)


# the released layout to this model's parameters; transformers inverts it when it saves
register_checkpoint_conversion_mapping(
    str(FIXED["model_type"]),
    [
        WeightRenaming("embed_tokens.weight", "embed.weight"),
        WeightRenaming("input_layernorm.weight", "attention_norm.weight"),
        WeightRenaming("post_attention_layernorm.weight", "moge_norm.weight"),
        WeightRenaming("self_attn.o_proj.weight", "attention.o.weight"),
        WeightRenaming("self_attn.o_proj.bias", "attention.o.bias"),
        WeightRenaming("mlp.gate.weight", "moge.gate"),
        WeightRenaming("mlp.shared_expert.down_proj.weight", "moge.shared_down"),
        *(
            WeightConverter(
                [f"self_attn.{name}_proj.{kind}" for name in "qkv"],
                f"attention.qkv.{kind}",
                [_Join(0)],
            )
            for kind in ("weight", "bias")
        ),
        WeightConverter("mlp.router_scale", "moge.router_scale", [_Flatten()]),
        _gate_and_up("experts.*", "w", [MergeModulelist(0), Concatenate(1)]),
        _gate_and_up("shared_expert", "shared", [Concatenate(0)]),
        WeightConverter("mlp.experts.*.down_proj.weight", "moge.w_down", [MergeModulelist(0)]),
    ],
    overwrite=True,
)


@torch.no_grad()
def load_released(
    module: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: Any,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Takes the tensors of released files in ``load_state_dict``, which need not be all of them.

    Trainer passes the files that ``save_pretrained`` wrote as they are, shard by shard, to
    ``load_state_dict(strict=False)``. Parts are copied to their places in the stacked parameters
    here, and for each parameter the state dict then has the parameter itself.
    """
    own, found, absent = layout.state_dict(module), set[str](), set[str]()
    sizes = PanguMoEConfig.from_dict(module.config.to_dict())  # type: ignore[operator, union-attr]
    for name, whole, index in layout.released_names(sizes):
        name, parameter = prefix + name.removeprefix("model."), layout.parameter_name(whole)
        if whole not in own:  # the head
            continue
        if name not in state_dict:
            absent.add(parameter)
            continue
        tensor, part = state_dict.pop(name), own[whole][index]
        if part.is_meta:
            error_msgs.append(f"{prefix}{parameter} is on the meta device: call to_empty first")
        elif tensor.shape != part.shape:
            error_msgs.append(
                f"size mismatch for {name}: expected {list(part.shape)}, got {list(tensor.shape)}"
            )
        else:
            part.copy_(tensor)
            found.add(parameter)
    for parameter in found - absent:
        state_dict[prefix + parameter] = module.get_parameter(parameter).detach()


def names_of_heads(layers: int) -> str:
    """A pattern of the tensors of heads that predict further tokens, numbered after the layers."""
    return rf"\blayers\.(?!(?:{'|'.join(map(str, range(layers)))})\.)\d+\."


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    """The file of all weights, or the index of several, each with what tells its versions apart."""
    paths = [folder / checkpoint.SINGLE, folder / checkpoint.INDEX]
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in paths if p.is_file()}


stored: ContextVar[dict[str, torch.dtype]] = ContextVar("stored", default={})  # noqa: B039
"""Within :func:`checked`: dtypes that are not the embedding's, by a pattern for each parameter."""


@contextmanager
def checked(folder: Path, options: dict[str, Any]) -> Iterator[None]:
    """Checks what ``from_pretrained`` will read, and sets :data:`stored` meanwhile.

    Raises as :func:`moge_ops.models.checkpoint.from_pretrained` does.
    """
    settings = folder / "generation_config.json"
    if settings.exists():
        # what is no object of a bearable size is refused before transformers reads it
        _files.read_object(settings, checkpoint.MOST_CONFIG)
    elsewhere = any(options.get(name) for name in ("variant", "state_dict", "gguf_file"))
    here = folder.is_dir() and not (folder / "adapter_config.json").exists() and not elsewhere
    dtypes: dict[str, torch.dtype] = {}
    if here:
        quantized = checkpoint.read_config(folder).extra.get("quantization_config")
        if quantized is not None and not _is_ours(quantized):
            raise ValueError(
                f"{folder} has experts that others quantised: load it by "
                "moge_ops.integrations.transformers.load_quantized"
            )
        # ours have names of their own, which their quantiser checks
        if checkpoint.is_released(folder) and quantized is None:
            checkpoint.stored_dtypes(folder)
        if _keeps_dtypes(options):
            codes = {
                name: checkpoint.DTYPES.get(c) for name, c, _ in checkpoint.stored_tensors(folder)
            }
            dtypes = _mixed(checkpoint.read_config(folder), codes)
    with _storing(dtypes):
        yield


@contextmanager
def mixed(config: Any, state: Any, options: dict[str, Any]) -> Iterator[None]:
    """Sets :data:`stored` to what is in a state dict that ``from_pretrained`` gets."""
    dtypes: dict[str, torch.dtype] = {}
    if config is not None and state and _keeps_dtypes(options):
        sizes = PanguMoEConfig.from_dict(config.to_dict())
        dtypes = _mixed(sizes, {name: x.dtype for name, x in state.items()})
    with _storing(dtypes):
        yield


@contextmanager
def _storing(dtypes: dict[str, torch.dtype]) -> Iterator[None]:
    token = stored.set(dtypes)
    try:
        yield
    finally:
        stored.reset(token)


def _is_ours(quantization_config: Any) -> bool:
    ours = "moge_ops"  # the name that _quantizer registers
    return isinstance(quantization_config, dict) and quantization_config.get("quant_method") == ours


def _keeps_dtypes(options: dict[str, Any]) -> bool:
    return options.get("dtype", options.get("torch_dtype")) in (None, "auto")


def _mixed(
    config: PanguMoEConfig, files: Mapping[str, torch.dtype | None]
) -> dict[str, torch.dtype]:
    """The parameters of files in any layout whose dtype is not that of the embedding."""
    own = {name: layout.parameter_name(whole) for name, whole, _ in layout.released_names(config)}
    found = {}
    for name, dtype in files.items():
        found[own.get(name, own.get(f"model.{name}", name)).removeprefix("model.")] = dtype
    main = found.get("embed.weight")
    return {
        rf"(?<![\w.])(?:model\.)?{re.escape(name)}$": dtype
        for name, dtype in found.items()
        if dtype is not None and dtype != main
    }
