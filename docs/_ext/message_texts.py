"""Every message that the package can show a user, read from its sources.

Python is read as a syntax tree: what ``raise``, ``warnings.warn``, a logger, an ``assert`` and a
``print`` to standard error say, and problems that are collected in a list. A value within a text
becomes a hole with the value's name; where the texts that may stand there are in the source, they
are listed too. C++ is read by its string literals.
"""

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# subject -> beginnings of the paths of its files; the longest one that fits decides
SUBJECTS = {
    "backends": ("moge_ops/_backend.py", "moge_ops/_extensions.py", "setup.py", "triton_kernels/",
                 "csrc/cpu/choice.cpp"),
    "operators": ("moge_ops/", "csrc/", "csrc/cpu/"),
    "layers": ("moge_ops/nn.py", "moge_ops/statistics.py", "moge_ops/surgery.py"),
    "model": ("moge_ops/models/pangu_moe.py", "moge_ops/models/generation.py"),
    "folders": ("moge_ops/_files.py", "moge_ops/models/", "moge_ops/quant/_shards.py",
                "moge_ops/quant/_problems.py"),
    "quantised": ("moge_ops/_quantized.py", "moge_ops/quant/", "moge_ops/models/_quantized.py",
                  "moge_ops/integrations/_quantized_folders.py"),
    "transformers": ("moge_ops/integrations/transformers.py", "moge_ops/integrations/pangu_auto.py",
                     "moge_ops/integrations/_experts_interface.py",
                     "moge_ops/integrations/_pangu_files.py",
                     "moge_ops/integrations/_quantizer.py"),
    "engines": ("moge_ops/integrations/",),
    "distributed": ("moge_ops/distributed/",),
    "npu": ("moge_ops/ascend/", "csrc/launch.cpp", "csrc/npu_host/"),
    "emulator": ("csrc/emulator/",),
    "command line": ("moge_ops/cli.py",),
    "testing": ("moge_ops/testing.py",),
}  # fmt: skip
LOGGED = {"debug", "info", "warning", "error", "exception", "critical"}
# lists of what is wrong with a folder, which end in one message
COLLECTED = {"problems", "errors"}
INFO, LISTED = "in moge-ops info", "within a ValueError"
GIVEN = "value"  # a parameter with what a user has passed
# variables of _checks._compare -> where in a spec of a tensor they come from
OF_SPEC = {"name": 0, "first_name": 0, "rows_of": 0, "layout": 2}
# around the name of a hole in a text
OPEN, CLOSE = "\N{LEFT-POINTING ANGLE BRACKET}", "\N{RIGHT-POINTING ANGLE BRACKET}"
HOLE = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")
SOME = "\N{HORIZONTAL ELLIPSIS}"
DEEPEST = 6  # texts within texts

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Message(NamedTuple):
    """One text."""

    text: str
    """Holes are names between `OPEN` and `CLOSE`."""
    kind: str
    """The class of the error, or where the text is shown."""
    file: str
    line: int
    values: Mapping[str, Sequence[str]] = {}
    """Names of holes -> texts that the sources put there."""


class Unread(NamedTuple):
    """A place that shows a text which is not understood here."""

    file: str
    line: int
    why: str


def subject(file: str) -> str:
    """The one of `SUBJECTS` that a file belongs to."""
    fitting = [(len(start), name) for name, starts in SUBJECTS.items() for start in starts
               if file.startswith(start)]  # fmt: skip
    return max(fitting)[1]


def words(text: str) -> list[str]:
    """The words of a text, without its holes."""
    return re.findall(r"[^\W\d]\w+", HOLE.sub(" ", text))


def hole(name: str) -> str:
    """A hole in a text."""
    return f"{OPEN}{name}{CLOSE}"


# Python


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
        self.globals = _assigned(self.tree)


@functools.cache
def _assigned(tree: ast.AST) -> dict[str, list[ast.expr]]:
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


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """What names get in ``a, (b, c) = value``."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for name, each in zip(target.elts, value.elts, strict=False):
            yield from _pairs(name, each)


def _parameters(function: Function) -> list[str]:
    given = function.args
    return [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def _last(node: ast.expr) -> str:
    """The last name of ``a.b.c``, or ""."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


