"""Reductions, sorting and merging of one instruction, against NumPy."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulator_images import DST, DTYPES, TMP, execute, form_fields, image, values
from emulator_runs import BYTES, sum_in_order, tree_sum


def reduction_input(dtype: type) -> np.ndarray:
    """Small numbers with many ties for the extremes, and fractions for the sums."""
    rng = np.random.default_rng(8)
    x = rng.integers(-20, 20, 8192 // np.dtype(dtype).itemsize) + rng.integers(0, 4, 1)[0] / 8
    return x.astype(dtype)


def masked(x: np.ndarray, chosen: list[int], fill: float) -> np.ndarray:
    kept = np.full_like(x, fill)
    kept[chosen] = x[chosen]
    return kept


@pytest.mark.parametrize("form", ["mask", "bits", "register"])
@pytest.mark.parametrize("kind", ["Sum", "Max", "Min"])
@pytest.mark.parametrize("name", ["half", "float"])
def test_whole_reduce(emulator: ModuleType, name: str, kind: str, form: str) -> None:
    dtype = DTYPES[name]
    size = np.dtype(dtype).itemsize
    lanes = 256 // size
    x = reduction_input(dtype)
    if kind == "Sum":
        x = (x * np.random.default_rng(1).standard_normal(x.size)).astype(dtype)
    memory = image(src0=x)
    fields, pairs = form_fields(form, lanes)
    chosen = [i for r, i in pairs if r == 0]
    index_type = {2: np.uint16, 4: np.uint32}[size]
    for order in [0, 1, 2, 3] if kind != "Sum" else [2]:
        result_bytes = {0: 2 * size, 1: 2 * size, 2: size, 3: 4}[order]
        got = execute(
            emulator, f"WholeReduce{kind}", name, memory, strides=[2, 1, 9], mode=order, **fields
        )
        wanted = memory.copy()
        for repeat in range(3):
            row = x[repeat * 9 * 32 // size :][:lanes]
            if kind == "Sum":
                value, index = tree_sum(masked(row, chosen, 0)), 0
            else:
                fill = -np.inf if kind == "Max" else np.inf
                kept = masked(row, chosen, fill)
                index = int(kept.argmax() if kind == "Max" else kept.argmin())
                value = row[index]
            value_bytes = np.array([value], dtype).tobytes()
            index_bytes = np.array([index], index_type).tobytes()
            result = {
                0: value_bytes + index_bytes,
                1: index_bytes + value_bytes,
                2: value_bytes,
                3: np.array([index], np.uint32).tobytes(),
            }[order]
            begin = DST + repeat * 2 * result_bytes
            wanted[begin : begin + result_bytes] = np.frombuffer(result, np.uint8)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("form", ["mask", "bits"])
@pytest.mark.parametrize("kind", ["Sum", "Max", "Min"])
@pytest.mark.parametrize("name", ["half", "float"])
def test_block_reduce(emulator: ModuleType, name: str, kind: str, form: str) -> None:
    dtype = DTYPES[name]
    size = np.dtype(dtype).itemsize
    lanes, per_block = 256 // size, 32 // size
    x = reduction_input(dtype)
    memory = image(src0=x)
    fields, pairs = form_fields(form, lanes)
    if form == "mask":
        fields["low"] = lanes // 2 + 3  # whole blocks without a lane
        pairs = [(r, i) for r, i in pairs if i < fields["low"]]
    chosen = [i for r, i in pairs if r == 0]
    got = execute(emulator, f"BlockReduce{kind}", name, memory, strides=[2, 1, 9], **fields)
    wanted = memory.copy()
    for repeat in range(3):
        row = x[repeat * 9 * 32 // size :][:lanes]
        for block in range(8):
            own = [i % per_block for i in chosen if i // per_block == block]
            if not own:
                continue
            part = row[block * per_block :][:per_block]
            result = {
                "Sum": tree_sum(masked(part, own, 0)),
                "Max": part[own].max(),
                "Min": part[own].min(),
            }[kind]
            begin = DST + repeat * 2 * 8 * size + block * size
            wanted[begin : begin + size] = np.array([result], dtype).view(np.uint8)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", ["half", "float"])
def test_pair_reduce(emulator: ModuleType, name: str) -> None:
    dtype = DTYPES[name]
    x = values(dtype)
    lanes = 256 // np.dtype(dtype).itemsize
    got = execute(
        emulator,
        "PairReduceSum",
        name,
        image(src0=x),
        form="mask",
        low=lanes,
        repeat=3,
        strides=[1, 1, 8],
    )
    with np.errstate(all="ignore"):
        wanted = x[: 3 * lanes : 2] + x[1 : 3 * lanes : 2]
    np.testing.assert_array_equal(got[DST:].view(dtype)[: wanted.size], wanted)


@pytest.mark.parametrize("count", [1, 64, 200, 1024])
@pytest.mark.parametrize("name", ["half", "float"])
def test_reduce_tensor(emulator: ModuleType, name: str, count: int) -> None:
    dtype = DTYPES[name]
    size = np.dtype(dtype).itemsize
    lanes = 256 // size
    x = reduction_input(dtype)
    part = {"out_begin": DST, "out_end": TMP, "low": count, "form": "count"}
    memory = image(src0=x)
    got = execute(emulator, "ReduceSum", name, memory, **part)[DST:].view(dtype)
    assert got[0] == sum_in_order(x[:count], lanes)
    for kind, index in (("Max", x[:count].argmax()), ("Min", x[:count].argmin())):
        got = execute(emulator, f"Reduce{kind}", name, memory, flag=True, **part)[DST:]
        assert got.view(dtype)[0] == x[index]
        assert got.view({2: np.uint16, 4: np.uint32}[size])[1] == index


def sorted_pairs(
    module: ModuleType, op: str, name: str, memory: np.ndarray, count: int, **fields: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and indices of a sorted list, as the test kernel takes them apart, and tmp."""
    result = execute(module, op, name, memory, out_begin=DST + 8192, out_end=BYTES, **fields)
    scores = result[DST + 8192 :].view(DTYPES[name])[:count]
    return scores, result[DST + 12288 :].view(np.uint32)[:count], result[TMP:]


