"""Map the fixed top-level folders into the ``moge_ops`` package, and build the Ascend C extension.

The rest is in pyproject.toml. ``MOGE_ASCEND_BACKEND`` chooses how the extension is built:
"emulate", the default, for the host; "cann" for an NPU; "off" for none.
"""

import os
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


def ascend_backend() -> str:
    """``emulate``, ``cann``, or ``off: `` and why: without compiler or CMake the rest installs."""
    chosen = os.environ.get("MOGE_ASCEND_BACKEND", "emulate")
    if chosen not in ("emulate", "cann", "off"):
        raise SystemExit(f"MOGE_ASCEND_BACKEND must be emulate, cann or off, got {chosen!r}")
    if chosen == "off":
        return "off: MOGE_ASCEND_BACKEND=off at installation"
    if chosen == "cann":  # asked for by name: whatever is missing is an error
        return chosen
    if not shutil.which("cmake"):
        return "off: no cmake at installation"
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <optional>\nint main() { return *std::optional<int>(0); }\n")
        command = [*compiler, "-std=c++17", str(source), "-o", str(source.with_suffix(""))]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return f"off: no C++17 compiler at installation ({' '.join(compiler)})"
    return chosen


class CMakeBuild(build_ext):
    """Builds the extension with csrc/CMakeLists.txt."""

    def build_extension(self, ext: Extension) -> None:
        """Configures and builds; CMake decides what has to be compiled again."""
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # not build_temp, which an editable install makes anew: nothing would be kept there
        work = ROOT / "build" / f"csrc-{BACKEND}-{sys.implementation.cache_tag}"
        work.mkdir(parents=True, exist_ok=True)
        options = {
            "MOGE_ASCEND_BACKEND": BACKEND,
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
        subprocess.run(["cmake", "--build", ".", "--parallel", "2"], cwd=work, check=True)


BACKEND = ascend_backend()
Path(ROOT, "moge_ops", "_C.txt").write_text(BACKEND + "\n")  # `python -m moge_ops info` tells it

setup(
    packages=packages(),
    package_dir={name: folder for folder, name in SUBPACKAGES.items()},
    ext_modules=[] if BACKEND.startswith("off") else [Extension("moge_ops._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
