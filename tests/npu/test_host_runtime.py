"""The host runtime under torch_npu: memory, streams and events, and the faults that it finds."""

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_npu

from moge_ops import _C, testing

ROOT = Path(__file__).resolve().parents[2]
Runtime = Any  # of conftest.py
Hold = Callable[[int], AbstractContextManager[threading.Event]]
N, F = 64, 32
BYTES = 4 * N * F  # of a result in float32


def in_a_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import torch\n{code}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def swiglu(stream: int, gate_up: int, act: int) -> None:
    _C.swiglu_fwd(gate_up=gate_up, act=act, N=N, F=F, dtype=_C.DType.float32, stream=stream)


class TestMemory:
    def test_copies_of_every_kind(self) -> None:
        x = torch.randn(1000, 7)
        pinned = torch.empty(1000, 7).pin_memory()
        there = x.npu()
        beside = there.to("npu:1")
        pinned.copy_(beside, non_blocking=True)
        torch.npu.synchronize(1)
        assert (there.device.index, beside.device.index) == (0, 1)
        assert torch.equal(pinned, x)
        assert torch.equal(there.cpu(), x)

    def test_nothing_starts_as_zeros(self, runtime: Runtime) -> None:
        address = runtime.malloc(64)
        assert ctypes.string_at(address, 64) == b"\xff" * 64
        runtime.free(address)

    def test_a_card_that_is_full_is_an_error_to_be_met(self) -> None:
        code = """
x = torch.empty(40 << 20, dtype=torch.uint8, device="npu")
try:
    torch.empty(40 << 20, dtype=torch.uint8, device="npu")
except torch.OutOfMemoryError as error:
    print("met", "64.00 MiB" in str(error))
del x
torch.npu.empty_cache()
print(torch.empty(60 << 20, dtype=torch.uint8, device="npu").numel())
"""
        done = in_a_new_process(code, MOGE_NPU_HOST_MEMORY="64")
        assert done.stdout.splitlines()[-2:] == ["met True", str(60 << 20)], done.stderr


class TestPointers:
    """Every pointer that a kernel is given is checked, when it is launched and when it runs."""

    def test_past_an_allocation(self, runtime: Runtime, stream: int) -> None:
        gate_up, act = runtime.malloc(2 * BYTES), runtime.malloc(BYTES)
        swiglu(stream, gate_up, act)
        with pytest.raises(
            RuntimeError, match=rf"swiglu_fwd: gate_up reaches {BYTES} bytes past its allocation"
        ):
            swiglu(stream, gate_up + BYTES, act)
        with pytest.raises(RuntimeError, match="act reaches 4 bytes past its allocation"):
            swiglu(stream, gate_up, act + 4)
        runtime.synchronize(stream)  # nothing of that was run

    def test_of_nothing(self, runtime: Runtime, stream: int) -> None:
        act = runtime.malloc(BYTES)
        with pytest.raises(RuntimeError, match="gate_up points to no memory of the cards"):
            swiglu(stream, torch.zeros(N, 2 * F).data_ptr(), act)

    def test_freed_before_the_launch(self, runtime: Runtime, stream: int) -> None:
        gate_up, act = runtime.malloc(2 * BYTES), runtime.malloc(BYTES)
        runtime.free(gate_up)
        with pytest.raises(RuntimeError, match="gate_up points to memory that was freed"):
            swiglu(stream, gate_up, act)

    def test_freed_before_its_turn(self, runtime: Runtime, stream: int, hold: Hold) -> None:
        gate_up, act = runtime.malloc(2 * BYTES), runtime.malloc(BYTES)
        with hold(stream):
            swiglu(stream, gate_up, act)
            runtime.free(gate_up)
        for _ in range(2):  # it stays the stream's error
            with pytest.raises(
                RuntimeError, match="507035: swiglu_fwd: gate_up points to memory that was freed"
            ):
                runtime.synchronize(stream)

    def test_of_a_tensor_that_is_gone(self) -> None:
        """The allocator keeps a tensor's memory for the next one, unless it is told not to."""
        code = """
from moge_ops import _C
x, act = torch.randn(64, 64).npu(), torch.empty(64, 32, device="npu")
stream, gate_up = torch.npu.current_stream().npu_stream, x.data_ptr()
torch.npu.synchronize()
del x
_C.swiglu_fwd(gate_up=gate_up, act=act.data_ptr(), N=64, F=32, dtype=_C.DType.float32,
              stream=stream)
"""
        done = in_a_new_process(code, PYTORCH_NO_NPU_MEMORY_CACHING="1")
        assert "swiglu_fwd: gate_up points to memory that was freed" in done.stderr

    def test_of_another_card(self, runtime: Runtime, stream: int) -> None:
        act = runtime.malloc(BYTES)
        torch.npu.set_device(1)
        gate_up = runtime.malloc(2 * BYTES)
        with pytest.raises(
            RuntimeError, match="the stream is of card 0, and this thread's card is 1"
        ):
            swiglu(stream, gate_up, act)
        torch.npu.set_device(0)
        with pytest.raises(RuntimeError, match="gate_up points to memory of card 1, not of card 0"):
            swiglu(stream, gate_up, act)

    def test_a_kernel_that_breaks_a_rule_fails_its_stream(
        self, runtime: Runtime, stream: int
    ) -> None:
        """An error of the emulator comes with the next synchronisation, as from a card."""
        gate_up = runtime.malloc(2 * BYTES)
        swiglu(stream, gate_up, gate_up)  # the output over the input
        with pytest.raises(RuntimeError, match=r"507035: swiglu_fwd: allocations .* overlap"):
            runtime.synchronize(stream)


