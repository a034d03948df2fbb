"""The operators' tests at the higher levels of the instruction set, whatever this processor has.

The kernels are compiled once more, each level for AVX2: vectors of 16 lanes are halves there, and
matrix tiles and pairs of bfloat16 are plain C++. What stays untested are the instructions, and the
tables for numbers of four bits, which exist as instructions alone.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from moge_ops._extensions import cpu_level, cpu_levels

if cpu_level().startswith("off"):
    pytest.skip(f"no native kernels: {cpu_level()}", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
PRODUCTS = ("grouped_gemm", "grouped_mlp", "cpu_activations", "cpu_kernels", "cpu_quantized")
OTHERS = ("grouped_gate", "load_balance_loss", "permute", "swiglu", "unpermute")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("emulated")]  # one build


@pytest.fixture(scope="module")
def emulated() -> Path:
    """The extension with every level, built where a second run finds it again."""
    if not shutil.which("cmake"):
        pytest.skip("needs cmake")
    build = ROOT / "build" / f"cpu-emulated-{sys.implementation.cache_tag}"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    pybind11 = importlib.import_module("pybind11")
    subprocess.run(
        [
            *("cmake", "-S", str(ROOT / "csrc"), "-B", str(build), *generator),
            *("-DMOGE_ASCEND_BACKEND=off", "-DMOGE_CPU_EMULATED=ON"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ],
        check=True,
    )
    subprocess.run(["cmake", "--build", str(build), "--parallel", "2"], check=True)
    (library,) = build.glob("**/_cpu*.so")
    return library


def test_higher_levels_pass_the_tests_of_the_operators(emulated: Path) -> None:
    # avx2 is the same here as without emulation; avx512 is avx512_bf16 but for its bfloat16; what
    # the processor has is tested with its instructions
    lacking = [level for level, missing in cpu_levels() if missing]
    levels = [level for level in ("avx512_bf16", "amx") if level in lacking] or ["amx"]
    # of the products alone amx has a form of its own
    names = PRODUCTS if levels == ["amx"] else (*PRODUCTS, *OTHERS)
    files = [f"tests/test_{name}.py" for name in names]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-v", "-p", "emulated_cpu", "-p", "no:cacheprovider"),
            *("-k", " or ".join([*(f"cpu_{level}" for level in levels), "highest_level"]), *files),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "tests"),
            "MOGE_OPS_CPU_MODULE": str(emulated),
            "MOGE_OPS_EXAMPLES": "3",
            "OMP_NUM_THREADS": "2",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = Counter(re.findall(r"[\[-]cpu_(\w+?)[\]-].* PASSED", done.stdout))
    assert set(passed) == set(levels)
    assert min(passed.values()) > 100, passed
