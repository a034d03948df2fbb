"""Builds the host runtime for the torch_npu of this environment: python build_npu_host.py FOLDER.

FOLDER/lib is then for LD_LIBRARY_PATH. Needs cmake, a C++ compiler and nm.
"""

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

RUN = ("2.10.0", "2.13.0")
"""Releases of torch_npu with which the tests were run."""

ASKED = re.compile(r"(?:acl|[Hh]ccl|Msprof|rts?[A-Z])\w*")
"""Names of CANN's functions."""


def symbols(library: Path, which: str) -> set[str]:
    """CANN's functions that a library defines or leaves undefined."""
    command = ["nm", "-D", f"--{which}-only", str(library)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = (line.split()[-1].partition("@")[0] for line in listed.splitlines())
    return {name for name in names if ASKED.fullmatch(name)}


def missing(wheel: Path, runtime: Path) -> list[str]:
    """Functions that the libraries of the wheel are linked with and the runtime has not."""
    libraries = [*wheel.glob("lib/lib*.so"), *wheel.glob("_C*.so")]
    # of a library for another product, which nothing loads here
    asked = [symbols(each, "undefined") for each in libraries if "atb" not in each.name]
    return sorted(set().union(*asked) - symbols(runtime, "defined"))


def refusal(runtime: Path) -> str:
    """Why the runtime does not work on this machine; empty if it does."""
    library = ctypes.CDLL(str(runtime))
    library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    return library.aclGetRecentErrMsg().decode() if library.aclInit(None) else ""


def build(folder: Path) -> None:
    """Builds into ``folder``.

    Raises:
        SystemExit: There is nothing to build for, or what was built would not do.
    """
    spec = importlib.util.find_spec("torch_npu")
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"npu_host: {sys.executable} has no torch_npu: pip install 'moge-ops[npu]'"
        )
    version = metadata.version("torch_npu")
    if version not in RUN:
        tried = ", ".join(RUN)
        print(
            f"npu_host: torch_npu {version} was never run on the host runtime; {tried} were",
            file=sys.stderr,
        )
    for tool in ("cmake", "c++", "nm"):
        if shutil.which(tool) is None:
            raise SystemExit(f"npu_host: there is no {tool} here, which the build needs")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    source = Path(__file__).resolve().parent
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(["cmake", "-S", str(source), "-B", str(folder), *generator], **quiet)
    subprocess.run(["cmake", "--build", str(folder), "--parallel", "2"], **quiet)
    runtime = folder / "lib" / "libascendcl.so"
    if lacking := missing(Path(spec.origin).parent, runtime):
        raise SystemExit(
            f"npu_host: torch_npu {version} is linked with functions that the host runtime has "
            f"not: {', '.join(lacking)}"
        )
    if reason := refusal(runtime):
        raise SystemExit(f"npu_host: {reason}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python build_npu_host.py FOLDER")
    build(Path(sys.argv[1]))
