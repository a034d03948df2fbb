"""What triton-ascend plans for every Triton kernel on an Ascend 910B3, without one.

The launchers run on meta tensors, through their pointer paths. Each launch becomes Triton's IR in
triton-ascend's own frontend, which is that of Triton 3.2. What this one refuses becomes IR in the
newest Triton, of another environment (`--newest`). From there on everything is triton-ascend's: its
adapter lowers to Linalg, bishengir-compile to HIVM, and plans the memories of a core. The last
step, hivmc, is closed and absent. So "planned" means that nothing but hivmc was missing: no kernel
was assembled, linked, run or measured.

It writes results/triton_ascend.csv, or compares with it (`--check`). Columns that need a word:
    tiles         npu: those below; gpu: those that our launchers choose for an A100
    T             tokens of the first launch that needs this binary
    frontend      which Triton has read the kernel
    stage         where it ended: frontend, linalg (the adapter), hivm, or hivmc
    *_bytes       end of the highest buffer in the memory of a vector core (UB) or a cube core (L1,
                  L0C); L0A and L0B are left to hivmc
    element_wise  elements of a tile that the adapter loads or stores one at a time
    rewritten     masked stores that it makes by reading a block, changing it and writing all of it
                  back, without a lock: what another program stores there meanwhile is lost
Rows without tiles are kernels of one construct each, see triton_constructs.py.
"""

import triton_3_2  # isort: skip - before our kernels, whose imports it completes

import argparse
import contextlib
import csv
import difflib
import importlib.metadata
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from cross_compile import (
    DTYPES,
    LAYERS,
    SPECIALIZED,
    VARIANTS,
    Driver,
    launch_all,
    launch_variant,
)
from moge_ops.triton_kernels import (
    _configs,
    _product,
    _quantized,
    _specialized,
    _weight_gradient,
    grouped_gate,
    grouped_gemm,
    grouped_mlp,
    load_balance_loss,
    route,
)
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction
from triton_constructs import CONSTRUCTS

RESULTS = Path(__file__).resolve().parents[1] / "results" / "triton_ascend.csv"
DEVICE = "Ascend910B3"
OF_ASCEND = triton_3_2.IS_IT
COLUMNS = [
    *("kernel", "dtype", "tiles", "T", "configuration", "frontend", "result", "stage"),
    *("ub_bytes", "l1_bytes", "l0c_bytes", "element_wise", "rewritten", "reason"),
    *("triton_ascend", "ascendnpu_ir", "device"),
]
SCOPES = {"ub": "ub_bytes", "cbuf": "l1_bytes", "cc": "l0c_bytes"}


SUMS_OF_VARIANTS = {"_bias_gradient_kernel", "_bias_dot_kernel", "_d_series_kernel"}
# any chip whose launchers take the pointer paths does for Triton's own IR
TARGET = GPUTarget("npu", DEVICE, 0) if OF_ASCEND else GPUTarget("cuda", 80, 32)


class Case(NamedTuple):
    """One launch of everything."""

    dtype: str
    tiles: str
    T: int


# with 8 tokens the routing takes one program, and has nothing to sum over programs
CASES = (
    *(Case("bf16", "npu", 8), Case("bf16", "npu", 4096), Case("fp32", "npu", 4096)),
    Case("bf16", "gpu", 4096),
)
# block_m, block_c, block_r: the first tried on 2026-11-29 that were planned; none is tuned. The
# epilogues of up and down_bwd, on the vector cores, fill UB
TILES = {
    "bf16": {"gemm": (128, 256, 64), "up": (16, 64, 64), "dw": (64, 128, 64)},
    "fp32": {"gemm": (128, 128, 64), "up": (16, 32, 64), "dw": (64, 64, 64)},
}
# arguments that say nothing where no weight is quantised, as here
OF_QUANTIZED = {
    *("x_scale_ptr", "row_scale_ptr", "act_scale_ptr", "scale_ptr", "zero_ptr"),
    *("scale_rows", "groups", "rows_per_scale", "FORMAT"),
}
LIKE = {"down_bwd": "up", "dw_gathered": "dw"}
STEPS = {grouped_gate: 512, load_balance_loss: 512, route: 1024}  # TILE of these modules


