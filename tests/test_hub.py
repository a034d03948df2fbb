"""What tools/hub.py writes for the kernels hub, without the library that loads it."""

import ast
import base64
import hashlib
import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.torch_version import TorchVersion

import moge_ops
from moge_ops.testing import assert_matches, group_ids, spaced_logits

ROOT = Path(__file__).resolve().parents[1]
T, H, E, G, WIDTH = 13, 16, 32, 8, 24


def load(name: str, path: Path) -> ModuleType:
    """As the hub's library does: a package under its id, wherever it lies."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_variant(folder: Path) -> Any:
    ident = json.loads((folder / "metadata.json").read_text())["id"]
    return sys.modules.get(ident) or load(ident, folder / "__init__.py")


hub = load("hub_tool", ROOT / "tools" / "hub.py")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub")
    hub.write(out, hub.REPO, 3)
    return out / "build"


@pytest.fixture(params=hub.VARIANTS)
def variant(request: pytest.FixtureRequest, build: Path) -> Path:
    return build / str(request.param)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources, for changes, as the root that the script reads."""
    for folder in ("moge_ops", "triton_kernels", "tools"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / "tree" / folder, ignore=ignored)
    shutil.copy(ROOT / "LICENSE", tmp_path / "tree")
    monkeypatch.setattr(hub, "ROOT", tmp_path / "tree")
    return tmp_path / "tree"


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_metadata(variant: Path) -> None:
    metadata = json.loads((variant / "metadata.json").read_text())
    assert metadata["name"] == "moge-ops"
    assert metadata["version"] == 3
    assert metadata["license"] == "Apache-2.0"
    assert metadata["backend"] == {"type": variant.name.removeprefix("torch-")}
    assert metadata["python-depends"] == []
    assert metadata["id"].startswith(f"_moge_ops_{metadata['backend']['type']}_")
    assert metadata["id"].isidentifier()
    files = {
        str(path.relative_to(variant)): base64.b64encode(hashlib.sha256(path.read_bytes()).digest())
        for path in variant.rglob("*")
        if path.is_file() and path.name != "metadata.json" and path.suffix != ".pyc"
    }
    assert metadata["digest"]["algorithm"] == "sha256"
    assert metadata["digest"]["files"] == {name: code.decode() for name, code in files.items()}


def test_build_toml_and_card(build: Path) -> None:
    text = (build.parent / "build.toml").read_text()
    for line in ('name = "moge-ops"', "version = 3", "edition = 5", f'repo-id = "{hub.REPO}"'):
        assert line in text.splitlines()
    card = (build / "CARD.md").read_text()
    for name in (*load_variant(build / "torch-cpu").__all__, "GatedSiluExperts"):
        assert name == "layers" or f"`{name}`" in card


def test_the_oldest_torch_is_that_of_the_package() -> None:
    assert f'"torch>={".".join(map(str, hub.TORCH))}"' in (ROOT / "pyproject.toml").read_text()


