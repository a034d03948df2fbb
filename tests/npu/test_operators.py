"""What PyTorch asks of operators on a card: devices, streams, autograd, compilation, memory."""

import pkgutil
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import moge_ops
from moge_ops import _C, ops, testing

Hold = Callable[[int], AbstractContextManager[threading.Event]]
T, H, E, G, F = 7, 24, 8, 4, 16
SIZES = ((T, H), (T, E), (E, 2 * F, H), (E, H, F))


def leaves(device: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [(torch.randn(s) / 2).to(device, dtype).requires_grad_() for s in SIZES]


def layer(x: Tensor, logits: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    gating = moge_ops.grouped_gate(logits, G)
    routing = moge_ops.route(gating.experts, E, num_groups=G)
    return moge_ops.grouped_mlp(x, w_gate_up, w_down, gating.weights, routing)


def results(
    device: str, call: Callable[..., Tensor] = layer, inputs: list[Tensor] | None = None
) -> list[Tensor]:
    inputs = leaves(device) if inputs is None else inputs
    y = call(*inputs)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]


def oracle() -> list[Tensor]:
    inputs = [x.detach().double().requires_grad_() for x in leaves("cpu")]
    with testing.backend("reference"):
        y = layer(*inputs)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), inputs)]


def check(got: list[Tensor]) -> None:
    names = ("y", "d_x", "d_logits", "d_w_gate_up", "d_w_down")
    for name, a, b in zip(names, got, oracle(), strict=True):
        testing.assert_matches(a.cpu(), b, name, slack=5.0)


@pytest.mark.parametrize("device", ["npu:0", "npu:1"])
def test_the_tensors_device_is_the_one_that_computes(device: str) -> None:
    got = results(device)
    assert {str(x.device) for x in got} == {device}
    assert torch.npu.current_device() == 0
    check(got)


def test_tensors_of_two_devices_are_refused() -> None:
    x, _, w_gate_up, w_down = leaves("npu:0")
    routing = moge_ops.route(torch.zeros(T, 1, dtype=torch.int32), E)
    for other in ("npu:1", "cpu"):
        with pytest.raises(ValueError, match=f"on the device of x, npu:0, got {other}"):
            moge_ops.grouped_mlp(x, w_gate_up, w_down.to(other), torch.ones(T, 1).npu(), routing)


def test_threads_have_streams_of_their_own() -> None:
    inputs = {i: leaves(f"npu:{i % 2}") for i in range(4)}
    found: dict[int, list[Tensor]] = {}
    torch.npu.synchronize(0)
    torch.npu.synchronize(1)

    def run(i: int) -> None:
        torch.npu.set_device(i % 2)
        with torch.npu.stream(torch.npu.Stream()):
            found[i] = [x.cpu() for x in results(f"npu:{i % 2}", inputs=inputs[i])]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        check(found[i])
        assert all(torch.equal(a, b) for a, b in zip(found[0], found[i], strict=True))


def test_the_backward_pass_runs_on_the_stream_of_the_forward_pass(hold: Hold) -> None:
    x = torch.randn(T, 2 * F).npu().requires_grad_()
    d_act = torch.randn(T, F).npu()
    (want,) = torch.autograd.grad(moge_ops.swiglu(x), x, d_act)
    stream = torch.npu.Stream()
    torch.npu.synchronize()
    with hold(stream.npu_stream) as release:
        with torch.npu.stream(stream):
            act = moge_ops.swiglu(x)
        (d_x,) = torch.autograd.grad(act, x, d_act)
        time.sleep(0.1)
        # autograd lets the caller's stream wait for those of the backward pass: it was this one
        assert not torch.npu.current_stream().query()
        release.set()
    torch.npu.current_stream().synchronize()
    assert torch.equal(d_x.cpu(), want.cpu())


@pytest.mark.parametrize("waits", [True, False])
def test_two_streams_and_an_event(waits: bool, hold: Hold) -> None:
    """One stream gates, the other one routes: a layer whose wait was forgotten is found out."""
    logits = torch.randn(64, E).npu()
    want = moge_ops.route(moge_ops.grouped_gate(logits, G).experts, E)
    first, second = torch.npu.Stream(), torch.npu.Stream()
    torch.npu.synchronize()
    with hold(first.npu_stream) as release:
        with torch.npu.stream(first):
            gating = moge_ops.grouped_gate(logits, G)
            done = first.record_event()
        if waits:
            second.wait_event(done)
            release.set()
        with torch.npu.stream(second):
            got = moge_ops.route(gating.experts, E)
        second.synchronize()
    assert torch.equal(got.row_to_slot.cpu(), want.row_to_slot.cpu()) == waits


