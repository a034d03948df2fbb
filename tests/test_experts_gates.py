"""Which gates of a class's own are replaced, whatever the first call is in, and which stay.

A gate is called once in a process and the answer is kept, so each test starts without answers.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", minversion="5.17")

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from transformers.integrations.moe import use_experts_implementation

from moge_ops.integrations import _experts_activation, _experts_interface
from moge_ops.integrations import transformers as moge_transformers
from moge_ops.ops._activation import Activation
from moge_ops.testing import assert_matches

moge_transformers.register()

T, E, H, F = 7, 5, 12, 9
ALPHA, LIMIT = 1.7, 0.7
CLAMPED = Activation(interleaved=True, alpha=ALPHA, limit=LIMIT, shift=1.0)
Gate = Callable[[Any, Tensor], Tensor]


@pytest.fixture(autouse=True)
def cold() -> Iterator[None]:
    _experts_activation._compared.cache_clear()
    torch.compiler.reset()
    yield
    _experts_activation._compared.cache_clear()


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[Activation]:
    """What the fused layer was called with."""
    calls, layer = [], moge_transformers.grouped_mlp

    def grouped_mlp(*args: Any, activation: Activation, **options: Any) -> Tensor:
        calls.append(activation)
        return layer(*args, activation=activation, **options)

    monkeypatch.setattr(moge_transformers, "grouped_mlp", grouped_mlp)
    return calls


def halves(pre: Tensor, limit: float = LIMIT) -> tuple[Tensor, Tensor]:
    """GPT-OSS's: the gate has a limit above, up has one on both sides."""
    return pre[..., ::2].clamp(max=limit), pre[..., 1::2].clamp(-limit, limit)


def clamped(self: Any, pre: Tensor) -> Tensor:
    gate, up = halves(pre, self.limit)
    return (up + 1) * gate * torch.sigmoid(self.alpha * gate)


