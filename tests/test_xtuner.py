"""XTuner's routers on our gate: what they compute, and what registering does, on stubs of XTuner.

XTuner's own router files are in ``tests/engines/test_xtuner.py``.
"""

import logging
import pickle
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from moge_ops.integrations import _engines
from moge_ops.integrations import xtuner as door
from moge_ops.testing import assert_matches, group_ids

HOME = "xtuner.v1.module.router"
NAMES = ["GreedyGroupedRouter", "NoAuxGroupedRouter"]
ARGS: dict[str, Any] = {"n_routed_experts": 32, "num_experts_per_tok": 8, "router_n_groups": 4}
NOAUX = {"scoring_func": "sigmoid", "router_scaling_factor": 2.5, "n_group": 1, "topk_group": 1}
# signatures, the attributes that are read and the keys, as at XTuner's commit b934f462
STUB = """
class RouterResults:
    logits: object
    router_weights: object
    topk_weights: object
    topk_ids: object
    topkens_per_expert: object

class {name}:
    e_score_correction_bias = None

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def forward(self, logits, rollout_routed_experts=None):
        self.n_routed_experts, self.router_n_groups, self.top_k, self.norm_topk_prob
        self.scoring_func, self.router_scaling_factor, self.e_score_correction_bias
        return "XTuner's own"
"""


def module_of(source: str, name: str) -> ModuleType:
    module = ModuleType(f"{HOME}.{name}")
    exec(source, vars(module))
    return module


Stub = dict[str, ModuleType]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """XTuner's two router files; nothing else of it is there."""
    monkeypatch.delenv("MOGE_OPS_XTUNER", raising=False)
    _engines.leave.cache_clear()
    for name in ("xtuner", "xtuner.v1", "xtuner.v1.module", HOME):
        package = ModuleType(name)
        package.__path__ = []
        monkeypatch.setitem(sys.modules, name, package)
    modules = {}
    for name, cls in (("greedy", NAMES[0]), ("noaux_router", NAMES[1])):
        modules[cls] = module_of(STUB.format(name=cls), name)
        monkeypatch.setitem(sys.modules, f"{HOME}.{name}", modules[cls])
    return modules


def own(module: ModuleType, name: str) -> bool:
    return getattr(module, name).forward is not getattr(door, name).forward


def test_register_swaps_both_also_in_models_that_are_built(stub: Stub) -> None:
    router = stub[NAMES[0]].GreedyGroupedRouter(
        n_routed_experts=32,
        router_n_groups=4,
        top_k=8,
        norm_topk_prob=True,
        scoring_func="softmax",
        router_scaling_factor=1.0,
    )
    logits = torch.randn(3, 32)
    assert router.forward(logits) == "XTuner's own"
    assert door.register() == NAMES
    assert door.register() == NAMES
    assert not any(own(module, name) for name, module in stub.items())
    want = door.GreedyGroupedRouter(**ARGS)(logits)
    found = router.forward(logits, rollout_routed_experts=None)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], want[key]) for key in want)


def test_the_variable_switches_it_off(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MOGE_OPS_XTUNER", "0")
    assert door.register() == []
    assert all(own(module, name) for name, module in stub.items())
    assert not caplog.records


def foreign(self: Any, logits: Any, rollout_routed_experts: Any = None) -> str:
    return "another plug-in's"


def without(what: str, other: str = "") -> str:
    source = STUB.format(name=NAMES[0])
    assert what in source
    return source.replace(what, other)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (without("class GreedyGroupedRouter", "class Other"), "there is no class"),
        (without(", rollout_routed_experts=None"), "forward must take"),
        (without("self.router_n_groups, "), "must read router_n_groups, and"),
        (without("topkens_per_expert", "tokens_per_expert"), "RouterResults must have"),
        (without("class RouterResults", "class Results"), "RouterResults must have"),
    ],
    ids=["no class", "parameters", "attributes", "results", "no results"],
)
def test_a_changed_xtuner_is_left_with_one_warning(
    stub: Stub, caplog: pytest.LogCaptureFixture, source: str, words: str
) -> None:
    vars(stub[NAMES[0]]).clear()
    stub[NAMES[0]].__name__ = f"{HOME}.greedy"
    exec(source, vars(stub[NAMES[0]]))
    with caplog.at_level(logging.WARNING, "moge_ops"):
        assert door.register() == NAMES[1:]  # the other is as it was
        assert door.register() == NAMES[1:]
    (record,) = caplog.records
    assert words in record.getMessage()
    assert "XTuner of an unknown version" in record.getMessage()
    left = getattr(stub[NAMES[0]], NAMES[0], None)
    assert left is None or left.forward is not door.GreedyGroupedRouter.forward