def test_an_older_torch_is_refused(variant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1+cu128"))
    with pytest.raises(ImportError, match=r"needs torch 2\.10 or newer, got 2\.9\.1"):
        load("an_older_torch", variant / "__init__.py")


def test_imports_are_relative_or_torch_or_the_standard_library(variant: Path) -> None:
    for path in variant.rglob("*.py"):
        allowed = {*sys.stdlib_module_names, "torch"}
        allowed |= {"triton"} if path.parent.name == "triton_kernels" else set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert str(node.module).partition(".")[0] in allowed, path
            elif isinstance(node, ast.ImportFrom):
                base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                assert base.is_relative_to(variant), path
                for alias in node.names:  # a module of the folder, or a name in one
                    places = (base / f"{alias.name}.py", base.parent / f"{base.name}.py")
                    native = alias.name == "_cpu"  # which the package can lack
                    assert native or any(place.is_file() for place in places), (path, alias.name)


def test_no_code_names_the_package(variant: Path) -> None:
    ident = json.loads((variant / "metadata.json").read_text())["id"]
    for path in variant.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = getattr(node, "attr", None) or getattr(node, "value", None)
            word = isinstance(text, str) and " " not in text and "\n" not in text
            assert not word or "moge_ops" not in str(text).replace(ident, ""), path


def test_sources_keep_their_lines(variant: Path) -> None:
    source = (ROOT / "moge_ops" / "ops" / "grouped_mlp.py").read_text().splitlines()
    copy = (variant / "ops" / "grouped_mlp.py").read_text().splitlines()
    changed = [(a, b) for a, b in zip(source, copy, strict=True) if a != b]
    assert "from moge_ops import _backend, _checks" in dict(changed)
    assert all(a.startswith("from moge_ops") and b.startswith("from .") for a, b in changed)


def test_it_exports_the_operators_and_the_layers(variant: Path) -> None:
    package = load_variant(variant)
    operators = {
        name
        for name in moge_ops.__all__
        if str(getattr(getattr(moge_ops, name), "__module__", "")).startswith("moge_ops.ops.")
    }
    assert set(package.__all__) == {*operators, "layers"}
    assert package.__version__ == moge_ops.__version__
    assert package.layers.__name__ == f"{package.__name__}.layers"


def test_it_has_an_operator_namespace_of_its_own(build: Path) -> None:
    packages = [load_variant(build / name) for name in hub.VARIANTS]
    logits = torch.randn(T, E)
    for package in packages:
        assert hasattr(torch.ops, package.__name__)
        assert package.__name__ == package._backend.NAMESPACE
        own = getattr(torch.ops, package.__name__)
        with torch.profiler.profile() as profile:
            package.grouped_gate(logits, G)
            own.grouped_gate(logits, G, 1, "softmax", *inspect_rest(package))
        names = {event.key for event in profile.key_averages() if "::grouped_gate" in event.key}
        assert names == {f"{package.__name__}::grouped_gate"}
    namespaces = {package.__name__ for package in packages} | {"moge_ops"}
    assert len(namespaces) == 3


def inspect_rest(package: Any) -> tuple[Any, ...]:
    """None, False or 1.0 for what follows the gate's score, whatever options it gets."""
    declared = inspect.signature(package.ops.grouped_gate.grouped_gate_fwd).parameters
    zero = {"bool": False, "float": 1.0}
    return tuple(
        zero.get(getattr(p.annotation, "__name__", "")) for p in list(declared.values())[4:]
    )


def inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        x = torch.randn(shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5
        return x.to(dtype).requires_grad_()

    return {
        "logits": spaced_logits(T, E, dtype).requires_grad_(),
        "x": draw(T, H),
        "pre": draw(T, 2 * WIDTH),
        "w_gate_up": draw(E, 2 * WIDTH, H),
        "w_down": draw(E, H, WIDTH),
        "weights": torch.rand(T, G, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_(),
    }


def calls(package: Any, ids: Tensor) -> dict[str, Callable[[dict[str, Tensor]], Tensor]]:
    """Each public function, of the package or of a variant."""
    routing = package.route(ids, E, num_groups=G)
    counts = torch.bincount(ids.flatten(), minlength=E)
    return {
        "grouped_gate": lambda x: package.grouped_gate(x["logits"], G).weights,
        "gate_and_route": lambda x: package.gate_and_route(x["logits"], G)[0].weights,
        "route": lambda x: package.route(ids, E).row_to_slot.to(x["x"].dtype),
        "permute": lambda x: package.permute(x["x"], routing),
        "grouped_gemm": lambda x: package.grouped_gemm(
            package.permute(x["x"], routing), x["w_gate_up"], routing.offsets
        ),
        "swiglu": lambda x: package.swiglu(x["pre"]),
        "unpermute": lambda x: package.unpermute(
            package.permute(x["x"], routing), routing, x["weights"]
        ),
        "grouped_mlp": lambda x: package.grouped_mlp(
            x["x"], x["w_gate_up"], x["w_down"], x["weights"], routing
        ),
        "load_balance_loss": lambda x: package.load_balance_loss(x["logits"], ids),
        # not in 16 bits: the loss does not say how far they are rounded
        "load_balance_loss_from_probs": lambda x: package.load_balance_loss_from_probs(
            x["logits"].softmax(-1, torch.promote_types(x["logits"].dtype, torch.float32)), counts
        ),
        "round_tokens": lambda x: package.round_tokens(x["logits"], ids, 2, num_groups=G).weights,
        "router_z_loss": lambda x: package.router_z_loss(x["logits"]),
    }


def results(call: Callable[[dict[str, Tensor]], Tensor], x: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a call returns, and the gradient of each of its inputs."""
    y = call(x)
    out = {"result": y.detach()}
    if y.requires_grad:
        d_y = torch.arange(y.numel()).remainder(17).view(y.shape).to(y.dtype) / 16 + 0.5  # exact
        gradients = torch.autograd.grad(y, list(x.values()), d_y, allow_unused=True)
        out |= {n: g for n, g in zip(x, gradients, strict=True) if g is not None}
    return out


def check(package: Any, dtype: torch.dtype) -> None:
    """Every function and its gradients, against the package's oracle in float64."""
    ids = group_ids(T, E, G, 1)
    mine, oracle = calls(package, ids), calls(moge_ops, ids)
    functions = {name for name in package.__all__ if inspect.isfunction(getattr(package, name))}
    assert set(mine) == functions
    for name, call in mine.items():
        x = inputs(dtype)
        wide = {n: value.detach().double().requires_grad_() for n, value in x.items()}
        with moge_ops.testing.backend("reference"):
            expected = results(oracle[name], wide)
        got = results(call, x)
        assert set(got) == set(expected), name
        for what, value in got.items():
            assert_matches(value, expected[what], f"{name}: {what}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_its_functions_compute_what_the_package_does(variant: Path, dtype: torch.dtype) -> None:
    check(load_variant(variant), dtype)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton was loaded for the GPU")
def test_its_triton_kernels_run_interpreted(build: Path) -> None:
    package = load_variant(build / "torch-cuda")
    kernels = package._backend.load("triton", "route")
    assert kernels.__name__ == f"{package.__name__}.triton_kernels.route"
    launched, launcher = [], kernels.route_fwd

    def spy(*args: Any) -> Any:
        launched.append(launcher.__module__)
        return launcher(*args)

    with pytest.MonkeyPatch.context() as patch, package._backend.override("triton"):
        patch.setattr(kernels, "route_fwd", spy)
        check(package, torch.float32)
    assert set(launched) == {kernels.__name__}
    configs = package._backend.load("triton", "_configs")  # on a GPU the tiles come from a file
    assert configs.read_table(Path(configs.__file__).with_name("configs.csv"))


def test_the_cpu_variant_has_no_row_for_what_it_does_not_carry(build: Path) -> None:
    for name, (_, rows) in hub.VARIANTS.items():
        backend = load_variant(build / name)._backend
        assert tuple(sorted(backend.BACKENDS)) == tuple(sorted(rows))
        assert backend.serving("cpu") == "torch"
        assert backend.serving("cuda") == ("triton" if "triton" in rows else "torch")


@pytest.mark.slow
def test_it_runs_where_the_package_is_not(variant: Path, tmp_path: Path) -> None:
    metadata = json.loads((variant / "metadata.json").read_text())
    code = f"""
import importlib.util, sys, torch
sys.modules["moge_ops"] = None  # an import of it raises
spec = importlib.util.spec_from_file_location({metadata["id"]!r}, {str(variant / "__init__.py")!r})
sys.modules[{metadata["id"]!r}] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
gating = package.grouped_gate(torch.randn(3, 16), 8)
print(gating.experts.shape[1], "triton" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", "False"]


@pytest.mark.slow
def test_the_flop_counter_counts_both_beside_each_other(build: Path, tmp_path: Path) -> None:
    folder = build / "torch-cpu"
    ident = json.loads((folder / "metadata.json").read_text())["id"]
    code = f"""
import importlib.util, sys, torch, moge_ops
spec = importlib.util.spec_from_file_location({ident!r}, {str(folder / "__init__.py")!r})
sys.modules[{ident!r}] = variant = importlib.util.module_from_spec(spec)
spec.loader.exec_module(variant)
assert "torch.utils.flop_counter" not in sys.modules
from torch.utils.flop_counter import FlopCounterMode
for package in (moge_ops, variant):
    offsets = package.route(torch.zeros(5, 1, dtype=torch.int32), 2).offsets
    with FlopCounterMode(display=False) as counter:
        package.grouped_gemm(torch.randn(5, 4), torch.randn(2, 3, 4), offsets)
    print(counter.get_total_flops())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(2 * 5 * 3 * 4)] * 2


def layers(build: Path) -> dict[str, type[nn.Module]]:
    module = load_variant(build / "torch-cpu").layers
    return {name: getattr(module, name) for name in module.__all__}


def test_layers_have_no_state(build: Path) -> None:
    known = {name for name, _ in inspect.getmembers(nn.Module)} | {"has_backward"}
    assert len(layers(build)) == 3
    for layer in layers(build).values():
        assert layer.__init__ is nn.Module.__init__
        assert {name for name, _ in inspect.getmembers(layer)} <= known | {"can_torch_compile"}


def router(**attributes: Any) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(E, H))
    values = {"top_k": G, "router_n_groups": G, "norm_topk_prob": True, **attributes}
    for name, value in values.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize("name", ["GroupedTopKRouter", "SoftmaxTopKRouter"])
@pytest.mark.parametrize("norm", [False, True])
def test_routers(build: Path, name: str, norm: bool) -> None:
    module, x = router(norm_topk_prob=norm), torch.randn(2, T, H)
    logits, weights, ids = MethodType(layers(build)[name].forward, module)(x)
    groups = G if name == "GroupedTopKRouter" else 1
    assert ids.dtype == torch.int64
    torch.testing.assert_close(logits, F.linear(x.view(-1, H), module.weight))
    scores = logits.double().softmax(-1)
    expected = scores.unflatten(-1, (groups, -1)).topk(G // groups)
    first = torch.arange(groups).view(-1, 1) * (E // groups)
    assert torch.equal(ids, (expected.indices + first).flatten(1))
    values = expected.values.flatten(1)
    values = values / values.sum(-1, keepdim=True) if norm else values
    assert_matches(weights, values, "weights")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bias", torch.zeros(E), r"bias must be None for this layer, got a tensor"),
        ("e_score_correction_bias", torch.zeros(E), "e_score_correction_bias must be None"),
        ("routed_scaling_factor", 2.5, r"routed_scaling_factor must be 1\.0 .* got 2\.5"),
        ("scoring_func", "sigmoid", "scoring_func must be 'softmax' .* got 'sigmoid'"),
        ("router_n_groups", 3, "must be positive and divide top_k=8, got 3: map"),
        ("router_n_groups", -1, "must be positive and divide top_k=8, got -1: map"),
        ("n_group", 4, "n_group must be 1 for this layer, got 4: .* leave the class"),
    ],
)
def test_another_router_is_refused(build: Path, name: str, value: Any, message: str) -> None:
    module = router(**{name: value})
    with pytest.raises(ValueError, match=message):
        MethodType(layers(build)["GroupedTopKRouter"].forward, module)(torch.randn(T, H))


def experts(**attributes: Any) -> SimpleNamespace:
    values = {"act_fn": nn.SiLU(), "gate_up_proj": torch.randn(E, 2 * WIDTH, H), **attributes}
    return SimpleNamespace(down_proj=torch.randn(E, H, WIDTH), **values)


@pytest.mark.parametrize("act_fn", [nn.SiLU(), F.silu])
def test_experts(build: Path, act_fn: Any) -> None:
    module, ids = experts(act_fn=act_fn, has_gate=True, is_transposed=False), group_ids(T, E, G, 1)
    ids[0, 0] = E  # a slot of another rank
    x, weights = torch.randn(T, H), torch.rand(T, G)
    y = layers(build)["GatedSiluExperts"].forward(module, x, ids.long(), weights)
    with moge_ops.testing.backend("reference"):
        w_up, w_down = module.gate_up_proj.double(), module.down_proj.double()
        routing = moge_ops.route(ids, E)
        expected = moge_ops.grouped_mlp(x.double(), w_up, w_down, weights.double(), routing)
    assert_matches(y, expected, "y")


def test_layers_take_no_tokens(build: Path) -> None:
    forwards = {name: layer.forward for name, layer in layers(build).items()}
    x, ids = torch.randn(0, H), torch.zeros(0, G, dtype=torch.long)
    for name in ("GroupedTopKRouter", "SoftmaxTopKRouter"):
        shapes = [list(y.shape) for y in forwards[name](router(), x)]
        assert shapes == [[0, E], [0, G], [0, G]]
    assert forwards["GatedSiluExperts"](experts(), x, ids, torch.rand(0, G)).shape == x.shape


class OwnGate(SimpleNamespace):
    def _apply_gate(self) -> None:
        """As transformers' classes have whose gate is no plain SwiGLU."""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (experts(act_fn=nn.GELU()), "silu\\(gate\\) \\* up, got the activation GELU"),
        (experts(act_fn=F.gelu), "got the activation gelu: map"),
        (experts(has_bias=True), "has_bias must be False"),
        (experts(is_transposed=True), "is_transposed must be False"),
        (experts(is_concatenated=False), "is_concatenated must be True"),
        (experts(has_gate=False), "has_gate must be True"),
        (OwnGate(**vars(experts())), "OwnGate._apply_gate"),
        (experts(gate_up_proj=torch.randn(E, H, 2 * WIDTH)), r"w_gate_up must be"),
    ],
)
def test_other_experts_are_refused(build: Path, module: Any, message: str) -> None:
    forward: Callable[..., Tensor] = layers(build)["GatedSiluExperts"].forward
    with pytest.raises(ValueError, match=message):
        forward(module, torch.randn(T, H), group_ids(T, E, G, 1), torch.rand(T, G))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_writing_again_gives_the_same_and_keeps_what_is_not_ours(tmp_path: Path) -> None:
    out = tmp_path / "new" / "hub"
    hub.write(out, hub.REPO, 0)
    first = contents(out)
    (out / "build" / "torch-cpu" / "stale.py").touch()
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").touch()
    hub.write(out, hub.REPO, 0)
    assert contents(out) == {**first, ".git/HEAD": b""}


def test_another_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "mine.txt").touch()
    (tmp_path / "build.toml").write_text('[general]\nname = "another"\n')
    before = contents(tmp_path)
    with pytest.raises(SystemExit, match="must be new, empty, or written by this script"):
        hub.write(tmp_path, hub.REPO, 0)
    with pytest.raises(SystemExit, match="must be a folder, got the file"):
        hub.write(tmp_path / "build.toml", hub.REPO, 0)
    assert contents(tmp_path) == before


