"""Levels of rules: which can be lowered, from where they are set, and what a warning tells."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

EMULATOR = Path(__file__).resolve().parents[2] / "csrc" / "emulator"
BYTES = 65536

pytestmark = pytest.mark.xdist_group("emulator")  # one build


def fail(emulator: ModuleType, name: str, **options: Any) -> dict[str, Any]:
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    return emulator.fail(name, *memory, **options)


def test_a_rule_is_fixed_where_nothing_could_follow_it(emulator: ModuleType) -> None:
    """`Report` returns unless the level is error, `Fail` does not: a site has one or the other."""
    sources = "".join(path.read_text() for path in sorted(EMULATOR.rglob("*.cpp")))
    names = dict(re.findall(r'X\((k\w+), "([\w.-]+)"', (EMULATOR / "rules.h").read_text()))
    lowered = {names[name] for name in re.findall(r"Report\(\s*Rule::(k\w+)", sources)}
    fixed = {rule for rule, (level, _) in emulator.rules().items() if level == "fixed"}
    assert set(names.values()) - lowered == fixed


def test_a_lowered_rule_is_a_warning_or_nothing(emulator: ModuleType, capfd: Any) -> None:
    (warning,) = fail(emulator, "copy.count-32B", rules="copy.count-32B=warning")["warnings"]
    assert warning["rule"] == "copy.count-32B"
    assert warning["count"] == 1
    assert "got count=5 of float (20 bytes)" in warning["message"]
    assert capfd.readouterr().err == f"warning: {warning['message']}\n"
    assert fail(emulator, "copy.count-32B", rules="copy.*=off")["warnings"] == []
    assert capfd.readouterr().err == ""


def test_what_a_warning_says_is_counted(emulator: ModuleType) -> None:
    warnings = fail(emulator, "sync.missing", rules="sync.missing=warning")["warnings"]
    assert [warning["count"] > 0 for warning in warnings]
    assert len({(w["rule"], w["message"].partition(":")[0]) for w in warnings}) == len(warnings)


def test_levels_from_the_variable_and_the_launch(
    emulator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOGE_EMULATOR_RULES", "copy.count-32B=off")
    assert fail(emulator, "copy.count-32B")["warnings"] == []
    with pytest.raises(emulator.EmulatorError, match=r"rule copy\.count-32B"):
        fail(emulator, "copy.count-32B", rules="copy.count-32B=error")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("copy.count-32B", "is written id=level"),
        ("copy.count-32B=on", "are error, warning and off"),
        ("copy.counts=off", "no rule is called 'copy.counts'"),
        ("local.bounds=off", "rule local.bounds is always an error"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(emulator: ModuleType, rules: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fail(emulator, "copy.count-32B", rules=rules)


def test_a_pattern_leaves_fixed_rules_as_they_are(emulator: ModuleType) -> None:
    with pytest.raises(emulator.EmulatorError, match=r"rule local\.bounds"):
        fail(emulator, "local.bounds", rules="local.*=off")


def test_all_warnings_become_errors(emulator: ModuleType) -> None:
    (warning,) = fail(emulator, "gm.undefined carried")["warnings"]
    assert warning["rule"] == "gm.undefined"
    with pytest.raises(emulator.EmulatorError, match=r"rule gm\.undefined"):
        fail(emulator, "gm.undefined carried", rules="warning=error")
    assert fail(emulator, "gm.undefined carried", rules="warning=error gm.*=off")["warnings"] == []
