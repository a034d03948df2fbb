"""What tests and benchmarks share: backend choice, sizes, tolerances, comparison, inputs."""

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops import _backend
from moge_ops._memory import available

__all__ = [
    "PANGU",
    "TOLERANCES",
    "Sizes",
    "Tolerance",
    "assert_matches",
    "available",
    "backend",
    "group_ids",
    "rms_error",
    "router_logits",
    "spaced_logits",
]


def backend(name: str) -> AbstractContextManager[None]:
    """Reroutes CPU tensors to one backend for the duration of a ``with``, in the calling thread.

    Other threads keep their own choice, as with :class:`torch.no_grad`, those started within the
    ``with`` too. A backward pass of CPU tensors runs in the thread that calls it, unless
    backward passes start others within them some 60 deep: torch then goes on in threads of its own.

    Args:
        name: ``"torch"`` (the fast path), ``"reference"`` (the oracle), ``"triton"`` (the Triton
            kernels under the interpreter) or ``"ascend"`` (the Ascend C kernels under the
            emulator).

    Raises:
        ValueError: Unknown name.
        ImportError: The backend is not installed.
        RuntimeError: Triton was already loaded for a GPU, which torch may have done.
    """
    return _backend.override(name)


class Sizes(NamedTuple):
    """Sizes of one layer and its batch, by the legend of dimensions."""

    T: int
    """Tokens."""
    H: int
    """Hidden size."""
    E: int
    """Experts."""
    G: int
    """Groups of experts."""
    k: int
    """Experts that a token takes from each group."""
    F: int
    """Width of an expert."""

    @property
    def K(self) -> int:  # noqa: N802 - a dimension's name
        """Experts per token."""
        return self.G * self.k

    @property
    def N(self) -> int:  # noqa: N802
        """Routed rows."""
        return self.T * self.K

    @property
    def P(self) -> int:  # noqa: N802
        """Experts that a group holds."""
        return self.E // self.G


PANGU = Sizes(1, H=5120, E=64, G=8, k=1, F=1344)  # Pangu Pro MoE's layer; T is the user's


