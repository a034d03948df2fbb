"""Intern-S1-Pro in the whole of vLLM: found by name, and routed by the fused gate."""

import json
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("switch", ["1", "0"])
def test_the_model_of_the_registry(run: Callable[..., Any], switch: str) -> None:
    found, logged = run("registry", env={"MOGE_OPS_VLLM": switch})
    assert found["lazy"]  # registering and inspecting it imports nothing here
    first, again, own = (json.dumps(info) for info in found["infos"])
    assert first == again == own
    assert found["same"]
    assert found["ours"] == found["pangu"] == (switch == "1")
    assert found["module"].startswith("moge_ops" if switch == "1" else "vllm.")
    assert found["code"].endswith("_vllm_interns1.py") == (switch == "1")
    assert "moge_ops leaves" not in logged


def test_a_block_gives_what_it_gave(run: Callable[..., Any]) -> None:
    rows = [1, 7, 64, 0]
    results, _ = run("block", experts=512, groups=8, top_k=8, rows=rows)
    for T, (largest, difference) in zip(rows, results, strict=True):
        assert T == 0 or largest > 1
        assert difference <= 1e-5
