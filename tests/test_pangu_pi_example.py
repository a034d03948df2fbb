"""`examples/pangu_pi.py` builds the block of the paper, and its committed run is whole.

The formulas are those of Wang et al. 2023, "PanGu-pi" (arXiv:2312.17276), in NumPy and float64.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from example_runs import called, exit_code
from torch import Tensor

import moge_ops

for package in ("rich", "safetensors", "tokenizers"):
    pytest.importorskip(package, reason="needs the extras 'bench' and 'models'")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
SCRIPT = "pangu_pi.py"
FORMS = ("plain SwiGLU", "series", "shortcut", "both")
SMALL = {"H": 12, "heads": 2, "layers": 1, "E": 6, "G": 3, "F": 5}
SERIES = [[0.7, -0.4, 0.2], [0.3, -1.1, 2.0]]


@pytest.fixture(scope="module")
def example() -> Any:
    return SimpleNamespace(**called(SCRIPT, name="pangu_pi"))


def block_of(example: Any, **options: int) -> Any:
    """A block in float64 whose parameters are all random, norms and the router's scale too."""
    torch.manual_seed(3)
    block = example.Block(example.Sizes(**SMALL, **options)).double()
    with torch.no_grad():
        for weight in block.parameters():
            weight.copy_(0.5 * torch.randn_like(weight))
        if block.series is not None:
            block.series.copy_(torch.tensor(SERIES, dtype=torch.float64))
    return block


def array(x: Tensor) -> Any:
    return x.detach().numpy()


def normed(x: Any, norm: Any) -> Any:
    return (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float64).eps) * array(norm.weight)
    )


def attended(z: Any, attention: Any) -> Any:
    """Causal attention of ``z [L, H]``, query by query and head by head."""
    (L, H), heads = z.shape, attention.num_heads
    D = H // heads
    q, k, v = (z @ part.T for part in np.split(array(attention.in_proj_weight), 3))
    y = np.zeros((L, H))
    for t in range(L):
        for own in (slice(h * D, (h + 1) * D) for h in range(heads)):
            weights = np.exp(k[: t + 1, own] @ q[t, own] / math.sqrt(D))
            y[t, own] = weights @ v[: t + 1, own] / weights.sum()
    return y @ array(attention.out_proj.weight).T


def gelu(x: Any) -> Any:
    return np.vectorize(lambda each: 0.5 * each * (1.0 + math.erf(each / math.sqrt(2.0))))(x)


def silu(x: Any) -> Any:
    return x / (1.0 + np.exp(-x))


def mixed(x: Any, moge: Any, phi: Callable[[Any], Any]) -> Any:
    """The best expert of every group of every token, gated by ``phi``."""
    y, gate, scale = np.zeros_like(x), array(moge.gate), array(moge.router_scale)
    up_weights, down_weights = array(moge.w_gate_up), array(moge.w_down)
    P = len(gate) // moge.num_groups
    for t, row in enumerate(x):
        exponentials = np.exp(gate @ row)
        scores = exponentials / exponentials.sum()
        for g in range(moge.num_groups):
            e = g * P + int(scores[g * P : (g + 1) * P].argmax())
            z, u = np.split(up_weights[e] @ row, 2)
            y[t] += scores[e] * scale[e] * (down_weights[e] @ (phi(z) * u))
    return y


def series_of(z: Any) -> Any:
    return sum(silu(scale * z + shift) for scale, shift in zip(*SERIES, strict=True))


@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("terms", [0, 3])
def test_the_block_is_that_of_float64(example: Any, terms: int, width: int) -> None:
    """Equation 4, whose two shortcuts are halves of the example's one; then the experts."""
    block = block_of(example, terms=terms, width=width)
    x = np.random.default_rng(0).standard_normal((2, 7, SMALL["H"]))
    for piece, got in zip(x, array(block(torch.tensor(x))[0]), strict=True):
        z = normed(piece, block.norms[0])
        y = attended(z, block.attention) + piece
        if width:
            down, up = array(block.shortcut[0].weight), array(block.shortcut[2].weight)
            for half in (slice(None, width // 2), slice(width // 2, None)):
                y = y + gelu(z @ down[half].T) @ up[:, half].T
        want = y + mixed(normed(y, block.norms[1]), block.moge, series_of if terms else silu)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_attention_sees_no_later_token(example: Any) -> None:
    block = block_of(example, terms=3, width=4)
    x = torch.randn(1, 6, SMALL["H"], dtype=torch.float64)
    changed = x.clone()
    changed[:, 4] += 1.0
    before, after = block(x)[0], block(changed)[0]
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 5], after[:, 5])


