"""A layer as an ONNX graph of standard operators, run by onnxruntime."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops.testing import spaced_logits

H, E = 16, 8
LAYERS = {
    "votes": {"shared_size": 4, "num_voted": 1},
    "bias": {
        **{"selection_bias": True, "score": "sigmoid", "renormalize": True},
        "weight_on": "activation",
    },
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def session(
    module: torch.nn.Module, x: Tensor, path: Path, free: dict[int, Any]
) -> onnxruntime.InferenceSession:
    program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=(free,), verbose=False)
    assert program is not None
    assert {node.domain for node in program.model.graph} == {""}  # ONNX's own operators
    program.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(onnx: onnxruntime.InferenceSession, x: Tensor) -> list[Tensor]:
    return [torch.from_numpy(y) for y in onnx.run(None, {onnx.get_inputs()[0].name: x.numpy()})]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name: str, tmp_path: Path) -> None:
    layer = moge_ops.nn.MoGE(H, 8, 4, 2, **LAYERS[name]).eval()  # type: ignore[arg-type]
    if isinstance(layer.bias, Tensor):
        torch.nn.init.normal_(layer.bias)
    free = {0: torch.export.Dim("B"), 1: torch.export.Dim("S")}
    onnx = session(layer, torch.randn(2, 3, H), tmp_path / "layer.onnx", free)
    for tokens in ((2, 3), (1, 1), (3, 20)):
        x = torch.randn(*tokens, H)
        torch.testing.assert_close(run(onnx, x)[0], layer(x))


class Gate(torch.nn.Module):
    def forward(self, logits: Tensor) -> tuple[Tensor, ...]:
        gating = moge_ops.grouped_gate(logits, 2, 3)
        return *gating, *moge_ops.route(gating.experts, E, num_groups=2)


def test_ties_and_routing(tmp_path: Path) -> None:
    free = {0: torch.export.Dim("T")}
    onnx = session(Gate().eval(), torch.randn(5, E), tmp_path / "gate.onnx", free)
    logits = spaced_logits(200, E, torch.float32, steps=4)  # many equal scores
    for got, want in zip(run(onnx, logits), Gate()(logits), strict=True):
        torch.testing.assert_close(got, want)
