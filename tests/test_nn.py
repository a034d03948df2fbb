"""nn.MoGE agrees with the layer written out in plain torch."""

from typing import Any

import pytest
import torch
from torch import Tensor

import moge_ops
from moge_ops import nn
from moge_ops.reference.grouped_gate import grouped_gate
from moge_ops.reference.grouped_mlp import grouped_mlp
from moge_ops.reference.route import route
from moge_ops.reference.swiglu import swiglu
from moge_ops.testing import assert_matches

H, F, E, G, S = 24, 16, 12, 3, 8
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"k": 2, "shared_size": S, "renormalize": True, "scaling": 2.5}, id="all-parts"),
    pytest.param(
        {"score": "sigmoid", "selection_bias": True, "router_scale": False}, id="sigmoid-biased"
    ),
    pytest.param({"weight_on": "activation"}, id="weight-on-activation"),
]


def written_out(
    layer: nn.MoGE, x: Tensor, p: dict[str, Tensor], given: Tensor | None = None
) -> Tensor:
    """The layer's formula on ``[T, H]``, with parameters ``p`` in float64."""
    weights, experts, _ = grouped_gate(
        x @ p["gate"].T,
        layer.num_groups,
        layer.k,
        score=layer.score,
        bias=p.get("bias"),
        router_scale=p.get("router_scale"),
        renormalize=layer.renormalize,
        scaling=layer.scaling,
        experts=given,
    )
    y = grouped_mlp(
        x,
        p["w_gate_up"],
        p["w_down"],
        weights,
        *route(experts, E),
        weight_on=layer.weight_on,
    )
    if "shared_down" in p:
        y = y + swiglu(x @ p["shared_gate_up"].T) @ p["shared_down"].T
    return y


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("options", OPTIONS)
def test_matches_the_layer_written_out(options: dict[str, Any], device: str) -> None:
    layer = nn.MoGE(H, F, E, G, **options, device=device)
    with torch.no_grad():
        if layer.router_scale is not None:
            layer.router_scale.uniform_(0.5, 1.5)
        if isinstance(layer.bias, Tensor):
            layer.bias.uniform_(-0.1, 0.1)
    x = torch.randn(2, 3, H, device=device, requires_grad=True)
    named = dict(layer.named_parameters())
    wide = {name: v.detach().cpu().double() for name, v in layer.state_dict().items()}
    for name in named:
        wide[name].requires_grad_()
    x64 = x.detach().cpu().double().requires_grad_()
    y, y64 = layer(x), written_out(layer, x64.reshape(-1, H), wide).view(2, 3, H)
    assert_matches(y, y64, "y")

    d_y = torch.randn(2, 3, H)
    grads = torch.autograd.grad(y, [x, *named.values()], d_y.to(device))
    grads64 = torch.autograd.grad(y64, [x64, *(wide[n] for n in named)], d_y.double())
    for name, got, want in zip(("x", *named), grads, grads64, strict=True):
        # terms nearly cancel in the softmax's gradient, so d_gate is measured against d_x's size
        scale = grads64[0].square().mean().sqrt().item() if name == "gate" else None
        assert_matches(got, want, f"d_{name}", scale=scale)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("options", OPTIONS)
