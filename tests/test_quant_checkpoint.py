"""Quantised folders that are damaged or not known, what loading takes, and converting to them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM, convert
from moge_ops.models.checkpoint import from_pretrained, save_pretrained, stored_dtypes
from moge_ops.models.convert import convert_quantized
from moge_ops.nn import FrozenWeight
from moge_ops.quant import (
    SCHEMES,
    _plan,
    dequantize,
    quantize,
    quantize_experts,
    read_experts,
)

FILE, AT = "model.safetensors", "model.layers.0.mlp.experts"
GATE, DOWN = f"{AT}.1.gate_proj", f"{AT}.2.down_proj"
Tensors = dict[str, Tensor]


def small_model(**changes: Any) -> PanguMoEForCausalLM:
    sizes = {
        "vocab_size": 20, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_experts": 4, "num_experts_per_tok": 2, "num_groups": 2,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 8,
    }  # fmt: skip
    torch.manual_seed(1)
    return PanguMoEForCausalLM(PanguMoEConfig(**{**sizes, **changes}))


@pytest.fixture(autouse=True)
def _no_weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder whose headers do not fit, nothing is allocated."""
    if request.cls is not Headers:
        return
    empty = _plan.Weight.empty

    def checked(self: Any, device: Any) -> Any:
        assert device == "meta", "memory was taken for a folder that does not fit"
        return empty(self, device)

    monkeypatch.setattr(_plan.Weight, "empty", checked)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """int4 with groups of 32, as compressed-tensors has it."""
    model = small_model()
    quantize_experts(model, "int4_w4a16", group_size=32)
    save_pretrained(model, tmp_path / "four")
    return tmp_path / "four"


def edit(folder: Path, change: Callable[[Tensors], Any], file: str = FILE) -> None:
    tensors = load_file(folder / file)
    change(tensors)
    save_file({name: x.contiguous() for name, x in tensors.items()}, folder / file)


