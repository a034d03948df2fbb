"""What PyTorch's FLOP counter sees of the operators."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import moge_ops
from moge_ops.testing import group_ids

T, H, E, G, WIDTH = 20, 32, 16, 8, 16
N = T * G
ROUTER = 2 * T * H * E  # torch's own product
EXPERTS = 6 * N * H * WIDTH


def counted(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def layer(device: str = "cpu") -> moge_ops.nn.MoGE:
    return moge_ops.nn.MoGE(H, WIDTH, E, G, device=device)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_layer_forward(device: str) -> None:
    moge, x = layer(device), torch.randn(T, H, device=device)
    assert counted(lambda: moge(x)) == ROUTER + EXPERTS == 512_000


def test_a_layer_backward() -> None:
    moge, x = layer(), torch.randn(T, H, requires_grad=True)
    y = moge(x).sum()
    assert counted(y.backward) == 2 * (ROUTER + EXPERTS)


@pytest.mark.parametrize(
    ("needs", "products"),
    [(("x",), 3), (("w_gate_up",), 4), (("w_down",), 4), (("x", "w_down"), 6), (("weights",), 1)],
)
def test_the_backward_pass_counts_what_is_asked_for(needs: tuple[str, ...], products: int) -> None:
    ids = group_ids(T, E, G, 1)
    tensors = {
        "x": torch.randn(T, H),
        "w_gate_up": torch.randn(E, 2 * WIDTH, H),
        "w_down": torch.randn(E, H, WIDTH),
        "weights": torch.rand(T, G),
    }
    for name in needs:
        tensors[name].requires_grad_()
    y = moge_ops.grouped_mlp(**tensors, routing=moge_ops.route(ids, E)).sum()
    assert counted(y.backward) == products * 2 * N * H * WIDTH


def test_grouped_gemm() -> None:
    offsets = moge_ops.route(group_ids(T, E, G, 1), E).offsets
    rows, weight = torch.randn(N, H), torch.randn(E, WIDTH, H)
    one = 2 * N * H * WIDTH
    assert counted(lambda: moge_ops.grouped_gemm(rows, weight, offsets)) == one
    for needs, products in (((rows,), 1), ((weight,), 1), ((rows, weight), 2)):
        for x in (rows, weight):
            x.requires_grad_(any(x is y for y in needs))
        out = moge_ops.grouped_gemm(rows, weight, offsets).sum()
        assert counted(out.backward) == products * one


ORDERS = {
    "before": "from torch.utils.flop_counter import FlopCounterMode; import moge_ops, sys",
    "after": (
        "import moge_ops, sys; assert 'torch.utils.flop_counter' not in sys.modules; "
        "from torch.utils.flop_counter import FlopCounterMode"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_the_counter_may_be_imported_before_or_after(order: str, tmp_path: Path) -> None:
    code = f"""
{ORDERS[order]}
import torch
layer = moge_ops.nn.MoGE({H}, {WIDTH}, {E}, {G})
with FlopCounterMode(display=False) as counter:
    layer(torch.randn({T}, {H}))
print(counter.get_total_flops(), len([f for f in sys.meta_path if "moge" in type(f).__module__]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["512000", "0"]