class Reader:
    """Reads the texts of all files of Python."""

    def __init__(self, paths: Sequence[Path], root: Path = ROOT) -> None:
        self.modules = [Module(path, root) for path in paths]
        self.messages: list[Message] = []
        self.unread: list[Unread] = []
        self.raises = 0
        self.by_name = {module.file: module for module in self.modules}
        self.calls = defaultdict[str, list[Call]](list)
        self.lambdas = defaultdict[str, list[tuple[ast.expr, Scope]]](list)
        self.listing = set[str]()  # functions that yield problems
        self.specs: list[tuple[ast.Tuple, Scope]] = []  # of _checks.tensors
        places = [(node, scope) for module in self.modules for node, scope in _nodes(module)]
        for node, scope in places:
            self._note(node, scope)
        for node, scope in places:
            self._read(node, scope)

    def _note(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.Call):
            self.calls[_last(node.func)].append(Call(node, scope))
            for each in node.keywords:
                if each.arg and isinstance(each.value, ast.Lambda):
                    self.lambdas[each.arg].append((each.value.body, scope))
            extended = node.func.value if isinstance(node.func, ast.Attribute) else None
            if _last(node.func) == "extend" and extended and _last(extended) in COLLECTED:
                self.listing |= {_last(a.func) for a in node.args if isinstance(a, ast.Call)}
        elif (
            isinstance(node, ast.Tuple)
            and len(node.elts) == 4
            and all(
                isinstance(each, ast.Constant) and re.fullmatch(form, str(each.value))
                for each, form in zip(node.elts[:3:2], (r"[\w.]+", r"\[.*\]"), strict=True)
            )
        ):
            self.specs.append((node, scope))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Lambda):
            self.lambdas[_last(node.target)].append((node.value.body, scope))
        elif isinstance(node, ast.AugAssign) and _last(node.target) in COLLECTED:
            self.listing |= {_last(node.value.func)} if isinstance(node.value, ast.Call) else set()

    def _read(self, node: ast.AST, scope: Scope) -> None:
        """Adds what one node shows to a user."""
        if isinstance(node, ast.Raise):
            self._read_raise(node, scope)
        elif isinstance(node, ast.Assert) and node.msg is not None:
            self._add(node.msg, scope, "AssertionError", node.lineno)
        elif isinstance(node, ast.Call):
            self._read_call(node, scope)
        elif isinstance(node, ast.AugAssign) and _last(node.target) in COLLECTED:
            self._add_all(node.value, scope, node.lineno)
        elif isinstance(node, ast.Yield) and node.value is not None and _is_text(node.value):
            if scope.functions and getattr(scope.functions[-1], "name", "") in self.listing:
                self._add(node.value, scope, LISTED, node.lineno)
        elif _is_text(node) and isinstance(node, ast.expr):
            text, values = self.text(node, scope)
            if text.startswith("off: ") and words(text[5:]):
                self.messages.append(Message(text, INFO, scope.module.file, node.lineno, values))

    def _read_call(self, node: ast.Call, scope: Scope) -> None:
        name = _last(node.func)
        on = node.func.value if isinstance(node.func, ast.Attribute) else None
        if name == "warn" and on is not None and _last(on) == "warnings":
            kind = _last(node.args[1]) if len(node.args) > 1 else "UserWarning"
            self._add(node.args[0], scope, kind, node.lineno)
        elif name in LOGGED and on is not None and _last(on) in ("logger", "_logger", "logging"):
            self._add(node.args[0], scope, f"log, {name}", node.lineno, node.args[1:])
        elif name == "print" and any(
            each.arg == "file" and _last(each.value) == "stderr" for each in node.keywords
        ):
            text, values = self.text(node.args[0], scope)
            if words(text):  # not progress
                kind = "standard error"
                self.messages.append(Message(text, kind, scope.module.file, node.lineno, values))
        elif name == "append" and on is not None and _last(on) in COLLECTED:
            if _is_text(node.args[0]):
                self._add(node.args[0], scope, LISTED, node.lineno)
        elif name == "extend" and on is not None and _last(on) in COLLECTED:
            self._add_all(node.args[0], scope, node.lineno)

    def _add_all(self, listed: ast.expr, scope: Scope, line: int) -> None:
        """The elements of a list of problems."""
        elements = [listed.elt] if isinstance(listed, (ast.ListComp, ast.GeneratorExp)) else []
        elements += listed.elts if isinstance(listed, ast.List) else []
        for element in elements:
            self._add(element, scope, LISTED, line)

    def _read_raise(self, node: ast.Raise, scope: Scope) -> None:
        self.raises += 1
        made = node.exc
        if made is None or (isinstance(made, ast.Name) and not made.id.lstrip("_")[:1].isupper()):
            return  # the error that was caught, whose text is where it was made
        if not isinstance(made, ast.Call):
            name = _last(made)
            # a method that another class has to have, or a signal within a file
            if name != "NotImplementedError" and not name.startswith("_"):
                self._miss(scope, node.lineno, f"raise {name} has no text")
            return
        maker = scope.module.functions.get(_last(made.func))
        if maker is not None:
            bound = {
                name: (value, scope) for name, value in _arguments(made, maker) if value is not None
            }
            inner = Scope(scope.module, (*scope.functions, maker), bound)
            for each in ast.walk(maker):
                if isinstance(each, ast.Return) and isinstance(each.value, ast.Call):
                    self._add_made(each.value, inner, node.lineno)
            return
        self._add_made(made, scope, node.lineno)

    def _add_made(self, made: ast.Call, scope: Scope, line: int) -> None:
        if not made.args:
            self._miss(scope, line, f"{ast.unparse(made)} has no text")
            return
        # type(error)(...) repeats the class of the error within
        kind = _last(made.func) or "the class of the error within"
        self._add(made.args[0], scope, kind, line)

    def _miss(self, scope: Scope, line: int, why: str) -> None:
        self.unread.append(Unread(scope.module.file, line, why))

    def _add(
        self,
        node: ast.expr,
        scope: Scope,
        kind: str,
        line: int,
        formatted: Sequence[ast.expr] = (),
    ) -> None:
        text, values = self.text(node, scope)
        if formatted or re.search("%[sdr]", text):
            left = iter(formatted)

            def filled(_: re.Match[str]) -> str:
                inner, more = self._shown(next(left), scope, 0)
                values.update(more)
                return inner

            text = re.sub("%[sdr]", filled, text) if formatted else text
        if not words(text):
            found = [text.replace(hole(name), each) for name in values for each in values[name]]
            for each in found:
                self.messages.append(Message(each, kind, scope.module.file, line))
            # with the text of an error within, which is told where it was made
            if not found and not re.search(f"{OPEN}errors?{CLOSE}|!=", text):
                self._miss(scope, line, f"{ast.unparse(node)} has no words")
            return
        self.messages.append(Message(text, kind, scope.module.file, line, values))

    def text(
        self, node: ast.expr, scope: Scope, depth: int = 0
    ) -> tuple[str, dict[str, list[str]]]:
        """The text that an expression makes, and what may stand in its holes."""
        if depth > DEEPEST:
            return hole(SOME), {}
        if isinstance(node, ast.Constant):
            return str(node.value), {}
        if isinstance(node, ast.JoinedStr):
            return self._joined(node.values, scope, depth)
        if isinstance(node, ast.FormattedValue):
            return self._shown(node.value, scope, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._joined([node.left, node.right], scope, depth)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            on = node.func.value
            if node.func.attr == "format":
                text, values = self.text(on, scope, depth + 1)
                holes = iter(node.args)
                for argument in holes:
                    inner, more = self._shown(argument, scope, depth)
                    text, values = text.replace("{}", inner, 1), values | more
                return text, values
            if node.func.attr == "join" and node.args and isinstance(node.args[0], ast.List):
                between = " " if _is_text(on) else ""
                parts: list[ast.expr] = []
                for element in node.args[0].elts:
                    parts += [element, ast.Constant(between)]
                return self._joined(parts, scope, depth)
        return self._shown(node, scope, depth)

    def _joined(
        self, parts: Sequence[ast.expr], scope: Scope, depth: int
    ) -> tuple[str, dict[str, list[str]]]:
        text, values = "", dict[str, list[str]]()
        for part in parts:
            inner, more = self.text(part, scope, depth + 1)
            text, values = text + inner, values | more
        return text, values

    def _shown(self, node: ast.expr, scope: Scope, depth: int) -> tuple[str, dict[str, list[str]]]:
        """A value within a text: its text where there is one, else a hole with its texts."""
        options = self._options(node, scope, depth)
        if len(options) == 1 and (_is_text(node) or self._is_fixed(node, scope)):
            return self.text(*options[0], depth + 1)
        name = _called(node)
        if options and isinstance(node, ast.Call) and not node.args:
            name = _last(node.func)  # of a lambda
        found: list[str] = []
        for option, place in options:
            text, values = self.text(option, place, depth + 1)
            if HOLE.fullmatch(text):
                found += values.get(HOLE.fullmatch(text)[1], ())  # type: ignore[index]
                continue
            found.append(text)
            for inner in HOLE.findall(text):
                found += values.get(inner, ())
        found = list(dict.fromkeys(each for each in found if words(each)))
        return hole(name), {name: found} if found else {}

    def _is_fixed(self, node: ast.expr, scope: Scope) -> bool:
        """Whether a name has one value."""
        if not isinstance(node, ast.Name):
            return False
        if node.id in scope.bound:
            return True
        for loop in scope.loops:
            if node.id in {each.id for each in ast.walk(loop.target) if isinstance(each, ast.Name)}:
                return False
        for function in reversed(scope.functions):
            if isinstance(function, ast.Lambda):
                continue
            found = _assigned(function).get(node.id, [])
            if found or node.id in _parameters(function):
                return len(found) == 1 and node.id not in _parameters(function)
        return True

    def _options(self, node: ast.expr, scope: Scope, depth: int) -> list[tuple[ast.expr, Scope]]:
        """The expressions that may be the value of one, as far as they are texts."""
        if depth > DEEPEST:
            return []
        if _is_text(node):
            return [(node, scope)]
        if isinstance(node, ast.IfExp):
            unknown: list[tuple[ast.expr, Scope]] = [(ast.Name(SOME), scope)]
            sides = [self._options(side, scope, depth + 1) for side in (node.body, node.orelse)]
            return [option for side in sides for option in side or unknown] if any(sides) else []
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
            terms = [node.left, node.right]
            if isinstance(node.op, ast.Add) and any(map(_is_text, terms)):
                return [(node, scope)]
            return [each for side in terms for each in self._options(side, scope, depth + 1)]
        if isinstance(node, ast.Call) and not node.args and _last(node.func) in self.lambdas:
            return self.lambdas[_last(node.func)]
        if isinstance(node, ast.Call):  # .get(key, default) of a table of texts
            if _last(node.func) == "get" and isinstance(node.func, ast.Attribute):
                table = self._table(node.func.value, scope)
                return [*table, *((a, scope) for a in node.args[1:] if _is_text(a))]
            maker = scope.module.functions.get(getattr(node.func, "id", ""))
            if maker is not None:
                inner = Scope(scope.module, (*scope.functions, maker))
                return [
                    (each.value, inner)
                    for each in ast.walk(maker)
                    if isinstance(each, ast.Return) and each.value and _is_text(each.value)
                ]
            return []
        if isinstance(node, ast.Subscript):
            return self._table(node.value, scope)
        if isinstance(node, ast.Name):
            return self._named(node.id, scope, depth)
        return []

    def _table(self, node: ast.expr, scope: Scope) -> list[tuple[ast.expr, Scope]]:
        tables = scope.module.globals.get(_last(node), [])
        return [
            (value, scope)
            for table in tables
            if isinstance(table, ast.Dict)
            for value in table.values
            if _is_text(value)
        ]

    def _named(self, name: str, scope: Scope, depth: int) -> list[tuple[ast.expr, Scope]]:
        if name in scope.bound:
            return [scope.bound[name]]
        inmost = scope.functions[-1] if scope.functions else None
        if getattr(inmost, "name", "") == "_compare" and name in OF_SPEC:
            return [(spec.elts[OF_SPEC[name]], at) for spec, at in self.specs]
        for loop in reversed(scope.loops):
            if name in {each.id for each in ast.walk(loop.target) if isinstance(each, ast.Name)}:
                return self._looped(loop, name, scope, depth)
        for i in range(len(scope.functions), 0, -1):
            function, outer = (
                scope.functions[i - 1],
                scope._replace(functions=scope.functions[:i], loops=()),
            )
            found = [] if isinstance(function, ast.Lambda) else _assigned(function).get(name, [])
            found = [each for each in found if not _is_none(each)]
            if found:
                return [o for each in found for o in self._options_or_self(each, outer, depth)]
            if name in _parameters(function):
                if name == GIVEN:
                    return []
                return self._passed(function, name, scope.module, depth)
        module: Module | None = scope.module
        if name in scope.module.imports:
            home, name = scope.module.imports[name]
            path = home.replace(".", "/")
            module = self.by_name.get(f"{path}.py") or self.by_name.get(f"{path}/__init__.py")
        if module is None:
            return []
        values = module.globals.get(name, [])
        return [o for each in values for o in self._options_or_self(each, Scope(module), depth)]

    def _options_or_self(
        self, node: ast.expr, scope: Scope, depth: int
    ) -> list[tuple[ast.expr, Scope]]:
        joined = isinstance(node, ast.Call) and _last(node.func) in ("format", "join")
        if joined and words(self.text(node, scope, depth + 1)[0]):
            return [(node, scope)]
        return self._options(node, scope, depth + 1)

    def _looped(
        self, loop: ast.For, name: str, scope: Scope, depth: int
    ) -> list[tuple[ast.expr, Scope]]:
        """What a variable of a loop may be, where the list or table is written in the source."""
        listed, items = loop.iter, False
        if isinstance(listed, ast.Call) and _last(listed.func) == "items" and not listed.args:
            listed, items = getattr(listed.func, "value", listed), True
        if isinstance(listed, ast.Name) and len(scope.module.globals.get(listed.id, ())) == 1:
            (listed,) = scope.module.globals[listed.id]
        elements: list[ast.expr] = []
        if isinstance(listed, (ast.Tuple, ast.List)):
            elements = listed.elts
        elif isinstance(listed, ast.Dict) and items:
            pairs = zip(listed.keys, listed.values, strict=True)
            elements = [ast.Tuple([key, value]) for key, value in pairs if key is not None]
        return [
            option
            for element in elements
            for each, value in _pairs(loop.target, element)
            if each == name
            for option in self._options(value, scope._replace(loops=()), depth + 1)
        ]

    def _passed(
        self, function: Function, name: str, module: Module, depth: int
    ) -> list[tuple[ast.expr, Scope]]:
        """What calls pass for a parameter of a function in a module."""
        found: list[tuple[ast.expr, Scope]] = []
        for node, scope in self.calls.get(getattr(function, "name", ""), []):
            if not _is_of(node.func, scope.module, module):
                continue
            for parameter, value in _arguments(node, function):
                if parameter == name and value is not None:
                    found += self._options(value, scope, depth + 1)
        named = [*function.args.posonlyargs, *function.args.args]
        defaults = dict(
            zip([a.arg for a in named][::-1], function.args.defaults[::-1], strict=False)
        )
        if name in defaults and _is_text(defaults[name]):
            found.append((defaults[name], Scope(module)))
        return found


def _is_of(called: ast.expr, here: Module, there: Module) -> bool:
    """Whether a function that is called in one module may be of another."""
    name = called.value if isinstance(called, ast.Attribute) else called
    if not isinstance(name, ast.Name):
        return False
    if name.id not in here.imports:
        return here is there and (called is name or name.id == "self")
    home, imported = here.imports[name.id]
    dotted = home if called is name else f"{home}.{imported}"
    return there.file.removesuffix(".py").removesuffix("/__init__") == dotted.replace(".", "/")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, str)


