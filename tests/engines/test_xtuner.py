"""Our routers beside XTuner's own: its router files, from a checkout in the variable XTUNER.

xtuner.v1 is on no package index. A sparse checkout of its repository will do::

    git archive COMMIT xtuner/v1/module/router | tar -x -C FOLDER; XTUNER=FOLDER pytest ...
"""

import importlib
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from moge_ops.integrations import _engines
from moge_ops.integrations import xtuner as door
from moge_ops.testing import assert_matches, group_ids, rms_error

FOLDER = os.environ.get("XTUNER", "")
if not FOLDER:
    pytest.skip("needs XTUNER=folder with XTuner's sources", allow_module_level=True)
pytest.importorskip("pydantic")

HOME = "xtuner.v1.module.router"
SCALE = 2.5
NOAUX = {"n_group": 1, "topk_group": 1, "scoring_func": "sigmoid", "router_scaling_factor": SCALE}
CASES = {
    "greedy": ("Greedy", {"scoring_func": "softmax", "router_scaling_factor": 1.0}),
    "greedy scaled": ("Greedy", {"scoring_func": "softmax", "router_scaling_factor": SCALE}),
    "greedy raw": (
        "Greedy",
        {"scoring_func": "softmax", "router_scaling_factor": SCALE, "norm_topk_prob": False},
    ),
    "greedy sigmoid": ("Greedy", {"scoring_func": "sigmoid", "router_scaling_factor": 1.0}),
    "noaux": ("NoAux", NOAUX),
    "noaux raw": ("NoAux", {**NOAUX, "norm_topk_prob": False}),
}
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture(autouse=True)
def router_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """XTuner's package of routers, without the rest of it, whose imports need a GPU's libraries."""
    monkeypatch.delenv("MOGE_OPS_XTUNER", raising=False)
    _engines.leave.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "xtuner"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "moge_ops.integrations._xtuner_configs", raising=False)
    root = Path(FOLDER, "xtuner", "v1")
    for name, path in (
        ("xtuner", root.parent),
        ("xtuner.v1", root),
        ("xtuner.v1.module", root / "module"),
        ("xtuner.v1.utils", None),
        ("xtuner.v1.utils.device", None),
        ("cyclopts", None),
    ):
        module: Any = ModuleType(name)
        module.__path__ = [str(path)] if path else []
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["xtuner.v1.utils.device"].get_device = lambda: "cpu"  # type: ignore[attr-defined]
    sys.modules["cyclopts"].Parameter = lambda **options: None  # type: ignore[attr-defined]
    # a CPU has no histogram of integers, and a GPU's has their dtype
    histc = torch.histc
    monkeypatch.setattr(
        torch, "histc", lambda ids, **options: histc(ids.float(), **options).to(ids.dtype)
    )
    package = importlib.import_module(HOME)
    assert str(package.__file__).startswith(str(root))
    yield package
    for name in [name for name in sys.modules if name.startswith(HOME)]:
        del sys.modules[name]
    sys.modules.pop("moge_ops.integrations._xtuner_configs", None)


