"""The README's example runs, its links lead somewhere, and its table names every operator."""

import pkgutil
import re
from pathlib import Path

import pytest
import torch

from moge_ops import ops

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_example_runs(device: str) -> None:
    block, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)  # the other: on two ranks
    assert len(block.splitlines()) <= 14
    namespace: dict[str, torch.Tensor] = {}
    with torch.device(device):
        exec(block, namespace)
    T, H = namespace["x"].shape
    assert namespace["y"].shape == (T, H)
    for name in ("x", "w_router", "w_gate_up", "w_down"):
        grad = namespace[name].grad
        assert grad is not None
        assert grad.isfinite().all(), name
        assert grad.any(), name


@pytest.mark.parametrize("op", [module.name for module in pkgutil.iter_modules(ops.__path__)])
def test_table_has_a_row_for_every_operator(op: str) -> None:
    assert f"\n| `{op}` |" in README


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / name).read_text())
    assert all((ROOT / target).exists() for target in targets), targets
