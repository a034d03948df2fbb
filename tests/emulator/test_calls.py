"""Right and wrong calls of the whole API against the emulator's headers: `csrc/typecheck/calls`."""

import re

import api_names
import calls
import pytest

SOURCES = [path.read_text() for path in calls.FILES]
HEAD = '#include "kernel_operator.h"\nusing namespace AscendC;\n'


def of(statement: str) -> list[str]:
    """What differs for one statement on tensors."""
    body = f"void Call(LocalTensor<half> a, LocalTensor<float> b) {{\n{statement}\n}}\n"
    return calls.disagreements(HEAD + body, "call.cpp", calls.OURS, calls.our_command())


@pytest.mark.slow
@pytest.mark.parametrize("path", calls.FILES, ids=lambda path: path.stem)
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


def test_every_public_name_and_constructor_has_a_call() -> None:
    assert calls.missing(SOURCES) == []


def test_a_name_without_a_call_is_found() -> None:
    sources = [source.replace("SetVectorMask", "SetVector") for source in SOURCES]
    sources = [re.sub(r"MmadParams params\([^)]*\)", "MmadParams params", s) for s in sources]
    assert set(calls.missing(sources)) == {"SetVectorMask"}


def test_there_are_many_calls() -> None:
    listed = [statement for source in SOURCES for statement in calls.statements(source)]
    assert sum("(" in statement.text or "{" in statement.text for statement in listed) >= 600


@pytest.mark.parametrize(
    ("code", "names", "constructors"),
    [
        ("template <typename T = A<int, 2>> void F(T a, int b = {1}); int a{1}, b[2] = {3};",
         {"F", "a", "b"}, set()),
        ("struct S { S() = default; S(int a, T<1, 2> b = {}) : x{a}, y(1) {} int x, y; };",
         {"S", "x", "y"}, {("S", 0), ("S", 1), ("S", 2)}),
        ("class C { int a; void F(); public: operator int() { return 1; } int G() { f(); } };",
         {"C", "G"}, set()),
        ("enum class E : uint8_t { A, B = 1 }; enum { D }; using U = E; using n::x; class F;",
         {"E", "A", "B", "D", "U"}, set()),
        ("namespace emulator { void F(); } namespace a { namespace b { union { int c; }; } }",
         {"c"}, set()),
        ("__attribute__((x(1))) inline void operator()(int a) {} static_assert(a < 1, \"(\");",
         set(), set()),
    ],
)  # fmt: skip
def test_names_of_a_header(code: str, names: set[str], constructors: set[tuple[str, int]]) -> None:
    scanner = api_names.Scanner(api_names.TOKEN.findall(code))
    scanner.scope(0, len(scanner.tokens))
    assert scanner.names == names
    assert scanner.constructors == constructors