def configure(folder: Path, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Changes config.json in place; ``change`` gets its quantization_config."""
    values = json.loads((folder / "config.json").read_text())
    change(values["quantization_config"])
    (folder / "config.json").write_text(json.dumps(values))
    return dict(values)


def refusal(folder: Path) -> str:
    """What both ways of reading say; they must say the same, but for what Pangu's config tells."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - every caller looks at the message
        from_pretrained(folder)
    return str(error.value)


def rewrite(folder: Path, config: dict[str, Any] | None, parts: Callable[[str, int, int], Tensors],
            types: dict[str, str] | None = None) -> None:  # fmt: skip
    """Gives a folder other tensors of experts; ``parts`` makes those of a matrix ``[O, I]``."""
    tensors, made = load_file(folder / FILE), Tensors()
    for name, x in tensors.items():
        if ".experts." not in name:
            made[name] = x
        elif name.endswith("weight_shape"):
            module, (O, I) = name.removesuffix(".weight_shape"), x.tolist()
            made |= {f"{module}.{part}": x for part, x in parts(module, O, I).items()}
    save_file({name: x.contiguous() for name, x in made.items()}, folder / FILE)
    values = json.loads((folder / "config.json").read_text())
    del values["quantization_config"]
    if config is not None:
        values["quantization_config"] = config
    else:
        kinds = dict.fromkeys(made, "FLOAT") | (types or {})
        (folder / "quant_model_description.json").write_text(json.dumps(kinds))
    (folder / "config.json").write_text(json.dumps(values))


class Headers:
    """Tests of this kind see that nothing is allocated."""


class TestHeaders(Headers):
    def test_tensors_that_do_not_fit(self, folder: Path) -> None:
        def change(tensors: Tensors) -> None:
            del tensors[f"{GATE}.weight_scale"], tensors[f"{DOWN}.weight_packed"]
            tensors[f"{GATE}.weight_g_idx"] = torch.zeros(64, dtype=torch.int32)
            tensors[f"{AT}.0.up_proj.weight_scale"] = torch.ones(32, 3)
            tensors[f"{AT}.0.down_proj.weight_packed"] = torch.zeros(64, 4, dtype=torch.int64)
            tensors[f"{AT}.3.up_proj.weight_scale"] = torch.ones(32, 2, dtype=torch.bfloat16)
            tensors[f"{AT}.4.up_proj.weight_scale"] = torch.ones(32, 2)

        edit(folder, change)
        lines = {line.strip() for line in refusal(folder).splitlines()[1:]}
        assert lines == {
            f"missing: {GATE}.weight_scale",
            f"missing: {DOWN}.weight_packed",
            f"unexpected: {GATE}.weight_g_idx in {FILE}",
            f"misshapen: {AT}.0.up_proj.weight_scale in {FILE} must be [32, 2], got [32, 3]",
            f"wrong dtype: {AT}.0.down_proj.weight_packed in {FILE} must be I32, got I64",
            f"wrong dtype: {AT}.3.up_proj.weight_scale in {FILE} must be F32, as others are, "
            "got BF16",
            f"unexpected: {AT}.4.up_proj.weight_scale in {FILE}",
        }

    def test_tensors_of_the_rest_that_do_not_fit(self, folder: Path) -> None:
        def change(tensors: Tensors) -> None:
            del tensors["model.norm.weight"]
            tensors["model.layers.0.mlp.gate.weight"] = torch.ones(3, 3)
            tensors["model.layers.0.self_attn.q_proj.weight_scale"] = torch.ones(5, 1)
            tensors["lm_head.weight"] = tensors["lm_head.weight"].half()
            tensors["other"] = torch.ones(1)

        edit(folder, change)
        lines = {line.strip() for line in refusal(folder).splitlines()[1:]}
        q = "model.layers.0.self_attn.q_proj"
        assert lines == {
            "missing: model.norm.weight",
            f"misshapen: model.layers.0.mlp.gate.weight in {FILE} must be [4, 64], got [3, 3]",
            f"missing: {q}.weight_packed",
            f"misshapen: {q}.weight_scale in {FILE} must be [64, 2], got [5, 1]",
            f"unexpected: {q}.weight in {FILE}",
            f"wrong dtype: lm_head.weight in {FILE} must be F32, got F16",
            f"unexpected: other in {FILE}",
        }

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"num_bits": 8}, r"1\.gate_proj\.weight_packed in .* must be \[32, 16\], got \[32, 8"),
            ({"group_size": 128}, r"\.gate_proj: I=64 must be a multiple of 128 \(group_size=128"),
            ({"group_size": 64}, r"\.down_proj: I=32 must be a multiple of 64 \(group_size=64\)"),
            ({"strategy": "channel"}, r"weight_scale in .* must be \[32, 1\], got \[32, 2\]"),
            ({"symmetric": False}, r"missing: .*\.gate_proj\.weight_zero_point"),
        ],
        ids=str,
    )
    def test_a_config_that_contradicts_its_tensors(
        self, change: dict[str, Any], said: str, folder: Path
    ) -> None:
        configure(folder, lambda q: q["config_groups"]["group_0"]["weights"].update(change))
        assert re.search(said, refusal(folder))

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("num_experts", 6, f"missing: {AT}.5.down_proj.weight_packed"),
            ("num_experts", 2, f"unexpected: {AT}.3.gate_proj"),
            ("num_experts", 60, f"missing: {AT} must have 60 experts, got 4"),
            ("moe_intermediate_size", 64, "_packed in model.safetensors must be [64, 8], got"),
            ("num_hidden_layers", 2, "missing: experts of model.layers.1.mlp.experts"),
        ],
    )  # fmt: skip
    def test_sizes_of_the_model(self, key: str, value: int, said: str, folder: Path) -> None:
        values = configure(folder, lambda q: None)
        (folder / "config.json").write_text(json.dumps({**values, key: value}))
        assert said in refusal(folder)

    @pytest.mark.parametrize("value", [10**9, 2**31 - 1])
    @pytest.mark.parametrize("key", ["num_experts", "num_hidden_layers"])
    def test_sizes_that_no_file_has(self, key: str, value: int, folder: Path) -> None:
        values = configure(folder, lambda q: None)
        value -= value % 2
        (folder / "config.json").write_text(json.dumps({**values, key: value}))
        assert re.search(r"num_.* are [\d,]+ tensors, the files hold", refusal(folder))

    def test_a_truncated_shard_names_the_first_tensor_that_is_cut(self, folder: Path) -> None:
        path = folder / FILE
        path.write_bytes(path.read_bytes()[:-5])
        said = refusal(folder)
        assert re.search(r"model\.safetensors is truncated or corrupted.*the first tensor", said)
        with pytest.raises(ValueError, match="truncated or corrupted"):
            read_experts(folder)

    def test_an_expert_in_the_files_whose_number_is_too_large(self, folder: Path) -> None:
        far = f"{AT}.999999999.gate_proj.weight_scale"
        edit(folder, lambda tensors: tensors.update({far: torch.ones(1)}))
        with pytest.raises(ValueError, match=r"must have 1000000000 experts, got 5"):
            read_experts(folder)
        assert far.removesuffix(".weight_scale") in refusal(folder)

    def test_tensors_of_one_expert_and_of_all(self, folder: Path) -> None:
        edit(folder, lambda tensors: tensors.update({f"{AT}.down_proj": torch.ones(1)}))
        assert f"{AT} has tensors of one expert and of all" in refusal(folder)

    def test_a_folder_that_is_not_quantised(self, folder: Path) -> None:
        save_pretrained(small_model(), folder / "plain")
        with pytest.raises(ValueError, match=r"plain is not quantised: config\.json has no quanti"):
            read_experts(folder / "plain")

    def test_no_experts(self, folder: Path) -> None:
        edit(folder, lambda t: [t.pop(name) for name in list(t) if ".experts." in name])
        with pytest.raises(ValueError, match="must have tensors of experts, got "):
            read_experts(folder)
        assert f"missing: experts of {AT}" in refusal(folder)

    def test_an_index_that_the_files_do_not_keep(self, folder: Path) -> None:
        names = dict.fromkeys(load_file(folder / FILE), FILE)
        names["far"] = names.pop(f"{GATE}.weight_scale")
        (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": names}))
        said = refusal(folder)
        assert f"missing: far in {FILE}, where the index has it" in said
        assert f"unexpected: {GATE}.weight_scale in {FILE}, where the index does not" in said

    def test_other_readers_say_who_reads_it(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"four has quantised weights, .*\.from_pretrained"):
            stored_dtypes(folder)


GROUP = ("config_groups", "group_0")
UNKNOWN = [
    ({"quant_method": "bitsandbytes"}, "quant_method must be compressed-tensors, fp8, gptq, awq"),
    ({"quant_method": None}, "quant_method must be"),
    ({"quant_method": ["gptq"]}, "quant_method must be"),
    ({"format": "nvfp4-pack-quantized"}, "format must be one of int-quantized, .* got 'nvfp4"),
    ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse weights are not read"),
    ({"config_groups": {"W4A16": ["Linear"]}}, r"config_groups\.W4A16 must be an object"),
    ({"config_groups": []}, "config_groups must be an object of groups"),
    ({"config_groups": {"a": {"targets": ["re:("]}, "b": {"targets": []}}}, r"re:\( is no pattern"),
    ({"config_groups": {"a": {}, "b": {}}}, r"config_groups\.a\.targets must be a list"),
    ({"weights": 5}, "weights must be an object, got 5"),
    ({"num_bits": 3}, "weights.num_bits must be one of 4, 8, got 3"),
    ({"num_bits": True}, "weights.num_bits must be one of 4, 8, got True"),
    ({"num_bits": 8, "symmetric": False}, "weights.symmetric must be one of True, got False"),
    ({"type": "float"}, "weights.type must be one of int, got 'float'"),
    ({"strategy": "tensor_group"}, "weights.strategy must be one of group, channel, got 'tensor_"),
    ({"group_size": 48}, r"group_size must be one of \(128, 32, 64, None\) for int4_w4a16, got 48"),
    ({"group_size": "32"}, "group_size must be an int, got '32'"),
    ({"actorder": "group"}, "weights.actorder: activation order is not read, got 'group'"),
    ({"quant_method": "gptq", "bits": 3}, "bits must be one of 4, 8, got 3"),
    ({"quant_method": "gptq", "bits": 4, "desc_act": True}, "desc_act: columns in activation ord"),
    ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "must be one of gptq, "),
    ({"quant_method": "gptq", "bits": 8, "sym": False}, "sym must be one of True, got False"),
    ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version must be one of gemm, got 'ge"),
    ({"quant_method": "awq", "bits": 4, "zero_point": False}, "zero_point must be one of True"),
    ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt must be one of e4m3, .* got 'e5m2'"),
    ({"quant_method": "fp8", "weight_block_size": [64, 64]}, r"must be \[128, 128\], got \[64, 64"),
]


