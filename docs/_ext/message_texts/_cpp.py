"""The messages of sources of C++, read from their string literals."""

import re
from collections.abc import Iterator
from pathlib import Path

from message_texts._text import HOLE, SOME, Message, hole, words

COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*")', re.DOTALL)
LITERAL = re.compile(r'"((?:\\.|[^"\\\n])*)"')
# a statement ends at ; { } outside of literals
STATEMENT = re.compile(r'(?:"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|[^;{}"\'])+')
FORMAT = re.compile(r"%[-+#0 ]*\d*(?:\.\d+)?(?:hh|h|ll|l|z)?[sdiuxXpfgc]")
RULE = re.compile(r'X\(k\w+,\s*"([^"]+)",\s*k(\w+),[\s\\]*"([^"]+)"\)')
# what a broken rule of a level is, unless a launch sets another one
LEVELS = {"Error": "RuntimeError", "Fixed": "RuntimeError", "Warning": "warning", "Off": "warning"}
# what is in a statement that shows a text -> the kind of message
SHOWN = {
    "static_assert": "compiler's error",
    "stderr": "standard error",
    "std::invalid_argument": "ValueError",
    "std::runtime_error": "RuntimeError",
    "std::logic_error": "RuntimeError",
    "Error(": "RuntimeError",
    "Fail(": "RuntimeError",
    "Report(Rule": "RuntimeError or warning",
    "Refuse(": "standard error",
    "Need(": "RuntimeError",
}
# texts for other readers: sources of the model's constants, and what a module is
NOT_MESSAGES = {"csrc/emulator/figures.h"}
FEWEST = 3  # words of a text, where the statement does not show that it is one


def messages(path: Path, root: Path) -> Iterator[Message]:
    """The texts of a file."""
    file = str(path.relative_to(root))

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])  # so that lines keep their numbers

    source = COMMENT.sub(lambda found: found[1] or blank(found), path.read_text())
    rules = list(RULE.finditer(source))
    for found in rules:
        line = source.count("\n", 0, found.start()) + 1
        yield Message(f"rule {found[1]}: {found[3]}", LEVELS[found[2]], file, line)
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
