"""Launchers of the Ascend C kernels, which are in the extension ``moge_ops._C``.

The operators of ``moge_ops`` find their launchers here by themselves. To import from here: the
grouped product with a weight that is packed once, :func:`pack_weight` and
:func:`grouped_gemm_packed`. It needs the extension; ``moge-ops info`` says whether and how that was
built.
"""

from .packed import PackedWeight, grouped_gemm_packed, pack_weight

__all__ = ["PackedWeight", "grouped_gemm_packed", "pack_weight"]
