"""What is wrong with the tensors of a folder, all of it in one message."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from moge_ops.quant._layouts import Layout
from moge_ops.quant._shards import Header

__all__ = ["MOST_SHOWN", "check_matrix", "complain", "suffix"]

MOST_SHOWN = 20  # problems in one message; a folder of another model has thousands


def check_matrix(
    layout: Layout,
    module: str,
    tensors: Mapping[str, tuple[str, Header]],
    O: int,
    I: int,
    lead: list[int],
) -> Iterator[str]:
    """What is wrong with the tensors of one matrix ``[O, I]``, each by its part's name.

    ``lead`` is ``[E]`` where the matrices of all experts are one tensor.
    """
    parts = layout.parts()
    joint = "" if lead else "."
    for part, spec in parts.items():
        if part not in tensors:
            if not spec.optional:
                yield f"missing: {module}{joint}{suffix(part) if lead else part}"
            continue
        name, header = tensors[part]
        where = f"{name:.200} in {header.file.name}"
        if header.code not in spec.codes:
            yield f"wrong dtype: {where} must be {' | '.join(spec.codes)}, got {header.code}"
        shapes = [lead + shape for shape in spec.shapes(O, I)]
        if header.shape not in shapes:
            yield f"misshapen: {where} must be {shapes[0]}, got {header.shape}"
    for part in tensors.keys() - parts.keys():
        name, header = tensors[part]
        yield f"unexpected: {name:.200} in {header.file.name}"
    for size, letter, multiple in zip((O, I), "OI", layout.multiples(), strict=True):
        if size < 1 or size % multiple:
            of = f" (group_size={layout.group_size})" if letter == "I" and layout.group_size else ""
            yield f"misshapen: {module}: {letter}={size} must be a multiple of {multiple}{of}"


def suffix(part: str) -> str:
    """How a part of a stacked tensor's name ends: gate_up_proj, gate_up_proj_scale_inv."""
    return part.removeprefix("weight") if part.startswith("weight") else f"_{part}"


def complain(folder: Path, problems: list[str]) -> None:
    """Raises ValueError with all problems of a folder, if there are any."""
    if problems:
        more = len(problems) - MOST_SHOWN
        lines = [*problems[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError("\n  ".join([f"{folder} does not fit its config.json:", *lines]))
