"""Syntax trees of Python, and what the names in them may be."""

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from message_texts._text import SOME

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Scope(NamedTuple):
    """Where an expression stands."""

    module: "Module"
    functions: tuple[Function, ...] = ()
    """From the outside to the inside."""
    bound: Mapping[str, tuple[ast.expr, "Scope"]] = {}
    """Parameters whose arguments are known."""
    loops: tuple[ast.For, ...] = ()
    """Of the innermost function, from the outside to the inside."""


class Call(NamedTuple):
    """A call, and where it stands."""

    node: ast.Call
    scope: Scope


class Module:
    """The syntax tree of a file, with what the names in it may be."""

    def __init__(self, path: Path, root: Path) -> None:
        self.file = str(path.relative_to(root))
        self.tree = ast.parse(path.read_text())
        self.functions = {
            node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)
        }
        self.imports = {
            alias.asname or alias.name: (node.module or "", alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        self.globals = assigned(self.tree)


@functools.cache
def assigned(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """What is assigned to names in a module or function, without the functions in it."""
    found = defaultdict[str, list[ast.expr]](list)
    waiting = list(ast.iter_child_nodes(tree))[::-1]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    found[target.id].append(node.value)
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for name, value in zip(target.elts, node.value.elts, strict=False):
                        if isinstance(name, ast.Name):
                            found[name.id].append(value)
        waiting += list(ast.iter_child_nodes(node))[::-1]
    return dict(found)


def pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """What names get in ``a, (b, c) = value``."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for name, each in zip(target.elts, value.elts, strict=False):
            yield from pairs(name, each)


def parameters(function: Function) -> list[str]:
    given = function.args
    return [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def last(node: ast.expr) -> str:
    """The last name of ``a.b.c``, or ""."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def is_of(called: ast.expr, here: Module, there: Module) -> bool:
    """Whether a function that is called in one module may be of another."""
    name = called.value if isinstance(called, ast.Attribute) else called
    if not isinstance(name, ast.Name):
        return False
    if name.id not in here.imports:
        return here is there and (called is name or name.id == "self")
    home, imported = here.imports[name.id]
    dotted = home if called is name else f"{home}.{imported}"
    return there.file.removesuffix(".py").removesuffix("/__init__") == dotted.replace(".", "/")


def is_no_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, str)


def arguments(call: ast.Call, function: Function) -> Iterator[tuple[str, ast.expr | None]]:
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    if names[:1] == ["self"]:
        names = names[1:]
    yield from zip(names, call.args, strict=False)
    yield from ((each.arg, each.value) for each in call.keywords if each.arg)


def called(node: ast.expr) -> str:
    """A readable name for a value."""
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Attribute):
        if node.attr == "__name__":
            return "type" if isinstance(node.value, ast.Call) else called(node.value)
        return node.attr.strip("_")
    if isinstance(node, ast.Subscript):
        return called(node.value)
    if isinstance(node, ast.BinOp):
        return called(node.left if isinstance(node.op, ast.Mult) else node.right)
    if isinstance(node, ast.Call):
        inner = [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
        for each in inner:
            name = called(each)
            if name != SOME:
                return name
        return last(node.func).strip("_") or SOME
    if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        return called(node.elt) if called(node.elt) != SOME else called(node.generators[0].iter)
    return SOME


def nodes(module: Module) -> Iterator[tuple[ast.AST, Scope]]:
    """All nodes but docstrings and what is within texts, each with its scope."""
    waiting: list[tuple[ast.AST, Scope]] = [(module.tree, Scope(module))]
    while waiting:
        node, scope = waiting.pop()
        yield node, scope
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            scope = scope._replace(functions=(*scope.functions, node), loops=())
        if isinstance(node, ast.For):
            scope = scope._replace(loops=(*scope.loops, node))
        if isinstance(node, ast.JoinedStr):
            continue
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
                waiting.append((child, scope))