@pytest.mark.parametrize("name", ["half", "float"])
def test_sort32(emulator: ModuleType, name: str) -> None:
    scores = np.random.default_rng(2).integers(-9, 9, 96).astype(DTYPES[name])
    index = np.arange(96, dtype=np.uint32)[::-1].copy()
    memory = image(src0=scores, src1=index)
    got, ids, _ = sorted_pairs(emulator, "Sort32", name, memory, 96, repeat=3)
    for first in (0, 32, 64):
        part = slice(first, first + 32)
        order = first + (-scores[part]).argsort(kind="stable")
        np.testing.assert_array_equal(got[part], scores[order])
        np.testing.assert_array_equal(ids[part], index[order])


def pairs_of(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    pairs = np.zeros((scores.size, 8), np.uint8)
    pairs[:, : scores.itemsize] = scores.view(np.uint8).reshape(scores.size, -1)
    pairs[:, 4:] = ids.astype(np.uint32).view(np.uint8).reshape(scores.size, 4)
    return pairs


@pytest.mark.parametrize("valid", [3, 7, 15])
@pytest.mark.parametrize("name", ["half", "float"])
def test_mrg_sort(emulator: ModuleType, name: str, valid: int) -> None:
    repeat, length, lists = (2, 16, 4) if valid == 15 else (1, 16, {3: 2, 7: 3}[valid])
    rng = np.random.default_rng(4)
    scores = -np.sort(-rng.integers(-9, 9, (4 * repeat, length)), axis=1).astype(DTYPES[name])
    ids = np.arange(scores.size).reshape(scores.shape)
    memory = image(src0=pairs_of(scores.reshape(-1), ids.reshape(-1)))
    fields = {"low": length, "mode": valid}
    if valid == 15:
        count = 4 * length
        got, got_ids, _ = sorted_pairs(
            emulator, "MrgSort", name, memory, 2 * count, repeat=2, **fields
        )
        for i in range(2):
            flat = scores[4 * i : 4 * i + 4].reshape(-1)
            order = (-flat).argsort(kind="stable")
            np.testing.assert_array_equal(got[i * count : (i + 1) * count], flat[order])
            np.testing.assert_array_equal(got_ids[i * count : (i + 1) * count], i * count + order)
    # up to where the first list ends
    flat = scores[:lists].reshape(-1)
    order = (-flat).argsort(kind="stable")
    end = min(int(np.flatnonzero(order == (i + 1) * length - 1)[0]) for i in range(lists)) + 1
    got, got_ids, tmp = sorted_pairs(
        emulator, "MrgSort", name, memory, end, repeat=1, flag=True, **fields
    )
    np.testing.assert_array_equal(got, flat[order[:end]])
    np.testing.assert_array_equal(got_ids, order[:end])
    taken = [int((order[:end] // length == i).sum()) for i in range(4)]
    np.testing.assert_array_equal(tmp.view(np.uint16)[:4], taken)
