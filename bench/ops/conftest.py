"""`pytest bench/ops` times every operator; with `--smoke` it runs the same code on tiny sizes."""

import pytest
import torch
from harness import PER_OP, SMOKE
from problem import BACKWARD, FORWARD, Problem, problem

from moge_ops.testing import Sizes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--smoke", action="store_true", help="tiny sizes: does the benchmark run?")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # the RMS of four numbers scatters: no single token
    smoke = [SMOKE[0]._replace(T=T) for T in (4, 9)]
    sizes = smoke if metafunc.config.getoption("smoke") else PER_OP
    metafunc.parametrize("s", sizes, ids=[f"T{s.T}" for s in sizes])
    metafunc.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    if "direction" in metafunc.fixturenames:
        metafunc.parametrize("direction", [FORWARD, BACKWARD])


@pytest.fixture
def p(s: Sizes, dtype: torch.dtype) -> Problem:
    torch.manual_seed(0)
    return problem(s, dtype, "cuda" if torch.cuda.is_available() else "cpu")