def test_takes_the_choice_of_another_run(options: dict[str, Any], device: str) -> None:
    layer = nn.MoGE(H, F, E, G, **options, device=device)
    x = torch.randn(2, 5, H, device=device, requires_grad=True)
    K = G * layer.k
    ids = torch.randint(-1, E + 1, (2, 5, K), device=device)  # of any group
    ids[0, :, 0] = ids[0, :, -1]

    out = layer(x, routing=ids, return_routing=True)
    assert out.gating.experts.equal(ids.masked_fill(ids == E, -1).view(10, K).int())
    p = {n: v.detach().cpu().double().requires_grad_() for n, v in layer.named_parameters()}
    p |= {n: v.cpu().double() for n, v in layer.named_buffers()}
    x64 = x.detach().cpu().double().requires_grad_()
    want = written_out(layer, x64.view(-1, H), p, ids.view(-1, K).cpu()).view(2, 5, H)
    assert_matches(out.y, want, "y")

    out.y.square().mean().backward()
    want.square().mean().backward()
    assert_matches(x.grad, x64.grad, "d_x")
    for name, parameter in layer.named_parameters():
        scale = p["gate"].grad.abs().mean().item() + 1e-3 if name == "gate" else None
        assert_matches(parameter.grad, p[name].grad, f"d_{name}", scale=scale)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (torch.zeros(4, 3), TypeError, "routing must be int32 or int64, got torch.float32"),
        ([[0]], TypeError, r"routing must be a Tensor \[..., K\], got list"),
        (torch.zeros(4, 4).long(), ValueError, r"\[2, 2, 3\] like x, or .*4, 3\], got \[4, 4\]"),
        (torch.zeros(3, 3).long(), ValueError, r"= \[4, 3\], got \[3, 3\]"),
        (torch.zeros(4, 1, 3).long(), ValueError, r"got \[4, 1, 3\]"),  # tokens in another order
        (torch.tensor(0), ValueError, r"got \[\]"),
    ],
)
def test_refuses_a_choice_that_does_not_fit(ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nn.MoGE(H, F, E, G)(torch.randn(2, 2, H), routing=ids)


def test_returns_its_routing(device: str) -> None:
    layer = nn.MoGE(H, F, E, G, k=2, device=device)
    x = torch.randn(5, H, device=device)
    y, logits, gating = layer(x, return_routing=True)
    assert torch.equal(y, layer(x))
    assert logits.shape == (5, E)
    assert gating.experts.shape == (5, 2 * G)
    groups = gating.experts.view(5, G, 2) // (E // G)
    assert torch.equal(groups, torch.arange(G, device=device).view(1, G, 1).expand_as(groups).int())


@pytest.mark.slow_on("triton")
def test_experts_off_and_votes(device: str) -> None:
    layer = nn.MoGE(H, F, E, G, num_voted=1, device=device)
    before = set(layer.state_dict())
    layer.expert_mask = torch.arange(E, device=device) % 4 != 1
    assert set(layer.state_dict()) == before
    x = torch.randn(2, 9, H, device=device)
    voters = torch.zeros(2, 9, dtype=torch.bool, device=device)
    voters[0, 3] = True
    _, logits, gating = layer(x, return_routing=True, row_mask=voters)
    want = moge_ops.grouped_gate(
        logits,
        G,
        router_scale=layer.router_scale,
        expert_mask=layer.expert_mask,
        num_voted=1,
        row_mask=voters.flatten(),
    )
    assert all(torch.equal(a, b) for a, b in zip(gating, want, strict=True))
    assert (gating.counts.view(G, -1) > 0).sum(1).max() == 1
    assert not gating.counts[~layer.expert_mask].any()
    everybody = layer(x, return_routing=True).gating
    assert not torch.equal(everybody.counts, gating.counts), "the row mask changes nothing"
    layer.num_voted = layer.expert_mask = None
    assert layer(x, return_routing=True).gating.counts.gt(0).sum() > 2 * G
    with pytest.raises(ValueError, match=r"num_voted must be from k=2 .* 4, got 5"):
        nn.MoGE(H, F, E, G, 2, num_voted=5)


@pytest.mark.parametrize("shape", [(0, H), (2, 0, H), (H,)], ids=str)
def test_any_leading_dimensions(shape: tuple[int, ...], device: str) -> None:
    layer = nn.MoGE(H, F, E, G, shared_size=S, device=device)
    assert layer(torch.randn(shape, device=device)).shape == shape


def test_initialises_like_linear_and_round_trips(device: str) -> None:
    layer = nn.MoGE(H, F, E, G, shared_size=S, selection_bias=True, device=device)
    for name, width in (("gate", H), ("w_gate_up", H), ("w_down", F), ("shared_down", S)):
        largest = getattr(layer, name).abs().max().item()
        assert 0.8 * width**-0.5 < largest <= width**-0.5, name
    assert (layer.router_scale == 1).all()
    assert (layer.bias == 0).all()
    other = nn.MoGE(H, F, E, G, shared_size=S, selection_bias=True, device=device)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(3, H, device=device)
    assert torch.equal(layer(x), other(x))


def test_needs_no_memory_on_meta() -> None:
    layer = nn.MoGE(5120, 1344, 64, 8, shared_size=5376, device="meta", dtype=torch.bfloat16)
    experts = layer.w_gate_up.numel() + layer.w_down.numel()
    assert experts == 64 * 3 * 1344 * 5120
    assert "num_groups=8, k=1, shared_size=5376" in repr(layer)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((H, F, E, 5), ValueError, "positive multiple of num_groups=5, got 12"),
        ((H, F, E, G, 5), ValueError, "k must be at most .* 12 / 3 = 4, got 5"),
        ((-1, F, E, G), ValueError, "hidden_size must be in .*, got -1"),
        ((H, 1.5, E, G), TypeError, "expert_size must be an int, got float"),
    ],
)
def test_rejects_sizes(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nn.MoGE(*arguments)


def test_rejects_options_and_inputs() -> None:
    with pytest.raises(
        ValueError, match="score must be one of softmax, sigmoid, sqrtsoftplus, got 'relu'"
    ):
        nn.MoGE(H, F, E, G, score="relu")
    with pytest.raises(ValueError, match="weight_on must be one of output, activation, got"):
        nn.MoGE(H, F, E, G, weight_on="input")
    with pytest.raises(ValueError, match=r"x must be \[..., H=24\], got \[3, 23\]"):
        nn.MoGE(H, F, E, G)(torch.zeros(3, 23))


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("renormalize", [False, True])
def test_null_experts(groups: int, renormalize: bool, device: str) -> None:
    """Gate, route and experts, forward and every gradient, against a sum over real experts."""
    T, k, nulls = 9, 6 // groups, 6
    n = (E + nulls) // groups  # outputs of the router for each group
    x = torch.randn(T, H)
    router = torch.randn(E + nulls, H) / H**0.5
    w_gate_up, w_down = torch.randn(E, 2 * F, H) / H**0.5, torch.randn(E, H, F) / F**0.5
    leaves = [t.to(device).requires_grad_() for t in (x, router, w_gate_up, w_down)]
    wide = [t.detach().cpu().double().requires_grad_() for t in leaves]

    gating = moge_ops.grouped_gate(leaves[0] @ leaves[1].T, groups, k, renormalize=renormalize)
    ids = gating.experts
    if groups > 1:
        ids = torch.where(ids % n < E // groups, ids // n * (E // groups) + ids % n, E)
    y = moge_ops.grouped_mlp(
        leaves[0], leaves[2], leaves[3], gating.weights, moge_ops.route(ids, E)
    )

    weights, experts, _ = grouped_gate(wide[0] @ wide[1].T, groups, k, renormalize=renormalize)
    rows, null_slots = [], 0
    for t in range(T):
        row = torch.zeros(H, dtype=torch.float64)
        for weight, chosen in zip(weights[t], experts[t].tolist(), strict=True):
            group, place = divmod(chosen, n)
            if place >= E // groups:  # each group ends with its null experts
                null_slots += 1
                continue
            expert = group * (E // groups) + place
            gate, up = (wide[2][expert] @ wide[0][t]).chunk(2)
            row = row + weight * (wide[3][expert] @ (torch.nn.functional.silu(gate) * up))
        rows.append(row)
    want = torch.stack(rows)
    assert 0 < null_slots < experts.numel(), "nulls among the chosen, and real experts too"
    assert_matches(y, want, "y")

    d_y = torch.randn(T, H)
    grads = torch.autograd.grad(y, leaves, d_y.to(device))
    wants = torch.autograd.grad(want, wide, d_y.double())
    scale = wants[0].square().mean().sqrt().item()  # terms cancel in the router's gradient
    for name, got, expected in zip(("x", "router", "gate_up", "down"), grads, wants, strict=True):
        assert_matches(got, expected, f"d_{name}", scale=scale if name == "router" else None)
    null_rows = grads[1].view(groups, n, H)[:, E // groups :]
    assert null_rows.abs().sum() > 0, "the null experts' router rows learn"


def test_inputs_that_the_parameters_do_not_take(device: str) -> None:
    layer = nn.MoGE(4, 4, 4, 2, device=device)
    with pytest.raises(TypeError, match="x must have the dtype of the parameters, float32, got "):
        layer(torch.zeros(3, 4, dtype=torch.float64, device=device))
    with pytest.raises(ValueError, match=r"x must be on the device of the parameters, .*got meta"):
        layer(torch.zeros(3, 4, device="meta"))
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        assert layer(torch.zeros(3, 4, device=device).bfloat16()).dtype is torch.bfloat16


def test_row_masks_that_do_not_fit(device: str) -> None:
    layer, x = nn.MoGE(4, 4, 4, 2, device=device), torch.zeros(3, 4, device=device)
    with pytest.raises(ValueError, match=r"row_mask must be \[\.\.\.\] = \[3\], got \[4\]"):
        layer(x, row_mask=torch.ones(4, dtype=torch.bool, device=device))
    with pytest.raises(TypeError, match=r"row_mask must be bool, got torch\.float32"):
        layer(x, row_mask=torch.ones(3, device=device))
    mask = torch.zeros(3, dtype=torch.bool, device=device)  # without votes it changes nothing
    assert torch.equal(layer(x, row_mask=mask), layer(x))


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("how", ["argument", "cast", "autocast"])
def test_a_router_in_float32(how: str, device: str) -> None:
    dtypes = {"dtype": torch.bfloat16, "router_dtype": torch.float32} if how == "argument" else {}
    layer = nn.MoGE(H, F, E, G, selection_bias=True, shared_size=S, device=device, **dtypes)
    if how == "cast":
        layer.bfloat16()
        for name in ("gate", "router_scale"):
            parameter = getattr(layer, name)
            parameter.data = parameter.data.float()
    if how == "argument":
        wide = {n for n, v in layer.state_dict().items() if v.dtype == torch.float32}
        assert wide == {"gate", "router_scale", "bias"}
    with torch.no_grad():
        layer.gate.mul_(1.001)  # no bfloat16 numbers
    x = torch.randn(40, H, device=device).bfloat16().requires_grad_()
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=how == "autocast"):
        y, logits, gating = layer(x, return_routing=True)
    assert (y.dtype, logits.dtype) == (torch.bfloat16, torch.float32)
    want = x.detach().float() @ layer.gate.T
    assert_matches(logits, want.double(), "logits")
    again = moge_ops.grouped_gate(want, G, bias=layer.bias, router_scale=layer.router_scale)
    assert torch.equal(gating.experts, again.experts)
    (y.float().square().sum() + logits.square().sum()).backward()
    assert layer.gate.grad.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16
    scale = 2 * logits.detach()  # of the second term, whose gradient is known
    alone = torch.autograd.grad(layer.router(x)[0].square().sum(), layer.gate)[0]
    assert_matches(alone, (scale.T @ x.detach().float()).double(), "d_gate")


@pytest.mark.parametrize("name", ["hidden_size", "expert_size", "num_experts", "shared_size"])
def test_sizes_that_no_tensor_has(name: str) -> None:
    sizes = {"hidden_size": 4, "expert_size": 4, "num_experts": 4, "num_groups": 2}
    for size in (2**63, 10**30):
        with pytest.raises(ValueError, match=f"{name} must be in .*, got {size}"):
            nn.MoGE(**sizes | {name: size})  # type: ignore[arg-type]