@contextlib.contextmanager
def tiles_of(case: Case) -> Iterator[None]:
    """Makes the launchers choose the tiles of this case."""

    def find_config(kernel: str, *args: Any, **kwargs: Any) -> _configs.Config:
        tile = TILES[case.dtype][LIKE.get(kernel, kernel)]
        return _configs.Config(*tile, num_warps=4, num_stages=1)

    def find_gpu_config(*args: Any, **kwargs: Any) -> _configs.Config:
        with mock.patch.object(_configs, "device_class", return_value="ampere"):
            return _configs.find_config(*args, **kwargs)

    chosen = find_config if case.tiles == "npu" else find_gpu_config
    with contextlib.ExitStack() as stack:
        for module in (grouped_gemm, grouped_mlp, _weight_gradient):
            stack.enter_context(mock.patch.object(module, "find_config", chosen))
        for module, step in STEPS.items() if case.tiles == "npu" else ():
            stack.enter_context(mock.patch.object(module, "TILE", step))
        yield


def launch_specialized() -> None:
    """The kernel that no launcher takes without descriptors: it makes them itself."""
    s = LAYERS["pangu"]

    def new(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    _specialized._grouped_gemm_specialized_kernel[(1,)](
        rows_ptr=new(4096, s.H),
        w_ptr=new(s.E, s.F, s.H),
        offsets_ptr=new(s.E + 1, dtype=torch.int32),
        row_tiles_ptr=new(4, dtype=torch.int32),
        out_ptr=new(4096, s.F),
        stride_rows_n=s.H,
        stride_w_e=s.F * s.H,
        stride_w_row=s.H,
        N=4096,
        C=s.F,
        R=s.H,
        E=s.E,
        R_LAST=True,
        DOT=_product.dot(torch.bfloat16),
        BLOCK_M=SPECIALIZED.block_m,
        BLOCK_C=SPECIALIZED.block_c,
        BLOCK_R=SPECIALIZED.block_r,
    )


def innermost(error: BaseException) -> str:
    """What the frontend says about the construct itself, in one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return " ".join(str(error).split()).partition(" from within @jit'ed")[0]


class Emitter:
    """Stops each launch at Triton's IR."""

    run = JITFunction.run

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.case = CASES[0]

    def launch(self, fn: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        names = [p.name for p in fn.params]
        if OF_ASCEND:  # an NPU has neither warps nor stages
            kwargs = {k: v for k, v in kwargs.items() if k in names}
        given = dict(zip(names, args, strict=False)) | kwargs
        constants = {p.name for p in fn.params if p.is_constexpr}
        config = {k: int(v) for k, v in given.items() if k in constants and isinstance(v, int)}
        config |= {k: None for k, v in given.items() if v is None and k not in OF_QUANTIZED}
        self.row = {
            "kernel": fn.__name__,
            "dtype": self.case.dtype,
            "tiles": self.case.tiles,
            "T": self.case.T,
            "configuration": " ".join(f"{k}={v}" for k, v in config.items()),
        }
        Emitter.run(fn, *args, grid=grid, warmup=True, **kwargs)

    def compile(self, src: Any, target: GPUTarget, options: dict[str, Any], **_: Any) -> object:
        """In place of ``triton.compile``; Triton keeps what it returns for launches alike."""
        backend = make_backend(target)
        parsed = backend.parse_options(dict(options))
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        stages: dict[str, Any] = {}
        if OF_ASCEND:
            before = (parsed, backend.get_codegen_implementation())
            backend.add_stages(stages, parsed)
        else:
            before = (target, parsed, backend.get_codegen_implementation(parsed))
            backend.add_stages(stages, parsed, src.language)
        try:
            module = src.make_ir(*before, backend.get_module_map(), context)
            self.rows.append(self.row | {"ttir": str(stages["ttir"](module, {"hash": ""}))})
        except Exception as error:
            self.rows.append(self.row | {"reason": innermost(error)})
        return types.SimpleNamespace()

    def all(self) -> list[dict[str, Any]]:
        triton.runtime.driver.set_active(Driver(TARGET))
        launch = lambda fn, *args, **kwargs: self.launch(fn, *args, **kwargs)  # noqa: E731
        with (
            mock.patch.object(JITFunction, "run", launch),
            mock.patch.object(triton.compiler, "compile", self.compile),
            mock.patch.object(Driver, "get_current_device", return_value=0),
        ):
            for self.case in CASES:
                with tiles_of(self.case):
                    launch_all(
                        LAYERS["pangu"], self.case.T, DTYPES[self.case.dtype], [("output", True)]
                    )
            launch_specialized()
            self.case = Case("bf16", "", 4096)
            # of other activations what the products of SwiGLU do not have
            more = lambda fn, *args, **kwargs: (  # noqa: E731
                launch(fn, *args, **kwargs) if fn.__name__ in SUMS_OF_VARIANTS else None
            )
            with mock.patch.object(JITFunction, "run", more):
                for variant in VARIANTS:
                    launch_variant(variant, LAYERS["pangu"], self.case.T)
            rows = torch.empty(4096, LAYERS["pangu"][0], dtype=torch.bfloat16, device="meta")
            _quantized.quantize_rows(rows)
            self.case = Case("fp32", "", 0)
            for construct, constants in CONSTRUCTS.items():
                out = torch.empty(64, 64, dtype=torch.float32, device="meta")
                construct[(1,)](out_ptr=out, **constants)
        return self.rows


# a discrete access becomes a nest of loops, marked at its end, around a copy of a row or an element
DISCRETE = re.compile(
    r"^( *)(?:%\S+ = )?scf\.for .*\n((?:\1 .*\n)*)\1\} \{ExtractedLoadOrStore", re.MULTILINE
)
STORE = re.compile(r"materialize_in_destination .* in writable (%\S+)")


def accesses(linalg: str) -> dict[str, int]:
    """Loads and stores that the adapter has not lowered to the plain copy of a block."""
    rewritten = 0
    for store in STORE.finditer(linalg):
        # a name may have been used before, for another block
        block = linalg[linalg.rindex(f"{store[1]} = ", 0, store.start()) : store.start()]
        atomic = f"outs({store[1]} :" in block  # which runs under a lock
        rewritten += f"memref.copy {store[1]}," in block and not atomic
    nests = [nest[0] for nest in DISCRETE.finditer(linalg) if "memref.copy" not in nest[2]]
    elements = [math.prod(map(int, re.findall(r"scf\.for .* to %c(\d+)", nest))) for nest in nests]
    return {"element_wise": sum(elements), "rewritten": rewritten}


def message(error: subprocess.CalledProcessError) -> str:
    """The tool's own last word, without places in files that are gone."""
    text = error.stderr.decode(errors="replace")
    said = [line for line in re.findall(r"error: (.*)", text) if "pipeline" not in line]
    if said:
        return said[-1].partition(" (possible reason")[0]
    # a crash: above the stack dump an assertion may have spoken
    first = text.partition("PLEASE submit")[0].strip().splitlines()
    return f"{Path(error.cmd[0]).name} crashes: {first[0] if first else error.returncode}"


def plan(ttir: str) -> dict[str, Any]:
    """What triton-ascend's own stages make of Triton's IR."""
    import ascendnpuir

    backend = make_backend(TARGET)
    options = backend.parse_options({})
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options)
    metadata = {"target": TARGET, "hash": ""} | options.__dict__
    run, tools = subprocess.run, Path(ascendnpuir.__file__).parent / "bin"

    with tempfile.TemporaryDirectory() as folder:

        def run_tool(command: list[str], **kwargs: Any) -> Any:
            if "-o" not in command:
                return run(command, **kwargs)
            # threads make the first error, and with it the message, a matter of luck
            command = [*command, "--mlir-disable-threading"]
            if command[0].endswith("bishengir-compile"):
                command.append("--enable-memory-display")
            return run(command, cwd=folder, capture_output=True, check=True)

        class Device:
            def get_arch(self) -> str:
                return DEVICE

        with (
            mock.patch.object(subprocess, "run", run_tool),
            mock.patch.dict(backend.add_stages.__globals__, NPUUtils=Device),
            mock.patch.dict(os.environ, {"PATH": f"{tools}:{os.environ['PATH']}"}),
        ):
            stage = "linalg"
            found: dict[str, Any] = {"result": "refused by back end"}
            try:
                linalg = stages["ttadapter"](ttir, metadata)
                found |= accesses(linalg)
                stage = "hivm"
                stages["npubin"](linalg, metadata)
            except subprocess.CalledProcessError as error:
                reason = message(error)
                if not reason.startswith("External hivmc run fails"):
                    return found | {"stage": stage, "reason": reason}
        used = dict.fromkeys(SCOPES.values(), 0)
        for path in Path(folder).glob("memory_info_*.json"):
            for record in json.loads(path.read_text())["Record"]:
                for buffer in record["memory_info_array"]:  # extent in bits
                    end = max(buffer["offset"]) + -(-buffer["extent"] // 8)
                    used[SCOPES[record["scope"]]] = max(used[SCOPES[record["scope"]]], end)
        return found | {"result": "planned", "stage": "hivmc"} | used


def rows(newest: Path) -> Iterator[dict[str, Any]]:
    """The table."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "ir.json"
        environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
        command = [newest, __file__, "--emit", out]
        subprocess.run(command, check=True, env=environment)
        by_newest = json.loads(out.read_text())
    common = {
        "triton_ascend": importlib.metadata.version("triton-ascend"),
        "ascendnpu_ir": importlib.metadata.version("ascendnpu-ir"),
        "device": DEVICE,
    }
    own = f"triton-ascend {common['triton_ascend']}"
    key = ("kernel", "dtype", "tiles", "T", "configuration")
    refused = set()
    for row in Emitter().all():
        if "reason" in row:
            refused.add(tuple(row[name] for name in key))
            planned = {"result": "refused by frontend", "stage": "frontend"}
        else:
            planned = plan(row["ttir"])
        yield row | {"frontend": own} | planned | common
    for row in by_newest["rows"]:
        if tuple(row[name] for name in key) in refused:
            yield row | {"frontend": f"triton {by_newest['triton']}"} | plan(row["ttir"]) | common


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--newest",
        type=Path,
        default=Path(".venv/bin/python"),
        help="Python with the newest Triton",
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the table, write nothing"
    )
    parser.add_argument("--emit", type=Path, help="write Triton's IR to this file, and stop")
    args = parser.parse_args()
    if args.emit:
        result = {"triton": triton.__version__, "rows": Emitter().all()}
        args.emit.write_text(json.dumps(result))
        return 0
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    table = sorted(rows(args.newest), key=lambda row: [str(row[name]) for name in COLUMNS[:6]])
    writer.writerows(table)
    if not args.check:
        RESULTS.write_text(text.getvalue())
        return 0
    before, after = RESULTS.read_text().splitlines(), text.getvalue().splitlines()
    changes = list(difflib.unified_diff(before, after, "committed", "now", n=0, lineterm=""))
    print("\n".join(changes) or f"{RESULTS.name}: nothing has changed")
    return int(bool(changes))


if __name__ == "__main__":
    sys.exit(main())
