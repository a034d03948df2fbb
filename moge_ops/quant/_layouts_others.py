"""The layouts of GPTQ, AWQ and msmodelslim, which pack along other dimensions or fold scales."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moge_ops._quantized import unpack_int4
from moge_ops.quant._layouts import FLOATS, Layout, Part, no_zeros, unbiased

__all__ = ["AWQ", "GPTQ", "AscendStatic", "AscendW4"]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight columns each nibble holds, the lowest first


def _packed(codes: Tensor) -> Tensor:
    """uint8 ``[..., 8 n]`` in [0, 15] to int32 ``[..., n]``, as int4_w4a16 has its data."""
    return (codes[..., ::2] | codes[..., 1::2] << 4).contiguous().view(torch.int32)


@dataclass(frozen=True)
class GPTQ(Layout):
    """GPTQ: numbers packed along I, zero points along O, all without a sign.

    An element is ``(number - zero) * scale``; version 1 stores ``zero - 1``.
    """

    main: str = "qweight"
    scale: str = "scales"
    added: int = 1  # to the zero points that are stored

    def multiples(self) -> tuple[int, int]:
        """As :meth:`Layout.multiples`."""
        return 1, math.lcm(super().multiples()[1], 32 // self.bits)

    @property
    def bits(self) -> int:
        """Of a number."""
        return 4 if self.scheme == "int4_w4a16" else 8

    def parts(self) -> dict[str, Part]:
        """As :meth:`Layout.parts`."""
        n = 32 // self.bits
        return {
            "qweight": Part(("I32",), lambda O, I: [[math.ceil(I / n), O]]),
            "qzeros": Part(("I32",), lambda O, I: [[self.groups(I), math.ceil(O / n)]]),
            "scales": Part(FLOATS, lambda O, I: [[self.groups(I), O]]),
            "g_idx": Part(("I32",), lambda O, I: [[I]], optional=True),
        }

    def sizes(self, shape: list[int]) -> tuple[int, int]:
        """As :meth:`Layout.sizes`."""
        return shape[1], shape[0] * 32 // self.bits

    def numbers(self, stored: Tensor) -> Tensor:
        """As :meth:`Layout.numbers`."""
        by_row = stored.T.contiguous()
        return by_row if self.bits == 4 else unbiased(by_row)

    def scales(self, parts: Mapping[str, Tensor], data: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`Layout.scales`."""
        O, I = data.shape[0], data.shape[1] * (8 if self.bits == 4 else 1)
        if "g_idx" in parts:
            order = torch.arange(I) // (self.group_size or I)
            if not torch.equal(parts["g_idx"], order.int()):
                raise ValueError("g_idx must be in order: desc_act (activation order) is not read")
        stored = unpack_int4(parts["qzeros"]) if self.bits == 4 else unbiased(parts["qzeros"])
        zero = stored[:, :O].T.to(torch.int16) + self.added
        if not self.has_zero:
            if zero.count_nonzero():
                half = 2 ** (self.bits - 1)
                got = (zero[zero != 0][0] + half - self.added).item()
                raise ValueError(
                    f"qzeros must be {half - self.added} for sym=true with {self.bits} bits, "
                    f"got {got}"
                )
            return parts["scales"].T, None
        if zero.numel() and zero.max() > 7:
            raise ValueError(f"qzeros must be in [0, 15] with {self.added} added, got 16")
        return parts["scales"].T, zero.to(torch.int8)


