"""The README's figures, which no builder draws, are those of the rows."""

import re
from pathlib import Path

import pytest

from tables import value

README = Path(__file__).resolve().parents[2] / "README.md"
# what the README says of it, and the words of a role that draws it
FIGURES = {
    "is {} times as fast as vLLM's kernel from 16 tokens": "cpu.times vllm avx2 any 16-",
    "{} times as fast as the fastest path of Hugging Face": "cpu.times hf avx2 any 1-",
    "With AVX-512 BF16 it is {} times as fast": "cpu.times vllm avx512_bf16 any 16-",
    "has {} of the speed of SGLang's kernel at hidden size 1024":  # hot and cold
    "cpu.times sglang avx512_bf16 1024 1-",
    "{} at the sizes of Pangu Pro MoE": "cpu.times sglang avx512_bf16 5120 1-",
}


@pytest.mark.parametrize("sentence", FIGURES)
def test_the_readme_has_the_figure_of_the_rows(sentence: str) -> None:
    text = re.sub(r"\s+", " ", README.read_text())
    assert sentence.format(value(FIGURES[sentence])) in text