def test_parts_of_storages() -> None:
    def parts(device: str) -> list[Tensor]:
        around = [
            torch.nn.functional.pad(x.detach(), (3, 2, 1, 0)).requires_grad_()
            for x in leaves(device)
        ]
        inside = [x[..., 1:, 3:-2] for x in around]
        y = layer(*inside)
        gradients = torch.autograd.grad(y.square().sum(), around)
        return [y.detach(), *(x[..., 1:, 3:-2] for x in gradients)]

    check(parts("npu"))


def test_a_view_that_is_transposed() -> None:
    def call(*inputs: Tensor) -> Tensor:
        return layer(*(x.mT.contiguous().mT for x in inputs))

    check(results("npu", call))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    x, _, w_gate_up, w_down = leaves("npu")
    routing = moge_ops.route(torch.arange(T, device="npu")[:, None] % E, E)
    weights = torch.ones(T, 1, device="npu")
    with torch.autocast("npu", dtype=dtype):
        y = moge_ops.grouped_mlp(x, w_gate_up, w_down, weights, routing)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert {p.grad.dtype for p in (x, w_gate_up, w_down)} == {torch.float32}
    there = [p.detach().cpu().double() for p in (x, w_gate_up, w_down)]
    with testing.backend("reference"):
        on_cpu = moge_ops.route(torch.arange(T)[:, None] % E, E)
        want = moge_ops.grouped_mlp(*there, torch.ones(T, 1), on_cpu)
    testing.assert_matches(y.cpu(), want, "y", slack=3.0)


def test_checkpointing() -> None:
    check(results("npu", lambda *a: checkpoint(layer, *a, use_reentrant=False)))


def test_compiled() -> None:
    check(results("npu", torch.compile(layer, backend="aot_eager", fullgraph=True)))


def calls() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    x, logits, w_gate_up, w_down = leaves("npu")
    gating = moge_ops.grouped_gate(logits.detach(), G)
    routing = moge_ops.route(gating.experts, E, num_groups=G)
    maps = routing.row_to_slot, routing.slot_to_row
    op = torch.ops.moge_ops
    rows = moge_ops.permute(x.detach(), routing)
    return {
        "grouped_gate": (op.grouped_gate, (logits, G, 1, "softmax", None, None, False, 1.0, None)),
        "route": (op.route, (gating.experts, E, G)),
        "permute": (op.permute, (x, *maps)),
        "unpermute": (op.unpermute, (rows.clone().requires_grad_(), *maps, gating.weights)),
        "swiglu": (op.swiglu, (x,)),
        "grouped_gemm": (op.grouped_gemm, (rows, w_gate_up, routing.offsets)),
        "grouped_mlp": (
            op.grouped_mlp,
            (x, w_gate_up, w_down, gating.weights, *maps, routing.offsets, "output", True),
        ),
        "load_balance_loss": (op.load_balance_loss, (logits, gating.experts, "softmax")),
    }


OPERATORS = [m.name for m in pkgutil.iter_modules(ops.__path__) if m.name[0] != "_"]


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str) -> None:
    op, args = calls()[name]
    # PyTorch has its check of the registration for CPU, CUDA and XPU only
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(op, args, test_utils=checks)


def test_random_numbers_are_not_drawn() -> None:
    inputs = leaves("npu")
    before = torch.npu.get_rng_state(), torch.get_rng_state()
    results("npu", inputs=inputs)
    after = torch.npu.get_rng_state(), torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_a_forward_pass_keeps() -> None:
    """x, the pre-activation, the weights and the routing, as docs/guarantees.md says."""
    T, H, E, F, K = 512, 64, 8, 64, 4
    x = torch.randn(T, H, device="npu").requires_grad_()
    w_gate_up = torch.randn(E, 2 * F, H, device="npu").requires_grad_()
    w_down = torch.randn(E, H, F, device="npu").requires_grad_()
    logits = torch.randn(T, E, device="npu")
    gating = moge_ops.grouped_gate(logits, K)
    routing = moge_ops.route(gating.experts, E, num_groups=K)
    torch.npu.synchronize()
    before = torch.npu.memory_allocated()
    torch.npu.reset_peak_memory_stats()
    y = moge_ops.grouped_mlp(x, w_gate_up, w_down, gating.weights, routing)
    torch.npu.synchronize()
    kept = torch.npu.memory_allocated() - before
    pre, out = 4 * T * K * 2 * F, 4 * T * H
    assert pre + out <= kept <= pre + out + 4096
    peak = torch.npu.max_memory_allocated() - before
    # beside them rows [N, H], which become the product's, act [N, F], and what the cube cores hand
    # over
    ring = 4 * _C.grouped_mlp_ring(shape=_C.MlpShape(T=T, K=K, E=E, H=H, F=F))
    assert peak <= kept + 4 * T * K * (H + F) + ring + 4096
    del y
    assert torch.npu.memory_allocated() == before