class TestStreams:
    def test_a_stream_does_not_hold_up_the_program(self, hold: Hold) -> None:
        stream = torch.npu.Stream()
        x = torch.randn(N, 2 * F).npu()
        torch.npu.synchronize()
        with hold(stream.npu_stream), torch.npu.stream(stream):
            y = torch.ops.moge_ops.swiglu(x)
            assert not stream.query()
        stream.synchronize()
        testing.assert_matches(y.cpu(), reference(x), "y")

    @pytest.mark.parametrize("waits", [True, False])
    def test_a_missing_wait_gives_wrong_data(self, waits: bool, hold: Hold) -> None:
        first, second = torch.npu.Stream(), torch.npu.Stream()
        x = torch.randn(N, 2 * F).npu()
        h = torch.zeros(N, F).npu()
        torch.npu.synchronize()
        with hold(first.npu_stream) as release:
            swiglu(first.npu_stream, x.data_ptr(), h.data_ptr())
            done = first.record_event()
            if waits:
                second.wait_event(done)
                release.set()
            with torch.npu.stream(second):
                y = torch.ops.moge_ops.swiglu(h)
            second.synchronize()
        torch.npu.synchronize()
        assert torch.equal(y.cpu(), torch.ops.moge_ops.swiglu(h).cpu()) == waits

    def test_a_seed_finds_a_missing_wait(self) -> None:
        """Nothing is held up, and the program gives the first stream time; yet it rests."""
        code = """
import time
first, second = torch.npu.Stream(), torch.npu.Stream()
source, got = torch.ones(8).pin_memory(), torch.empty(8).pin_memory()
for waits in (True, False):
    wrong = 0
    for _ in range(200):
        there = torch.zeros(8).npu()
        torch.npu.synchronize()
        with torch.npu.stream(first):
            there.copy_(source, non_blocking=True)
        if waits:
            second.wait_stream(first)
        time.sleep(0.001)
        with torch.npu.stream(second):
            got.copy_(there, non_blocking=True)
        torch.npu.synchronize()
        wrong += got.tolist() != [1.0] * 8
    print(wrong)
began = time.perf_counter()
events = [first.record_event() for _ in range(100)]
first.synchronize()
print(time.perf_counter() - began)
"""
        done = in_a_new_process(code, MOGE_NPU_HOST_SEED="3")
        with_waits, without, seconds = done.stdout.split()[-3:]
        assert with_waits == "0"
        assert int(without) > 0
        assert float(seconds) > 0.03  # 100 tasks, of which about half come after a rest

    def test_events_tell_the_order_and_the_time(self, hold: Hold) -> None:
        stream = torch.npu.Stream()
        before, after = (torch.npu.Event(enable_timing=True) for _ in range(2))
        with torch.npu.stream(stream):
            before.record()
            before.synchronize()
            with hold(stream.npu_stream) as release:
                after.record()
                assert before.query()
                assert not after.query()
                threading.Timer(0.05, release.set).start()
                after.synchronize()
        assert 40.0 < before.elapsed_time(after) < 5000.0

    def test_an_event_tells_of_an_error(self, runtime: Runtime, stream: int, hold: Hold) -> None:
        gate_up, act = runtime.malloc(2 * BYTES), runtime.malloc(BYTES)
        event = ctypes.c_void_p()
        runtime.call("aclrtCreateEventExWithFlag", ctypes.byref(event), 0)
        with hold(stream):
            swiglu(stream, gate_up, act)
            runtime.free(act)
            runtime.call("aclrtRecordEvent", event, ctypes.c_void_p(stream))
        with pytest.raises(RuntimeError, match="act points to memory that was freed"):
            runtime.call("aclrtSynchronizeEvent", event)

    def test_a_wait_may_have_a_limit(self, runtime: Runtime, stream: int, hold: Hold) -> None:
        with hold(stream), pytest.raises(RuntimeError, match=r"did not end within 10 ms"):
            runtime.call("aclrtSynchronizeStreamWithTimeout", ctypes.c_void_p(stream), 10)

    def test_pinned_memory_is_copied_later(self, hold: Hold) -> None:
        """What a program writes too early is what the card gets, as on a card."""
        pinned = torch.zeros(8).pin_memory()
        stream = torch.npu.Stream()
        there = torch.empty(8, device="npu")
        torch.npu.synchronize()
        with torch.npu.stream(stream):
            with hold(stream.npu_stream):
                there.copy_(pinned, non_blocking=True)
                pinned.fill_(1.0)
            stream.synchronize()
        assert there.cpu().tolist() == [1.0] * 8

    def test_memory_that_another_stream_uses_is_not_given_away(self, hold: Hold) -> None:
        stream = torch.npu.Stream()
        for recorded in (True, False):
            x = torch.empty(1 << 16, device="npu")
            address = x.data_ptr()
            torch.npu.synchronize()
            with hold(stream.npu_stream):
                if recorded:
                    x.record_stream(stream)
                del x
                again = torch.empty(1 << 16, device="npu")
                assert (again.data_ptr() != address) == recorded
            torch.npu.synchronize()
            del again


