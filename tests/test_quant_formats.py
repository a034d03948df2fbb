"""Folders of every quantised format: what is read is what the format's own library decodes.

compressed-tensors writes and decodes its formats itself. Where a library is not to be had, a small
encoder here works from the documented layout, in NumPy and with codes of its own choice, and
shares nothing with the reader.
"""

import contextlib
import copy
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moge_ops import testing
from moge_ops.models import PanguMoEConfig, PanguMoEForCausalLM
from moge_ops.models.checkpoint import from_pretrained, released, save_pretrained
from moge_ops.nn import FrozenWeight
from moge_ops.quant import QuantizedWeight, dequantize, read_experts

L, E, H, F = 2, 4, 128, 192  # F is one and a half blocks of 128
SIZES = {
    "vocab_size": 40, "hidden_size": H, "num_hidden_layers": L, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts": E, "num_experts_per_tok": 2, "num_groups": 2,
    "moe_intermediate_size": F, "shared_expert_intermediate_size": 64, "eos_token_id": None,
}  # fmt: skip
newest = pytest.mark.skipif(sys.version_info < (3, 11), reason="compressed-tensors needs 3.11")

Encoded = tuple[dict[str, Tensor], Tensor]  # the parts of a matrix, and what they stand for


class Format(NamedTuple):
    """How a folder is written."""

    scheme: str
    config: dict[str, Any] | None  # quantization_config
    encode: Callable[[Tensor], Encoded]
    linears: str | None = None  # a pattern of other linear layers that are quantised too
    kind: str | None = None  # msmodelslim's type


# ----- compressed-tensors: written and decoded by itself -----


def compressed(preset: str, scheme: str, format: str, **changes: Any) -> Callable[[], Format]:
    """A format of compressed-tensors, by the name of one of its presets."""

    def make() -> Format:
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import (
            QuantizationConfig,
            QuantizationScheme,
            preset_name_to_scheme,
        )
        from compressed_tensors.quantization.utils.helpers import calculate_qparams

        linears = changes.pop("linears", None)
        dtype = changes.pop("dtype", torch.float32)
        how = preset_name_to_scheme(preset, ["Linear"])
        values = how.model_dump()
        values["weights"] |= changes
        how = QuantizationScheme.model_validate(values)
        args, compressor = how.weights, BaseCompressor.get_value_from_registry(format)

        def encode(w: Tensor) -> Encoded:
            O, I = w.shape
            if args.strategy == "tensor":
                groups = w.reshape(1, -1)
            elif args.strategy == "channel":
                groups = w
            elif args.strategy == "group":
                groups = torch.unflatten(w, 1, (-1, args.group_size))
            else:
                padded = torch.nn.functional.pad(w, (0, -I % 128, 0, -O % 128))
                groups = padded.unflatten(1, (-1, 128)).unflatten(0, (-1, 128)).transpose(1, 2)
                groups = groups.flatten(2)
            keep = args.strategy in ("channel",)
            low, high = groups.amin(-1, keepdim=keep), groups.amax(-1, keepdim=keep)
            scale, zero = calculate_qparams(low.to(dtype), high.to(dtype), args)
            state = {"weight": w.to(dtype), "weight_scale": scale}
            if not args.symmetric:
                state["weight_zero_point"] = zero.round().to(torch.int8)
            parts = compressor.compress(state, how)
            return parts, compressor.decompress(dict(parts), how)["weight"]

        config = QuantizationConfig(
            config_groups={"group_0": how}, format=format, ignore=["lm_head"],
            quantization_status="compressed",
        )  # fmt: skip
        return Format(scheme, json.loads(config.model_dump_json()), encode, linears)

    return make


# ----- others: encoders by the documents -----


