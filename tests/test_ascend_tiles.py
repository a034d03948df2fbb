"""How the grouped products reach the cube: right factors that the vector cores pack."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from moge_ops import testing
from moge_ops.reference.grouped_gemm import grouped_gemm as gemm_oracle
from moge_ops.testing import assert_matches

_C: Any = pytest.importorskip("moge_ops._C", reason="built without the Ascend emulator")
gemm: Any = importlib.import_module("moge_ops.ascend.grouped_gemm")


@pytest.fixture(autouse=True)
def _ascend() -> Iterator[None]:
    _C.set_emulation(cores=6)
    with testing.backend("ascend"):
        yield
    _C.set_emulation()


# More experts with rows than there are slots, one of more rows than a tile, and empty ones.
COUNTS = {
    "several": [0, 130, 1, 0, 17, 129, 140, 0],
    "one-past-the-tile": [129],
    "slots-reused": [131, 3, 5, 2, 9, 1, 4],
    "rows-of-no-expert": [140, 20, 0],
}


def products(counts: list[int], I: int, O: int, dtype: torch.dtype, spare: int = 3) -> Any:
    """d_out, rows, weight, offsets, and dX and dW by the oracle; some rows have no expert."""
    N = sum(counts) + spare
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    g = torch.Generator().manual_seed(I + O)
    rows, d_out = (torch.randn(N, n, generator=g).to(dtype) for n in (I, O))
    weight = torch.randn(len(counts), O, I, generator=g).to(dtype)
    rows64, weight64 = (x.double().requires_grad_() for x in (rows, weight))
    gemm_oracle(rows64, weight64, offsets).backward(d_out.double())
    return d_out, rows, weight, offsets, rows64.grad, weight64.grad


def packed_bytes(launches: list[dict[str, Any]]) -> list[int]:
    """Bytes that all vector cores of each launch wrote to the packed right factor."""
    return [
        sum(
            core["global"].get("packed", {"written": 0})["written"]
            for core in launch["cores"]
            if core["kind"] == "AIV"
        )
        for launch in launches
    ]


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize(
    ("I", "O"), [(16, 16), (700, 203), (337, 70)], ids=["small", "pieces", "odd"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_packed_gradients(counts: list[int], I: int, O: int, dtype: torch.dtype) -> None:
    d_out, rows, weight, offsets, d_rows64, d_weight64 = products(counts, I, O, dtype)
    _C.start_recording()
    try:
        d_rows = gemm.grouped_gemm_dx(d_out, weight, offsets)
        d_weight = gemm.grouped_gemm_dw(d_out, rows, offsets)
    finally:
        launches = [x for x in _C.stop_recording() if x["name"].startswith("grouped")]
    assert_matches(d_rows, d_rows64, "dX")
    assert_matches(d_weight, d_weight64, "dW")
    pitch = -(-I // 16) * 16
    with_rows = sum(count > 0 for count in counts)
    assert packed_bytes(launches) == [2 * with_rows * O * pitch, 2 * sum(counts) * pitch]


def both(d_out: Tensor, rows: Tensor, weight: Tensor, offsets: Tensor) -> list[Tensor]:
    return [
        gemm.grouped_gemm_dx(d_out, weight, offsets),
        gemm.grouped_gemm_dw(d_out, rows, offsets),
    ]


def test_packing_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the number of cores, nor the order in which they run."""
    args = products(COUNTS["several"], 600, 330, torch.bfloat16)[:4]
    want = both(*args)
    for cores, seed in ((2, 0), (6, 1), (10, 2), (48, 3), (48, 4)):
        _C.set_emulation(cores=cores, seed=seed)
        for name, a, b in zip(("dX", "dW"), want, both(*args), strict=True):
            assert torch.equal(a, b), (name, cores, seed)
    for name in ("dx", "dw"):
        monkeypatch.setattr(_C, f"grouped_gemm_{name}_room", lambda **_: 0)
    for name, a, b in zip(("dX", "dW"), want, both(*args), strict=True):
        assert torch.equal(a, b), f"{name} without packing"


