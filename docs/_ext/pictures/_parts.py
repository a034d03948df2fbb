"""What several pictures are drawn from."""

import torch

import moge_ops


def routed(
    T: int, E: int, G: int, seed: int
) -> tuple[moge_ops.Gating, moge_ops.Routing, list[int]]:
    """A small batch's choice, its routing, and the expert of each row."""
    torch.manual_seed(seed)
    gating = moge_ops.grouped_gate(torch.randn(T, E), G)
    owners = torch.repeat_interleave(torch.arange(E), gating.counts.long()).tolist()
    return gating, moge_ops.route(gating.experts, E, num_groups=G), owners


def swizzled(place: int, height: int, tile_rows: int, columns: int) -> tuple[int, int]:
    """Row and column of a tile in an order that takes ``height`` rows of tiles at once.

    As swizzle() of triton_kernels/_tiles.py and ``TileScheduler::NextSwizzled``.
    """
    top = place // (height * columns) * height
    rows = min(tile_rows - top, height)
    rest = place - top * columns
    return top + rest % rows, rest // rows
