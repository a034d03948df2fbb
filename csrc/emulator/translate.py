"""Ascend C sources for a host compiler.

A launch `kernel<<<blocks, nullptr, stream>>>(...)` becomes a call of `emulator::host::On`
(host/host.h). Nothing else changes, and every line keeps its number.
"""

import argparse
import re
import sys
from pathlib import Path

MIXES = {
    (0, 1): "kMixVector",
    (1, 0): "kMixCube",
    (1, 1): "kMixPair",
    (1, 2): "kMix",
}
TASK_TYPES = {
    "KERNEL_TYPE_AIV_ONLY": "kVector",
    "KERNEL_TYPE_AIC_ONLY": "kCube",
    "KERNEL_TYPE_MIX_AIV_1_0": "kMixVector",
    "KERNEL_TYPE_MIX_AIC_1_0": "kMixCube",
    "KERNEL_TYPE_MIX_AIC_1_1": "kMixPair",
    "KERNEL_TYPE_MIX_AIC_1_2": "kMix",
}
CUBE = re.compile(r"\b(Mmad|Fixpipe|LoadData|TSCM|Matmul\w*|matmul)\b")
VECTOR = re.compile(
    r"\b(TPosition\s*::\s*VEC\w+|PIPE_V|Hardware\s*::\s*UB|QuePosition\s*::\s*VEC\w+)\b"
)
BOTH = re.compile(r"\bASCEND_IS_AI[CV]\b|\bg_coreType\b|\bCrossCoreSetFlag\b")

TOKEN = re.compile(
    r"//(?:\\\n|[^\n])*|/\*.*?\*/"  # comments
    r'|R"(?P<delimiter>[^()\\\s]*)\(.*?\)(?P=delimiter)"'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<!\d)(?<!\d[0-9a-fA-F])'(?:\\.|[^'\\\n])*'",  # after a digit ' separates digits
    re.DOTALL,
)
KERNEL = re.compile(
    r'(?P<before>(?:\b(?:extern\s+"\s*"|static|inline|__\w+__(?:\s*\([^()]*\))?)\s+)+)'
    r"void\s+(?P<name>\w+)\s*\("
)


ORDINARY = r"(?m)^[ \t]*(?:(?:static|inline|__\w+__(?:\s*\([^()]*\))?)\s+)*void\s+"
CAST = re.compile(r"^\([\w\s:]+\*\s*\)\s*|^\(GM_ADDR\)\s*")


class TranslationError(Exception):
    """A source that is not understood; where a line is known it comes first, "12: why"."""


def blank(text, strings):
    """`text` with comments as spaces, and the contents of strings if `strings` is true."""

    def spaces(match):
        piece = match[0]
        hollow = re.sub(r"[^\n]", " ", piece)
        if piece[0] == "/":
            return hollow
        if not strings:
            return piece
        start = piece.index('"') if piece[0] == "R" else 0
        return piece[: start + 1] + hollow[start + 1 : -1] + piece[-1]

    return TOKEN.sub(spaces, text)


def line(code, at):
    """The number of the line of a place."""
    return code.count("\n", 0, at) + 1


def closing(code, start, pairs="()[]{}"):
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for i in range(start, len(code)):
        at = pairs.find(code[i])
        if at >= 0:
            depth += 1 if at % 2 == 0 else -1
            if depth == 0:
                return i
    raise TranslationError(f"{line(code, start)}: a bracket that does not close")


def opening(code, end):
    """Where the parenthesis that closes at `end` opens."""
    depth = 0
    for i in range(end, -1, -1):
        depth += (code[i] == ")") - (code[i] == "(")
        if depth == 0:
            return i
    raise TranslationError(f"{line(code, end)}: a parenthesis that does not open")


def callee_start(code, end):
    """Where the kernel's name starts that ends, perhaps with template arguments, before `end`."""
    i = end
    while code[i - 1].isspace() or code[i - 1] == "\\":
        i -= 1
    if code[i - 1] == ">":
        depth = 0
        while i > 0:
            i -= 1
            if code[i] == ")":
                i = opening(code, i)
            depth += (code[i] == ">") - (code[i] == "<")
            if depth == 0:
                break
        while code[i - 1].isspace():
            i -= 1
    elif code[i - 1] == ")":
        return opening(code, i - 1)
    while i > 0 and re.match(r"[\w:.]", code[i - 1]):
        i -= 1
    return i


