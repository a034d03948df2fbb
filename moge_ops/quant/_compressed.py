"""Quantised experts in the format of compressed-tensors: the inverse of reading them.

Names, dtypes and shapes are those of :mod:`moge_ops.quant._layouts`; what is written is read back
bit for bit.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from moge_ops._quantized import INTEGERS, QuantizedWeight, pack_int4, unpack_nibbles
from moge_ops.quant.rounding import FP8_BLOCK

__all__ = ["config", "tensors"]

_NO_BLOCKS = (
    "scales of fp8_w8a16 must be of a matrix, a row, or blocks of 128 by 128 that start with each "
    "half, got {} for {}"
)
GATE_UP, DOWN = r"re:.*\.experts\.\d+\.(gate|up)_proj$", r"re:.*\.experts\.\d+\.down_proj$"


def tensors(module: str, weight: QuantizedWeight, expert: int, half: int, halves: int) -> Iterator[
    tuple[str, Tensor]
]:  # fmt: skip
    """Name and tensor of every part of one matrix ``[O, I]`` of one expert.

    Args:
        module: Its name, like ``model.layers.0.mlp.experts.0.gate_proj``.
        weight: ``[E, halves * O, I]``.
        expert, half: Which.
        halves: Matrices that lie stacked along O.
    """

    O, I = weight.shape[1] // halves, weight.shape[2]

    def of(x: Tensor) -> Tensor:
        x = x[expert]
        if weight.scheme != "fp8_w8a16" and x.shape[0] != weight.shape[1]:
            # scales of several rows: only fp8 has words for them
            x = x.repeat_interleave(weight.shape[1] // x.shape[0], 0)
        rows = x.shape[0] // halves
        return x[half * rows : (half + 1) * rows]

    data, scale = of(weight.data), of(weight.scale)
    strategy = _strategy(weight, halves)
    if weight.scheme == "int8_w8a16":
        data = (data.contiguous().view(torch.uint8) ^ 128).contiguous()
        columns = torch.nn.functional.pad(data, (0, -I % 4), value=0)
        data = columns.view(torch.int32)
    elif weight.scheme == "int4_w4a8":
        data = pack_int4(torch.nn.functional.pad(unpack_nibbles(data), (0, -I % 8), value=0))
    if strategy == "block":
        scale = scale.repeat_interleave(O // scale.shape[0], 0)[::FP8_BLOCK]
    elif strategy == "tensor":
        scale = scale.reshape(1)
    packed = _FORMATS[weight.scheme].endswith("pack-quantized")
    yield f"{module}.weight{'_packed' * packed}", data
    yield f"{module}.weight_scale", scale
    if weight.zero is not None:
        # O is a multiple of 8, for it is the I of the other weight
        yield f"{module}.weight_zero_point", pack_int4(of(weight.zero).T).T
    if packed and weight.scheme != "mxfp4_w4a16":
        yield f"{module}.weight_shape", torch.tensor([O, I])


def _strategy(weight: QuantizedWeight, halves: int) -> str:
    """What compressed-tensors calls the rows and columns that share a scale.

    Raises:
        ValueError: It has no word for them.
    """
    rows, scales = weight.shape[1], weight.scale.shape[1]
    if weight.scheme != "fp8_w8a16" or scales == rows:
        return "channel" if weight.group_size is None else "group"
    if weight.group_size is None and scales == halves:
        return "tensor"
    each = rows // scales
    if weight.group_size == FP8_BLOCK and scales % halves == 0 and FP8_BLOCK % each == 0:
        return "block"
    raise ValueError(_NO_BLOCKS.format(list(weight.scale.shape), list(weight.shape)))


def _check_blocks(weight: QuantizedWeight, halves: int) -> None:
    """Raises ValueError unless every block of 128 rows of a half has one scale."""
    O, each = weight.shape[1] // halves, weight.shape[1] // weight.scale.shape[1]
    for scale in weight.scale.unbind():
        of_half = torch.unflatten(scale, 0, (halves, -1)).repeat_interleave(each, 1)
        first = of_half[:, ::FP8_BLOCK].repeat_interleave(FP8_BLOCK, 1)[:, :O]
        if not scale.is_meta and not torch.equal(first, of_half):
            raise ValueError(_NO_BLOCKS.format(list(weight.scale.shape), list(weight.shape)))


def _weights(weight: QuantizedWeight, halves: int) -> dict[str, Any]:
    """The ``weights`` of a group of ``config_groups``."""
    strategy = _strategy(weight, halves)
    made: dict[str, Any] = {
        "num_bits": 4 if "_w4" in weight.scheme else 8,
        "type": "float" if "fp" in weight.scheme else "int",
        "symmetric": weight.zero is None,
        "strategy": strategy,
        "group_size": weight.group_size if strategy == "group" else None,
        "dynamic": False,
    }
    if strategy == "block":
        _check_blocks(weight, halves)
        made["block_structure"] = [FP8_BLOCK, FP8_BLOCK]
    if weight.scheme == "mxfp4_w4a16":
        made["scale_dtype"] = "torch.uint8"
    return made


_FORMATS = {
    "int8_w8a8": "int-quantized",
    "int4_w4a8": "pack-quantized",
    "int8_w8a16": "pack-quantized",
    "int4_w4a16": "pack-quantized",
    "fp8_w8a16": "float-quantized",
    "mxfp4_w4a16": "mxfp4-pack-quantized",
}
PER_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def config(
    layers: Iterable[tuple[QuantizedWeight, QuantizedWeight]], ignore: Iterable[str]
) -> dict[str, Any]:
    """The ``quantization_config`` of layers with these ``(w_gate_up, w_down)``.

    Args:
        layers: At least one.
        ignore: Names of the linear layers that are not quantised.

    Raises:
        ValueError: Layers are quantised in different ways.
    """
    found: list[list[dict[str, Any]]] = []
    for weights in layers:
        groups: list[dict[str, Any]] = [
            {
                "weights": _weights(weight, halves),
                "input_activations": PER_TOKEN if weight.scheme in INTEGERS else None,
                "output_activations": None,
                "format": _FORMATS[weight.scheme],
            }
            for weight, halves in zip(weights, (2, 1), strict=True)
        ]
        if found and groups != found[0]:
            raise ValueError(
                "all layers must be quantised in one way to be written, got "
                f"{_way(found[0])} and {_way(groups)}"
            )
        found = found or [groups]
    up, down = found[0]
    if up == down:
        groups = [{"targets": ["Linear"], **up}]
    else:
        groups = [{"targets": [GATE_UP], **up}, {"targets": [DOWN], **down}]
    formats = {group["format"] for group in groups}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups)},
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _way(groups: list[dict[str, Any]]) -> str:
    keys = ("num_bits", "type", "symmetric", "strategy", "group_size")
    told = [", ".join(f"{key}={group['weights'][key]}" for key in keys) for group in groups]
    return " | ".join(dict.fromkeys(told))
