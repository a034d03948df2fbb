"""Reads the quantised experts of a checkpoint folder, in any of the formats that are known.

All names, dtypes and shapes are checked before anything is allocated. Then the files are read one
after another, and every tensor goes to its place in a stacked weight: no matrix is ever decoded.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from moge_ops._quantized import QuantizedWeight
from moge_ops.quant._plan import Place, Plan, Weight
from moge_ops.quant._plan import plan as _plan

__all__ = ["Filling", "read", "read_experts"]


class Filling:
    """A stacked weight, while its tensors arrive in any order.

    Args:
        weight: What it will be.
        device: Where it is allocated.
    """

    def __init__(self, weight: Weight, device: torch.device | str) -> None:
        self.plan, self.weight = weight, weight.empty(device)
        # of each matrix: its tensors but for the main one, with their names for messages
        self._waiting = defaultdict[tuple[int, int], dict[str, tuple[Tensor, str]]](dict)

    def put(self, expert: int, half: int, part: str, tensor: Tensor, where: str) -> None:
        """Takes one tensor of one matrix; ``where`` names it."""
        layout = self.plan.layout
        if part == layout.main:
            data = self._rows(self.weight.data, expert, half)
            data.copy_(self._order(layout.numbers(tensor)[:, : data.shape[1]]))  # without padding
            tensor = tensor[:0]
        self._waiting[expert, half][part] = tensor.clone(), where

    def finish(self, expert: int, half: int) -> None:
        """Sets scales and zero points of a matrix of which all tensors have come.

        Raises:
            ValueError: A value does not fit; the message names the tensor.
        """
        layout, waiting = self.plan.layout, self._waiting.pop((expert, half))
        data = self._rows(self.weight.data, expert, half)
        try:
            parts = {part: x for part, (x, _) in waiting.items() if part != layout.main}
            scale, zero = layout.scales(parts, data)
        except ValueError as error:
            part = str(error).partition(" ")[0]
            raise ValueError(f"{waiting.get(part, waiting[layout.main])[1]}: {error}") from None
        where = waiting[layout.scale][1]
        # 255 is NaN among exponents; a scale of 0 or infinity makes all of its numbers the same
        bad = scale == 255 if scale.dtype == torch.uint8 else ~scale.isfinite() | (scale == 0)
        if bad.any():
            raise ValueError(f"{where}: scales must be finite and not 0, got {scale[bad][0]}")
        self._rows(self.weight.scale, expert, half).copy_(self._order(scale))
        if zero is not None and self.weight.zero is not None:
            self._rows(self.weight.zero, expert, half).copy_(self._order(zero))

    def forget(self, expert: int, half: int) -> None:
        """Drops what has come of a matrix that will not be finished."""
        self._waiting.pop((expert, half), None)

    def _rows(self, x: Tensor, expert: int, half: int) -> Tensor:
        """The part of one matrix."""
        rows = x.shape[1] // self.plan.halves
        return x[expert, half * rows : (half + 1) * rows]

    def _order(self, x: Tensor) -> Tensor:
        """Rows of gate first, then those of up."""
        if not self.plan.layout.interleaved:
            return x
        return torch.unflatten(x, 0, (-1, 2)).transpose(0, 1).flatten(0, 1)


def read(
    plan: Plan, device: torch.device | str
) -> Iterator[tuple[str, QuantizedWeight, QuantizedWeight]]:
    """Reads the experts of a folder; as :func:`read_experts`."""

    def experts(place: Place) -> Iterable[int]:
        if place.expert is not None:
            return (place.expert,)
        return range(plan.layers[place.path].up.sizes[0])

    missing = defaultdict[tuple[str, str, int, int], int](int)  # tensors of each matrix
    left = defaultdict[str, int](int)  # of each layer
    for place in plan.places.values():
        left[place.path] += 1
        for e in experts(place):
            missing[place.path, place.weight, e, place.half] += 1
    filling = dict[str, dict[str, Filling]]()
    for name, tensor, where in plan.tensors(lambda name: name in plan.places):
        path, which, half, expert, part = place = plan.places[name]
        if path not in filling:
            layer = plan.layers[path]
            filling[path] = {
                "up": Filling(layer.up, device),
                "down": Filling(layer.down, device),
            }
        for e in experts(place):
            piece = tensor if expert is not None else tensor[e]
            filling[path][which].put(e, half, part, piece, where)
            missing[path, which, e, half] -= 1
            if not missing[path, which, e, half]:
                filling[path][which].finish(e, half)
        left[path] -= 1
        if not left[path]:
            done = filling.pop(path)
            yield path, done["up"].weight, done["down"].weight


def read_experts(
    folder: str | Path, *, device: torch.device | str = "cpu"
) -> Iterator[tuple[str, QuantizedWeight, QuantizedWeight]]:
    """Reads the quantised experts of a checkpoint folder, layer by layer.

    The format is recognised by ``config.json`` and the names of the tensors. All headers are
    checked at the call, before anything is allocated; then the files are read one after another.
    A layer is handed out when its last tensor has been read, so that the peak of memory is the
    quantised weights that the caller keeps, those of layers that are not whole yet, and one file.

    ============================ ============ =====================================================
    format                       scheme       remarks
    ============================ ============ =====================================================
    compressed-tensors
    - int-quantized              int8_w8a8    weights alone: int8_w8a16
    - pack-quantized, 4 bits     int4_w4a16   per row or groups of 32, 64, 128; with zero points
      with activations of int8   int4_w4a8    per row and symmetric; others: int4_w4a16
    - pack-quantized, 8 bits     int8_w8a16   symmetric
    - float-quantized            fp8_w8a16    per tensor, row, row and 128 columns, 128 x 128
    - mxfp4-pack-quantized       mxfp4_w4a16
    fp8 (DeepSeek, transformers) fp8_w8a16    blocks of 128 x 128, or per tensor
    gptq (1 and 2), 4 bits       int4_w4a16   8 bits, symmetric: int8_w8a16
    awq, version gemm            int4_w4a16
    mxfp4 (gpt-oss)              mxfp4_w4a16  without the biases
    msmodelslim's AscendV1
    - W8A8_DYNAMIC, W8A8_MIX     int8_w8a8
    - W8A8 (static)              int8_w8a8    weight scale = deq_scale / input_scale
    - W8A16                      int8_w8a16
    - W4A8_DYNAMIC               int4_w4a16   per row; see below
    ============================ ============ =====================================================

    Activations follow the scheme of the result: int8_w8a8 and int4_w4a8 quantise them for each
    token as they run, whatever static scales the files have; with the others they stay in 16 bits
    or more, as with W4A8_DYNAMIC, whose numbers and scales int4_w4a8 could hold as they are.
    Biases of experts are not read.

    Args:
        folder: Holds ``config.json`` and safetensors files, with tensors of single experts
            (``….experts.0.gate_proj.weight``, or w1, w3 and w2) or of all (``….gate_up_proj``).
        device: Where the weights are allocated.

    Yields:
        The path of the experts' module, such as ``model.layers.0.mlp.experts``; ``w_gate_up``, with
        the gate half first, which gpt-oss has in alternate rows; ``w_down``.

    Raises:
        FileNotFoundError: A file is missing; the message names it.
        ValueError: A file is damaged; the folder is not quantised, or in a way that is not read,
            which the message names; tensors are missing, unexpected, misshapen or of a wrong dtype;
            a scale is NaN, infinite or 0, a zero point out of range, columns are in activation
            order. The message names tensor and file.
    """
    return read(_plan(Path(folder)), device)
