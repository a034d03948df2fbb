"""A chain of thought is cut where a marker begins a sentence, however its text arrives."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moge_ops.models.trimr import Thoughts

CHINESE = ("等等", "但是", "或者")
PIECES = st.lists(
    st.sampled_from(
        [
            *("Wait", "But", "Butter", "Hmm", "Alternatively", "Alter", "等等", "wait", "W"),
            *(" ", "\n", "\n\n", ". ", ".", "? ", '."', ".) ", "。", "。」", "x", "long words, 42"),
            *("</think>", "</thi", "<", "**", "é", "𝄞"),
        ]
    ),
    max_size=24,
)


def cut(text: str, least: int = 1) -> tuple[list[str], Thoughts]:
    made = Thoughts(least=least)
    return made.add(text), made


@pytest.mark.parametrize(
    ("text", "finished", "rest"),
    [
        ("", [], ""),
        ("One. Wait, two.", ["One."], "Wait, two."),
        ("One\nWait, two", ["One"], "Wait, two"),
        ("One\n\n  Hmm. Two! But no", ["One", "Hmm. Two!"], "But no"),
        ("One (so.) Alternatively, two", ["One (so.)"], "Alternatively, two"),
        ('He said "no." But yes', ['He said "no."'], "But yes"),
        ("A wait. Butter melts. Waiting", [], "A wait. Butter melts. Waiting"),
        ("One, Wait, no sentence", [], "One, Wait, no sentence"),
        ("One. wait, in lower case", [], "One. wait, in lower case"),
        ("Wait, the first", [], "Wait, the first"),
        ("One. Wait", [], "One. Wait"),  # it may become Waiting
        ("One. But_x", [], "One. But_x"),
        ("One. Wait</think>Two. Wait, no", ["One.", "Wait"], ""),
        ("One</think>\nWait, what", ["One"], ""),
        ("</think>", [], ""),
        ("One. </think>", ["One."], ""),
    ],
)
def test_it_cuts_at_sentences_that_begin_with_a_marker(
    text: str, finished: list[str], rest: str
) -> None:
    found, made = cut(text)
    assert found == finished
    assert made.open == rest
    assert made.count == len(finished)
    assert made.ended == ("</think>" in text)


def test_other_scripts_have_no_spaces() -> None:
    text = "答案是四十二。等等，再算一遍。」但是不对。\n或者"  # noqa: RUF001
    made = Thoughts(CHINESE, least=1)
    parts = ["答案是四十二。", "等等，再算一遍。」", "但是不对。"]  # noqa: RUF001
    assert made.add(text) == parts
    assert made.open == "或者"


def test_a_longer_marker_is_found_before_the_one_it_begins_with() -> None:
    made = Thoughts(["But", "But then"], least=1)
    assert made.add("One. But") == []
    assert made.add(" the") == []  # still open: it may become "But then"
    assert made.add("m") == ["One."]
    assert made.open == "But them"


def test_short_thoughts_are_merged_with_the_next() -> None:
    text = "Four. Wait, and so on, so on. But. Hmm, yes. Wait, x"
    found, _ = cut(text, least=14)
    assert found == ["Four. Wait, and so on, so on.", "But. Hmm, yes."]


@given(PIECES, st.lists(st.integers(0, 200)), st.integers(1, 20))
@example(["x", ". ", "Wait", "</thi", "nk>"], [], 1)
def test_how_the_text_is_split_changes_nothing(
    pieces: list[str], cuts: list[int], least: int
) -> None:
    text = "".join(pieces)
    at = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = {
        "whole": [text],
        "characters": list(text),
        "parts": [text[a:b] for a, b in itertools.pairwise(at)],
    }
    results = []
    for split in parts.values():
        made = Thoughts(["Wait", "But", "Hmm", "Alternatively", "等等"], least=least)
        found = [each for part in split for each in made.add(part)]
        results.append((found, made.open, made.count, made.ended))
    assert results[0] == results[1] == results[2]
    found, rest, count, ended = results[0]
    # nothing is lost but spaces and what follows the end
    kept = "".join("".join([*found, rest]).split())
    assert kept == "".join(text.partition("</think>")[0].split())
    assert count == len(found)
    assert ended == ("</think>" in text)
    assert all(len(each) >= least for each in (found[:-1] if ended else found))


def test_a_restart_begins_a_paragraph() -> None:
    _, made = cut("One. Wait, half a thou")
    made.restart()
    assert made.open == ""
    assert made.add("Wait, more. But") == []
    assert made.add(" no") == ["Wait, more."]
    assert made.count == 2


def test_it_stays_quick_on_a_long_thought() -> None:
    made = Thoughts()
    text = "no marker at all " * 5_000
    for i in range(0, len(text), 4):
        made.add(text[i : i + 4])
    assert made.open == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"markers": []}, "markers must be words"),
        ({"markers": ["Wait", ""]}, "markers must be words"),
        ({"markers": "Wait"}, "markers must be words"),
        ({"least": 0}, "least must be at least 1, got 0"),
        ({"end": ""}, "end must not be empty"),
    ],
)
def test_thoughts_reject(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Thoughts(**options)  # type: ignore[arg-type]
