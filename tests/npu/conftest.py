"""torch_npu on the host runtime: `make test-npu` makes the environment and runs these files.

No other environment collects them. ATen's operators on `npu` tensors are the CPU's here, as
../conftest.py has registered them.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch

from moge_ops import _extensions


@pytest.fixture(scope="session", autouse=True)
def _on_the_host_runtime() -> None:
    assert _extensions.npu_runtime() == "host", "run these by `make test-npu`"
    assert torch.npu.device_count() == 2, "MOGE_NPU_HOST_CARDS"
    for card in range(2):  # torch_npu 2.13 aborts a backward pass if one was set and unused
        torch.zeros(1).to(f"npu:{card}")


@pytest.fixture(autouse=True)
def _first_card() -> None:
    torch.npu.set_device(0)


class Runtime:
    """The functions of the runtime that torch_npu has loaded; a call that fails raises."""

    Function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def __init__(self) -> None:
        self.library: Any = ctypes.CDLL("libascendcl.so")
        self.library.aclGetRecentErrMsg.restype = ctypes.c_char_p

    def call(self, name: str, *args: Any) -> None:
        code = getattr(self.library, name)(*args)
        if code:
            raise RuntimeError(f"{code}: {self.library.aclGetRecentErrMsg().decode()}")

    def malloc(self, count: int) -> int:
        address = ctypes.c_void_p()
        self.call("aclrtMalloc", ctypes.byref(address), ctypes.c_size_t(count), 0)
        assert address.value is not None
        return address.value

    def free(self, address: int) -> None:
        self.call("aclrtFree", ctypes.c_void_p(address))

    def synchronize(self, stream: int) -> None:
        self.call("aclrtSynchronizeStream", ctypes.c_void_p(stream))


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def stream(runtime: Runtime) -> Iterator[int]:
    """One that no other test uses: where a task has failed, all later ones do."""
    made = ctypes.c_void_p()
    runtime.call("aclrtCreateStream", ctypes.byref(made))
    assert made.value is not None
    yield made.value
    runtime.call("aclrtDestroyStream", made)


Hold = Callable[[int], AbstractContextManager[threading.Event]]


held_up: list[Any] = []  # functions that a stream may still call


@pytest.fixture
def hold(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Keeps a stream busy for the duration of a ``with``, or until the event is set."""
    # ATen fills it, and ATen waits for the stream
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)

    @contextmanager
    def held(stream: int) -> Iterator[threading.Event]:
        event = threading.Event()

        @Runtime.Function
        def function(_: object) -> None:
            event.wait(60)

        held_up.append(function)
        runtime.call("aclrtLaunchHostFunc", ctypes.c_void_p(stream), function, None)
        try:
            yield event
        finally:
            event.set()

    return held
