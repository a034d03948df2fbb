"""Which device should have which experts, and which tokens, so that few rows travel between them.

::

    statistics = RouterStatistics(co_activation=True)
    with statistics.collect(model, "text"):
        gating = model(input_ids, return_details=True).gating[3]  # of the layer
    pairs = statistics.pairs["text"]["layers.3.moge"]
    perm = group_experts(pairs, devices=8)  # experts that tokens take together share a device
    permute_experts(model.layers[3].moge, perm)

    E = len(pairs)
    taken = one_hot(gating.experts.long(), E).sum(1).float()  # [T, E]: what each token took
    table = torch.zeros(model.config.vocab_size, E).index_add_(0, input_ids.flatten(), taken)
    table /= table.sum(1, keepdim=True).clamp_min(1.0)  # [V, E]: shares of what an id took
    owned = one_hot(perm.argsort() // (E // 8), 8).float()  # [E, devices]: where an expert is now
    hits = table[next_ids] @ owned  # [T, devices]: the share that a token will find where
    device = schedule_tokens(hits)  # equally many tokens on each device

Neither changes what a model computes: experts move with their router's rows, and a token's output
does not depend on the device that it starts from.
"""

import torch
from torch import Tensor

from moge_ops import _checks

__all__ = ["group_experts", "schedule_tokens"]

STARTS = 8  # orders from which the search begins


def _attached(perm: Tensor, devices: int) -> Tensor:
    """``[E, devices]`` float64: 1 where a device has an expert."""
    E = len(perm)
    device = torch.empty_like(perm)
    device[perm] = torch.arange(E, device=perm.device) // (E // devices)
    return torch.nn.functional.one_hot(device, devices).double()


def _improved(
    perm: Tensor, pairs: Tensor, devices: int, same_group: Tensor
) -> tuple[Tensor, float]:
    """Swaps two experts as long as that helps, best first; and the pairs that share a device."""
    E = len(perm)
    while True:
        on = _attached(perm, devices)
        device = on.argmax(1)
        to = pairs @ on  # [E, devices]: what an expert shares with each device's
        gain = to[:, device] - to.gather(1, device.unsqueeze(1))  # [E, E]: i goes where j is
        gain = gain + gain.T - 2.0 * pairs
        gain = gain.masked_fill(~same_group | (device.unsqueeze(1) == device), 0.0)
        best = int(gain.argmax())
        # rounding must not let two swaps undo each other for ever
        if gain.flatten()[best] <= 1e-9 * pairs.sum():
            return perm, float((on * to).sum()) / 2.0
        i, j = divmod(best, E)
        perm = torch.where(perm == i, j, torch.where(perm == j, i, perm))


