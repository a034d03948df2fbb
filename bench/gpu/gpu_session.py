"""One run of one part of ``make gpu``: its scale, its CSV, and the point that it has reached."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import harness
import peers
import torch
from harness import Calls, Plan
from torch import Tensor

from moge_ops.testing import PANGU, Sizes

COLUMNS = [
    *("date", "device", "capability", "driver", "python", "torch", "triton", "peers", "revision"),
    "tiles",  # measured: those that this run's search found; else static
    *("part", "op", "variant", "router", "dtype", "direction", "T", "H", "E", "G", "k", "F"),
    *("median_ms", "q20_ms", "q80_ms", "rounds", "flops", "bytes", "tflop_s", "tb_s"),
    *("of_dense", "of_copy", "rms_error", "saved_bytes", "peak_bytes", "note"),
]
# exit code of a part whose GPU context is broken: an error that no later call survives
BROKEN = 70


# tests that choose the device themselves, which is in no name of theirs
BY_NAME = ("test_triton_quantized", "specialized_warps", "kernels_stay_inside")


class Scale(NamedTuple):
    """What is measured: the real sizes, or tiny ones to see that every line runs."""

    device: str
    dtype: torch.dtype
    plan: Plan
    layer: Sizes  # T is replaced by those of `tokens`
    tokens: tuple[int, ...]  # in order of importance
    few: int  # tokens up to this number are few: peers choose configurations anew for them
    check_tokens: int
    most_tokens: int  # ids and, past 2^31 elements, places of rows
    repeats: int
    sonic: tuple[Sizes, ...]
    quant: tuple[Sizes, ...]  # in order of importance
    gate_tokens: tuple[int, ...]
    gate_experts: tuple[int, ...]
    memory_tokens: int
    compiler: str  # torch.compile's backend
    tests: tuple[str, str]  # where, and pytest's -k


FULL = Scale(
    device="cuda",
    dtype=torch.bfloat16,
    plan=Plan(2.0, (5, 31), 0.0),
    layer=PANGU,
    tokens=(8192, 32768, 2048, 128, 1, 16, 456),
    few=456,
    check_tokens=2048,
    most_tokens=131072,
    repeats=20,
    sonic=(
        Sizes(32768, H=4096, E=128, G=1, k=8, F=1024),
        Sizes(24576, H=1536, E=128, G=1, k=8, F=256),
    ),
    quant=tuple(PANGU._replace(T=T) for T in (8192, 128, 1, 16, 456)),
    gate_tokens=(1, 16, 128, 1024, 4096, 16384, 65536, 131072),
    gate_experts=(64, 128, 256, 512, 1024),
    memory_tokens=32768,
    compiler="inductor",
    tests=("tests", " or ".join(("(cuda and not test_hub)", *BY_NAME))),
)
SMOKE = Scale(
    device="cpu",
    dtype=torch.float32,
    plan=harness.SMOKE_PLAN,
    layer=Sizes(1, H=32, E=8, G=2, k=1, F=16),
    tokens=(9, 1),
    few=1,
    check_tokens=12,
    most_tokens=40,
    repeats=2,
    sonic=(Sizes(8, H=32, E=8, G=1, k=2, F=16),),
    quant=tuple(Sizes(T, H=64, E=8, G=2, k=1, F=32) for T in (9, 1)),
    gate_tokens=(1, 9),
    gate_experts=(16,),
    memory_tokens=64,
    compiler="aot_eager",
    tests=("tests/test_swiglu.py", "torch"),
)


def is_ours(variant: str) -> bool:
    """Whether a variant is ours; a scheme may stand after the name."""
    return variant.split(" ")[0] == peers.OURS


def why_not(variant: str, reason: str) -> str:
    """The note of a row without figures: ours must run, a peer need not."""
    return f"{'FAILED' if is_ours(variant) else 'not run'}: {reason}"


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def driver() -> str:
    """Version of the GPU's driver, as nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.splitlines()[0].strip()


def environment(device: str) -> dict[str, Any]:
    """The columns that every row of a run shares, apart from its date."""
    on_gpu = device == "cuda"
    names = [name for name, _ in peers.PACKAGES.values()]
    found = {name: harness.version(name) for name in ("transformers", *names)}
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu (smoke)",
        "capability": "{}.{}".format(*torch.cuda.get_device_capability()) if on_gpu else "",
        "driver": driver() if on_gpu else "",
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "triton": harness.version("triton"),
        "tiles": "measured" if os.environ.get("MOGE_OPS_CONFIG_DIR") else "static",
        "peers": "; ".join(f"{name} {version}" for name, version in found.items() if version),
        "revision": harness.revision(),
    }


