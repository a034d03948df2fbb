"""What `swiglu` does to one row, and its curve."""

import torch

import moge_ops
from pictures import Svg


def draw() -> Svg:
    """One row with F = 4: the halves, element by element, and the result."""
    torch.manual_seed(1)
    F, cell, left = 4, 64, 150
    pre = (torch.randn(1, 2 * F) * 1.5).round(decimals=1)
    act = moge_ops.swiglu(pre)[0].tolist()
    svg = Svg(left + 2 * F * cell + 20, 150)
    svg.text(10, 44, "gate_up [N, 2F]", "strong")
    svg.text(left + F * cell / 2, 14, "gate", anchor="middle")
    svg.text(left + F * cell * 1.5, 14, "up", anchor="middle")
    svg.text(10, 126, "act [N, F]", "strong")
    for i, number in enumerate(pre[0].tolist()):
        svg.box(left + cell * i, 32, cell - 4, 24, f"{number:.1f}", f"g{i // F}")
    for f in range(F):
        end = left + cell * (f + F / 2) + cell / 2
        svg.line((left + cell * (f + 0.5), 56), (end - 8, 110), arrow=True)
        svg.line((left + cell * (F + f + 0.5), 56), (end + 8, 110), arrow=True)
        svg.box(end - cell / 2 + 2, 114, cell - 4, 24, f"{act[f]:.2f}", "g2")
    return svg


def curve() -> Svg:
    """silu and its derivative from -6 to 6, by the operator and its backward pass."""
    gate = torch.linspace(-6.0, 6.0, 121)
    pre = torch.stack([gate, torch.ones_like(gate)], dim=1).requires_grad_()  # F = 1, up = 1
    act = moge_ops.swiglu(pre)
    (d_pre,) = torch.autograd.grad(act.sum(), pre)
    x0, y0, wide, high = 300.0, 150.0, 42.0, 22.0  # the origin, and units of both axes
    svg = Svg(640, 190)

    def line(values: torch.Tensor, ink: str) -> None:
        pairs = zip(gate.tolist(), values.tolist(), strict=True)
        svg.line(*((x0 + wide * g, y0 - high * v) for g, v in pairs), ink=ink)

    svg.line((x0 - 6.3 * wide, y0), (x0 + 6.3 * wide, y0), arrow=True)
    svg.line((x0, y0 + 20), (x0, 8), arrow=True)
    for g in (-6, -4, -2, 2, 4, 6):
        svg.line((x0 + wide * g, y0 - 3), (x0 + wide * g, y0 + 3))
        svg.text(x0 + wide * g, y0 + 16, str(g), anchor="middle")
    for v in (2, 4, 6):
        svg.line((x0 - 3, y0 - high * v), (x0 + 3, y0 - high * v))
        svg.text(x0 - 10, y0 - high * v, str(v), anchor="end")
    line(act[:, 0].detach(), "strong")
    line(d_pre[:, 0], "plain")
    svg.text(x0 + 3.2 * wide, y0 - high * 4.6, "silu(gate)", "strong", anchor="end")
    svg.text(x0 + 4.6 * wide, y0 - high * 1.9, "its derivative")
    svg.text(x0 + 6.4 * wide, y0 + 16, "gate")
    return svg
