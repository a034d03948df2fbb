"""Compiles, without a GPU, what the tests and the parts of `make gpu` launch on one.

`compile_ahead.py ARCHIVE` packs Triton's cache of it, which gpu.py unpacks where it runs, so that a
borrowed GPU need not wait for LLVM and ptxas; what remains is a small launcher in C for each
signature. Triton finds a binary there if the kernels' source is the same and so is Triton, whose
wheels for other versions of Python count as another: run this with the GPU machine's version of
both. Everything else is compiled as ever.

As a plugin of pytest (`-p compile_ahead`) it ends each launch after compilation, and lets the tests
of the Triton backend go on with torch's results on the CPU.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import autotune
import gpu_checks
import peers
import pytest
import torch
import triton
from bench_grouped_gemm import products
from brought import made_for
from gpu_session import BY_NAME, FULL
from problem import OPERATORS, Problem, random_quantized
from torch.nn import Parameter
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

import moge_ops
from moge_ops import _backend
from moge_ops.quant import SCHEMES
from moge_ops.testing import Sizes, backend

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"sm_80": 80, "sm_90": 90, "sm_100": 100}


class Driver:
    """Names the target: there is no device to ask, and nothing is launched."""

    def __init__(self, target: str) -> None:
        self.target = GPUTarget("cuda", TARGETS[target], 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(target: str) -> None:
    """From now on the Triton backend takes CPU tensors, and a launch compiles, and ends."""
    run = JITFunction.run

    def compiled(fn: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
        return run(fn, *args, grid=grid, warmup=True, **kwargs)

    JITFunction.run = compiled
    triton.runtime.driver.set_active(Driver(target))
    anywhere = _backend.BACKENDS["triton"]._replace(on_cpu=lambda: _backend._anywhere)
    _backend.BACKENDS["triton"] = anywhere


# ----------------------------------------------------------------------------- the tests' launches


class Instead:
    """An operator's launchers: ours, which only compile, then torch's for the results."""

    def __init__(self, op: str) -> None:
        self.ours = importlib.import_module(f"moge_ops.triton_kernels.{op}")
        self.results = importlib.import_module(f"moge_ops.torch_kernels.{op}")

    def __getattr__(self, launcher: str) -> Any:
        ours, results = getattr(self.ours, launcher), getattr(self.results, launcher, None)

        def call(*args: Any) -> Any:
            try:
                found = ours(*args)
            except Exception:  # the test may expect it, or not say what failed
                note(f"{launcher}: {traceback.format_exc()}")
                raise
            return found if results is None else results(*args)

        return call


def note(failure: str) -> None:
    with Path(os.environ["MOGE_OPS_FAILURES"]).open("a") as file:
        file.write(f"{failure}\n")


def pytest_configure(config: pytest.Config) -> None:
    compile_only(os.environ["MOGE_OPS_TARGET"])
    modules: dict[str, Instead] = {}
    load_for = _backend._load_for

    def load(device: str, op: str, x: torch.Tensor) -> Any:
        if _backend.chosen(device, x.dtype) != "triton":
            return load_for(device, op, x)
        if op not in modules:
            modules[op] = Instead(op)
        return modules[op]

    _backend._load_for = load  # type: ignore[assignment]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def launches(item: Any) -> bool:
        params = getattr(getattr(item, "callspec", None), "params", {})
        # those that launch without the fixture of devices are named
        return params.get("device") == "triton" or any(name in item.nodeid for name in BY_NAME)

    items[:] = filter(launches, items)


# ------------------------------------------------------------------------------ the parts' launches


def layer(s: Sizes) -> None:
    """The layer and its operators, forward and backward, on memory that nobody touches."""

    def leaf(*sizes: int) -> Parameter:
        return Parameter(torch.empty(sizes, dtype=FULL.dtype))

    w_gate_up, w_down = leaf(s.E, 2 * s.F, s.H), leaf(s.E, s.H, s.F)
    p = Problem(s, leaf(s.T, s.H), w_gate_up, w_down, leaf(s.T, s.E))
    peers.layer(p, peers.OURS, torch.empty_like(p.x)).both()
    found = [p.operator(name) for name in OPERATORS if name != "grouped_gemm"]
    for operator in (*found, *products(p).values()):
        if operator.inputs:
            operator.d_out = torch.empty_like(operator.out)
        for call, _ in operator.calls().values():
            call()


def gate(E: int) -> None:
    for T in FULL.gate_tokens:
        moge_ops.grouped_gate(torch.empty(T, E, dtype=FULL.dtype), FULL.layer.G, 1)


def quant(scheme: str) -> None:
    """The layer forward on weights of one scheme."""
    pair = random_quantized(scheme, FULL.quant[0], whole_rows=True)
    for s in FULL.quant:
        x, logits = (Parameter(torch.empty(s.T, n, dtype=FULL.dtype)) for n in (s.H, s.E))
        with torch.no_grad():
            peers.ours(Problem(s, x, *pair, logits))(x, *pair, logits)


def small() -> None:
    cpu: Any = SimpleNamespace(scale=FULL._replace(device="cpu"), synchronize=lambda: None)
    gpu_checks.small(cpu)


def tiles(kernel: str, limit: float) -> None:
    """Those that the search looks at first."""
    trials = autotune.Trials(kernel, limit, FULL.layer, "meta")
    for config in (trials.now, *autotune.neighbours(kernel, trials.now)):
        with trials.using(config):
            try:
                trials.call()
            except Exception as error:
                if not autotune.unfit(error):
                    raise


def jobs() -> list[tuple[Any, ...]]:
    """What the parts launch: a function and its arguments."""
    tokens = dict.fromkeys((*FULL.tokens, FULL.check_tokens, FULL.most_tokens))
    layers = [FULL.layer._replace(T=T) for T in tokens]
    return [
        *((tiles, kernel, limit) for limit, kernel in autotune.ORDER),
        *((layer, s) for s in (*layers, *FULL.sonic)),
        *((gate, E) for E in FULL.gate_experts),
        *((quant, scheme) for scheme in SCHEMES),
        (small,),
    ]


def run(job: int) -> None:
    """One of them, in a process of its own: a compiler may abort."""
    name = " ".join(map(str, (jobs()[job][0].__name__, *jobs()[job][1:])))
    done = subprocess.run(
        [sys.executable, __file__, "-", "--job", str(job)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        note(f"{name}: exit code {done.returncode}: {done.stderr[-2000:]}")
    print(f"{name}: {'NOT ' if done.returncode else ''}compiled", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("archive", type=Path, help="NAME.tar.xz, for gpu.py in .whl")
    parser.add_argument("--target", choices=TARGETS, default="sm_90")
    parser.add_argument("--only", choices=("tests", "parts"), help="those launches alone")
    parser.add_argument(
        "--tests", nargs="+", type=Path, default=[ROOT / "tests"], help="files or folders"
    )
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job is not None:
        compile_only(os.environ["MOGE_OPS_TARGET"])
        function, *arguments = jobs()[args.job]
        with backend("triton"):
            function(*arguments)
        return 0
    with tempfile.TemporaryDirectory(prefix="moge_kernels") as folder:
        cache, failures = Path(folder) / "cache", Path(folder) / "failures"
        failures.touch()
        os.environ |= {
            "MOGE_OPS_TARGET": args.target,
            "MOGE_OPS_FAILURES": str(failures),
            "MOGE_OPS_EXAMPLES": "5",  # as gpu.py has it
            "TRITON_INTERPRET": "0",
            "TRITON_CACHE_DIR": str(cache),
            "TRITON_STORE_BINARY_ONLY": "1",  # none of the intermediate forms
        }
        if args.only != "tests":
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(run, range(len(jobs()))))
        if args.only != "parts":
            options = ["-q", "-p", "compile_ahead", "-p", "no:cacheprovider", "-n", "auto"]
            options += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "--no-summary"]
            options += ["--continue-on-collection-errors", *(str(t.resolve()) for t in args.tests)]
            paths = os.pathsep.join(filter(None, (*sys.path, os.environ.get("PYTHONPATH"))))
            # tests of launchers have no results to compare: what counts is what was compiled. Not
            # in the root, whose triton_kernels/ has another package's name
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": paths},
                check=False,
            )
            if done.returncode not in (0, 1):
                note(f"pytest ended with {done.returncode}, not with 0 or 1: see above")
        args.archive.parent.mkdir(parents=True, exist_ok=True)
        cache.mkdir(exist_ok=True)
        (cache / "made-for").write_text(made_for())
        unfinished = args.archive.with_suffix(".part")
        with tarfile.open(unfinished, "w:xz") as archive:
            archive.add(cache, arcname="kernels")
        unfinished.replace(args.archive)
        binaries = len(list(cache.rglob("*.cubin")))
        size = args.archive.stat().st_size / 2**20
        print(f"{binaries} binaries of Triton {triton.__version__}, {size:.1f} MiB: {args.archive}")
        if failed := failures.read_text():
            print("NOT COMPILED", failed, sep="\n")
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
