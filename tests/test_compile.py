"""Every Triton kernel builds for four GPUs, none of which is needed, and fits them.

bench/static/cross_compile.py compiles what the launchers would launch; its rows also become
bench/results/resources.csv. Nothing here runs a kernel.
"""

import ast
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "bench" / "results" / "resources.csv"
COLUMNS = [
    "triton",
    "kernel",
    "target",
    "dtype",
    "layers",  # name/T
    "config",
    "registers",  # a thread
    "local_bytes",  # a thread: what spilled
    "shared_bytes",  # a block
    "matrix",  # instruction of its products
]
# shared memory that one block may ask for, in bytes (CUDA programming guide, table of technical
# specifications per compute capability; AMD CDNA 3 ISA, LDS)
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
TARGETS = sorted(SHARED)
LAYERS = ["pangu", "intern", "odd"]
BUILDS = {"bf16": LAYERS, "fp16": ["pangu"], "fp32": ["pangu", "odd"]}
FEWER = {"bf16": ["pangu", "odd"], "fp32": ["odd"]}  # on the chips beside sm_90
KERNELS = sorted(
    node.name
    for path in (ROOT / "triton_kernels").glob("*.py")
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
)
# in the rows of quantised layers, and of other activations
OTHERS = {
    "_quantize_rows_kernel",
    "_bias_gradient_kernel",
    "_bias_dot_kernel",
    "_d_series_kernel",
}
# one worker of pytest-xdist compiles for all of these tests
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compile")]
Row = dict[str, Any]


@pytest.fixture(scope="session")
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Row]:
    """Per target: rows, failures and Triton's version; of those that a test's name has, and sm_90.

    A target takes minutes: `make test-oldest` leaves three of them out.
    """
    pytest.importorskip("triton")
    tests = [item.name for item in request.session.items]
    targets = [t for t in TARGETS if t == "sm_90" or any(t in test for test in tests)]
    folder = tmp_path_factory.mktemp("compile")

    def build(target: str) -> Row:
        script, out = ROOT / "bench" / "static" / "cross_compile.py", folder / target
        done = subprocess.run(
            [sys.executable, script, target, out],
            env=os.environ | {"TRITON_INTERPRET": "0"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{target}: {done.stderr[-4000:]}"
        result: Row = json.loads(out.read_text())
        return result

    with ThreadPoolExecutor(max_workers=2) as pool:
        results = dict(zip(targets, pool.map(build, targets), strict=True))
    if not any(result["failures"] for result in results.values()):
        write_table(results)
    return results


def write_table(results: dict[str, Row]) -> None:
    """Replaces the rows of this version of Triton and these targets."""
    version = results["sm_90"]["triton"]
    layers = defaultdict(set)
    for target, result in results.items():
        for row in result["rows"]:
            figures = tuple(str(row[column]) for column in COLUMNS[5:])
            for dtype, layer, T in row["uses"]:
                layers[(version, row["kernel"], target, dtype, *figures)].add((layer, T))
    lines = [
        [*key[:4], " ".join(f"{layer}/{T}" for layer, T in sorted(uses)), *key[4:]]
        for key, uses in layers.items()
    ]
    if TABLE.exists():
        with TABLE.open(newline="") as file:
            kept = list(csv.reader(file))[1:]
        lines += [line for line in kept if line[0] != version or line[2] not in results]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *sorted(lines)])
    TABLE.write_text(text.getvalue())


def rows_for(result: Row, dtypes: list[str], layers: list[str]) -> list[Row]:
    return [
        row
        for row in result["rows"]
        if any(dtype in dtypes and layer in layers for dtype, layer, _ in row["uses"])
    ]


def names(rows: list[Row]) -> list[str]:
    """What a failed assertion shows of the rows."""
    return [f"{row['kernel']} {row['config']} {row['uses']}" for row in rows]


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_builds(target: str, built: dict[str, Row]) -> None:
    assert not built[target]["failures"], "\n\n".join(
        f"{target}, {what}:\n{why}" for what, why in built[target]["failures"].items()
    )