def distinct_logits(T: int, E: int, dtype: torch.dtype) -> Tensor:
    """``[T, E]``, different in each of 8 groups: random float32, or sixteenths in [-2, 2)."""
    if dtype is torch.float32:
        return torch.randn(T, E)
    order = torch.rand(T, 8, 64).argsort(-1)[..., : E // 8]
    return (order / 16.0 - 2.0).flatten(1).to(dtype)


def both(case: str, E: int) -> tuple[Any, Any]:
    """XTuner's router and ours."""
    family, options = CASES[case]
    args = {"n_routed_experts": E, "num_experts_per_tok": 8, "router_n_groups": 8, **options}
    module = sys.modules[f"{HOME}.{'greedy' if family == 'Greedy' else 'noaux_router'}"]
    theirs = getattr(module, f"{family}GroupedRouter")(**args)
    ours = getattr(door, f"{family}GroupedRouter")(**args)
    if family == "NoAux":
        theirs.e_score_correction_bias.copy_(torch.randn(E) * 0.05)
        ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def clear(router: Any, logits: Tensor, scores: Tensor) -> Tensor:
    """``[T]`` bool: rows whose choice no rounding of the scores can change."""
    wide = logits.double()
    wide = wide.sigmoid() if router.scoring_func == "sigmoid" else wide.softmax(-1)
    keys = wide + getattr(router, "e_score_correction_bias", 0.0)
    best, next_best = keys.view(len(logits), 8, -1).topk(2).values.unbind(-1)
    # two scores below 1, each off by half a unit in the last place; float32 by a little more
    return (best - next_best > max(torch.finfo(scores.dtype).eps / 2, 5e-7)).all(-1)


def exact(router: Any, logits: Tensor, ids: Tensor) -> Tensor:
    """Weights of ``ids`` by XTuner's formula; in float64 for float64."""
    scores = logits.sigmoid() if router.scoring_func == "sigmoid" else logits.softmax(-1)
    weights = scores.gather(1, ids)
    if router.norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * router.router_scaling_factor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("E", [64, 512])
@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_xtuner(case: str, E: int, dtype: torch.dtype) -> None:
    theirs, ours = both(case, E)
    rows: list[Tensor] = []
    while sum(map(len, rows)) < 10_000 and len(rows) < 3:
        drawn = distinct_logits(11_000, E, dtype)
        rows.append(drawn[clear(theirs, drawn, theirs(drawn[:1])["topk_weights"])])
    logits = torch.cat(rows)[:10_000]
    # bfloat16 sigmoids plus biases are close in most rows
    assert len(logits) == 10_000 or (dtype is torch.bfloat16 and len(logits) > 500)
    want, found = theirs(logits), ours(logits)
    assert found.keys() == want.keys()
    for key in want:
        assert (found[key].dtype, found[key].shape) == (want[key].dtype, want[key].shape), key
    for key in ("logits", "router_weights", "topk_ids", "topkens_per_expert"):
        assert torch.equal(found[key], want[key]), key

    weights = exact(theirs, logits.double(), want["topk_ids"])
    error = assert_matches(found["topk_weights"], weights, "topk_weights")
    assert error <= 1.05 * rms_error(want["topk_weights"], weights)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sigmoids_that_round_alike_are_the_same_choice(dtype: torch.dtype) -> None:
    """Without a bias, our choice is one that XTuner's own scores do not tell apart from its own."""
    theirs, ours = both("greedy sigmoid", 512)
    logits = torch.randn(1000, 512).to(dtype) * 4
    scores = theirs(logits)["router_weights"]
    chosen = [scores.gather(1, router(logits)["topk_ids"]) for router in (theirs, ours)]
    torch.testing.assert_close(chosen[1], chosen[0], rtol=2e-7, atol=0.0)


@pytest.mark.parametrize("replay", [False, True], ids=["chooses", "replays"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_xtuner(case: str, dtype: torch.dtype, replay: bool) -> None:
    theirs, ours = both(case, 512)
    logits = torch.randn(500, 512, dtype=dtype)
    logits = logits[clear(theirs, logits, logits)]
    given = torch.randint(512, (len(logits), 8)) if replay else None  # of any group
    d_weights, d_scores = torch.randn(len(logits), 8), torch.randn(*logits.shape)
    grads = []
    for router in (theirs, ours):
        leaf = logits.clone().requires_grad_()
        found = router(leaf, given)
        outputs = [found["topk_weights"], found["router_weights"]]
        (grad,) = torch.autograd.grad(
            outputs, leaf, [d_weights.to(outputs[0]), d_scores.to(outputs[1])]
        )
        grads.append(grad)
        wide = leaf.detach().double().requires_grad_()
        # the same oracle for both: the ids are equal
        weights = exact(theirs, wide, found["topk_ids"])
        scores = wide.sigmoid() if theirs.scoring_func == "sigmoid" else wide.softmax(-1)
        if "noaux" in case:
            scores = scores + theirs.e_score_correction_bias.double()
            scores = scores / scores.sum(-1, keepdim=True)
        (want,) = torch.autograd.grad(
            [weights, scores], wide, [d_weights.double(), d_scores.double()]
        )
    assert grads[1].dtype is dtype
    # XTuner's softmax is float32 for float64 logits, too
    as_float32 = [grad.float() for grad in grads] if "sigmoid" not in case else grads
    assert_matches(as_float32[1].float(), want, "d_logits")
    assert_matches(as_float32[1].float(), grads[0].double(), "d_logits beside XTuner's")
    assert rms_error(grads[1], want) <= max(1.05 * rms_error(grads[0], want), 1e-7)


@pytest.mark.parametrize("case", CASES)
def test_replay_is_that_of_xtuner(case: str) -> None:
    theirs, ours = both(case, 512)
    logits = torch.randn(1000, 512) * 3
    for given in (group_ids(1000, 512, 8, 1).long(), torch.randint(512, (1000, 8))):
        want, found = theirs(logits, given), ours(logits, rollout_routed_experts=given)
        for key in ("logits", "router_weights", "topk_ids", "topkens_per_expert"):
            assert torch.equal(found[key], want[key]), key
            assert found[key].dtype is want[key].dtype
        weights = exact(theirs, logits.double(), given)
        error = assert_matches(found["topk_weights"], weights, "topk_weights")
        assert error <= max(1.05 * rms_error(want["topk_weights"], weights), 1e-7)


@pytest.mark.parametrize("replay", [False, True], ids=["chooses", "replays"])
@pytest.mark.parametrize("case", ["greedy", "greedy sigmoid", "noaux"])
def test_tiny_scores_shrink_as_in_xtuner(case: str, replay: bool) -> None:
    theirs, ours = both(case, 64)
    if not replay:  # the bias decides, or scores that are all zero: equal weights for any choice
        theirs.e_score_correction_bias = ours.e_score_correction_bias = torch.zeros(64)
    for level in (-20.0, -40.0, -48.0, -60.0, -110.0):
        logits = level + torch.rand(50, 64)
        if case == "greedy":
            logits[:, 63] = 0.0
        given = torch.randint(60, (50, 8)) if replay else None
        want, found = (router(logits, given)["topk_weights"] for router in (theirs, ours))
        torch.testing.assert_close(found, want, rtol=2e-5, atol=1e-30)
        shrunk = level < -45 and (replay or case != "greedy")
        assert (found.sum(-1) < 0.9 * theirs.router_scaling_factor).all() == shrunk


def test_register_swaps_the_real_classes() -> None:
    pairs = {case: both(case, 64)[0] for case in ("greedy", "noaux")}
    logits = torch.randn(20, 64)
    before = {case: router(logits) for case, router in pairs.items()}
    assert door.register() == ["GreedyGroupedRouter", "NoAuxGroupedRouter"]
    assert door.register() == ["GreedyGroupedRouter", "NoAuxGroupedRouter"]
    for case, router in pairs.items():
        assert type(router).forward.__module__ == "moge_ops.integrations.xtuner"
        after = router(logits, rollout_routed_experts=None)
        assert torch.equal(after["topk_ids"], before[case]["topk_ids"])
        torch.testing.assert_close(after["topk_weights"], before[case]["topk_weights"])
        router.top_k = 16  # XTuner's own asserts 8
        assert router(logits)["topk_ids"].shape == (20, 16)


def test_configs_travel_by_pickle_and_through_pydantic(router_package: ModuleType) -> None:
    import pydantic

    theirs = router_package
    field = theirs.GreedyRouterConfig | theirs.NoAuxRouterConfig
    model = pydantic.create_model("Model", router=(field, ...))
    options = {"norm_topk_prob": True, "use_grouped_router": True, "router_n_groups": 8}
    for name, more in (
        ("GreedyRouterConfig", {"scoring_func": "softmax", "router_scaling_factor": 1.0}),
        ("NoAuxRouterConfig", NOAUX),
    ):
        config = model(router=getattr(door, name)(**options, **more)).router
        assert isinstance(config, getattr(theirs, name))
        copy = pickle.loads(pickle.dumps(config))
        assert type(copy) is getattr(door, name)
        router = copy.build(n_routed_experts=64, num_experts_per_tok=8)
        assert type(router).__module__.startswith(HOME)
        assert type(router).forward.__module__ == "moge_ops.integrations.xtuner"
