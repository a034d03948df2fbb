"""Every plan for a number of devices: the quickest, and why the others fall out."""

from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from moge_ops import _checks
from moge_ops.models.pangu_moe import PanguMoEConfig
from moge_ops.planner._cost import CHIPS, Chip
from moge_ops.planner._layout import Layout, is_top_k, layouts, problem
from moge_ops.planner._memory import (
    Memory,
    Precision,
    Work,
    inference_memory,
    training_memory,
)
from moge_ops.planner._time import Setting, Times, inference_times, training_times

KINDS = ("train", "prefill", "decode")
GB = 10**9
MOST_DEVICES, MOST_BATCH = 2**16, 2**16
MOST_NUMBERS = 8  # of ranks in a sentence


class Found(NamedTuple):
    """A plan that fits."""

    layout: Layout
    batch: int
    """Sequences of a device in a step."""
    memory: Memory
    times: Times
    rate: float
    """Modelled tokens a second of a device."""


class Plans(NamedTuple):
    """What :func:`plan` finds."""

    best: list[Found]
    """Plans that fit, the quickest first."""
    dropped: list[str]
    """A sentence for each reason why others fall out."""


class _Large(NamedTuple):
    total: int


class _Late(NamedTuple):
    seconds: float


class _Dropped:
    """Counts of plans that fall out, by reason."""

    def __init__(self, most: float, latency: float | None) -> None:
        self.most, self.latency = most, latency
        self.sizes: dict[str, Counter[int]] = {}
        self.memory: list[int] = []
        self.late: list[float] = []

    def sentences(self) -> list[str]:
        found = []
        for what, ranks in self.sizes.items():
            verb = "do" if what.endswith(("s", "heads")) else "does"
            numbers = [str(n) for n in sorted(ranks)]
            if len(numbers) > MOST_NUMBERS:
                numbers[MOST_NUMBERS - 2 : -1] = ["..."]
            over = f"not split over {', '.join(numbers)} ranks"
            found.append(f"{_plans(ranks.total())}: {what} {verb} {over}")
        if self.memory:
            sizes = [size / GB for size in self.memory]
            found.append(_beyond(sizes, self.most / GB, "need", "GB", "least"))
        if self.late and self.latency is not None:
            times = [1e3 * seconds for seconds in self.late]
            found.append(_beyond(times, 1e3 * self.latency, "take", "ms", "quickest"))
        return found


def _plans(n: int) -> str:
    return f"{n} plan{'s' * (n != 1)}"


def _beyond(values: list[float], most: float, verb: str, unit: str, name: str) -> str:
    """``5 plans need more than 64 GB: the least of them 64.04 GB``, with digits that tell them."""
    one, least = len(values) == 1, min(values)
    digits = next(d for d in range(1, 10) if d == 9 or round(least, d) > most)
    found = f"{_plans(len(values))} {verb}{'s' * one} more than {most:g} {unit}: "
    return found + ("" if one else f"the {name} of them ") + f"{least:.{digits}f} {unit}"


