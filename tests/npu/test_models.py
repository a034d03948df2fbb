"""The layer, the reference model, its generation and a step of training with ``device="npu"``.

ATen's operators run on the CPU's kernels here: what is compared are ours and the way to them.
"""

import copy
from typing import Any

import aten_on_cpu
import pytest
import torch

from moge_ops import Activation, nn
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 16,
    "num_experts_per_tok": 8,
    "num_groups": 8,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "eos_token_id": None,
}


def model() -> PanguMoEForCausalLM:
    torch.manual_seed(0)
    made = PanguMoEForCausalLM(PanguMoEConfig(**SIZES))
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape) * p.shape[-1] ** -0.5)
    return made


@pytest.mark.parametrize(
    "options",
    [
        {"num_voted": 1},
        {"num_null": 1, "activation": Activation("gelu", interleaved=True)},
        {"round_to": 2, "activation": Activation("relu2", gated=False)},
    ],
    ids=["voted", "null-experts", "rounded"],
)
def test_the_layer(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    here = nn.MoGE(32, 16, 16, 8, shared_size=16, **options)
    there = copy.deepcopy(here).npu()
    x = torch.randn(9, 32)
    y, want = there(x.npu()), here(x)
    assert y.device.type == "npu"
    torch.testing.assert_close(y.cpu(), want, rtol=1e-4, atol=1e-5)
    y.sum().backward()
    want.sum().backward()
    for (name, p), q in zip(here.named_parameters(), there.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        torch.testing.assert_close(
            q.grad.cpu(), p.grad, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_logits_and_generation() -> None:
    here = model().eval()
    there = copy.deepcopy(here).npu()
    ids = torch.randint(0, 61, (2, 11))
    mask = torch.ones(2, 11)
    mask[0, :3] = 0
    with torch.no_grad():
        got = there(ids.npu(), mask.npu())
        torch.testing.assert_close(got.cpu(), here(ids, mask), rtol=1e-3, atol=1e-4)
    tokens = there.generate(ids.npu(), attention_mask=mask.npu(), max_new_tokens=6, temperature=0)
    assert tokens.device.type == "npu"
    want = here.generate(ids, attention_mask=mask, max_new_tokens=6, temperature=0)
    assert torch.equal(tokens.cpu(), want)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_training(fused: bool) -> None:
    here = model()
    there = copy.deepcopy(here).npu()
    ids = torch.randint(0, 61, (2, 11))
    losses = []
    for one, device in ((here, "cpu"), (there, "npu")):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2, foreach=fused)
        for _ in range(2):
            optimizer.zero_grad()
            loss = one.loss(ids.to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0)
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] < 61.0


def test_what_ran_on_the_cpu_is_told() -> None:
    before = aten_on_cpu.ran["aten::mm"]
    x = torch.randn(3, 3).npu()
    torch.testing.assert_close((x @ x).cpu(), x.cpu() @ x.cpu())
    assert aten_on_cpu.ran["aten::mm"] == before + 1
    assert f"mm {before + 1}" in aten_on_cpu.told()


def test_aten_over_the_same_memory() -> None:
    """Results that are new, written to, resized, views, and of another card."""
    xs = [torch.randn(2, 3).npu(), torch.randn(4, 3).npu()]
    both = torch.cat(xs)
    out = torch.empty(0, device="npu")
    assert torch.cat(xs, out=out) is out
    assert torch.equal(out.cpu(), both.cpu())
    view = both.unsqueeze(0)
    view.fill_(2.0)
    assert both.cpu().unique().tolist() == [2.0]
    assert torch.zeros_like(both, device="npu:1").device.index == 1
    assert torch.ones_like(both, device="npu").device == both.device
    assert torch.arange(3, device="npu:1").sum().item() == 3
    with pytest.raises(RuntimeError, match=r"got tensors of npu:0 and npu:1"):
        both + both.to("npu:1")
    part = torch.zeros(4, 6, device="npu")[1:3, ::2]
    part.copy_(xs[0].cpu().bfloat16())
    assert torch.equal(part.cpu(), xs[0].cpu().bfloat16().float())