def _arguments(call: ast.Call, function: Function) -> Iterator[tuple[str, ast.expr | None]]:
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    if names[:1] == ["self"]:
        names = names[1:]
    yield from zip(names, call.args, strict=False)
    yield from ((each.arg, each.value) for each in call.keywords if each.arg)


def _called(node: ast.expr) -> str:
    """A readable name for a value."""
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Attribute):
        if node.attr == "__name__":
            return "type" if isinstance(node.value, ast.Call) else _called(node.value)
        return node.attr.strip("_")
    if isinstance(node, ast.Subscript):
        return _called(node.value)
    if isinstance(node, ast.BinOp):
        return _called(node.left if isinstance(node.op, ast.Mult) else node.right)
    if isinstance(node, ast.Call):
        inner = [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
        for each in inner:
            name = _called(each)
            if name != SOME:
                return name
        return _last(node.func).strip("_") or SOME
    if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        return _called(node.elt) if _called(node.elt) != SOME else _called(node.generators[0].iter)
    return SOME


def _nodes(module: Module) -> Iterator[tuple[ast.AST, Scope]]:
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


# C++

COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*")', re.DOTALL)
LITERAL = re.compile(r'"((?:\\.|[^"\\\n])*)"')
# a statement ends at ; { } outside of literals
STATEMENT = re.compile(r'(?:"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|[^;{}"\'])+')
FORMAT = re.compile(r"%[-+#0 ]*\d*(?:\.\d+)?(?:hh|h|ll|l|z)?[sdiuxXpfgc]")
RULE = re.compile(r'X\(k\w+,\s*"([^"]+)",[\s\\]*"([^"]+)"\)')
# what is in a statement that shows a text -> the kind of message
SHOWN = {
    "static_assert": "compiler's error",
    "stderr": "standard error",
    "std::invalid_argument": "ValueError",
    "std::runtime_error": "RuntimeError",
    "std::logic_error": "RuntimeError",
    "Error(": "RuntimeError",
    "Fail(": "RuntimeError",
    "Need(": "RuntimeError",
}
# texts for other readers: sources of the model's constants, and what a module is
NOT_MESSAGES = {"csrc/emulator/figures.h"}
FEWEST = 3  # words of a text, where the statement does not show that it is one


def _cpp(path: Path) -> Iterator[Message]:
    """The texts of a file."""
    file = str(path.relative_to(ROOT))

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])  # so that lines keep their numbers

    source = COMMENT.sub(lambda found: found[1] or blank(found), path.read_text())
    rules = list(RULE.finditer(source))
    for found in rules:
        line = source.count("\n", 0, found.start()) + 1
        yield Message(f"rule {found[1]}: {found[2]}", "RuntimeError", file, line)
    if rules or file in NOT_MESSAGES:
        return
    source = re.sub(r"^[ \t]*#[ \t]*include[^\n]*", blank, source, flags=re.MULTILINE)
    for statement in STATEMENT.finditer(source):
        kind = next((SHOWN[word] for word in SHOWN if word in statement[0]), None)
        texts = _texts(statement[0])
        line = source.count("\n", 0, statement.start() + texts[0][0]) + 1 if texts else 0
        told = [text for _, text in texts]
        if ".doc()" in statement[0]:
            continue
        if kind is None:
            for text in told:
                if len(words(text)) >= FEWEST and " " in HOLE.sub("", text).strip():
                    yield Message(text, "RuntimeError", file, line)
        elif any(map(words, told)):
            text = max(told, key=lambda each: len(words(each)))
            others = [each for each in told if each != text and words(each)]
            yield Message(text, kind, file, line, {SOME: others} if others else {})


