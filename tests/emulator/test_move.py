"""Filling, copying and gathering of one instruction, against NumPy."""

from types import ModuleType

import numpy as np
import pytest
from emulator_images import (
    ARITHMETIC,
    DST,
    DTYPES,
    FORMS,
    MOVED,
    SRC0,
    UNARY_STRIDES,
    execute,
    expected,
    form_fields,
    image,
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MOVED)
def test_duplicate_and_copy(emulator: ModuleType, name: str, form: str) -> None:
    dtype = MOVED[name]
    memory = image(src0=np.random.default_rng(1).integers(0, 2**15, 4096).astype(dtype))
    fields, pairs = form_fields(form, 256 // np.dtype(dtype).itemsize)
    s = (1, 1, 8, 8) if form == "count" else UNARY_STRIDES
    fields["strides"] = list(s)
    three = {
        "half": np.float16(3).view(np.uint16),
        "bf16": 0x4040,
        "float": np.float32(3).view(np.uint32),
        "int32": 3,
    }[name]
    got = execute(emulator, "Duplicate", name, memory, scalar=3.0, **fields)
    source = [(SRC0, dtype, (s[1], s[3]))]
    fill = expected(memory, pairs, (dtype, (s[0], s[2])), source, lambda a: np.full_like(a, three))
    np.testing.assert_array_equal(got, fill)
    if form not in ("count", "counter"):  # its counter mode is of each repeat
        got = execute(emulator, "Copy", name, memory, **fields)
        copied = expected(memory, pairs, (dtype, (s[0], s[2])), source, lambda a: a)
        np.testing.assert_array_equal(got, copied)


def test_local_copy(emulator: ModuleType) -> None:
    memory = image()
    got = execute(emulator, "DataCopy", "float", memory, form="count", low=24)
    wanted = memory.copy()
    wanted[DST : DST + 96] = memory[:96]
    np.testing.assert_array_equal(got, wanted)
    got = execute(emulator, "DataCopy", "float", memory, form="", strides=[3, 2, 1, 4])
    wanted = memory.copy()
    for row in range(3):
        wanted[DST + row * 192 :][:64] = memory[row * 96 :][:64]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", ARITHMETIC)
def test_create_vec_index(emulator: ModuleType, name: str) -> None:
    got = execute(emulator, "CreateVecIndex", name, image(), low=300, scalar=5.0)
    np.testing.assert_array_equal(got[DST:].view(DTYPES[name])[:300], np.arange(5, 305))


@pytest.mark.parametrize("name", MOVED)
def test_brcb(emulator: ModuleType, name: str) -> None:
    dtype = MOVED[name]
    size = np.dtype(dtype).itemsize
    source = np.random.default_rng(1).integers(0, 2**15, 24).astype(dtype)
    memory = image(src0=source)
    got = execute(emulator, "Brcb", name, memory, repeat=3, strides=[2, 17])
    wanted = memory.copy()
    for i, value in enumerate(source):
        block = i // 8 * 17 + i % 8 * 2
        wanted[DST + 32 * block :][:32] = np.full(32 // size, value, dtype).view(np.uint8)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", MOVED)
def test_gather(emulator: ModuleType, name: str) -> None:
    dtype = MOVED[name]
    size = np.dtype(dtype).itemsize
    rng = np.random.default_rng(1)
    source = rng.integers(0, 2**15, 1000).astype(dtype)
    index = rng.integers(0, 900, 600)
    memory = image(src0=source, src1=(index * size).astype(np.uint32))
    base = 64 * size
    got = execute(emulator, "Gather", name, memory, form="count", low=250, scalar=base)
    np.testing.assert_array_equal(got[DST:].view(dtype)[:250], source[index[:250] + 64])
    lanes = 256 // size
    got = execute(
        emulator,
        "Gather",
        name,
        memory,
        form="mask",
        low=lanes - 1,
        repeat=3,
        strides=[9],
        scalar=base,
    )
    wanted = memory.copy()
    for repeat in range(3):
        row = source[index[repeat * lanes :][: lanes - 1] + 64].view(np.uint8)
        wanted[DST + repeat * 288 :][: row.size] = row
    np.testing.assert_array_equal(got, wanted)
    blocks = rng.integers(0, 60, 24)
    memory = image(src0=source, src1=(blocks * 32).astype(np.uint32))
    got = execute(emulator, "Gatherb", name, memory, repeat=3, strides=[2, 17])
    wanted = memory.copy()
    for i, block in enumerate(blocks):
        at_block = i // 8 * 17 + i % 8 * 2
        wanted[DST + 32 * at_block :][:32] = memory[32 * block :][:32]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("pattern", range(8))
@pytest.mark.parametrize("name", MOVED)
def test_gather_mask(emulator: ModuleType, name: str, pattern: int) -> None:
    dtype = MOVED[name]
    size = np.dtype(dtype).itemsize
    rng = np.random.default_rng(1)
    source = rng.integers(0, 2**15, 8192 // size).astype(dtype)
    words = rng.integers(0, 256, 512).astype(np.uint8)
    memory = image(src0=source, src1=words)
    lanes, per_block = 256 // size, 32 // size

    def chosen(first_word: int, count: int) -> np.ndarray:
        if pattern == 0:
            bits = np.unpackbits(words[first_word:], bitorder="little")[:count]
            return bits.astype(bool)
        i = np.arange(count)
        if pattern == 7:
            return i >= 0
        return i % 2 == pattern - 1 if pattern < 3 else i % 4 == pattern - 3

    # (counter mode, elements, source's block stride, repeat stride, pattern's repeat stride)
    for counter, count, blocks, step, step_words in (
        (False, lanes, 2, 17, 1),
        (True, lanes + 21, 1, 12, 3),
    ):
        got = execute(
            emulator,
            "GatherMask",
            name,
            memory,
            flag=counter,
            low=lanes + 21,
            repeat=2,
            mode=pattern,
            strides=[blocks, step, step_words],
        )
        lane = np.arange(count)
        place = lane // per_block * per_block * blocks + lane % per_block
        wanted = np.concatenate(
            [
                source[r * step * per_block + place][chosen(r * step_words * 32, count)]
                for r in range(2)
            ]
        )
        assert execute.taken == wanted.size
        left = memory.copy()
        left[DST : DST + wanted.nbytes] = wanted.view(np.uint8)
        np.testing.assert_array_equal(got, left)