def _above_0(name: str, value: Any) -> None:
    """Checks a number; raises TypeError or ValueError."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def _checked_config(config: Any) -> None:
    if not isinstance(config, PanguMoEConfig):
        raise TypeError(f"config must be a PanguMoEConfig, got {type(config).__name__}")


def _checked_chip(chip: Any) -> Chip:
    """The chip, or that of the name; raises TypeError or ValueError."""
    if isinstance(chip, str):
        _checks.choice("chip", chip, tuple(CHIPS))
        return CHIPS[chip]
    if not isinstance(chip, Chip):
        kinds = f"a Chip or one of {', '.join(CHIPS)}"
        raise TypeError(f"chip must be {kinds}, got {type(chip).__name__}")
    for field in ("flops", "bytes", "node_link", "net_link", "memory"):
        _above_0(f"chip.{field}", getattr(chip, field))
    _checks.integer("chip.node", chip.node, least=1)
    return chip


def _checked_precision(precision: Any, kind: str) -> Precision:
    """The precision, or bfloat16 for None; raises TypeError or ValueError."""
    if precision is None:
        return Precision()
    if not isinstance(precision, Precision):
        raise TypeError(f"precision must be a Precision, got {type(precision).__name__}")
    for field, size in precision._asdict().items():
        _checks.integer(f"precision.{field}", size)
        if size not in (1, 2, 4, 8):
            raise ValueError(f"precision.{field} must be 1, 2, 4 or 8 bytes, got {size}")
    item, matrix = precision
    if matrix > item:
        raise ValueError(f"precision.matrix must be at most item={item}, got {matrix}")
    if kind == "train" and matrix != item:
        raise ValueError(f"precision.matrix must be item={item} to train, got {matrix}")
    return precision


def plan(
    config: PanguMoEConfig,
    devices: int,
    chip: Chip | str = "910b2",
    *,
    kind: str = "decode",
    length: int = 2048,
    batch: int | None = None,
    memory: float | None = None,
    latency: float | None = None,
    precision: Precision | None = None,
) -> Plans:
    """Finds the quickest ways to train or serve a model on some devices.

    Every way to use all devices is tried: see :class:`Layout`. Memory is counted from the shapes of
    the reference model; time is modelled as in ``make balance``, and nothing is timed. A config
    with one group is a plain top-k model: whole experts on a rank, uneven all-to-all, no split
    inside an expert.

    Args:
        config: The model; its heads that predict further tokens are left out.
        devices: Number of devices, all of them in use.
        chip: One of ``moge_ops.planner.CHIPS`` by name, or another.
        kind: ``"train"``; ``"decode"``, a token of every sequence whose context is ``length``; or
            ``"prefill"``, prompts of ``length`` tokens.
        length: Tokens of a sequence.
        batch: Sequences of a device in a step, on average. None takes 1 in training, and in
            inference the most that memory and latency allow.
        memory: Bytes of a device; None for those of the chip.
        latency: Most seconds of a step; None for any.
        precision: Bytes of numbers; None for bfloat16.

    Returns:
        The plans that fit, in order of tokens a second of a device, and reasons for the others. A
        plan whose sizes do not divide is counted under the first reason alone.

    Raises:
        TypeError: An argument, a rate of the chip or a number of bytes is of another type.
        ValueError: A number or a name is out of range; matrices have more bytes than other numbers,
            or in training fewer.

    Source:
        Tang et al. 2025, "Pangu Pro MoE" (arXiv:2505.21411), for layouts of inference; "Pangu Ultra
        MoE" (arXiv:2505.04519) chooses its plan by simulation; Zeng et al. 2021, "PanGu-alpha"
        (arXiv:2104.12369), for data, operator, pipeline and optimizer parallelism with
        rematerialisation as dimensions of one search. Their simulators are not published: the
        model here is ours.
    """
    _checked_config(config)
    chip = _checked_chip(chip)
    _checks.choice("kind", kind, KINDS)
    _checks.integer("devices", devices, least=1, most=MOST_DEVICES)
    _checks.integer("length", length, least=1, most=config.max_position_embeddings)
    if batch is not None:
        _checks.integer("batch", batch, least=1, most=MOST_BATCH)
    for name, value in (("memory", memory), ("latency", latency)):
        if value is not None:
            _above_0(name, value)
    setting = Setting(config, chip, _checked_precision(precision, kind))
    dropped = _Dropped(chip.memory if memory is None else memory, latency)
    best: list[Found] = []
    for layout in layouts(devices, training=kind == "train"):
        wrong = problem(config, layout)
        if wrong is not None:
            dropped.sizes.setdefault(wrong[0], Counter())[wrong[1]] += 1
            continue
        if kind == "train":
            best += _trained(setting, layout, length, batch or 1, dropped)
        else:
            best += _served(setting, layout, kind, length, batch, dropped)
    # of equal plans the one with the least memory first, and of these whole experts
    best.sort(key=lambda found: (-round(found.rate, 6), found.memory.total, found.layout.tp))
    return Plans(best, dropped.sentences())


def _trained(
    s: Setting, layout: Layout, length: int, batch: int, dropped: _Dropped
) -> Iterator[Found]:
    """A layout with every size of micro-batches."""
    rows = batch * layout.heads * layout.pp  # of a rank of attention in a step
    for micro in (2**i for i in range(rows.bit_length())):
        if rows % micro:
            continue
        made, m = replace(layout, micro=micro), rows // micro
        work = Work(micro, length, length)
        memory = training_memory(s.config, made, s.precision, work, m)
        if memory.total > dropped.most:
            dropped.memory.append(memory.total)
            continue
        times = training_times(s, made, work, m)
        if dropped.latency is not None and times.total > dropped.latency:
            dropped.late.append(times.total)
            continue
        yield Found(made, batch, memory, times, batch * length / times.total)


def _served(
    s: Setting, layout: Layout, kind: str, length: int, batch: int | None, dropped: _Dropped
) -> Iterator[Found]:
    """A layout with its batch, or with the largest one that fits."""
    new = length if kind == "prefill" else 1

    def attempt(tried: int) -> Found | _Late | _Large:
        work = Work(tried * layout.heads, new, length)
        made = replace(layout, micro=work.rows)
        memory = inference_memory(s.config, made, s.precision, work)
        if memory.total > dropped.most:
            return _Large(memory.total)
        times = inference_times(s, made, work)
        if dropped.latency is not None and times.total > dropped.latency:
            return _Late(times.total)
        return Found(made, tried, memory, times, tried * new / times.total)

    found = attempt(batch or 1)
    if isinstance(found, _Large):
        dropped.memory.append(found.total)
    elif isinstance(found, _Late):
        dropped.late.append(found.seconds)
    elif batch is not None:
        yield found
    else:  # memory and time grow with the batch
        most = bisect(range(2, MOST_BATCH + 1), 0, key=lambda b: not isinstance(attempt(b), Found))
        last = attempt(most + 1)
        yield last if isinstance(last, Found) else found


def top_k_twin(config: PanguMoEConfig) -> PanguMoEConfig:
    """The same model with plain top-k in place of groups; TypeError if it is no config."""
    _checked_config(config)
    return config if is_top_k(config) else replace(config, num_groups=1)