def test_the_series_has_the_gradient_of_its_formula(example: Any) -> None:
    """Central differences of the independent formula, for every scale and shift."""
    block = block_of(example, terms=3)
    x = torch.randn(9, SMALL["H"], dtype=torch.float64)
    d_y = torch.randn_like(x)
    (block.experts(x)[0] * d_y).sum().backward()

    def loss(series: Any) -> float:
        def phi(z: Any) -> Any:
            return sum(silu(scale * z + shift) for scale, shift in zip(*series, strict=True))

        return float((mixed(array(x), block.moge, phi) * array(d_y)).sum())

    step = 1e-5
    for place in np.ndindex(2, 3):
        ends = []
        for sign in (1, -1):
            series = np.array(SERIES)
            series[place] += sign * step
            ends.append(loss(series))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(block.series.grad[place]) == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_a_series_starts_as_swiglu(example: Any) -> None:
    """So the forms differ by nothing but what they learn."""
    torch.manual_seed(0)
    block = example.Block(example.Sizes(**SMALL, terms=2))
    x = torch.randn(5, SMALL["H"])
    with_series = block.experts(x)[0]
    assert block.series.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    with_series.square().sum().backward()
    assert len(set(block.series.grad.flatten().tolist())) == 4  # each has its own way to go
    block.series = None
    torch.testing.assert_close(with_series, block.experts(x)[0])


def test_equation_7_is_a_series() -> None:
    """Its terms scale and shift the argument: one call for each, with other weights and a bias."""
    torch.manual_seed(1)
    T, H, E, G, F_ = 6, 8, 4, 2, 5
    x, gate_up = torch.randn(T, H).double(), torch.randn(E, 2 * F_, H).double()
    down, logits = torch.randn(E, H, F_).double(), torch.randn(T, E).double()
    gating, routing = moge_ops.gate_and_route(logits, G)

    def term(scale: float, shift: float) -> Tensor:
        weight, bias = gate_up.clone(), torch.zeros(E, 2 * F_, dtype=torch.float64)
        weight[:, :F_] *= scale
        bias[:, :F_] = shift
        return moge_ops.grouped_mlp(x, weight, down, gating.weights, routing, b_gate_up=bias)

    def fused(scales: list[float], shifts: list[float]) -> Tensor:
        series = torch.tensor([scales, shifts])
        return moge_ops.grouped_mlp(x, gate_up, down, gating.weights, routing, series=series)

    torch.testing.assert_close(term(2.0, 0.5) + term(-0.7, -2.0), fused([2.0, -0.7], [0.5, -2.0]))


def test_shortcuts_are_paid_for_by_experts(example: Any) -> None:
    """By hand: 2 · 96 · 24 = 4608 = 3 · 16 · 96, so that experts lose one column of 64."""
    sizes = example.forms(example.Sizes())
    assert tuple(sizes) == FORMS
    assert [(own.F, own.terms, own.width) for own in sizes.values()] == [
        (64, 0, 0), (64, 2, 0), (63, 0, 24), (63, 2, 24)
    ]  # fmt: skip
    counts = [
        sum(weight.numel() for weight in example.Model(own, 100, 32).parameters())
        for own in sizes.values()
    ]
    block = 2 * 96 + 4 * 96 * 96 + 16 * 96 + 16 + 16 * 3 * 64 * 96  # norms, attention, router
    plain = 2 * 100 * 96 + 32 * 96 + 96 + 4 * block
    assert counts == [plain, plain + 4 * 2 * 2, plain, plain + 4 * 2 * 2]


