"""The file for LMDeploy's custom_module_map, against stand-ins with the signatures of 0.18.0."""

import importlib
import logging
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from moge_ops.integrations import _engines, lmdeploy
from moge_ops.ops.grouped_gate import grouped_gate

E, G, K = 64, 8, 16
CHOOSER, CONFIG = lmdeploy.CHOOSER[1], lmdeploy.CONFIG[1]

# executed in modules of each test, since register() asks where a method comes from
CHOOSER_FILE = """
class DefaultSoftmaxTopKImpl:
    def __init__(self, top_k, dim=-1, n_groups=-1):
        self.top_k, self.dim, self.n_groups = top_k, dim, n_groups

    def forward(self, x):
        return "unpatched", self.n_groups
"""
CONFIG_FILE = """
from dataclasses import dataclass

@dataclass
class ModelConfig:
    hidden_size: int
    custom_module_map: str = None

    @classmethod
    def from_pretrained(cls, path, dtype="auto", **kwargs):
        return cls(len(path), **kwargs)
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MOGE_OPS_LMDEPLOY", raising=False)
    for cached in (lmdeploy.register, _engines.leave):
        cached.cache_clear()
    yield
    for cached in (lmdeploy.register, _engines.leave):
        cached.cache_clear()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """LMDeploy's two files that are patched, and the packages above them."""
    homes = {}
    for (home, name), text in ((lmdeploy.CHOOSER, CHOOSER_FILE), (lmdeploy.CONFIG, CONFIG_FILE)):
        parts = home.split(".")
        for n in range(1, len(parts) + 1):
            made = ModuleType(".".join(parts[:n]))
            made.__path__ = []
            monkeypatch.setitem(sys.modules, made.__name__, made)
        exec(text, vars(made))
        homes[name] = made
    return SimpleNamespace(**{name: vars(made)[name] for name, made in homes.items()}, homes=homes)


