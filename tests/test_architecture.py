"""The house rules: imports point one way, and an operator has one obvious file in every room."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moge_ops._backend import BACKENDS

ROOT = Path(__file__).resolve().parents[1]
# room -> other rooms that it may import: models -> nn -> ops -> {reference, kernels}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {
        "_interrupt",
        "nn",
        "ops",
        "placement",
        "quant",
        "statistics",
        "surgery",
        "testing",
    },
    "__main__": {"cli"},
    "cli": {
        *("models", "offload", "ops", "planner", "quant", "statistics", "surgery"),
        *("_backend", "_checks", "_extensions", "_files", "_interrupt", "_memory", "_quantized"),
    },
    "distributed": {"models", "nn", "ops", "_checks"},  # and no room may import it
    "integrations": {"models", "nn", "ops", "quant", "_checks", "_files"},
    "models": {"nn", "ops", "quant", "_checks", "_files"},
    "nn": {"ops", "_checks", "_frozen", "_null", "_pooled"},
    "offload": {"models", "nn", "ops", "quant", "_backend", "_checks", "_quantized"},
    "placement": {"_checks"},
    "planner": {"models", "ops", "_checks"},
    "statistics": {"nn", "ops", "_checks", "_first_router", "_null", "_statistics_file"},
    "surgery": {"models", "nn", "_checks", "_first_router"},
    "testing": {"_backend", "_memory"},
    "ops": {"reference", "_backend", "_checks", "_quantized"},
    "quant": {"nn", "ops", "_checks", "_files", "_null", "_quantized"},
    "reference": {"_quantized"},
    "torch_kernels": {"_quantized"},
    "triton_kernels": set(),
    "cpu_kernels": {"_cpu", "_quantized"},
    "ascend": {"_C", "_checks", "_quantized"},
    "_C": set(),
    "_cpu": set(),
    "_backend": {"_checks", "_extensions", "_flops"},  # loads kernels by name, when first used
    "_checks": set(),
    "_pooled": {"ops", "_quantized"},
    "_quantized": {"_checks"},
    "_extensions": {"_cpu"},
    "_files": set(),
    "_frozen": {"_quantized"},
    "_first_router": {"nn", "ops"},
    "_flops": set(),
    "_interrupt": set(),
    "_memory": set(),
    "_null": {"ops"},
    "_statistics_file": {"_files"},
}
# other projects' packages, besides torch
MAY_USE = {
    "triton_kernels": {"triton"},
    "cli": {"rich"},
    "quant": {"safetensors"},
    "models": {"safetensors", "sentencepiece", "tokenizers"},
    "integrations": {"sglang", "transformers", "vllm", "xtuner"},
}
SUBPACKAGES = {"triton_kernels": "triton_kernels"}  # folders at the root, see setup.py
PLACES = [
    "moge_ops/ops/{}.py",
    *(f"{SUBPACKAGES.get(b.package, 'moge_ops/' + b.package)}/{{}}.py" for b in BACKENDS.values()),
    "ascend_kernels/{0}/{0}_kernel.h",
    "ascend_kernels/{0}/{0}_tiling.h",
    "ascend_kernels/{0}/{0}.cpp",
    "csrc/{}.cpp",
    "tests/test_{}.py",
    "bench/ops/bench_{}.py",
]
OPS = sorted(
    {p.stem for room in ("ops", "reference") for p in (ROOT / "moge_ops" / room).glob("[!_]*.py")}
)
SOURCES = [*(ROOT / "moge_ops").rglob("*.py"), *(ROOT / "triton_kernels").rglob("*.py")]
OTHERS = [
    *(ROOT / "tests").rglob("*.py"),
    *(ROOT / "bench").rglob("*.py"),
    *(ROOT / "examples").rglob("*.py"),
]
BENCH = {path.stem for path in (ROOT / "bench").rglob("*.py")}  # they import each other
DOOR = ROOT / "examples" / "bench_ops.py"  # the one file through which examples use them


def imports(path: Path, package: str = "") -> Iterator[str]:
    """Full names of what a file imports, wherever in it; relative ones are resolved."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "moge_ops" else ("moge_ops", *parts)
    room = parts[1]
    rooms, packages = set(), set()
    for name in imports(path, ".".join(parts[:-1])):
        top, _, rest = name.partition(".")
        if top == "moge_ops":  # a name that is no room comes out of moge_ops/__init__.py
            first = rest.partition(".")[0]
            rooms.add(first if first in MAY_IMPORT else "__init__")
        elif top not in sys.stdlib_module_names:
            packages.add(top)
    assert rooms <= MAY_IMPORT[room] | {room}
    assert packages <= MAY_USE.get(room, set()) | {"torch"}


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_imports_tests_or_benchmarks(path: Path) -> None:
    own = BENCH if path == DOOR or path.is_relative_to(ROOT / "bench") else set()
    forbidden = {"tests", "bench", "conftest"} | (BENCH - own)
    assert not {name.partition(".")[0] for name in imports(path)} & forbidden


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("place", PLACES)
def test_an_operator_has_its_file_in_every_room(op: str, place: str) -> None:
    assert (ROOT / place.format(op)).is_file()


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "ascend_kernels").rglob("*.h"), *(ROOT / "ascend_kernels").rglob("*.cpp")],
    ids=lambda path: path.name,
)
def test_device_code_includes_the_one_header_and_its_own_folder(path: Path) -> None:
    included = re.findall(r'#include [<"](.+)[">]', path.read_text())
    for name in included:
        own = (path.parent / name).resolve()
        assert name in {"kernel_operator.h", "cstdint"} or own.is_relative_to(
            ROOT / "ascend_kernels"
        )


def test_no_two_operators_define_one_name_on_the_device() -> None:
    """All are linked into one extension, where one of two like functions would serve both."""
    name = re.compile(
        r"^(?:class|struct|enum class) (\w+)|"
        r"^(?! |#|//|namespace|using|template|class|struct|enum|static_assert)"
        r"[\w:<>&*, ]+?\b(\w+)\(",
        re.MULTILINE,
    )
    owners: dict[str, set[str]] = {}
    for path in (ROOT / "ascend_kernels").rglob("*.h"):
        for match in name.finditer(path.read_text()):
            owners.setdefault(match[1] or match[2], set()).add(path.parent.name)
    assert len(owners) > 50
    assert not {name: folders for name, folders in owners.items() if len(folders) > 1}
