"""What ``make gpu`` takes along: the package, the harness, and what lies in ``.whl/``."""

import json
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def installed(wheels: Sequence[Path], target: Path) -> str:
    """Installs wheels into a folder; returns what went wrong."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-index", "--no-deps", "--no-compile", "--target", str(target), *wheels],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def made_for() -> str:
    """The Triton whose binaries are found here."""
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        version = "none"
    return f"Triton {version}, Python {sys.version_info.major}.{sys.version_info.minor}"


def unpack(folder: Path, work: Path) -> tuple[list[str], str]:
    """What `make gpu-wheels` and `make gpu-kernels` left: paths of modules, and what went wrong."""
    target, trouble = work / "wheels", ""
    found = sorted(folder.glob("*.whl"))
    # all at once, which is fast, or else each that this Python takes
    if found and installed(found, target):
        why = "; ".join(filter(None, (installed([wheel], target) for wheel in found)))
        trouble = f"wheels were not installed: {why}" if why else ""
    for archive in folder.glob("*.tar.xz"):
        try:
            with tarfile.open(archive) as packed:
                packed.extractall(work, filter="data")
        except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
            trouble = "; ".join(filter(None, (trouble, f"{archive.name} is broken: {error}")))
    # Triton's key has the bytes of its library, which are others for each version of Python
    made, here = work / "kernels" / "made-for", made_for()
    if made.exists() and made.read_text() != here:
        why = f"kernels are for {made.read_text()}, which does not serve {here}"
        trouble = "; ".join(filter(None, (trouble, why)))
    # Triton writes down where its files are
    for group in (work / "kernels").glob("*/__grp__*.json"):
        names = json.loads(group.read_text())["child_paths"]
        group.write_text(json.dumps({"child_paths": {n: str(group.with_name(n)) for n in names}}))
    # .pth files hold in a site folder alone; the CuTe DSL lies in a folder that one names
    lines = [line for pth in target.glob("*.pth") for line in pth.read_text().splitlines()]
    below = [str(target / line) for line in lines if line and (target / line).is_dir()]
    return [str(target), *below] if target.exists() else [], trouble


def prepare(work: Path, brought: Path) -> str:
    """Makes package, harness and what was brought along usable; returns what went wrong."""
    package = work / "checkout" / "moge_ops"
    package.mkdir(parents=True)
    for entry in (*(ROOT / "moge_ops").iterdir(), ROOT / "triton_kernels"):
        if not (package / entry.name).is_symlink():  # a checkout may have the kernels in both
            (package / entry.name).symlink_to(entry)
    sites, trouble = unpack(brought, work)
    paths = [str(package.parent), str(ROOT / "bench" / "ops"), *sites]
    paths += map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    os.environ.pop("MOGE_OPS_CONFIG_DIR", None)  # parts would take other tiles for this run's
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TRITON_CACHE_DIR": str(work / "kernels"),
    }
    os.environ.setdefault("MOGE_OPS_EXAMPLES", "5")  # per property test
    # a pool of a process for each core takes longer to start than the few kernels to compile
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # the tests turn deterministic algorithms on, which cuBLAS refuses without
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return trouble


def binaries(work: Path) -> int:
    """How many Triton has for an NVIDIA GPU in this run's cache."""
    return sum(1 for _ in (work / "kernels").glob("*/*.cubin"))
