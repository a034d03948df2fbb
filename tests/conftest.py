"""Every operator test runs on each backend of this machine: `device` is its fixture."""

import importlib.util
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

from hypothesis import HealthCheck, settings

from moge_ops import ops, testing
from moge_ops._backend import BACKENDS
from moge_ops._extensions import cpu_level, cpu_levels, npu_kernels, npu_runtime

torch.set_num_threads(min(2, torch.get_num_threads()))
# a property test's time depends on the backend: no deadline; the same examples on every run
settings.register_profile(
    "moge_ops",
    deadline=None,
    derandomize=True,
    max_examples=int(os.environ.get("MOGE_OPS_EXAMPLES", "10")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("moge_ops")


# files whose tests run under the emulator too: the operators, and what is built of them
EMULATED = {
    "activations",
    "gate_and_route",
    "guarantees",
    "nn",
    "round_tokens",
    "statistics",
    *(module.name for module in pkgutil.iter_modules(ops.__path__) if module.name[0] != "_"),
}
# the native kernels are tested at each level of the instruction set that the machine has
LEVELS = [level for level, missing in cpu_levels() if not missing]
# files about what torch is told of an operator, which is the same at each level: the usual one
ANY_LEVEL = {"activation_options", "registration"}
# Triton's kernels are loaded once in a process: for the GPU where there is one, else interpreted
TRITON = "cuda" if torch.cuda.is_available() else "triton"
# on tensors of torch_npu, where it and a runtime for it are in place, instead of the CPU's
ASCEND = "ascend" if npu_kernels().startswith("off") else "npu"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every backend of the test's operator, the emulator included, unless the test chooses."""
    chosen = any(
        "device" in str(mark.args[0]).split(",")
        for mark in metafunc.definition.iter_markers("parametrize")
    )
    if "device" not in metafunc.fixturenames or chosen:
        return
    stem = metafunc.module.__name__.rpartition(".")[2].removeprefix("test_")
    needs = {torch.float64} if any(metafunc.definition.iter_markers("float64")) else set()
    slow = {name for mark in metafunc.definition.iter_markers("slow_on") for name in mark.args}
    params = {name: [name] for name in BACKENDS}
    levels = [] if stem in ANY_LEVEL else LEVELS
    params |= {"triton": [TRITON], "cpu": [f"cpu_{level}" for level in levels] or ["cpu"]}
    params |= {"ascend": [ASCEND]}
    names = [
        pytest.param(param, marks=[pytest.mark.slow] * (name in slow))
        for name, backend in BACKENDS.items()
        for param in params[name]
        if name != "reference"  # the oracle itself
        and (name != "ascend" or stem in EMULATED)
        and needs <= set(backend.dtypes)
    ]
    metafunc.parametrize("device", names, indirect=True)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one built module run in one worker, which builds it once."""
    for item in items:
        if "emulator" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("emulator"))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Device of the test's tensors; on the CPU "triton" is interpreted and "ascend" emulated."""
    if request.param == "npu" and npu_kernels() == "emulated":
        importlib.import_module("moge_ops._C").set_emulation(cores=3)
    if request.param in ("cuda", "npu"):
        yield request.param
        return
    name, _, level = request.param.partition("_")
    if name == "ascend":
        extension = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
        extension.set_emulation(cores=3)  # few: each has several tiles, and they start quickly
    if name == "cpu" and not LEVELS:
        pytest.skip(f"no native kernels: {cpu_level()}")
    with testing.backend(name), at_level(level):
        yield "cpu"


@pytest.fixture
def interpreted(request: pytest.FixtureRequest) -> bool:
    """Whether Triton's interpreter runs the test's kernels: it takes seconds for a few."""
    name: str = request.node.callspec.params["device"]
    # bench/gpu/compile_ahead.py compiles them instead: all that a GPU will launch
    return name == "triton" and os.environ["TRITON_INTERPRET"] != "0"


@pytest.fixture
def opcheck(interpreted: bool) -> Callable[[Any, tuple[Any, ...]], object]:
    """torch's checks of an operator; of interpreted kernels those of what they return alone."""
    utils = {"test_utils": ("test_schema", "test_faketensor")} if interpreted else {}
    return lambda op, args: torch.library.opcheck(op, args, **utils)


@contextmanager
def at_level(level: str) -> Iterator[None]:
    """Native kernels of one level of the instruction set; of the usual one if it is empty."""
    if not level:
        yield
        return
    extension = importlib.import_module("moge_ops._cpu")
    extension.set_level(level)
    yield
    extension.set_level(cpu_level())


@pytest.fixture
def float_dtypes(request: pytest.FixtureRequest, device: str) -> list[torch.dtype]:
    """Dtypes of the backend's operators: an NPU has no float64."""
    name = request.node.callspec.params["device"]
    backend = {TRITON: "triton", ASCEND: "ascend"}.get(name, name.partition("_")[0])
    return list(BACKENDS[backend].dtypes)


@pytest.fixture(scope="session", autouse=True)
def _aten_on_the_host_runtime() -> Iterator[None]:
    """ATen's operators on `npu` tensors, which the host runtime has not: those of the CPU."""
    if npu_runtime() != "host":
        yield
        return
    registrations = importlib.import_module("aten_on_cpu").register()
    yield
    del registrations


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poison_empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fills uninitialised float memory with NaN, so an unwritten output element fails the test."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _no_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Correct kernels are free of the emulator's warnings, too: each is an error."""
    if "MOGE_EMULATOR_RULES" not in os.environ:
        monkeypatch.setenv("MOGE_EMULATOR_RULES", "warning=error")


@pytest.fixture(scope="session")
def emulator() -> ModuleType:
    """The kernels of tests/ascend as a module, built where a second run finds it again."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if not (compiler and shutil.which("cmake") and importlib.util.find_spec("pybind11")):
        pytest.skip("needs a C++17 compiler, cmake and pybind11")
    root = Path(__file__).resolve().parents[1]
    build = root / "build" / f"emulator-tests-{sys.version_info.major}{sys.version_info.minor}"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    pybind11 = importlib.import_module("pybind11")
    subprocess.run(
        [
            *("cmake", "-S", str(root / "tests" / "ascend"), "-B", str(build), *generator),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ],
        check=True,
    )
    subprocess.run(["cmake", "--build", str(build), "--parallel", "2"], check=True)
    (library,) = build.glob("moge_emulator_tests*.so")
    spec = importlib.util.spec_from_file_location("moge_emulator_tests", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `moge-ops make-tiny`; not to be changed."""
    from moge_ops.cli import main

    folder = tmp_path_factory.mktemp("cli") / "tiny"
    main(["make-tiny", str(folder)])
    return folder


@pytest.fixture
def tiny(made: Path, tmp_path: Path) -> Path:
    """A copy of that folder, for this test alone."""
    return Path(shutil.copytree(made, tmp_path / "tiny"))
