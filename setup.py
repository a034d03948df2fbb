"""Map the fixed top-level folders into the ``moge_ops`` package, and build the two extensions.

The rest is in pyproject.toml. ``MOGE_ASCEND_BACKEND`` chooses how the Ascend C extension is built:
"emulate", the default, for the host; "cann" for an NPU; "off" for none. ``MOGE_OPS_CPU=off`` leaves
the native CPU kernels out.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# folder at the repository root -> import name
SUBPACKAGES = {"triton_kernels": "moge_ops.triton_kernels"}


def packages() -> list[str]:
    """Every package: a list made by hand forgets one, and an editable install hides that."""
    found = find_packages(include=["moge_ops", "moge_ops.*"], exclude=[*SUBPACKAGES.values()])
    for folder, name in SUBPACKAGES.items():
        found += [name, *(f"{name}.{sub}" for sub in find_packages(folder))]
    return found


def why_no_compiler(program: str, *flags: str) -> str:
    """``off: `` and why a C++ program cannot be built here; empty where it can."""
    if not shutil.which("cmake"):
        return "off: no cmake at installation"
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(program)
        command = [*compiler, "-std=c++17", *flags, str(source), "-o", str(source.with_suffix(""))]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            needed = " ".join(["C++17", *flags])
            return f"off: no compiler for {needed} at installation ({' '.join(compiler)})"
    return ""


def ascend_backend() -> str:
    """``emulate``, ``cann``, or ``off: `` and why: without compiler or CMake the rest installs."""
    chosen = os.environ.get("MOGE_ASCEND_BACKEND", "emulate")
    if chosen not in ("emulate", "cann", "off"):
        raise SystemExit(f"MOGE_ASCEND_BACKEND must be emulate, cann or off, got {chosen!r}")
    if chosen == "off":
        return "off: MOGE_ASCEND_BACKEND=off at installation"
    if chosen == "cann":  # asked for by name: whatever is missing is an error
        return chosen
    program = "#include <optional>\nint main() { return *std::optional<int>(0); }\n"
    return why_no_compiler(program) or chosen


def cpu_kernels() -> str:
    """``on``, or ``off: `` and why."""
    chosen = os.environ.get("MOGE_OPS_CPU", "on")
    if chosen not in ("on", "off"):
        raise SystemExit(f"MOGE_OPS_CPU must be on or off, got {chosen!r}")
    if chosen == "off":
        return "off: MOGE_OPS_CPU=off at installation"
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"off: there are kernels for x86-64 only, not for {platform.machine()}"
    program = """
#include <immintrin.h>
typedef float V __attribute__((vector_size(64)));
V f(V a, V b) { return __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12,
                                               28, 14, 30); }
int main() { _tile_zero(0); }
"""
    return why_no_compiler(program, "-mavx512bf16", "-mamx-tile", "-mamx-bf16") or "on"


class CMakeBuild(build_ext):
    """Builds an extension with csrc/CMakeLists.txt."""

    def build_extension(self, ext: Extension) -> None:
        """Configures and builds; CMake decides what has to be compiled again."""
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # not build_temp, which an editable install makes anew: nothing would be kept there
        work = ROOT / "build" / f"csrc-{ASCEND.partition(':')[0]}-{sys.implementation.cache_tag}"
        work.mkdir(parents=True, exist_ok=True)
        options = {
            "MOGE_ASCEND_BACKEND": ASCEND.partition(":")[0],
            "MOGE_CPU": CPU.partition(":")[0],
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": target.parent,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        generator = []
        if ninja := shutil.which("ninja"):
            # said anew: a kept folder may name the one of a build environment that is gone
            generator, options["CMAKE_MAKE_PROGRAM"] = ["-G", "Ninja"], ninja
        defined = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.run(["cmake", *generator, *defined, ROOT / "csrc"], cwd=work, check=True)
        module = ext.name.rpartition(".")[2]
        command = ["cmake", "--build", ".", "--target", module, "--parallel", "2"]
        subprocess.run(command, cwd=work, check=True)


# what is built, and else why not: `python -m moge_ops info` tells it
ASCEND, CPU = ascend_backend(), cpu_kernels()
BUILT = {"_C": ASCEND, "_cpu": CPU}
for module, how in BUILT.items():
    Path(ROOT, "moge_ops", f"{module}.txt").write_text(how + "\n")

setup(
    packages=packages(),
    package_dir={name: folder for folder, name in SUBPACKAGES.items()},
    ext_modules=[
        Extension(f"moge_ops.{module}", sources=[])
        for module, how in BUILT.items()
        if not how.startswith("off")
    ],
    cmdclass={"build_ext": CMakeBuild},
)
