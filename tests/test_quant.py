"""Quantised weights: the formats against other libraries and vectors by hand, and the operators."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import moge_ops
from moge_ops import _quantized, quant
from moge_ops.quant import QuantizedWeight, dequantize, quantize
from moge_ops.reference.grouped_gemm import grouped_gemm as reference_gemm
from moge_ops.reference.grouped_mlp import grouped_mlp as reference
from moge_ops.testing import assert_matches, group_ids

E, O, I = 3, 192, 256  # 192 rows: one block of 128 and a half
# scheme and options of quantize
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "int8_w8a8": ("int8_w8a8", {}),
    "int4_w4a8": ("int4_w4a8", {}),
    "int8_w8a16": ("int8_w8a16", {}),
    "int8_w8a16, groups": ("int8_w8a16", {"group_size": 32}),
    "int4, 128": ("int4_w4a16", {}),
    "int4, 32": ("int4_w4a16", {"group_size": 32}),
    "int4, 64, zero points": ("int4_w4a16", {"group_size": 64, "symmetric": False}),
    "fp8": ("fp8_w8a16", {}),
    "fp8, blocks": ("fp8_w8a16", {"group_size": 128}),
    "fp8, blocks of halves": ("fp8_w8a16", {"group_size": 128, "halves": 2}),
    "mxfp4": ("mxfp4_w4a16", {}),
}
newest = pytest.mark.skipif(sys.version_info < (3, 11), reason="compressed-tensors needs 3.11")


def weight(*shape: int) -> Tensor:
    w = torch.randn(*shape)
    w[0, 0] *= 100.0  # an outlier row, and one of zeros
    w[-1, -1] = 0.0
    return w


@pytest.mark.parametrize("case", CASES)
def test_what_was_rounded_once_stays(case: str) -> None:
    scheme, options = CASES[case]
    q = quantize(weight(E, O, I), scheme, **options)
    assert q.shape == (E, O, I)
    _quantized.check_values("weight", q)
    wide = dequantize(q)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(dequantize(q, dtype), wide.to(dtype))
    if options.get("symmetric", True):  # a group's extremes may move where there are zero points
        again = dequantize(quantize(wide, scheme, **options))
        # the largest of an integer group is clamped half a step below itself, and shrinks so
        assert (again - wide).abs().max() <= 0.08 * wide.abs().max()
        if scheme in ("fp8_w8a16", "mxfp4_w4a16"):
            assert torch.equal(again, wide)


@pytest.mark.parametrize("case", CASES)
def test_an_error_is_at_most_half_a_step(case: str) -> None:
    scheme, options = CASES[case]
    w = weight(E, O, I)
    q = quantize(w, scheme, **options)
    error = (dequantize(q) - w).abs()
    if scheme.startswith("int"):
        rows, columns = O // q.scale.shape[1], I // q.scale.shape[2]
        step = q.scale.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
        # half a step; the largest of a symmetric group, half a step beyond the last, another half
        # may come with a zero point, which is rounded too
        assert (error <= step * (1.0 + 1e-5)).all()
        assert (error <= step * 0.5001).float().mean() > 0.97
    else:  # a relative step of e4m3 or e2m1, or one of its smallest numbers
        relative, smallest = (2.0**-4, 2.0**-10) if scheme == "fp8_w8a16" else (0.25, 0.25)
        groups = w.abs().unflatten(-1, (-1, q.group_size or I)).amax(-1)
        if scheme == "fp8_w8a16":
            most = w.abs().amax((1, 2), keepdim=True) if q.group_size else groups
            assert (error <= (relative * w.abs()).maximum(smallest * most / 448.0) * 1.0001).all()
        else:
            top = groups.repeat_interleave(32, -1)  # of 7 there is only 6: an eighth of the largest
            assert (error <= (relative * w.abs()).maximum(top / 8.0)).all()


@newest
@pytest.mark.parametrize("case", [case for case in CASES if case != "mxfp4"])
def test_as_compressed_tensors(case: str) -> None:
    from compressed_tensors import quantization as ct
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from compressed_tensors.quantization.lifecycle.forward import dequantize as ct_dequantize
    from compressed_tensors.quantization.lifecycle.forward import quantize as ct_quantize

    scheme, options = CASES[case]
    group_size, symmetric = options.get("group_size"), options.get("symmetric", True)
    halves = options.get("halves", 1)
    if scheme == "int4_w4a16":
        group_size = group_size or 128
    w = weight(E, O, I)
    q = quantize(w, scheme, **options)
    fp8 = scheme == "fp8_w8a16"
    args = ct.QuantizationArgs(
        num_bits=4 if scheme.startswith("int4") else 8,
        type="float" if fp8 else "int",
        symmetric=symmetric,
        strategy="channel" if group_size is None else "block" if fp8 else "group",
        group_size=None if fp8 else group_size,
        block_structure=[128, 128] if fp8 and group_size else None,
    )
    for e in range(E):
        parts, found = [], []
        for half in w[e].chunk(halves):  # linears of their own there
            rows, columns = (1, group_size or I) if not (fp8 and group_size) else (128, 128)
            padded = torch.nn.functional.pad(half, (0, 0, 0, -len(half) % rows))
            blocks = padded.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
            scale, zero = ct.utils.calculate_qparams(blocks.amin((1, 3)), blocks.amax((1, 3)), args)
            zero = zero if not symmetric else None
            codes = ct_quantize(half, scale, zero, args, dtype=q.data.dtype if fp8 else torch.int8)
            parts.append(codes)
            found.append(ct_dequantize(codes, scale, zero, args, dtype=torch.float32))
        stored = torch.cat(parts)
        if scheme == "int4_w4a16":
            stored = pack_to_int32(stored, 4)
        elif scheme == "int4_w4a8":
            stored = _quantized.pack_nibbles(stored)
        # a group of zeros has NaN for a zero point there, before it becomes an integer
        used = slice(None) if symmetric else w[e].abs().amax(1) > 0
        assert torch.equal(q.data[e].view(torch.uint8)[used], stored.view(torch.uint8)[used])
        assert torch.equal(dequantize(q)[e], torch.cat(found))


@newest
def test_mxfp4_as_compressed_tensors_decompresses_it() -> None:
    from compressed_tensors.compressors.mx_utils import decompress_mx_scale
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    w = weight(E, O, I)
    q = quantize(w, "mxfp4_w4a16")
    for e in range(E):
        numbers = unpack_fp4_from_uint8(q.data[e], O, I, torch.float32)
        scale = decompress_mx_scale(q.scale[e]).float().repeat_interleave(32, 1)
        assert torch.equal(dequantize(q)[e], numbers * scale)


def test_as_torchao() -> None:
    v = load_file(Path(__file__).parent / "data" / "torchao" / "vectors.safetensors")
    q = quantize(v["weight"].unsqueeze(0), "mxfp4_w4a16")
    used = v["weight"].abs().unflatten(-1, (-1, 32)).amax(-1) > 0  # of zeros any scale will do
    assert torch.equal(q.scale[0][used], v["mxfp4.scale"][used])
    assert torch.equal(dequantize(q)[0], v["mxfp4.wide"])
    for scheme, data, group_size in (
        ("int4_w4a16", _quantized.pack_int4(v["int4.codes"]), 64),
        ("int8_w8a16", v["int8.codes"], None),
    ):
        bits = scheme[:4]
        zero = v["int4.zero"].unsqueeze(0) if bits == "int4" else None
        scale = v[f"{bits}.scale"].unsqueeze(0)
        q = QuantizedWeight(data.unsqueeze(0), scale, zero, scheme, group_size)
        assert torch.equal(dequantize(q)[0], v[f"{bits}.wide"])


def test_vectors_by_hand() -> None:
    # one row; steps of 1: 7.5 and 127.5 are the middle of the ranges
    w = torch.tensor([[[7.5, -7.5, 0.5, 1.5, -0.5, 3.4, -8.0 + 0.6, 0.0] * 4]])
    q = quantize(w, "int4_w4a16", group_size=32)
    # 7.5 goes to 8, which there is not; ties go to even numbers
    assert q.scale.tolist() == [[[1.0]]]
    assert _quantized.unpack_int4(q.data)[0, 0, :8].tolist() == [7, -8, 0, 2, 0, 3, -7, 0]
    assert q.data[0, 0, 0].item() == int.from_bytes(
        bytes([0x0F, 0xA8, 0xB8, 0x81]), "little", signed=True
    )

    w = torch.tensor([[[0.0, 15.0, 7.0, 3.2] * 8]])
    q = quantize(w, "int4_w4a16", group_size=32, symmetric=False)
    assert (q.scale.item(), q.zero.item()) == (1.0, -8)  # type: ignore[union-attr]
    assert dequantize(q)[0, 0, :4].tolist() == [0.0, 15.0, 7.0, 3.0]

    w = torch.tensor([[[127.5, -127.5, 2.5, -1.0]]])
    q = quantize(w, "int8_w8a8")
    assert q.data.tolist() == [[[127, -128, 2, -1]]]

    # 448 is the largest of e4m3, 2^-9 the smallest; a tie goes to the even mantissa
    w = torch.tensor([[[448.0, 2.0**-9, 17.0, 2.0**-10, -0.0]]])
    q = quantize(w, "fp8_w8a16")
    assert q.data.view(torch.uint8).tolist() == [[[0x7E, 0x01, 0x58, 0x00, 0x80]]]

    # 6 is the largest of e2m1, 4 has its exponent; 5 is a tie, and 0.25
    w = torch.tensor([[[6.0, 5.0, 0.25, 0.75, -1.25, 2.5, 3.5, -4.0] * 4]])
    q = quantize(w, "mxfp4_w4a16")
    assert q.scale.tolist() == [[[127]]]
    assert q.data[0, 0, :4].tolist() == [0x67, 0x20, 0x4A, 0xE6]
    assert dequantize(q)[0, 0, :8].tolist() == [6.0, 4.0, 0.0, 1.0, -1.0, 2.0, 4.0, -4.0]


def test_blocks_of_pangus_halves_are_counted_apart() -> None:
    width = 1344 // 8  # as 10.5 blocks of 128, 168 rows are 1 block and a part
    w = torch.ones(1, 2 * width, 128)
    w[0, width - 1] = 448.0  # the last row of the gate half, in its second block
    q = quantize(w, "fp8_w8a16", group_size=128, halves=2)
    per = 2 * width // q.scale.shape[1]
    scale = q.scale[0, :, 0].repeat_interleave(per)
    assert per == 8  # what divides both 168 and 128
    assert (scale[128:width] == 1.0).all()
    others = torch.cat((scale[:128], scale[width:]))
    assert (others == 1.0 / 448.0).all()


def test_rows_are_quantised_as_documented() -> None:
    rows = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [1e-35, 0.0, 0.0]])
    q, scale = _quantized.quantize_rows(rows)
    assert q.tolist() == [[64, -127, 32], [0, 0, 0], [0, 0, 0]]  # 63.5 is a tie
    torch.testing.assert_close(scale[:, 0], torch.tensor([2.0 / 127.0, 0.0, 0.0]))
    for bad in (torch.nan, torch.inf, -torch.inf):
        q, scale = _quantized.quantize_rows(torch.tensor([[1.0, bad], [1.0, 0.5]]))
        assert scale[0].isnan()
        assert q[1].tolist() == [127, 64]


def test_int8_products_are_exact() -> None:
    a, b = (torch.randint(-128, 128, (n, 3000), dtype=torch.int8) for n in (5, 7))
    a[0], b[0] = -128, -128
    assert torch.equal(_quantized.int8_product(a, b).long(), a.long() @ b.long().T)


@pytest.mark.parametrize("case", CASES)
def test_it_is_a_pytree_and_survives_files_and_copies(case: str, tmp_path: Any) -> None:
    scheme, options = CASES[case]
    q = quantize(weight(E, O, I), scheme, **options)
    for other in (
        torch.utils._pytree.tree_map(lambda x: x, q),
        copy.deepcopy(q),
        q.to("cpu", non_blocking=True),
    ):
        assert isinstance(other, QuantizedWeight)
        assert torch.equal(dequantize(other), dequantize(q))
    tensors = {"data": q.data, "scale": q.scale} | ({} if q.zero is None else {"zero": q.zero})
    save_file(tensors, tmp_path / "weight.safetensors")
    stored = load_file(tmp_path / "weight.safetensors")
    loaded = QuantizedWeight(
        stored["data"], stored["scale"], stored.get("zero"), q.scheme, q.group_size
    )
    assert torch.equal(dequantize(loaded), dequantize(q))
    assert q.nbytes == sum(x.nbytes for x in tensors.values())
    assert q.to("meta").shape == (E, O, I)


WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "scheme must be one of int8_w8a8, .*, got 'int3'", {"scheme": "int3"}),
    (ValueError, "group_size must be one of .* got 48", {"group_size": 48}),
    (TypeError, "data must be torch.int32 for int4_w4a16", {"data": torch.zeros(E, O, 32)}),
    (ValueError, r"data must be contiguous", {"data": torch.zeros(E, 32, O).int().mT}),
    (ValueError, r"data must be \[E, O, stored I\]", {"data": torch.zeros(O, 32).int()}),
    (ValueError, r"must divide the I=232", {"data": torch.zeros(E, O, 29).int()}),
    (ValueError, r"scale must be \[E=3, a divisor of O=192, 4", {"scale": torch.ones(E, O, 3)}),
    (ValueError, r"scale must be", {"scale": torch.ones(E, 5, 4)}),
    (TypeError, "scale must be", {"scale": torch.ones(E, O, 4).int()}),
    (ValueError, "zero must be", {"zero": torch.zeros(E, O, 5).char()}),
    (TypeError, "zero must be int8", {"zero": torch.zeros(E, O, 4)}),
    (ValueError, "zero must be None for", {"scheme": "int8_w8a16", "zero": torch.zeros(1).char(),
                                             "data": torch.zeros(E, O, I).char()}),
    (ValueError, "scale must be on cpu, got meta", {"scale": torch.ones(E, O, 4).to("meta")}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "change"), WRONG)
def test_a_wrong_part_is_named(error: type[Exception], message: str, change: Any) -> None:
    q = quantize(weight(E, O, I), "int4_w4a16", group_size=64)._replace(**change)
    with pytest.raises(error, match=message):
        dequantize(q)
    rows, offsets = torch.zeros(0, I), torch.zeros(E + 1).int()
    with pytest.raises(error, match=message):
        moge_ops.grouped_gemm(rows, q, offsets)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 0.0])
def test_bad_scales_are_named(bad: float) -> None:
    q = quantize(weight(E, O, I), "int4_w4a16", group_size=64)
    q.scale[1, 2, 3] = bad
    with pytest.raises(
        ValueError, match=r"w.scale must be finite and not 0, got .* at \[1, 2, 3\]"
    ):
        _quantized.check_values("w", q)


def test_a_module_refuses_bad_scales() -> None:
    q = quantize(weight(E, O, I), "int8_w8a8")
    frozen = moge_ops.nn.FrozenWeight(q)
    state = {name: x.clone() for name, x in frozen.state_dict().items()}
    state["scale"][1, 2, 0] = torch.nan
    with pytest.raises(RuntimeError, match=r"scale must be finite and not 0, got nan"):
        moge_ops.nn.FrozenWeight(q).load_state_dict(state)
    with pytest.raises(ValueError, match=r"weight\.scale must be finite"):
        moge_ops.nn.FrozenWeight(q._replace(scale=torch.zeros_like(q.scale)))


def test_bad_zero_points_are_named() -> None:
    q = quantize(weight(E, O, I), "int4_w4a16", group_size=64, symmetric=False)
    assert q.zero is not None
    q.zero[0, 0, 0] = 8
    with pytest.raises(ValueError, match=r"w.zero must be in \[-8, 7\]"):
        _quantized.check_values("w", q)
    q = quantize(weight(E, O, I), "mxfp4_w4a16")
    q.scale[0, 0, 0] = 255  # NaN
    with pytest.raises(ValueError, match=r"w\.scale must be finite"):
        _quantized.check_values("w", q)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("scheme must be one of", {"scheme": "int8"}),
        (r"group_size must be one of \(None,\) for int8_w8a8", {"group_size": 64}),
        (
            "group_size=128 must divide the I=96 columns",
            {"scheme": "int4_w4a16", "group_size": 128},
        ),
        ("symmetric must be True for int8_w8a8", {"symmetric": False}),
        ("halves=7 must divide", {"halves": 7}),
        (r"weight must be \[E, O, I\]", {"weight": torch.zeros(4, 96)}),
        ("weight must be finite", {"weight": torch.full((1, 2, 96), torch.nan)}),
    ],
)
def test_what_quantize_refuses(message: str, options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"weight": torch.ones(2, 8, 96), "scheme": "int8_w8a8", **options}
    with pytest.raises(ValueError, match=message):
        quantize(given.pop("weight"), given.pop("scheme"), **given)


def test_no_expert_and_no_row() -> None:
    for scheme in quant.SCHEMES:
        for shape in ((0, 8, 64), (2, 0, 64)):
            q = quantize(torch.zeros(shape), scheme)
            assert q.shape == shape
            assert dequantize(q).shape == shape


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("scheme", quant.SCHEMES)
@pytest.mark.parametrize("empty", ["I", "O", "F", "H", "E", "T"])
def test_sizes_of_zero(empty: str, scheme: str, device: str) -> None:
    n = {"I": 64, "O": 32, "F": 64, "H": 64, "E": 4, "T": 5, empty: 0}

    def moved(*shape: int) -> QuantizedWeight:
        return quantize(torch.randn(*shape), scheme).to(device)

    rows = torch.randn(n["T"] if n["E"] else 0, n["I"], device=device).requires_grad_()
    offsets = torch.linspace(0, len(rows), n["E"] + 1).int().to(device)
    out = moge_ops.grouped_gemm(rows, moved(n["E"], n["O"], n["I"]), offsets)
    assert out.shape == (len(rows), n["O"])
    assert torch.autograd.grad(out.sum(), rows)[0].shape == rows.shape
    if empty in "IOE":
        assert not out.any()
    if not n["E"]:
        return
    x = torch.randn(n["T"], n["H"], device=device).requires_grad_()
    weights = torch.rand(n["T"], 2, device=device).requires_grad_()
    routing = moge_ops.route(group_ids(n["T"], 4, 2, 1).to(device), 4)
    up, down = moved(4, 2 * n["F"], n["H"]), moved(4, n["H"], n["F"])
    y = moge_ops.grouped_mlp(x, up, down, weights, routing)
    assert y.shape == x.shape
    gradients = torch.autograd.grad(y.sum(), (x, weights))
    if empty in "FH":
        assert not any(t.any() for t in (y, *gradients))


# ---- operators, on every backend

T, H, EXPERTS, G, F = 21, 128, 4, 2, 64


def layer(case: str) -> tuple[QuantizedWeight, QuantizedWeight]:
    scheme, options = CASES[case]
    if scheme == "int4_w4a16" and options.get("group_size", 128) == 128:
        options = {"group_size": 64}  # what divides F
    up, down = torch.randn(EXPERTS, 2 * F, H) / H**0.5, torch.randn(EXPERTS, H, F) / F**0.5
    return (
        quantize(up, scheme, **options),
        quantize(down, scheme, **{k: v for k, v in options.items() if k != "halves"}),
    )


def moved(q: QuantizedWeight, device: str) -> QuantizedWeight:
    return q.to(device)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("weight_on", ["output", "activation"])
@pytest.mark.parametrize("case", CASES)
def test_layer(case: str, weight_on: str, device: str, interpreted: bool) -> None:
    up, down = layer(case)
    ids = group_ids(T, EXPERTS, G, 1)
    ids[3, 1] = -1  # a dropped slot
    routing = moge_ops.route(ids.to(device), EXPERTS)
    for dtype in (torch.float32, torch.bfloat16)[interpreted:]:
        x = torch.randn(T, H).to(dtype)
        weights = torch.rand(T, G)
        d_y = torch.randn(T, H).to(dtype)
        leaves = [x.to(device).requires_grad_(), weights.to(device).requires_grad_()]
        y = moge_ops.grouped_mlp(
            leaves[0], moved(up, device), moved(down, device), leaves[1], routing,
            weight_on=weight_on,
        )  # fmt: skip
        got = (y, *torch.autograd.grad(y, leaves, d_y.to(device)))
        wide = [x.double().requires_grad_(), weights.double().requires_grad_()]
        r = moge_ops.Routing(*(t.cpu() for t in routing))
        want_y = reference(wide[0], up, down, wide[1], *r, weight_on=weight_on, dtype=dtype)
        want = (want_y, *torch.autograd.grad(want_y, wide, d_y.double()))
        for name, a, b in zip(("y", "d_x", "d_weights"), got, want, strict=True):
            # an activation that differs in its last bit may round to another integer: one step of
            # 127 in one of F numbers, which is within what bfloat16 may be off
            flips = up.scheme in _quantized.INTEGERS
            # weights have a gradient in float32 from products in bfloat16
            a = a.cpu().to(torch.bfloat16 if flips else dtype)
            assert_matches(a, b.detach(), f"{case}, {dtype}, {name}", slack=2.0)


@pytest.mark.slow_on("triton")
@pytest.mark.parametrize("case", CASES)
def test_products_with_the_identity_are_the_decoded_weight(
    case: str, device: str, interpreted: bool
) -> None:
    whole, _ = layer(case)
    experts = 1 if interpreted else 2
    parts = (x if x is None else x[:experts] for x in whole[:3])
    q = QuantizedWeight(*parts, *whole[3:])
    offsets = (torch.arange(experts + 1) * H).int().to(device)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rows = torch.eye(H, dtype=dtype, device=device).repeat(experts, 1)
        got = moge_ops.grouped_gemm(rows, moved(q, device), offsets)
        want = dequantize(q, dtype).mT.reshape(experts * H, -1)
        if q.scheme in _quantized.INTEGERS:  # 127 times a scale, by which it was divided
            torch.testing.assert_close(got.cpu(), want)
        else:
            assert torch.equal(got.cpu(), want)


@pytest.mark.slow_on("triton")
def test_integer_products_are_exact(device: str) -> None:
    N, columns, rows_out = 40, 1344, 48
    data = torch.randint(-128, 128, (2, rows_out, columns), dtype=torch.int8)
    q = QuantizedWeight(data, torch.ones(2, rows_out, 1), None, "int8_w8a8", None)
    rows = torch.randint(-127, 128, (N, columns)).float()
    rows[:, 0] = 127.0  # so that a row's scale is one
    offsets = torch.tensor([0, 17, N], dtype=torch.int32)
    got = moge_ops.grouped_gemm(rows.to(device), moved(q, device), offsets.to(device)).cpu()
    want = torch.cat([rows[:17].long() @ data[0].long().T, rows[17:].long() @ data[1].long().T])
    assert torch.equal(got, want.float())


@pytest.mark.slow
def test_a_quotient_is_rounded_once_before_a_tie(device: str) -> None:
    most = torch.rand(20_000) + 1.0
    factor = (127.0 / most.double()).float()
    twice = (1.0 / most) * 127.0  # what torch makes of 127.0 / most
    x = (torch.randint(0, 127, most.shape) + 0.5).div(factor.double()).float()  # about a tie
    apart = (x * factor).round() != (x * twice).round()
    assert apart.sum() > 20
    rows = torch.stack((most, x), dim=1)[apart]
    one = QuantizedWeight(torch.eye(2).char()[None], torch.ones(1, 2, 1), None, "int8_w8a8", None)
    offsets = torch.tensor([0, len(rows)], dtype=torch.int32, device=device)
    y = moge_ops.grouped_gemm(rows.to(device), one.to(device), offsets).cpu()
    assert torch.equal((y[:, 1] * 127.0 / most[apart]).round(), (x * factor).round()[apart])


@pytest.mark.parametrize(
    "mix", [("plain", "int8_w8a8"), ("int4_w4a16", "plain"), ("int4_w4a16", "int8_w8a8")]
)
@pytest.mark.parametrize("weight_on", ["output", "activation"])
def test_a_mix_goes_part_by_part(mix: tuple[str, str], weight_on: str) -> None:
    plain = [torch.randn(EXPERTS, 2 * F, H) / H**0.5, torch.randn(EXPERTS, H, F) / F**0.5]
    weights: list[Any] = [
        w if scheme == "plain" else quantize(w, scheme)
        for w, scheme in zip(plain, mix, strict=True)
    ]
    x, p = torch.randn(T, H).requires_grad_(), torch.rand(T, G).requires_grad_()
    leaves = [x, p, *(w.requires_grad_() for w in weights if isinstance(w, Tensor))]
    routing = moge_ops.route(group_ids(T, EXPERTS, G, 1), EXPERTS)
    y = moge_ops.grouped_mlp(x, *weights, p, routing, weight_on=weight_on)
    d_y = torch.randn_like(y)
    got = torch.autograd.grad(y, leaves, d_y)
    with moge_ops.testing.backend("reference"):
        want_y = moge_ops.grouped_mlp(x, *weights, p, routing, weight_on=weight_on)
        want = torch.autograd.grad(want_y, leaves, d_y)
    # a rounding of the activation may flip; the gradient of the oracle is that without rounding
    torch.testing.assert_close(y, want_y, rtol=2e-2, atol=2e-2)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-2, atol=3e-2 * b.abs().max().item())


def test_autocast_rounds_rows_and_leaves_the_weight() -> None:
    up, down = layer("int4, 64, zero points")
    routing = moge_ops.route(group_ids(T, EXPERTS, G, 1), EXPERTS)
    x, weights = torch.randn(T, H), torch.rand(T, G)
    with torch.autocast("cpu", torch.bfloat16):
        y = moge_ops.grouped_mlp(x, up, down, weights, routing)
    assert y.dtype is torch.bfloat16
    assert torch.equal(y, moge_ops.grouped_mlp(x.bfloat16(), up, down, weights, routing))


def test_a_row_that_is_not_finite_stays_alone(device: str) -> None:
    q = layer("int8_w8a8")[0].to(device)
    rows = torch.randn(4, H)
    rows[1, 5], rows[2, 7] = torch.nan, torch.inf
    offsets = torch.tensor([0] + [4] * EXPERTS, dtype=torch.int32)
    out = moge_ops.grouped_gemm(rows.to(device), q, offsets.to(device)).cpu()
    assert out.isnan().all(1).tolist() == [False, True, True, False]
    assert out[[0, 3]].isfinite().all()


def test_shapes_that_do_not_fit_are_named() -> None:
    up, down = layer("int8_w8a8")
    routing = moge_ops.route(group_ids(T, EXPERTS, G, 1), EXPERTS)
    x, weights = torch.randn(T, H), torch.rand(T, G)
    with pytest.raises(ValueError, match=r"weight must be \[E=4, O, I=64\] .* got \[4, 128, 128\]"):
        moge_ops.grouped_gemm(torch.zeros(0, 64), up, routing.offsets)
    with pytest.raises(ValueError, match=r"w_gate_up must be \[E, 2F, H\] = \[4, 256, 128\]"):
        moge_ops.grouped_mlp(x, up, up, weights, routing)
    with pytest.raises(ValueError, match=r"w_gate_up must be .* got \[4, 128, 128\] on meta"):
        moge_ops.grouped_mlp(x, up.to("meta"), down, weights, routing)
    with pytest.raises(TypeError, match="w_gate_up must have the dtype of x"):
        moge_ops.grouped_mlp(x, torch.zeros(EXPERTS, 2 * F, H).half(), down, weights, routing)


def test_the_reference_of_a_product() -> None:
    q = layer("int8_w8a8")[0]
    rows, offsets = torch.randn(EXPERTS, H).double(), torch.arange(EXPERTS + 1).int()
    codes, scale = _quantized.quantize_rows(rows)
    want = torch.stack(
        [
            (q.data[e].double() @ codes[e].double()) * q.scale[e, :, 0] * scale[e]
            for e in range(EXPERTS)
        ]
    )
    torch.testing.assert_close(reference_gemm(rows, q, offsets), want, rtol=1e-6, atol=1e-6)


def test_ascend_says_that_it_has_no_kernel() -> None:
    pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
    up, down = layer("fp8")
    routing = moge_ops.route(group_ids(T, EXPERTS, G, 1), EXPERTS)
    with (
        moge_ops.testing.backend("ascend"),
        pytest.raises(NotImplementedError, match=r"no fp8_w8a16 weights: .*dequantize"),
    ):
        moge_ops.grouped_mlp(torch.randn(T, H), up, down, torch.rand(T, G), routing)
