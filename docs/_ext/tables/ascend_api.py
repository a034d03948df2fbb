"""What the emulator has of Ascend C: names, instructions, casts, memories, from its sources."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

import api_names
import calls

from tables import Table
from tables.ascend import EMULATOR, parameter

# as seen from bench/results, where tables look for their source
CALLS, INSTRUCTIONS, LIMITS, NAMES, FIGURES = (
    f"../../csrc/{path}"
    for path in ("typecheck/calls.py", "emulator/instructions.h", "emulator/parameter_limits.h",
                 "emulator/names.h", "emulator/figures.h")
)  # fmt: skip
# theme -> the headers that declare its names; a folder stands for all that are in it
THEMES = {
    "tensors": ("tensor.h", "list_tensor.h", "shape.h"),
    "vector": ("vector.h", "compound.h", "compare.h", "params_vector.h"),
    "rearranging": ("reduce.h", "gather.h", "transpose.h"),
    "copies": ("data_copy.h", "params_copy.h", "atomic.h"),
    "cube": ("load.h", "cube.h", "params_cube.h"),
    "queues": ("pipe.h", "queue.h", "pool.h"),
    "synchronisation": ("sync.h",),
    "core": ("builtin.h", "scalar.h", "debug.h", "dump.h"),
    "constants": ("types.h", "constants.h", "utilities.h"),
    "high-level": ("adv/",),
}
RIGHT, WRONG, OURS = (
    frozenset[str](),
    frozenset({calls.OURS, calls.THEIRS}),
    frozenset({calls.OURS}),
)


# --- names ----------------------------------------------------------------------------------------


def theme(header: str) -> str:
    """The one of `THEMES` that a header belongs to."""
    fitting = [name for name, starts in THEMES.items() if header.startswith(starts)]
    if len(fitting) != 1:
        raise ValueError(f"{header} must be of one theme, got {fitting}")
    return fitting[0]


@cache
def declared() -> dict[str, dict[str, dict[str, None]]]:
    """For each theme its names, and of classes and enumerations their members in order."""
    found: dict[str, dict[str, dict[str, None]]] = {name: {} for name in THEMES}
    header = EMULATOR / "kernel_operator.h"
    for file, scanner in api_names.headers(calls.our_command(), header).items():
        names = found[theme(file)] if scanner.names else {}
        for name in scanner.members.get("", ()):
            names.setdefault(name, {}).update(scanner.members.get(name, {}))
        anonymous = scanner.members.keys() - {"", *names}
        if anonymous:
            raise ValueError(f"{file}: {anonymous} have members and are not declared")
    return found


@cache
def statements() -> list[calls.Statement]:
    """Every call that is compared with the real headers."""
    return [each for path in calls.FILES for each in calls.statements(path.read_text())]


@cache
def agreeing() -> dict[frozenset[str], Counter[str]]:
    """By who refuses a statement, how many have a word."""
    found = {refused: Counter[str]() for refused in (RIGHT, WRONG, OURS)}
    for statement in statements():
        words = set(re.findall(r"\w+", statement.text))
        found.setdefault(statement.refused_by, Counter()).update(words)
    return found


def call_count(which: str = "") -> str:
    """How many calls are compared; those that both sides accept ("right") or refuse ("wrong")."""
    wanted = {"right": RIGHT, "wrong": WRONG, "ours": OURS}.get(which)
    return f"{sum(which == '' or each.refused_by == wanted for each in statements()):,}"


def name_count() -> str:
    """How many functions, classes, enumerations, constants and macros there are."""
    return f"{len({name for names in declared().values() for name in names}):,}"


def _code(words: Iterable[str]) -> str:
    return " ".join(f"`{word}`" for word in words)


def names(about: str) -> Table:
    """The names of a theme with the calls that have them."""
    counts = agreeing()
    lines = []
    for name, members in sorted(declared()[about].items(), key=lambda each: each[0].lower()):
        numbers = (counts[who][name] for who in (RIGHT, WRONG, OURS))
        lines.append(
            [
                f"`{name}`",
                _code(name for name in members if name not in api_names.INTERNAL),
                *map(str, numbers),
            ]
        )
    head = ["name", "members", "right calls", "wrong calls", "refused here alone"]
    return Table("source", CALLS, "Counted in `csrc/typecheck/calls` by", head, lines)


# --- instructions and casts -----------------------------------------------------------------------


def _text(name: str) -> str:
    """A source of the emulator, its continued lines joined."""
    return re.sub(r"\s*\\\n\s*", " ", (EMULATOR / name).read_text())


def _macro(file: str, name: str) -> str:
    match = re.search(rf"^#define {name}\(X\) (.*)$", _text(file), re.MULTILINE)
    if match is None:
        raise ValueError(f"{file} has no table {name}")
    return match[1]


def _rate(text: str) -> str:
    over, _, under = text.partition(" / ")
    return f"{float(over) / float(under or 1):.4g}"


@cache
def _dtypes() -> dict[str, str]:
    """The emulator's name of an element type -> the language's."""
    listed = re.findall(
        r'X\(k(\w+), (?:\w+::)?(\w+), "(\w+)"\)', _macro("types.h", "MOGE_EMULATOR_DTYPES")
    )
    return {short: kind for name, kind, text in listed for short in (name, text)}


def _types(text: str) -> str:
    """`half`, or `half` from `int32_t`."""
    words = []
    for pair in text.split(", "):
        words.append(" from ".join(f"`{_dtypes()[each]}`" for each in pair.split("<-")))
    return ", ".join(words)


def instructions() -> Table:
    """Vector instructions with their types and speeds."""
    pattern = r'X\((\w+), "([^"]*)", (Whole|Each), ([^,]+), ([^)]+)\)'
    told = {"Whole": "repeats", "Each": "elements"}
    lines = [
        [f"`{name}`", _types(types) if types else "below", _rate(narrow), _rate(wide), told[unit]]
        for name, types, unit, narrow, wide in re.findall(
            pattern, _macro("instructions.h", "MOGE_VECTOR_INSTRUCTIONS")
        )
    ]
    head = ["instruction", "element types", "16-bit, a cycle", "32-bit, a cycle", "what counts"]
    return Table("source", INSTRUCTIONS, "Each instruction is a line of", head, lines)


MODES = {
    "kNone": ("NONE",),
    "kOdd": ("ODD",),
    "kRounds": ("RINT", "FLOOR", "CEIL", "ROUND", "TRUNC"),
    "kAny": ("NONE", "RINT", "FLOOR", "CEIL", "ROUND", "TRUNC", "ODD"),
}


def casts() -> Table:
    """Pairs of types that Cast converts, with the rounding modes that each may have."""
    lines = []
    for source, to, modes in re.findall(
        r"X\((\w+), (\w+), ([^)]+)\)", _macro("instructions.h", "MOGE_CASTS")
    ):
        named = [mode for each in modes.split(" | ") for mode in MODES[each]]
        marks = ["yes" if mode in named else "" for mode in MODES["kAny"]]
        lines.append([f"`{_dtypes()[source]}`", f"`{_dtypes()[to]}`", *marks])
    head = ["from", "to", *(f"`{mode}`" for mode in MODES["kAny"])]
    return Table("source", INSTRUCTIONS, "Each pair is a line of", head, lines)


# --- limits ---------------------------------------------------------------------------------------


def limits() -> Table:
    """Documented ranges of parameters, where the type of a field is wider."""
    pattern = r"^  X\((\w+), (\w+), (\d+), (\w+)\)(?: /\* (.*?) \*/)?"
    text = (EMULATOR / "parameter_limits.h").read_text()
    known = {
        name
        for names in declared().values()
        for each, members in names.items()
        for name in (each, *members)
    }
    lines = []
    for call, field, least, most, note in re.findall(pattern, text, re.MULTILINE):
        # what is no name of the API stands for the calls that the note tells
        name, when = (f"`{call}`", note) if call in known else (note, "")
        largest = 2**31 - 1 if most == "INT32_MAX" else int(most)
        lines.append([name, f"`{field}`", least, f"{largest:,}", when])
    head = ["structure or call", "parameter", "least", "most", "when"]
    return Table("source", LIMITS, "Each range is a line of", head, lines)


# --- memories -------------------------------------------------------------------------------------


def memories() -> Table:
    """The memories of a core, their sizes and the positions that lie in them."""
    positions: dict[str, list[str]] = {}
    for memory, position in re.findall(r"\{Memory::k(\w+), true\},\s*// (\w+)", _text("names.cpp")):
        positions.setdefault(memory, []).append(position)
    listed = re.findall(r'X\(k(\w+), "(\w+)", (\d+)\)', _macro("names.h", "MOGE_EMULATOR_MEMORIES"))
    lines = [[name, f"{int(size):,}", _code(positions[memory])] for memory, name, size in listed]
    return Table(
        "source", NAMES, "Each memory is a line of", ["memory", "bytes", "positions"], lines
    )


# a memory at the end of a path -> the figure for the port of its core
PORTS = {"ub": "VectorPort", "l0c": "FixpipePort"}


def paths() -> Table:
    """Ways between memories with the bytes that they take a cycle."""
    local = dict(re.findall(r"X\((\w+), ([^)]+)\)", _macro("figures.h", "MOGE_LOCAL_RATES")))
    lines = []
    for name, text in re.findall(
        r'X\(k(\w+), "([^"]+)"\)', _macro("names.h", "MOGE_EMULATOR_PATHS")
    ):
        source, to = text.split("->")
        if name in local:
            rate, what = local[name], "alone"
        elif "gm" in (source, to):
            port = next((PORTS[end] for end in (source, to) if end in PORTS), "CubePort")
            rate, what = parameter(port), f"at most: `{port}`, beside L2 and memory"
        else:
            rate, what = f"{parameter('FixpipeResults')} elements", "alone, whatever the type"
        lines.append([source.upper(), to.upper(), rate, what])
    head = ["from", "to", "bytes a cycle", "how"]
    return Table(
        "modelled", FIGURES, "Without the head of an instruction; the figures are in", head, lines
    )
