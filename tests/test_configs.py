"""Tiles come from tables: the built-in one, a folder's, and a search's with its clock injected."""

import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
from moge_ops._backend import load

ROOT = Path(__file__).resolve().parents[1]
HEADER = (ROOT / "triton_kernels" / "configs.csv").read_text().splitlines()[0]
LINE = "gemm,hopper,inf,64,128,32,4,3,0,1,0,measured on a chip"


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The tables as on a Hopper GPU."""
    module = load("triton", "_configs")
    monkeypatch.setattr(module, "device_class", lambda: "hopper")
    monkeypatch.delenv("MOGE_OPS_CONFIG_DIR", raising=False)
    module._table.cache_clear()
    yield module
    module._table.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOGE_OPS_CONFIG_DIR", str(tmp_path))
    return tmp_path


def tile(configs: ModuleType, kernel: str, rows: int, *, aligned: bool = True) -> Any:
    return configs.find_config(kernel, torch.bfloat16, rows, 1, None, aligned=aligned)


def test_every_kernel_and_device_has_a_tile(configs: ModuleType) -> None:
    assert set(configs._table()) == {(k, d) for k in configs.KERNELS for d in configs.DEVICES}


def test_the_average_of_rows_chooses_the_entry(configs: ModuleType) -> None:
    entries = configs._table()["gemm", "hopper"]
    assert [limit for limit, _ in entries] == [16, 64, float("inf")]
    assert [tile(configs, "gemm", rows) for rows in (16, 17, 65)] == [c for _, c in entries]
    assert tile(configs, "gemm", 65, aligned=False) == configs._table()["gemm", "unaligned"][-1][1]


def test_only_nvidia_has_tiles_for_what_is_not_aligned(
    configs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configs, "device_class", lambda: "cdna")
    assert tile(configs, "gemm", 65, aligned=False) == configs._table()["gemm", "cdna"][-1][1]


@pytest.mark.parametrize(
    ("columns", "width"), [(5120, 256), (1344, 256), (1536, 256), (336, 128), (384, 128), (64, 128)]
)
def test_a_tile_that_would_be_empty_to_a_fifth_is_halved(
    configs: ModuleType, columns: int, width: int
) -> None:
    tile = configs.find_config("down_bwd", torch.bfloat16, 999, 1, columns, aligned=True)
    assert tile.block_c == width


def test_a_folder_takes_the_place_of_what_it_names(configs: ModuleType, folder: Path) -> None:
    (folder / "mine.csv").write_text(f"{HEADER}\n{LINE}\n")
    assert tile(configs, "gemm", 1) == tile(configs, "gemm", 999) == (64, 128, 32, 4, 3, 0, 1, 0)
    assert tile(configs, "up", 999).block_m == 128
    (folder / "mine.csv").unlink()
    tile(configs, "gemm", 1)  # read once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernel,device\ngemm,hopper\n", "line 2: columns must be kernel,device,.*, got kernel"),
        (f"{HEADER}\n{LINE},more\n", "line 2: columns must be"),
        (f"{HEADER}\ngemm,hopper\n", "line 2: "),
        (f"{HEADER}\n{LINE.replace('gemm', 'gem')}\n", "kernel must be one of .*, got 'gem'"),
        (f"{HEADER}\n{LINE.replace('64', '63')}\n", "block_m must be a power of two, got 63"),
        (f"{HEADER}\n{LINE.replace('64', 'x')}\n", "line 2: invalid literal"),
        (f"{HEADER}\n{LINE.replace('3,0,1,0', '3,0,1,2')}\n", "line 2: out of range"),
        (f"{HEADER}\n{LINE.replace('measured on a chip', '')}\n", "origin must say"),
        (f"{HEADER}\n{LINE.replace('inf', '16')}\n", r"must rise and end with inf, got \[16.0\]"),
        (f"{HEADER}\n{LINE}\n{LINE}\n", r"must rise and end with inf, got \[inf, inf\]"),
    ],
)
def test_a_bad_file_says_where(text: str, message: str, configs: ModuleType, folder: Path) -> None:
    (folder / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=f"bad.csv.*{message}"):
        tile(configs, "gemm", 1)


def test_an_empty_folder_is_an_error(configs: ModuleType, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"must name a folder of \.csv files, got '.*'"):
        tile(configs, "gemm", 1)


@pytest.fixture
def autotune(configs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script; its kernels return the tile that they are given, and do nothing else."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "gpu"), *sys.path])
    module = importlib.import_module("autotune")
    torch.use_deterministic_algorithms(False)

    def products(rows: int, s: Any, device: str) -> dict[str, Callable[[], object]]:
        def call(kernel: str) -> tuple[torch.Tensor, ...]:
            found = tile(configs, kernel, rows)
            return (torch.tensor([found.block_c, found.num_stages]),)

        return {kernel: lambda k=kernel: call(k) for kernel in configs.KERNELS}

    monkeypatch.setattr(module, "products", products)
    monkeypatch.setattr(module, "close", lambda got, want: True)
    return module


def stages_and_columns(call: Callable[[], Any]) -> float:
    """A time that is best at 64 columns and four stages; more than seven do not fit."""
    (found,) = call()
    columns, stages = found.tolist()
    if stages > 7:
        from triton.runtime.errors import OutOfResources

        raise OutOfResources(2, 1, "shared memory")
    return 1.0 + abs(columns - 64) + abs(stages - 4)


def test_the_search_keeps_the_fastest(
    configs: ModuleType, autotune: ModuleType, tmp_path: Path
) -> None:
    before = dict(configs._table())
    assert {(kernel, limit) for limit, kernel in autotune.ORDER} == set(
        product(configs.KERNELS, autotune.SHAPE_CLASSES)
    )
    found = {}
    for limit, kernel in autotune.ORDER:
        trials = autotune.Trials(kernel, limit, autotune.PANGU, "cpu")
        found[kernel, limit] = one = trials.search(stages_and_columns)
        assert (one.config.block_c, one.config.num_stages, one.after) == (64, 4, 1.0)
        assert one.before == 1.0 + abs(trials.now.block_c - 64) + abs(trials.now.num_stages - 4)
    assert configs._table() == before
    del found["up", 64.0]
    autotune.write_table(tmp_path / "configs.csv", found, "measured by a test", "kept")
    table = configs.read_table(tmp_path / "configs.csv")
    assert set(table) == {(kernel, "hopper") for kernel in configs.KERNELS}
    for (kernel, _), entries in table.items():
        assert [limit for limit, _ in entries] == list(autotune.SHAPE_CLASSES)
        for limit, config in entries:
            one = found.get((kernel, limit))
            assert config == (one.config if one else autotune.present(kernel, limit))
    assert (tmp_path / "configs.csv").read_text().count(",kept\n") == 1
    assert not (tmp_path / "configs.part").exists()


def test_a_gain_within_the_noise_changes_no_tile(autotune: ModuleType) -> None:
    trials = autotune.Trials("up", 16.0, autotune.PANGU, "cpu")
    times = iter([1.0, *[0.99] * 99])
    one = trials.search(lambda call: next(times))
    assert one.config == trials.now
    assert one.tried > 5


def test_a_gain_that_does_not_come_again_changes_no_tile(autotune: ModuleType) -> None:
    trials = autotune.Trials("up", 16.0, autotune.PANGU, "cpu")
    slow_at_first = iter([2.0, *[1.0] * 99])
    one = trials.search(lambda call: next(slow_at_first))
    assert one.config == trials.now
    assert one.before == 1.0


def test_one_step_changes_one_field(autotune: ModuleType) -> None:
    trials = autotune.Trials("dw", float("inf"), autotune.PANGU, "cpu")
    one = trials.search(stages_and_columns, 1)
    differ = [a != b for a, b in zip(one.config, trials.now, strict=True)]
    assert sum(differ) == 1


def test_what_was_found_is_read_again(autotune: ModuleType, tmp_path: Path) -> None:
    table = tmp_path / "configs.csv"
    assert autotune.read_found(table, "kept") == {}
    one = autotune.Found(autotune.present("up", 16.0)._replace(num_stages=5), 2.0, 1.0, 9, 0)
    autotune.write_table(table, {("up", 16.0): one}, "measured", "kept")
    found = autotune.read_found(table, "kept")
    assert {key: again.config for key, again in found.items()} == {("up", 16.0): one.config}


def test_a_launch_that_the_driver_refuses_costs_that_tile_alone(autotune: ModuleType) -> None:
    trials = autotune.Trials("up", 16.0, autotune.PANGU, "cpu")

    def refused(call: Callable[[], Any]) -> float:
        raise RuntimeError("Triton Error [CUDA]: invalid argument")

    assert trials.time(trials.now, refused) == autotune.NEVER


def test_a_tile_that_computes_something_else_is_not_timed(
    configs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "gpu"), *sys.path])
    autotune = importlib.import_module("autotune")
    torch.use_deterministic_algorithms(False)
    right = torch.ones(8)
    results = iter([right, right * 1.001, right * 1.1, right * torch.nan])
    trials = autotune.Trials.__new__(autotune.Trials)
    trials.kernel, trials.want, trials.wrong = "up", [], []
    trials.call = lambda: (next(results), None)
    config = autotune.present("up", 16.0)
    times = [trials.time(config, lambda call: 1.0) for _ in range(4)]
    assert times == [1.0, 1.0, autotune.NEVER, autotune.NEVER]
    assert trials.wrong == [config, config]


def test_no_search_under_deterministic_algorithms(autotune: ModuleType) -> None:
    trials = autotune.Trials("up", 16.0, autotune.PANGU, "cpu")
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError, match="use_deterministic_algorithms"):
        trials.search(lambda call: 0.0)
