"""accelerate places and offloads the model, and the logits stay the same bits."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import (
    Accelerator,
    cpu_offload,
    disk_offload,
    dispatch_model,
    infer_auto_device_map,
    init_empty_weights,
    load_checkpoint_and_dispatch,
)
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from moge_ops import cli

ROOT = Path(__file__).resolve().parents[2]
Tiny = Callable[..., Any]


@pytest.fixture
def want(tiny: Tiny, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return tiny()(ids).logits


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids).logits


def test_device_map_auto(tiny: Tiny, ids: Tensor, want: Tensor) -> None:
    model = tiny(device_map="auto")
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert torch.equal(logits(model, ids), want)


def test_layers_are_never_split(tiny: Tiny, tmp_path: Path, ids: Tensor, want: Tensor) -> None:
    # room for one layer: the other goes to the disk, as a whole
    size = sum(p.nbytes for p in tiny().model.layers[0].parameters())
    model = tiny(device_map="auto", max_memory={"cpu": int(1.6 * size)}, offload_folder=tmp_path)
    placed = {name: str(place) for name, place in model.hf_device_map.items()}
    assert {"cpu", "disk"} == set(placed.values())
    assert all(name.count(".") <= 2 for name in placed), placed
    assert torch.equal(logits(model, ids), want)
    out = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert torch.equal(out, tiny().generate(ids, max_new_tokens=3, do_sample=False))


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloads(tiny: Tiny, tmp_path: Path, ids: Tensor, want: Tensor, where: str) -> None:
    model = tiny()
    if where == "cpu":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
        assert any(tmp_path.iterdir())
    assert all(p.device.type == "meta" for p in model.parameters())
    assert torch.equal(logits(model, ids), want)
    assert all(p.device.type == "meta" for p in model.parameters())


def test_dispatches_by_an_own_map(tiny: Tiny, tmp_path: Path, ids: Tensor, want: Tensor) -> None:
    model = tiny()
    size = sum(p.nbytes for p in model.model.layers[0].parameters())
    places = infer_auto_device_map(
        model, {"cpu": int(1.6 * size), "disk": 10**9}, no_split_module_classes=["Layer"]
    )
    assert "disk" in places.values()
    model = dispatch_model(model, places, offload_dir=str(tmp_path), main_device="cpu")
    assert torch.equal(logits(model, ids), want)


def test_loads_a_saved_state_into_an_empty_model(
    tiny: Tiny, folder: Path, tmp_path: Path, ids: Tensor, want: Tensor
) -> None:
    # accelerate reads parameters by their names in the model, which the released layout has not
    torch.save(tiny().state_dict(), tmp_path / "pytorch_model.bin")
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model = load_checkpoint_and_dispatch(
        model.eval(), str(tmp_path / "pytorch_model.bin"), device_map={"": "cpu"}
    )
    assert torch.equal(logits(model, ids), want)


def test_an_accelerators_loop(tiny: Tiny, ids: Tensor) -> None:
    want, model = tiny(), tiny()
    for each, prepare in ((want, False), (model, True)):
        optimizer = torch.optim.AdamW(each.parameters(), 1e-2)
        step = each.train()
        if prepare:
            accelerator = Accelerator(cpu=True)
            step, optimizer = accelerator.prepare(step, optimizer)
        for _ in range(2):
            optimizer.zero_grad()
            loss = step(ids, labels=ids).loss
            accelerator.backward(loss) if prepare else loss.backward()
            optimizer.step()
    for name, parameter in want.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name


def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli.main(["make-tiny", "tiny"])
    page = (ROOT / "docs" / "guides" / "offload.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page.partition("## Placing")[2], re.DOTALL)
    assert len(blocks) == 2
    namespace: dict[str, Any] = {"torch": torch}
    exec(blocks[0], namespace)
    assert {"cpu", "disk"} == {str(place) for place in namespace["model"].hf_device_map.values()}
    exec(blocks[1], namespace)
    assert any(Path("offloaded").iterdir())