def split(code, text):
    """`text` at its top-level commas, which `code` shows."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(code):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [" ".join(part.split()) for part in parts if part.strip()]


def undeclared(code):
    """The kind of a kernel without one, by the API that its sources use."""
    cube, vector = CUBE.search(code), VECTOR.search(code)
    if BOTH.search(code) or (cube and vector):
        return "kMix"
    return "kCube" if cube else "kVector"


def kernels(sources):
    """The kind of each kernel by its name, from the text of all sources."""
    found = {}
    for text in sources:
        code = blank(text, strings=True)
        for match in KERNEL.finditer(code):
            before = match["before"]
            if "__global__" not in before:
                continue
            body = code[match.end() :]
            stop = KERNEL.search(body)
            body = body[: stop.start()] if stop else body
            mix = re.search(r"__mix__\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)", before)
            task = re.search(r"KERNEL_TASK_TYPE_DEFAULT\s*\(\s*(\w+)\s*\)", body)
            if mix or task:
                form = (int(mix[1]), int(mix[2])) if mix else task[1]
                kind = MIXES.get(form) if mix else TASK_TYPES.get(form)
                if kind is None:
                    known = ", ".join(map(str, MIXES if mix else TASK_TYPES))
                    raise TranslationError(
                        f"{match['name']}: {form} is not one of the kinds that run here: {known}"
                    )
            elif "__vector__" in before:
                kind = "kVector"
            elif "__cube__" in before:
                kind = "kCube"
            else:
                kind = None
            if kind is not None or match["name"] not in found:
                found[match["name"]] = kind
    everything = "\n".join(blank(text, strings=True) for text in sources)
    return {name: kind or undeclared(everything) for name, kind in found.items()}


def translate(text, kinds):
    """The source with its launches as calls."""
    code, plain = blank(text, strings=True), blank(text, strings=False)
    pieces, done = [], 0

    for match in re.finditer(r"<<<", code):
        start = callee_start(code, match.start())
        if match.start() < done or start >= match.start():
            continue
        end = match.end()
        while not code.startswith(">>>", end):
            end = closing(code, end) + 1 if code[end] in "([{" else end + 1
            if end >= len(code):
                raise TranslationError(f"{line(code, match.start())}: <<< without >>>")
        first = re.compile(r"[\s\\]*").match(code, end + 3).end()
        if first >= len(code) or code[first] != "(":
            raise TranslationError(f"{line(code, end)}: >>> without arguments")
        last = closing(code, first)
        callee = plain[start : match.start()]
        named = re.match(r"[\s(&*:]*(?:\w+\s*::\s*)*(\w+)", callee)
        if named is None:
            raise TranslationError(f"{line(code, match.start())}: <<< without a kernel")
        name = named[1]
        kind = kinds.get(name)
        if kind is None:
            # a pointer to a kernel is launched, too, if there is no doubt of its kind
            if len(set(kinds.values())) != 1 or re.search(ORDINARY + rf"{name}\s*\(", code):
                raise TranslationError(
                    f"{line(code, start)}: {name} is launched and no __global__ function of "
                    "these sources is called so: add the file that has it"
                )
            kind = next(iter(kinds.values()))
        arguments = split(code[first + 1 : last], plain[first + 1 : last])
        names = "\\n".join(
            CAST.sub("", a).replace("\\", "\\\\").replace('"', '\\"') for a in arguments
        )
        pieces += [
            text[done:start],
            f'::emulator::host::On(::emulator::KernelType::{kind}, "{name}", "{names}", ',
            plain[match.end() : end],
            ")([&](auto&... moge_a) { ",
            callee,
            "(moge_a...); })",
            plain[end + 3 : last + 1],
        ]
        done = last + 1
    return "".join([*pieces, text[done:]])


def local_includes(path, text, folders):
    """What a source includes of the files beside it and in `folders`: name -> path."""
    found = {}
    for name in re.findall(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', text, re.MULTILINE):
        for folder in [path.parent, *folders]:
            if (folder / name).is_file():
                found[name] = folder / name
                break
    return found


def gather(paths, folders, foreign):
    """All files of a program but those in `foreign` folders.

    Returns {path: (text, name that it is included by; of a source None)}.
    """
    files, todo = {}, [(Path(path), None) for path in paths]
    while todo:
        path, name = todo.pop(0)
        if path in files or any(folder in path.resolve().parents for folder in foreign):
            continue
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        files[path] = (text, name)
        todo += [(found, name) for name, found in local_includes(path, text, folders).items()]
    return files


def write(paths, folders, foreign, out):
    """Translates into `out` the sources, and those of their headers that launch kernels.

    Returns a pair of each source: its new path and its old one.
    """
    files = gather(paths, folders, foreign)
    kinds = kernels([text for text, _ in files.values()])
    translated = []
    for path, (text, name) in files.items():
        if name is not None and "<<<" not in blank(text, strings=True):
            continue
        try:
            body = f'#line 1 "{path}"\n' + translate(text, kinds)
        except TranslationError as error:
            raise TranslationError(f"{path}:{error}") from None
        if name is None:
            body = '#include "host/host.h"\n' + body
            target = out / f"{len(translated)}_{path.stem}.cpp"
            translated.append((target, path))
        else:
            target = out / "include" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(body, encoding="utf-8", errors="surrogateescape")
    return translated


def main(arguments):
    """Translates files into a folder, for a build system; returns the status."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("-I", dest="include", action="append", default=[])
    options = parser.parse_args(arguments)
    out, folders = Path(options.out), [Path(folder) for folder in options.include]
    here = Path(__file__).resolve().parent
    try:
        translated = write(options.sources, folders, [here], out)
    except TranslationError as error:
        print(error, file=sys.stderr)
        return 1
    depends = " ".join(
        str(path).replace(" ", "\\ ") for path in gather(options.sources, folders, [here])
    )
    (out / "depends").write_text(
        f"{' '.join(str(target) for target, _ in translated)}: {depends}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
