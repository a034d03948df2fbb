"""What tests of the command line share."""

import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from moge_ops.cli import main
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM

GREEDY = ("--temperature", "0")
PSALM = "The LORD is my shepherd; I shall not want."


def run(*args: object, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Standard output and error of one command."""
    main([str(arg) for arg in args])
    return capsys.readouterr()


def refusal(*args: object, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command prints when it refuses."""
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


def small_model(**changes: Any) -> PanguMoEForCausalLM:
    sizes = {
        "vocab_size": 260,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_experts": 12,
        "num_experts_per_tok": 4,
        "num_groups": 4,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
        "max_position_embeddings": 64,
        "eos_token_id": None,
    }
    return PanguMoEForCausalLM(PanguMoEConfig(**{**sizes, **changes}))


def buffering(on: bool) -> dict[str, str]:
    """The environment of a child whose output is buffered, as is the default, or not."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return env if on else {**env, "PYTHONUNBUFFERED": "1"}


def limited(size: int, *args: object) -> subprocess.CompletedProcess[str]:
    """A command in a process that can write no file above ``size`` bytes."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *map(str, args)], capture_output=True, text=True
    )


LIMITED = """
import resource, sys
from moge_ops.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""


def interrupted(
    command: list[str], said: bytes, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and standard error of a command that gets Ctrl-C after it has printed something."""
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        # a job in the background of a shell ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout is not None
    assert child.stdout.read(len(said)) == said
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    return child.returncode, err.decode()


def columns(out: str) -> dict[str, list[str]]:
    """First cell of each line -> the other cells, with or without rich."""
    lines = [re.split(r"\s*[│┃]\s*|\s{2,}", line.strip("│┃ \n")) for line in out.splitlines()]
    return {cells[0]: cells[1:] for cells in lines}
