"""Rules: each has a kernel that breaks it; their messages; levels and from where they are set."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulator_runs import BYTES, X, run

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = ROOT / "csrc" / "emulator"
RULES = re.findall(r'X\(k\w+, "([\w.-]+)"', (EMULATOR / "rules.h").read_text())
FAILING = [
    name
    for path in (ROOT / "tests" / "ascend").glob("*.cpp")
    for name in re.findall(r'^(?:MUST_FAIL|\w+_FAILS)\("([^"]+)"', path.read_text(), re.M)
]


def fail(emulator: ModuleType, name: str, **options: Any) -> dict[str, Any]:
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    return emulator.fail(name, *memory, **options)


@pytest.fixture(autouse=True)
def _usual_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOGE_EMULATOR_RULES", raising=False)


def test_every_rule_has_a_kernel_that_breaks_it(emulator: ModuleType) -> None:
    assert list(emulator.rules()) == RULES
    assert sorted(emulator.must_fail()) == sorted(FAILING)
    # the tables of types are static_asserts: csrc/typecheck/calls
    broken = {name.partition(" ")[0] for name in FAILING}
    assert broken == set(RULES) - {"dtype.table"}


@pytest.mark.parametrize("name", sorted(FAILING))
def test_rule(emulator: ModuleType, name: str) -> None:
    x, y, z = np.ones(BYTES // 4, np.float32).view(np.uint8), *np.zeros((2, BYTES), np.uint8)
    rule = name.partition(" ")[0]
    with pytest.raises(emulator.EmulatorError, match=r": rule [\w.-]+: .* \(.*\)$") as caught:
        emulator.fail(name, x, y, z, rules=f"{rule}=error")
    assert caught.value.rule == rule
    assert f"rule {rule}: " in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize("name", sorted(FAILING))
def test_without_rules_a_kernel_ends(emulator: ModuleType, name: str, checks: bool) -> None:
    """It passes, or breaks a rule that cannot be lowered; nothing crashes."""
    x, y, z = np.ones(BYTES // 4, np.float32).view(np.uint8), *np.zeros((2, BYTES), np.uint8)
    try:
        emulator.fail(name, x, y, z, rules="*=off", checks=checks)
    except emulator.EmulatorError as error:
        level, _ = emulator.rules()[error.rule]
        assert level == "fixed"


def test_messages_say_what_to_do(emulator: ModuleType) -> None:
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    with pytest.raises(emulator.EmulatorError) as caught:
        emulator.fail("copy.count-32B", *memory)
    assert str(caught.value) == (
        "DataCopy: rule copy.count-32B: count*sizeof(T) must be a multiple of 32 bytes, "
        "got count=5 of float (20 bytes) (block 0 of copy.count-32B)"
    )
    with pytest.raises(emulator.EmulatorError) as caught:
        emulator.fail("sync.missing", *memory)
    assert str(caught.value) == (
        "Exp: rule sync.missing: pipe V reads UB [16384, 16416) that DataCopy on pipe MTE2 wrote "
        "before: add SetFlag/WaitFlag<HardEvent::MTE2_V> or EnQue/DeQue (block 0 of sync.missing)"
    )


def test_a_truncated_parameter_is_told_with_its_call(emulator: ModuleType) -> None:
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    for name, call, value in (("", "Exp", 257), (" stride", "DataCopy", 70000)):
        message = rf"^{call}: rule params.range: {value} does not fit the \d+ bits"
        with pytest.raises(emulator.EmulatorError, match=message):
            emulator.fail(f"params.range{name}", *memory)


def test_checks_can_be_switched_off(emulator: ModuleType) -> None:
    memory = [np.zeros(BYTES, np.uint8) for _ in range(3)]
    emulator.fail("sync.missing", *memory, checks=False)
    emulator.fail("gm.race", *memory, checks=False)
    with pytest.raises(emulator.EmulatorError):
        emulator.fail("gm.bounds", *memory, checks=False)
    counters = [run(emulator, "elementwise", X, checks=c)[2] for c in (False, True)]
    assert counters[0] == counters[1]


def test_allocations_do_not_overlap(emulator: ModuleType) -> None:
    x, z = np.zeros((2, BYTES), np.uint8)
    with pytest.raises(ValueError, match=r"allocations '\w' and '\w' of the launch overlap"):
        emulator.run("elementwise", x, x, z)


# --- levels ---------------------------------------------------------------------------------------


def test_a_rule_is_fixed_where_nothing_could_follow_it(emulator: ModuleType) -> None:
    """`Report` returns unless the level is error, `Fail` does not: a site has one or the other."""
    sources = "".join(path.read_text() for path in sorted(EMULATOR.rglob("*.cpp")))
    names = dict(re.findall(r'X\((k\w+), "([\w.-]+)"', (EMULATOR / "rules.h").read_text()))
    lowered = {names[name] for name in re.findall(r"Report\(\s*Rule::(k\w+)", sources)}
    assert not lowered & {names[name] for name in re.findall(r"\bFail\(\s*Rule::(k\w+)", sources)}
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
    assert warnings
    assert all(warning["count"] > 0 for warning in warnings)
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
