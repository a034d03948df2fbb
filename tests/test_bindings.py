"""The extensions' stubs, `moge_ops/_C.pyi` and `_cpu.pyi`, against the modules that were built."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import moge_ops

ROOT = Path(moge_ops.__file__).parent
STUBS = {name: ast.parse((ROOT / f"{name}.pyi").read_text()) for name in ("_C", "_cpu")}
CLASSES = {
    name: {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    for name, stub in STUBS.items()
}
# with the constructors, as Class.__init__
FUNCTIONS = {
    name: {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    | {
        f"{of.name}.{node.name}": node
        for of in CLASSES[name].values()
        for node in of.body
        if isinstance(node, ast.FunctionDef)
    }
    for name, stub in STUBS.items()
}
# other names of tuples, which the module writes out
ALIASES = {
    node.target.id: ast.unparse(node.value)
    for node in STUBS["_cpu"].body
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
}


def extension(name: str) -> Any:
    """The module; skips where it was not built."""
    module = pytest.importorskip(f"moge_ops.{name}", reason="not built")
    if name == "_C" and module.BACKEND != "emulate":
        pytest.skip("built without the Ascend emulator")
    return module


def fields(body: list[ast.stmt]) -> set[str]:
    return {
        str(node.target.id) for node in body if isinstance(node, ast.AnnAssign) and not node.value
    }


def in_the_stub(node: ast.FunctionDef) -> str:
    """Names, order, kinds, types and defaults; pybind11 knows no element types of what returns."""
    returned = ast.unparse(node.returns or ast.Constant(None)).partition("[")[0]
    arguments = ast.unparse(node.args)
    for alias, meaning in ALIASES.items():
        arguments = re.sub(rf": {alias}\b", f": {meaning}", arguments)
    return f"({arguments}) -> {returned}"


def in_the_module(module: Any, name: str) -> str:
    """The signature that pybind11 writes into the docstring, in the stub's words."""
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part)
    text = function.__doc__.strip()
    for pattern, word in (
        (r"typing\.SupportsInt( \| typing\.SupportsIndex)?", "int"),
        (r"typing\.SupportsFloat( \| typing\.SupportsIndex)?", "float"),
        (r"self: [\w.]+", "self"),
        (r"moge_ops\._(C|cpu)\.|collections\.abc\.", ""),
    ):
        text = re.sub(pattern, word, text)
    (node,) = ast.parse(f"def {text}: ...").body
    assert isinstance(node, ast.FunctionDef)
    assert node.name == name.rpartition(".")[2]
    return in_the_stub(node)


@pytest.mark.parametrize("name", STUBS)
def test_the_stub_names_what_the_module_has(name: str) -> None:
    module = extension(name)
    functions = {function for function in FUNCTIONS[name] if "." not in function}
    public = {found for found in vars(module) if not found.startswith("__")}
    assert public == {*functions, *CLASSES[name], *fields(STUBS[name].body)}
    for of, node in CLASSES[name].items():
        members = getattr(getattr(module, of), "__members__", None)
        assert members is None or set(members) == fields(node.body)


@pytest.mark.parametrize(
    ("name", "function"), [(name, function) for name in STUBS for function in FUNCTIONS[name]]
)
def test_a_signature_is_the_same_in_stub_and_module(name: str, function: str) -> None:
    assert in_the_stub(FUNCTIONS[name][function]) == in_the_module(extension(name), function)


def test_a_launch_goes_by_name_alone() -> None:
    _C = extension("_C")
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _C.swiglu_fwd(0, 0, 0, 0, _C.DType.float16, 0)
    arguments = {"gate_up": 0, "act": 0, "N": 0, "F": 0, "dtype": _C.DType.float16, "stream": 0}
    _C.swiglu_fwd(**arguments)  # no rows, no launch
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _C.swiglu_fwd(**arguments, H=0)
    for name, node in FUNCTIONS["_C"].items():
        if any(arg.arg == "stream" for arg in node.args.kwonlyargs):
            assert not node.args.args, name


def test_a_call_of_the_native_kernels_goes_by_name_alone() -> None:
    _cpu = extension("_cpu")
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _cpu.swiglu_fwd(_cpu.DType.float16, (0, 0, 0), (0, 0, 0), 0, 0, 0, 1)
    empty = (0, 0, 0)
    arguments = {"dtype": _cpu.DType.float16, "gate_up": empty, "d_act": empty}
    arguments |= {"out": 0, "N": 0, "F": 0, "threads": 1}
    _cpu.swiglu_fwd(**arguments)
    for name, node in FUNCTIONS["_cpu"].items():
        if name not in ("levels", "level", "set_level", "has_threads"):
            assert not node.args.args, name
