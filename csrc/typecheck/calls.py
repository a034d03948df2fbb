"""Agreement of the emulator's API with the real headers, call by call.

`calls/*.cpp` hold one call a statement. Each file is compiled against the emulator's headers by g++
and, with the folders of the real headers given, against those by clang++; both must accept or
refuse each statement as its comment says. README.md beside this file tells how to write one.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import api_names
import typecheck

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EMULATOR = ROOT / "csrc" / "emulator"
FILES = sorted((HERE / "calls").glob("*.cpp"))

OURS, THEIRS = "the emulator", "the real headers"
# who must refuse a statement with this word at the start of a comment
REFUSED_BY = {"wrong": {OURS, THEIRS}, "ours": {OURS}, "theirs": {THEIRS}}
MARK = re.compile(r"//\s*(wrong|ours|theirs)\b")
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|^#[^\n]*', re.DOTALL | re.M)
# of an error in a header, who asked for it: g++ says so before the error, clang++ after it
ASKED = re.compile(r":\d+:\s+(?:required from|in .constexpr. expansion)|: note: .*requested here")
# no other of our own sources is where g++ or clang++ may look for a header of the calls
GXX = ("g++", "-fdiagnostics-plain-output", "-fmax-errors=0", "-I", str(EMULATOR), "-x", "c++")
# the compiler of the NPU knows these words by itself
KEYWORDS = ("-D__schedmode__(mode)=", "-D__host__=", "-D__forceinline__=inline")
CLANG = ("-fno-caret-diagnostics", "-ferror-limit=0", *KEYWORDS)
COMMON = ("-std=c++17", "-fsyntax-only", "-ftemplate-backtrace-limit=0")


@dataclass(frozen=True)
class Statement:
    """One statement of a function: where it is, and who must refuse it."""

    begin: int
    end: int
    first: int
    last: int
    text: str
    refused_by: frozenset[str]


def blank(match: re.Match[str]) -> str:
    """Spaces instead of a comment or the text of a string, so that offsets stay."""
    text = re.sub(r"[^\n]", " ", match[0])
    return f'"{text[1:-1]}"' if match[0].startswith('"') else text


def bodies(code: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each function's body outside of classes."""
    position = 0
    while (begin := code.find("{", position)) >= 0:
        before = code[:begin].rstrip()
        if re.search(r"\bnamespace(\s+\w+)?$", before):
            position = begin + 1
            continue
        depth, end = 1, begin + 1
        while depth:
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        if before.endswith(")"):
            yield begin + 1, end - 1
        position = end


def statements(source: str) -> list[Statement]:
    """The statements of all functions."""
    code = COMMENT_OR_STRING.sub(blank, source)
    found = []
    for begin, end in bodies(code):
        depth, start = 0, begin
        for at in range(begin, end):
            depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(code[at], 0)
            if code[at] != ";" or depth:
                continue
            while code[start].isspace():
                start += 1
            first, last = (source.count("\n", 0, offset) + 1 for offset in (start, at))
            rest = source[start : (source + "\n").index("\n", at)]
            mark = MARK.search(rest)
            refused_by = frozenset(REFUSED_BY[mark[1]]) if mark else frozenset()
            text = " ".join(code[start:at].split())
            found.append(Statement(start, at, first, last, text, refused_by))
            start = at + 1
        if code[start:end].strip():
            raise ValueError(f"not a statement that ends in `;`: {code[start:end].strip()}")
    return found


def errors(output: str, name: str) -> Iterator[tuple[int | None, str]]:
    """Line of the file that each error belongs to, and its text."""
    line_of = re.compile(rf"^{re.escape(name)}:(\d+):")
    asked: int | None = None  # before the error: g++
    pending: tuple[int | None, str] | None = None  # an error in a header, its line to come: clang++
    for text in output.splitlines():
        here = line_of.match(text)
        if re.search(r": (?:fatal )?error: ", text):
            if pending:
                yield pending
            message = text.split("error: ", 1)[1]
            pending = (int(here[1]) if here else asked, message)
            if here:
                yield pending
                pending = None
        elif here and ASKED.search(text):
            if pending and ": note: " in text:
                pending = (int(here[1]), pending[1])
            else:
                asked = int(here[1])
        elif re.search(r": In (?:instantiation|substitution|function|member function)", text):
            asked = None
    if pending:
        yield pending


