"""The extension's stub, `moge_ops/_C.pyi`, against the module that was built."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import moge_ops

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
if _C.BACKEND != "emulate":
    pytest.skip("built without the Ascend emulator", allow_module_level=True)

STUB = ast.parse(Path(moge_ops.__file__).with_name("_C.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
# with the constructors, as Class.__init__
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)} | {
    f"{name}.{node.name}": node
    for name, of in CLASSES.items()
    for node in of.body
    if isinstance(node, ast.FunctionDef)
}


def fields(body: list[ast.stmt]) -> set[str]:
    return {str(node.target.id) for node in body if isinstance(node, ast.AnnAssign)}


def in_the_stub(node: ast.FunctionDef) -> str:
    """Names, order, kinds, types and defaults; pybind11 knows no element types of what returns."""
    returned = ast.unparse(node.returns or ast.Constant(None)).partition("[")[0]
    return f"({ast.unparse(node.args)}) -> {returned}"


def in_the_module(name: str) -> str:
    """The signature that pybind11 writes into the docstring, in the stub's words."""
    function: Any = _C
    for part in name.split("."):
        function = getattr(function, part)
    text = function.__doc__.strip()
    for pattern, word in (
        (r"typing\.SupportsInt( \| typing\.SupportsIndex)?", "int"),
        (r"typing\.SupportsFloat( \| typing\.SupportsIndex)?", "float"),
        (r"self: [\w.]+", "self"),
        (r"moge_ops\._C\.|collections\.abc\.", ""),
    ):
        text = re.sub(pattern, word, text)
    (node,) = ast.parse(f"def {text}: ...").body
    assert isinstance(node, ast.FunctionDef)
    assert node.name == name.rpartition(".")[2]
    return in_the_stub(node)


def test_the_stub_names_what_the_module_has() -> None:
    functions = {name for name in FUNCTIONS if "." not in name}
    public = {name for name in vars(_C) if not name.startswith("__")}
    assert public == {*functions, *CLASSES, *fields(STUB.body)}
    assert set(_C.DType.__members__) == fields(CLASSES["DType"].body)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_signature_is_the_same_in_stub_and_module(name: str) -> None:
    assert in_the_stub(FUNCTIONS[name]) == in_the_module(name)


def test_a_launch_goes_by_name_alone() -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _C.swiglu_fwd(0, 0, 0, 0, _C.DType.float16, 0)
    arguments = {"gate_up": 0, "act": 0, "N": 0, "F": 0, "dtype": _C.DType.float16, "stream": 0}
    _C.swiglu_fwd(**arguments)  # no rows, no launch
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _C.swiglu_fwd(**arguments, H=0)
    for name, node in FUNCTIONS.items():
        if any(arg.arg == "stream" for arg in node.args.kwonlyargs):
            assert not node.args.args, name
