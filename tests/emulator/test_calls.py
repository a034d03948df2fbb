"""Right and wrong calls of the whole API against the emulator's headers: `csrc/typecheck/calls`."""

import calls
import pytest

FILES = sorted(calls.CALLS.glob("*.cpp"))
HEAD = '#include "kernel_operator.h"\nusing namespace AscendC;\n'


def of(statement: str) -> list[str]:
    """What differs for one statement on tensors."""
    body = f"void Call(LocalTensor<half> a, LocalTensor<float> b) {{\n{statement}\n}}\n"
    return calls.disagreements(HEAD + body, "call.cpp", calls.OURS, calls.our_command())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_calls_are_accepted_and_refused_as_their_comments_say(path: calls.Path) -> None:
    found = calls.disagreements(path.read_text(), path.name, calls.OURS, calls.our_command())
    assert not found, "\n".join(found)


@pytest.mark.parametrize("mark", ["wrong", "ours: a reason"])
def test_a_right_call_in_a_wrong_ones_place_is_found(mark: str) -> None:
    (text,) = of(f"Add(a, a, a,\n    64);  // {mark}")
    assert text == "call.cpp:4: the emulator: accepted, and must not be: Add(a, a, a, 64)"


@pytest.mark.parametrize("mark", ["", "// theirs: a reason"])
def test_a_wrong_call_in_a_right_ones_place_is_found(mark: str) -> None:
    (text,) = of(f'Add(a, a, a, 64);  // "Add(a, b);"\nAdd(a, a, b, 64); {mark}')
    assert text.startswith("call.cpp:5: the emulator: refused: Add(a, a, b, 64)\n    no matching")


def test_an_error_inside_a_header_counts_for_each_statement_that_asked_for_it() -> None:
    """The compiler reports the second one only once the first is gone."""
    wrong = "Exp(a.ReinterpretCast<int32_t>(), a.ReinterpretCast<int32_t>(), 64);"
    assert len(of(f"{wrong}\nExp(b, b, 64);\n{wrong}")) == 2
    assert not of(f"{wrong}  // wrong\nExp(b, b, 64);\n{wrong}  // ours")


@pytest.mark.parametrize("source", ["int f() { return 1 }", "void f() {}\nint a = missing;"])
def test_a_file_that_is_not_made_of_statements_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="statement"):
        calls.disagreements(HEAD + source, "call.cpp", calls.OURS, calls.our_command())
