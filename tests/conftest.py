"""Every operator test runs on each backend of this machine: `device` is its fixture."""

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

from hypothesis import HealthCheck, settings

from moge_ops import testing

torch.set_num_threads(min(2, torch.get_num_threads()))
# a property test's time depends on the backend: no deadline; the same examples on every run
settings.register_profile(
    "moge_ops",
    deadline=None,
    derandomize=True,
    max_examples=int(os.environ.get("MOGE_OPS_EXAMPLES", "15")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("moge_ops")


# Triton's kernels are loaded once in a process: for the GPU where there is one, else interpreted
TRITON = "cuda" if torch.cuda.is_available() else "triton"


@pytest.fixture(params=["torch", TRITON])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Device of the test's tensors; "triton" is the CPU, with the kernels under the interpreter."""
    if request.param == "cuda":
        yield "cuda"
        return
    with testing.backend(request.param):
        yield "cpu"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poison_empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fills uninitialised float memory with NaN, so an unwritten output element fails the test."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
