"""What the installation built of the two extensions, and which of it runs on this machine."""

import ctypes
import functools
import os
import sys
from pathlib import Path

try:
    from moge_ops import _cpu
except ImportError:  # not built, or for another Python
    _cpu = None  # type: ignore[assignment]


@functools.cache
def build(extension: str) -> str:
    """How ``moge_ops.<extension>`` was built, or "off: " and why it was not.

    ``_C``, the Ascend C kernels: "emulate" or "cann"; ``_cpu``, the native CPU kernels: "on".
    """
    note = Path(__file__).with_name(f"{extension}.txt")
    return note.read_text().strip() if note.is_file() else "off: the package was not installed"


@functools.cache
def cpu_levels() -> list[tuple[str, str]]:
    """Levels of the instruction set, lowest first, and why each cannot run: empty if it can.

    An empty list where there are no native kernels.
    """
    return [] if _cpu is None else _cpu.levels()


@functools.cache
def cpu_level() -> str:
    """The level of the native CPU kernels, or "off: " and why there is none.

    The highest that the processor has, unless ``MOGE_OPS_CPU_ISA`` names another.

    Raises:
        ValueError: There is no level of that name.
        RuntimeError: The processor or the operating system lacks it.
    """
    if _cpu is None:
        built = build("_cpu")
        return built if built.startswith("off") else "off: moge_ops._cpu cannot be imported"
    name = os.environ.get("MOGE_OPS_CPU_ISA")
    if name is not None:
        try:
            _cpu.set_level(name)
        except (RuntimeError, ValueError) as error:
            raise type(error)(f"MOGE_OPS_CPU_ISA: {error}") from None
    lowest, missing = _cpu.levels()[0]
    return _cpu.level() or f"off: {lowest}, the lowest level: {missing}"


def npu_runtime() -> str:
    """What torch_npu runs on: "cann", "host" for the runtime of csrc/npu_host, or "off: " and why.

    A fact about the library that torch_npu has loaded; nothing is loaded to find it out.
    """
    if "torch_npu" not in sys.modules:
        return "off: torch_npu was not imported"
    return _loaded_runtime()


@functools.cache
def _loaded_runtime() -> str:
    try:
        library = ctypes.CDLL("libascendcl.so", mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
    except OSError:
        return "off: torch_npu has loaded no libascendcl.so"
    return "host" if hasattr(library, "moge_npu_host_launch") else "cann"


def npu_kernels() -> str:
    """What the Ascend C kernels run on for `npu` tensors: "npu", "emulated", or "off: " and why.

    The build with CANN belongs to CANN's runtime, and the emulated one to the host runtime: neither
    can launch on the other's streams.
    """
    return _served(build("_C"), npu_runtime())


@functools.cache
def _served(built: str, runtime: str) -> str:
    if built.startswith("off") or runtime.startswith("off"):
        return built if built.startswith("off") else runtime
    served = {("cann", "cann"): "npu", ("emulate", "host"): "emulated"}
    wrong = f"off: the extension was built with {built}, and torch_npu runs on {runtime}"
    return served.get((built, runtime), wrong)