def packed(codes: Any, bits: int, axis: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Unsigned codes as int32, several in one along an axis, the first in the lowest bits."""
    n = 32 // bits
    codes = np.moveaxis(np.asarray(codes).astype(np.uint32), axis, -1)
    words = np.zeros((*codes.shape[:-1], codes.shape[-1] // n), np.uint32)
    for i in range(n):
        words |= codes[..., (order or tuple(range(n)))[i] :: n] << np.uint32(bits * i)
    words = np.ascontiguousarray(np.moveaxis(words, -1, axis))
    return torch.from_numpy(words.view(np.int32))


def affine(w: Tensor, bits: int, g: int | None, symmetric: bool, dtype: torch.dtype) -> Any:
    """Codes ``[O, I]``, zero points and scales ``[O, groups]`` of a plain rounding."""
    O, I = w.shape
    x = w.double().numpy().reshape(O, -1, g or I)
    top = 2**bits - 1
    if symmetric:
        scale = np.abs(x).max(-1) / (top // 2)
        zero = np.full(scale.shape, 2 ** (bits - 1))
    else:
        low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
        scale = (high - low) / top
        zero = np.clip(np.round(-low / scale), 1, top)
    scale = torch.from_numpy(scale).to(dtype)
    q = np.clip(np.round(x / scale.double().numpy()[..., None]) + zero[..., None], 0, top)
    decoded = torch.from_numpy(q - zero[..., None]).float() * scale.float().unsqueeze(-1)
    return q.reshape(O, I).astype(int), zero.astype(int), scale, decoded.reshape(O, I)


def gptq(bits: int, g: int, sym: bool, version: str = "gptq") -> Callable[[], Format]:
    """Codes along I, zero points along O; version 1 stores them less one."""
    config = {
        "quant_method": "gptq", "bits": bits, "group_size": g, "sym": sym, "desc_act": False,
    }  # fmt: skip
    if version != "gptq" or not sym:
        config["checkpoint_format"] = version

    def encode(w: Tensor) -> Encoded:
        size = None if g == -1 else g
        q, zero, scale, decoded = affine(w, bits, size, sym, torch.float16)
        parts = {
            "qweight": packed(q.T, bits, 0),
            "qzeros": packed(zero.T - (version == "gptq"), bits, 1),
            "scales": scale.T.contiguous(),
            "g_idx": torch.arange(w.shape[1], dtype=torch.int32) // (size or w.shape[1]),
        }
        return parts, decoded

    scheme = "int4_w4a16" if bits == 4 else "int8_w8a16"
    return lambda: Format(scheme, config, encode, r"\.(self_attn|shared_expert)\.")


def awq() -> Format:
    """Codes and zero points along O, the columns of eight in AutoAWQ's order."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def encode(w: Tensor) -> Encoded:
        q, zero, scale, decoded = affine(w, 4, 64, False, torch.float16)
        parts = {
            "qweight": packed(q.T, 4, 1, order),
            "qzeros": packed(zero.T, 4, 1, order),
            "scales": scale.T.contiguous(),
        }
        return parts, decoded

    config = {
        "quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True,
    }  # fmt: skip
    return Format("int4_w4a16", config, encode, r"\.self_attn\.")


def fp8(blocks: bool) -> Callable[[], Format]:
    """DeepSeek's blocks, whose weight_scale_inv is a multiplier; or one scale for a matrix."""

    def encode(w: Tensor) -> Encoded:
        O, I = w.shape
        scale = torch.empty(-(-O // 128), -(-I // 128)) if blocks else torch.empty(1, 1)
        step = 128 if blocks else max(O, I)
        data, decoded = torch.empty(O, I, dtype=torch.float8_e4m3fn), torch.empty(O, I)
        for i in range(0, O, step):
            for j in range(0, I, step):
                at = slice(i, i + step), slice(j, j + step)
                s = w[at].abs().max() / 448
                scale[i // step, j // step] = s
                data[at] = (w[at] / s).to(torch.float8_e4m3fn)
                decoded[at] = data[at].float() * s
        if blocks:
            return {"weight": data, "weight_scale_inv": scale}, decoded
        still = torch.tensor(0.5)
        return {"weight": data, "weight_scale": scale[0, 0], "input_scale": still}, decoded

    config: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    if blocks:
        config |= {"fmt": "e4m3", "weight_block_size": [128, 128]}
    return lambda: Format("fp8_w8a16", config, encode, r"\.self_attn\.")


def per_row(w: Tensor, most: int) -> tuple[Tensor, Tensor]:
    scale = w.abs().amax(1, keepdim=True) / most
    return (w / scale).round().clamp(-most - 1, most).to(torch.int8), scale


def ascend(kind: str) -> Callable[[], Format]:
    """msmodelslim's AscendV1."""

    def dynamic(w: Tensor) -> Encoded:
        q, scale = per_row(w, 127)
        parts = {"weight": q, "weight_scale": scale, "weight_offset": torch.zeros_like(scale)}
        return parts, q.float() * scale

    def static(w: Tensor) -> Encoded:
        q, scale = per_row(w, 127)
        of_input, offset = torch.tensor([2.0**-6]), torch.tensor([-7.0])
        deq = (of_input * scale).squeeze(1)
        bits = torch.from_numpy(deq.numpy().view(np.int32).astype(np.int64))
        parts = {
            "weight": q, "deq_scale": bits, "input_scale": of_input, "input_offset": offset,
            "quant_bias": (-q.float().sum(1) * offset).round().to(torch.int32),
        }  # fmt: skip
        return parts, q.float() * scale  # a power of two: nothing is lost

    def four(w: Tensor) -> Encoded:
        q, scale = per_row(w, 7)
        codes = q.numpy().astype(np.int8) & 15
        two = torch.from_numpy((codes[0::2] | codes[1::2] << 4).astype(np.int8))
        decoded = q.float() * scale
        parts = {
            "weight": two, "weight_scale": scale, "weight_offset": torch.zeros_like(scale),
            "scale_bias": 8 * decoded.sum(1, keepdim=True),
        }  # fmt: skip
        return parts, decoded

    def both(w: Tensor) -> Encoded:
        parts, decoded = dynamic(w)
        return static(w)[0] | parts, decoded

    encode = {"W8A8": static, "W8A8_MIX": both, "W4A8_DYNAMIC": four}.get(kind, dynamic)
    scheme = {"W4A8_DYNAMIC": "int4_w4a16", "W8A16": "int8_w8a16"}.get(kind, "int8_w8a8")
    # q, k, v and o have biases, with which quant_bias has more in it
    return lambda: Format(scheme, None, encode, r"\.shared_expert\.", kind)


CT = "compressed-tensors "
FORMATS: dict[str, Callable[[], Format]] = {
    f"{CT}int8": compressed("W8A8", "int8_w8a8", "int-quantized", linears=r"self_attn|shared"),
    f"{CT}int8 bf16": compressed("W8A8", "int8_w8a8", "int-quantized", dtype=torch.bfloat16),
    f"{CT}int8 alone": compressed(
        "W8A16", "int8_w8a16", "int-quantized", strategy="channel", group_size=None
    ),
    f"{CT}int8 naive": compressed("W8A8", "int8_w8a8", "naive-quantized"),
    f"{CT}int8 matrix": compressed("W8A8", "int8_w8a8", "int-quantized", strategy="tensor"),
    f"{CT}int8 packed": compressed(
        "W8A16", "int8_w8a16", "pack-quantized", strategy="channel", group_size=None
    ),
    f"{CT}int8 packed g64": compressed(
        "W8A16", "int8_w8a16", "pack-quantized", strategy="group", group_size=64
    ),
    f"{CT}int4 g64": compressed(
        "W4A16", "int4_w4a16", "pack-quantized", group_size=64, linears=r"self_attn|shared"
    ),
    f"{CT}int4 g32 zero": compressed("W4A16_ASYM", "int4_w4a16", "pack-quantized", group_size=32),
    f"{CT}int4 row": compressed(
        "W4A16", "int4_w4a16", "pack-quantized", strategy="channel", group_size=None
    ),
    f"{CT}int4 row zero bf16": compressed(
        "W4A16_ASYM",
        "int4_w4a16",
        "pack-quantized",
        strategy="channel",
        group_size=None,
        dtype=torch.bfloat16,
    ),
    f"{CT}fp8 row": compressed("FP8_DYNAMIC", "fp8_w8a16", "float-quantized", linears="self_attn"),
    f"{CT}fp8 matrix": compressed("FP8", "fp8_w8a16", "float-quantized"),
    f"{CT}fp8 blocks": compressed("FP8_BLOCK", "fp8_w8a16", "float-quantized", linears="shared"),
    f"{CT}mxfp4": compressed("MXFP4A16", "mxfp4_w4a16", "mxfp4-pack-quantized"),
    "fp8 blocks": fp8(blocks=True),
    "fp8 matrix": fp8(blocks=False),
    "gptq 4 sym": gptq(4, 64, True),
    "gptq 4 zero": gptq(4, 32, False),
    "gptq_v2 4 zero": gptq(4, -1, False, "gptq_v2"),
    "gptq 8": gptq(8, 64, True),
    "awq": lambda: awq(),
    "ascend W8A8_DYNAMIC": ascend("W8A8_DYNAMIC"),
    "ascend W8A8": ascend("W8A8"),
    "ascend W8A8_MIX": ascend("W8A8_MIX"),
    "ascend W8A16": ascend("W8A16"),
    "ascend W4A8_DYNAMIC": ascend("W4A8_DYNAMIC"),
}
NAMES = [pytest.param(n, marks=[newest] * n.startswith(CT)) for n in FORMATS]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def base_model() -> PanguMoEForCausalLM:
    """Of a few random weights; nobody may change them."""
    torch.manual_seed(3)
    model = PanguMoEForCausalLM(PanguMoEConfig(**SIZES))  # type: ignore[arg-type]
    with torch.no_grad():
        torch.nn.init.normal_(model.embed.weight)
        for p in model.parameters():
            if p.ndim > 1 and p is not model.embed.weight:
                torch.nn.init.normal_(p, std=0.1)
    return model


def write(folder: Path, name: str, shards: int = 3) -> dict[str, Tensor]:
    """Writes a folder of a format; returns what its tensors stand for.

    Neighbouring tensors lie in different files, in an order that is nobody's.
    """
    form = FORMATS[name]()
    made, plain = dict[str, Tensor](), dict[str, Tensor]()
    types = {"version": "1.0.0", "model_quant_type": form.kind}
    for tensor, w in released(base_model()):
        w = w.detach().clone()
        module = tensor.removesuffix(".weight")
        if tensor.endswith(".weight") and w.ndim == 2 and (
            ".mlp.experts." in tensor or (form.linears and re.search(form.linears, tensor))
        ):  # fmt: skip
            parts, w = form.encode(w)
            made |= {f"{module}.{part}": x.contiguous() for part, x in parts.items()}
            types |= dict.fromkeys((f"{module}.{part}" for part in parts), form.kind or "")
        else:
            made[tensor] = w
            types[tensor] = "FLOAT"
        plain[tensor] = w.float()
    folder.mkdir(exist_ok=True)
    config = {**base_model().config.to_dict(), "torch_dtype": "float32"}
    if form.config is None:
        (folder / "quant_model_description.json").write_text(json.dumps(types))
    else:
        config["quantization_config"] = form.config
    (folder / "config.json").write_text(json.dumps(config))
    stem = "quant_model_weights" if form.config is None else "model"
    write_shards(folder, made, stem, shards)
    return plain


def write_shards(folder: Path, tensors: dict[str, Tensor], stem: str, shards: int) -> None:
    files: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    for i, name in enumerate(sorted(tensors, key=lambda n: n[::-1])):
        files[i % shards][name] = tensors[name]
    weight_map = {}
    for i, held in enumerate(files, 1):
        file = f"{stem}-{i:05}-of-{shards:05}.safetensors"
        save_file(held, folder / file)
        weight_map |= dict.fromkeys(held, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Folders by their format, written once; nobody may change them."""
    kept: dict[str, tuple[Path, Any]] = {}

    def make(name: str) -> tuple[Path, Any]:
        if name not in kept:
            folder = tmp_path_factory.mktemp("format") / "folder"
            kept[name] = folder, write(folder, name)
        return kept[name]

    return make


def stacked(plain: dict[str, Tensor], path: str) -> tuple[Tensor, Tensor]:
    """Both weights of a layer, of the decoded matrices."""

    def all_of(name: str) -> Tensor:
        return torch.stack([plain[f"{path}.{e}.{name}.weight"] for e in range(E)])

    return torch.cat([all_of("gate_proj"), all_of("up_proj")], 1), all_of("down_proj")


def same(a: QuantizedWeight, b: QuantizedWeight) -> None:
    """Equal bit for bit."""
    assert a[3:] == b[3:]
    for name, x, y in zip(("data", "scale", "zero"), a, b, strict=False):
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == y.dtype, name
            assert x.shape == y.shape, name
            assert torch.equal(x.view(torch.uint8), y.view(torch.uint8)), name


@pytest.mark.parametrize("name", NAMES)
def test_experts_are_what_the_format_decodes(name: str, made: Any) -> None:
    folder, plain = made(name)
    seen = {}
    for path, up, down in read_experts(folder):
        assert up.scheme == down.scheme == FORMATS[name]().scheme
        # a library that decodes in bfloat16 rounds there
        narrow = torch.bfloat16 if name.endswith("bf16") else torch.float32
        for got, want in zip((up, down), stacked(plain, path), strict=True):
            assert torch.equal(dequantize(got, narrow).float(), want)
        seen[path] = up, down
    assert seen.keys() == {f"model.layers.{i}.mlp.experts" for i in range(L)}


PROMPT = [[5, 9, 33, 2, 17]]


@pytest.mark.parametrize("name", NAMES)
def test_the_model_generates_what_the_decoded_one_does(name: str, made: Any) -> None:
    folder, plain = made(name)
    model, want = from_pretrained(folder), copy.deepcopy(base_model())
    with torch.no_grad():
        parts = dict(released(want))
        for tensor, w in plain.items():
            parts[tensor].copy_(w)
    for layer in model.layers:
        assert isinstance(layer.moge.w_gate_up, FrozenWeight)
        assert isinstance(layer.moge.w_down, FrozenWeight)
    held = dict(released(model))
    for tensor, w in plain.items():
        if ".mlp.experts." not in tensor:
            assert torch.equal(held[tensor], w), tensor
    assert not model.training
    for backend in (testing.backend("torch"), contextlib.nullcontext()):
        with backend:
            tokens = [m.generate(PROMPT, 6, temperature=0.0) for m in (model, want)]
        assert torch.equal(*tokens)


@pytest.mark.parametrize("name", NAMES)
def test_written_and_read_again_it_is_the_same(name: str, made: Any, tmp_path: Path) -> None:
    model = from_pretrained(made(name)[0])
    save_pretrained(model, tmp_path / "once", max_shard_size=100_000)
    assert len(list((tmp_path / "once").glob("*.safetensors"))) > 3
    again = from_pretrained(tmp_path / "once")
    for a, b in zip(model.layers, again.layers, strict=True):
        same(a.moge.w_gate_up.weight, b.moge.w_gate_up.weight)
        same(a.moge.w_down.weight, b.moge.w_down.weight)
    save_pretrained(again, tmp_path / "twice", max_shard_size=100_000)
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "twice" / path.name).read_bytes(), path.name


@newest
@pytest.mark.parametrize("name", FORMATS)
def test_compressed_tensors_decodes_what_is_written(name: str, made: Any, tmp_path: Path) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    save_pretrained(from_pretrained(made(name)[0]), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate(told)
    tensors = load_file(tmp_path / "model.safetensors")
    quantised = {n.rpartition(".")[0] for n in tensors if n.endswith(".weight_scale")}
    linear = {n.removesuffix(".weight") for n, x in tensors.items()
              if n.endswith(".weight") and x.ndim == 2}  # fmt: skip
    assert set(config.ignore) == linear - quantised - {"model.embed_tokens"}
    assert len(quantised) == 3 * E * L
    (how,) = config.config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(how.format)
    for path, *weights in read_experts(tmp_path):
        up, down = (dequantize(w, torch.float32) for w in weights)
        for matrix, want in (("gate_proj", up[:, :F]), ("up_proj", up[:, F:]), ("down_proj", down)):
            for e in range(E):
                module = f"{path}.{e}.{matrix}."
                state = {n.removeprefix(module): x for n, x in tensors.items() if module in n}
                assert state.keys() == set(compressor.compression_param_names(how))
                # they decode in the dtype of the scale: here in that of the comparison
                if state["weight_scale"].is_floating_point():
                    state["weight_scale"] = state["weight_scale"].float()
                assert torch.equal(compressor.decompress(state, how)["weight"].float(), want[e])


def generic(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    """A folder of another model."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "other", **config}))
    write_shards(folder, tensors, "model", 2)
    return folder


class TestOtherModels:
    def test_gpt_oss_as_transformers_decodes_it(self, tmp_path: Path) -> None:
        pytest.importorskip("transformers")
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        H, F, at = 64, 96, "model.layers.7.mlp.experts"
        tensors = {
            f"{at}.gate_up_proj_blocks": torch.randint(256, (3, 2 * F, H // 32, 16)),
            f"{at}.gate_up_proj_scales": torch.randint(100, 140, (3, 2 * F, H // 32)),
            f"{at}.down_proj_blocks": torch.randint(256, (3, H, F // 32, 16)),
            f"{at}.down_proj_scales": torch.randint(100, 140, (3, H, F // 32)),
        }
        tensors = {n: x.to(torch.uint8) for n, x in tensors.items()}
        biases = {f"{at}.gate_up_proj_bias": torch.zeros(3, 2 * F), f"{at}.down_proj_bias":
                  torch.zeros(3, H), "model.norm.weight": torch.ones(H)}  # fmt: skip
        config = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": []}}
        folder = generic(tmp_path / "f", tensors | biases, config)
        ((path, up, down),) = read_experts(folder)
        assert path == at
        kinds = {"dtype": torch.bfloat16}
        want = convert_moe_packed_tensors(
            tensors[f"{at}.gate_up_proj_blocks"], tensors[f"{at}.gate_up_proj_scales"], **kinds
        ).mT  # [E, 2F, H], gate and up in turn
        want = torch.cat([want[:, ::2], want[:, 1::2]], 1)
        assert torch.equal(dequantize(up, torch.bfloat16), want)
        want = convert_moe_packed_tensors(
            tensors[f"{at}.down_proj_blocks"], tensors[f"{at}.down_proj_scales"], **kinds
        ).mT
        assert torch.equal(dequantize(down, torch.bfloat16), want)

    @pytest.mark.parametrize("scale", ["float32", "float8_e8m0fnu"])
    def test_stacked_fp8_blocks_go_over_both_halves(self, scale: str, tmp_path: Path) -> None:
        E, F, H, at = 2, 192, 128, "model.layers.0.mlp.experts"
        up, down = torch.randn(E, 2 * F, H), torch.randn(E, H, F)
        s_up, s_down = torch.rand(E, 3, 1) + 0.5, torch.rand(E, 1, 2) + 0.5
        tensors = {
            f"{at}.gate_up_proj": up.to(torch.float8_e4m3fn),
            f"{at}.gate_up_proj_scale_inv": s_up.to(getattr(torch, scale)),
            f"{at}.down_proj": down.to(torch.float8_e4m3fn),
            f"{at}.down_proj_scale_inv": s_down.to(getattr(torch, scale)),
        }
        config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
        ((_, a, b),) = read_experts(generic(tmp_path / "f", tensors, config))
        for got, name in ((a, "gate_up_proj"), (b, "down_proj")):
            wide = tensors[f"{at}.{name}"].float()
            factor = tensors[f"{at}.{name}_scale_inv"].float()
            factor = factor.repeat_interleave(128, 1).repeat_interleave(128, 2)
            want = wide * factor[:, : wide.shape[1], : wide.shape[2]]
            assert torch.equal(dequantize(got), want)

    def test_mixtral_calls_its_matrices_w1_w3_w2(self, tmp_path: Path) -> None:
        at, form = "model.layers.0.block_sparse_moe.experts", fp8(blocks=False)()
        tensors, want = {}, {}
        for e in range(2):
            for name, shape in (("w1", (F, H)), ("w3", (F, H)), ("w2", (H, F))):
                parts, want[name, e] = form.encode(torch.randn(shape))
                tensors |= {f"{at}.{e}.{name}.{part}": x for part, x in parts.items()}
        folder = generic(tmp_path / "f", tensors, {"quantization_config": form.config})
        ((path, up, down),) = read_experts(folder)
        assert path == at
        for e in range(2):
            got = dequantize(up)[e]
            assert torch.equal(got, torch.cat([want["w1", e], want["w3", e]]))
            assert torch.equal(dequantize(down)[e], want["w2", e])

    @newest
    def test_groups_of_a_config_are_told_apart_by_their_targets(self, tmp_path: Path) -> None:
        at = "model.layers.0.mlp.experts"
        forms = {
            name: compressed(f, s, k, **c)()
            for name, (f, s, k, c) in {
                "up": ("W4A16", "int4_w4a16", "pack-quantized", {"group_size": 64}),
                "down": ("FP8_DYNAMIC", "fp8_w8a16", "float-quantized", {}),
            }.items()
        }
        groups = {}
        for name, form in forms.items():
            assert form.config is not None
            group = form.config["config_groups"]["group_0"]
            # the class comes first in the file, and last in rank
            targets = ["Linear"] if name == "up" else [r"re:.*experts\.\d+\.down_proj$"]
            groups[name] = {**group, "targets": targets, "format": form.config["format"]}
        tensors, want = {}, {}
        for e in range(2):
            for name, shape in (("gate", (F, H)), ("up", (F, H)), ("down", (H, F))):
                form = forms["down" if name == "down" else "up"]
                parts, want[name, e] = form.encode(torch.randn(shape))
                tensors |= {f"{at}.{e}.{name}_proj.{p}": x for p, x in parts.items()}
        config = {"quant_method": "compressed-tensors", "format": "mixed-precision",
                  "config_groups": groups}  # fmt: skip
        folder = generic(tmp_path / "f", tensors, {"quantization_config": config})
        ((_, up, down),) = read_experts(folder)
        assert (up.scheme, down.scheme) == ("int4_w4a16", "fp8_w8a16")
        for e in range(2):
            assert torch.equal(dequantize(up)[e], torch.cat([want["gate", e], want["up", e]]))
            assert torch.equal(dequantize(down)[e], want["down", e])
