"""PEFT's LoRA on every kind of weight: attention, router, stacked experts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

Tiny = Callable[..., Any]

EXPERTS = ["moge.w_gate_up", "moge.w_down"]
TARGETS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["qkv", "o"]},
    "router": {"target_modules": [], "target_parameters": ["moge.gate"]},
    "experts": {"target_modules": [], "target_parameters": EXPERTS},
    "shared": {
        "target_modules": [],
        "target_parameters": ["moge.shared_gate_up", "moge.shared_down"],
    },
    "all": {"target_modules": ["qkv", "o"], "target_parameters": ["moge.gate", *EXPERTS]},
}


def lora(model: Any, kind: str, task_type: str | None = "CAUSAL_LM") -> Any:
    config = LoraConfig(
        r=4, lora_alpha=16, init_lora_weights=False, task_type=task_type, **TARGETS[kind]
    )
    return get_peft_model(model, config).eval()


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def cross_entropy(model: Any, ids: Tensor) -> Tensor:
    """In float64: transformers' own is float32."""
    logits = model(input_ids=ids).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-10 * b.abs().max())


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", None])
@pytest.mark.parametrize("kind", TARGETS)
def test_merges_and_unmerges(tiny: Tiny, ids: Tensor, kind: str, task_type: str | None) -> None:
    plain = logits(tiny(torch.float64), ids)
    model = lora(tiny(torch.float64), kind, task_type)
    adapted = logits(model, ids)
    assert (adapted - plain).abs().max() > 1e-3 * plain.abs().max()
    with model.disable_adapter():
        assert near(logits(model, ids), plain)

    model.merge_adapter()
    assert near(logits(model, ids), adapted)
    model.unmerge_adapter()
    assert near(logits(model, ids), adapted)
    with model.disable_adapter():
        assert near(logits(model, ids), plain)
    assert near(logits(model.merge_and_unload(), ids), adapted)


@pytest.mark.parametrize("kind", TARGETS)
def test_an_adapter_is_saved_and_loaded(tiny: Tiny, ids: Tensor, tmp_path: Path, kind: str) -> None:
    model = lora(tiny(torch.float64), kind)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny(torch.float64), tmp_path)
    assert torch.equal(logits(again.eval(), ids), logits(model, ids))


def test_a_merged_model_is_saved_as_released(tiny: Tiny, ids: Tensor, tmp_path: Path) -> None:
    merged = lora(tiny(torch.float64), "all").merge_and_unload()
    merged.save_pretrained(tmp_path)
    again = type(tiny()).from_pretrained(tmp_path)
    for name, parameter in merged.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name
    assert near(logits(again, ids), logits(merged, ids))


@pytest.mark.parametrize("kind", TARGETS)
def test_gradients_reach_the_adapter_and_nothing_else(tiny: Tiny, ids: Tensor, kind: str) -> None:
    model = lora(tiny(torch.float64), kind).train()
    loss = cross_entropy(model, ids)
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert grads
    assert all("lora_" in name for name in grads)
    assert grads.keys() == {n for n, p in model.named_parameters() if p.requires_grad}

    # the gradient along itself is the slope of the loss
    step = 1e-6
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in grads:
                parameter += step * grads[name]
        higher = cross_entropy(model, ids)
    slope = sum(float(g.square().sum()) for g in grads.values())
    assert (higher - loss).item() / step == pytest.approx(slope, rel=1e-3)


def test_generates_with_an_adapter(tiny: Tiny, ids: Tensor) -> None:
    model = lora(tiny(torch.float64), "all")
    out = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    want = ids
    for _ in range(4):
        want = torch.cat([want, logits(model, want)[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, want)