def test_effective_dimension_by_hand(example: Any) -> None:
    """Principal components with variances of 60, 30 and 10 %: two explain 80 %, turned or not."""
    places = torch.tensor([6.0, 3.0, 1.0]).sqrt().diag()
    features = torch.cat([places, -places])
    turned, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    assert example.effective_dimension(features) == 2
    assert example.effective_dimension(features @ turned + 5.0) == 2
    assert example.effective_dimension(torch.arange(4.0).unsqueeze(1) * torch.ones(3)) == 1
    assert example.effective_dimension(torch.eye(6)) == 4  # five equal ones explain all


def test_diversity_by_hand(example: Any) -> None:
    """[3, 0] and [1, 0] are 1 each from their mean [2, 0]: the root of 2 / 10."""
    features = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    assert example.diversity(features) == pytest.approx(math.sqrt(0.2))
    assert example.diversity(torch.ones(5, 4)) == 0.0
    assert example.diversity(torch.eye(2) - 0.5) == pytest.approx(1.0)
    grid = torch.cartesian_prod(torch.linspace(0, 4, 41), torch.linspace(-1, 1, 21))
    nearest = min(float((features - row).norm()) for row in grid)
    assert nearest / math.sqrt(10.0) == pytest.approx(math.sqrt(0.2), rel=1e-5)


def test_the_verdict_follows_the_losses(example: Any) -> None:
    losses = {"plain": (2.0, 2.1), "a": (1.9, 2.05), "b": (2.2, 2.15), "c": (1.9, 2.2)}
    same = {"layers": 2, "parameters": 5, "active": 5, "effective_dimension": 3, "diversity": 0.5}
    rows = [
        {"form": form, "loss": loss if layer else 9.0, "layer": layer, **same}
        for form, both in losses.items()
        for loss in both
        for layer in (0, 1)
    ]
    table, *said = example.shown(rows)
    assert table.row_count == 4
    assert said == [
        "a: lower loss than plain, -0.1000 to -0.0500 by seed",
        "b: higher loss than plain, +0.0500 to +0.2000 by seed",
        "c: not clearly another loss than plain, -0.1000 to +0.1000 by seed",
    ]


def check(path: Path) -> list[dict[str, str]]:
    """Every form of every seed with every layer; as many parameters, but for the series."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    seeds = sorted({row["seed"] for row in rows})
    layers = range(int(rows[0]["layers"]))
    assert [(row["seed"], row["form"], row["layer"]) for row in rows] == [
        (seed, form, str(layer)) for seed in seeds for form in FORMS for layer in layers
    ]
    counts = {row["form"]: int(row["parameters"]) for row in rows}
    assert max(counts.values()) < 1.03 * min(counts.values())
    for row in rows:
        assert int(row["active"]) < int(row["parameters"]) == counts[row["form"]]
        assert (row["terms"] != "0") == (row["form"] in ("series", "both"))
        assert (row["width"] != "0") == (row["form"] in ("shortcut", "both"))
        assert 1 <= int(row["effective_dimension"]) <= int(row["H"])
        assert 0.0 < float(row["diversity"]) <= 1.0
        assert 0.0 < float(row["loss"]) < math.log(256)
    return rows


@pytest.mark.slow
def test_trains_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(SCRIPT, "--smoke", "--out", tmp_path) == 0
    assert len(check(tmp_path / "pangu_pi.csv")) == 4 * 2
    said = capsys.readouterr().out
    assert all(form in said for form in FORMS)
    assert "loss than plain SwiGLU" in said


def test_the_committed_run_is_whole() -> None:
    rows = check(RESULTS / "pangu_pi.csv")
    counts = {row["form"]: int(row["parameters"]) for row in rows}
    assert counts["shortcut"] == counts["plain SwiGLU"]
    assert counts["both"] == counts["series"] == counts["plain SwiGLU"] + 4 * 2 * 2
    assert len({row["seed"] for row in rows}) > 1
    assert all(float(row["loss"]) < 3.0 for row in rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--length 2", "--length must be at least 3, got 2"),
        ("--seeds 0", "--seeds must be at least 1, got 0"),
        ("--length 900000", "--length must be at most"),
    ],
)
def test_says_why_options_cannot_be_run(
    options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(SCRIPT, *options.split()) == 2
    assert said in capsys.readouterr().err
