"""What the headers of a quantised folder say, compared with its config before anything is read."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moge_ops._quantized import STORED, QuantizedWeight, check
from moge_ops.quant._layouts import Layout
from moge_ops.quant._problems import MOST_SHOWN, check_matrix, complain, suffix
from moge_ops.quant._recognise import Chooser, description, quantization_config, recognise
from moge_ops.quant._shards import Files, Header, headers, opened, weight_files

__all__ = [
    "MOST_SHOWN",
    "Layer",
    "Place",
    "Plan",
    "Weight",
    "all_files",
    "check_matrix",
    "complain",
    "is_quantized",
    "plan",
]

# of one expert, and of all of them
OF_ONE = re.compile(
    r"(?P<path>.+\.experts)\.(?P<expert>0|[1-9]\d{0,8})\."
    r"(?P<matrix>gate_proj|up_proj|down_proj|w1|w3|w2)\.(?P<part>\w+)"
)
OF_ALL = re.compile(r"(?P<path>.+\.experts)\.(?P<matrix>gate_up_proj|down_proj)(?P<part>\w*)")
# which weight a matrix is part of, and which half of it
MATRICES = {
    **dict.fromkeys(("gate_proj", "w1"), ("up", 0)),
    **dict.fromkeys(("up_proj", "w3"), ("up", 1)),
    **dict.fromkeys(("down_proj", "w2"), ("down", 0)),
    "gate_up_proj": ("up", 0),
}
Sizes = tuple[int, int, int]  # E, F, H


class _LayerError(Exception):
    """A layer has problems, which are in the list of them."""


class Place(NamedTuple):
    """Where a tensor of the files goes."""

    path: str  # module of the experts
    weight: str  # "up" | "down"
    half: int
    expert: int | None  # None: of all of them
    part: str


class Weight(NamedTuple):
    """A stacked weight that will be read."""

    layout: Layout
    sizes: Sizes  # E, O, I
    halves: int  # matrices that lie stacked along O, each with a layout of its own
    scale_dtype: torch.dtype

    def empty(self, device: torch.device | str) -> QuantizedWeight:
        """Allocates it."""
        layout, (E, O, I) = self.layout, self.sizes
        spec = STORED[layout.scheme]
        data = torch.empty(E, O, I // spec.values, dtype=spec.dtype, device=device)
        rows = self.halves * layout.scale_rows(O // self.halves)
        shape = (E, rows, layout.groups(I))
        scale = torch.empty(shape, dtype=self.scale_dtype, device=device)
        zero = torch.empty(shape, dtype=torch.int8, device=device) if layout.has_zero else None
        return QuantizedWeight(data, scale, zero, layout.scheme, layout.group_size)


class Layer(NamedTuple):
    """The experts of one layer."""

    up: Weight
    down: Weight


@dataclass
class Plan:
    """What a folder's headers say.

    Attributes:
        folder, files: Where the tensors are.
        choose: The layout of a matrix by its module's name.
        layers: By the path of their modules.
        places: Of the experts' tensors.
        headers: Of all tensors.
    """

    folder: Path
    files: Files
    choose: Chooser
    headers: dict[str, Header]
    layers: dict[str, Layer] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def tensors(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor, str]]:
        """Name, tensor, and name with its file, of the tensors that are wanted, file by file.

        Raises:
            ValueError: Somebody changed the files since the plan was made.
        """
        of_file = defaultdict[Path, set[str]](set)
        for name, header in self.headers.items():
            if wanted(name):
                of_file[header.file].add(name)
        for file, names in of_file.items():
            with opened(file) as shard:
                for name in shard.keys():  # noqa: SIM118 - an opened file is no mapping
                    if name not in names:
                        continue
                    names.remove(name)
                    header = shard.get_slice(name)
                    now = Header(file, header.get_dtype(), header.get_shape())
                    if now != self.headers[name]:
                        raise ValueError(f"{file} was changed while it was read: {name:.200}")
                    yield name, shard.get_tensor(name), f"{name:.200} in {file}"
            if names:
                raise ValueError(f"{file} was changed while it was read: {min(names):.200}")


def is_quantized(folder: Path, config: Mapping[str, object]) -> bool:
    """Whether a folder says that its weights are quantised, in any way."""
    return quantization_config(config) is not None or description(folder) is not None


def all_files(folder: Path) -> Files:
    """The weight files, which msmodelslim gives names of its own; raises as :func:`plan`."""
    if description(folder) is not None:
        theirs = re.compile(r"(quant_model_weights?\w*\.safetensors)(\.index\.json)?")
        names = [path.name for path in folder.glob("quant_model_weight*.safetensors*")]
        singles = {m[1] for name in names if (m := theirs.fullmatch(name))}
        if len(singles) == 1:
            return weight_files(folder, singles.pop())
    return weight_files(folder)


def plan(folder: Path, expected: Mapping[str, Sizes] | None = None) -> Plan:
    """Reads and checks all headers; nothing of the weights is read or allocated.

    Args:
        folder: As in :func:`moge_ops.quant.read_experts`.
        expected: E, F and H of every layer, by the path of its experts; by default whatever the
            files have.

    Raises:
        FileNotFoundError, ValueError: As :func:`moge_ops.quant.read_experts`.
    """
    files = all_files(folder)
    found, problems = dict[str, Header](), list[str]()
    for name, header in headers(files):
        listed = files[header.file]
        if name in found or (listed is not None and name not in listed):
            where = f"{name:.200} in {header.file.name}"
            problems.append(f"unexpected: {where}, where the index does not have it")
        else:
            found[name] = header
    for file, listed in files.items():
        for name in sorted((listed or set()) - found.keys()):
            where = f"{name:.200} in {file.name}"
            problems.append(f"missing: {where}, where the index has it")
    made = Plan(folder, files, recognise(folder, found), found)
    layers = defaultdict[str, dict[tuple[str, int | None], dict[str, tuple[str, Header]]]](
        lambda: defaultdict(dict)
    )
    for name, header in found.items():
        if m := OF_ONE.fullmatch(name):
            matrix, expert, part = m["matrix"], int(m["expert"]), m["part"]
        elif m := OF_ALL.fullmatch(name):
            matrix, expert, part = m["matrix"], None, m["part"].removeprefix("_")
            if part in ("bias", "proj"):
                continue
            part = f"weight_{part}" if part.startswith("scale_") else part or "weight"
        else:
            continue
        if part == "bias":
            continue
        layers[m["path"]][matrix, expert][part] = name, header
        which, half = MATRICES[matrix]
        made.places[name] = Place(m["path"], which, half, expert, part)
    if expected is not None:
        for path in layers.keys() - expected.keys():
            problems.append(f"unexpected: experts of {path:.200}")
        problems += [f"missing: experts of {path}" for path in expected if path not in layers]
        layers = {path: layers[path] for path in expected if path in layers}  # type: ignore[assignment]
    for path, matrices in layers.items():
        try:
            sizes = None if expected is None else expected[path]
            made.layers[path] = _layer(made, path, matrices, sizes, problems)
        except _LayerError:
            continue
    complain(folder, problems)
    if not made.layers:
        raise ValueError(f"{folder} must have tensors of experts, got {len(found)} others")
    for path, layer in made.layers.items():
        for which, weight in zip(("w_gate_up", "w_down"), layer, strict=True):
            try:
                check(f"{path}: {which}", weight.empty("meta"))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{folder}: {error}") from None
    return made


def _layer(
    made: Plan,
    path: str,
    matrices: Mapping[tuple[str, int | None], Mapping[str, tuple[str, Header]]],
    sizes: Sizes | None,
    problems: list[str],
) -> Layer:
    """One layer; adds to ``problems``, and raises _LayerError if there are any."""
    before = len(problems)
    stacked = {expert is None for _, expert in matrices}
    if len(stacked) > 1:
        problems.append(f"unexpected: {path} has tensors of one expert and of all")
        raise _LayerError
    (all_in_one,) = stacked
    names = ("gate_up_proj", "down_proj") if all_in_one else _spelling(matrices)

    def module(matrix: str, expert: int | None) -> str:
        return f"{path}.{matrix}" if expert is None else f"{path}.{expert}.{matrix}"

    layouts: dict[str, Layout] = {}
    first = None if all_in_one else 0
    for matrix in names:
        layout = made.choose(module(matrix, first))
        if layout is None:
            problems.append(f"not quantised: {module(matrix, first)}, as the config has it")
            raise _LayerError
        layouts[matrix] = layout
    if sizes is None:
        sizes = _sizes(layouts[names[0]], module(names[0], first), matrices, names[0], problems)
    E, F, H = sizes
    if E < 1:
        problems.append(f"misshapen: {path} must have experts, got none")
        raise _LayerError
    count = len({expert for _, expert in matrices})
    if not all_in_one and count < E / 2:  # too many to name each
        problems.append(f"missing: {path} must have {E} experts, got {count}")
        raise _LayerError
    if not all_in_one and layouts[names[0]] != layouts[names[1]]:
        problems.append(f"not read: {module(names[0], 0)} and {names[1]} have different formats")
        raise _LayerError
    shapes = dict(zip(names, ((2 * F, H), (H, F)) if all_in_one else ((F, H), (F, H), (H, F)),
                      strict=True))  # fmt: skip
    codes = defaultdict[str, set[str]](set)
    for matrix, (O, I) in shapes.items():
        layout = layouts[matrix]
        for expert in [None] if all_in_one else range(E):
            at = module(matrix, expert)
            if expert and made.choose(at) != layout:
                problems.append(f"not read: {at} has another format than expert 0")
                continue
            tensors = matrices.get((matrix, expert), {})
            problems.extend(check_matrix(layout, at, tensors, O, I, [E] if all_in_one else []))
            if layout.scale in tensors:
                name, header = tensors[layout.scale]
                kinds = codes["down" if matrix == names[-1] else "up"]
                if kinds and header.code not in kinds:
                    where = f"{name:.200} in {header.file.name}"
                    problems.append(
                        f"wrong dtype: {where} must be {min(kinds)}, as others are, "
                        f"got {header.code}"
                    )
                kinds.add(header.code)
    for (matrix, expert), tensors in matrices.items():
        if matrix not in names or (expert is not None and expert >= E):
            problems += [f"unexpected: {n:.200} in {h.file.name}" for n, h in tensors.values()]
    if len(problems) > before:
        raise _LayerError
    up, down = layouts[names[0]], layouts[names[-1]]
    weights = (
        Weight(up, (E, 2 * F, H), len(names) - 1, up.scale_dtype(min(codes["up"]))),
        # rows take turns in gate_up_proj only
        Weight(
            replace(down, interleaved=False), (E, H, F), 1, down.scale_dtype(min(codes["down"]))
        ),
    )
    return Layer(*weights)


def _spelling(matrices: Iterable[tuple[str, int | None]]) -> tuple[str, ...]:
    mixtral = any(matrix in ("w1", "w2", "w3") for matrix, _ in matrices)
    return ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")


def _sizes(
    layout: Layout,
    module: str,
    matrices: Mapping[tuple[str, int | None], Mapping[str, tuple[str, Header]]],
    matrix: str,
    problems: list[str],
) -> Sizes:
    """E, F and H, by the main tensor of the first matrix."""
    indices = [expert for _, expert in matrices if expert is not None]
    found = matrices.get((matrix, 0 if indices else None), {}).get(layout.main)
    if found is None:
        joint = f".{layout.main}" if indices else suffix(layout.main)
        problems.append(f"missing: {module}{joint}")
        raise _LayerError
    name, header = found
    dimensions = len(layout.parts()[layout.main].shapes(1, 1)[0]) + (not indices)
    if len(header.shape) != dimensions:
        where = f"{name:.200} in {header.file.name}"
        problems.append(f"misshapen: {where} must have {dimensions} dimensions, got {header.shape}")
        raise _LayerError
    if indices:
        O, I = layout.sizes(header.shape)
        return max(indices) + 1, O, I
    O, I = layout.sizes(header.shape[1:])
    return header.shape[0], O // 2, I