@dataclass(frozen=True)
class AWQ(Layout):
    """AWQ's version gemm: numbers and zero points packed along O, the columns of eight shuffled."""

    main: str = "qweight"
    scale: str = "scales"

    def parts(self) -> dict[str, Part]:
        """As :meth:`Layout.parts`."""
        return {
            "qweight": Part(("I32",), lambda O, I: [[I, math.ceil(O / 8)]]),
            "qzeros": Part(("I32",), lambda O, I: [[self.groups(I), math.ceil(O / 8)]]),
            "scales": Part(FLOATS, lambda O, I: [[self.groups(I), O]]),
        }

    def sizes(self, shape: list[int]) -> tuple[int, int]:
        """As :meth:`Layout.sizes`."""
        return 8 * shape[1], shape[0]

    def multiples(self) -> tuple[int, int]:
        """As :meth:`Layout.multiples`."""
        return 8, super().multiples()[1]

    @staticmethod
    def _codes(packed: Tensor) -> Tensor:
        """``[n, O / 8] -> [O, n]`` uint8 in [0, 15]."""
        words = packed.T.contiguous()  # [O / 8, n]
        codes = torch.empty(len(words), 8, words.shape[1], dtype=torch.uint8, device=words.device)
        for i, column in enumerate(AWQ_ORDER):
            codes[:, column] = words >> 4 * i & 15
        return codes.flatten(0, 1)

    def numbers(self, stored: Tensor) -> Tensor:
        """As :meth:`Layout.numbers`."""
        return _packed(self._codes(stored))

    def scales(self, parts: Mapping[str, Tensor], data: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`Layout.scales`."""
        return parts["scales"].T, self._codes(parts["qzeros"]).view(torch.int8) - 8


def _float_bits(x: Tensor) -> Tensor:
    """float32; where x has 64 bits, from the lower half of each."""
    return x if x.is_floating_point() else x.view(torch.int64).to(torch.int32).view(torch.float32)


@dataclass(frozen=True)
class AscendStatic(Layout):
    """msmodelslim's static W8A8: ``y = (q W^T + quant_bias) * deq_scale``.

    ``deq_scale`` is the product of the scales of activations and weights; ``quant_bias`` takes the
    activations' offset out again, so that the weights themselves are symmetric.
    """

    scale: str = "deq_scale"

    def parts(self) -> dict[str, Part]:
        """As :meth:`Layout.parts`."""
        one = lambda O, I: [[], [1], [1, 1]]  # noqa: E731
        row = lambda O, I: [[O], [O, 1]]  # noqa: E731
        return {
            "weight": Part(("I8",), lambda O, I: [[O, I]]),
            "deq_scale": Part(("F32", "I64"), row),
            "input_scale": Part(FLOATS, one),
            "input_offset": Part((*FLOATS, "I8", "I32"), one, optional=True),
            "quant_bias": Part(("I32",), row, optional=True),
        }

    def sizes(self, shape: list[int]) -> tuple[int, int]:
        """As :meth:`Layout.sizes`."""
        return shape[0], shape[1]

    def scale_dtype(self, code: str) -> torch.dtype:
        """As :meth:`Layout.scale_dtype`."""
        return torch.float32

    def scales(self, parts: Mapping[str, Tensor], data: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`Layout.scales`."""
        of_input = parts["input_scale"].float().reshape(1, 1)
        if not of_input.isfinite().all() or not of_input.all():
            raise ValueError(f"input_scale must be finite and not 0, got {of_input.item()}")
        if "quant_bias" in parts:
            offset = parts["input_offset"].double().reshape(()) if "input_offset" in parts else 0.0
            of_offset = -data.sum(1, dtype=torch.int64).double().cpu() * offset
            rest = parts["quant_bias"].double().reshape(-1) - of_offset
            if (rest.abs() > 1 + of_offset.abs() * 2**-20).any():  # they sum in float32
                raise ValueError(
                    "quant_bias must be what input_offset gives: a matrix of an expert has no bias"
                )
        return _float_bits(parts["deq_scale"]).reshape(-1, 1) / of_input, None


@dataclass(frozen=True)
class AscendW4(Layout):
    """msmodelslim's W4A8_DYNAMIC: two rows in the bytes of one, the even one in the lower half."""

    def parts(self) -> dict[str, Part]:
        """As :meth:`Layout.parts`."""
        return {
            "weight": Part(("I8",), lambda O, I: [[math.ceil(O / 2), I]]),
            "weight_scale": Part(("F32", "BF16", "F16", "I64", "U64"), self._scale_shapes),
            "weight_offset": Part(FLOATS, self._scale_shapes, optional=True),
            # 8 times the sum of a row, for hardware without a product of these widths
            "scale_bias": Part(FLOATS, lambda O, I: [[O, n] for n in range(1, 65)], optional=True),
        }

    def multiples(self) -> tuple[int, int]:
        """As :meth:`Layout.multiples`."""
        return 2, super().multiples()[1]

    def sizes(self, shape: list[int]) -> tuple[int, int]:
        """As :meth:`Layout.sizes`."""
        return 2 * shape[0], shape[1]

    def numbers(self, stored: Tensor) -> Tensor:
        """As :meth:`Layout.numbers`."""
        codes = stored.view(torch.uint8) ^ 0x88  # 8 is added to a number where it had a sign
        rows = torch.stack((codes & 15, codes >> 4), dim=1)  # [O/2, 2, I]
        return _packed(rows.flatten(0, 1))

    def scales(self, parts: Mapping[str, Tensor], data: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`Layout.scales`."""
        if "weight_offset" in parts:
            no_zeros("weight_offset", parts["weight_offset"])
        return _float_bits(parts["weight_scale"]).reshape(data.shape[0], -1), None
