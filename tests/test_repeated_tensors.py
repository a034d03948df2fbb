"""Folders whose heads repeat the embedding and the output head, as DeepSeek-V3's released one."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file

from moge_ops import offload
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, checkpoint
from moge_ops.models.convert import convert_quantized
from moge_ops.models.layout import original

SIZES = {
    "vocab_size": 31,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "num_groups": 4,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_nextn_predict_layers": 2,
    "eos_token_id": None,
}
COPIES = {
    f"model.layers.{i}.{copy}.weight": own
    for i in (2, 3)
    for copy, own in (
        ("embed_tokens", "model.embed_tokens.weight"),
        ("shared_head.head", "lm_head.weight"),
    )
}
IDS = torch.arange(6).view(1, 6)


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def repeat(tensors: dict[str, Tensor]) -> None:
    tensors.update({name: tensors[own].clone() for name, own in COPIES.items()})


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Without copies."""
    torch.manual_seed(0)
    model = PanguMoEForCausalLM(PanguMoEConfig(**SIZES))  # type: ignore[arg-type]
    checkpoint.save_pretrained(model, tmp_path / "plain")
    return tmp_path / "plain"


@pytest.fixture
def folder(plain: Path) -> Path:
    edit(plain, repeat)
    return plain


def test_only_heads_repeat() -> None:
    config = PanguMoEConfig(**SIZES)  # type: ignore[arg-type]
    for name, own in COPIES.items():
        assert original(name, config) == own
    for name in (
        "model.layers.1.embed_tokens.weight",
        "model.layers.4.embed_tokens.weight",
        "model.layers.2.shared_head.norm.weight",
        "model.layers.2.eh_proj.weight",
        "model.embed_tokens.weight",
        "layers.2.embed_tokens.weight",
    ):
        assert original(name, config) is None, name


def test_equal_copies_are_left_out(folder: Path, tmp_path: Path) -> None:
    model = checkpoint.from_pretrained(folder)
    with torch.no_grad():
        expected = model(IDS)
        assert torch.equal(offload.load(folder)(IDS), expected)
    checkpoint.save_pretrained(model, tmp_path / "again")
    edit(folder, lambda tensors: [tensors.pop(name) for name in COPIES])
    names = ("config.json", "model.safetensors")
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_in_files_of_their_own(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    files = {name: f"part-{int(name in COPIES)}.safetensors" for name in tensors}
    for file in set(files.values()):
        save_file({n: x for n, x in tensors.items() if files[n] == file}, folder / file)
    os.remove(folder / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    checkpoint.from_pretrained(folder)


@pytest.mark.parametrize("name", COPIES)
def test_another_value_is_an_error(name: str, folder: Path) -> None:
    edit(folder, lambda tensors: tensors[name][-1, -1:].add_(1.0))
    said = f"unexpected: {name} in model.safetensors must repeat {COPIES[name]}, got other values"
    for load in (checkpoint.from_pretrained, offload.load, checkpoint.stored_dtypes):
        with pytest.raises(ValueError, match=said.replace(".", r"\.")):
            load(folder)


def test_another_shape_or_dtype_is_an_error(folder: Path) -> None:
    shapes = {"model.layers.2.embed_tokens.weight": torch.zeros(30, 32)}
    dtypes = {"model.layers.3.shared_head.head.weight": torch.zeros(31, 32).half()}
    edit(folder, lambda tensors: tensors.update({**shapes, **dtypes}))
    with pytest.raises(ValueError, match=r"does not fit its config\.json") as e:
        checkpoint.from_pretrained(folder)
    at = "in model.safetensors must be"
    assert {line.strip() for line in str(e.value).splitlines()[1:]} == {
        f"misshapen: model.layers.2.embed_tokens.weight {at} [31, 32], got [30, 32]",
        f"wrong dtype: model.layers.3.shared_head.head.weight {at} F32, got F16",
    }


def test_a_layer_that_is_no_head_repeats_nothing(folder: Path) -> None:
    name = "model.layers.1.embed_tokens.weight"
    edit(folder, lambda tensors: tensors.update({name: tensors["model.embed_tokens.weight"] + 0}))
    with pytest.raises(ValueError, match=f"unexpected: {name} in"):
        checkpoint.from_pretrained(folder)


def test_beside_quantised_experts(plain: Path, tmp_path: Path) -> None:
    convert_quantized(plain, tmp_path / "quantised", "int8_w8a8")
    quantised = tmp_path / "quantised"
    expected = checkpoint.from_pretrained(quantised)
    edit(quantised, repeat)
    with torch.no_grad():
        assert torch.equal(checkpoint.from_pretrained(quantised)(IDS), expected(IDS))
        assert torch.equal(offload.load(quantised)(IDS), expected(IDS))
    edit(quantised, lambda tensors: tensors["model.layers.3.shared_head.head.weight"].zero_())
    with pytest.raises(ValueError, match=r"model\.layers\.3\.shared_head\.head\.weight .* lm_head"):
        checkpoint.from_pretrained(quantised)


def test_converted_as_without(folder: Path, tmp_path: Path) -> None:
    convert_quantized(folder, tmp_path / "first", "int8_w8a8")
    edit(folder, lambda tensors: [tensors.pop(name) for name in COPIES])
    convert_quantized(folder, tmp_path / "second", "int8_w8a8")
    first, second = (tmp_path / at / "model.safetensors" for at in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_transformers_leaves_them_out(folder: Path) -> None:
    auto = pytest.importorskip("moge_ops.integrations.pangu_auto")
    model, told = auto.PanguProMoEForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["unexpected_keys"]
    with torch.inference_mode():
        expected = checkpoint.from_pretrained(folder)(IDS)
        torch.testing.assert_close(model(IDS).logits, expected)