@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_is_forgotten(target: str, built: dict[str, Row]) -> None:
    built_for = {
        (row["kernel"], dtype, layer)
        for row in built[target]["rows"]
        for dtype, layer, _ in row["uses"]
        if layer in LAYERS
    }
    builds = BUILDS if target == "sm_90" else FEWER
    wanted = {
        (k, dtype, layer) for k in KERNELS for dtype, layers in builds.items() for layer in layers
    }
    for kernel, dtype, layer in list(wanted):
        # on Hopper only, through descriptors of 16-bit operands: "odd" is not aligned
        takes = target == "sm_90" and dtype != "fp32" and layer != "odd"
        specialized = kernel == "_grouped_gemm_specialized_kernel"
        if (specialized and not takes) or kernel in OTHERS:
            wanted.remove((kernel, dtype, layer))
    assert built_for == wanted
    assert {row["kernel"] for row in built[target]["rows"]} >= OTHERS


VARIANTS = ("gpt-oss", "geglu", "relu2", "series")
# bytes a thread that may spill at the most rows per expert: a record, not a goal
MOST_SPILLED = 256


@pytest.mark.parametrize("target", TARGETS)
def test_variants_of_the_activation_build_and_spill_little(
    target: str, built: dict[str, Row]
) -> None:
    """The products of SwiGLU, which the other tests hold to no spills, have the same tiles."""
    for layer in ("pangu", "odd") if target == "sm_90" else ("odd",):
        for variant in VARIANTS:
            rows = rows_for(built[target], ["bf16"], [f"{layer}-{variant}"])
            assert {row["kernel"] for row in rows} >= {
                "_grouped_mlp_up_kernel",
                "_grouped_mlp_down_bwd_kernel",
            }
            assert not names([row for row in rows if row["local_bytes"] > MOST_SPILLED])


@pytest.mark.parametrize("target", TARGETS)
def test_shared_memory_fits_the_chip(target: str, built: dict[str, Row]) -> None:
    rows = built[target]["rows"]
    assert not names([row for row in rows if row["shared_bytes"] > SHARED[target]])


@pytest.mark.parametrize("dtype", BUILDS)
def test_nothing_spills_at_the_sizes_of_pangu(dtype: str, built: dict[str, Row]) -> None:
    rows = rows_for(built["sm_90"], [dtype], ["pangu"])
    assert rows
    assert not names([row for row in rows if row["local_bytes"]])


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_no_product_of_16_bits_spills(target: str, built: dict[str, Row]) -> None:
    products = [r for r in rows_for(built[target], ["bf16", "fp16"], LAYERS) if r["matrix"]]
    assert products
    assert not names([row for row in products if row["local_bytes"]])


@pytest.mark.parametrize("target", TARGETS)
def test_products_of_16_bits_run_on_the_matrix_unit(target: str, built: dict[str, Row]) -> None:
    """In IEEE float32 only gfx942 has one: elsewhere the general cores multiply."""
    products = [r for r in rows_for(built[target], ["bf16", "fp16"], LAYERS) if r["matrix"]]
    assert products
    assert not names([row for row in products if row["matrix"] == "fma"])


@pytest.mark.parametrize(
    ("layer", "dtype"), [("pangu", "bf16"), ("pangu", "fp16"), ("intern", "bf16")]
)
def test_hopper_products_use_wgmma(layer: str, dtype: str, built: dict[str, Row]) -> None:
    """At the most rows per expert; tiles of fewer than 64 rows are too small for it."""
    rows = [row for row in rows_for(built["sm_90"], [dtype], [layer]) if row["matrix"]]
    largest = max(T for row in rows for _, name, T in row["uses"] if name == layer)
    rows = [row for row in rows if [dtype, layer, largest] in row["uses"]]
    assert rows
    assert not names([row for row in rows if row["matrix"] != "wgmma"])


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("experts", [8, 1024])
@pytest.mark.parametrize("T", [1, 131072])
def test_the_gate_is_one_launch_that_does_not_spill(
    T: int, experts: int, target: str, built: dict[str, Row]
) -> None:
    rows = [r for r in built[target]["rows"] if ["bf16", f"gate-{experts}", T] in r["uses"]]
    kernels = sorted(row["kernel"] for row in rows)
    assert kernels == ["_grouped_gate_bwd_kernel", "_grouped_gate_fwd_kernel"]
    assert not names([row for row in rows if row["local_bytes"]])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("experts", [64, 512])
