"""Instructions that choose, gather, reduce and merge, with random extents, against NumPy."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import random_cases as rc
from emulator_runs import BYTES

pytestmark = pytest.mark.slow

SRC0, SRC1, DST, TMP = 0, 16384, 32768, 49152
FLOATS = ["half", "float"]


def execute(
    module: ModuleType, op: str, name: str, memory: np.ndarray, **fields: Any
) -> tuple[np.ndarray, int]:
    """UB after one instruction, and what it counted."""
    fields = {"dst": DST, "src0": SRC0, "src1": SRC1, "tmp": TMP, **fields}
    left = memory.copy()
    fields |= {"op": op, "dtype": name, "out_begin": 0, "out_end": BYTES}
    taken, _ = module.instruction(fields, memory, left)
    return left, taken


def noise(rng: np.random.Generator) -> np.ndarray:
    """Bytes that are small numbers in every type, without NaN."""
    return rng.integers(0, 60, BYTES).astype(np.uint8)


def lane_at(block: int, repeat: int, size: int, r: int, lane: int) -> int:
    per_block = 32 // size
    return r * repeat * 32 + lane // per_block * block * 32 + lane % per_block * size


@pytest.mark.parametrize("name", FLOATS)
def test_select(emulator: ModuleType, name: str) -> None:
    dtype = rc.TYPES[name]
    size = np.dtype(dtype).itemsize
    lanes = 256 // size
    for rng in rc.trials(20, 200):
        memory, pick = noise(rng), rng.integers
        memory[TMP : TMP + 2048] = pick(0, 256, 2048)
        bits = np.unpackbits(memory[TMP : TMP + 2048], bitorder="little")
        mode = int(pick(0, 3))
        if pick(0, 2):
            count = int(pick(1, 900))
            fields = {"form": "count", "low": count}
            pairs = [divmod(i, lanes) for i in range(count)]
            s = [1, 1, 1, 8, 8, 8]
        else:
            mask, repeat = int(pick(1, lanes + 1)), int(pick(1, 6))
            s = [int(pick(1, 3)), int(pick(0, 3)), int(pick(0, 3)), 0, int(pick(0, 12)), 8]
            s[3] = 8 * s[0] + int(pick(0, 4))
            fields = {"form": "mask", "low": mask, "repeat": repeat, "strides": s}
            pairs = [(r, i) for r in range(repeat) for i in range(mask)]
        got, _ = execute(emulator, "Select", name, memory, mode=mode, scalar=3.0, **fields)
        wanted = memory.copy()
        for r, lane in pairs:
            chosen = bits[lane if mode == 0 else r * lanes + lane]
            a, b = (
                memory[begin + lane_at(s[i], s[i + 3], size, r, lane) :][:size]
                for begin, i in ((SRC0, 1), (SRC1, 2))
            )
            if mode == 1:
                b = np.array([3.0], dtype).view(np.uint8)
            wanted[DST + lane_at(s[0], s[3], size, r, lane) :][:size] = a if chosen else b
        np.testing.assert_array_equal(got, wanted, str((mode, fields)))


@pytest.mark.parametrize("name", [*FLOATS, "int32"])
@pytest.mark.parametrize("op", ["Compare", "Compares"])
def test_compare(emulator: ModuleType, name: str, op: str) -> None:
    """A NaN is never anything, not even unequal; bits of masked lanes are 0."""
    dtype = rc.TYPES[name]
    lanes = 256 // np.dtype(dtype).itemsize
    relations = [np.less, np.greater, np.equal, np.less_equal, np.greater_equal, np.not_equal]
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0] if name != "int32" else [0]
    for rng in rc.trials(21, 150):
        memory, pick = noise(rng), rng.integers
        for begin in (SRC0, SRC1):
            x = rng.choice([*special, 1, -1, 2], 16384 // np.dtype(dtype).itemsize).astype(dtype)
            memory[begin : begin + 16384] = x.view(np.uint8)
        mode = 2 if name == "int32" else int(pick(0, 6))
        scalar = float(rng.choice([*special, 1]))
        mask, repeat = int(pick(1, lanes + 1)), int(pick(1, 6))
        blocks, steps = [1, int(pick(0, 3)), int(pick(0, 3))], [8, int(pick(0, 12)), 8]
        strides = blocks + steps if op == "Compare" else [1, blocks[1], 8, steps[1]]
        fields = {"form": "mask", "low": mask, "repeat": repeat, "strides": strides}
        if pick(0, 2):
            mask, repeat, blocks, steps = lanes, int(pick(1, 6)), [1, 1, 1], [8, 8, 8]
            fields = {"form": "count", "low": lanes * repeat}
        got, _ = execute(emulator, op, name, memory, mode=mode, scalar=scalar, **fields)
        bits = np.zeros((repeat, lanes), bool)
        for r in range(repeat):
            a, b = (
                np.array(
                    [
                        memory[begin + lane_at(blocks[i], steps[i], 256 // lanes, r, lane) :][
                            : 256 // lanes
                        ].view(dtype)[0]
                        for lane in range(mask)
                    ]
                )
                for begin, i in ((SRC0, 1), (SRC1, 2))
            )
            if op == "Compares":
                b = np.full_like(a, scalar)
            bits[r, :mask] = relations[mode](a, b)
            if name != "int32":
                bits[r, :mask] &= ~(np.isnan(a) | np.isnan(b))
        packed = np.packbits(bits.reshape(-1), bitorder="little")
        np.testing.assert_array_equal(got[DST : DST + packed.size], packed, str((mode, fields)))


@pytest.mark.parametrize("name", FLOATS)
def test_gather_mask(emulator: ModuleType, name: str) -> None:
    size = np.dtype(rc.TYPES[name]).itemsize
    for rng in rc.trials(22, 300):
        memory, pick = noise(rng), rng.integers
        memory[SRC1 : SRC1 + 4096] = pick(0, 256, 4096)
        counter, pattern = bool(pick(0, 2)), int(pick(0, 8))
        in_repeat = int(pick(1, 300)) if counter else 256 // size
        repeat, block, step = int(pick(0, 5)), int(pick(1, 3)), int(pick(0, 12))
        pattern_step = int(pick(0, 4))
        fields = {"form": "mask", "low": in_repeat if counter else 0, "repeat": repeat}
        fields |= {"strides": [block, step, pattern_step], "flag": counter, "mode": pattern}
        got, taken = execute(emulator, "GatherMask", name, memory, **fields)
        chosen = []
        for r in range(repeat):
            bits = np.unpackbits(memory[SRC1 + r * pattern_step * 32 :][:64], bitorder="little")
            for i in range(in_repeat):
                built_in = [bits[i], i % 2 == 0, i % 2 == 1, *(i % 4 == j for j in range(4)), True]
                if built_in[pattern]:
                    chosen.append(memory[lane_at(block, step, size, r, i) :][:size])
        wanted = memory.copy()
        if chosen:
            flat = np.concatenate(chosen)
            wanted[DST : DST + flat.size] = flat
        assert taken == len(chosen)
        np.testing.assert_array_equal(got, wanted, str(fields))


@pytest.mark.parametrize("name", [*FLOATS, "int32"])
def test_gather(emulator: ModuleType, name: str) -> None:
    size = np.dtype(rc.TYPES[name]).itemsize
    lanes = 256 // size
    for rng in rc.trials(23, 150):
        memory, pick = noise(rng), rng.integers
        offsets = (pick(0, 1000, 1024) * size).astype(np.uint32)
        memory[SRC1 : SRC1 + 4096] = offsets.view(np.uint8)
        base = int(pick(0, 20)) * size
        if pick(0, 2):
            count = int(pick(1, 600))
            fields = {"form": "count", "low": count}
            pairs = [divmod(i, lanes) for i in range(count)]
            step = 8
        else:
            mask, repeat, step = int(pick(1, lanes + 1)), int(pick(1, 6)), int(pick(8, 12))
            fields = {"form": "mask", "low": mask, "repeat": repeat, "strides": [step]}
            pairs = [(r, i) for r in range(repeat) for i in range(mask)]
        got, _ = execute(emulator, "Gather", name, memory, scalar=base, **fields)
        wanted = memory.copy()
        for r, lane in pairs:
            at = base + int(offsets[r * lanes + lane])
            wanted[DST + lane_at(1, step, size, r, lane) :][:size] = memory[at : at + size]
        np.testing.assert_array_equal(got, wanted, str(fields))


def tree(values: np.ndarray) -> Any:
    """Neighbours are added, level by level, each sum rounded."""
    while values.size > 1:
        values = np.append(values, np.zeros(values.size % 2, values.dtype))
        values = values[::2] + values[1::2]
    return values[0]


def rearranged(module: ModuleType, name: str, x: np.ndarray, numbers: list[int]) -> np.ndarray:
    return rc.run(module, "rearrange", name, x, numbers)


@pytest.mark.parametrize("name", FLOATS)
def test_sums(emulator: ModuleType, name: str) -> None:
    """By count the repeats' sums are added one after the other, else in a tree as well."""
    dtype = rc.TYPES[name]
    lanes = 256 // np.dtype(dtype).itemsize
    for rng in rc.trials(24, 200):
        x = (rng.standard_normal(6000) * 2.0 ** rng.integers(-6, 6, 6000)).astype(dtype)
        count = int(rng.integers(1, 6000))
        rows = np.append(x[:count], np.zeros(-count % lanes, dtype)).reshape(-1, lanes)
        wanted = tree(rows[0])
        for row in rows[1:]:
            wanted = wanted + tree(row)
        got = rearranged(emulator, f"sum {name}", x, [count, int(rng.integers(0, 2))]).view(dtype)
        assert got[0] == wanted
        mask, repeats = int(rng.integers(1, lanes + 1)), int(rng.integers(1, 20))
        step = int(rng.integers(0, 17))
        rows = np.zeros((repeats, lanes), dtype)
        for r in range(repeats):
            rows[r, :mask] = x[r * step * 32 // x.itemsize :][:mask]
        wanted = tree(np.array([tree(row) for row in rows]))
        numbers = [mask, repeats, step, -(-repeats * x.itemsize // 32) * 32]
        got = rearranged(emulator, f"sum of repeats {name}", x, numbers).view(dtype)
        assert got[0] == wanted


@pytest.mark.parametrize("name", FLOATS)
def test_extremes(emulator: ModuleType, name: str) -> None:
    """The first of equal ones; the index counts all lanes of the repeats before."""
    dtype = rc.TYPES[name]
    lanes = 256 // np.dtype(dtype).itemsize
    for rng in rc.trials(25, 200):
        x = rng.integers(-40, 40, 6000).astype(dtype)
        least, mask = int(rng.integers(0, 2)), int(rng.integers(1, 6000))
        repeats, step = 0, 8
        indices, rows = np.arange(mask), x[:mask]
        if rng.integers(0, 2):
            mask, repeats = int(rng.integers(1, lanes + 1)), int(rng.integers(1, 20))
            step = int(rng.integers(0, 17))
            indices = np.add.outer(np.arange(repeats) * lanes, np.arange(mask)).reshape(-1)
            starts = [r * step * 32 // x.itemsize for r in range(repeats)]
            rows = np.concatenate([x[s : s + mask] for s in starts])
        y = rearranged(emulator, f"extreme {name}", x, [least, mask, repeats, step, 98304])
        at = rows.argmin() if least else rows.argmax()
        index = y[x.itemsize :].view({2: np.uint16, 4: np.uint32}[x.itemsize])[0]
        assert (y.view(dtype)[0], index) == (rows[at], indices[at])


@pytest.mark.parametrize("name", FLOATS)
def test_merges(emulator: ModuleType, name: str) -> None:
    """Of equal scores the one of the first list wins; an exhausted list may end it all."""
    dtype = rc.TYPES[name]
    for rng in rc.trials(26, 200):
        pick = rng.integers
        used = int(pick(2, 5))
        lengths = [int(pick(1, 100)) for _ in range(4)]
        suspends, repeats = bool(pick(0, 2)), 1
        if used == 4 and not suspends and pick(0, 2):
            lengths, repeats = [lengths[0] % 40 + 1] * 4, int(pick(0, 4))
        total = sum(lengths[:used])
        pairs = np.zeros((4096, 2), np.uint32)
        scores = pick(-20, 20, 4096).astype(dtype)
        start, spans = 0, []
        for _ in range(max(repeats, 1)):
            for length in lengths:
                scores[start : start + length] = -np.sort(-scores[start : start + length])
                spans.append(range(start, start + length))
                start += length
        raw = pairs.view(np.uint8).reshape(4096, 8)
        raw[:, : scores.itemsize] = scores.reshape(-1, 1).view(np.uint8)
        pairs[:, 1] = pick(0, 2**32, 4096)
        numbers = [*lengths, {2: 3, 3: 7, 4: 15}[used], suspends, repeats]
        y = rc.run(emulator, "random_vector", f"merge {name}", pairs, numbers)
        order, taken = [], [0] * 4
        for r in range(repeats):
            lists = [list(spans[r * 4 + i]) for i in range(used)]
            taken = [0] * 4
            while any(lists):
                heads = [(-scores[one[0]], i) for i, one in enumerate(lists) if one]
                i = min(heads)[1]
                order.append(lists[i].pop(0))
                taken[i] += 1
                if suspends and not lists[i]:
                    break
        assert suspends or len(order) == total * repeats
        np.testing.assert_array_equal(y.view(dtype)[: len(order)], scores[order])
        got = y[8192:16384].view(np.uint32)[: len(order)]
        np.testing.assert_array_equal(got, pairs[order, 1][: got.size])
        if suspends:
            assert y[16384:].view(np.uint16)[:4].tolist() == taken


@pytest.mark.parametrize("name", ["int8", "half", "float"])
def test_blocks(emulator: ModuleType, name: str) -> None:
    """Columns of sixteen blocks become rows, in each of the three forms."""
    dtype = rc.TYPES[name]
    size = np.dtype(dtype).itemsize
    width = 16 if size == 1 else 32 // size
    for rng in rc.trials(27, 150):
        x, pick = noise(rng), rng.integers
        form, repeats = int(pick(0, 3)), int(pick(0, 6))
        dst_high, src_high = int(pick(0, 2)), int(pick(0, 2))
        dst_step, src_step = int(pick(0, 2)) * 16 + int(pick(0, 2)) * 16, int(pick(0, 6))
        if repeats > 1:
            dst_step = 16
        dst_gap, src_gap = 32, int(pick(1, 8)) * 32
        numbers = [form, dst_high, src_high, repeats, dst_step, src_step, dst_gap, src_gap]
        y = rearranged(emulator, f"blocks {name}", x, numbers)
        wanted = np.zeros(32768, np.uint8)
        for r in [1] if repeats == 1 else range(repeats):
            from_half = 16 * src_high if size == 1 else 0
            to_half = 16 * dst_high if size == 1 else 0
            rows = [
                x[i * src_gap + r * src_step * 32 + from_half :][: width * size].view(dtype)
                for i in range(16)
            ]
            flat = np.stack(rows).T.copy().view(np.uint8).reshape(16, width * size)
            for i in range(16):
                at = i * dst_gap + r * dst_step * 32 + to_half
                wanted[at : at + width * size] = flat[i]
        np.testing.assert_array_equal(y[:32768], wanted, str(numbers))
