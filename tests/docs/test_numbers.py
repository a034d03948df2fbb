"""Figures are those of the rows: the README's, which no builder draws, and all rows of a table."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tables import ascend, ascend_api, drawn, read, value
from tables.ascend import EMULATOR

ROOT = Path(__file__).resolve().parents[2]
# what the README says of it, and the words of a role that draws it
FIGURES = {
    "is {} times as fast as vLLM's kernel from 16 tokens": "cpu.times vllm avx2 any 16-",
    "{} times as fast as the fastest path of Hugging Face": "cpu.times hf avx2 any 1-",
    "With AVX-512 BF16 it is {} times as fast": "cpu.times vllm avx512_bf16 any 16-",
    "has {} of the speed of SGLang's kernel at hidden size 1024":  # hot and cold
    "cpu.times sglang avx512_bf16 1024 1-",
    "{} at the sizes of Pangu Pro MoE": "cpu.times sglang avx512_bf16 5120 1-",
}


def readme() -> str:
    return re.sub(r"\s+", " ", (ROOT / "README.md").read_text())


@pytest.mark.parametrize("sentence", FIGURES)
def test_the_readme_has_the_figure_of_the_rows(sentence: str) -> None:
    assert sentence.format(value(FIGURES[sentence])) in readme()


def test_the_readme_has_no_other_figure() -> None:
    figure = r"\d[\d.,]*(?: to [\d.]+)? ?(?:times|ms|µs|of the speed|[GT]B/s)\b"
    found = re.findall(figure, readme())
    told = " ".join(sentence.format(value(words)) for sentence, words in FIGURES.items())
    assert [each for each in found if each not in told] == []


PASS = {"op": "moe", "dtype": "bfloat16", "direction": "forward"}
FULL = PASS | {"dtype": "float32"}
STEPS = {"device": "910B1", "part": "layer|layer, backward"}
# a table, its file, what its rows have (`|` stands between several values), and the columns that
# tell one line from another
COMPLETE: list[tuple[str, str, Mapping[str, str], Sequence[str]]] = [
    ("cpu.forward avx2", "cpu_avx2.csv", PASS, ("H", "caches", "T")),
    ("cpu.forward avx512_bf16", "cpu_avx512_bf16.csv", PASS, ("H", "caches", "T")),
    ("cpu.training avx2", "cpu_avx2.csv", FULL, ("T",)),
    ("cpu.training avx512_bf16", "cpu_avx512_bf16.csv", FULL, ("T",)),
    ("quant.speed", "quant_avx512_bf16.csv", {"op": "moe", "variant": "moge_ops"}, ("dtype", "H")),
    ("ascend.layer", "ascend_model.csv", {}, ("T",)),
    ("ascend.steps 16", "ascend_model.csv", STEPS | {"T": "16"}, ("part", "step")),
    ("ascend.steps 8192", "ascend_model.csv", STEPS | {"T": "8192"}, ("part", "step")),
    ("ascend.operators", "ascend_model.csv", {"part": "operator"}, ("step",)),
    ("ascend.check", "ascend_model_check.csv", {}, ("case", "unit")),
    ("ascend.counters", "ascend_counters.csv", {"T": "8192"}, ("launch", "dtype", "blocks")),
    ("decode.plans", "ascend_decode.csv", {"step": "total"}, ("plan", "chip")),
    ("balance.scores", "balance.csv", {"study": "router"}, ("tokens",)),
    *(
        (f"offload.hits {n}", "offload.csv", {"study": "hits", "batch": n}, ("router", "order"))
        for n in ("1", "8")
    ),
    *(
        (f"offload.models {phase}", "offload.csv", {"phase": phase}, ("weights", "medium", "batch"))
        for phase in ("prefill", "decode")
    ),
    (
        "offload.media",
        "offload.csv",
        {"study": "ceiling", "medium": "page cache|disk"},
        ("weights", "medium"),
    ),
    *(
        (
            f"speculation.{table} {n}",
            "speculation.csv",
            {"layers": "4", "batch": n, "sampling": samplings},
            ("sampling", "draft", "guesses"),
        )
        for n in ("1", "8")
        for table, samplings in (("speeds", "greedy|sampled"), ("reads", "greedy"))
    ),
    ("gates.counted", "gates.csv", {"kind": "counted"}, ("E", "T")),
    ("gates.measured", "gates.csv", {"kind": "measured"}, ("T",)),
    ("model.speed", "model.csv", {}, ("op", "direction")),
    ("pangu_pi.losses", "pangu_pi.csv", {}, ("form",)),
    ("static.resources", "resources.csv", {}, ("target", "triton")),
    ("static.tile_order", "tile_order.csv", {}, ("T", "product")),
]


@pytest.mark.parametrize(("name", "source", "wanted", "columns"), COMPLETE)
def test_a_table_has_all_rows(
    name: str, source: str, wanted: Mapping[str, str], columns: Sequence[str]
) -> None:
    lines = {
        tuple(row[column] for column in columns)
        for row in read(source)
        if all(row[key] in values.split("|") for key, values in wanted.items())
    }
    table = drawn(name)
    assert table.source == source
    assert len(table.rows) == len(lines)


def test_every_rule_and_figure_of_the_emulator_is_told() -> None:
    rules, figures = ((EMULATOR / f"{name}.h").read_text() for name in ("rules", "figures"))
    page = (ROOT / "docs" / "backends" / "emulator.md").read_text()
    tables = re.findall(r"\{rows\} (ascend\.rules .*)", page)
    told = sum(len(drawn(table).rows) for table in tables)
    assert told == int(ascend.rule_count()) == rules.count("X(k")
    assert len(drawn("ascend.parameters").rows) == figures.count("X(k")


API = ROOT / "docs" / "backends" / "ascend_api.md"


def test_every_name_of_the_emulator_is_listed() -> None:
    """Each theme has its table, so that no header can be left out."""
    page = API.read_text()
    assert re.findall(r"\{rows\} ascend_api\.names (.*)", page) == list(ascend_api.THEMES)
    listed = {
        row[0] for theme in ascend_api.THEMES for row in drawn(f"ascend_api.names {theme}").rows
    }
    assert len(listed) == int(ascend_api.name_count())
    assert {"`Add`", "`LocalTensor`", "`TopK`", "`ascendc_assert`", "`GM_ADDR`"} <= listed


@pytest.mark.parametrize(
    ("table", "file", "macro"),
    [
        ("instructions", "instructions.h", "MOGE_VECTOR_INSTRUCTIONS"),
        ("casts", "instructions.h", "MOGE_CASTS"),
        ("limits", "parameter_limits.h", "MOGE_LIMITS"),
        ("memories", "names.h", "MOGE_EMULATOR_MEMORIES"),
        ("paths", "names.h", "MOGE_EMULATOR_PATHS"),
    ],
)
def test_a_table_of_the_emulator_is_drawn_whole(table: str, file: str, macro: str) -> None:
    lines = (EMULATOR / file).read_text().replace("\\\n", " ")
    (body,) = re.findall(rf"#define {macro}\(X\)(.*)", lines)
    assert len(drawn(f"ascend_api.{table}").rows) == len(re.findall(r"\bX\(", body))


def test_what_is_not_there_is_not_there() -> None:
    """The first columns of the tables that say what the emulator lacks."""
    rows = re.findall(r"^\| (`.*?) \|", API.read_text().partition("## What is not there")[2], re.M)
    lacking = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    members = {
        member
        for names in ascend_api.declared().values()
        for name, own in names.items()
        for member in (name, *own)
    }
    assert len(lacking) > 50
    # TPipe is named for a member that it lacks
    assert lacking & members == {"TPipe"}


def test_calls_are_counted_by_who_refuses_them() -> None:
    counts = [
        int(ascend_api.call_count(which).replace(",", "")) for which in ("", "right", "wrong")
    ]
    assert counts[0] > counts[1] > counts[2] > 0
    (row,) = (row for row in drawn("ascend_api.names vector").rows if row[0] == "`Add`")
    assert all(int(number) > 0 for number in row[2:])
