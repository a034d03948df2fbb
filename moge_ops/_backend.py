"""Registers operators with the dispatcher and loads kernel modules by name.

PyTorch's dispatcher picks the kernel by device. On CPU tensors one more choice exists, for tests
and debugging: :func:`moge_ops.testing.backend` and ``MOGE_OPS_BACKEND``.
"""

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef

BACKENDS = ("torch", "reference", "triton", "ascend")


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


_cpu_backend = _checked(os.environ.get("MOGE_OPS_BACKEND", "torch"))


def use_reference(x: torch.Tensor) -> bool:
    """Whether a public function hands its call to the oracle, past the dispatcher."""
    return _cpu_backend == "reference" and x.device.type == "cpu"


@contextmanager
def override(name: str) -> Iterator[None]:
    """Reroutes CPU tensors to backend ``name``; process-wide, so that backward threads see it."""
    global _cpu_backend
    before, _cpu_backend = _cpu_backend, _checked(name)
    try:
        if name != "reference":
            _load_for_cpu("swiglu")  # what cannot be loaded raises here, not in the first call
        yield
    finally:
        _cpu_backend = before


def _load_for_cpu(op: str) -> ModuleType:
    """The kernel module that serves CPU tensors now; Triton's must be those for the interpreter."""
    if _cpu_backend == "triton":
        # read when the kernels are first imported, and never again
        os.environ.setdefault("TRITON_INTERPRET", "1")
        if not load("triton", "_common").INTERPRETED:
            raise RuntimeError(
                "the triton backend on CPU tensors needs Triton's interpreter, but the kernels "
                "were already loaded for a GPU in this process: set TRITON_INTERPRET=1 before "
                "it starts"
            )
    if _cpu_backend == "ascend" and ascend_build() == "cann":
        raise RuntimeError(
            "the ascend backend on CPU tensors needs the emulator, but the extension is built for "
            "an NPU: install with MOGE_ASCEND_BACKEND=emulate"
        )
    return load(_cpu_backend, op)


def ascend_build() -> str:
    """How the extension ``moge_ops._C`` was built: "emulate", "cann", or "off: " and why."""
    note = Path(__file__).with_name("_C.txt")
    return note.read_text().strip() if note.is_file() else "off: the package was not installed"


@functools.cache
def _on_npu(op: str) -> ModuleType:
    """What serves NPU tensors: Ascend C if it was built with CANN, else torch as on any device."""
    return load("ascend" if ascend_build() == "cann" else "torch", op)


@functools.cache  # not import_module on every call: it costs as much as a small kernel
def load(backend: str, op: str) -> ModuleType:
    """The kernel module of ``op`` in ``backend``.

    Raises:
        ImportError: The backend is not installed. Nothing falls back in silence.
    """
    try:
        room = backend if backend == "ascend" else f"{backend}_kernels"
        return importlib.import_module(f"moge_ops.{room}.{op}")
    except ImportError as error:
        hint = "the installation is incomplete"
        if backend == "triton":
            hint = "pip install 'moge-ops[triton]'"
        elif backend == "ascend":
            hint = f"the extension is not built: {ascend_build()}"
        raise ImportError(f"backend {backend!r} cannot be loaded: {error} ({hint})") from error


def define(schema: str, op: str, launcher: str) -> CustomOpDef:
    """Defines ``moge_ops::<schema>`` with one kernel per device, all of one signature.

    Args:
        schema: Name and schema of the operator, ``"swiglu(Tensor gate_up) -> Tensor"``.
        op: Stem of the files that hold its kernels.
        launcher: Name of the function there.
    """

    def kernel(module: Callable[[], ModuleType]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            return getattr(module(), launcher)(*args)

        return call

    name, _, signature = schema.partition("(")
    # the first kernel also serves every device that has none of its own
    definition = torch.library.custom_op(
        f"moge_ops::{name}",
        kernel(lambda: load("torch", op)),
        mutates_args=(),
        schema=f"({signature}",
    )
    definition.register_kernel("cpu")(kernel(lambda: _load_for_cpu(op)))
    # the name "npu" is refused until torch_npu has given it to this device type
    definition.register_kernel("privateuseone")(kernel(lambda: _on_npu(op)))
    triton = kernel(lambda: load("triton", op))

    def on_cuda(*args: Any) -> Any:
        with torch.cuda.device(args[0].device):  # Triton launches on the current device
            return triton(*args)

    definition.register_kernel("cuda")(on_cuda)
    return definition