def executed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The file as update_custom_module_map executes it: its folder on the path, a name of its own.

    It is executed anew under the same name each time, as there by ``load_module``.
    """
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(lmdeploy.MODULE_MAP_FILE).parent)])
    found = ModuleType("map_mod")
    monkeypatch.setitem(sys.modules, "map_mod", found)
    found.__file__ = lmdeploy.MODULE_MAP_FILE
    SourceFileLoader("map_mod", lmdeploy.MODULE_MAP_FILE).exec_module(found)
    return found


def route(engine: SimpleNamespace, x: torch.Tensor, n_groups: int = G, **fields: Any) -> Any:
    return engine.DefaultSoftmaxTopKImpl(K, n_groups=n_groups, **fields).forward(x)


def unpatched(engine: SimpleNamespace) -> bool:
    return bool(route(engine, torch.zeros(1, E))[0] == "unpatched")


def test_importing_the_file_changes_nothing(engine: SimpleNamespace) -> None:
    assert lmdeploy.__file__ == lmdeploy.MODULE_MAP_FILE
    importlib.reload(lmdeploy)
    assert unpatched(engine)
    assert engine.ModelConfig.from_pretrained("model").custom_module_map is None


def test_executing_the_file_lets_the_gate_choose(
    engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="moge_ops"):
        mapped = executed(monkeypatch)
        fused = engine.DefaultSoftmaxTopKImpl.forward
        executed(monkeypatch)  # for a draft model
    assert mapped.MODULE_MAP == {}
    assert engine.DefaultSoftmaxTopKImpl.forward is fused
    assert caplog.messages == ["moge_ops: the fused gate routes models with router_n_groups."]
    assert not unpatched(engine)


def test_workers_are_told_of_the_file(engine: SimpleNamespace) -> None:
    lmdeploy.register()
    config = engine.ModelConfig.from_pretrained("model", dtype="bfloat16")
    assert config == engine.ModelConfig(5, lmdeploy.MODULE_MAP_FILE)
    own = engine.ModelConfig.from_pretrained("model", custom_module_map="the user's.py")
    assert own.custom_module_map == "the user's.py"

    class Derived(engine.ModelConfig):  # type: ignore[misc, name-defined]
        pass

    assert type(Derived.from_pretrained("model")) is Derived


def test_the_command_line_is_lmdeploys(
    engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    cli = ModuleType("lmdeploy.cli")
    cli.run = lambda: seen.append((sys.argv[1:], unpatched(engine)))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lmdeploy.cli", cli)
    monkeypatch.setattr(sys, "argv", ["lmdeploy", "serve", "api_server", "FOLDER"])
    runpy.run_path(lmdeploy.MODULE_MAP_FILE, run_name="__main__")
    assert seen == [(["serve", "api_server", "FOLDER"], False)]


def test_the_folder_leaves_the_path(
    engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed(monkeypatch)
    # a package of LMDeploy's environment that is not there must not be found here
    assert str(Path(lmdeploy.MODULE_MAP_FILE).parent) not in sys.path


@pytest.mark.parametrize("T", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_chooser_keeps_its_contract(
    engine: SimpleNamespace, dtype: torch.dtype, T: int
) -> None:
    lmdeploy.register()
    x = torch.randn(T, E).to(dtype)
    with torch.inference_mode():
        weights, ids = route(engine, x)
    want = grouped_gate(x, G, K // G)  # the experts' side renormalises
    assert weights.dtype == torch.float32
    assert ids.dtype == torch.int64  # which the expert-parallel paths assert
    assert torch.equal(weights, want.weights.float())
    assert torch.equal(ids, want.experts.long())


def test_other_choosers_are_the_engines(engine: SimpleNamespace) -> None:
    lmdeploy.register()
    assert route(engine, torch.zeros(2, E), n_groups=-1) == ("unpatched", -1)
    assert route(engine, torch.zeros(2, 3, E)) == ("unpatched", G)
    assert route(engine, torch.zeros(2, E), dim=0) == ("unpatched", G)
    assert route(engine, torch.zeros(2, E), dim=1)[0].shape == (2, K)


def test_groups_that_do_not_divide_are_refused(engine: SimpleNamespace) -> None:
    lmdeploy.register()
    with pytest.raises(ValueError, match="multiple of the router's 5 groups, got 16"):
        route(engine, torch.zeros(2, E), n_groups=5)
    with pytest.raises(ValueError, match="60"):
        route(engine, torch.zeros(2, 60))


def test_it_is_switched_off(engine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOGE_OPS_LMDEPLOY", "0")
    assert executed(monkeypatch).MODULE_MAP == {}
    assert unpatched(engine)
    assert engine.ModelConfig.from_pretrained("model").custom_module_map is None


def warning(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = [r.getMessage() for r in caplog.records if r.name == "moge_ops"]
    assert line.startswith("moge_ops leaves LMDeploy ")
    assert line.endswith("It runs with its own code, as without moge_ops.")
    return line


def test_without_lmdeploy_there_is_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lmdeploy", None)
    lmdeploy.register()
    lmdeploy.register.cache_clear()
    lmdeploy.register()
    assert f"{lmdeploy.CHOOSER[0]} cannot be imported: " in warning(caplog)


@pytest.mark.parametrize("error", [RuntimeError, OSError, AssertionError, AttributeError])
def test_an_engine_that_cannot_be_imported_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    class Broken(MetaPathFinder):
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == "lmdeploy":
                raise error("libcudart.so.13")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    lmdeploy.register()
    assert f"{error.__name__}: libcudart.so.13" in warning(caplog)


@pytest.mark.parametrize(
    ("cls", "name", "method", "reason"),
    [
        (CHOOSER, "forward", "", "there is no"),
        (
            CHOOSER,
            "forward",
            "def found(self, x, mask): ...",
            "take (self, x), and takes",
        ),
        (
            CHOOSER,
            "__init__",
            "def found(self, top_k): ...",
            "n_groups), and takes",
        ),
        (CHOOSER, "forward", "found = len", "replaced by builtin"),
        (CONFIG, "from_pretrained", "", "there is no"),
        (CONFIG, "__init__", "def found(self, hidden): ...", "has no custom_module_map"),
    ],
    ids=["missing", "signature", "too old", "builtin", "no config", "no map"],
)
def test_another_class_is_left(
    engine: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    cls: str,
    name: str,
    method: str,
    reason: str,
) -> None:
    owner = getattr(engine, cls)
    delattr(owner, name)
    if method:
        exec(method, vars(engine.homes[cls]))
        setattr(owner, name, vars(engine.homes[cls])["found"])
    before = [dict(vars(c)) for c in (engine.DefaultSoftmaxTopKImpl, engine.ModelConfig)]
    lmdeploy.register()
    assert reason in warning(caplog)
    assert before == [dict(vars(c)) for c in (engine.DefaultSoftmaxTopKImpl, engine.ModelConfig)]


@pytest.mark.parametrize("cls", [CHOOSER, CONFIG])
def test_a_missing_class_is_left(
    engine: SimpleNamespace, caplog: pytest.LogCaptureFixture, cls: str
) -> None:
    delattr(engine.homes[cls], cls)
    lmdeploy.register()
    assert f".{cls}" in warning(caplog)
    assert unpatched(engine)


def test_a_method_that_others_replaced_is_left(
    engine: SimpleNamespace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(self: Any, x: torch.Tensor) -> Any:
        return "others", x

    monkeypatch.setattr(engine.DefaultSoftmaxTopKImpl, "forward", other)
    lmdeploy.register()
    assert route(engine, torch.zeros(1, E))[0] == "others"
    assert f"replaced by {__name__} already" in warning(caplog)


@pytest.mark.slow
def test_the_path_is_printed_as_the_page_says() -> None:
    code = "from moge_ops.integrations import lmdeploy; print(lmdeploy.MODULE_MAP_FILE)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"{lmdeploy.__file__}\n"
