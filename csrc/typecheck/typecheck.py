"""Type check of the Ascend C sources against the real headers: compiled, not linked, never run.

Sources of the headers are given by folder and stay there: asc-devkit and asc-tools have a licence
of their own, and no part of them is in this repository. `stub_fun.h` beside this file declares what
their public part lacks. What is compiled:

- the kernels with all entries, and the host's side of the cann build with all launches;
- with --acl, the sources that use CANN's runtime, against its headers.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMPILERS = ("clang++", *(f"clang++-{version}" for version in range(22, 15, -1)))
COMPILER = next(filter(shutil.which, COMPILERS), COMPILERS[0])
DEVKIT = (
    *("", "include", "include/adv_api/matmul", "include/basic_api", "include/interface"),
    *("include/utils", "include/utils/debug", "include/tiling", "include/c_api"),
    *("include/adv_api", "impl", "impl/adv_api", "impl/basic_api", "impl/utils"),
)
TOOLS = ("include", "utils", "utils/include", "utils/include/utils")
TARGET = ("-D__NPU_ARCH__=2201", "-DASCENDC_CPU_DEBUG=1", "-D__launch_bounds__(x)=")
KERNEL = ("-x", "c++", "-D__device__=", "-ferror-limit=0")
LAUNCH = (
    *("-x", "cuda", "--cuda-host-only", "-nocudainc", "-nocudalib", "-Wno-unknown-cuda-version"),
    *("-include", str(HERE / "launch_syntax.h"), "-D__device__=", "-DMOGE_ASCEND_CANN"),
)


def system(folders: Iterable[Path | str]) -> list[str]:
    """Options for folders whose warnings are not ours."""
    return [option for folder in folders for option in ("-isystem", str(folder))]


def without_cuda(compiler: str) -> list[str]:
    """Options that leave clang's own headers where they are, but for what it adds for CUDA."""
    command = [compiler, "-print-resource-dir"]
    folder = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return ["-nobuiltininc", "-idirafter", f"{folder}/include"]


def write_tiling_header(devkit: Path, folder: Path) -> None:
    """Let asc-devkit generate the one header that its build, too, generates."""
    script = devkit / "impl/adv_api/cmake/scripts/gen_kernel_tiling_data_def.py"
    header = folder / "kernel_tiling/kernel_tiling.h"
    command = [sys.executable, str(script), str(devkit / "include/adv_api"), str(header)]
    subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def options_for_headers(devkit: Path, tools: Path, generated: Path) -> list[str]:
    """Everything that a file needs to include kernel_operator.h, but for KERNEL or LAUNCH."""
    write_tiling_header(devkit, generated)
    return [
        *TARGET,
        *system([HERE, generated]),
        *system(devkit / part for part in DEVKIT),
        *system(tools / "cpudebug" / part for part in TOOLS),
    ]


def check(compiler: str, source: Path, options: Iterable[str]) -> bool:
    """Compile one file and tell the time."""
    command = [compiler, "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *options]
    start = time.perf_counter()
    result = subprocess.run(
        [*command, str(source)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seconds = time.perf_counter() - start
    passed = result.returncode == 0
    name = os.path.relpath(source, ROOT)
    sys.stdout.write(f"{name:48} {seconds:5.1f} s  {'pass' if passed else 'FAIL'}\n")
    sys.stdout.write(result.stdout)
    sys.stdout.flush()
    return passed


def main() -> int:
    """Check all there is to check and tell the time of each file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--devkit", type=Path, required=True, help="sources of asc-devkit")
    parser.add_argument("--tools", type=Path, required=True, help="sources of asc-tools")
    parser.add_argument("--acl", type=Path, help="folder that holds acl/acl.h")
    parser.add_argument("--clang", default=COMPILER)
    args = parser.parse_args()
    for needed in (args.devkit / "include/kernel_operator.h", args.tools / "cpudebug/include"):
        if not needed.exists():
            parser.error(f"there is no {needed}")

    kernels = sorted((ROOT / "ascend_kernels").glob("*/*.cpp"))
    with tempfile.TemporaryDirectory() as folder:
        headers = options_for_headers(args.devkit, args.tools, Path(folder))
        launch = [*LAUNCH, *without_cuda(args.clang), *headers]
        checks = [
            *((path, [*KERNEL, *headers]) for path in kernels),
            *((ROOT / "csrc" / path.name, launch) for path in kernels),
        ]
        if args.acl:
            import pybind11

            python = [pybind11.get_include(), sysconfig.get_path("include")]
            cann = ["-DMOGE_ASCEND_CANN", *system([args.acl, *python])]
            checks += [(ROOT / "csrc" / name, cann) for name in ("bindings.cpp", "launch.cpp")]
        results = [check(args.clang, path, options) for path, options in checks]
    return not all(results)


if __name__ == "__main__":
    sys.exit(main())