class TestConfig(Headers):
    @pytest.mark.parametrize(("change", "said"), UNKNOWN, ids=[str(c) for c, _ in UNKNOWN])
    def test_what_is_not_read_is_named(
        self, change: dict[str, Any], said: str, folder: Path
    ) -> None:
        def changed(q: dict[str, Any]) -> None:
            group = q["config_groups"]["group_0"]
            for key, value in change.items():
                if key in group["weights"] or key == "actorder":
                    group["weights"][key] = value
                elif key == "format":
                    group[key] = value
                else:
                    (group if key in group else q)[key] = value

        configure(folder, changed)
        said = rf"config\.json: .*{said}"
        assert re.search(said, refusal(folder))
        with pytest.raises(ValueError, match=said):
            read_experts(folder)

    def test_types_of_msmodelslim(self, folder: Path) -> None:
        def parts(module: str, O: int, I: int) -> Tensors:
            return {"weight": torch.ones(O, I, dtype=torch.int8), "weight_scale": torch.ones(O, 1)}

        rewrite(folder, None, parts)
        said = refusal(folder)
        assert f"not quantised: {AT}.0.gate_proj, as the config has it" in said
        path = folder / "quant_model_description.json"
        kinds = json.loads(path.read_text())
        kinds[f"{AT}.0.gate_proj.weight"] = "W4A4_DYNAMIC"
        path.write_text(json.dumps(kinds))
        said = refusal(folder)
        assert f"{path}: {AT}.0.gate_proj.weight must be one of W8A8_DYNAMIC, " in said
        del kinds[f"{AT}.0.gate_proj.weight"]
        path.write_text(json.dumps(kinds))
        assert f"{path}: {AT}.0.gate_proj.weight must have a type, got none" in refusal(folder)
        (folder / "quant_model_description_w8a8.json").write_text("{}")
        assert "must have one quant_model_description*.json, got" in refusal(folder)

    def test_experts_of_different_formats(self, folder: Path) -> None:
        def parts(module: str, O: int, I: int) -> Tensors:
            scale = torch.ones(O, 1)
            return {"weight": torch.ones(O, I, dtype=torch.int8), "weight_scale": scale}

        modules = [f"{AT}.{e}.{m}_proj" for e in range(4) for m in ("gate", "up", "down")]
        types = {f"{module}.weight": "W8A8_DYNAMIC" for module in modules}
        rewrite(folder, None, parts, types | {f"{AT}.2.up_proj.weight": "W8A16"})
        assert f"not read: {AT}.2.up_proj has another format than expert 0" in refusal(folder)
        path = folder / "quant_model_description.json"
        kinds = {**json.loads(path.read_text()), f"{AT}.2.up_proj.weight": "W8A8_DYNAMIC"}
        path.write_text(json.dumps(kinds | {f"{AT}.0.up_proj.weight": "W8A16"}))
        assert f"not read: {AT}.0.gate_proj and up_proj have different formats" in refusal(folder)


