"""A pool of slots that all layers share, and who fills it."""

import torch

import moge_ops
from pictures import Svg

LAYERS, E, G = 4, 8, 4
CELL, HIGH = 32, 26
NOW = 1  # the layer that runs


def _chosen() -> list[list[int]]:
    """The experts that one token takes in each layer."""
    torch.manual_seed(4)
    return [
        sorted(moge_ops.grouped_gate(torch.randn(1, E), G).experts[0].tolist())
        for _ in range(LAYERS)
    ]


def ring() -> Svg:
    """The folder, the pool, and a layer whose experts' ids have become places in the pool."""
    chosen = _chosen()
    # of the present layer all, of the next one what was guessed, of others what is used often
    resident = [(NOW, e) for e in chosen[NOW]] + [(NOW + 1, e) for e in chosen[NOW + 1]]
    resident += [(layer, e) for layer in (0, 3) for e in chosen[layer][:2]]
    reading = (NOW + 1, chosen[NOW + 1][-1])  # by a thread, at this moment
    others = [key for key in resident if key != reading]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(1)).tolist()
    slots = [others[i] for i in order]
    slots.insert(3, reading)
    left, pool, takes, top = 64, 412, 580, 40
    svg = Svg(724, top + 6 * (HIGH + 4) + 44)
    svg.text(left, 12, "experts in the folder", "strong")
    svg.text(pool, 12, "pool of 12 slots", "strong")
    svg.text(takes, 12, f"layer {NOW} runs", "strong")
    down = top + 18
    for layer in range(LAYERS):
        y = down + layer * (HIGH + 8)
        svg.text(left - 10, y + HIGH / 2, f"layer {layer}", anchor="end", size=12)
        for e in range(E):
            ink = f"g{layer}" if (layer, e) in resident else "faint"
            svg.box(left + e * (CELL + 3), y, CELL, HIGH, str(e), ink)
    places = {}
    for i, (layer, e) in enumerate(slots):
        x, y = pool + i // 6 * 64, top + i % 6 * (HIGH + 4)
        places[layer, e] = i, x, y
        svg.box(x, y, 58, HIGH, f"{layer} \u00b7 {e}", f"g{layer}")
    end = left + E * (CELL + 3)
    start = down + reading[0] * (HIGH + 8) + HIGH / 2
    svg.curve((end + 2, start), (pool - 4, places[reading][2] + HIGH / 2))
    for i, word in enumerate(("threads", "read", "ahead")):  # beside each other they meet the pool
        svg.text(end + 6, start + 22 + 15 * i, word, size=12)
    for i, e in enumerate(chosen[NOW]):
        y = top + i * (HIGH + 4)
        svg.box(takes, y, 140, HIGH, f"expert {e}: slot {places[NOW, e][0]}", f"g{NOW}")
    svg.text(takes, top + G * (HIGH + 4) + 14, "the kernels multiply", size=12)
    svg.text(takes, top + G * (HIGH + 4) + 30, "by the pool itself", size=12)
    between = top + G / 2 * (HIGH + 4) - 2  # slots, so that it belongs to none of them
    svg.line((pool + 126, between), (takes - 4, between), arrow=True)
    svg.text(
        left, top + 6 * (HIGH + 4) + 28, "coloured: in the pool, a colour for each layer", size=12
    )
    return svg