def refusals(source: str, name: str, command: list[str]) -> dict[Statement, str]:
    """The statements that a compiler refuses, with its first words on each.

    A compiler reports an instantiation that fails once, at its first use. So what was refused is
    taken out, until the rest compiles.
    """
    found: dict[Statement, str] = {}
    listed = statements(source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        while True:
            text = list(source)
            for refused in found:
                for at in range(refused.begin, refused.end):
                    text[at] = text[at] if text[at] == "\n" else " "
            path.write_text("".join(text))
            full = [*command, str(path)]
            env = {**os.environ, "LC_ALL": "C"}
            result = subprocess.run(full, stderr=subprocess.PIPE, text=True, env=env)
            if result.returncode == 0:
                return found
            known = len(found)
            for line, message in errors(result.stderr, str(path)):
                for statement in listed:
                    if line is not None and statement.first <= line <= statement.last:
                        found.setdefault(statement, message)
            if len(found) == known:
                first = "\n".join(result.stderr.splitlines()[:20])
                raise ValueError(f"{name}: errors outside of statements:\n{first}")


def disagreements(source: str, name: str, who: str, command: list[str]) -> list[str]:
    """What one compiler accepts or refuses against the comments of a file."""
    refused = refusals(source, name, command)
    texts = []
    for statement in statements(source):
        where = f"{name}:{statement.first}: {who}"
        if who in statement.refused_by and statement not in refused:
            texts.append(f"{where}: accepted, and must not be: {statement.text}")
        elif who not in statement.refused_by and statement in refused:
            texts.append(f"{where}: refused: {statement.text}\n    {refused[statement]}")
    return texts


def our_command() -> list[str]:
    """Against the emulator's headers."""
    return [GXX[0], *COMMON, *GXX[1:]]


def their_command(compiler: str, devkit: Path, tools: Path, folder: Path) -> list[str]:
    """Against the real headers, which are compiled once, for all files."""
    headers = typecheck.options_for_headers(devkit, tools, folder)
    options = [option for option in typecheck.KERNEL if option not in ("-x", "c++")]
    header, compiled = folder / "all.h", folder / "all.h.pch"
    header.write_text('#include "kernel_operator.h"\n')
    command = [compiler, "-std=c++17", *options, *CLANG, *headers]
    build = [*command, "-x", "c++-header", str(header), "-o", str(compiled)]
    subprocess.run(build, check=True)
    return [*command, *COMMON[1:], "-x", "c++", "-include-pch", str(compiled)]


def missing(sources: list[str]) -> list[str]:
    """Public names and constructors of the emulator that no call has."""
    names, constructors = api_names.public_names(our_command(), EMULATOR / "kernel_operator.h")
    words = set(re.findall(r"\w+", " ".join(COMMENT_OR_STRING.sub(blank, s) for s in sources)))
    texts = [statement.text for source in sources for statement in statements(source)]
    found = set(api_names.constructed(texts))
    absent = [f"{name} with {number} arguments" for name, number in constructors - found]
    return sorted(names - words) + sorted(absent)


def main() -> int:
    """Compile each file of calls against one set of headers, or both; tell where they differ."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="all of calls/ if none is given")
    parser.add_argument("--devkit", type=Path, help="sources of asc-devkit")
    parser.add_argument("--tools", type=Path, help="sources of asc-tools")
    parser.add_argument("--clang", default=typecheck.COMPILER)
    args = parser.parse_args()
    if (args.devkit is None) != (args.tools is None):
        parser.error("--devkit and --tools belong together")
    with tempfile.TemporaryDirectory() as folder:
        commands = {OURS: our_command()}
        if args.devkit:
            commands[THEIRS] = their_command(args.clang, args.devkit, args.tools, Path(folder))
        number, texts = 0, []
        if not args.files:
            texts += [f"no call of {name}" for name in missing([p.read_text() for p in FILES])]
        for path in args.files or FILES:
            source = path.read_text()
            number += len(statements(source))
            for who, command in commands.items():
                texts += disagreements(source, path.name, who, command)
    for text in texts:
        sys.stdout.write(f"{text}\n")
    sys.stdout.write(f"{number} statements, {' and '.join(commands)}: {len(texts)} differ\n")
    return bool(texts)


if __name__ == "__main__":
    sys.exit(main())