def group_experts(pairs: Tensor, devices: int, *, num_groups: int = 1) -> Tensor:
    r"""Places experts so that those which tokens take together share a device.

    .. math:: \max_\pi \sum_d \; \sum_{i < j \text{ on } d} c_{ij}

    A search by swaps from several orders, which finds a local optimum; the same on every run. It
    starts from the order as it is, so it never returns a worse one.

    Args:
        pairs: c, ``[E, E]``, symmetric: tokens that took experts i and j together, as
            :class:`moge_ops.statistics.RouterStatistics` collects them. The diagonal does not
            matter.
        devices: D, divides E; device d has the E/D neighbouring places from d·E/D on.
        num_groups: G. An expert stays in its group, as MoGE's choice demands. Where devices have
            whole groups, no order is better than another.

    Returns:
        ``[E]`` int64: place i gets expert ``perm[i]``, as :func:`moge_ops.surgery.permute_experts`
        takes it.

    Raises:
        TypeError: ``pairs`` is not a float tensor, or a number is not an int.
        ValueError: ``pairs`` is not square, symmetric, finite and without negative numbers, or D or
            G does not divide E.

    Source:
        Expert grouping: Li et al. 2025, "Speculative MoE" (arXiv:2503.04398), which solves a joint
        problem of tokens and experts by cross-entropy optimisation; the search here is ours.
    """
    _checks.tensors(("pairs", pairs, "[E, E]", _checks.FLOATS))
    E = len(pairs)
    for name, number in (("devices", devices), ("num_groups", num_groups)):
        _checks.integer(name, number, least=1, most=_checks.MOST_SIZE)
        if not E or E % number:
            raise ValueError(f"{name} must divide E={E}, got {number}")
    c = pairs.double().cpu()
    if not c.isfinite().all():
        raise ValueError("pairs must be finite, got NaN or an infinity")
    if (c < 0.0).any():
        raise ValueError(f"pairs must be without negative numbers, got {c.min():g}")
    if not torch.equal(c, c.T):
        i, j = (c != c.T).nonzero()[0].tolist()
        raise ValueError(
            f"pairs must be symmetric, got {c[i, j]:g} at [{i}, {j}] and {c[j, i]:g} at [{j}, {i}]"
        )
    c = c - c.diag().diag()
    group = torch.arange(E) // (E // num_groups)
    same_group = group.unsqueeze(1) == group
    random = torch.Generator().manual_seed(0)
    starts = [torch.arange(E)]
    for _ in range(STARTS - 1):
        within = torch.rand(num_groups, E // num_groups, generator=random).argsort(1)
        starts.append((within + torch.arange(num_groups).unsqueeze(1) * within.shape[1]).flatten())
    found = [_improved(perm, c, devices, same_group) for perm in starts]
    return max(found, key=lambda each: each[1])[0].to(pairs.device)


def _best_cycle(gain: Tensor) -> list[int]:
    """Devices along a cycle of positive gain, or nothing: Bellman and Ford's walk."""
    D = len(gain)
    best, before = torch.zeros(D, dtype=gain.dtype), torch.full((D,), -1)
    changed = -1
    for _ in range(D):
        through = best.unsqueeze(1) + gain  # [from, to]
        value, source = through.max(0)
        better = value > best + 1e-9
        if not better.any():
            return []
        best, before = torch.where(better, value, best), torch.where(better, source, before)
        changed = int(better.nonzero()[0])
    for _ in range(D):  # surely on the cycle after as many steps back
        changed = int(before[changed])
    cycle, at = [changed], int(before[changed])
    while at != changed:
        cycle.append(at)
        at = int(before[at])
    return cycle[::-1]


def schedule_tokens(hits: Tensor) -> Tensor:
    r"""Gives every device equally many tokens, so that these find most of their experts there.

    .. math:: \max \sum_t h_{t d_t}, \qquad \text{each } d \text{ taken } T/D \text{ times}

    As long as there is a cycle of devices along which one token each can move on with a gain, they
    move, which ends at the best schedule; gains below 1e-9 of the largest ``|h|`` are taken for
    rounding. Tensor-parallel attention ends in a reduce-scatter that leaves each device some
    tokens. It can leave it any tokens, so that a schedule costs no traffic of its own. It runs on
    the host.

    Args:
        hits: h, ``[T, D]`` float: experts of token t on device d, known or expected.

    Returns:
        ``[T]`` int64, the device of each token; where D does not divide T the first devices get one
        more. Of schedules that are equally good the result is one, the same on every run.

    Raises:
        TypeError: ``hits`` is not a float tensor.
        ValueError: ``hits`` is not ``[T, D]`` with a device at least, or is not finite.

    Source:
        Token shuffling: Li et al. 2025, "Speculative MoE" (arXiv:2503.04398).
    """
    _checks.tensors(("hits", hits, "[T, D]", _checks.FLOATS))
    T, D = hits.shape
    if not D:
        raise ValueError(f"hits must be [T, D] with D at least 1, got {[T, D]}")
    if not hits.isfinite().all():
        raise ValueError("hits must be finite, got NaN or an infinity")
    h = hits.double().cpu()
    if T:  # a gain is told from rounding at any scale
        h = h / h.abs().max().clamp_min(torch.finfo(h.dtype).tiny)
    room = [T // D + (d < T % D) for d in range(D)]
    device = torch.empty(T, dtype=torch.long)
    # those who lose most elsewhere choose first, which leaves few cycles to mend
    best = h.sort(1, descending=True)
    regret = best.values[:, 0] - best.values[:, min(1, D - 1)]
    for t in regret.argsort(descending=True, stable=True).tolist():
        device[t] = next(d for d in best.indices[t].tolist() if room[d])
        room[device[t]] -= 1
    while D > 1 and T:
        moved = h - h.gather(1, device.unsqueeze(1))  # [T, D]
        gain, token = torch.full((D, D), -torch.inf, dtype=h.dtype), torch.zeros(D, D).long()
        for d in range(D):
            own = (device == d).nonzero().flatten()
            if len(own):
                gain[d], place = moved[own].max(0)
                token[d] = own[place]
        gain.fill_diagonal_(-torch.inf)
        cycle = _best_cycle(gain)
        if not cycle:
            break
        steps = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        movers = [int(token[a, b]) for a, b in steps]
        for t, (_, b) in zip(movers, steps, strict=True):
            device[t] = b
    return device.to(hits.device)
