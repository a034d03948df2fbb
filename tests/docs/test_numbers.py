"""Figures are those of the rows: the README's, which no builder draws, and all rows of a table."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tables import ascend, drawn, read, value
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
    ("balance.scores", "balance.csv", {"study": "router"}, ("tokens",)),
    ("gates.counted", "gates.csv", {"kind": "counted"}, ("E", "T")),
    ("gates.measured", "gates.csv", {"kind": "measured"}, ("T",)),
    ("model.speed", "model.csv", {}, ("op", "direction")),
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
