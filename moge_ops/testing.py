"""What tests and benchmarks share: backend choice, tolerances, comparison, input generators."""

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops import _backend

__all__ = [
    "TOLERANCES",
    "Tolerance",
    "assert_matches",
    "backend",
    "group_ids",
    "rms_error",
    "spaced_logits",
]


def backend(name: str) -> AbstractContextManager[None]:
    """Reroutes CPU tensors to one backend for the duration of a ``with``.

    Args:
        name: ``"torch"`` (the fast path), ``"reference"`` (the oracle), ``"triton"`` (the Triton
            kernels under the interpreter) or ``"ascend"`` (the Ascend C kernels under the
            emulator).

    Raises:
        ValueError: Unknown name.
        ImportError: The backend is not installed.
        RuntimeError: Triton's kernels were already loaded for a GPU in this process.
    """
    return _backend.override(name)


class Tolerance(NamedTuple):
    """Largest error of one element, and of all together, against a float64 oracle."""

    rtol: float  # of the element
    atol: float  # in units of the oracle's root mean square
    rms: float  # root mean square of the error, in the same unit


TOLERANCES = {
    torch.float64: Tolerance(1e-10, 1e-10, 1e-11),
    torch.float32: Tolerance(2e-5, 2e-5, 3e-6),
    torch.float16: Tolerance(4e-3, 4e-3, 1e-3),
    torch.bfloat16: Tolerance(3e-2, 3e-2, 6e-3),
}


def rms_error(actual: Tensor, oracle: Tensor) -> float:
    """Root mean square of ``actual - oracle`` over that of ``oracle`` (float64)."""
    error = actual.double() - oracle.double()
    scale = oracle.double().square().mean().sqrt()
    return (error.square().mean().sqrt() / scale.clamp_min(1e-300)).item()


def assert_matches(
    actual: Tensor, oracle: Tensor, what: str, *, scale: float | None = None
) -> None:
    """Asserts that ``actual`` is ``oracle`` (float64) within its dtype's row of the table.

    Shape, and NaN in the same places, are asserted too; the message names the worst coordinates.

    Args:
        actual: Result under test.
        oracle: The same in float64.
        what: Name for the message.
        scale: Unit of the absolute limits; the oracle's root mean square unless given. A few dot
            products that nearly cancel need the size of what was summed.
    """
    assert actual.shape == oracle.shape, f"{what}: {list(actual.shape)} != {list(oracle.shape)}"
    if not actual.numel():
        return
    limit = TOLERANCES[actual.dtype]
    got, want = actual.detach().double().cpu(), oracle.detach().double().cpu()
    assert torch.equal(got.isnan(), want.isnan()), f"{what}: NaN in other places than the oracle"
    got, want = got.nan_to_num(0.0), want.nan_to_num(0.0)
    unit = want.square().mean().sqrt().item() if scale is None else scale
    error = (got - want).abs()
    bad = error > limit.rtol * want.abs() + limit.atol * unit
    if bad.any():
        worst = error.flatten().topk(min(4, error.numel())).indices
        places = [
            f"{list(map(int, torch.unravel_index(i, error.shape)))}: "
            f"{got.flatten()[i]:.8g} != {want.flatten()[i]:.8g}"
            for i in worst
        ]
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {bad.numel()} elements off; " + "; ".join(places)
        )
    rms = error.square().mean().sqrt().item() / max(unit, 1e-300)
    assert rms <= limit.rms, f"{what}: RMS error {rms:.3g} above {limit.rms:g}"


def spaced_logits(T: int, E: int, dtype: torch.dtype, *, steps: int = 64) -> Tensor:
    """Random ``[T, E]`` logits in [-4, 4): multiples of 8/``steps``, exact in every dtype.

    Equal ones tie exactly, unequal ones are far enough apart that no rounding of an exponential
    changes their order: chosen ids can be compared exactly.
    """
    return (torch.randint(0, steps, (T, E)).double() * (8.0 / steps) - 4.0).to(dtype)


def group_ids(T: int, E: int, num_groups: int, k: int) -> Tensor:
    """Random ``[T, K]`` int32 ids: ``k`` different ones of group g in column block g."""
    per_group = E // num_groups
    order = torch.rand(T, num_groups, per_group).argsort(-1)[..., :k]  # [T, G, k]
    first = torch.arange(num_groups).view(1, num_groups, 1) * per_group
    return (order + first).reshape(T, num_groups * k).int()
