"""Ideas of others, as this library runs them: every value comes from a call of its functions."""

import copy

import torch
from torch import Tensor

import moge_ops
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.pangu_moe import Layer, Norm
from moge_ops.quant.smoothing import smooth_experts
from moge_ops.statistics import RouterStatistics
from moge_ops.surgery import (
    Sensitivity,
    distillation_loss,
    expert_sensitivity,
    permute_experts,
    slim_experts,
)
from pictures import Svg


def _bars(
    svg: Svg, place: tuple[float, float], values: list[float], most: float, *, inks: list[str]
) -> None:
    """Bars of 18 units that stand on y."""
    x, y = place
    for i, value in enumerate(values):
        height = max(1.0, 90 * value / most)
        svg.box(x + 22 * i, y - height, 18, height, ink=inks[i])


def _loads(svg: Svg, place: int, title: str, counts: Tensor, G: int, most: float) -> None:
    """Rows of every expert, in the colours of the groups; the second place is on the right."""
    svg.text(4 + 380 * place, 12, title, "strong")
    rows = counts.tolist()
    inks = [f"g{e * G // len(rows)}" for e in range(len(rows))]
    _bars(svg, (4 + 380 * place, 128), rows, most, inks=inks)
    for e, n in enumerate(rows):
        svg.text(4 + 380 * place + 22 * e + 9, 140, str(n), anchor="middle", size=12)


def null_experts() -> Svg:
    """How many experts each token uses, where half of the router's outputs are no experts."""
    torch.manual_seed(0)
    E, K, T = 8, 4, 20
    experts = moge_ops.grouped_gate(torch.randn(T, 2 * E), num_groups=1, k=K).experts
    slots = moge_ops.route(experts, E).slot_to_row
    svg = Svg(620, 140)
    svg.text(0, 12, f"slots of {T} tokens: an expert, or none", "strong")
    for t in range(T):
        used = [int(e) for e, row in zip(experts[t], slots[t], strict=True) if row >= 0]
        for j in range(K):
            ink, text = ("g0", str(used[j])) if j < len(used) else ("faint", "")
            svg.box(30 * t, 30 + 22 * j, 27, 20, text, ink)
        svg.text(30 * t + 13, 130, str(len(used)), anchor="middle", size=12)
    return svg


def masks() -> Svg:
    """Experts that stay on for two tasks, by the statistics of one router."""
    torch.manual_seed(0)
    E, G, keep = 32, 4, 3
    layer = moge_ops.nn.MoGE(32, 16, E, G)
    statistics, P = RouterStatistics(), E // G
    tasks = ("law", "code")
    for task in tasks:
        with statistics.collect(layer, task):
            layer(torch.randn(32) + 0.5 * torch.randn(200, 32))
    svg = Svg(700, 132)
    for i, task in enumerate(tasks):
        (mask,) = statistics.masks(task, keep).values()
        svg.text(360 * i, 12, f"task {task!r}: {int(mask.sum())} of {E} experts stay", "strong")
        for e, on in enumerate(mask.tolist()):
            x, y = 360 * i + 40 * (e % P), 28 + 25 * (e // P)
            svg.box(x, y, 37, 22, str(e), f"g{e // P}" if on else "plain")
    return svg


def votes() -> Svg:
    """Rows of every expert of two groups, without and with a vote."""
    torch.manual_seed(0)
    E, G, T = 16, 2, 24
    logits = torch.randn(T, E)
    ways = {"every expert may be chosen": None, "num_voted=3": 3}
    svg = Svg(760, 150)
    for i, (title, num_voted) in enumerate(ways.items()):
        counts = moge_ops.grouped_gate(logits, G, num_voted=num_voted).counts
        _loads(svg, i, f"{title}: {int((counts > 0).sum())} experts read", counts, G, most=12)
    return svg


def replay() -> Svg:
    """Choices that differ where logits were rounded, and with the choice given."""
    torch.manual_seed(0)
    T, H, E, G = 60, 256, 64, 8
    x, gate = torch.randn(T, H), torch.randn(E, H) / H**0.5
    logits = x @ gate.T
    rollout = moge_ops.grouped_gate(x.bfloat16() @ gate.bfloat16().T, G).experts
    ways = {
        "the trainer chooses anew": moge_ops.grouped_gate(logits, G).experts,
        "the trainer takes the rollout's choice": moge_ops.grouped_gate(
            logits, G, experts=rollout
        ).experts,
    }
    svg = Svg(660, 230)
    for i, (title, experts) in enumerate(ways.items()):
        other = experts != rollout
        y, what = 112 * i, f"{int(other.sum())} of {T * G} choices differ"
        svg.text(0, y + 12, f"{title}: {what}", "strong")
        for t in range(T):
            for g in range(G):
                ink = "g3" if other[t, g] else "faint"
                svg.box(11 * t, y + 26 + 9 * g, 10, 8, ink=ink)
    return svg


def z_loss() -> Svg:
    """The mean squared log-sum-exp of a router while it trains, without and with the loss."""
    shown: dict[str, list[float]] = {}
    for name, factor in (("without it", 0.0), ("with 0.01 times the loss", 0.01)):
        torch.manual_seed(0)
        x, target = torch.randn(64, 16), torch.randint(0, 32, (64,))
        gate = torch.randn(32, 16, requires_grad=True)
        values = []
        for step in range(61):
            logits = x @ gate.T
            z = moge_ops.router_z_loss(logits)
            if step % 5 == 0:
                values.append(float(z.detach()))
            loss = torch.nn.functional.cross_entropy(logits, target) + factor * z
            (slope,) = torch.autograd.grad(loss, gate)
            gate = (gate - 4.0 * slope).detach().requires_grad_()
        shown[name] = values
    most = max(map(max, shown.values()))
    svg = Svg(640, 150)
    for i, (name, values) in enumerate(shown.items()):
        svg.text(330 * i, 12, f"{name}: {values[-1]:.0f} at the end", "strong")
        _bars(svg, (330 * i, 120), values, most, inks=[f"g{i}"] * len(values))
        svg.line((330 * i, 121), (330 * i + 290, 121))
        svg.text(330 * i, 138, "step 0", size=12)
        svg.text(330 * i + 282, 138, "step 60", anchor="end", size=12)
    return svg


def _model() -> PanguMoEForCausalLM:
    """A tiny model whose norm makes three channels stand out."""
    torch.manual_seed(0)
    config = PanguMoEConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=8,
        num_groups=4,
        num_experts_per_tok=4,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )
    model = PanguMoEForCausalLM(config).eval()
    with torch.no_grad():
        _norm(model).weight[[3, 11, 20]] *= 40  # out of 32 channels
    return model