def test_the_launch_code_of_the_cann_build_runs_here(tmp_path: Path) -> None:
    """It includes the wheel's headers, and calls functions of the runtime that exist."""
    library = tmp_path / "launch.so"
    include = Path(torch_npu.__file__).parent / "include"
    runtime = os.environ["LD_LIBRARY_PATH"].split(os.pathsep)[0]
    command = ["c++", "-std=c++17", "-shared", "-fPIC", "-DMOGE_ASCEND_CANN"]
    command += [f"-I{include}", f"-I{include}/third_party/acl/inc"]
    command += [str(ROOT / "csrc" / "launch.cpp"), f"-L{runtime}", "-lascendcl"]
    subprocess.run([*command, "-Wl,--no-undefined", "-o", str(library)], check=True)
    blocks = ctypes.CDLL(str(library))["_ZN4moge6BlocksElNS_5CoresE"]
    blocks.restype, blocks.argtypes = ctypes.c_int64, [ctypes.c_int64, ctypes.c_int]
    vector, cube = 0, 2  # moge::Cores
    assert [blocks(n, vector) for n in (0, 7, 1000)] == [1, 7, 48]
    assert [blocks(n, cube) for n in (0, 7, 1000)] == [1, 7, 24]


def reference(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.cpu().double().chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def test_a_card_has_a_context_once_it_was_set() -> None:
    code = """
import torch_npu
has = torch_npu._C._npu_hasPrimaryContext
torch.npu.set_device(0)
before = has(1)
torch.npu.set_device(1)
torch.npu.set_device(0)
print(before, has(1))
"""
    done = in_a_new_process(code)
    assert done.stdout.split()[-2:] == ["False", "True"], done.stderr


class TestRefusals:
    def test_a_card_that_is_not_there(self) -> None:
        with pytest.raises(RuntimeError, match="there is no card 5, MOGE_NPU_HOST_CARDS is 2"):
            torch.npu.set_device(5)

    def test_beside_a_real_cann(self, tmp_path: Path) -> None:
        done = in_a_new_process("torch.zeros(1).npu()", ASCEND_TOOLKIT_HOME=str(tmp_path))
        assert done.returncode != 0
        assert f"stands in for CANN where there is none, and {tmp_path} is here" in done.stderr

    def test_a_stream_that_is_gone(self, runtime: Runtime) -> None:
        made = ctypes.c_void_p()
        runtime.call("aclrtCreateStream", ctypes.byref(made))
        runtime.call("aclrtDestroyStream", made)
        with pytest.raises(RuntimeError, match="the stream does not exist, or no longer"):
            runtime.synchronize(made.value)

    def test_a_thread_without_a_card(self, runtime: Runtime) -> None:
        said = []

        def run() -> None:
            try:
                runtime.call("aclrtSynchronizeStream", None)
            except RuntimeError as error:
                said.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert said == ["107002: aclrtSynchronizeStream: no card was set in this thread"]

    def test_a_function_that_it_has_not(self, runtime: Runtime) -> None:
        with pytest.raises(RuntimeError, match="aclmdlInitDump: the host runtime has no such"):
            runtime.call("aclmdlInitDump")
        assert runtime.library.aclopCreateAttr() == 0  # a null pointer
        done = in_a_new_process("import ctypes; ctypes.CDLL('libascendcl.so').aclopCreateAttr()")
        assert "npu_host: aclopCreateAttr: the host runtime has no such function" in done.stderr