class TestValues:
    """What only the values tell; the message names tensor and file, and there is no model."""

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
    def test_scales(self, value: float, folder: Path) -> None:
        edit(folder, lambda t: t[f"{DOWN}.weight_scale"].view(-1)[7:8].fill_(value))
        said = (
            f"{DOWN}.weight_scale in {folder}/{FILE}: scales must be finite and not 0, got {value}"
        )
        assert refusal(folder) == said
        with pytest.raises(ValueError, match="must be finite"):
            list(read_experts(folder))

    def test_an_exponent_that_is_nan(self, tmp_path: Path) -> None:
        model = small_model()
        quantize_experts(model, "mxfp4_w4a16")
        save_pretrained(model, tmp_path / "f")
        edit(tmp_path / "f", lambda t: t[f"{GATE}.weight_scale"][3].fill_(255))
        assert f"{GATE}.weight_scale in {tmp_path}/f/{FILE}: scales" in refusal(tmp_path / "f")

    def test_shapes(self, folder: Path) -> None:
        edit(folder, lambda t: t[f"{GATE}.weight_shape"].copy_(torch.tensor([32, 63])))
        want = f"{GATE}.weight_shape in {folder}/{FILE}: weight_shape must be [32, 64], as packed"
        assert want in refusal(folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda t: t["g_idx"].copy_(t["g_idx"].flip(0)), "g_idx in {}: g_idx must be in order"),
            (lambda t: t["qzeros"].fill_(-1), r"qzeros in {}: qzeros must be in [0, 15] with 1"),
        ],
        ids=["g_idx", "qzeros"],
    )  # fmt: skip
    def test_gptq(self, change: Callable[[Tensors], Any], said: str, folder: Path) -> None:
        def parts(module: str, O: int, I: int) -> Tensors:
            made = {
                "qweight": torch.zeros(I // 8, O, dtype=torch.int32),
                "qzeros": torch.zeros(I // 32, O // 8, dtype=torch.int32),
                "scales": torch.ones(I // 32, O).half(),
                "g_idx": torch.arange(I, dtype=torch.int32) // 32,
            }
            if module == GATE:
                change(made)
            return made

        config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
        rewrite(folder, config, parts)
        assert f"{GATE}.{said.format(folder / FILE)}" in refusal(folder)

    def test_gptq_that_says_it_is_symmetric(self, folder: Path) -> None:
        def parts(module: str, O: int, I: int) -> Tensors:
            seven = 0x77777777 if module != DOWN else 0x67777777
            return {
                "qweight": torch.zeros(I // 8, O, dtype=torch.int32),
                "qzeros": torch.full((I // 32, O // 8), seven, dtype=torch.int32),
                "scales": torch.ones(I // 32, O).half(),
            }

        config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
        rewrite(folder, config, parts)
        want = f"{DOWN}.qzeros in {folder / FILE}: qzeros must be 7 for sym=true with 4 bits, got 6"
        assert want in refusal(folder)

    @pytest.mark.parametrize("kind", ["W8A8_DYNAMIC", "W8A8", "W4A8_DYNAMIC"])
    def test_msmodelslim(self, kind: str, folder: Path) -> None:
        def parts(module: str, O: int, I: int) -> Tensors:
            odd = module == DOWN
            if kind == "W8A8":
                return {
                    "weight": torch.ones(O, I, dtype=torch.int8), "deq_scale": torch.ones(O),
                    "input_scale": torch.ones(1), "input_offset": torch.full((1,), 3.0),
                    "quant_bias": torch.full((O,), -3 * I + 9 * odd, dtype=torch.int32),
                }  # fmt: skip
            rows = O // 2 if kind == "W4A8_DYNAMIC" else O
            return {
                "weight": torch.ones(rows, I, dtype=torch.int8),
                "weight_scale": torch.ones(O, 1),
                "weight_offset": torch.full((O, 1), 2.0 * odd),
            }

        modules = [f"{AT}.{e}.{m}_proj" for e in range(4) for m in ("gate", "up", "down")]
        rewrite(folder, None, parts, {f"{module}.weight": kind for module in modules})
        part = "quant_bias" if kind == "W8A8" else "weight_offset"
        said = "be what input_offset gives" if kind == "W8A8" else "be 0 for symmetric weights"
        assert f"{DOWN}.{part} in {folder / FILE}: {part} must {said}" in refusal(folder)

    def test_a_file_that_changes_between_look_and_load(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = read_experts(folder)
        edit(folder, lambda t: t.update({f"{GATE}.weight_scale": torch.ones(1)}))
        with pytest.raises(ValueError, match=r"was changed while it was read: .*1\.gate_proj"):
            list(found)
        edit(folder, lambda t: t.update({f"{GATE}.weight_scale": torch.ones(32, 2)}))
        found = read_experts(folder)
        edit(folder, lambda t: t.pop(f"{DOWN}.weight_scale"))
        with pytest.raises(ValueError, match=r"was changed while it was read: .*2\.down_proj"):
            list(found)


class TestWriting:
    def test_layers_must_be_quantised_in_one_way(self, tmp_path: Path) -> None:
        model = small_model(num_hidden_layers=2)
        quantize_experts(model.layers[0], "int8_w8a8")
        with pytest.raises(ValueError, match=r"either all .* or none, to be written, got 2 of 4"):
            save_pretrained(model, tmp_path / "f")
        quantize_experts(model.layers[1], "int4_w4a16", group_size=32)
        with pytest.raises(ValueError, match=r"quantised in one way .* num_bits=8.* num_bits=4"):
            save_pretrained(model, tmp_path / "f")
        assert not (tmp_path / "f").exists()

    def test_blocks_that_go_over_both_halves_cannot_be_written(self, tmp_path: Path) -> None:
        model = small_model(moe_intermediate_size=192, hidden_size=128)
        moge = model.layers[0].moge
        weights = [w.detach() for w in (moge.w_gate_up, moge.w_down)]
        del moge.w_gate_up, moge.w_down
        moge.w_gate_up, moge.w_down = (
            FrozenWeight(quantize(w, "fp8_w8a16", group_size=128)) for w in weights
        )
        with pytest.raises(ValueError, match=r"that start with each half, got \[4, 3, 1"):
            save_pretrained(model, tmp_path / "f")

    @pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "fp8_w8a16"])
    @pytest.mark.parametrize("scales", [1, 8])
    def test_scales_of_several_rows_are_written_for_each(
        self, scales: int, scheme: str, tmp_path: Path
    ) -> None:
        model = small_model()
        symmetric = scheme != "int4_w4a16"
        quantize_experts(model, scheme, symmetric=symmetric)
        moge = model.layers[0].moge
        for name in ("w_gate_up", "w_down"):
            w = getattr(moge, name).weight
            step = w.shape[1] // scales
            fewer = {"scale": w.scale[:, ::step].clone()}
            if w.zero is not None:
                fewer["zero"] = w.zero[:, ::step].clone()
            delattr(moge, name)
            setattr(moge, name, FrozenWeight(w._replace(**fewer)))
        save_pretrained(model, tmp_path)
        again = from_pretrained(tmp_path).layers[0].moge
        for name in ("w_gate_up", "w_down"):
            want, got = (getattr(m, name).weight for m in (moge, again))
            assert want.scale.shape[1] == scales
            assert torch.equal(dequantize(got), dequantize(want))

    def test_plain_again_without_the_config_of_the_quantised(
        self, folder: Path, tmp_path: Path
    ) -> None:
        config = from_pretrained(folder).config
        assert "quantization_config" in config.extra
        save_pretrained(PanguMoEForCausalLM(config), tmp_path / "plain")
        from_pretrained(tmp_path / "plain")

    def test_weights_with_groups_of_different_sizes(self, tmp_path: Path) -> None:
        model = small_model()
        quantize_experts(model, "int4_w4a16")  # H has groups of 64, F of 32
        assert model.layers[0].moge.w_gate_up.weight.group_size == 64
        save_pretrained(model, tmp_path)
        again = from_pretrained(tmp_path)
        for name in ("w_gate_up", "w_down"):
            a, b = (getattr(m.layers[0].moge, name).weight for m in (model, again))
            assert a[3:] == b[3:]
            assert torch.equal(a.data, b.data)
            assert torch.equal(a.scale, b.scale)

    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
    def test_a_folder_is_quantised_as_a_model_is(
        self, scheme: str, dtype: torch.dtype | None, tmp_path: Path
    ) -> None:
        plain = small_model(num_hidden_layers=2)
        save_pretrained(plain, tmp_path / "plain", max_shard_size=20_000)
        sizes = {"max_shard_size": 10_000}
        convert_quantized(tmp_path / "plain", tmp_path / "a", scheme, dtype=dtype, **sizes)
        quantize_experts(plain, scheme)
        save_pretrained(plain.to(dtype), tmp_path / "b", **sizes)
        files = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab"]
        assert len(files[0]) > 4
        assert files[0].keys() == files[1].keys()
        for name in files[0]:
            assert files[0][name] == files[1][name], name

    def test_quantised_folders_are_not_quantised_again(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"is quantised already; --quantize takes a plain fol"):
            convert_quantized(folder, tmp_path / "out", "int8_w8a8")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("sizes", "scheme", "group_size", "said"),
        [
            ({}, "int4_w4a16", 64, f"{AT}.0.down_proj.weight in {{}}: group_size=64 must divide"),
            ({"hidden_size": 40}, "mxfp4_w4a16", 32, f"{AT}.0.gate_proj.weight in {{}}: group_si"),
            ({}, "int8_w8a8", 32, f"{AT}.0.gate_proj.weight in {{}}: quantize: group_size must be"),
        ],
    )
    def test_groups_that_do_not_fit_are_found_before_weights_are_read(
        self,
        sizes: dict[str, int],
        scheme: str,
        group_size: int,
        said: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        save_pretrained(small_model(**sizes), tmp_path)
        monkeypatch.setattr(convert, "opened", lambda file: pytest.fail("read"))
        with pytest.raises(ValueError, match=re.escape(said.format(tmp_path / FILE))):
            convert_quantized(tmp_path, tmp_path / "out", scheme, group_size=group_size)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", [f"{GATE}.weight", f"{DOWN}.weight"])
    def test_a_weight_that_is_not_finite_is_named(self, name: str, tmp_path: Path) -> None:
        save_pretrained(small_model(), tmp_path)
        edit(tmp_path, lambda t: t[name][3, 5:].fill_(torch.inf))
        said = f"{name} in {tmp_path / FILE}: weight must be finite, got NaN or infinity"
        with pytest.raises(ValueError, match=re.escape(said)):
            convert_quantized(tmp_path, tmp_path / "out", "int8_w8a8")
        assert not (tmp_path / "out").exists()


PEAK = """
import sys
from pathlib import Path
import torch
from moge_ops.models.checkpoint import from_pretrained
from moge_ops.models.convert import convert_quantized
from moge_ops.nn import FrozenWeight
from moge_ops.quant import read_experts

torch.set_num_threads(1)
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def work(what, folder):
    if what == "load":
        return from_pretrained(folder)
    if what == "read":
        return list(read_experts(folder))
    sizes = {"group_size": 32, "max_shard_size": "4MB"}
    convert_quantized(folder, folder + what, "int4_w4a16", **sizes)

work(sys.argv[1], sys.argv[2])  # so that first uses allocate what they need
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
before = status("VmRSS")
kept = work(sys.argv[1], sys.argv[3])
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
class TestMemory:
    def peak(self, what: str, first: Path, folder: Path) -> int:
        command = [sys.executable, "-c", PEAK, what, str(first), str(folder)]
        # large blocks from the system and back: glibc would keep them, by its own measure
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return int(done.stdout)

    @pytest.mark.parametrize("what", ["load", "read"])
    def test_loading_takes_the_quantised_size_and_one_shard(
        self, what: str, folder: Path, tmp_path: Path
    ) -> None:
        model = small_model(
            hidden_size=512, moe_intermediate_size=512, num_experts=16, num_hidden_layers=6
        )
        quantize_experts(model, "int4_w4a16", group_size=32)
        save_pretrained(model, tmp_path / "large", max_shard_size="4MB")
        files = [p.stat().st_size for p in (tmp_path / "large").glob("*.safetensors")]
        size, shard = sum(files), max(files)
        assert size > 10 * shard
        peak = self.peak(what, folder, tmp_path / "large")
        least = (0.9 if what == "load" else 0.7) * size  # experts alone are less
        assert least <= peak <= size + shard + 4 * 2**20  # for names, headers, one matrix

    def test_converting_takes_one_layer_and_one_shard(self, tmp_path: Path) -> None:
        sizes = {"hidden_size": 512, "moe_intermediate_size": 512, "num_experts": 16}
        for name, layers in (("small", 1), ("large", 6)):
            plain = small_model(**sizes if layers > 1 else {}, num_hidden_layers=layers)
            save_pretrained(plain.bfloat16(), tmp_path / name, max_shard_size="4MB")
        size = sum(p.stat().st_size for p in (tmp_path / "large").glob("*.safetensors"))
        up = 16 * 2 * 512 * 512 * 2  # w_gate_up in bfloat16
        layer = up + 1.5 * up * 5 / 16  # and both quantised: 4 bits, and float32 for each 32
        peak = self.peak("convert", tmp_path / "small", tmp_path / "large")
        # files of 4 MB that are read and written, and an expert's matrix in float32 a few times
        assert peak <= layer + 2 * 4 * 10**6 + 8 * 2**20 < size / 3