def _texts(statement: str) -> list[tuple[int, str]]:
    """The texts of a statement, each of literals and what is joined to them, and their places."""
    texts: list[tuple[int, str]] = []
    end: int | None = None
    for literal in LITERAL.finditer(statement):
        between = statement[end : literal.start()] if end is not None else ""
        joined = end is not None and not re.search(r"[?:,]", re.sub(r"\(.*?\)|::", "", between))
        if not joined:
            lead = statement[: literal.start()].rstrip()
            texts.append(
                (literal.start(), _of_cpp(lead) if lead.rstrip(" (").endswith("+") else "")
            )
        elif between.strip():
            texts[-1] = texts[-1][0], texts[-1][1] + _of_cpp(between)
        texts[-1] = texts[-1][0], texts[-1][1] + literal[1]
        end = literal.end()
    if texts and statement[end:].lstrip().startswith("+"):
        texts[-1] = texts[-1][0], texts[-1][1] + _of_cpp(statement[end:].partition(",")[0])
    plain = [(at, FORMAT.sub(hole(SOME), t).replace('\\"', '"')) for at, t in texts]
    return [(at, text.replace("\\n", " ").strip()) for at, text in plain]


def _of_cpp(joined: str) -> str:
    """A hole for what is joined to a text."""
    names = re.findall(r"[A-Za-z_]\w*", joined)
    names = [n for n in names if n not in ("std", "to_string", "string", "Name", "static_cast")]
    return hole(names[-1].strip("_") if names and len(names) < 4 else SOME)


def sources() -> tuple[list[Path], list[Path]]:
    """The files that are read, of Python and of C++."""
    folders = [ROOT / "moge_ops", ROOT / "triton_kernels"]
    python = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    cpp = sorted(path for end in ("*.cpp", "*.h") for path in (ROOT / "csrc").rglob(end))
    return [*python, ROOT / "setup.py"], cpp


@functools.cache
def read() -> tuple[tuple[Message, ...], tuple[Unread, ...], int]:
    """All messages, the places that were not understood, and the number of ``raise``."""
    python, cpp = sources()
    reader = Reader(python)
    found = [*reader.messages, *(message for path in cpp for message in _cpp(path))]
    return tuple(found), tuple(reader.unread), reader.raises


def merged(about: str) -> list[tuple[Message, list[str]]]:
    """The messages of a subject in the order of their texts, each once, with all its places."""
    same: dict[tuple[str, str], tuple[Message, list[str]]] = {}
    for message in read()[0]:
        if subject(message.file) == about:
            where = f"{message.file}:{message.line}"
            same.setdefault((message.text, message.kind), (message, []))[1].append(where)
    return sorted(same.values(), key=lambda each: [w.lower() for w in words(each[0].text)])
