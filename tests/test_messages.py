"""The index of messages on the page of errors is complete: every text is read from its source."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import message_texts
import moge_ops
from message_texts import CLOSE, HOLE, OPEN, ROOT, SUBJECTS, Message, Reader


def test_every_raise_is_read() -> None:
    found, unread, raises = message_texts.read()
    assert not unread, "\n".join(f"{each.file}:{each.line}: {each.why}" for each in unread)
    trees = [ast.parse(path.read_text()) for path in message_texts.sources()[0]]
    assert raises == sum(isinstance(node, ast.Raise) for tree in trees for node in ast.walk(tree))
    assert len(found) > raises


def seeded(folder: Path, code: str) -> Reader:
    path = folder / "seeded.py"
    path.write_text(code)
    return Reader([path], folder)


@pytest.mark.parametrize(
    "code",
    [
        "def f(text):\n    raise ValueError(text)",
        "raise ValueError",
        "raise ValueError()",
        "raise ValueError(explain(3))",
        "logger.warning(text())",
        "warnings.warn(f'{a}: {b}')",
        "assert x, text()",
        "def made(x):\n    return ValueError(x)\nraise made(explain())",
    ],
)
def test_a_hidden_text_is_noticed(tmp_path: Path, code: str) -> None:
    assert seeded(tmp_path, code).unread


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise ValueError(f'{x.y} must be {z!r:.5}')", "{y} must be {z}"),
        ("a = 'one ' + two\nraise ValueError(a)", "one {two}"),
        ("raise ValueError('many: ' + ', '.join(names))", "many: {names}"),
        ("T = 'no {} here'\nraise ValueError(T.format(list(x.shape)))", "no {shape} here"),
        ("logger.warning('lost %s of %d', n, len(m))", "lost {n} of {m}"),
        ("def made(x):\n    return ValueError(f'bad: {x}')\nraise made('luck')", "bad: luck"),
        ("problems.append(f'missing: {name}')", "missing: {name}"),
        ("problems += [f'missing: {name}' for name in names]", "missing: {name}"),
        ("def f():\n    yield 'odd: it'\nproblems.extend(f())", "odd: it"),
        ("print('could not', file=sys.stderr)", "could not"),
        ("parser.error(f'no file {name}')", "no file {name}"),
        ("def f(what):\n    raise ValueError(what)\nf('no luck')", "no luck"),
    ],
)
def test_texts_are_put_together(tmp_path: Path, code: str, text: str) -> None:
    reader = seeded(tmp_path, code)
    assert not reader.unread
    wanted = text.replace("{", OPEN).replace("}", CLOSE)
    assert wanted in [each.text for each in reader.messages]


def pattern(message: Message) -> str:
    return ".*".join(map(re.escape, HOLE.sub("\0", message.text).split("\0")))


LAYER = moge_ops.nn.MoGE(32, 16, 8, 4)
SENSITIVITY = moge_ops.surgery.Sensitivity(torch.rand(8, 16), None)
CALLS: list[Callable[[], object]] = [
    lambda: moge_ops.grouped_gate(torch.randn(4, 60), 8),
    lambda: moge_ops.grouped_gate(torch.randn(4, 64), 8, 9),
    lambda: moge_ops.grouped_gate(torch.randn(4, 64).int(), 8),
    lambda: moge_ops.grouped_gate(torch.randn(4, 64), 8, score="tanh"),
    lambda: moge_ops.swiglu(torch.randn(2, 5)),
    lambda: moge_ops.route(torch.zeros(2, 3, dtype=torch.int32), 4, num_groups=2),
    lambda: moge_ops.testing.backend("tritonn").__enter__(),
    lambda: moge_ops.quant.quantize(torch.randn(2, 8, 100), "int4_w4a16", group_size=32),
    lambda: LAYER(torch.randn(3, 32).bfloat16()),
    lambda: LAYER(torch.randn(3, 31)),
    lambda: moge_ops.surgery.permute_experts(LAYER, [0] * 8),
    lambda: moge_ops.surgery.prune_experts(LAYER, {"": torch.zeros(8, dtype=torch.bool)}),
    lambda: moge_ops.surgery.prune_experts(LAYER, {}),
    lambda: moge_ops.surgery.slim_experts(LAYER, 8, {"": SENSITIVITY}),
    lambda: moge_ops.statistics.RouterStatistics().masks("none", 1),
]


@pytest.mark.parametrize("call", CALLS)
def test_real_errors_are_in_the_index(call: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    kind, text, place = type(error.value).__name__, str(error.value), error.traceback[-1]
    fitting = [
        message
        for message in message_texts.read()[0]
        if message.kind == kind
        and (ROOT / message.file, message.line) == (Path(place.path), place.lineno + 1)
        and re.fullmatch(pattern(message), text, re.DOTALL)
    ]
    assert fitting, text


@pytest.mark.slow
def test_faults_of_the_command_line_are_in_the_index(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moge_ops", "inspect", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    patterns = [pattern(message) for message in message_texts.read()[0]]
    shown = done.stderr.strip().partition(": ")[2]
    assert any(re.fullmatch(each, shown) for each in patterns), shown


def test_the_emulator_and_native_code_are_read() -> None:
    texts = {message.text for message in message_texts.read()[0]}
    assert "rule copy.path: a transfer takes a documented path between two memories" in texts
    kinds = {message.text.partition(":")[0]: message.kind for message in message_texts.read()[0]}
    assert kinds["rule gm.race"] == "RuntimeError"
    assert kinds["rule fixpipe.n-size"] == kinds["rule advice.gm-512B"] == "warning"
    assert "aclrtSetDevice: the only device is 0" in texts
    assert any("<<< without >>>" in text for text in texts)
    assert any(text.startswith("level must be one of ") for text in texts)
    assert any(text.startswith("offsets must rise from 0 to at most N=") for text in texts)


def test_the_page_lists_every_subject() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    assert re.findall(r"```\{messages\} ([\w ]+)", page) != []
    assert set(re.findall(r"```\{messages\} ([\w ]+)", page)) == SUBJECTS.keys()
