"""How each format stores one quantised matrix: the names, dtypes and shapes of its tensors.

Dimensions: O rows and I columns of the matrix, g columns that share a scale, E experts. A layout
brings a matrix into the form of :class:`moge_ops.quant.QuantizedWeight`, in integers: nothing is
rounded, but where static W8A8 has to divide one scale by another.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops._quantized import STORED, pack_nibbles, unpack_int4
from moge_ops.quant.rounding import FP8_BLOCK, block_rows

__all__ = [
    "FLOATS",
    "GptOss",
    "Layout",
    "Mxfp4",
    "Packed",
    "Part",
    "Plain8",
    "no_zeros",
    "unbiased",
]

FLOATS = ("F32", "BF16", "F16")
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "U8": torch.uint8}


class Part(NamedTuple):
    """One tensor of a matrix."""

    codes: tuple[str, ...]  # dtypes, as safetensors calls them
    shapes: Callable[[int, int], list[list[int]]]  # those allowed, of O and I
    optional: bool = False


def _any_scalar(codes: tuple[str, ...] = FLOATS) -> Part:
    """Of static activations: no part of the weight, so it is not read."""
    return Part(codes, lambda O, I: [[], [1], [1, 1]], optional=True)


@dataclass(frozen=True)
class Layout:
    """The tensors of one matrix ``[O, I]``.

    Attributes:
        scheme, group_size: Of the weight that it becomes.
        rows: Rows that share a scale: ``"one"``, ``"block"`` (128 of them) or ``"all"``.
        has_zero: Whether there are zero points.
        main: The tensor that has the numbers, whose shape tells O and I.
        scale: The tensor that has the scales.
        interleaved: Whether the rows of gate and up take turns, where they are one matrix.
    """

    scheme: str
    group_size: int | None = None
    rows: str = "one"
    has_zero: bool = False
    main: str = "weight"
    scale: str = "weight_scale"
    interleaved: bool = False

    def parts(self) -> dict[str, Part]:
        """Every tensor by the end of its name."""
        raise NotImplementedError

    def sizes(self, shape: list[int]) -> tuple[int, int]:
        """``(O, I)`` of a matrix whose main tensor has this shape, of two dimensions."""
        raise NotImplementedError

    def multiples(self) -> tuple[int, int]:
        """What O and I must be multiples of."""
        group = self.group_size if self.group_size and self.scheme != "fp8_w8a16" else 1
        return 1, math.lcm(group, 8 if self.scheme in ("int4_w4a16", "int4_w4a8") else 1)

    def numbers(self, stored: Tensor) -> Tensor:
        """The main tensor as :class:`QuantizedWeight` has its data."""
        return stored

    def scales(self, parts: Mapping[str, Tensor], data: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scales ``[S, groups]`` and zero points, or None, from all tensors but the main one.

        ``data`` is what :meth:`numbers` gave. Raises ValueError if values do not fit.
        """
        return self._spread(parts[self.scale], data.shape[0]), None

    def scale_dtype(self, code: str) -> torch.dtype:
        """Of the scales, if the files have them in this dtype."""
        return DTYPES.get(code, torch.float32)

    def scale_rows(self, O: int) -> int:
        """S."""
        return {"one": O, "block": O // block_rows(O), "all": 1}[self.rows]

    def groups(self, I: int) -> int:
        """Groups of columns."""
        return math.ceil(I / (self.group_size or max(I, 1)))

    def _scale_shapes(self, O: int, I: int) -> list[list[int]]:
        if self.rows == "all":
            return [[], [1], [1, 1]]
        rows = math.ceil(O / FP8_BLOCK) if self.rows == "block" else O
        shapes = [[rows, self.groups(I)]]
        return [*shapes, [rows]] if self.group_size is None else shapes

    def _spread(self, scale: Tensor, O: int) -> Tensor:
        if self.rows == "all":
            return scale.reshape(1, 1)
        scale = scale.reshape(scale.shape[0], -1)
        if self.rows == "block":
            r = block_rows(O)
            scale = scale.repeat_interleave(FP8_BLOCK // r, 0)[: O // r]
        return scale


def no_zeros(what: str, x: Tensor) -> None:
    if x.count_nonzero():
        raise ValueError(f"{what} must be 0 for symmetric weights, got {x.flatten().tolist()[:8]}")


@dataclass(frozen=True)
class Plain8(Layout):
    """Eight bits in a dtype of their own: int-quantized, float-quantized, fp8, W8A8_DYNAMIC."""

    offset: str = "weight_zero_point"  # which some write, though it is 0
    mixed: bool = False  # whether the tensors of static activations stand beside these

    def parts(self) -> dict[str, Part]:
        """As :meth:`Layout.parts`."""
        code = "F8_E4M3" if self.scheme == "fp8_w8a16" else "I8"
        scales = (*FLOATS, "F8_E8M0") if code == "F8_E4M3" else FLOATS
        offsets = Part((*FLOATS, "I8", code), self._scale_shapes, optional=True)
        static = ("input_scale", "input_offset", "input_zero_point", "activation_scale")
        made = {
            "weight": Part((code,), lambda O, I: [[O, I]]),
            self.scale: Part(scales, self._scale_shapes),
            self.offset: offsets,
            **dict.fromkeys(static, _any_scalar((*FLOATS, "I8", code))),
        }
        if self.mixed:
            row = lambda O, I: [[O], [O, 1]]  # noqa: E731
            made["deq_scale"] = Part(("F32", "I64"), row, optional=True)
            made["quant_bias"] = Part(("I32",), row, optional=True)
        return made

    def sizes(self, shape: list[int]) -> tuple[int, int]:
        """As :meth:`Layout.sizes`."""
        return shape[0], shape[1]

    def _scale_shapes(self, O: int, I: int) -> list[list[int]]:
        # integers may have one scale for all rows in the file; here it becomes one for each
        one = [[], [1], [1, 1]] if self.scheme != "fp8_w8a16" else []
        return [*super()._scale_shapes(O, I), *one]

    def scales(self, parts: Mapping[str, Tensor], data: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`Layout.scales`."""
        if self.offset in parts:
            no_zeros(self.offset, parts[self.offset].float())
        scale = parts[self.scale]
        if scale.dtype == torch.float8_e8m0fnu:
            scale = scale.float()
        if self.rows == "one" and scale.numel() == 1:
            return scale.reshape(1, 1).expand(data.shape[0], 1), None
        return self._spread(scale, data.shape[0]), None


@dataclass(frozen=True)
class Packed(Layout):
    """compressed-tensors' pack-quantized: numbers of 4 or 8 bits in int32, half the range added."""

    main: str = "weight_packed"

    @property
    def bits(self) -> int:
        """Of a number."""
        return 4 if self.scheme.startswith("int4") else 8

    def parts(self) -> dict[str, Part]:
        """As :meth:`Layout.parts`."""
        n = 32 // self.bits
        made = {
            "weight_packed": Part(("I32",), lambda O, I: [[O, math.ceil(I / n)]]),
            "weight_scale": Part(FLOATS, self._scale_shapes),
            "weight_shape": Part(("I64", "I32"), lambda O, I: [[2]], optional=True),
            "input_scale": _any_scalar(),
        }
        if self.has_zero:
            shapes = lambda O, I: [[math.ceil(O / n), self.groups(I)]]  # noqa: E731
            made["weight_zero_point"] = Part(("I32",), shapes)
        return made

    def sizes(self, shape: list[int]) -> tuple[int, int]:
        """As :meth:`Layout.sizes`."""
        return shape[0], shape[1] * 32 // self.bits

    def numbers(self, stored: Tensor) -> Tensor:
        """As :meth:`Layout.numbers`."""
        if self.scheme == "int4_w4a8":
            return pack_nibbles(unpack_int4(stored))
        return stored if self.bits == 4 else unbiased(stored)

    def scales(self, parts: Mapping[str, Tensor], data: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`Layout.scales`."""
        O, n = data.shape[0], STORED[self.scheme].values
        want = [O, data.shape[1] * n]
        if "weight_shape" in parts and parts["weight_shape"].tolist() != want:
            got = parts["weight_shape"].tolist()
            raise ValueError(f"weight_shape must be {want}, as packed, got {got}")
        scale, zero = self._spread(parts["weight_scale"], O), None
        if self.has_zero:
            zero = unpack_int4(parts["weight_zero_point"].T.contiguous())[:, :O].T
        return scale, zero


def unbiased(packed: Tensor) -> Tensor:
    """int32 ``[..., n]`` to int8 ``[..., 4 n]``, without the 128 that is added to each."""
    return (packed.contiguous().view(torch.uint8) ^ 128).view(torch.int8)


@dataclass(frozen=True)
class Mxfp4(Layout):
    """compressed-tensors' mxfp4-pack-quantized, which is the form of QuantizedWeight."""

    main: str = "weight_packed"

    def parts(self) -> dict[str, Part]:
        """As :meth:`Layout.parts`."""
        return {
            "weight_packed": Part(("U8",), lambda O, I: [[O, math.ceil(I / 2)]]),
            "weight_scale": Part(("U8",), self._scale_shapes),
        }

    def sizes(self, shape: list[int]) -> tuple[int, int]:
        """As :meth:`Layout.sizes`."""
        return shape[0], 2 * shape[1]


@dataclass(frozen=True)
class GptOss(Layout):
    """gpt-oss: blocks of 32 numbers, and the rows of gate and up in turn."""

    main: str = "blocks"
    scale: str = "scales"
    interleaved: bool = True

    def parts(self) -> dict[str, Part]:
        """As :meth:`Layout.parts`."""
        return {
            "blocks": Part(("U8",), lambda O, I: [[O, math.ceil(I / 32), 16]]),
            "scales": Part(("U8",), self._scale_shapes),
        }

    def sizes(self, shape: list[int]) -> tuple[int, int]:
        """As :meth:`Layout.sizes`."""
        return shape[0], 32 * shape[1]

    def numbers(self, stored: Tensor) -> Tensor:
        """As :meth:`Layout.numbers`."""
        return stored.flatten(-2)
