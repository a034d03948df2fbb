"""`pytest bench` times every operator; `pytest bench --smoke` runs the same code on tiny sizes."""

import pytest
import torch
from harness import PER_OP, SMOKE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--smoke", action="store_true", help="tiny sizes: does the benchmark run?")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "s" in metafunc.fixturenames:
        sizes = SMOKE if metafunc.config.getoption("smoke") else PER_OP
        metafunc.parametrize("s", sizes, ids=[f"T{s.T}" for s in sizes])
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    if "direction" in metafunc.fixturenames:
        metafunc.parametrize("direction", ["forward", "backward"])


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