def experts(gate: Gate = clamped, **attributes: Any) -> nn.Module:
    """GPT-OSS's experts with another gate; their own forward is every expert on every token."""

    class Experts(nn.Module):
        _apply_gate = gate

        def __init__(self, config: Any) -> None:
            super().__init__()
            self.gate_up_proj = nn.Parameter(torch.randn(E, H, 2 * F) * H**-0.5)
            self.down_proj = nn.Parameter(torch.randn(E, F, H) * F**-0.5)
            vars(self).update({"alpha": ALPHA, "limit": LIMIT, **attributes})

        def forward(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
            total = torch.zeros_like(x)
            for e in range(E):
                y = self._apply_gate(x @ self.gate_up_proj[e]) @ self.down_proj[e]
                total = total + y * (weights * (index == e)).sum(1, keepdim=True)
            return total

    decorated = use_experts_implementation(Experts, is_transposed=True, is_concatenated=False)
    return decorated(SimpleNamespace(_experts_implementation="moge_ops"))


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    index = torch.rand(T, E).argsort(-1)[:, :3]
    return 2.0 * torch.randn(T, H), index, torch.rand(T, 3)


def assert_own_forward(module: nn.Module) -> None:
    """The output is what the class's own forward makes of the same gate."""
    args = inputs()
    got = module(*args)
    module.config._experts_implementation = "eager"
    assert_matches(got, module(*args).double(), "y")


def in_fake_mode(module: nn.Module, x: Tensor, index: Tensor, weights: Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        module(*map(mode.from_tensor, (x, index, weights)))


def under(context: Callable[[], Any]) -> Callable[..., None]:
    def call(module: nn.Module, *args: Tensor) -> None:
        with context():
            module(*args)

    return call


def compiled(module: nn.Module, *args: Tensor) -> None:
    torch.compile(module, fullgraph=True, backend="eager")(*args)


# what the first call of a process may be in
PLACES: dict[str, Callable[..., Any]] = {
    "export": lambda m, *args: torch.export.export(m, args, strict=False),
    "fake": in_fake_mode,
    "make_fx": lambda m, *args: make_fx(m)(*args),
    "make_fx, pre-dispatch": lambda m, *args: make_fx(m, pre_dispatch=True)(*args),
    "func.grad": lambda m, x, *rest: torch.func.grad(lambda a: m(a, *rest).sum())(x),
    "func.jvp": lambda m, x, *rest: torch.func.jvp(lambda a: m(a, *rest), (x,), (x,)),
    "vmap": lambda m, x, *rest: torch.vmap(lambda a: m(a, *rest))(torch.stack([x, x])),
    "inference_mode": under(torch.inference_mode),
    "no_grad": under(torch.no_grad),
    "autocast": under(lambda: torch.autocast("cpu", torch.bfloat16)),
    "default device": under(lambda: torch.device("meta")),
    "kernel of an operator": under(torch._C._AutoDispatchBelowAutograd),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_first_call_may_be_anywhere(place: str, fused: list[Activation]) -> None:
    module = experts()
    PLACES[place](module, *inputs())
    assert set(fused) == {CLAMPED}, "the first call itself"
    fused.clear()
    assert_own_forward(module)
    assert fused == [CLAMPED], "the next one"


def test_the_first_call_may_be_compiled() -> None:
    module = experts()
    compiled(module, *inputs())
    assert _experts_activation.activation_of(module, 2 * F) == CLAMPED


def test_an_exported_program_computes_what_the_module_does() -> None:
    module, args = experts(), inputs()
    program = torch.export.export(module, args, strict=False)
    assert any("grouped_mlp" in str(node.target) for node in program.graph.nodes)
    want = module(*args)
    assert torch.equal(program.module()(*args), want)


def test_a_gate_may_be_compiled_where_the_module_is() -> None:
    inner = torch.compile(lambda gate, alpha: gate * torch.sigmoid(alpha * gate), backend="eager")

    def gate(self: Any, pre: Tensor) -> Tensor:
        gate, up = halves(pre, self.limit)
        return (up + 1) * inner(gate, self.alpha)

    module = experts(gate)
    compiled(module, *inputs())  # with a thread that waits for Dynamo, this would never end
    assert _experts_activation.activation_of(module, 2 * F) == CLAMPED


def checks_its_width(self: Any, pre: Tensor) -> Tensor:
    if pre.shape[-1] != 2 * F:
        raise ValueError(f"expected {2 * F} columns, got {pre.shape[-1]}")
    return clamped(self, pre)


def looks_up_its_dtype(self: Any, pre: Tensor) -> Tensor:
    return clamped(self, pre) * {torch.float32: 1.0}[pre.dtype]


def counts_its_bytes(self: Any, pre: Tensor) -> Tensor:
    return clamped(self, pre) * [0.0, 0.0, 0.0, 0.0, 1.0][pre.element_size()]


def asserts_its_dtype(self: Any, pre: Tensor) -> Tensor:
    assert pre.dtype is torch.float32
    return clamped(self, pre)


def checks_its_dtype(self: Any, pre: Tensor) -> Tensor:
    if pre.dtype is not torch.float32:
        raise ValueError(f"expected float32, got {pre.dtype}")
    return clamped(self, pre)


def test_a_gate_that_knows_its_width_is_replaced(fused: list[Activation]) -> None:
    assert_own_forward(experts(checks_its_width))
    assert fused == [CLAMPED]


@pytest.mark.parametrize(
    "gate", [looks_up_its_dtype, counts_its_bytes, asserts_its_dtype, checks_its_dtype]
)
def test_a_gate_that_raises_on_test_numbers_stays(gate: Gate, fused: list[Activation]) -> None:
    assert_own_forward(experts(gate))
    assert not fused


def symmetric(self: Any, pre: Tensor) -> Tensor:
    gate, up = pre[..., ::2].clamp(-self.limit, self.limit), halves(pre, self.limit)[1]
    return (up + 1) * gate * torch.sigmoid(self.alpha * gate)


def up_alone(self: Any, pre: Tensor) -> Tensor:
    gate, up = pre[..., ::2], halves(pre, self.limit)[1]
    return (up + 1) * gate * torch.sigmoid(self.alpha * gate)


def gate_alone(self: Any, pre: Tensor) -> Tensor:
    gate, up = halves(pre, self.limit)[0], pre[..., 1::2]
    return (up + 1) * gate * torch.sigmoid(self.alpha * gate)


def steeper(self: Any, pre: Tensor) -> Tensor:
    gate, up = halves(pre, self.limit)
    return (up + 1) * gate * torch.sigmoid(1.01 * self.alpha * gate)


def by_another_name(self: Any, pre: Tensor) -> Tensor:
    gate, up = halves(pre, self.limit)
    return (up + self.offset) * gate * torch.sigmoid(self.alpha * gate)


def straight_through(self: Any, pre: Tensor) -> Tensor:
    through = halves(pre, self.limit)[0] - pre[..., ::2]  # no derivative
    return clamped(self, pre) + through - through.detach()


def last_column(self: Any, pre: Tensor) -> Tensor:
    y = clamped(self, pre)
    return torch.cat([y[..., :-1], 1.01 * y[..., -1:]], -1)


def over_tokens(self: Any, pre: Tensor) -> Tensor:
    y = clamped(self, pre)
    return y - y.mean(0)


@pytest.mark.parametrize(
    "gate",
    [
        *(symmetric, up_alone, gate_alone, steeper, by_another_name),
        *(straight_through, last_column, over_tokens),
    ],
)
@pytest.mark.parametrize("width", [2 * F, 5760], ids=["narrow", "as wide as GPT-OSS"])
def test_a_gate_that_differs_stays(gate: Gate, width: int) -> None:
    assert _experts_activation.activation_of(experts(gate, offset=1.0), width) is None


@pytest.mark.parametrize("width", [4, 2 * F, 2592, 5760])
@pytest.mark.parametrize("interleaved", [True, False])
def test_a_gate_is_known_at_every_width(width: int, interleaved: bool) -> None:
    def gate(self: Any, pre: Tensor) -> Tensor:
        if not interleaved:
            pre = torch.stack(pre.chunk(2, -1), -1).flatten(-2)
        return clamped(self, pre)

    found = _experts_activation.activation_of(experts(gate), width)
    assert found == CLAMPED._replace(interleaved=interleaved)


def test_one_column_has_no_layout() -> None:
    found = _experts_activation.activation_of(experts(), 2)
    assert found == CLAMPED._replace(interleaved=False), "either is right"


def test_a_gate_of_the_instance_runs(fused: list[Activation]) -> None:
    module = experts()
    args = inputs()
    before = module(*args)
    fused.clear()
    module._apply_gate = lambda pre: 3.0 * clamped(module, pre)
    assert_matches(module(*args), 3.0 * before.double(), "y")
    assert not fused
    del module._apply_gate
    assert torch.equal(module(*args), before)


def test_a_gate_of_the_instance_replaces_the_default() -> None:
    module = experts(_experts_interface._default_apply_gate, act_fn=nn.SiLU())
    module.is_concatenated = True
    args = inputs()
    before = module(*args)
    module._apply_gate = lambda pre: 3.0 * nn.functional.silu(pre[:, :F]) * pre[:, F:]
    assert_matches(module(*args), 3.0 * before.double(), "y")


@pytest.mark.parametrize("limit", [0.0, float("inf")])
def test_a_limit_that_means_none(limit: float, fused: list[Activation]) -> None:
    def gate(self: Any, pre: Tensor) -> Tensor:
        pre = pre.clamp(-self.limit, self.limit) if self.limit else pre
        return (pre[..., 1::2] + 1) * pre[..., ::2] * torch.sigmoid(self.alpha * pre[..., ::2])

    assert_own_forward(experts(gate, limit=limit))
    assert fused == [CLAMPED._replace(limit=None)]


def test_an_unused_limit(fused: list[Activation]) -> None:
    def gate(self: Any, pre: Tensor) -> Tensor:
        return (pre[..., 1::2] + 1) * pre[..., ::2] * torch.sigmoid(self.alpha * pre[..., ::2])

    assert_own_forward(experts(gate))
    assert fused == [CLAMPED._replace(limit=None)]