def test_two_versions_beside_each_other(build: Path, tree: Path, tmp_path: Path) -> None:
    edit(tree / "moge_ops" / "reference" / "route.py", '"""Oracle', '"""The oracle')
    hub.write(tmp_path / "hub", hub.REPO, 3)
    old, new = (load_variant(folder / "torch-cpu") for folder in (build, tmp_path / "hub/build"))
    assert old.__name__ != new.__name__
    for package in (old, new):
        check(package, torch.float32)


def broken() -> Iterator[tuple[str, str, str, str]]:
    """A file, what of it is replaced by what, and what the script says."""
    route, first = "moge_ops/ops/route.py", "from typing import"
    yield route, first, f"import numpy\n{first}", r"route\.py, line \d+: the hub allows .* numpy"
    yield route, first, f"import moge_ops.nn\n{first}", "write `from ... import` instead of"
    yield route, first, f"from moge_ops import absent\n{first}", "no variant can carry absent"
    yield route, first, f"from moge_ops.absent import x\n{first}", "no variant can carry x of"
    yield route, "MAX_ROWS =", 'NAME = f"moge_ops.{1}"\nMAX_ROWS =', "f-string looks up moge_ops"
    yield route, "MAX_ROWS =", 'NAME = "a:moge_ops"\nMAX_ROWS =', "expected moge_ops in column"
    table = "moge_ops/_backend.py"
    yield table, 'Backend("torch", ', 'Backend("plain", ', "BACKENDS has no row of torch"
    yield table, '"triton_kernels",', '"gone",', "backend 'gone' has no folder"


