"""The host's side of quantised experts, and the kernel that quantises rows."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import INTERPRETED
from ._configs import Config, device_class
from ._decode import Format, largest, row_scales, to_int8
from ._product import aligned, contiguous_rows, describable
from ._tiles import expert_rows

BLOCK = 4096  # elements of a step of one program that quantises rows; chosen, not measured

# how the kernels read the numbers of a scheme, and how many lie in one element of what they read
_NUMBERS = {
    "int8_w8a8": ("int8", 1),
    "int4_w4a8": ("int8", 1),  # unpacked for the call
    "int8_w8a16": ("int8", 1),
    "int4_w4a16": ("int4", 8),
    "fp8_w8a16": ("fp8", 1),
    "mxfp4_w4a16": ("mxfp4", 8),
}
INTEGERS = ("int8_w8a8", "int4_w4a8")  # whose rows are quantised, too
_DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


class Stored(NamedTuple):
    """The parts of a quantised weight ``[E, O, I]`` as the kernels read them, contiguous."""

    data: Tensor  # [E, O, I / packed]: int8, the bits of e4m3 as uint8, or eight of four bits
    scale: Tensor  # [E, S, groups]
    zero: Tensor | None
    format: Format

    @property
    def shape(self) -> torch.Size:
        """``[E, O, I]``."""
        E, O, elements = self.data.shape
        return torch.Size((E, O, elements * self.format.packed))


def quantized_arguments(weight: Tensor | Stored, *, decoded: bool = True) -> dict[str, Any]:
    """What a kernel with :func:`_product.tile_product` gets; ``decoded`` or as integers."""
    if isinstance(weight, Tensor):
        names = ("scale_ptr", "zero_ptr", "scale_rows", "groups", "rows_per_scale", "FORMAT")
        return dict.fromkeys(names)
    _, S, groups = weight.scale.shape
    return {
        "scale_ptr": weight.scale,
        "zero_ptr": weight.zero,
        "scale_rows": S,
        "groups": groups,
        "rows_per_scale": weight.shape[1] // S,
        "FORMAT": weight.format if decoded else None,
    }


def stored(
    data: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    scheme: str,
    group_size: int | None,
    dtype: torch.dtype,
) -> Stored:
    """The parts of a QuantizedWeight that is decoded to ``dtype``."""
    numbers, packed = _NUMBERS[scheme]
    if scheme == "int4_w4a8":
        # no kernel reads its bytes: they become int8 for the call, in the memory of one layer
        data = torch.stack(((data & 15 ^ 8) - 8, data >> 4), dim=-1).flatten(-2)
    data, scale = data.contiguous(), scale.contiguous()
    if scheme == "fp8_w8a16":
        data = data.view(torch.uint8)
        # others' conversion is missing, of another format, or not tested
        numbers = "fp8" if device_class() == "hopper" else "fp8_bits"
    elif scheme == "mxfp4_w4a16":
        # a group has 16 bytes, so that rows are whole words; the first is the lowest byte
        data = data.clone() if data.data_ptr() % 4 else data
        words = (*data.shape[:2], data.shape[2] // 4)
        data = data.view(torch.int32) if data.numel() else data.new_empty(words, dtype=torch.int32)
    decoded = Format(numbers, packed, group_size or 0, _DTYPES.get(dtype, tl.float64))
    return Stored(data, scale, zero if zero is None else zero.contiguous(), decoded)


def fitted(config: Config, w: Stored, *, decoded: bool, halves: int = 1) -> Config:
    """The tile of a plain product, for this weight; by the static figures, not measured.

    Where half the columns are taken, the whole tile spills (bench/results/resources.csv has what
    does not, 2026-11-29).
    """
    device = device_class()
    if device == "interpreter":
        return config
    size = config.block_m * halves * config.block_c
    if not decoded:
        # as many bytes in a step; but on Ampere the operands are in registers
        step = min(64, 2 * config.block_r) if device == "ampere" else 2 * config.block_r
        half = size > 128 * 128 and (halves == 2 or device == "ampere")
    else:
        # the numbers of a step are in registers, of which a long one or a wide one takes too many
        step = config.block_r
        if config.swap:
            step, config = 64, config._replace(num_stages=config.num_stages + 2)
        elif device == "ampere" and config.block_m > 16:
            step = 32
        half = size > 64 * 128 * halves or w.format.dtype.primitive_bitwidth > 16
    columns = config.block_c // 2 if half else config.block_c
    if w.format.packed == 1 and device != "cdna" and not aligned(w.data):
        # each byte is a load
        step = config.block_r
        columns = min(config.block_c // 2, 512 * config.num_warps // (config.block_m * halves))
    # integers are multiplied 32 at a time, and words of numbers are copied 16 bytes at a time
    least = 16 if decoded and w.format.packed == 1 else 32
    return config._replace(block_r=max(least, step), block_c=max(16, columns))


def box(w: Tensor | Stored, sides: list[int]) -> list[int] | None:
    """Of numbers ``[.., rows, columns]`` to what stores them; None where no descriptor can."""
    if isinstance(w, Tensor):
        return sides if describable(w) else None
    inner = sides[-1] // w.format.packed
    wide = inner * w.data.element_size() >= 16
    return [*sides[:-1], inner] if wide and describable(w.data) else None


@triton.jit
def _quantize_rows_kernel(
    rows_ptr,  # [N, C]
    offsets_ptr,  # [E + 1]: rows past the last expert's are left out; None: there are none
    weights_ptr,  # [T, K]: factors of the scales; or None
    row_to_slot_ptr,  # [N], read with weights
    q_ptr,  # [N, C]
    scale_ptr,  # [N]
    stride_rows_n,
    N,
    C,
    E,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    if offsets_ptr is not None:
        _, N = expert_rows(offsets_ptr, E - 1, N, E)
    offs_n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = offs_n < N
    rows_ptrs = rows_ptr + (offs_n * stride_rows_n)[:, None]

    most = tl.zeros((BLOCK_N,), dtype=tl.int32)
    for c in range(0, C, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C)[None, :]
        x = tl.load(rows_ptrs + offs_c, mask=mask_n[:, None] & (offs_c < C), other=0.0)
        most = tl.maximum(most, largest(x.to(tl.float32)))
    factor, scale = row_scales(most)
    if weights_ptr is not None:
        slot = tl.load(row_to_slot_ptr + offs_n, mask=mask_n, other=0)
        scale *= tl.load(weights_ptr + slot, mask=mask_n, other=0.0).to(tl.float32)
    tl.store(scale_ptr + offs_n, scale, mask=mask_n)
    # a row is in cache when it is read again
    for c in range(0, C, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C)[None, :]
        mask = mask_n[:, None] & (offs_c < C)
        x = tl.load(rows_ptrs + offs_c, mask=mask, other=0.0).to(tl.float32)
        tl.store(q_ptr + (offs_n * C)[:, None] + offs_c, to_int8(x, factor), mask=mask)


def quantize_rows(
    rows: Tensor,
    offsets: Tensor | None = None,
    weights: Tensor | None = None,
    row_to_slot: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``[N, C] -> int8 [N, C], float32 [N]``; with weights, these are factors of the scales."""
    N, C = rows.shape
    rows = contiguous_rows(rows)
    q = torch.empty(N, C, dtype=torch.int8, device=rows.device)
    scale = torch.empty(N, dtype=torch.float32, device=rows.device)
    block_c = min(BLOCK, triton.next_power_of_2(max(C, 1)))
    block_n = 4 if INTERPRETED else max(1, min(16, BLOCK // block_c))
    if N:
        _quantize_rows_kernel[(triton.cdiv(N, block_n),)](
            rows_ptr=rows,
            offsets_ptr=offsets,
            weights_ptr=weights,
            row_to_slot_ptr=row_to_slot,
            q_ptr=q,
            scale_ptr=scale,
            stride_rows_n=rows.stride(0),
            N=N,
            C=C,
            E=0 if offsets is None else offsets.shape[0] - 1,
            BLOCK_N=block_n,
            BLOCK_C=block_c,
        )
    return q, scale
