"""Public names of the emulator's API, as the preprocessor shows its headers.

A name is a function, class, method, member, enumerator, alias or macro; constructors are listed by
their class and number of arguments. Everything inside `namespace emulator` is the emulator's own.
"""

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[A-Za-z_]\w*|\d[\w.\']*|::|\S')
MARKER = re.compile(r'# \d+ "([^"]*)"')
MACRO = re.compile(r"#define (\w+)")
OPENS, CLOSES = dict(zip("({[<", ")}]>", strict=True)), set(")}]>")
# what the emulator's own functions need of a tensor, and of a number
INTERNAL = {"Ref", "bits"}


def preprocess(command: list[str], header: Path) -> dict[str, tuple[str, set[str]]]:
    """What each header says, the given one and those of its folder that it includes; its macros.

    The headers go by their paths in the folder.
    """
    full = [*command, "-E", "-dD", str(header)]
    result = subprocess.run(full, check=True, capture_output=True, text=True)
    folder = header.parent.resolve()
    code: dict[str, list[str]] = {}
    macros: dict[str, set[str]] = {}
    lines: list[str] | None = None
    name = ""
    for line in result.stdout.splitlines():
        if marker := MARKER.match(line):
            path = Path(marker[1]).resolve()
            name = str(path.relative_to(folder)) if path.is_relative_to(folder) else ""
            lines = code.setdefault(name, []) if name else None
        elif lines is not None and line.startswith("#"):
            macros.setdefault(name, set()).update(MACRO.findall(line))
        elif lines is not None:
            lines.append(line)
    return {
        name: ("\n".join(code[name]), set(filter(_kept, macros.get(name, ())))) for name in code
    }


def _kept(macro: str) -> bool:
    return not macro.startswith("MOGE_") and not macro.endswith("_H_")


def skip(tokens: list[str], at: int) -> int:
    """Position behind the bracket that closes the one at a position."""
    if tokens[at] == "<":  # of a template: no comparison stands in one of our headers
        depth = 0
        while True:
            if tokens[at] in "({[":
                at = skip(tokens, at)
                continue
            depth += {"<": 1, ">": -1}.get(tokens[at], 0)
            at += 1
            if not depth:
                return at
    close = OPENS[tokens[at]]
    at += 1
    while tokens[at] != close:
        at = skip(tokens, at) if tokens[at] in "({[" else at + 1
    return at + 1


def split(tokens: list[str]) -> list[list[str]]:
    """Pieces between the commas that are in no bracket."""
    pieces: list[list[str]] = [[]]
    at = 0
    while at < len(tokens):
        if tokens[at] == ",":
            pieces.append([])
            at += 1
            continue
        named = at > 0 and re.match(r"\w", tokens[at - 1])
        end = skip(tokens, at) if tokens[at] in "({[" or (tokens[at] == "<" and named) else at + 1
        pieces[-1] += tokens[at:end]
        at = end
    return [piece for piece in pieces if piece]


