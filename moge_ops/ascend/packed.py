"""Grouped products with a weight in the layout that the cube cores read fastest; forward only."""

from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops import _C, _checks

from ._common import DTYPES, dtype_of, pointer, stream
from .grouped_gemm import narrow


class PackedWeight(NamedTuple):
    """What :func:`pack_weight` made of a weight ``[E, O, I]``."""

    data: Tensor
    """``[E, ceil(I / c), ceil(O / 16) * 16, c]``, c elements in 32 bytes; zeros past O and I."""
    O: int
    """Out features."""
    I: int
    """In features."""


_LAYOUT = "[E, packed I, packed O, c]"


def _shape(E: int, O: int, I: int, itemsize: int) -> tuple[int, int, int, int]:
    """Shape of :attr:`PackedWeight.data`. Raises ValueError for sizes that no product takes."""
    if max(O, I) > 65535:
        raise ValueError(f"O and I must be at most 65535, got O={O} and I={I}")
    c = 32 // itemsize
    return E, -(-I // c), _C.grouped_gemm_pitch(columns=O), c


def pack_weight(weight: Tensor) -> PackedWeight:
    """Packs a weight once, so that :func:`grouped_gemm_packed` reads it in long transfers.

    Args:
        weight: ``[E, O, I]``, float16 | bfloat16 | float32, on any device, with any strides; O and
            I at most 65535. It is copied.

    Returns:
        A :class:`PackedWeight` on the device of ``weight``, without a gradient.

    Raises:
        TypeError: ``weight`` is not a tensor of one of these dtypes.
        ValueError: ``weight`` is not ``[E, O, I]``, or O or I is above 65535.

    Source:
        The layout NZ (``FRACTAL_NZ``) of CANN's documentation, "Data layout formats".
    """
    _checks.tensors(("weight", weight, "[E, O, I]", DTYPES))
    E, O, I = weight.shape
    _, blocks, pitch, c = _shape(E, O, I, weight.itemsize)
    rows = weight.new_zeros(E, pitch, blocks * c)
    rows[:, :O, :I] = weight.detach()
    return PackedWeight(rows.view(E, pitch, blocks, c).transpose(1, 2).contiguous(), O, I)


def grouped_gemm_packed(rows: Tensor, packed: PackedWeight, offsets: Tensor) -> Tensor:
    r"""Multiplies each expert's rows by that expert's packed weight: forward only.

    .. math:: y_n = W_{e(n)}\, r_n, \qquad e(n) = e \iff o_e \le n < o_{e+1}

    It runs on the device that the extension was built for: an NPU (``MOGE_ASCEND_BACKEND=cann``),
    or the CPU, where the emulator takes its place. That is slow, and it needs no
    :func:`moge_ops.testing.backend`.

    Args:
        rows: ``[N, I]``, the dtype of the packed weight, sorted by expert, with any strides.
        packed: What :func:`pack_weight` returned.
        offsets: ``[E + 1]`` int32, rising from 0 to at most N: expert e has rows
            ``[offsets[e], offsets[e + 1])``, as from :func:`moge_ops.route`. The host does not read
            them; rows that two experts claim are undefined.

    Returns:
        ``[N, O]``, dtype and device of ``rows``: bit for bit what :func:`moge_ops.grouped_gemm`
        gives with the weight itself on this backend. Rows past ``offsets[E]`` are zero.

    Raises:
        TypeError: ``packed`` is not a :class:`PackedWeight`, or a dtype is another one.
        ValueError: A shape or device does not fit, O or I is above 65535, or ``rows`` require a
            gradient while gradients are on.

    Source:
        As :func:`moge_ops.grouped_gemm`: Gale et al. 2022, "MegaBlocks" (arXiv:2211.15841).
    """
    if not isinstance(packed, PackedWeight):
        raise TypeError(f"packed must be what pack_weight returned, got {type(packed).__name__}")
    data, O, I = packed
    _checks.tensors(
        ("rows", rows, "[N, I]", DTYPES),
        ("packed.data", data, _LAYOUT, _checks.SAME),
        ("offsets", offsets, "[E + 1]", (torch.int32,)),
    )
    N, E = rows.shape[0], data.shape[0]
    _checks.shape("packed.data", data, _LAYOUT, _shape(E, O, I, data.itemsize))
    _checks.shape("rows", rows, "[N, I]", (N, I))
    device = "npu" if _C.BACKEND == "cann" else "cpu"
    if rows.device.type != device:
        raise ValueError(
            f"rows must be on the {device}, for which the extension was built "
            f"(MOGE_ASCEND_BACKEND={_C.BACKEND}), got {rows.device}"
        )
    if torch.is_grad_enabled() and rows.requires_grad:
        raise ValueError("rows must not require a gradient: this product has no backward pass")

    rows, data, offsets = rows.contiguous(), data.contiguous(), offsets.contiguous()
    out = rows.new_empty(N, _C.grouped_gemm_pitch(columns=O))
    _C.grouped_gemm_packed(
        rows=pointer(rows),
        weight=pointer(data),
        offsets=pointer(offsets),
        out=pointer(out),
        shape=_C.GemmShape(N=N, E=E, O=O, I=I),
        dtype=dtype_of("rows", rows),
        stream=stream(rows),
    )
    return narrow(out, O)
