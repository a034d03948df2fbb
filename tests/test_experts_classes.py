"""What serves every experts class of transformers, and that it computes what the class does."""

import copy
import csv

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5.17")

import experts_classes  # noqa: E402

from moge_ops.integrations import transformers as moge_transformers  # noqa: E402
from moge_ops.testing import assert_matches  # noqa: E402

moge_transformers.register()
with experts_classes.CSV.open(newline="") as file:
    ROWS = list(csv.DictReader(file))
# those that were in steps while the operator knew SwiGLU alone; the others differ in names
CHANGED = sorted({row["model"] for row in ROWS if row["before"] == "in steps"})


@pytest.mark.slow
def test_the_committed_list_is_what_the_code_says() -> None:
    if ROWS[0]["transformers"] != transformers.__version__:
        pytest.skip(f"the list is of transformers {ROWS[0]['transformers']}")
    assert experts_classes.rows() == ROWS


@pytest.mark.parametrize("model", CHANGED)
def test_experts_match_their_own_forward(model: str) -> None:
    found = list(experts_classes.find(model))
    if not found:
        pytest.skip(f"transformers {transformers.__version__} has no {model}")
    for _, cls, module in found:
        results = []
        for implementation, dtype in (("moge_ops", torch.float32), ("eager", torch.float64)):
            module = copy.deepcopy(module).to(dtype)
            module.config._experts_implementation = implementation
            torch.manual_seed(1)
            width = (module.down_proj.mT if module.is_transposed else module.down_proj).shape[1]
            x = 4.0 * torch.randn(9, width)
            index = torch.rand(9, module.down_proj.shape[0]).argsort(-1)[:, :2]
            leaves = [x.to(dtype).requires_grad_(), *module.parameters()]
            y = module(leaves[0], index, torch.rand(9, 2).to(dtype))
            d_y = torch.randn(y.shape).to(dtype)
            results.append([y.detach(), *torch.autograd.grad(y, leaves, d_y)])
        names = ["y", "d_x", *(f"d_{name}" for name, _ in module.named_parameters())]
        for name, got, want in zip(names, *results, strict=True):
            assert_matches(got, want.double(), f"{cls.__name__}: {name}")