class Scanner:
    """Finds the names in a list of tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        # names of each class and enumeration, and under "" those that are of none
        self.members: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self.constructors: set[tuple[str, int]] = set()

    @property
    def names(self) -> set[str]:
        """All names."""
        return {name for names in self.members.values() for name in names}

    def add(self, owner: str, *names: str) -> None:
        """Notes names, in their order."""
        self.members[owner].update(dict.fromkeys(names))

    def scope(self, at: int, end: int, owner: str = "", public: bool = True) -> None:
        """All declarations between two positions, of a namespace or of a class."""
        while at < end:
            if self.tokens[at] in {"public", "private", "protected"}:
                public = self.tokens[at] == "public"
                at += 2
            else:
                at = self.declaration(at, owner, public)

    def declaration(self, at: int, owner: str, public: bool) -> int:
        """One declaration; returns where the next one starts."""
        while self.tokens[at] == "template":
            at = skip(self.tokens, at + 1)
        word, following = self.tokens[at], self.tokens[at + 1]
        if word == ";":
            return at + 1
        if word == "namespace":
            end = skip(self.tokens, self.tokens.index("{", at))
            if following != "emulator":
                self.scope(self.tokens.index("{", at) + 1, end - 1)
            return end
        if word == "using":
            if self.tokens[at + 2] == "=" and public:
                self.add(owner, following)
            return self.tokens.index(";", at) + 1
        if word in {"class", "struct", "union", "enum"}:
            return self.type(at, owner, public)
        return self.function_or_variable(at, owner, public)

    def type(self, at: int, owner: str, public: bool) -> int:
        """A class or an enumeration."""
        kind = self.tokens[at]
        at += 1 + (self.tokens[at + 1] == "class")
        body = next(i for i in range(at, len(self.tokens)) if self.tokens[i] in "{;")
        if self.tokens[body] == ";":
            return body + 1
        end = skip(self.tokens, body)
        name = "" if self.tokens[at] in "{:" else self.tokens[at]
        if public:
            if name:
                self.add(owner, name)
            if kind == "enum":
                self.add(name or owner, *(p[0] for p in split(self.tokens[body + 1 : end - 1])))
            else:
                self.scope(body + 1, end - 1, name or owner, kind != "class")
        return self.tokens.index(";", end) + 1

    def function_or_variable(self, at: int, owner: str, public: bool) -> int:
        """Anything else that ends in `;` or in the body of a function."""
        start, parameters, colon = at, 0, False
        while self.tokens[at] != ";":
            token, before = self.tokens[at], self.tokens[at - 1]
            if token == "(" and not parameters and before != "__attribute__":
                parameters = at
                if before == "operator":  # operator()
                    parameters = at + 2
                    at += 2
            if token == ":" and parameters:
                colon = True
            if token == "{" and parameters and (not colon or before in ")}"):
                at = skip(self.tokens, at) - 1
                break
            named = bool(re.match(r"\w", before)) and before != "operator"
            at = skip(self.tokens, at) if token in "({[" or (token == "<" and named) else at + 1
        if public:
            declared = self.tokens[start:at]
            if declared[0] in {"static_assert", "friend"}:
                pass
            elif parameters:
                self.function(owner, self.tokens[start:parameters], parameters, self.tokens[at - 1])
            else:
                self.variables(owner, declared)
        return at + 1

    def function(self, owner: str, words: list[str], at: int, last: str) -> None:
        """A function's name, or a constructor with its numbers of arguments."""
        pieces = split(self.tokens[at + 1 : skip(self.tokens, at) - 1])
        internal = any("Ref" in token for piece in pieces for token in piece)
        if "operator" in words or "~" in words or internal or last == "delete":
            return
        if owner and words[-1] == owner:
            if not any(owner in piece for piece in pieces):
                least = sum("=" not in piece for piece in pieces)
                self.constructors |= {(owner, n) for n in range(least, len(pieces) + 1)}
        else:
            self.add(owner, words[-1])

    def variables(self, owner: str, tokens: list[str]) -> None:
        """The names that a declaration lists."""
        for piece in split(tokens):
            name = ""
            for token in piece:
                if token in {"=", "{", "["}:
                    break
                name = token if re.match(r"[A-Za-z_]", token) else name
            self.add(owner, name)


def headers(command: list[str], header: Path) -> dict[str, Scanner]:
    """What each header of the API declares; its macros are names of no class."""
    found = {}
    for name, (code, macros) in preprocess(command, header).items():
        scanner = found[name] = Scanner(TOKEN.findall(code))
        scanner.scope(0, len(scanner.tokens))
        scanner.add("", *sorted(macros))
    return found


def public_names(command: list[str], header: Path) -> tuple[set[str], set[tuple[str, int]]]:
    """Names, and constructors, of a header's API."""
    scanners = headers(command, header).values()
    names = {name for scanner in scanners for name in scanner.names}
    return names - INTERNAL, {each for scanner in scanners for each in scanner.constructors}


def constructed(texts: list[str]) -> Iterator[tuple[str, int]]:
    """Class and number of arguments wherever a statement may construct something by its name."""
    for text in texts:
        tokens = [*TOKEN.findall(text), ";"]
        for at, token in enumerate(tokens[:-1]):
            if not re.match(r"[A-Za-z_]", token):
                continue
            end = at + 1
            if tokens[end] == "<":
                try:
                    end = skip(tokens, end)
                except IndexError:  # a comparison
                    continue
            if re.match(r"[A-Za-z_]", tokens[end]):
                end += 1
            if tokens[end] in {"(", "{"}:
                yield token, len(split(tokens[end + 1 : skip(tokens, end) - 1]))
            else:
                yield token, 0