def test_another_plug_in_is_left_alone(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    stub[NAMES[1]].NoAuxGroupedRouter.forward = foreign
    assert door.register() == NAMES[:1]
    assert stub[NAMES[1]].NoAuxGroupedRouter.forward is foreign
    assert f"has been replaced by {__name__} already" in caplog.text


@pytest.mark.parametrize("error", [None, RuntimeError("no CUDA here")], ids=["absent", "broken"])
def test_without_xtuner_there_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    _engines.leave.cache_clear()
    if error is None:
        monkeypatch.setitem(sys.modules, "xtuner", None)
    else:

        def fails(name: str) -> ModuleType:
            raise error

        monkeypatch.setattr(_engines, "importlib", SimpleNamespace(import_module=fails))
    assert door.register() == []
    (record,) = caplog.records
    assert f"{HOME} cannot be imported" in record.getMessage()


def expected(
    logits: Tensor, given: Tensor | None, *, score: str, bias: Tensor | None, norm: bool, by: float
) -> tuple[Tensor, Tensor]:
    """Weights and ids of XTuner's formula in float64, for the sizes of ARGS."""
    E, G, K = 32, 4, 8
    scores = logits.sigmoid() if score == "sigmoid" else logits.softmax(-1)
    ids = given
    if ids is None:
        keys = scores if bias is None else scores + bias
        ids = keys.view(-1, G, E // G).topk(K // G).indices + torch.arange(0, E, E // G)[:, None]
        ids = ids.flatten(1)
    weights = scores.gather(1, ids)
    if norm:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * by, ids


CASES = {
    "greedy": (door.GreedyGroupedRouter, {"scoring_func": "softmax"}),
    "greedy scaled": (door.GreedyGroupedRouter, {"router_scaling_factor": 2.5}),
    "greedy raw": (
        door.GreedyGroupedRouter,
        {"norm_topk_prob": False, "router_scaling_factor": 2.5},
    ),
    "greedy sigmoid": (door.GreedyGroupedRouter, {"scoring_func": "sigmoid"}),
    "noaux": (door.NoAuxGroupedRouter, NOAUX),
    "noaux raw": (door.NoAuxGroupedRouter, {**NOAUX, "norm_topk_prob": False}),
}


@pytest.mark.parametrize("replay", [False, True], ids=["chooses", "replays"])
@pytest.mark.parametrize("T", [0, 1, 33])
@pytest.mark.parametrize("case", CASES)
def test_the_formula_and_its_gradient(case: str, T: int, replay: bool) -> None:
    cls, options = CASES[case]
    router = cls(**ARGS, **options)
    bias = None
    if cls is door.NoAuxGroupedRouter:
        bias = torch.randn(32) * 0.1
        router.e_score_correction_bias.copy_(bias)
    logits = torch.randn(T, 32, requires_grad=True)
    given = group_ids(T, 32, 4, 2).flip(1).long() if replay else None
    found = router(logits=logits, rollout_routed_experts=given)

    wide = logits.detach().double().requires_grad_()
    norm, by = options.get("norm_topk_prob", True), options.get("router_scaling_factor", 1.0)
    score = options.get("scoring_func", "softmax")
    weights, ids = expected(
        wide, given, score=score, bias=None if bias is None else bias.double(), norm=norm, by=by
    )
    assert found["topk_ids"].dtype is torch.int64
    assert torch.equal(found["topk_ids"], ids)
    assert found["topk_weights"].dtype is torch.float32
    assert_matches(found["topk_weights"], weights, "topk_weights")
    counts = torch.bincount(ids.flatten(), minlength=32)
    assert torch.equal(found["topkens_per_expert"].long(), counts)
    assert found["topkens_per_expert"].dtype is (torch.int64 if bias is None else torch.float32)
    assert found["logits"] is logits

    scores = wide.sigmoid() if score == "sigmoid" else wide.softmax(-1)
    if bias is not None:
        scores = scores + bias.double()
        scores = scores / scores.sum(-1, keepdim=True)
    assert_matches(found["router_weights"], scores, "router_weights")

    # of both outputs, as in training
    d_weights, d_scores = torch.randn(T, 8), torch.randn(T, 32)
    outputs = [found["topk_weights"], found["router_weights"]]
    (d_logits,) = torch.autograd.grad(outputs, logits, [d_weights, d_scores])
    (want,) = torch.autograd.grad([weights, scores], wide, [d_weights.double(), d_scores.double()])
    assert_matches(d_logits, want, "d_logits")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("case", ["greedy", "greedy sigmoid", "noaux"])
def test_dtypes(case: str, dtype: torch.dtype) -> None:
    cls, options = CASES[case]
    found = cls(**ARGS, **options)(torch.randn(3, 32, dtype=dtype))
    want = torch.float32 if case == "greedy" else dtype  # XTuner's softmax is float32 for all
    assert found["topk_weights"].dtype is want
    assert found["topk_ids"].dtype is torch.int64


def test_given_ids_come_back_as_they_are() -> None:
    ids = group_ids(3, 32, 4, 2)
    found = door.GreedyGroupedRouter(**ARGS)(torch.randn(3, 32), ids)
    assert found["topk_ids"] is ids
    assert found["topkens_per_expert"].dtype is torch.int32


def test_weights_shrink_where_the_scores_underflow() -> None:
    """XTuner's 1e-20 in the denominator: zero for zero, a half for a sum of 1e-20."""
    router = door.GreedyGroupedRouter(**ARGS, scoring_func="sigmoid")
    for logit, share in ((-200.0, 0.0), (-48.13, 0.5), (-30.0, 1.0)):
        weights = router(torch.full((2, 32), logit))["topk_weights"]
        torch.testing.assert_close(weights.sum(-1), torch.full((2,), share), rtol=0.01, atol=0.0)
    router = door.GreedyGroupedRouter(**ARGS)
    logits = torch.zeros(1, 32)
    logits[:, 31] = 200.0
    # the others' scores are zero, and they are replayed
    weights = router(logits, torch.arange(8).view(1, 8))["topk_weights"]
    assert torch.equal(weights, torch.zeros(1, 8))


def test_wrong_groupings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_routed_experts=32\], got \[2, 16\]"):
        door.GreedyGroupedRouter(**ARGS)(torch.randn(2, 16))
    with pytest.raises(ValueError, match=r"n_routed_experts=32\], got \[32\]"):
        door.GreedyGroupedRouter(**ARGS)(torch.randn(32))
    with pytest.raises(ValueError, match="router_n_groups=4, got 6"):
        door.NoAuxGroupedRouter(**{**ARGS, "num_experts_per_tok": 6}, **NOAUX)(torch.randn(2, 32))
    with pytest.raises(ValueError, match="num_groups"):
        door.GreedyGroupedRouter(**{**ARGS, "router_n_groups": 5, "num_experts_per_tok": 5})(
            torch.randn(2, 32)
        )
    with pytest.raises(ValueError, match="experts must be"):
        door.GreedyGroupedRouter(**ARGS)(torch.randn(2, 32), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(NotImplementedError, match="sigmoid"):
        door.NoAuxGroupedRouter(**ARGS, **{**NOAUX, "scoring_func": "softmax"})(torch.randn(2, 32))


@pytest.mark.parametrize("case", ["greedy", "noaux"])
def test_the_debug_variable_makes_the_choice_random(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, options = CASES[case]
    router, logits = cls(**ARGS, **options), torch.zeros(400, 32)
    monkeypatch.setenv("XTUNER_ROUTER_DEBUG", "true")
    found = router(logits)
    groups = found["topk_ids"].view(400, 4, 2) // 8
    assert torch.equal(groups, torch.arange(4).view(1, 4, 1).expand_as(groups))
    assert found["topkens_per_expert"].min() > 50  # 100 on the average
    assert found["topkens_per_expert"].max() < 150


@pytest.mark.slow
@pytest.mark.parametrize("case", ["greedy", "noaux"])
def test_it_compiles_in_one_graph(case: str) -> None:
    """XTuner compiles its decoder layer with ``fullgraph=True``."""
    cls, options = CASES[case]
    router, logits = cls(**ARGS, **options), torch.randn(5, 32)
    found = torch.compile(router, backend="eager", fullgraph=True)(logits)
    want = router(logits)
    assert all(torch.equal(found[key], want[key]) for key in want)


def test_the_configs_survive_pydantic_and_pickling(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that unpickles a model's config builds routers that run on moge_ops."""
    pydantic = pytest.importorskip("pydantic")

    class Config(pydantic.BaseModel):
        router_n_groups: int

        def build(self, n_routed_experts: int, num_experts_per_tok: int) -> str:
            return "built"

    configs = {
        name: type(name, (Config,), {"__module__": HOME, "__qualname__": name})
        for name in door.CONFIGS
    }
    for name, config in configs.items():
        monkeypatch.setattr(sys.modules[HOME], name, config, raising=False)
    monkeypatch.delitem(sys.modules, "moge_ops.integrations._xtuner_configs", raising=False)
    for name, base in configs.items():
        ours = getattr(door, name)
        assert issubclass(ours, base)
        model = pydantic.create_model("Model", router=(base, ...))(router=ours(router_n_groups=4))
        router = pickle.loads(pickle.dumps(model.router))
        assert type(router) is ours
        assert own(stub[NAMES[0]], NAMES[0]) == (name == door.CONFIGS[0])
        assert router.build(32, 8) == "built"
        assert not own(stub[NAMES[0]], NAMES[0])
    monkeypatch.delitem(sys.modules, "moge_ops.integrations._xtuner_configs")
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        door.other  # noqa: B018
