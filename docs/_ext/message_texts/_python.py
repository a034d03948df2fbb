"""The messages of sources of Python, read from their syntax trees."""

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from message_texts._text import CLOSE, HOLE, OPEN, SOME, Message, Unread, hole, words
from message_texts._trees import (
    Call,
    Function,
    Module,
    Scope,
    arguments,
    assigned,
    called,
    is_no_text,
    is_of,
    is_text,
    last,
    nodes,
    pairs,
    parameters,
)

LOGGED = {"debug", "info", "warning", "error", "exception", "critical"}
# lists of what is wrong with a folder, which end in one message
COLLECTED = {"problems", "errors"}
INFO, LISTED = "in moge-ops info", "within a ValueError"
GIVEN = "value"  # a parameter with what a user has passed
# variables of _checks._compare -> where in a spec of a tensor they come from
OF_SPEC = {"name": 0, "first_name": 0, "rows_of": 0, "layout": 2}
DEEPEST = 6  # texts within texts


class Reader:
    """Reads the texts of all files of Python."""

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self.modules = [Module(path, root) for path in paths]
        self.messages: list[Message] = []
        self.unread: list[Unread] = []
        self.raises = 0
        self.by_name = {module.file: module for module in self.modules}
        self.calls = defaultdict[str, list[Call]](list)
        self.lambdas = defaultdict[str, list[tuple[ast.expr, Scope]]](list)
        self.listing = set[str]()  # functions that yield problems
        self.specs: list[tuple[ast.Tuple, Scope]] = []  # of _checks.tensors
        places = [(node, scope) for module in self.modules for node, scope in nodes(module)]
        for node, scope in places:
            self._note(node, scope)
        for node, scope in places:
            self._read(node, scope)

    def _note(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.Call):
            self.calls[last(node.func)].append(Call(node, scope))
            for each in node.keywords:
                if each.arg and isinstance(each.value, ast.Lambda):
                    self.lambdas[each.arg].append((each.value.body, scope))
            extended = node.func.value if isinstance(node.func, ast.Attribute) else None
            if last(node.func) == "extend" and extended and last(extended) in COLLECTED:
                self.listing |= {last(a.func) for a in node.args if isinstance(a, ast.Call)}
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
            self.lambdas[last(node.target)].append((node.value.body, scope))
        elif isinstance(node, ast.AugAssign) and last(node.target) in COLLECTED:
            self.listing |= {last(node.value.func)} if isinstance(node.value, ast.Call) else set()

    def _read(self, node: ast.AST, scope: Scope) -> None:
        """Adds what one node shows to a user."""
        if isinstance(node, ast.Raise):
            self._read_raise(node, scope)
        elif isinstance(node, ast.Assert) and node.msg is not None:
            self._add(node.msg, scope, "AssertionError", node.lineno)
        elif isinstance(node, ast.Call):
            self._read_call(node, scope)
        elif isinstance(node, ast.AugAssign) and last(node.target) in COLLECTED:
            self._add_all(node.value, scope, node.lineno)
        elif isinstance(node, ast.Yield) and node.value is not None and is_text(node.value):
            if scope.functions and getattr(scope.functions[-1], "name", "") in self.listing:
                self._add(node.value, scope, LISTED, node.lineno)
        elif is_text(node) and isinstance(node, ast.expr):
            text, values = self.text(node, scope)
            if text.startswith("off: ") and words(text[5:]):
                self.messages.append(Message(text, INFO, scope.module.file, node.lineno, values))

    def _read_call(self, node: ast.Call, scope: Scope) -> None:
        name = last(node.func)
        on = node.func.value if isinstance(node.func, ast.Attribute) else None
        if name == "warn" and on is not None and last(on) == "warnings":
            kind = last(node.args[1]) if len(node.args) > 1 else "UserWarning"
            self._add(node.args[0], scope, kind, node.lineno)
        elif name in LOGGED and on is not None and last(on) in ("logger", "_logger", "logging"):
            self._add(node.args[0], scope, f"log, {name}", node.lineno, node.args[1:])
        elif name == "error" and on is not None and last(on) == "parser":
            self._add(node.args[0], scope, "standard error", node.lineno)
        elif name == "print" and any(
            each.arg == "file" and last(each.value) == "stderr" for each in node.keywords
        ):
            text, values = self.text(node.args[0], scope)
            if words(text):  # not progress
                kind = "standard error"
                self.messages.append(Message(text, kind, scope.module.file, node.lineno, values))
        elif name == "append" and on is not None and last(on) in COLLECTED:
            if is_text(node.args[0]):
                self._add(node.args[0], scope, LISTED, node.lineno)
        elif name == "extend" and on is not None and last(on) in COLLECTED:
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
            name = last(made)
            # a method that another class has to have, or a signal within a file
            if name != "NotImplementedError" and not name.startswith("_"):
                self._miss(scope, node.lineno, f"raise {name} has no text")
            return
        maker = scope.module.functions.get(last(made.func))
        if maker is not None:
            bound = {
                name: (value, scope) for name, value in arguments(made, maker) if value is not None
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
        kind = last(made.func) or "the class of the error within"
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
                between = " " if is_text(on) else ""
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
        if len(options) == 1 and (is_text(node) or self._is_fixed(node, scope)):
            return self.text(*options[0], depth + 1)
        name = called(node)
        if options and isinstance(node, ast.Call) and not node.args:
            name = last(node.func)  # of a lambda
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
            found = assigned(function).get(node.id, [])
            if found or node.id in parameters(function):
                return len(found) == 1 and node.id not in parameters(function)
        return True

    def _options(self, node: ast.expr, scope: Scope, depth: int) -> list[tuple[ast.expr, Scope]]:
        """The expressions that may be the value of one, as far as they are texts."""
        if depth > DEEPEST:
            return []
        if is_text(node):
            return [(node, scope)]
        if isinstance(node, ast.IfExp):
            unknown: list[tuple[ast.expr, Scope]] = [(ast.Name(SOME), scope)]
            sides = [self._options(side, scope, depth + 1) for side in (node.body, node.orelse)]
            return [option for side in sides for option in side or unknown] if any(sides) else []
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
            terms = [node.left, node.right]
            if isinstance(node.op, ast.Add) and any(map(is_text, terms)):
                return [(node, scope)]
            return [each for side in terms for each in self._options(side, scope, depth + 1)]
        if isinstance(node, ast.Call) and not node.args and last(node.func) in self.lambdas:
            return self.lambdas[last(node.func)]
        if isinstance(node, ast.Call):  # .get(key, default) of a table of texts
            if last(node.func) == "get" and isinstance(node.func, ast.Attribute):
                table = self._table(node.func.value, scope)
                return [*table, *((a, scope) for a in node.args[1:] if is_text(a))]
            maker = scope.module.functions.get(getattr(node.func, "id", ""))
            if maker is not None:
                inner = Scope(scope.module, (*scope.functions, maker))
                return [
                    (each.value, inner)
                    for each in ast.walk(maker)
                    if isinstance(each, ast.Return) and each.value and is_text(each.value)
                ]
            return []
        if isinstance(node, ast.Subscript):
            return self._table(node.value, scope)
        if isinstance(node, ast.Name):
            return self._named(node.id, scope, depth)
        return []

    def _table(self, node: ast.expr, scope: Scope) -> list[tuple[ast.expr, Scope]]:
        tables = scope.module.globals.get(last(node), [])
        return [
            (value, scope)
            for table in tables
            if isinstance(table, ast.Dict)
            for value in table.values
            if is_text(value)
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
            found = [] if isinstance(function, ast.Lambda) else assigned(function).get(name, [])
            found = [each for each in found if not is_no_text(each)]
            if found:
                return [o for each in found for o in self._options_or_self(each, outer, depth)]
            if name in parameters(function):
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
        joined = isinstance(node, ast.Call) and last(node.func) in ("format", "join")
        if joined and words(self.text(node, scope, depth + 1)[0]):
            return [(node, scope)]
        return self._options(node, scope, depth + 1)

    def _looped(
        self, loop: ast.For, name: str, scope: Scope, depth: int
    ) -> list[tuple[ast.expr, Scope]]:
        """What a variable of a loop may be, where the list or table is written in the source."""
        listed, items = loop.iter, False
        if isinstance(listed, ast.Call) and last(listed.func) == "items" and not listed.args:
            listed, items = getattr(listed.func, "value", listed), True
        if isinstance(listed, ast.Name) and len(scope.module.globals.get(listed.id, ())) == 1:
            (listed,) = scope.module.globals[listed.id]
        elements: list[ast.expr] = []
        if isinstance(listed, (ast.Tuple, ast.List)):
            elements = listed.elts
        elif isinstance(listed, ast.Dict) and items:
            entries = zip(listed.keys, listed.values, strict=True)
            elements = [ast.Tuple([key, value]) for key, value in entries if key is not None]
        return [
            option
            for element in elements
            for each, value in pairs(loop.target, element)
            if each == name
            for option in self._options(value, scope._replace(loops=()), depth + 1)
        ]

    def _passed(
        self, function: Function, name: str, module: Module, depth: int
    ) -> list[tuple[ast.expr, Scope]]:
        """What calls pass for a parameter of a function in a module."""
        found: list[tuple[ast.expr, Scope]] = []
        for node, scope in self.calls.get(getattr(function, "name", ""), []):
            if not is_of(node.func, scope.module, module):
                continue
            for parameter, value in arguments(node, function):
                if parameter == name and value is not None:
                    found += self._options(value, scope, depth + 1)
        named = [*function.args.posonlyargs, *function.args.args]
        defaults = dict(
            zip([a.arg for a in named][::-1], function.args.defaults[::-1], strict=False)
        )
        if name in defaults and is_text(defaults[name]):
            found.append((defaults[name], Scope(module)))
        return found