class Session:
    """One run of one part: its CSV, and the point that it has reached."""

    def __init__(
        self,
        part: str,
        csv: Path,
        work: Path,
        date: str,
        *,
        smoke: bool,
        tokens: Sequence[int] = (),
    ) -> None:
        self.part, self.csv, self.work = part, csv, work
        self.scale = SMOKE if smoke else FULL
        if tokens:
            self.scale = self.scale._replace(tokens=tuple(tokens))
        self.smoke = smoke
        self.shared = {"date": date, "part": part, **environment(self.scale.device)}
        self.point = ""
        # left out alone if they hang or crash, also ours; other variants of a point go on
        self.alone = {*peers.GPU_VARIANTS} - {peers.OURS}

    def another(self, part: str) -> str:
        """What a part prints as its last line, in a process of its own."""
        script = Path(__file__).with_name("gpu_parts.py")
        command = [sys.executable, str(script), part, "--csv", str(self.csv)]
        command += ["--work", str(self.work), "--date", self.shared["date"]]
        command += ["--smoke"] if self.smoke else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise RuntimeError(f"{part} ended with exit code {done.returncode}: {lines[-1]}")
        return done.stdout.splitlines()[-1]

    def _file(self, kind: str) -> Path:
        return self.work / f"{self.part}.{kind}"

    def _lines(self, kind: str) -> list[str]:
        file = self._file(kind)
        return file.read_text().splitlines() if file.exists() else []

    def given_up(self, name: str) -> str:
        """Why a point or a peer is left out; empty if it is not."""
        reasons = dict(line.partition("|")[::2] for line in self._lines("without"))
        return reasons.get(name, "")

    def write(self, *rows: Mapping[str, Any]) -> None:
        dtype = str(self.scale.dtype).removeprefix("torch.")
        shared = self.shared | {"dtype": dtype}
        harness.append(self.csv, [shared | row for row in rows], COLUMNS)

    def points(self, names: Iterable[str]) -> Iterator[str]:
        """Those that are neither finished nor given up."""
        for name in names:
            if name not in self._lines("done") and not self.given_up(name):
                self.point = name
                yield name
                with self._file("done").open("a") as file:
                    file.write(f"{name}\n")

    def enter(self, what: str) -> None:
        """Leaves a note for gpu.py: what runs now, and what to leave out if it does not end."""
        alone = what in self.alone
        peer = (alone and not is_ours(what)) or what.startswith("torch")
        whose = "peer" if peer else "ours"
        name = what if alone else self.point
        unfinished = self._file("now-unfinished")  # a kill at any moment leaves a whole note
        unfinished.write_text(f"{name}|{whose}|{self.point}: {what}\n")
        unfinished.replace(self._file("now"))

    def attempt(self, what: str, call: Callable[[], Any]) -> tuple[Any, str]:
        """``call()`` and "", or None and the reason why not."""
        self.enter(what)
        try:
            result, reason = call(), ""
            self.synchronize()
        except Exception as error:
            result, reason = None, first_line(error)
        if reason:
            gc.collect()
            try:
                self.synchronize()
            except Exception:
                print(f"{self.point}: {what} broke the GPU's context: {reason}", flush=True)
                os._exit(BROKEN)
        return result, reason

    def synchronize(self) -> None:
        harness.synchronize(self.scale.device)

    def check(self, name: str, call: Callable[[], float]) -> None:
        """A row for one check: ``call`` raises, or returns the error that it found."""
        error, reason = self.attempt(name, call)
        found = {"note": f"FAILED: {reason}"} if reason else {"rms_error": f"{error:.3g}"}
        self.write({"op": name, "variant": peers.OURS, "note": "ok", **found})
        print(f"{name}: {'FAILED ' + reason if reason else 'ok'}", flush=True)

    def timed(self, calls: Calls) -> dict[str, dict[str, Any]]:
        """Times ``calls`` and the two ceilings in turns: columns by name."""
        self.enter("timing")
        scale = self.scale
        rows = harness.timed(calls, scale.plan, scale.dtype, scale.device, smoke=self.smoke)
        for columns in rows.values():
            for small, large in (("gflop_s", "tflop_s"), ("gb_s", "tb_s")):
                columns[large] = f"{float(columns.pop(small)) / 1e3:.4g}"
        return rows

    def free(self) -> None:
        gc.collect()
        if self.scale.device == "cuda":
            torch.cuda.empty_cache()

    def graph(self, run: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        """A replay of ``run``, and the result that it writes."""
        if self.scale.device == "cpu":
            result = run()

            def again() -> None:
                for old, new in zip(tensors(result), tensors(run()), strict=True):
                    old.detach().copy_(new.detach())

            return again, result
        stream = torch.cuda.Stream()  # a first call allocates and compiles, which a capture cannot
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()
        return graph.replay, result


def tensors(result: Any) -> list[Tensor]:
    """The tensors of a nested result, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, (tuple, list)):
        return [x for part in result for x in tensors(part)]
    return []
