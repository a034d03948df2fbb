"""``moge-ops info``: what runs on this machine."""

import pkgutil
import platform
from collections.abc import Iterator
from importlib import metadata

import torch

from moge_ops import _backend, _extensions, ops

RUNTIMES = {
    "cann": "torch_npu on CANN",
    "host": "torch_npu on the host runtime of csrc/npu_host, which is no NPU",
}


def _version(distribution: str) -> str:
    """Read from the metadata: an import of Triton here would fix how its kernels are decorated."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _versions() -> Iterator[tuple[str, str]]:
    yield "moge_ops", _version("moge-ops")
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", torch.__version__
    for name in ("triton", "numpy", "torch-npu"):
        yield name, _version(name)
    yield "ascend c", _extensions.build("_C")


def _native() -> str:
    """Level of the instruction set, and why it is not a higher one."""
    above = [f"no {name}: {missing}" for name, missing in _extensions.cpu_levels() if missing]
    return ", ".join([_extensions.cpu_level(), *above])


def accelerators() -> list[str]:
    """The GPUs or NPUs, as PyTorch names them."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None or kind.type not in ("cuda", "npu"):
        return []
    return [f"{kind.type}:{i}" for i in range(torch.accelerator.device_count())]


def _devices() -> Iterator[tuple[str, str]]:
    yield "cpu", f"{torch.get_num_threads()} threads, native kernels: {_native()}"
    for device in accelerators():
        yield device, torch.get_device_module(device).get_device_name(device)
    runtime = _extensions.npu_runtime()
    kernels = f"; Ascend C kernels: {_extensions.npu_kernels()}"
    yield "npu", RUNTIMES[runtime] + kernels if runtime in RUNTIMES else runtime


def _probe(backend: _backend.Backend, op: str) -> str:
    """Loads one module as a call of the operator would, and says what it runs on."""
    runs_on = backend.runs_on()
    if runs_on == "interpreter":
        backend.on_cpu()  # asks for the interpreter before the first kernel loads
    _backend.load(backend.name, op)
    return runs_on


def info() -> str:
    """Versions, devices, and for each operator and backend whether it is usable, and why not."""
    lines = [f"{name:<9} {text}" for name, text in (*_versions(), *_devices())]

    names = [m.name for m in pkgutil.iter_modules(ops.__path__) if m.name[0] != "_"]
    width = max(map(len, names)) + 2
    lines += ["", "operator".ljust(width) + "".join(b.ljust(13) for b in _backend.BACKENDS)]
    reasons: dict[str, list[str]] = {}  # why not -> operators
    for op in names:
        row = op.ljust(width)
        for backend in _backend.BACKENDS.values():
            try:
                usable = _probe(backend, op)
            except Exception as error:  # any error that stops a module from loading is the answer
                usable = "no"
                reasons.setdefault(f"{backend.name}: {type(error).__name__}: {error}", []).append(
                    op
                )
            row += usable.ljust(13)
        lines.append(row)
    if reasons:
        lines.append("")
    for reason, which in reasons.items():
        lines.append(f"{'all' if which == names else ', '.join(which)}: {reason}")
    return "\n".join(line.rstrip() for line in lines)