def _norm(model: PanguMoEForCausalLM) -> Norm:
    """What the experts' input comes from."""
    layer = model.layers[0]
    assert isinstance(layer, Layer)
    return layer.moge_norm


def _ranges(model: PanguMoEForCausalLM, ids: Tensor) -> Tensor:
    """``[H]``: the largest size of each channel of the experts' input."""
    found: list[Tensor] = []
    hook = _norm(model).register_forward_hook(
        lambda _, __, out: found.append(out.abs().flatten(0, -2))
    )
    with torch.no_grad():
        model(ids)
    hook.remove()
    return found[0].amax(0)


def smoothing() -> Svg:
    """Range of every channel of the experts' input, before and after."""
    model = _model()
    ids = torch.randint(0, 64, (4, 64))
    before = _ranges(model, ids)
    smooth_experts(model, [ids])
    after = _ranges(model, ids)
    svg = Svg(720, 150)
    for i, (name, ranges) in enumerate((("before", before), ("after", after))):
        ratio = float(ranges.max() / ranges.median())
        svg.text(370 * i, 12, f"{name}: largest / median {ratio:.0f}", "strong")
        for c, value in enumerate(ranges.tolist()):
            height = max(1.0, 100 * value / float(ranges.max()))
            svg.box(370 * i + 11 * c, 134 - height, 9, height, ink=f"g{i}")
    return svg


def surgery() -> Svg:
    """Rows of every expert before and after experts were sorted by load within their groups."""
    torch.manual_seed(0)
    E, G, T = 16, 4, 200
    layer, x = moge_ops.nn.MoGE(16, 8, E, G), torch.randn(T, 16) + 0.4 * torch.randn(16)
    svg = Svg(760, 150)
    before = layer(x, return_routing=True).gating.counts
    order = before.view(G, -1).argsort(1, descending=True) + torch.arange(0, E, E // G)[:, None]
    permute_experts(layer, order.flatten())
    after = layer(x, return_routing=True).gating.counts
    for i, (name, counts) in enumerate((("before", before), ("after", after))):
        _loads(svg, i, f"rows of each expert, {name}", counts, G, float(before.max()))
    return svg


def slimming() -> Svg:
    """Loss of a model's own answers with narrower experts, by sensitivity and at random."""
    torch.manual_seed(0)
    model = PanguMoEForCausalLM(
        PanguMoEConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            moe_intermediate_size=64,
            shared_expert_intermediate_size=16,
            initializer_range=0.3,
        )
    )
    ids = torch.randint(0, 64, (16, 32))
    scores = expert_sensitivity(model, ids.unsqueeze(1))
    random = {name: Sensitivity(torch.rand_like(x.experts), None) for name, x in scores.items()}
    found: dict[str, list[float]] = {"by sensitivity": [], "at random": []}
    with torch.no_grad():
        answers = model(ids)
        for (_, losses), by in zip(found.items(), (scores, random), strict=True):
            for width in (48, 32, 16):
                small = copy.deepcopy(model)
                slim_experts(small, width, by)
                losses.append(float(distillation_loss(small(ids), answers)))
    most = max(map(max, found.values()))
    svg = Svg(620, 150)
    for i, (name, losses) in enumerate(found.items()):
        svg.text(320 * i, 12, f"neurons {name}", "strong")
        for j, (width, loss) in enumerate(zip((48, 32, 16), losses, strict=True)):
            x, height = 320 * i + 90 * j, max(1.0, 80 * loss / most)
            svg.box(x, 120 - height, 60, height, ink=f"g{i}")
            svg.text(x + 30, 114 - height, f"{loss:.2f}", anchor="middle", size=12)
            svg.text(x + 30, 138, f"{width} of 64", anchor="middle", size=12)
    return svg


def bias() -> Svg:
    """Rows of the experts of two groups while a bias of the choice is moved against the load."""
    torch.manual_seed(0)
    E, G, T = 16, 2, 256
    logits, offset = torch.randn(T, E) + torch.randn(E), torch.zeros(E)
    shown = []
    for step in range(101):
        counts = moge_ops.grouped_gate(logits, G, score="sigmoid", bias=offset).counts
        if step in (0, 100):
            shown.append((step, counts))
        offset += 0.01 * (T * G / E - counts).sign()
    svg = Svg(760, 150)
    for i, (step, counts) in enumerate(shown):
        _loads(svg, i, f"after {step} updates", counts, G, float(shown[0][1].max()))
    return svg
