"""Small kernels, each with one construct of ours: which does triton-ascend's frontend read?"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.runtime.jit import JITFunction


class Pair(NamedTuple):
    """Operands, or constants, that belong together."""

    first: Any
    second: Any


@triton.jit
def _sum(pair):
    return pair[0] + pair[1]


@triton.jit
def named_tuple(out_ptr):
    pair = Pair(first=tl.load(out_ptr), second=1.0)
    tl.store(out_ptr, pair.second)


@triton.jit
def tuple_variable(out_ptr):
    pair = (tl.load(out_ptr), 1.0)
    tl.store(out_ptr, pair[1])


@triton.jit
def tuple_argument(out_ptr):
    tl.store(out_ptr, _sum((tl.load(out_ptr), 1.0)))


@triton.jit
def tuple_of_constants(out_ptr, PAIR: tl.constexpr):
    tl.store(out_ptr, tl.load(out_ptr) * PAIR.first)


@triton.jit
def tensor_descriptor(out_ptr):
    tile = tl.make_tensor_descriptor(out_ptr, [64, 64], [64, 1], [16, 16])
    tile.store([0, 0], tile.load([16, 0]))


@triton.jit
def warp_specialized_loop(out_ptr):
    total = 0.0
    for i in tl.range(0, 4, warp_specialize=True):
        total += tl.load(out_ptr + i)
    tl.store(out_ptr, total)


@triton.jit
def _halvings(x, COUNT: tl.constexpr):
    if COUNT > 1:
        x = _halvings(x * 0.5, COUNT // 2)
    return x


@triton.jit
def recursion(out_ptr):
    tl.store(out_ptr, _halvings(tl.load(out_ptr), 4))


CONSTRUCTS: dict[JITFunction, dict[str, Any]] = {
    named_tuple: {},
    tuple_variable: {},
    tuple_argument: {},
    tuple_of_constants: {"PAIR": Pair(2.0, 3.0)},
    tensor_descriptor: {},
    warp_specialized_loop: {},
    recursion: {},
}