class Tolerance(NamedTuple):
    """Largest error of one element, and of all together, against a float64 oracle."""

    rtol: float
    """Relative to the element."""
    atol: float
    """In units of the oracle's root mean square."""
    rms: float
    """Root mean square of the error, in the same unit."""


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
    actual: Tensor,
    oracle: Tensor,
    what: str,
    *,
    scale: float | None = None,
    lines: bool = False,
    slack: float = 1.0,
) -> float:
    """Asserts that ``actual`` is ``oracle`` (float64) within its dtype's row of the table.

    Shape, and NaN in the same places, are asserted too; the message names the worst coordinates.
    Compared on the oracle's device, a block at a time, so that a whole weight needs no copy.

    Args:
        actual: Result under test.
        oracle: The same in float64.
        what: Name for the message.
        scale: Unit of the absolute limits; the oracle's root mean square unless given. A few dot
            products that nearly cancel need the size of what was summed.
        lines: Judges each line, the last dimension, by its norm instead of each element. For large
            tensors whose lines differ in size: an element may then be off by what its line
            allows. The errors of n elements average out, so that the limit of a line falls from
            that of an element, five times the RMS limit at most, to the RMS limit as n grows; one
            wrong element among thousands still exceeds it.
        slack: Factor on all limits, for a chain of operators. An error within a chain can reach
            all elements of a line alike: its limit is then that of a line of one for every n.

    Returns:
        The root mean square of the error, in units of ``scale``.
    """
    assert actual.shape == oracle.shape, f"{what}: {list(actual.shape)} != {list(oracle.shape)}"
    if not actual.numel():
        return 0.0
    limit = TOLERANCES[actual.dtype]
    width = oracle.shape[-1] if lines and oracle.ndim else 1
    got = actual.detach().to(oracle.device).reshape(-1, width)
    want = oracle.detach().reshape(-1, width)
    # Temporaries of 2 MB stay in a CPU's cache; those of a whole weight took six times as long,
    # most of it for fresh pages (Zen 4, November 2026). A GPU needs large blocks to be busy.
    step = max(1, (2**26 if oracle.is_cuda else 2**18) // width)
    norms, errors = [], []
    for a, b in zip(torch.split(got, step), torch.split(want, step), strict=True):
        a, b = a.double(), b.double()
        misplaced = a.isnan() != b.isnan()
        a, b = a.nan_to_num(0.0), b.nan_to_num(0.0)
        norms.append(torch.linalg.vector_norm(b, dim=-1))
        difference = (a - b).masked_fill(misplaced, torch.inf)
        errors.append(torch.linalg.vector_norm(difference, dim=-1))
    norm, error = torch.cat(norms), torch.cat(errors)
    # the norm of an average line
    unit = norm.square().mean().sqrt().item() if scale is None else scale * width**0.5
    share = width**-0.5 if slack == 1.0 else 1.0
    most = 5.0 * limit.rms if lines else torch.inf
    rtol, atol = (
        limit.rms + (min(tol, most) - limit.rms) * share for tol in (limit.rtol, limit.atol)
    )
    excess = error / (slack * (rtol * norm + atol * unit)).clamp_min(1e-300)
    rms = error.square().mean().sqrt().item() / max(unit, 1e-300)
    if rms <= slack * limit.rms and not (excess > 1.0).any():
        return rms

    places = []
    for i in excess.topk(min(4, len(excess))).indices.tolist():
        if width > 1:
            places.append(f"line {i} of {len(want)}: {excess[i]:.3g} times what it may be off")
        else:
            place = [int(x) for x in torch.unravel_index(torch.tensor(i), oracle.shape)]
            places.append(f"{place}: {got[i].item():.8g} != {want[i].item():.8g}")
    raise AssertionError(
        f"{what}: RMS error {rms:.3g}, limit {slack * limit.rms:g}; {int((excess > 1.0).sum())} of "
        f"{len(excess)} {'lines' if width > 1 else 'elements'} off; worst in {'; '.join(places)}"
    )


def spaced_logits(T: int, E: int, dtype: torch.dtype, *, steps: int = 64) -> Tensor:
    """Random ``[T, E]`` logits in [-4, 4): multiples of 8/``steps``, exact in every dtype.

    Equal ones tie exactly, unequal ones are far enough apart that no rounding of an exponential
    changes their order: chosen ids can be compared exactly.
    """
    return (torch.randint(0, steps, (T, E)).double() * (8.0 / steps) - 4.0).to(dtype)


def distinct_logits(T: int, E: int, dtype: torch.dtype) -> Tensor:
    """Random ``[T, E]``, different within a row, at most 512 of them, exact in bfloat16's bits.

    They are multiples of 1/64 in [-4, 4) times a power of two of the row's own, and for float32
    times a factor of the row's, so that other values than those occur.
    """
    logits = (torch.rand(T, 512).argsort(-1)[:, :E] / 64 - 4) * 2.0 ** torch.randint(-2, 2, (T, 1))
    return (logits * (1 + torch.rand(T, 1)) if dtype is torch.float32 else logits).to(dtype)


def router_logits(samples: int, T: int, E: int, exponent: float) -> Tensor:
    """``[samples, T, E]``, whose best K are drawn without replacement, p ~ 1/rank^exponent.

    Every sample has its own order of the experts, which all of its tokens share.
    """
    noise = -torch.empty(samples, T, E).exponential_().log()  # Gumbel's
    if exponent:
        rank = torch.rand(samples, 1, E).argsort(-1) + 1.0
        noise -= exponent * rank.log()
    return noise


def group_ids(T: int, E: int, num_groups: int, k: int) -> Tensor:
    """Random ``[T, K]`` int32 ids: ``k`` different ones of group g in column block g."""
    P = E // num_groups
    order = torch.rand(T, num_groups, P).argsort(-1)[..., :k]  # [T, G, k]
    first = torch.arange(num_groups).view(1, num_groups, 1) * P
    return (order + first).reshape(T, num_groups * k).int()