def test_a_given_choice_is_one_launch_that_does_not_spill(
    experts: int, target: str, built: dict[str, Row]
) -> None:
    rows = [r for r in built[target]["rows"] if ["bf16", f"replay-{experts}", 4096] in r["uses"]]
    kernels = sorted(row["kernel"] for row in rows)
    assert kernels == ["_grouped_gate_bwd_kernel", "_grouped_gate_fwd_kernel"]
    assert not names([row for row in rows if row["local_bytes"]])


# what a quantised layer launches
QUANTIZED = {
    "_quantize_rows_kernel",
    "_grouped_mlp_up_kernel",
    "_grouped_gemm_kernel",
    "_grouped_mlp_down_bwd_kernel",
}


@pytest.mark.parametrize("target", TARGETS)
def test_quantised_products_run_on_the_matrix_unit_without_spills(
    target: str, built: dict[str, Row]
) -> None:
    """int8_w8a8 multiplies integers there; the other schemes have been decoded to 16 bits."""
    rows = [
        row
        for row in built[target]["rows"]
        if any(re.search(r"_w\da\d+$", layer) for _, layer, _ in row["uses"])
    ]
    wanted = QUANTIZED if target == "sm_90" else QUANTIZED - {"_grouped_mlp_down_bwd_kernel"}
    assert {row["kernel"] for row in rows} == wanted
    assert not names([row for row in rows if row["local_bytes"]])
    unit = {"sm_80": "mma", "sm_90": "wgmma", "sm_100": "tcgen05", "gfx942": "mfma"}[target]
    for row in rows:
        layers = {layer for _, layer, _ in row["uses"]}
        # without descriptors few rows are not swapped, and too few for WGMMA
        instruction = "mma" if target == "sm_90" and "odd-int8_w8a8" in layers else unit
        if row["kernel"] != "_quantize_rows_kernel":
            integers = any(layer.endswith("int8_w8a8") for layer in layers)
            assert row["matrix"] == instruction + " int8" * integers, names([row])


GATE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import cross_compile as c
c.triton.runtime.driver.set_active(c.Driver(c.TARGETS["sm_90"]))
collector = c.Collector()
c.JITFunction.run = lambda fn, *args, **kwargs: collector.launch(fn, *args, **kwargs)
c.launch_gate(8, 131072)
assert not collector.failures, collector.failures
asm = {row["kernel"]: binary.asm for binary, row in collector.binaries.values()}
print(json.dumps({name: a["ttir"] for name, a in asm.items()}))
"""


@pytest.fixture(scope="session")
def gate() -> dict[str, str]:
    """TTIR of the gate's kernels with many programs, on sm_90."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", GATE, str(ROOT / "bench" / "static")],
        env=os.environ | {"TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_of_equal_scores_the_first_is_taken(gate: dict[str, str]) -> None:
    """The interpreter takes the first in any case: here it is the compiled comparison."""
    ttir = gate["_grouped_gate_fwd_kernel"]
    reductions = re.findall(r'"tt.reduce"\((%\S+, %\S+)\)(.*?)tt.reduce.return', ttir, re.DOTALL)
    assert reductions, "no argmax"
    for _, combine in reductions:
        assert re.search(r"arith.cmp[fi] (oeq|eq),", combine), combine


def test_all_threads_have_published_before_the_ticket(gate: dict[str, str]) -> None:
    """In TTIR: Triton 3.9 puts a barrier of its own before the atomic, which nothing promises."""
    for name, ttir in gate.items():
        before, atomic, _ = ttir.partition("tt.atomic_rmw add, acq_rel")
        assert atomic, f"{name} takes no ticket"
        _, stored, between = before.rpartition("tt.store")
        assert stored, f"{name} publishes nothing"
        assert re.search(r"\b(ttg|gpu)\.barrier\b", between), f"{name}: no barrier"


@pytest.mark.parametrize("target", TARGETS)
def test_addresses_are_made_in_64_bits(target: str, built: dict[str, Row]) -> None:
    """So that more than 2^31 elements work; shown on the addresses, without allocating them."""
    narrow = {row["kernel"]: row["narrow"] for row in built[target]["rows"] if row["narrow"]}
    assert not narrow