def test_a_nan_stays_in_its_row_and_its_expert() -> None:
    d_out, rows, weight, offsets, *_ = products([130, 40], 48, 32, torch.float16, spare=0)
    weight[1, 3, 5] = torch.nan
    rows[2, 7] = torch.inf
    d_rows, d_weight = both(d_out, rows, weight, offsets)
    bad = d_rows.isnan()
    assert bad[130:, 5].all()
    assert bad.sum() == 40
    assert not d_weight[0, :, 7].isfinite().any()
    assert (~d_weight.isfinite()).sum() == 32


@pytest.mark.parametrize("counts", [[128, 3, 0], [0, 0], [1]], ids=["one-tile", "none", "one"])
def test_few_rows_are_not_packed(counts: list[int]) -> None:
    d_out, rows, weight, offsets, d_rows64, d_weight64 = products(counts, 80, 48, torch.bfloat16)
    _C.start_recording()
    try:
        d_rows, d_weight = both(d_out, rows, weight, offsets)
    finally:
        launches = [x for x in _C.stop_recording() if x["name"].startswith("grouped")]
    assert_matches(d_rows, d_rows64, "dX")
    assert_matches(d_weight, d_weight64, "dW")
    assert packed_bytes(launches) == [0, 0]


def test_room_for_packed_factors() -> None:
    half, single = _C.DType.float16, _C.DType.float32
    shape = _C.GemmShape(N=500, E=2, O=48, I=20)
    assert _C.grouped_gemm_dx_room(shape=shape, dtype=half) == 2 * 48 * 32
    assert _C.grouped_gemm_dw_room(shape=shape, dtype=half) == 500 * 32
    assert _C.grouped_gemm_dx_room(shape=shape, dtype=single) == 0
    assert _C.grouped_gemm_dw_room(shape=shape, dtype=single) == 0
    lines = _C.GemmShape(N=128, E=9, O=48, I=256)  # few rows; rows that begin on lines
    assert _C.grouped_gemm_dx_room(shape=lines, dtype=half) == 0
    assert _C.grouped_gemm_dw_room(shape=lines, dtype=half) == 0
    with pytest.raises(ValueError, match=r"grouped_gemm_dx_room: O must be in \[0, 65535\]"):
        _C.grouped_gemm_dx_room(shape=_C.GemmShape(N=1, E=1, O=65536, I=8), dtype=half)
    with pytest.raises(ValueError, match=r"grouped_gemm_dw_room: N must be in"):
        _C.grouped_gemm_dw_room(shape=_C.GemmShape(N=-1, E=1, O=8, I=8), dtype=half)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_only_a_product_that_asks_for_room_packs(dtype: torch.dtype) -> None:
    """Else its vector cores write nothing, whatever address it is given, and nobody waits."""
    I, O = 256, 16
    d_out, rows, weight, offsets, d_rows64, d_weight64 = products([140, 160], I, O, dtype, spare=0)
    shape, kind = _C.GemmShape(N=300, E=2, O=O, I=I), gemm.dtype_of("rows", rows)
    packed, d_rows, d_weight = (torch.empty_like(x) for x in (rows, rows, weight))
    given = {"d_out": d_out, "offsets": offsets, "packed": packed}
    launches = [("dw", {"rows": rows, "d_weight": d_weight}, d_weight, d_weight64)]
    if dtype is torch.float32:
        launches.append(("dx", {"weight": weight, "d_rows": d_rows}, d_rows, d_rows64))
    for name, tensors, result, result64 in launches:
        assert not getattr(_C, f"grouped_gemm_{name}_room")(shape=shape, dtype=kind)
        pointers = {key: x.data_ptr() for key, x in (given | tensors).items()}
        getattr(_C, f"grouped_gemm_{name}")(**pointers, shape=shape, dtype=kind, stream=0)
        assert_matches(result, result64, name)