@pytest.mark.parametrize(("file", "before", "after", "message"), [*broken()])
def test_what_no_variant_can_carry_is_an_error(
    file: str, before: str, after: str, message: str, tree: Path, tmp_path: Path
) -> None:
    edit(tree / file, before, after)
    with pytest.raises(SystemExit, match=message):
        hub.write(tmp_path / "hub", hub.REPO, 0)
    assert not (tmp_path / "hub").exists()


def test_a_new_operator_is_carried(tree: Path, tmp_path: Path) -> None:
    (tree / "moge_ops" / "ops" / "new.py").write_text("def new() -> int:\n    return 7\n")
    edit(
        tree / "moge_ops" / "__init__.py",
        "from moge_ops.ops.permute",
        "from moge_ops.ops.new import new\nfrom moge_ops.ops.permute",
    )
    hub.write(tmp_path / "hub", hub.REPO, 0)
    package = load_variant(tmp_path / "hub" / "build" / "torch-cuda")
    assert package.new() == 7
    assert "new" in package.__all__


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "hub.py"), "out", "--repo", "me/moge"]
    done = subprocess.run(
        [*command, "--version", "2"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'repo-id = "me/moge"' in (tmp_path / "out" / "build.toml").read_text()
    assert 'get_kernel("me/moge", version=2' in (tmp_path / "out/build/CARD.md").read_text()
    (tmp_path / "out" / "build.toml").unlink()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("OUT must be new, empty, or written by this script before")
